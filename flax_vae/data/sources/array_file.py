"""Images, vectors or counts in a .npy or .npz file."""

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flax_vae.batches import batch_size_of, take
from flax_vae.data.arrays import open_npz, read_npy
from flax_vae.data.examples import Examples, make_examples, nine_to_one
from flax_vae.data.resizing import Size
from flax_vae.data.splits import log_unused, one_each, split_and_rest, train_and_test
from flax_vae.data.values import number_labels, read_values
from flax_vae.pytrees import from_names
from flax_vae.system.errors import UserError

_IMAGES = ("", "x", "image", "images", "img", "imgs", "data", "pixels")
_LABELS = ("y", "label", "labels", "target", "targets")


def load_arrays(path: Path, split: str, size: Size | None) -> Examples:
    """Load a split of the examples in a .npy or .npz file.

    Images are "n h w" or "n h w c", bytes, booleans or floats in [0, 1]. Vectors are "n v": floats, where NaN is a
    missing value, or whole numbers, which are counts. A .npz file holds examples and optionally labels by their usual
    names: `x_train`, `y_train`, `x_test`, `y_test`, as in Keras; or `images`, `labels`; or a single array. Without a
    test split, a tenth of the examples is held out.
    """
    where = str(path)
    training, chosen, labels, source = _read_arrays(path, split)
    given = training if chosen is None else chosen
    x = read_values(given, training, where, size)
    numbers, class_names = number_labels(labels, "train" if chosen is None else split, batch_size_of(x), where)
    if chosen is None:
        wanted = nine_to_one(batch_size_of(x), split, where)
        x, numbers = take(x, wanted), None if numbers is None else numbers[wanted]
    return make_examples(x, numbers, class_names, path.stem, source)


class _Arrays(NamedTuple):
    """The arrays of a file.

    Attributes:
        training: the training examples, or all examples of a set without splits.
        images: the examples of the requested split, or None for a set without splits.
        labels: the labels of the parts "train" and "test" that have labels.
        source: a description of the origin of the examples.
    """

    training: Any
    images: Any
    labels: dict[str, np.ndarray]
    source: str


def _read_arrays(path: Path, split: str) -> _Arrays:
    if path.suffix.lower() == ".npy":
        return _Arrays(read_npy(path), None, {}, f"the array in {path}")
    with open_npz(path) as archive:
        if any(name.startswith("x_train.") for name in archive):
            training, images = from_names(archive, "x_train"), from_names(archive, "x_test")
            labels = {part: archive[f"y_{part}"] for part in ("train", "test") if f"y_{part}" in archive}
            return _Arrays(training, training if split == "train" else images, labels, f"views in {path}")
        x, y = _names(tuple(archive), str(path))
        training = archive[x["train"]]
        images = None if "test" not in x else training if split == "train" else archive[x["test"]]
        labels = {part: archive[name] for part, name in y.items()}
        return _Arrays(training, images, labels, f"{x.get(split, x['train'])} in {path}")


def _names(names: tuple[str, ...], where: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the names of the images and the labels of both parts, and log the names that are neither.

    Raises:
        UserError: no array is named as the training images, or two are.
    """
    if len(names) == 1:
        return {"train": names[0]}, {}
    images: dict[str, list[str]] = defaultdict(list)
    labels: dict[str, list[str]] = defaultdict(list)
    for name in names:
        split, rest = split_and_rest(name)
        for kind, found in ((_IMAGES, images), (_LABELS, labels)):
            if rest in kind and (split or rest):
                found[split or "train"].append(name)
    if not images:
        raise UserError(
            f"{where} holds {', '.join(sorted(names)) or 'nothing'}; save x_train, images or a single array."
        )
    parts = train_and_test(one_each(images, where), where)
    splits = {part: split_and_rest(name)[0] or "train" for part, name in parts.items()}
    targets = one_each(labels, where)
    classes = {part: targets[split] for part, split in splits.items() if split in targets}
    log_unused(set(names) - set(parts.values()) - set(classes.values()), where)
    return parts, classes
