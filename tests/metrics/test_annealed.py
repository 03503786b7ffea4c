"""Annealed importance sampling against a model whose evidence is known exactly, and where importance sampling fails."""

import jax
import numpy as np
import pytest
from full_set import full_set
from known_models import IMAGES, linear_gaussian, log_evidence, params_of

from flax_vae import VAE, log_likelihood
from flax_vae.metrics.annealed import annealed_log_likelihood

KEY = jax.random.key(0)


@full_set
@pytest.mark.slow
def test_annealing_finds_modes_that_the_posterior_misses(
    missed: tuple[VAE, dict, np.ndarray, np.ndarray],
) -> None:
    model, params, images, evidence = missed
    bound, *_ = log_likelihood(model, params, images, KEY, 1000)
    worst = np.argsort(bound - evidence)[:4]
    assert (evidence - bound)[worst].min() > 1
    estimate, _ = annealed_log_likelihood(model, params, images[worst], KEY, 8, 400)
    assert np.abs(evidence[worst] - estimate).mean() < 0.1 * (evidence - bound)[worst].mean()


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [1, 30])
def test_annealing_is_unbiased(num_steps: int) -> None:
    """With one step it is the importance-weighted bound; for the exact posterior all weights are equal."""
    model, keys = linear_gaussian(0.3), jax.random.split(KEY, 100)

    @jax.jit
    def estimate(params: dict) -> tuple[jax.Array, jax.Array]:
        return jax.vmap(lambda key: annealed_log_likelihood(model, params, IMAGES, key, 16, num_steps))(keys)

    exact, _ = estimate(params_of(linear_gaussian()))
    np.testing.assert_allclose(exact, np.broadcast_to(log_evidence(), exact.shape), rtol=1e-4)
    bounds, errors = map(np.asarray, estimate(params_of(model)))
    weights = np.exp(bounds - log_evidence())  # whose mean is 1, since the estimate of p(x) is unbiased
    np.testing.assert_array_less(np.abs(weights.mean(0) - 1), 4 * weights.std(0) / 10)
    np.testing.assert_allclose(bounds.std(0), errors.mean(0), rtol=0.4)
