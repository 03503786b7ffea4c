"""A distribution over images in which each pixel depends on the previous ones, row by row."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from flax_vae.distributions.base import Distribution
from flax_vae.pytrees import pytree


class PixelNetwork(NamedTuple):
    """Weights of a three-layer network from a pixel's window and features to the head's input."""

    window: Float[Array, "v u"]
    features: Float[Array, "f u"]
    hidden: Float[Array, "u u"]
    output: Float[Array, "u o"]
    bias: Float[Array, " o"]


@pytree
class Autoregressive:
    """p(x) = Π_i p(x_i | x_<i), with the pixels i in reading order (PixelVAE, Gulrajani et al. 2017).

    Pixel i sees the previous pixels at most `reach` rows above and `reach` columns to either side, zero-padded outside
    the image. Its distribution is the `head`'s, at the output

        W₃ silu(W₂ silu(W₁ window_i + U features_i)) + b.

    An entropy coder, which has one pixel at a time, uses `canvas`, `pixel` and `put`.

    Args:
        features: the decoder's features for each pixel, "*b h w f".
        network: W, U and b, shared by all pixels.
        head: a likelihood; maps outputs "*b h w o" to independent pixels "*b h w c".
        reach: size of the window, in pixels.
    """

    features: Float[Array, "*b h w f"]
    network: PixelNetwork
    head: Any = struct.field(pytree_node=False)
    reach: int = struct.field(pytree_node=False)
    sequential: ClassVar[bool] = True

    @property
    def pixel_levels(self) -> int | None:
        """The number of levels of a pixel, which is the head's."""
        return self.head.pixel_levels

    def log_prob(self, x: Float[Array, "*s h w c"]) -> Float[Array, "..."]:
        """Return the log-probability in nats, of all pixels in parallel: `sample_shape + batch_shape`."""
        return self._pixels(self._project(self._windows(x)), self.features).log_prob(x)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "*s h w c"]:
        """Draw one pixel after another."""
        return self._fill(lambda pixel, i: pixel.sample(jax.random.fold_in(key, i)), sample_shape)

    def mean(self) -> Float[Array, "*b h w c"]:
        """Set each pixel in turn to its mean given the previous ones: a typical image.

        The true mean has no closed form.
        """
        return self._fill(lambda pixel, _: pixel.mean(), ())

    def canvas(self, sample_shape: tuple[int, ...] = ()) -> Float[Array, "*s rows columns c"]:
        """Return a blank image with its padding, which `put` fills in."""
        height, width = self.features.shape[-3:-1]
        channels = len(self.network.window) // (2 * self.reach * (self.reach + 1))
        shape = (*sample_shape, *self.features.shape[:-3], self.reach + height, 2 * self.reach + width, channels)
        return jnp.zeros(shape, self.features.dtype)

    def pixel(self, i: int | Array, canvas: Float[Array, "*s rows columns c"]) -> Distribution:
        """Return the distribution of pixel i, event shape "1 1 c", given the previous pixels of the canvas."""
        lead, (row, column) = canvas.shape[:-3], jnp.divmod(i, self.features.shape[-2])
        size = (*lead, self.reach + 1, 2 * self.reach + 1, canvas.shape[-1])
        window = jax.lax.dynamic_slice(canvas, (0,) * len(lead) + (row, column, 0), size)
        window = window.reshape(*lead, 1, 1, -1)[..., : len(self.network.window)]
        return self._pixels(self._project(window), self.features[..., row, column, :][..., None, None, :])

    def put(self, i: int | Array, canvas: Float[Array, "*s rows columns c"], value: Float[Array, "*s c"]) -> Array:
        """Return the canvas with pixel i filled in."""
        row, column = jnp.divmod(i, self.features.shape[-2])
        lead = (slice(None),) * (canvas.ndim - 3)
        return canvas.at[*lead, self.reach + row, self.reach + column].set(value)

    def _project(self, windows: Float[Array, "*s h w v"]) -> Float[Array, "*s h w u"]:
        """Return W₁ window."""
        return (_as_rows(windows) @ self.network.window).reshape(*windows.shape[:-1], -1)

    def _pixels(self, projected: Float[Array, "*s h w u"], features: Float[Array, "*b h w f"]) -> Distribution:
        """Return the distribution of pixels from W₁ window and their features."""
        net = self.network
        h = projected + (_as_rows(features) @ net.features).reshape(*features.shape[:-1], -1)
        lead = h.shape[:-1]
        h = jax.nn.silu(jax.nn.silu(_as_rows(h)) @ net.hidden)
        return self.head((h @ net.output + net.bias).reshape(*lead, -1))

    def _windows(self, x: Float[Array, "*s h w c"]) -> Float[Array, "*s h w v"]:
        """Return the window of each pixel, flattened."""
        height, width, reach = *x.shape[-3:-1], self.reach
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(reach, 0), (reach, reach), (0, 0)])
        offsets = [(row, column) for row in range(reach + 1) for column in range(2 * reach + 1)][: -reach - 1]
        shifted = [x[..., row : row + height, column : column + width, :] for row, column in offsets]
        # The barrier keeps XLA from repeating the slicing for every product with the windows.
        return jax.lax.optimization_barrier(jnp.concatenate(shifted, axis=-1))

    def _fill(self, choose: Callable[..., Array], sample_shape: tuple[int, ...]) -> Float[Array, "*s h w c"]:
        """Return an image whose pixels are set one after another, to `choose(distribution, index)`."""
        height, width = self.features.shape[-3:-1]

        def step(i: Array, canvas: Float[Array, "*s rows columns c"]) -> Array:
            return self.put(i, canvas, choose(self.pixel(i, canvas), i)[..., 0, 0, :])

        canvas = jax.lax.fori_loop(0, height * width, step, self.canvas(sample_shape))
        return canvas[..., self.reach :, self.reach : self.reach + width, :]


def _as_rows(x: Float[Array, "*s f"]) -> Float[Array, "r f"]:
    """Flatten to a matrix: on CPUs the gradient of a product of matrices is twice as fast."""
    return x.reshape(-1, x.shape[-1])
