"""The evidence lower bound, and what changes the weight of its rate."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from flax_vae.models.protocol import Model
from flax_vae.objectives.schedules import Schedule, Warmup, at
from flax_vae.objectives.terms import OBJECTIVES, Metrics, dimension_rates, elbo_terms, layer_rates


@OBJECTIVES.register("elbo")
@dataclass(frozen=True)
class ELBO:
    """distortion + beta·rate: minus the evidence lower bound at beta = 1 (Kingma & Welling 2014, eq. 3).

    Args:
        beta: weight of the rate (Higgins et al. 2017), a number or a function of the step.
    """

    beta: Schedule = 1.0

    def __call__(
        self, model: Model, x: Float[Array, "b h w c"], key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, " b"], Metrics]:
        """Loss "b" and the metrics elbo (at beta = 1), rate and distortion, each "b", in nats per image."""
        terms = elbo_terms(model.infer(x, key), x)
        return terms["distortion"] + at(self.beta, step) * terms["rate"], terms


@dataclass(frozen=True)
class Capacity:
    """distortion + gamma·|rate - capacity|: a rate that follows a schedule (Burgess et al. 2018, eq. 8).

    Args:
        capacity: nats per image, a number or a function of the step such as `Warmup(steps, weight=25.0)`.
        gamma: weight of the distance from it.
    """

    capacity: Schedule = 25.0
    gamma: float = 10.0

    def __call__(
        self, model: Model, x: Float[Array, "b h w c"], key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, " b"], Metrics]:
        """Loss and metrics as for `ELBO`, in nats per image."""
        terms = elbo_terms(model.infer(x, key), x)
        distance = jnp.abs(terms["rate"] - at(self.capacity, step))
        return terms["distortion"] + self.gamma * distance, terms


@OBJECTIVES.register("capacity")
def capacity(total_steps: int, capacity: float = 25.0, gamma: float = 10.0) -> Capacity:
    """distortion + gamma·|rate - c| with c rising from 0 to `capacity` nats over the training (Burgess et al. 2018)."""
    return Capacity(Warmup(total_steps, capacity), gamma)


@OBJECTIVES.register("free_bits")
@dataclass(frozen=True)
class FreeBits:
    """distortion + Σ_j max(nats, KL_j), KL_j averaged over the batch (Kingma et al. 2016, eq. 15).

    Each j has `nats` at no cost, which keeps the posterior from collapsing to the prior.

    Args:
        nats: free for each j.
        per: what j runs over: the layers of latents, or the dimensions of each (between normals only).
    """

    nats: float = 0.5
    per: Literal["layer", "dimension"] = "layer"
    whole_batch: ClassVar[bool] = True

    def __call__(
        self, model: Model, x: Float[Array, "b h w c"], key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, " b"], Metrics]:
        """Loss and metrics as for `ELBO`, in nats per image."""
        inference = model.infer(x, key)
        terms = elbo_terms(inference, x)
        rates = dimension_rates(inference) if self.per == "dimension" else layer_rates(inference)
        penalty = sum(jnp.maximum(self.nats, each.mean(0)).sum() for each in rates)
        return terms["distortion"] + penalty, terms
