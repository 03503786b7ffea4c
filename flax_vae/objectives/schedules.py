"""Weights as functions of the step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flax_vae.system.errors import UserError

Schedule = float | Array | Callable[[Array], Array]


def at(schedule: Schedule, step: Int[Array, ""]) -> float | Array:
    """The value of a schedule, a number or a function of the step, at a step."""
    return schedule(step) if callable(schedule) else schedule


@dataclass(frozen=True)
class Warmup:
    """A weight that rises linearly from 0 to `weight` in `steps` steps and stays (Bowman et al. 2016)."""

    steps: int
    weight: float | Array = 1.0

    def __call__(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The weight at a step."""
        return self.weight * jnp.minimum(step / max(self.steps, 1), 1.0)


@dataclass(frozen=True)
class Cyclical:
    """A warm-up of `steps` steps that starts again every `period` steps, `cycles` times in all (Fu et al. 2019).

    After the last warm-up the weight stays, so the schedule ends at `weight` however long the last cycle is.
    """

    steps: int
    period: int
    cycles: int
    weight: float | Array = 1.0

    def __call__(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The weight at a step."""
        cycle = jnp.minimum(step // self.period, self.cycles - 1)
        return self.weight * jnp.minimum((step - cycle * self.period) / max(self.steps, 1), 1.0)


def refuse_unfinished(objective: Any, total_steps: int) -> None:
    """Refuse an objective with a schedule that would not have risen to its weight when the training ends.

    Raises:
        UserError: the schedule outlasts training.
    """
    for name, value in getattr(objective, "__dict__", {}).items():
        if isinstance(value, Warmup | Cyclical) and value.steps > total_steps:
            raise UserError(
                f"{name} of {objective} would rise for {value.steps} steps, and the training has {total_steps}: "
                "it would never reach its weight."
            )
