"""StableHLO, written by `jax.export` for CPUs, NVIDIA GPUs and TPUs, with a symbolic batch size.

`jax.export.deserialize(content).call` is the function; it needs only JAX and flatbuffers.
"""

from collections.abc import Callable

import jax
import numpy as np
from jax import export
from jax.extend.core import jaxpr_as_fun
from jaxtyping import Array

from flax_vae.evaluation.run import Run
from flax_vae.export.formats import FORMATS, Format
from flax_vae.export.function_files import FunctionFiles, ten_inputs
from flax_vae.export.functions import ModelFunction
from flax_vae.export.graphs import flat_graph, free_shapes

_PLATFORMS = ("cpu", "cuda", "tpu")


@FORMATS.register("stablehlo")
def stablehlo() -> Format:
    """The model's functions for CPUs, NVIDIA GPUs and TPUs; they need only JAX and flatbuffers."""
    files = FunctionFiles(".stablehlo", to_stablehlo, run_stablehlo)
    return Format("stablehlo", files, _snippet, platforms=_PLATFORMS)


def to_stablehlo(function: ModelFunction) -> bytes:
    """Serialise a function and its gradient, parameters included."""
    shapes = free_shapes(function)
    operations = jaxpr_as_fun(flat_graph(function.call, shapes))

    def call(*args: Array) -> Array:
        return operations(*args)[0]

    call.__name__ = function.name
    return bytes(export.export(jax.jit(call), platforms=_PLATFORMS)(*shapes).serialize(vjp_order=1))


def run_stablehlo(content: bytes) -> Callable[..., np.ndarray]:
    """Return the function in a file, run by JAX."""
    call = jax.jit(export.deserialize(bytearray(content)).call)
    return lambda *args: np.asarray(call(*args))


def _snippet(sampler: ModelFunction, run: Run) -> str:
    noise, *context = ten_inputs(sampler, len(run.class_names))
    return f"""from pathlib import Path

import numpy as np
from jax import export

sampler = export.deserialize(bytearray(Path("sampler.stablehlo").read_bytes())).call
noise = {noise}
images = np.asarray(sampler({", ".join(["noise", *context])}))  # {(10, *sampler.result.shape[1:])}
"""
