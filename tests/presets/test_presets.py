"""Tests that every preset has to pass."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_models import iwae

from flax_vae import (
    ELBO,
    RECIPES,
    VAE,
    TrainState,
    UserError,
    init,
    init_state,
    make_optimizer,
    make_train_step,
    sample,
)
from flax_vae.models.binding import with_remat
from flax_vae.objectives.base import apply_objective
from flax_vae.presets import PRESETS, channel_means

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
Setup = tuple[VAE, TrainState, Callable, np.ndarray]
every_preset = pytest.mark.parametrize("preset", PRESETS)
# Every kind of layer in the defaults, but fewer and narrower.
SMALLER = {"ladder": {"widths": (16, 24), "depths": (1, 2)}, "residual_conv": {"features": (16, 24)}}


def small(preset: str, image_shape: tuple[int, int, int], **settings: Any) -> VAE:
    return PRESETS[preset](image_shape, **SMALLER.get(preset, {}), **settings)


@pytest.fixture(scope="module", params=PRESETS)
def setup(request: pytest.FixtureRequest, images: np.ndarray) -> Setup:
    """Each preset for images of 14x10 pixels with its first state and its train step, and a batch of eight."""
    batch, tx = images[:8, ::2, ::3], make_optimizer("adam", 3e-3, 1000)
    model = small(request.param, (14, 10, 1), mean=channel_means(batch))
    return model, init_state(model, tx, KEY, (14, 10, 1)), make_train_step(model, iwae, tx), batch


def test_trains(setup: Setup) -> None:
    """Terms are float32, one per image; the step compiles once, and memorises a batch, with several draws at a time."""
    model, state, step, batch = setup
    state = jax.tree.map(jnp.copy, state)
    terms = jax.eval_shape(partial(apply_objective, model, iwae), state.params, batch, KEY, 0)
    assert {(value.shape, value.dtype) for value in terms.values()} == {((8,), jnp.dtype("float32"))}
    losses = []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert step._cache_size() == 1
    assert int(state.step) == 30
    assert metrics.keys() == {*terms, "gradient_norm", "skipped"}
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.85 * losses[0]


def test_extreme_images_and_posteriors_give_finite_parameters(setup: Setup) -> None:
    _, state, step, batch = setup
    images = np.stack([np.zeros_like(batch[0]), np.full_like(batch[0], 255)] * 4)
    state = jax.tree.map(jnp.copy, state)
    state.params["posterior"]["log_var"]["bias"] = jnp.array([1e4, -1e4])  # asks for scales of exp(±5000)
    after, metrics = step(state, images)
    assert metrics["skipped"] == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))


def test_starts_at_the_average_image(setup: Setup) -> None:
    model, state, _, batch = setup
    made = sample(model, state.params, KEY, 64, 1e-6)
    assert made.dtype == jnp.float32
    assert (made >= 0).all()
    assert (made <= 1).all()
    np.testing.assert_allclose(made.mean(), batch.mean() / 255, atol=0.02)


@every_preset
@pytest.mark.parametrize("image_shape", [(28, 28, 1), (14, 9, 3), (1, 2, 2)])
def test_any_image_size_channels_and_latent_size(preset: str, image_shape: tuple[int, int, int]) -> None:
    images = jnp.zeros((2, *image_shape), jnp.uint8)
    model = PRESETS[preset](image_shape, 5, mean=channel_means(np.asarray(images)))
    params = jax.eval_shape(lambda: init(model, KEY, image_shape))
    terms = jax.eval_shape(partial(apply_objective, model, ELBO()), params, images, KEY, 0)
    assert {value.shape for value in terms.values()} == {(2,)}
    made = jax.eval_shape(lambda params: sample(model, params, KEY, 3), params)
    assert made.shape == (3, *image_shape)


@every_preset
def test_bfloat16_networks_in_a_float32_model(preset: str, images: np.ndarray) -> None:
    """At equal parameters, losses agree to a part in a thousand and gradients to a fifth, and all of them are float32.

    Rounding errors grow with depth. A sum over all pixels in bfloat16 would be badly wrong.
    """
    model = small(preset, (14, 14, 1), mean=channel_means(images))
    params = init(model, KEY, (14, 14, 1))
    losses, gradients = [], []
    for dtype in ("float32", "bfloat16"):
        half = model.clone(dtype=dtype)
        terms = lambda p, model=half: apply_objective(model, ELBO(), p, images[:16, ::2, ::2], KEY, 0)["loss"].mean()  # noqa: E731
        loss, gradient = jax.jit(jax.value_and_grad(terms))(params)
        assert {leaf.dtype for leaf in jax.tree.leaves((loss, gradient))} == {jnp.dtype("float32")}
        losses.append(float(loss))
        gradients.append(gradient)
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    # The last prior of a fresh ladder has a gradient of 0: nothing is decoded from its layer yet.
    close = jax.tree.map(lambda a, b: bool(jnp.linalg.norm(a - b) <= 0.2 * jnp.linalg.norm(a) + 1e-6), *gradients)
    assert all(jax.tree.leaves(close)), close


@every_preset
def test_recipes_name_their_preset(preset: str) -> None:
    assert RECIPES[preset].preset == preset


def test_the_tutorials_model_has_the_tutorials_parameters() -> None:
    params = jax.eval_shape(lambda: init(PRESETS["tutorial_conv"]((28, 28, 1)), KEY, (28, 28, 1)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 134_165


@pytest.mark.parametrize("name", ["residual_conv", "ladder"])
def test_remat_keeps_less_for_the_same_gradient(name: str, images: np.ndarray) -> None:
    model = small(name, (28, 28, 1))
    params = jax.tree.map(lambda leaf: leaf + 0.01, init(model, jax.random.key(0), (28, 28, 1)))  # no kernel of zeros

    def gradient_and_kept(model: nn.Module) -> tuple[Any, int]:
        def loss(params: Any) -> jax.Array:
            return apply_objective(model, ELBO(), params, images[:4], jax.random.key(1), jnp.int32(0))["loss"].mean()

        kept = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], params)
        return jax.jit(jax.grad(loss))(params), sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))

    (expected, whole), (found, kept) = (gradient_and_kept(each) for each in (model, with_remat(model)))
    assert kept < 0.9 * whole
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), found, expected)


def test_networks_without_residual_blocks_have_nothing_to_compute_again() -> None:
    with pytest.raises(UserError, match="`remat` requires networks of residual blocks"):
        with_remat(PRESETS["tutorial_dense"]((28, 28, 1)))
