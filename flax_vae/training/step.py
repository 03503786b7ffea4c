"""Training as a pure function of (state, batch): the state, its initial value, one step, and many steps in a program.

`make_step` and `make_steps` return functions to trace into a larger program; `make_train_step` and `make_train_steps`
compile them, and donate the old state's buffers to the new one; `make_train_step` keeps the parameters, which may be
those of a finished run.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from flax_vae.batches import Batch, BatchLike, ExampleShape, blank, take
from flax_vae.models.binding import OF_OBJECTIVE, Collections, Params, init, join_tree, split_tree
from flax_vae.models.inputs import checking
from flax_vae.objectives.base import LOSSES, Metrics, Objective, Step, apply_objective, init_objective, train_objective
from flax_vae.system.settings import by_default
from flax_vae.training.gradient import Gradient, average_gradient
from flax_vae.training.sharding import constrain

MAX_SKIPS = 10  # consecutive skipped steps after which a training is given up


@struct.dataclass
class TrainState:
    """Everything that a step changes, and the key from which it draws.

    The fields are not annotated as arrays, since JAX also builds states of shapes and of shardings.

    Attributes:
        step: number of updates, int32.
        params: parameters of the model and, under "objective", those of an objective that is a Linen module.
        opt_state: state of the Optax optimiser.
        averaged_params: exponential moving average of the parameters, or None.
        skips: number of consecutive steps skipped up to now, int32.
        key: never changes; step t draws from `fold_in(key, t)`, so resuming needs no stored randomness.
        collections: variables of the networks other than parameters, such as batch statistics.
        averaged_collections: exponential moving average of the collections, or None.
    """

    step: Any
    params: Any
    opt_state: Any
    averaged_params: Any
    skips: Any
    key: Any
    collections: Any = struct.field(default_factory=dict)
    averaged_collections: Any = None

    @classmethod
    @by_default
    def create(
        cls, params: Params, tx: optax.GradientTransformation, key: Key[Array, ""], ema: bool = False
    ) -> "TrainState":
        """Return the state before the first step.

        Args:
            params: initial parameters, or the whole tree.
            tx: the Optax optimiser.
            key: the key from which all steps draw.
            ema: average the parameters.
        """
        params, collections = split_tree(params)
        averaged = (params, collections) if ema else (None, None)
        step, opt_state, skips, averaged = _copies((np.int32(0), tx.init(params), np.int32(0), averaged))
        return cls(step, params, opt_state, averaged[0], skips, key, collections, averaged[1])

    @property
    def tree(self) -> Params:
        """The parameters, with the collections if there are any."""
        return join_tree(self.params, self.collections)

    @property
    def best_params(self) -> Params:
        """The parameters to evaluate and sample with: the averaged ones, if any, or those of a schedule-free method.

        They come with the collections, if there are any.
        """
        if self.averaged_params is not None:
            return join_tree(self.averaged_params, self.averaged_collections)
        is_schedule_free = lambda state: isinstance(state, optax.contrib.ScheduleFreeState)  # noqa: E731
        for state in jax.tree.leaves(self.opt_state, is_leaf=is_schedule_free):
            if is_schedule_free(state):
                params = optax.contrib.schedule_free_eval_params(state, self.params)
                return join_tree(params, self.collections)
        return self.tree


@jax.jit  # one program, which compiles faster than one for each shape
def _copies(tree: Any) -> Any:
    """Give each array a buffer of its own, since all are donated: some optimisers keep the initial parameters."""
    return jax.tree.map(jnp.copy, tree)


TrainStep = Callable[[TrainState, BatchLike], tuple[TrainState, Metrics]]


@by_default
def init_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    key: Key[Array, ""],
    shape: ExampleShape,
    ema: bool = False,
    context_dim: int = 0,
    objective: Objective | None = None,
) -> TrainState:
    """Return the state of a fresh model and optimiser.

    Args:
        model: the Linen module.
        tx: the Optax optimiser.
        key: the key of the initial parameters and of all steps.
        shape: the shape of one example, such as "h w c"; for several views, a pytree of shapes.
        ema: average the parameters.
        context_dim: size of the context of a conditional model, else 0.
        objective: the objective, if it is a Linen module.
    """
    init_key, train_key = jax.random.split(key)
    return TrainState.create(init_tree(model, objective, init_key, shape, context_dim), tx, train_key, ema)


def init_tree(
    model: nn.Module,
    objective: Objective | None,
    key: Key[Array, ""],
    shape: ExampleShape,
    context_dim: int = 0,
) -> Params:
    """Return the initial parameters, or the whole tree, of a model and its objective; arguments as for `init_state`."""
    batch = Batch(blank(shape, (2,)), jnp.zeros((2, context_dim)) if context_dim else None)
    params = init(model, key, shape, context_dim)
    return init_objective(model, objective, params, batch, jax.random.fold_in(key, 1))


def make_gradient(
    model: nn.Module, objective: Objective, microbatch_size: int = 0, accumulate: int = 1, mesh: Mesh | None = None
) -> Gradient:
    """Return `gradient(tree, batch, key, step) -> (gradient, metrics, collections)` of the mean loss of a batch.

    The tree is that of a `TrainState`. Other arguments as for `make_train_step`.
    """

    def gradient(tree: Params, batch: BatchLike, key: Array, step: Array) -> tuple[Params, Metrics, Collections]:
        params, collections = split_tree(tree)

        def mean_losses(params: Params) -> tuple[Metrics, tuple[Metrics, Collections]]:
            tree = join_tree(params, collections)
            terms, updated = train_objective(model, objective, tree, batch, key, step)
            metrics = {name: value.mean() for name, value in terms.items()}  # the one mean over the batch
            return {name: metrics[name] for name in LOSSES if name in metrics}, (metrics, updated)

        losses, pullback, (metrics, updated) = jax.vjp(mean_losses, params, has_aux=True)
        ones, zeros = jax.tree.map(jnp.ones_like, losses), jax.tree.map(jnp.zeros_like, losses)
        grads, *of_objective = (pullback({**zeros, name: ones[name]})[0] for name in losses)
        if of_objective:  # each of the two follows its own loss
            grads = {**grads, OF_OBJECTIVE: of_objective[0][OF_OBJECTIVE]}
        return grads, metrics, updated

    return average_gradient(gradient, microbatch_size, accumulate, mesh)


def make_step(
    gradient: Gradient,
    tx: optax.GradientTransformation,
    ema_decay: float = 0.0,
    skip_norm: float = 0.0,
    mesh: Mesh | None = None,
) -> TrainStep:
    """Return `step(state, batch) -> (state, metrics)`, not compiled; `gradient` is from `make_gradient`."""
    update = optax.with_extra_args_support(tx).update  # some ask for the loss, or for loss or gradient elsewhere
    asks_for_gradients = "grad_fn" in signature(update).parameters

    @by_default
    def train_step(state: TrainState, batch: BatchLike) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        grads, metrics, collections = gradient(state.tree, batch, key, state.step)

        def at(params: Params) -> tuple[Params, Metrics, Collections]:
            return gradient(join_tree(params, state.collections), batch, jax.random.clone(key), state.step)

        def loss(params: Params, obj_fn: Any = None) -> jax.Array:  # a line search passes on what it does not use
            return at(params)[1]["loss"]

        of_loss: dict[str, Any] = {"value": metrics["loss"], "grad": grads, "value_fn": loss, "obj_fn": loss}
        if asks_for_gradients:
            of_loss = {"grad_fn": lambda params, _: at(params)[0]}
        updates, opt_state = update(grads, state.opt_state, state.params, **of_loss)
        params = optax.apply_updates(state.params, updates)
        new = replace(
            state, params=params, opt_state=opt_state, collections=collections, skips=jnp.zeros_like(state.skips)
        )
        if state.averaged_params is not None:
            averaged = state.averaged_params, state.averaged_collections
            averaged = optax.incremental_update((params, collections), averaged, 1 - ema_decay)
            new = replace(new, averaged_params=averaged[0], averaged_collections=averaged[1])
        new = jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), new, state)  # means of counters are floats

        metrics |= {"gradient_norm": _norm(grads)}
        good = jnp.isfinite(jnp.stack(list(metrics.values()))).all()
        if skip_norm:
            good &= metrics["gradient_norm"] <= skip_norm
        old = replace(state, skips=state.skips + 1, key=None)
        new = jax.tree.map(partial(jnp.where, good), replace(new, key=None), old)
        metrics = {name: jnp.where(good, value, 0) for name, value in metrics.items()}
        metrics |= {"skipped": 1 - good.astype(jnp.float32)}
        return constrain(replace(new, step=state.step + 1, key=state.key), mesh), metrics

    return train_step


def make_train_step(
    model: nn.Module,
    objective: Objective,
    tx: optax.GradientTransformation,
    ema_decay: float = 0.0,
    microbatch_size: int = 0,
    accumulate: int = 1,
    mesh: Mesh | None = None,
    skip_norm: float = 0.0,
) -> TrainStep:
    """Return a jitted `step(state, batch) -> (state, metrics)`.

    The old state's buffers, except the parameters, are donated to the new one. Like a function of `jax.jit`, the step
    has a method `lower`.

    A batch is x alone, such as images "b h w c", or a `Batch` with the contexts of a conditional model. Metrics are
    means over the batch, in nats per example, and the global norm of the gradient.

    A step is skipped if its gradient or a metric is not finite: parameters and optimiser stay as they are, and all
    metrics are 0 except `skipped`, which is 1.

    Args:
        model: the Linen module.
        objective: the loss of each example; see `flax_vae.objectives`.
        tx: the Optax optimiser.
        ema_decay: decay of the averaged parameters, if the state has any.
        microbatch_size: largest number of images per gradient computation on a device; 0 for no limit. Each microbatch
            has its own key. Microbatches that fit the cache of a CPU core are much faster for convolutions.
        accumulate: number of parts of the batch whose gradients are computed one after another and averaged, each with
            its own key; divides the memory for activations.
        mesh: devices that split the batch, from `data_mesh`; a single device if None. The result is the same for every
            mesh, except for rounding.
        skip_norm: the gradient norm above which a step is skipped as well (Child 2021); 0 for no limit.
    """
    gradient = make_gradient(model, objective, microbatch_size, accumulate, mesh)
    train_step = make_step(gradient, tx, ema_decay, skip_norm, mesh)

    @partial(jax.jit, donate_argnums=1)
    def step(params: Params, others: TrainState, batch: BatchLike) -> tuple[TrainState, Metrics]:
        return train_step(replace(others, params=params), batch)

    def checked_step(state: TrainState, batch: BatchLike) -> tuple[TrainState, Metrics]:
        with checking(model, state.tree, batch, averaged=True):
            return step(state.params, replace(state, params=None), batch)

    attributes: Any = checked_step
    attributes.lower = lambda state, batch: step.lower(state.params, replace(state, params=None), batch)
    attributes._cache_size = step._cache_size  # type: ignore[attr-defined]  # the number of compilations
    return by_default(checked_step)


def _norm(tree: Params) -> Float[Array, ""]:
    # Dot products are twice as fast on CPUs as sums of squares.
    return jnp.sqrt(sum(jnp.vdot(leaf, leaf, precision="highest") for leaf in jax.tree.leaves(tree)))


@by_default
def zero_metrics(model: nn.Module, objective: Objective, state: TrainState, batch: Any) -> Metrics:
    """Return a zero for each metric of the train step, from the shapes of its arguments."""
    terms = jax.eval_shape(partial(apply_objective, model, objective), state.tree, batch, state.key, state.step)
    zeros = {name: jnp.zeros((), term.dtype) for name, term in terms.items()}
    return zeros | {name: jnp.zeros(()) for name in ("gradient_norm", "skipped")}


def make_steps(train_step: TrainStep) -> Callable[..., Any]:
    """Return the function that `make_train_steps` compiles."""

    def run(
        state: TrainState, totals: Metrics, images: Any, indices: Int[Array, "s b"] | None, start: Step, stop: Step
    ) -> tuple[TrainState, Metrics]:
        def unfinished(carry: tuple) -> Array:
            i, state, _ = carry
            return (i < stop) & (state.skips < MAX_SKIPS)

        def body(carry: tuple) -> tuple:
            i, state, totals = carry
            state, metrics = train_step(state, take(images, i if indices is None else indices[i]))
            return i + 1, state, jax.tree.map(jnp.add, totals, metrics)

        return jax.lax.while_loop(unfinished, body, (start, state, totals))[1:]

    return run


def make_train_steps(train_step: TrainStep, out_shardings: Any = None) -> Callable[..., Any]:
    """Return a jitted `run(state, totals, images, indices, start, stop) -> (state, totals)`: many steps in a dispatch.

    Step i trains on `images[indices[i]]`, or on `images[i]` if `indices` is None and `images` holds batches
    "s b h w c". The contexts of a `Batch` are indexed likewise. `totals` accumulates the metrics of the steps.
    The loop ends early after `MAX_SKIPS` consecutive skipped steps. `start` and `stop` are traced: one compilation
    serves any number of steps, and the bits do not depend on how a training is cut into dispatches.

    Args:
        train_step: from `make_train_step` or `make_step`.
        out_shardings: sharding of state and totals, one for all or a tree; a single device if None. Without it, XLA
            labels outputs on several devices differently from inputs, which causes a second compilation.
    """
    return by_default(jax.jit(make_steps(train_step), donate_argnums=(0, 1), out_shardings=out_shardings))
