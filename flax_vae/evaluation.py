"""Numbers about a model with its parameters, in nats per image."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from flax_vae.objectives import Objective, dimension_rates, log_weights
from flax_vae.training import Batch, apply_objective, as_one, batch_size_of, shardings, take, unpack
from flax_vae.vae import VAE, bind

_BLOCK_BYTES = 2**26  # what is sent to the device at a time
_IMAGES_AT_ONCE, _DRAWS_AT_ONCE = 16, 64  # in `log_likelihood`: enough rows for fast matrix products, few enough to fit


def _blocks(images: Batch, batch_size: int) -> Iterator[tuple[Any, int]]:
    """Images in blocks "s b h w c" of one shape, the last filled up from the first, and how many of each count."""
    count, row_bytes = batch_size_of(images), sum(leaf[0].nbytes for leaf in jax.tree.leaves(images))
    steps = max(1, min(-(-count // batch_size), _BLOCK_BYTES // (batch_size * row_bytes)))
    for start in range(0, count, steps * batch_size):
        wanted = np.arange(start, start + steps * batch_size).reshape(steps, batch_size)
        yield take(images, wanted % count), min(count - start, wanted.size)


def make_evaluate(
    vae: VAE, objective: Objective, batch_size: int, mesh: Mesh | None = None
) -> Callable[..., dict[str, float]]:
    """`evaluate(params, images, key, step) -> {"loss": ..., metrics}`: means over all images, none left out.

    The objective is the one that trains, at a step whose weights are to be compared: within a run always its last one.
    The devices of `mesh` share each batch. A conditional model takes the pair of images and contexts for images, here
    and below.
    """

    @jax.jit
    def block_sums(params: Any, block: Any, size: Array, key: Array, step: Array) -> dict[str, Array]:
        def one_batch(i: Array) -> dict[str, Array]:
            batch = take(block, i)
            terms = apply_objective(vae, objective, params, batch, jax.random.fold_in(key, i), step)
            real = i * batch_size + jnp.arange(batch_size) < size
            return {name: jnp.where(real, value, 0.0).sum() for name, value in terms.items()}

        return jax.tree.map(jnp.sum, jax.lax.map(one_batch, jnp.arange(batch_size_of(block))))

    _, split = shardings(mesh)

    def evaluate(params: Any, images: Batch, key: Key[Array, ""], step: int | Int[Array, ""]) -> dict[str, float]:
        sums: dict[str, float] = {}
        for i, (block, size) in enumerate(_blocks(images, batch_size)):
            sharded = jax.device_put(block, split)
            part = jax.device_get(block_sums(params, sharded, size, jax.random.fold_in(key, i), step))
            sums = {name: sums.get(name, 0.0) + float(value) for name, value in part.items()}
        return {name: sums[name] / batch_size_of(images) for name in sorted(sums, key=lambda name: name != "loss")}

    return evaluate


@partial(jax.jit, static_argnums=(0, 4))
def log_likelihood(
    vae: VAE, params: Any, images: Batch, key: Key[Array, ""], num_samples: int = 1000
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
    return jax.lax.map(one_image, (unpack(images), keys), batch_size=_IMAGES_AT_ONCE)


def posterior_means(vae: VAE, params: Any, images: Batch, batch_size: int = 500) -> Float[np.ndarray, "n d"]:
    """The posterior mean of every image."""

    @jax.jit
    def encode(params: Any, block: Any) -> Array:
        def one_batch(batch: Any) -> Array:
            x, context = unpack(batch)
            return bind(vae, params, context).encode(x).mean()

        return jax.lax.map(one_batch, block)

    blocks = [(np.asarray(encode(params, block)), size) for block, size in _blocks(images, batch_size)]
    return np.concatenate([means.reshape(-1, means.shape[-1])[:size] for means, size in blocks])


def most_active_plane(means: Float[np.ndarray, "n d"]) -> tuple[int, ...]:
    """The two latent dimensions that tell images apart best, in ascending order; fewer where there are fewer.

    A dimension's activity is the variance of its posterior mean over the images (Burda et al. 2016, section 5.2).
    """
    return tuple(sorted(int(i) for i in np.argsort(-means.var(0))[:2]))


def active_units(means: Float[np.ndarray, "n d"], threshold: float = 0.01) -> int:
    """Latent dimensions whose activity (see `most_active_plane`) is above a threshold (Burda et al. 2016)."""
    return int((means.var(0) > threshold).sum())


@partial(jax.jit, static_argnums=0)
def mean_dimension_rates(vae: VAE, params: Any, images: Batch, key: Key[Array, ""]) -> Float[Array, " d"]:
    """KL of each latent dimension in nats, averaged over the images; errors as for `objectives.dimension_rates`."""

    def one_image(image_and_key: tuple[Any, Array]) -> Array:
        (x, context), key = as_one(image_and_key[0]), image_and_key[1]
        rates = dimension_rates(bind(vae, params, context).infer(x, key))
        return jnp.concatenate(rates, axis=-1)[0]

    keys = jax.random.split(key, batch_size_of(images))
    return jax.lax.map(one_image, (unpack(images), keys), batch_size=_IMAGES_AT_ONCE).mean(0)


@partial(jax.jit, static_argnums=0)
def elbo_surgery(vae: VAE, params: Any, images: Batch, key: Key[Array, ""]) -> dict[str, Float[Array, ""]]:
    """The rate as what latents tell about images, plus how far they are from the prior as a whole, in nats.

    rate = I(x; z) + KL(q(z) || p(z))  with  q(z) = 1/n Σ_j q(z | x_j)  (Hoffman & Johnson 2016, eq. 9)

    One draw for each image, against the posteriors of all: a mutual information above log n cannot be seen. In a
    conditional model all of it is given the context, and q(z) the average over the images of the same one.
    """
    x, contexts = unpack(images)

    def features_of(image: tuple[Array, Array | None]) -> Array:
        one, context = as_one(image)
        return bind(vae, params, context).features(one)[0]

    features = jax.lax.map(features_of, (x, contexts), batch_size=_IMAGES_AT_ONCE)
    model = bind(vae, params, contexts)
    posterior = model.posterior(features)
    z = posterior.sample(key)

    def log_aggregate(drawn: tuple[Array, Array | None]) -> Array:
        z, context = drawn
        same = jnp.ones(len(x), bool)
        if contexts is not None and context is not None:
            same = jnp.equal(contexts, context).all(-1)
        of_each = bind(vae, params, contexts).posterior(features).log_prob(z)
        return jax.nn.logsumexp(of_each, where=same) - jnp.log(same.sum())

    log_prior = model.prior().log_prob(z)
    to_prior = (jax.lax.map(log_aggregate, (z, contexts), batch_size=_IMAGES_AT_ONCE) - log_prior).mean()
    rate = (posterior.log_prob(z) - log_prior).mean()
    return {"mutual_information": rate - to_prior, "marginal_kl": to_prior}
