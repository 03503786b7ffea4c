"""Bounds of results, by interval arithmetic over jaxprs.

The kind: an activation at the end of a network that is not recognised, or one that is taken to bound what it does not.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_vae.jaxprs import bounds

KERNEL = np.ones((3, 2), np.float32)
INF = np.inf
ENDS = {
    "none": (lambda h: h, (-INF, INF)),
    "sigmoid": (nn.sigmoid, (0, 1)),
    "tanh in [0, 1]": (lambda h: (nn.tanh(h) + 1) / 2, (0, 1)),
    "tanh in [-5, 5]": (lambda h: 5 * nn.tanh(h), (-5, 5)),
    "hard sigmoid": (nn.hard_sigmoid, (0, 1)),
    "clip": (lambda h: jnp.clip(h, 0, 1), (0, 1)),
    "relu": (nn.relu, (0, INF)),
    "leaky relu": (nn.leaky_relu, (-INF, INF)),
    "silu": (nn.silu, (-INF, INF)),
    "a division by what may be 0": (lambda h: 1 / nn.sigmoid(h), (-INF, INF)),
    "a division by both signs": (lambda h: 1 / nn.tanh(h), (-INF, INF)),
    "changes of shape and type": (lambda h: nn.sigmoid(h).reshape(2, 1, -1)[:1].astype(jnp.float16), (0, 1)),
    "a bias after it": (lambda h: nn.sigmoid(h) + h, (-INF, INF)),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_result_is_bounded_by_its_last_operations(end: str) -> None:
    activation, expected = ENDS[end]
    (found,) = bounds(jax.make_jaxpr(lambda x: activation(x @ KERNEL))(np.ones((4, 3), np.float32)))
    assert found == expected
