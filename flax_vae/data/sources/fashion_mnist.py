"""Fashion-MNIST from the nearest place that has it, verified; the last resort is a bundled subset.

Source: Xiao, Rasul and Vollgraf (2017), "Fashion-MNIST", arXiv:1708.07747, MIT licence, Copyright (c) 2017 Zalando SE.
"""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from flax_vae.data.arrays import MAX_IDX_BYTES, idx_header, idx_sha256, parse_idx
from flax_vae.data.examples import Examples, make_examples
from flax_vae.data.sources import SOURCES, tfds
from flax_vae.system.console import log_once
from flax_vae.system.errors import UserError
from flax_vae.system.files import write_atomically
from flax_vae.system.network import check_reachable, fetch

NAME = "fashion_mnist"
CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# Checksums of the decompressed files: packagers recompress the .gz files, which changes theirs.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"  # the address that TFDS's builder uses
USUAL_PLACES = (
    "/usr/share/datasets/fashion-mnist",  # Debian's dataset-fashion-mnist
    "~/.keras/datasets/fashion-mnist",  # Keras
    "data/FashionMNIST/raw",  # torchvision, with its customary root="data"
    "FashionMNIST/raw",  # torchvision, root="."
    "~/data/FashionMNIST/raw",
)
SUBSET = Path(__file__).parent / "fashion_mnist_subset"


@SOURCES.register(NAME, before_folders=True)
def load_fashion_mnist(split: str, data_dir: Path | None) -> Examples:
    """Load a split of the 28x28x1 images from the first place that has the full set.

    Args:
        split: "train" (60,000 images) or "test" (10,000).
        data_dir: a folder that is searched first, for IDX files directly in it or in the layouts of Keras and
            torchvision; also TFDS's `data_dir`.

    Raises:
        UserError: `data_dir` does not exist, or a file in it is truncated, altered or not an IDX file. Such a file
            anywhere else is reported and skipped.
    """
    data = None if data_dir is None else _from_data_dir(data_dir, split)
    data = data or _attempt(_from_folder, _cache_folder(), split, "cache of an earlier start")
    if data is not None:
        return data
    for place in USUAL_PLACES:
        data = data or _attempt(_from_folder, Path(place).expanduser(), split)
    data = data or _attempt(_from_tfds, tfds.data_root(data_dir), split)
    if data is not None:
        write_cache(data, split)
        return data
    downloaded = download(URL)
    return from_subset(split, downloaded) if isinstance(downloaded, str) else downloaded[split]


def _attempt(find: Callable[..., Examples | None], *arguments: Any) -> Examples | None:
    """Return the result of `find`; a damaged file in a default location is reported and skipped."""
    try:
        return find(*arguments)
    except UserError as error:
        log_once(f"Skipped: {error}")
        return None


def _from_data_dir(data_dir: Path, split: str) -> Examples | None:
    """Load the split from the user's folder, in any of the layouts of Debian, Keras and torchvision."""
    if not data_dir.is_dir():
        raise UserError(f"{data_dir}: no such folder; `data_dir` must hold the four IDX files.")
    for layout in ("", "fashion-mnist", "datasets/fashion-mnist", "FashionMNIST/raw", "raw"):
        if (data := _from_folder(data_dir / layout, split)) is not None:
            return data
    if not (data_dir / NAME).is_dir():
        log_once(f"{data_dir} holds no IDX files of Fashion-MNIST; searching elsewhere.")
    return None


def _from_folder(folder: Path, split: str, source: str | None = None) -> Examples | None:
    """Load the split from IDX files in a folder, plain or compressed; return None if the folder has neither file."""
    if not any(_find_file(folder, name) for name in FILES[split]):
        return None
    images, labels = (_read_idx(folder, name) for name in FILES[split])
    return _verified(images, labels, split, source or f"IDX files in {folder}")


def _find_file(folder: Path, name: str) -> Path | None:
    """Return the path of a file, plain or compressed, or None."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read_idx(folder: Path, name: str) -> UInt8[np.ndarray, "..."]:
    """Read an IDX file in a folder, plain or compressed."""
    if (path := _find_file(folder, name)) is None:
        raise UserError(f"{folder / name}.gz is missing although its companion exists; download it too.")
    try:
        with path.open("rb") as file:
            return parse_idx(file.read(MAX_IDX_BYTES), _rank(name), str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); repair or remove it.") from error


def _rank(name: str) -> int:
    return 3 if "images" in name else 1


def _verified(images: np.ndarray, labels: np.ndarray, split: str, source: str) -> Examples:
    """Return the arrays as `Examples` after verifying their checksums."""
    data = _as_examples(images, labels, source)
    for name, sha256 in zip(FILES[split], (data.provenance["sha256"], idx_sha256(labels)), strict=True):
        if sha256 != SHA256[name]:
            checksums = f"SHA-256 {sha256[:8]}... instead of {SHA256[name][:8]}..."
            raise UserError(f"{source}: {name} is altered: {checksums}; download it again.")
    return data


def _as_examples(images: np.ndarray, labels: np.ndarray, source: str, **more: Any) -> Examples:
    return make_examples(images[..., None], labels, CLASS_NAMES, NAME, source, **more)


def _from_tfds(root: Path, split: str) -> Examples | None:
    """Load the split from a set that TFDS has prepared under the root; return None without one."""
    if not (root / NAME).is_dir() or (builder := tfds.find(NAME, root)) is None:  # the first avoids importing TFDS
        return None
    data = tfds.read(builder, NAME, split, None)
    if data.labels is None:
        return None
    # TFDS stores examples in the order of a hash of split and index. In the published order their checksum can be
    # verified, and a run does not depend on the source of its images.
    hashes = [hashlib.md5(f"{split}{i}".encode(), usedforsecurity=False).digest() for i in range(len(data.x))]
    order = np.argsort(sorted(range(len(hashes)), key=hashes.__getitem__))
    return _verified(data.x[order, ..., 0], data.labels[order].astype(np.uint8), split, f"TFDS in {root}")


@functools.cache
def download(url: str) -> dict[str, Examples] | str:
    """Download both splits and cache them on disk; return the reason as a string if that fails.

    The files are fetched over plain HTTP rather than by TFDS: its download manager has no timeout and retries for
    minutes, and its builder would encode 70,000 PNG images (6 to 40 seconds). The result is cached per process, so
    that the test split reuses the answer of the training split.
    """
    try:
        check_reachable(url)
        arrays = {name: parse_idx(fetch(f"{url}{name}.gz"), _rank(name), f"{name}.gz") for name in SHA256}
        splits = {
            split: _verified(arrays[images], arrays[labels], split, f"downloaded from {url}")
            for split, (images, labels) in FILES.items()
        }
    except (OSError, UserError) as error:
        return f"{url}: {error}"
    for split, data in splits.items():
        write_cache(data, split)
    return splits


def from_subset(split: str, reason: str) -> Examples:
    """Load the bundled part of a split: its first 8,000 or 2,000 images."""
    log_once(
        "WARNING: this is only the bundled subset of Fashion-MNIST, 8,000 training and 2,000 test images. The full "
        f"set was not found on this machine or the network ({reason.removesuffix('.')}). To get all 70,000: "
        "`apt-get install dataset-fashion-mnist`, a network connection, or a data directory with the four IDX files."
    )
    images, labels = (_read_idx(SUBSET, name) for name in FILES[split])
    return _as_examples(images, labels, "subset bundled with flax_vae", subset=True)


def _cache_folder() -> Path:
    """Return the folder of the decompressed IDX files of an earlier start."""
    from platformdirs import user_cache_path

    return user_cache_path("flax_vae") / NAME


def write_cache(data: Examples, split: str) -> None:
    """Cache the split as decompressed IDX files, each written atomically; a full disk is not fatal."""
    assert data.labels is not None
    folder = _cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in zip(FILES[split], (data.x[..., 0], data.labels.astype(np.uint8)), strict=True):
            content = idx_header(array.shape) + array.tobytes()
            write_atomically(folder / name, functools.partial(Path.write_bytes, data=content))
    except (OSError, UserError) as error:
        log_once(f"Fashion-MNIST is not cached, and each start will search for it again: {error}")
