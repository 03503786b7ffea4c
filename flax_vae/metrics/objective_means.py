"""Means of an objective over a data set."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key

from flax_vae.batches import BatchLike, batch_size_of, take
from flax_vae.models.binding import Params
from flax_vae.objectives.base import Objective, apply_objective
from flax_vae.system.processes import place_on_devices
from flax_vae.system.settings import by_default
from flax_vae.training.sharding import shardings

_BLOCK_BYTES = 2**26  # bytes that are sent to the device at a time
Spans = Callable[[int, int], Iterable[tuple[int, int]]]  # cuts a range into spans, each from a start to a stop


def in_blocks(images: BatchLike, batch_size: int) -> Iterator[tuple[Any, int]]:
    """Yield blocks "s b h w c" of equal shape, each with the number of its real images.

    The last block is padded with the first images.
    """
    count, row_bytes = batch_size_of(images), sum(leaf[0].nbytes for leaf in jax.tree.leaves(images))
    steps = max(1, min(-(-count // batch_size), _BLOCK_BYTES // (batch_size * row_bytes)))
    for start in range(0, count, steps * batch_size):
        indices = np.arange(start, start + steps * batch_size).reshape(steps, batch_size)
        yield take(images, indices % count), min(count - start, indices.size)


def first_block(images: BatchLike, batch_size: int) -> Any:
    """Return one block of images; evaluating it compiles everything that evaluating all images needs."""
    block, _ = next(in_blocks(images, batch_size))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), block)


def make_evaluate(
    model: nn.Module, objective: Objective, batch_size: int, mesh: Mesh | None = None
) -> Callable[..., dict[str, float]]:
    """Return `evaluate(params, images, key, step, spans) -> {"loss": ..., metrics}`, the means over all images.

    Args:
        model: the model.
        objective: the training objective. Its weights are those at `step`: within a run always the last one, so that
            epochs are comparable.
        batch_size: number of images per call of the objective.
        mesh: devices that split each batch.

    Returns:
        The function. A conditional model takes a `Batch` of images and contexts. `spans(0, n)` cuts n batches
        into dispatches, each from a start to a stop; the results do not depend on them.
    """
    everywhere, split = shardings(mesh)

    @partial(jax.jit, out_shardings=everywhere)
    def batch_sums(
        params: Params, block: Any, size: Array, key: Array, step: Array, span: tuple[Array, Array]
    ) -> dict[str, Array]:
        def sums(i: Array) -> dict[str, Array]:
            terms = apply_objective(model, objective, params, take(block, i), jax.random.fold_in(key, i), step)
            is_real = i * batch_size + jnp.arange(batch_size) < size
            return {name: jnp.where(is_real, values, 0.0).sum() for name, values in terms.items()}

        return _stack(sums, *span, batch_size_of(block))

    @by_default
    def evaluate(
        params: Params,
        images: BatchLike,
        key: Key[Array, ""],
        step: int | Int[Array, ""],
        spans: Spans = lambda start, end: [(start, end)],
    ) -> dict[str, float]:
        totals: dict[str, float] = {}
        for i, (block, size) in enumerate(in_blocks(images, batch_size)):
            sharded, block_key = place_on_devices(block, split), jax.random.fold_in(key, i)
            dispatches = [
                jax.device_get(batch_sums(params, sharded, size, block_key, step, span))
                for span in spans(0, batch_size_of(block))
            ]
            for name in dispatches[0]:
                sums = sum(dispatch[name] for dispatch in dispatches)  # a batch is 0 in all dispatches but its own
                totals[name] = totals.get(name, 0.0) + float(sums.sum(dtype=np.float64))
        return {name: totals[name] / batch_size_of(images) for name in sorted(totals, key=lambda name: name != "loss")}

    return evaluate


def _stack(function: Callable[[Array], dict[str, Array]], start: Array, stop: Array, count: int) -> dict[str, Array]:
    """Return the values of a function at 0, 1, ... count - 1, stacked; zeros outside of start to stop."""
    function = jax.jit(function, inline=True)  # traced once for both of its uses

    def put(i: Array, values: dict[str, Array]) -> dict[str, Array]:
        return jax.tree.map(lambda stacked, value: stacked.at[i].set(value), values, function(i))

    shapes = jax.eval_shape(function, start)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(count, leaf.dtype), shapes)
    return jax.lax.fori_loop(start, stop, put, zeros)
