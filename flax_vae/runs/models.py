"""From a configuration to its model."""

from typing import Any

import flax.linen as nn

from flax_vae.batches import StoredImages
from flax_vae.models.likelihoods import LIKELIHOODS
from flax_vae.models.posteriors import POSTERIORS, TopDownPosterior
from flax_vae.models.priors import PRIORS, TopDownPrior
from flax_vae.models.vae import with_dtype
from flax_vae.nn.layers import ImageShape
from flax_vae.presets import PRESETS, channel_means
from flax_vae.runs.config import Config


def make_model(config: Config, image_shape: ImageShape, images: StoredImages | None = None) -> nn.Module:
    """The preset's networks with the likelihood, prior and posterior that are named.

    Args:
        images: where a decoder's output and pseudo-inputs are to start; of no importance to a trained model.
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
