"""Dynamic slices, gathers and scatters, as copies whose offset the engine looks up.

Out-of-range indices are clamped, as in XLA's slices.
"""

from typing import NamedTuple

import numpy as np
from jax.extend.core import JaxprEqn

from flax_vae.explore.compiler.memory import Recorder, Value, allocate
from flax_vae.explore.compiler.primitives import Rule, shape_of

Indices = list[tuple[int, int, int, Value]]
_WRITTEN, _READ = 0, 1


class _Axes(NamedTuple):
    """The roles of axes in a gather or scatter.

    Attributes:
        removed: axes of size 1 that are removed from a slice.
        batch: batching axes of the array.
        batch_of_indices: the corresponding axes of the indices.
        indexed: the axes of the array that are indexed.
    """

    removed: tuple[int, ...]
    batch: tuple[int, ...]
    batch_of_indices: tuple[int, ...]
    indexed: tuple[int, ...]


def _index(side: int, array: Value, axis: int, size: int, index: Value) -> tuple[int, int, int, Value]:
    """Return the index of a slice of `size` along an axis."""
    return side, array.place[1 + axis], array.view.shape[axis] - size, index


def _slice_at(side: int, array: Value, sizes: tuple[int, ...], starts: tuple[Value, ...]) -> tuple[Value, Indices]:
    """Return the slice at index 0 and the indices that shift it; constant indices are applied here."""
    places, indices = [], []
    for axis, (size, start) in enumerate(zip(sizes, starts, strict=True)):
        begin = int(np.clip(start.view, 0, array.view.shape[axis] - size)) if start.is_constant else 0
        places.append(slice(begin, begin + size))
        if not start.is_constant:
            indices.append(_index(side, array, axis, size, start))
    return array[tuple(places)], indices


def _dynamic_slice(record: Recorder, equation: JaxprEqn, x: Value, *starts: Value) -> Value:
    part, indices = _slice_at(_READ, x, equation.params["slice_sizes"], starts)
    return record.emit("move", allocate(part.view.shape), part, indices=indices) if indices else part


def _dynamic_update_slice(record: Recorder, equation: JaxprEqn, x: Value, update: Value, *starts: Value) -> Value:
    out = record.copy(x)
    part, indices = _slice_at(_WRITTEN, out, update.view.shape, starts)
    record.emit("move" if indices else "copy", part, update, indices=indices)
    return out


def _slices(side: int, array: Value, indices: Value, sizes: tuple[int, ...], axes: _Axes) -> tuple[Value, Indices]:
    """Return the slices of an array at indices "... i": the axes "..." first, then those of a slice.

    Args:
        side: whether the slices are written or read.
        array: the array to index.
        indices: the start indices; the last axis corresponds to `axes.indexed`.
        sizes: of a slice.
        axes: the roles of the axes.
    """
    lead, ours, theirs = indices.view.shape[:-1], axes.batch, axes.batch_of_indices
    inner = [axis for axis in range(array.view.ndim) if axis not in (*axes.removed, *ours)]

    def leading(view: np.ndarray) -> np.ndarray:
        first = view[tuple(slice(None) if axis in ours else slice(size) for axis, size in enumerate(sizes))]
        first = first.transpose(*ours, *inner, *axes.removed)
        first = first.reshape(first.shape[: len(ours) + len(inner)], copy=False)
        first = first.transpose(*np.argsort(theirs).astype(int), *range(len(ours), first.ndim))
        missing = tuple(axis for axis in range(len(lead)) if axis not in theirs)
        return np.broadcast_to(np.expand_dims(first, missing), lead + first.shape[len(ours) :])

    shifts = [_index(side, array, axis, sizes[axis], indices[..., number]) for number, axis in enumerate(axes.indexed)]
    return array.view_as(leading), shifts


def _gather(record: Recorder, equation: JaxprEqn, x: Value, indices: Value) -> Value:
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    batch = numbers.operand_batching_dims, numbers.start_indices_batching_dims
    axes = _Axes(numbers.collapsed_slice_dims, *batch, numbers.start_index_map)
    part, shifts = _slices(_READ, x, indices, sizes, axes)
    out = allocate(shape_of(equation))
    lead = [axis for axis in range(out.view.ndim) if axis not in numbers.offset_dims]
    target = out.view_as(lambda view: view.transpose([*lead, *numbers.offset_dims]))
    record.emit("move", target, part, indices=shifts, outer=len(lead))
    return out


def _scatter(record: Recorder, equation: JaxprEqn, x: Value, indices: Value, updates: Value) -> Value:
    numbers = equation.params["dimension_numbers"]
    batch = numbers.operand_batching_dims, numbers.scatter_indices_batching_dims
    axes = _Axes(numbers.inserted_window_dims, *batch, numbers.scatter_dims_to_operand_dims)
    window, single = iter(numbers.update_window_dims), (*axes.removed, *axes.batch)
    sizes = tuple(1 if axis in single else updates.view.shape[next(window)] for axis in range(x.view.ndim))
    out = record.copy(x)
    part, shifts = _slices(_WRITTEN, out, indices, sizes, axes)
    lead = [axis for axis in range(updates.view.ndim) if axis not in numbers.update_window_dims]
    source = updates.view_as(lambda view: view.transpose([*lead, *numbers.update_window_dims]))
    record.emit("move", part, source, indices=shifts, outer=len(lead))
    return out


INDEXING: dict[str, Rule] = {
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    "scatter": _scatter,
}
