"""Optimisers and learning-rate schedules."""

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from flax_vae import (
    ELBO,
    LearnedMixture,
    TrainState,
    UserError,
    VampPrior,
    init_state,
    make_optimizer,
    make_train_step,
    tutorial_dense,
)
from flax_vae.objectives.base import apply_objective
from flax_vae.training.optimizers import OPTIMIZERS, orthogonalize

VAE = tutorial_dense((7, 7, 1), features=(32,))


def rates(**settings) -> np.ndarray:
    """Return the rate at each step: the size of Adam's update for a gradient of one."""
    tx = make_optimizer("adam", 0.1, total_steps=100, warmup_steps=10, **settings)

    def step(state: optax.OptState, _: None) -> tuple[optax.OptState, jax.Array]:
        update, state = tx.update(jnp.ones(()), state, jnp.zeros(()))
        return state, -update

    return np.asarray(jax.jit(lambda: jax.lax.scan(step, tx.init(jnp.zeros(())), length=101)[1])())


@pytest.mark.parametrize(
    ("schedule", "halfway", "end"),
    [
        ("constant", 0.1, 0.1),
        ("linear", 0.05, 0.0),
        ("linear(end=0.5)", 0.075, 0.05),
        ("cosine", 0.0505, 0.001),
        ("cosine(end=0.5)", 0.075, 0.05),
    ],
)
def test_the_rate_warms_up_then_follows_its_schedule(schedule: str, halfway: float, end: float) -> None:
    sizes = rates(schedule=schedule)
    np.testing.assert_allclose(sizes[:11], np.arange(11) / 100, atol=1e-4)
    np.testing.assert_allclose(sizes[[55, 100]], [halfway, end], atol=1e-4)


def test_hyperparameters_reach_optax() -> None:
    """A weight decay of 0.5 moves a parameter of 2 by the rate times 1, without any gradient."""
    tx = make_optimizer("adamw(weight_decay=0.5)", 0.1, 10)
    update, _ = jax.jit(lambda param: tx.update(jnp.zeros(()), tx.init(param), param))(2.0)
    np.testing.assert_allclose(update, -0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "adan"}, r"adan does not exist: choose from adam, .*muon.*\. Did you mean adam\?"),
        ({"schedule": "cosine(alpha=0)"}, r"unexpected keyword argument 'alpha'; the signature is cosine\(end=0\.01\)"),
    ],
)
def test_unknown_parts_are_refused(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_optimizer(**{"name": "adam", "learning_rate": 0.1, "total_steps": 10} | arguments)


def test_clipping_bounds_the_gradient_before_the_optimiser() -> None:
    tx = make_optimizer("adam", 0.1, 10, clip_norm=1.0)
    gradient = {"a": np.float32([300, 400])}
    _, state = jax.jit(lambda gradient: tx.update(gradient, tx.init(gradient), gradient))(gradient)
    first_moment = next(leaf for leaf in jax.tree.leaves(state) if leaf.shape == (2,))
    np.testing.assert_allclose(first_moment, 0.1 * np.array([0.6, 0.8]), rtol=1e-5)


WRITTEN = {"every": "every(adam(), steps=2)", "split": "split(adam(), encoder=adamw())"}


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", [WRITTEN.get(name, name) for name in OPTIMIZERS if name != "frozen"])
def test_every_optimiser_trains(name: str, images: np.ndarray) -> None:
    rate = 2e-2 if name in ("muon", WRITTEN["every"]) else 1e-2
    small, tx = images[:, ::4, ::4], make_optimizer(name, rate, 30, warmup_steps=3, schedule="cosine")
    state = jax.jit(lambda: init_state(VAE, tx, jax.random.key(0), small.shape[1:]))()
    step = make_train_step(VAE, ELBO(), tx)
    losses = []
    for _ in range(30):
        state, metrics = step(state, small)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.9 * losses[0]


def updates(name: str, steps: int, params: dict[str, Any], **settings: Any) -> list[Any]:
    """Return the updates of an optimiser in each step, for the gradients 1, 2, 3, ... of all parameters."""
    tx = make_optimizer(name, **{"learning_rate": 0.1, "total_steps": 100, **settings})
    update, state, found = jax.jit(tx.update), tx.init(params), []
    for step in range(steps):
        gradient = jax.tree.map(lambda p, step=step: jnp.full_like(p, step + 1), params)
        made, state = update(gradient, state, params)
        found.append(jax.tree.map(np.asarray, made))
    return found


PARAMS = {"encoder": {"kernel": jnp.ones((2, 3))}, "decoder": {"bias": jnp.ones(3)}, "prior": jnp.ones(2)}


def test_each_part_has_the_optimiser_of_its_name() -> None:
    """A frozen part does not move, and each of the others moves as with its optimiser alone, at its own rate."""
    settings = {"schedule": "linear", "warmup_steps": 2, "clip_norm": 1.0}
    found = updates("split(adam(), encoder=frozen(), prior=adamw(3e-4, weight_decay=0.5))", 5, PARAMS, **settings)
    scheduled = updates("adam", 5, {"decoder": PARAMS["decoder"]}, **settings)
    constant = {"schedule": "constant", "learning_rate": 3e-4, "clip_norm": 1.0}
    alone = updates("adamw(weight_decay=0.5)", 5, {"prior": PARAMS["prior"]}, **constant)
    for step in range(5):
        np.testing.assert_array_equal(found[step]["encoder"]["kernel"], 0)
        np.testing.assert_array_equal(found[step]["decoder"]["bias"], scheduled[step]["decoder"]["bias"])
        np.testing.assert_array_equal(found[step]["prior"], alone[step]["prior"])


def test_an_optimiser_updates_at_every_so_many_steps() -> None:
    """Each update has the scheduled rate of its step; the steps between do not change the optimiser's state either."""
    found = updates("every(adam(), steps=3, start=2)", 9, PARAMS, schedule="linear")
    rates = np.linspace(0.1, 0, 101)
    state = optax.scale_by_adam().init(jnp.ones(2))
    for step in range(9):
        expected = np.zeros(2)
        if step in (2, 5, 8):
            direction, state = optax.scale_by_adam().update(jnp.full(2, step + 1.0), state)
            expected = -rates[step] * np.asarray(direction)
        np.testing.assert_allclose(found[step]["prior"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("split(adam(), encodr=frozen())", "no parameters are called encodr, only decoder, encoder, prior"),
        ("split(encoder=frozen())", r"no optimiser for decoder, prior\. Name one for each, or first write one"),
        ("split(encoder='adam')", "encoder is 'adam', which is not one of adam, "),
        ("split(encoder=adan())", r"encoder is adan\(\), which is not one of adam, "),
        ("every(adam())", r"missing a required argument: 'steps'; the signature is every\(optimizer, steps, start=0\)"),
        ("every(adam(), steps=0)", "steps must be at least 1"),
        ("adam(0.1)", r"`optimizer` adam\(learning_rate=0.1\): set `learning_rate` instead"),
    ],
)
def test_an_optimiser_that_cannot_be_made_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_optimizer(name, 0.1, 10).init(PARAMS)


def test_a_frozen_encoder_keeps_its_bits(images: np.ndarray) -> None:
    """The decoder trains, and its first step is that of Adam alone."""
    small, results = images[:, ::4, ::4], {}
    for name in ("adam", "split(adam(), encoder=frozen(), posterior=frozen())"):
        tx = make_optimizer(name, 1e-2, 30)
        state = init_state(VAE, tx, jax.random.key(0), small.shape[1:])
        before, step = jax.tree.map(np.array, state.params), make_train_step(VAE, ELBO(), tx)
        state, _ = step(state, small)
        results[name] = jax.tree.map(np.array, state.params)
    together, apart = results.values()
    for part in ("encoder", "posterior"):
        jax.tree.map(np.testing.assert_array_equal, apart[part], before[part])
    jax.tree.map(np.testing.assert_array_equal, apart["decoder"], together["decoder"])
    assert not np.array_equal(jax.tree.leaves(apart["decoder"])[0], jax.tree.leaves(before["decoder"])[0])


class Multiplier(nn.Module):
    """The ELBO with a learned weight of the rate."""

    @nn.compact
    def __call__(self, model: Any, x: Any, key: Any, step: Any) -> Any:
        weight = self.param("weight", nn.initializers.ones, ())
        loss, metrics = ELBO(weight)(model, x, key, step)
        return {"model": loss, "objective": -loss}, metrics


def test_the_parameters_of_an_objective_have_an_optimiser_of_their_own(images: np.ndarray) -> None:
    """The optimiser named `objective` moves them at steps 1 and 3 only; the model does not move."""
    small, objective = images[:, ::4, ::4], Multiplier()
    tx = make_optimizer("split(frozen(), objective=every(adam(0.1), steps=2, start=1))", 1e-2, 30)
    state = init_state(VAE, tx, jax.random.key(0), small.shape[1:], objective=objective)
    before, step, weights = jax.tree.map(np.array, state.params), make_train_step(VAE, objective, tx), []
    for _ in range(4):
        state, _ = step(state, small)
        weights.append(float(state.params["objective"]["weight"]))
    np.testing.assert_allclose(weights, [1.0, 1.1, 1.1, 1.2], rtol=1e-2)
    for part in before.keys() - {"objective"}:
        jax.tree.map(np.testing.assert_array_equal, state.params[part], before[part])


SLOW = pytest.mark.slow


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "tx",
    [
        pytest.param(optax.contrib.prodigy(), id="prodigy"),
        pytest.param(optax.contrib.schedule_free_adamw(1e-2, warmup_steps=3), id="schedule_free"),
        pytest.param(optax.chain(optax.adam(1e-2), optax.contrib.reduce_on_plateau(patience=5)), id="plateau"),
        pytest.param(optax.contrib.sam(optax.adam(1e-2), optax.sgd(1e-2)), id="sam"),
        pytest.param(optax.contrib.sam(optax.adam(1e-2), optax.sgd(1e-2), opaque_mode=True), id="sam 2", marks=SLOW),
        pytest.param(optax.contrib.dog(init_step=("distance", 1e-2)), id="dog", marks=SLOW),
        pytest.param(optax.contrib.cocob(), id="cocob", marks=SLOW),
        pytest.param(optax.contrib.mechanize(optax.adam(1e-2), s_init=1e-2), id="mechanize", marks=SLOW),
        pytest.param(optax.lbfgs(), id="lbfgs", marks=SLOW),
        pytest.param(optax.polyak_sgd(max_learning_rate=1e-2), id="polyak_sgd", marks=SLOW),
        pytest.param(optax.contrib.momo(0.1), id="momo", marks=SLOW),
        pytest.param(optax.contrib.sophia(1e-2, update_interval=2), id="sophia", marks=SLOW),
    ],
)
def test_any_optimiser_of_optax_trains(tx: optax.GradientTransformation, images: np.ndarray) -> None:
    """Some keep the initial parameters, some ask for the loss, some evaluate at other parameters than they train.

    The kind: optimisers that need more of a step than the gradient, by any of the names that Optax has for it.
    """
    small = images[:, ::4, ::4]
    state = init_state(VAE, tx, jax.random.key(0), small.shape[1:])
    step, first = make_train_step(VAE, ELBO(), tx), state.params
    losses = []
    for _ in range(40):
        state, metrics = step(state, small)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] - 1
    start, end = (
        apply_objective(VAE, ELBO(), params, small, jax.random.key(1), 0)["loss"].mean()
        for params in (first, state.best_params)
    )
    assert end < start - 1


def test_schedule_free_methods_are_evaluated_at_their_average() -> None:
    """On a quadratic function of two parameters, where Optax defines the point of evaluation."""
    tx = optax.chain(optax.clip(10.0), optax.contrib.schedule_free_sgd(0.1))
    state = TrainState.create({"x": jnp.asarray([3.0, -2.0])}, tx, jax.random.key(0))
    params, opt_state = state.params, state.opt_state
    for _ in range(5):
        updates, opt_state = tx.update(params, opt_state, params)
        params = optax.apply_updates(params, updates)
    state = replace(state, params=params, opt_state=opt_state)
    expected = optax.contrib.schedule_free_eval_params(opt_state[1], params)
    np.testing.assert_array_equal(state.best_params["x"], expected["x"])
    assert not np.array_equal(state.best_params["x"], params["x"])


def test_training_on_from_a_finished_run_leaves_its_parameters(images: np.ndarray) -> None:
    """A step donates buffers: those of a run are not its own."""
    small, tx = images[:, ::4, ::4], optax.adam(1e-2)
    params = init_state(VAE, tx, jax.random.key(0), small.shape[1:]).params
    before = jax.tree.map(np.array, params)
    step = make_train_step(VAE, ELBO(), tx, ema_decay=0.9)
    for state in (
        TrainState.create(params, tx, jax.random.key(0), ema=True),
        replace(init_state(VAE, tx, jax.random.key(1), small.shape[1:], ema=True), params=params),
    ):
        step(state, small)
        jax.tree.map(np.testing.assert_array_equal, params, before)


@pytest.mark.parametrize("shape", [(40, 8), (8, 40), (3, 3, 4, 8), (5, 5)])
@pytest.mark.parametrize("smallest", [1.0, 1e-6], ids=["well-conditioned", "nearly rank-deficient"])
def test_orthogonalising_iterates_the_quintic_on_the_singular_values(shape: tuple[int, ...], smallest: float) -> None:
    """Compare with the singular value decomposition in float64, for kernels as matrices "(kh kw i) o"."""
    matrix = np.random.default_rng(0).normal(size=(np.prod(shape[:-1]), shape[-1]))
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s[-1] *= smallest
    found = jax.jit(orthogonalize)(np.float32((u * s) @ v).reshape(shape))
    s /= np.linalg.norm(s)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    expected = (u * s) @ v * np.sqrt(max(1, matrix.shape[1] / matrix.shape[0]))
    np.testing.assert_allclose(found.reshape(matrix.shape), expected, atol=1e-3)
    assert not np.asarray(jax.jit(orthogonalize)(np.zeros(shape, np.float32))).any()


def test_muon_equals_that_of_optax() -> None:
    """After the first steps, whose bias Optax corrects."""
    shapes = {"kernel": (3, 3, 4, 8), "dense": (20, 6), "bias": (6,), "one_output": (3, 3, 4, 1)}
    kernels = optax.contrib.MuonDimensionNumbers((0, 1, 2), 3), optax.contrib.MuonDimensionNumbers()
    dimensions = {"kernel": kernels[0], "dense": kernels[1], "bias": None, "one_output": None}
    theirs = optax.contrib.muon(0.1, adam_b2=0.99, muon_weight_dimension_numbers=dimensions)
    ours = make_optimizer("muon", 0.1, 200)
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}

    def step(states: tuple, key: jax.Array) -> tuple:
        grads = {name: jax.random.normal(key, shape) for name, shape in shapes.items()}
        updates, states = zip(*(tx.update(grads, s, params) for tx, s in zip((ours, theirs), states, strict=True)),
                              strict=True)  # fmt: skip
        return states, updates

    @jax.jit
    def updates_of_both() -> tuple:
        keys = jax.random.split(jax.random.key(0), 200)
        return jax.lax.scan(step, (ours.init(params), theirs.init(params)), keys)[1]

    found, expected = updates_of_both()
    for name in shapes:
        np.testing.assert_allclose(found[name][-1], expected[name][-1], atol=1e-4)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("prior", "components"),
    [(VampPrior((14, 14, 3), components=10), ["pseudo_inputs"]), (LearnedMixture(2, 10), ["loc", "log_scale"])],
)
def test_muon_moves_the_components_of_a_prior_as_far_as_its_rate(
    prior: nn.Module, components: list[str], images: np.ndarray
) -> None:
    """As matrices, they would move by a third of the rate, or by a thousandth for images of three channels."""
    colour = np.broadcast_to(images[:8, ::2, ::2], (8, 14, 14, 3))
    model, tx = tutorial_dense((14, 14, 3), 2, features=(16,), prior=prior), make_optimizer("muon", 1e-2, 10)
    state = jax.jit(lambda: init_state(model, tx, jax.random.key(0), (14, 14, 3)))()
    before = jax.tree.map(np.array, state.params["prior"])
    state, _ = make_train_step(model, ELBO(), tx)(state, colour)
    for name in components:
        step = np.abs(np.asarray(state.params["prior"][name]) - before[name])
        assert 0.5e-2 < np.median(step[step > 0]) < 2e-2
