"""Mixtures against sums over their components."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from flax_vae.distributions import Mixture, Normal

RNG = np.random.default_rng(0)


def test_log_prob_is_the_weighted_sum_over_components() -> None:
    loc, log_scale = RNG.normal(size=(2, 4, 3)).astype(np.float32)
    logits, x = RNG.normal(size=4).astype(np.float32), RNG.normal(size=(5, 6, 3)).astype(np.float32)
    densities = scipy.stats.norm(loc, np.exp(log_scale)).pdf(x[..., None, :]).prod(-1)
    expected = np.log(densities @ scipy.special.softmax(logits))
    p = Mixture(jnp.asarray(logits), Normal(jnp.asarray(loc), jnp.asarray(log_scale)))
    np.testing.assert_allclose(jax.jit(p.log_prob)(x), expected, rtol=1e-4)
    np.testing.assert_allclose(p.mean(), scipy.special.softmax(logits) @ loc, rtol=1e-5)


def test_density_and_gradients_of_a_large_mixture_are_precise() -> None:
    """At the size of a VampPrior, with more pairs of draws and components than are processed at a time; in float64."""
    loc, log_scale = RNG.normal(size=(500, 40)), RNG.normal(-1, 0.3, size=(500, 40))
    x = loc[RNG.integers(500, size=77)] + 0.5 * RNG.normal(size=(77, 40))
    standardised = (x[:, None] - loc) * np.exp(-log_scale)
    log_densities = scipy.stats.norm.logpdf(standardised).sum(-1) - log_scale.sum(-1) - np.log(500)
    expected = scipy.special.logsumexp(log_densities, axis=1)
    share = np.exp(log_densities - expected[:, None])[..., None]
    pull = share * standardised * np.exp(-log_scale)

    def total(x: Any, loc: Any, log_scale: Any) -> tuple[jax.Array, jax.Array]:
        log_prob = Mixture(jnp.zeros(500), Normal(loc, log_scale)).log_prob(x)
        return log_prob.sum(), log_prob

    arguments = [jnp.asarray(array, jnp.float32) for array in (x, loc, log_scale)]
    (_, log_prob), gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(*arguments)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)
    expected_gradients = -pull.sum(1), pull.sum(0), (share * (standardised**2 - 1)).sum(0)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_have_the_density_of_log_prob(temperature: float) -> None:
    components = Normal(jnp.array([[-2.0], [1.0]]), jnp.log(jnp.array([[0.5], [1.5]])))
    p = Mixture(jnp.array([0.0, 1.0]), components).tempered(temperature)
    grid = np.linspace(-12, 12, 20_001)
    z, log_prob = jax.jit(lambda p, grid: (p.sample(jax.random.key(0), (20_000,)), p.log_prob(grid)))(
        p, jnp.asarray(grid, jnp.float32)[:, None]
    )
    cdf = scipy.integrate.cumulative_simpson(np.exp(np.float64(log_prob)), x=grid, initial=0)
    np.testing.assert_allclose(cdf[-1], 1.0, rtol=1e-4)
    assert scipy.stats.kstest(np.asarray(z)[:, 0], lambda value: np.interp(value, grid, cdf)).pvalue > 1e-3
