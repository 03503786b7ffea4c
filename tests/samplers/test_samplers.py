"""Samplers by name, against a linear model."""

import jax
import numpy as np
import pytest
from known_models import linear_gaussian, params_of

from flax_vae import UserError, decode, encode, sample
from flax_vae.samplers import SAMPLERS

KEY = jax.random.key(0)
VAE = linear_gaussian()
PIXELS = np.random.default_rng(0).integers(0, 256, (400, 2, 2, 1), np.uint8)


def test_the_prior_sampler_draws_what_sample_draws() -> None:
    sampler = SAMPLERS.make("prior", temperature=0.5, images=PIXELS)
    expected = sample(VAE, params_of(VAE), KEY, 5, 0.5)
    np.testing.assert_array_equal(sampler(VAE, params_of(VAE), KEY, 5), expected)


def test_the_mixture_sampler_matches_the_moments_of_the_aggregated_posterior() -> None:
    sampler = SAMPLERS.make("gmm(components=2)", temperature=0.5, images=PIXELS)
    samples = np.asarray(sampler(VAE, params_of(VAE), KEY, 4000)).reshape(-1, 4)
    latents = encode(VAE, params_of(VAE), PIXELS).sample(KEY)
    expected = np.asarray(decode(VAE, params_of(VAE), latents)).reshape(-1, 4)
    np.testing.assert_allclose(samples.mean(0), expected.mean(0), atol=0.1)
    np.testing.assert_allclose(np.cov(samples.T), np.cov(expected.T), atol=0.15)


def test_an_unknown_sampler_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="gmm"):
        SAMPLERS.read("gmn")
