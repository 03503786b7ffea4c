"""Likelihood heads: from a decoder's output "*b h w o" to p(x | z).

A head says by `start(mean)` how many output channels o it takes, and what each starts at, so that at first every image
is the average one; and by `pixel_levels` whether it gives probabilities or densities. A function from outputs to a
distribution will do as well, where a decoder gives what it takes.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.distributions.autoregressive import Autoregressive, PixelNetwork
from flax_vae.distributions.levels import (
    LEVELS,
    MAX_PIXEL_LOG_SCALE,
    BetaBinomial,
    Categorical,
    DiscretizedLogistic,
    MixtureOfLogistics,
)
from flax_vae.distributions.normal import Normal
from flax_vae.distributions.pixels import Bernoulli, ContinuousBernoulli
from flax_vae.parts import Parts

LIKELIHOODS = Parts("likelihood")
Mean = tuple[float, ...]  # of each channel of the images, in [0, 1]


def _inside(mean: Mean) -> Mean:
    """Away from 0 and 1, whose logits are infinite."""
    return tuple(min(max(m, 1e-3), 1 - 1e-3) for m in mean)


def _logits(mean: Mean) -> Mean:
    return tuple(math.log(m / (1 - m)) for m in _inside(mean))


@LIKELIHOODS.register("bernoulli")
@dataclass(frozen=True)
class BernoulliLikelihood:
    """Pixels of 0 or 1; on grey values its log-probability is minus their cross-entropy, which is not a density."""

    pixel_levels: ClassVar[int | None] = Bernoulli.pixel_levels

    def start(self, mean: Mean) -> Mean:
        """A logit for each channel."""
        return _logits(mean)

    def __call__(self, output: Float[Array, "*b h w c"]) -> Bernoulli:
        """Logits -> p(x | z)."""
        return Bernoulli(output)


@LIKELIHOODS.register("continuous_bernoulli")
@dataclass(frozen=True)
class ContinuousBernoulliLikelihood:
    """The Bernoulli's cross-entropy made a density on [0, 1] (Loaiza-Ganem & Cunningham 2019)."""

    pixel_levels: ClassVar[int | None] = ContinuousBernoulli.pixel_levels

    def start(self, mean: Mean) -> Mean:
        """A logit for each channel."""
        return _logits(mean)

    def __call__(self, output: Float[Array, "*b h w c"]) -> ContinuousBernoulli:
        """Logits -> p(x | z)."""
        return ContinuousBernoulli(output)


@LIKELIHOODS.register("normal")
class NormalLikelihood(nn.Module):
    """Normal pixels around the decoder's output, all with one learned scale (Rybkin et al. 2021), at least 1/1000."""

    pixel_levels: ClassVar[int | None] = Normal.pixel_levels

    def start(self, mean: Mean) -> Mean:
        """A location for each channel."""
        return _inside(mean)

    @nn.compact
    def __call__(self, output: Float[Array, "*b h w c"]) -> Normal:
        """Locations -> p(x | z)."""
        log_scale = self.param("log_scale", nn.initializers.constant(-1.0), ())
        return Normal(
            output, jnp.broadcast_to(jnp.maximum(log_scale, -MAX_PIXEL_LOG_SCALE), output.shape), event_ndim=3
        )


@LIKELIHOODS.register("per_pixel_normal")
@dataclass(frozen=True)
class PerPixelNormalLikelihood:
    """Normal pixels, each with a location and a scale, at least 1/1000, of its own."""

    pixel_levels: ClassVar[int | None] = Normal.pixel_levels

    def start(self, mean: Mean) -> Mean:
        """Locations, then log-scales."""
        return _inside(mean) + (-1.0,) * len(mean)

    def __call__(self, output: Float[Array, "*b h w o"]) -> Normal:
        """Locations and log-scales -> p(x | z)."""
        loc, log_scale = jnp.split(output, 2, axis=-1)
        return Normal(loc, jnp.clip(log_scale, -MAX_PIXEL_LOG_SCALE, MAX_PIXEL_LOG_SCALE), event_ndim=3)


@LIKELIHOODS.register("discretized_logistic")
@dataclass(frozen=True)
class DiscretizedLogisticLikelihood:
    """Logistic pixels rounded to the 256 levels, each with a location and a scale (Kingma et al. 2016)."""

    pixel_levels: ClassVar[int | None] = DiscretizedLogistic.pixel_levels

    def start(self, mean: Mean) -> Mean:
        """Locations, then log-scales."""
        return _inside(mean) + (-2.0,) * len(mean)

    def __call__(self, output: Float[Array, "*b h w o"]) -> DiscretizedLogistic:
        """Locations and log-scales -> p(x | z)."""
        loc, log_scale = jnp.split(output, 2, axis=-1)
        return DiscretizedLogistic(loc, log_scale)


@LIKELIHOODS.register("logistic_mixture")
@dataclass(frozen=True)
class LogisticMixtureLikelihood:
    """A mixture of logistics, rounded to the 256 levels, for every pixel (Salimans et al. 2017).

    With m components and c channels there are m·(1 + c)² outputs: a logit for each component, and for each channel of
    it a location, a log-scale and c coefficients.
    """

    components: int = 5
    pixel_levels: ClassVar[int | None] = MixtureOfLogistics.pixel_levels

    def start(self, mean: Mean) -> Mean:
        """Equal weights, locations spread over [0, 1], and no dependence between channels."""
        spread = tuple((i + 0.5) / self.components for i in range(self.components))
        zeros, narrow = (0.0,) * self.components, (-2.0,) * self.components
        return zeros + (spread + narrow + zeros * len(mean)) * len(mean)

    def __call__(self, output: Float[Array, "*b h w o"]) -> MixtureOfLogistics:
        """Output -> p(x | z)."""
        channels = math.isqrt(output.shape[-1] // self.components) - 1
        logits, rest = output[..., : self.components], output[..., self.components :]
        rest = rest.reshape(*rest.shape[:-1], channels, 2 + channels, self.components)
        return MixtureOfLogistics(logits, rest[..., 0, :], rest[..., 1, :], rest[..., 2:, :])


@LIKELIHOODS.register("categorical")
@dataclass(frozen=True)
class CategoricalLikelihood:
    """Every one of the 256 levels of every pixel with a probability of its own."""

    pixel_levels: ClassVar[int | None] = Categorical.pixel_levels

    def start(self, mean: Mean) -> Mean:
        """Equal logits."""
        return (0.0,) * LEVELS * len(mean)

    def __call__(self, output: Float[Array, "*b h w o"]) -> Categorical:
        """Logits -> p(x | z)."""
        return Categorical(output.reshape(*output.shape[:-1], -1, LEVELS))


@LIKELIHOODS.register("beta_binomial")
@dataclass(frozen=True)
class BetaBinomialLikelihood:
    """The 256 levels as successes of 255 trials whose probability is beta distributed."""

    pixel_levels: ClassVar[int | None] = BetaBinomial.pixel_levels

    def start(self, mean: Mean) -> Mean:
        """log α, then log β, with α + β = 2."""
        mean = _inside(mean)
        return tuple(math.log(2 * m) for m in mean) + tuple(math.log(2 * (1 - m)) for m in mean)

    def __call__(self, output: Float[Array, "*b h w o"]) -> BetaBinomial:
        """log α and log β -> p(x | z)."""
        log_alpha, log_beta = jnp.split(output, 2, axis=-1)
        return BetaBinomial(log_alpha, log_beta)


@LIKELIHOODS.register("autoregressive")
class AutoregressiveLikelihood(nn.Module):
    """Each pixel given those before it as well as z (PixelVAE, Gulrajani et al. 2017), within a window.

    The latents need not say what neighbours say of one another, and hold what is beyond the window (Chen et al. 2017).
    Samples are drawn pixel after pixel.

    Attributes:
        head: the likelihood of each pixel.
        reach: rows above a pixel and columns beside it that it sees.
        features: channels by which the decoder tells each channel of a pixel of z.
        hidden: units of the network in which these meet what the pixel sees.
    """

    head: Literal[
        "bernoulli",
        "beta_binomial",
        "categorical",
        "continuous_bernoulli",
        "discretized_logistic",
        "logistic_mixture",
        "per_pixel_normal",
    ] = "bernoulli"
    reach: int = 5
    features: int = 8
    hidden: int = 32

    def _head(self) -> Any:
        return LIKELIHOODS.make(self.head)

    @property
    def pixel_levels(self) -> int | None:
        """That of the head."""
        return self._head().pixel_levels

    def start(self, mean: Mean) -> Mean:
        """The features of each channel, of which at first there is nothing to tell."""
        return (0.0,) * self.features * len(mean)

    @nn.compact
    def __call__(self, output: Float[Array, "*b h w o"]) -> Autoregressive:
        """Features -> p(x | z)."""
        head, width, channels = self._head(), self.hidden, output.shape[-1] // self.features
        start = jnp.array(head.start((0.5,) * channels))
        draw = nn.initializers.lecun_normal()
        network = PixelNetwork(
            window=self.param("seen", draw, (2 * self.reach * (self.reach + 1) * channels, width)),
            features=self.param("told", draw, (output.shape[-1], width)),
            hidden=self.param("hidden_weights", draw, (width, width)),
            output=self.param("output", nn.initializers.zeros, (width, len(start))),
            bias=self.param("bias", lambda _: start),
        )
        return Autoregressive(output, network, head, self.reach)
