"""What every source of images comes down to: uint8 pixels, labels, and a note of where they came from."""

import hashlib
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, UInt8

from flax_vae.batches import OnDisk, StoredImages
from flax_vae.parts import Parts
from flax_vae.system.console import progress
from flax_vae.system.errors import UserError
from flax_vae.system.memory import require_memory

SOURCES = Parts("dataset", supplied=("split", "data_dir"))  # image sets with a loader of their own


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images as stored, 0 to 255, with what is known about them.

    `provenance` is made of JSON's types: `name`, `source` in words, `number`, `shape` (h, w, c) and `sha256`, and
    `subset` for the bundled part of Fashion-MNIST. `sha256` is that of the images written as one IDX file, header and
    pixels, so it covers their shape as well, and for Fashion-MNIST it is the sum of the published file. `factors` are
    what images were drawn from, where that is known: a column for each name, a value's index in each row.
    """

    images: StoredImages
    labels: Int32[np.ndarray, " n"] | None
    class_names: tuple[str, ...] | None
    name: str
    provenance: dict[str, Any]
    factors: Int32[np.ndarray, "n f"] | None = None
    factor_names: tuple[str, ...] | None = None


def image_data(
    images: StoredImages,
    labels: np.ndarray | None,
    class_names: tuple[str, ...] | None,
    name: str,
    source: str,
    sha256: str | None = None,
    **more: Any,
) -> ImageData:
    """The images with their provenance; `more` is added to it, and the sum of the images where it is not given.

    Raises:
        UserError: a label that is negative or beyond int32.
    """
    if labels is not None and len(labels) and not 0 <= labels.min() <= labels.max() <= np.iinfo(np.int32).max:
        raise UserError(
            f"{name}: labels from {labels.min()} to {labels.max()}; number the classes from 0, or leave the labels out"
        )
    provenance = {"name": name, "source": source, "number": len(images), "shape": list(images.shape[1:])}
    provenance |= {"sha256": sha256 or idx_sha256(np.asarray(images)), **more}
    return ImageData(images, None if labels is None else labels.astype(np.int32), class_names, name, provenance)


def idx_header(shape: tuple[int, ...]) -> bytes:
    """The header of an IDX file of bytes: two zeros, the type 8, the rank, the dimensions as big-endian integers."""
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape)


def idx_sha256(array: UInt8[np.ndarray, "..."]) -> str:
    """Sha256 of the array written as an IDX file; a single channel is no dimension there."""
    digest = idx_digest(array.shape)
    digest.update(np.ascontiguousarray(array).reshape(-1).data)
    return digest.hexdigest()


def idx_digest(shape: tuple[int, ...]) -> Any:
    """The sum of an array of this shape, to be updated with its contents."""
    return hashlib.sha256(idx_header(shape[:-1] if len(shape) == 4 and shape[-1] == 1 else shape))


def pixel_size(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """(height, width) of a side, or of both; None if none is asked for.

    Raises:
        UserError: no pixel is left.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if size is not None and min(size) < 1:
        raise UserError(f"image size {image_size}: at least one pixel each way is needed")
    return size


def resize(image: UInt8[np.ndarray, "h w c"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 c"]:
    """The image at another (height, width): bicubic, with antialiasing where it shrinks (Pillow)."""
    from PIL import Image

    if image.shape[:2] == size:
        return image
    planes = [Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(image.shape[-1])]
    return np.stack([np.asarray(plane.resize(size[::-1], Image.Resampling.BICUBIC)) for plane in planes], axis=-1)


def resize_all(images: StoredImages, size: tuple[int, int] | None) -> UInt8[np.ndarray | OnDisk, "n h2 w2 c"]:
    """All images at (height, width); untouched when they have it or none is asked for."""
    if size is None or images.shape[1:3] == size:
        return images
    _refuse_larger(len(images), (*size, images.shape[-1]))
    resized = (resize(image, size) for image in np.asarray(images))
    return np.stack(list(progress(resized, len(images), "Resizing images")))


def stack(
    named_images: Iterable[tuple[str, UInt8[np.ndarray, "_h _w _c"]]],
    wanted: Bool[np.ndarray, " n"],
    channels: int,
    size: tuple[int, int] | None,
) -> UInt8[np.ndarray, "m h w c"]:
    """Read the wanted ones of n images into one array.

    Args:
        named_images: what each is called in an error, and its pixels; a single channel fills all.
        wanted: which to keep. The others must fit as well, so that training and test part go together.
        channels: how many the result has.
        size: (height, width) to bring every image to.

    Raises:
        UserError: two images differ in size and no size is asked for.
    """
    kept: np.ndarray | None = None
    one_size, position = OneSize(size), 0
    for (name, image), keep in zip(progress(named_images, len(wanted), "Reading images"), wanted, strict=True):
        shape = one_size.of(name, image)
        if kept is None:
            _refuse_larger(len(wanted), (*shape, channels))
            kept = np.empty((np.count_nonzero(wanted), *shape, channels), np.uint8)
        if keep:
            kept[position] = resize(image, shape)
            position += 1
    assert kept is not None
    return kept


class OneSize:
    """The (height, width) that all images have, or are to be brought to."""

    def __init__(self, size: tuple[int, int] | None) -> None:
        """`size` is what they are brought to; None where they have to share their own."""
        self._given, self._shape, self._first = size, size, ""

    def of(self, name: str, image: UInt8[np.ndarray, "_h _w _c"]) -> tuple[int, int]:
        """The size for one more image.

        Raises:
            UserError: it differs from that of the first, and no size was given.
        """
        own = image.shape[0], image.shape[1]
        self._first, self._shape = self._first or name, self._shape or own
        if self._given is None and own != self._shape:
            raise UserError(
                f"Images differ in size: {self._first} is {self._shape[0]} pixels high and {self._shape[1]} wide, "
                f"{name} {own[0]} and {own[1]}; pass --image-size to bring them all to one"
            )
        return self._shape


def _refuse_larger(number: int, shape: tuple[int, ...]) -> None:
    what = f"{number:,} images of {' x '.join(map(str, shape))}"
    require_memory(number * math.prod(shape), what, "pass a smaller --image-size, or fewer images")


def nine_to_one(number: int, split: str, where: str) -> Bool[np.ndarray, " n"]:
    """Which images are of the split, for data that comes in one piece.

    A permutation of fixed seed, whatever the seed of the run, holds out a tenth of the images, one at least.
    """
    if number < 2:
        raise UserError(f"{where}: a single image; at least two are needed, one to train on and one to test with")
    held_out = _held_out(number, max(1, number // 10))
    return held_out if split == "test" else ~held_out


def _held_out(number: int, count: int) -> Bool[np.ndarray, " n"]:
    """Which of the images are the held-out ones, by a permutation of fixed seed."""
    held_out = np.zeros(number, bool)
    held_out[np.random.default_rng(0).permutation(number)[:count]] = True
    return held_out


def split_validation(data: ImageData, share: float) -> tuple[ImageData, ImageData]:
    """The training images without a share of them, and that share: the same ones whatever the seed of the run.

    Raises:
        UserError: none would be left on one side.
    """
    count = round(share * len(data.images))
    if not 0 < count < len(data.images):
        raise UserError(f"--validation {share:g} of {len(data.images)} images: each side needs one at least.")
    held_out = _held_out(len(data.images), count)

    def part(chosen: Bool[np.ndarray, " n"]) -> ImageData:
        labels, factors = (None if each is None else each[chosen] for each in (data.labels, data.factors))
        images = data.images.only(chosen) if isinstance(data.images, OnDisk) else data.images[chosen]
        return replace(data, images=images, labels=labels, factors=factors)

    return part(~held_out), part(held_out)


def one_hot(labels: Int[np.ndarray, " n"] | list[int], classes: int) -> Float[np.ndarray, "n k"]:
    """A row of zeros with a one at the label, for each label."""
    return np.eye(classes, dtype=np.float32)[labels]


def draw_binary(images: StoredImages, seed: tuple[int, int]) -> UInt8[np.ndarray, "n h w c"]:
    """Pixels of 0 and 255, drawn once with the grey value as probability of a one."""
    random, blocks = np.random.default_rng(seed), np.array_split(np.asarray(images), -(-len(images) // 1000))
    return np.concatenate([np.uint8(255) * (random.random(block.shape, np.float32) * 255 < block) for block in blocks])


def is_binary(images: StoredImages) -> bool:
    """Whether all pixels of the first images are 0 or 255."""
    return bool(np.isin(images[:1000], (0, 255)).all())
