"""Read and write image files, and sets of images with their names."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8

from flax_vae.data.arrays import open_npz, read_npy
from flax_vae.data.resizing import NamedImage, stack
from flax_vae.data.splits import log_unused
from flax_vae.system.console import log_once
from flax_vae.system.errors import UserError
from flax_vae.system.files import write_atomically

# The formats that Pillow decodes by itself, with the names of their files. Other decoders start programs.
_FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
_EXTENSIONS = frozenset(extension for extensions in _FORMATS.values() for extension in extensions)
_NAMES = "PNG, JPEG, WebP, BMP, GIF, TIFF or PPM"


def is_visible(name: str) -> bool:
    """Return False for files and folders that programs hide beside the user's own, such as `.ipynb_checkpoints`."""
    return not name.startswith(".") and name not in ("__MACOSX", "@eaDir")


def list_images(folder: Path) -> list[tuple[Path, str | None]]:
    """List the image files of a folder in order, each with its class name or None, and log the files skipped.

    Hidden files and folders are skipped without a message.

    Raises:
        UserError: the folder or a class folder holds no images, or the folder holds both images and folders.
    """
    visible = sorted(path for path in folder.iterdir() if is_visible(path.name))
    inside = [path for path in visible if path.is_file()]
    files: list[tuple[Path, str | None]] = [(path, None) for path in inside if _is_image(path)]
    classes = [path for path in visible if path.is_dir()]
    if files and classes:
        raise UserError(f"{folder} holds both images and folders ({classes[0].name}); move one of the two elsewhere.")
    for subfolder in classes:
        visible_files = sorted(_visible_files(subfolder))
        images = [path for path in visible_files if _is_image(path)]
        if not images:
            raise UserError(f"{subfolder}: an empty class folder; add {_NAMES} files, or remove it.")
        inside += visible_files
        files += [(path, subfolder.name) for path in images]
    if not files:
        raise UserError(f"{folder}: no images ({_NAMES} files); check that it is the right folder.")
    others = [str(path.relative_to(folder)) for path in inside if not _is_image(path)]
    log_unused(others, str(folder), f" (not {_NAMES})")
    return files


def _visible_files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder that are not hidden, nor in a hidden folder."""
    for path in folder.rglob("*"):
        if path.is_file() and all(map(is_visible, path.relative_to(folder).parts)):
            yield path


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _EXTENSIONS


def read_image(path: Path, lossless: bool = False) -> UInt8[np.ndarray, "h w c"]:
    """Read an image, with one channel if all of its pixels are grey: WebP stores grey images as RGB.

    Args:
        path: the file.
        lossless: refuse a file that 8-bit grey or RGB pixels cannot represent.

    Raises:
        UserError: the file is unreadable, or refused.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=tuple(_FORMATS)) as file:
            losses = _losses(file)
            if lossless and losses:
                advice = "which would be lost; save it as 8-bit grey or RGB first"
                raise UserError(f"{path} has {' and '.join(losses)}, {advice}.")
            if "several frames" in losses and file.format != "MPO":  # a JPEG to which a camera appended previews
                log_once("Of files with several frames, such as animated GIFs, only the first frame is read.")
            return _pixels(ImageOps.exif_transpose(file), path)
    except UserError:
        raise
    except Exception as error:  # decoders raise many types of error for damaged files
        raise UserError(f"{path}: not a readable image ({error}); replace or remove it.") from error


def _pixels(image: Any, path: Path) -> UInt8[np.ndarray, "h w c"]:
    """Return the pixels of a Pillow image as 8-bit grey or RGB, with transparent areas on white."""
    from PIL import Image

    if image.mode[0] in "IF":  # more than 8 bits, which Pillow would clip at 255
        return _high_bytes(np.asarray(image), path)[..., None]
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[..., None]
    rgb = np.asarray(image.convert("RGB"))
    return rgb[..., :1] if (rgb == rgb[..., :1]).all() else rgb


def _high_bytes(pixels: np.ndarray, path: Path) -> UInt8[np.ndarray, "h w"]:
    """Return the high bytes of 16-bit pixels: all that Pillow reads of 16-bit RGB.

    Raises:
        UserError: floats, or integers beyond 16 bits.
    """
    if pixels.dtype.kind == "f" or pixels.min() < 0 or pixels.max() >= 2**16:
        raise UserError(
            f"{path}: {pixels.dtype} pixels from {pixels.min():.4g} to {pixels.max():.4g}, whose scale is unknown; "
            "save it with 8 or 16 bits, in which white is 255 or 65,535."
        )
    return (pixels >> 8).astype(np.uint8)


def _losses(file: Any) -> list[str]:
    """Return the properties of an opened file that a conversion to 8-bit grey or RGB would lose."""
    # Pillow opens 16-bit RGB as RGB; the first word of the decoder's arguments is what the file holds.
    stored = [str(args[:1] if isinstance(args, tuple) else args) for *_, args in file.tile]
    features = {
        "several frames": getattr(file, "is_animated", False),
        "transparency": file.has_transparency_data,
        "more than 8 bits": file.mode[0] in "IF" or any(";16" in mode for mode in stored),
        "CMYK inks": file.mode == "CMYK",
    }
    return [name for name, present in features.items() if present]


class NamedImages(NamedTuple):
    """Images with the names, classes and labels that are written with them.

    Attributes:
        images: pixels "n h w c".
        names: the file names; empty if they come from an array.
        classes: the class name of each image, or None.
        labels: the label of each image, or None.
        array_dtype: of images from an array, the NumPy dtype of an image there, which includes its shape, such as
            "(28, 28)|b1"; else empty.
    """

    images: UInt8[np.ndarray, "n h w c"]
    names: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    labels: Shaped[np.ndarray, " n"] | None = None
    array_dtype: str = ""

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes of an array's images and labels, or nothing if they are uint8 "n h w c" and int32."""
        label = np.dtype(np.int32) if self.labels is None else self.labels.dtype
        dtypes = (self.array_dtype, label.str)
        return () if dtypes == (f"{self.images.shape[1:]}|u1", "<i4") or not self.array_dtype else dtypes

    @property
    def array(self) -> np.ndarray:
        """The images with the shape and the dtype of the array that they are from."""
        if not self.array_dtype:
            return self.images
        dtype, size = np.dtype(self.array_dtype), math.prod(self.images.shape[1:3])
        images = self.images[..., : math.prod(dtype.shape) // size]  # the other channels are copies
        return images.reshape(len(images), *dtype.shape).astype(dtype.base)


def read_images(paths: Sequence[Path], channels: int, stdin: bytes | None = None) -> NamedImages:
    """Read the images of files and folders, or of one array.

    Args:
        paths: image files, and folders of them, with subfolders as classes; or one .npy file, uint8 or bool, "n h w" or
            "n h w c"; or one .npz file with such `images` and optionally `labels`.
        channels: the number of channels of the result; grey images are repeated.
        stdin: the content of a .npy file, read for the path "-".

    Raises:
        UserError: the files are not images, or have too many channels or different sizes.
    """
    if len(paths) == 1 and (paths[0].suffix.lower() in (".npy", ".npz") or str(paths[0]) == "-"):
        return _read_array(paths[0], channels, stdin)
    files = [file for path in paths for file in _named_files(path)]
    images, _ = stack(_grey_or_rgb([path for path, _, _ in files], channels), np.ones(len(files), bool), channels, None)
    classes = tuple(name for _, _, name in files if name is not None)
    return NamedImages(images, tuple(name for _, name, _ in files), classes if len(classes) == len(files) else None)


def _named_files(path: Path) -> list[tuple[Path, str, str | None]]:
    """List the image files at a path as (path, name, class name)."""
    if path.is_dir():
        return [(file, file.relative_to(path).as_posix(), name) for file, name in list_images(path)]
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder; check the spelling.")
    if not _is_image(path):
        raise UserError(f"{path}: not images; pass {_NAMES} files, folders of them, or one .npy or .npz file.")
    return [(path, path.name, None)]


def _grey_or_rgb(paths: Sequence[Path], channels: int) -> Iterator[NamedImage]:
    for path in paths:
        image = read_image(path, lossless=True)
        if image.shape[-1] > channels:
            raise UserError(f"{path} is in colour, but the model's images are grey; convert it to grey.")
        yield str(path), image, -1


def _read_array(path: Path, channels: int, stdin: bytes | None) -> NamedImages:
    labels = None
    if path.suffix.lower() == ".npz":
        with open_npz(path) as archive:
            if "images" not in archive:
                raise UserError(f"{path} holds {', '.join(sorted(archive)) or 'nothing'}, but no array named images.")
            array, labels = archive["images"], archive.get("labels")
    else:
        array = read_npy(path, stdin)
    if array.dtype not in (np.uint8, bool) or array.ndim not in (3, 4):
        raise UserError(
            f'{path}: images must be uint8 or bool, "n h w" or "n h w c", not {array.dtype} of shape {array.shape}.'
        )
    images = array.reshape(*array.shape[:3], -1)
    if images.shape[-1] not in (1, channels):
        raise UserError(f"{path}: images of {images.shape[-1]} channels, but the model's images have {channels}.")
    images = np.repeat(images, channels // images.shape[-1], axis=-1)
    if array.dtype == bool:
        images = np.where(images, np.uint8(255), np.uint8(0))
    return NamedImages(images, labels=labels, array_dtype=f"{array.shape[1:]}{array.dtype.str}")


def write_images(out: Path, named: NamedImages) -> None:
    """Write images as one .npy or .npz file, a single image as a PNG file, or all as PNG files in a new directory."""
    from PIL import Image

    if out.suffix.lower() == ".npy":
        write_atomically(out, lambda part: np.save(part, named.array))
    elif out.suffix.lower() == ".npz":
        arrays = {"images": named.array} | ({} if named.labels is None else {"labels": named.labels})
        write_atomically(out, lambda part: np.savez_compressed(part, **arrays))  # type: ignore[arg-type]  # see its stub
    else:
        paths = [out] if out.suffix.lower() == ".png" else _paths(out, named)
        for path, image in zip(paths, named.images, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
            write_atomically(path, picture.save)


def is_one_file(out: Path) -> bool:
    """Return whether `write_images` writes one file of this name, not a directory."""
    return out.suffix.lower() in (".npy", ".npz", ".png")


def _paths(out: Path, named: NamedImages) -> list[Path]:
    """Return the paths of images by their names; no name may lead out of the directory."""
    if not named.names:
        return [out / f"{number:05}.png" for number in range(len(named.images))]
    names = [PurePosixPath(name).with_suffix(".png") for name in named.names]
    for name in names:
        if name.is_absolute() or not set(name.parts).isdisjoint(("..", "")) or "\\" in str(name) or "\0" in str(name):
            raise UserError(f"{out}: the image name {str(name)!r} leads out of that directory.")
    if len(set(names)) < len(names):
        return [out / f"{number:05}-{name.name}" for number, name in enumerate(names)]
    return [out / name for name in names]
