"""The evaluation of a run: what `flax-vae evaluate` measures, and `evaluation.json`."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from flax_vae import __version__
from flax_vae.batches import Batch, OnDisk, batch_size_of, take, unpack
from flax_vae.data import draw_binary, is_binary
from flax_vae.evaluation import labelled
from flax_vae.evaluation.partial_results import Kept
from flax_vae.metrics.annealed import annealed_log_likelihood
from flax_vae.metrics.latents import active_units, elbo_surgery
from flax_vae.metrics.likelihood import IMAGES_AT_ONCE, Defence, log_likelihood
from flax_vae.metrics.per_example import look_at_each
from flax_vae.models.protocol import is_flat
from flax_vae.models.vae import bind
from flax_vae.plots.curves import plot_evaluation
from flax_vae.plots.images import plot_extremes
from flax_vae.runs.config import Binarize, refuse_seed
from flax_vae.runs.directory import RunDirectory
from flax_vae.runs.load import load_run
from flax_vae.runs.records import Record
from flax_vae.runs.run import Run, run_data
from flax_vae.sampling import encode
from flax_vae.system.console import progress, spinner
from flax_vae.system.errors import UserError
from flax_vae.system.machine import device_memory
from flax_vae.system.memory import require_memory
from flax_vae.training.sharding import data_mesh

IMAGES_SHARED, _ANNEALED_AT_ONCE = 100, 4  # images between two movements of the progress bar; devices share the 100
_CHAINS = 16  # of annealed importance sampling


class Bounds(NamedTuple):
    """What `log_likelihood` finds of each image."""

    bound: Float[np.ndarray, " n"]
    error: Float[np.ndarray, " n"]
    pareto_k: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Plan:
    """What is measured, and on what.

    Attributes:
        num_samples: draws per image of the importance-weighted bound, each at least two.
        num_images: test images that it is measured on, chosen by the seed; everything else takes all of them, but for
            the parts of the rate where all pairs of images and draws would take long.
        seed: of the draws.
        binarize, binarize_seed: as in `Config`, where the images are to be binarised otherwise than for the training.
        defence: draws for what the posterior misses; see `Defence`.
        annealing_steps: of annealed importance sampling, which the same images then have beside the bound; 0 for none.
    """

    num_samples: tuple[int, ...] = (10, 100, 1000)
    num_images: int = 1000
    seed: int = 0
    binarize: Binarize | None = None
    binarize_seed: int = 0
    defence: Defence | None = None
    annealing_steps: int = 0

    def __post_init__(self) -> None:
        """Refuse what has no standard error, and numbers out of range."""
        refuse_seed("seed", self.seed)
        if not self.num_samples or min(self.num_samples) < 2 or self.num_images < 2:
            raise UserError("--num-samples and --num-images must be at least 2: fewer have no standard error.")


# What published tables fix. The seed by which the test images are binarised is a choice of this package.
PROTOCOLS = {"exemplar_vae": Plan(num_samples=(5000,), num_images=10_000, binarize="dynamic", binarize_seed=0)}


def evaluate(where: str | Path, plan: Plan = Plan(), vae: nn.Module | None = None, part: Path | None = None) -> Record:
    """Measure a trained model on its test set; into a run directory, write `evaluation.json` and two pictures.

    Bounds of images are kept as they are found: an evaluation that was interrupted goes on from there.

    Args:
        where: what `load_run` opens.
        plan: what is measured.
        vae: the model, where it was one of your own.
        part: the file in which they are kept until all is measured; by default one in the run directory. Of a model of
            your own nothing is kept, since nothing would tell that its code has changed.

    Raises:
        UserError: no run, its data cannot be had, fewer than two test images, or a figure that is not finite; then
            nothing is written.
    """
    if jax.process_count() > 1:
        raise UserError("An evaluation is of one process, with the devices of its machine: start it by itself.")
    run = load_run(where, vae)
    _refuse_too_large(plan)
    data = run_data(run, plan.binarize, plan.binarize_seed)
    train, test = data.train, data.test
    key, bound_key, surgery_key, sample_key = jax.random.split(jax.random.key(plan.seed), 4)
    if is_binary(test.images) and not is_binary(train.images):  # which were resampled in each step
        train = replace(train, images=draw_binary(train.images, (run.config.binarize_seed, 0)))
    chosen = labelled.some_of(test, plan.num_images, plan.seed)
    if len(chosen) < 2:
        raise UserError(f"{test.name} has one test image: figures need at least two to have a standard error.")
    batch = data.batch(test)
    files = None if run.directory is None else RunDirectory(run.directory)
    if part is None and files is not None:
        part = files.part_file
    some = take(batch, chosen)
    kept = Kept(part if vae is None else None, (run.params, repr((__version__, run.config, plan)), some))
    bounds = _bounds(run, some, bound_key, plan, kept)
    annealed = _annealed(run, some, bound_key, plan.annealing_steps, kept) if plan.annealing_steps else None
    with spinner("encoding and decoding"):
        each = look_at_each(run.vae, run.params, batch, key)
    means = each.pop("posterior_mean", None)
    mean = {name: array.mean(0, dtype=np.float64).tolist() for name, array in each.items()}
    elbo = {name: mean[name] for name in ("elbo", "rate", "distortion")}
    weighted = [_summary(k, bounds[k]) for k in bounds]
    total = 0.0 if means is None else float(means.sum(dtype=np.float64))
    _refuse_not_finite(run, {"elbo": elbo, "importance_weighted": weighted, "posterior_means": total})
    with spinner("comparing latents"):
        result: Record = {
            "step": run.step,
            "seed": plan.seed,
            "images": len(test.images),
            "binarize": plan.binarize or run.config.binarize,
            "binarize_seed": run.config.binarize_seed if plan.binarize is None else plan.binarize_seed,
            "elbo": elbo,
            "layer_rates": mean["layer_rates"],
            "importance_weighted": weighted,
            "defence": plan.defence and asdict(plan.defence),
            "annealed": annealed,
            "reconstruction_mse": mean["squared_error"],
            "latent_dim": None if means is None else means.shape[1],
            "active_units": None if means is None else active_units(means),
            "dimension_rates": mean.get("dimension_rates"),
            "surgery": _surgery(run, batch, chosen, surgery_key) if is_flat(run.vae) else None,
            "accuracy": None if means is None else labelled.accuracies(run, train, test, means),
            "disentanglement": None if means is None else labelled.disentanglement(test, means),
        }
    result["frechet"] = labelled.frechet(run, train, test, batch, sample_key)
    result |= _kind_of_likelihood(run, batch, float(bounds[max(bounds)].bound.mean()))
    _refuse_not_finite(run, result)
    result["alarm"] = collapse_warning(elbo["rate"], result["active_units"], result["latent_dim"])
    if files is not None:
        files.write_evaluation(result)
        _draw(files.pictures, result, test.images[chosen], bounds[max(bounds)].bound)
    kept.forget()
    return result


def _refuse_too_large(plan: Plan) -> None:
    """Raise where the device has less memory than the numbers of a plan take."""
    most, steps, there = max(plan.num_samples), plan.annealing_steps, device_memory()
    require_memory(8 * IMAGES_AT_ONCE * most, f"--num-samples {most}", "lower it", there)  # of weights and their ranks
    require_memory(12 * steps, f"--annealing-steps {steps}", "lower it", there)  # of numbers, betas and lengths


def _surgery(run: Run, batch: Batch, chosen: Int[np.ndarray, " n"], key: Key[Array, ""]) -> dict[str, float | int]:
    """The parts of the rate, from all images where a density is a few sums, else from those that are chosen.

    Of images on disk, too: a figure of all pairs wants them in memory.
    """
    posterior = encode(run.vae, run.params, take(batch, slice(1)))
    every = getattr(posterior, "cheap_log_prob", False) and not isinstance(jax.tree.leaves(batch)[0], OnDisk)
    images = batch if every else take(batch, chosen)
    parts = elbo_surgery(run.vae, run.params, images, key)
    return {name: float(value) for name, value in parts.items()} | {"images": batch_size_of(images)}


def _in_blocks(
    kept: Kept, name: str, what: str, images: Batch, size: int, measure: Callable[[int, Batch], tuple[Array, ...]]
) -> Float[np.ndarray, "m n"]:
    """What `measure(start, block)` finds of every image, block by block, each of which is kept."""
    starts = range(0, batch_size_of(images), size)

    def block(i: int) -> Float[np.ndarray, "m b"]:
        return np.stack(jax.device_get(measure(i, take(images, slice(i, i + size))))).astype(np.float64)

    blocks = [kept(f"{name}-{i}-{size}", partial(block, i)) for i in progress(starts, len(starts), what)]
    return np.concatenate(blocks, axis=1)


def _bounds(run: Run, images: Batch, key: Key[Array, ""], plan: Plan, kept: Kept) -> dict[int, Bounds]:
    """For each number of samples the bound of every image, its standard error and its Pareto k."""
    params = jax.device_get(run.params)  # for any number of devices
    together = 1 if run.config.microbatch_size and jax.default_backend() == "cpu" else IMAGES_AT_ONCE

    def measure(k: int, i: int, block: Batch) -> tuple[Array, ...]:
        mesh = data_mesh(batch_size_of(block))
        return log_likelihood(run.vae, params, block, jax.random.fold_in(key, i), k, plan.defence, together, mesh)

    return {
        k: Bounds(*_in_blocks(kept, str(k), f"log-likelihood, {k} samples", images, IMAGES_SHARED, partial(measure, k)))
        for k in sorted(plan.num_samples)
    }


def _annealed(run: Run, images: Batch, key: Key[Array, ""], num_steps: int, kept: Kept) -> Record:
    """The log-likelihood of the images by annealed importance sampling."""

    def measure(i: int, block: Batch) -> tuple[Array, ...]:
        return annealed_log_likelihood(run.vae, run.params, block, jax.random.fold_in(key, i), _CHAINS, num_steps)

    what = f"annealed importance sampling, {num_steps} steps"
    bound, error = _in_blocks(kept, "annealed", what, images, _ANNEALED_AT_ONCE, measure)
    return {"num_steps": num_steps} | _summary(_CHAINS, Bounds(bound, error, np.full(len(bound), np.nan)))


def _summary(num_samples: int, found: Bounds) -> dict[str, float | int | None]:
    """The mean over the images, the standard errors of it, and how many images have a Pareto k above its limit.

    The error of the draws says how exact the figure is for these images, that of the images how exact it is for others.
    """
    count, limit = len(found.bound), min(1 - 1 / math.log10(num_samples), 0.7)
    return {
        "num_samples": num_samples,
        "images": count,
        "log_likelihood": float(found.bound.mean()),
        "standard_error_of_draws": float(np.sqrt((found.error**2).sum()) / count),
        "standard_error_of_images": float(found.bound.std(ddof=1) / math.sqrt(count)),
        "images_of_high_pareto_k": None if np.isnan(found.pareto_k).any() else int((found.pareto_k > limit).sum()),
    }


def _draw(
    directory: Path, result: Record, images: UInt8[np.ndarray, "n h w c"], bounds: Float[np.ndarray, " n"]
) -> None:
    """Write the pictures: bound by samples and rates of dimensions; the most and the least likely images."""
    directory.mkdir(exist_ok=True)
    of = "minus the cross-entropy" if result["not_a_likelihood"] else "log p(x)"
    rates = result["dimension_rates"], result["layer_rates"]
    plot_evaluation(directory / "evaluation.png", result["importance_weighted"], *rates, of)
    order = np.argsort(-bounds)
    shown = np.concatenate([order[:10], order[-10:]])
    plot_extremes(directory / "extremes.png", images[shown], bounds[shown], of)


def _kind_of_likelihood(run: Run, images: Batch, bound: float) -> Record:
    """What p(x | z) is of these pixels: bits per dimension where it is a probability of their levels."""
    x, context = unpack(take(images, slice(1)))
    likelihood: Any = bind(run.vae, run.params, context).infer(x, jax.random.key(0)).likelihood
    levels = getattr(likelihood, "pixel_levels", None)
    grey = levels == 2 and not is_binary(jax.tree.leaves(images)[0])
    bits = -bound / (math.prod(x.shape[1:]) * math.log(2))
    return {
        "not_a_likelihood": "cross-entropy of grey values, which is not a log-likelihood" if grey else None,
        "bits_per_dim": None if levels is None or grey else bits,
    }


def _refuse_not_finite(run: Run, figures: Record) -> None:
    """Raise where a figure is NaN or infinite: the parameters are damaged, or the training diverged."""
    bad = [
        f"{jax.tree_util.keystr(path, simple=True, separator='.')} is {value}"
        for path, value in jax.tree_util.tree_leaves_with_path(figures)
        if isinstance(value, float) and not math.isfinite(value)
    ]
    if bad:
        raise UserError(
            f"{run.name}: {', '.join(bad)}. The parameters, those of step {run.step}, are damaged or the training "
            "diverged."
        )


def collapse_warning(rate: float, active: int | None, latent_dim: int | None) -> str | None:
    """A warning where the latents carry little information about the images, else None."""
    if rate < 0.1:
        return f"posterior collapse: the latents carry {rate:.2g} nats, the decoder does without them."
    if active is not None and latent_dim is not None and active < latent_dim:
        return f"{latent_dim - active} of {latent_dim} latent dimensions are not used: their posterior is the prior."
    return None
