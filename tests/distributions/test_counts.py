"""Counts against SciPy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import digamma

from flax_vae import NegativeBinomial, Poisson

COUNTS = np.array([0, 1, 2, 15, 16, 17, 255, 10_000, 1_000_000], np.float32)


@pytest.mark.parametrize("ratio", [1e-4, 0.5, 1.0, 1.001, 3.0])
def test_poisson_counts_have_scipys_probabilities(ratio: float) -> None:
    """Large counts are included, for which x log λ and log x! alone have errors of a nat."""
    log_rate = np.log(ratio * np.maximum(COUNTS, 0.3)).astype(np.float32)
    result = Poisson(jnp.asarray(log_rate), event_ndim=0).log_prob(jnp.asarray(COUNTS))
    reference = scipy.stats.poisson.logpmf(COUNTS.astype(np.float64), np.exp(log_rate.astype(np.float64)))
    # An error of one rounding of the log-rate is a relative error of the rate.
    rounding = np.abs(COUNTS - np.exp(log_rate)) * np.abs(log_rate) * 1e-7
    np.testing.assert_allclose(result, reference, rtol=1e-5, atol=2e-5 + rounding.max())


def test_poisson_gradients_are_finite_and_exact() -> None:
    """d log p / d log λ = x - λ, also for x = 0 and for rates beyond the range of float32."""
    log_rate = jnp.asarray([-1.0, 0.0, 2.0, 2.7, 2.8, 3.0, 5.0, 9.0, 14.0])
    gradient = jax.grad(lambda log_rate: Poisson(log_rate).log_prob(jnp.asarray(COUNTS)))(log_rate)
    np.testing.assert_allclose(gradient, COUNTS - np.exp(log_rate), rtol=1e-4, atol=1e-5)
    for extreme in (-1e3, 1e3):
        value, slope = jax.value_and_grad(lambda r: Poisson(r).log_prob(jnp.asarray(COUNTS)))(jnp.full(9, extreme))
        assert np.isfinite(value)
        assert np.isfinite(slope).all()


def test_poisson_draws_have_the_rate_as_mean_and_variance() -> None:
    p = Poisson(jnp.log(jnp.asarray([0.2, 3.0, 50.0])))
    draws = np.asarray(p.sample(jax.random.key(0), (20_000,)))
    np.testing.assert_array_equal(draws, np.floor(draws))
    np.testing.assert_allclose(draws.mean(0), p.mean(), rtol=0.03)
    np.testing.assert_allclose(draws.var(0), p.mean(), rtol=0.05)


MEANS = np.array([1e-3, 0.5, 1.0, 12.0, 1e3, 9_999.0, 1e6], np.float32)
DISPERSIONS = np.array([1e-4, 0.02, 1.0, 15.9, 16.1, 500.0, 1e4, 1e6], np.float32)
COUNT, LOG_MEAN, LOG_DISPERSION = (
    np.asarray(grid, np.float32) for grid in np.meshgrid(COUNTS, np.log(MEANS), np.log(DISPERSIONS), indexing="ij")
)


def exact_negative_binomial(log_mean: np.ndarray, log_dispersion: np.ndarray) -> np.ndarray:
    """Return SciPy's log-probabilities of `COUNT`, in float64."""
    mean, dispersion = np.exp(np.float64(log_mean)), np.exp(np.float64(log_dispersion))
    return scipy.stats.nbinom.logpmf(COUNT, dispersion, dispersion / (dispersion + mean))


def test_negative_binomial_counts_have_scipys_probabilities() -> None:
    """For counts and means up to a million, and dispersions from 1e-4 to 1e6.

    The error is at most 2e-5 nats, or 2e-6 of the log-probability. Differences of log-gammas in float32 have errors of
    up to four nats, also for log-probabilities near 0.
    """
    p = NegativeBinomial(jnp.asarray(LOG_MEAN), jnp.asarray(LOG_DISPERSION), event_ndim=0)
    result, reference = p.log_prob(jnp.asarray(COUNT)), exact_negative_binomial(LOG_MEAN, LOG_DISPERSION)
    np.testing.assert_allclose(result, reference, rtol=2e-6, atol=2e-5)


@pytest.mark.slow
def test_negative_binomial_gradients_are_exact() -> None:
    """d log p / d log μ = θ (x - μ) / (θ + μ), and that by log θ with digammas, up to one rounding of log x."""

    def total(log_mean: jax.Array, log_dispersion: jax.Array) -> jax.Array:
        return NegativeBinomial(log_mean, log_dispersion, event_ndim=0).log_prob(jnp.asarray(COUNT)).sum()

    gradients = jax.grad(total, argnums=(0, 1))(jnp.asarray(LOG_MEAN), jnp.asarray(LOG_DISPERSION))
    mean, dispersion = np.exp(np.float64(LOG_MEAN)), np.exp(np.float64(LOG_DISPERSION))
    by_mean = dispersion * (COUNT - mean) / (dispersion + mean)
    steps = digamma(COUNT + dispersion) - digamma(dispersion)
    by_dispersion = dispersion * (steps - np.log1p(mean / dispersion) - (COUNT - mean) / (dispersion + mean))
    rounding = 2e-6 * COUNT * dispersion / (dispersion + mean)
    for gradient, expected in zip(gradients, (by_mean, by_dispersion), strict=True):
        assert (np.abs(gradient - expected) < 1e-3 + 1e-4 * np.abs(expected) + rounding).all()
    for extreme in (-1e3, 1e3):
        value, slopes = jax.value_and_grad(total, argnums=(0, 1))(*2 * [jnp.full(COUNT.shape, extreme)])
        assert np.isfinite(value)
        assert all(np.isfinite(slope).all() for slope in slopes)


@pytest.mark.slow
def test_negative_binomial_draws_have_its_mean_and_variance() -> None:
    """With a large dispersion they are Poisson counts; with a tiny one nearly all are 0."""
    mean, dispersion = np.array([3.0, 3.0, 40.0, 5.0]), np.array([0.5, 1e6, 10.0, 1e-4])
    p = NegativeBinomial(jnp.log(mean), jnp.log(dispersion))
    draws = np.asarray(p.sample(jax.random.key(0), (40_000,)))
    np.testing.assert_array_equal(draws, np.floor(draws))
    np.testing.assert_allclose(p.mean(), mean, rtol=1e-5)
    np.testing.assert_allclose(draws[:, :3].mean(0), mean[:3], rtol=0.05)
    np.testing.assert_allclose(draws[:, :3].var(0), (mean + mean**2 / dispersion)[:3], rtol=0.1)
    assert (draws[:, 3] == 0).mean() > 0.99
