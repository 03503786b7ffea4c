"""Information in the latents: posterior means, active units, and the parts of the rate."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from flax_vae.batches import BatchLike, as_one, batch_size_of, unpack
from flax_vae.distributions.base import LatentDistribution
from flax_vae.metrics.likelihood import IMAGES_AT_ONCE
from flax_vae.metrics.objective_means import in_blocks
from flax_vae.models.binding import Context, Params, bind
from flax_vae.models.inputs import checked, checking
from flax_vae.system.settings import by_default


@by_default
def posterior_means(
    model: nn.Module, params: Params, images: BatchLike, batch_size: int = 500
) -> Float[np.ndarray, "n d"]:
    """Return the posterior mean of each image."""

    @jax.jit
    def encode(params: Params, block: Any) -> Array:
        def one_batch(batch: Any) -> Array:
            x, *given = unpack(batch, model)
            return bind(model, params, *given).encode(x).mean()

        return jax.lax.map(one_batch, block)

    with checking(model, params, images):
        blocks = [(np.asarray(encode(params, block)), size) for block, size in in_blocks(images, batch_size)]
    return np.concatenate([means.reshape(-1, means.shape[-1])[:size] for means, size in blocks])


def most_active_plane(means: Float[np.ndarray, "n d"]) -> tuple[int, ...]:
    """Return the two latent dimensions with the highest activity, in ascending order; one if there is only one.

    A dimension's activity is the variance of its posterior mean over the images (Burda et al. 2016, section 5.2).
    """
    return tuple(sorted(int(i) for i in np.argsort(-means.var(0))[:2]))


def active_units(means: Float[np.ndarray, "n d"], threshold: float = 0.01) -> int:
    """Count the latent dimensions whose activity (see `most_active_plane`) exceeds a threshold (Burda et al. 2016)."""
    return int((means.var(0) > threshold).sum())


@checked("images", averaged=True)
@partial(jax.jit, static_argnums=0)
def elbo_surgery(
    model: nn.Module, params: Params, images: BatchLike, key: Key[Array, ""]
) -> dict[str, Float[Array, ""]]:
    """Split the rate into the mutual information of latents and images and the marginal KL from the prior, in nats.

    rate = I(x; z) + KL(q(z) || p(z))  with  q(z) = 1/n Σ_j q(z | x_j)  (Hoffman & Johnson 2016, eq. 9)

    One draw per image is scored under the posteriors of all images, so a mutual information above log n cannot be
    detected. In a conditional model, everything is given the context: q(z) averages over images with the same context.
    """
    x, contexts, mask = unpack(images, model)
    bound, posterior = bind(model, params, contexts, mask), _posterior(model, params, x, contexts, mask)
    z, count = posterior.sample(key), batch_size_of(x)

    def log_aggregate(draw_and_context: tuple[Array, Any]) -> Array:
        z, context = draw_and_context
        same = jnp.ones(count, bool) if contexts is None else (contexts == context).all(-1)
        return jax.nn.logsumexp(posterior.log_prob(z), where=same) - jnp.log(same.sum())

    log_prior = bound.prior().log_prob(z)
    to_prior = (jax.lax.map(log_aggregate, (z, contexts), batch_size=IMAGES_AT_ONCE) - log_prior).mean()
    rate = (posterior.log_prob(z) - log_prior).mean()
    return {"mutual_information": rate - to_prior, "marginal_kl": to_prior}


def _posterior(model: nn.Module, params: Params, x: Any, contexts: Context, mask: Any) -> LatentDistribution:
    """Return q(z | x) of all images; if a model has features, they are computed in blocks, which takes less memory."""
    bound = bind(model, params, contexts, mask)
    if not hasattr(model, "features"):
        return bound.encode(x)

    def features(item: Any) -> Array:
        one, *given = as_one(item)
        return bind(model, params, *given).features(one)[0]

    return bound.posterior(jax.lax.map(features, (x, contexts, mask), batch_size=IMAGES_AT_ONCE))
