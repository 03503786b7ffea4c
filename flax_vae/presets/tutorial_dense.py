"""The dense VAE of the tutorial."""

from typing import Any

from flax_vae.models.likelihoods import Mean
from flax_vae.models.vae import VAE
from flax_vae.nn.dense import DenseDecoder, DenseEncoder
from flax_vae.nn.layers import ImageShape
from flax_vae.presets.given import PRESETS, Part, assemble


@PRESETS.register("tutorial_dense", recipe={"epochs": 15})
def tutorial_dense(
    image_shape: ImageShape,
    latent_dim: int = 2,
    posterior: Part = None,
    prior: Part = None,
    likelihood: Part = None,
    mean: Mean | None = None,
    features: tuple[int, ...] = (128,),
) -> VAE:
    """The dense decoder of the tutorial, latents -> 128 ReLU -> pixels, with its mirror image as encoder."""

    def decoder(**start: Any) -> DenseDecoder:
        return DenseDecoder(features=features[::-1], **start)

    return assemble(VAE, DenseEncoder(features), decoder, image_shape, latent_dim, posterior, prior, likelihood, mean)
