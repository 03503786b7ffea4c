"""Figures of a whole set of images: means of an objective, and what each image shows by itself."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from flax_vae.batches import Batch, batch_size_of, take, unpack
from flax_vae.cluster import put
from flax_vae.errors import UserError
from flax_vae.models.vae import Params, bind
from flax_vae.objectives.terms import Objective, apply_objective, dimension_rates, elbo_terms, layer_rates
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
            sharded, own_key = put(block, split), jax.random.fold_in(key, i)
            parts = [
                jax.device_get(batch_sums(params, sharded, size, own_key, step, start, stop))
                for start, stop in spans(0, batch_size_of(block))
            ]
            for name in parts[0]:
                of_each = sum(part[name] for part in parts)
                sums[name] = sums.get(name, 0.0) + float(of_each.sum(dtype=np.float64))
        return {name: sums[name] / batch_size_of(images) for name in sorted(sums, key=lambda name: name != "loss")}

    return evaluate


def look_at_each(
    vae: nn.Module, params: Params, images: Batch, key: Key[Array, ""], batch_size: int = 100
) -> dict[str, Float[np.ndarray, "n ..."]]:
    """What one encoding of each image, and the decoding of one draw, show.

    Returns:
        elbo, rate and distortion "n" in nats; layer_rates "n l", the top first; squared_error "n", the mean over the
        pixels; posterior_mean "n d", of the top layer, where the model has an encoder; dimension_rates "n d", where its
        layers are vectors of independent normals.
    """

    @jax.jit
    def of_block(params: Params, block: Any, key: Array) -> dict[str, Array]:
        def of_batch(numbered: tuple[Array, Any]) -> dict[str, Array]:
            number, (x, context) = numbered[0], unpack(numbered[1])
            model = bind(vae, params, context)
            inference = model.infer(x, jax.random.fold_in(key, number))
            found = elbo_terms(inference, x) | {"layer_rates": jnp.stack(layer_rates(inference), axis=-1)}
            error = jnp.square(inference.likelihood.mean()[0] - x)
            found["squared_error"] = error.reshape(len(x), -1).mean(-1)
            if hasattr(model, "encode"):
                found["posterior_mean"] = model.encode(x).mean()
            if all(layer.z.ndim == 3 for layer in inference.layers):
                with contextlib.suppress(UserError):
                    found["dimension_rates"] = jnp.concatenate(dimension_rates(inference), axis=-1)
            return found

        return jax.lax.map(of_batch, (jnp.arange(batch_size_of(block)), block))

    parts = []
    for i, (block, size) in enumerate(in_blocks(images, batch_size)):
        found = jax.device_get(of_block(params, block, jax.random.fold_in(key, i)))
        parts.append({name: each.reshape(-1, *each.shape[2:])[:size] for name, each in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
