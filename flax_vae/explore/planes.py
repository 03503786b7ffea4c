"""The latent space of a page: axes, planes of two axes, and the density of the posteriors on each plane."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from flax_vae.batches import BatchLike, as_one, unpack
from flax_vae.explore.functions import Functions
from flax_vae.models.binding import Params
from flax_vae.system.errors import UserError

DEPTH = 7.0  # nats below the peak at which the shading ends
_BATCH_SIZE = 100  # posteriors computed together
_SHADED = 12  # the number of most active dimensions whose pairs have a density
_FINE, _COARSE = 96, 64  # cells along an axis of a density, if there is one density, or several


@dataclass(frozen=True)
class Axes:
    """An orthogonal coordinate system for z: c = directions (z - origin).

    Attributes:
        name: "dimensions" or "principal".
        origin, directions: see above; directions are rows.
        middle, reach: centre and half-width of the points' range along each axis.
        mean, deviation: mean and standard deviation of the aggregated posterior along each axis.
        variance: variance of the posterior means along each axis, which is its activity.
    """

    name: str
    origin: Float[np.ndarray, " d"]
    directions: Float[np.ndarray, "d d"]
    middle: Float[np.ndarray, " d"]
    reach: Float[np.ndarray, " d"]
    mean: Float[np.ndarray, " d"]
    deviation: Float[np.ndarray, " d"]
    variance: Float[np.ndarray, " d"]

    @property
    def order(self) -> Int[np.ndarray, " d"]:
        """The indices of the axes, the most active first."""
        return np.argsort(-self.variance, kind="stable")


class Posteriors(NamedTuple):
    """The posteriors q(z | x) of images as normals N(centre, scale scaleᵀ); see `Functions.encode`."""

    centres: Float[np.ndarray, "n d"]
    scales: Float[np.ndarray, "n d m"]


@partial(jax.jit, static_argnums=0)
def _encode(model: nn.Module, params: Params, images: BatchLike) -> tuple[Float[Array, "n d"], Float[Array, "n d m"]]:
    def encode(item: Any) -> tuple[Array, Array]:
        x, context, _ = unpack(as_one(item), model)
        return Functions(model, params).encode(x, *(() if context is None else (context,)))

    return jax.lax.map(encode, images, batch_size=_BATCH_SIZE)


def posteriors(model: nn.Module, params: Params, images: BatchLike) -> Posteriors:
    """Return the posteriors of images; a conditional model takes a `Batch` with contexts.

    Raises:
        UserError: a posterior is not finite.
    """
    q = Posteriors(*map(np.asarray, _encode(model, params, images)))
    if not (np.isfinite(q.centres).all() and np.isfinite(q.scales).all()):
        raise UserError("The posteriors of test images are not finite, because the training diverged.")
    return q


def dimensions(q: Posteriors, shown: int) -> Axes:
    """Return the latent dimensions as axes, whose range covers the first `shown` posterior means."""
    size = q.centres.shape[1]
    return _axes("dimensions", np.zeros(size, np.float32), np.eye(size, dtype=np.float32), q, shown)


def principal_axes(q: Posteriors, shown: int) -> Axes:
    """Return the principal axes of the posterior means, from their mean, by descending variance."""
    mean = q.centres.mean(0)
    directions = np.linalg.svd(q.centres - mean, full_matrices=False)[2]
    if len(directions) < len(mean):  # fewer images than dimensions
        directions = np.linalg.qr(np.concatenate([directions, np.eye(len(mean), dtype=np.float32)]).T)[0].T
    upwards = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(1)])
    return _axes("principal", mean, directions * upwards[:, None], q, shown)


def _axes(name: str, origin: np.ndarray, directions: np.ndarray, q: Posteriors, shown: int) -> Axes:
    along = (q.centres - origin) @ directions.T
    within = np.square(directions @ q.scales).sum(-1)
    mean, variance = along.mean(0), along.var(0)
    deviation = np.sqrt(variance + within.mean(0))
    low = np.minimum(along[:shown].min(0), mean - 2.5 * deviation)
    high = np.maximum(along[:shown].max(0), mean + 2.5 * deviation)
    return Axes(name, origin, directions, (low + high) / 2, 0.54 * (high - low), mean, deviation, variance)


def pairs(axes: Axes, most: int) -> Iterator[tuple[int, int]]:
    """Return the planes with a density: all pairs of the `most` most active dimensions, or the first principal plane.

    A single dimension forms a pair with itself.
    """
    if len(axes.origin) == 1:
        return iter([(0, 0)])
    if axes.name == "principal":
        return iter([(0, 1)])
    return combinations(sorted(axes.order[:most].tolist()), 2)


@partial(jax.jit, static_argnums=4)
def _density(centres: Array, scales: Array, middle: Array, half: Array, size: int) -> Float[Array, "size size"]:
    """Return the mean density of normals, with centres "n 2" and scales "n 2 m", in the square `middle` ± `half`."""
    cell = 2 * half / size
    covariances = scales @ scales.swapaxes(1, 2) + jnp.eye(2) * (cell / 2) ** 2
    ticks = (jnp.arange(size) + 0.5) * cell - half

    def add(total: Array, q: tuple[Array, Array]) -> tuple[Array, None]:
        centre, ((a, b), (_, c)) = q
        u, v = ticks + middle[0] - centre[0], ticks[::-1, None] + middle[1] - centre[1]
        determinant = a * c - b * b
        distance = (c * u * u - 2 * b * u * v + a * v * v) / determinant
        return total + jnp.exp(-0.5 * distance) / (2 * jnp.pi * jnp.sqrt(determinant)), None

    return jax.lax.scan(add, jnp.zeros((size, size)), (centres, covariances))[0] / len(centres)


def density(q: Posteriors, axes: Axes, pair: tuple[int, int], size: int) -> Float[np.ndarray, "size size"]:
    """Return the marginal density of the aggregated posterior 1/n Σ_i q(z | x_i) on a plane, in square cells.

    The first axis points to the right, the second upwards. Each posterior is widened by a normal with a standard
    deviation of half a cell, so that none falls between cells. For a single dimension all rows are equal.
    """
    directions = axes.directions[list(pair)]
    half = float(axes.reach[list(pair)].max())
    centres, scales = (q.centres - axes.origin) @ directions.T, directions @ q.scales
    middle = axes.middle[list(pair)]
    if pair[0] != pair[1]:
        return np.asarray(_density(centres, scales, middle, half, size))
    flat = np.array([1, 0], np.float32)
    rows = np.asarray(_density(centres * flat, scales * flat[:, None], middle * flat, half, size))
    upwards = np.exp(-0.5) / np.sqrt(2 * np.pi) / (half / size)  # the density of N(0, half a cell) in the middle row
    return np.broadcast_to(rows[size // 2] / upwards, (size, size))


def shades(density: Float[np.ndarray, "s s"]) -> tuple[UInt8[np.ndarray, "s s"], float]:
    """Quantise a density to bytes b and return its peak: density = peak exp(DEPTH (b/255 - 1)), or less if b is 0."""
    peak = float(density.max())
    with np.errstate(divide="ignore"):
        level = 1 + np.log(density / peak) / DEPTH
    return np.rint(255 * level.clip(0, 1)).astype(np.uint8), peak


def latent_space(q: Posteriors, shown: int) -> tuple[dict[str, Any], UInt8[np.ndarray, "planes s s"]]:
    """Return the latent space as JSON (points, axes, planes), and the shading of the planes."""
    size = q.centres.shape[1]
    bases = [dimensions(q, shown), principal_axes(q, shown)] if size > 2 else [dimensions(q, shown)]
    planes = [(basis, pair) for basis, axes in enumerate(bases) for pair in pairs(axes, _SHADED)]
    cells = _FINE if len(planes) == 1 else _COARSE
    shadings = [shades(density(q, bases[basis], pair, cells)) for basis, pair in planes]
    halves = q.centres[:shown].astype("<f2")
    content = {
        "size": size,
        "points": {"table": [[halves.size, 2]], "weights": base64.b64encode(halves.tobytes()).decode()},
        "axes": [_axes_content(axes) for axes in bases],
        "planes": [
            {"axes": basis, "pair": pair, "peak": _short(peak)}
            for (basis, pair), (_, peak) in zip(planes, shadings, strict=True)
        ],
        "cells": cells,
        "depth": DEPTH,
    }
    return content, np.stack([shading for shading, _ in shadings])


def _axes_content(axes: Axes) -> dict[str, Any]:
    names = ("origin", "middle", "reach", "mean", "deviation", "variance")
    numbers = {name: _short(getattr(axes, name)) for name in names}
    directions = _short(axes.directions) if axes.name == "principal" else None
    return {"name": axes.name, "order": axes.order.tolist(), "directions": directions} | numbers


def _short(numbers: Any) -> Any:
    """Round floats to five digits."""
    if np.ndim(numbers):
        return [_short(number) for number in numbers]
    return float(f"{float(numbers):.5g}")
