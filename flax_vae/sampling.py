"""Images from parameters: jitted functions of (vae, params, ...), compiled once per shape, on any device.

They return the mean of p(x | z), in [0, 1] for Bernoulli pixels, "n h w c".
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from flax_vae.training import to_unit
from flax_vae.vae import VAE, bind

Images = UInt8[Array | np.ndarray, "n h w c"] | Float[Array | np.ndarray, "n h w c"]
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
    vae: VAE, params: Any, key: Key[Array, ""], num_samples: int, temperature: float | Float[Array, ""] = 1.0
) -> Float[Array, "n h w c"]:
    """New images: z from the prior, its scale times `temperature`, decoded."""

    def one(key: Array) -> Array:
        return bind(vae, params).generate(key, 1, temperature).mean()[0]

    return _each(one, jax.random.split(key, num_samples))


@partial(jax.jit, static_argnums=0)
def encode(vae: VAE, params: Any, images: Images) -> Any:
    """The posterior q(z | x) of each image, batch shape "n"."""
    return bind(vae, params).encode(to_unit(images))


@partial(jax.jit, static_argnums=0)
def decode(vae: VAE, params: Any, z: Float[Array, "n d"]) -> Float[Array, "n h w c"]:
    """The images that latents stand for."""
    return _each(lambda one: bind(vae, params).decode(one[None]).mean()[0], jnp.asarray(z))


@partial(jax.jit, static_argnums=0)
def reconstruct(vae: VAE, params: Any, images: Images, key: Key[Array, ""]) -> Float[Array, "n h w c"]:
    """Images through one draw of the posterior and back."""

    def one(image_and_key: tuple[Array, Array]) -> Array:
        image, key = image_and_key
        return bind(vae, params).infer(image[None], key).likelihood.mean()[0, 0]

    return _each(one, (to_unit(images), jax.random.split(key, len(images))))


@partial(jax.jit, static_argnums=(0, 4))
def interpolate(vae: VAE, params: Any, x0: Image, x1: Image, steps: int) -> Float[Array, "steps h w c"]:
    """Decoded points on the line between the posterior means of two images, both ends included."""
    model = bind(vae, params)
    z0, z1 = model.encode(to_unit(jnp.stack([x0, x1]))).mean()
    t = jnp.linspace(0.0, 1.0, steps)[:, None]
    return model.decode((1 - t) * z0 + t * z1).mean()


@partial(jax.jit, static_argnums=(0, 2, 4))
def latent_grid(
    vae: VAE, params: Any, n: int = 30, extent: float | Float[Array, ""] = 2.0, plane: tuple[int, ...] = (0, 1)
) -> Float[Array, "rows n h w c"]:
    """Decoded grid of n x n points over [-extent, extent]² in a plane of two latent dimensions, the others at 0.

    The value of `plane[0]` grows with the column, that of `plane[1]` with the row (flip the rows to draw it upwards). A
    plane of one dimension gives a single row.
    """
    ticks = jnp.linspace(-extent, extent, n)
    points = jnp.stack(jnp.meshgrid(*[ticks] * len(plane)), -1).reshape(-1, n, len(plane))
    model = bind(vae, params)
    latent_dim = model.prior().sample(jax.random.key(0)).shape[-1]
    z = jnp.zeros((*points.shape[:2], latent_dim)).at[..., jnp.asarray(plane)].set(points)
    images = decode(vae, params, z.reshape(-1, latent_dim))
    return images.reshape(*z.shape[:2], *images.shape[1:])


@partial(jax.jit, static_argnums=(0, 3))
def traverse(
    vae: VAE, params: Any, x: Image, steps: int = 11, extent: float | Float[Array, ""] = 3.0
) -> Float[Array, "d steps h w c"]:
    """Row by row, one latent dimension of the image's posterior mean is moved through [-extent, extent]."""
    model = bind(vae, params)
    mean = model.encode(to_unit(jnp.asarray(x)[None])).mean()[0]
    values = jnp.linspace(-extent, extent, steps)
    moved = jnp.eye(len(mean), dtype=bool)[:, None]
    z = jnp.where(moved, values[None, :, None], mean)
    return model.decode(z).mean()
