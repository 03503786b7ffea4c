"""Objectives against a model whose evidence is known exactly, and against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import IMAGES, NOISE, WEIGHTS, iwae, linear_gaussian, log_evidence

from flax_vae import (
    ELBO,
    Cyclical,
    UserError,
    Warmup,
    bind,
    init,
    init_state,
    make_optimizer,
    make_train_step,
    rate,
    tutorial_dense,
)
from flax_vae.training import apply_objective

KEY = jax.random.key(0)


def terms(objective, vae, images=IMAGES, key=KEY, step=0):
    return apply_objective(vae, objective, init(vae, KEY, images.shape[1:]), jnp.asarray(images), key, step)


def test_with_the_exact_posterior_every_log_weight_is_the_evidence() -> None:
    found = terms(iwae, linear_gaussian())
    np.testing.assert_allclose(-found["loss"], log_evidence(), rtol=1e-5)
    np.testing.assert_allclose(found["spread"], 0, atol=1e-5)


def test_elbo_is_the_evidence_less_the_divergence_from_the_exact_posterior() -> None:
    shift, draws = 0.3, jax.random.split(KEY, 20_000)
    vae = linear_gaussian(shift)
    elbo = jax.jit(jax.vmap(lambda key: terms(ELBO(), vae, key=key)["elbo"]))(draws)
    # KL between two normals of one covariance, a shift apart in every latent dimension
    gap = 0.5 * (shift**2 * (1 + (WEIGHTS**2).sum(1) / NOISE**2)).sum()
    error = elbo.std(0) / np.sqrt(len(draws))
    assert (np.abs(elbo.mean(0) - (log_evidence() - gap)) < 4 * error).all()


def test_more_samples_tighten_the_bound_from_below() -> None:
    vae, draws = linear_gaussian(0.3), jax.random.split(KEY, 5_000)
    single = -jax.jit(jax.vmap(lambda key: terms(ELBO(), vae, key=key)["loss"]))(draws).mean(0)
    several = -jax.jit(jax.vmap(lambda key: terms(iwae, vae, key=key)["loss"]))(draws).mean(0)
    assert (single < several).all()
    assert (several < log_evidence()).all()


def test_gradients_are_those_of_finite_differences() -> None:
    """In float64, along a random direction through all the parameters."""
    images = np.random.default_rng(0).uniform(size=(3, 4, 4, 1))
    vae, size = tutorial_dense((4, 4, 1)).clone(dtype="float64"), 1e-6
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), init(vae, KEY, (4, 4, 1)))
        rng = np.random.default_rng(1)
        direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)

        @jax.jit
        def loss(along: jax.Array) -> jax.Array:
            moved = jax.tree.map(lambda p, d: p + along * d, params, direction)
            return apply_objective(vae, ELBO(beta=2.0), moved, jnp.asarray(images), KEY, 0)["loss"].mean()

        slope = jax.grad(loss)(jnp.asarray(0.0, jnp.float64))
        assert slope.dtype == jnp.float64
        np.testing.assert_allclose((loss(size) - loss(-size)) / (2 * size), slope, rtol=1e-6)


def test_beta_weighs_the_rate_and_nothing_else() -> None:
    plain, heavy = terms(ELBO(), linear_gaussian(0.3)), terms(ELBO(beta=4.0), linear_gaussian(0.3))
    np.testing.assert_allclose(heavy["loss"] - plain["loss"], 3 * plain["rate"], rtol=1e-4)
    np.testing.assert_array_equal(heavy["elbo"], plain["elbo"])


@pytest.mark.parametrize(
    ("schedule", "weights"),
    [
        (Warmup(steps=4), [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1]),
        (Cyclical(steps=2, period=5, weight=3.0), [0, 1.5, 3, 3, 3, 0, 1.5, 3, 3, 3]),
    ],
)
def test_schedules(schedule, weights: list[float]) -> None:
    np.testing.assert_allclose([schedule(jnp.asarray(step)) for step in range(10)], weights, rtol=1e-6)
    vae = linear_gaussian(0.3)
    for step in (0, 1):
        found = terms(ELBO(schedule), vae, step=step)
        np.testing.assert_allclose(found["loss"], found["distortion"] + weights[step] * found["rate"], rtol=1e-5)


def test_objectives_are_values() -> None:
    assert ELBO(Warmup(10)) == ELBO(Warmup(10))
    assert hash(ELBO(2.0)) == hash(ELBO(2.0))
    assert repr(ELBO(beta=2.0)) == "ELBO(beta=2.0)"


def test_rate_averages_over_draws_where_there_is_no_closed_form() -> None:
    class Opaque:
        """The same normal, of a kind that the package has not met."""

        def __init__(self, inner):
            self.log_prob = inner.log_prob

    vae = linear_gaussian(0.3)
    inference = bind(vae, init(vae, KEY, (2, 2, 1))).infer(jnp.asarray(IMAGES), KEY, num_samples=20_000)
    hidden = inference._replace(posteriors=tuple(map(Opaque, inference.posteriors)))
    np.testing.assert_allclose(rate(hidden), rate(inference), rtol=0.05)


def mean_over_batch(vae, x, key, step):
    loss, metrics = ELBO()(vae, x, key, step)
    return loss.mean(), metrics


def loss_alone(vae, x, key, step):
    return ELBO()(vae, x, key, step)[0]


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (mean_over_batch, r"mean_over_batch returned loss of shape \(\) for 5 images"),
        (loss_alone, r"loss_alone must return \(loss, metrics\)"),
    ],
)
def test_an_objective_of_the_wrong_shape_is_named(objective, message: str) -> None:
    vae, tx = linear_gaussian(), make_optimizer("adam", 1e-3, 10)
    step = make_train_step(vae, objective, tx)
    with pytest.raises(UserError, match=message):
        step(init_state(vae, tx, KEY, (2, 2, 1)), jnp.asarray(IMAGES))
