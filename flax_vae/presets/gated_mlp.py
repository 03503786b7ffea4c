"""Gated dense layers each way."""

from typing import Any

from flax_vae.models.likelihoods import Mean
from flax_vae.models.vae import VAE
from flax_vae.nn.dense import DenseDecoder, DenseEncoder, GatedDense
from flax_vae.nn.layers import ImageShape
from flax_vae.presets.given import PRESETS, Part, assemble


@PRESETS.register("gated_mlp", recipe={})
def gated_mlp(
    image_shape: ImageShape,
    latent_dim: int = 2,
    posterior: Part = None,
    prior: Part = None,
    likelihood: Part = None,
    mean: Mean | None = None,
    features: tuple[int, ...] = (300, 300),
) -> VAE:
    """Gated dense layers, two of 300 each way (Tomczak & Welling 2018): quick, and good at density estimation."""

    def decoder(**start: Any) -> DenseDecoder:
        return DenseDecoder(features=features[::-1], layer=GatedDense, **start)

    encoder = DenseEncoder(features, GatedDense)
    return assemble(VAE, encoder, decoder, image_shape, latent_dim, posterior, prior, likelihood, mean)
