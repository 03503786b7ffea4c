"""Pixels resampled in each step."""

from dataclasses import dataclass

import jax
from jaxtyping import Array, Float, Int, Key

from flax_vae.models.protocol import Model
from flax_vae.objectives.terms import Metrics, Objective


@dataclass(frozen=True)
class DynamicallyBinarized:
    """An objective whose pixels are resampled in each step, one with probability x (Salakhutdinov & Murray 2008).

    Pixels that are 0 or 1 already stay as they are.
    """

    objective: Objective

    @property
    def whole_batch(self) -> bool:
        """As the objective says."""
        return getattr(self.objective, "whole_batch", False)

    def __call__(
        self, model: Model, x: Float[Array, "b h w c"], key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, " b"], Metrics]:
        """Loss and metrics of the objective."""
        pixel_key, key = jax.random.split(key)
        return self.objective(model, jax.random.bernoulli(pixel_key, x).astype(x.dtype), key, step)
