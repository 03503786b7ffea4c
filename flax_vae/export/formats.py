"""The formats of a model's functions. What is written is compared with the model before anyone gets it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from flax_vae.export.functions import Argument, ModelFunction
from flax_vae.export.onnx import run_onnx, to_onnx
from flax_vae.export.stablehlo import run_stablehlo, to_stablehlo
from flax_vae.system.errors import UserError

TOLERANCE = 1e-5  # of the largest number, or of 1: float32 in another order
_FACTOR = 10  # by which a format may exceed the error of rounding the arguments alone
_SIZES = ({"b": 1, "k": 1}, {"b": 3, "k": 2})


class Format(NamedTuple):
    """How a function becomes a file, and what that computes.

    Attributes:
        suffix: of its file.
        write: the function as bytes.
        run: what the bytes compute.
        packages: that write and run it, beside JAX.
    """

    suffix: str
    write: Callable[[ModelFunction], bytes]
    run: Callable[[bytes], Callable[..., np.ndarray]]
    packages: tuple[str, ...] = ()


FORMATS = {
    "stablehlo": Format(".stablehlo", to_stablehlo, run_stablehlo),
    "onnx": Format(".onnx", to_onnx, run_onnx, ("jax2onnx", "onnx", "onnxruntime")),
}


def written(function: ModelFunction, format: Format) -> bytes:
    """The function as bytes that compute what it does.

    Raises:
        UserError: they do not, or the format cannot hold it.
    """
    content = format.write(function)
    run = format.run(content)
    for sizes in _SIZES:
        args = random_arguments(function, sizes)
        error = largest_error(function, run, args)
        if not error <= TOLERANCE and not error <= _FACTOR * _error_of_rounding(function, args):
            raise UserError(
                f"{function.name} as {format.suffix[1:]} differs from the model by {error:.1e}, where {TOLERANCE:.0e} "
                "would be rounding: nothing is written."
            )
    return content


def largest_error(function: ModelFunction, run: Callable[..., Any], args: Sequence[Array | np.ndarray]) -> float:
    """The largest difference of what `run` computes from the function, in units of its largest number or of 1."""
    expected, found = np.asarray(jax.jit(function.call)(*args)), np.asarray(run(*args))
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))


def _error_of_rounding(function: ModelFunction, args: Sequence[np.ndarray]) -> float:
    """The largest error where arguments change in their last digit alone.

    It is large where pixels are computed one after another, each from those before it.
    """
    random, call = np.random.default_rng(1), jax.jit(function.call)

    def nudged(array: np.ndarray) -> np.ndarray:
        return np.nextafter(array, np.where(random.random(array.shape) < 0.5, -np.inf, np.inf).astype(np.float32))

    moved = ([nudged(array) for array in args] for _ in range(4))
    return max(largest_error(function, lambda *_, other=other: call(*other), args) for other in moved)


def random_arguments(function: ModelFunction, sizes: dict[str, int]) -> list[np.ndarray]:
    """Arguments of these sizes: images of random pixels, and draws from N(0, I) for all else."""
    random = np.random.default_rng(0)

    def draw(argument: Argument) -> np.ndarray:
        shape = [sizes[size] if isinstance(size, str) else size for size in argument.shape]
        made = random.integers(0, 256, shape) / 255 if argument.name == "x" else random.normal(size=shape)
        return made.astype(np.float32)

    return [draw(argument) for argument in function.arguments]
