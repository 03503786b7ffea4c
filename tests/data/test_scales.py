"""Numbers of another scale than bytes or fractions are read as they are meant, or refused, wherever they are stored.

The kind: values that are valid pixels, but whose white is not the white of their type, so that all images are black.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from files import save
from PIL import Image

from flax_vae import prepare_images
from flax_vae.data import load_images
from flax_vae.data.image_files import read_image, read_images
from flax_vae.system.errors import UserError

MASKS = np.random.default_rng(0).integers(0, 2, (20, 5, 4), np.uint8)
DARK = np.random.default_rng(1).integers(0, 2**12, (20, 5, 4), np.uint16)


def npy(root: Path, images: np.ndarray) -> Path:
    np.save(root.with_suffix(".npy"), images)
    return root.with_suffix(".npy")


def npz(root: Path, images: np.ndarray) -> Path:
    np.savez(root.with_suffix(".npz"), x_train=images[:18], x_test=images[18:])
    return root.with_suffix(".npz")


def png(root: Path, images: np.ndarray) -> Path:
    for i, image in enumerate(images):
        save(root / f"{i:02}.png", image)
    return root


def splits(root: Path, images: np.ndarray) -> Path:
    png(root / "train", images[:18])
    png(root / "test", images[18:])
    return root


STORES = [npy, npz, png, splits]


@pytest.mark.parametrize("store", STORES)
def test_zeros_and_ones_are_black_and_white(store: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """As in dSprites and in masks; one line says so, and preparing the set gives the same images."""
    name = store(tmp_path / "masks", MASKS)
    both = [load_images(name, split).x for split in ("train", "test")]
    images = np.concatenate(both)
    assert sorted(image.tobytes() for image in images) == sorted(image.tobytes() for image in 255 * MASKS)
    assert capsys.readouterr().err.count("all pixels are 0 or 1, which is read as black and white") == 1
    prepare_images(name, tmp_path / "out")
    for split, expected in zip(("train", "test"), both, strict=True):
        np.testing.assert_array_equal(load_images(tmp_path / "out", split).x, expected)


def test_masks_are_scaled_before_they_are_resized(tmp_path: Path) -> None:
    half = np.zeros((20, 8, 8), np.uint8)
    half[:, :, 4:] = 1
    for store in (npy, png):
        small = load_images(store(tmp_path / "half", half), image_size=3).x
        np.testing.assert_allclose(small[0, 1, :, 0], [0, 127.5, 255], atol=0.5)


@pytest.mark.parametrize("store", [npy, npz])
def test_booleans_are_black_and_white(store: Callable, tmp_path: Path) -> None:
    expected = load_images(store(tmp_path / "masks", 255 * MASKS)).x
    np.testing.assert_array_equal(load_images(store(tmp_path / "masks", MASKS == 1)).x, expected)


@pytest.mark.parametrize("store", [npz, splits])
def test_the_training_images_decide(store: Callable, tmp_path: Path) -> None:
    """Dark test images stay as they are; bright ones beside training images of 0 and 1 are refused."""
    bright = MASKS * 200
    bright[18:] = MASKS[18:]
    np.testing.assert_array_equal(load_images(store(tmp_path / "a", bright), "test").x[..., 0], MASKS[18:])
    mixed = MASKS.copy()
    mixed[18:] = 200
    with pytest.raises(UserError, match="pixels up to 200, but white is 1 in the training images"):
        load_images(store(tmp_path / "b", mixed), "test")


SCALES = {
    "floats of 12 bits": (npy, DARK.astype(np.float32) / 65535, r"0\.0624 of 1"),
    "floats of nearly nothing": (npz, DARK.astype(np.float64) / 2.73e6, r"0\.0015 of 1"),
    "12 bits in 16": (png, DARK, "15 of 255, .*or 65,535 in 16 bits"),
    "8 bits in 16": (splits, DARK // 16, "0 of 255"),
    "levels from 0 to 16": (npy, (DARK // 241).astype(np.uint8), "16 of 255"),
    "black": (png, 0 * MASKS, "0 of 255"),
}


@pytest.mark.parametrize("kind", SCALES)
def test_images_whose_white_is_unknown_are_refused(kind: str, tmp_path: Path) -> None:
    store, images, line = SCALES[kind]
    name = store(tmp_path / "images", images)
    for read in (load_images, lambda name: prepare_images(name, tmp_path / "out")):
        with pytest.raises(UserError, match=f"the brightest training pixel is {line}"):
            read(name)


@pytest.mark.parametrize("store", [npy, png])
def test_dark_images_are_named(store: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The kind: values of 14 bits in 16, or of 6 in 8, which may be dark images as well."""
    images = DARK * 4 if store is png else (DARK // 64).astype(np.uint8)
    load_images(store(tmp_path / "images", images))
    assert "the brightest training pixel is 63 of 255. Unless the images are that dark, mult" in capsys.readouterr().err


def test_16_bits_become_their_high_bytes(tmp_path: Path) -> None:
    """Grey as RGB, of which Pillow reads no more; neither is taken for 8 bits where nothing may be lost."""
    values = np.array([[0, 255, 256, 511, 512, 65279, 65280, 65535]], np.uint16)
    for name in ("grey.png", "grey.tif", "grey.pgm"):
        Image.fromarray(values).save(tmp_path / name)
        assert read_image(tmp_path / name)[0, :, 0].tolist() == [0, 0, 1, 1, 2, 254, 255, 255]
    write_png_of_16_bits(tmp_path / "rgb.png", np.stack([values, values[:, ::-1], values], axis=-1))
    assert read_image(tmp_path / "rgb.png")[0, :, 0].tolist() == [0, 0, 1, 1, 2, 254, 255, 255]
    for name in ("grey.png", "grey.tif", "rgb.png"):
        with pytest.raises(UserError, match="more than 8 bits"):
            read_images([tmp_path / name], 3)


def write_png_of_16_bits(path: Path, pixels: np.ndarray) -> None:
    """Write RGB of 16 bits, which Pillow does not."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


@pytest.mark.parametrize(
    "pixels", [np.float32([[0, 0.5, 1]]), np.int32([[0, 7, 2**20]]), np.int32([[-1, 0, 9]])], ids=str
)
def test_image_files_of_other_numbers_are_refused(pixels: np.ndarray, tmp_path: Path) -> None:
    """Pillow would clip them to 0 and 255, or to black."""
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(
        UserError, match=r"a\.tif: (float|int)32 pixels from .*, whose scale is unknown; save it with 8"
    ):
        read_image(tmp_path / "a.tif")


def test_floats_around_zero_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"floats from -1 to 1, outside \[0, 1\]; .*from \[-1, 1\] by \(x \+ 1\) / 2"):
        load_images(npy(tmp_path / "images", 2.0 * MASKS - 1))
