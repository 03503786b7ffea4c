"""Training as a pure function of (state, batch): one step, and many steps in one dispatch."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jaxtyping import Array, Float, Int, Key, UInt8

from flax_vae.errors import UserError
from flax_vae.objectives import Metrics, Objective
from flax_vae.vae import VAE, init, variables

Images = UInt8[Array | np.ndarray, "b h w c"] | Float[Array | np.ndarray, "b h w c"]
# Images, or the pair of images and their contexts that a conditional model takes.
Batch = Images | tuple[Images, Float[Array | np.ndarray, "b v"]]
_DATA = "data"  # the mesh axis along which devices share a batch


@struct.dataclass
class TrainState:
    """Everything a step changes, and the key it draws from.

    The fields are not annotated as arrays, since JAX also builds states of shapes and of shardings.

    Attributes:
        step: number of updates made, int32.
        params, opt_state: pytrees of the model and of Optax.
        averaged_params: exponential moving average of the parameters, or None.
        key: never changes; step t draws from `fold_in(key, t)`, so resuming needs no saved randomness.
    """

    step: Any
    params: Any
    opt_state: Any
    averaged_params: Any
    key: Any

    @property
    def best_params(self) -> Any:
        """The parameters to evaluate and sample with: averaged ones where there are any."""
        return self.params if self.averaged_params is None else self.averaged_params


def init_state(
    vae: VAE,
    tx: optax.GradientTransformation,
    key: Key[Array, ""],
    image_shape: tuple[int, int, int],
    ema: bool = False,
    context_dim: int = 0,
) -> TrainState:
    """A fresh model and optimiser for images "h w c", and for contexts of a size if the model is conditional."""
    init_key, train_key = jax.random.split(key)
    params = init(vae, init_key, image_shape, context_dim)
    averaged = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), averaged, train_key)


def to_unit(images: Images) -> Float[Array, "b h w c"]:
    """Pixels as the model sees them: uint8 becomes x / 255 in [0, 1]; floats pass."""
    images = jnp.asarray(images)
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def unpack(batch: Batch) -> tuple[Float[Array, "b h w c"], Float[Array, "b v"] | None]:
    """A batch as the model sees it: pixels in [0, 1], and contexts if there are any."""
    images, context = batch if isinstance(batch, tuple) else (batch, None)
    return to_unit(images), None if context is None else jnp.asarray(context)


def batch_size_of(batch: Any) -> int:
    """How many images there are."""
    return len(jax.tree.leaves(batch)[0])


def take(batch: Any, which: Any) -> Any:
    """Some of the images, by an index or a slice, and of their contexts if there are any."""
    return jax.tree.map(itemgetter(which), batch)


def as_one(item: Any) -> Any:
    """A single image, a context or both as a batch of one."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], item)


def apply_objective(
    vae: VAE, objective: Objective, params: Any, batch: Batch, key: Key[Array, ""], step: int | Int[Array, ""]
) -> Metrics:
    """The objective of a model with its parameters: {"loss": "b", and the objective's own metrics "b"}.

    Raises:
        UserError: the objective did not return one loss per image and a dictionary of metrics per image, or gave one of
            them a name that the train step uses.
    """
    x, context = unpack(batch)
    result = nn.apply(objective, vae)(variables(vae, params, context), x, key, jnp.asarray(step))
    name = getattr(objective, "__name__", type(objective).__name__)
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise UserError(
            f"objective {name} must return (loss, metrics): an array of one loss per image and a dictionary."
        )
    if taken := {"loss", "gradient_norm"} & result[1].keys():
        raise UserError(
            f"objective {name} returned a metric named {taken.pop()}, which the train step reports: rename it."
        )
    for term, value in {"loss": result[0], **result[1]}.items():
        if jnp.shape(value) != (len(x),):
            raise UserError(
                f"objective {name} returned {term} of shape {jnp.shape(value)} for {len(x)} images; "
                f"it must be ({len(x)},), one value per image: leave the mean over the batch to the train step."
            )
    return {"loss": result[0], **result[1]}


def data_mesh(batch_size: int, devices: int | None = None) -> Mesh | None:
    """A mesh of `devices` devices that share a batch; as many as there are and divide it, if None. None if that is one.

    Raises:
        UserError: fewer devices than that, or a batch that they cannot share evenly.
    """
    if devices is not None and devices > jax.device_count():
        raise UserError(f"--devices {devices}: there are {jax.device_count()} ({jax.default_backend()}).")
    if devices is not None and batch_size % devices:
        raise UserError(f"--devices {devices}: a batch of {batch_size} images cannot be shared evenly.")
    count = devices or math.gcd(batch_size, jax.device_count())
    if count == 1:
        return None
    return jax.make_mesh((count,), (_DATA,), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])


def shardings(mesh: Mesh | None) -> tuple[Sharding, Sharding]:
    """Of an array that every device holds, and of one that they share by its second axis, batches "s b ..."."""
    if mesh is None:
        return (SingleDeviceSharding(jax.devices()[0]),) * 2
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(None, _DATA))


def make_train_step(
    vae: VAE,
    objective: Objective,
    tx: optax.GradientTransformation,
    ema_decay: float = 0.0,
    microbatch_size: int = 0,
    mesh: Mesh | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """A jitted `step(state, images) -> (state, metrics)`; the old state's buffers are donated to the new one.

    Metrics are means over the batch, in nats per image, and the global norm of the gradient. A conditional model takes
    the pair of images and contexts for images.

    Args:
        vae, objective, tx: model, what is minimised, and the Optax optimiser.
        ema_decay: decay of the averaged parameters, where the state has any.
        microbatch_size: images whose gradient is computed at a time, each microbatch with a key of its own; a device's
            whole share if 0. What fits a core's cache is faster, for convolutions by far.
        mesh: devices that share the batch, from `data_mesh`; one device if None. While their shares are made of whole
            microbatches, the result is the same to rounding for every number of devices.
    """
    mean_gradient = _make_mean_gradient(vae, objective, microbatch_size, mesh)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        grads, metrics = mean_gradient(state.params, jax.tree.map(jnp.asarray, batch), key, state.step)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        averaged = state.averaged_params
        if averaged is not None:
            averaged = optax.incremental_update(params, averaged, 1 - ema_decay)
        state = replace(state, step=state.step + 1, params=params, opt_state=opt_state, averaged_params=averaged)
        return state, metrics | {"gradient_norm": optax.tree.norm(grads)}

    return jax.jit(train_step, donate_argnums=0)


def zero_metrics(vae: VAE, objective: Objective, state: TrainState, batch: Any) -> Metrics:
    """Zeros, one for each metric that the train step reports, from the shapes of its arguments."""
    terms = jax.eval_shape(partial(apply_objective, vae, objective), state.params, batch, state.key, state.step)
    return {name: jnp.zeros((), term.dtype) for name, term in terms.items()} | {"gradient_norm": jnp.zeros(())}


def _make_mean_gradient(
    vae: VAE, objective: Objective, microbatch_size: int, mesh: Mesh | None
) -> Callable[..., tuple[Any, Metrics]]:
    """A function (params, batch, key, step) -> gradient and metrics, averaged over microbatches and devices."""

    def mean_loss(params: Any, batch: Batch, key: Array, step: Array) -> tuple[Array, Metrics]:
        terms = apply_objective(vae, objective, params, batch, key, step)
        metrics = {name: value.mean() for name, value in terms.items()}  # the one mean over the batch
        return metrics["loss"], metrics

    gradient = jax.grad(mean_loss, has_aux=True)

    def own(tree: Any) -> Any:
        """Mark values as this device's own, or each microbatch would add its gradient up over all the devices."""
        return jax.tree.map(lambda leaf: jax.lax.pcast(leaf, _DATA, to="varying"), tree) if mesh else tree

    def mean_gradient(params: Any, batch: Any, key: Array, step: Array) -> tuple[Any, Metrics]:
        batch_size = batch_size_of(batch)
        largest = min(microbatch_size or batch_size, batch_size)
        size = next(n for n in range(largest, 0, -1) if batch_size % n == 0)
        count = batch_size // size
        device = jax.lax.axis_index(_DATA) if mesh else 0
        params = own(params)
        microbatches = jax.tree.map(lambda leaf: leaf.reshape(count, size, *leaf.shape[1:]), batch)

        def add(sums: Any, numbered: tuple[Array, Any]) -> tuple[Any, None]:
            number, microbatch = numbered
            return jax.tree.map(
                jnp.add, sums, gradient(params, microbatch, jax.random.fold_in(key, number), step)
            ), None

        found = jax.eval_shape(gradient, params, take(microbatches, 0), key, step)
        zeros = own(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), found))
        sums, _ = jax.lax.scan(add, zeros, (device * count + jnp.arange(count), microbatches))
        means = jax.tree.map(lambda leaf: leaf / count, sums)
        return jax.lax.pmean(means, _DATA) if mesh else means

    if mesh is None:
        return mean_gradient
    whole, shared = PartitionSpec(), PartitionSpec(_DATA)
    return jax.shard_map(mean_gradient, mesh=mesh, in_specs=(whole, shared, whole, whole), out_specs=whole)


def epoch_indices(num_images: int, batch_size: int, seed: int, epoch: int) -> Int[np.ndarray, "s b"]:
    """The shuffle of one epoch, a function of (seed, epoch): one row of image indices per step.

    The images that do not fill a last batch sit out this epoch; another shuffle leaves others out.
    """
    steps = num_images // batch_size
    order = np.random.default_rng((seed, epoch)).permutation(num_images)
    return order[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def make_train_steps(
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]], mesh: Mesh | None = None
) -> Callable[..., Any]:
    """Many steps in one dispatch: `run(state, totals, images, indices, start, stop) -> (state, totals, last)`.

    Step i trains on `images[indices[i]]`, and on the contexts beside them if `images` is a pair. `totals` adds up the
    metrics of the steps; `last` holds those of the last one. The loop ends early, after the first step with a metric
    that is not finite. `start` and `stop` are traced: one compilation serves every number of steps, and how a training
    is cut into dispatches does not change its bits.
    """

    def run(
        state: TrainState,
        totals: Metrics,
        images: Any,
        indices: Int[Array, "s b"],
        start: Int[Array, ""],
        stop: Int[Array, ""],
    ) -> tuple[TrainState, Metrics, Metrics]:
        def unfinished(carry: tuple) -> Array:
            i, _, _, last = carry
            return (i < stop) & jnp.isfinite(jnp.stack(list(last.values()))).all()

        def body(carry: tuple) -> tuple:
            i, state, totals, _ = carry
            state, metrics = train_step(state, take(images, indices[i]))
            return i + 1, state, jax.tree.map(jnp.add, totals, metrics), metrics

        last = jax.tree.map(jnp.zeros_like, totals)
        return jax.lax.while_loop(unfinished, body, (start, state, totals, last))[1:]

    # Unless told, XLA names the devices of its results otherwise than those of its arguments: a second compilation.
    everywhere = shardings(mesh)[0] if mesh else None
    return jax.jit(run, donate_argnums=(0, 1), out_shardings=everywhere)
