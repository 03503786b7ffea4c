"""Examples from arrays that the user passes, which a run stores beside its other files."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from flax_vae.batches import Batch, X, batch_size_of, take
from flax_vae.data.examples import Examples, make_examples, nine_to_one
from flax_vae.data.resizing import Size
from flax_vae.data.values import number_labels, read_values, with_gaps
from flax_vae.pytrees import by_name
from flax_vae.system.errors import UserError

ARRAYS = "data.npz"  # the file in a run directory
_WHERE = "`data`"
_Read = tuple[X, np.ndarray | None, tuple[str, ...] | None]


def from_arrays(x: Any, labels: Any = None, size: Size | None = None) -> tuple[Examples, Examples]:
    """Split examples into a training and a test set, a tenth of them, as if read from a file without splits.

    Args:
        x: images "n h w" or "n h w c": bytes, booleans or floats in [0, 1]; vectors "n v": floats, where NaN is a
            missing value, or counts; a tuple or a dictionary of these, as views of the same examples; or `Examples`,
            with their labels.
        labels: one class per example, a non-negative integer or a string; or None.
        size: the size of the images, or None to keep theirs.

    Raises:
        UserError: an array holds neither images nor vectors, or the number of labels differs.
    """
    read = _read(x, labels, size)
    return _part(read, "train"), _part(read, "test")


def all_examples(x: Any) -> Examples:
    """Return all examples, without a split; arguments as for `from_arrays`."""
    return _part(_read(x), None)


def examples_of(x: Any, part: str | None, name: str, where: str, size: Size | None) -> Examples:
    """Return the result of a source of the user's own as examples.

    Args:
        x: as for `from_arrays`.
        part: the split to take, "train" or "test"; None if x is one split already.
        name: the name of the set.
        where: the source, for messages.
        size: the size of the images, or None to keep theirs.
    """
    return _part(_read(x, None, size, where), part, name, where, where)


def _part(
    read: _Read, part: str | None, name: str = "data", source: str = "arrays in memory", where: str = _WHERE
) -> Examples:
    """Return a split of what `_read` returned, or all of it if `part` is None."""
    x, numbers, class_names = read
    if part is not None:
        x, numbers = take((x, numbers), nine_to_one(batch_size_of(x), part, where))
    return make_examples(x, numbers, class_names, name, source)


def _read(x: Any, labels: Any = None, size: Size | None = None, where: str = _WHERE) -> _Read:
    """Return the examples as they are stored, the numbers of their classes, and the names of the classes."""
    if isinstance(x, str | Path | Batch):
        raise UserError(
            f"{where} is a {type(x).__name__}; pass the images or vectors as one array, or several views as a tuple. "
            "The name or the path of a data set goes into Config(dataset=...)."
        )
    if isinstance(x, Examples):
        labels = _written(x) if labels is None else labels
        x = x.x if x.mask is None else jax.tree.map(with_gaps, x.x, x.mask)
    x = read_values(x, x, where, size)
    given = {} if labels is None else {"train": np.asanyarray(labels)}
    return x, *number_labels(given, "train", batch_size_of(x), where)


def write_arrays(path: Path, train: Examples, test: Examples) -> None:
    """Write both sets as a .npz file, from which `load_images` reads the same sets."""
    arrays: dict[str, Any] = {}
    for split, part in (("train", train), ("test", test)):
        arrays |= by_name(jax.tree.map(np.asarray, part.x), f"x_{split}")
        if (labels := _written(part)) is not None:
            arrays[f"y_{split}"] = labels
    np.savez(path, allow_pickle=False, **arrays)


def _written(part: Examples) -> np.ndarray | None:
    """Return the labels of examples, as strings if the classes have names."""
    return part.labels if part.labels is None or not part.names else np.array(part.names)[part.labels]
