"""Bring images to one size."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Bool, Int, UInt8

from flax_vae.batches import OnDisk, StoredImages
from flax_vae.system.console import progress
from flax_vae.system.errors import UserError
from flax_vae.system.memory import require_memory

NamedImage = tuple[str, UInt8[np.ndarray, "_h _w _c"], int]  # a name for error messages, pixels, a label or -1


def pixel_size(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return (height, width) for a side or a (height, width); None for None.

    Raises:
        UserError: a side below one pixel.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if size is not None and min(size) < 1:
        raise UserError(f"`image_size` must be at least one pixel, not {image_size}.")
    return size


def resize(image: UInt8[np.ndarray, "h w c"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Resize an image to (height, width) by Pillow's bicubic filter, which antialiases when shrinking."""
    from PIL import Image

    if image.shape[:2] == size:
        return image
    planes = [Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(image.shape[-1])]
    return np.stack([np.asarray(plane.resize(size[::-1], Image.Resampling.BICUBIC)) for plane in planes], axis=-1)


def resize_all(images: StoredImages, size: tuple[int, int] | None) -> UInt8[np.ndarray | OnDisk, "n h2 w2 c"]:
    """Resize all images to (height, width); return them unchanged if they have that size or `size` is None."""
    if size is None or images.shape[1:3] == size:
        return images
    _require_memory(len(images), (*size, images.shape[-1]))
    resized = (resize(image, size) for image in np.asarray(images))
    return np.stack(list(progress(resized, len(images), "Resizing images")))


def stack(
    images: Iterable[NamedImage], wanted: Bool[np.ndarray, " n"], channels: int, size: tuple[int, int] | None
) -> tuple[UInt8[np.ndarray, "m h w c"], Int[np.ndarray, " m"] | None]:
    """Read a selection of n images into one array.

    Args:
        images: the images; a single channel is repeated.
        wanted: the selection. The other images must have the same size too, so that the splits fit together.
        channels: the number of channels of the result.
        size: the (height, width) to resize every image to.

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
            _require_memory(len(wanted), (*target, channels))
            stacked = np.empty((np.count_nonzero(wanted), *target, channels), np.uint8)
        if keep:
            stacked[len(labels)] = resize(image, target)
            labels.append(label)
    assert stacked is not None
    return stacked, None if -1 in labels else np.array(labels)


def with_common_size(
    images: Iterable[NamedImage], size: tuple[int, int] | None
) -> Iterator[tuple[UInt8[np.ndarray, "_h _w _c"], tuple[int, int], int]]:
    """Yield each image, its (height, width) once resized, which is `size` or that of the first image, and its label.

    Raises:
        UserError: an image differs in size from the first one, and `size` is None.
    """
    target, first = size, ""
    for name, image, label in images:
        height, width, _ = image.shape
        if target is None:
            target, first = (height, width), name
        if size is None and target != (height, width):
            raise UserError(
                f"Images differ in size: {first} has height {target[0]} and width {target[1]}, "
                f"{name} has {height} and {width}; pass `image_size` to resize all images."
            )
        yield image, target, label


def _require_memory(number: int, shape: tuple[int, ...]) -> None:
    what = f"{number:,} images of {' x '.join(map(str, shape))}"
    require_memory(number * math.prod(shape), what, "use fewer images, or a smaller `image_size`")
