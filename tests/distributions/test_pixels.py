"""Binary pixels and pixels in [0, 1], against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from flax_vae.distributions import Bernoulli, ContinuousBernoulli

RNG = np.random.default_rng(0)
log_prob = jax.jit(lambda p, x: p.log_prob(x))
mean_and_draws = jax.jit(lambda p, key: (p.mean(), p.sample(key, (20_000,))))


@jax.jit
def value_and_slope(logits: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.value_and_grad(lambda logits: Bernoulli(logits).log_prob(x))(logits)


def test_bernoulli_log_prob_equals_scipys() -> None:
    logits = RNG.normal(size=(4, 2, 3, 1)).astype(np.float32)
    x = RNG.integers(0, 2, size=(6, 4, 2, 3, 1))
    expected = scipy.stats.bernoulli.logpmf(x, scipy.special.expit(logits)).sum((-3, -2, -1))
    np.testing.assert_allclose(log_prob(Bernoulli(jnp.asarray(logits)), np.float32(x)), expected, rtol=1e-5)


def test_bernoulli_of_grey_values_is_minus_their_cross_entropy() -> None:
    logits, x = RNG.normal(size=(3, 2, 2, 1)), RNG.uniform(size=(3, 2, 2, 1))
    p = scipy.special.expit(logits)
    expected = (x * np.log(p) + (1 - x) * np.log1p(-p)).sum((1, 2, 3))
    found = log_prob(Bernoulli(jnp.asarray(logits, jnp.float32)), np.float32(x))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("logit", [-100.0, 100.0])
def test_bernoulli_is_finite_where_probabilities_round_to_zero_or_one(logit: float) -> None:
    value, slope = value_and_slope(jnp.full((1, 2, 1), logit), jnp.zeros((1, 2, 1)))
    np.testing.assert_allclose(value, -2 * max(logit, 0.0), atol=1e-6)
    np.testing.assert_allclose(slope, np.full((1, 2, 1), -float(logit > 0)), atol=1e-6)


@pytest.mark.parametrize("logit", [0.0, 1e-3, -1e-3, 5.0, -5.0, 30.0, -30.0])
def test_bernoulli_gradient_is_x_minus_the_mean(logit: float) -> None:
    x = np.float32([0.3, 1.0]).reshape(1, 2, 1)
    _, gradient = value_and_slope(jnp.full((1, 2, 1), logit), x)
    np.testing.assert_allclose(gradient, x - scipy.special.expit(np.float64(logit)), rtol=1e-6, atol=1e-7)


def test_bernoulli_draws_have_its_mean() -> None:
    _, bits = mean_and_draws(Bernoulli(jnp.full((1, 1, 2), 0.7)), jax.random.key(1))
    np.testing.assert_allclose(np.asarray(bits).mean((0, 1, 2)), scipy.special.expit(0.7), atol=0.015)


def test_the_upper_share_of_a_bernoulli_is_its_probability() -> None:
    """For an undecoded channel; a decoded channel and a later one change nothing."""
    p = Bernoulli(jnp.array([[[0.4, -1.3, 2.0]]]))
    bounds = (jnp.array([[bound]]) for bound in ([1, 0, 0], [1, 1, 0], [2, 2, 2]))
    share = jax.jit(lambda p, *bounds: p.upper_share(*bounds))(p, *bounds)
    np.testing.assert_allclose(share, scipy.special.expit(-1.3), rtol=1e-6)


@pytest.mark.parametrize("logit", [0.0, 1e-4, -0.49, 0.51, 3.0, -20.0, 60.0])
def test_a_continuous_bernoulli_is_a_density_with_its_mean(logit: float) -> None:
    """Integrates its log-probability, and the definition of the mean, over [0, 1]."""
    p = ContinuousBernoulli(jnp.full((1, 1, 1), logit))
    x = np.linspace(0, 1, 200_001)
    density = np.exp(np.float64(log_prob(p, np.float32(x).reshape(-1, 1, 1, 1))))
    mean, draws = (np.asarray(values).ravel() for values in mean_and_draws(p, jax.random.key(0)))
    np.testing.assert_allclose(scipy.integrate.simpson(density, x=x), 1.0, rtol=2e-5)
    np.testing.assert_allclose(scipy.integrate.simpson(x * density, x=x), mean[0], rtol=2e-5)
    expected = scipy.integrate.cumulative_simpson(density, x=x, initial=0)
    assert scipy.stats.kstest(draws, lambda value: np.interp(value, x, expected)).pvalue > 1e-3
    assert p.pixel_levels is None
