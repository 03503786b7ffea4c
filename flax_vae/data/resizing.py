"""Bring images to one size."""

import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, UInt8

from flax_vae.batches import OnDisk, StoredImages
from flax_vae.system.console import progress
from flax_vae.system.errors import UserError
from flax_vae.system.memory import require_memory


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
    named_images: Iterable[tuple[str, UInt8[np.ndarray, "_h _w _c"]]],
    wanted: Bool[np.ndarray, " n"],
    channels: int,
    size: tuple[int, int] | None,
) -> UInt8[np.ndarray, "m h w c"]:
    """Read a selection of n images into one array.

    Args:
        named_images: pairs of a name for error messages and pixels; a single channel is repeated.
        wanted: the selection. The other images must have the same size too, so that the splits fit together.
        channels: the number of channels of the result.
        size: the (height, width) to resize every image to.

    Raises:
        UserError: two images differ in size and `size` is None.
    """
    stacked: np.ndarray | None = None
    common_size, position = CommonSize(size), 0
    for (name, image), keep in zip(progress(named_images, len(wanted), "Reading images"), wanted, strict=True):
        shape = common_size.check(name, image)
        if stacked is None:
            _require_memory(len(wanted), (*shape, channels))
            stacked = np.empty((np.count_nonzero(wanted), *shape, channels), np.uint8)
        if keep:
            stacked[position] = resize(image, shape)
            position += 1
    assert stacked is not None
    return stacked


class CommonSize:
    """The common (height, width) of all images, given or taken from the first one."""

    def __init__(self, size: tuple[int, int] | None) -> None:
        """Start with the size to resize all images to; with None, all images must have the size of the first."""
        self._target, self._shape, self._first = size, size, ""

    def check(self, name: str, image: UInt8[np.ndarray, "_h _w _c"]) -> tuple[int, int]:
        """Return the common size.

        Raises:
            UserError: the image differs in size from the first one, and no size was given.
        """
        shape = image.shape[0], image.shape[1]
        self._first, self._shape = self._first or name, self._shape or shape
        if self._target is None and shape != self._shape:
            raise UserError(
                f"Images differ in size: {self._first} has height {self._shape[0]} and width {self._shape[1]}, "
                f"{name} has {shape[0]} and {shape[1]}; pass `image_size` to resize all images."
            )
        return self._shape


def _require_memory(number: int, shape: tuple[int, ...]) -> None:
    what = f"{number:,} images of {' x '.join(map(str, shape))}"
    require_memory(number * math.prod(shape), what, "use fewer images, or a smaller `image_size`")
