"""Means of an objective over a whole set."""

import jax
import jax.numpy as jnp
import numpy as np
from known_models import CONTEXTS, IMAGES, given, linear_gaussian, params_of

from flax_vae import ELBO
from flax_vae.batches import Batch
from flax_vae.metrics.objective_means import make_evaluate
from flax_vae.objectives.base import apply_objective

KEY = jax.random.key(0)


def test_every_image_counts_once(images: np.ndarray) -> None:
    """The mean of 64 images in batches of 24, the last of which is padded."""

    def brightness(model, x, key, step):
        return x.mean((1, 2, 3)), {"step": jnp.full(len(x), step, x.dtype)}

    result = make_evaluate(linear_gaussian(), brightness, 24)(params_of(linear_gaussian()), images, KEY, 7)
    np.testing.assert_allclose(result["loss"], images.mean() / 255, rtol=1e-5)
    assert result["step"] == 7


def test_a_conditional_model_is_evaluated_with_its_contexts() -> None:
    model, params = given(), params_of(given(), (2, 2, 1), 2)
    loss = jax.jit(lambda: apply_objective(model, ELBO(), params, Batch(IMAGES, CONTEXTS), KEY, 0)["elbo"])()
    result = make_evaluate(model, ELBO(), 2)(params, Batch(IMAGES, CONTEXTS), KEY, 0)["elbo"]
    assert abs(result - loss.mean()) < 5  # other draws
