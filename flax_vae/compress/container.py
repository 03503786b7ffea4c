"""The compressed file: what it holds, and whether it is whole.

8 bytes    magic
1 byte     version
4 bytes    length of the header, little-endian
header     JSON, by zlib: a `Header`
words      the stack, 32 bits each, little-endian
16 bytes   the first of the SHA-256 of all before
"""

import json
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

MAGIC, VERSION = b"\x89FVAE\r\n\x1a", 1  # as of PNG: a transfer that takes it for text damages it visibly
_FIXED, _SUM = struct.Struct("<8sBI"), 16
_MAX_HEADER = 2**28  # bytes
_MAX_BLOCK, _MAX_PIXELS, _MAX_FILLED = 2**12, 2**24, 2**20  # far beyond what is written, and no strain on memory


@dataclass(frozen=True)
class Header:
    """What a compressed file says of itself.

    Attributes:
        model: the sum of the model's parameters.
        name: what the model was called when it was opened.
        content: the sum of images and labels.
        shape: "h w c" of the images.
        levels: that a pixel may have.
        classes: of the labels that go with the images; 0 without.
        counts: images of each block.
        filled: how many times 16 random bits were pushed before each block.
        names: of the images; none if they had none.
        jax: version of JAX.
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

    @property
    def images(self) -> int:
        """How many there are."""
        return sum(self.counts)

    @property
    def initial_bits(self) -> int:
        """Random bits that the latents of the first images took: a price that is paid once."""
        return 16 * sum(self.filled)

    def bits_per_dim(self, bits: int) -> float:
        """Bits of all images, for each number of a pixel."""
        return bits / (self.images * prod(self.shape))

    def __post_init__(self) -> None:
        """Refuse values of other types, or out of range."""
        numbers = (*self.shape, self.levels, *self.counts)
        whole = (*numbers, self.classes, *self.filled)
        if not all(type(number) is int and 0 <= number < 2**31 for number in whole) or 0 in numbers or not self.counts:
            raise ValueError("a number out of range")
        if max(self.counts) > _MAX_BLOCK or prod(self.shape) > _MAX_PIXELS or max(self.filled, default=0) > _MAX_FILLED:
            raise ValueError("a number out of range")
        if len(self.shape) != 3 or len(self.filled) != len(self.counts) or self.levels not in (2, 256):
            raise ValueError("numbers that do not go together")
        words = (self.model, self.name, self.content, self.jax, *self.names)
        if not all(isinstance(word, str) for word in words) or len(self.names) not in (0, self.images):
            raise ValueError("names that are none")


def write(header: Header, words: UInt32[np.ndarray, " w"]) -> bytes:
    """The file of a header and a stack."""
    about = zlib.compress(json.dumps(asdict(header), separators=(",", ":")).encode(), 9)
    content = _FIXED.pack(MAGIC, VERSION, len(about)) + about + words.astype("<u4").tobytes()
    return content + sha256(content).digest()[:_SUM]


def read(content: bytes, name: str = "the file") -> tuple[Header, UInt32[np.ndarray, " w"]]:
    """The header and the stack of a file.

    Args:
        content: the file.
        name: what it is called in an error.

    Raises:
        UserError: no compressed file, of another version, cut off or damaged.
    """
    if content[: len(MAGIC)] != MAGIC:
        raise UserError(f"{name} is no file that flax-vae compress wrote.")
    if len(content) < _FIXED.size + _SUM or sha256(content[:-_SUM]).digest()[:_SUM] != content[-_SUM:]:
        raise UserError(f"{name} is damaged or cut off: its checksum is wrong. Get it again from where it came from.")
    _, version, length = _FIXED.unpack_from(content)
    if version != VERSION:
        raise UserError(f"{name} has version {version} of the format, and this flax_vae reads version {VERSION}.")
    end = _FIXED.size + length
    try:
        inflate = zlib.decompressobj()
        about: dict[str, Any] = json.loads(inflate.decompress(content[_FIXED.size : end], _MAX_HEADER))
        named: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in about.items()
        }
        header = Header(**named)
        words = np.frombuffer(content[end:-_SUM], "<u4").astype(np.uint32)
        if len(words) and words[-1] == 0:
            raise ValueError("a stack that ends in a word of zeros")
    except (ValueError, TypeError, AttributeError, RecursionError, zlib.error) as error:
        raise UserError(f"{name} is damaged, or of another program: {error}.") from None
    return header, words


def sum_of_model(params: Params) -> str:
    """A name for parameters: of their names, shapes and values in float32."""
    digest = sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        values = np.ascontiguousarray(leaf, "<f4")
        digest.update(f"{jax.tree_util.keystr(path)} {values.shape}\n".encode() + values.tobytes())
    return digest.hexdigest()[: 2 * _SUM]


def sum_of_content(images: UInt8[np.ndarray, "n h w c"], labels: Int[np.ndarray, " n"]) -> str:
    """A name for images and their labels."""
    pixels = np.ascontiguousarray(images)
    return sha256(pixels.tobytes() + labels.astype("<i4").tobytes()).hexdigest()[: 2 * _SUM]
