"""Images, vectors or counts in a .npy or .npz file."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from flax_vae.data.arrays import open_npz, read_npy
from flax_vae.data.examples import Examples, make_examples, nine_to_one
from flax_vae.data.pixels import to_bytes, white_of
from flax_vae.data.resizing import Size, resize_all
from flax_vae.data.splits import log_unused, one_each, split_and_rest, train_and_test
from flax_vae.system.errors import UserError

_IMAGES = ("", "x", "image", "images", "img", "imgs", "data", "pixels")
_LABELS = ("y", "label", "labels", "target", "targets")
_CHANNELS = (1, 2, 3, 4)
# Layouts other than "n h w c", with their transposes to it.
_LAYOUTS = {"n c h w": (0, 2, 3, 1), "h w c n": (3, 0, 1, 2), "c h w n": (3, 1, 2, 0)}
_BLOCK = 1024  # images that are checked at a time


def load_arrays(path: Path, split: str, size: Size | None) -> Examples:
    """Load a split of the examples in a .npy or .npz file.

    Images are "n h w" or "n h w c", bytes, booleans or floats in [0, 1]. Vectors are "n v": floats, where NaN is a
    missing value, or whole numbers, which are counts. A .npz file holds examples and optionally labels by their usual
    names: `x_train`, `y_train`, `x_test`, `y_test`, as in Keras; or `images`, `labels`; or a single array. Without a
    test split, a tenth of the examples is held out.
    """
    where = str(path)
    training, chosen, labels, source = _read_arrays(path, split)
    x = training if chosen is None else chosen
    x = check_vectors(x, where, size) if training.ndim == 2 else check_images(x, where)
    numbers, class_names = number_labels(labels, "train" if chosen is None else split, len(x), where)
    if chosen is None:
        wanted = nine_to_one(len(x), split, where)
        x, numbers = x[wanted], None if numbers is None else numbers[wanted]
    if training.ndim > 2:
        white = white_of(blocks(check_images(training, where)), where)
        resized = resize_all(to_bytes(x, white, where), size)
        return make_examples(resized, numbers, class_names, path.stem, source)
    return make_examples(x, numbers, class_names, path.stem, source)


def blocks(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the images in the blocks in which they are checked."""
    for start in range(0, len(images), _BLOCK):
        yield images[start : start + _BLOCK]


class _Arrays(NamedTuple):
    """The arrays of a file.

    Attributes:
        training: the training images, or all images of a set without splits.
        images: the images of the split that was asked for, or None for a set without splits.
        labels: the labels of the parts "train" and "test" that have labels.
        source: a description of the images.
    """

    training: np.ndarray
    images: np.ndarray | None
    labels: dict[str, np.ndarray]
    source: str


def _read_arrays(path: Path, split: str) -> _Arrays:
    if path.suffix.lower() == ".npy":
        return _Arrays(read_npy(path), None, {}, f"the array in {path}")
    with open_npz(path) as archive:
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


def check_vectors(array: np.ndarray, where: str, size: Size | None) -> np.ndarray:
    """Return vectors "n v" as float32, or counts as int32.

    Raises:
        UserError: the array has another rank than the training vectors, is empty, or holds neither floats nor counts;
            or a size of images is given.
    """
    if size is not None:
        raise UserError(f"`image_size` resizes images, but {where} holds vectors: leave it out.")
    if array.ndim != 2 or not array.size:
        raise UserError(f"{where}: vectors of shape {array.shape}; save them as (n, v).")
    if np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float32)
        if np.isinf(array).any():
            raise UserError(f"{where}: vectors with infinite values; save NaN for missing values.")
        if np.isnan(array).all():
            raise UserError(f"{where}: vectors of NaN only, so that every value is missing.")
        return array
    if array.dtype == bool:
        return array.astype(np.float32)
    if not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"{where}: vectors of type {array.dtype}; save floats, or whole numbers for counts.")
    if array.min() < 0 or array.max() > np.iinfo(np.int32).max:
        raise UserError(
            f"{where}: whole numbers from {array.min()} to {array.max()} are not counts; save them as floats."
        )
    return array.astype(np.int32)


def check_images(array: np.ndarray, where: str) -> np.ndarray:
    """Return an array of images as "n h w c".

    Raises:
        UserError: the array has another rank, type or order of the axes, or is empty.
    """
    if array.ndim not in (3, 4):
        raise UserError(f"{where}: images of shape {array.shape}; reshape them to (n, h, w) or (n, h, w, c).")
    if array.dtype not in (np.uint8, bool) and not np.issubdtype(array.dtype, np.floating):
        raise UserError(
            f"{where}: images of type {array.dtype}, whose scale is unknown; save them as uint8 from 0 to 255, or as "
            "floats in [0, 1]."
        )
    if array.size == 0:
        raise UserError(f"{where}: no images: the array has shape {array.shape}.")
    if array.ndim == 4 and array.shape[-1] not in _CHANNELS:
        for layout, axes in _LAYOUTS.items():
            if array.shape[axes[-1]] in _CHANNELS:
                raise UserError(
                    f"{where}: images of shape {array.shape} would have {array.shape[-1]} channels, and look like "
                    f'"{layout}"; save x.transpose{axes}, which is "n h w c".'
                )
    if array.ndim == 3:
        _refuse_other_layout(array.shape, where)
    return array[..., None] if array.ndim == 3 else array


def _refuse_other_layout(shape: tuple[int, ...], where: str) -> None:
    """Raise UserError for grey images that look like "h w n", or flattened; as "n h w 1" they are accepted."""
    number, height, width = shape
    if number == height != width:
        likely, advice = '"h w n"', "save x.transpose(2, 0, 1)"
    elif 1 in (height, width):
        likely, advice = "flattened images", "reshape them to (n, h, w)"
    else:
        return
    raise UserError(
        f"{where}: {number:,} images of {height}x{width} look like {likely}; {advice}, or x[..., None] if they are "
        "what they seem."
    )


def number_labels(
    labels: Mapping[str, np.ndarray], part: str, number: int, where: str
) -> tuple[Int[np.ndarray, " n"] | None, tuple[str, ...] | None]:
    """Return the class number of each image of a part, and the names of the classes if the labels are texts.

    Raises:
        UserError: the labels are not one class per image.
    """
    if part not in labels:
        return None, None
    chosen, names = labels[part], None
    if all(array.dtype.kind == "U" for array in labels.values()):
        distinct = np.unique(np.concatenate([array.reshape(-1) for array in labels.values()]))
        chosen, names = np.searchsorted(distinct, chosen), tuple(map(str, distinct))
    if chosen.size != number or not np.issubdtype(chosen.dtype, np.integer) or chosen.min() < 0:
        raise UserError(
            f"{where}: labels of shape {chosen.shape} and type {chosen.dtype} for {number} images; "
            "save one class per image, as a non-negative integer or a text, or no labels."
        )
    return chosen.reshape(number), names
