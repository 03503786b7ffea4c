"""Evaluation: means over a whole set, and likelihoods against a model whose evidence is known exactly."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.scipy.special import logsumexp
from known_models import CONTEXTS, IMAGES, NOISE, given, given_log_evidence, linear_gaussian, log_evidence

from flax_vae import (
    ELBO,
    VAE,
    UserError,
    bind,
    encode,
    init,
    init_state,
    load_images,
    log_likelihood,
    make_optimizer,
    make_train_step,
    rate,
    tutorial_dense,
)
from flax_vae.data import draw_binary
from flax_vae.evaluation.figures.latents import collapse_warning
from flax_vae.metrics.annealed import annealed_log_likelihood
from flax_vae.metrics.latents import (
    active_units,
    elbo_surgery,
    most_active_plane,
    posterior_means,
)
from flax_vae.metrics.likelihood import Defence, pareto_k
from flax_vae.metrics.objective_means import make_evaluate
from flax_vae.metrics.per_example import per_example_statistics
from flax_vae.objectives import DynamicallyBinarized
from flax_vae.objectives.terms import apply_objective
from flax_vae.presets import channel_means

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


@pytest.fixture(scope="module")
def missed() -> tuple[VAE, dict, np.ndarray, np.ndarray]:
    """A model of one latent after little training, whose posterior misses the mode of some of these images.

    And log p(x) of each by quadrature.
    """
    train, test = (load_images("fashion_mnist", split).images for split in ("train", "test"))
    vae = tutorial_dense((28, 28, 1), 1, mean=channel_means(train))
    tx = make_optimizer("adam", 1e-3, 80)
    state, step = init_state(vae, tx, KEY, (28, 28, 1)), make_train_step(vae, DynamicallyBinarized(ELBO()), tx)
    rng = np.random.default_rng(0)
    for _ in range(80):
        state, _ = step(state, train[rng.integers(0, len(train), 64)])
    images = draw_binary(test[:40], (0, 1))
    z = jnp.linspace(-20, 20, 8001)[:, None]
    model = bind(vae, state.params)
    likelihood, log_prior = model.decode(z), model.prior().log_prob(z)
    log_joint = jax.lax.map(lambda x: likelihood.log_prob(x) + log_prior, jnp.asarray(images / 255, jnp.float32))
    return vae, state.params, images, np.asarray(logsumexp(log_joint, axis=1) + jnp.log(z[1, 0] - z[0, 0]))


def test_a_defence_shows_where_the_posterior_misses_a_mode(missed: tuple[VAE, dict, np.ndarray, np.ndarray]) -> None:
    """The standard error does not see a mode that no draw reaches, and Pareto k sees few of them without a defence."""
    vae, params, images, evidence = missed
    bound, error, k = map(np.asarray, log_likelihood(vae, params, images, KEY, 5000))
    loose = evidence - bound > 1
    assert loose.sum() > 5
    assert error[loose].max() < 1
    seen = (k[loose] > 0.7).mean()
    defended, _, k = map(np.asarray, log_likelihood(vae, params, images, KEY, 5000, Defence(scale=5.0)))
    still = evidence - defended > 1
    assert still.sum() < loose.sum()
    assert (k[still] > 0.7).mean() > max(0.7, 1.5 * seen)
    assert (k > 0.7).mean() < 0.5


@pytest.mark.slow
def test_annealed_importance_sampling_finds_what_the_posterior_misses(
    missed: tuple[VAE, dict, np.ndarray, np.ndarray],
) -> None:
    vae, params, images, evidence = missed
    bound, *_ = log_likelihood(vae, params, images, KEY, 1000)
    worst = np.argsort(bound - evidence)[:8]
    assert (evidence - bound)[worst].min() > 1
    found, _ = annealed_log_likelihood(vae, params, images[worst], KEY, 16, 1000)
    assert np.abs(evidence[worst] - found).mean() < 0.1 * (evidence - bound)[worst].mean()


@pytest.mark.parametrize("num_steps", [1, 30])
def test_annealed_importance_sampling_is_the_evidence(num_steps: int) -> None:
    """With one step it is the importance-weighted bound; with the exact posterior no chain has anywhere to go."""
    exact, _ = annealed_log_likelihood(linear_gaussian(), PARAMS[0.0], IMAGES, KEY, 4, num_steps)
    np.testing.assert_allclose(exact, log_evidence(), rtol=1e-4)
    estimate = jax.jit(
        lambda key: annealed_log_likelihood(linear_gaussian(0.3), PARAMS[0.3], IMAGES, key, 16, num_steps)
    )
    bounds, errors = map(np.asarray, jax.lax.map(estimate, jax.random.split(KEY, 100)))
    weights = np.exp(bounds - log_evidence())  # whose mean is 1: the estimate of p(x) is without bias
    np.testing.assert_array_less(np.abs(weights.mean(0) - 1), 4 * weights.std(0) / 10)
    np.testing.assert_allclose(bounds.std(0), errors.mean(0), rtol=0.4)


def test_a_defence_changes_what_is_drawn_and_not_what_is_measured() -> None:
    for num_samples in (2, 65, 1000):
        exact, *_ = log_likelihood(linear_gaussian(), PARAMS[0.0], IMAGES, KEY, num_samples, Defence())
        np.testing.assert_array_less(np.abs(exact - log_evidence()), 6 / np.sqrt(num_samples))
    estimate = jax.jit(lambda key: log_likelihood(linear_gaussian(0.3), PARAMS[0.3], IMAGES, key, 65, Defence())[0])
    weights = np.exp(jax.lax.map(estimate, jax.random.split(KEY, 1000)) - log_evidence())
    np.testing.assert_array_less(np.abs(weights.mean(0) - 1), 4 * weights.std(0) / np.sqrt(1000))
    with pytest.raises(UserError, match="share between 0 and 1"):
        Defence(share=0.0)


@pytest.mark.slow
def test_devices_and_images_at_once_change_no_figure() -> None:
    """In a program of its own, since JAX counts its devices once."""
    program = """
import jax, numpy as np
from known_models import IMAGES, linear_gaussian
from flax_vae import init, log_likelihood, use_machine
from flax_vae.training.sharding import data_mesh
use_machine(2)
vae, images = linear_gaussian(0.3), np.concatenate([IMAGES, IMAGES[:1]])
params = jax.device_get(init(vae, jax.random.key(0), (2, 2, 1)))
def bound(*how): return np.asarray(log_likelihood(vae, params, images, jax.random.key(1), 100, None, *how))
whole = bound(16, None)
for how in ((16, data_mesh(6)), (1, data_mesh(6)), (1, None)):
    np.testing.assert_allclose(bound(*how), whole, rtol=1e-5, atol=1e-5)
assert len(log_likelihood(vae, params, images, jax.random.key(1), 100, None, 1, data_mesh(6))[0].devices()) == 2
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])


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
        return x.mean((1, 2, 3)), {"step": jnp.full(len(x), step, x.dtype)}

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


@pytest.mark.parametrize("batch_size", [2, 5, 100])
def test_each_image_shows_what_it_is(batch_size: int) -> None:
    """Against a look at the parts, and the image that fills up the last batch is not counted."""
    vae, params = linear_gaussian(0.3), PARAMS[0.3]
    found = per_example_statistics(vae, params, IMAGES, KEY, batch_size)
    assert {name: array.shape for name, array in found.items()} == {
        **dict.fromkeys(("elbo", "rate", "distortion", "squared_error"), (5,)),
        **{"layer_rates": (5, 1), "dimension_rates": (5, 3), "posterior_mean": (5, 3)},
    }
    model = bind(vae, params)
    posterior = model.encode(jnp.asarray(IMAGES))
    np.testing.assert_allclose(found["posterior_mean"], posterior.mean(), rtol=1e-5)
    expected = rate(model.infer(jnp.asarray(IMAGES), KEY))
    for each in (found["rate"], found["layer_rates"][:, 0], found["dimension_rates"].sum(-1)):
        np.testing.assert_allclose(each, expected, rtol=1e-5)
    np.testing.assert_allclose(found["elbo"], -found["rate"] - found["distortion"], rtol=1e-5)
    # -log N(x; mean, σ²) of four pixels, from the squared error alone
    of_error = 4 * (found["squared_error"] / (2 * NOISE**2) + 0.5 * np.log(2 * np.pi * NOISE**2))
    np.testing.assert_allclose(found["distortion"], of_error, rtol=1e-4)


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


def test_pareto_k_is_that_of_arviz() -> None:
    """`psislw` of ArviZ 0.23.4 on the same weights, in double precision."""
    rng = np.random.default_rng(0)
    for num_samples, scale, expected in ((100, 1.0, -0.137147), (1000, 0.5, 0.172094), (5000, 3.0, 0.785839)):
        log_w = scale * rng.normal(size=num_samples) - 230
        np.testing.assert_allclose(pareto_k(jnp.asarray(log_w, jnp.float32)), expected, atol=1e-4)


def test_pareto_k_has_no_product_that_gpus_would_round_to_ten_bits() -> None:
    """One made it NaN there, for an image in ten thousand: a shape a thousandth too large has no logarithm."""
    assert "dot_general" not in str(jax.make_jaxpr(pareto_k)(jnp.zeros(5000)))


def test_weights_that_are_equal_have_no_tail_and_few_have_no_k() -> None:
    assert pareto_k(jnp.full(1000, -500.0)) < 0
    assert jnp.isnan(pareto_k(jnp.arange(20.0)))
