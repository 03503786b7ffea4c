"""A distribution of images in which each pixel depends on those before it, row by row."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from flax_vae.distributions.base import Distribution
from flax_vae.pytrees import pytree

Choose = Callable[[Distribution, Array], Array]  # the distribution of a pixel, and its number -> its value


@runtime_checkable
class Head(Protocol):
    """A likelihood head: a decoder's output -> independent pixels."""

    @property
    def pixel_levels(self) -> int | None:
        """How many values a pixel may have, or None for densities."""

    def __call__(self, output: Array) -> Distribution:
        """Output "*b h w o" -> distribution of pixels "*b h w c"."""


class PixelNetwork(NamedTuple):
    """The weights of three layers, from what a pixel sees and what it is told to what the head takes."""

    seen: Float[Array, "v u"]
    told: Float[Array, "f u"]
    hidden: Float[Array, "u u"]
    output: Float[Array, "u o"]
    bias: Float[Array, " o"]


@pytree
class Autoregressive:
    """p(x) = Π_i p(x_i | x_<i), the pixels i in the order in which one reads (PixelVAE, Gulrajani et al. 2017).

    Pixel i sees the window of those at most `reach` rows above it and `reach` columns beside it that come before it;
    outside of the image they are 0. Its distribution is that of the `head`, given

        W₃ silu(W₂ silu(W₁ window_i + U features_i)) + b.

    Args:
        features: what each pixel is told of the rest, "*b h w f".
        network: W, U and b, the same for all pixels.
        head: outputs "*b h w o" -> independent pixels.
        reach: of the window, in pixels.
    """

    features: Float[Array, "*b h w f"]
    network: PixelNetwork
    head: Head = struct.field(pytree_node=False)
    reach: int = struct.field(pytree_node=False)

    @property
    def pixel_levels(self) -> int | None:
        """That of the head."""
        return self.head.pixel_levels

    def log_prob(self, x: Float[Array, "*s h w c"]) -> Float[Array, "..."]:
        """Log-probability in nats, of all pixels at once: `sample_shape + batch_shape`."""
        return self._given(self._seen(self._windows(x)), self.features).log_prob(x)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "*s h w c"]:
        """Draw pixel after pixel."""
        return self._one_after_another(lambda pixel, i: pixel.sample(jax.random.fold_in(key, i)), sample_shape)

    def mean(self) -> Float[Array, "*b h w c"]:
        """The image in which each pixel is its mean given those before it, which are theirs: one likely image.

        The mean of all images has no closed form.
        """
        return self._one_after_another(lambda pixel, _: pixel.mean(), ())

    def _seen(self, windows: Float[Array, "*s h w v"]) -> Float[Array, "*s h w u"]:
        """W₁ window."""
        return (_rows(windows) @ self.network.seen).reshape(*windows.shape[:-1], -1)

    def _given(self, seen: Float[Array, "*s h w u"], features: Float[Array, "*b h w f"]) -> Distribution:
        """The pixels, given W₁ window."""
        net, told = self.network, _rows(features) @ self.network.told
        h = seen + told.reshape(*features.shape[:-1], -1)
        lead = h.shape[:-1]
        h = jax.nn.silu(jax.nn.silu(_rows(h)) @ net.hidden)
        return self.head((h @ net.output + net.bias).reshape(*lead, -1))

    def _windows(self, x: Float[Array, "*s h w c"]) -> Float[Array, "*s h w v"]:
        """What each pixel sees."""
        height, width, reach = *x.shape[-3:-1], self.reach
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(reach, 0), (reach, reach), (0, 0)])
        before = [(row, column) for row in range(reach + 1) for column in range(2 * reach + 1)][: -reach - 1]
        seen = [x[..., row : row + height, column : column + width, :] for row, column in before]
        # The barrier keeps XLA from doing the slicing again for every product with the windows.
        return jax.lax.optimization_barrier(jnp.concatenate(seen, axis=-1))

    def empty(self, sample_shape: tuple[int, ...] = ()) -> Float[Array, "*s rows columns c"]:
        """An image before its first pixel, with what surrounds it: see `pixel`."""
        height, width = self.features.shape[-3:-1]
        channels = len(self.network.seen) // (2 * self.reach * (self.reach + 1))
        shape = (*sample_shape, *self.features.shape[:-3], self.reach + height, 2 * self.reach + width, channels)
        return jnp.zeros(shape, self.features.dtype)

    def pixel(self, i: int | Array, image: Float[Array, "*s rows columns c"]) -> Distribution:
        """The distribution of pixel i given those before it in an image that has them: an image "1 1 c"."""
        lead, (row, column) = image.shape[:-3], jnp.divmod(i, self.features.shape[-2])
        size = (*lead, self.reach + 1, 2 * self.reach + 1, image.shape[-1])
        window = jax.lax.dynamic_slice(image, (0,) * len(lead) + (row, column, 0), size)
        window = window.reshape(*lead, 1, 1, -1)[..., : len(self.network.seen)]
        told = self.features[..., row, column, :][..., None, None, :]
        return self._given(self._seen(window), told)

    def put(self, i: int | Array, image: Float[Array, "*s rows columns c"], pixel: Float[Array, "*s c"]) -> Array:
        """The image with its pixel i."""
        row, column = jnp.divmod(i, self.features.shape[-2])
        before = (slice(None),) * (image.ndim - 3)
        return image.at[*before, self.reach + row, self.reach + column].set(pixel)

    def _one_after_another(self, choose: Choose, sample_shape: tuple[int, ...]) -> Float[Array, "*s h w c"]:
        """An image whose pixels are chosen one after another."""
        height, width = self.features.shape[-3:-1]

        def one(i: Array, image: Float[Array, "*s rows columns c"]) -> Array:
            return self.put(i, image, choose(self.pixel(i, image), i)[..., 0, 0, :])

        image = jax.lax.fori_loop(0, height * width, one, self.empty(sample_shape))
        return image[..., self.reach :, self.reach : self.reach + width, :]


def _rows(x: Float[Array, "*s f"]) -> Float[Array, "r f"]:
    """A matrix: on CPUs the gradient of a product with one is twice as fast."""
    return x.reshape(-1, x.shape[-1])
