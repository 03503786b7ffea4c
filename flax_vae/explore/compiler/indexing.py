"""Dynamic slices, gathers and scatters, as copies whose offset the engine looks up.

Out-of-range indices are clamped, as in XLA's slices.
"""

import numpy as np
from jax.extend.core import JaxprEqn

from flax_vae.explore.compiler.memory import Recorder, Value, unknown
from flax_vae.explore.compiler.primitives import Rule, shape_of

Indices = list[tuple[int, int, int, Value]]
_WRITTEN, _READ = 0, 1


def _index(side: int, whole: Value, axis: int, size: int, index: Value) -> tuple[int, int, int, Value]:
    """Return the index of a slice of `size` along an axis."""
    return side, whole.place[1 + axis], whole.view.shape[axis] - size, index


def _slice_at(side: int, whole: Value, sizes: tuple[int, ...], starts: tuple[Value, ...]) -> tuple[Value, Indices]:
    """Return the slice at index 0 and the indices that shift it; constant indices are applied here."""
    places, indices = [], []
    for axis, (size, start) in enumerate(zip(sizes, starts, strict=True)):
        begin = int(np.clip(start.view, 0, whole.view.shape[axis] - size)) if start.known else 0
        places.append(slice(begin, begin + size))
        if not start.known:
            indices.append(_index(side, whole, axis, size, start))
    return whole[tuple(places)], indices


def _dynamic_slice(record: Recorder, equation: JaxprEqn, x: Value, *starts: Value) -> Value:
    part, indices = _slice_at(_READ, x, equation.params["slice_sizes"], starts)
    return record.emit("move", unknown(part.view.shape), part, indices=indices) if indices else part


def _dynamic_update_slice(record: Recorder, equation: JaxprEqn, x: Value, update: Value, *starts: Value) -> Value:
    out = record.copy(x)
    part, indices = _slice_at(_WRITTEN, out, update.view.shape, starts)
    record.emit("move" if indices else "copy", part, update, indices=indices)
    return out


def _slices(
    side: int,
    whole: Value,
    indices: Value,
    sizes: tuple[int, ...],
    vanishing: tuple[int, ...],
    batch: tuple[tuple[int, ...], tuple[int, ...]],
    axes: tuple[int, ...],
) -> tuple[Value, Indices]:
    """Return the slices of an array at indices "... i": the axes "..." first, then those of a slice.

    Args:
        side: whether the slices are written or read.
        whole: the array.
        indices: the start indices; the last axis corresponds to `axes`.
        sizes: of a slice.
        vanishing: axes of size 1 that are removed from a slice.
        batch: batching axes of the array, and the corresponding axes of the indices.
        axes: the axes of the array that are indexed.
    """
    lead = indices.view.shape[:-1]
    ours, theirs = batch
    inner = [axis for axis in range(whole.view.ndim) if axis not in (*vanishing, *ours)]

    def leading(view: np.ndarray) -> np.ndarray:
        first = view[tuple(slice(None) if axis in ours else slice(size) for axis, size in enumerate(sizes))]
        first = first.transpose(*ours, *inner, *vanishing)
        first = first.reshape(first.shape[: len(ours) + len(inner)], copy=False)
        first = first.transpose(*np.argsort(theirs).astype(int), *range(len(ours), first.ndim))
        missing = tuple(axis for axis in range(len(lead)) if axis not in theirs)
        return np.broadcast_to(np.expand_dims(first, missing), lead + first.shape[len(ours) :])

    found = [_index(side, whole, axis, sizes[axis], indices[..., number]) for number, axis in enumerate(axes)]
    return whole.seen_as(leading), found


def _gather(record: Recorder, equation: JaxprEqn, x: Value, indices: Value) -> Value:
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    part, found = _slices(
        _READ, x, indices, sizes, numbers.collapsed_slice_dims,
        (numbers.operand_batching_dims, numbers.start_indices_batching_dims), numbers.start_index_map,
    )  # fmt: skip
    out = unknown(shape_of(equation))
    lead = [axis for axis in range(out.view.ndim) if axis not in numbers.offset_dims]
    target = out.seen_as(lambda view: view.transpose([*lead, *numbers.offset_dims]))
    record.emit("move", target, part, indices=found, outer=len(lead))
    return out


def _scatter(record: Recorder, equation: JaxprEqn, x: Value, indices: Value, updates: Value) -> Value:
    numbers = equation.params["dimension_numbers"]
    vanishing, ours = numbers.inserted_window_dims, numbers.operand_batching_dims
    window = iter(numbers.update_window_dims)
    gone = (*vanishing, *ours)
    sizes = tuple(1 if axis in gone else updates.view.shape[next(window)] for axis in range(x.view.ndim))
    out = record.copy(x)
    part, found = _slices(
        _WRITTEN, out, indices, sizes, vanishing,
        (ours, numbers.scatter_indices_batching_dims), numbers.scatter_dims_to_operand_dims,
    )  # fmt: skip
    lead = [axis for axis in range(updates.view.ndim) if axis not in numbers.update_window_dims]
    source = updates.seen_as(lambda view: view.transpose([*lead, *numbers.update_window_dims]))
    record.emit("move", part, source, indices=found, outer=len(lead))
    return out


INDEXING: dict[str, Rule] = {
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    "scatter": _scatter,
}
