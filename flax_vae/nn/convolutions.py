"""Convolution, upsampling and pooling that are fast on every platform, equal to `jax.lax` in value and gradient.

XLA writes the gradients of a convolution as convolutions with batch and channels swapped, or with the kernel reversed.
GPUs and TPUs run these at full speed, so nothing is changed there. On CPUs only the plain kind, images "b h w i" with a
kernel "kh kw i o", has a fast kernel; the others are slower by factors of 5 to 50 inside `lax.scan`. Both gradients
*are* plain convolutions once their operands are transposed in memory, which costs little. This module does that.

Reverse mode only: `jax.grad` and `jax.vjp` of any order, but not `jax.jvp`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]  # zeros (above, below), (left of, right of) the image
FEW_CHANNELS = 16  # a kernel with fewer output channels than a vector register has lanes leaves lanes unused
# _TAPS[p, a, u] = 1 if tap u of the kernel adds to tap a of phase p.
_TAPS = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)


def conv(x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"]) -> Float[Array, "b h w o"]:
    """Convolve at stride 1 with zeros around the image ("SAME").

    y[b, r, s, o] = sum_{u, v, i} x[b, r + u - (kh - 1) // 2, s + v - (kw - 1) // 2, i] kernel[u, v, i, o]
    """
    above, left = (kernel.shape[0] - 1) // 2, (kernel.shape[1] - 1) // 2
    return _conv(x, kernel, ((above, kernel.shape[0] - 1 - above), (left, kernel.shape[1] - 1 - left)))


def upsample_conv(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b 2*h 2*w o"]:
    """Repeat each pixel 2x2 and convolve the result, with 4/9 of the multiplications.

    Rows 2r and 2r + 1 of the doubled image are both x[r]. So the taps [w0, w1, w2] of an even row 2r meet
    x[r - 1], x[r], x[r], and those of an odd row 2r + 1 meet x[r], x[r], x[r + 1]. Taps that meet the same row add up:

        y[2r]     = w0 x[r - 1] + (w1 + w2) x[r]
        y[2r + 1] = (w0 + w1) x[r] + w2 x[r + 1]

    The same holds for columns, which makes four 2x2 kernels, one per phase (even or odd row, even or odd column). One
    convolution of the small image computes all four as output channels. It yields a value for every 2x2 window,
    including those over the edges, and an odd phase starts one window later than an even one.

    With few output channels it is cheaper to add after multiplying; see `_upsample_conv_by_taps`.
    """
    if kernel.shape[-1] <= FEW_CHANNELS // 4:
        return _upsample_conv_by_taps(x, kernel)
    b, h, w, i = x.shape
    taps = _TAPS.astype(kernel.dtype)
    # Sums of a few weights, which have to be exact where matrix products are not by default.
    phases = jnp.einsum("pau,qbv,uvio->abipqo", taps, taps, kernel, precision="highest")
    padding = ((1, 1), (1, 1))
    if x.dtype == jnp.float64:  # XLA's CPU code for it is 15 times slower with zeros on both sides of an image
        x, padding = lax.optimization_barrier(jnp.pad(x, ((0, 0), *padding, (0, 0)))), ((0, 0), (0, 0))
    y = _conv(x, phases.reshape(2, 2, i, -1), padding).reshape(b, h + 1, w + 1, 2, 2, -1)
    rows = [jnp.stack([y[:, p : p + h, q : q + w, p, q] for q in (0, 1)], axis=3) for p in (0, 1)]
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, -1)


def _upsample_conv_by_taps(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b 2*h 2*w o"]:
    """Compute `upsample_conv` as one matrix product of each pixel with all nine taps, and sums of the results."""
    b, h, w, i = x.shape
    y = (x.reshape(-1, i) @ kernel.transpose(2, 0, 1, 3).reshape(i, -1)).reshape(b, h, w, 3, -1)

    def double(y: Float[Array, "b h w 3 c"]) -> Float[Array, "b h-2 2 w c"]:
        """Apply the equations of `upsample_conv` along the rows; y[..., u, :] are the products with tap u."""
        above, here, below = y[:, :-2], y[:, 1:-1], y[:, 2:]
        even = above[..., 0, :] + here[..., 1, :] + here[..., 2, :]
        odd = here[..., 0, :] + here[..., 1, :] + below[..., 2, :]
        return jnp.stack([even, odd], 2)

    rows = double(jnp.pad(y, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))).reshape(b, 2 * h, w, 3, -1)
    columns = jnp.pad(rows.swapaxes(1, 2), ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
    return double(columns).reshape(b, 2 * w, 2 * h, -1).swapaxes(1, 2)


@jax.custom_vjp
def add_bias(x: Float[Array, "b h w c"], bias: Float[Array, " c"]) -> Float[Array, "b h w c"]:
    """Add a number to each channel.

    The gradient of the bias is a sum over all pixels. As a matrix product with ones it takes half the time that XLA's
    sums take on CPUs.
    """
    return x + bias


def _bias_gradient(_: None, g: Float[Array, "b h w c"]) -> tuple[Array, Array]:
    pixels = g.reshape(-1, g.shape[-1])
    return g, jnp.dot(jnp.ones(len(pixels), g.dtype), pixels, precision="highest")


add_bias.defvjp(lambda x, bias: (x + bias, None), _bias_gradient)


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b (h+1)//2 (w+1)//2 c"]:
    """Return the maximum of every 2x2 square of pixels; an odd last row or column is pooled by itself.

    At a tie the maxima share the gradient.
    """
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), constant_values=-jnp.inf)
    x = x.reshape(b, (h + 1) // 2, 2, (w + 1) // 2, 2, c)
    rows = jnp.maximum(x[:, :, 0], x[:, :, 1])
    return jnp.maximum(rows[:, :, :, 0], rows[:, :, :, 1])


def _plain_conv(
    x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"], padding: Padding
) -> Float[Array, "b h2 w2 o"]:
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"], padding: Padding) -> Float[Array, "b h2 w2 o"]:
    return _plain_conv(x, kernel, padding)


def _conv_forward(x, kernel, padding):
    return _plain_conv(x, kernel, padding), (x, kernel)


def _conv_backward(padding, saved, g):
    def by_xla(x, kernel, g):
        return jax.vjp(partial(_plain_conv, padding=padding), x, kernel)[1](g)

    return lax.platform_dependent(*saved, g, cpu=partial(_plain_gradients, padding), default=by_xla)


_conv.defvjp(_conv_forward, _conv_backward)


def _plain_gradients(padding, x, kernel, g):
    """Compute both gradients of `_plain_conv` as plain convolutions.

    With y[r] = sum_u x[r + u - a] k[u] along each axis, a zeros before the image and n taps:

        dx[s] = sum_u g[s + a - u] k[u]    the flipped kernel slides over g with n - 1 - a zeros before it
        dk[u] = sum_r x[r + u - a] g[r]    g slides over x with a zeros before it, or, flipped,
                                           x slides over g with n - 1 - a zeros before it

    In dx the channels i and o are swapped. In dk the sum runs over the batch, so batch and channels are swapped.
    """
    kh, kw, i, o = kernel.shape
    flipped = tuple((n - 1 - before, n - 1 - after) for n, (before, after) in zip((kh, kw), padding, strict=True))
    dx = _plain_conv(g, kernel[::-1, ::-1].transpose(0, 1, 3, 2), flipped)
    if i < min(o, FEW_CHANNELS):
        # The zeros are explicit because the fast kernel requires an image at least as large as the "kernel" g.
        images = jnp.pad(x, ((0, 0), *padding, (0, 0))).transpose(3, 1, 2, 0)
        dk = _plain_conv(images, g.transpose(1, 2, 0, 3), ((0, 0), (0, 0))).transpose(1, 2, 0, 3)
    else:
        dk = _plain_conv(g.transpose(3, 1, 2, 0), x.transpose(1, 2, 0, 3), flipped)
        dk = dk[:, ::-1, ::-1].transpose(1, 2, 3, 0)
    return dx, dk
