"""The compressed file: its layout, and checks that it is complete and undamaged.

8 bytes    magic
1 byte     version
4 bytes    length of the header, little-endian
header     a `Header` as JSON, compressed by zlib
words      the stack, in words of 32 bits, little-endian
16 bytes   the first 16 bytes of the SHA-256 of everything before
"""

import json
import re
import struct
import zlib
from dataclasses import asdict, dataclass
from hashlib import sha256
from math import prod
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, UInt8, UInt32

from flax_vae.models.binding import Params
from flax_vae.system.errors import UserError

MAGIC, VERSION = b"\x89FVAE\r\n\x1a", 1  # like PNG's: a text-mode transfer corrupts it detectably
_FIXED, _CHECKSUM = struct.Struct("<8sBI"), 16
_MAX_HEADER = 2**28  # bytes
_LABEL = re.compile("[<>|][biuf][1248]")  # NumPy dtypes of numbers
_MAX_BLOCK, _MAX_PIXELS, _MAX_FILLED = 2**12, 2**24, 2**20  # generous limits that still bound memory


@dataclass(frozen=True)
class Header:
    """The description of a compressed file.

    Attributes:
        model: the checksum of the model's parameters.
        name: the name by which the model was opened.
        content: the checksum of images and labels.
        shape: the shape "h w c" of an image.
        levels: the number of pixel levels.
        classes: the number of classes of the labels, or 0 without labels.
        counts: the number of images in each block.
        filled: the number of 16-bit random words pushed before each block.
        names: the names of the images; empty if they have none.
        jax: the version of JAX.
        dtypes: of images from an array, the NumPy dtypes of an image, which includes its shape, such as "(28, 28)|u1",
            and of a label; empty if the array was uint8 "n h w c", and its labels int32. Earlier versions have none.
    """

    model: str
    name: str
    content: str
    shape: tuple[int, int, int]
    levels: int
    classes: int
    counts: tuple[int, ...]
    filled: tuple[int, ...]
    names: tuple[str, ...]
    jax: str
    dtypes: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """The number of images."""
        return sum(self.counts)

    @property
    def initial_bits(self) -> int:
        """The number of random bits that the latents of the first images consumed, a fixed cost per file."""
        return 16 * sum(self.filled)

    def bits_per_dim(self, bits: int) -> float:
        """Divide a number of bits by the number of values in all images."""
        return bits / (self.images * prod(self.shape))

    def __post_init__(self) -> None:
        """Raise ValueError if a value has another type or is out of range."""
        positive = (*self.shape, self.levels, *self.counts)
        numbers = (*positive, self.classes, *self.filled)
        if not all(type(n) is int and 0 <= n < 2**31 for n in numbers) or 0 in positive or not self.counts:
            raise ValueError("a number is out of range")
        if max(self.counts) > _MAX_BLOCK or prod(self.shape) > _MAX_PIXELS or max(self.filled, default=0) > _MAX_FILLED:
            raise ValueError("a number is out of range")
        if len(self.shape) != 3 or len(self.filled) != len(self.counts) or self.levels not in (2, 256):
            raise ValueError("its numbers contradict each other")
        words = (self.model, self.name, self.content, self.jax, *self.names)
        if not all(isinstance(word, str) for word in words) or len(self.names) not in (0, self.images):
            raise ValueError("the names of the images are invalid")
        if self.dtypes and not _are_dtypes(self.dtypes, self.shape):
            raise ValueError("the dtypes of its arrays are invalid")


def _are_dtypes(dtypes: tuple[str, ...], shape: tuple[int, int, int]) -> bool:
    """Return whether these can be the dtypes of images and labels."""
    height, width, channels = shape
    shapes = [(height, width), (height, width, 1), (height, width, channels)]
    image, label = dtypes
    return image in [f"{shape}{kind}" for shape in shapes for kind in ("|u1", "|b1")] and bool(_LABEL.fullmatch(label))


def write(header: Header, words: UInt32[np.ndarray, " w"]) -> bytes:
    """Return the content of the file for a header and a stack."""
    fields = asdict(header)
    if not header.dtypes:
        del fields["dtypes"]  # as in files of earlier versions
    about = zlib.compress(json.dumps(fields, separators=(",", ":")).encode(), 9)
    content = _FIXED.pack(MAGIC, VERSION, len(about)) + about + words.astype("<u4").tobytes()
    return content + sha256(content).digest()[:_CHECKSUM]


def read(content: bytes, name: str = "the file") -> tuple[Header, UInt32[np.ndarray, " w"]]:
    """Read the header and the stack of a file.

    Args:
        content: the content of the file.
        name: the name of the file in errors.

    Raises:
        UserError: not a compressed file, another version, truncated or damaged.
    """
    if content[: len(MAGIC)] != MAGIC:
        raise UserError(f"{name} is not a file that flax-vae compress wrote.")
    checksum = sha256(content[:-_CHECKSUM]).digest()[:_CHECKSUM]
    if len(content) < _FIXED.size + _CHECKSUM or checksum != content[-_CHECKSUM:]:
        raise UserError(f"{name} is damaged or truncated: its checksum is wrong. Copy it again from its source.")
    _, version, length = _FIXED.unpack_from(content)
    if version != VERSION:
        raise UserError(f"{name} has format version {version}; this version of flax_vae reads version {VERSION}.")
    end = _FIXED.size + length
    try:
        inflate = zlib.decompressobj()
        fields: dict[str, Any] = json.loads(inflate.decompress(content[_FIXED.size : end], _MAX_HEADER))
        header = Header(**fields | {key: tuple(value) for key, value in fields.items() if isinstance(value, list)})
        words = np.frombuffer(content[end:-_CHECKSUM], "<u4").astype(np.uint32)
        if len(words) and words[-1] == 0:
            raise ValueError("its stack ends in a word of zeros")
    except (ValueError, TypeError, AttributeError, RecursionError, zlib.error) as error:
        raise UserError(f"{name} is damaged, or another program wrote it: {error}.") from None
    return header, words


def model_checksum(params: Params) -> str:
    """Return a checksum of parameters: of their names, shapes and values in float32."""
    digest = sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        values = np.ascontiguousarray(leaf, "<f4")
        digest.update(f"{jax.tree_util.keystr(path)} {values.shape}\n".encode() + values.tobytes())
    return digest.hexdigest()[: 2 * _CHECKSUM]


def content_checksum(images: UInt8[np.ndarray, "n h w c"], labels: Int[np.ndarray, " n"]) -> str:
    """Return a checksum of images and their labels."""
    pixels = np.ascontiguousarray(images)
    return sha256(pixels.tobytes() + labels.astype("<i4").tobytes()).hexdigest()[: 2 * _CHECKSUM]
