"""A program holds every weight once, exactly, and little else."""

import json
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from explored import random_params

from flax_vae import Config
from flax_vae.explore import ENGINE, graph, graphs, halved, program
from flax_vae.runs.models import make_model

HALVES = np.float16([0, 1, -2.5, 65504, 6e-8, -3e-5, 1 / 3, np.inf, -np.inf]).astype(np.float32)
SINGLES = np.float32([1 / 3, 70000, 1e-9, -3.4e38, 0, 1e-44])


def test_weights_are_read_exactly(open_page: Callable[[dict[str, Any]], Callable[..., list[np.ndarray]]]) -> None:
    """Weights that float16 represents exactly take half the space."""
    compiled = program(
        {"all": graph(lambda x: (HALVES + 0 * x, jnp.asarray(HALVES), jnp.asarray(SINGLES)), jnp.zeros(()))}
    )
    assert sorted(compiled["table"]) == [[1, 2], [len(SINGLES), 4], [len(HALVES), 2]]
    finite = np.isfinite(HALVES)
    some = graph(lambda x: (x + HALVES[finite], jnp.asarray(HALVES[~finite]) > x, SINGLES + x), jnp.zeros(()))
    halves, positive, singles = open_page(program({"some": some}))("some", np.float32(0))
    np.testing.assert_array_equal(halves, HALVES[finite])
    np.testing.assert_array_equal(positive, [1, 0])
    np.testing.assert_array_equal(singles, SINGLES)


def test_halved_parameters_are_rounded_to_float16() -> None:
    """Values out of its range are unchanged."""
    actual = halved({"a": jnp.array([1 / 3, 1e6]), "b": {"c": jnp.array(-2.0)}})
    np.testing.assert_array_equal(actual["a"], np.float32([np.float16(1 / 3), 1e6]))
    assert actual["b"]["c"] == -2


def test_functions_share_weights() -> None:
    kernel = jnp.arange(12.0).reshape(3, 4)
    two = {"one": graph(lambda x: x @ kernel, jnp.ones(3)), "other": graph(lambda x: kernel @ x, jnp.ones(4))}
    compiled = program(two)
    assert compiled["table"] == [[12, 2]]
    assert [sum("weight" in memory for memory in compiled["graphs"][name]["memories"]) for name in two] == [1, 1]


@pytest.mark.quick(1)
@pytest.mark.parametrize(("preset", "megabytes"), [("tutorial_conv", 0.6), ("tutorial_dense", 0.6), ("gated_mlp", 2.9)])
def test_the_models_of_the_tutorial_make_small_pages(preset: str, megabytes: float) -> None:
    """A page takes two bytes per parameter, a third more for base64, and 20 kB for the engine."""
    model = make_model(Config(preset=preset), (28, 28, 1))
    params = random_params(model, (28, 28, 1))
    assert len(json.dumps(program(graphs(model, params, (28, 28, 1))))) + len(ENGINE.read_text()) < megabytes * 1e6
