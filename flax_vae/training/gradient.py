"""The gradient of a batch, computed in pieces and averaged.

The batch is cut three times, each time into equal pieces:

    batch        into `accumulate` parts, one after another     less memory for activations
    part         into a shard for each device, all at once      `mesh`
    shard        into microbatches, one after another           `microbatch_size`: pieces that fit a CPU core's cache

Parts are interleaved, so that a device holds equally many images of every part; microbatches are contiguous within a
shard. Sixteen images, with accumulate=2, two devices and microbatch_size=2:

    image        0  1  2  3  4  5  6  7    8  9 10 11 12 13 14 15
    part         0  1  0  1  0  1  0  1    0  1  0  1  0  1  0  1
    device       0  0  0  0  0  0  0  0    1  1  1  1  1  1  1  1
    microbatch   0  4  0  4  1  5  1  5    2  6  2  6  3  7  3  7

Microbatch i draws from `fold_in(key, i)`, so the result does not depend on the number of devices, except for rounding.
If the microbatches of a part cannot be dealt evenly to the devices, each microbatch is split between all of them.

Parameters are gathered on every device for the gradient (ZeRO); the gradient is sharded as the parameters are.

Batch statistics are updated for each microbatch, all from the same values, and averaged like its gradient. They
therefore depend on how a batch is cut.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from flax_vae.batches import BatchLike, batch_size_of, take
from flax_vae.models.binding import Collections, Params
from flax_vae.objectives.base import Metrics
from flax_vae.training.sharding import BATCH_AXES, EVERYWHERE, batch_devices, constrain, inside_shard_map

# (params, batch, key, step) -> (gradient, metrics, updated collections other than parameters)
Gradient = Callable[[Params, BatchLike, Array, Array], tuple[Params, Metrics, Collections]]


def average_gradient(gradient: Gradient, microbatch_size: int, accumulate: int, mesh: Mesh | None) -> Gradient:
    """Return a function that averages the results of `gradient` over the pieces of a batch; see above.

    Args:
        gradient: `(params, batch, key, step) -> (gradient, metrics, collections)`, means over the batch.
        microbatch_size: the largest size of a microbatch; 0 for one microbatch per part.
        accumulate: the number of parts.
        mesh: devices that split the batch; None for a single one.
    """

    def average_shard(params: Params, batch: BatchLike, key: Array, step: Array) -> tuple[Params, Metrics, Collections]:
        """Average over the images of a device; over all images if JAX splits the arrays between the devices."""
        by_device = inside_shard_map()
        devices, device = (batch_devices(mesh), jax.lax.axis_index(BATCH_AXES)) if by_device else (1, 0)
        part_size = batch_size_of(batch) // accumulate
        size = largest_divisor(devices * part_size, microbatch_size)

        def cut(leaf: Array) -> Array:
            """Cut images "b ..." into parts "a b ...", and those into microbatches "a m b ..."."""
            parts = leaf.reshape(part_size, accumulate, *leaf.shape[1:]).swapaxes(0, 1)
            return parts.reshape(accumulate, part_size // size, size, *leaf.shape[1:])

        def average_part(microbatches: Any, numbers: Array) -> tuple[Params, Metrics, Collections]:
            if not by_device and size % batch_devices(mesh) == 0:
                microbatches = constrain(microbatches, mesh, PartitionSpec(None, BATCH_AXES))
            return _mean(of_microbatch, microbatches, numbers)

        def of_microbatch(microbatch: BatchLike, number: Array) -> tuple[Params, Metrics, Collections]:
            return gradient(params, microbatch, jax.random.fold_in(key, number), step)

        numbers = jnp.arange(accumulate * devices * part_size // size).reshape(accumulate, devices, -1)[:, device]
        average = _mean(average_part, jax.tree.map(cut, batch), numbers)
        return jax.lax.pmean(average, BATCH_AXES) if by_device else average

    def average_batch(params: Params, batch: BatchLike, key: Array, step: Array) -> tuple[Params, Metrics, Collections]:
        batch_size = batch_size_of(batch)
        if batch_size % accumulate:
            raise ValueError(f"a batch of {batch_size} images cannot be cut into {accumulate} equal parts")
        average = average_shard
        if mesh and not inside_shard_map() and deals_microbatches(mesh, batch_size // accumulate, microbatch_size):
            # Devices average once, instead of after every microbatch, as JAX would have them do.
            specs = (EVERYWHERE, PartitionSpec(BATCH_AXES), EVERYWHERE, EVERYWHERE)
            average = jax.shard_map(average, mesh=mesh, in_specs=specs, out_specs=EVERYWHERE, check_vma=False)
        grads, metrics, collections = average(constrain(params, mesh, EVERYWHERE), batch, key, step)
        return constrain(grads, mesh), metrics, collections

    return average_batch


def largest_divisor(number: int, limit: int) -> int:
    """Return the largest divisor of a number that is at most `limit`; the number itself if `limit` is 0."""
    return next(n for n in range(min(limit or number, number), 0, -1) if number % n == 0)


def deals_microbatches(mesh: Mesh, part_size: int, microbatch_size: int) -> bool:
    """Return True if the devices of a batch can have equally many microbatches of a part of it."""
    return part_size // largest_divisor(part_size, microbatch_size) % batch_devices(mesh) == 0


def _mean(function: Callable[..., Any], batches: Any, numbers: Array) -> Any:
    """Return the mean of `function(batch, number)` over batches "n b ..." and numbers "n", one after another."""
    if len(numbers) == 1:
        return function(take(batches, 0), numbers[0])
    function = jax.jit(function, inline=True)  # traced once for both of its uses

    def add(sums: Any, piece: tuple[Any, Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, function(*piece)), None

    shapes = jax.eval_shape(function, take(batches, 0), numbers[0])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    sums, _ = jax.lax.scan(add, zeros, (batches, numbers))
    return jax.tree.map(lambda leaf: leaf / len(numbers), sums)
