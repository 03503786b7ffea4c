"""Images for a VAE: Fashion-MNIST, sprites, any image set of TensorFlow Datasets, or the user's own files."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from flax_vae.batches import StoredImages
from flax_vae.data.images import (
    SOURCES,
    ImageData,
    draw_binary,
    idx_sha256,
    is_binary,
    one_hot,
    pixel_size,
    resize_all,
    split_validation,
)
from flax_vae.data.own_images import load_own
from flax_vae.data.tfds_images import is_known, load_tfds
from flax_vae.parts import import_siblings
from flax_vae.system.errors import UserError
from flax_vae.system.memory import require_memory

MAX_CLASSES = 10_000  # of a conditional model

__all__ = [
    "SOURCES",
    "ImageData",
    "absolute",
    "as_batch",
    "class_names",
    "draw_binary",
    "is_binary",
    "load_images",
    "one_hot",
    "split_validation",
]


def load_images(
    name_or_path: str | os.PathLike[str] = "fashion_mnist",
    split: Literal["train", "test"] = "train",
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> ImageData:
    """Load one split of an image set as uint8 pixels.

    Args:
        name_or_path: "fashion_mnist" (in a cache, on this machine, from the network, or else the bundled subset),
            "sprites" (drawn here, with their factors), the path of a folder of images, of one that `flax-vae prepare`
            wrote, of a .npy or a .npz file, or the name of a TFDS image set. What exists on disk, holds a separator or
            ends in .npy or .npz is a path; `./fashion_mnist` is a folder of that name.
        split: "train" or "test".
        data_dir: where Fashion-MNIST's four IDX files lie and where TFDS keeps its sets; their usual places if None.
        image_size: side, or (height, width), in pixels, to which every image is brought with antialiasing.

    Returns:
        The images, "n h w c", with labels, the names of the classes and factors where there are any. Those of a large
        prepared set stay on disk: what is asked for by indices is read.

    Raises:
        UserError: nothing of that name or path, or data that are damaged or no images, in one line that says which.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split is 'train' or 'test', not {split!r}")
    size = pixel_size(image_size)
    folder = None if data_dir is None else Path(data_dir).expanduser()
    if is_source(name_or_path):
        return resized(SOURCES.make(str(name_or_path), split=split, data_dir=folder), size)
    if is_path(name_or_path):
        return load_own(Path(name_or_path).expanduser(), split, size)
    return load_tfds(str(name_or_path), split, folder, size)


def as_batch(
    data: ImageData, class_names: tuple[str, ...]
) -> StoredImages | tuple[StoredImages, Float[np.ndarray, "n k"]]:
    """The images; for a conditional model, which has classes, a pair of them and their labels as one-hot vectors.

    Raises:
        UserError: a label that is none of the classes, or none at all.
    """
    if not class_names:
        return data.images
    if data.labels is None:
        raise UserError(f"{data.name}: a conditional model needs labels, of which there are none.")
    if not ((data.labels >= 0) & (data.labels < len(class_names))).all():
        found = f"{data.labels.min()} to {data.labels.max()}"
        raise UserError(f"{data.name}: labels from {found}, where 0 to {len(class_names) - 1} can be given to a model.")
    size, count = 4 * len(data.labels) * len(class_names), len(class_names)
    require_memory(size, f"{data.name}: labels of {count:,} classes as one-hot vectors", "train without --conditional")
    return data.images, one_hot(data.labels, len(class_names))


def class_names(data: ImageData) -> tuple[str, ...]:
    """The names of the labels' classes, their numbers where they have no others; none without labels.

    Raises:
        UserError: more than `MAX_CLASSES`, whose one-hot labels would fill the memory.
    """
    if data.labels is None:
        return ()
    if (count := int(data.labels.max()) + 1) > MAX_CLASSES:
        raise UserError(
            f"{data.name}: labels up to {count - 1}, where a conditional model takes {MAX_CLASSES:,} classes at most; "
            "number the classes from 0 without gaps."
        )
    return data.class_names or tuple(map(str, range(int(data.labels.max()) + 1)))


def is_source(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether it names an image set with a loader of its own; a folder of its name goes first, but for the default."""
    if not isinstance(name_or_path, str) or name_or_path not in SOURCES:
        return False
    return SOURCES.facts[name_or_path].get("before_folders", False) or not Path(name_or_path).exists()


def is_path(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether it is to be read as a path; "emnist/letters" is a data set with its config unless it lies on disk."""
    path = Path(name_or_path).expanduser()
    if not isinstance(name_or_path, str) or path.exists() or path.suffix.lower() in (".npy", ".npz"):
        return True
    return os.sep in name_or_path and not is_known(name_or_path)


def absolute(name_or_path: str) -> str:
    """The same data set for every working directory: a path made absolute, a name as it is."""
    if is_source(name_or_path) or not is_path(name_or_path):
        return name_or_path
    return str(Path(name_or_path).expanduser().absolute())


def resized(data: ImageData, size: tuple[int, int] | None) -> ImageData:
    """The same images at (height, width); the provenance has the sum of what is returned."""
    images = resize_all(data.images, size)
    if images is data.images:
        return data
    provenance = data.provenance | {"shape": list(images.shape[1:]), "sha256": idx_sha256(np.asarray(images))}
    return replace(data, images=images, provenance=provenance)


import_siblings(__name__, __path__)
