"""Checkpoints hold any arrays bit for bit, are deleted once they are old, and leak no memory."""

import gc
import itertools
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_vae import UserError
from flax_vae.models.binding import join_objective, split_objective
from flax_vae.runs.checkpoints import Damaged, open_checkpoints, restore, saved_steps

F = np.float32
TREES: dict[str, Any] = {
    "params": {
        "floats": jnp.array([0.1, -0.0, jnp.nan, jnp.inf, 1e-45]),
        "halves": jnp.array([[0.1, 3.0]], jnp.bfloat16),
        "quarters": jnp.array([0.5, 448.0], jnp.float8_e4m3fn),
        "nothing": jnp.zeros((0, 3)),
    },
    "optimizer": (jnp.int32(7), {"mask": jnp.array([True, False]), "bytes": np.arange(6, dtype=np.uint8)[::2]}, None),
}


def test_arrays_of_any_type_come_back_bit_for_bit(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(0, TREES)
    shapes = {name: jax.eval_shape(partial(jax.tree.map, jnp.asarray), tree) for name, tree in TREES.items()}
    found = restore(tmp_path / "checkpoints", 0, shapes)
    assert jax.tree.structure(found) == jax.tree.structure(TREES)
    for before, after in zip(jax.tree.leaves(TREES), jax.tree.leaves(found), strict=True):
        assert (before.dtype, before.shape) == (after.dtype, after.shape)
        assert np.asarray(before).tobytes() == np.asarray(after).tobytes()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.uint32])
def test_arrays_of_another_type_are_refused(tmp_path: Path, dtype: Any) -> None:
    with open_checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, {"params": {"scale": jnp.ones(2)}})
    with pytest.raises(UserError, match=f"scale is stored as float32, but the model expects {np.dtype(dtype)}"):
        restore(tmp_path / "checkpoints", 1, {"params": {"scale": jax.ShapeDtypeStruct((2,), dtype)}})


@pytest.mark.parametrize(
    ("of_model", "of_objective"),
    [
        ({"dense": np.ones(3, F)}, {"params": {"objective": {"w": np.ones(2, jnp.bfloat16)}}}),
        (
            {"params": {"dense": np.ones(3, F)}, "stats": {"mean": np.zeros(1, F)}},
            {"params": {"objective": {"w": np.ones(2, F)}}},
        ),
        ({"params": {"dense": np.ones(3, F)}}, {"stats": {"objective": {"mean": np.ones(2, F)}}}),
    ],
    ids=["parameters in bfloat16", "beside statistics of the model", "statistics alone"],
)
def test_the_arrays_of_an_objective_come_with_those_of_the_model(
    of_model: Any, of_objective: Any, tmp_path: Path
) -> None:
    """A run is opened without its objective, whose arrays are then unknown."""
    parts = {name: part["objective"] for name, part in of_objective.items()}
    with open_checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, {"params": join_objective(of_model, parts)})
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), of_model)
    found = split_objective(restore(tmp_path / "checkpoints", 1, {"params": shapes})["params"])[1]
    jax.tree.map(partial(np.testing.assert_array_equal, strict=True), jax.device_get(found), parts)


def test_another_optimiser_is_not_called_damage(tmp_path: Path) -> None:
    """The other optimiser has another state, and needs averaged parameters, which are not stored."""
    with open_checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, {"params": {"w": jnp.ones(2)}, "optimizer": {"mu": jnp.ones(2)}})
    shape = jax.ShapeDtypeStruct((2,), jnp.float32)
    items = {"params": {"w": shape}, "optimizer": {"z": shape}, "averaged_params": {"w": shape}}
    with pytest.raises(UserError, match="belongs to another training: z is not stored") as refused:
        restore(tmp_path / "checkpoints", 1, items)
    assert not isinstance(refused.value, Damaged)


def test_arrays_with_the_same_name_are_refused(tmp_path: Path) -> None:
    """Either one would replace the other."""
    tree = {"a": {"b": jnp.zeros(2)}, "a.b": jnp.ones(2)}
    with open_checkpoints(tmp_path / "checkpoints") as checkpoints, pytest.raises(UserError, match=r"both named a\.b"):
        checkpoints.save(1, {"params": tree})


def test_the_last_and_the_best_checkpoint_are_kept(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path / "checkpoints", keep=2, best=lambda: 3) as checkpoints:
        for step in range(8):
            checkpoints.save(step, {"params": {"step": jnp.int32(step)}})
    assert saved_steps(tmp_path / "checkpoints") == [3, 6, 7]


@pytest.mark.slow
def test_saving_does_not_leak_memory(tmp_path: Path) -> None:
    params = {str(number): jnp.ones((8, 8)) for number in range(40)}
    blocks = []
    with open_checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in range(40):
            checkpoints.save(step, {"params": params})
            checkpoints.finish()
            if step % 5 == 4 and step > 20:  # the first steps fill caches
                gc.collect()
                blocks.append(sys.getallocatedblocks())
    # A leak shows in every interval, a filling cache only in some.
    assert min(after - before for before, after in itertools.pairwise(blocks)) < 5 * 20
