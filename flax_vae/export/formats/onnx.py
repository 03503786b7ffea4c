"""ONNX, converted by jax2onnx, with a symbolic batch size, for ONNX Runtime and other engines."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from jax import lax
from jax.extend.core import jaxpr_as_fun
from jaxtyping import Array

from flax_vae.evaluation.run import Run
from flax_vae.export.formats import FORMATS, Format
from flax_vae.export.function_files import FunctionFiles, ten_inputs
from flax_vae.export.functions import ModelFunction
from flax_vae.export.graphs import Rule, flat_graph, free_shapes
from flax_vae.system.errors import UserError

_OPSET = 18  # December 2022; the oldest that jax2onnx writes correctly


@FORMATS.register("onnx")
def onnx() -> Format:
    """The model's functions for ONNX Runtime; needs pip install 'flax_vae[onnx]'."""
    files = FunctionFiles(".onnx", to_onnx, run_onnx)
    return Format("onnx", files, _snippet, packages=("jax2onnx", "onnx", "onnxruntime"))


def to_onnx(function: ModelFunction) -> bytes:
    """Serialise a function, parameters included.

    Raises:
        UserError: jax2onnx is not installed, or cannot convert an operation of the model.
    """
    with _quiet():
        convert = _import("jax2onnx").to_onnx
        shapes = free_shapes(function)
        try:
            operations = jaxpr_as_fun(flat_graph(function.call, shapes, _RULES))
        except NotImplementedError as error:
            raise _cannot_convert(function, error) from None
        try:
            model = convert(
                lambda *args: operations(*args)[0],
                list(shapes),
                model_name=function.name,
                opset=_OPSET,
                input_names=[argument.name for argument in function.arguments],
                output_names=[function.result.name],
            )
        except (NotImplementedError, AttributeError) as error:  # jax2onnx 0.17 uses names that JAX 0.12 lacks
            raise _cannot_convert(function, error) from error
    _clean(model.graph)
    arrays, arguments = (*model.graph.input, *model.graph.output), (*function.arguments, function.result)
    for array, argument in zip(arrays, arguments, strict=True):
        array.doc_string = argument.meaning
    return model.SerializeToString()


def _cannot_convert(function: ModelFunction, error: Exception) -> UserError:
    return UserError(f"{function.name} cannot be converted to ONNX: {error}. Export the model as stablehlo instead.")


def run_onnx(content: bytes) -> Callable[..., np.ndarray]:
    """Return the function in a file, run by ONNX Runtime on the CPU.

    Raises:
        UserError: ONNX Runtime is not installed.
    """
    session = _import("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]
    return lambda *args: session.run(None, dict(zip(names, args, strict=True)))[0]


def _pad(x: Array, value: Array, *, padding_config: Sequence[tuple[Any, Any, Any]]) -> Array:
    """`pad` as concatenations: jax2onnx cannot infer the padded shape if a size is symbolic."""
    for axis, (before, after, between) in enumerate(padding_config):
        if min(before, after) < 0 or between:
            raise NotImplementedError("pad with negative or interior padding")
        rest = x.shape[:axis], x.shape[axis + 1 :]
        blocks = [lax.broadcast(value, (*rest[0], size, *rest[1])) for size in (before, after)]
        x = lax.concatenate([block for block in (blocks[0], x, blocks[1]) if block.shape[axis] != 0], axis)
    return x


_RULES: dict[str, Rule] = {"pad": _pad}


def _clean(graph: Any) -> set[str]:
    """Remove what ONNX Runtime rejects or warns about, and return the names that the graph uses.

    jax2onnx records wrong shapes for some values, from which ONNX Runtime may alias memory; without them it infers the
    shapes itself. Loops come with unused constants.
    """
    graph.ClearField("value_info")
    used = {output.name for output in graph.output} | {name for node in graph.node for name in node.input}
    inner = (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g"))
    used = used.union(*map(_clean, inner))
    constants = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    return used


def _import(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(f"Exporting to ONNX needs {error.name}: pip install 'flax_vae[onnx]'.") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence jax2onnx's messages about unused plugins, and keep it from installing a handler on the root logger."""
    root, handler, disabled = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(handler)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(disabled)
        root.removeHandler(handler)


def _snippet(sampler: ModelFunction, run: Run) -> str:
    noise, *context = ten_inputs(sampler, len(run.class_names))
    inputs = "".join(f', "context": {expression}' for expression in context)
    return f"""import numpy as np
import onnxruntime

sampler = onnxruntime.InferenceSession("sampler.onnx")
noise = {noise}
(images,) = sampler.run(None, {{"noise": noise{inputs}}})  # {(10, *sampler.result.shape[1:])}
"""
