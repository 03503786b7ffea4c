"""What a page holds: every weight once, as exactly as it was, and little besides."""

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from flax_vae import Config, UserError, init
from flax_vae.explore import ENGINE, graph, graphs, halved, program
from flax_vae.runs.models import make_model

HALVES = np.float16([0, 1, -2.5, 65504, 6e-8, -3e-5, 1 / 3, np.inf, -np.inf]).astype(np.float32)
SINGLES = np.float32([1 / 3, 70000, 1e-9, -3.4e38, 0, 1e-44])


def test_weights_are_read_as_they_were(open_page: Callable[[dict[str, Any]], Callable[..., list[np.ndarray]]]) -> None:
    """Where float16 is exact they are half as long."""
    made = program({"all": graph(lambda x: (HALVES + 0 * x, jnp.asarray(HALVES), jnp.asarray(SINGLES)), jnp.zeros(()))})
    assert sorted(made["table"]) == [[1, 2], [len(SINGLES), 4], [len(HALVES), 2]]
    finite = np.isfinite(HALVES)
    some = graph(lambda x: (x + HALVES[finite], jnp.asarray(HALVES[~finite]) > x, SINGLES + x), jnp.zeros(()))
    halves, positive, singles = open_page(program({"some": some}))("some", np.float32(0))
    np.testing.assert_array_equal(halves, HALVES[finite])
    np.testing.assert_array_equal(positive, [1, 0])
    np.testing.assert_array_equal(singles, SINGLES)


def test_halved_parameters_are_the_nearest_of_float16() -> None:
    """Those that it cannot hold stay what they are."""
    found = halved({"a": jnp.array([1 / 3, 1e6]), "b": {"c": jnp.array(-2.0)}})
    np.testing.assert_array_equal(found["a"], np.float32([np.float16(1 / 3), 1e6]))
    assert found["b"]["c"] == -2


def test_functions_share_weights() -> None:
    kernel = jnp.arange(12.0).reshape(3, 4)
    two = {"one": graph(lambda x: x @ kernel, jnp.ones(3)), "other": graph(lambda x: kernel @ x, jnp.ones(4))}
    made = program(two)
    assert made["table"] == [[12, 2]]
    assert [sum("weight" in each for each in made["graphs"][name]["memories"]) for name in two] == [1, 1]


def test_what_is_known_is_computed_and_broadcasts_stay_small() -> None:
    """A mask on weights leaves weights, a picture of one number is that number, and nobody needs the rest."""
    weights, mask = jnp.full((64, 64), 2.0), jnp.tril(jnp.ones((64, 64)))

    def function(x: Any) -> Any:
        jnp.sin(x).sum()
        plane = jnp.zeros((64, 64)) + jnp.exp(jnp.ones(())) + jnp.arange(64.0)
        return x @ (weights * mask) + plane

    made, kept = graph(function, jnp.zeros((1, 64)))
    assert [step["op"] for step in made["code"]] == ["dot", "add", "copy"]
    assert sorted(each.size for each in kept) == [64, 64 * 64]


def test_views_are_no_instructions() -> None:
    made, kept = graph(lambda x: x[::-1].T[None, 1:].reshape(1, 1, -1)[..., 0], jnp.zeros((3, 2)))
    assert [step["op"] for step in made["code"]] == ["copy"]
    assert not kept


@pytest.mark.parametrize(("preset", "megabytes"), [("tutorial_conv", 0.6), ("tutorial_dense", 0.6), ("gated_mlp", 2.9)])
def test_the_models_of_the_tutorial_make_small_pages(preset: str, megabytes: float) -> None:
    """Two bytes for each parameter, a third more for base64, and 20 kB for the engine."""
    model = make_model(Config(preset=preset), (28, 28, 1))
    params = halved(init(model, jax.random.key(0), (28, 28, 1)))
    assert len(json.dumps(program(graphs(model, params, (28, 28, 1))))) + len(ENGINE.read_text()) < megabytes * 1e6


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
def test_what_the_engine_does_not_know_is_named(name: str, function: Callable[[Any], Any]) -> None:
    with pytest.raises(UserError, match=f"the model computes '{name}"):
        graph(function, jnp.ones(4))


def _of_batch_groups(x: Any) -> Any:
    images, kernel = x.reshape(2, 2, 1, 1), jnp.ones((1, 1, 1, 2))
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=numbers, batch_group_count=2)
