"""The subject of an evaluation: a run, its test set, and intermediate results that several figures use."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from flax_vae import __version__
from flax_vae.batches import Batch, batch_size_of, take, unpack
from flax_vae.data import ImageData, draw_binary, is_binary
from flax_vae.evaluation.partial_results import PartialResults
from flax_vae.evaluation.plan import Plan
from flax_vae.metrics.likelihood import IMAGES_AT_ONCE, log_likelihood
from flax_vae.metrics.per_example import per_example_statistics
from flax_vae.models.binding import bind
from flax_vae.runs.run import Run, run_data
from flax_vae.system.console import progress, spinner
from flax_vae.system.errors import UserError
from flax_vae.training.sharding import data_mesh

IMAGES_PER_UPDATE = 100  # images per update of the progress bar, split between devices


class Bounds(NamedTuple):
    """The results of `log_likelihood`, one for each image."""

    bound: Float[np.ndarray, " n"]
    error: Float[np.ndarray, " n"]
    pareto_k: Float[np.ndarray, " n"]


class Keys(NamedTuple):
    """The key of each part of an evaluation that draws."""

    elbo: Key[Array, ""]
    bounds: Key[Array, ""]
    surgery: Key[Array, ""]
    samples: Key[Array, ""]


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained model and its images, to be evaluated.

    Attributes:
        run: the trained model.
        plan: the settings of the evaluation.
        train, test: the images.
        batch: the test images as the model takes them, with contexts if it is conditional.
        chosen: indices of the test images for the bound.
        keys: keys of the draws.
        partial_results: where the bounds of images are stored as soon as they are computed.
    """

    run: Run
    plan: Plan
    train: ImageData
    test: ImageData
    batch: Batch
    chosen: Int[np.ndarray, " m"]
    keys: Keys
    partial_results: PartialResults

    @cached_property
    def chosen_batch(self) -> Batch:
        """The images for the bound."""
        return take(self.batch, self.chosen)

    @cached_property
    def has_classes(self) -> bool:
        """True if the images have labels, of at least two classes."""
        train, test = self.train.labels, self.test.labels
        return train is not None and test is not None and bool(np.ptp(train) > 0)

    @cached_property
    def statistics(self) -> dict[str, Float[np.ndarray, "n ..."]]:
        """The results of `per_example_statistics` for all test images."""
        with spinner("encoding and decoding"):
            return per_example_statistics(self.run.vae, self.run.params, self.batch, self.keys.elbo)

    @property
    def posterior_means(self) -> Float[np.ndarray, "n d"]:
        """The posterior means of the top layer, in `statistics` only if the model has an encoder."""
        return self.statistics["posterior_mean"]

    def mean(self, name: str) -> Any:
        """Return the mean of a statistic over the test images, as a number or a list; None without this statistic."""
        values = self.statistics.get(name)
        return None if values is None else values.mean(0, dtype=np.float64).tolist()

    @cached_property
    def likelihood(self) -> Any:
        """p(x | z) of the first test image."""
        x, context = unpack(take(self.batch, slice(1)))
        return bind(self.run.vae, self.run.params, context).infer(x, jax.random.key(0)).likelihood

    @property
    def is_cross_entropy(self) -> bool:
        """True for Bernoulli pixels with grey images: their cross-entropy is not a log-likelihood."""
        return getattr(self.likelihood, "pixel_levels", None) == 2 and not is_binary(self.test.images)

    @cached_property
    def bounds(self) -> dict[int, Bounds]:
        """The importance-weighted bound of each chosen image, for each number of samples in ascending order."""
        params = jax.device_get(self.run.params)  # for any number of devices
        on_cpu = jax.default_backend() == "cpu"
        images_at_once = 1 if self.run.config.microbatch_size and on_cpu else IMAGES_AT_ONCE

        def measure(k: int, start: int, block: Batch) -> tuple[Array, ...]:
            mesh, key = data_mesh(batch_size_of(block)), jax.random.fold_in(self.keys.bounds, start)
            return log_likelihood(self.run.vae, params, block, key, k, self.plan.defence, images_at_once, mesh)

        return {
            k: Bounds(*self.in_blocks(str(k), f"log-likelihood, {k} samples", IMAGES_PER_UPDATE, partial(measure, k)))
            for k in sorted(self.plan.num_samples)
        }

    def in_blocks(
        self, name: str, title: str, size: int, measure: Callable[[int, Batch], tuple[Array, ...]]
    ) -> Float[np.ndarray, "r m"]:
        """Measure the chosen images in blocks, each of which is stored in the partial results.

        Args:
            name: name of the results in the file.
            title: title of the progress bar.
            size: images per block.
            measure: returns r numbers for each image of a block, given the index of its first image and the block.
        """
        starts = range(0, len(self.chosen), size)

        def measure_block(start: int) -> Float[np.ndarray, "r b"]:
            block = take(self.chosen_batch, slice(start, start + size))
            return np.stack(jax.device_get(measure(start, block))).astype(np.float64)

        blocks = [
            self.partial_results(f"{name}-{start}-{size}", partial(measure_block, start))
            for start in progress(starts, len(starts), title)
        ]
        return np.concatenate(blocks, axis=1)


def make_subject(run: Run, plan: Plan, part: Path | None) -> Subject:
    """Load the images of a run for an evaluation.

    Args:
        run: the trained model.
        plan: the settings of the evaluation.
        part: the file of partial results, or None to store none.

    Raises:
        UserError: the images cannot be loaded, or there is a single test image.
    """
    data = run_data(run, plan.binarize, plan.binarize_seed)
    train, test = data.train, data.test
    if is_binary(test.images) and not is_binary(train.images):  # training binarises them in each step
        train = replace(train, images=draw_binary(train.images, (run.config.binarize_seed, 0)))
    chosen = random_indices(test, plan.num_images, plan.seed)
    if len(chosen) < 2:
        raise UserError(f"{test.name} has one test image: figures need at least two to have a standard error.")
    batch = data.batch(test)
    inputs = (run.params, repr((__version__, run.config, plan)), take(batch, chosen))
    keys = Keys(*jax.random.split(jax.random.key(plan.seed), 4))
    return Subject(run, plan, train, test, batch, chosen, keys, PartialResults(part, inputs))


def random_indices(data: ImageData, count: int, seed: int) -> Int[np.ndarray, " n"]:
    """Return the indices of `count` random images; the first images of a set may be of one class."""
    return np.random.default_rng(seed).permutation(len(data.images))[:count]
