"""Objectives that regularise the aggregated posterior, and so compare the images of a batch with each other."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.batches import X, batch_size_of
from flax_vae.distributions.normal import Normal
from flax_vae.models.layerwise import draw_prior
from flax_vae.models.protocol import Model, RandomKey, require
from flax_vae.objectives.base import OBJECTIVES, LossAndMetrics, Step
from flax_vae.objectives.schedules import Schedule, at
from flax_vae.objectives.terms import elbo_terms
from flax_vae.system.errors import UserError
from flax_vae.system.settings import by_default


@OBJECTIVES.register("beta_tcvae")
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
    needs: ClassVar[tuple[str, ...]] = ("factorised",)

    @by_default
    def __call__(self, model: Model, x: X, key: RandomKey, step: Step) -> LossAndMetrics:
        """Return the loss "b" and the metrics of `ELBO` with the three parts of the rate, in nats per image."""
        inference = model.infer(x, key)
        if (count := len(inference.layers)) != 1:
            raise UserError(f"beta_tcvae needs a model with a single layer of latents, but this one has {count}.")
        layer = inference.layers[0]
        z, q, p = layer.z[0], cast(Normal, layer.posterior), layer.prior
        log_q_pairs = q.marginals().log_prob(z[:, None])  # "i j d": log q(z_i,d | x_j)
        log_size = math.log(batch_size_of(x) * self.num_images)
        log_q = jax.nn.logsumexp(log_q_pairs.sum(-1), axis=1) - log_size
        log_q_dimensions = (jax.nn.logsumexp(log_q_pairs, axis=1) - log_size).sum(-1)
        parts = {
            "mutual_information": layer.log_q[0] - log_q,
            "total_correlation": log_q - log_q_dimensions,
            "dimension_wise_kl": log_q_dimensions - p.log_prob(z),
        }
        terms = elbo_terms(inference, x)
        rate = sum(parts.values()) + (at(self.beta, step) - 1) * parts["total_correlation"]
        return terms["distortion"] + rate, terms | parts


@OBJECTIVES.register("infovae")
@dataclass(frozen=True)
class InfoVAE:
    """distortion + (1-α)·rate + (α+λ-1)·MMD²: the aggregated posterior is matched to the prior (Zhao et al. 2019).

    MMD² = E k(z, z') + E k(p, p') - 2 E k(z, p) between the batch's draws z and as many draws p from the prior, without
    pairs of a draw with itself; k(a, b) = exp(-‖a - b‖² / d) in d dimensions.

    Args:
        alpha: 1 drops the rate: the MMD-VAE.
        weight: λ.
    """

    alpha: float = 1.0
    weight: float = 1000.0
    whole_batch: ClassVar[bool] = True

    @by_default
    def __call__(self, model: Model, x: X, key: RandomKey, step: Step) -> LossAndMetrics:
        """Return the loss "b" and the metrics of `ELBO` with mmd, in nats per image."""
        require(model, "single_layer", what="infovae")
        draw_key, prior_key = jax.random.split(key)
        inference = model.infer(x, draw_key)
        terms = elbo_terms(inference, x)
        z = jnp.concatenate([layer.z[0] for layer in inference.layers], axis=-1)
        mmd = _mmd(z, draw_prior(model, prior_key, batch_size_of(x)))
        loss = terms["distortion"] + (1 - self.alpha) * terms["rate"] + (self.alpha + self.weight - 1) * mmd
        return loss, terms | {"mmd": jnp.broadcast_to(mmd, loss.shape)}


def _mmd(z: Float[Array, "b d"], p: Float[Array, "b d"]) -> Float[Array, ""]:
    """Return the estimate of MMD² between two sets of draws."""

    def kernel(a: Array, b: Array) -> Array:
        return jnp.exp(-((a[:, None] - b) ** 2).mean(-1))

    count = len(z)
    off_diagonal = (1 - jnp.eye(count)) / max(count * (count - 1), 1)
    return ((kernel(z, z) + kernel(p, p)) * off_diagonal).sum() - 2 * kernel(z, p).mean()


@dataclass(frozen=True)
class DIPVAE:
    """distortion + rate + λ_od Σ_{i≠j} C_ij² + λ_d Σ_i (C_ii - 1)²: latents without covariance (Kumar et al. 2018).

    Args:
        of: C is the covariance over the batch of the posterior means (DIP-VAE-I), or of the latents (DIP-VAE-II),
            which adds the mean of the posterior variances.
        off_diagonal, diagonal: λ_od and λ_d.
    """

    of: Literal["means", "latents"] = "latents"
    off_diagonal: float = 10.0
    diagonal: float = 10.0
    whole_batch: ClassVar[bool] = True

    @by_default
    def __call__(self, model: Model, x: X, key: RandomKey, step: Step) -> LossAndMetrics:
        """Return the loss "b" and the metrics of `ELBO` with the penalty, in nats per image."""
        inference = model.infer(x, key)
        terms, q = elbo_terms(inference, x), cast(Normal, inference.layers[0].posterior)
        centred = q.mean() - q.mean().mean(0)
        covariance = centred.T @ centred / batch_size_of(x)
        if self.of == "latents":
            covariance += jnp.diag(q.variance().mean(0))
        variances = jnp.diag(covariance)
        off_diagonal = (covariance**2).sum() - (variances**2).sum()
        penalty = self.off_diagonal * off_diagonal + self.diagonal * ((variances - 1) ** 2).sum()
        return -terms["elbo"] + penalty, terms | {"penalty": jnp.broadcast_to(penalty, (batch_size_of(x),))}


@OBJECTIVES.register("dip_vae_i", needs=("exact_mean",))
def dip_vae_i(off_diagonal: float = 10.0, diagonal: float = 10.0) -> DIPVAE:
    """DIP-VAE-I: the ELBO, and a penalty on the covariance of the posterior means (Kumar et al. 2018)."""
    return DIPVAE("means", off_diagonal, diagonal)


@OBJECTIVES.register("dip_vae_ii", needs=("factorised",))  # it takes the variance of each dimension
def dip_vae_ii(off_diagonal: float = 10.0, diagonal: float = 10.0) -> DIPVAE:
    """DIP-VAE-II: the ELBO, and a penalty on the covariance of the latents (Kumar et al. 2018)."""
    return DIPVAE("latents", off_diagonal, diagonal)
