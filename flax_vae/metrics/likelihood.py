"""The importance-weighted bound on log p(x)."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Key

from flax_vae.batches import Batch, as_one, batch_size_of, unpack
from flax_vae.models.binding import Params, bind
from flax_vae.models.protocol import Inference
from flax_vae.objectives.terms import log_posterior, log_weights
from flax_vae.system.errors import UserError
from flax_vae.training.sharding import DATA_AXIS

IMAGES_AT_ONCE, _DRAWS_AT_ONCE = 16, 64  # in `log_likelihood`: enough rows for fast matrix products, few enough to fit


@dataclass(frozen=True)
class Defence:
    """Draws for what a posterior misses: a share of them comes from the posterior with its scale times `scale`."""

    share: float = 0.2
    scale: float = 2.0

    def __post_init__(self) -> None:
        """Refuse a share or a scale out of range."""
        if not (0 < self.share < 1 and 1 < self.scale < math.inf):
            raise UserError(f"A defence has a share between 0 and 1 and a scale above 1, not {self}.")


@partial(jax.jit, static_argnums=(0, 4, 5, 6, 7))
def log_likelihood(
    vae: nn.Module,
    params: Params,
    images: Batch,
    key: Key[Array, ""],
    num_samples: int = 1000,
    defence: Defence | None = None,
    images_at_once: int = IMAGES_AT_ONCE,
    mesh: Mesh | None = None,
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
        defence: draws some of them from a widened posterior q', and weighs all by the mixture of both, (1-s) q + s q'
            (Hesterberg 1995). Where q is too narrow, weights are bounded by those of q' over its share.
        images_at_once: images that are worked on together; one where convolutions of its draws fill the caches.
        mesh: devices that share the images, from `data_mesh`; the figures are the same for every number of them.
    """
    refuse_one_sample(num_samples)
    at_once = min(num_samples, _DRAWS_AT_ONCE) if defence is None else max(1, min(num_samples // 8, _DRAWS_AT_ONCE))
    blocks = -(-num_samples // at_once)
    # Of a defence whole blocks are widened, the first ones: those of the last that are one too many are not.
    widened = 0 if defence is None else max(1, min(round(defence.share * blocks), blocks - 1))

    def one_image(image_and_key: tuple[Any, Array]) -> tuple[Array, Array, Array]:
        (x, context), key = as_one(image_and_key[0]), image_and_key[1]

        def draw(i: Array) -> Array:
            model, key_i = bind(vae, params, context), jax.random.fold_in(key, i)
            if defence is None:
                return log_weights(model.infer(x, key_i, at_once), x)[:, 0]
            temperature = jnp.where(i < widened, defence.scale, 1.0)
            inference = model.infer(x, key_i, at_once, temperature)
            return _defended(inference, x, temperature, defence.scale, widened * at_once / num_samples)[:, 0]

        log_w = jax.lax.map(draw, jnp.arange(blocks)).reshape(-1)[:num_samples]
        return *log_mean(log_w), pareto_k(log_w)

    each = partial(jax.lax.map, one_image, batch_size=images_at_once)
    if mesh:
        each = jax.shard_map(each, mesh=mesh, in_specs=PartitionSpec(DATA_AXIS), out_specs=PartitionSpec(DATA_AXIS))
    return each((unpack(images), jax.random.split(key, batch_size_of(images))))


def refuse_one_sample(num_samples: int) -> None:
    """Raise ValueError where a bound would have no standard error."""
    if num_samples < 2:
        raise ValueError(f"num_samples must be at least 2, or the bound has no standard error: {num_samples}")


def log_mean(log_w: Float[Array, " k"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The logarithm of the mean weight, and its standard error: that of the mean in units of the mean."""
    bound = jax.nn.logsumexp(log_w) - jnp.log(len(log_w))
    return bound, jnp.exp(log_w - bound).std(ddof=1) / jnp.sqrt(len(log_w))


def _defended(
    inference: Inference, x: Float[Array, "b h w c"], temperature: Array, scale: float, share: float
) -> Float[Array, "k b"]:
    """log p(x, z) - log((1 - share) q(z | x) + share q'(z | x)) of draws from one of the two, by their temperature."""

    def log_q(at: float) -> Array:
        found = (layer.posterior.tempered(at / temperature).log_prob(layer.z) for layer in inference.layers)
        return sum(found, start=jnp.zeros(()))

    mixture = jnp.logaddexp(math.log1p(-share) + log_q(1.0), math.log(share) + log_q(scale))
    return log_weights(inference, x) + log_posterior(inference) - mixture


def pareto_k(log_w: Float[Array, " k"]) -> Float[Array, ""]:
    """Shape of the generalised Pareto distribution of the largest weights (Vehtari et al. 2024).

    Weights have moments of order below 1/k. Above 0.7, or 1 - 1/log10(K) where that is less, their mean is not to be
    relied on, whatever its standard error says: draws that matter are too rare to have come. NaN of fewer than 21.

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
    # A sum, since a product of vectors has ten bits on GPUs, and theta beyond 1 / excess no logarithm.
    found = jnp.log1p(-(theta * weight).sum() * excess).mean()
    return (count * found + 5) / (count + 10)
