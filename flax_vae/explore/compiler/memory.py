"""What a graph is recorded in: arrays as views of flat memory, and instructions that read and write them.

An instruction walks over a shape, and has a view of that shape for each array that it writes or reads: where the first
element lies, and how far it is to the next along each axis. Whatever moves elements without computing anything, such as
a transpose, a broadcast or a slice, is another view of the same memory, and no instruction at all.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Value:
    """An array: its elements if they are known, else the place where they will be.

    NumPy does the arithmetic of places. Memory of what is not known yet is neither written nor read here.

    Attributes:
        memory: flat, all of it.
        view: the array in it.
        known: whether it depends on no input.
    """

    memory: np.ndarray
    view: np.ndarray
    known: bool = False

    def seen_as(self, change: Callable[[np.ndarray], np.ndarray]) -> "Value":
        """Another view of the same memory."""
        return Value(self.memory, change(self.view), self.known)

    def __getitem__(self, where: tuple[Any, ...]) -> "Value":
        """Some of it."""
        place = where if ... in where else (*where, ...)  # without the dots a single element would be no view
        return self.seen_as(lambda view: view[place])

    def to(self, shape: Shape) -> "Value":
        """It over and over, along axes in which it has one element or none."""
        return self.seen_as(lambda view: np.broadcast_to(view, shape))

    @property
    def place(self) -> list[int]:
        """Where the first element lies, and the distance to the next along each axis."""
        size = self.memory.itemsize
        offset = self.view.__array_interface__["data"][0] - self.memory.__array_interface__["data"][0]
        return [offset // size, *(stride // size for stride in self.view.strides)]


def known(array: Any) -> Value:
    """A value that is known."""
    array = np.asarray(array)
    memory = np.ascontiguousarray(array).reshape(-1)
    return Value(memory, memory.reshape(array.shape), True)


def unknown(shape: Shape) -> Value:
    """Memory for a value that is not known yet. Engines have one type, float32, also for integers and booleans."""
    memory = np.empty(int(np.prod(shape)), np.float32)
    return Value(memory, memory.reshape(shape))


def distinct(view: np.ndarray) -> np.ndarray:
    """The view without its repetitions: one element along each axis that is broadcast."""
    return view[(*(slice(0, 1) if stride == 0 else slice(None) for stride in view.strides), ...)]


def weight(value: Value) -> Value:
    """A known value as it is stored: no more of its memory than what is looked at."""
    some = distinct(value.view)
    if some.size >= value.memory.size:
        return value
    return known(some).to(value.view.shape)


@dataclass
class Instruction:
    """One step of a graph.

    Attributes:
        op: an elementwise operation; "dot", which adds products up; "move", a copy between places that indices say; or
            "repeat" or "while" with a `body`.
        values: what is written and what is read, in views of one shape.
        indices: of "move", (0 for the place written or 1 for the one read, distance, largest index, where it is).
        outer: of "move", how many axes lead for which each index is looked up.
        body: of a loop.
        count: of "repeat".
        test: of "while", the instructions that compute whether to go on; `values` is what they find.
    """

    op: str
    values: list[Value] = field(default_factory=list)
    indices: list[tuple[int, int, int, Value]] = field(default_factory=list)
    outer: int = 0
    body: list["Instruction"] = field(default_factory=list)
    count: int = 0
    test: list["Instruction"] = field(default_factory=list)

    def written(self) -> set[int]:
        """Identities of the memory that is written."""
        if self.body:
            return {each for inner in self.test + self.body for each in inner.written()}
        return {id(self.values[0].memory)}

    def read(self) -> set[int]:
        """Identities of the memory that is read."""
        inner = {each for step in self.test + self.body for each in step.read()}
        of_indices = {id(index.memory) for *_, index in self.indices}
        return inner | of_indices | {id(value.memory) for value in self.values}


class Recorder:
    """The instructions of a graph, in order."""

    def __init__(self) -> None:
        """Begin without any."""
        self.code: list[Instruction] = []

    def emit(self, op: str, out: Value, *ins: Value, **more: Any) -> Value:
        """Record that `out` is the operation of `ins`, which are broadcast to its shape."""
        shape = out.view.shape
        if 0 not in shape:
            self.code.append(Instruction(op, [out, *(each.to(shape) for each in ins)], **more))
        return out

    def compute(self, op: str, shape: Shape, *ins: Value) -> Value:
        """Record an elementwise operation into memory of its own."""
        return self.emit(op, unknown(shape), *ins)

    def copy(self, value: Value) -> Value:
        """The value in memory of its own, without gaps."""
        return self.compute("copy", value.view.shape, value)

    def inside(self, record: Callable[[], Any]) -> tuple[list[Instruction], Any]:
        """The instructions of a function that records some, and what it returns."""
        outside, self.code = self.code, []
        found = record()
        inner, self.code = self.code, outside
        return inner, found


def live(code: list[Instruction], needed: set[int]) -> list[Instruction]:
    """Those instructions on which memory that is needed depends; `needed` grows by what they read."""
    kept = []
    for step in reversed(code):
        if step.written() & needed:
            needed |= step.read()
            kept.append(step)
    return kept[::-1]


def loops(values: list[Value]) -> tuple[list[int], list[list[int]]]:
    """The loops over views of one shape, as few as there can be: the shape, outermost first, and each view's place."""
    places = [value.place for value in values]
    axes: list[tuple[int, list[int]]] = []  # size, and the distance in each view
    for axis, size in enumerate(values[0].view.shape):
        steps = [place[1 + axis] for place in places]
        if axes and all(outer == inner * size for outer, inner in zip(axes[-1][1], steps, strict=True)):
            axes[-1] = (axes[-1][0] * size, steps)
        elif size > 1:
            axes.append((size, steps))
    strides = [[steps[number] for _, steps in axes] for number in range(len(values))]
    return [size for size, _ in axes], [[place[0], *stride] for place, stride in zip(places, strides, strict=True)]
