"""Importance-weighted objectives: bounds on log p(x) from several draws, and their gradient estimators."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.batches import X
from flax_vae.models.binding import again
from flax_vae.models.protocol import Inference, Model, RandomKey, require
from flax_vae.objectives.base import OBJECTIVES, LossAndMetrics, Step
from flax_vae.objectives.terms import elbo_terms, log_mean, log_weights
from flax_vae.system.settings import by_default

Latents = tuple[Float[Array, "k b ..."], ...]  # one array for each stochastic layer


@OBJECTIVES.register("iwae")
@dataclass(frozen=True)
class IWAE:
    """-log 1/k Σ_k w_k with w = p(x, z) / q(z | x): the importance-weighted bound (Burda et al. 2016, eq. 8).

    Args:
        num_samples: k; k = 1 is the ELBO with a single-sample rate.
    """

    num_samples: int = 8

    @by_default
    def __call__(self, model: Model, x: X, key: RandomKey, step: Step) -> LossAndMetrics:
        """Return the loss "b" and the metrics of `ELBO`, in nats per image."""
        inference = model.infer(x, key, self.num_samples)
        return -log_mean(log_weights(inference, x)), elbo_terms(inference, x)


def _draw(model: Model, x: X, key: RandomKey, num_samples: int) -> Latents:
    """Draw z ~ q(z | x), layer by layer."""
    return tuple(layer.z for layer in again(model).infer(x, key, num_samples).layers)


def _without_score(model: Any, x: X, latents: Latents) -> Inference:
    """Return `model.infer_at` without gradients through the parameters of q; those through the latents remain."""
    require(model, "infer_at", what="stl or dreg")
    fixed = again(model, jax.lax.stop_gradient).infer_at(x, latents).layers
    inference = model.infer_at(x, latents)
    pairs = zip(inference.layers, fixed, strict=True)
    layers = (layer._replace(log_q=held.log_q, posterior=held.posterior) for layer, held in pairs)
    return inference._replace(layers=tuple(layers))


@OBJECTIVES.register("renyi")
@dataclass(frozen=True)
class Renyi:
    """-1/(1-α) log 1/k Σ_k w_k^(1-α): the Rényi bound (Li & Turner 2016, eq. 11).

    Args:
        alpha: 0 is the bound of the IWAE; 1 is the ELBO; negative values give an upper bound for large k.
        num_samples: k.
    """

    alpha: float = 0.5
    num_samples: int = 8

    @by_default
    def __call__(self, model: Model, x: X, key: RandomKey, step: Step) -> LossAndMetrics:
        """Return the loss "b" and the metrics of `ELBO`, in nats per image."""
        inference = model.infer(x, key, self.num_samples)
        log_w, order = log_weights(inference, x), 1 - self.alpha
        bound = log_w.mean(0) if order == 0 else log_mean(order * log_w) / order
        return -bound, elbo_terms(inference, x)


@OBJECTIVES.register("stl")
@dataclass(frozen=True)
class STL:
    """-log 1/k Σ_k w_k, its gradient without the posterior's score (Roeder et al. 2017).

    log q(z | x) depends on the encoder directly and through z. The direct part has mean 0 for k = 1 and is left
    out, so that the gradient's variance vanishes as the posterior becomes exact. For k > 1 the gradient is biased,
    unlike that of `DReG`.

    Args:
        num_samples: k.
    """

    num_samples: int = 1

    @by_default
    def __call__(self, model: Model, x: X, key: RandomKey, step: Step) -> LossAndMetrics:
        """Return the loss "b" and the metrics of `ELBO`, in nats per image."""
        inference = _without_score(model, x, _draw(model, x, key, self.num_samples))
        return -log_mean(log_weights(inference, x)), elbo_terms(inference, x)


@OBJECTIVES.register("dreg")
@dataclass(frozen=True)
class DReG:
    """-log 1/k Σ_k w_k with doubly reparameterised gradients (Tucker et al. 2019, eq. 7 and 8).

    With the normalised weights v_k = w_k / Σ_j w_j, the decoder and the prior get the bound's own gradient,
    Σ_k v_k ∂log w_k, and the encoder gets Σ_k v_k² ∂log w_k/∂z_k ∂z_k. This gradient is unbiased, and its
    signal-to-noise ratio does not fall as k grows.

    Args:
        num_samples: k.
    """

    num_samples: int = 8

    @by_default
    def __call__(self, model: Model, x: X, key: RandomKey, step: Step) -> LossAndMetrics:
        """Return the loss "b" and the metrics of `ELBO`, in nats per image."""
        latents, weight = _weigh_gradient(_draw(model, x, key, self.num_samples))
        inference = _without_score(model, x, latents)
        return -_log_mean_with_weight(log_weights(inference, x), weight), elbo_terms(inference, x)


@jax.custom_vjp
def _weigh_gradient(latents: Latents) -> tuple[Latents, Float[Array, "k b"]]:
    """Return the latents, and a placeholder whose gradient scales theirs in the backward pass."""
    return latents, jnp.zeros(latents[0].shape[:2], latents[0].dtype)


def _weigh(_: None, gradients: tuple[Latents, Float[Array, "k b"]]) -> tuple[Latents]:
    latent_gradients, weight = gradients
    return (tuple(jax.vmap(jax.vmap(jnp.multiply))(gradient, weight) for gradient in latent_gradients),)


@jax.custom_vjp
def _log_mean_with_weight(log_w: Float[Array, "k b"], weight: Float[Array, "k b"]) -> Float[Array, " b"]:
    """Return `log_mean`, with the normalised weights as the gradient of `weight`."""
    return log_mean(log_w)


_weigh_gradient.defvjp(lambda latents: (_weigh_gradient(latents), None), _weigh)
_log_mean_with_weight.defvjp(
    lambda log_w, _: (log_mean(log_w), jax.nn.softmax(log_w, axis=0)),
    lambda normalised, gradient: (gradient * normalised, normalised),
)
