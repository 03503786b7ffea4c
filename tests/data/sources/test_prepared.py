"""Prepared image sets on disk: indexed, split and averaged like arrays."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from files import save_arrays

from flax_vae import prepare_images
from flax_vae.batches import OnDisk
from flax_vae.data import Examples, load_images, split_validation
from flax_vae.presets import channel_means
from flax_vae.system.errors import UserError


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, Examples]:
    """Return images in memory, and the same images on disk, in nine files."""
    monkeypatch.setattr("flax_vae.data.sources.prepared._MOST_IN_MEMORY", 0)
    monkeypatch.setattr("flax_vae.data.records._SHARD_BYTES", 24 * 3)
    monkeypatch.setattr("flax_vae.data.sources.prepared._READ_BYTES", 24 * 4)
    prepare_images(save_arrays(tmp_path / "images"), tmp_path / "out")
    assert len(list((tmp_path / "out").glob("train-*.array_record"))) == 9
    return np.asarray(load_images(tmp_path / "images.npz").x), load_images(tmp_path / "out")


@pytest.mark.parametrize(
    "index",
    [0, -1, np.int64(5), slice(None), slice(3, 20, 4), slice(26, 2, -5), slice(4, 4), [3, 3, -27], np.array([[1, 2]]),
     np.zeros((2, 0), int), np.arange(27) % 2 == 0],
    ids=str,
)  # fmt: skip
def test_images_on_disk_are_indexed_like_arrays(index: object, two: tuple[np.ndarray, Examples]) -> None:
    array, data = two
    images = data.x
    assert isinstance(images, OnDisk)
    assert (len(images), images.shape, images.nbytes) == (len(array), array.shape, array.nbytes)
    np.testing.assert_array_equal(images[index], array[index])
    kept = np.arange(0, 54, 2) % 27
    np.testing.assert_array_equal(images.only(kept)[index], array[kept][index])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(images))[index], array[index])


def test_an_index_beyond_the_images_is_refused(two: tuple[np.ndarray, Examples]) -> None:
    for index in (27, -28, [0, 27]):
        with pytest.raises(IndexError, match=r"out of bounds .* 27"):
            two[1].x[index]


def test_images_on_disk_are_split_and_averaged_like_arrays(two: tuple[np.ndarray, Examples]) -> None:
    array, data = two
    parts, expected = split_validation(data, 0.2), split_validation(replace(data, x=array), 0.2)
    for part, other in zip(parts, expected, strict=True):
        assert isinstance(part.x, OnDisk)
        np.testing.assert_array_equal(np.asarray(part.x), np.asarray(other.x))
        np.testing.assert_array_equal(part.labels, other.labels)
    assert channel_means(data.x) == channel_means(array) == tuple(array.mean((0, 1, 2)) / 255)


def test_reading_more_images_than_memory_is_refused(
    two: tuple[np.ndarray, Examples], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = two[1].x
    monkeypatch.setattr("flax_vae.data.sources.prepared._CHECKED", 100)
    monkeypatch.setattr("flax_vae.system.memory.free_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"27 images of .*out at once: 0 MiB of memory are needed"):
        np.asarray(images)
