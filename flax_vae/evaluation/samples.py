"""Images of a run, as `flax-vae sample` writes them; each mode is a function that scripts can call.

A mode takes a run and a request. It returns images "n h w c", vectors "n v" or several views, like the examples of the
run, and the number of columns in which to show images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Float, Integer, Key

from flax_vae.batches import Batch, X, batch_size_of, example_size, take
from flax_vae.data import examples_noun, observed, one_hot
from flax_vae.fields import refuse_seed
from flax_vae.parts import Parts
from flax_vae.runs.run import StoredRun, run_data
from flax_vae.samplers import SAMPLERS
from flax_vae.samplers.gmm import MAX_IMAGES
from flax_vae.sampling import interpolate, latent_grid, reconstruct, traverse
from flax_vae.system.errors import UserError
from flax_vae.system.memory import require_memory
from flax_vae.system.settings import methods_by_default

_BYTES = 16  # memory per pixel value while floats are rounded and tiled
Labels = str | int | Sequence[str | int] | Integer[np.ndarray, " n"] | None  # names or numbers of classes
ImageRows = tuple[Any, int]  # arrays "n ...", one for each view, and the number of columns
MODES = Parts("mode", supplied=("run", "request", "sampler"))


@methods_by_default
@dataclass(frozen=True)
class Request:
    """Settings of the images to make.

    Attributes:
        num_samples: Number of images to make or reconstruct, or of steps from one image to another.
        seed: Seed of all draws; the same seed gives the same file, byte for byte.
        temperature: Factor for the prior's standard deviation; below 1 for typical images, above 1 for unusual ones.
        label: Class of new images, by name or number, for a conditional run; by default the images cycle through the
            classes.
        pixels: Whether to show the mean of p(x|z) or a draw from it.
    """

    num_samples: int = 10
    seed: int = 0
    temperature: float = 1.0
    label: str | None = None
    pixels: Literal["mean", "draw"] = "mean"

    def __post_init__(self) -> None:
        """Raise UserError for numbers out of range."""
        refuse_seed("seed", self.seed)
        if self.num_samples < 1:
            raise UserError(f"`num_samples` must be at least 1, not {self.num_samples}.")
        if not 0 < self.temperature < math.inf:
            raise UserError(f"`temperature` must be greater than 0 and finite, not {self.temperature}.")

    @property
    def key(self) -> Key[Array, ""]:
        """The key of the latents."""
        return jax.random.key(self.seed)

    @property
    def pixel_key(self) -> Key[Array, ""] | None:
        """The key of the pixels, or None for their means."""
        return jax.random.fold_in(self.key, 1) if self.pixels == "draw" else None


@MODES.register("prior", uses_label=True)
def new_images(run: StoredRun, request: Request, sampler: str = "prior") -> ImageRows:
    """New images, their latents drawn from the prior or by another sampler."""
    _require_memory_for(run, request)
    call = SAMPLERS.read(sampler)
    if run.class_names and not SAMPLERS.accepts(call, "context"):
        raise UserError(f"`sampler` {call.name} ignores labels: it works for unconditional runs only.")
    if request.temperature != 1.0 and not SAMPLERS.accepts(call, "temperature"):
        raise UserError(f"`temperature` scales the prior, which `sampler` {call.name} does not use: leave it out.")
    context = contexts_of(run, request.label, request.num_samples)
    images = None
    if SAMPLERS.accepts(call, "images"):
        if run.stream() is not None:
            raise UserError(
                f"`sampler` {call.name} needs the training images, but {run.name} was trained on a stream: choose "
                "prior."
            )
        train = run_data(run).train
        images = take(train.x if train.mask is None else Batch(train.x, mask=train.mask), slice(MAX_IMAGES))
    draw = SAMPLERS.make(call, temperature=request.temperature, context=context, images=images)
    samples = draw(run.model, run.params, request.key, request.num_samples, request.pixel_key)
    return jax.device_get(samples), min(request.num_samples, 10)


@MODES.register("grid", uses_label=True)
def grid(run: StoredRun, request: Request) -> ImageRows:
    """A 30x30 grid of the latent plane, with the second latent increasing upwards."""
    context = contexts_of(run, request.label, 1)
    images = jax.device_get(latent_grid(run.model, run.params, context=context, pixel_key=request.pixel_key))
    return _in_one_row(take(images, slice(None, None, -1))), jax.tree.leaves(images)[0].shape[1]


@MODES.register("reconstruct")
def reconstructions(run: StoredRun, request: Request) -> ImageRows:
    """Test images above their reconstructions."""
    count, stored = request.num_samples, batch_size_of(run.examples)
    if count > stored:
        raise UserError(f"`num_samples` is {count}, but the run stores only {stored} test {examples_noun(run.kind)}.")
    chosen = np.random.default_rng(request.seed).permutation(stored)[:count]
    originals = take(run.examples, chosen)
    batch = Batch(originals, None if run.contexts is None else run.contexts[chosen], observed(originals))
    images = jax.device_get(reconstruct(run.model, run.params, batch, request.key, request.pixel_key))

    def above(view: np.ndarray, reconstructed: np.ndarray) -> np.ndarray:
        scale = 255 if view.dtype == np.uint8 and view.ndim == 4 else 1
        shown = np.nan_to_num(view).astype(np.float32) / scale  # missing values are 0, as the model sees them
        return np.concatenate([shown, reconstructed])

    return jax.tree.map(above, originals, images), count


@MODES.register("interpolate")
def interpolations(run: StoredRun, request: Request) -> ImageRows:
    """Steps in the latent space from one test image to another."""
    _require_memory_for(run, request)
    x, contexts = _two_examples(run, request)
    ends = take(x, 0), take(x, 1)
    images = interpolate(run.model, run.params, *ends, request.num_samples, contexts, request.pixel_key)
    return jax.device_get(images), request.num_samples


@MODES.register("traverse")
def traversals(run: StoredRun, request: Request) -> ImageRows:
    """A test image with one latent dimension varied in each row."""
    _require_memory_for(run, request, sum(run.latent_dims))
    x, contexts = _two_examples(run, request)
    context = None if contexts is None else contexts[:1]
    one, steps = take(x, 0), request.num_samples
    images = traverse(run.model, run.params, one, steps, context=context, pixel_key=request.pixel_key)
    return _in_one_row(jax.device_get(images)), steps


def _in_one_row(images: X) -> X:
    """Join the rows of a table "rows columns ..." into one."""
    return jax.tree.map(lambda view: view.reshape(-1, *view.shape[2:]), images)


def _require_memory_for(run: StoredRun, request: Request, rows: int = 1) -> None:
    """Raise UserError if the images do not fit in memory: a float for each pixel value, and a picture."""
    size = rows * request.num_samples * example_size(run.shape)
    require_memory(_BYTES * size, f"`num_samples` {request.num_samples}", "make fewer at a time")


def _two_examples(run: StoredRun, request: Request) -> tuple[X, np.ndarray | None]:
    """Return two random test images, and their contexts if the run is conditional."""
    chosen = np.random.default_rng(request.seed).choice(batch_size_of(run.examples), 2)
    x = jax.tree.map(np.nan_to_num, take(run.examples, chosen))  # missing values are 0, as the model sees them
    return x, None if run.contexts is None else run.contexts[chosen]


def contexts_of(run: StoredRun, labels: Labels, count: int) -> Float[np.ndarray, "n k"] | None:
    """Return the classes of images as one-hot vectors; None for an unconditional model.

    Args:
        run: the trained model.
        labels: a class for each image or one for all: its name, or its number, also as text if no class has that name;
            None to cycle through the classes.
        count: number of images.

    Raises:
        UserError: an unknown class, a number of labels that differs from that of images, or an unconditional model.
    """
    names = run.class_names
    if labels is None:
        return one_hot(np.arange(count) % len(names), len(names)) if names else None
    if not names:
        raise UserError(f"`labels` {labels}: the run is not conditional: leave them out.")
    each = [labels] * count if isinstance(labels, str | int | np.integer) else list(labels)
    if len(each) != count:
        raise UserError(f"`labels` has {len(each)} classes for {count} images: pass one for each, or one for all.")
    indices: dict[Any, int] = {number: i for i in range(len(names)) for number in (i, str(i))}
    indices |= {name: i for i, name in enumerate(names)}
    if unknown := [label for label in each if label not in indices]:
        raise UserError(f"`labels` {unknown[0]}: the classes are {', '.join(names)}, or 0 to {len(names) - 1}.")
    return one_hot([indices[label] for label in each], len(names))
