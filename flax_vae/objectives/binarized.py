"""Objectives on pixels that are resampled in each step."""

from dataclasses import dataclass

import jax

from flax_vae.batches import X
from flax_vae.models.protocol import Model, RandomKey
from flax_vae.objectives.base import LossAndMetrics, Objective, Step
from flax_vae.system.settings import by_default


@dataclass(frozen=True)
class DynamicallyBinarized:
    """Binarises the pixels in each step, to 1 with probability x (Salakhutdinov & Murray 2008).

    Pixels that are 0 or 1 stay unchanged.

    Args:
        objective: the objective of the binarised pixels.
    """

    objective: Objective

    @property
    def whole_batch(self) -> bool:
        """The wrapped objective's value."""
        return getattr(self.objective, "whole_batch", False)

    @property
    def needs(self) -> tuple[str, ...]:
        """The wrapped objective's requirements."""
        return getattr(self.objective, "needs", ())

    @by_default
    def __call__(self, model: Model, x: X, key: RandomKey, step: Step) -> LossAndMetrics:
        """Return the loss and metrics of the wrapped objective."""
        pixel_key, key = jax.random.split(key)
        return self.objective(model, jax.random.bernoulli(pixel_key, x).astype(x.dtype), key, step)
