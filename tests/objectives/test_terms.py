"""Terms of objectives, in closed form and from draws, and the checks of what an objective returns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_models import IMAGES, inference_of, layered, linear_gaussian, terms

from flax_vae import (
    ELBO,
    BetaTCVAE,
    UserError,
    init_state,
    layer_rates,
    make_optimizer,
    make_train_step,
    rate,
)

KEY = jax.random.key(0)


def test_layer_rates_equal_the_mean_log_ratio_of_the_draws() -> None:
    """In closed form given the layers above, and on average log q - log p, layer by layer."""
    inference = inference_of(layered(0.4), 20_000)
    assert [layer.z.shape for layer in inference.layers] == [(20_000, 5, 1)] * 2
    for (z, log_q, q, p), layer_rate in zip(inference.layers, jax.jit(layer_rates)(inference), strict=True):
        np.testing.assert_allclose(log_q, q.log_prob(z), rtol=1e-4, atol=1e-4)
        log_ratio = np.float64(log_q - p.log_prob(z))
        error = log_ratio.std(0) / np.sqrt(20_000)
        assert layer_rate.shape == (5,)
        assert (np.abs(layer_rate - log_ratio.mean(0)) < 4 * error).all()


def test_rate_averages_over_draws_without_a_closed_form() -> None:
    class Opaque:
        """The same normal, of a type without a registered KL."""

        def __init__(self, inner):
            self.log_prob = inner.log_prob

    inference = inference_of(linear_gaussian(0.3), 20_000)
    (layer,) = inference.layers
    hidden = inference._replace(layers=(layer._replace(posterior=Opaque(layer.posterior)),))
    np.testing.assert_allclose(rate(hidden), rate(inference), rtol=0.05)


def test_an_objective_of_one_layer_refuses_a_hierarchy() -> None:
    with pytest.raises(UserError, match="beta_tcvae needs a model with a single layer of latents, but this one has 2"):
        terms(BetaTCVAE(num_images=50), layered())


def mean_over_batch(model, x, key, step):
    loss, metrics = ELBO()(model, x, key, step)
    return loss.mean(), metrics


def names_a_metric_loss(model, x, key, step):
    loss, _ = ELBO()(model, x, key, step)
    return loss, {"loss": 0 * loss}


def loss_without_metrics(model, x, key, step):
    return ELBO()(model, x, key, step)[0]


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (mean_over_batch, r"mean_over_batch returned loss of shape \(\) for 5 examples"),
        (names_a_metric_loss, "names_a_metric_loss returned a metric named loss, which the train step reports"),
        (loss_without_metrics, r"loss_without_metrics must return \(loss, metrics\)"),
    ],
)
def test_errors_of_malformed_results_name_the_objective(objective, message: str) -> None:
    model, tx = linear_gaussian(), make_optimizer("adam", 1e-3, 10)
    step = make_train_step(model, objective, tx)
    with pytest.raises(UserError, match=message):
        step(init_state(model, tx, KEY, (2, 2, 1)), jnp.asarray(IMAGES))
