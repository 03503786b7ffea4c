"""Weights as functions of the step, and their registry: `elbo(beta=warmup(epochs=2))`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flax_vae.parts import Parts
from flax_vae.system.errors import UserError
from flax_vae.system.settings import by_default

WEIGHTS = Parts("objective", supplied=("steps_per_epoch", "total_steps"))  # they are arguments of an objective
Schedule = Annotated[float | Array | Callable[[Array], Array], WEIGHTS]


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


@WEIGHTS.register("warmup")
def warmup(steps_per_epoch: int, total_steps: int, epochs: float, weight: float = 1.0) -> Warmup:
    """A rise from 0 to `weight` over the first `epochs` epochs (Bowman et al. 2016)."""
    steps = _steps(epochs, steps_per_epoch)
    if steps > total_steps:
        training = _epochs(total_steps, steps_per_epoch)
        raise ValueError(f"a rise over {epochs:g} epochs does not fit in a training of {training}")
    return Warmup(steps, weight)


@WEIGHTS.register("cyclical")
def cyclical(steps_per_epoch: int, total_steps: int, epochs: float, cycles: int = 4, weight: float = 1.0) -> Cyclical:
    """A rise from 0 to `weight` over `epochs` epochs, `cycles` times in the training (Fu et al. 2019)."""
    steps, period = _steps(epochs, steps_per_epoch), total_steps // cycles
    if steps > period:
        training = _epochs(total_steps, steps_per_epoch)
        raise ValueError(f"{cycles} cycles of {epochs:g} epochs do not fit in a training of {training}")
    return Cyclical(steps, period, cycles, weight)


def _steps(epochs: float, steps_per_epoch: int) -> int:
    """Convert a number of epochs to steps."""
    if epochs < 0:
        raise ValueError("epochs must be at least 0")
    return round(epochs * steps_per_epoch)


def _epochs(total_steps: int, steps_per_epoch: int) -> str:
    """Return the length of a training in words."""
    epochs = total_steps // steps_per_epoch
    return f"{epochs:,} epoch{'s' if epochs > 1 else ''}"


def refuse_unfinished(objective: Any, total_steps: int) -> None:
    """Raise UserError if a schedule of an objective would not reach its weight before the training ends."""
    for name, value in getattr(objective, "__dict__", {}).items():
        if isinstance(value, Warmup | Cyclical) and value.steps > total_steps:
            raise UserError(
                f"{objective}: {name} rises for {value.steps} steps, but the training has only {total_steps}: "
                "shorten the warm-up or train longer."
            )
