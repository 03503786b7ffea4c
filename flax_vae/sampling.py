"""Encoding, decoding and sampling: jitted functions of (model, params, ...), compiled once per shape, on any device.

x is an array, such as images "n h w c" or vectors "n v", or a pytree of arrays, and results have its structure. Arrays
with values that the likelihood does not take are refused. Functions that decode return the mean of p(x | z), in [0, 1]
for Bernoulli pixels; given a `pixel_key`, they return a draw from it. For a conditional model, `context` has a row per
example: labels as one-hot vectors, or vectors of any meaning. Functions of a batch then take a `Batch` of x and
contexts. An empty batch gives an empty result.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from flax_vae.batches import BatchLike, X, as_one, batch_size_of, take, unpack
from flax_vae.distributions import Distribution, LatentDistribution
from flax_vae.models import Context, Params, bind, require
from flax_vae.models.inputs import checked
from flax_vae.system.settings import by_default

PixelKey = Key[Array, ""] | None

_AT_ONCE = 32  # examples that a CPU decodes at a time, so that activations stay in its caches


def _map(function: Callable[..., Any], *xs: Any) -> Any:
    """Map a function over xs: all at once, but in blocks on CPUs, where large batches are memory-bound."""
    at_once = jax.vmap(function)
    if batch_size_of(xs) <= _AT_ONCE:
        return at_once(*xs)

    def in_blocks(*xs: Any) -> Any:
        return jax.lax.map(lambda x: function(*x), xs, batch_size=_AT_ONCE)

    return jax.lax.platform_dependent(*xs, cpu=in_blocks, default=at_once)


def _pixels(likelihood: Distribution, key: PixelKey) -> X:
    return likelihood.mean() if key is None else likelihood.sample(key)


def _split(key: PixelKey, count: int) -> Key[Array, " n"] | None:
    return None if key is None else jax.random.split(key, count)


@checked(temperature={"above": 0})
@partial(jax.jit, static_argnums=(0, 3))
def sample(
    model: nn.Module,
    params: Params,
    key: Key[Array, ""],
    num_samples: int,
    temperature: float | Float[Array, ""] = 1.0,
    context: Context = None,
    pixel_key: PixelKey = None,
) -> X:
    """Sample examples: draw z from the prior, its scale multiplied by `temperature`, and decode it."""

    def one_example(key: Array, context: Any, pixel_key: Any) -> X:
        likelihood = bind(model, params, as_one(context)).generate(key, 1, temperature)
        return take(_pixels(likelihood, pixel_key), 0)

    return _map(one_example, jax.random.split(key, num_samples), context, _split(pixel_key, num_samples))


@checked("images")
@partial(jax.jit, static_argnums=0)
def encode(model: nn.Module, params: Params, images: BatchLike) -> LatentDistribution:
    """Return the posterior q(z | x) of each example, with batch shape "n"."""
    require(model, "single_layer", what="encode")
    x, *given = unpack(images, model)
    return bind(model, params, *given).encode(x)


@by_default
@partial(jax.jit, static_argnums=0)
def decode(
    model: nn.Module,
    params: Params,
    z: Float[Array | np.ndarray, "n d"],
    context: Context = None,
    pixel_key: PixelKey = None,
) -> X:
    """Decode latents into examples."""
    require(model, "single_layer", what="decode")

    def one_example(z: Array, context: Any, pixel_key: Any) -> X:
        return take(_pixels(bind(model, params, as_one(context)).decode(z[None]), pixel_key), 0)

    return _map(one_example, jnp.asarray(z), context, _split(pixel_key, len(z)))


@checked("images")
@partial(jax.jit, static_argnums=0)
def reconstruct(
    model: nn.Module, params: Params, images: BatchLike, key: Key[Array, ""], pixel_key: PixelKey = None
) -> X:
    """Encode examples, draw one latent for each, and decode it; missing values are filled in by the model."""

    def one_example(item: Any, key: Array, pixel_key: Any) -> X:
        x, *given = as_one(item)
        return take(_pixels(bind(model, params, *given).infer(x, key).likelihood, pixel_key), (0, 0))

    count = batch_size_of(images)
    return _map(one_example, unpack(images, model), jax.random.split(key, count), _split(pixel_key, count))


@checked("images")
@partial(jax.jit, static_argnums=0)
def reconstruct_layers(model: nn.Module, params: Params, images: BatchLike, key: Key[Array, ""]) -> X:
    """Reconstruct images from the top layer of a ladder, from the top two layers, and so on up to all layers.

    The remaining layers are set to the means of their priors given those above. The vector at the top counts as one
    layer, even if it is a chain of several.

    Raises:
        UserError: the model is not a ladder.
    """
    require(model, "ladder", what="reconstruct_layers")
    x, *given = unpack(images, model)
    bound = bind(model, params, *given)
    latents = jax.eval_shape(lambda: [layer.z for layer in bound.infer(x, key).layers])
    layers = 1 + sum(z.ndim > 3 for z in latents)  # maps "k b h w c"; the others are the top's, "k b d"

    def from_top(count: Array) -> Array:
        # One key for all, so that the results differ in the number of layers only.
        return bound.infer_top(x, jax.random.clone(key), count).likelihood.mean()[0]

    return jax.lax.map(from_top, 1 + jnp.arange(layers))


@checked("x0", "x1", single=True)
@partial(jax.jit, static_argnums=(0, 4))
def interpolate(
    model: nn.Module,
    params: Params,
    x0: X,
    x1: X,
    steps: int,
    context: Context = None,
    pixel_key: PixelKey = None,
) -> X:
    """Decode points on the line between the posterior means of two examples (and between their contexts).

    Both ends are included; `context` has two rows.
    """
    require(model, "single_layer", what="interpolate")
    x, *_ = unpack(jax.tree.map(lambda *ends: jnp.stack(ends), x0, x1), model)
    ends = bind(model, params, context).encode(x).mean()
    t = jnp.linspace(0.0, 1.0, steps)[:, None]
    z, between = jax.tree.map(lambda leaf: (1 - t) * leaf[0] + t * leaf[1], (ends, context))
    return _pixels(bind(model, params, between).decode(z), pixel_key)


@by_default
@partial(jax.jit, static_argnums=(0, 2, 4))
def latent_grid(
    model: nn.Module,
    params: Params,
    n: int = 30,
    extent: float | Float[Array, ""] = 2.0,
    plane: tuple[int, ...] = (0, 1),
    context: Context = None,
    pixel_key: PixelKey = None,
) -> X:
    """Decode an n x n grid over [-extent, extent]² in the plane of two latent dimensions, with the others at 0.

    Latent `plane[0]` increases with the column, and `plane[1]` with the row (flip the rows to draw it upwards). A plane
    of one dimension gives a single row. All images have the same context, a single row.
    """
    require(model, "single_layer", what="latent_grid")
    ticks = jnp.linspace(-extent, extent, n)
    points = jnp.stack(jnp.meshgrid(*[ticks] * len(plane)), -1).reshape(-1, n, len(plane))
    bound = bind(model, params, context)
    latent_dim = bound.prior().mean().shape[-1]
    z = jnp.zeros((*points.shape[:2], latent_dim)).at[..., jnp.asarray(plane)].set(points)
    z_flat = z.reshape(-1, latent_dim)
    contexts = None if context is None else jnp.broadcast_to(context, (len(z_flat), context.shape[-1]))
    decoded = decode(model, params, z_flat, contexts, pixel_key)
    return jax.tree.map(lambda leaf: leaf.reshape(*z.shape[:2], *leaf.shape[1:]), decoded)


@checked("x", single=True)
@partial(jax.jit, static_argnums=(0, 3))
def traverse(
    model: nn.Module,
    params: Params,
    x: X,
    steps: int = 11,
    extent: float | Float[Array, ""] = 3.0,
    context: Context = None,
    pixel_key: PixelKey = None,
) -> X:
    """Start from an example's posterior mean, and vary one latent dimension per row over [-extent, extent]."""
    require(model, "single_layer", what="traverse")
    (one, *_), bound = unpack(as_one(x), model), bind(model, params, context)
    mean = bound.encode(one).mean()[0]
    values = jnp.linspace(-extent, extent, steps)
    moved = jnp.eye(len(mean), dtype=bool)[:, None]
    z = jnp.where(moved, values[None, :, None], mean)
    return _pixels(bound.decode(z), pixel_key)
