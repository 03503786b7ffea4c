"""The ladder of spatial latents against quadrature and Monte Carlo, at parameters that are all different from zero."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp

from flax_vae import (
    Config,
    Inference,
    Layer,
    UserError,
    bind,
    init,
    kl_divergence,
    ladder,
    log_likelihood,
    log_weights,
    reconstruct_layers,
    sample,
    tutorial_dense,
)
from flax_vae.models.ladder import Ladder
from flax_vae.runs.models import make_model

KEY = jax.random.key(0)
Case = tuple[Ladder, dict, jax.Array]  # a model, its parameters, and images


def random_params(model: Ladder, image_shape: tuple[int, int, int], context_dim: int = 0) -> dict:
    """Return parameters that are all different from 0, on the scale of initial ones."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: init(model, KEY, image_shape, context_dim))
    scales = jax.tree.map(lambda p: np.prod(p.shape[:-1]) ** -0.5 if p.ndim > 1 else 0.1, shapes)
    return jax.tree.map(lambda p, scale: jnp.asarray(scale * rng.normal(size=p.shape), p.dtype), shapes, scales)


@functools.partial(jax.jit, static_argnames=("model", "method", "num_samples"))
def call(
    model: Ladder,
    params: dict,
    method: str,
    *args: Any,
    context: jax.Array | None = None,
    num_samples: int | None = None,
) -> Inference:
    """Call a method of the model; compiled once for each model and method."""
    options = {} if num_samples is None else {"num_samples": num_samples}
    return getattr(bind(model, params, context), method)(*args, **options)


weights = jax.jit(log_weights)


@pytest.fixture(scope="module")
def two_layers() -> Case:
    """One latent in each of two layers, and three images of 2x2 pixels."""
    model = ladder((2, 2, 1), latent_dim=1, widths=(4,), depths=(1,), channels=1)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 2, (3, 2, 2, 1)), jnp.float32)
    rng, initial = np.random.default_rng(1), jax.device_get(init(model, KEY, (2, 2, 1)))
    params = jax.tree.map(lambda p: jnp.asarray(p + 0.2 * rng.normal(size=p.shape), jnp.float32), initial)
    # As wide as p(x, z), so that importance sampling reaches all of it.
    params["posterior"]["log_var"]["bias"] = jnp.zeros(1)
    params["decoder"]["posterior_0_0"]["bias"] = params["decoder"]["posterior_0_0"]["bias"] + jnp.array([0.0, 1.5])
    return model, params, images


def on_a_grid(model: Ladder, params: dict, images: jax.Array) -> tuple[jax.Array, jax.Array, float]:
    """Return log p(x, z) and log q(z | x) for all z of a grid, "k b", and the log-area of the grid's cells."""
    ticks = jnp.linspace(-12, 12, 250)
    z1, z2 = (jnp.broadcast_to(z.reshape(-1, 1), (ticks.size**2, len(images))) for z in jnp.meshgrid(ticks, ticks))
    inference = call(model, params, "infer_at", images, (z1[..., None], z2[..., None, None, None]))
    log_q = sum(layer.log_q for layer in inference.layers)
    return weights(inference, images) + log_q, log_q, 2 * np.log(ticks[1] - ticks[0])


@pytest.mark.slow
def test_it_is_a_density_and_the_bound_rises_to_the_integral(two_layers: Case) -> None:
    model, params, images = two_layers
    log_joint, log_q, log_cell = on_a_grid(*two_layers)
    np.testing.assert_allclose(logsumexp(log_q, axis=0) + log_cell, 0, atol=1e-3)
    evidence = np.asarray(logsumexp(log_joint, axis=0) + log_cell)
    bound, error, k = map(np.asarray, log_likelihood(model, params, images, KEY, 100_000))
    assert (error < 0.02).all()
    assert (k < 0.7).all()
    np.testing.assert_array_less(np.abs(bound - evidence), 4.5 * error + 1e-3)

    def mean(num_samples: int) -> np.ndarray:
        keys = jax.random.split(KEY, 300)
        return np.mean(jax.vmap(lambda key: log_likelihood(model, params, images, key, num_samples)[0])(keys), axis=0)

    elbo, few, many = (mean(k) for k in (2, 5, 50))
    assert (elbo < few).all()
    assert (few < many).all()
    assert (many < evidence + 0.01).all()


@pytest.fixture(scope="module")
def many_layers() -> Case:
    """Five layers at three sizes, and two images of 7x5 pixels."""
    model = ladder((7, 5, 1), latent_dim=3, widths=(4, 6, 4), depths=(1, 2, 1), channels=2)
    images = jnp.asarray(np.random.default_rng(0).random((2, 7, 5, 1)), jnp.float32)
    return model, random_params(model, (7, 5, 1)), images


@jax.jit
def _rates_of(layer: Layer) -> tuple[jax.Array, jax.Array]:
    rates = layer.log_q - layer.prior.log_prob(layer.z)
    return rates, jnp.broadcast_to(kl_divergence(layer.posterior, layer.prior), rates.shape)


def rates_of(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Return log q - log p of each draw, and the KL in closed form, "k b" both."""
    return jax.device_get(_rates_of(layer))


@pytest.mark.slow
def test_rates_of_layers_equal_the_means_over_their_draws(many_layers: Case) -> None:
    model, params, images = many_layers
    inference = call(model, params, "infer", images, KEY, num_samples=4_000)
    assert [layer.z.shape[2:] for layer in inference.layers] == [(3,), (1, 1, 2), (2, 2, 2), (2, 2, 2), (4, 3, 2)]
    for layer in inference.layers:
        rates, closed = rates_of(layer)
        error = (rates - closed).std(0) / np.sqrt(len(rates))
        assert (closed.mean(0) > 0.01).all()
        np.testing.assert_array_less(np.abs((rates - closed).mean(0)), 4.5 * error)


@pytest.mark.slow
def test_inference_at_drawn_latents_repeats_the_draw(many_layers: Case) -> None:
    model, params, images = many_layers
    drawn = call(model, params, "infer", images, KEY, num_samples=3)
    again = call(model, params, "infer_at", images, tuple(layer.z for layer in drawn.layers))
    np.testing.assert_allclose(weights(again, images), weights(drawn, images), rtol=1e-5)
    for one, other in zip(drawn.layers, again.layers, strict=True):
        np.testing.assert_allclose(one.log_q, other.log_q, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_layers_below_the_known_ones_are_means_of_their_priors(many_layers: Case) -> None:
    model, params, images = many_layers

    @jax.jit  # one program, for the same bits
    def run(params: dict) -> tuple[Inference, Inference]:
        bound = bind(model, params)
        return bound.infer(images, KEY), bound.infer_top(images, KEY, 3)

    complete, top = run(params)
    for i, (one, other) in enumerate(zip(complete.layers, top.layers, strict=True)):
        np.testing.assert_array_equal(other.z, one.z if i < 3 else other.prior.mean())


@pytest.mark.slow
def test_images_are_reconstructed_from_an_increasing_number_of_layers(many_layers: Case) -> None:
    model, params, images = many_layers
    images_by_layer = reconstruct_layers(model, params, images, KEY)
    assert images_by_layer.shape == (5, *images.shape)
    for known in (1, 3):
        expected = call(model, params, "infer_top", images, KEY, known).likelihood.mean()[0]
        np.testing.assert_allclose(images_by_layer[known - 1], expected, rtol=1e-5)
    complete = call(model, params, "infer", images, KEY).likelihood.mean()[0]
    np.testing.assert_allclose(images_by_layer[-1], complete, rtol=1e-5)
    flat = tutorial_dense((7, 5, 1))
    with pytest.raises(UserError, match="needs a model with a ladder of latents, which VAE does not have"):
        reconstruct_layers(flat, {}, images, KEY)


@pytest.mark.slow
def test_a_chain_at_the_top_counts_as_one_layer() -> None:
    model = make_model(Config(preset="ladder(widths=(4,), depths=(1,), channels=1)", latent_dim=2, levels=2), (4, 4, 1))
    params, images = random_params(model, (4, 4, 1)), jnp.ones((3, 4, 4, 1))
    inference = call(model, params, "infer", images, KEY)
    assert len(inference.layers) == 3
    top, complete = reconstruct_layers(model, params, images, KEY)
    np.testing.assert_allclose(complete, inference.likelihood.mean()[0], rtol=1e-5)
    assert float(jnp.abs(complete - top).max()) > 1e-3


def test_samples_follow_the_prior(many_layers: Case) -> None:
    """At temperature 0 they are the image of all means; at temperature 1 the layers' draws change it."""
    model, params, _ = many_layers
    cold, warm = (np.asarray(sample(model, params, KEY, 64, temperature)) for temperature in (1e-6, 1.0))
    np.testing.assert_allclose(cold, np.broadcast_to(cold[:1], cold.shape), atol=1e-4)
    assert warm.std(0).mean() > 10 * cold.std(0).mean()


def test_widths_and_depths_that_do_not_match_are_refused() -> None:
    with pytest.raises(UserError, match=r"need one number for each size, not \(32,\) and \(2, 2\)"):
        ladder((4, 4, 1), widths=(32,), depths=(2, 2))


def test_a_context_changes_every_layer() -> None:
    model = ladder((4, 4, 1), latent_dim=2, widths=(4,), depths=(2,), channels=1)
    params = random_params(model, (4, 4, 1), context_dim=3)
    x = jnp.full((1, 4, 4, 1), 0.5)
    one, other = (call(model, params, "infer", x, KEY, context=jnp.eye(3)[i : i + 1]) for i in (0, 1))
    for a, b in zip(one.layers, other.layers, strict=True):
        assert (a.posterior.loc != b.posterior.loc).all()


def test_the_loss_is_finite_at_any_output_of_the_networks(many_layers: Case) -> None:
    model, params, images = many_layers
    wild = jax.tree.map(lambda leaf: leaf, params)
    for name, part in wild["decoder"].items():
        if name.startswith(("prior", "posterior")):
            part["bias"] = np.float32([0.0, 0.0, 1e9, -1e9])  # asks for scales of exp(±1e9)
    inference = call(model, wild, "infer", images, KEY)
    assert all(np.isfinite(rates_of(layer)[1]).all() for layer in inference.layers)
    assert np.isfinite(weights(inference, images)).all()
