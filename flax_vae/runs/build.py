"""From a configuration to what it names: the data, the model, and the objective."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from inspect import isclass, signature
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import UInt8

from flax_vae.data import ImageData, draw_binary, load_images
from flax_vae.errors import UserError
from flax_vae.models.likelihoods import pixel_likelihood
from flax_vae.models.posteriors import DiagonalNormal, FullNormal, InverseAutoregressive, TopDownPosterior
from flax_vae.models.presets import PRESETS, channel_means
from flax_vae.models.priors import (
    ConditionalNormal,
    CouplingFlow,
    LearnedMixture,
    StandardNormal,
    TopDownPrior,
    VampPrior,
)
from flax_vae.models.vae import VAE
from flax_vae.nn.networks import ImageShape
from flax_vae.objectives.elbo import ELBO, Capacity, FreeBits
from flax_vae.objectives.importance_weighted import IWAE, STL, DReG, Renyi
from flax_vae.objectives.regularised import DIPVAE, BetaTCVAE, InfoVAE
from flax_vae.objectives.schedules import Cyclical, Warmup
from flax_vae.objectives.terms import Objective
from flax_vae.runs.config import OBJECTIVES, Config


def load_splits(config: Config) -> tuple[ImageData, ImageData]:
    """The training and test images that are named, binarised where that is once for all."""
    train_set, test_set = (
        load_images(config.dataset, split, config.data_dir, config.image_size) for split in ("train", "test")
    )
    if config.binarize == "fixed":
        train_set = replace(train_set, images=draw_binary(train_set.images, (config.binarize_seed, 0)))
    if config.binarize != "none":
        test_set = replace(test_set, images=draw_binary(test_set.images, (config.binarize_seed, 1)))
    return train_set, test_set


def make_vae(config: Config, image_shape: ImageShape, images: UInt8[np.ndarray, "n h w c"] | None = None) -> VAE:
    """The preset's networks with the likelihood, prior and posterior that are named.

    Args:
        images: where a decoder's output and pseudo-inputs are to start; of no importance to a trained model.
    """
    height, width, channels = image_shape
    mean = (0.5,) * channels if images is None else channel_means(images)
    likelihood = pixel_likelihood(config.likelihood, mean)
    network = PRESETS[config.preset]((height, width, len(likelihood.start)), config.latent_dim, likelihood.start)
    posteriors = {"diagonal": DiagonalNormal, "full": FullNormal, "iaf": InverseAutoregressive}
    posterior: nn.Module = posteriors[config.posterior](config.latent_dim)
    prior = _make_prior(config, image_shape, images)
    if config.levels > 1:
        latent_dims = (config.latent_dim,) * config.levels
        prior, posterior = TopDownPrior(prior, latent_dims), TopDownPosterior(posterior, latent_dims)
    return network.clone(posterior=posterior, prior=prior, likelihood=likelihood.distribution, dtype=config.precision)


def _make_prior(config: Config, image_shape: ImageShape, images: UInt8[np.ndarray, "n h w c"] | None) -> nn.Module:
    match config.prior:
        case "normal":
            return ConditionalNormal(config.latent_dim) if config.conditional else StandardNormal(config.latent_dim)
        case "mixture":
            return LearnedMixture(config.latent_dim)
        case "flow":
            return CouplingFlow(config.latent_dim)
        case "vamp" if images is None:
            return VampPrior(image_shape)
        case "vamp":
            chosen = np.random.default_rng(0).choice(len(images), VampPrior.components)
            return VampPrior(image_shape, images[chosen].tobytes())


def make_objective(config: Config, steps_per_epoch: int, num_images: int) -> Callable[[Any], Objective]:
    """The objective that is named, as a function of its weight `--beta`.

    Args:
        num_images: size of the training set.
    """
    total = config.epochs * steps_per_epoch
    period = total // config.kl_cycles
    warmup = min(round(config.kl_warmup_epochs * steps_per_epoch), period)

    def weight(beta: Any) -> Any:
        return Cyclical(warmup, period, config.kl_cycles, weight=beta) if warmup else beta

    match config.objective:
        case "elbo":
            return lambda beta: ELBO(weight(beta))
        case "beta_tcvae":
            return lambda beta: BetaTCVAE(num_images, weight(beta))
        case "capacity":
            return lambda beta: Capacity(Warmup(total, weight=25.0))
        case "free_bits":
            return lambda beta: FreeBits()
        case "infovae":
            return lambda beta: InfoVAE()
        case "dip_vae_i":
            return lambda beta: DIPVAE("means")
        case "dip_vae_ii":
            return lambda beta: DIPVAE("latents")
        case "iwae":
            return lambda beta: IWAE(config.num_samples)
        case "stl":
            return lambda beta: STL()
        case "dreg":
            return lambda beta: DReG(config.num_samples)
        case "renyi":
            return lambda beta: Renyi(num_samples=config.num_samples)
    own = load_objective(config.objective)
    return lambda beta: own


def load_objective(name: str) -> Objective:
    """Import `my_module:my_objective`, from the current directory first.

    Raises:
        UserError: no such module or attribute, or one that does not take (vae, x, key, step).
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise UserError(
            f"--objective {name}: write one of {', '.join(OBJECTIVES)}, or my_module:my_objective for your own."
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not (module_name + ".").startswith(error.name + "."):
            raise  # the user's module is there, and what is missing is named by the traceback
        raise UserError(
            f"--objective {name}: there is no module {module_name} in {os.getcwd()} or installed."
        ) from None
    objective: Any = getattr(module, attribute, None)
    if not callable(objective):
        raise UserError(f"--objective {name}: {module.__file__} has no function {attribute}.")
    objective = objective() if isclass(objective) else objective
    try:
        signature(objective).bind("vae", "x", "key", "step")
    except TypeError as error:
        raise UserError(f"--objective {name}: it is called as {attribute}(vae, x, key, step), but {error}.") from None
    return objective
