"""Residual blocks at a half and a quarter of the image's size."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from flax_vae.models.likelihoods import Mean
from flax_vae.models.vae import VAE
from flax_vae.nn.layers import (
    BottomUp,
    Conv,
    ImageShape,
    OutputBias,
    ResidualBlock,
    bias_init,
    dense,
    depth_to_space,
    silu,
)
from flax_vae.presets.given import CONVOLUTIONAL, PRESETS, Part, assemble


class ResidualEncoder(nn.Module):
    """Residual blocks at half of the image's size and at smaller ones, each half the one before."""

    features: tuple[int, ...]
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b f"]:
        """Images "b h w c" of any size -> features "b f"."""
        return silu(BottomUp(self.features, blocks=1, patch=2, remat=self.remat)(x)[-1]).reshape(x.shape[0], -1)


class ResidualDecoder(nn.Module):
    """The mirror image of `ResidualEncoder`: residual blocks and doublings, cropped to the image's size.

    The last kernel starts at 0, so that all images start as the average one.
    """

    image_shape: ImageShape
    features: tuple[int, ...]
    output_bias: OutputBias = 0.0
    remat: bool = False

    @nn.compact
    def __call__(self, z: Float[Array, "b d"]) -> Float[Array, "b h w c"]:
        """Latents "b d" -> images "b h w c", unbounded."""
        height, width, channels = self.image_shape
        *rest, first = self.features
        rows, columns = (-(-side // 2 ** len(self.features)) for side in (height, width))
        h = dense(rows * columns * first)(z).reshape(z.shape[0], rows, columns, first)
        h = ResidualBlock(first, self.remat)(h)
        for features in reversed(rest):
            h = ResidualBlock(features, self.remat)(Conv(features, upsample=True)(h))
        start = bias_init(self.output_bias, self.image_shape)
        h = Conv(4 * channels, kernel_init=nn.initializers.zeros, bias_init=start)(silu(h))
        return depth_to_space(h, 2)[:, :height, :width]


@PRESETS.register("residual_conv", recipe=CONVOLUTIONAL | {"epochs": 3})
def residual_conv(
    image_shape: ImageShape,
    latent_dim: int = 2,
    posterior: Part = None,
    prior: Part = None,
    likelihood: Part = None,
    mean: Mean | None = None,
    features: tuple[int, ...] = (32, 64),
) -> VAE:
    """Residual blocks of 32 and 64 channels at half and a quarter of the image's size, and back."""

    def decoder(**start: Any) -> ResidualDecoder:
        return ResidualDecoder(features=features, **start)

    encoder = ResidualEncoder(features)
    return assemble(VAE, encoder, decoder, image_shape, latent_dim, posterior, prior, likelihood, mean)
