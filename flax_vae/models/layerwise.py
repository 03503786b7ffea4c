"""A hierarchy layer by layer: its shapes, its latents as one flat vector, and draws from given noise.

A layer depends only on the layers above it. So zeros stand for the layers that are not yet drawn, and `infer_at` is
called once for each layer. A compiler removes the parts that these calls have in common or do not need.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from math import prod
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from flax_vae.batches import ExampleShape, X, blank
from flax_vae.distributions import Distribution, Draw, FromNoise, LatentDistribution, Normal
from flax_vae.models.binding import Params, bind
from flax_vae.models.protocol import Layer, provides
from flax_vae.system.errors import UserError

Shape = tuple[int, ...]


@jax.tree_util.register_static  # part of a tree's structure, so that a traced function can return it
class LayerShape(NamedTuple):
    """The shapes of a stochastic layer, without batch axes.

    Attributes:
        event: the shape of its latents.
        posterior, prior: the shapes of the noise that each of the two maps to latents.
        noise_meaning: a description of the prior's noise.
    """

    event: Shape
    posterior: Shape
    prior: Shape
    noise_meaning: str = FromNoise.noise_meaning


def layer_shapes(model: nn.Module, params: Params, shape: ExampleShape, context_dim: int = 0) -> tuple[LayerShape, ...]:
    """Return the shapes of the stochastic layers, top first. Nothing is computed.

    Raises:
        UserError: a posterior or a prior does not map noise to latents.
    """

    def trace(params: Params) -> tuple[LayerShape, ...]:
        bound = bind(model, params, jnp.zeros((1, context_dim)) if context_dim else None)
        layers = bound.infer(blank(shape), jax.random.key(0)).layers
        return tuple(LayerShape(z.shape[2:], _noise(q), _noise(p), p.noise_meaning) for z, _, q, p in layers)

    return jax.eval_shape(trace, params)


def _noise(p: LatentDistribution) -> Shape:
    """Return the shape of the noise that p maps to a draw."""
    if not isinstance(p, FromNoise):
        raise UserError(f"A {type(p).__name__} does not map noise to latents: a distribution has to extend FromNoise.")
    return p.noise_shape


def draw_by_layer(
    bound: Any,
    x: X,
    noise: Float[Array, "k b n"],
    shapes: Sequence[LayerShape],
    which: Literal["posterior", "prior"],
) -> tuple[tuple[Float[Array, "k b ..."], ...], tuple[Float[Array, "k b"], ...]]:
    """Map noise to the latents of every layer, each under its posterior or its prior given the layers above.

    Args:
        bound: a bound model with `infer_at`.
        x: examples; zeros if only the prior is needed.
        noise: draws from N(0, I) for all layers, concatenated, top first.
        shapes: the model's `layer_shapes`.
        which: the distribution of each layer that maps its noise to latents.

    Returns:
        The latents and their log-densities in nats under that distribution, one array per layer.
    """
    latents, log_densities = [jnp.zeros((*noise.shape[:2], *shape.event)) for shape in shapes], []
    for number, noise_l in enumerate(split_layers(noise, [getattr(shape, which) for shape in shapes])):
        layer = bound.infer_at(x, tuple(latents)).layers[number]
        latents[number], log_density = getattr(layer, which).from_noise_and_log_prob(noise_l)
        log_densities.append(log_density)
    return tuple(latents), tuple(log_densities)


def draw_prior(
    bound: Any, key: Key[Array, ""], num_samples: int, temperature: float | Array = 1.0
) -> Float[Array, "n d"]:
    """Draw latents from a bound model's prior, with its scale times `temperature`.

    Returns:
        `num_samples` latents; if the prior depends on the context, one for each context instead.
    """
    prior = bound.prior().tempered(temperature)
    return prior.sample(key, (num_samples,) if prior.mean().ndim == 1 else ())


def pair_with_priors(draws: list[Draw], prior: LatentDistribution) -> tuple[Float[Array, "k b d"], tuple[Layer, ...]]:
    """Concatenate the draws of all layers into one vector, and pair each with its prior."""
    z = jnp.concatenate([z_l for z_l, _, _ in draws], axis=-1)
    return z, tuple(Layer(*draw, p) for draw, (_, p) in zip(draws, prior.layers(z), strict=True))


def decode_top(bound: Any, z: Float[Array, "n d"], choose: Callable[[int, Normal], Array]) -> Distribution:
    """Decode the top layer's latents: p(x | z), batch shape "n".

    Args:
        bound: a bound model with one latent vector, or a ladder.
        z: the vector, or the ladder's top layer.
        choose: maps the number and the prior of each layer below the vector to its latents "1 n h w c"; not called for
            a model with one latent vector.
    """
    return bound.decode_top(z, choose) if provides(bound, "ladder") else bound.decode(z)


def join_layers(latents: Sequence[Float[Array, "k b ..."]]) -> Float[Array, "k b n"]:
    """Concatenate the latents of all layers into one flat vector, top first."""
    return jnp.concatenate([z_l.reshape(*z_l.shape[:2], -1) for z_l in latents], axis=-1)


def split_layers(flat: Float[Array, "k b n"], shapes: Sequence[Shape]) -> tuple[Float[Array, "k b ..."], ...]:
    """Split a flat vector into one array per layer, in the given shapes: the inverse of `join_layers`."""
    ends = list(accumulate(map(prod, shapes)))
    parts = jnp.split(flat, ends[:-1], axis=-1)
    return tuple(part.reshape(*flat.shape[:2], *shape) for part, shape in zip(parts, shapes, strict=True))
