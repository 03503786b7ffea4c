"""Distributions over binary pixels and over pixels in [0, 1]: p(x | z).

`pixel_levels` is the number of values of a pixel, 2 or 256 (see levels.py), and None for densities of continuous
pixels. Bits per dimension are defined only for discrete pixels.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from flax_vae.distributions.base import Factorised, Levels, flatten_event, sum_event
from flax_vae.pytrees import pytree


@jax.custom_jvp
def _softplus(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return log(1 + e^x).

    Equal to `jax.nn.softplus` to the last digit and three times as fast, but without its handling of infinite x.
    """
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


_softplus.defjvps(lambda tangent, _, x: jax.nn.sigmoid(x) * tangent)


@pytree
class Bernoulli(Factorised):
    """Independent Bernoulli pixels, with log-probability x·logit - log(1 + e^logit) summed over the event axes.

    For grey values x in [0, 1] the same expression is minus the binary cross-entropy: a loss that trains well, but not
    a density, since it does not integrate to one.

    Args:
        logits: log-odds of the value 1, `batch_shape + event_shape`.
        event_ndim: number of trailing axes that make one event; three for images "h w c".
    """

    logits: Float[Array, "..."]
    event_ndim: int = struct.field(pytree_node=False, default=3)
    pixel_levels: ClassVar[int] = 2

    def log_prob(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the log-probability in nats: `sample_shape + batch_shape`."""
        # XLA's CPU code for a sum over several axes is scalar, ten times slower than over one axis. Without the
        # barriers XLA would undo the flattening.
        x, logits = jax.lax.optimization_barrier([flatten_event(leaf, self.event_ndim) for leaf in (x, self.logits)])
        return (x * logits - _softplus(logits)).sum(-1)

    def upper_share(self, low: Levels, middle: Levels, high: Levels) -> Float[Array, "... h w"]:
        """Return P(middle <= x | low <= x < high) of each pixel, jointly over its channels; see levels.py."""
        return jnp.where((low < middle) & (middle < high), self.mean(), 1.0).prod(-1)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draw binary pixels."""
        draw = jax.random.bernoulli(key, self.mean(), sample_shape + self.logits.shape)
        return draw.astype(self.logits.dtype)

    def mean(self) -> Float[Array, "..."]:
        """Return the probability of the value 1: `batch_shape + event_shape`."""
        return jax.nn.sigmoid(self.logits)


@pytree
class ContinuousBernoulli(Factorised):
    """Independent densities on [0, 1], p(x) = C(λ) λˣ (1 - λ)¹⁻ˣ (Loaiza-Ganem & Cunningham 2019).

    With the logit l of λ, log p(x) = x·l - log(1 + eˡ) + log C and C = l / tanh(l / 2): the Bernoulli's cross-entropy,
    normalised to a density.

    Args:
        logits: l, `batch_shape + event_shape`.
        event_ndim: number of trailing axes that make one event.
    """

    logits: Float[Array, "..."]
    event_ndim: int = struct.field(pytree_node=False, default=3)
    pixel_levels: ClassVar[None] = None

    def log_prob(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the log-density in nats: `sample_shape + batch_shape`."""
        return sum_event(x * self.logits - jax.nn.softplus(self.logits) + self._log_constant(), self.event_ndim)

    def _log_constant(self) -> Float[Array, "..."]:
        """Return log(l / tanh(l / 2)).

        Near l = 0, where numerator and denominator vanish, this is log 2 + log(1 + l²/12 - l⁴/720 + ...).
        """
        near, far = self._near_half()
        series = jnp.log(2.0) + jnp.log1p(near**2 / 12 - near**4 / 720 + near**6 / 30240)
        return jnp.where(jnp.abs(self.logits) < 0.5, series, jnp.log(far / jnp.tanh(far / 2)))

    def _near_half(self) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Split the logits at |l| = 1/2.

        Each part is padded with a harmless value, since gradients flow through both branches of `where`.
        """
        small = jnp.abs(self.logits) < 0.5
        return jnp.where(small, self.logits, 0.0), jnp.where(small, 1.0, self.logits)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Invert the distribution function of the decaying density e^(-|l| x), and mirror it where l > 0."""
        u = jax.random.uniform(key, sample_shape + self.logits.shape, self.logits.dtype)
        rate = jnp.maximum(jnp.abs(self.logits), 1e-4)  # below, indistinguishable from uniform in float32
        x = jnp.clip(-jnp.log1p(u * jnp.expm1(-rate)) / rate, 0.0, 1.0)
        return jnp.where(self.logits < 0, x, 1 - x)

    def mean(self) -> Float[Array, "..."]:
        """Return 1 / (1 - e⁻ˡ) - 1 / l: `batch_shape + event_shape`."""
        near, far = self._near_half()
        series = 0.5 + near / 12 - near**3 / 720 + near**5 / 30240
        return jnp.where(jnp.abs(self.logits) < 0.5, series, -1 / jnp.expm1(-far) - 1 / far)
