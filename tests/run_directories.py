"""Damage run directories and compare runs."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from flax_vae import Run

TIMES = ("seconds", "images_per_second", "data_wait")


def untimed(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name not in TIMES} for record in metrics]


def assert_same_run(left: Run, right: Run) -> None:
    assert untimed(left.metrics) == untimed(right.metrics)
    trees = ((run.params, run.objective_params) for run in (left, right))
    jax.tree.map(np.testing.assert_array_equal, *trees)


def truncate_checkpoint(directory: Path) -> None:
    for path in (directory / "checkpoints").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
