"""Distributions as values: small pytrees with `log_prob`, `sample` and `mean`.

Shapes are `sample_shape + batch_shape + event_shape`. `log_prob` is in nats and sums over the event.
"""

from flax_vae.distributions.autoregressive import Autoregressive
from flax_vae.distributions.base import DiscretePixels, Distribution, Draw, FromNoise, LatentDistribution
from flax_vae.distributions.chain import Chain
from flax_vae.distributions.counts import NegativeBinomial, Poisson
from flax_vae.distributions.divergence import has_kl, kl_divergence, register_kl
from flax_vae.distributions.flow import Flow
from flax_vae.distributions.levels import BetaBinomial, Categorical, DiscretizedLogistic, MixtureOfLogistics
from flax_vae.distributions.masked import Masked, masked
from flax_vae.distributions.mixture import Mixture
from flax_vae.distributions.normal import MultivariateNormal, Normal
from flax_vae.distributions.pixels import Bernoulli, ContinuousBernoulli
from flax_vae.distributions.views import Views

__all__ = [
    "Autoregressive",
    "Bernoulli",
    "BetaBinomial",
    "Categorical",
    "Chain",
    "ContinuousBernoulli",
    "DiscretePixels",
    "DiscretizedLogistic",
    "Distribution",
    "Draw",
    "Flow",
    "FromNoise",
    "LatentDistribution",
    "Masked",
    "Mixture",
    "MixtureOfLogistics",
    "MultivariateNormal",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "Views",
    "has_kl",
    "kl_divergence",
    "masked",
    "register_kl",
]
