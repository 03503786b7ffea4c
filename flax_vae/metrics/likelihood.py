"""The importance-weighted bound on log p(x)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from flax_vae.batches import Batch, as_one, batch_size_of, unpack
from flax_vae.models.vae import Params, bind
from flax_vae.objectives.terms import log_weights

IMAGES_AT_ONCE, _DRAWS_AT_ONCE = 16, 64  # in `log_likelihood`: enough rows for fast matrix products, few enough to fit


@partial(jax.jit, static_argnums=(0, 4))
def log_likelihood(
    vae: nn.Module, params: Params, images: Batch, key: Key[Array, ""], num_samples: int = 1000
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """The importance-weighted bound on log p(x) of each image, in nats, with its standard error.

    log p(x) ~ log 1/K sum_k w_k  with  w_k = p(x, z_k) / q(z_k | x),  z_k ~ q(z | x)  (Burda et al. 2016, eq. 8)

    In expectation it lies below log p(x), and rises towards it with K. The standard error of the logarithm is that of
    the mean weight in units of the mean weight, sqrt(var(w) / K) / mean(w); where it is not small the bound is loose,
    by about half its square. Only a fixed number of draws is in memory at any time.

    Args:
        images: uint8, or floats in [0, 1].
        num_samples: draws K per image, at least two.
    """
    if num_samples < 2:
        raise ValueError(f"num_samples must be at least 2, or the bound has no standard error: {num_samples}")
    at_once = min(num_samples, _DRAWS_AT_ONCE)

    def one_image(image_and_key: tuple[Any, Array]) -> tuple[Array, Array]:
        (x, context), key = as_one(image_and_key[0]), image_and_key[1]

        def add(i: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            largest, total, squares = sums  # the weights are summed in units of the largest one so far
            inference = bind(vae, params, context).infer(x, jax.random.fold_in(key, i), at_once)
            wanted = i * at_once + jnp.arange(at_once) < num_samples
            log_w = jnp.where(wanted, log_weights(inference, x)[:, 0], -jnp.inf)
            unit = jnp.maximum(largest, log_w.max())
            shrink, w = jnp.exp(largest - unit), jnp.exp(log_w - unit)
            return unit, total * shrink + w.sum(), squares * shrink**2 + (w**2).sum()

        start = (jnp.asarray(-jnp.inf), jnp.zeros(()), jnp.zeros(()))
        unit, total, squares = jax.lax.fori_loop(0, -(-num_samples // at_once), add, start)
        variance = (squares / total**2 - 1 / num_samples) / (1 - 1 / num_samples)
        return unit + jnp.log(total / num_samples), jnp.sqrt(jnp.maximum(variance, 0.0))

    keys = jax.random.split(key, batch_size_of(images))
    return jax.lax.map(one_image, (unpack(images), keys), batch_size=IMAGES_AT_ONCE)
