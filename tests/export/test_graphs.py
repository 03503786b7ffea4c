"""A flat graph holds the operations that its result needs, each once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.export import symbolic_shape
from jax.extend.core import jaxpr_as_fun

from flax_vae import UserError
from flax_vae.export.graphs import flat_graph

X = jax.ShapeDtypeStruct((3,), jnp.float32)
TABLE = np.arange(3, dtype=np.float32)


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
def test_only_needed_operations_are_left_each_once(
    function: Callable[[jax.Array], jax.Array], operations: set[str]
) -> None:
    graph = flat_graph(function, (X,))
    names = [eqn.primitive.name for eqn in graph.eqns]
    assert set(names) == operations
    assert len(names) == len(operations)
    assert max((np.size(const) for const in graph.consts), default=0) <= 3
    actual, expected = jax.jit(lambda x: (jaxpr_as_fun(graph)(x)[0], function(x)))(np.float32([0.3, -1, 2]))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_a_rule_replaces_an_operation_by_others() -> None:
    graph = flat_graph(jnp.square, (X,), {"square": lambda x: x * x, "integer_pow": lambda x, y: x * x})
    assert [eqn.primitive.name for eqn in graph.eqns] == ["mul"]


def test_a_function_that_asks_for_the_number_of_images_is_named() -> None:
    """The number is symbolic in an export: `len(x)` has no value there, `x.shape[0]` has."""
    (size,) = symbolic_shape("b")
    shape = (jax.ShapeDtypeStruct((size, 4), jnp.float32),)
    with pytest.raises(UserError, match=r"write x\.shape\[0\], not len\(x\)"):
        flat_graph(lambda x: x.reshape(len(x), -1), shape)
    flat_graph(lambda x: x.reshape(x.shape[0], -1), shape)
