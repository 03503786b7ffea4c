"""What is minimised: functions of a bound VAE, in nats per image.

An objective is any function `(vae, x, key, step) -> (loss "b", metrics {name: "b"})`. The built-in ones are frozen
dataclasses, so that their hyperparameters are values. The batch is averaged elsewhere, once, by the train step.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from flax_vae.batches import Batch, unpack
from flax_vae.distributions.divergence import kl_divergence
from flax_vae.distributions.normal import MultivariateNormal, Normal
from flax_vae.errors import UserError
from flax_vae.models.vae import VAE, Inference, variables

Metrics = dict[str, Array]
Objective = Callable[[VAE, Array, Array, Array], tuple[Array, Metrics]]


def distortion(inference: Inference, x: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """-E_q log p(x | z), averaged over the draws, in nats."""
    return -inference.likelihood.log_prob(x).mean(0)


def layer_rates(inference: Inference) -> tuple[Float[Array, " b"], ...]:
    """KL(q(z_l | z_<l, x) || p(z_l | z_<l)) in nats, layer by layer.

    In closed form between normals, else log q - log p; averaged over the draws where it depends on them.
    """

    def layer(z: Array, posterior: Any, prior: Any) -> Array:
        if isinstance(posterior, Normal | MultivariateNormal) and isinstance(prior, Normal):
            return jnp.broadcast_to(kl_divergence(posterior, prior), z.shape[:-1]).mean(0)
        return (posterior.log_prob(z) - prior.log_prob(z)).mean(0)

    return tuple(map(layer, inference.latents, inference.posteriors, inference.priors))


def dimension_rates(inference: Inference) -> tuple[Float[Array, "b d"], ...]:
    """KL of each latent dimension in nats, layer by layer.

    Raises:
        TypeError: posterior or prior is no normal of independent dimensions.
    """

    def layer(z: Array, posterior: Any, prior: Any) -> Array:
        if not isinstance(posterior, Normal):
            raise TypeError(f"{type(posterior).__name__} has no KL of each dimension")
        return jnp.broadcast_to(kl_divergence(replace(posterior, event_ndim=0), prior), z.shape).mean(0)

    return tuple(map(layer, inference.latents, inference.posteriors, inference.priors))


def rate(inference: Inference) -> Float[Array, " b"]:
    """Σ_l KL(q(z_l | z_<l, x) || p(z_l | z_<l)) in nats: the sum of `layer_rates`."""
    return sum(layer_rates(inference), start=jnp.zeros(()))


def log_weights(inference: Inference, x: Float[Array, "b h w c"]) -> Float[Array, "k b"]:
    """log p(x, z) - log q(z | x) of each draw, in nats: what importance-weighted bounds are made of."""
    layers = zip(inference.latents, inference.posteriors, inference.priors, strict=True)
    return sum(
        (prior.log_prob(z) - posterior.log_prob(z) for z, posterior, prior in layers),
        start=inference.likelihood.log_prob(x),
    )


def elbo_terms(inference: Inference, x: Float[Array, "b h w c"]) -> Metrics:
    """The metrics elbo, rate and distortion of each image, in nats."""
    d, r = distortion(inference, x), rate(inference)
    return {"elbo": -(d + r), "rate": r, "distortion": d}


def apply_objective(
    vae: VAE, objective: Objective, params: Any, batch: Batch, key: Key[Array, ""], step: int | Int[Array, ""]
) -> Metrics:
    """The objective of a model with its parameters: {"loss": "b", and the objective's own metrics "b"}.

    Raises:
        UserError: the objective did not return one loss per image and a dictionary of metrics per image, or gave one of
            them a name that the train step uses.
    """
    x, context = unpack(batch)
    result = nn.apply(objective, vae)(variables(vae, params, context), x, key, jnp.asarray(step))
    name = getattr(objective, "__name__", type(objective).__name__)
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise UserError(
            f"objective {name} must return (loss, metrics): an array of one loss per image and a dictionary."
        )
    if taken := {"loss", "gradient_norm"} & result[1].keys():
        raise UserError(
            f"objective {name} returned a metric named {taken.pop()}, which the train step reports: rename it."
        )
    for term, value in {"loss": result[0], **result[1]}.items():
        if jnp.shape(value) != (len(x),):
            raise UserError(
                f"objective {name} returned {term} of shape {jnp.shape(value)} for {len(x)} images; "
                f"it must be ({len(x)},), one value per image: leave the mean over the batch to the train step."
            )
    return {"loss": result[0], **result[1]}
