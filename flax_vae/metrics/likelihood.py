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

from flax_vae.batches import BatchLike, X, as_one, batch_size_of, unpack
from flax_vae.models import Inference, Params, bind
from flax_vae.models.inputs import checked
from flax_vae.objectives.terms import log_posterior, log_weights
from flax_vae.system.errors import UserError
from flax_vae.system.settings import by_default, with_nan
from flax_vae.training.sharding import DATA_AXIS

IMAGES_AT_ONCE, _DRAWS_AT_ONCE = 16, 64  # enough rows for fast matrix products, and few enough to fit in memory


@dataclass(frozen=True)
class Defence:
    """Defensive importance sampling: a `share` of the draws comes from the posterior widened by the factor `scale`."""

    share: float = 0.2
    scale: float = 2.0

    def __post_init__(self) -> None:
        """Raise UserError if the share or the scale is out of range."""
        if not (0 < self.share < 1 and 1 < self.scale < math.inf):
            raise UserError(f"A defence has a share between 0 and 1 and a scale greater than 1, not {self}.")


@checked("images")
@with_nan
@by_default
@partial(jax.jit, static_argnums=(0, 4, 5, 6, 7))
def log_likelihood(
    model: nn.Module,
    params: Params,
    images: BatchLike,
    key: Key[Array, ""],
    num_samples: int = 1000,
    defence: Defence | None = None,
    images_at_once: int = IMAGES_AT_ONCE,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, " n"]]:
    """Return the importance-weighted bound on log p(x) of each image, in nats, its standard error and its Pareto k.

    log p(x) ~ log 1/K Σ_k w_k  with  w_k = p(x, z_k) / q(z_k | x),  z_k ~ q(z | x)  (Burda et al. 2016, eq. 8)

    Its expectation is below log p(x) and rises towards it with K. The standard error of the logarithm is the relative
    error of the mean weight, sqrt(var(w) / K) / mean(w); if it is large, the bound is loose by about half its square. A
    high Pareto k means that the bound is unreliable: see `pareto_k`. Only the weights of the draws stay in memory.

    Args:
        model, params: the model.
        images: uint8, or floats in [0, 1].
        key: key of the draws.
        num_samples: draws K per image, at least two.
        defence: draws a share s from a widened posterior q', and weights all draws by the mixture (1-s) q + s q'
            (Hesterberg 1995). If q is too narrow, weights are bounded by those of q' divided by s.
        images_at_once: images processed together; 1 if one image's draws already fill the caches.
        mesh: devices that split the images, from `data_mesh`; results do not depend on their number.
    """
    require_two_samples(num_samples)
    at_once, blocks, widened = _divide(num_samples, defence)

    def one_image(image_and_key: tuple[Any, Array]) -> tuple[Array, Array, Array]:
        (x, *given), key = as_one(image_and_key[0]), image_and_key[1]

        def draw(i: Array) -> Array:
            bound, key_i = bind(model, params, *given), jax.random.fold_in(key, i)
            if defence is None:
                return log_weights(bound.infer(x, key_i, at_once), x)[:, 0]
            temperature = jnp.where(i < widened, defence.scale, 1.0)
            inference = bound.infer(x, key_i, at_once, temperature)
            return _defended(inference, x, temperature, defence.scale, widened * at_once / num_samples)[:, 0]

        log_w = jax.lax.map(draw, jnp.arange(blocks)).reshape(-1)[:num_samples]
        return *log_mean_and_error(log_w), pareto_k(log_w)

    all_images = partial(jax.lax.map, one_image, batch_size=images_at_once)
    if mesh:
        split = PartitionSpec(DATA_AXIS)
        all_images = jax.shard_map(all_images, mesh=mesh, in_specs=split, out_specs=split)
    return all_images((unpack(images, model), jax.random.split(key, batch_size_of(images))))


def _divide(num_samples: int, defence: Defence | None) -> tuple[int, int, int]:
    """Return the number of draws in a block, the number of blocks, and the number of blocks that a defence widens.

    Widened blocks come first, because surplus draws are dropped from the last. For 1000 draws and a share of 0.2 there
    are 16 blocks of 64: 3 are widened, and 24 draws of the last are dropped.
    """
    if defence is None:
        at_once = min(num_samples, _DRAWS_AT_ONCE)
        return at_once, -(-num_samples // at_once), 0
    at_once = max(1, min(num_samples // 8, _DRAWS_AT_ONCE))
    blocks = -(-num_samples // at_once)
    return at_once, blocks, max(1, min(round(defence.share * blocks), blocks - 1))


def require_two_samples(num_samples: int) -> None:
    """Raise ValueError for a single sample, from which a bound has no standard error."""
    if num_samples < 2:
        raise ValueError(f"num_samples must be at least 2, not {num_samples}: one sample has no standard error")


@by_default
def log_mean_and_error(log_w: Float[Array, " k"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the logarithm of the mean weight, and its standard error: the relative error of the mean weight.

    The error is computed from weights relative to the largest: at log-weights of 10^7, float32 rounds to whole nats.
    """
    largest = jnp.maximum(log_w.max(), jnp.finfo(log_w.dtype).min)  # finite, even if all weights are 0
    mean = jnp.log(jnp.exp(log_w - largest).mean())
    return largest + mean, jnp.exp(log_w - largest - mean).std(ddof=1) / math.sqrt(len(log_w))


def _defended(inference: Inference, x: X, temperature: Array, scale: float, share: float) -> Float[Array, "k b"]:
    """Return log p(x, z) - log((1 - share) q(z | x) + share q'(z | x)), for draws from q or q' by their temperature."""

    def log_q(at: float) -> Array:
        log_probs = (layer.posterior.tempered(at / temperature).log_prob(layer.z) for layer in inference.layers)
        return sum(log_probs, start=jnp.zeros(()))

    mixture = jnp.logaddexp(math.log1p(-share) + log_q(1.0), math.log(share) + log_q(scale))
    return log_weights(inference, x) + log_posterior(inference) - mixture


@by_default
def pareto_k(log_w: Float[Array, " k"]) -> Float[Array, ""]:
    """Return the shape of the generalised Pareto distribution of the largest weights (Vehtari et al. 2024).

    Weights have moments of order below 1/k. If k is above 0.7, or 1 - 1/log10(K) if that is less, their mean is
    unreliable whatever its standard error: the draws that matter are too rare to have occurred.

    The fit is the posterior mean of Zhang & Stephens (2009) of the weights above a cutoff, regularised slightly towards
    1/2 as in section 6 of the paper by Vehtari et al. All of it is computed from logarithms, because weights that
    differ by more than about 100 nats exceed the range of float32. Pareto k does not detect a mode that the posterior
    misses altogether.

    Returns:
        k; -inf if no weight exceeds the cutoff, as for an exact posterior, whose weights are equal; inf if one to four
        weights do; NaN for fewer than 21 weights, or if a weight is NaN.
    """
    count = math.ceil(min(len(log_w) / 5, 3 * math.sqrt(len(log_w))))
    if count < 5:
        return jnp.asarray(jnp.nan)
    largest = jax.lax.top_k(log_w, count + 1)[0]
    bounds = jnp.finfo(log_w.dtype)
    largest -= jnp.clip(largest[0], bounds.min, bounds.max)  # float32 rounds log-weights of 10^7 to whole nats
    cutoff = largest[-1]
    above = largest > cutoff
    number = above.sum()
    # The logarithm of the excess over the cutoff, relative to the largest excess; weights at the cutoff have none.
    excess = jnp.where(above, largest + jnp.log(-jnp.expm1(cutoff - largest)), -jnp.inf)
    excess -= excess[0]

    def shape(log_rate: Array) -> Array:
        """Return the most likely shape k given θ = 1 - e^log_rate, in units of 1 / the largest excess."""
        direct = jnp.log1p(jnp.expm1(log_rate) * jnp.exp(excess))
        terms = jnp.where(log_rate < 1, direct, jnp.logaddexp(jnp.log(-jnp.expm1(excess)), log_rate + excess))
        return jnp.where(above, terms, 0.0).sum() / number

    # The grid of Zhang & Stephens: θ = 1 - (√(size / point) - 1) / (3 e^quartile).
    quartile = excess[number - (number + 2) // 4]
    size, point = 30 + jnp.floor(jnp.sqrt(number)), jnp.arange(30 + math.isqrt(count)) + 0.5
    log_rates = jnp.log(jnp.sqrt(size / point) - 1) - math.log(3) - quartile
    shapes = jax.vmap(shape)(log_rates)
    log_theta = jnp.maximum(log_rates, 0) + jnp.log(-jnp.expm1(-jnp.abs(log_rates)))
    fit = jnp.where(point < size, number * (log_theta - jnp.log(jnp.abs(shapes)) - shapes), -jnp.inf)
    # The logarithm of the mean of 1 - θ: for widely spread weights, θ itself exceeds the range of float32.
    log_rate = jax.nn.logsumexp(jnp.where(point < size, log_rates + jax.nn.log_softmax(fit), -jnp.inf))
    k = (number * shape(log_rate) + 5) / (number + 10)
    k = jnp.where(number > 4, k, jnp.where(number > 0, jnp.inf, -jnp.inf))
    return jnp.where(jnp.isnan(log_w).any(), jnp.nan, k)
