"""A stack of bits, and symbols pushed to it and popped from it under rounded distributions.

Popping symbols from random bits draws them from the distribution; pushing them returns the bits. Parameters are rounded
first, and all arithmetic on them is exact in IEEE 754, so that all machines agree.
"""

from typing import Any

import constriction
import numpy as np
from jaxtyping import Float, Int

from flax_vae.system.errors import UserError

AnsCoder = constriction.stream.stack.AnsCoder  # AnsCoder() is an empty stack, AnsCoder(words) one of 32-bit words
Stack = Any  # an AnsCoder, whose class has no type annotations
Symbols = Int[np.ndarray, " n"]
Values = Int[np.ndarray, "..."]  # in steps
Floats = Float[np.ndarray, "..."]
Vectors = Float[np.ndarray, "n d"]
Matrices = Float[np.ndarray, "n d d"]

STEP = 2.0**-8  # between neighbouring values of a latent, in units of its prior's scale
LIMIT = 2**11  # values on each side of the prior's location: eight times its scale
SPARE = 64  # bits that have to be left after every pop
RESOLUTION = 2**20  # probabilities of choices are rounded to multiples of 1 / RESOLUTION
_FINE = 64  # locations are rounded to this fraction of a step, and scales to as many significant values
_BITS = constriction.stream.model.Categorical(perfect=False)
_FILL = constriction.stream.model.Uniform(2**16)


class Exhausted(Exception):
    """Too few bits are left on the stack to pop random values."""


def fill(stack: Stack, count: int, seed: int) -> None:
    """Push `count` random 16-bit words."""
    stack.encode_reverse(_random(count, seed), _FILL)


def unfill(stack: Stack, count: int, seed: int) -> None:
    """Pop the words that `fill` pushed.

    Raises:
        UserError: the stack holds other bits.
    """
    if count and not np.array_equal(stack.decode(_FILL, count), _random(count, seed)):
        raise rounding_error()


def _random(count: int, seed: int) -> Symbols:
    return np.random.Generator(np.random.Philox(seed)).integers(2**16, size=count).astype(np.int32)


def rounding_error() -> UserError:
    """Return the error for a valid file and model that do not decode on this machine."""
    return UserError(
        "The images cannot be restored here: this machine, or its version of JAX, rounds differently from the one that "
        "compressed them. Decompress the file on that machine."
    )


def push_choices(stack: Stack, choices: Symbols, weights: Float[np.ndarray, "n m"]) -> None:
    """Push integers from 0 to m - 1, each under its row of weights."""
    stack.encode_reverse(np.ascontiguousarray(choices, np.int32), _BITS, np.ascontiguousarray(weights, np.float32))


def pop_choices(stack: Stack, weights: Float[np.ndarray, "n m"]) -> Symbols:
    """Pop integers from 0 to m - 1, each under its row of weights.

    Raises:
        Exhausted: too few bits are left.
    """
    choices = stack.decode(_BITS, np.ascontiguousarray(weights, np.float32))
    _refuse_exhausted(stack)
    return choices


def push_normals(stack: Stack, values: Values, loc: Floats, scale: Floats, everywhere: bool = False) -> None:
    """Push values, in steps, under normals in units of the prior's scale.

    Args:
        stack: the stack.
        values: the values, in steps.
        loc, scale: the parameters of the normals.
        everywhere: give all values a probability; by default only values within eight scales of the location have one.
            Push and pop have to agree on it.
    """
    _push(stack, values, _rounded(loc), _rounded_scale(scale), everywhere)


def pop_normals(stack: Stack, loc: Floats, scale: Floats, everywhere: bool = False) -> Values:
    """Pop values that `push_normals` pushed.

    Raises:
        Exhausted: too few bits are left.
    """
    return _pop(stack, _rounded(loc), _rounded_scale(scale), everywhere)


def push_vectors(stack: Stack, values: Values, loc: Vectors, scale_tril: Matrices, everywhere: bool = False) -> None:
    """Push vectors with correlated dimensions under N(loc, L Lᵀ), each dimension given those before it."""
    loc, lower, scale = _rounded_vectors(loc, scale_tril)
    for j in range(loc.shape[1]):
        _condition(loc, lower, scale, j, values[:, j])
    for j in reversed(range(loc.shape[1])):
        _push(stack, values[:, j], loc[:, j], scale[:, j], everywhere)


def pop_vectors(stack: Stack, loc: Vectors, scale_tril: Matrices, everywhere: bool = False) -> Values:
    """Pop vectors that `push_vectors` pushed.

    Raises:
        Exhausted: too few bits are left.
    """
    loc, lower, scale = _rounded_vectors(loc, scale_tril)
    values = np.zeros(loc.shape, np.int32)
    for j in range(loc.shape[1]):
        values[:, j] = _pop(stack, loc[:, j], scale[:, j], everywhere)
        _condition(loc, lower, scale, j, values[:, j])
    return values


def _condition(loc: Vectors, lower: Matrices, scale: Vectors, j: int, values: Symbols) -> None:
    """Condition the dimensions after j on the values of dimension j, in place."""
    noise = (values - loc[:, j]) / scale[:, j]
    loc[:, j + 1 :] += lower[:, j + 1 :, j] * noise[:, None]


def _rounded(loc: Floats) -> Floats:
    """Round locations, and express them in steps."""
    return np.round(np.clip(loc / STEP, -8 * LIMIT, 8 * LIMIT) * _FINE) / _FINE


def _rounded_scale(scale: Floats) -> Floats:
    """Round scales to their leading binary digits, and express them in steps."""
    fraction, exponent = np.frexp(np.clip(scale / STEP, 1 / 16, 8 * LIMIT))
    return np.ldexp(np.round(fraction * _FINE) / _FINE, exponent)


def _rounded_vectors(loc: Vectors, scale_tril: Matrices) -> tuple[Vectors, Matrices, Vectors]:
    """Round the location, L and its diagonal, and express them in steps."""
    return _rounded(loc), _rounded(scale_tril), _rounded_scale(np.diagonal(scale_tril, axis1=1, axis2=2))


def _windows(loc: Floats, scale: Floats, everywhere: bool) -> tuple[Values, Values]:
    """Return the range of values that have a probability, as the binary logarithm of its size, and its first value.

    constriction gives every value in range a minimal probability. Over the full range it would occasionally draw a
    latent far from its posterior, which would make the image cost many bits.
    """
    largest = int(np.log2(2 * LIMIT))
    sizes = np.full(loc.shape, largest) if everywhere else np.clip(np.frexp(scale)[1] + 4, 4, largest)
    halves = 2 ** (sizes - 1)
    begin = np.clip(np.round(loc) - halves, -LIMIT, LIMIT - 2 * halves)
    return sizes, begin.astype(np.int32)


def _push(stack: Stack, values: Values, loc: Floats, scale: Floats, everywhere: bool) -> None:
    sizes, begin = _windows(loc, scale, everywhere)
    for size in np.unique(sizes)[::-1]:
        at = sizes == size
        inside = (values - begin)[at].astype(np.int32)
        if ((inside < 0) | (inside >= 2**size)).any():
            raise rounding_error()
        stack.encode_reverse(inside, _normal(size), (loc - begin)[at], scale[at])


def _pop(stack: Stack, loc: Floats, scale: Floats, everywhere: bool) -> Values:
    sizes, values = _windows(loc, scale, everywhere)
    begin = values.copy()
    for size in np.unique(sizes):
        at = sizes == size
        values[at] += stack.decode(_normal(size), (loc - begin)[at], scale[at])
    _refuse_exhausted(stack)
    return values


def _refuse_exhausted(stack: Stack) -> None:
    if stack.num_valid_bits() < SPARE:
        raise Exhausted


def _normal(size: Any) -> Any:
    return constriction.stream.model.QuantizedGaussian(0, 2 ** int(size) - 1)
