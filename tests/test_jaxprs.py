"""Jaxprs of the installed JAX: their loops and calls, and bounds of their results by interval arithmetic.

Two kinds: a version of JAX that stores a loop or a call differently, and an activation at the end of a network that is
not recognised or that is taken to bound what it does not.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_vae.jaxprs import apply, bounds, interpret, needed, read_scan, read_while

KERNEL = np.ones((3, 2), np.float32)
INF = np.inf
ENDS = {
    "none": (lambda h: h, (-INF, INF)),
    "sigmoid": (nn.sigmoid, (0, 1)),
    "tanh in [0, 1]": (lambda h: (nn.tanh(h) + 1) / 2, (0, 1)),
    "tanh in [-5, 5]": (lambda h: 5 * nn.tanh(h), (-5, 5)),
    "hard sigmoid": (nn.hard_sigmoid, (0, 1)),
    "clip": (lambda h: jnp.clip(h, 0, 1), (0, 1)),
    "relu": (nn.relu, (0, INF)),
    "leaky relu": (nn.leaky_relu, (-INF, INF)),
    "silu": (nn.silu, (-INF, INF)),
    "a division by what may be 0": (lambda h: 1 / nn.sigmoid(h), (-INF, INF)),
    "a division by both signs": (lambda h: 1 / nn.tanh(h), (-INF, INF)),
    "changes of shape and type": (lambda h: nn.sigmoid(h).reshape(2, 1, -1)[:1].astype(jnp.float16), (0, 1)),
    "a bias after it": (lambda h: nn.sigmoid(h) + h, (-INF, INF)),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_result_is_bounded_by_its_last_operations(end: str) -> None:
    activation, expected = ENDS[end]
    (found,) = bounds(jax.make_jaxpr(lambda x: activation(x @ KERNEL))(np.ones((4, 3), np.float32)))
    assert found == expected


X, MATRIX = np.float32([0.3, -1, 2]), np.arange(6, dtype=np.float32).reshape(2, 3)


@jax.custom_vjp
def doubled(x: jax.Array) -> jax.Array:
    return 2 * x


doubled.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))


def scanned(x: jax.Array) -> Any:
    """Loop with two constants, two carried values, and elements of a tree, backwards; the step is a call as well."""

    def step(carry: Any, element: Any) -> Any:
        total, count = carry
        return (total + x * element["row"], count + 1), jnp.sin(total).sum() + jnp.sum(x) * element["number"]

    elements = {"row": jnp.asarray(MATRIX) + x, "number": jnp.arange(2.0)}
    return jax.lax.scan(jax.checkpoint(step), (jnp.cos(x), 0), elements, reverse=True)


def repeated(x: jax.Array) -> jax.Array:
    """Loop until a test fails, with a constant in the test and two others in the body."""
    limit, step, factor = jnp.exp(x).sum(), jnp.abs(x), jnp.cos(x)
    return jax.lax.while_loop(lambda y: y.sum() < limit, lambda y: y + step + factor**2, jnp.zeros(3))


def branched(x: jax.Array) -> jax.Array:
    return jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x)


@pytest.mark.parametrize("function", [nn.relu, nn.silu, doubled, jax.checkpoint(jnp.sin), scanned, repeated, branched])
def test_a_jaxpr_is_interpreted_as_its_function(function: Callable[[Any], Any]) -> None:
    """Differentiation rules, saved values and compilation are calls; loops and branches are applied whole."""
    closed, calls = needed(jax.make_jaxpr(jax.jit(function))(X)), set()

    def equation(eqn: Any, operands: list[Any]) -> list[Any]:
        calls.add(eqn.primitive.name)
        return apply(eqn, operands)

    results = interpret(closed, [X], jnp.asarray, equation)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), results, jax.tree.leaves(function(X)))
    assert not {name for name in calls if "call" in name or "jit" in name or "remat" in name}


def test_loops_are_read() -> None:
    (eqn,) = (eqn for eqn in jax.make_jaxpr(scanned)(X).eqns if eqn.primitive.name == "scan")
    loop = read_scan(eqn)
    assert (loop.consts, loop.carry, loop.length, loop.reverse) == (len(eqn.invars) - 4, 2, 2, True)
    assert [aval.shape for aval in loop.body.in_avals[loop.consts :]] == [(3,), (), (), (3,)]
    (eqn,) = (eqn for eqn in jax.make_jaxpr(repeated)(X).eqns if eqn.primitive.name == "while")
    loop = read_while(eqn)
    assert (loop.test_consts, loop.body_consts, len(eqn.invars)) == (1, 2, 4)
    assert [aval.shape for aval in loop.test.in_avals] == [(), (3,)]
    assert [aval.shape for aval in loop.body.in_avals] == [(3,)] * 3


@pytest.mark.parametrize("function", [jnp.sin, nn.relu, doubled, jax.checkpoint(jnp.sin)])
def test_an_equation_is_applied_to_other_operands(function: Callable[[Any], Any]) -> None:
    """Calls carry functions: the rules of their differentiation."""
    (eqn,) = jax.make_jaxpr(function)(X).eqns
    np.testing.assert_allclose(apply(eqn, [3 * X])[0], function(3 * X), rtol=1e-6)
