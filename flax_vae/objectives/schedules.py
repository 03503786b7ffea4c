"""Weights as functions of the step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flax_vae.system.errors import UserError
from flax_vae.system.settings import by_default

Schedule = float | Array | Callable[[Array], Array]


def at(schedule: Schedule, step: Int[Array, ""]) -> float | Array:
    """Return the value of a schedule, a number or a function of the step."""
    return schedule(step) if callable(schedule) else schedule


@dataclass(frozen=True)
class Warmup:
    """A weight that rises linearly from 0 to `weight` in `steps` steps and then stays constant (Bowman et al. 2016)."""

    steps: int
    weight: float | Array = 1.0

    @by_default
    def __call__(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Return the weight at a step."""
        return self.weight * jnp.minimum(step / max(self.steps, 1), 1.0)


@dataclass(frozen=True)
class Cyclical:
    """A warm-up of `steps` steps, repeated every `period` steps, `cycles` times in total (Fu et al. 2019).

    After the last warm-up the weight stays at `weight`.
    """

    steps: int
    period: int
    cycles: int
    weight: float | Array = 1.0

    @by_default
    def __call__(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Return the weight at a step."""
        cycle = jnp.minimum(step // self.period, self.cycles - 1)
        return self.weight * jnp.minimum((step - cycle * self.period) / max(self.steps, 1), 1.0)


def refuse_unfinished(objective: Any, total_steps: int) -> None:
    """Raise UserError if a schedule of an objective would not reach its weight before the training ends."""
    for name, value in getattr(objective, "__dict__", {}).items():
        if isinstance(value, Warmup | Cyclical) and value.steps > total_steps:
            raise UserError(
                f"{objective}: {name} rises for {value.steps} steps, but the training has only {total_steps}: "
                "shorten the warm-up or train longer."
            )
