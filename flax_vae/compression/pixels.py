"""Code pixels under a likelihood by bisection of their levels.

Every discrete likelihood computes the probability that a level is in the upper half of an interval, `upper_share`. So a
pixel of 256 levels takes eight binary choices, and a binary pixel takes one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flax_vae.compression.stack import RESOLUTION, Stack, pop_choices, push_choices
from flax_vae.distributions import Autoregressive
from flax_vae.distributions.base import DiscretePixels

Levels = Int[np.ndarray, "b h w c"]
# Weights of the lower and the upper half, and the choices if they are known -> choices; 1 is the upper half.
Choose = Callable[[Float[np.ndarray, "n 2"], Any], Any]
_FINE = 2**14  # parameters of likelihoods are rounded to multiples of 1 / _FINE


def push_pixels(stack: Stack, likelihood: DiscretePixels | Autoregressive, levels: Levels, count: int) -> None:
    """Push the pixel levels of the first `count` images of a block under p(x | z), batch shape "1 b"."""
    choices: list[tuple[Any, Any]] = []

    def record(weights: Any, upper: Any) -> Any:
        choices.append((weights, upper))
        return upper

    _choose_all(likelihood, levels, count, record)
    for weights, upper in reversed(choices):
        push_choices(stack, upper, weights)


def pop_pixels(stack: Stack, likelihood: DiscretePixels | Autoregressive, shape: tuple[int, ...], count: int) -> Levels:
    """Pop the levels that `push_pixels` pushed, for a block of the given shape; padding images are 0."""
    return _choose_all(likelihood, np.zeros(shape, np.int32), count, lambda weights, _: pop_choices(stack, weights))


def _choose_all(likelihood: Any, levels: Levels, count: int, choose: Choose) -> Levels:
    """Choose the levels of all pixels: at once if they are independent, otherwise one pixel after another."""
    if not getattr(likelihood, "sequential", False):
        return _choose(_rounded(likelihood), levels, count, choose)
    chosen, image = np.zeros_like(levels), likelihood.canvas()
    previous = chosen[:, :1, :1]
    for i in range(levels.shape[1] * levels.shape[2]):
        row, column = divmod(i, levels.shape[2])
        at = (slice(None), slice(row, row + 1), slice(column, column + 1))
        image, pixel = _next_pixel(likelihood, image, previous, i)
        previous = chosen[at] = _choose(pixel, levels[at], count, choose)
    return chosen


def _choose(pixels: DiscretePixels, levels: Levels, count: int, choose: Choose) -> Levels:
    """Bisect the levels of each pixel, channel by channel, until one is left."""
    num_levels = pixels.pixel_levels
    low, high = np.zeros_like(levels), np.full_like(levels, num_levels)
    for channel in range(levels.shape[-1]):
        for _ in range(num_levels.bit_length() - 1):
            middle = (low + high)[..., channel] // 2
            weights = np.asarray(_halves(pixels, low, high, channel))[:count]
            upper = np.zeros(middle.shape, bool)
            expected = (levels[:count, ..., channel] >= middle[:count]).astype(np.int32)
            upper[:count] = np.reshape(choose(weights.reshape(-1, 2), expected.reshape(-1)), expected.shape)
            low[..., channel] = np.where(upper, middle, low[..., channel])
            high[..., channel] = np.where(upper, high[..., channel], middle)
    return low


@partial(jax.jit, static_argnums=3)
def _halves(pixels: DiscretePixels, low: Array, high: Array, channel: int) -> Float[Array, "b h w 2"]:
    """Return integer weights of the lower and the upper half of a channel's levels from `low` to `high`, "b h w c"."""
    low, high = low[None], high[None]
    middle = low.at[..., channel].set((low + high)[..., channel] // 2)
    upper = jnp.clip(jnp.round(pixels.upper_share(low, middle, high) * RESOLUTION), 1, RESOLUTION - 1)
    return jnp.stack([RESOLUTION - upper, upper], axis=-1)[0].astype(jnp.float32)


@jax.jit
def _rounded(pixels: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.round(leaf * _FINE) / _FINE, pixels)


@partial(jax.jit, donate_argnums=1)
def _next_pixel(
    likelihood: Autoregressive, image: Float[Array, "1 b rows columns c"], previous: Int[Array, "b 1 1 c"], i: Any
) -> tuple[Float[Array, "1 b rows columns c"], DiscretePixels]:
    """Put the value of pixel i - 1 into the image, and return the image and the distribution of pixel i."""
    value = previous[:, 0, 0] / ((likelihood.pixel_levels or 0) - 1)
    image = jax.lax.cond(i > 0, lambda: likelihood.put(i - 1, image, value[None]), lambda: image)
    return image, _rounded(likelihood.pixel(i, image))
