"""Batches as the model sees them: pixels in [0, 1], with contexts if the model is conditional."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import update_wrapper
from inspect import signature
from operator import itemgetter
from typing import Any, TypeVar

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
Function = TypeVar("Function", bound=Callable[..., Any])


def to_unit(images: Images) -> Float[Array, "b h w c"]:
    """Convert uint8 pixels x to x / 255 in [0, 1]; floats are returned unchanged.

    Raises:
        UserError: not an array, or another dtype, such as int32 or bool, whose scale is unknown.
    """
    if isinstance(images, dict):
        raise UserError(f"Images are a dictionary of {', '.join(map(str, images))}; pass one array.")
    images = jnp.asarray(images)
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255
    if not jnp.issubdtype(images.dtype, jnp.floating):
        advice = "x.astype(np.float32)" if images.dtype == bool else "uint8 from 0 to 255, or floats from 0 to 1"
        raise UserError(f"Images are {images.dtype}; pass {advice}.")
    return images


def refuse_outside(batch: Any, model: Any) -> None:
    """Raise UserError for NumPy floats that the likelihood of a model does not take.

    Without a likelihood of this package, all finite numbers pass.
    """
    x = batch[0] if isinstance(batch, tuple) else batch
    if not (isinstance(x, np.ndarray) and np.issubdtype(x.dtype, np.floating) and x.size):
        return
    low, high = getattr(getattr(model, "likelihood", None), "support", (-math.inf, math.inf))
    smallest, largest = x.min(), x.max()  # NaN if any pixel is
    if not (low <= smallest and largest <= high and math.isfinite(largest - smallest)):
        wanted = "uint8 from 0 to 255, or floats from 0 to 1" if high == 1 else "finite numbers"
        raise UserError(f"Images are floats from {smallest:.4g} to {largest:.4g}; pass {wanted}.")


def checked(*names: str) -> Callable[[Function], Function]:
    """Decorate a jitted function of a model: `refuse_outside` checks what comes from the host, before it is traced.

    Args:
        names: the arguments that are images or batches.
    """
    return lambda function: _Checked(function, names)  # type: ignore[return-value]


class _Checked:
    """A jitted function with the checks of `checked`, and its attributes."""

    def __init__(self, function: Callable[..., Any], names: tuple[str, ...]) -> None:
        parameters = list(signature(function).parameters)
        self._function, self._model = function, parameters[0]
        self._positions = {name: parameters.index(name) for name in names}
        update_wrapper(self, function)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        model = args[0] if args else kwargs.get(self._model)
        for name, position in self._positions.items():
            refuse_outside(args[position] if position < len(args) else kwargs.get(name), model)
        return self._function(*args, **kwargs)


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


def epoch_batches(batch: Batch, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
    """Yield the batches of one epoch of a data set.

    Args:
        batch: images, or a pair of images and contexts.
        batch_size, seed, epoch: as for `epoch_indices`.
    """
    for rows in epoch_indices(batch_size_of(batch), batch_size, seed, epoch):
        yield take(batch, rows)


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
