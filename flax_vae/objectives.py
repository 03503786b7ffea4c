"""What is minimised: functions of a bound VAE, in nats per image.

An objective is any function `(vae, x, key, step) -> (loss "b", metrics {name: "b"})`. The built-in ones are frozen
dataclasses, so that their hyperparameters are values. The batch is averaged elsewhere, once, by the train step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from flax_vae.distributions import Normal, kl_divergence
from flax_vae.vae import VAE, Inference

Metrics = dict[str, Array]
Objective = Callable[[VAE, Array, Array, Array], tuple[Array, Metrics]]


def distortion(inference: Inference, x: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """-E_q log p(x | z), averaged over the draws, in nats."""
    return -inference.likelihood.log_prob(x).mean(0)


def rate(inference: Inference) -> Float[Array, " b"]:
    """Σ_l KL(q(z_l | z_<l, x) || p(z_l | z_<l)) in nats: closed form between normals, else averaged over the draws."""

    def layer(z: Array, posterior: Any, prior: Any) -> Array:
        if isinstance(posterior, Normal) and isinstance(prior, Normal):
            return kl_divergence(posterior, prior)
        return (posterior.log_prob(z) - prior.log_prob(z)).mean(0)

    return sum(map(layer, inference.latents, inference.posteriors, inference.priors), start=jnp.zeros(()))


def log_weights(inference: Inference, x: Float[Array, "b h w c"]) -> Float[Array, "k b"]:
    """log p(x, z) - log q(z | x) of each draw, in nats: what importance-weighted bounds are made of."""
    layers = zip(inference.latents, inference.posteriors, inference.priors, strict=True)
    return sum(
        (prior.log_prob(z) - posterior.log_prob(z) for z, posterior, prior in layers),
        start=inference.likelihood.log_prob(x),
    )


@dataclass(frozen=True)
class Warmup:
    """A weight that rises linearly from 0 to `weight` in `steps` steps and stays (Bowman et al. 2016)."""

    steps: int
    weight: float | Array = 1.0

    def __call__(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The weight at a step."""
        return self.weight * jnp.minimum(step / self.steps, 1.0)


@dataclass(frozen=True)
class Cyclical:
    """A warm-up of `steps` steps that starts again every `period` steps (Fu et al. 2019)."""

    steps: int
    period: int
    weight: float | Array = 1.0

    def __call__(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The weight at a step."""
        return self.weight * jnp.minimum(step % self.period / self.steps, 1.0)


@dataclass(frozen=True)
class ELBO:
    """distortion + beta·rate: minus the evidence lower bound at beta = 1 (Kingma & Welling 2014, eq. 3).

    Args:
        beta: weight of the rate (Higgins et al. 2017), a number or a function of the step.
    """

    beta: float | Array | Callable[[Array], Array] = 1.0

    def __call__(
        self, vae: VAE, x: Float[Array, "b h w c"], key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, " b"], Metrics]:
        """Loss "b" and the metrics elbo (at beta = 1), rate and distortion, each "b", in nats per image."""
        inference = vae.infer(x, key)
        d, r = distortion(inference, x), rate(inference)
        beta = self.beta(step) if callable(self.beta) else self.beta
        return d + beta * r, {"elbo": -(d + r), "rate": r, "distortion": d}
