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
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from flax_vae.batches import BatchLike, refuse_outside, take
from flax_vae.models.binding import Params, init
from flax_vae.objectives.base import Metrics, Objective, Step, apply_objective
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
        params: parameters of the model.
        opt_state: state of the Optax optimiser.
        averaged_params: exponential moving average of the parameters, or None.
        skips: number of consecutive steps skipped up to now, int32.
        key: never changes; step t draws from `fold_in(key, t)`, so resuming needs no stored randomness.
    """

    step: Any
    params: Any
    opt_state: Any
    averaged_params: Any
    skips: Any
    key: Any

    @classmethod
    @by_default
    def create(
        cls, params: Params, tx: optax.GradientTransformation, key: Key[Array, ""], ema: bool = False
    ) -> "TrainState":
        """Return the state before the first step.

        Args:
            params: initial parameters.
            tx: the Optax optimiser.
            key: the key from which all steps draw.
            ema: average the parameters.
        """
        # Buffers of their own for all, since they are donated: some optimisers keep the initial parameters.
        averaged = jax.tree.map(jnp.copy, params) if ema else None
        step, skips = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        return cls(step, params, jax.tree.map(jnp.copy, tx.init(params)), averaged, skips, key)

    @property
    def best_params(self) -> Params:
        """The parameters to evaluate and sample with: the averaged ones, if any, or those of a schedule-free method."""
        if self.averaged_params is not None:
            return self.averaged_params
        is_schedule_free = lambda state: isinstance(state, optax.contrib.ScheduleFreeState)  # noqa: E731
        for state in jax.tree.leaves(self.opt_state, is_leaf=is_schedule_free):
            if is_schedule_free(state):
                return optax.contrib.schedule_free_eval_params(state, self.params)
        return self.params


TrainStep = Callable[[TrainState, BatchLike], tuple[TrainState, Metrics]]


@by_default
def init_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    key: Key[Array, ""],
    image_shape: tuple[int, int, int],
    ema: bool = False,
    context_dim: int = 0,
) -> TrainState:
    """Return the state of a fresh model and optimiser.

    Args:
        model: the Linen module.
        tx: the Optax optimiser.
        key: the key of the initial parameters and of all steps.
        image_shape: shape of an image, "h w c".
        ema: average the parameters.
        context_dim: size of the context of a conditional model, else 0.
    """
    init_key, train_key = jax.random.split(key)
    return TrainState.create(init(model, init_key, image_shape, context_dim), tx, train_key, ema)


def make_gradient(
    model: nn.Module, objective: Objective, microbatch_size: int = 0, accumulate: int = 1, mesh: Mesh | None = None
) -> Gradient:
    """Return `gradient(params, batch, key, step) -> (gradient, metrics)` of the mean loss of a batch.

    Arguments as for `make_train_step`.
    """

    def mean_loss(params: Params, batch: BatchLike, key: Array, step: Array) -> tuple[Array, Metrics]:
        terms = apply_objective(model, objective, params, batch, key, step)
        metrics = {name: value.mean() for name, value in terms.items()}  # the one mean over the batch
        return metrics["loss"], metrics

    return average_gradient(jax.grad(mean_loss, has_aux=True), microbatch_size, accumulate, mesh)


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
        grads, metrics = gradient(state.params, batch, key, state.step)
        of_loss: dict[str, Any] = {"value": metrics["loss"], "grad": grads}
        of_loss["value_fn"] = lambda params: gradient(params, batch, jax.random.clone(key), state.step)[1]["loss"]
        if asks_for_gradients:
            of_loss = {"grad_fn": lambda params, _: gradient(params, batch, jax.random.clone(key), state.step)[0]}
        updates, opt_state = update(grads, state.opt_state, state.params, **of_loss)
        params = optax.apply_updates(state.params, updates)
        averaged = state.averaged_params
        if averaged is not None:
            averaged = optax.incremental_update(params, averaged, 1 - ema_decay)
        new = replace(
            state, params=params, opt_state=opt_state, averaged_params=averaged, skips=jnp.zeros_like(state.skips)
        )

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
        objective: the loss of each image; see `flax_vae.objectives`.
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
        refuse_outside(batch, model)
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
    terms = jax.eval_shape(partial(apply_objective, model, objective), state.params, batch, state.key, state.step)
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
