"""Read .npy, .npz and IDX files from untrusted sources.

Memory is allocated for the size that a file has, not for the size that its header declares.
"""

import gzip
import hashlib
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from flax_vae.system.errors import UserError
from flax_vae.system.memory import require_memory

MAX_IDX_BYTES = 2**26  # the largest file of Fashion-MNIST has 47,040,016
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_ADVICE = "save fewer or smaller images"


def read_npy(path: Path, content: bytes | None = None) -> np.ndarray:
    """Return the array of a .npy file, mapped from disk, or the array in `content`.

    Raises:
        UserError: the file is unreadable or truncated, its size differs from the declared one, or it exceeds memory.
    """
    with _readable(path, ".npy"):
        if content is not None:
            return _read(io.BytesIO(content), len(content))
        require_memory(path.stat().st_size, str(path), _ADVICE)  # a sparse file can have any size
    return map_npy(path)


def map_npy(path: Path) -> np.ndarray:
    """Map a .npy file of any size from disk.

    Raises:
        UserError: the file is unreadable or truncated, or its size differs from the declared one.
    """
    with _readable(path, ".npy"):
        with path.open("rb") as file:
            _check_header(file, path.stat().st_size)
        return np.lib.format.open_memmap(path, mode="r")


@contextmanager
def open_npz(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """Open a .npz file as a mapping from names to arrays, each read on access.

    Raises:
        UserError: as for `read_npy`, on opening and on access.
    """
    with _readable(path, ".npz"), zipfile.ZipFile(path) as archive:
        yield _Members(path, archive)


class _Members(Mapping[str, np.ndarray]):
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path, self._archive = path, archive
        self._files = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

    def __getitem__(self, name: str) -> np.ndarray:
        size = self._files[name].file_size
        # Monochrome images compress a thousandfold, so the compression ratio does not reveal a zip bomb.
        require_memory(size, f"{self._path}: {name}", _ADVICE)
        with self._archive.open(self._files[name]) as file:
            return _read(file, size)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _read(file: Any, size: int) -> np.ndarray:
    _check_header(file, size)
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _check_header(file: Any, size: int) -> None:
    """Raise ValueError unless a file of `size` bytes holds exactly the array that its header declares."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the format")
    shape, _, dtype = _HEADERS[version](file)
    remaining = size - file.tell()
    if min(shape, default=0) < 0 or (math.prod(shape) * dtype.itemsize != remaining and not dtype.hasobject):
        raise ValueError(f"its header declares {dtype} of shape {shape}, but {remaining:,} bytes follow")


@contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # NumPy and zipfile raise many types of error for damaged files
        raise UserError(f"{path}: not a readable {kind} file of numbers ({error}); save it again.") from error


def parse_idx(content: bytes, rank: int, where: str) -> UInt8[np.ndarray, "..."]:
    """Return the array in an IDX file of bytes: two zeros, the type 8, the rank, the dimensions, the values.

    Args:
        content: the file, plain or compressed with gzip.
        rank: the expected rank.
        where: the file's name in error messages.

    Raises:
        UserError: the content is truncated, altered or not an IDX file of this rank.
    """
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(MAX_IDX_BYTES)  # bounds the decompressed size
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{where}: truncated or altered ({error}); download it again.") from error
    magic, start = bytes((0, 0, 8, rank)), 4 + 4 * rank
    if not magic.startswith(content[:4]):
        raise UserError(f"{where}: wrong magic number {content[:4].hex()} (expected {magic.hex()}); download it again.")
    # The padding of a truncated header makes the check of the size fail.
    shape = struct.unpack(f">{rank}I", content[4:start].ljust(4 * rank, b"\xff"))
    if len(content) != start + math.prod(shape):
        raise UserError(f"{where}: truncated: {len(content):,} bytes do not match its header; download it again.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def idx_header(shape: tuple[int, ...]) -> bytes:
    """Return the header of an IDX file of bytes: two zeros, the type 8, the rank, big-endian dimensions."""
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape)


def idx_sha256(array: UInt8[np.ndarray, "..."]) -> str:
    """Return the SHA-256 checksum of an array written as an IDX file, without the channel axis if it has size 1."""
    digest = idx_digest(array.shape)
    digest.update(np.ascontiguousarray(array).reshape(-1).data)
    return digest.hexdigest()


def npy_sha256(array: np.ndarray) -> str:
    """Return the SHA-256 checksum of an array written as a .npy file."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array))
    return hashlib.sha256(file.getbuffer()).hexdigest()


def idx_digest(shape: tuple[int, ...]) -> Any:
    """Start the checksum of an array of this shape, to be updated with its bytes."""
    return hashlib.sha256(idx_header(shape[:-1] if len(shape) == 4 and shape[-1] == 1 else shape))
