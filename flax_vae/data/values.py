"""Conversion of the values in data sets to those that the package stores.

Images are uint8 from 0 to 255, from bytes, floats from 0 to 1, or zeros and ones. Vectors are float32, counts int32.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

from flax_vae.batches import X, are_views
from flax_vae.data.resizing import NamedImage, Size, resize_all
from flax_vae.pytrees import by_name, from_names
from flax_vae.system.console import log_once
from flax_vae.system.errors import UserError

# Bounds on the brightest training pixel, as shares of white. Up to the first, as for 4 bits in bytes or 12 bits in 16,
# white must be another number. Up to the second, as for 6 bits in bytes or 14 in 16, the images may also be dark.
_BLACK, _DARK = 17 / 255, 64 / 255
_CHUNK = 1024  # images checked or converted at a time: all of them as floats can exceed memory
_CHANNELS = (1, 2, 3, 4)
# Layouts other than "n h w c", with their transposes to it.
_LAYOUTS = {"n c h w": (0, 2, 3, 1), "h w c n": (3, 0, 1, 2), "c h w n": (3, 1, 2, 0)}


def read_values(x: Any, training: Any, where: str, size: Size | None = None) -> X:
    """Return images as uint8 "n h w c", vectors as float32 "n v" or counts as int32 "n v"; or views of these.

    NaN is a missing value in vectors, and in images that are one of several views; such images become float32.

    Args:
        x: images "n h w" or "n h w c", vectors or counts "n v", or a tuple or a dictionary of them.
        training: x of the training set, which determines the scale of images.
        where: the name of the set in messages.
        size: the size of the images, or None to keep theirs.

    Raises:
        UserError: an array is of another kind, or the views differ in their number of examples.
    """
    if not are_views(x):
        return _read_array(np.asarray(x), np.asarray(training), where, size)
    if size is not None:
        raise UserError(f"`image_size` resizes images, but {where} holds views: leave it out.")
    named, of_training, read = by_name(x), by_name(training), {}
    if not named or (isinstance(x, Mapping) and not all(isinstance(name, str) and not name.isdecimal() for name in x)):
        raise UserError(f"{where} has the views {[*named]}; name each by a word: {{'image': images, 'table': table}}.")
    for name, view in named.items():
        if are_views(view) or isinstance(view, str) or np.ndim(view) < 2:
            kind = f"a {type(view).__name__}" if are_views(view) else f"an array of shape {np.shape(view)}"
            raise UserError(
                f"{where}: view {name} is {kind}; a view is an array (n, v), (n, h, w) or (n, h, w, c). Classes are "
                "passed as `labels`."
            )
        read[name] = _read_view(np.asarray(view), np.asarray(of_training[name]), f"{where}, view {name}")
    if len(counts := {len(view) for view in read.values()}) > 1:
        raise UserError(f"{where}: views of {' and '.join(map(str, sorted(counts)))} examples; pass the same in each.")
    return from_names(read)


def _read_array(array: np.ndarray, training: np.ndarray, where: str, size: Size | None = None) -> Any:
    if training.ndim == 2:
        return check_vectors(array, where, size)
    images, white = check_images(array, where), white_of(blocks(check_images(training, where)), where)
    return resize_all(to_bytes(images, white, where), size)


def _read_view(view: np.ndarray, training: np.ndarray, where: str) -> np.ndarray:
    """Read a view; images with missing pixels become floats from 0 to 1, with NaN for each missing pixel."""
    if training.ndim < 3 or training.dtype.kind != "f":
        return _read_array(view, training, where)
    is_missing = np.isnan(view)
    read = _read_array(np.where(is_missing, 0, view), np.nan_to_num(training), where)
    return with_gaps(read, ~is_missing.reshape(read.shape))


def with_gaps(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return an array with NaN for each missing value; the array itself if all are observed.

    uint8 values become floats from 0 to 1 if any is missing.
    """
    if mask.all():
        return x
    return np.where(mask, x.astype(np.float32) / (255 if x.dtype == np.uint8 else 1), np.float32(np.nan))


def white_of(blocks: Iterable[np.ndarray], where: str) -> int:
    """Return the number that is white: 255 in bytes and 1 in floats, but 1 in bytes that are all 0 or 1.

    Only as many training images are read as it takes to find a bright pixel.

    Args:
        blocks: the training images, in arrays of one type.
        where: the name of the set in messages.

    Raises:
        UserError: the training images are nearly black.
    """
    brightest, white = 0.0, 255
    for block in blocks:
        white = 255 if block.dtype == np.uint8 else 1
        brightest = max(float(block.max()), brightest)
        if not brightest <= _DARK * white:  # also for NaN, which `to_bytes` refuses
            return white
    if white == 255 and brightest == 1:
        log_once(f"{where}: all pixels are 0 or 1, which is read as black and white.")
        return 1
    scale = f"{white}, or 65,535 in 16 bits" if white == 255 else str(white)
    found = f"{where}: the brightest training pixel is {brightest:.3g} of {white}"
    if brightest <= _BLACK * white:
        raise UserError(f"{found}, so the scale is unknown; multiply the pixels so that white is {scale}.")
    log_once(f"{found}. Unless the images are that dark, multiply the pixels so that white is {scale}.")
    return white


def to_bytes(images: np.ndarray, white: int, where: str) -> UInt8[np.ndarray, "n h w c"]:
    """Multiply pixels so that white is 255, and round them; bytes with this white are returned unchanged.

    Raises:
        UserError: a pixel is NaN, or outside of [0, white].
    """
    if images.dtype == np.uint8 and white == 255:
        return images
    converted = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        low, high = chunk.min(), chunk.max()
        if np.isnan(low):
            raise UserError(f"{where}: NaN among the pixels; replace them, or remove these images.")
        if images.dtype == np.uint8 and high > 1:
            raise UserError(f"{where}: pixels up to {high}, but white is 1 in the training images; use one scale.")
        if low < 0 or high > 1:
            advice = "divide by the largest value" if low >= 0 else "map them there, from [-1, 1] by (x + 1) / 2"
            raise UserError(
                f"{where}: floats from {low:.4g} to {high:.4g}, outside [0, 1]; {advice}, or save them as uint8."
            )
        converted[start : start + _CHUNK] = np.rint(chunk * 255)
    return converted


def whitened(images: Iterable[NamedImage], white: int) -> Iterator[NamedImage]:
    """Yield images of bytes with white at 255."""
    for name, image, label in images:
        yield name, to_bytes(image[None], white, name)[0], label


def blocks(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the images in the blocks in which they are checked."""
    for start in range(0, len(images), _CHUNK):
        yield images[start : start + _CHUNK]


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
            raise UserError(f"{where}: vectors of NaN only: every value is missing; pass observed values.")
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
        f"{where}: {number:,} images of {height}x{width} look like {likely}; {advice}, or, if this shape is right, "
        "save x[..., None]."
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
    if count := np.count_nonzero(_is_missing(labels[part])):
        raise UserError(
            f"{where}: {count:,} of {number:,} labels are missing (-1, NaN, None or masked); leave these examples out, "
            "or pass the label as a view of x, data=(images, one_hot), with NaN where it is missing."
        )
    chosen, names = np.asarray(labels[part]), None
    if all(array.dtype.kind == "U" for array in labels.values()):
        distinct = np.unique(np.concatenate([array.reshape(-1) for array in labels.values()]))
        chosen, names = np.searchsorted(distinct, chosen), tuple(map(str, distinct))
    if chosen.size != number or not np.issubdtype(chosen.dtype, np.integer) or chosen.min() < 0:
        raise UserError(
            f"{where}: labels of shape {chosen.shape} and type {chosen.dtype} for {number} images; "
            "save one class per image, as a non-negative integer or a text, or no labels."
        )
    return chosen.reshape(number), names


def _is_missing(labels: np.ndarray) -> Bool[np.ndarray, "..."]:
    """Return True for each label that is masked, NaN, None or -1."""
    masked, values = np.ma.getmaskarray(labels), np.asarray(labels)
    if values.dtype.kind == "O":
        return masked | np.reshape([label is None or label != label for label in values.flat], values.shape)
    if values.dtype.kind == "f":
        return masked | np.isnan(values)
    return masked | (values == -1) if values.dtype.kind == "i" else masked
