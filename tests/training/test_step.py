"""The train step and the loop around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_models import IMAGES, linear_gaussian

from flax_vae import ELBO, UserError, init_state, make_optimizer, make_train_step, tutorial_dense
from flax_vae.batches import epoch_indices
from flax_vae.training.sharding import data_mesh
from flax_vae.training.step import MAX_SKIPS, make_train_steps

pytestmark = pytest.mark.quick_compile

KEY = jax.random.key(0)


def dense(objective=ELBO(), **options):  # noqa: B008
    vae, tx = tutorial_dense((28, 28, 1)), make_optimizer("adam", 1e-3, 100)
    state = init_state(vae, tx, KEY, (28, 28, 1), ema=bool(options))
    return state, make_train_step(vae, objective, tx, **options)


def zero_totals(step, state, images):
    return jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), jax.eval_shape(step, state, images)[1])


def assert_same_bits(left, right) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


def test_many_steps_in_one_dispatch_are_the_steps_one_by_one(images: np.ndarray) -> None:
    """However they are cut: the same bits from dispatches of 5 and of 2 + 3, and the numbers of single steps."""
    indices = jnp.asarray(epoch_indices(64, 8, seed=0, epoch=0))
    state, step = dense()
    single = state = jax.tree.map(jnp.copy, state)
    run = make_train_steps(step)
    totals = zero_totals(step, state, images[:8])
    whole = run(*jax.tree.map(jnp.copy, (state, totals)), images, indices, 0, 5)
    begun = run(*jax.tree.map(jnp.copy, (state, totals)), images, indices, 0, 2)
    cut = run(*begun[:2], images, indices, 2, 5)
    assert_same_bits((whole[0].params, whole[0].opt_state, whole[1]), (cut[0].params, cut[0].opt_state, cut[1]))
    assert run._cache_size() == 1
    losses = []
    for i in range(5):
        single, metrics = step(single, images[indices[i]])
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(whole[1]["loss"], sum(losses), rtol=1e-5)
    assert int(whole[0].step) == 5


@pytest.mark.parametrize("number", [jnp.nan, jnp.inf])
def test_a_step_that_is_not_finite_changes_nothing_but_its_number(number: float, images: np.ndarray) -> None:
    """A poisoned batch among good ones: the totals are those of the others."""

    def poisoned(vae, x, key, step):
        loss, metrics = ELBO()(vae, x, key, step)
        return loss * jnp.where(step == 3, number, 1.0), metrics

    state, step = dense(poisoned, ema_decay=0.9)
    indices = jnp.asarray(epoch_indices(64, 8, seed=0, epoch=0))
    totals = zero_totals(step, state, images[:8])
    after, totals = make_train_steps(step)(jax.tree.map(jnp.copy, state), totals, images, indices, 0, 6)
    losses = []
    for i in range(6):
        before = jax.tree.map(jnp.copy, state)
        state, metrics = step(state, images[indices[i]])
        losses.append(float(metrics["loss"]))
        if i == 3:
            assert (int(state.step), int(state.skips), float(metrics["skipped"])) == (4, 1, 1)
            for name in ("params", "opt_state", "averaged_params"):
                assert_same_bits(getattr(state, name), getattr(before, name))
    assert_same_bits((after.step, after.skips), (6, 0))
    np.testing.assert_allclose(totals["loss"], sum(losses), rtol=1e-5)
    assert losses[3] == 0
    assert totals["skipped"] == 1


def test_the_loop_ends_where_every_step_is_skipped(images: np.ndarray) -> None:
    def breaks_at_step_three(vae, x, key, step):
        loss, metrics = ELBO()(vae, x, key, step)
        return jnp.where(step >= 3, jnp.nan, loss), metrics

    state, step = dense(breaks_at_step_three)
    indices = jnp.asarray(epoch_indices(64, 2, seed=0, epoch=0))
    totals = zero_totals(step, state, images[:2])
    state, totals = make_train_steps(step)(state, totals, images, indices, 0, 32)
    assert int(state.step) == 3 + MAX_SKIPS
    assert totals["skipped"] == MAX_SKIPS


def test_an_epoch_is_a_shuffle_of_seed_and_number() -> None:
    first = epoch_indices(100, 16, seed=1, epoch=0)
    assert first.shape == (6, 16)
    assert len(np.unique(first)) == 96
    np.testing.assert_array_equal(first, epoch_indices(100, 16, seed=1, epoch=0))
    for other in (epoch_indices(100, 16, seed=1, epoch=1), epoch_indices(100, 16, seed=2, epoch=0)):
        assert (first != other).any()


def test_noise_differs_between_steps_and_seeds() -> None:
    def report_noise(vae, x, key, step):
        z = vae.infer(x, key).layers[0].z[0, :, 0]
        return ELBO()(vae, x, key, step)[0], {"z": z}

    vae, tx = linear_gaussian(), make_optimizer("adam", 0.0, 10)  # the parameters stay: only the key can change z
    step = make_train_step(vae, report_noise, tx)
    seen = []
    for seed in (0, 1):
        state = init_state(vae, tx, jax.random.key(seed), (2, 2, 1))
        for _ in range(3):
            state, metrics = step(state, IMAGES)
            seen.append(float(metrics["z"]))
    assert len(set(seen)) == 6


def test_averaged_parameters_follow_their_definition(images: np.ndarray) -> None:
    state, step = dense(ema_decay=0.75)
    expected = jax.device_get(state.params)
    for _ in range(3):
        state, _ = step(state, images)
        expected = jax.tree.map(lambda e, p: 0.75 * e + 0.25 * p, expected, jax.device_get(state.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.averaged_params, expected)
    assert state.best_params is state.averaged_params


def test_devices_that_cannot_be_had_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"`devices` is 99, but there are \d+ \("):
        data_mesh(198, 99)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    with pytest.raises(UserError, match="3 devices cannot split a batch of 128 images evenly"):
        data_mesh(128, 3)


def test_a_step_with_too_large_a_gradient_is_skipped_and_counted(images: np.ndarray) -> None:
    """It changes the number of the step alone, by which the next one draws otherwise."""
    vae, tx = tutorial_dense((28, 28, 1)), make_optimizer("adam", 1e-3, 10)
    state = init_state(vae, tx, KEY, (28, 28, 1), ema=True)
    step, plain = (make_train_step(vae, ELBO(), tx, ema_decay=0.9, skip_norm=limit) for limit in (1e-3, 0.0))
    after, metrics = step(jax.tree.map(jnp.copy, state), images)
    assert metrics["skipped"] == 1
    assert after.step == 1
    for name in ("params", "opt_state", "averaged_params"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(state, name))
    high = make_train_step(vae, ELBO(), tx, ema_decay=0.9, skip_norm=1e9)
    (one, metrics), (other, _) = (each(jax.tree.map(jnp.copy, state), images) for each in (high, plain))
    assert metrics["skipped"] == 0
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
