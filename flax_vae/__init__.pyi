from . import data as data
from . import distributions as distributions
from . import metrics as metrics
from . import models as models
from . import nn as nn
from . import objectives as objectives
from . import plots as plots
from . import runs as runs
from . import training as training
from .batches import Batch, epoch_batches
from .compression import compress, decompress
from .data import Examples, Stream, load_images
from .data.prepare import prepare_images
from .distributions import (
    Bernoulli,
    BetaBinomial,
    Categorical,
    Chain,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Flow,
    Mixture,
    MixtureOfLogistics,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    kl_divergence,
    register_kl,
)
from .evaluation.evaluate import evaluate
from .evaluation.plan import Plan
from .evaluation.run import Run, load_run
from .evaluation.tables import compare
from .explore.write import write_explorer
from .export.directory import export_run, verify_export
from .fitting.fit import fit, fit_many, resume, resume_many
from .fitting.save import save_run
from .metrics.likelihood import Defence, log_likelihood
from .models import (
    VAE,
    BernoulliLikelihood,
    BetaBinomialLikelihood,
    CategoricalLikelihood,
    ConditionalNormal,
    ContinuousBernoulliLikelihood,
    CouplingFlow,
    DiagonalNormal,
    DiscretizedLogisticLikelihood,
    FullNormal,
    Inference,
    InverseAutoregressive,
    Ladder,
    Layer,
    LearnedMixture,
    LogisticMixtureLikelihood,
    NegativeBinomialLikelihood,
    NormalLikelihood,
    PerPixelNormalLikelihood,
    PoissonLikelihood,
    StandardNormal,
    TopDownPosterior,
    TopDownPrior,
    VampPrior,
    bind,
    init,
)
from .nn.adapters import from_equinox, from_nnx, with_train
from .objectives import (
    DIPVAE,
    ELBO,
    IWAE,
    STL,
    BetaTCVAE,
    Capacity,
    Cyclical,
    DReG,
    FreeBits,
    InfoVAE,
    Renyi,
    Warmup,
    distortion,
    layer_rates,
    log_weights,
    rate,
)
from .presets import gated_mlp, ladder, residual_conv, tutorial_conv, tutorial_dense
from .runs.config import RECIPES, Config
from .runs.run import write_run
from .samplers.gmm import sample_gmm
from .sampling import decode, encode, interpolate, latent_grid, reconstruct, reconstruct_layers, sample, traverse
from .system.errors import UserError
from .system.machine import use_machine
from .system.processes import Cluster
from .training.optimizers import make_optimizer
from .training.step import TrainState, init_state, make_train_step

__version__: str

__all__ = [
    "DIPVAE",
    "ELBO",
    "IWAE",
    "RECIPES",
    "STL",
    "VAE",
    "Batch",
    "Bernoulli",
    "BernoulliLikelihood",
    "BetaBinomial",
    "BetaBinomialLikelihood",
    "BetaTCVAE",
    "Capacity",
    "Categorical",
    "CategoricalLikelihood",
    "Chain",
    "Cluster",
    "ConditionalNormal",
    "Config",
    "ContinuousBernoulli",
    "ContinuousBernoulliLikelihood",
    "CouplingFlow",
    "Cyclical",
    "DReG",
    "Defence",
    "DiagonalNormal",
    "DiscretizedLogistic",
    "DiscretizedLogisticLikelihood",
    "Examples",
    "Flow",
    "FreeBits",
    "FullNormal",
    "Inference",
    "InfoVAE",
    "InverseAutoregressive",
    "Ladder",
    "Layer",
    "LearnedMixture",
    "LogisticMixtureLikelihood",
    "Mixture",
    "MixtureOfLogistics",
    "MultivariateNormal",
    "NegativeBinomial",
    "NegativeBinomialLikelihood",
    "Normal",
    "NormalLikelihood",
    "PerPixelNormalLikelihood",
    "Plan",
    "Poisson",
    "PoissonLikelihood",
    "Renyi",
    "Run",
    "StandardNormal",
    "Stream",
    "TopDownPosterior",
    "TopDownPrior",
    "TrainState",
    "UserError",
    "VampPrior",
    "Warmup",
    "bind",
    "compare",
    "compress",
    "decode",
    "decompress",
    "distortion",
    "encode",
    "epoch_batches",
    "evaluate",
    "export_run",
    "fit",
    "fit_many",
    "from_equinox",
    "from_nnx",
    "gated_mlp",
    "init",
    "init_state",
    "interpolate",
    "kl_divergence",
    "ladder",
    "latent_grid",
    "layer_rates",
    "load_images",
    "load_run",
    "log_likelihood",
    "log_weights",
    "make_optimizer",
    "make_train_step",
    "prepare_images",
    "rate",
    "reconstruct",
    "reconstruct_layers",
    "register_kl",
    "residual_conv",
    "resume",
    "resume_many",
    "sample",
    "sample_gmm",
    "save_run",
    "traverse",
    "tutorial_conv",
    "tutorial_dense",
    "use_machine",
    "verify_export",
    "with_train",
    "write_explorer",
    "write_run",
]
