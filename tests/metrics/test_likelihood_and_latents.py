"""Evaluation: means over a whole set, and likelihoods against a model whose evidence is known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from known_models import CONTEXTS, IMAGES, given, given_log_evidence, linear_gaussian, log_evidence

from flax_vae import ELBO, bind, encode, init, log_likelihood, rate, tutorial_dense
from flax_vae.metrics.latents import (
    active_units,
    elbo_surgery,
    mean_dimension_rates,
    most_active_plane,
    posterior_means,
)
from flax_vae.metrics.likelihood import pareto_k
from flax_vae.metrics.means import make_evaluate
from flax_vae.objectives.terms import apply_objective
from flax_vae.runs.evaluate import collapse_warning

KEY = jax.random.key(0)
PARAMS = {shift: init(linear_gaussian(shift), KEY, (2, 2, 1)) for shift in (0.0, 0.15, 0.3)}


@pytest.mark.parametrize("num_samples", [2, 64, 65, 1000])
def test_with_the_exact_posterior_it_is_the_evidence(num_samples: int) -> None:
    bound, error, _ = log_likelihood(linear_gaussian(), PARAMS[0.0], IMAGES, KEY, num_samples)
    np.testing.assert_allclose(bound, log_evidence(), rtol=1e-5)
    np.testing.assert_allclose(error, 0, atol=np.sqrt(2**-22 / num_samples))  # a variance of a few float32 roundings


def test_a_conditional_model_sees_its_context_in_encoder_decoder_and_prior() -> None:
    """With the exact posterior p(z | x, c) it is log p(x | c), each image with its own c; without, it is another."""
    vae, params = given(), init(given(), KEY, (2, 2, 1), 2)
    bound, error, _ = log_likelihood(vae, params, (IMAGES, CONTEXTS), KEY, 10)
    np.testing.assert_allclose(bound, given_log_evidence(), rtol=1e-5)
    np.testing.assert_allclose(error, 0, atol=1e-3)
    swapped, *_ = log_likelihood(vae, params, (IMAGES, CONTEXTS[::-1]), KEY, 10)
    assert np.abs(swapped - bound)[[0, 1, 3, 4]].min() > 0.1
    loss = apply_objective(vae, ELBO(), params, (IMAGES, CONTEXTS), KEY, 0)["elbo"]
    found = make_evaluate(vae, ELBO(), 2)(params, (IMAGES, CONTEXTS), KEY, 0)["elbo"]
    assert abs(found - loss.mean()) < 5  # other draws
    means = posterior_means(vae, params, (IMAGES, CONTEXTS), batch_size=2)
    np.testing.assert_allclose(means, bind(vae, params, CONTEXTS).encode(jnp.asarray(IMAGES)).mean(), rtol=1e-5)


def test_it_lies_below_the_evidence_and_rises_with_the_samples() -> None:
    keys = jax.random.split(KEY, 400)
    vae, params, means = linear_gaussian(0.3), PARAMS[0.3], []
    for num_samples in (2, 10, 100):
        estimate = jax.jit(lambda key, k=num_samples: log_likelihood(vae, params, IMAGES, key, k)[0])
        means.append(np.mean(jax.lax.map(estimate, keys), axis=0))
    assert (np.diff(means, axis=0) > 0).all()
    assert (means[-1] < log_evidence() + 0.01).all()
    np.testing.assert_allclose(means[-1], log_evidence(), atol=0.05)


def test_its_standard_error_is_the_spread_of_repeated_estimates() -> None:
    estimate = jax.jit(lambda key: log_likelihood(linear_gaussian(0.15), PARAMS[0.15], IMAGES, key, 500))
    bounds, errors, _ = jax.lax.map(estimate, jax.random.split(KEY, 500))
    np.testing.assert_allclose(np.std(bounds, axis=0), np.mean(errors, axis=0), rtol=0.15)


def test_each_image_has_draws_of_its_own() -> None:
    images = np.random.default_rng(0).uniform(size=(20, 2, 2, 1)).astype(np.float32)  # more than fit at once
    images[17] = images[3]
    bound, error, _ = log_likelihood(linear_gaussian(0.3), PARAMS[0.3], images, KEY, 100)
    assert bound.shape == error.shape == (20,)
    assert bound[17] != bound[3]
    assert abs(bound[17] - bound[3]) < 4 * (error[17] + error[3])


def test_of_a_sample_only_the_weight_stays_in_memory() -> None:
    few, many = (
        log_likelihood.lower(linear_gaussian(), PARAMS[0.0], IMAGES, KEY, k)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for k in (1000, 100_000)
    )
    assert many - few <= 4 * 4 * len(IMAGES) * 99_000  # a few copies of a float, where a draw's pixels are four


def test_evaluation_counts_every_image_once(images: np.ndarray) -> None:
    """64 images in batches of 24: the mean is that of all, and what fills the last batch has no part in it."""

    def brightness(vae, x, key, step):
        return x.mean((1, 2, 3)), {"step": jnp.full(len(x), step)}

    vae = tutorial_dense((28, 28, 1))
    found = make_evaluate(vae, brightness, 24)(init(vae, KEY, (28, 28, 1)), images, KEY, 7)
    np.testing.assert_allclose(found["loss"], images.mean() / 255, rtol=1e-5)
    assert found["step"] == 7


def test_posterior_means_and_the_plane_that_tells_images_apart() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 2, 2, 1), np.uint8)
    means = posterior_means(linear_gaussian(), PARAMS[0.0], pixels, batch_size=4)
    np.testing.assert_allclose(means, encode(linear_gaussian(), PARAMS[0.0], pixels).mean(), rtol=1e-5)
    spread = np.random.default_rng(0).normal(size=(1000, 4)) * [0.1, 3.0, 0.0, 2.0]
    assert most_active_plane(spread) == (1, 3)
    assert most_active_plane(spread[:, :1]) == (0,)


def test_elbo_surgery_by_brute_force() -> None:
    """Every draw against the posteriors of all images, one by one, with SciPy."""
    vae, key = linear_gaussian(0.3), jax.random.key(3)
    posterior = encode(vae, PARAMS[0.3], IMAGES)
    z = np.asarray(posterior.sample(key))
    densities = scipy.stats.norm(np.float64(posterior.loc), np.exp(np.float64(posterior.log_scale))).pdf(z[:, None])
    own, aggregate = np.log(np.diagonal(densities.prod(-1))), np.log(densities.prod(-1).mean(1))
    prior = scipy.stats.norm.logpdf(z).sum(-1)
    found = elbo_surgery(vae, PARAMS[0.3], IMAGES, key)
    np.testing.assert_allclose(found["mutual_information"], (own - aggregate).mean(), rtol=1e-4)
    np.testing.assert_allclose(found["marginal_kl"], (aggregate - prior).mean(), rtol=1e-4)


def test_elbo_surgery_of_a_conditional_model_is_made_context_by_context() -> None:
    """Two contexts: the same as that of each part alone, weighted by its size."""
    vae, params = given(), init(given(), KEY, (2, 2, 1), 2)
    contexts = CONTEXTS[[0, 0, 0, 1, 1]]
    model, key = bind(vae, params, contexts), jax.random.key(3)
    posterior = model.encode(jnp.asarray(IMAGES))
    z = np.asarray(posterior.sample(key))
    densities = scipy.stats.norm(np.float64(posterior.loc), np.exp(np.float64(posterior.log_scale))).pdf(z[:, None])
    same = (contexts[:, None] == contexts).all(-1)
    aggregate = np.log((densities.prod(-1) * same).sum(1) / same.sum(1))
    prior = scipy.stats.norm(np.float64(model.prior().loc)).logpdf(z).sum(-1)
    found = elbo_surgery(vae, params, (IMAGES, contexts), key)
    np.testing.assert_allclose(found["marginal_kl"], (aggregate - prior).mean(), rtol=1e-4)
    own = np.log(np.diagonal(densities.prod(-1)))
    np.testing.assert_allclose(found["mutual_information"], (own - aggregate).mean(), rtol=1e-4)


def test_the_rates_of_the_dimensions_add_up_to_the_rate() -> None:
    vae, params = linear_gaussian(0.3), PARAMS[0.3]
    rates = mean_dimension_rates(vae, params, IMAGES, KEY)
    assert rates.shape == (3,)
    expected = rate(bind(vae, params).infer(jnp.asarray(IMAGES), KEY)).mean()
    np.testing.assert_allclose(rates.sum(), expected, rtol=1e-5)


def test_unused_latents_are_counted_out() -> None:
    means = np.random.default_rng(0).normal(size=(1000, 3)) * [1.0, 0.2, 0.01]
    assert active_units(means) == 2
    assert collapse_warning(0.01, 0, 3).startswith("posterior collapse: the latents carry 0.01 nats")
    assert collapse_warning(5.0, 2, 3).startswith("1 of 3 latent dimensions are not used")
    assert collapse_warning(5.0, 3, 3) is None


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_k_is_the_shape_of_the_largest_weights(k: float) -> None:
    """In single precision and far from 1; the fit is pulled a little towards 1/2."""
    rng = np.random.default_rng(0)
    log_w = np.log(scipy.stats.genpareto(k).rvs((40, 5000), random_state=rng)) - 230
    found = jax.vmap(pareto_k)(jnp.asarray(log_w, jnp.float32))
    np.testing.assert_allclose(found.mean(), k, atol=4.5 * found.std() / np.sqrt(40) + 10 / 223 * abs(k - 0.5))


def test_weights_that_are_equal_have_no_tail_and_few_have_no_k() -> None:
    assert pareto_k(jnp.full(1000, -500.0)) < 0
    assert jnp.isnan(pareto_k(jnp.arange(20.0)))
