"""One train step, and the loop around it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_models import IMAGES, linear_gaussian

from flax_vae import ELBO, TrainState, init_state, make_optimizer, make_train_step, tutorial_dense
from flax_vae.batches import epoch_indices
from flax_vae.training.step import MAX_SKIPS, make_train_steps

KEY = jax.random.key(0)
INDICES = jnp.asarray(epoch_indices(64, 8, seed=0, epoch=0))
SHAPE = (7, 7, 1)
VAE, TX = tutorial_dense(SHAPE, features=(16,)), make_optimizer("adam", 1e-3, 100)
Step = Callable[..., Any]


@pytest.fixture(scope="module")
def images(images: np.ndarray) -> np.ndarray:
    """64 small images."""
    return images[:, ::4, ::4]


@pytest.fixture(scope="module")
def first() -> TrainState:
    """The state before the first step."""
    return jax.jit(lambda: init_state(VAE, TX, KEY, SHAPE, ema=True))()


def make_dense_step(objective: Any = ELBO(), **options: float) -> Step:  # noqa: B008
    return make_train_step(VAE, objective, TX, 0.75, **options)


@pytest.fixture(scope="module")
def plain() -> Step:
    """A step without options, compiled once."""
    return make_dense_step()


@jax.jit
def copy(tree: Any) -> Any:
    """Copy buffers, which steps donate."""
    return jax.tree.map(jnp.copy, tree)


def zero_totals(step: Step, state: TrainState, images: np.ndarray) -> Any:
    return jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), jax.eval_shape(step, state, images)[1])


def assert_same_bits(left: Any, right: Any) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


def test_many_steps_in_one_dispatch_equal_single_steps(first: TrainState, plain: Step, images: np.ndarray) -> None:
    """Dispatches of 5 steps and of 2 + 3 give the same bits, with one compilation, and the numbers of single steps."""
    run, totals = make_train_steps(plain), zero_totals(plain, first, images[:8])
    whole, sums = run(copy(first), copy(totals), images, INDICES, 0, 5)
    begun = run(copy(first), totals, images, INDICES, 0, 2)
    cut, cut_sums = run(*begun, images, INDICES, 2, 5)
    assert_same_bits((whole.params, whole.opt_state, sums), (cut.params, cut.opt_state, cut_sums))
    assert run._cache_size() == 1
    single, losses = copy(first), []
    for i in range(5):
        single, metrics = plain(single, images[INDICES[i]])
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(sums["loss"], sum(losses), rtol=1e-5)
    assert int(whole.step) == 5


def test_a_step_that_is_not_finite_changes_only_its_number(first: TrainState, images: np.ndarray) -> None:
    """Two poisoned batches among good ones: the totals are those of the good ones."""

    def poisoned(model, x, key, step):
        loss, metrics = ELBO()(model, x, key, step)
        return loss * jnp.where(step == 2, jnp.nan, jnp.where(step == 4, jnp.inf, 1.0)), metrics

    state, step = copy(first), make_dense_step(poisoned)
    totals = zero_totals(step, state, images[:8])
    after, totals = make_train_steps(step)(copy(state), totals, images, INDICES, 0, 6)
    losses = []
    for i in range(6):
        before = copy(state)
        state, metrics = step(state, images[INDICES[i]])
        losses.append(float(metrics["loss"]))
        if i in (2, 4):
            assert (int(state.step), int(state.skips), float(metrics["skipped"])) == (i + 1, 1, 1)
            for name in ("params", "opt_state", "averaged_params"):
                assert_same_bits(getattr(state, name), getattr(before, name))
    assert_same_bits((after.step, after.skips), (6, 0))
    np.testing.assert_allclose(totals["loss"], sum(losses), rtol=1e-5)
    assert losses[2] == losses[4] == 0
    assert totals["skipped"] == 2


def test_the_loop_ends_if_every_step_is_skipped(first: TrainState, images: np.ndarray) -> None:
    def breaks_at_step_three(model, x, key, step):
        loss, metrics = ELBO()(model, x, key, step)
        return jnp.where(step >= 3, jnp.nan, loss), metrics

    step, indices = make_dense_step(breaks_at_step_three), np.asarray(epoch_indices(64, 2, seed=0, epoch=0))
    totals = zero_totals(step, first, images[:2])
    state, totals = make_train_steps(step)(copy(first), totals, images, indices, 0, 32)
    assert int(state.step) == 3 + MAX_SKIPS
    assert totals["skipped"] == MAX_SKIPS


def test_an_epoch_is_a_shuffle_by_seed_and_number() -> None:
    first = epoch_indices(100, 16, seed=1, epoch=0)
    assert first.shape == (6, 16)
    assert len(np.unique(first)) == 96
    np.testing.assert_array_equal(first, epoch_indices(100, 16, seed=1, epoch=0))
    for other in (epoch_indices(100, 16, seed=1, epoch=1), epoch_indices(100, 16, seed=2, epoch=0)):
        assert (first != other).any()


def test_noise_differs_between_steps_and_seeds() -> None:
    def report_noise(model, x, key, step):
        z = model.infer(x, key).layers[0].z[0, :, 0]
        return ELBO()(model, x, key, step)[0], {"z": z}

    model, tx = linear_gaussian(), make_optimizer("adam", 0.0, 10)  # constant parameters: only the key can change z
    step = make_train_step(model, report_noise, tx)
    draws = []
    start = jax.jit(lambda seed: init_state(model, tx, jax.random.key(seed), (2, 2, 1)))
    for seed in (0, 1):
        state = start(seed)
        for _ in range(3):
            state, metrics = step(state, IMAGES)
            draws.append(float(metrics["z"]))
    assert len(set(draws)) == 6


def test_averaged_parameters_follow_their_definition(first: TrainState, plain: Step, images: np.ndarray) -> None:
    state, expected = copy(first), jax.device_get(first.params)
    for _ in range(3):
        state, _ = plain(state, images[:8])
        expected = jax.tree.map(lambda e, p: 0.75 * e + 0.25 * p, expected, jax.device_get(state.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.averaged_params, expected)
    assert state.best_params is state.averaged_params


@pytest.mark.usefixtures("with_optimizations")
def test_a_step_with_too_large_a_gradient_is_skipped_and_counted(
    first: TrainState, plain: Step, images: np.ndarray
) -> None:
    """A skipped step changes only its number, so the next one draws from another key; other steps are unchanged."""
    for limit, expected in ((1e-3, first), (1e9, plain(copy(first), images[:8])[0])):
        after, metrics = make_dense_step(skip_norm=limit)(copy(first), images[:8])
        assert metrics["skipped"] == (limit < 1)
        assert after.step == 1
        for name in ("params", "opt_state", "averaged_params"):
            assert_same_bits(getattr(after, name), getattr(expected, name))
