"""Pixels on the stack, under a likelihood: each by halvings of its levels.

Whether a level lies in the upper half of those that are left has a probability that every discrete likelihood knows, by
`upper_share`. So a pixel of 256 levels takes eight choices, and one of two takes one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flax_vae.compress.stack import Stack, pop_choices, push_choices
from flax_vae.distributions import Autoregressive
from flax_vae.distributions.base import DiscretePixels

Levels = Int[np.ndarray, "b h w c"]
# Weights of the lower and of the upper half, and what is known of the choice: whether it is the upper one.
Choose = Callable[[Float[np.ndarray, "n 2"], Any], Any]
_FINE = 2**14  # parameters of likelihoods are rounded to this part of one
_WEIGHTS = 2**20  # and probabilities to this part


def push_pixels(stack: Stack, likelihood: DiscretePixels | Autoregressive, levels: Levels, count: int) -> None:
    """Push the pixels of the first `count` images of a block, as whole numbers, under p(x | z), batch shape "1 b"."""
    choices: list[tuple[Any, Any]] = []

    def note(weights: Any, known: Any) -> Any:
        choices.append((weights, known))
        return known

    _choose_all(likelihood, levels, count, note)
    for weights, upper in reversed(choices):
        push_choices(stack, upper, weights)


def pop_pixels(stack: Stack, likelihood: DiscretePixels | Autoregressive, shape: tuple[int, ...], count: int) -> Levels:
    """Pop what `push_pixels` pushed, for a block of this shape; the images after the first are 0."""
    return _choose_all(likelihood, np.zeros(shape, np.int32), count, lambda weights, _: pop_choices(stack, weights))


def _choose_all(likelihood: DiscretePixels | Autoregressive, levels: Levels, count: int, choose: Choose) -> Levels:
    """Choose all pixels: of independent ones all at once, otherwise one after another."""
    if not isinstance(likelihood, Autoregressive):
        return _choose(_rounded(likelihood), levels, count, choose)
    chosen, image = np.zeros_like(levels), likelihood.canvas()
    before = chosen[:, :1, :1]
    for i in range(levels.shape[1] * levels.shape[2]):
        row, column = divmod(i, levels.shape[2])
        at = (slice(None), slice(row, row + 1), slice(column, column + 1))
        image, pixel = _next_pixel(likelihood, image, before, i)
        before = chosen[at] = _choose(pixel, levels[at], count, choose)
    return chosen


def _choose(pixels: DiscretePixels, levels: Levels, count: int, choose: Choose) -> Levels:
    """Halve the levels that each pixel may have, channel after channel, until one is left."""
    of_all = pixels.pixel_levels
    low, high = np.zeros_like(levels), np.full_like(levels, of_all)
    for channel in range(levels.shape[-1]):
        for _ in range(of_all.bit_length() - 1):
            middle = (low + high)[..., channel] // 2
            weights = np.asarray(_halves(pixels, low, high, channel))[:count]
            upper = np.zeros(middle.shape, bool)
            known = (levels[:count, ..., channel] >= middle[:count]).astype(np.int32)
            upper[:count] = np.reshape(choose(weights.reshape(-1, 2), known.reshape(-1)), known.shape)
            low[..., channel] = np.where(upper, middle, low[..., channel])
            high[..., channel] = np.where(upper, high[..., channel], middle)
    return low


@partial(jax.jit, static_argnums=3)
def _halves(
    pixels: DiscretePixels, low: Int[Array, "b h w c"], high: Int[Array, "b h w c"], channel: int
) -> Float[Array, "b h w 2"]:
    """Whole weights of the lower and the upper half of the levels that are left of a channel."""
    low, high = low[None], high[None]
    middle = low.at[..., channel].set((low + high)[..., channel] // 2)
    upper = jnp.clip(jnp.round(pixels.upper_share(low, middle, high) * _WEIGHTS), 1, _WEIGHTS - 1)
    return jnp.stack([_WEIGHTS - upper, upper], axis=-1)[0].astype(jnp.float32)


@jax.jit
def _rounded(pixels: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.round(leaf * _FINE) / _FINE, pixels)


@partial(jax.jit, donate_argnums=1)
def _next_pixel(
    likelihood: Autoregressive, image: Float[Array, "1 b rows columns c"], before: Int[Array, "b 1 1 c"], i: Any
) -> tuple[Float[Array, "1 b rows columns c"], DiscretePixels]:
    """The image with the pixel before the i-th, and the distribution of the i-th."""
    value = before[:, 0, 0] / ((likelihood.pixel_levels or 0) - 1)
    image = jax.lax.cond(i > 0, lambda: likelihood.put(i - 1, image, value[None]), lambda: image)
    return image, _rounded(likelihood.pixel(i, image))
