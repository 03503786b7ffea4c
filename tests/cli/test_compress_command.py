"""The commands `flax-vae compress` and `flax-vae decompress`."""

import io
import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_vae import Config, fit, load_run
from flax_vae.cli.main import main
from flax_vae.compression import Header, compress, read_header
from flax_vae.data.image_files import NamedImages, read_images

pytestmark = pytest.mark.usefixtures("without_pictures")

MODEL = "pretrained:mlp"


@pytest.fixture
def binary(images: np.ndarray) -> np.ndarray:
    """Return six real images in black and white."""
    return np.where(images[:6] > 127, np.uint8(255), np.uint8(0))


@pytest.fixture
def folder(binary: np.ndarray, tmp_path: Path) -> Path:
    """Write five of the images as files, in folders of two classes."""
    for i, image in enumerate(binary[:5]):
        path = tmp_path / "photos" / ("shoes" if i < 3 else "hats") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    return tmp_path / "photos"


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_folder_and_a_file_are_restored_with_their_names(
    folder: Path, binary: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(binary[5, ..., 0]).save(tmp_path / "one.png")
    file, out = str(tmp_path / "all.fvae"), tmp_path / "back"
    assert main(["compress", MODEL, str(folder), str(tmp_path / "one.png"), "-o", file]) == 0
    summary = capsys.readouterr().err.splitlines()[-1]  # after a progress bar, on a slow machine
    assert summary.startswith(f"6 images: {Path(file).stat().st_size:,} bytes, ")
    assert " bits per dimension; " in summary
    assert main(["decompress", MODEL, file, "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    restored = {path.relative_to(out).as_posix(): pixels(path) for path in out.rglob("*.png")}
    names = ["hats/3.png", "hats/4.png", "one.png", "shoes/0.png", "shoes/1.png", "shoes/2.png"]
    assert sorted(restored) == names
    for name in names[:2] + names[3:]:
        np.testing.assert_array_equal(restored[name], pixels(folder / name))
    np.testing.assert_array_equal(restored["one.png"], binary[5, ..., 0])


def test_a_single_image(binary: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(binary[0, ..., 0]).save(tmp_path / "one.png")
    file, back = str(tmp_path / "one.fvae"), tmp_path / "back.png"
    assert main(["compress", MODEL, str(tmp_path / "one.png"), "--out", file]) == 0
    assert main(["decompress", MODEL, file, "--out", str(back)]) == 0
    np.testing.assert_array_equal(pixels(back), binary[0, ..., 0])


@pytest.mark.parametrize("kind", ["u1", "b1"])
def test_an_array_comes_back_with_its_shape_and_dtype(kind: str, binary: np.ndarray, tmp_path: Path) -> None:
    file, back, sizes = tmp_path / "file.fvae", tmp_path / "back.npy", []
    for shape in ((28, 28), (28, 28, 1)):
        array = np.where(binary > 0, 255, 0).astype(kind).reshape(-1, *shape)
        np.save(tmp_path / "array.npy", array)
        assert main(["compress", MODEL, str(tmp_path / "array.npy"), "-o", str(file), "--overwrite"]) == 0
        assert main(["decompress", MODEL, str(file), "-o", str(back), "--overwrite"]) == 0
        restored = np.load(back)
        assert (restored.dtype, restored.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(restored, array)
        sizes.append(read_header(file.read_bytes()).dtypes)
    assert sizes == [("(28, 28)|" + kind, "<i4"), () if kind == "u1" else ("(28, 28, 1)|b1", "<i4")]


def test_files_of_usual_arrays_and_of_folders_are_those_of_earlier_versions(binary: np.ndarray, folder: Path) -> None:
    """Their header has no field that the earlier one has not."""
    run = load_run(MODEL)
    content = compress(run.model, run.params, binary)
    fields = json.loads(zlib.decompress(content[13 : 13 + int.from_bytes(content[9:13], "little")]))
    assert "dtypes" not in fields
    assert read_images([folder], 1).dtypes == ()


@pytest.mark.parametrize("array", [(4, 5), (4, 5, 1), (4, 5, 3)])
@pytest.mark.parametrize("dtype", ["u1", "b1"])
def test_grey_arrays_of_a_colour_model_come_back_grey(array: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    before = np.random.default_rng(0).integers(0, 2, (3, *array)).astype(dtype)
    labels = np.arange(3, dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=before, labels=labels)
    named = read_images([tmp_path / "images.npz"], 3)
    assert named.images.shape == (3, 4, 5, 3)
    header = Header("", "", "", (4, 5, 3), 256, 5, (3,), (0,), (), "", named.dtypes)
    assert header.dtypes == (f"{array}|{dtype}", "|u1")
    restored = NamedImages(named.images, array_dtype=header.dtypes[0]).array
    assert restored.dtype == before.dtype
    np.testing.assert_array_equal(restored, before)


@pytest.mark.parametrize(
    "dtypes",
    [
        ("(4, 5)|u1",),
        ("(4, 5)|u1", "<i8", "<i8"),
        ("(9999, 9999)|u1", "<i8"),
        ("(4, 5)|O", "<i8"),
        ("|u1", "<i8"),
        ("(4, 5)|u1", "|O"),
        ("(4, 5)|u1", "<U99999"),
        (1, 2),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_dtypes_of_a_malicious_file_are_refused(dtypes: tuple) -> None:
    with pytest.raises((ValueError, TypeError)):  # both of which are one line for users
        Header("", "", "", (4, 5, 3), 256, 5, (3,), (0,), (), "", dtypes)


@pytest.mark.slow
def test_an_array_is_piped_through(binary: np.ndarray, tmp_path: Path, clean_environment: dict[str, str]) -> None:
    """Compress and decompress in two processes. They have to round alike, so both compile as they do for users."""
    array = io.BytesIO()
    np.save(array, binary)
    program = [sys.executable, "-m", "flax_vae"]
    pipe = {"cwd": tmp_path, "capture_output": True, "timeout": 200, "env": clean_environment}
    compressed = subprocess.run([*program, "compress", MODEL, "-", "-o", "-"], input=array.getvalue(), **pipe)
    assert compressed.returncode == 0, compressed.stderr
    assert len(compressed.stdout) < 1000
    restored = subprocess.run([*program, "decompress", MODEL, "-", "-o", "-"], input=compressed.stdout, **pipe)
    assert restored.returncode == 0, restored.stderr
    np.testing.assert_array_equal(np.load(io.BytesIO(restored.stdout)), binary)


def test_info_describes_a_file(binary: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "images.npy", binary)
    file = tmp_path / "images.fvae"
    assert main(["compress", MODEL, str(tmp_path / "images.npy"), "-o", str(file)]) == 0
    assert main(["decompress", "--info", str(file)]) == 0
    description = capsys.readouterr().out
    assert "6, 28 x 28 x 1, 2 levels" in description
    assert "pretrained:mlp, checksum " in description
    assert f"{file.stat().st_size:,} bytes" in description


@pytest.mark.slow
def test_a_conditional_model_reads_labels_from_folders_and_npz_files(few_images: Path, tmp_path: Path) -> None:
    """Compress labelled images of both kinds, and restore images and labels to a .npz file."""
    config = Config(preset="tutorial_dense(features=(8,))", dataset=str(few_images), epochs=1, conditional=True,
                    likelihood="discretized_logistic")  # fmt: skip
    run = fit(config, tmp_path / "run")
    assert run.class_names == tuple("0123456789")
    named, labelled = tmp_path / "named", tmp_path / "labelled.npz"
    for label, image in zip((7, 2, 7), run.examples, strict=False):
        path = named / str(label) / f"{image.sum()}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    np.savez(labelled, images=run.examples[:3, ..., 0], labels=np.array([7, 2, 7], np.uint8))
    for source, labels in ((named, [2, 7, 7]), (labelled, [7, 2, 7])):
        file, back = str(tmp_path / "file.fvae"), tmp_path / "back.npz"
        assert main(["compress", run.name, str(source), "-o", file, "--overwrite"]) == 0
        assert main(["decompress", run.name, file, "-o", str(back), "--overwrite"]) == 0
        with np.load(back) as restored:
            assert restored["labels"].tolist() == labels
            sums = restored["images"].reshape(3, -1).sum(1)
            assert set(sums) == set(run.examples[:3].astype(np.uint64).sum((1, 2, 3)))
            if source == labelled:
                assert restored["images"].shape == (3, 28, 28)
                assert restored["labels"].dtype == np.uint8
    assert main(["compress", run.name, "-o", file, "--overwrite"]) == 0  # its test images
    assert main(["decompress", run.name, file, "-o", str(back), "--overwrite"]) == 0
    with np.load(few_images) as data, np.load(back) as restored:
        np.testing.assert_array_equal(restored["images"], data["x_test"])
        np.testing.assert_array_equal(restored["labels"], data["y_test"])


def test_bad_input_is_reported_in_one_line(
    folder: Path, binary: np.ndarray, images: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, array, cut = tmp_path / "images.fvae", tmp_path / "images.npy", tmp_path / "cut.fvae"
    np.save(array, binary)
    assert main(["compress", MODEL, str(array), "-o", str(file)]) == 0
    cut.write_bytes(file.read_bytes()[:-5])
    np.save(tmp_path / "grey.npy", images)
    np.save(tmp_path / "small.npy", binary[:, :20])
    np.save(tmp_path / "floats.npy", binary / 255)
    Image.new("RGBA", (28, 28), (255, 0, 0, 100)).save(tmp_path / "clear.png")
    Image.fromarray(np.full((28, 28), 40_000, np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "text.txt").write_text("no image")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    capsys.readouterr()
    for words, message in {
        ("compress", MODEL, "grey.npy"): "pixels are black or white, but these images have values between",
        ("compress", MODEL, "small.npy"): "The images are 20 x 28 x 1, but the model's are 28 x 28 x 1.",
        ("compress", MODEL, "floats.npy"): "images must be uint8",
        ("compress", MODEL, "clear.png"): "has transparency, which would be lost",
        ("compress", MODEL, "deep.png"): "has more than 8 bits, which would be lost",
        ("compress", MODEL, "text.txt"): "not images; pass PNG, JPEG, WebP, BMP, GIF, TIFF or PPM files",
        ("compress", MODEL, "nothing.png"): "no such file or folder",
        ("compress", MODEL, "images.npy", "-o", "no/such/place.fvae"): "is not a directory to write place.fvae to",
        ("compress", "pretrained:nobody", "images.npy"): "No pretrained model is called 'nobody'",
        ("decompress", "pretrained:mlp_vamp", "images.fvae"): "was compressed by another model, pretrained:mlp ",
        ("decompress", MODEL, "cut.fvae", "-o", "new"): "cut.fvae is damaged or truncated",
        ("decompress", MODEL, "text.txt", "-o", "new"): "text.txt is not a file that flax-vae compress wrote",
        ("decompress", MODEL, "nothing.fvae", "-o", "new"): "nothing.fvae cannot be read: No such file or directory",
        ("decompress", MODEL, "images.fvae", "-o", "full"): "full already exists",
        ("decompress", MODEL, "images.fvae", "-o", "one.png"): "can hold one image, but the file holds 6",
        ("decompress", MODEL): "needs a model and a file, or --info FILE",
    }.items():
        at = [str(tmp_path / word) if (tmp_path / word).exists() or "." in word or word in ("new", "full") else word
              for word in words]  # fmt: skip
        at = [word.replace(f"{tmp_path}/pretrained", "pretrained") for word in at]
        assert main(at) == 2, words
        err = capsys.readouterr().err
        assert message in err, (words, err)
        assert err.count("\n") == 1
    assert not (tmp_path / "new").exists()
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["mine.txt"]


def test_names_that_point_outside_the_directory_are_refused(binary: np.ndarray, tmp_path: Path) -> None:
    """Refuse names in a malicious file."""
    run = load_run(MODEL)
    for name in ("../out.png", f"{tmp_path}/out.png", "a/../../out.png"):
        (tmp_path / "file.fvae").write_bytes(compress(run.model, run.params, binary[:1], names=(name,)))
        assert main(["decompress", MODEL, str(tmp_path / "file.fvae"), "-o", str(tmp_path / "out")]) == 2
        assert sorted(path.name for path in tmp_path.iterdir()) == ["file.fvae"]
