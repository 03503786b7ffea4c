"""Models by name, for images of any size: networks, posterior, prior and likelihood put together.

A preset is a function `(image_shape, latent_dim, output_bias) -> VAE`. `output_bias` is where the decoder's output
starts, one number for each channel; it is used when parameters are initialised and never after.
"""

import numpy as np
from jaxtyping import UInt8

from flax_vae.models.likelihoods import pixel_likelihood
from flax_vae.models.posteriors import DiagonalNormal
from flax_vae.models.priors import StandardNormal
from flax_vae.models.vae import VAE
from flax_vae.nn.networks import (
    DenseDecoder,
    DenseEncoder,
    GatedDense,
    ImageShape,
    OutputBias,
    ResidualDecoder,
    ResidualEncoder,
    TutorialConvDecoder,
    TutorialConvEncoder,
)


def tutorial_conv(image_shape: ImageShape, latent_dim: int = 2, output_bias: OutputBias = 0.0) -> VAE:
    """The convolutional VAE of the tutorial: 134,165 parameters for 28x28x1 images and two latent dimensions."""
    return VAE(
        encoder=TutorialConvEncoder(),
        posterior=DiagonalNormal(latent_dim),
        prior=StandardNormal(latent_dim),
        decoder=TutorialConvDecoder(image_shape, output_bias),
    )


def tutorial_dense(image_shape: ImageShape, latent_dim: int = 2, output_bias: OutputBias = 0.0) -> VAE:
    """The dense decoder of the tutorial, latents -> 128 ReLU -> pixels, with its mirror image as encoder."""
    return VAE(
        encoder=DenseEncoder((128,)),
        posterior=DiagonalNormal(latent_dim),
        prior=StandardNormal(latent_dim),
        decoder=DenseDecoder(image_shape, (128,), output_bias=output_bias),
    )


def gated_mlp(image_shape: ImageShape, latent_dim: int = 2, output_bias: OutputBias = 0.0) -> VAE:
    """Two gated dense layers of 300 each way (Tomczak & Welling 2018): quick, and good at density estimation."""
    return VAE(
        encoder=DenseEncoder((300, 300), GatedDense),
        posterior=DiagonalNormal(latent_dim),
        prior=StandardNormal(latent_dim),
        decoder=DenseDecoder(image_shape, (300, 300), GatedDense, output_bias),
    )


def residual_conv(image_shape: ImageShape, latent_dim: int = 2, output_bias: OutputBias = 0.0) -> VAE:
    """Residual blocks of 16, 32 and 64 channels at the image's size, half and a quarter of it, and back."""
    return VAE(
        encoder=ResidualEncoder((16, 32, 64)),
        posterior=DiagonalNormal(latent_dim),
        prior=StandardNormal(latent_dim),
        decoder=ResidualDecoder(image_shape, (16, 32, 64), output_bias),
    )


PRESETS = {preset.__name__: preset for preset in (gated_mlp, residual_conv, tutorial_conv, tutorial_dense)}


def channel_means(images: UInt8[np.ndarray, "n h w c"]) -> tuple[float, ...]:
    """The mean of each channel, in [0, 1]."""
    some = images[:: max(1, len(images) // 10_000)]  # enough for a mean, and little to read from a large file
    return tuple(float(mean) for mean in some.mean((0, 1, 2)) / 255)


def mean_logit(images: UInt8[np.ndarray, "n h w c"]) -> tuple[float, ...]:
    """The logit of each channel's mean: where a Bernoulli decoder's output should start."""
    return pixel_likelihood("bernoulli", channel_means(images)).start
