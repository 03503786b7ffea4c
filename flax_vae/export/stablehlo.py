"""Functions as StableHLO, by `jax.export`: for every number of images, on CPUs, NVIDIA GPUs and TPUs.

`jax.export.deserialize(data).call` calls one, with JAX alone.
"""

from collections.abc import Callable

import jax
import numpy as np
from jax import export
from jax.extend.core import jaxpr_as_fun
from jaxtyping import Array

from flax_vae.export.functions import ModelFunction
from flax_vae.export.graphs import flat_graph, free_shapes

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(function: ModelFunction) -> bytes:
    """The function with its parameters, as the bytes of a file."""
    shapes = free_shapes(function)
    operations = jaxpr_as_fun(flat_graph(function.call, shapes))

    def call(*args: Array) -> Array:
        return operations(*args)[0]

    call.__name__ = function.name
    return bytes(export.export(jax.jit(call), platforms=PLATFORMS)(*shapes).serialize())


def run_stablehlo(content: bytes) -> Callable[..., np.ndarray]:
    """What the bytes compute, by JAX."""
    call = jax.jit(export.deserialize(bytearray(content)).call)
    return lambda *args: np.asarray(call(*args))
