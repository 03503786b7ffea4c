"""Read jaxprs: interpret one equation by equation, drop the equations that no result needs, and bound the results.

Versions of JAX store loops and calls differently; only this module depends on how they do.
"""

import math
import operator
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var
from jax.interpreters.partial_eval import dce_jaxpr_consts

V = TypeVar("V")
Range = tuple[float, float]

# Primitives that call another jaxpr exactly once, with the parameter that holds it; they only specify how to compile
# or differentiate it.
_CALLS = {
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "jit": "jaxpr",
    "remat2": "jaxpr",
}
_SHAPES = {"broadcast_in_dim", "convert_element_type", "copy", "reshape", "slice", "squeeze", "transpose"}
_ANY: Range = (-math.inf, math.inf)
_RANGES: dict[str, Range] = {
    "abs": (0.0, math.inf),
    "cos": (-1.0, 1.0),
    "erf": (-1.0, 1.0),
    "exp": (0.0, math.inf),
    "logistic": (0.0, 1.0),
    "sin": (-1.0, 1.0),
    "square": (0.0, math.inf),
    "tanh": (-1.0, 1.0),
}


_ENDS: dict[str, Callable[[float, float], float]] = {
    "add": operator.add,
    "div": operator.truediv,
    "max": max,
    "min": min,
    "mul": operator.mul,
    "sub": operator.sub,
}


def interpret(
    jaxpr: ClosedJaxpr | Jaxpr,
    inputs: Sequence[V],
    constant: Callable[[Any], V],
    equation: Callable[[JaxprEqn, list[V]], list[V]],
) -> list[V]:
    """Evaluate a jaxpr on values of any kind, such as shapes, or nodes of another graph.

    Args:
        jaxpr: the jaxpr; the jaxprs that it calls are evaluated as well.
        inputs: values of its inputs.
        constant: returns the value of a constant array.
        equation: evaluates an equation, given the values of its inputs.

    Returns:
        The values of its outputs.
    """
    inner = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    consts = [constant(array) for array in jaxpr.consts] if isinstance(jaxpr, ClosedJaxpr) else []
    values: dict[Any, V] = dict(zip((*inner.constvars, *inner.invars), (*consts, *inputs), strict=True))

    def read(atom: Any) -> V:
        return values[atom] if isinstance(atom, Var) else constant(np.asarray(atom.val, atom.aval.dtype))

    for eqn in inner.eqns:
        name, arguments = eqn.primitive.name, [read(atom) for atom in eqn.invars]
        if name in _CALLS:
            results = interpret(eqn.params[_CALLS[name]], arguments, constant, equation)
        else:
            results = equation(eqn, arguments)
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in inner.outvars]


class Scan(NamedTuple):
    """A loop with a fixed number of steps: body(*consts, *carry, *elements) -> (*carry, *results).

    Attributes:
        body: the jaxpr of a step.
        consts: the number of constants.
        carry: the number of values that each step passes to the next.
        length: the number of steps.
        reverse: whether the loop runs from the last elements to the first.
    """

    body: ClosedJaxpr
    consts: int
    carry: int
    length: int
    reverse: bool


class While(NamedTuple):
    """A loop that ends when a test fails: test(*its consts, *carry) -> (flag,); body(*its consts, *carry) -> carry.

    Attributes:
        test, body: the jaxprs.
        test_consts, body_consts: the number of constants of each; those of the test come first.
    """

    test: ClosedJaxpr
    body: ClosedJaxpr
    test_consts: int
    body_consts: int


def read_scan(eqn: JaxprEqn) -> Scan:
    """Return the loop of a `scan`.

    JAX 0.12 no longer stores the numbers of constants and of carried values, so they are counted: an array whose
    elements the steps take or return has one more axis outside the loop than inside.
    """
    body = eqn.params["jaxpr"]
    ins: list[tuple[Any, Any]] = list(zip(eqn.invars, body.in_avals, strict=True))
    outs: list[tuple[Any, Any]] = list(zip(eqn.outvars, body.out_avals, strict=True))
    elements = sum(var.aval.ndim > aval.ndim for var, aval in ins)
    carry = sum(var.aval.ndim == aval.ndim for var, aval in outs)
    return Scan(body, len(ins) - carry - elements, carry, eqn.params["length"], eqn.params["reverse"])


def read_while(eqn: JaxprEqn) -> While:
    """Return the loop of a `while`."""
    return While(*(eqn.params[name] for name in ("cond_jaxpr", "body_jaxpr", "cond_nconsts", "body_nconsts")))


def apply(eqn: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """Apply the operation of an equation to other operands, and return its results."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)  # JAX 0.8 returns functions separately
    results = eqn.primitive.bind(*functions, *operands, **params)
    return list(results) if eqn.primitive.multiple_results else [results]


def needed(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Return the jaxpr without dead code; all arguments are kept."""
    keep = [False] * len(closed.consts) + [True] * len(closed.in_avals)
    jaxpr, used, _ = dce_jaxpr_consts(closed.jaxpr, [True] * len(closed.out_avals), keep)
    return ClosedJaxpr(jaxpr, [const for const, is_used in zip(closed.consts, used, strict=True) if is_used])


def bounds(closed: ClosedJaxpr) -> list[Range]:
    """Return bounds on the values of each output for any inputs, by interval arithmetic.

    Bounded are the usual last operations of a network: activations, and arithmetic with constants. The results of all
    other operations are unbounded.
    """

    def constant(array: Any) -> Range:
        is_known = isinstance(array, np.ndarray | np.generic) and array.size and array.dtype.kind in "biuf"
        return (float(array.min()), float(array.max())) if is_known else _ANY

    def equation(eqn: JaxprEqn, ranges: list[Range]) -> list[Range]:
        name = eqn.primitive.name
        if name in _SHAPES:
            return ranges[:1]
        if name in _RANGES:
            return [_RANGES[name]]
        if name == "div" and ranges[1][0] <= 0 <= ranges[1][1]:
            return [_ANY]
        if name in _ENDS:  # the extreme values are at the ends of both ranges
            ends = [_ENDS[name](*pair) for pair in product(*ranges)]
            return [_ANY if any(map(math.isnan, ends)) else (min(ends), max(ends))]
        if name == "clamp":
            (low, _), (least, greatest), (_, high) = ranges
            return [(max(low, least), min(high, greatest))]
        if name == "select_n":
            lows, highs = zip(*ranges[1:], strict=True)
            return [(min(lows), max(highs))]
        return [_ANY] * len(eqn.outvars)

    return interpret(closed, [_ANY] * len(closed.in_avals), constant, equation)
