"""What a distribution is, and what all of them share."""

import math
from typing import Protocol, TypeVar, runtime_checkable

from jaxtyping import Array, Float, Int, Key

# exp(±15) squared is far inside float32: with log-scales within it no output of a network makes latents infinite.
MAX_LOG_SCALE = 15.0
LOG_2PI = math.log(2 * math.pi)
Self = TypeVar("Self")


@runtime_checkable
class Distribution(Protocol):
    """A distribution of pixels or latents; shapes are `sample_shape + batch_shape + event_shape`."""

    def log_prob(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Log-probability or log-density in nats: `sample_shape + batch_shape`."""

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """A draw: `sample_shape + batch_shape + event_shape`."""

    def mean(self) -> Float[Array, "..."]:
        """The mean: `batch_shape + event_shape`."""


@runtime_checkable
class DiscretePixels(Distribution, Protocol):
    """A distribution of pixels that have levels, for entropy coding; see levels.py."""

    @property
    def pixel_levels(self) -> int:
        """How many levels a pixel may have."""

    def upper_share(
        self, low: Int[Array, "... h w c"], middle: Int[Array, "... h w c"], high: Int[Array, "... h w c"]
    ) -> Float[Array, "... h w"]:
        """P(middle <= level | low <= level < high) of each pixel, all its channels."""


@runtime_checkable
class LatentDistribution(Distribution, Protocol):
    """A distribution of latents."""

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise that makes a draw."""

    def from_noise(self, noise: Float[Array, "..."]) -> Float[Array, "..."]:
        """The draw that noise ε ~ N(0, I), `sample_shape + batch_shape + noise_shape`, becomes."""

    def from_noise_and_log_prob(self, noise: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """That draw and its log-density, which is often known with the noise."""

    def sample_and_log_prob(
        self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """A draw and its log-density, which is often known when it is drawn."""

    def tempered(self: Self, temperature: float | Float[Array, ""]) -> Self:
        """The same distribution with its scale times `temperature`."""


def sum_event(x: Float[Array, "..."], event_ndim: int) -> Float[Array, "..."]:
    """Sum over the last `event_ndim` axes."""
    return x.sum(tuple(range(-event_ndim, 0)))


def flatten_event(x: Float[Array, "..."], event_ndim: int) -> Float[Array, "... e"]:
    """The event axes as one."""
    return x.reshape(*x.shape[: x.ndim - event_ndim], -1)
