"""Variational autoencoders as pure functions, on JAX, Flax Linen and Optax."""

__version__ = "0.1.0"

from flax_vae.data import ImageData, load_images
from flax_vae.distributions.divergence import kl_divergence
from flax_vae.distributions.normal import Normal
from flax_vae.distributions.pixels import Bernoulli
from flax_vae.errors import UserError
from flax_vae.machine import use_machine
from flax_vae.metrics.likelihood import log_likelihood
from flax_vae.models.posteriors import DiagonalNormal, FullNormal, InverseAutoregressive, TopDownPosterior
from flax_vae.models.presets import gated_mlp, residual_conv, tutorial_conv, tutorial_dense
from flax_vae.models.priors import CouplingFlow, LearnedMixture, StandardNormal, TopDownPrior, VampPrior
from flax_vae.models.vae import VAE, Inference, bind, init
from flax_vae.objectives.elbo import ELBO, Capacity, FreeBits
from flax_vae.objectives.importance_weighted import IWAE, STL, DReG, Renyi
from flax_vae.objectives.regularised import DIPVAE, BetaTCVAE, InfoVAE
from flax_vae.objectives.schedules import Cyclical, Warmup
from flax_vae.objectives.terms import distortion, layer_rates, log_weights, rate
from flax_vae.runs.config import RECIPES, Config
from flax_vae.runs.fit import Run, fit, fit_many, load_run, resume, resume_many
from flax_vae.sampling import decode, encode, interpolate, latent_grid, reconstruct, sample, traverse
from flax_vae.training.optimizers import make_optimizer
from flax_vae.training.step import TrainState, init_state, make_train_step

__all__ = [
    "DIPVAE", "ELBO", "IWAE", "RECIPES", "STL", "VAE", "Bernoulli", "BetaTCVAE", "Capacity", "Config", "CouplingFlow",
    "Cyclical", "DReG", "DiagonalNormal", "FreeBits", "FullNormal", "ImageData", "Inference", "InfoVAE",
    "InverseAutoregressive", "LearnedMixture", "Normal", "Renyi", "Run", "StandardNormal", "TopDownPosterior",
    "TopDownPrior", "TrainState", "UserError", "VampPrior", "Warmup", "bind", "decode", "distortion", "encode", "fit",
    "fit_many", "gated_mlp", "init", "init_state", "interpolate", "kl_divergence", "latent_grid", "layer_rates",
    "load_images", "load_run", "log_likelihood", "log_weights", "make_optimizer", "make_train_step", "rate",
    "reconstruct", "residual_conv", "resume", "resume_many", "sample", "traverse", "tutorial_conv", "tutorial_dense",
    "use_machine",
]  # fmt: skip
