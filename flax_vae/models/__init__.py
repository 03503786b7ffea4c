"""Models: networks and distributions, combined into one Linen module."""

from flax_vae.models.binding import Context, Params, bind, init, variables
from flax_vae.models.ladder import Ladder
from flax_vae.models.likelihoods import (
    LIKELIHOODS,
    AutoregressiveLikelihood,
    BernoulliLikelihood,
    BetaBinomialLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    LogisticMixtureLikelihood,
    NormalLikelihood,
    PerPixelNormalLikelihood,
)
from flax_vae.models.posteriors import (
    POSTERIORS,
    DiagonalNormal,
    FullNormal,
    InverseAutoregressive,
    TopDownPosterior,
)
from flax_vae.models.priors import (
    PRIORS,
    ConditionalNormal,
    CouplingFlow,
    LearnedMixture,
    StandardNormal,
    TopDownPrior,
    VampPrior,
)
from flax_vae.models.protocol import InferableAt, Inference, LadderModel, Layer, Model, SingleLayer, provides, require
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
    "NormalLikelihood",
    "Params",
    "PerPixelNormalLikelihood",
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
