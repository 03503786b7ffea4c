"""Compile a JAX function to a graph for another engine: instructions as JSON, and constants.

The function is traced at static shapes. Calls are inlined, constants are folded, and dead code is eliminated.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jaxtyping import Float

from flax_vae.explore.compiler.contractions import CONTRACTIONS
from flax_vae.explore.compiler.indexing import INDEXING
from flax_vae.explore.compiler.memory import Instruction, Recorder, Value, allocate, constant, live, loops, weight
from flax_vae.explore.compiler.primitives import ELEMENTWISE, RULES, VIEWS, Rule, refuse
from flax_vae.jaxprs import Scan, While, apply, interpret, needed, read_scan, read_while

Graph = dict[str, Any]
Weights = list[Float[np.ndarray, " _"]]
_COMPUTING: dict[str, Rule] = RULES | CONTRACTIONS | INDEXING
_POINTWISE = {*ELEMENTWISE, "clamp", "convert_element_type", "integer_pow", "one_minus_square", "select_n", "square"}


def graph(function: Callable[..., Any], *examples: Any) -> tuple[Graph, Weights]:
    """Compile a function to a graph and its weights.

    A graph lists its memory and the instructions on it:

        memories    {size} of a memory to write, {weight} with the index of a weight to read
        inputs      [memory, shape] of each input
        outputs     [memory, shape] of each output
        code        instructions

    An instruction is one of

        {op, shape, places}                    out[i] = op(in[i], ...) for each index i; "dot": out[i] += in[i] in'[i]
        {op: "move", ..., outer, indices}      out[i] = in[i], with places shifted by indices, which are read for each
                                               element of the first `outer` axes: [which place, stride, largest index,
                                               place of the index]
        {op: "repeat", count, code}            run the code `count` times
        {op: "while", flag, test, code}        run the code while the test sets the flag to a value other than 0

    A place is [memory, offset, stride along each axis]; the place that is written comes first. If it is also read, its
    elements repeat and the order matters: the last axis is the innermost loop.

    Args:
        function: maps arrays to arrays.
        examples: arrays of the inputs' shapes.

    Raises:
        UserError: the function computes something that the engine does not support.
    """
    with jax.default_device(jax.local_devices(backend="cpu")[0]):  # other devices may round products
        closed = needed(jax.make_jaxpr(function)(*examples))
        tracer = _Tracer()
        ins = [allocate(aval.shape) for aval in closed.in_avals]
        outs = [tracer.copy(value) for value in tracer.walk(closed, ins)]
    writer = _Writer()
    code = [writer.instruction(step) for step in live(tracer.code, outs)]
    inputs, outputs = ([[writer.memory(value), list(value.view.shape)] for value in values] for values in (ins, outs))
    return {"memories": writer.memories, "inputs": inputs, "outputs": outputs, "code": code}, writer.weights


class _Tracer(Recorder):
    """Record the equations of jaxprs."""

    def walk(self, jaxpr: ClosedJaxpr | Jaxpr, ins: Sequence[Value]) -> list[Value]:
        """Record a jaxpr's equations and return its outputs."""
        return interpret(jaxpr, ins, constant, self._equation)

    def _equation(self, equation: JaxprEqn, ins: list[Value]) -> list[Value]:
        name = equation.primitive.name
        if name == "platform_index":
            platforms = equation.params["platforms"]  # the branch for CPUs, or the default
            return [constant(next(i for i, names in enumerate(platforms) if names is None or "cpu" in names))]
        if name == "cond" and ins[0].is_constant:
            branches = equation.params["branches"]
            return self.walk(branches[int(np.clip(ins[0].view, 0, len(branches) - 1))], ins[1:])
        if name in VIEWS:
            views = VIEWS[name](self, equation, *ins)
            return views if isinstance(views, list) else [views]
        if all(value.is_constant for value in ins):
            return _evaluate(equation, ins)
        if name == "scan":
            return self._scan(read_scan(equation), ins)
        if name == "while":
            return self._while(read_while(equation), ins)
        if name not in _COMPUTING or not _is_real(equation):
            raise refuse(equation)
        return [_COMPUTING[name](self, equation, *ins)]

    def _scan(self, loop: Scan, ins: list[Value]) -> list[Value]:
        consts, others = ins[: loop.consts], ins[loop.consts :]
        carry, xs = list(map(self.copy, others[: loop.carry])), others[loop.carry :]
        ys = [allocate((loop.length, *aval.shape)) for aval in loop.body.out_avals[loop.carry :]]
        step = self.copy(constant(0.0))

        def at_step(side: int, stacked: Value) -> tuple[Value, dict[str, Any]]:
            """Return the element at index 0, and the index that shifts it to the current step."""
            ordered = stacked[(slice(None, None, -1),)] if loop.reverse else stacked
            return ordered[(0,)], {"indices": [(side, ordered.place[1], loop.length - 1, step)]}

        def once() -> None:
            elements = []
            for x in xs:
                element, indices = at_step(1, x)
                elements.append(self.emit("move", allocate(element.view.shape), element, **indices))
            results = self.walk(loop.body, [*consts, *carry, *elements])
            for y, result in zip(ys, results[len(carry) :], strict=True):
                element, indices = at_step(0, y)
                self.emit("move", element, result, **indices)
            self._replace(carry, results[: len(carry)])
            self.emit("add", step, step, constant(1.0))

        body = live(self.inside(once), (*carry, *ys, step))
        self.code.append(Instruction("repeat", body=body, count=loop.length))
        return [*carry, *ys]

    def _while(self, loop: While, ins: list[Value]) -> list[Value]:
        of_test, of_body = ins[: loop.test_consts], ins[loop.test_consts :][: loop.body_consts]
        carry = list(map(self.copy, ins[loop.test_consts + loop.body_consts :]))
        flag = allocate(())

        def test() -> None:
            (result,) = self.walk(loop.test, [*of_test, *carry])
            self.emit("copy", flag, result)

        def once() -> None:
            self._replace(carry, self.walk(loop.body, [*of_body, *carry]))

        tests, body = (live(self.inside(record), (*carry, flag)) for record in (test, once))
        self.code.append(Instruction("while", [flag], test=tests, body=body))
        return carry

    def _replace(self, carry: list[Value], new: list[Value]) -> None:
        """Update a loop's carry; values that alias memory being overwritten are copied first."""
        overwritten = {id(value.memory) for value in carry}
        safe = [self.copy(value) if id(value.memory) in overwritten else value for value in new]
        for old, value in zip(carry, safe, strict=True):
            self.emit("copy", old, value)


def _is_real(equation: Any) -> bool:
    """Return whether float32 can represent the outputs: no keys, bit patterns or complex numbers."""
    kinds = (jnp.floating, jnp.signedinteger, jnp.bool_)
    return all(any(jnp.issubdtype(var.aval.dtype, kind) for kind in kinds) for var in equation.outvars)


def _evaluate(equation: Any, ins: list[Value]) -> list[Value]:
    """Fold constants; elementwise operations on broadcast values compute only one element per repetition."""
    arrays, shape = [value.view for value in ins], equation.outvars[0].aval.shape
    if equation.primitive.name in _POINTWISE:
        arrays = [np.broadcast_to(array, shape) for array in arrays]
        axes = zip(shape, *(array.strides for array in arrays), strict=True)
        first = tuple(slice(1 if not any(strides) else size) for size, *strides in axes)
        arrays = [array[first] for array in arrays]
    typed = [array.astype(var.aval.dtype) for array, var in zip(arrays, equation.invars, strict=True)]
    results, shapes = apply(equation, typed), [var.aval.shape for var in equation.outvars]
    return [constant(result).broadcast_to(shape) for result, shape in zip(results, shapes, strict=True)]


class _Writer:
    """Convert instructions to JSON, and collect the memories that they refer to."""

    def __init__(self) -> None:
        """Start without memories."""
        self.memories: list[dict[str, int]] = []
        self.weights: Weights = []
        self._numbers: dict[int | bytes, int] = {}
        self._kept: list[np.ndarray] = []  # keeps arrays alive, so that ids are not reused

    def memory(self, value: Value) -> int:
        """Return the index of a value's memory, which is added if it is new."""
        array = value.memory.astype(np.float32) if value.is_constant else value.memory
        key = array.tobytes() if value.is_constant else id(array)
        if key not in self._numbers:
            self._numbers[key] = len(self.memories)
            self.memories.append({"weight": len(self.weights)} if value.is_constant else {"size": array.size})
            (self.weights if value.is_constant else self._kept).append(array)
        return self._numbers[key]

    def instruction(self, step: Instruction) -> dict[str, Any]:
        """Return an instruction in the form that `graph` describes."""
        body = [self.instruction(inner) for inner in step.body]
        if step.op == "repeat":
            return {"op": "repeat", "count": step.count, "code": body}
        if step.op == "while":
            test, flag = [self.instruction(inner) for inner in step.test], self._place(step.values[0])
            return {"op": "while", "flag": flag, "test": test, "code": body}
        values = [weight(value) if value.is_constant else value for value in step.values]
        shape, inner = loops([value[(0,) * step.outer] for value in values])
        places = [
            [self.memory(value), start, *value.place[1 : 1 + step.outer], *strides]
            for value, (start, *strides) in zip(values, inner, strict=True)
        ]
        converted = {"op": step.op, "shape": [*values[0].view.shape[: step.outer], *shape], "places": places}
        if step.op != "move":
            return converted
        indices = [[*index[:3], *self._place(index[3])] for index in step.indices]
        return converted | {"outer": step.outer, "indices": indices}

    def _place(self, value: Value) -> list[int]:
        value = weight(value) if value.is_constant else value
        return [self.memory(value), *value.place]
