"""Objectives on pixels that are resampled in each step."""

import jax
import numpy as np
from known_models import linear_gaussian, terms

from flax_vae import ELBO, FreeBits
from flax_vae.objectives.binarized import DynamicallyBinarized


def test_pixels_are_resampled_with_their_value_as_probability() -> None:
    def pixels(model, x, key, step):
        return x.sum((1, 2, 3)), {f"pixel {i}": x.reshape(len(x), -1)[:, i] for i in range(4)}

    images = np.array([0.0, 1.0, 0.3, 0.8], np.float32).reshape(1, 2, 2, 1)
    objective, keys = DynamicallyBinarized(pixels), jax.random.split(jax.random.key(0), 4_000)
    result = jax.jit(jax.vmap(lambda key: terms(objective, linear_gaussian(), images, key)))(keys)
    resampled = np.stack([result[f"pixel {i}"][:, 0] for i in range(4)])
    assert np.isin(resampled, (0, 1)).all()
    np.testing.assert_allclose(resampled.mean(1), images.ravel(), atol=0.03)
    assert DynamicallyBinarized(FreeBits()).whole_batch
    assert not DynamicallyBinarized(ELBO()).whole_batch
