"""The interfaces of distributions, and the base classes that supply most of a distribution of latents."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Protocol, TypeVar, runtime_checkable

import jax
from jaxtyping import Array, Float, Int, Key

from flax_vae.system.errors import UserError

# exp(±15)² is well within the range of float32, so clipped log-scales keep latents finite.
MAX_LOG_SCALE = 15.0
LOG_2PI = math.log(2 * math.pi)
Levels = Int[Array, "... h w c"]
DrawAndLogProb = tuple[Float[Array, "..."], Float[Array, "..."]]  # the log-density, in nats, has no event axes
Self = TypeVar("Self")  # beartype rejects `typing.Self` in methods


@runtime_checkable
class Distribution(Protocol):
    """A distribution over images or latents; shapes are `sample_shape + batch_shape + event_shape`."""

    def log_prob(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the log-probability or log-density in nats: `sample_shape + batch_shape`."""

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draw: `sample_shape + batch_shape + event_shape`."""

    def mean(self) -> Float[Array, "..."]:
        """Return the mean: `batch_shape + event_shape`."""


@runtime_checkable
class DiscretePixels(Distribution, Protocol):
    """A distribution over discrete pixel levels, which can be entropy-coded; see levels.py."""

    @property
    def pixel_levels(self) -> int:
        """The number of levels of a pixel."""

    def upper_share(self, low: Levels, middle: Levels, high: Levels) -> Float[Array, "... h w"]:
        """Return P(middle <= level | low <= level < high) of each pixel, jointly over its channels."""


class LatentDistribution(ABC):
    """A distribution over latents.

    A subclass defines `log_prob`, `sample_and_log_prob`, `mean` and `tempered`; the rest is inherited. One that maps
    N(0, I) noise to latents extends `FromNoise` instead.

    Attributes:
        cheap_log_prob: True if the density of a given z costs no more than that of a draw.
    """

    cheap_log_prob: ClassVar[bool] = False

    @abstractmethod
    def log_prob(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the log-density in nats: `sample_shape + batch_shape`."""

    @abstractmethod
    def sample_and_log_prob(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> DrawAndLogProb:
        """Draw, and return the log-density of the draw as well, which often costs less than `log_prob`."""

    @abstractmethod
    def mean(self) -> Float[Array, "..."]:
        """Return the mean: `batch_shape + event_shape`."""

    @abstractmethod
    def tempered(self: Self, temperature: float | Float[Array, ""]) -> Self:
        """Multiply the scale by `temperature`."""

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draw: `sample_shape + batch_shape + event_shape`."""
        return self.sample_and_log_prob(key, sample_shape)[0]

    def layers(self, z: Float[Array, "..."]) -> "Sequence[tuple[Array, LatentDistribution]]":
        """Split latents into layers, each with its distribution: a single layer, except in a `Chain`."""
        return [(z, self)]

    def layers_at(self, z: Float[Array, "..."]) -> "list[Draw]":
        """Split given latents into layers, with log-densities."""
        return [(z_l, p.log_prob(z_l), p) for z_l, p in self.layers(z)]

    def draw_layers(self, key: Key[Array, ""], sample_shape: tuple[int, ...]) -> "list[Draw]":
        """Draw layer by layer, each given the layers above it: a single layer, except in a `Chain`."""
        return [(*self.sample_and_log_prob(key, sample_shape), self)]


class Factorised:
    """A distribution of independent values: a frozen dataclass with a field `event_ndim`."""

    def marginals(self: Self) -> Self:
        """Return the same distribution with every value separate: event axes become batch axes."""
        return replace(self, event_ndim=0)  # type: ignore[type-var]


Draw = tuple[Array, Array, LatentDistribution]  # z, its log-density, and the distribution that z comes from


class FromNoise(LatentDistribution):
    """A distribution over latents z = f(ε), ε ~ N(0, I).

    A subclass defines `log_prob`, `mean`, `tempered`, `noise_shape` and `from_noise_and_log_prob`, and `to_noise` if f
    is invertible. Noise has as many axes as an event. Export, the explorer and compression need these methods.

    Attributes:
        noise_meaning: a description, for users of exported functions, of the noise that gives a draw at a temperature.
            Override it if scaled noise does not give a draw of `tempered`.
    """

    noise_meaning: ClassVar[str] = "draws from N(0, I), scaled by the temperature"

    @property
    @abstractmethod
    def noise_shape(self) -> tuple[int, ...]:
        """The shape of the noise that f maps to a draw."""

    @abstractmethod
    def from_noise_and_log_prob(self, noise: Float[Array, "..."]) -> DrawAndLogProb:
        """Map noise ε, `sample_shape + batch_shape + noise_shape`, to a draw and its log-density."""

    def from_noise(self, noise: Float[Array, "..."]) -> Float[Array, "..."]:
        """Map noise ε, `sample_shape + batch_shape + noise_shape`, to a draw f(ε)."""
        return self.from_noise_and_log_prob(noise)[0]

    def to_noise(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """Invert `from_noise`: compression codes latents as this noise.

        Raises:
            UserError: f is not invertible; in this package only a `Mixture` is not.
        """
        raise UserError(f"A {type(self).__name__} cannot map latents back to noise.")

    def sample_and_log_prob(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> DrawAndLogProb:
        """Draw by reparameterisation (Kingma & Welling 2014, section 2.4), with the log-density computed from ε."""
        mean = jax.eval_shape(lambda: self.mean())
        batch_shape = mean.shape[: len(mean.shape) - len(self.noise_shape)]
        noise = jax.random.normal(key, (*sample_shape, *batch_shape, *self.noise_shape), mean.dtype)
        return self.from_noise_and_log_prob(noise)


def sum_event(x: Float[Array, "..."], event_ndim: int) -> Float[Array, "..."]:
    """Sum over the last `event_ndim` axes."""
    return x.sum(tuple(range(-event_ndim, 0)))


def flatten_event(x: Float[Array, "..."], event_ndim: int) -> Float[Array, "... e"]:
    """Flatten the last `event_ndim` axes into one."""
    return x.reshape(*x.shape[: x.ndim - event_ndim], -1)
