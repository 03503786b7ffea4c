"""Networks and distributions joined into models."""

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
from flax_vae.models.protocol import FlatModel, Inference, Layer, Model, require_flat
from flax_vae.models.vae import VAE, Context, Params, bind, init, variables

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
    "FlatModel",
    "FullNormal",
    "Inference",
    "InverseAutoregressive",
    "Ladder",
    "Layer",
    "LearnedMixture",
    "LogisticMixtureLikelihood",
    "Model",
    "NormalLikelihood",
    "Params",
    "PerPixelNormalLikelihood",
    "StandardNormal",
    "TopDownPosterior",
    "TopDownPrior",
    "VampPrior",
    "bind",
    "init",
    "require_flat",
    "variables",
]
