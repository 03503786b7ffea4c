"""Distributions of pixels that are 0 or 1, or anything between: p(x | z).

`pixel_levels` says how many values a pixel may have: 2, or 256 (see levels.py). Their log-probabilities make bits per
dimension. It is None for densities of continuous pixels.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Key

from flax_vae.distributions.base import flatten_event, sum_event
from flax_vae.pytrees import pytree


@jax.custom_jvp
def _softplus(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(1 + e^x), to the last digit of `jax.nn.softplus` and three times as fast: that one minds infinite x."""
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


_softplus.defjvps(lambda tangent, _, x: jax.nn.sigmoid(x) * tangent)


@pytree
class Bernoulli:
    """Independent Bernoullis given by logits, x·logit - log(1 + e^logit), summed over the event axes.

    For grey values x in [0, 1] the same expression is minus the binary cross-entropy: a loss that trains well, but no
    density of x, since it does not integrate to one.

    Args:
        logits: log-odds of a one, `batch_shape + event_shape`.
        event_ndim: number of trailing axes that make one event; three for images "h w c".
    """

    logits: Float[Array, "..."]
    event_ndim: int = struct.field(pytree_node=False, default=3)
    pixel_levels: ClassVar[int] = 2

    def log_prob(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Log-probability in nats: `sample_shape + batch_shape`."""
        # XLA's CPU code for a sum over several axes is scalar, ten times slower than over one. Without the barriers it
        # would undo the flattening.
        x, logits = jax.lax.optimization_barrier([flatten_event(each, self.event_ndim) for each in (x, self.logits)])
        return (x * logits - _softplus(logits)).sum(-1)

    def upper_share(
        self, low: Int[Array, "... h w c"], middle: Int[Array, "... h w c"], high: Int[Array, "... h w c"]
    ) -> Float[Array, "... h w"]:
        """P(middle <= x | low <= x < high) of each pixel, all its channels; see levels.py."""
        return jnp.where((low < middle) & (middle < high), self.mean(), 1.0).prod(-1)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draw zeros and ones."""
        draw = jax.random.bernoulli(key, self.mean(), sample_shape + self.logits.shape)
        return draw.astype(self.logits.dtype)

    def mean(self) -> Float[Array, "..."]:
        """Probability of a one: `batch_shape + event_shape`."""
        return jax.nn.sigmoid(self.logits)


@pytree
class ContinuousBernoulli:
    """Independent densities on [0, 1], p(x) = C(λ) λˣ (1 - λ)¹⁻ˣ (Loaiza-Ganem & Cunningham 2019).

    With the logit l of λ, log p(x) = x·l - log(1 + eˡ) + log C and C = l / tanh(l / 2): the Bernoulli's cross-entropy
    made a density.

    Args:
        logits: l, `batch_shape + event_shape`.
        event_ndim: number of trailing axes that make one event.
    """

    logits: Float[Array, "..."]
    event_ndim: int = struct.field(pytree_node=False, default=3)
    pixel_levels: ClassVar[None] = None

    def log_prob(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Log-density in nats: `sample_shape + batch_shape`."""
        return sum_event(x * self.logits - jax.nn.softplus(self.logits) + self._log_constant(), self.event_ndim)

    def _log_constant(self) -> Float[Array, "..."]:
        """log(l / tanh(l / 2)), near λ = 1/2 as log 2 + log(1 + l²/12 - l⁴/720 + ...) since both sides vanish there."""
        near, far = self._near_half()
        series = jnp.log(2.0) + jnp.log1p(near**2 / 12 - near**4 / 720 + near**6 / 30240)
        return jnp.where(jnp.abs(self.logits) < 0.5, series, jnp.log(far / jnp.tanh(far / 2)))

    def _near_half(self) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """The logits where they are small, and elsewhere; otherwise a harmless value, for gradients pass both ways."""
        small = jnp.abs(self.logits) < 0.5
        return jnp.where(small, self.logits, 0.0), jnp.where(small, 1.0, self.logits)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draw by inverting the distribution function of the side that decays, e^(-|l| x), and turning it round."""
        u = jax.random.uniform(key, sample_shape + self.logits.shape, self.logits.dtype)
        rate = jnp.maximum(jnp.abs(self.logits), 1e-4)  # below, no draw in float32 tells it from uniform
        x = jnp.clip(-jnp.log1p(u * jnp.expm1(-rate)) / rate, 0.0, 1.0)
        return jnp.where(self.logits < 0, x, 1 - x)

    def mean(self) -> Float[Array, "..."]:
        """1 / (1 - e⁻ˡ) - 1 / l: `batch_shape + event_shape`."""
        near, far = self._near_half()
        series = 0.5 + near / 12 - near**3 / 720 + near**5 / 30240
        return jnp.where(jnp.abs(self.logits) < 0.5, series, -1 / jnp.expm1(-far) - 1 / far)
