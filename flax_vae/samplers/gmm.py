"""Latents from a Gaussian mixture that is fitted to the aggregated posterior."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Key

from flax_vae.batches import BatchLike, X, as_one, batch_size_of, take
from flax_vae.models import Params, require
from flax_vae.models.inputs import checking
from flax_vae.samplers import SAMPLERS, Sampler
from flax_vae.sampling import PixelKey, decode, encode
from flax_vae.system.settings import by_default

MAX_IMAGES = 10_000  # images to which the mixture is fitted, at most


@SAMPLERS.register("gmm")
def gmm(images: BatchLike, components: int = 10) -> Sampler:
    """Draws latents from a Gaussian mixture fitted to the aggregated posterior (Ghosh et al. 2020).

    Args:
        images: training images or vectors, "m ...", as a `Batch` if some values are missing.
        components: number of normals in the mixture.
    """
    return lambda model, params, key, num_samples, pixel_key=None: sample_gmm(
        model, params, images, key, num_samples, pixel_key, components
    )


@by_default
def sample_gmm(
    model: nn.Module,
    params: Params,
    images: BatchLike,
    key: Key[Array, ""],
    num_samples: int,
    pixel_key: PixelKey = None,
    components: int = 10,
) -> X:
    """Sample images whose latents come from a Gaussian mixture fitted to the aggregated posterior (Ghosh et al. 2020).

    Args:
        model, params: the model.
        images: training images; one latent is drawn for each of the first 10,000.
        key: key for all draws and for the fit.
        num_samples: number of images to sample.
        pixel_key: key for draws from p(x | z); if None, its means are returned.
        components: number of normals in the mixture, each with a full covariance.

    Returns:
        The images.

    Raises:
        UserError: the model has more than one latent vector.
    """
    from sklearn.mixture import GaussianMixture

    require(model, "single_layer", what="sample_gmm")
    images = take(images, slice(MAX_IMAGES))

    def draw(image_and_key: tuple[Any, Array]) -> Array:
        image, key = image_and_key
        return encode(model, params, as_one(image)).sample(key)[0]

    draw_key, fit_key = jax.random.split(key)
    with checking(model, params, images, averaged=True):
        z = jax.lax.map(draw, (images, jax.random.split(draw_key, batch_size_of(images))), batch_size=100)
    seed = int(jax.random.bits(fit_key, dtype="uint32"))
    mixture = GaussianMixture(min(components, len(z)), random_state=seed).fit(np.asarray(z, np.float64))
    return decode(model, params, mixture.sample(num_samples)[0].astype(np.float32), None, pixel_key)
