"""KL divergences against their definition."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.stats
from test_normal import correlated, covariance, normal

from flax_vae import kl_divergence
from flax_vae.distributions import Mixture, MultivariateNormal, Normal

kl = jax.jit(kl_divergence)


def test_kl_between_normals_equals_the_integral() -> None:
    q, p = normal((3, 2)), normal((2,))
    values = kl(q, p)
    for i in range(3):
        expected = 0.0
        for j in range(2):
            one = scipy.stats.norm(q.loc[i, j], np.exp(q.log_scale[i, j]))
            other = scipy.stats.norm(p.loc[j], np.exp(p.log_scale[j]))
            expected += one.expect(lambda z, one=one, other=other: one.logpdf(z) - other.logpdf(z))
        np.testing.assert_allclose(values[i], expected, rtol=1e-5)


def test_kl_is_precise_close_to_the_prior() -> None:
    log_scale = 1e-4  # ½ (σ² - 1 - log σ²) = log_scale² + O(log_scale³): far below the rounding error of 1
    q = Normal(jnp.zeros(1), jnp.full(1, log_scale))
    np.testing.assert_allclose(kl_divergence(q, Normal(jnp.zeros(1), jnp.zeros(1))), log_scale**2, rtol=2e-3)


def test_kl_of_correlated_latents() -> None:
    """½ [tr(T⁻¹Σ) + (m-μ)ᵀT⁻¹(m-μ) - d + log det T/det Σ]; without correlations it equals that of `Normal`."""
    q, p = correlated(4), normal((3,))
    variance, values = np.exp(2 * np.float64(p.log_scale)), kl(q, p)
    for i in range(4):
        sigma, distance = covariance(q)[i], np.float64(q.loc[i] - p.loc)
        expected = (np.diag(sigma) / variance).sum() + (distance**2 / variance).sum() - 3
        expected += np.log(variance).sum() - np.linalg.slogdet(sigma)[1]
        np.testing.assert_allclose(values[i], 0.5 * expected, rtol=1e-4)
    independent = normal((4, 3))
    same = MultivariateNormal(independent.loc, jnp.exp(independent.log_scale)[..., None] * jnp.eye(3))
    np.testing.assert_allclose(kl(same, p), kl(independent, p), rtol=1e-5)


def test_a_kl_without_a_closed_form_is_refused() -> None:
    mixture = Mixture(jnp.zeros(4), normal((4, 3)))
    with pytest.raises((TypeError, jaxtyping.TypeCheckError)):
        kl_divergence(normal((4, 3)), mixture)
