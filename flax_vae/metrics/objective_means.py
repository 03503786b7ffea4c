"""Means of an objective over a whole set of images."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key

from flax_vae.batches import Batch, batch_size_of, take
from flax_vae.models.binding import Params
from flax_vae.objectives.terms import Objective, apply_objective
from flax_vae.system.processes import place_on_devices
from flax_vae.training.sharding import shardings

_BLOCK_BYTES = 2**26  # what is sent to the device at a time
Spans = Callable[[int, int], Iterable[tuple[int, int]]]  # cuts a range into spans, each from a start to a stop


def in_blocks(images: Batch, batch_size: int) -> Iterator[tuple[Any, int]]:
    """Images in blocks "s b h w c" of one shape, the last filled up from the first, and how many of each count."""
    count, row_bytes = batch_size_of(images), sum(leaf[0].nbytes for leaf in jax.tree.leaves(images))
    steps = max(1, min(-(-count // batch_size), _BLOCK_BYTES // (batch_size * row_bytes)))
    for start in range(0, count, steps * batch_size):
        wanted = np.arange(start, start + steps * batch_size).reshape(steps, batch_size)
        yield take(images, wanted % count), min(count - start, wanted.size)


def first_block(images: Batch, batch_size: int) -> Any:
    """As many images as are sent to the device at a time, whose figures take one compilation with those of all."""
    block, _ = next(in_blocks(images, batch_size))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), block)


def make_evaluate(
    vae: nn.Module, objective: Objective, batch_size: int, mesh: Mesh | None = None
) -> Callable[..., dict[str, float]]:
    """`evaluate(params, images, key, step, spans) -> {"loss": ..., metrics}`: means over all images, none left out.

    The objective is the one that trains, at a step whose weights are to be compared: within a run always its last one.
    The devices of `mesh` share each batch. `spans(0, n)` may cut n batches into dispatches from a start to a stop each;
    how it does so changes no bit. A conditional model takes the pair of images and contexts for images, here and below.
    """

    everywhere, split = shardings(mesh)

    @partial(jax.jit, out_shardings=everywhere)
    def batch_sums(
        params: Params, block: Any, size: Array, key: Array, step: Array, start: Array, stop: Array
    ) -> dict[str, Array]:
        """Of each batch from start to stop, and zeros for the others."""

        def one_batch(i: Array) -> dict[str, Array]:
            batch = take(block, i)
            terms = apply_objective(vae, objective, params, batch, jax.random.fold_in(key, i), step)
            real = i * batch_size + jnp.arange(batch_size) < size
            return {name: jnp.where(real, value, 0.0).sum() for name, value in terms.items()}

        def put_in(i: Array, sums: dict[str, Array]) -> dict[str, Array]:
            return jax.tree.map(lambda all_sums, own: all_sums.at[i].set(own), sums, one_batch(i))

        found = jax.eval_shape(one_batch, start)
        none = jax.tree.map(lambda leaf: jnp.zeros(batch_size_of(block), leaf.dtype), found)
        return jax.lax.fori_loop(start, stop, put_in, none)

    def evaluate(
        params: Params,
        images: Batch,
        key: Key[Array, ""],
        step: int | Int[Array, ""],
        spans: Spans = lambda start, end: [(start, end)],
    ) -> dict[str, float]:
        sums: dict[str, float] = {}
        for i, (block, size) in enumerate(in_blocks(images, batch_size)):
            sharded, own_key = place_on_devices(block, split), jax.random.fold_in(key, i)
            parts = [
                jax.device_get(batch_sums(params, sharded, size, own_key, step, start, stop))
                for start, stop in spans(0, batch_size_of(block))
            ]
            for name in parts[0]:
                of_each = sum(part[name] for part in parts)
                sums[name] = sums.get(name, 0.0) + float(of_each.sum(dtype=np.float64))
        return {name: sums[name] / batch_size_of(images) for name in sorted(sums, key=lambda name: name != "loss")}

    return evaluate
