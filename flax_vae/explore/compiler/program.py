"""Several graphs as one value for a page: JSON, with the weights that they share as text."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_vae.explore.compiler.graph import Graph, Weights
from flax_vae.models.vae import Params

ENGINE = Path(__file__).parents[1] / "web" / "engine.js"  # the script that runs them


def halved(params: Params) -> Params:
    """The parameters rounded to what float16 can hold, in half of the space; what is beyond its range is kept."""

    def nearest(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf, np.float32)
        with np.errstate(over="ignore"):
            rounded = array.astype(np.float16).astype(np.float32)
        return np.where(np.isfinite(rounded), rounded, array)

    return jax.tree.map(lambda leaf: jnp.asarray(nearest(leaf)), params)


def program(graphs: Mapping[str, tuple[Graph, Weights]]) -> dict[str, Any]:
    """What `engine.open` takes.

    No weight is written twice. Those that float16 holds exactly are written in it: all parameters as of `halved` that
    the functions use as they are. What was computed from parameters is float32, so that nothing is rounded here.

    Returns:
        graphs      by their names, as of `graph`
        table       [elements, bytes of one] of each weight
        weights     all of them, little-endian, as base64
    """
    numbers: dict[bytes, int] = {}
    renumbered = {}
    for name, (graph, weights) in graphs.items():
        found = [numbers.setdefault(weight.tobytes(), len(numbers)) for weight in weights]
        memories = [{"weight": found[each["weight"]]} if "weight" in each else each for each in graph["memories"]]
        renumbered[name] = graph | {"memories": memories}
    written = [_written(np.frombuffer(each, np.float32)) for each in numbers]
    return {
        "graphs": renumbered,
        "table": [[array.size, array.itemsize] for array in written],
        "weights": base64.b64encode(b"".join(array.tobytes() for array in written)).decode(),
    }


def _written(weight: np.ndarray) -> np.ndarray:
    """In float16 if that loses nothing."""
    with np.errstate(over="ignore"):
        half = weight.astype("<f2")
    return half if np.array_equal(half.astype(np.float32), weight, equal_nan=True) else weight.astype("<f4")
