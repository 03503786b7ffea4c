"""Arrays of .npy and .npz files, which may be anyone's: memory is taken for what is there, not for what is declared."""

import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from flax_vae.system.errors import UserError
from flax_vae.system.memory import require_memory

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_WAY_OUT = "save fewer images, or smaller ones"


def read_npy(path: Path, content: bytes | None = None) -> np.ndarray:
    """The array of a .npy file, which is read as it is used; or the one in its content.

    Raises:
        UserError: it cannot be read, is cut off, declares another size than it has, or is larger than the memory.
    """
    with _readable(path, ".npy"):
        if content is not None:
            return _read(io.BytesIO(content), len(content))
        require_memory(path.stat().st_size, str(path), _WAY_OUT)  # a sparse file has any size
    return map_npy(path)


def map_npy(path: Path) -> np.ndarray:
    """The array of a .npy file of any size, which is read as it is used.

    Raises:
        UserError: it cannot be read, is cut off, or declares another size than it has.
    """
    with _readable(path, ".npy"):
        with path.open("rb") as file:
            _check_header(file, path.stat().st_size)
        return np.lib.format.open_memmap(path, mode="r")


@contextmanager
def open_npz(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of a .npz file by their names, each of which is read when it is asked for.

    Raises:
        UserError: as of `read_npy`, also when an array is asked for.
    """
    with _readable(path, ".npz"), zipfile.ZipFile(path) as archive:
        yield _Members(path, archive)


class _Members(Mapping[str, np.ndarray]):
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path, self._archive = path, archive
        self._files = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

    def __getitem__(self, name: str) -> np.ndarray:
        size = self._files[name].file_size
        # Images of one colour shrink to a thousandth: how much an array has shrunk does not tell a bomb from a file.
        require_memory(size, f"{self._path}: {name}", _WAY_OUT)
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
    """Raise ValueError unless what follows the header, in a file of `size` bytes, is as long as the header declares."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the format")
    shape, _, dtype = _HEADERS[version](file)
    there = size - file.tell()
    if min(shape, default=0) < 0 or (math.prod(shape) * dtype.itemsize != there and not dtype.hasobject):
        raise ValueError(f"its header declares {dtype} of shape {shape}, and {there:,} bytes follow")


@contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # NumPy and zipfile raise all sorts of things over damaged files
        raise UserError(f"{path}: not a readable {kind} file of numbers ({error}); save it again") from error
