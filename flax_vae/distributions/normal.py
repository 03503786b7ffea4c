"""Normals with independent and with correlated dimensions."""

from dataclasses import replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from flax_vae.batches import REAL, Support
from flax_vae.distributions.base import LOG_2PI, DrawAndLogProb, Factorised, FromNoise, sum_event
from flax_vae.pytrees import pytree


@pytree
class Normal(Factorised, FromNoise):
    """Independent normals, log N(x; loc, exp(log_scale)²), summed over the event axes.

    Args:
        loc, log_scale: `batch_shape + event_shape`, one shape for both.
        event_ndim: number of trailing axes that make one event.
    """

    loc: Float[Array, "..."]
    log_scale: Float[Array, "..."]
    event_ndim: int = struct.field(pytree_node=False, default=1)
    pixel_levels: ClassVar[None] = None
    support: ClassVar[Support] = REAL
    cheap_log_prob: ClassVar[bool] = True

    def log_prob(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the log-density in nats: `sample_shape + batch_shape`."""
        return sum_event(-0.5 * (self.to_noise(x) ** 2 + LOG_2PI) - self.log_scale, self.event_ndim)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """The event shape."""
        return self.loc.shape[self.loc.ndim - self.event_ndim :]

    def from_noise_and_log_prob(self, noise: Float[Array, "..."]) -> DrawAndLogProb:
        """Return loc + exp(log_scale)·ε, with its log-density computed from ε to avoid rounding through the draw."""
        log_prob = sum_event(-0.5 * (noise**2 + LOG_2PI) - self.log_scale, self.event_ndim)
        return self.loc + jnp.exp(self.log_scale) * noise, log_prob

    def to_noise(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return (z - loc) / exp(log_scale)."""
        return (z - self.loc) * jnp.exp(-self.log_scale)

    def mean(self) -> Float[Array, "..."]:
        """Return the location: `batch_shape + event_shape`."""
        return self.loc

    def tempered(self, temperature: float | Float[Array, ""]) -> "Normal":
        """Multiply the standard deviation by `temperature`."""
        return replace(self, log_scale=self.log_scale + jnp.log(temperature))

    def variance(self) -> Float[Array, "..."]:
        """Return the variance of each dimension: `batch_shape + event_shape`."""
        return jnp.exp(2 * self.log_scale)


def _solve_lower(lower: Float[Array, "*b d d"], x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """Return L⁻¹x by forward substitution.

    Not `jax.lax.linalg.triangular_solve`: on CPUs two of them can deadlock, each holding a thread of the pool that the
    other needs (jaxlib 0.10.2).
    """

    def row(solution: Array, i: Array) -> tuple[Array, None]:
        value = (x[..., i] - (lower[..., i, :] * solution).sum(-1)) / lower[..., i, i]
        return jnp.where(jnp.arange(x.shape[-1]) == i, value[..., None], solution), None

    return jax.lax.scan(row, jnp.zeros_like(x), jnp.arange(x.shape[-1]))[0]


@pytree
class MultivariateNormal(FromNoise):
    """A normal with a full covariance L Lᵀ over the last axis.

    Args:
        loc: "*b d".
        scale_tril: L, lower triangular with a positive diagonal, "*b d d".
    """

    loc: Float[Array, "*b d"]
    scale_tril: Float[Array, "*b d d"]
    cheap_log_prob: ClassVar[bool] = True

    def log_prob(self, z: Float[Array, "... d"]) -> Float[Array, "..."]:
        """Return the log-density in nats: `sample_shape + batch_shape`."""
        return -0.5 * ((self.to_noise(z) ** 2).sum(-1) + z.shape[-1] * LOG_2PI) - self.log_determinant()

    def log_determinant(self) -> Float[Array, "*b"]:
        """Return log det L, half the log-determinant of the covariance."""
        return jnp.log(jnp.diagonal(self.scale_tril, axis1=-2, axis2=-1)).sum(-1)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """The event shape."""
        return self.loc.shape[-1:]

    def from_noise_and_log_prob(self, noise: Float[Array, "... d"]) -> DrawAndLogProb:
        """Return loc + L ε, with its log-density computed from ε: no linear system is solved."""
        log_prob = -0.5 * ((noise**2).sum(-1) + noise.shape[-1] * LOG_2PI) - self.log_determinant()
        return self.loc + jnp.einsum("...ij,...j->...i", self.scale_tril, noise), log_prob

    def to_noise(self, z: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Return L⁻¹(z - loc)."""
        return _solve_lower(self.scale_tril, z - self.loc)

    def mean(self) -> Float[Array, "*b d"]:
        """Return the location."""
        return self.loc

    def tempered(self, temperature: float | Float[Array, ""]) -> "MultivariateNormal":
        """Multiply L by `temperature`."""
        return replace(self, scale_tril=self.scale_tril * temperature)
