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
_MAX_LOG_DRAW = 21.0  # a rate of 1.3e9, whose counts fit in int32


def _stirling_error(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return log Γ(x + 1) - (x log x - x), for x > 0, without the difference of two large numbers."""
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


@pytree
class NegativeBinomial(Factorised):
    """Independent counts with mean μ and variance μ + μ²/θ, summed over the event axes.

    A Poisson distribution whose rate has a gamma distribution of mean μ and shape θ. It approaches the Poisson
    distribution as θ, often called the inverse dispersion, grows.

        log p(x) = log Γ(x + θ) - log Γ(θ) - log x! + θ log(θ / (θ + μ)) + x log(μ / (θ + μ))

    Args:
        log_mean, log_dispersion: log μ and log θ, `batch_shape + event_shape`; clipped to ±15.
        event_ndim: number of trailing axes that make one event; one for vectors "v".
    """

    log_mean: Float[Array, "..."]
    log_dispersion: Float[Array, "..."]
    event_ndim: int = struct.field(pytree_node=False, default=1)
    pixel_levels: ClassVar[None] = None
    support: ClassVar[Support] = COUNTS

    def _clipped(self) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        log_mean, log_dispersion = (
            jnp.clip(log, -MAX_LOG_RATE, MAX_LOG_RATE) for log in (self.log_mean, self.log_dispersion)
        )
        return log_mean, log_dispersion

    def log_prob(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the log-probability in nats: `sample_shape + batch_shape`.

        With S the error of Stirling's formula, n = x + θ, and d = θ (x - μ) / (θ + μ), it is

            S(n) - S(θ) - S(x) + log(θ / n) - x f(-d / x) - θ f(d / θ),   f(t) = t - log(1 + t) >= 0,

        the form of Loader (2000); for large counts, the log-gammas would cancel to a few digits.
        """
        (log_mean, log_theta), positive = self._clipped(), jnp.maximum(x, 1.0)
        theta, total = jnp.exp(log_theta), positive + jnp.exp(log_theta)
        log_ratio = jnp.log(total) - jnp.logaddexp(log_theta, log_mean)  # log(1 + d / θ)
        delta = log_mean - jnp.log(positive)
        share = jax.nn.sigmoid(log_theta - log_mean)  # θ / (θ + μ)
        of_x = _excess(share * jnp.expm1(delta), delta + log_ratio)
        of_theta = _excess(-positive * jnp.exp(-jnp.logaddexp(log_theta, log_mean)) * jnp.expm1(delta), log_ratio)
        errors = _stirling_error(total) - _stirling_error(theta) - _stirling_error(positive)
        above = errors + log_theta - jnp.log(total) - positive * of_x - theta * of_theta
        at_zero = -theta * jax.nn.softplus(log_mean - log_theta)
        return sum_event(jnp.where(x > 0, above, at_zero), self.event_ndim)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draw a rate from its gamma distribution, then a count, as floats."""
        rate_key, count_key = jax.random.split(key)
        log_mean, log_theta = self._clipped()
        shape = sample_shape + self.log_mean.shape
        log_rate = jax.random.loggamma(rate_key, jnp.exp(log_theta), shape) + log_mean - log_theta
        counts = jax.random.poisson(count_key, jnp.exp(jnp.minimum(log_rate, _MAX_LOG_DRAW)), shape)
        return counts.astype(self.log_mean.dtype)

    def mean(self) -> Float[Array, "..."]:
        """Return the mean μ: `batch_shape + event_shape`."""
        return jnp.exp(self._clipped()[0])


def _excess(t: Float[Array, "..."], log: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return t - log(1 + t), given a value of log(1 + t) that is precise for t near -1."""
    return t - jnp.where(t > -0.5, jnp.log1p(jnp.maximum(t, -0.5)), log)
