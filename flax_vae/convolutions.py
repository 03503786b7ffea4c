"""Convolution and pooling by the fastest route for the platform: the same functions as `jax.lax`, values and gradients.

GPUs and TPUs run their native convolutions. On the CPU XLA's convolution falls to a naive kernel inside `lax.scan` and
`lax.while_loop`, while its matrix product keeps its speed there: so on the CPU a convolution is the product of the
image's patches with the kernel. `lax.platform_dependent` chooses when a function is lowered, and only the chosen
branch is compiled.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


@jax.custom_vjp
def conv(x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"]) -> Float[Array, "b h w o"]:
    """Convolve images with a kernel: stride 1, zeros around the image ("SAME")."""
    return lax.platform_dependent(x, kernel, cpu=_matmul_conv, default=_native_conv)


def _conv_forward(x, kernel):
    return conv(x, kernel), (x, kernel)


def _conv_backward(saved, g):
    return lax.platform_dependent(*saved, g, cpu=_matmul_conv_backward, default=_native_conv_backward)


conv.defvjp(_conv_forward, _conv_backward)


def upsample_conv(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b 2*h 2*w o"]:
    """Double the image by repeating each pixel 2x2, then convolve it."""
    return conv(x.repeat(2, 1).repeat(2, 2), kernel)


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b (h+1)//2 (w+1)//2 c"]:
    """Take the largest of every 2x2 pixels; an odd last row or column stands alone."""
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), constant_values=-jnp.inf)
    x = x.reshape(b, (h + 1) // 2, 2, (w + 1) // 2, 2, c)
    rows = jnp.maximum(x[:, :, 0], x[:, :, 1])
    return jnp.maximum(rows[:, :, :, 0], rows[:, :, :, 1])


def _native_conv(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _native_conv_backward(x, kernel, g):
    return jax.vjp(_native_conv, x, kernel)[1](g)


def _patches(x, kh, kw, before):
    """Gather what the kernel sees at every pixel: "b h w c" -> "b*h*w kh*kw*c"."""
    b, h, w, c = x.shape
    top, left = before
    x = jnp.pad(x, ((0, 0), (top, kh - 1 - top), (left, kw - 1 - left), (0, 0)))
    slices = [x[:, i : i + h, j : j + w] for i in range(kh) for j in range(kw)]
    return jnp.concatenate(slices, -1).reshape(b * h * w, kh * kw * c)


def _matmul_conv(x, kernel):
    kh, kw, _, o = kernel.shape
    y = _patches(x, kh, kw, ((kh - 1) // 2, (kw - 1) // 2)) @ kernel.reshape(-1, o)
    return y.reshape(*x.shape[:3], o)


def _matmul_conv_backward(x, kernel, g):
    kh, kw, i, o = kernel.shape
    d_kernel = _patches(x, kh, kw, ((kh - 1) // 2, (kw - 1) // 2)).T @ g.reshape(-1, o)
    flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2).reshape(-1, i)
    d_x = _patches(g, kh, kw, (kh // 2, kw // 2)) @ flipped
    return d_x.reshape(x.shape), d_kernel.reshape(kernel.shape)
