"""A model whose posterior misses modes, shared by the tests of likelihoods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp

from flax_vae import ELBO, VAE, bind, init_state, load_images, make_optimizer, make_train_step, tutorial_dense
from flax_vae.data import draw_binary
from flax_vae.objectives import DynamicallyBinarized
from flax_vae.presets import channel_means


@pytest.fixture(scope="module")
def missed() -> tuple[VAE, dict, np.ndarray, np.ndarray]:
    """Train a model of one latent briefly, so that its posterior misses a mode of some images.

    Returns:
        The model, its parameters, images, and log p(x) of each by quadrature.
    """
    train, test = (load_images("fashion_mnist", split).x for split in ("train", "test"))
    model = tutorial_dense((28, 28, 1), 1, mean=channel_means(train))
    tx = make_optimizer("adam", 1e-3, 80)
    state = jax.jit(lambda: init_state(model, tx, jax.random.key(0), (28, 28, 1)))()
    step = make_train_step(model, DynamicallyBinarized(ELBO()), tx)
    rng = np.random.default_rng(0)
    for _ in range(80):
        state, _ = step(state, train[rng.integers(0, len(train), 64)])
    images = draw_binary(test[:40], (0, 1))

    @jax.jit
    def evidence(params: dict, images: jax.Array) -> jax.Array:
        z, bound = jnp.linspace(-20, 20, 2001)[:, None], bind(model, params)
        likelihood, log_prior = bound.decode(z), bound.prior().log_prob(z)
        log_joint = jax.lax.map(lambda x: likelihood.log_prob(x) + log_prior, images)
        return logsumexp(log_joint, axis=1) + jnp.log(z[1, 0] - z[0, 0])

    return model, state.params, images, np.asarray(evidence(state.params, np.float32(images / 255)))
