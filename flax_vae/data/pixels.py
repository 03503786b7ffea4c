"""Pixels from 0 to 255, from what data sets hold: bytes, floats from 0 to 1, and zeros and ones."""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import UInt8

from flax_vae.data.resizing import NamedImage
from flax_vae.system.console import log_once
from flax_vae.system.errors import UserError

# Of white. Values of 4 bits in bytes, or of 12 bits in 16, are no brighter than the first: their white is another
# number. Values of 6 bits in bytes, or of 14 in 16, are no brighter than the second: the images may also be dark.
_BLACK, _DARK = 17 / 255, 64 / 255
_CHUNK = 1024  # images converted at a time: the floats can exceed memory


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
        if not brightest <= _DARK * white:  # NaN, which `to_bytes` refuses, included
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
    """Multiply pixels so that white is 255, and round them; return bytes unchanged if it is.

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
