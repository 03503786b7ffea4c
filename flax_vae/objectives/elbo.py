"""The evidence lower bound, and objectives that reweight its rate.

For one latent vector with posterior N(mu, diag(sigma²)) and prior N(0, I), `ELBO` computes for each image (Kingma &
Welling 2014, eq. 10)

    mu, log_sigma = encoder(x)
    z = mu + exp(log_sigma) * normal(key, mu.shape)
    distortion = -decoder(z).log_prob(x)
    rate = 0.5 * sum(exp(2 * log_sigma) + mu**2 - 1 - 2 * log_sigma)
    loss = distortion + beta * rate

`model.infer` is the first two lines for any model, and `elbo_terms` the next two for any pair of distributions.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp

from flax_vae.batches import X
from flax_vae.models.protocol import Model, RandomKey
from flax_vae.objectives.base import OBJECTIVES, LossAndMetrics, Step
from flax_vae.objectives.schedules import Schedule, Warmup, at
from flax_vae.objectives.terms import dimension_rates, elbo_terms, layer_rates
from flax_vae.system.settings import by_default


@OBJECTIVES.register("elbo")
@dataclass(frozen=True)
class ELBO:
    """distortion + beta·rate: minus the evidence lower bound at beta = 1 (Kingma & Welling 2014, eq. 3).

    Args:
        beta: weight of the rate (Higgins et al. 2017), a number or a function of the step.
    """

    beta: Schedule = 1.0

    @by_default
    def __call__(self, model: Model, x: X, key: RandomKey, step: Step) -> LossAndMetrics:
        """Return the loss "b" and the metrics elbo (at beta = 1), rate and distortion, each "b", in nats per image."""
        terms = elbo_terms(model.infer(x, key), x)
        return terms["distortion"] + at(self.beta, step) * terms["rate"], terms


@dataclass(frozen=True)
class Capacity:
    """distortion + gamma·|rate - capacity|: the rate follows a schedule (Burgess et al. 2018, eq. 8).

    Args:
        capacity: nats per image, a number or a function of the step such as `Warmup(steps, weight=25.0)`.
        gamma: weight of the distance between the two.
    """

    capacity: Schedule = 25.0
    gamma: float = 10.0

    @by_default
    def __call__(self, model: Model, x: X, key: RandomKey, step: Step) -> LossAndMetrics:
        """Return the loss and the metrics of `ELBO`, in nats per image."""
        terms = elbo_terms(model.infer(x, key), x)
        distance = jnp.abs(terms["rate"] - at(self.capacity, step))
        return terms["distortion"] + self.gamma * distance, terms


@OBJECTIVES.register("capacity")
def rising_capacity(total_steps: int, capacity: float = 25.0, gamma: float = 10.0) -> Capacity:
    """distortion + gamma·|rate - c| with c rising from 0 to `capacity` nats over the training (Burgess et al. 2018)."""
    return Capacity(Warmup(total_steps, capacity), gamma)


@OBJECTIVES.register("free_bits")
@dataclass(frozen=True)
class FreeBits:
    """distortion + Σ_j max(nats, KL_j), KL_j averaged over the batch (Kingma et al. 2016, eq. 15).

    The first `nats` of each term are free, which keeps the posterior from collapsing to the prior.

    Args:
        nats: free nats per term.
        per: the terms: one for each layer of latents, or one for each of their dimensions (normals only).
    """

    nats: float = 0.5
    per: Literal["layer", "dimension"] = "layer"
    whole_batch: ClassVar[bool] = True

    @by_default
    def __call__(self, model: Model, x: X, key: RandomKey, step: Step) -> LossAndMetrics:
        """Return the loss and the metrics of `ELBO`, in nats per image."""
        inference = model.infer(x, key)
        terms = elbo_terms(inference, x)
        rates = dimension_rates(inference) if self.per == "dimension" else layer_rates(inference)
        penalty = sum(jnp.maximum(self.nats, rate.mean(0)).sum() for rate in rates)
        return terms["distortion"] + penalty, terms
