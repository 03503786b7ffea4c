"""State besides the model's parameters: batch statistics, dropout, and objectives with parameters.

The kind of fault is a network or an objective whose own state is not updated or saved, or changes outside of training.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from stateful_models import DROPPED, MOMENTUM, Adversary, stateful_vae

from flax_vae import (
    ELBO,
    IWAE,
    STL,
    DReG,
    TrainState,
    UserError,
    VampPrior,
    encode,
    from_nnx,
    init,
    init_state,
    log_likelihood,
    make_train_step,
    sample,
    tutorial_dense,
)
from flax_vae.models.binding import OF_OBJECTIVE, join_tree, split_tree
from flax_vae.objectives.base import LOSSES, apply_objective, train_objective
from flax_vae.training.step import make_gradient

KEY, SHAPE = jax.random.key(0), (7, 7, 1)
VAE_, TX = stateful_vae(SHAPE), optax.sgd(1e-3)


@pytest.fixture(scope="module")
def images(images: np.ndarray) -> np.ndarray:
    """64 small images."""
    return images[:, ::4, ::4]


@pytest.fixture(scope="module")
def step() -> Callable[..., Any]:
    return make_train_step(VAE_, Adversary(), TX, ema_decay=0.5)


def first(ema: bool = False) -> TrainState:
    return init_state(VAE_, TX, KEY, SHAPE, ema, objective=Adversary())


def statistics(collections: Any) -> dict[str, np.ndarray]:
    return jax.device_get(collections["batch_stats"]["encoder"]["network"]["normalised"]["BatchNorm_0"])


def assert_same_bits(left: Any, right: Any) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_step_updates_statistics_and_averages(step: Callable[..., Any], images: np.ndarray) -> None:
    state = first()
    h = (
        images.reshape(64, -1)
        / np.float32(255)
        @ np.asarray(state.params["encoder"]["network"]["normalised"]["Dense_0"]["kernel"])
    )
    state, metrics = step(state, images)
    new = statistics(state.collections)
    np.testing.assert_allclose(new["mean"], (1 - MOMENTUM) * h.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(new["var"], MOMENTUM + (1 - MOMENTUM) * h.var(0), rtol=1e-4)
    counts = state.collections["codebook"]["encoder"]["network"]["Codebook_0"]["counts"]
    np.testing.assert_allclose(counts.sum(), MOMENTUM * 4 + (1 - MOMENTUM), rtol=1e-5)
    assert metrics["average_logit"] == state.collections["averages"][OF_OBJECTIVE]["logit"] != 0


def test_pseudo_inputs_of_a_prior_do_not_count(step: Callable[..., Any], images: np.ndarray) -> None:
    """The statistics after a step are those of a model that encodes the batch only."""
    model = VAE_.clone(prior=VampPrior(SHAPE, components=3))
    state, alone = init_state(model, TX, KEY, SHAPE), step(first(), images)[0]
    state, _ = make_train_step(model, ELBO(), TX)(state, images)
    new, expected = statistics(state.collections), statistics(alone.collections)
    np.testing.assert_allclose(new["var"], expected["var"], rtol=1e-5)


def test_averaged_parameters_come_with_averaged_statistics(step: Callable[..., Any], images: np.ndarray) -> None:
    state = first(ema=True)
    old = statistics(state.collections)
    state, _ = step(state, images)
    new, averaged = statistics(state.collections), statistics(state.best_params)
    np.testing.assert_allclose(averaged["var"], (old["var"] + new["var"]) / 2, rtol=1e-6)


def test_a_skipped_step_keeps_statistics(images: np.ndarray) -> None:
    state = first()
    before = jax.device_get(state.tree)
    state, metrics = make_train_step(VAE_, Adversary(), TX, skip_norm=1e-9)(state, images)
    assert metrics["skipped"] == 1
    assert_same_bits(before, state.tree)


@pytest.mark.slow
def test_pieces_of_a_batch_start_from_the_same_statistics_which_are_averaged(images: np.ndarray) -> None:
    """A step on two microbatches is compared with a step on each of them alone."""
    tree = first().tree
    gradient = jax.jit(make_gradient(VAE_, Adversary(), microbatch_size=32))
    whole, alone = (statistics(gradient(tree, batch, KEY, 0)[2])["var"] for batch in (images, images[:32]))
    other = statistics(gradient(tree, images[32:], KEY, 0)[2])["var"]
    np.testing.assert_allclose(whole, (alone + other) / 2, rtol=1e-5)


def test_networks_are_functions_of_their_input_outside_of_training(
    step: Callable[..., Any], images: np.ndarray
) -> None:
    """An image is encoded in the same way alone and among others: neither its batch nor dropout matters."""
    params = step(first(), images)[0].best_params
    together, alone = encode(VAE_, params, images).mean(), encode(VAE_, params, images[:1]).mean()
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-6)
    assert sample(VAE_, params, KEY, 3).shape == (3, *SHAPE)
    assert np.isfinite(log_likelihood(VAE_, params, images[:4], KEY, 2)[0]).all()


class NNXEncoder(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.dense, self.norm = (
            nnx.Linear(49, 16, use_bias=False, rngs=rngs),
            nnx.BatchNorm(16, rngs=rngs, momentum=MOMENTUM),
        )
        self.dropout = nnx.Dropout(DROPPED, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(nnx.relu(self.norm(self.dense(x.reshape(len(x), -1)))))


@pytest.mark.quick(1)
@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_dropout_and_statistics_in_training_only(library: str, images: np.ndarray) -> None:
    """The share of features that are 0 rises by the rate of dropout, and depends on the key."""

    def objective(model: Any, x: jax.Array, key: jax.Array, step: jax.Array) -> tuple[jax.Array, dict]:
        return (model.features(x)[:, :16] == 0).astype(x.dtype).mean(-1), {}

    model = VAE_ if library == "linen" else VAE_.clone(encoder=from_nnx(NNXEncoder))
    tree, batch = init(model, KEY, SHAPE), np.tile(images, (8, 1, 1, 1))
    always = apply_objective(model, objective, tree, batch, KEY, 0)["loss"].mean()
    trained = [train_objective(model, objective, tree, batch, jax.random.key(i), 0) for i in (0, 1, 1)]
    a, b, again = (terms["loss"] for terms, _ in trained)
    assert (a != b).any()
    np.testing.assert_array_equal(b, again)
    # BatchNorm by the batch's own statistics leaves about half of the features positive.
    assert abs(a.mean() - (0.5 + 0.5 * DROPPED)) < 0.1
    assert abs(always - a.mean()) > 0.01
    mean, var = jax.tree.leaves(trained[0][1]["batch_stats" if library == "linen" else "nnx"])
    assert mean.shape == var.shape == (16,)
    assert (abs(mean) > 0).all()
    assert (abs(var - MOMENTUM) < 0.1).all()


@pytest.mark.slow
@pytest.mark.quick(1)
@pytest.mark.parametrize("objective", [STL(), DReG(1)], ids=["stl", "dreg"])
def test_estimators_infer_twice_with_one_dropout_mask(objective: Any, images: np.ndarray) -> None:
    """q(z | x) has to be the density that z was drawn from: the loss is that of IWAE, whose gradient differs."""
    tree = init_state(VAE_, TX, KEY, SHAPE).tree
    losses = [train_objective(VAE_, other, tree, images, KEY, 0)[0]["loss"] for other in (objective, IWAE(1))]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_each_of_two_losses_is_for_its_own_parameters(images: np.ndarray) -> None:
    """The gradient is that of two separate backward passes, to the bit: nothing leaks."""
    tree = first().tree
    params, collections = split_tree(tree)

    def loss(params: Any, name: str) -> jax.Array:
        tree = join_tree(params, collections)
        return train_objective(VAE_, Adversary(), tree, images, jax.random.fold_in(KEY, 0), 0)[0][name].mean()

    of_model, of_objective = (jax.jit(jax.grad(loss), static_argnums=1)(params, name) for name in LOSSES)
    expected = {**of_model, OF_OBJECTIVE: of_objective[OF_OBJECTIVE]}
    grads = jax.jit(make_gradient(VAE_, Adversary()))(tree, images, KEY, jnp.zeros((), int))[0]
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert any(leaf.any() for leaf in jax.tree.leaves(of_model[OF_OBJECTIVE])), "the model's loss depends on both"


class Weighted(nn.Module):
    """An objective with a single loss and a learned weight of the rate, as a multiplier would be."""

    @nn.compact
    def __call__(self, model: Any, x: jax.Array, key: jax.Array, step: jax.Array) -> tuple[jax.Array, dict]:
        weight = self.param("log_weight", nn.initializers.zeros, ())
        loss, terms = ELBO()(model, x, key, step)
        return loss + jnp.exp(weight) * terms["rate"], terms


def test_an_objective_with_one_loss_trains_its_parameters_too(images: np.ndarray) -> None:
    model = tutorial_dense(SHAPE, 2, features=(8,))
    state = init_state(model, TX, KEY, SHAPE, objective=Weighted())
    state, metrics = make_train_step(model, Weighted(), TX)(state, images)
    np.testing.assert_allclose(state.params[OF_OBJECTIVE]["log_weight"], -1e-3 * metrics["rate"], rtol=1e-4)


def test_a_state_without_the_parameters_of_the_objective_is_refused(images: np.ndarray) -> None:
    with pytest.raises(UserError, match="but the state has none: pass `objective` to init_state"):
        make_train_step(VAE_, Adversary(), TX)(init_state(VAE_, TX, KEY, SHAPE), images)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"model": 0.0, "critic": 0.0}, "`objective` Wrong returned losses of model, critic: return one for each of"),
        ({"model": 0.0, "objective": 0.0}, r"`objective` Wrong returned loss of shape \(\) for 2 examples"),
    ],
)
def test_other_losses_are_refused(result: dict[str, float], message: str) -> None:
    class Wrong(nn.Module):
        @nn.compact
        def __call__(self, model: Any, x: jax.Array, key: jax.Array, step: jax.Array) -> tuple[Any, dict]:
            return result, {}

    with pytest.raises(UserError, match=message):
        apply_objective(VAE_, Wrong(), first().tree, np.zeros((2, *SHAPE), np.uint8), KEY, 0)


def test_a_loss_of_an_objective_without_parameters_is_refused() -> None:
    def wrong(model: Any, x: jax.Array, key: jax.Array, step: jax.Array) -> tuple[Any, dict]:
        return {"model": x.mean((1, 2, 3)), "objective": x.mean((1, 2, 3))}, {}

    with pytest.raises(UserError, match="a loss for its parameters, but has none: make it a Linen module"):
        make_train_step(VAE_, wrong, optax.sgd(0.1))(first(), np.zeros((2, *SHAPE), np.uint8))
