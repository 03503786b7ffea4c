"""Latents from a Gaussian mixture that is fitted to the aggregated posterior."""

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from flax_vae.models.protocol import require_flat
from flax_vae.models.vae import Params
from flax_vae.sampling import PixelKey, decode, encode


def sample_gmm(
    vae: nn.Module,
    params: Params,
    images: UInt8[np.ndarray, "m h w c"],
    key: Key[Array, ""],
    num_samples: int,
    pixel_key: PixelKey = None,
    components: int = 10,
) -> Float[Array, "n h w c"]:
    """New images whose latents come from a Gaussian mixture fitted to the aggregated posterior (Ghosh et al. 2020).

    Args:
        vae, params: the model.
        images: from each of which one latent is drawn; the first 10,000.
        key: of all draws, and of the fit.
        num_samples: images to make.
        pixel_key: see the head of this file.
        components: normals of the mixture, each with a full covariance.
    """
    from sklearn.mixture import GaussianMixture

    require_flat(vae, "sample_gmm")
    images = images[:10_000]

    def draw(item: tuple[Array, Array]) -> Array:
        image, key = item
        return encode(vae, params, image[None]).sample(key)[0]

    z = jax.lax.map(draw, (images, jax.random.split(key, len(images))), batch_size=100)
    seed = int(jax.random.bits(key, dtype="uint32"))
    mixture = GaussianMixture(min(components, len(z)), random_state=seed).fit(np.asarray(z, np.float64))
    return decode(vae, params, mixture.sample(num_samples)[0].astype(np.float32), None, pixel_key)
