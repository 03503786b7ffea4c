"""The arguments that all presets have in common, and their registration."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from flax_vae.batches import COUNTS, OnDisk
from flax_vae.models import BernoulliLikelihood, DiagonalNormal, StandardNormal
from flax_vae.models.likelihoods import Mean
from flax_vae.parts import Parts

PRESETS = Parts(
    "preset",
    supplied=("image_shape", "latent_dim", "posterior", "prior", "likelihood", "mean", "images", "conditional"),
    made=(nn.Module, "a model, which is a Linen module"),
)
CONVOLUTIONAL_RECIPE = {
    "epochs": 2,
    "batch_size": 32,
    "microbatch_size": 8,
    "optimizer": "muon",
    "learning_rate": 1e-2,
    "warmup_steps": 50,
    "schedule": "linear",
}
Part = Any  # a Linen module, or for a likelihood any head
M = TypeVar("M")


@dataclass(frozen=True)
class ModelSpec:
    """Everything in a model except its networks.

    Args:
        image_shape: the shape of an example, "h w c" or "v".
        latent_dim: number of latent dimensions of the default posterior and prior.
        posterior, prior, likelihood: the distributions; by default a diagonal normal, N(0, I) and Bernoulli pixels.
        mean: mean of each channel of the images, in [0, 1], or of each value of the vectors: the untrained decoder
            returns it; see `channel_means`.
    """

    image_shape: tuple[int, ...]
    latent_dim: int = 2
    posterior: Part = None
    prior: Part = None
    likelihood: Part = None
    mean: Mean | None = None

    def assemble(self, model: Callable[..., M], encoder: nn.Module, decoder: Callable[..., nn.Module]) -> M:
        """Return a model with these networks.

        Args:
            model: `VAE` or `Ladder`.
            encoder: the encoder. For counts x, its input is log(1 + x), as in scVI (Lopez et al. 2018).
            decoder: makes the decoder, `decoder(image_shape=..., output_bias=...)`.
        """
        head = self.likelihood or BernoulliLikelihood()
        if getattr(head, "support", None) == COUNTS:
            # Large raw counts would give latents in the thousands, and rates that are exponential in these.
            encoder = nn.Sequential([jnp.log1p, encoder])
        start = head.start(self.mean or (0.5,) * self.image_shape[-1])
        return model(
            encoder=encoder,
            posterior=self.posterior or DiagonalNormal(self.latent_dim),
            prior=self.prior or StandardNormal(self.latent_dim),
            decoder=decoder(image_shape=(*self.image_shape[:-1], len(start)), output_bias=start),
            likelihood=head,
        )


def preset(
    recipe: Mapping[str, Any], flat: bool = True, needs: tuple[str, ...] = ()
) -> Callable[[Callable[..., M]], Callable[..., M]]:
    """Register a function (spec, **hyperparameters) -> model as a preset, under its name.

    The preset takes the arguments of `ModelSpec` in place of `spec`.

    Args:
        recipe: the settings of `Config` that differ from the defaults.
        flat: False if the latents are not one vector.
        needs: ("images",) if the networks do not take vectors.
    """

    def register(build: Callable[..., M]) -> Callable[..., M]:
        @functools.wraps(build)
        def make(*args: Any, **kwargs: Any) -> M:
            arguments = signature.bind(*args, **kwargs).arguments
            spec = ModelSpec(**{name: arguments.pop(name) for name in common if name in arguments})
            return build(spec, **arguments)

        common = inspect.signature(ModelSpec).parameters
        _, *hyperparameters = inspect.signature(build).parameters.values()
        signature = inspect.Signature([*common.values(), *hyperparameters])
        make.__signature__ = signature  # type: ignore[attr-defined]  # read by `Parts` and by help()
        make.__annotations__ = get_type_hints(ModelSpec) | get_type_hints(build, include_extras=True)
        return PRESETS.register(build.__name__, recipe=recipe, flat=flat, needs=needs)(make)

    return register


def channel_means(images: np.ndarray | OnDisk) -> Mean:
    """Return the mean of each channel of uint8 images, in [0, 1]; for vectors, of the observed values of a column."""
    step = max(1, len(images) // 10_000)  # enough for a mean, and little to read from a large file
    if images.dtype != np.uint8:
        mask = ~np.isnan(vectors := np.asarray(images[::step], np.float64))
        return tuple((np.where(mask, vectors, 0).sum(0) / np.maximum(mask.sum(0), 1)).tolist())
    blocks = [images[i : i + 500 * step : step] for i in range(0, len(images), 500 * step)]
    count = sum(block[..., 0].size for block in blocks)
    totals = np.sum([block.sum((0, 1, 2), np.int64) for block in blocks], axis=0)
    return tuple(float(total / count) / 255 for total in totals)
