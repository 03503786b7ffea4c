"""Real files with random damage: every reader reads them, or reports in one line what is wrong.

500 cases by default; `FLAX_VAE_FUZZ=10000 pytest tests/faults/test_fuzz.py` tries 10,000.
"""

import gzip
import json
import os
import struct
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image

from flax_vae import Config, UserError, init, load_images, prepare_images
from flax_vae.compression import container
from flax_vae.data.arrays import idx_header, open_npz, parse_idx, read_npy
from flax_vae.export.directory import verify_export
from flax_vae.runs.config_file import read_config, write_config
from flax_vae.runs.directory import RunDirectory
from flax_vae.runs.models import make_model
from flax_vae.runs.run import PRETRAINED, read_files

CASES = int(os.environ.get("FLAX_VAE_FUZZ", "500"))
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 1), np.uint8)
NUMBERS = [-1, 0, 1, 2**31, 2**63, 10**12, 10**400, 1e308, "", "x", None, True, [], {}, [[[1]]], {"a": 1}]


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw the content with one to four kinds of damage."""
    result = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(result) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "repeat", "number"]))
        if kind == "cut":
            del result[at : at + draw(st.integers(1, max(len(result), 1)))]
        elif kind == "insert":
            result[at:at] = draw(st.binary(min_size=1, max_size=9))
        elif kind == "repeat":
            result[at:at] = result[at : at + draw(st.integers(1, 60))] * draw(st.integers(1, 30))
        elif kind == "number":
            size = draw(st.sampled_from([1, 2, 4, 8]))
            number = draw(st.sampled_from([0, 1, -1, 2 ** (8 * size - 1) - 1, -(2 ** (8 * size - 1))]))
            result[at : at + size] = number.to_bytes(size, draw(st.sampled_from(["little", "big"])), signed=True)
        elif result:
            result[at] ^= draw(st.integers(1, 255))
    return bytes(result)


@st.composite
def altered(draw: st.DrawFn, value: Any) -> Any:
    """Draw JSON in which a value is changed or missing."""
    if isinstance(value, dict) and value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        rest = {name: item for name, item in value.items() if name != key}
        return rest if draw(st.integers(0, 3)) == 0 else rest | {key: draw(altered(value[key]))}
    if isinstance(value, list) and value and draw(st.booleans()):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(altered(value[at])), *value[at + 1 :]]
    return draw(st.sampled_from(NUMBERS))


def saved(save: Callable[[Path], object], name: str, folder: Path) -> bytes:
    save(folder / name)
    return (folder / name).read_bytes()


def image(kind: str) -> Callable[[Path], object]:
    return lambda path: Image.fromarray(np.repeat(IMAGES[0], 3, -1)).save(path, kind)


def load_folder(path: Path) -> Any:
    return load_images(str(path.parent), "train")


def load_npz(path: Path) -> dict[str, np.ndarray]:
    with open_npz(path) as arrays:
        return {name: arrays[name] for name in arrays}


def load_metrics(path: Path) -> Any:
    run = RunDirectory(path.parent)
    return run.metrics(), run.best_step()


def prepared(path: Path) -> None:
    """Write a prepared image set that contains this file."""
    np.savez(path.parent.parent / "images.npz", images=IMAGES, labels=np.arange(5))
    prepare_images(path.parent.parent / "images.npz", path.parent)


RECORD = {"epoch": 1, "step": 12, "test_loss": 1.5, "train_loss": 2.0}
FILES: dict[str, tuple[str, Callable[[Path], object], Callable[[Path], object]]] = {
    "npy": ("a.npy", lambda path: np.save(path, IMAGES), read_npy),
    "npz": ("a.npz", lambda path: np.savez(path, images=IMAGES, labels=np.arange(5)), load_npz),
    "npz, compressed": ("a.npz", lambda path: np.savez_compressed(path, x_train=IMAGES), load_npz),
    "npz of images": (
        "a.npz",
        lambda path: np.savez(path, x_train=IMAGES, x_test=IMAGES),
        lambda path: load_images(str(path), "train"),
    ),
    "PNG": ("a.png", image("PNG"), load_folder),
    "JPEG": ("a.jpg", image("JPEG"), load_folder),
    "WebP": ("a.webp", image("WebP"), load_folder),
    "IDX": (
        "images.gz",
        lambda path: path.write_bytes(gzip.compress(idx_header((5, 4, 3)) + IMAGES.tobytes())),
        lambda path: parse_idx(path.read_bytes(), 3, str(path)),
    ),
    "config": ("config.json", lambda path: write_config(path, Config(), (28, 28, 1)), read_config),
    "metrics": ("metrics.jsonl", lambda path: path.write_text(3 * (json.dumps(RECORD) + "\n")), load_metrics),
    "export": (
        "export.json",
        lambda path: path.write_text(json.dumps({"schema": 1, "files": {"a": {"sha256": "0"}}})),
        lambda path: verify_export(path.parent),
    ),
    "description of a prepared set": ("prepared.json", prepared, load_folder),
    "records of a prepared set": ("train-00000.array_record", prepared, load_folder),
    "labels of a prepared set": ("train-labels.npy", prepared, load_folder),
}
SHARE = max(1, CASES // (len(FILES) + 4))
some_cases = settings(
    max_examples=SHARE,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def read_or_refuse(read: Callable[[Path], object], path: Path) -> None:
    """Read a file, or refuse it with a short message; no other file is written."""
    before, refused = sorted(path.parent.rglob("*")), ""
    try:
        read(path)
    except UserError as error:
        refused = str(error)
    assert len(refused) < 3000
    assert sorted(path.parent.rglob("*")) == before


@pytest.mark.quick(5)
@pytest.mark.parametrize("kind", FILES)
@pytest.mark.usefixtures("unchecked_types")
@some_cases
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(kind: str, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    name, save, read = FILES[kind]
    folder = tmp_path_factory.mktemp("fuzz") / "files"
    folder.mkdir()
    content = data.draw(damaged(saved(save, name, folder)))
    (folder / name).write_bytes(content)
    read_or_refuse(read, folder / name)


@pytest.mark.usefixtures("unchecked_types")
@some_cases
@given(data=st.data())
def test_an_altered_configuration_is_built_or_refused(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """The shapes of the model's parameters are computed as well."""
    path = tmp_path_factory.mktemp("fuzz") / "config.json"
    write_config(path, Config(preset="tutorial_dense"), (28, 28, 1))
    path.write_text(json.dumps(data.draw(altered(json.loads(path.read_text())))))

    def read(path: Path) -> None:
        config, shape = read_config(path)
        if config.levels < 5 and config.latent_dim < 10**6:  # larger ones are slow
            model = make_model(config, shape)
            jax.eval_shape(lambda: init(model, jax.random.key(0), shape, 3 * config.conditional))

    read_or_refuse(read, path)


@pytest.mark.usefixtures("unchecked_types")
@some_cases
@given(data=st.data())
def test_a_compressed_file_with_a_valid_checksum_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    """An attacker who knows the format can compute the checksum."""
    header = {
        "model": "0", "name": "m", "content": "0", "shape": [4, 3, 1], "levels": 2, "classes": 0, "counts": [1, 4],
        "filled": [9, 0], "names": [], "jax": "0",
    }  # fmt: skip
    about = zlib.compress(json.dumps(data.draw(altered(header))).encode())
    fixed = struct.pack("<8sBI", container.MAGIC, container.VERSION, data.draw(st.sampled_from([len(about), 0, 2**31])))
    content = fixed + data.draw(st.one_of(st.just(about), damaged(about))) + bytes(range(64))
    path = tmp_path_factory.mktemp("fuzz") / "a.fvae"
    path.write_bytes(content + sha256(content).digest()[:16])
    read_or_refuse(lambda path: container.read(path.read_bytes(), str(path)), path)


@pytest.mark.usefixtures("unchecked_types")
@some_cases
@given(data=st.data())
def test_a_model_in_files_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """The checksum may be valid, as in a file that was altered on purpose."""
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    content = data.draw(damaged((PRETRAINED / "tutorial_conv.safetensors").read_bytes()[:3000]))
    about = json.loads((PRETRAINED / "tutorial_conv.json").read_text())
    about = data.draw(altered(about)) if data.draw(st.booleans()) else about
    if isinstance(about, dict) and data.draw(st.booleans()):
        about["sha256"] = sha256(content).hexdigest()
    path.write_bytes(content)
    path.with_suffix(".json").write_text(json.dumps(about))
    read_or_refuse(read_files, path)


@pytest.mark.usefixtures("unchecked_types")
@some_cases
@given(data=st.data())
def test_an_altered_prepared_set_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "set" / "prepared.json"
    prepared(path)
    path.write_text(json.dumps(data.draw(altered(json.loads(path.read_text())))))
    read_or_refuse(load_folder, path)
