"""Logistic pixels, rounded to the 256 levels."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.distributions.levels import DiscretizedLogistic, MixtureOfLogistics
from flax_vae.models.likelihoods import Mean, inside, likelihood


@likelihood("discretized_logistic", DiscretizedLogistic)
@dataclass(frozen=True)
class DiscretizedLogisticLikelihood:
    """Logistic pixels rounded to the 256 levels, each with a location and a scale (Kingma et al. 2016)."""

    def start(self, mean: Mean) -> Mean:
        """Return locations, then log-scales."""
        return inside(mean) + (-2.0,) * len(mean)

    def __call__(self, output: Float[Array, "... o"]) -> DiscretizedLogistic:
        """Map locations and log-scales to p(x | z)."""
        loc, log_scale = jnp.split(output, 2, axis=-1)
        return DiscretizedLogistic(loc, log_scale)


@likelihood("logistic_mixture", MixtureOfLogistics)
@dataclass(frozen=True)
class LogisticMixtureLikelihood:
    """A mixture of logistics, rounded to the 256 levels, for every pixel (Salimans et al. 2017).

    With m components and c channels there are m·(1 + c)² outputs: for each component a logit, and for each of its
    channels a location, a log-scale and c coefficients.
    """

    components: int = 5

    def start(self, mean: Mean) -> Mean:
        """Return equal weights, locations spread over [0, 1], and independent channels."""
        spread = tuple((i + 0.5) / self.components for i in range(self.components))
        zeros, narrow = (0.0,) * self.components, (-2.0,) * self.components
        return zeros + (spread + narrow + zeros * len(mean)) * len(mean)

    def __call__(self, output: Float[Array, "... o"]) -> MixtureOfLogistics:
        """Map the output to p(x | z)."""
        channels = math.isqrt(output.shape[-1] // self.components) - 1
        logits, rest = output[..., : self.components], output[..., self.components :]
        rest = rest.reshape(*rest.shape[:-1], channels, 2 + channels, self.components)
        return MixtureOfLogistics(logits, rest[..., 0, :], rest[..., 1, :], rest[..., 2:, :])
