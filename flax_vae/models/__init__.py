"""Models: networks and distributions, combined into one Linen module."""

from flax_vae.models.binding import Context, Params, bind, init, variables
from flax_vae.models.ladder import Ladder
from flax_vae.models.likelihoods import LIKELIHOODS
from flax_vae.models.likelihoods.autoregressive import AutoregressiveLikelihood
from flax_vae.models.likelihoods.bernoulli import BernoulliLikelihood, ContinuousBernoulliLikelihood
from flax_vae.models.likelihoods.beta_binomial import BetaBinomialLikelihood
from flax_vae.models.likelihoods.categorical import CategoricalLikelihood
from flax_vae.models.likelihoods.logistic import DiscretizedLogisticLikelihood, LogisticMixtureLikelihood
from flax_vae.models.likelihoods.negative_binomial import NegativeBinomialLikelihood
from flax_vae.models.likelihoods.normal import NormalLikelihood, PerPixelNormalLikelihood
from flax_vae.models.likelihoods.poisson import PoissonLikelihood
from flax_vae.models.posteriors import POSTERIORS
from flax_vae.models.posteriors.diagonal import DiagonalNormal
from flax_vae.models.posteriors.full import FullNormal
from flax_vae.models.posteriors.iaf import InverseAutoregressive
from flax_vae.models.priors import PRIORS
from flax_vae.models.priors.flow import CouplingFlow
from flax_vae.models.priors.mixture import LearnedMixture
from flax_vae.models.priors.normal import ConditionalNormal, StandardNormal
from flax_vae.models.priors.vamp import VampPrior
from flax_vae.models.protocol import InferableAt, Inference, LadderModel, Layer, Model, SingleLayer, provides, require
from flax_vae.models.top_down import TopDownPosterior, TopDownPrior
from flax_vae.models.vae import VAE

__all__ = [
    "LIKELIHOODS",
    "POSTERIORS",
    "PRIORS",
    "VAE",
    "AutoregressiveLikelihood",
    "BernoulliLikelihood",
    "BetaBinomialLikelihood",
    "CategoricalLikelihood",
    "ConditionalNormal",
    "Context",
    "ContinuousBernoulliLikelihood",
    "CouplingFlow",
    "DiagonalNormal",
    "DiscretizedLogisticLikelihood",
    "FullNormal",
    "InferableAt",
    "Inference",
    "InverseAutoregressive",
    "Ladder",
    "LadderModel",
    "Layer",
    "LearnedMixture",
    "LogisticMixtureLikelihood",
    "Model",
    "NegativeBinomialLikelihood",
    "NormalLikelihood",
    "Params",
    "PerPixelNormalLikelihood",
    "PoissonLikelihood",
    "SingleLayer",
    "StandardNormal",
    "TopDownPosterior",
    "TopDownPrior",
    "VampPrior",
    "bind",
    "init",
    "provides",
    "require",
    "variables",
]
