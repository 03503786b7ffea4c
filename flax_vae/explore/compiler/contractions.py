"""Sums of products as one instruction: `dot_general`, and convolutions as products with a view of windows."""

import numpy as np
from jax.extend.core import JaxprEqn

from flax_vae.explore.compiler.memory import Recorder, Value, allocate, constant
from flax_vae.explore.compiler.primitives import Rule, padded, refuse, reshape


def _contract(record: Recorder, a: Value, b: Value, batch: int, sums: int) -> Value:
    """Compute out[t, i, j] = Σ_k a[t, i, k] b[t, j, k], where each of t, i, j and k is any number of axes.

    Args:
        record: the recorder.
        a, b: the factors.
        batch: the number of axes of t.
        sums: the number of axes of k.
    """
    rows, columns = a.view.ndim - batch - sums, b.view.ndim - batch - sums
    lead, summed = a.view.shape[: batch + rows], a.view.shape[batch + rows :]
    out = allocate(lead + b.view.shape[batch : batch + columns])
    shape = out.view.shape + summed
    repeated = out.view_as(lambda view: view.reshape(view.shape + (1,) * sums)).broadcast_to(shape)
    rows_of_a = a.view_as(lambda view: np.expand_dims(view, tuple(range(batch + rows, batch + rows + columns))))
    columns_of_b = b.view_as(lambda view: np.expand_dims(view, tuple(range(batch, batch + rows))))
    record.emit("dot", repeated, rows_of_a, columns_of_b)
    return out


def _dot(record: Recorder, equation: JaxprEqn, a: Value, b: Value) -> Value:
    (sums_a, sums_b), (batch_a, batch_b) = equation.params["dimension_numbers"]

    def ordered(x: Value, batch: tuple[int, ...], sums: tuple[int, ...]) -> Value:
        free = [axis for axis in range(x.view.ndim) if axis not in (*batch, *sums)]
        return x.view_as(lambda view: view.transpose([*batch, *free, *sums]))

    return _contract(record, ordered(a, batch_a, sums_a), ordered(b, batch_b, sums_b), len(batch_a), len(sums_a))


def _convolution(record: Recorder, equation: JaxprEqn, x: Value, kernel: Value) -> Value:
    """Multiply the kernel with each window of the image; windows are a view of the padded image that repeats pixels."""
    params = equation.params
    if params["batch_group_count"] != 1:
        raise refuse(equation, " with groups of the batch")
    x_axes, kernel_axes, out_axes = params["dimension_numbers"]
    groups, space = params["feature_group_count"], len(x_axes) - 2
    x = x.view_as(lambda view: view.transpose(x_axes[0], *x_axes[2:], x_axes[1]))  # n, space, channels
    kernel = kernel.view_as(lambda view: view.transpose(kernel_axes[0], *kernel_axes[2:], kernel_axes[1]))
    around = [(*map(int, sides), by - 1) for sides, by in zip(params["padding"], params["lhs_dilation"], strict=True)]
    x = padded(record, x, constant(0.0), ((0, 0, 0), *around, (0, 0, 0)))
    steps, apart, sides = params["window_strides"], params["rhs_dilation"], kernel.view.shape[1:-1]
    reach = [(side - 1) * by + 1 for side, by in zip(sides, apart, strict=True)]
    axes = tuple(range(1, 1 + space))

    def windows(view: np.ndarray) -> np.ndarray:
        """Return the windows: groups, n, space, sides of the window, channels."""
        dense = np.lib.stride_tricks.sliding_window_view(view, tuple(reach), axes)
        strided = dense[(slice(None), *(slice(None, None, step) for step in steps), slice(None),
                         *(slice(None, None, by) for by in apart))]  # fmt: skip
        channels_last = np.moveaxis(strided, 1 + space, -1)  # n, space, sides of the window, channels
        return np.moveaxis(channels_last.reshape(*channels_last.shape[:-1], groups, -1, copy=False), -2, 0)

    by_group = kernel.view_as(lambda view: view.reshape(groups, -1, *view.shape[1:], copy=False))
    out = _contract(record, x.view_as(windows), by_group, 1, space + 1)
    out = out.view_as(lambda view: np.moveaxis(view, 0, -2))
    out = reshape(record, out, (*out.view.shape[:-2], out.view.shape[-2] * out.view.shape[-1]))
    order = np.argsort([out_axes[0], *out_axes[2:], out_axes[1]])
    return out.view_as(lambda view: view.transpose(order))


CONTRACTIONS: dict[str, Rule] = {"conv_general_dilated": _convolution, "dot_general": _dot}
