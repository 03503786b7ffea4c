"""Building blocks of objectives, in nats per image."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.batches import X
from flax_vae.distributions import has_kl, kl_divergence
from flax_vae.models import Inference, Layer
from flax_vae.objectives.base import Metrics
from flax_vae.system.errors import UserError
from flax_vae.system.settings import by_default


@by_default
def distortion(inference: Inference, x: X) -> Float[Array, " b"]:
    """Return -E_q log p(x | z) in nats, estimated by the mean over the draws."""
    return -inference.likelihood.log_prob(x).mean(0)


@by_default
def layer_rates(inference: Inference) -> tuple[Float[Array, " b"], ...]:
    """Return KL(q(z_l | z_<l, x) || p(z_l | z_<l)) in nats, layer by layer.

    Pairs of distributions without a closed form contribute log q - log p, averaged over the draws.
    """

    def layer_rate(layer: Layer) -> Array:
        if has_kl(layer.posterior, layer.prior):
            return jnp.broadcast_to(kl_divergence(layer.posterior, layer.prior), layer.log_q.shape).mean(0)
        return (layer.log_q - layer.prior.log_prob(layer.z)).mean(0)

    return tuple(map(layer_rate, inference.layers))


@by_default
def dimension_rates(inference: Inference) -> tuple[Float[Array, "b d"], ...]:
    """Return the KL of each latent dimension in nats, layer by layer.

    Raises:
        UserError: the posterior or the prior is not a normal with independent dimensions.
    """

    def marginals(p: Any) -> Any:
        if not hasattr(p, "marginals"):
            raise UserError(f"{type(p).__name__} has no per-dimension KL; only normals with independent dimensions do.")
        return p.marginals()

    def rates(layer: Layer) -> Array:
        kl = kl_divergence(marginals(layer.posterior), marginals(layer.prior))
        return jnp.broadcast_to(kl, layer.z.shape).mean(0)

    return tuple(map(rates, inference.layers))


@by_default
def rate(inference: Inference) -> Float[Array, " b"]:
    """Return Σ_l KL(q(z_l | z_<l, x) || p(z_l | z_<l)) in nats: the sum of `layer_rates`."""
    return sum(layer_rates(inference), start=jnp.zeros(()))


@by_default
def log_weights(inference: Inference, x: X) -> Float[Array, "k b"]:
    """Return log p(x, z) - log q(z | x) of each draw in nats: the logarithms of importance weights."""
    log_ratios = (layer.prior.log_prob(layer.z) - layer.log_q for layer in inference.layers)
    return sum(log_ratios, start=inference.likelihood.log_prob(x))


@by_default
def log_posterior(inference: Inference) -> Float[Array, "k b"]:
    """Return log q(z | x) of each draw in nats."""
    return sum((layer.log_q for layer in inference.layers), start=jnp.zeros(()))


@by_default
def log_mean(log_w: Float[Array, "k ..."]) -> Float[Array, "..."]:
    """Return the logarithm of the mean weight, log 1/k Σ_k w_k."""
    return jax.nn.logsumexp(log_w, axis=0) - math.log(len(log_w))


@by_default
def elbo_terms(inference: Inference, x: X) -> Metrics:
    """Return the metrics elbo, rate and distortion of each image, in nats."""
    d, r = distortion(inference, x), rate(inference)
    return {"elbo": -(d + r), "rate": r, "distortion": d}
