"""Pixels that are 0 or 1, or anything between."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from flax_vae.distributions.pixels import Bernoulli, ContinuousBernoulli


def test_the_upper_share_of_a_bernoulli_is_its_probability() -> None:
    """Of a channel that is not known yet; one that is known, and one that comes later, change nothing."""
    p = Bernoulli(jnp.array([[[0.4, -1.3, 2.0]]]))
    found = p.upper_share(jnp.array([[[1, 0, 0]]]), jnp.array([[[1, 1, 0]]]), jnp.array([[[2, 2, 2]]]))
    np.testing.assert_allclose(found, scipy.special.expit(-1.3), rtol=1e-6)


@pytest.mark.parametrize("logit", [0.0, 1e-4, -0.49, 0.51, 3.0, -20.0, 60.0])
def test_a_continuous_bernoulli_is_a_density_with_its_mean(logit: float) -> None:
    """Integrals over [0, 1] of its own log-probability, and of its definition."""
    p = ContinuousBernoulli(jnp.full((1, 1, 1), logit))
    x = np.linspace(0, 1, 200_001)
    density = np.exp(np.float64(p.log_prob(jnp.asarray(x, jnp.float32).reshape(-1, 1, 1, 1))))
    np.testing.assert_allclose(scipy.integrate.simpson(density, x=x), 1.0, rtol=2e-5)
    np.testing.assert_allclose(scipy.integrate.simpson(x * density, x=x), p.mean().item(), rtol=2e-5)
    draws = np.asarray(p.sample(jax.random.key(0), (20_000,))).ravel()
    expected = scipy.integrate.cumulative_simpson(density, x=x, initial=0)
    assert scipy.stats.kstest(draws, lambda value: np.interp(value, x, expected)).pvalue > 1e-3
    assert p.pixel_levels is None
