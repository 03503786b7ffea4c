"""Images from parameters: jitted functions of (vae, params, ...), compiled once per shape, on any device.

They return the mean of p(x | z), in [0, 1] for Bernoulli pixels, "n h w c". For a conditional model they take contexts,
a row for each image: labels as one-hot vectors, or vectors of any meaning.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from flax_vae.batches import Batch, as_one, to_unit, unpack
from flax_vae.models.vae import VAE, Context, bind

Image = UInt8[Array | np.ndarray, "h w c"] | Float[Array | np.ndarray, "h w c"]


_AT_ONCE = 32  # images that a CPU decodes at a time: what they pass through stays in its caches


def _each(function: Callable[[Any], Any], xs: Any) -> Any:
    """The function of each x in xs: of all at once, but on CPUs in blocks, since many at once are bound by memory."""
    at_once = jax.vmap(function)
    if len(jax.tree.leaves(xs)[0]) <= _AT_ONCE:
        return at_once(xs)
    in_blocks = partial(jax.lax.map, function, batch_size=_AT_ONCE)
    return jax.lax.platform_dependent(xs, cpu=in_blocks, default=at_once)


@partial(jax.jit, static_argnums=(0, 3))
def sample(
    vae: VAE,
    params: Any,
    key: Key[Array, ""],
    num_samples: int,
    temperature: float | Float[Array, ""] = 1.0,
    context: Context = None,
) -> Float[Array, "n h w c"]:
    """New images: z from the prior, its scale times `temperature`, decoded."""

    def one(key_and_context: tuple[Array, Any]) -> Array:
        key, context = key_and_context
        return bind(vae, params, as_one(context)).generate(key, 1, temperature).mean()[0]

    return _each(one, (jax.random.split(key, num_samples), context))


@partial(jax.jit, static_argnums=0)
def encode(vae: VAE, params: Any, images: Batch) -> Any:
    """The posterior q(z | x) of each image, batch shape "n"; of a conditional model, of a pair (images, contexts)."""
    x, context = unpack(images)
    return bind(vae, params, context).encode(x)


@partial(jax.jit, static_argnums=0)
def decode(
    vae: VAE, params: Any, z: Float[Array | np.ndarray, "n d"], context: Context = None
) -> Float[Array, "n h w c"]:
    """The images that latents stand for."""

    def one(z_and_context: tuple[Array, Any]) -> Array:
        z, context = z_and_context
        return bind(vae, params, as_one(context)).decode(z[None]).mean()[0]

    return _each(one, (jnp.asarray(z), context))


@partial(jax.jit, static_argnums=0)
def reconstruct(vae: VAE, params: Any, images: Batch, key: Key[Array, ""]) -> Float[Array, "n h w c"]:
    """Images through one draw of the posterior and back; of a conditional model, a pair (images, contexts)."""

    def one(item: tuple[Array, Any, Array]) -> Array:
        image, context, key = item
        return bind(vae, params, as_one(context)).infer(image[None], key).likelihood.mean()[0, 0]

    x, context = unpack(images)
    return _each(one, (x, context, jax.random.split(key, len(x))))


@partial(jax.jit, static_argnums=(0, 4))
def interpolate(
    vae: VAE, params: Any, x0: Image, x1: Image, steps: int, context: Context = None
) -> Float[Array, "steps h w c"]:
    """Decoded points on the line between the posterior means of two images, and their contexts, both ends included."""
    ends = bind(vae, params, context).encode(to_unit(jnp.stack([x0, x1]))).mean()
    t = jnp.linspace(0.0, 1.0, steps)[:, None]
    z, between = jax.tree.map(lambda leaf: (1 - t) * leaf[0] + t * leaf[1], (ends, context))
    return bind(vae, params, between).decode(z).mean()


@partial(jax.jit, static_argnums=(0, 2, 4))
def latent_grid(
    vae: VAE,
    params: Any,
    n: int = 30,
    extent: float | Float[Array, ""] = 2.0,
    plane: tuple[int, ...] = (0, 1),
    context: Context = None,
) -> Float[Array, "rows n h w c"]:
    """Decoded grid of n x n points over [-extent, extent]² in a plane of two latent dimensions, the others at 0.

    The value of `plane[0]` grows with the column, that of `plane[1]` with the row (flip the rows to draw it upwards). A
    plane of one dimension gives a single row. The context is one row for all.
    """
    ticks = jnp.linspace(-extent, extent, n)
    points = jnp.stack(jnp.meshgrid(*[ticks] * len(plane)), -1).reshape(-1, n, len(plane))
    latent_dim = bind(vae, params, context).draw_prior(jax.random.key(0), 1).shape[-1]
    z = jnp.zeros((*points.shape[:2], latent_dim)).at[..., jnp.asarray(plane)].set(points)
    z_flat = z.reshape(-1, latent_dim)
    of_each = None if context is None else jnp.broadcast_to(context, (len(z_flat), context.shape[-1]))
    images = decode(vae, params, z_flat, of_each)
    return images.reshape(*z.shape[:2], *images.shape[1:])


@partial(jax.jit, static_argnums=(0, 3))
def traverse(
    vae: VAE,
    params: Any,
    x: Image,
    steps: int = 11,
    extent: float | Float[Array, ""] = 3.0,
    context: Context = None,
) -> Float[Array, "d steps h w c"]:
    """Row by row, one latent dimension of the image's posterior mean is moved through [-extent, extent]."""
    model = bind(vae, params, context)
    mean = model.encode(to_unit(jnp.asarray(x)[None])).mean()[0]
    values = jnp.linspace(-extent, extent, steps)
    moved = jnp.eye(len(mean), dtype=bool)[:, None]
    z = jnp.where(moved, values[None, :, None], mean)
    return model.decode(z).mean()
