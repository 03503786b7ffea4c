"""The evaluation of a run: what `flax-vae evaluate` measures, and `evaluation.json`."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from flax_vae.config import read_config
from flax_vae.data import ImageData
from flax_vae.distributions import Bernoulli
from flax_vae.errors import UserError
from flax_vae.evaluation import (
    active_units,
    elbo_surgery,
    log_likelihood,
    make_evaluate,
    mean_dimension_rates,
    posterior_means,
)
from flax_vae.objectives import ELBO
from flax_vae.plots import plot_comparison
from flax_vae.report import read_metrics, say
from flax_vae.runs import Run, load_data, load_run
from flax_vae.sampling import decode
from flax_vae.vae import VAE, bind

_AT_ONCE = 100  # images between two movements of the progress bar
_DECODED = 2000  # images that are held as floats at a time
_PROBED = 10_000  # training images that classifiers of latents learn from


def evaluate(
    directory: str | Path,
    num_samples: Sequence[int] = (10, 100, 1000),
    num_images: int = 1000,
    seed: int = 0,
    vae: VAE | None = None,
) -> dict[str, Any]:
    """Measure a run on its test set and write `evaluation.json` into its directory.

    Args:
        directory: the run.
        num_samples: draws per image of the importance-weighted bound, each at least two.
        num_images: test images that it is measured on; everything else takes all of them.
        seed: of the draws.
        vae: the model, where it was one of your own.

    Raises:
        UserError: no run, or its data cannot be had.
    """
    if min(num_samples) < 2 or num_images < 2:
        raise UserError("--num-samples and --num-images must be at least 2: fewer have no standard error.")
    run = load_run(directory, vae)
    train, test = load_data(run)
    key, bound_key, surgery_key = jax.random.split(jax.random.key(seed), 3)
    means = posterior_means(run.vae, run.params, test.images)
    result: dict[str, Any] = {
        "seed": seed,
        "images": len(test.images),
        "elbo": make_evaluate(run.vae, ELBO(), 100)(run.params, test.images, key, 0),
        "importance_weighted": _bounds(run, test.images[:num_images], bound_key, num_samples),
        "bits_per_dim": None,
        "reconstruction_mse": _reconstruction_error(run.vae, run.params, test.images, means),
        "latent_dim": means.shape[1],
        "active_units": active_units(means),
        "dimension_rates": _dimension_rates(run, test.images, key),
        **{name: float(value) for name, value in elbo_surgery(run.vae, run.params, test.images, surgery_key).items()},
        "accuracy": _accuracies(run, train, test, means),
    }
    refusal = why_no_bits(run, test.images)
    best = result["importance_weighted"][-1]["log_likelihood"]
    result["bits_per_dim"] = refusal or -best / (math.prod(test.images.shape[1:]) * math.log(2))
    result["alarm"] = collapse(result["elbo"]["rate"], result["active_units"], result["latent_dim"])
    (run.directory / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def _bounds(
    run: Run, images: UInt8[np.ndarray, "n h w c"], key: Key[Array, ""], num_samples: Sequence[int]
) -> list[dict[str, Any]]:
    """The bound for each number of samples: mean over the images, and the standard errors of it.

    That of the draws says how exact the figure is for these images, that of the images how exact it is for others.
    """
    from rich.progress import track

    rows = []
    for k in sorted(num_samples):
        blocks = range(0, len(images), _AT_ONCE)
        parts = [
            log_likelihood(run.vae, run.params, images[i : i + _AT_ONCE], jax.random.fold_in(key, i), k)
            for i in track(blocks, f"log-likelihood, {k} samples")
        ]
        bounds, errors = (np.concatenate([np.asarray(part[j], np.float64) for part in parts]) for j in (0, 1))
        rows.append({
            "num_samples": k,
            "images": len(images),
            "log_likelihood": float(bounds.mean()),
            "standard_error_of_draws": float(np.sqrt((errors**2).sum()) / len(images)),
            "standard_error_of_images": float(bounds.std(ddof=1) / math.sqrt(len(images))),
        })  # fmt: skip
    return rows


def _dimension_rates(run: Run, images: UInt8[np.ndarray, "n h w c"], key: Key[Array, ""]) -> list[float] | None:
    """Each latent dimension's rate, where posterior and prior are normals of independent dimensions."""
    try:
        return np.asarray(mean_dimension_rates(run.vae, run.params, images, key), np.float64).tolist()
    except TypeError:
        return None


def _reconstruction_error(
    vae: VAE, params: Any, images: UInt8[np.ndarray, "n h w c"], means: Float[np.ndarray, "n d"]
) -> float:
    """Squared error per pixel of images that go through their posterior mean and back."""
    total = 0.0
    for i in range(0, len(images), _DECODED):
        made = np.asarray(decode(vae, params, means[i : i + _DECODED]))
        total += float(np.square(made - images[i : i + _DECODED] / np.float32(255)).sum())
    return total / images.size


def _accuracies(
    run: Run, train: ImageData, test: ImageData, means: Float[np.ndarray, "n d"]
) -> dict[str, float] | None:
    """Share of the test images whose label the posterior means of training images tell, or None without labels.

    By the nearest ten, and by logistic regression: how much of the classes lies in the latents, and how plainly.
    """
    if train.labels is None or test.labels is None:
        return None
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known, labels = posterior_means(run.vae, run.params, train.images[:_PROBED]), train.labels[:_PROBED]
    probes = {"nearest_neighbours": KNeighborsClassifier(10), "linear": LogisticRegression(max_iter=1000)}
    return {
        name: float(make_pipeline(StandardScaler(), probe).fit(known, labels).score(means, test.labels))
        for name, probe in probes.items()
    }


def why_no_bits(run: Run, images: UInt8[np.ndarray, "n h w c"]) -> str | None:
    """Why the model's log-likelihood makes no bits per dimension, or None where it does."""
    likelihood = bind(run.vae, run.params).decode(jnp.asarray(posterior_means(run.vae, run.params, images[:1])))
    if not likelihood.discrete:
        return f"none: {type(likelihood).__name__} is a density of continuous pixels"
    if isinstance(likelihood, Bernoulli) and not np.isin(images[:1000], (0, 255)).all():
        return "none: the Bernoulli's cross-entropy of grey values is no log-likelihood"
    return None


def collapse(rate: float, active: int, latent_dim: int) -> str | None:
    """An alarm in words where the latents tell little about the images, else None."""
    if rate < 0.1:
        return f"posterior collapse: the latents carry {rate:.2g} nats, the decoder does without them."
    if active < latent_dim:
        return f"{latent_dim - active} of {latent_dim} latent dimensions are not used: they are the prior's noise."
    return None


def show(result: dict[str, Any]) -> None:
    """Print an evaluation as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for name in ("elbo", "rate", "distortion"):
        table.add_row(name, f"{result['elbo'][name]:.2f}", "nats per image")
    for row in result["importance_weighted"]:
        errors = row["standard_error_of_draws"], row["standard_error_of_images"]
        note = "nats; ± {:.2f} by the draws, ± {:.2f} by the choice of {} images".format(*errors, row["images"])
        table.add_row(f"log p(x), {row['num_samples']} samples", f"{row['log_likelihood']:.2f}", note)
    bits = result["bits_per_dim"]
    table.add_row("bits per dimension", *(("", bits) if isinstance(bits, str) else (f"{bits:.4f}", "")))
    table.add_row("mutual information", f"{result['mutual_information']:.2f}", "nats, of the rate")
    table.add_row("marginal KL", f"{result['marginal_kl']:.2f}", "nats, of the rate: q(z) from the prior")
    table.add_row("active units", str(result["active_units"]), f"of {result['latent_dim']} latent dimensions")
    if result["dimension_rates"] is not None:
        highest = sorted(result["dimension_rates"], reverse=True)
        shown = "  ".join(f"{each:.2f}" for each in highest[:8]) + ("  ..." if len(highest) > 8 else "")
        table.add_row("rate by dimension", "", f"{shown}  nats, the highest first")
    table.add_row("reconstruction", f"{result['reconstruction_mse']:.4f}", "squared error per pixel")
    for name, accuracy in (result["accuracy"] or {}).items():
        table.add_row(f"labels, {name.replace('_', ' ')}", f"{100 * accuracy:.1f} %", "told by posterior means")
    Console().print(table)
    if result["alarm"]:
        say(f"WARNING: {result['alarm']}")


def compare(directories: Sequence[str | Path], picture: Path) -> None:
    """Print runs beside each other, with their evaluations where there are any, and draw their test losses.

    Raises:
        UserError: one of them is no run, or has no finished epoch.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    for title in ("epoch", "seconds", "loss", "rate", "distortion", "log p(x)", "active"):
        table.add_column(title, justify="right", no_wrap=True)
    curves = {}
    for directory in map(Path, directories):
        config, _ = read_config(directory / "config.json")
        metrics, evaluated = read_metrics(directory), directory / "evaluation.json"
        if not metrics:
            raise UserError(f"{directory} has no finished epoch yet.")
        curves[str(directory)] = metrics
        best = min(metrics, key=lambda record: record["test_loss"])
        numbers = [
            f"{best[name]:.2f}" if name in best else "" for name in ("test_loss", "test_rate", "test_distortion")
        ]
        found = json.loads(evaluated.read_text()) if evaluated.exists() else None
        bound = found and found["importance_weighted"][-1]
        table.add_row(
            str(directory), f"{best['epoch']}/{config.epochs}", f"{metrics[-1]['seconds']:.0f}", *numbers,
            f"{bound['log_likelihood']:.2f}" if bound else "not evaluated",
            f"{found['active_units']}/{found['latent_dim']}" if found else "",
        )  # fmt: skip
    Console().print(table)
    plot_comparison(picture, curves)
