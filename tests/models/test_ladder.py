"""The ladder of spatial latents against quadrature and Monte Carlo, at parameters that leave nothing at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp

from flax_vae import (
    Config,
    Inference,
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


def disturbed(model: Ladder, image_shape: tuple[int, int, int], by: float, context_dim: int = 0) -> dict:
    """First parameters with noise, since many start from 0."""
    rng = np.random.default_rng(1)
    params = init(model, KEY, image_shape, context_dim)
    noisy = jax.tree.map(lambda leaf: np.float32(leaf + by * rng.normal(size=leaf.shape)), jax.device_get(params))
    return jax.tree.map(jnp.asarray, noisy)


def of(
    model: Ladder, params: dict, method: str, *args: object, context: np.ndarray | None = None, **fixed: int
) -> Inference:
    """A method of the model, compiled."""
    return jax.jit(lambda params, args: getattr(bind(model, params, context), method)(*args, **fixed))(params, args)


@pytest.fixture(scope="module")
def two_layers() -> tuple[Ladder, dict, jax.Array]:
    """One latent in each of two layers, and three images of 2x2 pixels."""
    model = ladder((2, 2, 1), latent_dim=1, widths=(4,), depths=(1,), channels=1)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 2, (3, 2, 2, 1)), jnp.float32)
    params = disturbed(model, (2, 2, 1), 0.2)
    # Wide enough to draw wherever p(x, z) is: both start narrow.
    params["posterior"]["log_var"]["bias"] = np.zeros(1, np.float32)
    params["decoder"]["posterior_0_0"]["bias"] = params["decoder"]["posterior_0_0"]["bias"] + np.float32([0, 1.5])
    return model, params, images


def on_a_grid(model: Ladder, params: dict, images: jax.Array) -> tuple[jax.Array, jax.Array, float]:
    """log p(x, z) and log q(z | x) for all z of a grid, "k b", and the logarithm of the area of its cells."""
    ticks = jnp.linspace(-12, 12, 500)
    z1, z2 = (jnp.broadcast_to(z.reshape(-1, 1), (ticks.size**2, len(images))) for z in jnp.meshgrid(ticks, ticks))
    inference = of(model, params, "infer_at", images, (z1[..., None], z2[..., None, None, None]))
    log_q = sum(layer.log_q for layer in inference.layers)
    return log_weights(inference, images) + log_q, log_q, 2 * np.log(ticks[1] - ticks[0])


def test_it_is_a_density_and_the_bound_rises_to_the_integral(two_layers: tuple[Ladder, dict, jax.Array]) -> None:
    model, params, images = two_layers
    log_joint, log_q, log_cell = on_a_grid(*two_layers)
    np.testing.assert_allclose(logsumexp(log_q, axis=0) + log_cell, 0, atol=1e-3)
    evidence = np.asarray(logsumexp(log_joint, axis=0) + log_cell)
    bound, error, k = map(np.asarray, log_likelihood(model, params, images, KEY, 100_000))
    assert (error < 0.02).all()
    assert (k < 0.7).all()
    np.testing.assert_array_less(np.abs(bound - evidence), 4.5 * error + 1e-3)

    def mean(num_samples: int) -> np.ndarray:
        keys = map(jax.random.key, range(300))
        return np.mean([np.asarray(log_likelihood(model, params, images, key, num_samples)[0]) for key in keys], axis=0)

    elbo, few, many = (mean(k) for k in (2, 5, 50))
    assert (elbo < few).all()
    assert (few < many).all()
    assert (many < evidence + 0.01).all()


@pytest.fixture(scope="module")
def many_layers() -> tuple[Ladder, dict, jax.Array]:
    """Five layers at three sizes, and two images of 7x5 pixels."""
    model = ladder((7, 5, 1), latent_dim=3, widths=(4, 6, 4), depths=(1, 2, 1), channels=2)
    images = jnp.asarray(np.random.default_rng(0).random((2, 7, 5, 1)), jnp.float32)
    return model, disturbed(model, (7, 5, 1), 0.1), images


def test_rates_of_layers_are_those_of_their_draws(many_layers: tuple[Ladder, dict, jax.Array]) -> None:
    model, params, images = many_layers
    inference = of(model, params, "infer", images, KEY, num_samples=4_000)
    assert [layer.z.shape[2:] for layer in inference.layers] == [(3,), (1, 1, 2), (2, 2, 2), (2, 2, 2), (4, 3, 2)]
    for layer in inference.layers:
        of_draws = layer.log_q - layer.prior.log_prob(layer.z)
        closed = jnp.broadcast_to(kl_divergence(layer.posterior, layer.prior), of_draws.shape)
        error = np.asarray((of_draws - closed).std(0) / np.sqrt(len(of_draws)))
        assert (closed.mean(0) > 0.01).all()
        np.testing.assert_array_less(np.abs(np.asarray((of_draws - closed).mean(0))), 4.5 * error)


def test_latents_that_were_drawn_are_inferred_again(many_layers: tuple[Ladder, dict, jax.Array]) -> None:
    model, params, images = many_layers
    drawn = of(model, params, "infer", images, KEY, num_samples=3)
    again = of(model, params, "infer_at", images, tuple(layer.z for layer in drawn.layers))
    np.testing.assert_allclose(log_weights(again, images), log_weights(drawn, images), rtol=1e-5)
    for one, other in zip(drawn.layers, again.layers, strict=True):
        np.testing.assert_allclose(one.log_q, other.log_q, rtol=1e-4, atol=1e-4)


def test_layers_below_those_known_are_means_of_their_priors(many_layers: tuple[Ladder, dict, jax.Array]) -> None:
    model, params, images = many_layers
    bound = bind(model, params)
    everything, some = bound.infer(images, KEY), bound.infer_top(images, KEY, 3)  # step by step: for the same bits
    for i, (one, other) in enumerate(zip(everything.layers, some.layers, strict=True)):
        np.testing.assert_array_equal(other.z, one.z if i < 3 else other.prior.mean())


def test_images_are_reconstructed_from_more_and_more_layers(many_layers: tuple[Ladder, dict, jax.Array]) -> None:
    model, params, images = many_layers
    found = reconstruct_layers(model, params, images, KEY)
    assert found.shape == (5, *images.shape)
    for known in (1, 3):
        expected = of(model, params, "infer_top", images, KEY, known).likelihood.mean()[0]
        np.testing.assert_allclose(found[known - 1], expected, rtol=1e-5)
    np.testing.assert_allclose(found[-1], of(model, params, "infer", images, KEY).likelihood.mean()[0], rtol=1e-5)
    flat = tutorial_dense((7, 5, 1))
    with pytest.raises(UserError, match="needs a model with a ladder of latents, which VAE does not have"):
        reconstruct_layers(flat, init(flat, KEY, (7, 5, 1)), images, KEY)


def test_a_chain_at_the_top_is_one_layer_of_those_known() -> None:
    model = make_model(Config(preset="ladder(widths=(4,), depths=(1,), channels=1)", latent_dim=2, levels=2), (4, 4, 1))
    params, images = disturbed(model, (4, 4, 1), 0.2), jnp.ones((3, 4, 4, 1))
    assert len(of(model, params, "infer", images, KEY).layers) == 3
    top, everything = reconstruct_layers(model, params, images, KEY)
    np.testing.assert_allclose(everything, of(model, params, "infer", images, KEY).likelihood.mean()[0], rtol=1e-5)
    assert float(jnp.abs(everything - top).max()) > 1e-3


def test_what_is_generated_follows_the_prior(many_layers: tuple[Ladder, dict, jax.Array]) -> None:
    """At temperature 0 it is the image of all means; at 1 the layers' draws change it."""
    model, params, _ = many_layers
    cold = sample(model, params, KEY, 4, 1e-6)
    np.testing.assert_allclose(cold, np.broadcast_to(cold[:1], cold.shape), atol=1e-4)
    assert np.asarray(sample(model, params, KEY, 64)).std(0).mean() > 10 * np.asarray(cold).std(0).mean()


def test_sizes_that_do_not_match_are_refused() -> None:
    with pytest.raises(UserError, match=r"need one number for each size, not \(32,\) and \(2, 2\)"):
        ladder((4, 4, 1), widths=(32,), depths=(2, 2))


def test_a_context_changes_every_layer() -> None:
    model = ladder((4, 4, 1), latent_dim=2, widths=(4,), depths=(2,), channels=1)
    params = disturbed(model, (4, 4, 1), 0.1, context_dim=3)
    x = jnp.full((1, 4, 4, 1), 0.5)
    one, other = (of(model, params, "infer", x, KEY, context=np.eye(3)[[i]]) for i in (0, 1))
    for a, b in zip(one.layers, other.layers, strict=True):
        assert (a.posterior.loc != b.posterior.loc).all()


def test_no_output_of_the_networks_makes_the_loss_infinite(many_layers: tuple[Ladder, dict, jax.Array]) -> None:
    model, params, images = many_layers
    wild = jax.tree.map(lambda leaf: leaf, params)
    for name, part in wild["decoder"].items():
        if name.startswith(("prior", "posterior")):
            part["bias"] = np.float32([0.0, 0.0, 1e9, -1e9])  # asks for scales of exp(±1e9)
    inference = of(model, wild, "infer", images, KEY)
    assert all(np.isfinite(kl_divergence(layer.posterior, layer.prior)).all() for layer in inference.layers)
    assert np.isfinite(log_weights(inference, images)).all()
