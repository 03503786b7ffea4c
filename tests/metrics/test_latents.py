"""Posterior means, active units and the parts of the rate, against sums by brute force."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from known_models import CONTEXTS, IMAGES, given, linear_gaussian, params_of

from flax_vae import Normal, StandardNormal, bind, encode, load_run
from flax_vae.batches import Batch
from flax_vae.evaluation.figures.latents import collapse_warning
from flax_vae.metrics.latents import active_units, elbo_surgery, most_active_plane, posterior_means
from flax_vae.metrics.per_example import per_example_statistics

KEY = jax.random.key(0)


def test_posterior_means_and_the_most_active_plane() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 2, 2, 1), np.uint8)
    means = posterior_means(linear_gaussian(), params_of(linear_gaussian()), pixels, batch_size=4)
    np.testing.assert_allclose(means, encode(linear_gaussian(), params_of(linear_gaussian()), pixels).loc, rtol=1e-5)
    spread = np.random.default_rng(0).normal(size=(1000, 4)) * [0.1, 3.0, 0.0, 2.0]
    assert most_active_plane(spread) == (1, 3)
    assert most_active_plane(spread[:, :1]) == (0,)


def test_elbo_surgery_by_brute_force() -> None:
    """Every draw against the posteriors of all images, one by one, with SciPy."""
    model, key = linear_gaussian(0.3), jax.random.key(3)
    posterior = encode(model, params_of(linear_gaussian(0.3)), IMAGES)
    z = np.asarray(jax.jit(lambda: posterior.sample(key))())
    densities = scipy.stats.norm(np.float64(posterior.loc), np.exp(np.float64(posterior.log_scale))).pdf(z[:, None])
    log_q, log_aggregate = np.log(np.diagonal(densities.prod(-1))), np.log(densities.prod(-1).mean(1))
    prior = scipy.stats.norm.logpdf(z).sum(-1)
    result = elbo_surgery(model, params_of(linear_gaussian(0.3)), IMAGES, key)
    np.testing.assert_allclose(result["mutual_information"], (log_q - log_aggregate).mean(), rtol=1e-4)
    np.testing.assert_allclose(result["marginal_kl"], (log_aggregate - prior).mean(), rtol=1e-4)


class EncoderAlone(nn.Module):
    """A model with only the methods of the protocol, without the features of a `VAE`."""

    inner: nn.Module

    def encode(self, x: jax.Array) -> Normal:
        return self.inner.encode(x)

    def prior(self) -> StandardNormal:
        return self.inner.prior()


def test_elbo_surgery_of_a_model_without_features() -> None:
    model, params = linear_gaussian(0.3), params_of(linear_gaussian(0.3))
    result = elbo_surgery(EncoderAlone(model), {"inner": params}, IMAGES, KEY)
    expected = elbo_surgery(model, params, IMAGES, KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), result, expected)


def test_elbo_surgery_of_a_conditional_model_splits_by_context() -> None:
    """q(z) of an image averages over the images with the same context."""
    model, params = given(), params_of(given(), (2, 2, 1), 2)
    contexts = CONTEXTS[[0, 0, 0, 1, 1]]
    key = jax.random.key(3)

    @jax.jit
    def parts() -> tuple[Normal, jax.Array, jax.Array]:
        bound = bind(model, params, contexts)
        posterior = bound.encode(jnp.asarray(IMAGES))
        return posterior, posterior.sample(key), bound.prior().loc

    posterior, z, prior_means = parts()
    z = np.asarray(z)
    densities = scipy.stats.norm(np.float64(posterior.loc), np.exp(np.float64(posterior.log_scale))).pdf(z[:, None])
    same = (contexts[:, None] == contexts).all(-1)
    log_aggregate = np.log((densities.prod(-1) * same).sum(1) / same.sum(1))
    prior = scipy.stats.norm(np.float64(prior_means)).logpdf(z).sum(-1)
    result = elbo_surgery(model, params, Batch(IMAGES, contexts), key)
    np.testing.assert_allclose(result["marginal_kl"], (log_aggregate - prior).mean(), rtol=1e-4)
    log_q = np.log(np.diagonal(densities.prod(-1)))
    np.testing.assert_allclose(result["mutual_information"], (log_q - log_aggregate).mean(), rtol=1e-4)


def test_active_units_and_the_warning_of_a_collapse() -> None:
    means = np.random.default_rng(0).normal(size=(1000, 3)) * [1.0, 0.2, 0.01]
    assert active_units(means) == 2
    assert collapse_warning(0.01, [0.01, 0.0], [0.01]).startswith("posterior collapse: the latents carry 0.01 nats")
    assert collapse_warning(5.0, [4.0, 0.001, 1.0], [5.0]).startswith("1 of 3 latent dimensions are not used")
    assert collapse_warning(5.0, None, [5.0, 0.0, 0.001]).startswith("2 of 3 layers are not used")
    assert collapse_warning(5.0, [4.0, 1.0], [5.0]) is None
    assert collapse_warning(5.0, None, [5.0]) is None


@pytest.mark.parametrize(("level", "warning"), [(0, None), (255, "8 of 40 latent dimensions are not used")])
def test_latents_of_equal_images_are_used_if_their_rate_says_so(level: int, warning: str | None) -> None:
    """The posterior means of all-black or all-white images do not vary, so that no unit is active, at any rate."""
    run, images = load_run("pretrained:mlp"), np.full((20, 28, 28, 1), level, np.uint8)
    statistics = per_example_statistics(run.model, run.params, images, KEY)
    assert active_units(statistics["posterior_mean"]) == 0
    rates, layers = (statistics[name].mean(0).tolist() for name in ("dimension_rates", "layer_rates"))
    assert layers[0] > 20
    assert (collapse_warning(layers[0], rates, layers) or "").startswith(warning or "")
    assert (collapse_warning(layers[0], rates, layers) is None) == (warning is None)


def test_posterior_means_of_a_conditional_model() -> None:
    model, params = given(), params_of(given(), (2, 2, 1), 2)
    means = posterior_means(model, params, Batch(IMAGES, CONTEXTS), batch_size=2)
    np.testing.assert_allclose(means, encode(model, params, Batch(IMAGES, CONTEXTS)).loc, rtol=1e-5)
