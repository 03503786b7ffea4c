"""Importance-weighted bounds and their gradients, against models whose evidence is known exactly."""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from known_models import (
    IMAGES,
    gap,
    inference_of,
    iwae,
    layered,
    layered_log_evidence,
    linear_gaussian,
    log_evidence,
    params_of,
    terms,
)

from flax_vae import ELBO, IWAE, STL, DReG, Renyi, log_weights
from flax_vae.objectives.base import apply_objective

KEY = jax.random.key(0)
TIGHT = {"own": iwae, "iwae": IWAE(), "iwae of 1": IWAE(1), "stl": STL(), "dreg": DReG(), "renyi": Renyi(0.3),
         "renyi at 1": Renyi(1.0), "renyi beyond": Renyi(-1.0)}  # fmt: skip


@pytest.mark.quick(2)
@pytest.mark.parametrize("objective", TIGHT.values(), ids=TIGHT.keys())
def test_every_bound_is_the_evidence_for_the_exact_posterior(objective) -> None:
    np.testing.assert_allclose(-terms(objective, linear_gaussian())["loss"], log_evidence(), rtol=1e-5)
    np.testing.assert_allclose(-terms(objective, layered())["loss"], layered_log_evidence(), rtol=1e-5)


def test_more_samples_tighten_the_bound_from_below() -> None:
    model, keys = linear_gaussian(0.3), jax.random.split(KEY, 5_000)
    single = -jax.jit(jax.vmap(lambda key: terms(ELBO(), model, key=key)["loss"]))(keys).mean(0)
    several = -jax.jit(jax.vmap(lambda key: terms(iwae, model, key=key)["loss"]))(keys).mean(0)
    assert (single < several).all()
    assert (several < log_evidence()).all()


def test_weights_are_averaged_in_log_space() -> None:
    log_w = np.float64(jax.jit(log_weights)(inference_of(linear_gaussian(0.3), 8), IMAGES))
    expected = scipy.special.logsumexp(log_w, axis=0) - np.log(8)
    for objective in (IWAE(8), DReG(8), STL(8), Renyi(0.0, 8)):
        np.testing.assert_allclose(-terms(objective, linear_gaussian(0.3))["loss"], expected, rtol=1e-5)


@pytest.mark.quick(1)
@pytest.mark.parametrize("alpha", [0.5, 0.9, -0.5])
def test_the_renyi_bound_is_below_the_evidence_by_the_renyi_divergence(alpha: float) -> None:
    """Between normals of one covariance it is α times their KL; many samples make the bound exact."""
    bound = -terms(Renyi(alpha, num_samples=200_000), linear_gaussian(0.3))["loss"]
    np.testing.assert_allclose(bound, log_evidence() - alpha * gap(0.3), atol=0.03)


@cache
def gradients(objective: Callable, model, count: int) -> dict:
    """Return gradients of the mean loss for `count` keys, stacked."""

    def loss(params: dict, key: jax.Array) -> jax.Array:
        return apply_objective(model, objective, params, jnp.asarray(IMAGES), key, 0)["loss"].mean()

    keys = jax.random.split(jax.random.key(7), count)
    return jax.device_get(jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params_of(model), keys))


@pytest.mark.quick(1)
@pytest.mark.parametrize("model", [linear_gaussian, layered])
@pytest.mark.parametrize(("objective", "same_mean_as"), [(STL(1), IWAE(1)), (DReG(5), IWAE(5))])
def test_gradients_without_the_score_are_unbiased_and_less_noisy(objective, same_mean_as, model) -> None:
    """The posterior's gradients; the decoder's equal those of the bound itself, draw by draw."""
    result, expected = (gradients(loss, model(0.3), 20_000) for loss in (objective, same_mean_as))
    for name in ("shift", "log_scale"):
        one, other = (np.float64(gradient["posterior"][name]) for gradient in (result, expected))
        error = np.sqrt((one.var(0) + other.var(0)) / len(one))
        assert (np.abs(one.mean(0) - other.mean(0)) < 4 * error).all()
        assert (one.var(0) < 0.8 * other.var(0)).all()
    np.testing.assert_allclose(result["decoder"]["weights"], expected["decoder"]["weights"], rtol=1e-3, atol=1e-3)


@pytest.mark.quick(1)
@pytest.mark.parametrize("model", [linear_gaussian, layered])
@pytest.mark.parametrize("objective", [STL(1), DReG(5)])
def test_gradient_noise_vanishes_with_the_gap(objective, model) -> None:
    """At the exact posterior every single gradient of the posterior is zero; the ELBO's is not."""
    result, elbo_gradients = (gradients(loss, model(), 10)["posterior"] for loss in (objective, IWAE(1)))
    for name in ("shift", "log_scale"):
        np.testing.assert_allclose(result[name], 0, atol=1e-5)
        assert np.abs(elbo_gradients[name]).max() > 0.1


def dreg_by_definition(model, x, key, step):
    """Return DReG's loss with the weights as constants (Tucker et al. 2019, eq. 7 and 8)."""
    posterior = model.encode(x)
    z = posterior.sample(key, (5,))

    def log_w(z):
        fixed = jax.lax.stop_gradient(posterior)
        return model.decode(z).log_prob(x) + model.prior().log_prob(z) - fixed.log_prob(z)

    weights = jax.lax.stop_gradient(jax.nn.softmax(log_w(z), axis=0))
    held = jax.lax.stop_gradient(z)
    for_decoder = (weights * log_w(held)).sum(0)
    for_posterior = (weights**2 * (log_w(z) - jax.lax.stop_gradient(log_w(z)))).sum(0)
    # subtract the decoder's own part of the second term
    twice = (weights**2 * log_w(held)).sum(0)
    return -(for_decoder + for_posterior - twice + jax.lax.stop_gradient(twice)), {}


def test_dreg_squares_the_normalised_weights_for_the_posterior() -> None:
    result, expected = (gradients(loss, linear_gaussian(0.3), 3) for loss in (DReG(5), dreg_by_definition))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), result, expected)
