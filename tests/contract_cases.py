"""Models of the user's own for the contract of tests/fitting/test_contract.py: small versions of published ones."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import multivariate_normal
from stateful_models import Adversary, Normalised, Quantised, stateful_vae

from flax_vae import (
    VAE,
    BernoulliLikelihood,
    Config,
    DiagonalNormal,
    Normal,
    PoissonLikelihood,
    StandardNormal,
    tutorial_dense,
)
from flax_vae.batches import take
from flax_vae.pytrees import by_name

RNG, N, NOISE = np.random.default_rng(0), 120, 0.5
Z = RNG.normal(size=(N, 2))
SHAPE = (6, 6, 1)


@dataclass(frozen=True)
class Case:
    """A model with its data.

    Attributes:
        x: the examples, of which the last are for testing.
        model, objective: parts of the user's own; None for the built-in objective.
        settings: fields of `Config`.
        log_evidence: (params, x) -> log p(x) of each example in nats, if it is known.
    """

    x: Any
    model: nn.Module
    objective: nn.Module | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    log_evidence: Callable[[Any, np.ndarray], np.ndarray] | None = None

    @property
    def own(self) -> dict[str, Any]:
        """The parts that a run of the case is started and resumed with."""
        return {"model": self.model} | ({} if self.objective is None else {"objective": self.objective})

    def config(self, folder: Path) -> Config:
        """Write the data to a folder, and return a configuration of a short training."""
        path, train = folder / "data.npz", N - 24
        parts = {"x_train": take(self.x, slice(train)), "x_test": take(self.x, slice(train, None))}
        np.savez(path, **{name: view for part, x in parts.items() for name, view in by_name(x, part).items()})
        return Config(
            **{
                "dataset": str(path),
                "epochs": 3,
                "batch_size": 12,
                "min_steps": 0,
                "devices": 1,
                "warmup_steps": 0,
                "learning_rate": 1e-2,
            }
            | self.settings
        )


def counts() -> Case:
    """scVI without its library sizes (Lopez et al. 2018): Poisson counts of ten genes."""
    x = RNG.poisson(np.exp(1 + 0.7 * Z @ RNG.normal(size=(2, 10))))
    return Case(x, tutorial_dense((10,), likelihood=PoissonLikelihood(), features=(16,)))


def half_missing() -> Case:
    """MIWAE (Mattei & Frellsen 2019): half of the values of a linear-Gaussian model are missing."""
    x = Z @ RNG.normal(size=(2, 6)) + NOISE * RNG.normal(size=(N, 6))
    missing = RNG.random(x.shape).argsort(1) < 3  # three of each example
    x = np.where(missing, np.nan, x).astype(np.float32)
    likelihood = partial(Normal, log_scale=jnp.log(NOISE), event_ndim=1)
    model = VAE(nn.Dense(8), DiagonalNormal(2, log_var=0.0), StandardNormal(2), nn.Dense(6), likelihood)

    def log_evidence(params: Any, x: np.ndarray) -> np.ndarray:
        """Return log N(x_observed; b, WᵀW + σ²I) of each example."""
        weights, bias = (np.float64(params["decoder"][name]) for name in ("kernel", "bias"))
        covariance, seen = weights.T @ weights + NOISE**2 * np.eye(6), ~np.isnan(x)
        normals = [multivariate_normal(bias[o], covariance[np.ix_(o, o)]) for o in seen]
        return np.array([normal.logpdf(row[o]) for normal, row, o in zip(normals, x, seen, strict=True)])

    return Case(x, model, settings={"objective": "iwae(num_samples=5)"}, log_evidence=log_evidence)


def images() -> np.ndarray:
    """Return blurred blobs, uint8 "n h w c"."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 6)] * 2), axis=-1)
    distance = np.square(grid[None] - Z[:, None, None] / 2).sum(-1, keepdims=True)
    return np.uint8(255 * np.exp(-2 * distance))


def with_discriminator() -> Case:
    """An adversarial autoencoder (Makhzani et al. 2016), whose discriminator has an optimiser of its own."""
    optimizer = "split(adam(), objective=every(adam(1e-3), steps=2))"
    settings = {"optimizer": optimizer, "validation": 0.25, "ema_decay": 0.5}
    return Case(images(), tutorial_dense(SHAPE, features=(16,)), Adversary(), settings)


def with_codebook() -> Case:
    """Codes that are running means, as in VQ-VAE (van den Oord et al. 2017)."""
    return Case(images(), stateful_vae(SHAPE, Quantised))


def with_statistics() -> Case:
    """Batch statistics and dropout."""
    return Case(images(), stateful_vae(SHAPE, Normalised))


class OfViews(nn.Module):
    """One layer over an image and the logarithms of counts."""

    @nn.compact
    def __call__(self, x: dict[str, jax.Array]) -> jax.Array:
        image, counts = x["image"], jnp.log1p(x["counts"])
        return nn.relu(nn.Dense(16)(jnp.concatenate([image.reshape(len(image), -1), counts], axis=-1)))


class ToViews(nn.Module):
    """A layer for each view."""

    @nn.compact
    def __call__(self, z: jax.Array) -> dict[str, jax.Array]:
        return {"image": nn.Dense(36)(z).reshape(-1, *SHAPE), "counts": nn.Dense(4)(z)}


def two_views() -> Case:
    """MVAE without its experts (Wu & Goodman 2018): an image, and counts of which some are missing."""
    table = RNG.poisson(np.exp(1 + 0.5 * Z @ RNG.normal(size=(2, 4)))).astype(np.float32)
    x = {"image": images(), "counts": np.where(RNG.random(table.shape) < 0.2, np.float32(np.nan), table)}
    heads = {"image": BernoulliLikelihood(), "counts": PoissonLikelihood()}
    return Case(x, VAE(OfViews(), DiagonalNormal(2), StandardNormal(2), ToViews(), heads))


CASES = {
    "counts": counts(),
    "half of the values missing": half_missing(),
    "a discriminator": with_discriminator(),
    "a codebook": with_codebook(),
    "batch statistics and dropout": with_statistics(),
    "an image and a vector": two_views(),
}
