"""Flows against their Jacobians and integrals."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from latents import FLOWS, InverseAutoregressiveFlow, with_random_params

from flax_vae.models import CouplingFlow


@pytest.mark.quick(1)
@pytest.mark.parametrize("make", FLOWS.values(), ids=FLOWS)
def test_a_flow_is_inverted_and_its_log_determinant_equals_that_of_its_jacobian(make: Callable) -> None:
    p = with_random_params(make())
    noise = jax.random.normal(jax.random.key(2), (20, *p.base.loc.shape))

    @jax.jit
    def run(noise: jax.Array) -> tuple[jax.Array, ...]:
        z, log_forward = p.forward(noise)
        return z, log_forward, *p.inverse(z), jax.vmap(jax.jacfwd(lambda noise: p.forward(noise)[0]))(noise)

    z, log_forward, inverted, log_determinants, jacobians = run(noise)
    np.testing.assert_allclose(log_forward, -log_determinants, atol=1e-4)
    assert np.abs(z - noise).max() > 0.5
    np.testing.assert_allclose(inverted, noise, atol=1e-4)
    size = noise[0].size
    expected = np.linalg.slogdet(np.float64(jacobians).reshape(20, size, size))[1]
    np.testing.assert_allclose(log_determinants.reshape(20, -1).sum(-1), -expected, atol=1e-4)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "module", [CouplingFlow(1, layers=2, hidden=4), InverseAutoregressiveFlow(1)], ids=["coupling", "iaf"]
)
def test_a_density_over_one_dimension_integrates_to_one(module: nn.Module) -> None:
    p, grid = with_random_params(module), np.linspace(-20, 20, 40_001)
    batch = p.base.loc.shape[:-1]
    points = np.broadcast_to(np.float32(grid).reshape(-1, *(1,) * len(batch), 1), (len(grid), *batch, 1))
    log_prob, z = jax.jit(lambda points: (p.log_prob(points), p.sample(jax.random.key(0), (20_000,))))(points)
    density = np.exp(np.float64(log_prob)).reshape(len(grid), -1)[:, 0]
    np.testing.assert_allclose(scipy.integrate.simpson(density, x=grid), 1.0, rtol=1e-4)
    cdf = scipy.integrate.cumulative_simpson(density, x=grid, initial=0)
    draws = np.asarray(z).reshape(20_000, -1)[:, 0]
    assert scipy.stats.kstest(draws, lambda value: np.interp(value, grid, cdf)).pvalue > 1e-3


@pytest.mark.slow
def test_an_untrained_flow_is_the_standard_normal() -> None:
    module, z = CouplingFlow(3), np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)

    @jax.jit
    def run(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        p = module.apply(module.init(jax.random.key(0)))
        return p.log_prob(z), p.tempered(0.5).sample(jax.random.key(0), (50_000,))

    log_prob, half = run(z)
    np.testing.assert_allclose(log_prob, scipy.stats.norm.logpdf(z).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(half).std(0), 0.5, rtol=0.02)
    assert jnp.isfinite(half).all()
