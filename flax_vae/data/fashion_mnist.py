"""Fashion-MNIST from the nearest place that has it: the same verified contents from all of them but the last.

Source: Xiao, Rasul and Vollgraf (2017), "Fashion-MNIST", arXiv:1708.07747, MIT licence, Copyright (c) 2017 Zalando SE.
"""

import functools
import gzip
import hashlib
import io
import math
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from flax_vae.data import tfds_images
from flax_vae.data.images import SOURCES, ImageData, idx_header, idx_sha256, image_data
from flax_vae.data.network import check_reachable, fetch
from flax_vae.system.console import log_once
from flax_vae.system.errors import UserError

NAME = "fashion_mnist"
CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# Of the decompressed files: packagers compress them anew, which changes the sums of the .gz.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"  # where TFDS's own builder gets it
_MOST = 2**26  # bytes; the largest of these files has 47,040,016
USUAL_PLACES = (
    "/usr/share/datasets/fashion-mnist",  # Debian's dataset-fashion-mnist
    "~/.keras/datasets/fashion-mnist",  # Keras
    "data/FashionMNIST/raw",  # torchvision, with its customary root="data"
    "FashionMNIST/raw",  # torchvision, root="."
    "~/data/FashionMNIST/raw",
)
SUBSET = Path(__file__).parent / "fashion_mnist_subset"


@SOURCES.register(NAME, before_folders=True)
def load_fashion_mnist(split: str, data_dir: Path | None) -> ImageData:
    """The 28x28x1 images of the split, from the first place that has them whole.

    Args:
        split: "train" (60,000 images) or "test" (10,000).
        data_dir: a folder that is looked at first, for IDX files as they lie or in the layouts of Keras and
            torchvision; it is TFDS's `data_dir` too.

    Raises:
        UserError: data_dir does not exist, or a file in it is truncated, altered or no IDX file. Anywhere else such a
            file is named in a line and passed over.
    """
    found = None if data_dir is None else from_data_dir(data_dir, split)
    found = found or attempt(from_folder, cache_folder(), split, "cache of an earlier start")
    if found is not None:
        return found
    for place in USUAL_PLACES:
        folder = Path(place).expanduser()
        found = found or attempt(from_folder, folder, split, f"IDX files in {folder}")
    found = found or attempt(from_prepared_tfds, tfds_images.data_root(data_dir), split)
    if found is not None:
        write_cache(found, split)
        return found
    downloaded = download(URL)
    return from_subset(split, downloaded) if isinstance(downloaded, str) else downloaded[split]


def attempt(find: Callable[..., ImageData | None], *arguments: Any) -> ImageData | None:
    """What the finder finds; a damaged file in a place that nobody named is said and passed over."""
    try:
        return find(*arguments)
    except UserError as error:
        log_once(f"Passed over: {error}")
        return None


def from_data_dir(data_dir: Path, split: str) -> ImageData | None:
    """The split from the folder that the user named, in any of the layouts that Debian, Keras and torchvision have."""
    if not data_dir.is_dir():
        raise UserError(f"{data_dir}: no such folder; --data-dir names one that holds the four IDX files")
    for layout in ("", "fashion-mnist", "datasets/fashion-mnist", "FashionMNIST/raw", "raw"):
        folder = data_dir / layout
        if (found := from_folder(folder, split, f"IDX files in {folder}")) is not None:
            return found
    if not (data_dir / NAME).is_dir():
        log_once(f"{data_dir} holds no IDX files of Fashion-MNIST; looking elsewhere")
    return None


def from_folder(folder: Path, split: str, source: str) -> ImageData | None:
    """The split from the IDX files in the folder, plain or compressed; None if it has neither of them."""
    paths = [find_file(folder, name) for name in FILES[split]]
    if not any(paths):
        return None
    images, labels = (read_idx(folder, name, path) for name, path in zip(FILES[split], paths, strict=True))
    return verified(images, labels, split, source)


def find_file(folder: Path, name: str) -> Path | None:
    """The file of that name, plain or compressed."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_idx(folder: Path, name: str, path: Path | None) -> UInt8[np.ndarray, "..."]:
    """The array in the IDX file of that name, found at the path."""
    if path is None:
        raise UserError(f"{folder / name}.gz is missing, its companion is there; get it as well")
    try:
        with path.open("rb") as file:
            return parse_idx(file.read(_MOST), name, str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); mend that or move it away") from error


def parse_idx(content: bytes, name: str, where: str) -> UInt8[np.ndarray, "..."]:
    """The array in the bytes of an IDX file, gzip-compressed or not; `name` tells images from labels.

    Format: two zero bytes, 8 for unsigned bytes, the rank, the dimensions, the values.
    """
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(_MOST)  # and not all that it may grow to
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{where}: truncated or altered ({error}); get it again") from error
    rank = 3 if "images" in name else 1
    magic, start = bytes((0, 0, 8, rank)), 4 + 4 * rank
    if not magic.startswith(content[:4]):
        raise UserError(f"{where}: wrong magic number {content[:4].hex()} where {magic.hex()} is due; get it again")
    shape = struct.unpack(f">{rank}I", content[4:start].ljust(4 * rank, b"\xff"))  # a cut header asks for too much
    if len(content) != start + math.prod(shape):
        raise UserError(f"{where}: truncated: {len(content)} bytes, not those that its header promises; get it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def verified(images: np.ndarray, labels: np.ndarray, split: str, source: str) -> ImageData:
    """The arrays as ImageData, once their sums are those of Fashion-MNIST."""
    data = as_image_data(images, labels, source)
    for name, found in zip(FILES[split], (data.provenance["sha256"], idx_sha256(labels)), strict=True):
        if found != SHA256[name]:
            raise UserError(
                f"{source}: {name} is altered: sha256 {found[:8]}... instead of {SHA256[name][:8]}...; get it again"
            )
    return data


def as_image_data(images: np.ndarray, labels: np.ndarray, source: str, **more: Any) -> ImageData:
    """ImageData from the arrays of two IDX files."""
    return image_data(images[..., None], labels, CLASS_NAMES, NAME, source, **more)


def from_prepared_tfds(root: Path, split: str) -> ImageData | None:
    """The split from a set that TFDS has prepared under the root; None if there is none."""
    if not (root / NAME).is_dir():  # spares the import of TFDS
        return None
    data = tfds_images.load_prepared(NAME, split, root)
    if data is None or data.labels is None:
        return None
    # TFDS writes examples in the order of a hash of split and index. Back in the published order their sum can be
    # verified, and a run does not depend on where its images came from.
    hashes = [hashlib.md5(f"{split}{i}".encode(), usedforsecurity=False).digest() for i in range(len(data.images))]
    order = np.argsort(sorted(range(len(hashes)), key=hashes.__getitem__))
    return verified(data.images[order, ..., 0], data.labels[order].astype(np.uint8), split, f"TFDS in {root}")


@functools.cache
def download(url: str) -> dict[str, ImageData] | str:
    """Both splits from the four files at the URL, kept in the cache; or the reason why they cannot be had.

    Plain HTTP and NumPy instead of TFDS's download manager and a builder: that manager knows no time limit and retries
    for minutes, and the builder would encode 70,000 PNG images (6 to 40 seconds) to hold what the cache holds decoded.
    Asked once in a process: the test part shares the answer of the training part.
    """
    try:
        check_reachable(url)
        arrays = {name: parse_idx(fetch(f"{url}{name}.gz"), name, f"{name}.gz") for name in SHA256}
        found = {
            split: verified(arrays[images], arrays[labels], split, f"downloaded from {url}")
            for split, (images, labels) in FILES.items()
        }
    except (OSError, UserError) as error:
        return f"{url}: {error}"
    for split, data in found.items():
        write_cache(data, split)
    return found


def from_subset(split: str, reason: str) -> ImageData:
    """The part of the split that comes with the package: its first 8,000 or 2,000 images."""
    log_once(
        "WARNING: this is only the bundled subset of Fashion-MNIST, 8,000 training and 2,000 test images. "
        f"The full set was not found on this machine or the network ({reason}). To get all 70,000: "
        "`apt-get install dataset-fashion-mnist`, or a network connection or --data-dir DIR with the four IDX files."
    )
    images, labels = (read_idx(SUBSET, name, find_file(SUBSET, name)) for name in FILES[split])
    return as_image_data(images, labels, "subset bundled with flax_vae", subset=True)


def cache_folder() -> Path:
    """Where the decompressed IDX files of an earlier start lie."""
    from platformdirs import user_cache_path

    return user_cache_path("flax_vae") / NAME


def write_cache(data: ImageData, split: str) -> None:
    """Keep the split as decompressed IDX files, each whole or not there at all; a full disk is no reason to stop."""
    assert data.labels is not None
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for name, array in zip(FILES[split], (data.images[..., 0], data.labels.astype(np.uint8)), strict=True):
                temporary = Path(scratch) / name
                with temporary.open("wb") as file:
                    file.write(idx_header(array.shape))
                    file.write(np.ascontiguousarray(array).data)
                os.replace(temporary, folder / name)
    except OSError as error:
        log_once(f"No cache of Fashion-MNIST, each start will look for it again: {error}")
