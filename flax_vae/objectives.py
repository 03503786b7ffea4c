"""What is minimised: functions of a bound VAE, in nats per image.

An objective is any function `(vae, x, key, step) -> (loss "b", metrics {name: "b"})`. The built-in ones are frozen
dataclasses, so that their hyperparameters are values. The batch is averaged elsewhere, once, by the train step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from flax_vae.distributions import MultivariateNormal, Normal, kl_divergence
from flax_vae.schedules import Schedule, at
from flax_vae.vae import VAE, Inference

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


@dataclass(frozen=True)
class ELBO:
    """distortion + beta·rate: minus the evidence lower bound at beta = 1 (Kingma & Welling 2014, eq. 3).

    Args:
        beta: weight of the rate (Higgins et al. 2017), a number or a function of the step.
    """

    beta: Schedule = 1.0

    def __call__(
        self, vae: VAE, x: Float[Array, "b h w c"], key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, " b"], Metrics]:
        """Loss "b" and the metrics elbo (at beta = 1), rate and distortion, each "b", in nats per image."""
        terms = elbo_terms(vae.infer(x, key), x)
        return terms["distortion"] + at(self.beta, step) * terms["rate"], terms


@dataclass(frozen=True)
class Capacity:
    """distortion + gamma·|rate - capacity|: a rate that is led along a schedule (Burgess et al. 2018, eq. 8).

    Args:
        capacity: nats per image, a number or a function of the step such as `Warmup(steps, weight=25.0)`.
        gamma: weight of the distance from it.
    """

    capacity: Schedule = 25.0
    gamma: float = 10.0

    def __call__(
        self, vae: VAE, x: Float[Array, "b h w c"], key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, " b"], Metrics]:
        """Loss and metrics as for `ELBO`, in nats per image."""
        terms = elbo_terms(vae.infer(x, key), x)
        distance = jnp.abs(terms["rate"] - at(self.capacity, step))
        return terms["distortion"] + self.gamma * distance, terms


@dataclass(frozen=True)
class FreeBits:
    """distortion + Σ_j max(nats, KL_j), KL_j averaged over the batch (Kingma et al. 2016, eq. 15).

    The posterior may use so many nats for each j at no cost, which keeps it from collapsing to the prior.

    Args:
        nats: free for each j.
        per: what j runs over: the layers of latents, or the dimensions of each (between normals only).
    """

    nats: float = 0.5
    per: Literal["layer", "dimension"] = "layer"
    whole_batch: ClassVar[bool] = True

    def __call__(
        self, vae: VAE, x: Float[Array, "b h w c"], key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, " b"], Metrics]:
        """Loss and metrics as for `ELBO`, in nats per image."""
        inference = vae.infer(x, key)
        terms = elbo_terms(inference, x)
        rates = dimension_rates(inference) if self.per == "dimension" else layer_rates(inference)
        paid = sum(jnp.maximum(self.nats, each.mean(0)).sum() for each in rates)
        return terms["distortion"] + paid, terms


@dataclass(frozen=True)
class BetaTCVAE:
    """distortion + mutual information + beta·total correlation + dimension-wise KL (Chen et al. 2018, eq. 4).

    The rate in three parts, with q(z) the average of q(z | x) over the data:

        log q(z | x) - log q(z)        mutual information
        log q(z) - Σ_d log q(z_d)      total correlation
        Σ_d log q(z_d) - log p(z)      dimension-wise KL

    q(z_i) is estimated from the batch by minibatch-weighted sampling, 1/(b·n) Σ_j q(z_i | x_j).

    Args:
        num_images: n, the size of the data set.
        beta: weight of the total correlation.
    """

    num_images: int
    beta: Schedule = 6.0
    whole_batch: ClassVar[bool] = True

    def __call__(
        self, vae: VAE, x: Float[Array, "b h w c"], key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, " b"], Metrics]:
        """Loss "b" and the metrics of `ELBO` with the three parts of the rate, in nats per image."""
        inference = vae.infer(x, key)
        (draws,), (q,), (p,) = inference.latents, inference.posteriors, inference.priors
        z = draws[0]
        of_pairs = replace(q, event_ndim=0).log_prob(z[:, None])  # "i j d": log q(z_i,d | x_j)
        log_size = math.log(len(x) * self.num_images)
        log_q = jax.nn.logsumexp(of_pairs.sum(-1), axis=1) - log_size
        log_q_of_dimensions = (jax.nn.logsumexp(of_pairs, axis=1) - log_size).sum(-1)
        parts = {
            "mutual_information": q.log_prob(z) - log_q,
            "total_correlation": log_q - log_q_of_dimensions,
            "dimension_wise_kl": log_q_of_dimensions - p.log_prob(z),
        }
        terms = elbo_terms(inference, x)
        rate = sum(parts.values()) + (at(self.beta, step) - 1) * parts["total_correlation"]
        return terms["distortion"] + rate, terms | parts


@dataclass(frozen=True)
class InfoVAE:
    """distortion + (1-α)·rate + (α+λ-1)·MMD²: the aggregated posterior is led to the prior (Zhao et al. 2019).

    MMD² = E k(z, z') + E k(p, p') - 2 E k(z, p) between the batch's draws z and as many draws p from the prior, no draw
    being paired with itself; k(a, b) = exp(-‖a - b‖² / d) in d dimensions.

    Args:
        alpha: 1 drops the rate: the MMD-VAE.
        weight: λ.
    """

    alpha: float = 1.0
    weight: float = 1000.0
    whole_batch: ClassVar[bool] = True

    def __call__(
        self, vae: VAE, x: Float[Array, "b h w c"], key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, " b"], Metrics]:
        """Loss "b" and the metrics of `ELBO` with mmd, in nats per image."""
        draw_key, prior_key = jax.random.split(key)
        inference = vae.infer(x, draw_key)
        terms = elbo_terms(inference, x)
        z = jnp.concatenate(inference.latents, axis=-1)[0]
        mmd = _mmd(z, vae.draw_prior(prior_key, len(x)))
        loss = terms["distortion"] + (1 - self.alpha) * terms["rate"] + (self.alpha + self.weight - 1) * mmd
        return loss, terms | {"mmd": jnp.broadcast_to(mmd, loss.shape)}


def _mmd(z: Float[Array, "b d"], p: Float[Array, "b d"]) -> Float[Array, ""]:
    def kernel(a: Array, b: Array) -> Array:
        return jnp.exp(-((a[:, None] - b) ** 2).mean(-1))

    count = len(z)
    off_diagonal = (1 - jnp.eye(count)) / (count * (count - 1))
    return ((kernel(z, z) + kernel(p, p)) * off_diagonal).sum() - 2 * kernel(z, p).mean()


@dataclass(frozen=True)
class DIPVAE:
    """distortion + rate + λ_od Σ_{i≠j} C_ij² + λ_d Σ_i (C_ii - 1)²: latents without covariance (Kumar et al. 2018).

    Args:
        of: what C is the covariance of over the batch: the posterior means (DIP-VAE-I), or the latents (DIP-VAE-II:
            the posteriors' mean variances are added).
        off_diagonal, diagonal: λ_od and λ_d.
    """

    of: Literal["means", "latents"] = "latents"
    off_diagonal: float = 10.0
    diagonal: float = 10.0
    whole_batch: ClassVar[bool] = True

    def __call__(
        self, vae: VAE, x: Float[Array, "b h w c"], key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, " b"], Metrics]:
        """Loss "b" and the metrics of `ELBO` with the penalty, in nats per image."""
        inference = vae.infer(x, key)
        terms, (q,) = elbo_terms(inference, x), inference.posteriors
        centred = q.mean() - q.mean().mean(0)
        covariance = centred.T @ centred / len(x)
        if self.of == "latents":
            covariance += jnp.diag(jnp.exp(2 * q.log_scale).mean(0))
        variances = jnp.diag(covariance)
        correlated = (covariance**2).sum() - (variances**2).sum()
        penalty = self.off_diagonal * correlated + self.diagonal * ((variances - 1) ** 2).sum()
        return -terms["elbo"] + penalty, terms | {"penalty": jnp.broadcast_to(penalty, (len(x),))}


@dataclass(frozen=True)
class DynamicallyBinarized:
    """An objective whose pixels are drawn anew for each step, one with probability x (Salakhutdinov & Murray 2008).

    Pixels that are 0 or 1 already stay as they are.
    """

    objective: Objective

    @property
    def whole_batch(self) -> bool:
        """As the objective says."""
        return getattr(self.objective, "whole_batch", False)

    def __call__(
        self, vae: VAE, x: Float[Array, "b h w c"], key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, " b"], Metrics]:
        """Loss and metrics of the objective."""
        pixel_key, key = jax.random.split(key)
        return self.objective(vae, jax.random.bernoulli(pixel_key, x).astype(x.dtype), key, step)
