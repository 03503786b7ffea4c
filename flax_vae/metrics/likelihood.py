"""The importance-weighted bound on log p(x)."""

import math
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
) -> tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, " n"]]:
    """The importance-weighted bound on log p(x) of each image, in nats, its standard error, and its Pareto k.

    log p(x) ~ log 1/K Σ_k w_k  with  w_k = p(x, z_k) / q(z_k | x),  z_k ~ q(z | x)  (Burda et al. 2016, eq. 8)

    In expectation it lies below log p(x), and rises towards it with K. The standard error of the logarithm is that of
    the mean weight in units of the mean weight, sqrt(var(w) / K) / mean(w); where it is not small the bound is loose,
    by about half its square. Pareto k says whether to believe it: see `pareto_k`. Of the draws only their weights are
    kept in memory.

    Args:
        images: uint8, or floats in [0, 1].
        num_samples: draws K per image, at least two.
    """
    if num_samples < 2:
        raise ValueError(f"num_samples must be at least 2, or the bound has no standard error: {num_samples}")
    at_once = min(num_samples, _DRAWS_AT_ONCE)

    def one_image(image_and_key: tuple[Any, Array]) -> tuple[Array, Array, Array]:
        (x, context), key = as_one(image_and_key[0]), image_and_key[1]

        def draw(i: Array) -> Array:
            inference = bind(vae, params, context).infer(x, jax.random.fold_in(key, i), at_once)
            return log_weights(inference, x)[:, 0]

        log_w = jax.lax.map(draw, jnp.arange(-(-num_samples // at_once))).reshape(-1)[:num_samples]
        bound = jax.nn.logsumexp(log_w) - jnp.log(num_samples)
        return bound, jnp.exp(log_w - bound).std(ddof=1) / jnp.sqrt(num_samples), pareto_k(log_w)

    keys = jax.random.split(key, batch_size_of(images))
    return jax.lax.map(one_image, (unpack(images), keys), batch_size=IMAGES_AT_ONCE)


def pareto_k(log_w: Float[Array, " k"]) -> Float[Array, ""]:
    """Shape of the generalised Pareto distribution of the largest weights (Vehtari et al. 2024).

    Weights have moments of order below 1/k. Above 0.7, or 1 - 1/log10(K) where that is less, their mean is not to be
    relied on, whatever its standard error says: draws that matter are too rare to have come. NaN of fewer than 25.

    The fit is the posterior mean of Zhang & Stephens (2009), moved a little towards 1/2 as that paper's section 6 has
    it. It cannot see a mode that the posterior misses altogether.
    """
    count = math.ceil(min(len(log_w) / 5, 3 * math.sqrt(len(log_w))))
    if count < 5:
        return jnp.asarray(jnp.nan)
    largest = jax.lax.top_k(log_w, count + 1)[0][::-1]
    excess = jnp.exp(largest[1:] - largest[-1]) - jnp.exp(largest[0] - largest[-1])
    excess = jnp.maximum(excess, jnp.finfo(excess.dtype).tiny)  # equal weights
    grid = 30 + math.isqrt(count)
    quartile = excess[int(count / 4 + 0.5) - 1]
    theta = 1 / excess[-1] + (1 - jnp.sqrt(grid / (jnp.arange(grid) + 0.5))) / (3 * quartile)
    k = jnp.log1p(-theta[:, None] * excess).mean(-1)
    weight = jax.nn.softmax(count * (jnp.log(-theta / k) - k - 1))
    found = jnp.log1p(-(theta @ weight) * excess).mean()
    return (count * found + 5) / (count + 10)
