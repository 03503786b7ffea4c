"""Chains of layers against the joint normal."""

import jax
import numpy as np
import pytest
import scipy.stats
from latents import chain


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_chain_of_normals_is_their_joint_normal(temperature: float) -> None:
    """z = m + A ε, one row of A per dimension; a temperature scales every layer's ε."""
    a = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, np.exp(0.5), 0], [1, 1, np.exp(0.5), 0.5]]) * temperature
    joint = scipy.stats.multivariate_normal([0, 0, 0, -1], a @ a.T)
    z = joint.rvs(10, random_state=0)

    @jax.jit
    def run(z: jax.Array, temperature: jax.Array) -> tuple:
        p = chain().tempered(temperature)
        latents, _ = zip(*p.layers(z), strict=True)
        return p.log_prob(z), p.mean(), p.sample(jax.random.key(0), (100_000,)), latents

    log_prob, mean, draws, latents = run(np.float32(z), temperature)
    np.testing.assert_allclose(log_prob, joint.logpdf(z), rtol=1e-4)
    np.testing.assert_array_equal(mean, joint.mean)
    np.testing.assert_allclose(np.cov(np.asarray(draws).T), a @ a.T, atol=0.05)
    assert [latent.shape for latent in latents] == [(10, 2), (10, 1), (10, 1)]
