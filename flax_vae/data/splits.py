"""Split image sets into training, validation and test images, independently of a run's seed."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from flax_vae.batches import OnDisk
from flax_vae.data.images import ImageData
from flax_vae.system.errors import UserError


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
