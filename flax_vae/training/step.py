"""Training as a pure function of (state, batch): one step, and many steps in one dispatch."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int, Key

from flax_vae.batches import Batch, batch_size_of, take
from flax_vae.models.vae import Params, init
from flax_vae.objectives.terms import Metrics, Objective, apply_objective
from flax_vae.training.sharding import BATCH_AXES, EVERYWHERE, by_hand, share, share_parameters, sharing

MOST_SKIPS = 10  # steps in a row, after which a training would go on skipping for ever


@struct.dataclass
class TrainState:
    """Everything a step changes, and the key it draws from.

    The fields are not annotated as arrays, since JAX also builds states of shapes and of shardings.

    Attributes:
        step: number of updates made, int32.
        params, opt_state: pytrees of the model and of Optax.
        averaged_params: exponential moving average of the parameters, or None.
        skips: number of steps in a row that were skipped until now, int32.
        key: never changes; step t draws from `fold_in(key, t)`, so resuming needs no saved randomness.
    """

    step: Any
    params: Any
    opt_state: Any
    averaged_params: Any
    skips: Any
    key: Any

    @property
    def best_params(self) -> Params:
        """The parameters to evaluate and sample with: averaged ones where there are any."""
        return self.params if self.averaged_params is None else self.averaged_params


def init_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    key: Key[Array, ""],
    image_shape: tuple[int, int, int],
    ema: bool = False,
    context_dim: int = 0,
) -> TrainState:
    """A fresh model and optimiser for images "h w c", and for contexts of a size if the model is conditional."""
    init_key, train_key = jax.random.split(key)
    params = init(model, init_key, image_shape, context_dim)
    averaged = jax.tree.map(jnp.copy, params) if ema else None
    step, skips = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)  # donated, so each has memory of its own
    return TrainState(step, params, tx.init(params), averaged, skips, train_key)


def make_train_step(
    model: nn.Module,
    objective: Objective,
    tx: optax.GradientTransformation,
    ema_decay: float = 0.0,
    microbatch_size: int = 0,
    accumulate: int = 1,
    mesh: Mesh | None = None,
    skip_norm: float = 0.0,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """A jitted `step(state, images) -> (state, metrics)`; the old state's buffers are donated to the new one.

    Metrics are means over the batch, in nats per image, and the global norm of the gradient. A conditional model takes
    the pair of images and contexts for images.

    A step is skipped if its gradient or a metric is not finite: parameters and optimiser stay as they are, all metrics
    are 0 but `skipped`, which is 1.

    Args:
        model, objective, tx: model, what is minimised, and the Optax optimiser.
        ema_decay: decay of the averaged parameters, where the state has any.
        microbatch_size: images whose gradient a device computes at a time, each microbatch with a key of its own; the
            whole batch is one if 0. What fits a core's cache is faster, for convolutions by far.
        accumulate: parts of the batch whose gradients are computed one after the other and averaged, each with a key of
            its own and shared by all devices: what a step keeps for its gradient takes that much less memory.
        mesh: devices that share the batch, from `data_mesh`; one device if None. The result is the same to rounding for
            every mesh.
        skip_norm: a step whose gradient has a larger norm is skipped as well (Child 2021); 0 for never.
    """
    mean_gradient = _make_mean_gradient(model, objective, microbatch_size, accumulate, mesh)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        params = share(state.params, EVERYWHERE, mesh)
        grads, metrics = mean_gradient(params, jax.tree.map(jnp.asarray, batch), key, state.step)
        grads = share_parameters(grads, mesh)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        averaged = state.averaged_params
        if averaged is not None:
            averaged = optax.incremental_update(params, averaged, 1 - ema_decay)
        none = jnp.zeros_like(state.skips)
        new = replace(state, params=params, opt_state=opt_state, averaged_params=averaged, skips=none)
        metrics |= {"gradient_norm": _norm(grads)}
        good = jnp.isfinite(jnp.stack(list(metrics.values()))).all()
        if skip_norm:
            good &= metrics["gradient_norm"] <= skip_norm
        new = jax.tree.map(partial(jnp.where, good), new, replace(state, skips=state.skips + 1))
        metrics = {name: jnp.where(good, value, 0) for name, value in metrics.items()}
        metrics |= {"skipped": 1 - good.astype(jnp.float32)}
        return share_parameters(replace(new, step=state.step + 1), mesh), metrics

    return jax.jit(train_step, donate_argnums=0)


def _norm(tree: Params) -> Array:
    # A dot product: on CPUs twice as fast as a sum of squares.
    return jnp.sqrt(sum(jnp.vdot(leaf, leaf, precision="highest") for leaf in jax.tree.leaves(tree)))


def zero_metrics(model: nn.Module, objective: Objective, state: TrainState, batch: Any) -> Metrics:
    """Zeros, one for each metric that the train step reports, from the shapes of its arguments."""
    terms = jax.eval_shape(partial(apply_objective, model, objective), state.params, batch, state.key, state.step)
    own = {name: jnp.zeros(()) for name in ("gradient_norm", "skipped")}
    return {name: jnp.zeros((), term.dtype) for name, term in terms.items()} | own


def _make_mean_gradient(
    model: nn.Module, objective: Objective, microbatch_size: int, accumulate: int, mesh: Mesh | None
) -> Callable[..., tuple[Params, Metrics]]:
    """A function (params, batch, key, step) -> gradient and metrics, averaged over parts, microbatches and devices."""
    devices = sharing(mesh) if mesh else 1

    def mean_loss(params: Params, batch: Batch, key: Array, step: Array) -> tuple[Array, Metrics]:
        terms = apply_objective(model, objective, params, batch, key, step)
        metrics = {name: value.mean() for name, value in terms.items()}  # the one mean over the batch
        return metrics["loss"], metrics

    gradient = jax.grad(mean_loss, has_aux=True)

    def of_microbatch(params: Params, batch: Batch, number: Array, key: Array, step: Array) -> tuple[Params, Metrics]:
        return gradient(params, batch, jax.random.fold_in(key, number), step)

    def of_part(params: Params, batch: Any, numbers: Array, key: Array, step: Array) -> tuple[Params, Metrics]:
        """Of microbatches "m b ..."; where no device has its own, all share each of them."""
        if not by_hand() and jax.tree.leaves(batch)[0].shape[1] % devices == 0:
            batch = share(batch, PartitionSpec(None, BATCH_AXES), mesh)
        return _mean_over(of_microbatch, params, batch, numbers, key, step)

    def of_share(params: Params, batch: Batch, key: Array, step: Array) -> tuple[Params, Metrics]:
        """Of the images that a device has; of all, where JAX shares them."""
        parties, device = (devices, jax.lax.axis_index(BATCH_AXES)) if by_hand() else (1, 0)
        part = batch_size_of(batch) // accumulate
        size = microbatch_of(parties * part, microbatch_size)

        def cut(leaf: Array) -> Array:
            # Images of a part are not beside each other: so each device has as many of every part.
            parts = leaf.reshape(part, accumulate, *leaf.shape[1:]).swapaxes(0, 1)
            return parts.reshape(accumulate, part // size, size, *leaf.shape[1:])

        numbers = jnp.arange(accumulate * parties * part // size).reshape(accumulate, parties, -1)[:, device]
        means = _mean_over(of_part, params, jax.tree.map(cut, batch), numbers, key, step)
        return jax.lax.pmean(means, BATCH_AXES) if by_hand() else means

    def mean_gradient(params: Params, batch: Batch, key: Array, step: Array) -> tuple[Params, Metrics]:
        batch_size = batch_size_of(batch)
        if batch_size % accumulate:
            raise ValueError(f"a batch of {batch_size} images cannot be cut into {accumulate} equal parts")
        if mesh is None or by_hand() or not each_has_its_own(mesh, batch_size // accumulate, microbatch_size):
            return of_share(params, batch, key, step)
        # Averaged by hand, once, and not by JAX for each microbatch.
        specs = (EVERYWHERE, PartitionSpec(BATCH_AXES), EVERYWHERE, EVERYWHERE)
        apart = jax.shard_map(of_share, mesh=mesh, in_specs=specs, out_specs=EVERYWHERE, check_vma=False)
        return apart(params, batch, key, step)

    return mean_gradient


def microbatch_of(batch_size: int, largest: int) -> int:
    """The largest size of equal microbatches that is none above `largest`; the whole batch if that is 0."""
    return next(n for n in range(min(largest or batch_size, batch_size), 0, -1) if batch_size % n == 0)


def each_has_its_own(mesh: Mesh, batch_size: int, microbatch_size: int) -> bool:
    """Whether microbatches can be dealt out, as many to each of the devices that share a batch."""
    return batch_size // microbatch_of(batch_size, microbatch_size) % sharing(mesh) == 0


def _mean_over(of_each: Callable[..., Any], params: Params, batches: Any, numbers: Array, *rest: Array) -> Any:
    """The mean of a function of batches "n b ..." and their numbers "n", computed one after the other."""
    if len(numbers) == 1:
        return of_each(params, take(batches, 0), numbers[0], *rest)

    def add(sums: Any, each: tuple[Any, Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, of_each(params, *each, *rest)), None

    found = jax.eval_shape(of_each, params, take(batches, 0), numbers[0], *rest)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), found)
    sums, _ = jax.lax.scan(add, zeros, (batches, numbers))
    return jax.tree.map(lambda leaf: leaf / len(numbers), sums)


def make_train_steps(
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]], out_shardings: Any = None
) -> Callable[..., Any]:
    """Many steps in one dispatch: `run(state, totals, images, indices, start, stop) -> (state, totals)`.

    Step i trains on `images[indices[i]]`, or on `images[i]` where indices are None and images batches "s b h w c"; and
    on the contexts beside them if `images` is a pair. `totals` adds up the metrics of the steps. The loop ends early
    where `MOST_SKIPS` steps in a row were skipped. `start` and `stop` are traced: one compilation serves every number
    of steps, and how a training is cut into dispatches does not change its bits.

    Args:
        train_step: from `make_train_step`.
        out_shardings: where state and totals are: one for all, or a tree of them. One device if None.
    """

    def run(
        state: TrainState,
        totals: Metrics,
        images: Any,
        indices: Int[Array, "s b"] | None,
        start: Int[Array, ""],
        stop: Int[Array, ""],
    ) -> tuple[TrainState, Metrics]:
        def unfinished(carry: tuple) -> Array:
            i, state, _ = carry
            return (i < stop) & (state.skips < MOST_SKIPS)

        def body(carry: tuple) -> tuple:
            i, state, totals = carry
            state, metrics = train_step(state, take(images, i if indices is None else indices[i]))
            return i + 1, state, jax.tree.map(jnp.add, totals, metrics)

        return jax.lax.while_loop(unfinished, body, (start, state, totals))[1:]

    # Unless told, XLA names the devices of its results otherwise than those of its arguments: a second compilation.
    return jax.jit(run, donate_argnums=(0, 1), out_shardings=out_shardings)
