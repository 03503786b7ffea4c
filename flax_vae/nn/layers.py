"""Linen layers that models share; they know shapes, not densities."""

from math import prod
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.nn import convolutions

ImageShape = tuple[int, int, int]
Maps = tuple[Float[Array, "b _h _w _f"], ...]  # features of an image at each size, the finest first
OutputBias = float | tuple[float, ...]
# Its gradient works out the sigmoid again: on CPUs that is sooner done than reading one back that was kept.
silu = jax.checkpoint(nn.silu)


def bias_init(value: OutputBias, image_shape: ImageShape) -> nn.initializers.Initializer:
    """Initialiser of the last bias: `value`, one number or one for each channel, on every pixel.

    A decoder that starts at the average image need not spend its first steps on darkening every pixel alike: from a
    bias of 0 a Bernoulli decoder says 0.5 everywhere, where the mean pixel of Fashion-MNIST is 0.286.
    """

    def bias(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jnp.broadcast_to(jnp.asarray(value, dtype), (prod(shape) // image_shape[-1], image_shape[-1])).reshape(
            shape
        )

    return bias


def _glorot_uniform(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Float[Array, "kh kw i o"]:
    """U(-a, a) with a² = 6 / (fan_in + fan_out) (Glorot & Bengio 2010)."""
    # Drawn flat: XLA compiles that four times sooner than a draw with four axes.
    height, width, inputs, outputs = shape
    limit = (6 / (height * width * (inputs + outputs))) ** 0.5
    return jax.random.uniform(key, (prod(shape),), dtype, -limit, limit).reshape(shape)


def wide(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """In float32 at least, for sums and densities."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def dense(features: int, **kwargs: Any) -> nn.Dense:
    """A dense layer that starts as Glorot & Bengio (2010) have it."""
    return nn.Dense(features, kernel_init=nn.initializers.glorot_uniform(), **kwargs)


def _with_bias(x: Float[Array, "b h w c"], bias: Float[Array, " c"]) -> Float[Array, "b h w c"]:
    """x + bias in float32 at least: the gradient of the bias is a sum over all pixels, which bfloat16 would lose."""
    return convolutions.add_bias(wide(x), wide(bias))


class Conv(nn.Module):
    """3x3 convolution, stride 1, zero padding; with `upsample` the input is first doubled by nearest neighbours.

    At stride 1 a transposed convolution is the same function (its kernel is merely stored flipped), so this layer is
    also the tutorial's `Conv2DTranspose`.
    """

    features: int
    upsample: bool = False
    kernel_init: nn.initializers.Initializer = _glorot_uniform
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b oh ow o"]:
        """Images "b h w i" -> "b h w o", or "b 2h 2w o" with `upsample`."""
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", self.bias_init, (self.features,))
        convolve = convolutions.upsample_conv if self.upsample else convolutions.conv
        return _with_bias(convolve(x, kernel), bias).astype(x.dtype)


class PerPixel(nn.Module):
    """A dense layer on the channels of every pixel: a 1x1 convolution."""

    features: int
    kernel_init: nn.initializers.Initializer = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Images "b h w i" -> "b h w o"."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return _with_bias(x @ kernel.astype(x.dtype), bias).astype(x.dtype)


class ResidualBlock(nn.Module):
    """x + f(x) with f twice SiLU and a convolution, the last from 0: the block starts as the identity (He et al. 2016).

    No layer normalises: networks of a few dozen blocks train without (Kuzina & Tomczak 2024), and on CPUs normalising
    takes as long as a convolution. Where the number of channels changes, x gets there by a 1x1 convolution.

    Attributes:
        features: channels of the output.
        remat: whether its gradient works out again what is within, from x alone, instead of reading what was kept.
    """

    features: int
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Images "b h w i" -> "b h w o"."""
        return (nn.remat(ResidualBlock._compute) if self.remat else ResidualBlock._compute)(self, x)

    def _compute(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        h = Conv(self.features)(silu(x))
        h = Conv(self.features, kernel_init=nn.initializers.zeros)(silu(h))
        return h + (x if x.shape == h.shape else dense(self.features, use_bias=False)(x))


def halved(x: Float[Array, "b h w c"], by: int = 2) -> Float[Array, "b h2 w2 c2"]:
    """Squares of `by` x `by` pixels as the channels of one; an odd image is first made whole by zeros."""
    b, h, w, c = x.shape
    rows, columns = -(-h // by), -(-w // by)
    x = jnp.pad(x, ((0, 0), (0, rows * by - h), (0, columns * by - w), (0, 0)))
    x = x.reshape(b, rows, by, columns, by, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, rows, columns, by * by * c)


def depth_to_space(x: Float[Array, "b h w c"], by: int) -> Float[Array, "b h2 w2 c2"]:
    """The inverse of `halved`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, by, by, c // by**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * by, w * by, c // by**2)


class BottomUp(nn.Module):
    """Features of an image at one size after another, each half the one before.

    Attributes:
        widths: channels at each size, the finest first.
        blocks: residual blocks at each size.
        patch: side in pixels of what is one position at the finest size.
        remat: of the blocks.
    """

    widths: tuple[int, ...]
    blocks: int
    patch: int
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Maps:
        """Images "b h w c" of any size -> features "b h w f" of each size."""
        h, maps = Conv(self.widths[0])(halved(x, self.patch)), []
        for size, width in enumerate(self.widths):
            h = PerPixel(width)(halved(h)) if size else h
            for _ in range(self.blocks):
                h = ResidualBlock(width, self.remat)(h)
            maps.append(h)
        return tuple(maps)
