"""A function of JAX as a graph for engines elsewhere: its instructions as JSON, and the numbers that it knows.

The function is traced at static shapes. Calls are inlined, what depends on no input is computed here once, and what
no output depends on is left out.
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
from flax_vae.explore.compiler.memory import Instruction, Recorder, Value, known, live, loops, unknown, weight
from flax_vae.explore.compiler.primitives import ELEMENTWISE, RULES, VIEWS, Rule, refuse
from flax_vae.jaxprs import interpret, needed

Graph = dict[str, Any]
Weights = list[Float[np.ndarray, " _"]]
_COMPUTING: dict[str, Rule] = RULES | CONTRACTIONS | INDEXING
_POINTWISE = {*ELEMENTWISE, "clamp", "convert_element_type", "integer_pow", "select_n", "square"}


def graph(function: Callable[..., Any], *examples: Any) -> tuple[Graph, Weights]:
    """The graph of a function, and its weights.

    A graph says which memory it needs and what happens there, in order:

        memories    {size} of those to write, {weight} for the number of one to read
        inputs      [memory, shape] of each
        outputs     [memory, shape] of each
        code        instructions

    and an instruction is one of

        {op, shape, places}                    out[i] = op(in[i], ...) for each index i; "dot": out[i] += in[i] in'[i]
        {op: "move", ..., outer, indices}      out[i] = in[i], places being moved by indices, which are looked up for
                                               each index of the `outer` first axes: [which place, distance, largest
                                               index, place of the index]
        {op: "repeat", count, code}            the code, `count` times
        {op: "while", flag, test, code}        the code as long as the test leaves a flag that is not 0

    where a place is [memory, first element, distance to the next along each axis], and what is written comes first.
    Where that is read as well, elements recur in it and the order counts: the last axis is the innermost loop.

    Args:
        function: of arrays, which returns arrays.
        examples: arrays of the shapes that it will be given.

    Raises:
        UserError: it computes something that the engine cannot.
    """
    with jax.default_device(jax.local_devices(backend="cpu")[0]):  # others may round products
        # What else is traced, the engine need not know.
        closed = needed(jax.make_jaxpr(function)(*examples))
        tracer = _Tracer()
        ins = [unknown(aval.shape) for aval in closed.in_avals]
        outs = [tracer.copy(value) for value in tracer.walk(closed, ins)]
    written = _Writer()
    code = [written.instruction(step) for step in live(tracer.code, {id(out.memory) for out in outs})]
    of_ins, of_outs = ([[written.memory(each), list(each.view.shape)] for each in values] for values in (ins, outs))
    return {"memories": written.memories, "inputs": of_ins, "outputs": of_outs, "code": code}, written.weights


class _Tracer(Recorder):
    """A recorder that reads jaxprs."""

    def walk(self, jaxpr: ClosedJaxpr | Jaxpr, ins: Sequence[Value]) -> list[Value]:
        """Record a jaxpr's equations; returns its outputs."""
        return interpret(jaxpr, ins, known, self._equation)

    def _equation(self, equation: JaxprEqn, ins: list[Value]) -> list[Value]:
        name = equation.primitive.name
        if name == "platform_index":
            return [known(_platform(equation.params["platforms"]))]
        if name == "cond" and ins[0].known:
            branches = equation.params["branches"]
            return self.walk(branches[int(np.clip(ins[0].view, 0, len(branches) - 1))], ins[1:])
        if name in VIEWS:
            return _listed(VIEWS[name](self, equation, *ins))
        if all(each.known for each in ins):
            return _evaluated(equation, ins)
        if name in ("scan", "while"):
            return (self._scan if name == "scan" else self._while)(equation.params, ins)
        if name not in _COMPUTING or not _real(equation):
            raise refuse(equation)
        return _listed(_COMPUTING[name](self, equation, *ins))

    def _scan(self, params: dict[str, Any], ins: list[Value]) -> list[Value]:
        consts, others = ins[: params["num_consts"]], ins[params["num_consts"] :]
        carry, xs = list(map(self.copy, others[: params["num_carry"]])), others[params["num_carry"] :]
        length, outputs = params["length"], params["jaxpr"].out_avals[len(carry) :]
        ys = [unknown((length, *aval.shape)) for aval in outputs]
        step = self.copy(known(0.0))

        def at_step(side: int, whole: Value) -> tuple[Value, dict[str, Any]]:
            """The element at index 0, and what makes it that of the step."""
            ordered = whole[(slice(None, None, -1),)] if params["reverse"] else whole
            return ordered[(0,)], {"indices": [(side, ordered.place[1], length - 1, step)]}

        def once() -> None:
            elements = []
            for x in xs:
                element, indices = at_step(1, x)
                elements.append(self.emit("move", unknown(element.view.shape), element, **indices))
            found = self.walk(params["jaxpr"], [*consts, *carry, *elements])
            for y, each in zip(ys, found[len(carry) :], strict=True):
                element, indices = at_step(0, y)
                self.emit("move", element, each, **indices)
            self._replace(carry, found[: len(carry)])
            self.emit("add", step, step, known(1.0))

        body, _ = self.inside(once)
        body = live(body, {id(each.memory) for each in (*carry, *ys, step)})
        self.code.append(Instruction("repeat", body=body, count=length))
        return [*carry, *ys]

    def _while(self, params: dict[str, Any], ins: list[Value]) -> list[Value]:
        of_test, of_body = params["cond_nconsts"], params["body_nconsts"]
        carry = list(map(self.copy, ins[of_test + of_body :]))
        flag = unknown(())

        def test() -> None:
            (found,) = self.walk(params["cond_jaxpr"], [*ins[:of_test], *carry])
            self.emit("copy", flag, found)

        def once() -> None:
            consts = ins[of_test : of_test + of_body]
            self._replace(carry, self.walk(params["body_jaxpr"], [*consts, *carry]))

        kept = {id(each.memory) for each in (*carry, flag)}
        tests, body = (live(self.inside(record)[0], set(kept)) for record in (test, once))
        self.code.append(Instruction("while", [flag], test=tests, body=body))
        return carry

    def _replace(self, carry: list[Value], new: list[Value]) -> None:
        """Write what a loop carries on; what of it lies in memory that is written meanwhile is copied first."""
        memory = {id(each.memory) for each in carry}
        safe = [self.copy(each) if id(each.memory) in memory else each for each in new]
        for old, each in zip(carry, safe, strict=True):
            self.emit("copy", old, each)


def _platform(platforms: Sequence[Sequence[str] | None]) -> int:
    """Which branch is for CPUs, or for whatever has none of its own."""
    return next(i for i, names in enumerate(platforms) if names is None or "cpu" in names)


def _listed(found: Value | list[Value]) -> list[Value]:
    return found if isinstance(found, list) else [found]


def _real(equation: Any) -> bool:
    """Whether its numbers are such as float32 can stand for: no keys, no bits, no complex ones."""
    kinds = (jnp.floating, jnp.signedinteger, jnp.bool_)
    return all(any(jnp.issubdtype(var.aval.dtype, kind) for kind in kinds) for var in equation.outvars)


def _evaluated(equation: Any, ins: list[Value]) -> list[Value]:
    """What JAX computes of known values; where elementwise operations meet nothing but repetitions, one of each."""
    arrays, shape = [each.view for each in ins], equation.outvars[0].aval.shape
    if equation.primitive.name in _POINTWISE:
        arrays = [np.broadcast_to(array, shape) for array in arrays]
        axes = zip(shape, *(array.strides for array in arrays), strict=True)
        some = tuple(slice(1 if not any(strides) else size) for size, *strides in axes)
        arrays = [array[some] for array in arrays]
    of_type = [array.astype(var.aval.dtype) for array, var in zip(arrays, equation.invars, strict=True)]
    found = equation.primitive.bind(*of_type, **equation.params)
    results = found if equation.primitive.multiple_results else [found]
    shapes = [var.aval.shape for var in equation.outvars]
    return [known(result).to(shape) for result, shape in zip(results, shapes, strict=True)]


class _Writer:
    """Instructions as JSON, and the memories that they name."""

    def __init__(self) -> None:
        """Begin without any."""
        self.memories: list[dict[str, int]] = []
        self.weights: Weights = []
        self._numbers: dict[int | bytes, int] = {}
        self._kept: list[np.ndarray] = []  # as long as memory is kept, its identity is its own

    def memory(self, value: Value) -> int:
        """The number of a value's memory."""
        array = value.memory.astype(np.float32) if value.known else value.memory
        key = array.tobytes() if value.known else id(array)
        if key not in self._numbers:
            self._numbers[key] = len(self.memories)
            self.memories.append({"weight": len(self.weights)} if value.known else {"size": array.size})
            (self.weights if value.known else self._kept).append(array)
        return self._numbers[key]

    def instruction(self, step: Instruction) -> dict[str, Any]:
        """An instruction as of `graph`."""
        body = [self.instruction(each) for each in step.body]
        if step.op == "repeat":
            return {"op": "repeat", "count": step.count, "code": body}
        if step.op == "while":
            test, flag = [self.instruction(each) for each in step.test], self._place(step.values[0])
            return {"op": "while", "flag": flag, "test": test, "code": body}
        values = [weight(each) if each.known else each for each in step.values]
        if step.op != "move":
            shape, places = loops(values)
            named = [[self.memory(each), *place] for each, place in zip(values, places, strict=True)]
            return {"op": step.op, "shape": shape, "places": named}
        inner = [each[(0,) * step.outer] for each in values]
        shape, places = loops(inner)
        lead = [each.place[1 : 1 + step.outer] for each in values]
        named = [
            [self.memory(each), place[0], *first, *place[1:]]
            for each, place, first in zip(values, places, lead, strict=True)
        ]
        indices = [[*index[:3], *self._place(index[3])] for index in step.indices]
        shape = [*values[0].view.shape[: step.outer], *shape]
        return {"op": "move", "shape": shape, "places": named, "outer": step.outer, "indices": indices}

    def _place(self, value: Value) -> list[int]:
        value = weight(value) if value.known else value
        return [self.memory(value), *value.place]
