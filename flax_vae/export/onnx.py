"""Functions as ONNX, by jax2onnx: for every number of images, in whatever runs ONNX."""

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

from flax_vae.export.functions import ModelFunction
from flax_vae.export.graphs import Rule, flat_graph, free_shapes
from flax_vae.system.errors import UserError

_OPSET = 18  # of December 2022, the oldest that jax2onnx writes without faults


def _pad(x: Array, value: Array, *, padding_config: Sequence[tuple[Any, Any, Any]]) -> Array:
    """jax2onnx cannot write the shape of what is padded where a size of it is free."""
    for axis, (before, after, between) in enumerate(padding_config):
        if min(before, after) < 0 or between:
            raise NotImplementedError("pad that takes away, or between")
        rest = x.shape[:axis], x.shape[axis + 1 :]
        blocks = [lax.broadcast(value, (*rest[0], size, *rest[1])) for size in (before, after)]
        x = lax.concatenate([each for each in (blocks[0], x, blocks[1]) if each.shape[axis] != 0], axis)
    return x


_RULES: dict[str, Rule] = {"pad": _pad}


def to_onnx(function: ModelFunction) -> bytes:
    """The function with its parameters, as the bytes of a file.

    Raises:
        UserError: jax2onnx is not installed, or does not know an operation of the model.
    """
    with _quiet():
        convert = _needed("jax2onnx").to_onnx
        shapes = free_shapes(function)
        try:
            operations = jaxpr_as_fun(flat_graph(function.call, shapes, _RULES))
            model = convert(
                lambda *args: operations(*args)[0],
                list(shapes),
                model_name=function.name,
                opset=_OPSET,
                input_names=[argument.name for argument in function.arguments],
                output_names=[function.result.name],
            )
        except NotImplementedError as error:
            raise UserError(f"{function.name} cannot be written as ONNX: {error}. --format stablehlo can.") from None
    _clean(model.graph)
    for described, argument in zip(
        (*model.graph.input, *model.graph.output), (*function.arguments, function.result), strict=True
    ):
        described.doc_string = argument.meaning
    return model.SerializeToString()


def run_onnx(content: bytes) -> Callable[..., np.ndarray]:
    """What the bytes compute, by ONNX Runtime on the CPU.

    Raises:
        UserError: it is not installed.
    """
    runtime = _needed("onnxruntime")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]
    return lambda *args: session.run(None, dict(zip(names, args, strict=True)))[0]


def _clean(graph: Any) -> set[str]:
    """Remove what ONNX Runtime stumbles over or warns of; returns the names that the graph uses.

    jax2onnx states wrong shapes of some values, by which ONNX Runtime could give them the memory of another one: it
    finds the shapes by itself. Loops come with constants that nothing uses.
    """
    graph.ClearField("value_info")
    used = {output.name for output in graph.output} | {name for node in graph.node for name in node.input}
    inner = (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g"))
    used = used.union(*map(_clean, inner))
    needed = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(needed)
    return used


def _needed(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(f"--format onnx needs {error.name}: pip install 'flax_vae[onnx]'.") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what jax2onnx says of plugins that no model needs, and without the handler that it gives the root."""
    root, handler, disabled = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(handler)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.removeHandler(handler)
