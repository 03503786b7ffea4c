"""Statistics of each image against its parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_models import IMAGES, NOISE, linear_gaussian, params_of

from flax_vae import bind, rate
from flax_vae.metrics.per_example import per_example_statistics

KEY = jax.random.key(0)


@pytest.mark.parametrize("batch_size", [2, 5, 100])
def test_statistics_of_each_image(batch_size: int) -> None:
    """Against the parts of the model; padding of the last batch does not count."""
    model, params = linear_gaussian(0.3), params_of(linear_gaussian(0.3))
    result = per_example_statistics(model, params, IMAGES, KEY, batch_size)
    assert {name: array.shape for name, array in result.items()} == {
        **dict.fromkeys(("elbo", "rate", "distortion", "squared_error"), (5,)),
        **{"layer_rates": (5, 1), "dimension_rates": (5, 3), "posterior_mean": (5, 3)},
    }

    @jax.jit
    def parts() -> tuple[jax.Array, jax.Array]:
        bound = bind(model, params)
        return bound.encode(jnp.asarray(IMAGES)).mean(), rate(bound.infer(jnp.asarray(IMAGES), KEY))

    means, expected = parts()
    np.testing.assert_allclose(result["posterior_mean"], means, rtol=1e-5)
    for rates in (result["rate"], result["layer_rates"][:, 0], result["dimension_rates"].sum(-1)):
        np.testing.assert_allclose(rates, expected, rtol=1e-5)
    np.testing.assert_allclose(result["elbo"], -result["rate"] - result["distortion"], rtol=1e-5)
    # -log N(x; mean, σ²) of four pixels, from the squared error alone
    expected_distortion = 4 * (result["squared_error"] / (2 * NOISE**2) + 0.5 * np.log(2 * np.pi * NOISE**2))
    np.testing.assert_allclose(result["distortion"], expected_distortion, rtol=1e-4)
