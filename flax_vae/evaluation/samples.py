"""Images of a run: what `sample.py` makes, as functions that a script can call.

Each returns images "n h w c" and how many of them make a row.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from flax_vae.batches import Batch
from flax_vae.data import one_hot
from flax_vae.evaluation.pictures import class_after_class
from flax_vae.runs.config import refuse_seed
from flax_vae.runs.run import Run, run_data
from flax_vae.samplers.mixture import sample_gmm
from flax_vae.sampling import interpolate, latent_grid, reconstruct, sample, traverse
from flax_vae.system.errors import UserError
from flax_vae.system.machine import device_memory
from flax_vae.system.memory import require_memory

_BYTES = 16  # for each number of a pixel, while floats are rounded and laid out as a picture
Row = tuple[Float[np.ndarray, "n h w c"], int]


@dataclass(frozen=True)
class Wish:
    """What images to make.

    Attributes:
        num_samples: images to make, to reconstruct, or steps from one end to the other.
        seed: of everything random.
        temperature: scale of the prior's standard deviation.
        label: class of the new images, by name or number; one class after the other if None.
        pixels: the mean of p(x | z), or a draw from it.
    """

    num_samples: int = 10
    seed: int = 0
    temperature: float = 1.0
    label: str | None = None
    pixels: Literal["mean", "draw"] = "mean"

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        refuse_seed("seed", self.seed)
        if self.num_samples < 1:
            raise UserError(f"--num-samples must be at least 1, not {self.num_samples}.")
        if not 0 < self.temperature < math.inf:
            raise UserError(f"--temperature must be above 0 and finite, not {self.temperature}.")

    @property
    def key(self) -> Key[Array, ""]:
        """Key of the latents."""
        return jax.random.key(self.seed)

    @property
    def pixel_key(self) -> Key[Array, ""] | None:
        """Key of the pixels, where they are drawn."""
        return jax.random.fold_in(self.key, 1) if self.pixels == "draw" else None


def from_prior(run: Run, wish: Wish) -> Row:
    """New images, their latents from the prior."""
    _refuse_too_many(run, wish)
    contexts = contexts_of(run, wish.label, wish.num_samples)
    made = sample(run.vae, run.params, wish.key, wish.num_samples, wish.temperature, contexts, wish.pixel_key)
    return np.asarray(made), min(wish.num_samples, 10)


def from_gmm(run: Run, wish: Wish) -> Row:
    """New images, their latents from a Gaussian mixture fitted to those of the training images."""
    if run.class_names:
        raise UserError("--sampler gmm does not know labels: it goes with unconditional runs.")
    _refuse_too_many(run, wish)
    images = run_data(run).train.images[:10_000]  # as many as it looks at
    made = sample_gmm(run.vae, run.params, images, wish.key, wish.num_samples, wish.pixel_key)
    return np.asarray(made), min(wish.num_samples, 10)


def grid(run: Run, wish: Wish) -> Row:
    """A 30x30 grid of the latent plane, the second latent growing upwards."""
    contexts = contexts_of(run, wish.label, 1)
    made = np.asarray(latent_grid(run.vae, run.params, context=contexts, pixel_key=wish.pixel_key))[::-1]
    return made.reshape(-1, *made.shape[2:]), made.shape[1]


def reconstructions(run: Run, wish: Wish) -> Row:
    """Test images, and below them their reconstructions."""
    if wish.num_samples > len(run.examples):
        raise UserError(
            f"--num-samples {wish.num_samples}: the run holds {len(run.examples)} test images to reconstruct."
        )
    chosen = np.random.default_rng(wish.seed).permutation(len(run.examples))[: wish.num_samples]
    originals = run.examples[chosen]
    batch: Batch = originals if run.contexts is None else (originals, run.contexts[chosen])
    made = np.asarray(reconstruct(run.vae, run.params, batch, wish.key, wish.pixel_key))
    return np.concatenate([originals.astype(np.float32) / 255, made]), wish.num_samples


def interpolations(run: Run, wish: Wish) -> Row:
    """The way from one test image to another."""
    _refuse_too_many(run, wish)
    (first, second), (x0, x1) = _two(run, wish)
    contexts = None if run.contexts is None else run.contexts[[first, second]]
    made = interpolate(run.vae, run.params, x0, x1, wish.num_samples, contexts, wish.pixel_key)
    return np.asarray(made), wish.num_samples


def traversals(run: Run, wish: Wish) -> Row:
    """A test image with each latent dimension moved in turn."""
    _refuse_too_many(run, wish, run.config.latent_dim * run.config.levels)
    (first, _), (x, _) = _two(run, wish)
    context = None if run.contexts is None else run.contexts[[first]]
    made = traverse(run.vae, run.params, x, wish.num_samples, context=context, pixel_key=wish.pixel_key)
    rows = np.asarray(made)
    return rows.reshape(-1, *rows.shape[2:]), wish.num_samples


MODES: dict[str, Callable[[Run, Wish], Row]] = {
    "prior": from_prior,
    "grid": grid,
    "reconstruct": reconstructions,
    "interpolate": interpolations,
    "traverse": traversals,
}


def _refuse_too_many(run: Run, wish: Wish, rows: int = 1) -> None:
    """Raise UserError where images do not fit in the memory: a float for each number of a pixel, and a picture."""
    size = rows * wish.num_samples * math.prod(run.examples.shape[1:])
    require_memory(_BYTES * size, f"--num-samples {wish.num_samples}", "make fewer at a time")
    require_memory(4 * size, f"--num-samples {wish.num_samples}", "make fewer at a time", device_memory())


def _two(run: Run, wish: Wish) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of two test images, and the images."""
    chosen = np.random.default_rng(wish.seed).choice(len(run.examples), 2)
    return chosen, run.examples[chosen]


def contexts_of(run: Run, label: str | None, count: int) -> np.ndarray | None:
    """The classes of new images as one-hot vectors "n k"; None for an unconditional model.

    Raises:
        UserError: no such class.
    """
    names = run.class_names
    if label is None:
        return class_after_class(len(names), count)
    if not names:
        raise UserError(f"--label {label}: the run was not trained with --conditional.")
    numbers = {name: i for i, name in enumerate(names)} | {str(i): i for i in range(len(names))}
    if label not in numbers:
        raise UserError(f"--label {label}: the classes are {', '.join(names)}, or 0 to {len(names) - 1}.")
    return one_hot([numbers[label]] * count, len(names))
