"""Numbers about a model with its parameters, in nats per image."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from flax_vae.distributions import kl_divergence
from flax_vae.objectives import Objective
from flax_vae.training import apply_objective, data_mesh, shardings, to_unit
from flax_vae.vae import VAE, bind

_BLOCK_BYTES = 2**26  # what is sent to the device at a time


def _blocks(images: UInt8[np.ndarray, "n h w c"], batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Images in blocks "s b h w c" of one shape, the last filled up with zeros, and how many of each are real."""
    batch_bytes = batch_size * images[0].nbytes
    steps = max(1, min(-(-len(images) // batch_size), _BLOCK_BYTES // batch_bytes))
    for start in range(0, len(images), steps * batch_size):
        block = images[start : start + steps * batch_size]
        padded = np.zeros((steps * batch_size, *images.shape[1:]), np.uint8)
        padded[: len(block)] = block
        yield padded.reshape(steps, batch_size, *images.shape[1:]), len(block)


def make_evaluate(vae: VAE, objective: Objective, batch_size: int) -> Callable[..., dict[str, float]]:
    """`evaluate(params, images, key, step) -> {"loss": ..., metrics}`: means over all images, none left out.

    The objective is the one that trains, at the same step, so that loss means the same on both sets.
    """

    @jax.jit
    def block_sums(params: Any, block: Array, size: Array, key: Array, step: Array) -> dict[str, Array]:
        def one_batch(i: Array) -> dict[str, Array]:
            terms = apply_objective(vae, objective, params, block[i], jax.random.fold_in(key, i), step)
            real = i * block.shape[1] + jnp.arange(block.shape[1]) < size
            return {name: jnp.where(real, value, 0.0).sum() for name, value in terms.items()}

        return jax.tree.map(jnp.sum, jax.lax.map(one_batch, jnp.arange(len(block))))

    _, split = shardings(data_mesh(batch_size))

    def evaluate(params: Any, images: np.ndarray, key: Key[Array, ""], step: int | Int[Array, ""]) -> dict[str, float]:
        sums: dict[str, float] = {}
        for i, (block, size) in enumerate(_blocks(images, batch_size)):
            sharded = jax.device_put(block, split)
            part = jax.device_get(block_sums(params, sharded, size, jax.random.fold_in(key, i), step))
            sums = {name: sums.get(name, 0.0) + float(value) for name, value in part.items()}
        return {name: value / len(images) for name, value in sums.items()}

    return evaluate


def posterior_means(
    vae: VAE, params: Any, images: UInt8[np.ndarray, "n h w c"], batch_size: int = 500
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " d"]]:
    """Posterior mean of every image, and each latent dimension's rate in nats, averaged over the images."""

    @jax.jit
    def encode(params: Any, block: Array) -> tuple[Array, Array]:
        def one_batch(x: Array) -> tuple[Array, Array]:
            model = bind(vae, params)
            posterior, prior = model.encode(to_unit(x)), model.prior()
            return posterior.mean(), kl_divergence(replace(posterior, event_ndim=0), prior)

        return jax.lax.map(one_batch, block)

    means: list[np.ndarray] = []
    rates: list[np.ndarray] = []
    for block, size in _blocks(images, batch_size):
        for values, kept in zip(encode(params, block), (means, rates), strict=True):
            kept.append(np.asarray(values).reshape(-1, values.shape[-1])[:size])
    return np.concatenate(means), np.concatenate(rates).mean(0)


def most_active_plane(rates: Float[np.ndarray, " d"]) -> tuple[int, ...]:
    """The two latent dimensions with the highest rate, in ascending order; fewer where there are fewer."""
    return tuple(sorted(int(i) for i in np.argsort(-rates)[:2]))
