"""From a decoder's output to p(x | z)."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.distributions.normal import Normal
from flax_vae.distributions.pixels import (
    _MAX_LOG_SCALE,
    LEVELS,
    Bernoulli,
    BetaBinomial,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    MixtureOfLogistics,
)


class LearnedScaleNormal(nn.Module):
    """Normal pixels around the decoder's output, all with one learned scale (Rybkin et al. 2021), at least 1/1000."""

    @nn.compact
    def __call__(self, output: Float[Array, "*b h w c"]) -> Normal:
        """Output "*b h w c" -> p(x | z), batch shape "*b"."""
        log_scale = self.param("log_scale", nn.initializers.constant(-1.0), ())
        return Normal(output, jnp.broadcast_to(jnp.maximum(log_scale, -_MAX_LOG_SCALE), output.shape), event_ndim=3)


def per_pixel_normal(output: Float[Array, "*b h w o"]) -> Normal:
    """Normal pixels, each with a location and a scale, at least 1/1000, of its own."""
    loc, log_scale = jnp.split(output, 2, axis=-1)
    return Normal(loc, jnp.clip(log_scale, -_MAX_LOG_SCALE, _MAX_LOG_SCALE), event_ndim=3)


def discretized_logistic(output: Float[Array, "*b h w o"]) -> DiscretizedLogistic:
    """Every channel of a pixel with a location and a log-scale."""
    loc, log_scale = jnp.split(output, 2, axis=-1)
    return DiscretizedLogistic(loc, log_scale)


def beta_binomial(output: Float[Array, "*b h w o"]) -> BetaBinomial:
    """Every channel of a pixel with log α and log β."""
    log_alpha, log_beta = jnp.split(output, 2, axis=-1)
    return BetaBinomial(log_alpha, log_beta)


def categorical(output: Float[Array, "*b h w o"]) -> Categorical:
    """Every channel of a pixel with the logits of its levels."""
    return Categorical(output.reshape(*output.shape[:-1], -1, LEVELS))


class LogisticMixture(nn.Module):
    """A mixture for every pixel: logits of its components, then location, log-scale and coefficients per channel."""

    channels: int
    components: int = 5

    def __call__(self, output: Float[Array, "*b h w o"]) -> MixtureOfLogistics:
        """Output "*b h w m·(1 + c·(2 + c))" -> p(x | z), batch shape "*b"."""
        logits, rest = output[..., : self.components], output[..., self.components :]
        rest = rest.reshape(*rest.shape[:-1], self.channels, 2 + self.channels, self.components)
        return MixtureOfLogistics(logits, rest[..., 0, :], rest[..., 1, :], rest[..., 2:, :])


class PixelLikelihood(NamedTuple):
    """How a decoder's output becomes a distribution of pixels.

    Attributes:
        distribution: function or Linen module, output "*b h w o" -> p(x | z).
        start: what each of the o output channels starts at, so that all images start as the average one.
    """

    distribution: Callable[[Array], Any]
    start: tuple[float, ...]


def pixel_likelihood(name: str, mean: tuple[float, ...]) -> PixelLikelihood:
    """A likelihood by its name, for images whose channels have these means."""
    mean = tuple(min(max(m, 1e-3), 1 - 1e-3) for m in mean)
    count, logits = len(mean), tuple(math.log(m / (1 - m)) for m in mean)
    match name:
        case "bernoulli":
            return PixelLikelihood(Bernoulli, logits)
        case "continuous_bernoulli":
            return PixelLikelihood(ContinuousBernoulli, logits)
        case "normal":
            return PixelLikelihood(LearnedScaleNormal(), mean)
        case "per_pixel_normal":
            return PixelLikelihood(per_pixel_normal, mean + (-1.0,) * count)
        case "discretized_logistic":
            return PixelLikelihood(discretized_logistic, mean + (-2.0,) * count)
        case "logistic_mixture":
            mixture = LogisticMixture(count)
            spread = tuple((i + 0.5) / mixture.components for i in range(mixture.components))
            zeros, narrow = (0.0,) * mixture.components, (-2.0,) * mixture.components
            return PixelLikelihood(mixture, zeros + (spread + narrow + zeros * count) * count)
        case "categorical":
            return PixelLikelihood(categorical, (0.0,) * LEVELS * count)
        case "beta_binomial":
            weights = tuple(math.log(2 * m) for m in mean), tuple(math.log(2 * (1 - m)) for m in mean)
            return PixelLikelihood(beta_binomial, weights[0] + weights[1])
    raise ValueError(f"no likelihood {name}")
