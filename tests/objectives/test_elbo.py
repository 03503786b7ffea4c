"""The ELBO and its variants, against a model whose evidence is known exactly and against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_models import IMAGES, gap, inference_of, layered, linear_gaussian, log_evidence, terms

from flax_vae import ELBO, Capacity, FreeBits, Warmup, distortion, init, layer_rates, rate, tutorial_dense
from flax_vae.objectives.base import apply_objective

KEY = jax.random.key(0)


def test_elbo_is_the_evidence_minus_the_divergence_from_the_exact_posterior() -> None:
    shift, keys = 0.3, jax.random.split(KEY, 20_000)
    model = linear_gaussian(shift)
    elbo = jax.jit(jax.vmap(lambda key: terms(ELBO(), model, key=key)["elbo"]))(keys)
    error = elbo.std(0) / np.sqrt(len(keys))
    assert (np.abs(elbo.mean(0) - (log_evidence() - gap(shift))) < 4 * error).all()


def test_gradients_equal_finite_differences() -> None:
    """In float64, along a random direction through all the parameters."""
    images = np.random.default_rng(0).uniform(size=(3, 4, 4, 1))
    model, size = tutorial_dense((4, 4, 1)).clone(dtype="float64"), 1e-6
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), init(model, KEY, (4, 4, 1)))
        rng = np.random.default_rng(1)
        direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)

        @jax.jit
        def loss(along: jax.Array) -> jax.Array:
            moved = jax.tree.map(lambda p, d: p + along * d, params, direction)
            return apply_objective(model, ELBO(beta=2.0), moved, jnp.asarray(images), KEY, 0)["loss"].mean()

        slope = jax.grad(loss)(jnp.asarray(0.0, jnp.float64))
        assert slope.dtype == jnp.float64
        np.testing.assert_allclose((loss(size) - loss(-size)) / (2 * size), slope, rtol=1e-6)


def test_beta_scales_only_the_rate() -> None:
    plain, heavy = terms(ELBO(), linear_gaussian(0.3)), terms(ELBO(beta=4.0), linear_gaussian(0.3))
    np.testing.assert_allclose(heavy["loss"] - plain["loss"], 3 * plain["rate"], rtol=1e-4)
    np.testing.assert_array_equal(heavy["elbo"], plain["elbo"])


def test_capacity_penalises_the_distance_of_the_rate_from_its_schedule() -> None:
    objective = Capacity(Warmup(steps=10, weight=5.0), gamma=3.0)
    result = terms(objective, linear_gaussian(0.3), step=4)
    np.testing.assert_allclose(result["loss"], result["distortion"] + 3 * np.abs(result["rate"] - 2.0), rtol=1e-5)


@pytest.mark.parametrize("per", ["layer", "dimension"])
@pytest.mark.parametrize("nats", [0.0, 0.5, 100.0])
def test_free_bits_of_a_layer_or_dimension(per: str, nats: float) -> None:
    inference = inference_of(linear_gaussian(0.3))
    q, mean_rate = inference.layers[0].posterior, np.mean(jax.jit(rate)(inference))
    dimension_rates = 0.5 * (np.exp(2 * q.log_scale) + q.loc**2 - 1) - q.log_scale
    paid = max(nats, mean_rate) if per == "layer" else np.maximum(nats, dimension_rates.mean(0)).sum()
    result = terms(FreeBits(nats, per), linear_gaussian(0.3))
    np.testing.assert_allclose(result["loss"], jax.jit(distortion)(inference, IMAGES) + paid, rtol=1e-5)


@pytest.mark.slow
def test_free_bits_are_counted_layer_by_layer_in_a_hierarchy() -> None:
    """Between the rates of its two layers: only the higher one is paid."""
    rates = [float(layer_rate.mean()) for layer_rate in jax.jit(layer_rates)(inference_of(layered(0.4)))]
    nats = sum(rates) / 2
    result = terms(FreeBits(nats), layered(0.4))
    np.testing.assert_allclose(result["loss"], result["distortion"] + nats + max(rates), rtol=1e-5)


def test_objectives_are_values() -> None:
    assert ELBO(Warmup(10)) == ELBO(Warmup(10))
    assert hash(ELBO(2.0)) == hash(ELBO(2.0))
    assert repr(ELBO(beta=2.0)) == "ELBO(beta=2.0)"
