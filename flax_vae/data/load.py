"""Load an image set by its name or its path."""

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from flax_vae.calls import parse
from flax_vae.data.arrays import idx_sha256
from flax_vae.data.examples import Examples
from flax_vae.data.records import is_prepared
from flax_vae.data.resizing import Resize, Size, make_size, resize_all
from flax_vae.data.sources import SOURCES, tfds
from flax_vae.data.sources.array_file import load_arrays
from flax_vae.data.sources.folder import load_folder
from flax_vae.data.sources.in_memory import examples_of
from flax_vae.data.sources.prepared import load_prepared
from flax_vae.system.errors import UserError


def load_images(
    name_or_path: str | os.PathLike[str] = "fashion_mnist",
    split: Literal["train", "test"] = "train",
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    resize: Resize = "crop",
) -> Examples:
    """Load one split of a data set: images as uint8 pixels, or vectors, counts or views.

    Args:
        name_or_path: a source of `SOURCES`, as a name or a call, such as "fashion_mnist" (from a cache, this machine,
            the network, or else the bundled subset) or "sprites" (drawn on the fly, with their factors); a function of
            your own, "my_module:my_source(size=3)", that returns arrays or `Examples`: those of its argument `split`,
            or all of them if it has no such argument; the name of a TFDS image set; or a path: a folder of images, a
            folder that `flax-vae prepare` wrote, a .npy or a .npz file. A name is a path if it exists on disk, contains
            a separator, or ends in .npy or .npz; `./fashion_mnist` is a folder of that name.
        split: "train" or "test".
        data_dir: the folder of Fashion-MNIST's four IDX files, and TFDS's data directory; by default their usual ones.
        image_size: the side, or (height, width), in pixels, to resize every image to, with antialiasing.
        resize: "crop" images of another shape to the middle, or "stretch" them.

    Returns:
        The images "n h w c", or the vectors "n v", with labels, class names and factors if there are any; for vectors
        with NaN, also the mask of values that are not missing. The images of a large prepared set stay on disk and are
        read by index.

    Raises:
        UserError: an unknown name or path, or data that are damaged or of no supported kind.
    """
    if split not in ("train", "test"):
        raise ValueError(f"`split` must be 'train' or 'test', not {split!r}")
    size = make_size(image_size, resize)
    folder = None if data_dir is None else Path(data_dir).expanduser()
    if (path := path_of(name_or_path)) is not None:
        return _load_path(path, split, size)
    name = str(name_or_path)
    if is_own(name):
        return _load_own(name, split, folder, size)
    if is_source(name):
        return _resized(SOURCES.make(name, split=split, data_dir=folder), size)
    return tfds.read(tfds.find_or_prepare(name, folder), name, split, size)


def _load_own(name: str, split: str, data_dir: Path | None, size: Size | None) -> Examples:
    """Load a split from a function of the user's own; one without an argument `split` returns all examples."""
    call = SOURCES.read(name)
    made = SOURCES.make(call, split=split, data_dir=data_dir)
    if isinstance(made, Examples) and made.provenance:
        return _resized(made, size)
    part = None if SOURCES.accepts(call, "split") else split
    return examples_of(made, part, call.name.rpartition(":")[2], f"`dataset` {name}", size)


def is_own(name: str | os.PathLike[str]) -> bool:
    """Return True for a function of the user's own, written as `my_module:my_source` or a call of it."""
    with suppress(UserError):
        return isinstance(name, str) and parse(name).is_importable and not os.path.exists(name)
    return False


def is_source(name: str) -> bool:
    """Return True for a registered source, written as a name or a call."""
    return name.partition("(")[0].strip() in SOURCES


def path_of(name_or_path: str | os.PathLike[str]) -> Path | None:
    """Return the path of an image set, or None for the name of a registered source or of a TFDS set.

    A folder takes precedence over a source of its name, except over the default source. "emnist/letters", a TFDS set
    with its config, is a path only if it exists.
    """
    path = Path(name_or_path).expanduser()
    if not isinstance(name_or_path, str):
        return path
    if is_own(name_or_path):
        return None
    if name_or_path in SOURCES and SOURCES.facts[name_or_path].get("before_folders"):
        return None
    if path.exists() or path.suffix.lower() in (".npy", ".npz"):
        return path
    return path if os.sep in name_or_path and not tfds.is_known(name_or_path) else None


def absolute(name_or_path: str) -> str:
    """Return the name or path independent of the working directory: paths are made absolute."""
    path = path_of(name_or_path)
    return name_or_path if path is None else str(path.absolute())


def _load_path(path: Path, split: str, size: Size | None) -> Examples:
    if is_prepared(path):
        return load_prepared(path, split, size)
    if path.is_dir():
        return load_folder(path, split, size)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check the spelling.")
    if path.suffix.lower() not in (".npy", ".npz"):
        raise UserError(f"{path}: neither a folder of images nor a .npy or .npz file; choose one of these.")
    return load_arrays(path, split, size)


def _resized(data: Examples, size: Size | None) -> Examples:
    """Resize the images; the provenance gets the checksum of the result."""
    images = resize_all(data.x, size)
    if images is data.x:
        return data
    provenance = data.provenance | {"shape": list(images.shape[1:]), "sha256": idx_sha256(np.asarray(images))}
    return replace(data, x=images, provenance=provenance)
