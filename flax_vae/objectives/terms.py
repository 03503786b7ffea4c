"""What objectives are made of, in nats per image.

An objective is any function `(model, x, key, step) -> (loss "b", metrics {name: "b"})`. The built-in ones are frozen
dataclasses, so that their hyperparameters are values. The batch is averaged elsewhere, once, by the train step.

An objective may say that it compares the images of a batch with each other (`whole_batch = True`), and what it needs a
posterior to be (`needs = ("factorised",)`).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from flax_vae.batches import Batch, unpack
from flax_vae.distributions.divergence import has_kl, kl_divergence
from flax_vae.models.binding import Params, variables
from flax_vae.models.protocol import Inference, Layer
from flax_vae.parts import Parts
from flax_vae.system.errors import UserError

Metrics = dict[str, Array]
Objective = Callable[[Any, Array, Array, Array], tuple[Array, Metrics]]
OBJECTIVES = Parts("objective", supplied=("num_images", "total_steps"))


def distortion(inference: Inference, x: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """-E_q log p(x | z), averaged over the draws, in nats."""
    return -inference.likelihood.log_prob(x).mean(0)


def layer_rates(inference: Inference) -> tuple[Float[Array, " b"], ...]:
    """KL(q(z_l | z_<l, x) || p(z_l | z_<l)) in nats, layer by layer.

    In closed form where the pair of distributions has one, else log q - log p; averaged over the draws where it depends
    on them.
    """

    def of(layer: Layer) -> Array:
        if has_kl(layer.posterior, layer.prior):
            return jnp.broadcast_to(kl_divergence(layer.posterior, layer.prior), layer.log_q.shape).mean(0)
        return (layer.log_q - layer.prior.log_prob(layer.z)).mean(0)

    return tuple(map(of, inference.layers))


def dimension_rates(inference: Inference) -> tuple[Float[Array, "b d"], ...]:
    """KL of each latent dimension in nats, layer by layer.

    Raises:
        UserError: posterior or prior is not a normal of independent dimensions.
    """

    def of(layer: Layer) -> Array:
        pair: list[Any] = [layer.posterior, layer.prior]
        for distribution in pair:
            if not hasattr(distribution, "marginals"):
                name = type(distribution).__name__
                raise UserError(f"{name} has no KL of each dimension: only normals of independent dimensions have.")
        posterior, prior = (distribution.marginals() for distribution in pair)
        return jnp.broadcast_to(kl_divergence(posterior, prior), layer.z.shape).mean(0)

    return tuple(map(of, inference.layers))


def rate(inference: Inference) -> Float[Array, " b"]:
    """Σ_l KL(q(z_l | z_<l, x) || p(z_l | z_<l)) in nats: the sum of `layer_rates`."""
    return sum(layer_rates(inference), start=jnp.zeros(()))


def log_weights(inference: Inference, x: Float[Array, "b h w c"]) -> Float[Array, "k b"]:
    """log p(x, z) - log q(z | x) of each draw, in nats: what importance-weighted bounds are made of."""
    log_ratios = (layer.prior.log_prob(layer.z) - layer.log_q for layer in inference.layers)
    return sum(log_ratios, start=inference.likelihood.log_prob(x))


def log_posterior(inference: Inference) -> Float[Array, "k b"]:
    """log q(z | x) of each draw, in nats."""
    return sum((layer.log_q for layer in inference.layers), start=jnp.zeros(()))


def elbo_terms(inference: Inference, x: Float[Array, "b h w c"]) -> Metrics:
    """The metrics elbo, rate and distortion of each image, in nats."""
    d, r = distortion(inference, x), rate(inference)
    return {"elbo": -(d + r), "rate": r, "distortion": d}


def apply_objective(
    model: nn.Module,
    objective: Objective,
    params: Params,
    batch: Batch,
    key: Key[Array, ""],
    step: int | Int[Array, ""],
) -> Metrics:
    """The objective of a model with its parameters: {"loss": "b", and the objective's own metrics "b"}.

    Raises:
        UserError: the objective did not return one loss per image and a dictionary of metrics per image, all of them
            floats, or gave one of them a name that the train step uses.
    """
    x, context = unpack(batch)
    result = nn.apply(objective, model)(variables(model, params, context), x, key, jnp.asarray(step))
    name = getattr(objective, "__name__", type(objective).__name__)
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise UserError(
            f"objective {name} must return (loss, metrics): an array of one loss per image and a dictionary."
        )
    if taken := {"loss", "gradient_norm", "skipped"} & result[1].keys():
        raise UserError(
            f"objective {name} returned a metric named {taken.pop()}, which the train step reports: rename it."
        )
    for term, value in {"loss": result[0], **result[1]}.items():
        if jnp.shape(value) != (len(x),):
            raise UserError(
                f"objective {name} returned {term} of shape {jnp.shape(value)} for {len(x)} images; "
                f"it must be ({len(x)},), one value per image: leave the mean over the batch to the train step."
            )
        if not jnp.issubdtype(kind := jnp.result_type(value), jnp.floating):
            raise UserError(f"objective {name} returned {term} of type {kind}: return floats, by .astype(x.dtype).")
    return {"loss": result[0], **result[1]}
