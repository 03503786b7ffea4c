"""What JAX has traced, for those who read it: calls that hold other jaxprs, and what no result needs."""

from jax.extend.core import ClosedJaxpr
from jax.interpreters.partial_eval import dce_jaxpr_consts

# What calls another jaxpr once, and the parameter that holds it: how to compile or to differentiate it.
CALLS = {
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "jit": "jaxpr",
    "remat2": "jaxpr",
}


def needed(closed: ClosedJaxpr) -> ClosedJaxpr:
    """What the results depend on, and all of the arguments."""
    keep = [False] * len(closed.consts) + [True] * len(closed.in_avals)
    jaxpr, used, _ = dce_jaxpr_consts(closed.jaxpr, [True] * len(closed.out_avals), keep)
    return ClosedJaxpr(jaxpr, [const for const, is_used in zip(closed.consts, used, strict=True) if is_used])
