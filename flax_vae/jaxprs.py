"""What JAX has traced, for those who read it: equation after equation, and without what no result needs."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var
from jax.interpreters.partial_eval import dce_jaxpr_consts

V = TypeVar("V")

# What calls another jaxpr once, and the parameter that holds it: how to compile or to differentiate it.
_CALLS = {
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "jit": "jaxpr",
    "remat2": "jaxpr",
}


def interpret(
    jaxpr: ClosedJaxpr | Jaxpr,
    inputs: Sequence[V],
    constant: Callable[[Any], V],
    equation: Callable[[JaxprEqn, list[V]], list[V]],
) -> list[V]:
    """The outputs of a jaxpr, for values of any kind.

    Args:
        jaxpr: what is read; calls in it are followed.
        inputs: its inputs.
        constant: the value of an array.
        equation: what an equation makes of the values of its inputs.
    """
    inner = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    consts = [constant(array) for array in jaxpr.consts] if isinstance(jaxpr, ClosedJaxpr) else []
    values: dict[Any, V] = dict(zip((*inner.constvars, *inner.invars), (*consts, *inputs), strict=True))

    def read(atom: Any) -> V:
        return values[atom] if isinstance(atom, Var) else constant(np.asarray(atom.val, atom.aval.dtype))

    for eqn in inner.eqns:
        name, known = eqn.primitive.name, [read(atom) for atom in eqn.invars]
        if name in _CALLS:
            found = interpret(eqn.params[_CALLS[name]], known, constant, equation)
        else:
            found = equation(eqn, known)
        values.update(zip(eqn.outvars, found, strict=True))
    return [read(atom) for atom in inner.outvars]


def needed(closed: ClosedJaxpr) -> ClosedJaxpr:
    """What the results depend on, and all of the arguments."""
    keep = [False] * len(closed.consts) + [True] * len(closed.in_avals)
    jaxpr, used, _ = dce_jaxpr_consts(closed.jaxpr, [True] * len(closed.out_avals), keep)
    return ClosedJaxpr(jaxpr, [const for const, is_used in zip(closed.consts, used, strict=True) if is_used])
