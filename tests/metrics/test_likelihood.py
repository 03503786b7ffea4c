"""The importance-weighted bound against models whose evidence is known exactly, and Pareto k against other fits."""

import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from arviz_stats.base import array_stats
from full_set import full_set
from known_models import CONTEXTS, IMAGES, given, given_log_evidence, linear_gaussian, log_evidence, params_of

from flax_vae import VAE, UserError, log_likelihood
from flax_vae.batches import Batch
from flax_vae.metrics.likelihood import Defence, log_mean_and_error, pareto_k

KEY = jax.random.key(0)


@pytest.mark.quick(1)
@pytest.mark.parametrize("num_samples", [2, 64, 65, 1000])
def test_the_bound_is_the_evidence_for_the_exact_posterior(num_samples: int) -> None:
    bound, error, _ = log_likelihood(linear_gaussian(), params_of(linear_gaussian()), IMAGES, KEY, num_samples)
    np.testing.assert_allclose(bound, log_evidence(), rtol=1e-5)
    np.testing.assert_allclose(error, 0, atol=np.sqrt(2**-22 / num_samples))  # a variance of a few float32 roundings


def test_a_conditional_model_uses_its_context_in_encoder_decoder_and_prior() -> None:
    """The bound is log p(x | c) for the exact posterior p(z | x, c), and another value with the contexts swapped."""
    model, params = given(), params_of(given(), (2, 2, 1), 2)
    bound, error, _ = log_likelihood(model, params, Batch(IMAGES, CONTEXTS), KEY, 10)
    np.testing.assert_allclose(bound, given_log_evidence(), rtol=1e-5)
    np.testing.assert_allclose(error, 0, atol=1e-3)
    swapped, *_ = log_likelihood(model, params, Batch(IMAGES, CONTEXTS[::-1]), KEY, 10)
    assert np.abs(swapped - bound)[[0, 1, 3, 4]].min() > 0.1


def test_the_bound_is_below_the_evidence_and_rises_with_the_samples() -> None:
    keys = jax.random.split(KEY, 400)
    model, params, means = linear_gaussian(0.3), params_of(linear_gaussian(0.3)), []
    for num_samples in (2, 10, 100):
        estimate = jax.jit(jax.vmap(lambda key, k=num_samples: log_likelihood(model, params, IMAGES, key, k)[0]))
        means.append(np.mean(estimate(keys), axis=0))
    assert (np.diff(means, axis=0) > 0).all()
    assert (means[-1] < log_evidence() + 0.01).all()
    np.testing.assert_allclose(means[-1], log_evidence(), atol=0.05)


@pytest.mark.slow
def test_the_standard_error_is_the_spread_of_repeated_estimates() -> None:
    model = linear_gaussian(0.15)
    estimate = jax.jit(jax.vmap(lambda key: log_likelihood(model, params_of(model), IMAGES, key, 500)))
    bounds, errors, _ = estimate(jax.random.split(KEY, 500))
    np.testing.assert_allclose(np.std(bounds, axis=0), np.mean(errors, axis=0), rtol=0.15)


def test_images_have_independent_draws() -> None:
    images = np.random.default_rng(0).uniform(size=(20, 2, 2, 1)).astype(np.float32)  # more than are processed at once
    images[17] = images[3]
    bound, error, _ = log_likelihood(linear_gaussian(0.3), params_of(linear_gaussian(0.3)), images, KEY, 100)
    assert bound.shape == error.shape == (20,)
    assert bound[17] != bound[3]
    assert abs(bound[17] - bound[3]) < 4 * (error[17] + error[3])


@full_set
@pytest.mark.optimized
@pytest.mark.slow
def test_a_defence_reveals_modes_that_the_posterior_misses(missed: tuple[VAE, dict, np.ndarray, np.ndarray]) -> None:
    """The standard error misses a mode that no draw reaches, and without a defence Pareto k shows few of them."""
    model, params, images, evidence = missed
    bound, error, k = map(np.asarray, log_likelihood(model, params, images, KEY, 1000))
    loose = evidence - bound > 1
    assert loose.sum() > 5
    assert error[loose].max() < 1
    detected = (k[loose] > 0.7).mean()
    defended, _, k = map(np.asarray, log_likelihood(model, params, images, KEY, 1000, Defence(scale=5.0)))
    still_loose = evidence - defended > 1
    assert still_loose.sum() < loose.sum()
    assert (k[still_loose] > 0.7).mean() > max(0.7, 1.5 * detected)
    assert (k > 0.7).mean() < 0.5


@pytest.mark.slow
def test_a_defence_changes_the_draws_but_not_the_estimate() -> None:
    for num_samples in (2, 65, 1000):
        model = linear_gaussian()
        exact, *_ = log_likelihood(model, params_of(model), IMAGES, KEY, num_samples, Defence())
        np.testing.assert_array_less(np.abs(exact - log_evidence()), 6 / np.sqrt(num_samples))
    model = linear_gaussian(0.3)
    estimate = jax.jit(jax.vmap(lambda key: log_likelihood(model, params_of(model), IMAGES, key, 65, Defence())[0]))
    weights = np.exp(estimate(jax.random.split(KEY, 1000)) - log_evidence())
    np.testing.assert_array_less(np.abs(weights.mean(0) - 1), 4 * weights.std(0) / np.sqrt(1000))
    with pytest.raises(UserError, match="share between 0 and 1"):
        Defence(share=0.0)


@pytest.mark.slow
def test_the_bound_does_not_depend_on_devices_or_images_at_once() -> None:
    """In a separate program, since JAX fixes the number of devices at its first use."""
    program = """
import jax, numpy as np
from flax_vae import init, log_likelihood, use_machine
use_machine(2)  # before known_models computes
from known_models import IMAGES, linear_gaussian
from flax_vae.training.sharding import data_mesh
model, images = linear_gaussian(0.3), np.concatenate([IMAGES, IMAGES[:1]])
params = jax.device_get(init(model, jax.random.key(0), (2, 2, 1)))
def bound(*arguments):
    return np.asarray(log_likelihood(model, params, images, jax.random.key(1), 100, None, *arguments))
expected = bound(16, None)
for arguments in ((16, data_mesh(6)), (1, data_mesh(6)), (1, None)):
    np.testing.assert_allclose(bound(*arguments), expected, rtol=1e-5, atol=1e-5)
assert len(log_likelihood(model, params, images, jax.random.key(1), 100, None, 1, data_mesh(6))[0].devices()) == 2
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])


def test_only_the_weights_of_draws_stay_in_memory() -> None:
    few, many = (
        log_likelihood.lower(linear_gaussian(), params_of(linear_gaussian()), IMAGES, KEY, k)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for k in (1000, 100_000)
    )
    assert (
        many - few <= 4 * 4 * len(IMAGES) * 99_000
    )  # a few copies of a float; the pixels of a draw would be four floats


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_k_is_the_shape_of_the_largest_weights(k: float) -> None:
    """In single precision, for weights far from 1; the fit is regularised slightly towards 1/2."""
    rng = np.random.default_rng(0)
    log_w = np.log(scipy.stats.genpareto(k).rvs((40, 5000), random_state=rng)) - 230
    shapes = jax.jit(jax.vmap(pareto_k))(jnp.asarray(log_w, jnp.float32))
    np.testing.assert_allclose(shapes.mean(), k, atol=4.5 * shapes.std() / np.sqrt(40) + 10 / 223 * abs(k - 0.5))


def pareto_k_of_arviz(log_w: np.ndarray) -> float:
    """Return the fit of ArviZ to the weights that exceed the cutoff, in double precision."""
    count = math.ceil(min(len(log_w) / 5, 3 * math.sqrt(len(log_w))))
    *tail, cutoff = np.sort(np.float64(log_w) - np.float64(log_w.max()))[::-1][: count + 1]
    excess = np.exp([value for value in tail[::-1] if value > cutoff]) - np.exp(cutoff)
    return array_stats._gpdfit(excess * (1 + 1e-12 * np.arange(len(excess))))[0]  # ArviZ 1 fits no ties


WEIGHTS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "far from 1": lambda rng, size: rng.normal(size=size) - 230,
    "nearly equal": lambda rng, size: 1e-3 * rng.normal(size=size),
    "bounded": lambda rng, size: rng.random(size),
    "without a mean": lambda rng, size: np.log(np.abs(rng.standard_cauchy(size))),
    "of hundreds of nats": lambda rng, size: 150 * rng.normal(size=size),
    "some impossible": lambda rng, size: np.where(rng.random(size) < 0.3, -np.inf, rng.normal(size=size)),
    "most impossible": lambda rng, size: np.where(rng.random(size) < 0.9, -np.inf, rng.normal(size=size)),
    "tied at the cutoff": lambda rng, size: np.minimum(np.maximum(rng.normal(size=size), 1.5), 4),
    "tied everywhere": lambda rng, size: np.round(4 * rng.normal(size=size)) / 4,
    "of ten million nats": lambda rng, size: np.round(3 * rng.normal(size=size)) - 1e7,
}


@pytest.mark.parametrize("size", [100, 1000, 5000])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_pareto_k_equals_that_of_arviz(weights: str, size: int) -> None:
    """For weights that are far apart, nearly or exactly equal, or 0; ours is computed in float32.

    The kind: weights whose differences, ratios or excesses over the cutoff vanish or exceed the range in float32.
    """
    log_w = np.float32(WEIGHTS[weights](np.random.default_rng(0), size))
    np.testing.assert_allclose(jax.jit(pareto_k)(log_w), pareto_k_of_arviz(log_w), rtol=1e-5, atol=1e-5)


def test_pareto_k_has_no_dot_product_that_gpus_round_to_ten_bits() -> None:
    """A dot product gave NaN there for one image in ten thousand: a shape slightly too large has no logarithm."""
    assert "dot_general" not in str(jax.make_jaxpr(pareto_k)(jnp.zeros(5000)))


def test_pareto_k_without_a_tail_to_fit() -> None:
    """Equal weights are the best case, and a few weights above many equal ones the worst."""
    assert jax.jit(pareto_k)(jnp.full(1000, -500.0)) == -np.inf
    assert jax.jit(pareto_k)(jnp.zeros(1000).at[3:7].set(50.0)) == np.inf
    assert np.isnan(jax.jit(pareto_k)(np.arange(20, dtype=np.float32)))
    assert np.isnan(jax.jit(pareto_k)(np.float32([np.nan, *np.zeros(999)])))
    assert jax.jit(pareto_k)(np.float32([np.inf, *np.zeros(999)])) == np.inf


def test_the_mean_of_weights_of_zero_is_zero() -> None:
    assert log_mean_and_error(jnp.full(10, -jnp.inf))[0] == -jnp.inf


@pytest.mark.parametrize("offset", [0, -100, -(2**24)])
def test_the_error_of_a_mean_does_not_depend_on_the_size_of_the_weights(offset: int) -> None:
    """The log-weights are integers, which float32 holds exactly; near -16777216 it rounds their mean to an integer."""
    log_w = np.random.default_rng(0).poisson(2, 1000)
    weights = np.exp(np.float64(log_w))
    bound, error = jax.jit(log_mean_and_error)(jnp.asarray(log_w + offset, jnp.float32))
    np.testing.assert_allclose(bound, np.log(weights.mean()) + offset, rtol=1e-6)
    np.testing.assert_allclose(error, weights.std(ddof=1) / weights.mean() / np.sqrt(1000), rtol=1e-5)
