"""How presets are registered, and what they share."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import numpy as np

from flax_vae.batches import StoredImages
from flax_vae.models.likelihoods import BernoulliLikelihood, Mean
from flax_vae.models.posteriors import DiagonalNormal
from flax_vae.models.priors import StandardNormal
from flax_vae.nn.layers import ImageShape
from flax_vae.parts import Parts

PRESETS = Parts("preset", supplied=("image_shape", "latent_dim", "posterior", "prior", "likelihood", "mean"))
CONVOLUTIONAL = {
    "epochs": 2,
    "batch_size": 32,
    "microbatch_size": 8,
    "optimizer": "muon",
    "learning_rate": 1e-2,
    "warmup_steps": 50,
    "schedule": "linear",
}
Part = Any  # a Linen module, or for a likelihood any head


def assemble(
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


def channel_means(images: StoredImages) -> Mean:
    """The mean of each channel, in [0, 1]."""
    step = max(1, len(images) // 10_000)  # enough for a mean, and little to read from a large file
    blocks = [images[i : i + 500 * step : step] for i in range(0, len(images), 500 * step)]
    count = sum(block[..., 0].size for block in blocks)
    return tuple(float(total / count) / 255 for total in sum(block.sum((0, 1, 2), np.int64) for block in blocks))
