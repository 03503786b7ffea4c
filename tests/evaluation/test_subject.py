"""The file cache of partial results."""

from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from flax_vae.evaluation.subject import PartialResults

INPUTS = {"params": jnp.arange(10_000.0), "plan": "100 draws"}


def numbers(*values: float) -> Callable[[], np.ndarray]:
    return lambda: np.array(values)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Write a file with one result."""
    PartialResults(tmp_path / "results.npz", INPUTS)("first", numbers(1, 2))
    return tmp_path / "results.npz"


def test_stored_results_are_not_computed_again(file: Path) -> None:
    again = PartialResults(file, INPUTS)
    np.testing.assert_array_equal(again("first", numbers(0)), [1, 2])
    np.testing.assert_array_equal(again("second", numbers(3)), [3])
    np.testing.assert_array_equal(PartialResults(file, INPUTS)("second", numbers(0)), [3])
    assert [path.name for path in file.parent.iterdir()] == ["results.npz"]
    again.delete()
    assert not file.exists()


@pytest.mark.parametrize(
    "other", [INPUTS | {"plan": "99 draws"}, INPUTS | {"params": INPUTS["params"].at[5000].add(1)}]
)
def test_results_of_other_inputs_are_discarded(file: Path, other: dict) -> None:
    np.testing.assert_array_equal(PartialResults(file, other)("first", numbers(0)), [0])


@pytest.mark.parametrize("content", [b"", b"PK", b"nothing of the kind", b"\x93NUMPY"])
def test_a_damaged_file_is_replaced(file: Path, content: bytes) -> None:
    for damaged in (content, file.read_bytes()[:-40]):
        file.write_bytes(damaged)
        np.testing.assert_array_equal(PartialResults(file, INPUTS)("first", numbers(0)), [0])
        np.testing.assert_array_equal(PartialResults(file, INPUTS)("first", numbers(1)), [0])


def test_nothing_is_stored_without_a_path() -> None:
    results = PartialResults(None, INPUTS)
    np.testing.assert_array_equal(results("first", numbers(1)), [1])
    results.delete()
