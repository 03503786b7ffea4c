"""Schedules of weights."""

import jax.numpy as jnp
import numpy as np
import pytest
from known_models import linear_gaussian, terms

from flax_vae import ELBO, Cyclical, UserError, Warmup
from flax_vae.objectives import OBJECTIVES


@pytest.mark.parametrize(
    ("schedule", "weights"),
    [
        (Warmup(steps=4), [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1]),
        (Cyclical(steps=2, period=4, cycles=2, weight=3.0), [0, 1.5, 3, 3, 0, 1.5, 3, 3, 3, 3]),
    ],
)
def test_weights_of_a_schedule(schedule, weights: list[float]) -> None:
    np.testing.assert_allclose([schedule(jnp.asarray(step)) for step in range(10)], weights, rtol=1e-6)
    for step in (0, 1):
        result = terms(ELBO(schedule), linear_gaussian(0.3), step=step)
        np.testing.assert_allclose(result["loss"], result["distortion"] + weights[step] * result["rate"], rtol=1e-5)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ("warmup(epochs=50)", "a rise over 50 epochs does not fit in a training of 1 epoch."),
        ("warmup(epochs=-2)", "epochs must be at least 0."),
        ("cyclical(epochs=1)", "4 cycles of 1 epochs do not fit in a training of 1 epoch."),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused_in_epochs(weight: str, message: str) -> None:
    """The error names the setting in which the schedule was written, and the unit in which it was written."""
    with pytest.raises(UserError) as refused:
        OBJECTIVES.make(f"elbo(beta={weight})", steps_per_epoch=10, total_steps=10)
    assert str(refused.value).startswith(f"`objective` {weight.partition('(')[0]}(")
    assert str(refused.value).endswith(message)
