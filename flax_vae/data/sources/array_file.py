"""Images in a .npy or .npz file."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from flax_vae.data.arrays import open_npz, read_npy
from flax_vae.data.images import ImageData, image_data, nine_to_one
from flax_vae.data.resizing import resize_all
from flax_vae.system.errors import UserError

_FLOAT_CHUNK = 1024  # images converted at a time: the floats can exceed memory


def load_arrays(path: Path, split: str, size: tuple[int, int] | None) -> ImageData:
    """Load a split of the images in a .npy or .npz file: "n h w" or "n h w c", bytes or floats in [0, 1].

    A .npz file holds `x_train`, `x_test` and optionally `y_train`, `y_test`, as in Keras; or `images` and optionally
    `labels`; or a single array. Without a test split, a tenth of the images is held out.
    """
    images, labels, is_split = _read_arrays(path, split)
    images = check_images(images, str(path))
    if labels is not None:
        labels = _check_labels(labels, len(images), str(path))
    if not is_split:
        wanted = nine_to_one(len(images), split, str(path))
        images, labels = images[wanted], None if labels is None else labels[wanted]
    return image_data(resize_all(to_bytes(images, str(path)), size), labels, None, path.stem, f"arrays in {path}")


def _read_arrays(path: Path, split: str) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """Return images, labels, and whether they are the requested split or all images."""
    if path.suffix.lower() == ".npy":
        return read_npy(path), None, False
    with open_npz(path) as archive:
        names = set(archive)
        is_split = {"x_train", "x_test"} <= names
        if is_split:
            x, y = f"x_{split}", f"y_{split}"
        elif "x_train" in names:
            x, y = "x_train", "y_train"
        else:
            x, y = next(iter(names)) if len(names) == 1 else "images", "labels"
        if x not in names:
            contents = ", ".join(sorted(names)) or "nothing"
            raise UserError(f"{path} holds {contents}; save x_train, images or a single array.")
        return archive[x], archive[y] if y in names else None, is_split


def check_images(array: np.ndarray, where: str) -> np.ndarray:
    """Return an array of images as "n h w c".

    Raises:
        UserError: the array has another rank or type, or is empty.
    """
    if array.ndim not in (3, 4):
        raise UserError(f"{where}: images of shape {array.shape}; reshape them to (n, h, w) or (n, h, w, c).")
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"{where}: images of type {array.dtype}; convert them to uint8, or to floats in [0, 1].")
    if array.size == 0:
        raise UserError(f"{where}: no images: the array has shape {array.shape}.")
    return array[..., None] if array.ndim == 3 else array


def _check_labels(labels: np.ndarray, number: int, where: str) -> np.ndarray:
    """Return the labels as "n", or raise UserError unless they are one class number per image."""
    if labels.size != number or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise UserError(
            f"{where}: labels of shape {labels.shape} and type {labels.dtype} for {number} images; "
            "save one non-negative integer per image, or no labels."
        )
    return labels.reshape(number)


def to_bytes(images: np.ndarray, where: str) -> UInt8[np.ndarray, "n h w c"]:
    """Round floats in [0, 1] to 0..255; return bytes unchanged."""
    if images.dtype == np.uint8:
        return images
    converted = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), _FLOAT_CHUNK):
        chunk = images[start : start + _FLOAT_CHUNK]
        if np.isnan(chunk).any():
            raise UserError(f"{where}: NaN among the pixels; replace them, or remove these images.")
        if chunk.min() < 0 or chunk.max() > 1:
            raise UserError(
                f"{where}: floats from {chunk.min():.4g} to {chunk.max():.4g}, outside [0, 1]; "
                "divide by the largest value, or save them as uint8."
            )
        converted[start : start + _FLOAT_CHUNK] = np.rint(chunk * 255)
    return converted
