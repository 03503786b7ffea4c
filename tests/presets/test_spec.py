"""The arguments that presets have in common."""

import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_vae import (
    ELBO,
    VAE,
    Ladder,
    Poisson,
    PoissonLikelihood,
    epoch_batches,
    gated_mlp,
    init_state,
    ladder,
    make_train_step,
    tutorial_dense,
)
from flax_vae.presets import channel_means


def test_a_preset_takes_the_arguments_of_a_spec_and_its_own() -> None:
    assert list(inspect.signature(gated_mlp).parameters) == [
        "image_shape", "latent_dim", "posterior", "prior", "likelihood", "mean", "features",
    ]  # fmt: skip
    model = gated_mlp((4, 4, 1), 3, features=(5,))
    assert model == gated_mlp(image_shape=(4, 4, 1), latent_dim=3, features=(5,))
    assert model.posterior.latent_dim == model.prior.latent_dim == 3
    assert isinstance(ladder((4, 4, 1)), Ladder)
    with pytest.raises(TypeError, match="feature_sizes"):
        gated_mlp((4, 4, 1), feature_sizes=(5,))


def test_the_decoder_starts_at_the_mean() -> None:
    assert gated_mlp((4, 4, 1), mean=(0.5,)).decoder.output_bias == (0.0,)


@pytest.mark.slow
@pytest.mark.parametrize("preset", [gated_mlp, tutorial_dense])
def test_counts_with_a_heavy_tail_train_from_the_first_step(preset: Callable[..., VAE]) -> None:
    """No step is skipped, the loss starts near that of constant rates, and falls.

    The kind of fault is a network that sees numbers of any size.
    """
    rng, key = np.random.default_rng(0), jax.random.key(0)
    x = rng.poisson(np.minimum(np.exp(4 + 3 * rng.normal(size=(300, 2)) @ rng.normal(size=(2, 20))), 1e4))
    assert x.max() > 9_000
    model, tx = preset((20,), likelihood=PoissonLikelihood(), mean=channel_means(x), features=(16,)), optax.adam(1e-2)
    state, step = init_state(model, tx, key, (20,)), make_train_step(model, ELBO(), tx)
    history = []
    for epoch in range(6):
        for batch in epoch_batches(x, 30, seed=0, epoch=epoch):
            state, metrics = step(state, batch)
            assert metrics["skipped"] == 0
            history.append(float(metrics["loss"]))
    constant = -Poisson(jnp.log(x.mean(0))).log_prob(jnp.asarray(x, jnp.float32)).mean()
    assert history[0] < 10 * constant
    assert np.mean(history[-10:]) < 0.5 * constant


def test_channel_means() -> None:
    images = np.zeros((3, 2, 2, 2), np.uint8)
    images[..., 1] = 51
    assert channel_means(images) == (0.0, 0.2)
