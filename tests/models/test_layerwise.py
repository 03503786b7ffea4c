"""Latents layer by layer, and as one flat vector."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_vae import Config, UserError, bind, init, tutorial_dense
from flax_vae.distributions import LatentDistribution, Mixture
from flax_vae.models.layerwise import (
    LayerShape,
    draw_by_layer,
    draw_prior,
    join_layers,
    layer_shapes,
    split_layers,
)
from flax_vae.pytrees import pytree
from flax_vae.runs.models import make_model

SHAPE, KEY = (2, 2, 1), jax.random.key(0)
DENSE = "tutorial_dense(features=(4,))"


def shapes_of(model: nn.Module, context_dim: int = 0) -> tuple[LayerShape, ...]:
    params = jax.eval_shape(lambda: init(model, KEY, SHAPE, context_dim))
    return layer_shapes(model, params, SHAPE, context_dim)


def test_layers_have_shapes_of_latents_and_of_noise() -> None:
    """A mixture takes one more number, which chooses a component."""
    chain = make_model(Config(preset=DENSE, latent_dim=3, levels=2, prior="mixture"), SHAPE)
    top, below = shapes_of(chain)
    assert top == LayerShape((3,), (3,), (4,), Mixture.noise_meaning)
    assert below == LayerShape((3,), (3,), (3,))
    ladder = make_model(Config(preset="ladder(widths=(4,), depths=(1,), channels=2)", latent_dim=3), SHAPE)
    assert shapes_of(ladder) == (LayerShape((3,), (3,), (3,)), LayerShape((1, 1, 2), (1, 1, 2), (1, 1, 2)))


def test_joined_layers_are_split_again() -> None:
    flat = np.arange(2 * 3 * 10, dtype=np.float32).reshape(2, 3, 10)
    layers = split_layers(jnp.asarray(flat), [(4,), (1, 3, 2)])
    assert [layer.shape for layer in layers] == [(2, 3, 4), (2, 3, 1, 3, 2)]
    np.testing.assert_array_equal(join_layers(layers), flat)


@pytest.mark.parametrize("which", ["posterior", "prior"])
def test_draws_by_layer_have_the_log_densities_of_inference_at_them(which: str) -> None:
    model = make_model(Config(preset=DENSE, latent_dim=3, levels=2), SHAPE)
    params, x = init(model, KEY, SHAPE), jnp.full((1, *SHAPE), 0.3)
    noise = jax.random.normal(KEY, (2, 1, 6))

    @jax.jit
    def run() -> tuple[Any, Any]:
        bound = bind(model, params)
        latents, log_densities = draw_by_layer(bound, x, noise, layer_shapes(model, params, SHAPE), which)
        layers = bound.infer_at(x, latents).layers
        return log_densities, [getattr(layer, which).log_prob(z) for layer, z in zip(layers, latents, strict=True)]

    for log_density, expected in zip(*run(), strict=True):
        np.testing.assert_allclose(log_density, expected, rtol=1e-5)


def test_a_prior_that_depends_on_the_context_is_drawn_from_once_per_context() -> None:
    def draw(conditional: bool) -> jax.Array:
        model = make_model(Config(preset=DENSE, latent_dim=3, conditional=conditional), SHAPE)
        params = init(model, KEY, SHAPE, 2 * conditional)
        return draw_prior(bind(model, params, jnp.zeros((5, 2)) if conditional else None), KEY, 7)

    assert jax.eval_shape(lambda: draw(False)).shape == (7, 3)
    assert jax.eval_shape(lambda: draw(True)).shape == (5, 3)


@pytree
class Uniform(LatentDistribution):
    """U(-1, 1) in two dimensions, which is no `FromNoise`."""

    def log_prob(self, z: jax.Array) -> jax.Array:
        return jnp.where(jnp.abs(z) <= 1, jnp.log(0.5), -jnp.inf).sum(-1)

    def sample_and_log_prob(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> tuple[jax.Array, jax.Array]:
        z = jax.random.uniform(key, (*sample_shape, 2), minval=-1.0)
        return z, self.log_prob(z)

    def mean(self) -> jax.Array:
        return jnp.zeros(2)

    def tempered(self, temperature: float | jax.Array) -> "Uniform":
        return self


class UniformPrior(nn.Module):
    def __call__(self) -> Uniform:
        return Uniform()


def test_a_distribution_without_noise_is_refused() -> None:
    with pytest.raises(UserError, match="A Uniform does not map noise to latents"):
        shapes_of(tutorial_dense(SHAPE, prior=UniformPrior()))
