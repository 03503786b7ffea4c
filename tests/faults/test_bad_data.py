"""Files of images that declare what they do not hold, or would grow to more than the memory."""

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import assert_refused

from flax_vae import Config, fit
from flax_vae.cli.main import main
from flax_vae.data.sources.fashion_mnist import FILES
from flax_vae.evaluation.evaluate import evaluate
from flax_vae.evaluation.plan import Plan

pytestmark = pytest.mark.quick_compile

PIXELS = bytes(4 * 28 * 28)


def npy(shape: object, content: bytes = PIXELS, kind: str = "|u1", version: int = 1) -> bytes:
    """A .npy file whose header says what it is told to."""
    header = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes((version, 0)) + length + header + content


def npz(compression: int = zipfile.ZIP_STORED, **files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, each in files.items():
            archive.writestr(f"{name}.npy", each)
    return content.getvalue()


def marked(archive: bytes, local: int, central: int, value: int) -> bytes:
    """An archive with a byte changed in both headers of its one file."""
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
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("name", DECLARED)
def test_what_a_header_declares_has_to_be_there(
    name: str, command: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    content, message = DECLARED[name]
    Path(name).write_bytes(content)
    assert_refused(main, command(name), message, capsys)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("kind", ["bomb.npz", "sparse.npy"])
def test_what_would_fill_the_memory(
    kind: str, command: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a machine with less of it than there is here."""
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
def test_a_folder_that_would_fill_the_memory(
    side: int, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photos").mkdir()
    for number in range(40):
        Image.new("L", (side, side)).save(f"photos/{number}.png")
    monkeypatch.setattr("flax_vae.system.memory.free_memory", lambda: 2**24)
    message = "40 images of 500 x 500 x 3: 28 MiB of memory are needed, and 16 are free: use fewer images, or a smaller"
    assert_refused(main, [*COMMANDS["train"]("photos"), *words], f"{message} --image-size.", capsys)


def test_an_idx_file_that_grows_without_end(capsys: pytest.CaptureFixture[str]) -> None:
    for name in FILES["train"]:
        head = bytes((0, 0, 8, 3 if "images" in name else 1))
        Path(f"{name}.gz").write_bytes(gzip.compress(head + bytes(2**27), 1))
    words = ["train", "--data-dir", ".", "--out", "run"]
    said = "train-images-idx3-ubyte.gz: truncated: 67,108,864 bytes do not match its header"
    assert_refused(main, words, said, capsys)


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("classes", [1, 2])
def test_an_evaluation_leaves_out_what_few_labels_do_not_tell(
    classes: int, images: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels of one class, or fewer labelled images than the ten neighbours that are asked for theirs."""
    labels = np.arange(len(images)) % classes
    np.savez("few.npz", x_train=images[:6], y_train=labels[:6], x_test=images[6:], y_test=labels[6:])
    run = fit(Config(preset="tutorial_dense(features=(8,))", dataset="few.npz", epochs=1), tmp_path / "run")
    capsys.readouterr()
    found = evaluate(run.name, Plan(num_samples=(2,), num_images=2))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Left out: ")]
    if classes == 1:
        assert found["accuracy"] is found["frechet"] is None
        assert len(said) == 1
        assert "which need training images of two classes" in said[0]
    else:
        assert 0 <= found["accuracy"]["nearest_neighbours"] <= 1
        assert not said
