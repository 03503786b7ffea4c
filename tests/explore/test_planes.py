"""Axes and densities of the latent space, compared with their definitions."""

import numpy as np
import pytest
from explored import random_params
from scipy.stats import multivariate_normal, norm

from flax_vae import Config, encode
from flax_vae.batches import Batch
from flax_vae.data import one_hot
from flax_vae.explore.planes import (
    DEPTH,
    Posteriors,
    density,
    dimensions,
    pairs,
    posteriors,
    principal_axes,
    shades,
)
from flax_vae.runs.models import make_model

SPREAD = np.float32([0.2, 2.0, 1.0, 0.0])


def random_posteriors(n: int = 40, d: int = 4) -> Posteriors:
    random = np.random.default_rng(0)
    centres = random.normal(size=(n, d)) * SPREAD[:d] + 0.5
    return Posteriors(np.float32(centres), np.float32(0.3 * random.normal(size=(n, d, d)) + 0.4 * np.eye(d)))


def test_dimensions_are_ordered_by_their_activity_and_reach_all_points() -> None:
    q = random_posteriors()
    axes = dimensions(q, 10)
    np.testing.assert_array_equal(axes.order, [1, 2, 0, 3])
    assert (np.abs(q.centres[:10] - axes.middle) < axes.reach).all()
    draws = q.centres[:, None] + np.einsum("ndm,ksm->nkd", q.scales, np.random.default_rng(1).normal(size=(4000, 1, 4)))
    np.testing.assert_allclose(axes.deviation, draws.reshape(-1, 4).std(0), rtol=0.03)
    assert list(pairs(axes, 3)) == [(0, 1), (0, 2), (1, 2)]
    assert list(pairs(dimensions(random_posteriors(d=1), 5), 3)) == [(0, 0)]


@pytest.mark.parametrize("n", [40, 3])
def test_principal_axes_are_orthogonal_and_uncorrelated(n: int) -> None:
    """Also with fewer images than dimensions."""
    q = random_posteriors(n)
    axes = principal_axes(q, n)
    np.testing.assert_allclose(axes.directions @ axes.directions.T, np.eye(4), atol=1e-5)
    along = (q.centres - axes.origin) @ axes.directions.T
    covariance = np.cov(along.T, bias=True)
    np.testing.assert_allclose(covariance, np.diag(axes.variance), atol=1e-4)
    assert (np.diff(axes.variance) < 1e-5).all()
    assert list(pairs(axes, 3)) == [(0, 1)]


@pytest.mark.parametrize("name", ["dimensions", "principal"])
def test_a_density_is_the_mean_of_the_posteriors(name: str) -> None:
    q, pair, size = random_posteriors(), (0, 1), 48
    axes = dimensions(q, 40) if name == "dimensions" else principal_axes(q, 40)
    actual, half = density(q, axes, pair, size), axes.reach[[0, 1]].max()
    cell = 2 * half / size
    directions = axes.directions[:2]
    centres, scales = (q.centres - axes.origin) @ directions.T, directions @ q.scales
    ticks = (np.arange(size) + 0.5) * cell - half
    places = np.stack(np.meshgrid(axes.middle[0] + ticks, axes.middle[1] + ticks[::-1]), axis=-1)
    widened = [scale @ scale.T + (cell / 2) ** 2 * np.eye(2) for scale in scales]
    densities = [multivariate_normal(c, s).pdf(places) for c, s in zip(centres, widened, strict=True)]
    np.testing.assert_allclose(actual, np.mean(densities, 0), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(actual.sum() * cell**2, 1, atol=0.03)


def test_the_density_of_one_dimension_is_the_same_in_all_rows() -> None:
    q = random_posteriors(d=1)
    axes = dimensions(q, 40)
    actual = density(q, axes, (0, 0), 64)
    assert np.ptp(actual, axis=0).max() == 0
    cell = 2 * axes.reach[0] / 64
    ticks = axes.middle[0] + (np.arange(64) + 0.5) * cell - axes.reach[0]
    deviations = np.sqrt(q.scales[:, 0, 0] ** 2 + (cell / 2) ** 2)
    densities = [norm(centre, deviation).pdf(ticks) for (centre,), deviation in zip(q.centres, deviations, strict=True)]
    np.testing.assert_allclose(actual[0], np.mean(densities, 0), rtol=1e-3, atol=1e-5)


def test_shades_are_densities_to_a_hundredth() -> None:
    q = random_posteriors()
    values = density(q, dimensions(q, 40), (0, 1), 32)
    actual, peak = shades(values)
    restored = peak * np.exp(DEPTH * (actual / 255 - 1))
    assert actual.max() == 255
    np.testing.assert_allclose(restored[actual > 0], values[actual > 0], rtol=0.02)
    assert (values[actual == 0] < 0.001 * peak).all()


@pytest.mark.parametrize("conditional", [False, True])
def test_posteriors_equal_those_of_the_model(conditional: bool) -> None:
    shape = (5, 4, 1)
    model = make_model(Config(preset="tutorial_dense(features=(8,))", latent_dim=3, conditional=conditional), shape)
    params = random_params(model, shape, 4 * conditional)
    images = np.random.default_rng(0).integers(0, 256, (7, *shape), np.uint8)
    batch = Batch(images, one_hot([0, 1, 2, 3, 0, 1, 2], 4) if conditional else None)
    q, expected = posteriors(model, params, batch), encode(model, params, batch)
    np.testing.assert_allclose(q.centres, expected.mean(), atol=1e-5)
    for scale, logs in zip(q.scales, expected.log_scale, strict=True):
        np.testing.assert_allclose(scale, np.diag(np.exp(logs)), atol=1e-5)
