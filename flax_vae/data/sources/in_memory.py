"""Examples from arrays of the user's own, which a run stores beside its other files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flax_vae.data.examples import Examples, make_examples, nine_to_one
from flax_vae.data.pixels import to_bytes, white_of
from flax_vae.data.resizing import Size, resize_all
from flax_vae.data.sources.array_file import blocks, check_images, check_vectors, number_labels
from flax_vae.system.errors import UserError

ARRAYS = "data.npz"  # the file in a run directory
_WHERE = "`data`"


def from_arrays(x: Any, labels: Any = None, size: Size | None = None) -> tuple[Examples, Examples]:
    """Split examples into a training and a test set, a tenth of them, as if read from a file without splits.

    Args:
        x: images "n h w" or "n h w c": bytes, booleans or floats in [0, 1]; vectors "n v": floats, where NaN is a
            missing value, or counts; or `Examples`, with their labels.
        labels: one class per example, a non-negative integer or a string; or None.
        size: the size of the images, or None to keep theirs.

    Raises:
        UserError: the array holds neither images nor vectors, or the number of labels differs.
    """
    if isinstance(x, str | Path | Mapping):
        raise UserError(
            f"{_WHERE} is a {type(x).__name__}; pass the images or vectors as one array; the name or the path of a "
            "data set is Config(dataset=...)."
        )
    if isinstance(x, tuple):
        raise UserError(f"{_WHERE} is a tuple; pass the images or vectors as one array, and their labels as `labels`.")
    if isinstance(x, Examples):
        labels = _written(x) if labels is None else labels
        x = x.x if x.mask is None else np.where(x.mask, x.x, np.float32(np.nan))
    x = np.asarray(x)
    x, are_images = check_vectors(x, _WHERE, size) if x.ndim == 2 else check_images(x, _WHERE), x.ndim > 2
    given = {} if labels is None else {"train": np.asarray(labels)}
    numbers, class_names = number_labels(given, "train", len(x), _WHERE)
    if are_images:
        x = np.asarray(resize_all(to_bytes(x, white_of(blocks(x), _WHERE), _WHERE), size))

    def part(split: str) -> Examples:
        wanted = nine_to_one(len(x), split, _WHERE)
        chosen = None if numbers is None else numbers[wanted]
        return make_examples(x[wanted], chosen, class_names, "data", "arrays in memory")

    return part("train"), part("test")


def write_arrays(path: Path, train: Examples, test: Examples) -> None:
    """Write both sets as a .npz file, which `load_images` reads as the same sets."""
    arrays = {}
    for split, part in (("train", train), ("test", test)):
        arrays[f"x_{split}"] = np.asarray(part.x)
        if (labels := _written(part)) is not None:
            arrays[f"y_{split}"] = labels
    np.savez(path, allow_pickle=False, **arrays)


def _written(part: Examples) -> np.ndarray | None:
    """Return the labels of examples, as strings if the classes have names."""
    return part.labels if part.labels is None or not part.names else np.array(part.names)[part.labels]
