"""The representation of a graph: arrays as views of flat memory, and instructions on them.

An instruction iterates over a shape, with a view of that shape for each array that it writes or reads: the offset of
the first element and the stride along each axis. An operation that only moves elements, such as a transpose, a
broadcast or a slice, is another view of the same memory and takes no instruction.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Value:
    """An array: its elements if it is a constant, else the place where they will be stored.

    NumPy computes the offsets and strides. The memory of a value that is not constant is a placeholder, never accessed.

    Attributes:
        memory: the flat memory.
        view: the array, a view of the memory.
        is_constant: whether the value is a constant, independent of all inputs.
    """

    memory: np.ndarray
    view: np.ndarray
    is_constant: bool = False

    def view_as(self, change: Callable[[np.ndarray], np.ndarray]) -> "Value":
        """Return another view of the same memory."""
        return Value(self.memory, change(self.view), self.is_constant)

    def __getitem__(self, where: tuple[Any, ...]) -> "Value":
        """Return a slice, as a view."""
        place = where if ... in where else (*where, ...)  # without the ellipsis a single element would not be a view
        return self.view_as(lambda view: view[place])

    def broadcast_to(self, shape: Shape) -> "Value":
        """Broadcast to a shape."""
        return self.view_as(lambda view: np.broadcast_to(view, shape))

    @property
    def place(self) -> list[int]:
        """The offset of the first element, and the stride along each axis, in elements."""
        size = self.memory.itemsize
        offset = self.view.__array_interface__["data"][0] - self.memory.__array_interface__["data"][0]
        return [offset // size, *(stride // size for stride in self.view.strides)]


def constant(array: Any) -> Value:
    """Return the constant with the elements of an array."""
    array = np.asarray(array)
    memory = np.ascontiguousarray(array).reshape(-1)
    return Value(memory, memory.reshape(array.shape), True)


def allocate(shape: Shape) -> Value:
    """Allocate a value that is computed at run time; float32 also represents integers and booleans there."""
    memory = np.empty(int(np.prod(shape)), np.float32)
    return Value(memory, memory.reshape(shape))


def weight(value: Value) -> Value:
    """Return a constant reduced to the part of its memory that is viewed: one element along each broadcast axis."""
    viewed = value.view[(*(slice(0, 1) if stride == 0 else slice(None) for stride in value.view.strides), ...)]
    if viewed.size >= value.memory.size:
        return value
    return constant(viewed).broadcast_to(value.view.shape)


@dataclass
class Instruction:
    """One step of a graph.

    Attributes:
        op: an elementwise operation; "dot", a sum of products; "move", a copy with offsets given by indices; or
            "repeat" or "while" with a `body`.
        values: the value written and the values read, as views of one shape.
        indices: of "move", (0 for the value written or 1 for the value read, stride, largest index, the index).
        outer: of "move", the number of leading axes; each index is read once per element of them.
        body: of a loop, its instructions.
        count: of "repeat", the number of iterations.
        test: of "while", the instructions that compute the flag in `values`; the loop continues while it is not 0.
    """

    op: str
    values: list[Value] = field(default_factory=list)
    indices: list[tuple[int, int, int, Value]] = field(default_factory=list)
    outer: int = 0
    body: list["Instruction"] = field(default_factory=list)
    count: int = 0
    test: list["Instruction"] = field(default_factory=list)

    def written(self) -> set[int]:
        """Return the ids of the memory written."""
        if self.body:
            return {memory for step in self.test + self.body for memory in step.written()}
        return {id(self.values[0].memory)}

    def read(self) -> set[int]:
        """Return the ids of the memory read."""
        inner = {memory for step in self.test + self.body for memory in step.read()}
        of_indices = {id(index.memory) for *_, index in self.indices}
        return inner | of_indices | {id(value.memory) for value in self.values}


class Recorder:
    """Record the instructions of a graph, in order."""

    def __init__(self) -> None:
        """Start without instructions."""
        self.code: list[Instruction] = []

    def emit(self, op: str, out: Value, *ins: Value, **more: Any) -> Value:
        """Record the operation `op` from `ins`, which are broadcast to the shape of `out`, into `out`; return `out`."""
        shape = out.view.shape
        if 0 not in shape:
            self.code.append(Instruction(op, [out, *(value.broadcast_to(shape) for value in ins)], **more))
        return out

    def compute(self, op: str, shape: Shape, *ins: Value) -> Value:
        """Record an elementwise operation into new memory."""
        return self.emit(op, allocate(shape), *ins)

    def copy(self, value: Value) -> Value:
        """Record a contiguous copy of the value."""
        return self.compute("copy", value.view.shape, value)

    def inside(self, record: Callable[[], None]) -> list[Instruction]:
        """Call a function that records instructions, and return these separately."""
        outside, self.code = self.code, []
        record()
        inner, self.code = self.code, outside
        return inner


def live(code: list[Instruction], results: Iterable[Value]) -> list[Instruction]:
    """Eliminate dead code: return the instructions that the results depend on."""
    kept, needed = [], {id(value.memory) for value in results}
    for step in reversed(code):
        if step.written() & needed:
            needed |= step.read()
            kept.append(step)
    return kept[::-1]


def loops(values: list[Value]) -> tuple[list[int], list[list[int]]]:
    """Merge the axes of views of one shape: return the fewest loops, outermost first, and each view's place."""
    places = [value.place for value in values]
    axes: list[tuple[int, list[int]]] = []  # size, and the stride in each view
    for axis, size in enumerate(values[0].view.shape):
        steps = [place[1 + axis] for place in places]
        if axes and all(outer == inner * size for outer, inner in zip(axes[-1][1], steps, strict=True)):
            axes[-1] = (axes[-1][0] * size, steps)
        elif size > 1:
            axes.append((size, steps))
    strides = [[steps[number] for _, steps in axes] for number in range(len(values))]
    return [size for size, _ in axes], [[place[0], *stride] for place, stride in zip(places, strides, strict=True)]
