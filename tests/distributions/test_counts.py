"""Counts against SciPy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from flax_vae import Poisson

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
