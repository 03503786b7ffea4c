"""Read jaxprs: interpret one equation by equation, drop the equations that no result needs, and name the last one."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var
from jax.interpreters.partial_eval import dce_jaxpr_consts

V = TypeVar("V")

# Primitives that call another jaxpr exactly once, with the parameter that holds it; they only specify how to compile
# or differentiate it.
_CALLS = {
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "jit": "jaxpr",
    "remat2": "jaxpr",
}
_SHAPES = {"broadcast_in_dim", "convert_element_type", "copy", "reshape", "squeeze", "transpose"}


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


def needed(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Return the jaxpr without dead code; all arguments are kept."""
    keep = [False] * len(closed.consts) + [True] * len(closed.in_avals)
    jaxpr, used, _ = dce_jaxpr_consts(closed.jaxpr, [True] * len(closed.out_avals), keep)
    return ClosedJaxpr(jaxpr, [const for const, is_used in zip(closed.consts, used, strict=True) if is_used])


def last_operation(closed: ClosedJaxpr | Jaxpr, output: int = 0) -> str | None:
    """Return the name of the primitive that computes an output, apart from changes of shape and type.

    Return None if there is no such output, or if the output is an input.
    """
    jaxpr = closed.jaxpr if isinstance(closed, ClosedJaxpr) else closed
    equations = {variable: eqn for eqn in jaxpr.eqns for variable in eqn.outvars}
    atom: Any = dict(enumerate(jaxpr.outvars)).get(output)
    while isinstance(atom, Var) and atom in equations:
        eqn = equations[atom]
        name = eqn.primitive.name
        if name in _CALLS:
            return last_operation(eqn.params[_CALLS[name]], eqn.outvars.index(atom))
        if name not in _SHAPES:
            return name
        atom = eqn.invars[0]
    return None
