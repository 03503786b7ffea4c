"""Estimates of log p(x), and bits per dimension."""

import math
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Array

from flax_vae.batches import Batch
from flax_vae.evaluation.metric import Figure, metric
from flax_vae.evaluation.subject import Bounds, Subject
from flax_vae.metrics.annealed import annealed_log_likelihood
from flax_vae.runs.records import Record

_CHAINS = 16  # chains of annealed importance sampling
_IMAGES_PER_UPDATE = 4  # images per update of its progress bar


def _bound_figures(record: Record) -> Iterator[Figure]:
    quantity = f"minus the {record['not_a_likelihood']}".partition(",")[0] if record["not_a_likelihood"] else "log p(x)"
    for row in record["importance_weighted"]:
        yield Figure(
            f"{'IW bound' if record['not_a_likelihood'] else 'log p(x)'}, {row['num_samples']:,} samples",
            row["log_likelihood"],
            "nats per image",
            _errors(row, "draws", f"{row['images']:,} images"),
            key="log_likelihood",
            title=f"Importance-weighted bound on {quantity}, {row['num_samples']:,} samples",
        )
    row = record["importance_weighted"][-1]
    if loose := row["images_of_high_pareto_k"]:
        yield Figure("", None, note=f"loose for {loose} of {row['images']} images, by their Pareto k")


@metric("importance_weighted", _bound_figures)
def importance_weighted(subject: Subject) -> list[Record]:
    """Return a summary of the importance-weighted bound for each number of samples."""
    return [_summary(num_samples, bounds) for num_samples, bounds in subject.bounds.items()]


def _annealed_figures(record: Record) -> Iterator[Figure]:
    if row := record["annealed"]:
        name = f"annealed, {row['num_steps']:,} steps"
        yield Figure(
            name, row["log_likelihood"], "nats per image", _errors(row, "chains", f"the same {row['images']:,} images")
        )


@metric("annealed", _annealed_figures)
def annealed(subject: Subject) -> Record | None:
    """Return a summary of log p(x) by annealed importance sampling, or None if the plan has no annealing steps."""
    num_steps = subject.plan.annealing_steps
    if not num_steps:
        return None

    def measure(start: int, block: Batch) -> tuple[Array, ...]:
        key = jax.random.fold_in(subject.keys.bounds, start)
        return annealed_log_likelihood(subject.run.vae, subject.run.params, block, key, _CHAINS, num_steps)

    title = f"annealed importance sampling, {num_steps} steps"
    bound, error = subject.in_blocks("annealed", title, _IMAGES_PER_UPDATE, measure)
    return {"num_steps": num_steps} | _summary(_CHAINS, Bounds(bound, error, np.full(len(bound), np.nan)))


def _caveat_figures(record: Record) -> Iterator[Figure]:
    if caveat := record["not_a_likelihood"]:
        yield Figure("", None, note=f"of the {caveat}")


@metric("not_a_likelihood", _caveat_figures)
def not_a_likelihood(subject: Subject) -> str | None:
    """Return the reason why p(x | z) is not a likelihood of these pixels, or None if it is one."""
    return "cross-entropy of grey values, which is not a log-likelihood" if subject.is_cross_entropy else None


def _bits_figures(record: Record) -> Iterator[Figure]:
    if record["bits_per_dim"] is not None:
        title = "Bits per dimension"
        yield Figure("bits per dimension", record["bits_per_dim"], format=".4f", key="bits_per_dim", title=title)
    elif not record["not_a_likelihood"]:
        yield Figure("bits per dimension", None, note="none: the likelihood is a density of continuous pixels")


@metric("bits_per_dim", _bits_figures)
def bits_per_dim(subject: Subject) -> float | None:
    """Return the tightest bound in bits per dimension, or None if p(x | z) is not a probability of pixel levels."""
    if subject.is_cross_entropy or getattr(subject.likelihood, "pixel_levels", None) is None:
        return None
    bound = float(subject.bounds[max(subject.bounds)].bound.mean())
    return -bound / (math.prod(subject.test.images.shape[1:]) * math.log(2))


def _errors(row: Record, draws: str, images: str) -> str:
    by_draws, by_images = row["standard_error_of_draws"], row["standard_error_of_images"]
    return f"± {by_draws:.2f} by the {draws}, ± {by_images:.2f} by the choice of {images}"


def _summary(num_samples: int, bounds: Bounds) -> Record:
    """Summarise the bounds of images: their mean, its standard errors, and the number of images with a high Pareto k.

    The error of the draws is the precision for these images, and the error of the images its precision for others.
    """
    count, limit = len(bounds.bound), min(1 - 1 / math.log10(num_samples), 0.7)
    unknown = np.isnan(bounds.pareto_k).any()
    return {
        "num_samples": num_samples,
        "images": count,
        "log_likelihood": float(bounds.bound.mean()),
        "standard_error_of_draws": float(np.sqrt((bounds.error**2).sum()) / count),
        "standard_error_of_images": float(bounds.bound.std(ddof=1) / math.sqrt(count)),
        "images_of_high_pareto_k": None if unknown else int((bounds.pareto_k > limit).sum()),
    }
