"""Images from parameters: jitted functions of (model, params, ...), compiled once per shape, on any device.

They return the mean of p(x | z), "n h w c", in [0, 1] for Bernoulli pixels; or, given a `pixel_key`, a draw from it.
For a conditional model they take contexts, a row for each image: labels as one-hot vectors, or vectors of any meaning.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from flax_vae.batches import Batch, as_one, batch_size_of, to_unit, unpack
from flax_vae.distributions import Distribution, LatentDistribution
from flax_vae.models.binding import Context, Params, bind
from flax_vae.models.protocol import require

Image = UInt8[Array | np.ndarray, "h w c"] | Float[Array | np.ndarray, "h w c"]
PixelKey = Key[Array, ""] | None

_AT_ONCE = 32  # images that a CPU decodes at a time: what they pass through stays in its caches


def _each(function: Callable[[Any], Any], xs: Any) -> Any:
    """The function of each x in xs: of all at once, but on CPUs in blocks, since many at once are bound by memory."""
    at_once = jax.vmap(function)
    if batch_size_of(xs) <= _AT_ONCE:
        return at_once(xs)
    in_blocks = partial(jax.lax.map, function, batch_size=_AT_ONCE)
    return jax.lax.platform_dependent(xs, cpu=in_blocks, default=at_once)


def _pixels(likelihood: Distribution, key: PixelKey) -> Float[Array, "..."]:
    return likelihood.mean() if key is None else likelihood.sample(key)


def _split(key: PixelKey, count: int) -> Key[Array, " n"] | None:
    return None if key is None else jax.random.split(key, count)


@partial(jax.jit, static_argnums=(0, 3))
def sample(
    vae: nn.Module,
    params: Params,
    key: Key[Array, ""],
    num_samples: int,
    temperature: float | Float[Array, ""] = 1.0,
    context: Context = None,
    pixel_key: PixelKey = None,
) -> Float[Array, "n h w c"]:
    """New images: z from the prior, its scale times `temperature`, decoded."""

    def one(item: tuple[Array, Any, Any]) -> Array:
        key, context, pixel_key = item
        return _pixels(bind(vae, params, as_one(context)).generate(key, 1, temperature), pixel_key)[0]

    return _each(one, (jax.random.split(key, num_samples), context, _split(pixel_key, num_samples)))


@partial(jax.jit, static_argnums=0)
def encode(vae: nn.Module, params: Params, images: Batch) -> LatentDistribution:
    """The posterior q(z | x) of each image, batch shape "n"; of a conditional model, of a pair (images, contexts)."""
    require(vae, "single_layer", what="encode")
    x, context = unpack(images)
    return bind(vae, params, context).encode(x)


@partial(jax.jit, static_argnums=0)
def decode(
    vae: nn.Module,
    params: Params,
    z: Float[Array | np.ndarray, "n d"],
    context: Context = None,
    pixel_key: PixelKey = None,
) -> Float[Array, "n h w c"]:
    """The images of latents."""
    require(vae, "single_layer", what="decode")

    def one(item: tuple[Array, Any, Any]) -> Array:
        z, context, pixel_key = item
        return _pixels(bind(vae, params, as_one(context)).decode(z[None]), pixel_key)[0]

    return _each(one, (jnp.asarray(z), context, _split(pixel_key, len(z))))


@partial(jax.jit, static_argnums=0)
def reconstruct(
    vae: nn.Module, params: Params, images: Batch, key: Key[Array, ""], pixel_key: PixelKey = None
) -> Float[Array, "n h w c"]:
    """Images through one draw of the posterior and back; of a conditional model, a pair (images, contexts)."""

    def one(item: tuple[Array, Any, Array, Any]) -> Array:
        image, context, key, pixel_key = item
        likelihood = bind(vae, params, as_one(context)).infer(image[None], key).likelihood
        return _pixels(likelihood, pixel_key)[0, 0]

    x, context = unpack(images)
    return _each(one, (x, context, jax.random.split(key, len(x)), _split(pixel_key, len(x))))


@partial(jax.jit, static_argnums=0)
def reconstruct_layers(
    vae: nn.Module, params: Params, images: Batch, key: Key[Array, ""]
) -> Float[Array, "layers n h w c"]:
    """What each layer of a ladder adds: images from the first layer alone, from the first two, ... from all.

    The layers that are left out are at the means of their priors, given those above. The vector at the top is one layer
    here, also where it is a chain of several.
    """
    require(vae, "ladder", what="reconstruct_layers")
    x, context = unpack(images)
    model = bind(vae, params, context)
    latents = jax.eval_shape(lambda: [layer.z for layer in model.infer(x, key).layers])
    layers = 1 + sum(z.ndim > 3 for z in latents)  # maps "k b h w c"; the others are the top's, "k b d"
    return jax.lax.map(lambda known: model.infer_top(x, key, known).likelihood.mean()[0], 1 + jnp.arange(layers))


@partial(jax.jit, static_argnums=(0, 4))
def interpolate(
    vae: nn.Module,
    params: Params,
    x0: Image,
    x1: Image,
    steps: int,
    context: Context = None,
    pixel_key: PixelKey = None,
) -> Float[Array, "steps h w c"]:
    """Decoded points on the line between the posterior means of two images, and their contexts, both ends included."""
    require(vae, "single_layer", what="interpolate")
    ends = bind(vae, params, context).encode(to_unit(jnp.stack([x0, x1]))).mean()
    t = jnp.linspace(0.0, 1.0, steps)[:, None]
    z, between = jax.tree.map(lambda leaf: (1 - t) * leaf[0] + t * leaf[1], (ends, context))
    return _pixels(bind(vae, params, between).decode(z), pixel_key)


@partial(jax.jit, static_argnums=(0, 2, 4))
def latent_grid(
    vae: nn.Module,
    params: Params,
    n: int = 30,
    extent: float | Float[Array, ""] = 2.0,
    plane: tuple[int, ...] = (0, 1),
    context: Context = None,
    pixel_key: PixelKey = None,
) -> Float[Array, "rows n h w c"]:
    """Decoded grid of n x n points over [-extent, extent]² in a plane of two latent dimensions, the others at 0.

    The value of `plane[0]` grows with the column, that of `plane[1]` with the row (flip the rows to draw it upwards). A
    plane of one dimension gives a single row. The context is one row for all.
    """
    require(vae, "single_layer", what="latent_grid")
    ticks = jnp.linspace(-extent, extent, n)
    points = jnp.stack(jnp.meshgrid(*[ticks] * len(plane)), -1).reshape(-1, n, len(plane))
    model = bind(vae, params, context)
    latent_dim = model.prior().mean().shape[-1]
    z = jnp.zeros((*points.shape[:2], latent_dim)).at[..., jnp.asarray(plane)].set(points)
    z_flat = z.reshape(-1, latent_dim)
    contexts = None if context is None else jnp.broadcast_to(context, (len(z_flat), context.shape[-1]))
    images = decode(vae, params, z_flat, contexts, pixel_key)
    return images.reshape(*z.shape[:2], *images.shape[1:])


@partial(jax.jit, static_argnums=(0, 3))
def traverse(
    vae: nn.Module,
    params: Params,
    x: Image,
    steps: int = 11,
    extent: float | Float[Array, ""] = 3.0,
    context: Context = None,
    pixel_key: PixelKey = None,
) -> Float[Array, "d steps h w c"]:
    """Row by row, one latent dimension of the image's posterior mean is moved through [-extent, extent]."""
    require(vae, "single_layer", what="traverse")
    model = bind(vae, params, context)
    mean = model.encode(to_unit(jnp.asarray(x)[None])).mean()[0]
    values = jnp.linspace(-extent, extent, steps)
    moved = jnp.eye(len(mean), dtype=bool)[:, None]
    z = jnp.where(moved, values[None, :, None], mean)
    return _pixels(model.decode(z), pixel_key)
