"""Figures of a whole set of images: means of an objective, and what each image shows by itself."""

import contextlib
from collections.abc import Callable, Iterator
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


def in_blocks(images: Batch, batch_size: int) -> Iterator[tuple[Any, int]]:
    """Images in blocks "s b h w c" of one shape, the last filled up from the first, and how many of each count."""
    count, row_bytes = batch_size_of(images), sum(leaf[0].nbytes for leaf in jax.tree.leaves(images))
    steps = max(1, min(-(-count // batch_size), _BLOCK_BYTES // (batch_size * row_bytes)))
    for start in range(0, count, steps * batch_size):
        wanted = np.arange(start, start + steps * batch_size).reshape(steps, batch_size)
        yield take(images, wanted % count), min(count - start, wanted.size)


def make_evaluate(
    vae: nn.Module, objective: Objective, batch_size: int, mesh: Mesh | None = None
) -> Callable[..., dict[str, float]]:
    """`evaluate(params, images, key, step) -> {"loss": ..., metrics}`: means over all images, none left out.

    The objective is the one that trains, at a step whose weights are to be compared: within a run always its last one.
    The devices of `mesh` share each batch. A conditional model takes the pair of images and contexts for images, here
    and below.
    """

    everywhere, split = shardings(mesh)

    @partial(jax.jit, out_shardings=everywhere)
    def block_sums(params: Params, block: Any, size: Array, key: Array, step: Array) -> dict[str, Array]:
        def one_batch(i: Array) -> dict[str, Array]:
            batch = take(block, i)
            terms = apply_objective(vae, objective, params, batch, jax.random.fold_in(key, i), step)
            real = i * batch_size + jnp.arange(batch_size) < size
            return {name: jnp.where(real, value, 0.0).sum() for name, value in terms.items()}

        return jax.tree.map(jnp.sum, jax.lax.map(one_batch, jnp.arange(batch_size_of(block))))

    def evaluate(params: Params, images: Batch, key: Key[Array, ""], step: int | Int[Array, ""]) -> dict[str, float]:
        sums: dict[str, float] = {}
        for i, (block, size) in enumerate(in_blocks(images, batch_size)):
            sharded = put(block, split)
            part = jax.device_get(block_sums(params, sharded, size, jax.random.fold_in(key, i), step))
            sums = {name: sums.get(name, 0.0) + float(value) for name, value in part.items()}
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
