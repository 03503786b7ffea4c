"""Batches as the model sees them: pixels in [0, 1], with contexts if the model is conditional."""

import math
from abc import ABC, abstractmethod
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from flax_vae.system.errors import UserError


class OnDisk(ABC):
    """Images read on demand: the part of the array interface that a data set larger than memory can offer."""

    shape: tuple[Any, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """The total size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        """Return the number of images."""
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, index: Any) -> np.ndarray:
        """Read the images at an integer, a slice or an array of indices into an array."""

    @abstractmethod
    def only(self, which: Any) -> "OnDisk":
        """Return the images at a mask or an array of indices, not yet read."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read all images into one array."""
        return self[:]


StoredImages = UInt8[np.ndarray | OnDisk, "n h w c"]
Images = UInt8[Array | np.ndarray | OnDisk, "b h w c"] | Float[Array | np.ndarray, "b h w c"]
# Images; for a conditional model, a pair of images and their contexts.
Batch = Images | tuple[Images, Float[Array | np.ndarray, "b v"]]


def to_unit(images: Images) -> Float[Array, "b h w c"]:
    """Convert uint8 pixels x to x / 255 in [0, 1]; floats are returned unchanged.

    Raises:
        UserError: another dtype, such as int32 or bool, whose scale is unknown.
    """
    images = jnp.asarray(images)
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(f"Images are {images.dtype}; pass uint8 from 0 to 255, or floats from 0 to 1.")
    return images


def unpack(batch: Batch) -> tuple[Float[Array, "b h w c"], Float[Array, "b v"] | None]:
    """Split a batch into pixels in [0, 1] and contexts; the contexts are None unless the batch is a pair."""
    images, context = batch if isinstance(batch, tuple) else (batch, None)
    return to_unit(images), None if context is None else jnp.asarray(context)


def batch_size_of(batch: Any) -> int:
    """Return the number of images."""
    return len(jax.tree.leaves(batch)[0])


def take(batch: Any, which: Any) -> Any:
    """Select images, and their contexts if any, by index or slice."""
    return jax.tree.map(itemgetter(which), batch)


def as_one(item: Any) -> Any:
    """Turn a single image, its context, or both into a batch of one."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], item)


def epoch_indices(num_images: int, batch_size: int, seed: int, epoch: int) -> Int[np.ndarray, "s b"]:
    """Shuffle the images for one epoch, as a function of (seed, epoch).

    The last partial batch is dropped; each epoch drops different images.

    Args:
        num_images: size of the data set.
        batch_size: images per step.
        seed: of the training.
        epoch: number of the epoch.

    Returns:
        Image indices "s b", one row per step.
    """
    steps = num_images // batch_size
    order = np.random.default_rng((seed, epoch)).permutation(num_images)
    return order[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)
