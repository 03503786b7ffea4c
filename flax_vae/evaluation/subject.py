"""The subject of an evaluation: a run, its test set, and intermediate results that several figures use."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from flax_vae import __version__
from flax_vae.batches import Batch, batch_size_of, take, unpack
from flax_vae.data import Examples, draw_binary, example_noun, is_binary
from flax_vae.data.arrays import open_npz
from flax_vae.evaluation.plan import Plan
from flax_vae.metrics.likelihood import IMAGES_AT_ONCE, log_likelihood
from flax_vae.metrics.per_example import per_example_statistics
from flax_vae.models.binding import Params, bind
from flax_vae.runs.run import StoredRun, run_data
from flax_vae.system.console import progress, spinner
from flax_vae.system.errors import UserError
from flax_vae.system.files import write_atomically
from flax_vae.training.sharding import data_mesh

_DRAWS = ("elbo", "bounds", "surgery", "samples")
_REPEATED = 1000  # images whose ELBO is measured again
IMAGES_PER_UPDATE = 100  # images per update of the progress bar, split between devices


class PartialResults:
    """Named arrays, computed once for given inputs, and kept in a file so that a long computation can be resumed.

    Args:
        path: the file, or None to store nothing.
        inputs: a tree of arrays and values; a file made from other inputs is discarded.
    """

    def __init__(self, path: Path | None, inputs: Any) -> None:
        """Read the arrays that the file holds."""
        self._path, self._digest, self._arrays = path, np.array(_digest(inputs)), dict[str, np.ndarray]()
        if path is not None and path.exists():
            with suppress(UserError), open_npz(path) as stored:  # a truncated or foreign file is replaced
                if stored["of"] == self._digest:
                    self._arrays = {name: stored[name] for name in stored if name != "of"}

    def __call__(self, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the array of this name; if it is not stored yet, compute and store it."""
        if name not in self._arrays:
            self._arrays[name] = compute()
            if self._path is not None:
                arrays = {"of": self._digest, **self._arrays}
                write_atomically(self._path, lambda part: np.savez(part, allow_pickle=False, **arrays))
        return self._arrays[name]

    def delete(self) -> None:
        """Delete the file once the results are stored elsewhere."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained model and its images, to be evaluated.

    Attributes:
        run: the trained model.
        plan: the settings of the evaluation.
        train, test: the images.
        batch: the test images, with their contexts if the model is conditional.
        chosen: indices of the test images for the bound.
        rebinarized: `batch` in another binarisation, or None if the images are not binarised.
        keys: the key of each part that draws: elbo, bounds, surgery, samples.
        partial_results: stores the bounds of images as soon as they are computed.
    """

    run: StoredRun
    plan: Plan
    train: Examples
    test: Examples
    batch: Batch
    chosen: Int[np.ndarray, " m"]
    rebinarized: Batch | None
    keys: dict[str, Key[Array, ""]]
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
            return per_example_statistics(self.run.model, self.run.params, self.batch, self.keys["elbo"])

    @cached_property
    def elbo_spreads(self) -> dict[str, float | None]:
        """The standard deviations of an image's ELBO over draws and over binarisations, or None if there are none.

        The ELBO of a thousand images is measured again, and again in another binarisation.
        """
        chosen, elbo = random_indices(self.test, _REPEATED, self.plan.seed), self.statistics["elbo"].astype(np.float64)

        def repeated(number: int, batch: Batch) -> float:
            key = jax.random.fold_in(self.keys["elbo"], number)
            again = per_example_statistics(self.run.model, self.run.params, take(batch, chosen), key)["elbo"]
            return spread(elbo[chosen], again.astype(np.float64))

        draws = repeated(1, self.batch)
        if self.rebinarized is None:
            return {"draws": draws, "binarization": None}
        both = repeated(2, self.rebinarized)
        return {"draws": draws, "binarization": math.sqrt(max(0.0, both**2 - draws**2))}

    def mean(self, name: str) -> Any:
        """Return the mean of a statistic over the test images, as a number or a list; None without this statistic."""
        values = self.statistics.get(name)
        return None if values is None else values.mean(0, dtype=np.float64).tolist()

    @cached_property
    def pixel_levels(self) -> int | None:
        """The number of values of a pixel under p(x | z), or None for a density of continuous pixels."""
        x, *given = unpack(take(self.batch, slice(1)), self.run.model)
        likelihood = bind(self.run.model, self.run.params, *given).infer(x, jax.random.key(0)).likelihood
        return getattr(likelihood, "pixel_levels", None)

    @cached_property
    def bounds(self) -> dict[int, Float[np.ndarray, "3 m"]]:
        """The results of `log_likelihood` for the chosen images, by number of samples in ascending order."""
        return {
            k: self.in_blocks(str(k), f"log-likelihood, {k} samples", IMAGES_PER_UPDATE, partial(self._bound, k))
            for k in sorted(self.plan.num_samples)
        }

    def _bound(self, k: int, start: int, block: Batch) -> tuple[Array, ...]:
        """Return the results of `log_likelihood` for a block of images, the first of which has the index `start`."""
        mesh, key = data_mesh(batch_size_of(block)), jax.random.fold_in(self.keys["bounds"], start)
        on_cpu = jax.default_backend() == "cpu"
        images_at_once = 1 if self.run.config.microbatch_size and on_cpu else IMAGES_AT_ONCE
        return log_likelihood(self.run.model, self._params, block, key, k, self.plan.defence, images_at_once, mesh)

    @cached_property
    def _params(self) -> Params:
        """The parameters on the host, since blocks may be on different devices."""
        return jax.device_get(self.run.params)

    @cached_property
    def bound_spreads(self) -> dict[int, float]:
        """The standard deviation of an image's bound over draws, by number of samples: the first block, once more."""
        block = take(self.chosen_batch, slice(IMAGES_PER_UPDATE))

        def measure(k: int) -> Float[np.ndarray, " b"]:
            other_draws = len(self.chosen)  # no block starts there
            return np.asarray(self._bound(k, other_draws, block)[0], np.float64)

        again = {k: self.partial_results(f"{k}-again", partial(measure, k)) for k in self.bounds}
        return {k: spread(self.bounds[k][0, : len(values)], values) for k, values in again.items()}

    @property
    def tightest_bound(self) -> Float[np.ndarray, " m"]:
        """The importance-weighted bound of each chosen image, with the largest number of samples."""
        return self.bounds[max(self.bounds)][0]

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


def make_subject(run: StoredRun, plan: Plan, part: Path | None) -> Subject:
    """Load the images of a run for an evaluation.

    Args:
        run: the trained model.
        plan: the settings of the evaluation.
        part: the file of partial results, or None to store none.

    Raises:
        UserError: the images cannot be loaded, or there is a single test image.
    """
    stream = run.stream()
    if stream is not None and not stream["is_held_out"]:
        raise UserError(
            f"{run.name} was trained on a stream without held-out examples, so there are none to evaluate on: pass "
            "data=Stream(batches, held_out=...) to fit."
        )
    data = run_data(run, plan.binarize, plan.binarize_seed)
    train, test = data.train, data.test
    if test.kind == "images" and is_binary(test.x) and not is_binary(train.x):  # training binarises them in each step
        train = replace(train, x=draw_binary(train.x, (run.config.binarize_seed, 0)))
    rebinarized, chosen = None, random_indices(test, plan.num_images, plan.seed)
    if len(chosen) < 2:
        raise UserError(
            f"{test.name} has one test {example_noun(test.kind)}: figures need at least two to have a standard error."
        )
    batch = data.batch(test)
    if (mode := plan.binarize or run.config.binarize) != "none":
        seed = run.config.binarize_seed if plan.binarize is None else plan.binarize_seed
        other = run_data(run, mode, seed ^ 1)
        rebinarized = other.batch(other.test)
    inputs = (run.params, repr((__version__, run.config, plan)), take(batch, chosen))
    keys = dict(zip(_DRAWS, jax.random.split(jax.random.key(plan.seed), len(_DRAWS)), strict=True))
    return Subject(run, plan, train, test, batch, chosen, rebinarized, keys, PartialResults(part, inputs))


def spread(values: Float[np.ndarray, " n"], again: Float[np.ndarray, " n"]) -> float:
    """Return the standard deviation of an image's value over repetitions, from two of each of n images."""
    with np.errstate(invalid="ignore"):  # the evaluation refuses values that are not finite
        return math.sqrt(np.square(values - again).mean() / 2)


def random_indices(data: Examples, count: int, seed: int) -> Int[np.ndarray, " n"]:
    """Return the indices of `count` random images, since the first images of a set may all be of one class."""
    return np.random.default_rng(seed).permutation(len(data))[:count]


def _digest(tree: Any) -> str:
    """Return a hash that is equal for equal trees, in any process."""
    digest = sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(tree)):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(leaf.tobytes() if isinstance(leaf, np.ndarray) else repr(leaf).encode())
    return digest.hexdigest()
