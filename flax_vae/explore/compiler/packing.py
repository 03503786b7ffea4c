"""Several graphs as one JSON value, with their shared weights as base64."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_vae.explore.compiler.tracer import Graph, Weights

ENGINE = Path(__file__).parent / "engine.js"  # the script that runs programs


def halved(params: Any) -> Any:
    """Round the arrays of a pytree to float16, as float32; values outside float16's range are unchanged."""

    def nearest(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf, np.float32)
        with np.errstate(over="ignore"):
            rounded = array.astype(np.float16).astype(np.float32)
        return np.where(np.isfinite(rounded), rounded, array)

    return jax.tree.map(lambda leaf: jnp.asarray(nearest(leaf)), params)


def program(graphs: Mapping[str, tuple[Graph, Weights]]) -> dict[str, Any]:
    """Pack graphs and their weights into the argument of `engine.open`.

    No weight is stored twice. Weights that float16 represents exactly are stored in it: all `halved` parameters that
    the functions use unchanged. Other weights were computed from parameters and stay float32, so nothing is rounded.

    Returns:
        graphs      the graphs by name, see `graph`
        table       [number of elements, bytes per element] of each weight
        weights     all weights, little-endian, as base64
    """
    numbers: dict[bytes, int] = {}
    renumbered = {}
    for name, (graph, weights) in graphs.items():
        indices = [numbers.setdefault(weight.tobytes(), len(numbers)) for weight in weights]
        memories = [
            {"weight": indices[memory["weight"]]} if "weight" in memory else memory for memory in graph["memories"]
        ]
        renumbered[name] = graph | {"memories": memories}
    stored = [_smallest(np.frombuffer(weight, np.float32)) for weight in numbers]
    return {
        "graphs": renumbered,
        "table": [[array.size, array.itemsize] for array in stored],
        "weights": base64.b64encode(b"".join(array.tobytes() for array in stored)).decode(),
    }


def _smallest(weight: np.ndarray) -> np.ndarray:
    """Return the weight as float16 if that is exact, else as float32."""
    with np.errstate(over="ignore"):
        half = weight.astype("<f2")
    return half if np.array_equal(half.astype(np.float32), weight, equal_nan=True) else weight.astype("<f4")
