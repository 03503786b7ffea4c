"""Presets: models by name for images of any size, each with the recipe that trains it.

A preset is a function that puts networks and the parts that it is given together. Its `recipe` holds the values of the
training's configuration that differ from the usual ones.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import numpy as np

from flax_vae.batches import StoredImages
from flax_vae.errors import UserError
from flax_vae.models.ladder import Ladder, TopDown
from flax_vae.models.likelihoods import BernoulliLikelihood, Mean
from flax_vae.models.posteriors import DiagonalNormal
from flax_vae.models.priors import StandardNormal
from flax_vae.models.vae import VAE
from flax_vae.nn.networks import (
    BottomUp,
    DenseDecoder,
    DenseEncoder,
    GatedDense,
    ImageShape,
    ResidualDecoder,
    ResidualEncoder,
    TutorialConvDecoder,
    TutorialConvEncoder,
)
from flax_vae.parts import Parts

PRESETS = Parts("preset", supplied=("image_shape", "latent_dim", "posterior", "prior", "likelihood", "mean"))
_CONVOLUTIONAL = {
    "epochs": 2,
    "batch_size": 32,
    "microbatch_size": 8,
    "optimizer": "muon",
    "learning_rate": 1e-2,
    "warmup_steps": 50,
    "schedule": "linear",
}
_LADDER = _CONVOLUTIONAL | {"epochs": 4, "batch_size": 64, "latent_dim": 16, "kl_warmup_epochs": 1.0}
Part = Any  # a Linen module, or for a likelihood any head


def _assemble(
    kind: Callable[..., Any],
    encoder: nn.Module,
    decoder: Callable[..., nn.Module],
    image_shape: ImageShape,
    latent_dim: int,
    posterior: Part,
    prior: Part,
    likelihood: Part,
    mean: Mean | None,
) -> Any:
    """A `VAE` or a `Ladder`; `decoder(image_shape=..., output_bias=...)` makes its decoder."""
    head = likelihood or BernoulliLikelihood()
    start = head.start(mean or (0.5,) * image_shape[-1])
    return kind(
        encoder=encoder,
        posterior=posterior or DiagonalNormal(latent_dim),
        prior=prior or StandardNormal(latent_dim),
        decoder=decoder(image_shape=(*image_shape[:2], len(start)), output_bias=start),
        likelihood=head,
    )


@PRESETS.register("tutorial_conv", recipe=_CONVOLUTIONAL)
def tutorial_conv(
    image_shape: ImageShape,
    latent_dim: int = 2,
    posterior: Part = None,
    prior: Part = None,
    likelihood: Part = None,
    mean: Mean | None = None,
) -> VAE:
    """The convolutional VAE of the tutorial: 134,165 parameters for 28x28x1 images and two latent dimensions.

    Args:
        image_shape: "h w c".
        latent_dim: number of latent dimensions, where no posterior and prior are given.
        posterior, prior, likelihood: the parts; by default a diagonal normal, N(0, I) and Bernoulli pixels.
        mean: of each channel of the images, at which the decoder starts; see `channel_means`.
    """
    return _assemble(
        VAE, TutorialConvEncoder(), TutorialConvDecoder, image_shape, latent_dim, posterior, prior, likelihood, mean
    )


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

    return _assemble(VAE, DenseEncoder(features), decoder, image_shape, latent_dim, posterior, prior, likelihood, mean)


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
    return _assemble(VAE, encoder, decoder, image_shape, latent_dim, posterior, prior, likelihood, mean)


@PRESETS.register("residual_conv", recipe=_CONVOLUTIONAL | {"epochs": 3})
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
    return _assemble(VAE, encoder, decoder, image_shape, latent_dim, posterior, prior, likelihood, mean)


@PRESETS.register("ladder", recipe=_LADDER, flat=False)
def ladder(
    image_shape: ImageShape,
    latent_dim: int = 2,
    posterior: Part = None,
    prior: Part = None,
    likelihood: Part = None,
    mean: Mean | None = None,
    widths: tuple[int, ...] = (32, 32, 64),
    depths: tuple[int, ...] = (1, 2, 1),
    channels: int = 4,
    blocks: int = 1,
    patch: int = 2,
) -> Ladder:
    """A hierarchy of spatial latents: maps of `channels`, `depths` of them at each size, below a vector.

    Args:
        image_shape: "h w c".
        latent_dim, posterior, prior: of the top layer.
        likelihood, mean: as for `tutorial_conv`.
        widths: features at each size, the finest first; each is half of the one before.
        depths: stochastic layers at each size.
        channels: of each layer.
        blocks: residual blocks at each size, on the way up; on the way down there is one after each layer.
        patch: side in pixels of what is one position at the finest size.

    Raises:
        UserError: another number of `depths` than of `widths`, or none.
    """
    if not widths or len(widths) != len(depths):
        raise UserError(f"ladder has a width and a depth for each size, not widths={widths} and depths={depths}.")
    encoder = BottomUp(widths, blocks, patch)
    decoder = partial(TopDown, widths=widths, depths=depths, channels=channels, patch=patch)
    return _assemble(Ladder, encoder, decoder, image_shape, latent_dim, posterior, prior, likelihood, mean)


def channel_means(images: StoredImages) -> Mean:
    """The mean of each channel, in [0, 1]."""
    step = max(1, len(images) // 10_000)  # enough for a mean, and little to read from a large file
    blocks = [images[i : i + 500 * step : step] for i in range(0, len(images), 500 * step)]
    count = sum(block[..., 0].size for block in blocks)
    return tuple(float(total / count) / 255 for total in sum(block.sum((0, 1, 2), np.int64) for block in blocks))
