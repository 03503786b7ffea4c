"""Bijectors whose structure the distributions built on them rely on."""

import jax
import jax.numpy as jnp
import numpy as np

from flax_vae.nn.bijectors import Autoregressive


def test_an_autoregressive_layer_gives_each_dimension_the_previous_ones() -> None:
    """The Jacobian by the noise is triangular, and every entry below its diagonal is in use."""
    flow = Autoregressive(5, layers=1, hidden=16)
    noise, h = jnp.linspace(-1.0, 1.0, 5), jnp.array([1.0, -0.5])

    @jax.jit
    def jacobian(noise: jax.Array, h: jax.Array) -> jax.Array:
        params = jax.tree.map(lambda p: p + 0.1, flow.init(jax.random.key(0), noise, h))
        return jax.jacfwd(lambda noise: flow.apply(params, noise, h)[0])(noise)

    rows = np.asarray(jacobian(noise, h))[::-1]  # a layer reverses the order
    assert (np.triu(rows, 1) == 0).all()
    assert (np.tril(rows, -1)[np.tril_indices(5, -1)] != 0).all()
