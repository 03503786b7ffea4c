"""What the latents encode: posterior means, active units, and the rate in parts."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from flax_vae.batches import Batch, as_one, unpack
from flax_vae.metrics.likelihood import IMAGES_AT_ONCE
from flax_vae.metrics.objective_means import in_blocks
from flax_vae.models.binding import Params, bind


def posterior_means(vae: nn.Module, params: Params, images: Batch, batch_size: int = 500) -> Float[np.ndarray, "n d"]:
    """The posterior mean of every image."""

    @jax.jit
    def encode(params: Params, block: Any) -> Array:
        def one_batch(batch: Any) -> Array:
            x, context = unpack(batch)
            return bind(vae, params, context).encode(x).mean()

        return jax.lax.map(one_batch, block)

    blocks = [(np.asarray(encode(params, block)), size) for block, size in in_blocks(images, batch_size)]
    return np.concatenate([means.reshape(-1, means.shape[-1])[:size] for means, size in blocks])


def most_active_plane(means: Float[np.ndarray, "n d"]) -> tuple[int, ...]:
    """The two latent dimensions with the highest activity, in ascending order; fewer where there are fewer.

    A dimension's activity is the variance of its posterior mean over the images (Burda et al. 2016, section 5.2).
    """
    return tuple(sorted(int(i) for i in np.argsort(-means.var(0))[:2]))


def active_units(means: Float[np.ndarray, "n d"], threshold: float = 0.01) -> int:
    """Latent dimensions whose activity (see `most_active_plane`) is above a threshold (Burda et al. 2016)."""
    return int((means.var(0) > threshold).sum())


@partial(jax.jit, static_argnums=0)
def elbo_surgery(vae: nn.Module, params: Params, images: Batch, key: Key[Array, ""]) -> dict[str, Float[Array, ""]]:
    """The rate in two parts, in nats: mutual information of latents and images, and the marginal KL from the prior.

    rate = I(x; z) + KL(q(z) || p(z))  with  q(z) = 1/n Σ_j q(z | x_j)  (Hoffman & Johnson 2016, eq. 9)

    One draw for each image, against the posteriors of all: a mutual information above log n cannot be seen. In a
    conditional model all of it is given the context, and q(z) the average over the images of the same one.
    """
    x, contexts = unpack(images)

    def features_of(image: tuple[Array, Array | None]) -> Array:
        one, context = as_one(image)
        return bind(vae, params, context).features(one)[0]

    features = jax.lax.map(features_of, (x, contexts), batch_size=IMAGES_AT_ONCE)
    model = bind(vae, params, contexts)
    posterior = model.posterior(features)
    z = posterior.sample(key)

    def log_aggregate(drawn: tuple[Array, Array | None]) -> Array:
        z, context = drawn
        same = jnp.ones(len(x), bool)
        if contexts is not None and context is not None:
            same = jnp.equal(contexts, context).all(-1)
        return jax.nn.logsumexp(posterior.log_prob(z), where=same) - jnp.log(same.sum())

    log_prior = model.prior().log_prob(z)
    to_prior = (jax.lax.map(log_aggregate, (z, contexts), batch_size=IMAGES_AT_ONCE) - log_prior).mean()
    rate = (posterior.log_prob(z) - log_prior).mean()
    return {"mutual_information": rate - to_prior, "marginal_kl": to_prior}
