"""Distributions over counts: p(x | z) for numbers of events, words or molecules."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, Key

from flax_vae.batches import COUNTS, Support
from flax_vae.distributions.base import Factorised, sum_event
from flax_vae.pytrees import pytree

MAX_LOG_RATE = 15.0  # a rate of 3 million: bounds the gradient


def _stirling_error(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return log x! - (x log x - x), for whole x of at least 1, without the difference of two large numbers."""
    direct = gammaln(jnp.minimum(x, 16.0) + 1) - jax.scipy.special.xlogy(jnp.minimum(x, 16.0), jnp.minimum(x, 16.0))
    series = 0.5 * jnp.log(2 * jnp.pi * x) + 1 / (12 * x) - 1 / (360 * x**3)
    return jnp.where(x < 16, direct + x, series)


@pytree
class Poisson(Factorised):
    """Independent counts, log p(x) = x log λ - λ - log x!, summed over the event axes.

    Args:
        log_rate: log λ, `batch_shape + event_shape`; clipped to ±15.
        event_ndim: number of trailing axes that make one event; one for vectors "v".
    """

    log_rate: Float[Array, "..."]
    event_ndim: int = struct.field(pytree_node=False, default=1)
    pixel_levels: ClassVar[None] = None
    support: ClassVar[Support] = COUNTS

    def _clipped(self) -> Float[Array, "..."]:
        return jnp.clip(self.log_rate, -MAX_LOG_RATE, MAX_LOG_RATE)

    def log_prob(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the log-probability in nats: `sample_shape + batch_shape`.

        With δ = log λ - log x it is x (1 + δ - e^δ) minus the error of Stirling's formula (Loader 2000): for large
        counts, x log λ and log x! would cancel to a few digits.
        """
        positive, log_rate = jnp.maximum(x, 1.0), self._clipped()
        delta = log_rate - jnp.log(positive)
        above = positive * (delta - jnp.expm1(delta)) - _stirling_error(positive)
        return sum_event(jnp.where(x > 0, above, -jnp.exp(log_rate)), self.event_ndim)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draw counts, as floats."""
        draw = jax.random.poisson(key, self.mean(), sample_shape + self.log_rate.shape)
        return draw.astype(self.log_rate.dtype)

    def mean(self) -> Float[Array, "..."]:
        """Return the rate λ: `batch_shape + event_shape`."""
        return jnp.exp(self._clipped())
