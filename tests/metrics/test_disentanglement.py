"""Disentanglement: known scores of synthetic latents, and sums by hand."""

import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats

from flax_vae.metrics.disentanglement import concentration, dci, mig, sap

SIZES = (3, 5, 4, 10)
FACTORS = np.indices(SIZES).reshape(len(SIZES), -1).T.repeat(3, axis=0)
UNIT = (FACTORS - FACTORS.mean(0)) / FACTORS.std(0)
NOISE = np.random.default_rng(0).normal(size=UNIT.shape)
HIGHEST_SAP = np.mean([1 - 1 / size for size in SIZES])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_factors_themselves_score_highest(dtype: type) -> None:
    latents = (FACTORS[:, [2, 0, 3, 1]] * [0.01, -3, 1e4, 1] + [0, 5, -7, 1]).astype(dtype)
    assert mig(latents, FACTORS) == pytest.approx(1)
    assert sap(latents, FACTORS) == pytest.approx(HIGHEST_SAP)
    assert dci(latents, FACTORS) == pytest.approx((1, 1, 1))
    assert dci(np.column_stack([NOISE.astype(dtype), latents]), FACTORS) == pytest.approx((1, 1, 1))


def test_noise_scores_near_zero() -> None:
    assert 0 <= mig(NOISE, FACTORS) < 0.005
    assert 0 <= sap(NOISE, FACTORS) < 0.02
    disentanglement, completeness, informativeness = dci(NOISE, FACTORS)
    assert 0 <= disentanglement < 0.01
    assert 0 <= completeness < 0.01
    assert informativeness == pytest.approx(np.mean([1 / size for size in SIZES]), abs=0.03)  # by chance


def test_two_factors_mixed_score_lower() -> None:
    """Two dimensions rotated by 45 degrees are equally informative about two factors; the other two are unchanged."""
    latents = UNIT.copy()
    latents[:, 2:] = UNIT[:, 2:] @ (np.array([[1, -1], [1, 1]]) / np.sqrt(2))
    assert mig(latents, FACTORS) == pytest.approx(0.5, abs=0.01)
    assert sap(latents, FACTORS) < 0.5 < HIGHEST_SAP
    disentanglement, completeness, informativeness = dci(latents, FACTORS)
    assert disentanglement == pytest.approx(0.75, abs=0.01)  # the two are still separated from the other factors
    assert completeness == pytest.approx(0.75, abs=0.01)
    assert informativeness > 0.99


@pytest.mark.slow
def test_scores_are_invariant_to_order_scale_and_constant_dimensions() -> None:
    latents = UNIT + 0.2 * NOISE
    for other in (
        latents[:, [3, 1, 0, 2]],
        latents * [1, 8, 0.5, 64],
        np.column_stack([latents, np.ones(len(latents))]),
    ):
        assert mig(other, FACTORS) == pytest.approx(mig(latents, FACTORS))
        assert sap(other, FACTORS) == pytest.approx(sap(latents, FACTORS))
    assert dci(latents * [1, 8, 0.5, 64], FACTORS) == dci(latents, FACTORS)
    assert dci(latents[:, [3, 1, 0, 2]], FACTORS) == pytest.approx(dci(latents, FACTORS), abs=1e-3)  # except for ties
    idle = np.column_stack([FACTORS, np.ones(len(FACTORS))])
    assert dci(idle, FACTORS) == pytest.approx((1, 1, 1))
    varied = np.column_stack([FACTORS[:, [2, 0, 3, 1]], np.full(len(FACTORS), 7)])  # and a factor with one value
    for metric in (mig, sap, dci):
        assert metric(latents, varied) == pytest.approx(metric(latents, FACTORS))


def information(a: list[int], b: list[int]) -> float:
    """Return the mutual information in nats, summed term by term."""
    joint, of_a, of_b, n = Counter(zip(a, b, strict=True)), Counter(a), Counter(b), len(a)
    return sum(m / n * math.log(m * n / (of_a[i] * of_b[j])) for (i, j), m in joint.items())


def test_mig_of_a_small_table() -> None:
    table = np.random.default_rng(1).integers(0, 3, (12, 5)).tolist()
    (*z, v, w), latents = zip(*table, strict=True), np.array(table, float)[:, :3]
    gaps = []
    for factor in (v, w):
        first, second, _ = sorted((information(latent, factor) for latent in z), reverse=True)
        gaps.append((first - second) / information(factor, factor))
    assert min(gaps) > 0
    assert mig(latents, np.array([v, w]).T) == pytest.approx(np.mean(gaps))


def test_sap_by_hand() -> None:
    z, v = np.arange(10.0)[:, None], np.array([0, 0, 0, 0, 1, 0, 1, 1, 1, 1])[:, None]
    assert sap(z, v) == pytest.approx(0.9 - 0.5)  # the threshold 3.5 or 5.5 misclassifies a fifth of one class
    assert sap(z, (z > 7).astype(int)) == pytest.approx(1 - 0.5)  # classes of eight and two have equal weight


def test_concentration_by_hand() -> None:
    importances = np.array([[0.2, 0.2], [0.0, 0.6], [0.0, 0.0]])
    assert concentration(importances) == pytest.approx(0.4 * 0 + 0.6 * 1)
    of_second = 1 - scipy.stats.entropy([0.25, 0.75, 0], base=3)
    assert concentration(importances.T) == pytest.approx(0.2 * 1 + 0.8 * of_second)
    assert concentration(np.eye(3)) == 1
    assert concentration(np.ones((3, 4))) == pytest.approx(0)


def test_one_dimension_and_one_factor() -> None:
    one, factor = UNIT[:, :1], FACTORS[:, :1]
    assert mig(one, factor) == pytest.approx(1)
    assert sap(one, factor) == pytest.approx(2 / 3)
    assert dci(one, factor) == pytest.approx((1, 1, 1))
    assert mig(one, FACTORS) == pytest.approx(1 / 4)
    assert dci(one, FACTORS)[:2] == pytest.approx((0, 1))


def test_constant_latents_score_zero() -> None:
    constant = np.full((len(FACTORS), 2), 3.0)
    assert mig(constant, FACTORS) == sap(constant, FACTORS) == 0
    assert dci(constant, FACTORS)[:2] == (0, 0)


@pytest.mark.parametrize("metric", [mig, sap, dci])
def test_factors_that_do_not_vary_are_refused(metric) -> None:
    with pytest.raises(ValueError, match="no factor"):
        metric(NOISE, np.ones_like(FACTORS))
