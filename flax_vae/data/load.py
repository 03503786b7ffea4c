"""Load an image set by its name or its path."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from flax_vae.data.arrays import idx_sha256
from flax_vae.data.images import ImageData
from flax_vae.data.records import is_prepared
from flax_vae.data.resizing import pixel_size, resize_all
from flax_vae.data.sources import SOURCES
from flax_vae.data.sources.array_file import load_arrays
from flax_vae.data.sources.folder import load_folder
from flax_vae.data.sources.prepared import load_prepared
from flax_vae.data.sources.tfds import is_known, load_tfds
from flax_vae.system.errors import UserError


def load_images(
    name_or_path: str | os.PathLike[str] = "fashion_mnist",
    split: Literal["train", "test"] = "train",
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> ImageData:
    """Load one split of an image set as uint8 pixels.

    Args:
        name_or_path: "fashion_mnist" (from a cache, this machine, the network, or else the bundled subset), "sprites"
            (drawn on the fly, with their factors), the name of a TFDS image set, or a path: a folder of images, a
            folder that `flax-vae prepare` wrote, a .npy or a .npz file. A name is a path if it exists on disk, contains
            a separator, or ends in .npy or .npz; `./fashion_mnist` is a folder of that name.
        split: "train" or "test".
        data_dir: the folder of Fashion-MNIST's four IDX files, and TFDS's data directory; their default places if None.
        image_size: the side, or (height, width), in pixels, to resize every image to, with antialiasing.

    Returns:
        The images "n h w c", with labels, class names and factors if there are any. The images of a large prepared set
        stay on disk and are read by index.

    Raises:
        UserError: unknown name or path, or data that are damaged or not images.
    """
    if split not in ("train", "test"):
        raise ValueError(f"`split` must be 'train' or 'test', not {split!r}")
    size = pixel_size(image_size)
    folder = None if data_dir is None else Path(data_dir).expanduser()
    if is_source(name_or_path):
        return _resized(SOURCES.make(str(name_or_path), split=split, data_dir=folder), size)
    if is_path(name_or_path):
        return _load_path(Path(name_or_path).expanduser(), split, size)
    return load_tfds(str(name_or_path), split, folder, size)


def is_source(name_or_path: str | os.PathLike[str]) -> bool:
    """Return whether a name is a registered source. A folder of that name takes precedence, except over the default."""
    if not isinstance(name_or_path, str) or name_or_path not in SOURCES:
        return False
    return SOURCES.facts[name_or_path].get("before_folders", False) or not Path(name_or_path).exists()


def is_path(name_or_path: str | os.PathLike[str]) -> bool:
    """Return whether a name is a path; "emnist/letters", a TFDS set with its config, is one only if it exists."""
    path = Path(name_or_path).expanduser()
    if not isinstance(name_or_path, str) or path.exists() or path.suffix.lower() in (".npy", ".npz"):
        return True
    return os.sep in name_or_path and not is_known(name_or_path)


def absolute(name_or_path: str) -> str:
    """Return the name or path independent of the working directory: paths are made absolute."""
    if is_source(name_or_path) or not is_path(name_or_path):
        return name_or_path
    return str(Path(name_or_path).expanduser().absolute())


def _load_path(path: Path, split: str, size: tuple[int, int] | None) -> ImageData:
    if is_prepared(path):
        return load_prepared(path, split, size)
    if path.is_dir():
        return load_folder(path, split, size)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check the spelling.")
    if path.suffix.lower() not in (".npy", ".npz"):
        raise UserError(f"{path}: neither a folder of images nor a .npy or .npz file; choose one of these.")
    return load_arrays(path, split, size)


def _resized(data: ImageData, size: tuple[int, int] | None) -> ImageData:
    """Resize the images to (height, width); the provenance gets the checksum of the result."""
    images = resize_all(data.images, size)
    if images is data.images:
        return data
    provenance = data.provenance | {"shape": list(images.shape[1:]), "sha256": idx_sha256(np.asarray(images))}
    return replace(data, images=images, provenance=provenance)
