"""Regularisers of the aggregated posterior, against sums by brute force."""

import jax
import numpy as np
import pytest
import scipy.stats
from known_models import inference_of, linear_gaussian, terms

from flax_vae import DIPVAE, BetaTCVAE, InfoVAE
from flax_vae.objectives.regularised import _mmd

KEY = jax.random.key(0)


def test_total_correlation_by_brute_force() -> None:
    """All pairs of images one by one, with SciPy."""
    result = terms(BetaTCVAE(num_images=50, beta=4.0), linear_gaussian(0.3))
    (layer,) = inference_of(linear_gaussian(0.3)).layers
    z, q = np.float64(layer.z[0]), layer.posterior
    for i in range(5):
        densities = scipy.stats.norm(np.float64(q.loc), np.exp(np.float64(q.log_scale))).pdf(z[i])  # "j d"
        log_q, log_q_dimensions = np.log(densities.prod(1).sum() / 250), np.log(densities.sum(0) / 250).sum()
        parts = {
            "mutual_information": np.log(densities[i].prod()) - log_q,
            "total_correlation": log_q - log_q_dimensions,
            "dimension_wise_kl": log_q_dimensions - scipy.stats.norm.logpdf(z[i]).sum(),
        }
        for name, value in parts.items():
            np.testing.assert_allclose(result[name][i], value, rtol=1e-4)
        expected = result["distortion"][i] + sum(parts.values()) + 3 * parts["total_correlation"]
        np.testing.assert_allclose(result["loss"][i], expected, rtol=1e-4)


def test_the_discrepancy_from_the_prior_by_brute_force() -> None:
    result = terms(InfoVAE(alpha=0.5, weight=20.0), linear_gaussian(0.3))
    draw_key, prior_key = jax.random.split(KEY)
    (layer,) = inference_of(linear_gaussian(0.3), key=draw_key).layers
    z, p = np.asarray(layer.z[0]), np.asarray(layer.prior.sample(prior_key, (5,)))
    expected = 0.0
    for i in range(5):
        for j in range(5):
            one, other, across = (np.exp(-((a[i] - b[j]) ** 2).sum() / 3) for a, b in ((z, z), (p, p), (z, p)))
            expected += (i != j) * (one + other) / 20 - 2 * across / 25
    np.testing.assert_allclose(result["mmd"], expected, rtol=1e-4)
    np.testing.assert_allclose(result["loss"], result["distortion"] + 0.5 * result["rate"] + 19.5 * expected, rtol=1e-5)


def test_the_discrepancy_of_the_prior_from_itself_is_zero_on_average() -> None:
    z, p = jax.random.normal(KEY, (2, 4_000, 16, 3))
    discrepancy = jax.jit(jax.vmap(_mmd))(z, p)
    assert abs(discrepancy.mean()) < 4 * discrepancy.std() / np.sqrt(4_000)


@pytest.mark.parametrize("of", ["means", "latents"])
def test_covariances_are_penalised(of: str) -> None:
    result = terms(DIPVAE(of, off_diagonal=3.0, diagonal=7.0), linear_gaussian(0.3))
    q = inference_of(linear_gaussian(0.3)).layers[0].posterior
    covariance = np.cov(np.float64(q.loc).T, bias=True)
    if of == "latents":
        covariance += np.diag(np.exp(2 * np.float64(q.log_scale)).mean(0))
    off_diagonal = covariance[~np.eye(3, dtype=bool)]
    expected = 3 * (off_diagonal**2).sum() + 7 * ((np.diag(covariance) - 1) ** 2).sum()
    np.testing.assert_allclose(result["penalty"], expected, rtol=1e-4)
    np.testing.assert_allclose(result["loss"], result["distortion"] + result["rate"] + expected, rtol=1e-5)
