"""Prepared image sets that are damaged or malicious are refused in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from refusals import assert_refused

from flax_vae import prepare_images
from flax_vae.cli.main import main
from flax_vae.data import load_images

SHAPE = (12, 8, 3)
SHARD = "train-00001.array_record"


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare a set of 36 training images in four files, ten per file, with labels."""
    folder = tmp_path_factory.mktemp("data")
    images = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), np.uint8)
    np.savez(folder / "images.npz", images=images, labels=np.arange(40) % 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax_vae.data.records._SHARD_BYTES", 10 * images[0].nbytes)
        prepare_images(folder / "images.npz", folder / "intact")
    return folder / "intact"


@pytest.fixture
def copy(intact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(intact, tmp_path / "copy")


def rewrite(path: Path, records: list[bytes], options: str = "group_size:1,uncompressed") -> None:
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()


def flip(path: Path, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(content)


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def link(path: Path) -> None:
    """Replace a file by a symlink to it outside the folder."""
    path.rename(path.parents[1] / "elsewhere")
    path.symlink_to(path.parents[1] / "elsewhere")


SIZE = 12 * 8 * 3
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no file": (lambda copy: (copy / SHARD).unlink(), f"{SHARD}: missing: prepare or download it again."),
    "an empty file": (lambda copy: (copy / SHARD).write_bytes(b""), f"{SHARD}: damaged (ArrayRecord file should be"),
    "a file that is cut": (lambda copy: cut(copy / SHARD, 0.6), f"{SHARD}: damaged ("),
    "a flipped bit in the index": (lambda copy: flip(copy / SHARD, 0.5005), f"{SHARD}: damaged ("),
    "a flipped bit in an image": (lambda copy: flip(copy / SHARD, 0.01), "copy: damaged ("),
    "a folder": (lambda copy: ((copy / SHARD).unlink(), (copy / SHARD).mkdir()), f"{SHARD}: missing"),
    "another file's images": (
        lambda copy: shutil.copy(copy / "train-00000.array_record", copy / SHARD),
        "copy: damaged (the train images differ from their checksum in prepared.json): prepare or download it again.",
    ),
    "fewer images": (
        lambda copy: rewrite(copy / SHARD, [bytes(SIZE)] * 9),
        f"{SHARD}: damaged (9 records instead of 10 images of 288 bytes)",
    ),
    "smaller images": (lambda copy: rewrite(copy / SHARD, [bytes(1)] * 10), "a record is not an image of 288 bytes"),
    "images of two sizes": (
        lambda copy: rewrite(copy / SHARD, [bytes(1), *[bytes(400)] * 9]),
        "a record is not an image of 288 bytes",
    ),
    "compressed images": (
        lambda copy: rewrite(copy / SHARD, [bytes(SIZE)] * 10, "group_size:1,brotli"),
        f"{SHARD}: damaged (its records are not single and uncompressed: group_size:1,",
    ),
    "several images in a record group": (
        lambda copy: rewrite(copy / SHARD, [bytes(SIZE)] * 10, "group_size:10,uncompressed"),
        "its records are not single and uncompressed",
    ),
    "a link to images": (lambda copy: link(copy / SHARD), f"{SHARD}: a symlink: prepare or download it again."),
    "a link to labels": (lambda copy: link(copy / "train-labels.npy"), "train-labels.npy: a symlink"),
    "a link to the description": (lambda copy: link(copy / "prepared.json"), "prepared.json: a symlink"),
    "no labels": (lambda copy: (copy / "train-labels.npy").unlink(), "train-labels.npy: missing"),
    "fewer labels": (
        lambda copy: np.save(copy / "train-labels.npy", np.zeros(35, np.int32)),
        "train-labels.npy: damaged (labels of shape (35,) and type int32 for 36 images)",
    ),
    "labels below 0": (
        lambda copy: np.save(copy / "train-labels.npy", np.arange(36, dtype=np.int32) - 1),
        "train-labels.npy: damaged (labels from -1 to 34)",
    ),
    "labels that are objects": (
        lambda copy: np.save(copy / "train-labels.npy", np.array([None] * 36), allow_pickle=True),
        "train-labels.npy: not a readable .npy file of numbers",
    ),
    "text": (lambda copy: (copy / "prepared.json").write_text("text"), "prepared.json: damaged (Expecting value"),
    "deeply nested": (lambda copy: (copy / "prepared.json").write_text("[" * 10**5), "prepared.json: damaged ("),
    "a huge file": (lambda copy: (copy / "prepared.json").write_text(" " * 2**25), "prepared.json: damaged (too"),
}  # fmt: skip
DESCRIPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "another format": ({"format": 2}, "prepared.json: format 2, but this version reads 1"),
    "no shape": ({"shape": None}, "prepared.json: damaged (shape must be height, width and channels)"),
    "a side below 0": ({"shape": [12, -8, 3]}, "prepared.json: damaged (shape must be height, width and channels)"),
    "a huge side": ({"shape": [12, 10**12, 3]}, "prepared.json: damaged (shape must be height, width and channels)"),
    "a path": ({"shape": ["..", "..", 3]}, "prepared.json: damaged (shape must be height, width and channels)"),
    "larger images": ({"shape": [120, 8, 3]}, "copy: damaged (a record is not an image of 2880 bytes)"),
    "huge files": ({"images_per_shard": 2**31 - 1}, "prepared.json: damaged (images_per_shard is out of range)"),
    "other files": ({"images_per_shard": 20}, "train-00000.array_record: damaged (10 records instead of 20 images"),
    "no splits": ({"splits": []}, "prepared.json: damaged ("),
    "too many images": (
        {"splits": {"train": {"number": 2**31 - 1, "sha256": "0" * 64, "labels": False}}},
        "train-00003.array_record: damaged (6 records instead of 10 images",
    ),
    "an unknown field of a split": ({"splits": {"train": {"path": "/etc/passwd"}}}, "prepared.json: damaged ("),
    "classes that are not names": ({"class_names": [1, 2, 3]}, "prepared.json: damaged (class_names must be strings)"),
    "fewer classes": ({"class_names": ["a", "b"]}, "train-labels.npy: damaged (labels from 0 to 2)"),
}


def assert_load_refused(message: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--preset", "tutorial_dense", "--dataset", "copy", "--epochs", "1", "--out", "run"]
    assert_refused(main, words, message, capsys)


@pytest.mark.quick(8)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused(damage: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    do, message = DAMAGE[damage]
    do(copy)
    assert_load_refused(message, capsys)


@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_a_false_description_is_refused(description: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, message = DESCRIPTIONS[description]
    content = json.loads((copy / "prepared.json").read_text())
    if isinstance(change.get("splits"), dict):
        change = {"splits": content["splits"] | change["splits"]}
    (copy / "prepared.json").write_text(json.dumps(content | change))
    assert_load_refused(message, capsys)


def test_an_intact_set_is_loaded(copy: Path) -> None:
    data = load_images(copy)
    assert data.x.shape == (36, *SHAPE)
    assert data.labels is not None
