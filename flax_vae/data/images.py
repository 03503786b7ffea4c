"""The value that every source returns, uint8 images with labels and provenance, and its split into two."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, UInt8

from flax_vae.batches import Batch, OnDisk, StoredImages
from flax_vae.data.arrays import idx_sha256
from flax_vae.system.errors import UserError
from flax_vae.system.memory import require_memory

MAX_CLASSES = 10_000  # of a conditional model


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images as stored, with labels and provenance.

    Attributes:
        images: pixels from 0 to 255, in memory or on disk.
        labels: the class of each image, or None.
        class_names: the names of the classes, or None.
        name: the name of the set in messages.
        provenance: JSON-serialisable: `name`, `source` (a description), `number`, `shape` (h, w, c) and `sha256`, and
            `subset` for the bundled part of Fashion-MNIST. `sha256` is the checksum of the images written as one IDX
            file, header and pixels, so it covers their shape; for Fashion-MNIST it is that of the published file.
        factors: the factors that generated each image if they are known, as indices of their values.
        factor_names: the names of the columns of `factors`.
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
    """Return images with their provenance.

    Args:
        images, labels, class_names, name: see `ImageData`.
        source: a description of their origin.
        sha256: the checksum of the images; computed if None.
        more: further entries of the provenance.

    Raises:
        UserError: a label is negative or exceeds int32.
    """
    if labels is not None and len(labels) and not 0 <= labels.min() <= labels.max() <= np.iinfo(np.int32).max:
        raise UserError(
            f"{name}: labels from {labels.min()} to {labels.max()}; number the classes from 0, or omit the labels."
        )
    provenance = {"name": name, "source": source, "number": len(images), "shape": list(images.shape[1:])}
    provenance |= {"sha256": sha256 or idx_sha256(np.asarray(images)), **more}
    return ImageData(images, None if labels is None else labels.astype(np.int32), class_names, name, provenance)


def as_batch(data: ImageData, class_names: tuple[str, ...]) -> Batch:
    """Return the images as a batch, for a conditional model with one-hot labels as contexts.

    Args:
        data: the images.
        class_names: the classes of a conditional model; empty for other models.

    Raises:
        UserError: labels are missing, or a label is not one of the classes.
    """
    if not class_names:
        return Batch(data.images)
    if data.labels is None:
        raise UserError(f"{data.name} has no labels, which a conditional model needs.")
    low, high, classes = data.labels.min(), data.labels.max(), len(class_names)
    if low < 0 or high >= classes:
        raise UserError(f"{data.name}: labels from {low} to {high}, but the model's classes are 0 to {classes - 1}.")
    size = 4 * len(data.labels) * classes
    require_memory(size, f"{data.name}: one-hot labels of {classes:,} classes", "train without `conditional`")
    return Batch(data.images, one_hot(data.labels, classes))


def class_names(data: ImageData) -> tuple[str, ...]:
    """Return the class names of the labels, their numbers if they have no names; empty without labels.

    Raises:
        UserError: more than `MAX_CLASSES` classes, whose one-hot labels would exhaust memory.
    """
    if data.labels is None:
        return ()
    if (count := int(data.labels.max()) + 1) > MAX_CLASSES:
        raise UserError(
            f"{data.name}: labels up to {count - 1}, but a conditional model takes at most {MAX_CLASSES:,} classes; "
            "number the classes from 0 without gaps."
        )
    return data.class_names or tuple(map(str, range(count)))


def one_hot(labels: Int[np.ndarray, " n"] | list[int], classes: int) -> Float[np.ndarray, "n k"]:
    """Return the one-hot vector of each label."""
    return np.eye(classes, dtype=np.float32)[labels]


def draw_binary(images: StoredImages, seed: tuple[int, int]) -> UInt8[np.ndarray, "n h w c"]:
    """Binarise images once: each pixel is drawn from {0, 255}, with its grey value as the probability of 255."""
    random, blocks = np.random.default_rng(seed), np.array_split(np.asarray(images), -(-len(images) // 1000))
    return np.concatenate([np.uint8(255) * (random.random(block.shape, np.float32) * 255 < block) for block in blocks])


def is_binary(images: StoredImages) -> bool:
    """Return whether all pixels of the first 1,000 images are 0 or 255."""
    return bool(np.isin(images[:1000], (0, 255)).all())


def nine_to_one(number: int, split: str, where: str) -> Bool[np.ndarray, " n"]:
    """Return the mask of a split, for a set without splits.

    A fixed permutation, independent of the run's seed, holds out a tenth of the images, at least one.

    Args:
        number: the number of images.
        split: "train" or "test".
        where: the name of the set in error messages.

    Raises:
        UserError: fewer than two images.
    """
    if number < 2:
        raise UserError(f"{where}: a single image; at least two are needed, for training and for testing.")
    held_out = _held_out(number, max(1, number // 10))
    return held_out if split == "test" else ~held_out


def _held_out(number: int, count: int) -> Bool[np.ndarray, " n"]:
    """Return a mask of `count` held-out images, by a fixed permutation."""
    held_out = np.zeros(number, bool)
    held_out[np.random.default_rng(0).permutation(number)[:count]] = True
    return held_out


def split_validation(data: ImageData, share: float) -> tuple[ImageData, ImageData]:
    """Split off a share of the training images; the split does not depend on the run's seed.

    Returns:
        The remaining training images, and the validation images.

    Raises:
        UserError: one side would be empty.
    """
    count = round(share * len(data.images))
    if not 0 < count < len(data.images):
        raise UserError(f"`validation` is {share:g}: a part of {len(data.images):,} images would be empty; change it.")
    held_out = _held_out(len(data.images), count)

    def part(mask: Bool[np.ndarray, " n"]) -> ImageData:
        labels, factors = (None if array is None else array[mask] for array in (data.labels, data.factors))
        images = data.images.only(mask) if isinstance(data.images, OnDisk) else data.images[mask]
        return replace(data, images=images, labels=labels, factors=factors)

    return part(~held_out), part(held_out)
