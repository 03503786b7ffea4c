"""Files that hold one function each, checked against the model before they are written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from flax_vae.evaluation.run import Run
from flax_vae.export.functions import Argument, ModelFunction
from flax_vae.system.console import spinner
from flax_vae.system.errors import UserError

TOLERANCE = 1e-5  # relative to the largest number, or to 1: float32 rounds differently in another order
_FACTOR = 10  # largest error, relative to the effect of rounding the arguments
_SIZES = ({"b": 1, "k": 1}, {"b": 3, "k": 2})


@dataclass(frozen=True)
class FunctionFiles:
    """The `write` of a `Format` whose files hold one function each.

    Attributes:
        suffix: the suffix of the files.
        to_bytes: the content of the file for a function.
        run: content -> the function in the file, on NumPy arrays.
    """

    suffix: str
    to_bytes: Callable[[ModelFunction], bytes]
    run: Callable[[bytes], Callable[..., np.ndarray]]

    def __call__(self, folder: Path, run: Run, functions: Sequence[ModelFunction]) -> Mapping[str, ModelFunction]:
        """Write a file for each function, and return the functions by the names of their files.

        Raises:
            UserError: the format cannot express a function, or its file computes other numbers.
        """
        files = {function.name + self.suffix: function for function in functions}
        for name, function in files.items():
            with spinner(f"writing {name}"):
                (folder / name).write_bytes(self.checked_bytes(function))
        return files

    def checked_bytes(self, function: ModelFunction) -> bytes:
        """Return the content of the file for a function, after comparing its results with the function's.

        Raises:
            UserError: the format cannot express the function, or the results differ.
        """
        content = self.to_bytes(function)
        run = self.run(content)
        for sizes in _SIZES:
            args = random_arguments(function, sizes)
            error = largest_error(function, run, args)
            if not error <= TOLERANCE and not error <= _FACTOR * _error_of_rounding(function, args):
                raise UserError(
                    f"{function.name}{self.suffix} would differ from the model by {error:.1e}, which is more than "
                    f"rounding ({TOLERANCE:.0e}). Nothing was exported; use another format."
                )
        return content


def largest_error(function: ModelFunction, run: Callable[..., Any], args: Sequence[Array | np.ndarray]) -> float:
    """Return the largest difference between `run` and the function, relative to the function's largest number or 1."""
    expected, result = np.asarray(jax.jit(function.call)(*args)), np.asarray(run(*args))
    if result.shape != expected.shape:
        return float("inf")
    return float(np.abs(result - expected).max()) / max(1.0, float(np.abs(expected).max()))


def _error_of_rounding(function: ModelFunction, args: Sequence[np.ndarray]) -> float:
    """Return the largest change of the result when the arguments change in their last bit.

    It is large for autoregressive pixels, where rounding errors accumulate from pixel to pixel.
    """
    random, call = np.random.default_rng(1), jax.jit(function.call)

    def nudged(array: np.ndarray) -> np.ndarray:
        return np.nextafter(array, np.where(random.random(array.shape) < 0.5, -np.inf, np.inf).astype(np.float32))

    return max(largest_error(function, lambda *exact: call(*map(nudged, exact)), args) for _ in range(4))


def random_arguments(function: ModelFunction, sizes: Mapping[str, int]) -> list[np.ndarray]:
    """Draw arguments for a function: random pixels for x, and N(0, I) for everything else.

    Args:
        function: the function.
        sizes: a value for each symbolic size, "b" and "k".
    """
    random = np.random.default_rng(0)

    def draw(argument: Argument) -> np.ndarray:
        shape = [sizes[size] if isinstance(size, str) else size for size in argument.shape]
        array = random.integers(0, 256, shape) / 255 if argument.name == "x" else random.normal(size=shape)
        return array.astype(np.float32)

    return [draw(argument) for argument in function.arguments]


def ten_inputs(sampler: ModelFunction, num_classes: int) -> list[str]:
    """Return Python expressions for the sampler's arguments for ten images; a conditional model draws its first class.

    The expressions need NumPy as `np`.
    """
    noise = f"np.random.default_rng(0).normal(size=(10, {sampler.arguments[0].shape[1]})).astype(np.float32)"
    return [noise, f"np.eye({num_classes}, dtype=np.float32)[[0] * 10]"] if num_classes else [noise]
