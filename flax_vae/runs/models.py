"""Build the model of a configuration."""

from typing import Any

import flax.linen as nn
import jax

from flax_vae.batches import StoredImages
from flax_vae.models import LIKELIHOODS, POSTERIORS, PRIORS, TopDownPosterior, TopDownPrior
from flax_vae.models.binding import Params, init, with_dtype
from flax_vae.nn.layers import ImageShape
from flax_vae.presets import PRESETS, channel_means
from flax_vae.runs.config import Config


def make_model(config: Config, image_shape: ImageShape, images: StoredImages | None = None) -> nn.Module:
    """Make the preset's model with the configured likelihood, prior and posterior.

    Args:
        config: the configuration.
        image_shape: "h w c".
        images: training images, to initialise the decoder's output and pseudo-inputs; not needed for a trained model.
    """
    supplied: dict[str, Any] = {
        "latent_dim": config.latent_dim,
        "image_shape": image_shape,
        "images": images,
        "conditional": config.conditional,
    }
    posterior, prior = POSTERIORS.make(config.posterior, **supplied), PRIORS.make(config.prior, **supplied)
    if config.levels > 1:
        latent_dims = (config.latent_dim,) * config.levels
        prior, posterior = TopDownPrior(prior, latent_dims), TopDownPosterior(posterior, latent_dims)
    model = PRESETS.make(
        config.preset,
        **supplied,
        posterior=posterior,
        prior=prior,
        likelihood=LIKELIHOODS.make(config.likelihood),
        mean=None if images is None else channel_means(images),
    )
    return with_dtype(model, config.precision)


def model_of(config: Config, image_shape: ImageShape, vae: nn.Module | None = None) -> nn.Module:
    """Return the model of a trained run: `vae` if it is the user's own, else the configured one."""
    return make_model(config, image_shape) if vae is None else with_dtype(vae, config.precision)


def parameter_shapes(model: nn.Module, image_shape: ImageShape, class_names: tuple[str, ...]) -> Params:
    """Return the shapes and dtypes of a model's parameters."""
    return jax.eval_shape(lambda: init(model, jax.random.key(0), image_shape, len(class_names)))
