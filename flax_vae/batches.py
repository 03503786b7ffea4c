"""Batches as the model sees them: pixels in [0, 1], and contexts beside them."""

import math
from abc import ABC, abstractmethod
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8


class OnDisk(ABC):
    """Images that are read when they are asked for: what a set beyond the memory can do of what an array does."""

    shape: tuple[Any, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        """How many images there are."""
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, index: Any) -> np.ndarray:
        """Those of an integer, a slice or an array of indices, as an array."""

    @abstractmethod
    def only(self, which: Any) -> "OnDisk":
        """Those of a mask or an array of indices, still on disk."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of them."""
        return self[:]


StoredImages = UInt8[np.ndarray | OnDisk, "n h w c"]
Images = UInt8[Array | np.ndarray | OnDisk, "b h w c"] | Float[Array | np.ndarray, "b h w c"]
# Images, or the pair of images and their contexts that a conditional model takes.
Batch = Images | tuple[Images, Float[Array | np.ndarray, "b v"]]


def to_unit(images: Images) -> Float[Array, "b h w c"]:
    """Pixels as the model sees them: uint8 becomes x / 255 in [0, 1]; floats pass."""
    images = jnp.asarray(images)
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def unpack(batch: Batch) -> tuple[Float[Array, "b h w c"], Float[Array, "b v"] | None]:
    """A batch as the model sees it: pixels in [0, 1], and contexts if there are any."""
    images, context = batch if isinstance(batch, tuple) else (batch, None)
    return to_unit(images), None if context is None else jnp.asarray(context)


def batch_size_of(batch: Any) -> int:
    """How many images there are."""
    return len(jax.tree.leaves(batch)[0])


def take(batch: Any, which: Any) -> Any:
    """Some of the images, by an index or a slice, and of their contexts if there are any."""
    return jax.tree.map(itemgetter(which), batch)


def as_one(item: Any) -> Any:
    """A single image, a context or both as a batch of one."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], item)


def epoch_indices(num_images: int, batch_size: int, seed: int, epoch: int) -> Int[np.ndarray, "s b"]:
    """The shuffle of one epoch, a function of (seed, epoch): one row of image indices per step.

    The last partial batch is dropped; another epoch drops other images.
    """
    steps = num_images // batch_size
    order = np.random.default_rng((seed, epoch)).permutation(num_images)
    return order[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)
