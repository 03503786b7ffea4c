"""Images read from files as they are, with their names, and written back: for what has to restore them."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from flax_vae.data.arrays import open_npz, read_npy
from flax_vae.data.images import stack
from flax_vae.data.own_images import EXTENSIONS, list_images, pixels
from flax_vae.system.errors import UserError
from flax_vae.system.files import write_atomically


class NamedImages(NamedTuple):
    """Images "n h w c", the names of their files if they have any, and the names of their classes or their labels."""

    images: UInt8[np.ndarray, "n h w c"]
    names: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    labels: Int[np.ndarray, " n"] | None = None


def read_images(paths: Sequence[Path], channels: int, stdin: bytes | None = None) -> NamedImages:
    """Images of files and folders, or of one array.

    Args:
        paths: PNG, JPEG and WebP files, and folders of them, folders in which are classes; or one .npy file, uint8
            "n h w" or "n h w c"; or a .npz with such `images` and perhaps `labels`.
        channels: of the result; grey images fill all.
        stdin: a .npy array, which "-" stands for.

    Raises:
        UserError: nothing of the kind, or images that do not fit.
    """
    if len(paths) == 1 and (paths[0].suffix.lower() in (".npy", ".npz") or str(paths[0]) == "-"):
        return _arrays(paths[0], channels, stdin)
    files = [found for path in paths for found in _files(path)]
    images = stack(_pixels([path for path, _, _ in files], channels), np.ones(len(files), bool), channels, None)
    classes = tuple(name for _, _, name in files if name is not None)
    return NamedImages(images, tuple(name for _, name, _ in files), classes if len(classes) == len(files) else None)


def _files(path: Path) -> list[tuple[Path, str, str | None]]:
    """Image files at a path: where each is, what it is called, and the name of its class."""
    if path.is_dir():
        return [(found, found.relative_to(path).as_posix(), name) for found, name in list_images(path)]
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder; check the spelling.")
    if path.suffix.lower() not in EXTENSIONS:
        raise UserError(f"{path}: images are PNG, JPEG or WebP files, folders of them, or one .npy or .npz file.")
    return [(path, path.name, None)]


def _pixels(paths: Sequence[Path], channels: int) -> Iterator[tuple[str, UInt8[np.ndarray, "h w c"]]]:
    for path in paths:
        image = pixels(path, exactly=True)
        if image.shape[-1] > channels:
            raise UserError(f"{path} has colours, and the model's images are grey.")
        yield str(path), image


def _arrays(path: Path, channels: int, stdin: bytes | None) -> NamedImages:
    labels = None
    if path.suffix.lower() == ".npz":
        with open_npz(path) as archive:
            if "images" not in archive:
                raise UserError(f"{path} holds {', '.join(sorted(archive)) or 'nothing'}; images are due.")
            found, labels = archive["images"], archive.get("labels")
    else:
        found = read_npy(path, stdin)
    if found.dtype != np.uint8 or found.ndim not in (3, 4):
        raise UserError(f'{path}: images are uint8, "n h w" or "n h w c", not {found.dtype} of shape {found.shape}.')
    images = found.reshape(*found.shape[:3], -1)
    if images.shape[-1] not in (1, channels):
        raise UserError(f"{path}: images of {images.shape[-1]} channels, and the model's have {channels}.")
    return NamedImages(np.repeat(images, channels // images.shape[-1], axis=-1), labels=labels)


def write_images(out: Path, found: NamedImages) -> None:
    """Write images as one .npy or .npz file, as the one PNG that there is, or as PNG files in a new directory."""
    from PIL import Image

    images = found.images
    if out.suffix.lower() == ".npy":
        write_atomically(out, lambda part: np.save(part, images))
    elif out.suffix.lower() == ".npz":
        arrays = {"images": images} | ({} if found.labels is None else {"labels": found.labels})
        write_atomically(out, lambda part: np.savez_compressed(part, **arrays))  # type: ignore[arg-type]  # see its stub
    else:
        paths = [out] if out.suffix.lower() == ".png" else _paths(out, found)
        for path, image in zip(paths, images, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path)


def is_one_file(out: Path) -> bool:
    """Whether images go into one file of this name, not into a directory."""
    return out.suffix.lower() in (".npy", ".npz", ".png")


def _paths(out: Path, found: NamedImages) -> list[Path]:
    """Where images go, by their names, none of which leads out of the directory."""
    if not found.names:
        return [out / f"{number:05}.png" for number in range(len(found.images))]
    names = [PurePosixPath(name).with_suffix(".png") for name in found.names]
    for name in names:
        if name.is_absolute() or not set(name.parts).isdisjoint(("..", "")) or "\\" in str(name) or "\0" in str(name):
            raise UserError(f"{out}: an image is called {str(name)!r}, which does not lie in that directory.")
    if len(set(names)) < len(names):
        return [out / f"{number:05}-{name.name}" for number, name in enumerate(names)]
    return [out / name for name in names]
