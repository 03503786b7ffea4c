"""Schedules of weights."""

import jax.numpy as jnp
import numpy as np
import pytest
from known_models import linear_gaussian, terms

from flax_vae import ELBO, Cyclical, Warmup


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
