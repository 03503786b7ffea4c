"""Bring images to one size."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Int, UInt8

from flax_vae.batches import OnDisk, StoredImages
from flax_vae.system.console import progress
from flax_vae.system.errors import UserError
from flax_vae.system.memory import require_memory

NamedImage = tuple[str, UInt8[np.ndarray, "_h _w _c"], int]  # a name for error messages, pixels, a label or -1
Resize = Literal["crop", "stretch"]


@dataclass(frozen=True)
class Size:
    """The size of all images, and what becomes of those of another shape.

    Attributes:
        shape: (height, width).
        resize: "crop" them to the middle, or "stretch" them.
    """

    shape: tuple[int, int]
    resize: Resize = "crop"


def make_size(image_size: int | tuple[int, int] | None, resize: Resize) -> Size | None:
    """Return the size for a side or a (height, width); None for None.

    Raises:
        UserError: a side below one pixel, or another way to resize.
    """
    if resize not in get_args(Resize):
        raise UserError(f"`resize` must be {' or '.join(get_args(Resize))}, not {resize}.")
    shape = (image_size, image_size) if isinstance(image_size, int) else image_size
    if shape is not None and min(shape) < 1:
        raise UserError(f"`image_size` must be at least one pixel, not {image_size}.")
    return None if shape is None else Size(shape, resize)


def resize(image: UInt8[np.ndarray, "h w c"], size: Size) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Resize an image by Pillow's bicubic filter, which antialiases when shrinking."""
    from PIL import Image

    if image.shape[:2] == size.shape:
        return image
    planes = [Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(image.shape[-1])]
    box = _part(image.shape[0], image.shape[1], size)
    resized = [plane.resize(size.shape[::-1], Image.Resampling.BICUBIC, box) for plane in planes]
    return np.stack([np.asarray(plane) for plane in resized], axis=-1)


def _part(height: int, width: int, size: Size) -> tuple[float, float, float, float]:
    """Return the part of an image that is resized, as (left, top, right, bottom): all, or the middle."""
    new_height, new_width = size.shape
    left, top = 0.0, 0.0
    if size.resize == "crop" and width * new_height > height * new_width:
        left = (width - height * new_width / new_height) / 2
    elif size.resize == "crop":
        top = (height - width * new_height / new_width) / 2
    return left, top, width - left, height - top


def resize_all(images: StoredImages, size: Size | None) -> UInt8[np.ndarray | OnDisk, "n h2 w2 c"]:
    """Resize all images; return them unchanged if they have that size or `size` is None."""
    if size is None or images.shape[1:3] == size.shape:
        return images
    _require_memory(len(images), (*size.shape, images.shape[-1]))
    resized = (resize(image, size) for image in np.asarray(images))
    return np.stack(list(progress(resized, len(images), "Resizing images")))


def stack(
    images: Iterable[NamedImage], wanted: Bool[np.ndarray, " n"], channels: int, size: Size | None
) -> tuple[UInt8[np.ndarray, "m h w c"], Int[np.ndarray, " m"] | None]:
    """Read a selection of n images into one array.

    Args:
        images: the images; a single channel is repeated.
        wanted: the selection. The other images must have the same size too, so that the splits fit together.
        channels: the number of channels of the result.
        size: the size to bring every image to.

    Returns:
        The selected images, and their labels, or None unless all of them have labels.

    Raises:
        UserError: two images differ in size and `size` is None.
    """
    stacked: np.ndarray | None = None
    labels: list[int] = []
    sized = with_common_size(progress(images, len(wanted), "Reading images"), size)
    for (image, target, label), keep in zip(sized, wanted, strict=True):
        if stacked is None:
            _require_memory(len(wanted), (*target.shape, channels))
            stacked = np.empty((np.count_nonzero(wanted), *target.shape, channels), np.uint8)
        if keep:
            stacked[len(labels)] = resize(image, target)
            labels.append(label)
    assert stacked is not None
    return stacked, None if -1 in labels else np.array(labels)


def with_common_size(
    images: Iterable[NamedImage], size: Size | None
) -> Iterator[tuple[UInt8[np.ndarray, "_h _w _c"], Size, int]]:
    """Yield each image, its size once resized, which is `size` or that of the first image, and its label.

    Raises:
        UserError: an image differs in size from the first one, and `size` is None.
    """
    target, first = size, ""
    for name, image, label in images:
        height, width, _ = image.shape
        if target is None:
            target, first = Size((height, width)), name
        if size is None and target.shape != (height, width):
            raise UserError(
                f"Images differ in size: {first} has height {target.shape[0]} and width {target.shape[1]}, "
                f"{name} has {height} and {width}; pass `image_size` to resize all images."
            )
        yield image, target, label


def _require_memory(number: int, shape: tuple[int, ...]) -> None:
    what = f"{number:,} images of {' x '.join(map(str, shape))}"
    require_memory(number * math.prod(shape), what, "use fewer images, or a smaller `image_size`")
