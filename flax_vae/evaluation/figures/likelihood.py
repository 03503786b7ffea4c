"""The ELBO and its terms, estimates of log p(x), bits per dimension, and the reconstruction error."""

import math
from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Array

from flax_vae.batches import Batch, example_size
from flax_vae.data import is_binary
from flax_vae.evaluation.figures import METRICS, Figure, Figures
from flax_vae.evaluation.subject import Subject
from flax_vae.metrics.annealed import annealed_log_likelihood
from flax_vae.runs.records import Record

_CHAINS = 16  # chains of annealed importance sampling
_IMAGES_PER_UPDATE = 4  # images per update of its progress bar


def _elbo_figures(record: Record) -> Figures:
    yield Figure("ELBO", record["elbo"]["elbo"], "nats per image", _errors(record["elbo"]), key="elbo")
    for name in ("rate", "distortion"):
        yield Figure(name, record["elbo"][name], "nats per image")


@METRICS.register("elbo", figures=_elbo_figures)
def elbo(subject: Subject) -> Record:
    """Return the means of the ELBO, the rate and the distortion over the test set, in nats per image.

    The standard errors are those of the ELBO, by repetition: with other draws, and in another binarisation.
    """
    means = {name: subject.mean(name) for name in ("elbo", "rate", "distortion")}
    return means | _standard_errors(subject.elbo_spreads, len(subject.test))


def _layer_figures(record: Record) -> Figures:
    if len(rates := record["layer_rates"]) > 1:
        yield Figure("rate by layer", None, note="  ".join(f"{rate:.2f}" for rate in rates) + "  nats, top first")


@METRICS.register("layer_rates", figures=_layer_figures)
def layer_rates(subject: Subject) -> list[float]:
    """Return the mean rate of each stochastic layer, top first, in nats."""
    return subject.mean("layer_rates")


def _bound_figures(record: Record) -> Figures:
    quantity = f"minus the {record['not_a_likelihood']}".partition(",")[0] if record["not_a_likelihood"] else "log p(x)"
    for row in record["importance_weighted"]:
        yield Figure(
            f"{'IW bound' if record['not_a_likelihood'] else 'log p(x)'}, {row['num_samples']:,} samples",
            row["log_likelihood"],
            "nats per image",
            _errors(row, f"{row['images']:,} images"),
            key="log_likelihood",
            title=f"Importance-weighted bound on {quantity}, {row['num_samples']:,} samples",
        )
    row = record["importance_weighted"][-1]
    if loose := row["images_of_high_pareto_k"]:
        yield Figure("", None, note=f"loose for {loose} of {row['images']} images, by their Pareto k")


@METRICS.register("importance_weighted", figures=_bound_figures)
def importance_weighted(subject: Subject) -> list[Record]:
    """Return a summary of the importance-weighted bound for each number of samples.

    The error of the draws is that of a repetition. One run's own standard error is too small where a few draws that
    matter are missing.
    """
    return [
        _summary(k, *results)
        | _standard_errors(subject.elbo_spreads | {"draws": subject.bound_spreads[k]}, results.shape[1])
        for k, results in subject.bounds.items()
    ]


def _annealed_figures(record: Record) -> Figures:
    if row := record["annealed"]:
        errors = _errors(row, f"the same {row['images']:,} images", "chains")
        yield Figure(f"annealed, {row['num_steps']:,} steps", row["log_likelihood"], "nats per image", errors)


@METRICS.register("annealed", figures=_annealed_figures)
def annealed(subject: Subject) -> Record | None:
    """Return a summary of log p(x) by annealed importance sampling, or None if the plan has no annealing steps."""
    num_steps = subject.plan.annealing_steps
    if not num_steps:
        return None

    def measure(start: int, block: Batch) -> tuple[Array, ...]:
        key = jax.random.fold_in(subject.keys["bounds"], start)
        return annealed_log_likelihood(subject.run.model, subject.run.params, block, key, _CHAINS, num_steps)

    title = f"annealed importance sampling, {num_steps} steps"
    bound, error = subject.in_blocks("annealed", title, _IMAGES_PER_UPDATE, measure)
    return {"num_steps": num_steps} | _summary(_CHAINS, bound, error, np.full_like(bound, np.nan))


def _caveat_figures(record: Record) -> Figures:
    if caveat := record["not_a_likelihood"]:
        yield Figure("", None, note=f"of the {caveat}")


@METRICS.register("not_a_likelihood", figures=_caveat_figures)
def not_a_likelihood(subject: Subject) -> str | None:
    """Return the reason why p(x | z) is not a likelihood of these pixels, or None if it is one."""
    if subject.pixel_levels == 2 and not is_binary(subject.test.x):
        return "cross-entropy of grey values, which is not a log-likelihood"
    return None


def _bits_figures(record: Record) -> Figures:
    if record["bits_per_dim"] is not None:
        title = "Bits per dimension"
        yield Figure("bits per dimension", record["bits_per_dim"], format=".4f", key="bits_per_dim", title=title)
    elif not record["not_a_likelihood"]:
        yield Figure("bits per dimension", None, note="none: the likelihood has no pixel levels")


@METRICS.register("bits_per_dim", figures=_bits_figures)
def bits_per_dim(subject: Subject) -> float | None:
    """Return the tightest bound in bits per dimension, or None if p(x | z) is not a probability of pixel levels."""
    if subject.pixel_levels is None or not_a_likelihood(subject):
        return None
    return -float(subject.tightest_bound.mean()) / (example_size(subject.test.shape) * math.log(2))


def _reconstruction_figures(record: Record) -> Figures:
    title, error = "Reconstruction error", record["reconstruction_mse"]
    yield Figure("reconstruction error", error, "squared, per value", format=".4f", key="mse", title=title)


@METRICS.register("reconstruction_mse", figures=_reconstruction_figures)
def reconstruction_mse(subject: Subject) -> float:
    """Return the mean squared error per value of examples decoded from one draw of their posterior."""
    return subject.mean("squared_error")


def _errors(row: Record, images: str = "", draws: str = "draws") -> str:
    """Return the standard errors of a figure in words; earlier versions have fewer."""
    causes = {"draws": draws, "binarization": "binarisation", "images": f"choice of {images}"}
    errors = {cause: row.get(f"standard_error_of_{name}") for name, cause in causes.items()}
    return ", ".join(f"± {error:.2f} by the {cause}" for cause, error in errors.items() if error is not None)


def _standard_errors(spreads: Mapping[str, float | None], images: int) -> Record:
    """Return the standard errors of the mean over a number of images, from the spreads of an image's value."""
    return {
        f"standard_error_of_{name}": spread if spread is None else spread / math.sqrt(images)
        for name, spread in spreads.items()
    }


def _summary(num_samples: int, bound: np.ndarray, error: np.ndarray, pareto_k: np.ndarray) -> Record:
    """Summarise the bounds of n images: their mean, its standard errors, and the number of images with a high Pareto k.

    The error from the draws is the precision for these images; the error from the choice of images, the precision for
    all images like them.
    """
    limit = min(1 - 1 / math.log10(num_samples), 0.7)
    return {
        "num_samples": num_samples,
        "images": len(bound),
        "log_likelihood": float(bound.mean()),
        "standard_error_of_draws": float(np.sqrt((error**2).sum()) / len(bound)),
        "standard_error_of_images": float(bound.std(ddof=1) / math.sqrt(len(bound))),
        "images_of_high_pareto_k": None if np.isnan(pareto_k).any() else int((pareto_k > limit).sum()),
    }
