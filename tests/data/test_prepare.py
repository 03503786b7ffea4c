"""Prepared image sets equal the original ones, in memory and on disk, for every source."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from files import picture, save, save_arrays

from flax_vae import prepare_images
from flax_vae.batches import OnDisk
from flax_vae.cli.main import main
from flax_vae.data import load_images
from flax_vae.system.errors import UserError


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
    """Save images of which only the training images are in class folders."""
    save(root / "train/cat/0.png", picture(0))
    save(root / "test/1.png", picture(1))
    return root


def floats(root: Path) -> Path:
    np.save(root.with_suffix(".npy"), np.random.default_rng(0).random((1203, 4, 3)).astype(np.float32))
    return root.with_suffix(".npy")


def prepared(root: Path) -> Path:
    prepare_images(save_arrays(root), root)
    return root


def sprites(_: Path) -> Path:
    return Path("sprites")


SOURCES: list[Callable[[Path], Path]] = [
    classes, grey_before_colours, grey, some_classes, floats, save_arrays, prepared, sprites,
]  # fmt: skip


@pytest.fixture(autouse=True)
def few_sprites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flax_vae.data.sources.sprites.POSITIONS", 3)


@pytest.fixture(params=["in memory", "on disk"])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "on disk":
        monkeypatch.setattr("flax_vae.data.sources.prepared._MOST_IN_MEMORY", 0)
    return request.param


@pytest.mark.quick(4)
@pytest.mark.parametrize("source", SOURCES)
def test_a_prepared_set_equals_the_original(source: Callable[[Path], Path], where: str, tmp_path: Path) -> None:
    name = str(source(tmp_path / "images"))
    prepare_images(name, tmp_path / "out")
    for split in ("train", "test"):
        expected, actual = load_images(name, split), load_images(tmp_path / "out", split)
        assert isinstance(actual.x, np.ndarray if where == "in memory" else OnDisk)
        np.testing.assert_array_equal(np.asarray(actual.x), np.asarray(expected.x))
        assert (actual.labels is None) == (expected.labels is None)
        if actual.labels is not None:
            np.testing.assert_array_equal(actual.labels, expected.labels)
        assert actual.names == expected.names
        assert actual.name == "out"
        for part in ("sha256", "shape", "number"):
            assert actual.provenance[part] == expected.provenance[part]


def test_images_are_prepared_at_another_size(where: str, tmp_path: Path) -> None:
    for i in range(9):
        save(tmp_path / f"images/{i}.png", picture(i, (6 + i, 5, 3)))
    with pytest.raises(UserError, match=r"differ in size.*`image_size`"):
        prepare_images(tmp_path / "images", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    prepare_images(tmp_path / "images", tmp_path / "out", image_size=(4, 8))
    expected, actual = load_images(tmp_path / "images", image_size=(4, 8)), load_images(tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(actual.x), np.asarray(expected.x))
    assert actual.provenance["sha256"] == expected.provenance["sha256"]
    assert load_images(tmp_path / "out", image_size=(4, 8)).provenance["sha256"] == expected.provenance["sha256"]
    if where == "in memory":
        assert load_images(tmp_path / "out", image_size=3).x.shape[1:] == (3, 3, 3)
    else:
        with pytest.raises(UserError, match=r"images of 4 x 8 on disk: prepare them again with this `image_size`"):
            load_images(tmp_path / "out", image_size=3)


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


def test_a_file_that_cannot_be_written_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flax_vae.data.records.shard_path", lambda folder, split, i: folder / "none" / f"{split}-{i}")
    with pytest.raises(UserError, match=r"out cannot be written: .*No such file or directory\.$"):
        prepare_images(save_arrays(tmp_path / "images"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


_BOUNDED = """
import resource, sys
import numpy as np
from flax_vae import load_images, prepare_images

resource.setrlimit(resource.RLIMIT_DATA, (450_000_000,) * 2)  # half of it is taken by the libraries
try:
    np.ones(450_000_000, np.uint8)
    sys.exit("not limited")
except MemoryError:
    pass
prepare_images("large.npy", "out")
images = load_images("out").x
taken = images[np.random.default_rng(0).permutation(len(images))[:5000]]
print(images.nbytes, taken.mean())
"""


@pytest.mark.slow
def test_a_set_larger_than_memory_is_prepared_and_read(tmp_path: Path) -> None:
    large = np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.uint8, (60_000, 64, 64, 3))
    for start in range(0, len(large), 1000):
        large[start : start + 1000] = np.arange(start, start + 1000)[:, None, None, None] % 256
    large.flush()
    limited = ["sh", "-c", 'ulimit -s 1024 && exec "$@"', "sh"]  # KiB of stack for each of many threads
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    words = [*limited, sys.executable, "-c", _BOUNDED]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    size, mean = map(float, done.stdout.split())
    assert size == 54_000 * 64 * 64 * 3
    assert abs(mean - 127.5) < 5
