"""The VampPrior against the mixture of the model's posteriors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from flax_vae import Config, bind, encode, init, latent_grid
from flax_vae.runs.models import make_model

KEY = jax.random.key(0)


@pytest.mark.parametrize("levels", [1, 2])
def test_a_vamp_prior_is_the_mean_of_the_posteriors_at_its_images(levels: int, images: np.ndarray) -> None:
    """It starts at images of the training set; on top of a hierarchy it uses the top layer's posterior."""
    few = np.stack([images[0, ::4, ::4], images[1, ::4, ::4]])
    start_images = jnp.asarray(few / 255, jnp.float32).clip(0.02, 0.98)
    model = make_model(Config(preset="tutorial_dense", latent_dim=3, prior="vamp", levels=levels), (7, 7, 1), few)
    params = init(model, KEY, (7, 7, 1))
    q = encode(model, params, start_images)
    top = q if levels == 1 else q.top
    z = np.random.default_rng(0).normal(size=(10, 3))
    normals = scipy.stats.norm(np.float64(top.loc), np.exp(np.float64(top.log_scale)))
    log_densities = normals.logpdf(z[:, None]).sum(-1)

    @jax.jit
    def log_prob(z: jax.Array) -> jax.Array:
        bound = bind(model, params)
        prior = bound.prior()
        return (prior if levels == 1 else prior.top).log_prob(z)

    indices = np.random.default_rng(0).choice(2, 128)  # of the image that each pseudo-input starts as
    expected = scipy.special.logsumexp(log_densities[:, indices], axis=1) - np.log(128)
    np.testing.assert_allclose(log_prob(np.float32(z)), expected, rtol=1e-4)


@pytest.mark.parametrize("levels", [1, 2])
def test_a_latent_grid_of_a_model_with_a_vamp_prior(levels: int) -> None:
    """The prior refers to its model weakly, so the model has to outlive the call."""
    prior = "vamp(components=2)"
    model = make_model(Config(preset="tutorial_dense", latent_dim=3, prior=prior, levels=levels), (2, 2, 1))
    params = jax.eval_shape(lambda: init(model, KEY, (2, 2, 1)))
    assert jax.eval_shape(lambda params: latent_grid(model, params, 4), params).shape == (4, 4, 2, 2, 1)
