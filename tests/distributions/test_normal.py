"""Normals with independent and with correlated dimensions, against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from flax_vae.distributions import MultivariateNormal, Normal

RNG = np.random.default_rng(0)


def normal(shape: tuple[int, ...], event_ndim: int = 1) -> Normal:
    loc, log_scale = RNG.normal(size=(2, *shape)).astype(np.float32)
    return Normal(jnp.asarray(loc), jnp.asarray(log_scale), event_ndim)


def correlated(*batch: int) -> MultivariateNormal:
    """Return a normal over three dimensions with random correlations."""
    loc, rows = RNG.normal(size=(*batch, 3)), RNG.normal(size=(*batch, 3, 3))
    scale_tril = np.tril(rows, -1) + np.exp(0.5 * RNG.normal(size=(*batch, 3, 1))) * np.eye(3)
    return MultivariateNormal(jnp.asarray(loc, jnp.float32), jnp.asarray(scale_tril, jnp.float32))


def covariance(p: MultivariateNormal) -> np.ndarray:
    return np.float64(p.scale_tril) @ np.float64(p.scale_tril).swapaxes(-1, -2)


@pytest.mark.parametrize(("shape", "event_ndim"), [((5, 3), 1), ((4, 2, 3, 1), 3)])
def test_log_prob_equals_scipys(shape: tuple[int, ...], event_ndim: int) -> None:
    p = normal(shape, event_ndim)
    x = RNG.normal(size=(7, *shape)).astype(np.float32)
    expected = scipy.stats.norm.logpdf(x, p.loc, np.exp(p.log_scale)).sum(tuple(range(-event_ndim, 0)))
    np.testing.assert_allclose(jax.jit(p.log_prob)(x), expected, rtol=2e-5)


def test_draws_have_the_density_of_log_prob() -> None:
    p = Normal(jnp.array([1.0, -2.0]), jnp.log(jnp.array([0.5, 3.0])))
    z = np.asarray(p.sample(jax.random.key(0), (20_000,)))
    assert z.shape == (20_000, 2)
    for j in range(2):
        assert scipy.stats.kstest(z[:, j], scipy.stats.norm(p.loc[j], np.exp(p.log_scale[j])).cdf).pvalue > 1e-3


def test_temperature_scales_the_standard_deviation() -> None:
    p = normal((2,)).tempered(0.5)
    z = np.asarray(p.sample(jax.random.key(0), (50_000,)))
    np.testing.assert_allclose(z.std(0), np.exp(p.log_scale), rtol=0.02)
    np.testing.assert_allclose(normal((2,)).tempered(1.0).log_scale.shape, (2,))


def test_draws_are_reparameterised() -> None:
    def draw(loc: jax.Array, log_scale: jax.Array) -> jax.Array:
        return Normal(loc, log_scale).sample(jax.random.key(3)).sum()

    loc, log_scale = jnp.array([0.3]), jnp.array([-0.2])
    value, (d_loc, d_log_scale) = jax.jit(jax.value_and_grad(draw, (0, 1)))(loc, log_scale)
    np.testing.assert_allclose(d_loc, 1.0)
    np.testing.assert_allclose(d_log_scale, np.array([value - 0.3]), rtol=1e-5)  # exp(log_scale)·ε


def test_multivariate_normal_equals_scipys() -> None:
    p, x = correlated(4), RNG.normal(size=(6, 4, 3)).astype(np.float32)

    @jax.jit
    def run(p: MultivariateNormal, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return p.log_prob(x), p.sample(jax.random.key(0), (100_000,))

    log_prob, z = map(np.asarray, run(p, x))
    for i in range(4):
        expected = scipy.stats.multivariate_normal(np.float64(p.loc[i]), covariance(p)[i]).logpdf(x[:, i])
        np.testing.assert_allclose(log_prob[:, i], expected, rtol=1e-4)
        np.testing.assert_allclose(np.cov(z[:, i].T), covariance(p)[i], atol=0.03 * np.trace(covariance(p)[i]))
        np.testing.assert_allclose(z[:, i].mean(0), p.mean()[i], atol=0.03)
