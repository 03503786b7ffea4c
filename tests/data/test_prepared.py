"""Prepared image sets: what was prepared comes back, from memory or from disk, whatever the source."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from files import as_image, picture

from flax_vae import prepare_images
from flax_vae.batches import OnDisk
from flax_vae.cli.main import main
from flax_vae.data import ImageData, load_images, split_validation
from flax_vae.presets import channel_means
from flax_vae.system.errors import UserError


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    as_image(array).save(path)


def classes(root: Path) -> Path:
    for i in range(7):
        save(root / ("test" if i > 4 else "train") / ("dog" if i % 2 else "cat") / f"{i}.png", picture(i))
    return root


def grey_before_colours(root: Path) -> Path:
    for i in range(12):
        save(root / f"{i:02}.png", picture(i, (6, 5, 1 if i < 8 else 3)))
    return root


def grey(root: Path) -> Path:
    for i in range(12):
        save(root / f"{i:02}.png", picture(i, (6, 5, 1)))
    return root


def some_classes(root: Path) -> Path:
    """Without folders of classes among the test images."""
    save(root / "train/cat/0.png", picture(0))
    save(root / "test/1.png", picture(1))
    return root


def floats(root: Path) -> Path:
    np.save(root.with_suffix(".npy"), np.random.default_rng(0).random((1203, 4, 3)).astype(np.float32))
    return root.with_suffix(".npy")


def arrays(root: Path) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 3, 2), np.uint8)
    np.savez(root.with_suffix(".npz"), images=images, labels=np.arange(30) % 4)
    return root.with_suffix(".npz")


def prepared(root: Path) -> Path:
    prepare_images(arrays(root), root)
    return root


SOURCES: list[Callable[[Path], Path]] = [
    classes, grey_before_colours, grey, some_classes, floats, arrays, prepared, lambda _: Path("sprites"),
]  # fmt: skip


@pytest.fixture(params=["in memory", "on disk"])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "on disk":
        monkeypatch.setattr("flax_vae.data.sources.prepared._MOST_IN_MEMORY", 0)
    return request.param


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, ImageData]:
    """Images, and the same ones on disk, in nine files."""
    monkeypatch.setattr("flax_vae.data.sources.prepared._MOST_IN_MEMORY", 0)
    monkeypatch.setattr("flax_vae.data.records._SHARD_BYTES", 24 * 3)
    monkeypatch.setattr("flax_vae.data.sources.prepared._READ_BYTES", 24 * 4)
    prepare_images(arrays(tmp_path / "images"), tmp_path / "out")
    assert len(list((tmp_path / "out").glob("train-*.array_record"))) == 9
    return np.asarray(load_images(tmp_path / "images.npz").images), load_images(tmp_path / "out")


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_prepared_is_the_same_set(source: Callable[[Path], Path], where: str, tmp_path: Path) -> None:
    name = str(source(tmp_path / "images"))
    prepare_images(name, tmp_path / "out")
    for split in ("train", "test"):
        expected, found = load_images(name, split), load_images(tmp_path / "out", split)
        assert isinstance(found.images, np.ndarray if where == "in memory" else OnDisk)
        np.testing.assert_array_equal(np.asarray(found.images), np.asarray(expected.images))
        assert (found.labels is None) == (expected.labels is None)
        if found.labels is not None:
            np.testing.assert_array_equal(found.labels, expected.labels)
        assert found.class_names == expected.class_names
        assert found.name == "out"
        for part in ("sha256", "shape", "number"):
            assert found.provenance[part] == expected.provenance[part]


def test_images_are_prepared_at_another_size(where: str, tmp_path: Path) -> None:
    for i in range(9):
        save(tmp_path / f"images/{i}.png", picture(i, (6 + i, 5, 3)))
    with pytest.raises(UserError, match=r"differ in size.*`image_size`"):
        prepare_images(tmp_path / "images", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    prepare_images(tmp_path / "images", tmp_path / "out", image_size=(4, 8))
    expected, found = load_images(tmp_path / "images", image_size=(4, 8)), load_images(tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(found.images), np.asarray(expected.images))
    assert found.provenance["sha256"] == expected.provenance["sha256"]
    assert load_images(tmp_path / "out", image_size=(4, 8)).provenance["sha256"] == expected.provenance["sha256"]
    if where == "in memory":
        assert load_images(tmp_path / "out", image_size=3).images.shape[1:] == (3, 3, 3)
    else:
        with pytest.raises(UserError, match=r"images of 4 x 8 on disk: prepare them again with this `image_size`"):
            load_images(tmp_path / "out", image_size=3)


@pytest.mark.parametrize(
    "index",
    [0, -1, np.int64(5), slice(None), slice(3, 20, 4), slice(26, 2, -5), slice(4, 4), [3, 3, -27], np.array([[1, 2]]),
     np.zeros((2, 0), int), np.arange(27) % 2 == 0],
    ids=str,
)  # fmt: skip
def test_indices_of_images_on_disk_are_those_of_arrays(index: object, two: tuple[np.ndarray, ImageData]) -> None:
    array, data = two
    images = data.images
    assert isinstance(images, OnDisk)
    assert (len(images), images.shape, images.nbytes) == (len(array), array.shape, array.nbytes)
    np.testing.assert_array_equal(images[index], array[index])
    kept = np.arange(0, 54, 2) % 27
    np.testing.assert_array_equal(images.only(kept)[index], array[kept][index])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(images))[index], array[index])


def test_an_index_beyond_the_images_is_refused(two: tuple[np.ndarray, ImageData]) -> None:
    for index in (27, -28, [0, 27]):
        with pytest.raises(IndexError, match="beyond 27 images"):
            two[1].images[index]


def test_images_on_disk_are_held_out_and_averaged_as_those_in_memory(two: tuple[np.ndarray, ImageData]) -> None:
    array, data = two
    parts, expected = split_validation(data, 0.2), split_validation(replace(data, images=array), 0.2)
    for part, other in zip(parts, expected, strict=True):
        assert isinstance(part.images, OnDisk)
        np.testing.assert_array_equal(np.asarray(part.images), np.asarray(other.images))
        np.testing.assert_array_equal(part.labels, other.labels)
    assert channel_means(data.images) == channel_means(array) == tuple(array.mean((0, 1, 2)) / 255)


def test_what_needs_all_images_in_memory_says_so(
    two: tuple[np.ndarray, ImageData], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = two[1].images
    monkeypatch.setattr("flax_vae.data.sources.prepared._CHECKED", 100)
    monkeypatch.setattr("flax_vae.system.memory.free_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"27 images of .*out at once: 0 MiB of memory are needed"):
        np.asarray(images)


def test_a_preparation_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    classes(tmp_path / "images")
    (tmp_path / "images/test/dog/5.png").write_bytes(b"no image")
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for words in (
        ["images", "out"], ["images", "used"], ["images", "images/out"], ["nothing", "out"], ["nothing.npy", "out"],
        ["sprites", "out", "--image-size", "0"],
    ):  # fmt: skip
        assert main(["prepare", *words]) == 2
        assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flax_vae.data.records.shard_path", lambda folder, split, i: folder / "none" / f"{split}-{i}")
    with pytest.raises(UserError, match=r"out cannot be written: .*No such file or directory\.$"):
        prepare_images(arrays(tmp_path / "images"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


_BOUNDED = """
import resource, sys
import numpy as np
from flax_vae import load_images, prepare_images

resource.setrlimit(resource.RLIMIT_DATA, (450_000_000,) * 2)  # of which the libraries take a half
try:
    np.ones(450_000_000, np.uint8)
    sys.exit("not limited")
except MemoryError:
    pass
prepare_images("large.npy", "out")
images = load_images("out").images
taken = images[np.random.default_rng(0).permutation(len(images))[:5000]]
print(images.nbytes, taken.mean())
"""


@pytest.mark.slow
def test_a_set_larger_than_the_memory_is_prepared_and_read(tmp_path: Path) -> None:
    large = np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.uint8, (60_000, 64, 64, 3))
    for start in range(0, len(large), 1000):
        large[start : start + 1000] = np.arange(start, start + 1000)[:, None, None, None] % 256
    large.flush()
    done = subprocess.run(
        [
            "sh",
            "-c",
            'ulimit -s 1024 && exec "$@"',
            "sh",
            sys.executable,
            "-c",
            _BOUNDED,
        ],  # KiB of each of many threads
        cwd=tmp_path,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    size, mean = map(float, done.stdout.split())
    assert size == 54_000 * 64 * 64 * 3
    assert abs(mean - 127.5) < 5
