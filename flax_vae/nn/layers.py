"""Linen layers that models share."""

from math import prod
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from flax_vae.nn import convolutions
from flax_vae.nn.module import Module

ImageShape = tuple[int, int, int]
Maps = tuple[Float[Array, "b _h _w _f"], ...]  # features of images at each size, the finest first
OutputBias = float | tuple[float, ...]  # of all channels, or of each
# Recomputes the sigmoid in the gradient, which is faster on CPUs than reading a stored one.
silu = jax.checkpoint(nn.silu)


def bias_init(value: OutputBias, image_shape: tuple[int, ...]) -> nn.initializers.Initializer:
    """Return an initialiser that sets the last bias to `value`, one number or one per channel, at every pixel.

    A decoder that starts at the average image need not spend its first steps on darkening all pixels equally: with a
    bias of 0 a Bernoulli decoder starts at 0.5, but the mean pixel of Fashion-MNIST is 0.286.
    """

    def bias(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        channels = image_shape[-1]
        return jnp.broadcast_to(jnp.asarray(value, dtype), (prod(shape) // channels, channels)).reshape(shape)

    return bias


def _glorot_uniform(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Float[Array, "kh kw i o"]:
    """Draw from U(-a, a) with a² = 6 / (fan_in + fan_out) (Glorot & Bengio 2010)."""
    # Drawn flat, which XLA compiles four times faster than a four-dimensional draw.
    height, width, inputs, outputs = shape
    limit = (6 / (height * width * (inputs + outputs))) ** 0.5
    return jax.random.uniform(key, (prod(shape),), dtype, -limit, limit).reshape(shape)


def wide(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Cast to float32 or wider, for sums and densities."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def flat(x: Shaped[Array, "b ..."]) -> Shaped[Array, "b f"]:
    """Flatten all axes except the first, also for an empty batch, whose size `reshape(b, -1)` cannot infer."""
    return x.reshape(x.shape[0], prod(x.shape[1:]))


def dense(features: int, **kwargs: Any) -> nn.Dense:
    """Return a dense layer with Glorot initialisation (Glorot & Bengio 2010)."""
    return nn.Dense(features, kernel_init=nn.initializers.glorot_uniform(), **kwargs)


def _with_bias(x: Float[Array, "b h w c"], bias: Float[Array, " c"]) -> Float[Array, "b h w c"]:
    """Return x + bias in float32 or wider: the bias's gradient sums over all pixels, too many for bfloat16."""
    return convolutions.add_bias(wide(x), wide(bias))


class Conv(Module):
    """3x3 convolution with stride 1 and zero padding; `upsample` first repeats each pixel 2x2.

    At stride 1 a transposed convolution is the same function with the kernel stored flipped, so this layer is also the
    tutorial's `Conv2DTranspose`.
    """

    features: int
    upsample: bool = False
    kernel_init: nn.initializers.Initializer = _glorot_uniform
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b oh ow o"]:
        """Map images "b h w i" to "b h w o", or to "b 2h 2w o" with `upsample`."""
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", self.bias_init, (self.features,))
        convolve = convolutions.upsample_conv if self.upsample else convolutions.conv
        return _with_bias(convolve(x, kernel), bias).astype(x.dtype)


class PerPixel(Module):
    """1x1 convolution: a dense layer on the channels of every pixel."""

    features: int
    kernel_init: nn.initializers.Initializer = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Map images "b h w i" to "b h w o"."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return _with_bias(x @ kernel.astype(x.dtype), bias).astype(x.dtype)


class ResidualBlock(Module):
    """x + f(x), where f applies SiLU and a convolution twice (He et al. 2016).

    The last kernel starts at 0, so the block starts as the identity. There is no normalisation: networks of a few dozen
    blocks train without it (Kuzina & Tomczak 2024), and on CPUs it takes as long as a convolution. If the number of
    channels changes, x is projected by a 1x1 convolution.

    Attributes:
        features: channels of the output.
        remat: True if the gradient recomputes the block from x instead of storing its activations.
    """

    features: int
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Map images "b h w i" to "b h w o"."""
        return (nn.remat(ResidualBlock._compute) if self.remat else ResidualBlock._compute)(self, x)

    def _compute(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        h = Conv(self.features)(silu(x))
        h = Conv(self.features, kernel_init=nn.initializers.zeros)(silu(h))
        return h + (x if x.shape == h.shape else dense(self.features, use_bias=False)(x))


def space_to_depth(x: Float[Array, "b h w c"], by: int = 2) -> Float[Array, "b h2 w2 c2"]:
    """Move each `by` x `by` square of pixels into the channels of one pixel; zero-pads the image to a multiple."""
    b, h, w, c = x.shape
    rows, columns = -(-h // by), -(-w // by)
    x = jnp.pad(x, ((0, 0), (0, rows * by - h), (0, columns * by - w), (0, 0)))
    x = x.reshape(b, rows, by, columns, by, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, rows, columns, by * by * c)


def depth_to_space(x: Float[Array, "b h w c"], by: int) -> Float[Array, "b h2 w2 c2"]:
    """Invert `space_to_depth`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, by, by, c // by**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * by, w * by, c // by**2)


class BottomUp(Module):
    """Features of an image at several sizes, each half the previous one.

    Attributes:
        widths: channels at each size, the finest first.
        blocks: number of residual blocks at each size.
        patch: side, in pixels, of the patch that makes one position at the finest size.
        remat: True to recompute the blocks in the gradient.
    """

    widths: tuple[int, ...]
    blocks: int
    patch: int
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Maps:
        """Map images "b h w c" of any size to features "b h w f" at each size."""
        h, maps = Conv(self.widths[0])(space_to_depth(x, self.patch)), []
        for size, width in enumerate(self.widths):
            h = PerPixel(width)(space_to_depth(h)) if size else h
            for _ in range(self.blocks):
                h = ResidualBlock(width, self.remat)(h)
            maps.append(h)
        return tuple(maps)
