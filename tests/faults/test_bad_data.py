"""Image files that declare more than they hold, or would exceed memory when read, are refused."""

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from refusals import assert_refused

from flax_vae import Batch, load_run
from flax_vae.cli.main import main
from flax_vae.data.examples import make_examples
from flax_vae.data.sources.fashion_mnist import FILES
from flax_vae.evaluation.evaluate import _measure_all
from flax_vae.evaluation.figures import in_order
from flax_vae.evaluation.plan import Plan
from flax_vae.evaluation.subject import PartialResults, Subject

PIXELS = bytes(4 * 28 * 28)


def npy(shape: object, content: bytes = PIXELS, kind: str = "|u1", version: int = 1) -> bytes:
    """Return a .npy file with any header."""
    header = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes((version, 0)) + length + header + content


def npz(compression: int = zipfile.ZIP_STORED, **files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, array in files.items():
            archive.writestr(f"{name}.npy", array)
    return content.getvalue()


def marked(archive: bytes, local: int, central: int, value: int) -> bytes:
    """Change a byte in both headers of an archive's only file."""
    changed, start = bytearray(archive), archive.index(b"PK\x01\x02")
    changed[local], changed[start + central] = value, value
    return bytes(changed)


DECLARED = {
    "negative.npy": (npy((-4, 28, 28)), "its header declares uint8 of shape (-4, 28, 28), but 3,136 bytes follow"),
    "negatives.npy": (npy((-4, -28, 28)), "its header declares uint8 of shape (-4, -28, 28), but 3,136 bytes follow"),
    "endless.npy": (npy((10**12, 28, 28)), "its header declares uint8 of shape (1000000000000, 28, 28), but 3,136"),
    "overflowing.npy": (npy((10**30, 28, 28)), "but 3,136 bytes follow"),
    "longer.npy": (npy((4, 28, 28), PIXELS + b"\0"), "but 3,137 bytes follow"),
    "version.npy": (npy((4, 28, 28), version=9), "version (9, 0) of the format"),
    "nested.npy": (b"\x93NUMPY\1\0\x28\x23" + b"(" * 9000, "not a readable .npy file of numbers"),
    "objects.npy": (npy((4, 28, 28), kind="|O"), "not a readable .npy file of numbers"),
    "empty.npy": (b"", "not a readable .npy file of numbers"),
    "negative.npz": (npz(images=npy((-4, 28, 28))), "its header declares uint8 of shape (-4, 28, 28)"),
    "endless.npz": (npz(images=npy((10**12, 28, 28))), "its header declares uint8 of shape (1000000000000, 28, 28)"),
    "labels.npz": (
        npz(images=npy((4, 28, 28)), labels=npy((10**12,), bytes(32), "<i8")),
        "its header declares int64 of shape (1000000000000,), but 32 bytes follow",
    ),
    "text.npz": (npz(images=b"no array"), "not a readable .npz file of numbers"),
    "encrypted.npz": (marked(npz(images=npy((4, 28, 28))), 6, 8, 1), "is encrypted"),
    "method.npz": (marked(npz(images=npy((4, 28, 28))), 8, 10, 98), "compression method is not supported"),
    "no archive.npz": (b"PK\3\4", "not a readable .npz file of numbers"),
}
COMMANDS = {
    "train": lambda path: ["train", "--preset", "tutorial_dense", "--dataset", path, "--epochs", "1", "--out", "run"],
    "compress": lambda path: ["compress", "pretrained:mlp", path, "-o", "images.fvae"],
}


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.quick(8)
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("name", DECLARED)
def test_a_header_that_declares_another_size_is_refused(
    name: str, command: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    content, message = DECLARED[name]
    Path(name).write_bytes(content)
    assert_refused(main, command(name), message, capsys)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("kind", ["bomb.npz", "sparse.npy"])
def test_a_file_larger_than_memory_is_refused(
    kind: str, command: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With 32 MiB of free memory."""
    header, size = npy((2**16, 28, 28), b""), 2**16 * 28 * 28
    if kind == "bomb.npz":
        Path(kind).write_bytes(npz(zipfile.ZIP_DEFLATED, images=header + bytes(size)))
    else:
        with Path(kind).open("wb") as file:
            file.write(header)
            file.truncate(len(header) + size)
    monkeypatch.setattr("flax_vae.system.memory.free_memory", lambda: 2**25)
    what = "bomb.npz: images" if kind == "bomb.npz" else kind
    assert_refused(main, command(kind), f"{what}: 49 MiB of memory are needed, and 32 are free: save fewer", capsys)


@pytest.mark.parametrize(("side", "words"), [(500, []), (10, ["--image-size", "500"])], ids=["as they are", "resized"])
def test_a_folder_larger_than_memory_is_refused(
    side: int, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photos").mkdir()
    for number in range(40):
        Image.new("L", (side, side), "white").save(f"photos/{number}.png")
    monkeypatch.setattr("flax_vae.system.memory.free_memory", lambda: 2**24)
    message = "40 images of 500 x 500 x 3: 28 MiB of memory are needed, and 16 are free: use fewer images, or a smaller"
    assert_refused(main, [*COMMANDS["train"]("photos"), *words], f"{message} --image-size.", capsys)


def test_an_idx_file_that_decompresses_without_end_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = FILES["train"]
    Path(f"{images}.gz").write_bytes(gzip.compress(bytes((0, 0, 8, 3)) + bytes(2**26), 1))
    Path(labels).write_bytes(bytes((0, 0, 8, 1)))
    words = ["train", "--data-dir", ".", "--out", "run"]
    message = "train-images-idx3-ubyte.gz: truncated: 67,108,864 bytes do not match its header"
    assert_refused(main, words, message, capsys)


@pytest.mark.quick(1)
@pytest.mark.parametrize("classes", [1, 2])
def test_an_evaluation_omits_metrics_that_need_more_labels(
    classes: int, images: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels of one class, or fewer labelled images than the ten neighbours of k-NN."""
    labels = np.arange(len(images)) % classes
    train, test = (
        make_examples(images[part], labels[part], None, "few", "tests") for part in (slice(6), slice(6, None))
    )
    plan, results = Plan(num_samples=(2,), num_images=2), PartialResults(None, {})
    keys = dict.fromkeys(("elbo", "samples"), jax.random.key(0))
    subject = Subject(load_run("pretrained:mlp"), plan, train, test, Batch(test.x), np.arange(2), None, keys, results)
    names = ("elbo", "latent_dim", "active_units", "dimension_rates", "layer_rates", "accuracy", "frechet")
    metrics = [name for name in in_order() if name in names]
    monkeypatch.setattr("flax_vae.evaluation.evaluate.in_order", lambda: metrics)
    record = _measure_all(subject)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Left out ")]
    if classes == 1:
        assert record["accuracy"] is record["frechet"] is None
        assert len(lines) == 1
        assert "labels of one class only" in lines[0]
    else:
        assert 0 <= record["accuracy"]["nearest_neighbours"] <= 1
        assert not lines
