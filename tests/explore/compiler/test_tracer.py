"""Graphs are small: constants are folded, views take no instructions, and unsupported operations are named."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import pytest
from jax import lax

from flax_vae import UserError
from flax_vae.explore import graph


def test_constants_are_folded_and_broadcasts_stay_small() -> None:
    """Masked weights are weights, a broadcast number is stored once, and unused results are dropped."""
    weights, mask = jnp.full((64, 64), 2.0), jnp.tril(jnp.ones((64, 64)))

    def function(x: Any) -> Any:
        jnp.sin(x).sum()
        plane = jnp.zeros((64, 64)) + jnp.exp(jnp.ones(())) + jnp.arange(64.0)
        return x @ (weights * mask) + plane

    compiled, kept = graph(function, jnp.zeros((1, 64)))
    assert [step["op"] for step in compiled["code"]] == ["dot", "add", "copy"]
    assert sorted(weight.size for weight in kept) == [64, 64 * 64]


def test_views_take_no_instructions() -> None:
    compiled, kept = graph(lambda x: x[::-1].T[1:][None].reshape(1, 1, -1)[..., 0], jnp.zeros((3, 2)))
    assert [step["op"] for step in compiled["code"]] == ["copy"]
    assert not kept


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("sort", lambda x: jnp.sort(x)),
        ("cond", lambda x: lax.cond(x[0] > 0, jnp.sin, jnp.cos, x)),
        ("scatter-add", lambda x: x.at[x.astype(int)].add(1.0)),
        ("bitcast_convert_type", lambda x: lax.bitcast_convert_type(x, "uint32").sum()),
        ("and' of integers", lambda x: x.astype(int) & 1),
        ("conv_general_dilated' with groups of the batch", lambda x: _of_batch_groups(x)),
    ],
)
def test_an_unsupported_operation_is_named(name: str, function: Callable[[Any], Any]) -> None:
    with pytest.raises(UserError, match=f"the model computes '{name}"):
        graph(function, jnp.ones(4))


def _of_batch_groups(x: Any) -> Any:
    images, kernel = x.reshape(2, 2, 1, 1), jnp.ones((1, 1, 1, 2))
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=numbers, batch_group_count=2)
