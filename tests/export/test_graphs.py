"""What is left of a function once it is one flat list of operations."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxpr_as_fun

from flax_vae.export.graphs import flat_graph

X = jax.ShapeDtypeStruct((3,), jnp.float32)
TABLE = jnp.arange(3.0)


def called(x: jax.Array) -> jax.Array:
    return jax.jit(jax.nn.silu)(x) + jax.checkpoint(jnp.sin)(x)


def repeated(x: jax.Array) -> jax.Array:
    return jnp.sin(x) * jnp.cos(x) + jnp.sin(x)


def unused(x: jax.Array) -> jax.Array:
    jnp.exp(x).sum()
    return jnp.sin(x)


def constant(x: jax.Array) -> jax.Array:
    return x * jnp.exp(TABLE).sum()


def filled(x: jax.Array) -> jax.Array:
    return x + jnp.broadcast_to(jnp.sum(TABLE), (1000, 3)).sum(0)


def branched(x: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, 3, lambda i, y: y + jax.jit(jnp.sin)(y) * i, x)


@pytest.mark.parametrize(
    ("function", "operations"),
    [
        (called, {"logistic", "mul", "sin", "add"}),
        (repeated, {"sin", "cos", "mul", "add"}),
        (unused, {"sin"}),
        (constant, {"mul"}),
        (filled, {"add"}),
        (branched, {"scan"}),
    ],
)
def test_only_what_the_result_needs_is_left_and_each_of_it_once(
    function: Callable[[jax.Array], jax.Array], operations: set[str]
) -> None:
    found = flat_graph(function, (X,))
    names = [eqn.primitive.name for eqn in found.eqns]
    assert set(names) == operations
    assert len(names) == len(operations)
    assert max((np.size(const) for const in found.consts), default=0) <= 3
    x = jnp.array([0.3, -1.0, 2.0])
    np.testing.assert_allclose(jaxpr_as_fun(found)(x)[0], function(x), rtol=1e-6)


def test_an_operation_is_written_by_others_where_a_rule_says_so() -> None:
    found = flat_graph(jnp.square, (X,), {"square": lambda x: x * x, "integer_pow": lambda x, y: x * x})
    assert [eqn.primitive.name for eqn in found.eqns] == ["mul"]
