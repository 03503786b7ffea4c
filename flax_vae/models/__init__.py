"""Networks and distributions joined into models."""

from flax_vae.models.ladder import Ladder
from flax_vae.models.likelihoods import (
    LIKELIHOODS,
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
from flax_vae.models.presets import (
    PRESETS,
    channel_means,
    gated_mlp,
    ladder,
    residual_conv,
    tutorial_conv,
    tutorial_dense,
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
    "PRESETS",
    "PRIORS",
    "VAE",
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
    "channel_means",
    "gated_mlp",
    "init",
    "ladder",
    "require_flat",
    "residual_conv",
    "tutorial_conv",
    "tutorial_dense",
    "variables",
]
