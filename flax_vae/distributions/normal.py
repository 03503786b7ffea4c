"""Normals of independent and of correlated dimensions."""

from dataclasses import replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from flax_vae.distributions.base import LOG_2PI, sum_event
from flax_vae.pytrees import pytree


@pytree
class Normal:
    """Independent normals, log N(x; loc, exp(log_scale)²), summed over the event axes.

    Args:
        loc, log_scale: arrays of one shape, `batch_shape + event_shape`.
        event_ndim: number of trailing axes that make one event.
    """

    loc: Float[Array, "..."]
    log_scale: Float[Array, "..."]
    event_ndim: int = struct.field(pytree_node=False, default=1)
    pixel_levels: ClassVar[None] = None
    cheap_log_prob: ClassVar[bool] = True

    def log_prob(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Log-density in nats: `sample_shape + batch_shape`."""
        standardised = (x - self.loc) * jnp.exp(-self.log_scale)
        return sum_event(-0.5 * (standardised**2 + LOG_2PI) - self.log_scale, self.event_ndim)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Reparameterised draw, loc + exp(log_scale)·ε with ε ~ N(0, I) (Kingma & Welling 2014, section 2.4)."""
        return self.sample_and_log_prob(key, sample_shape)[0]

    def sample_and_log_prob(
        self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """A reparameterised draw, and its log-density from ε: no digit is lost by way of the draw."""
        return self.from_noise_and_log_prob(jax.random.normal(key, sample_shape + self.loc.shape, self.loc.dtype))

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """That of an event."""
        return self.loc.shape[self.loc.ndim - self.event_ndim :]

    def from_noise(self, noise: Float[Array, "..."]) -> Float[Array, "..."]:
        """loc + exp(log_scale)·ε."""
        return self.loc + jnp.exp(self.log_scale) * noise

    def from_noise_and_log_prob(self, noise: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """The draw that noise becomes, and its log-density from ε."""
        log_prob = sum_event(-0.5 * (noise**2 + LOG_2PI) - self.log_scale, self.event_ndim)
        return self.from_noise(noise), log_prob

    def mean(self) -> Float[Array, "..."]:
        """The location: `batch_shape + event_shape`."""
        return self.loc

    def tempered(self, temperature: float | Float[Array, ""]) -> "Normal":
        """The same normal with its standard deviation times `temperature`."""
        return replace(self, log_scale=self.log_scale + jnp.log(temperature))

    def marginals(self) -> "Normal":
        """The same normals, each dimension of an event by itself: the event axes become axes of the batch."""
        return replace(self, event_ndim=0)

    def variance(self) -> Float[Array, "..."]:
        """The variance of each dimension: `batch_shape + event_shape`."""
        return jnp.exp(2 * self.log_scale)


def _solve_lower(lower: Float[Array, "*b d d"], x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """L⁻¹x by forward substitution.

    Not by `jax.lax.linalg.triangular_solve`: on CPUs two of those can wait for each other for ever, since each holds a
    thread of the pool that the other needs (jaxlib 0.10.2).
    """

    def row(found: Array, i: Array) -> tuple[Array, None]:
        value = (x[..., i] - (lower[..., i, :] * found).sum(-1)) / lower[..., i, i]
        return jnp.where(jnp.arange(x.shape[-1]) == i, value[..., None], found), None

    return jax.lax.scan(row, jnp.zeros_like(x), jnp.arange(x.shape[-1]))[0]


@pytree
class MultivariateNormal:
    """A normal with a full covariance L Lᵀ over the last axis.

    Args:
        loc: "*b d".
        scale_tril: L, lower triangular with a positive diagonal, "*b d d".
    """

    loc: Float[Array, "*b d"]
    scale_tril: Float[Array, "*b d d"]
    pixel_levels: ClassVar[None] = None
    cheap_log_prob: ClassVar[bool] = True

    def log_prob(self, x: Float[Array, "... d"]) -> Float[Array, "..."]:
        """Log-density in nats: `sample_shape + batch_shape`."""
        return -0.5 * ((self.to_noise(x) ** 2).sum(-1) + x.shape[-1] * LOG_2PI) - self.log_determinant()

    def log_determinant(self) -> Float[Array, "*b"]:
        """log det L, half that of the covariance."""
        return jnp.log(jnp.diagonal(self.scale_tril, axis1=-2, axis2=-1)).sum(-1)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "... d"]:
        """Reparameterised draw, loc + L ε with ε ~ N(0, I)."""
        return self.sample_and_log_prob(key, sample_shape)[0]

    def sample_and_log_prob(
        self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> tuple[Float[Array, "... d"], Float[Array, "..."]]:
        """A reparameterised draw, and its log-density from ε: no linear system is solved."""
        return self.from_noise_and_log_prob(jax.random.normal(key, sample_shape + self.loc.shape, self.loc.dtype))

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """That of an event."""
        return self.loc.shape[-1:]

    def from_noise(self, noise: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """loc + L ε."""
        return self.loc + jnp.einsum("...ij,...j->...i", self.scale_tril, noise)

    def to_noise(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """The inverse of `from_noise`."""
        return _solve_lower(self.scale_tril, x - self.loc)

    def from_noise_and_log_prob(
        self, noise: Float[Array, "... d"]
    ) -> tuple[Float[Array, "... d"], Float[Array, "..."]]:
        """The draw that noise becomes, and its log-density from ε."""
        log_prob = -0.5 * ((noise**2).sum(-1) + noise.shape[-1] * LOG_2PI) - self.log_determinant()
        return self.from_noise(noise), log_prob

    def mean(self) -> Float[Array, "*b d"]:
        """The location."""
        return self.loc

    def tempered(self, temperature: float | Float[Array, ""]) -> "MultivariateNormal":
        """The same normal with L times `temperature`."""
        return replace(self, scale_tril=self.scale_tril * temperature)
