"""Results that are kept until all are there."""

from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from flax_vae.evaluation.partial_results import PartialResults

WHAT = {"params": jnp.arange(10_000.0), "plan": "100 draws"}


def numbers(*values: float) -> Callable[[], np.ndarray]:
    return lambda: np.array(values)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file in which one result is kept."""
    PartialResults(tmp_path / "some.npz", WHAT)("first", numbers(1, 2))
    return tmp_path / "some.npz"


def test_what_was_found_is_not_computed_again(file: Path) -> None:
    again = PartialResults(file, WHAT)
    np.testing.assert_array_equal(again("first", numbers(0)), [1, 2])
    np.testing.assert_array_equal(again("second", numbers(3)), [3])
    np.testing.assert_array_equal(PartialResults(file, WHAT)("second", numbers(0)), [3])
    assert [path.name for path in file.parent.iterdir()] == ["some.npz"]
    again.delete()
    assert not file.exists()


@pytest.mark.parametrize("other", [WHAT | {"plan": "99 draws"}, WHAT | {"params": WHAT["params"].at[5000].add(1)}])
def test_what_was_found_of_anything_else_is_not_taken(file: Path, other: dict) -> None:
    np.testing.assert_array_equal(PartialResults(file, other)("first", numbers(0)), [0])


@pytest.mark.parametrize("content", [b"", b"PK", b"nothing of the kind", b"\x93NUMPY"])
def test_a_damaged_file_is_written_anew(file: Path, content: bytes) -> None:
    for damaged in (content, file.read_bytes()[:-40]):
        file.write_bytes(damaged)
        np.testing.assert_array_equal(PartialResults(file, WHAT)("first", numbers(0)), [0])
        np.testing.assert_array_equal(PartialResults(file, WHAT)("first", numbers(1)), [0])


def test_nothing_need_be_kept() -> None:
    kept = PartialResults(None, WHAT)
    np.testing.assert_array_equal(kept("first", numbers(1)), [1])
    kept.delete()
