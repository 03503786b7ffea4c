"""Densities against SciPy, and draws against their own density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from flax_vae import Bernoulli, Normal, kl_divergence

RNG = np.random.default_rng(0)


def normal(shape: tuple[int, ...], event_ndim: int = 1) -> Normal:
    loc, log_scale = RNG.normal(size=(2, *shape)).astype(np.float32)
    return Normal(jnp.asarray(loc), jnp.asarray(log_scale), event_ndim)


@pytest.mark.parametrize(("shape", "event_ndim"), [((5, 3), 1), ((4, 2, 3, 1), 3)])
def test_normal_log_prob_is_scipys(shape: tuple[int, ...], event_ndim: int) -> None:
    p = normal(shape, event_ndim)
    x = RNG.normal(size=(7, *shape)).astype(np.float32)
    expected = scipy.stats.norm.logpdf(x, p.loc, np.exp(p.log_scale)).sum(tuple(range(-event_ndim, 0)))
    np.testing.assert_allclose(p.log_prob(jnp.asarray(x)), expected, rtol=2e-5)


def test_bernoulli_log_prob_is_scipys() -> None:
    logits = RNG.normal(size=(4, 2, 3, 1)).astype(np.float32)
    x = RNG.integers(0, 2, size=(6, 4, 2, 3, 1))
    expected = scipy.stats.bernoulli.logpmf(x, scipy.special.expit(logits)).sum((-3, -2, -1))
    np.testing.assert_allclose(
        Bernoulli(jnp.asarray(logits)).log_prob(jnp.asarray(x, jnp.float32)), expected, rtol=1e-5
    )


def test_bernoulli_of_grey_values_is_minus_their_cross_entropy() -> None:
    logits, x = RNG.normal(size=(3, 2, 2, 1)), RNG.uniform(size=(3, 2, 2, 1))
    p = scipy.special.expit(logits)
    expected = (x * np.log(p) + (1 - x) * np.log1p(-p)).sum((1, 2, 3))
    np.testing.assert_allclose(
        Bernoulli(jnp.asarray(logits, jnp.float32)).log_prob(jnp.asarray(x)), expected, rtol=1e-5
    )


@pytest.mark.parametrize("logit", [-100.0, 100.0])
def test_bernoulli_stays_finite_where_probabilities_round_to_zero_or_one(logit: float) -> None:
    def log_prob(logits: jax.Array) -> jax.Array:
        return Bernoulli(logits).log_prob(jnp.zeros((1, 1, 1)))

    value, slope = jax.value_and_grad(log_prob)(jnp.full((1, 1, 1), logit))
    np.testing.assert_allclose(value, -max(logit, 0.0), atol=1e-6)
    np.testing.assert_allclose(slope.item(), -float(logit > 0), atol=1e-6)


@pytest.mark.parametrize("logit", [0.0, 1e-3, -1e-3, 5.0, -5.0, 30.0, -30.0])
def test_bernoulli_gradient_is_x_minus_the_mean(logit: float) -> None:
    logits = jnp.full((1, 2, 1), logit)
    x = jnp.array([0.3, 1.0]).reshape(1, 2, 1)
    gradient = jax.grad(lambda logits: Bernoulli(logits).log_prob(x))(logits)
    np.testing.assert_allclose(gradient, np.asarray(x) - scipy.special.expit(np.float64(logit)), rtol=1e-6, atol=1e-7)


def test_kl_between_normals_is_the_integral_of_its_definition() -> None:
    q, p = normal((3, 2)), normal((2,))
    for i in range(3):
        expected = 0.0
        for j in range(2):
            one = scipy.stats.norm(q.loc[i, j], np.exp(q.log_scale[i, j]))
            other = scipy.stats.norm(p.loc[j], np.exp(p.log_scale[j]))
            expected += one.expect(lambda z, one=one, other=other: one.logpdf(z) - other.logpdf(z))
        np.testing.assert_allclose(kl_divergence(q, p)[i], expected, rtol=1e-5)


def test_kl_keeps_its_digits_close_to_the_prior() -> None:
    log_scale = 1e-4  # ½ (σ² - 1 - log σ²) = log_scale² + O(log_scale³): far below the rounding of 1
    q = Normal(jnp.zeros(1), jnp.full(1, log_scale))
    np.testing.assert_allclose(kl_divergence(q, Normal(jnp.zeros(1), jnp.zeros(1))), log_scale**2, rtol=2e-3)


def test_draws_have_the_density_that_log_prob_states() -> None:
    p = Normal(jnp.array([1.0, -2.0]), jnp.log(jnp.array([0.5, 3.0])))
    z = np.asarray(p.sample(jax.random.key(0), (20_000,)))
    assert z.shape == (20_000, 2)
    for j in range(2):
        assert scipy.stats.kstest(z[:, j], scipy.stats.norm(p.loc[j], np.exp(p.log_scale[j])).cdf).pvalue > 1e-3
    bits = Bernoulli(jnp.full((1, 1, 2), 0.7)).sample(jax.random.key(1), (20_000,))
    np.testing.assert_allclose(bits.mean((0, 1, 2)), scipy.special.expit(0.7), atol=0.015)


def test_temperature_scales_the_standard_deviation() -> None:
    p = normal((2,)).tempered(0.5)
    z = np.asarray(p.sample(jax.random.key(0), (50_000,)))
    np.testing.assert_allclose(z.std(0), np.exp(p.log_scale), rtol=0.02)
    np.testing.assert_allclose(normal((2,)).tempered(1.0).log_scale.shape, (2,))


def test_draws_are_reparameterised() -> None:
    def draw(loc: jax.Array, log_scale: jax.Array) -> jax.Array:
        return Normal(loc, log_scale).sample(jax.random.key(3)).sum()

    loc, log_scale = jnp.array([0.3]), jnp.array([-0.2])
    noise = (draw(loc, log_scale) - 0.3) / np.exp(-0.2)
    d_loc, d_log_scale = jax.grad(draw, (0, 1))(loc, log_scale)
    np.testing.assert_allclose(d_loc, 1.0)
    np.testing.assert_allclose(d_log_scale, np.exp(-0.2) * noise, rtol=1e-5)
