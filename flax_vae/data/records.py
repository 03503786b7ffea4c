"""The format of prepared image sets: pixels in ArrayRecord files, with random access.

A folder holds files of records for each split, a record being the bytes "h w c" of one image; labels as a .npy file if
there are any; and `prepared.json`, which describes them. This module chooses the file names, and none may be a symlink,
so that an untrusted folder cannot refer to files outside it.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from flax_vae.data.arrays import idx_digest
from flax_vae.system.errors import UserError

DESCRIPTION = "prepared.json"
_FORMAT = 1
_OPTIONS = "group_size:1,uncompressed"  # random access, and no record that grows when read
_SHARD_BYTES = 2**30  # of pixels per file, at most, unless a single image has more
_LONGEST_DESCRIPTION = 2**24  # bytes of a `prepared.json`
_ADVICE = "prepare or download it again"


@dataclass(frozen=True)
class Split:
    """A split in `prepared.json`: the number of images, their checksum (`idx_sha256`), whether they have labels."""

    number: int
    sha256: str
    labels: bool


@dataclass(frozen=True)
class Description:
    """The content of `prepared.json`.

    Attributes:
        shape: the shape "h w c" of an image.
        images_per_shard: the number of images in a full file.
        class_names: the names of the classes, or None.
        splits: "train" and "test".
    """

    shape: tuple[int, int, int]
    images_per_shard: int
    class_names: tuple[str, ...] | None
    splits: dict[str, Split]

    def shards(self, folder: Path, split: str) -> Iterator[tuple[Path, int]]:
        """Yield the files of a split, each with its number of records."""
        number = self.splits[split].number
        for i, start in enumerate(range(0, number, self.images_per_shard)):
            yield shard_path(folder, split, i), min(self.images_per_shard, number - start)


def shard_path(folder: Path, split: str, i: int) -> Path:
    """Return the path of the i-th file of records."""
    return folder / f"{split}-{i:05}.array_record"


def labels_path(folder: Path, split: str) -> Path:
    """Return the path of a split's labels."""
    return folder / f"{split}-labels.npy"


def images_per_shard(shape: tuple[int, int, int]) -> int:
    """Return the number of images of a shape that fill a file."""
    return max(1, _SHARD_BYTES // math.prod(shape))


def is_prepared(path: Path) -> bool:
    """Return whether a path is a prepared image set."""
    return path.is_dir() and (path / DESCRIPTION).exists()


def require_file(path: Path) -> None:
    """Raise UserError unless a path is a file and not a symlink."""
    if path.is_symlink() or not path.is_file():
        raise UserError(f"{path}: {'a symlink' if path.is_symlink() else 'missing'}: {_ADVICE}.")


def damaged(where: object, why: object) -> UserError:
    """Return the error for a damaged file, with the first line of the reason."""
    reason = (str(why) or repr(why)).splitlines()[0][:300]
    return UserError(f"{where}: damaged ({reason}): {_ADVICE}.")


def read_description(folder: Path) -> Description:
    """Read and validate `prepared.json`.

    Raises:
        UserError: the file is damaged, or of another version.
    """
    path = folder / DESCRIPTION
    require_file(path)
    try:
        if path.stat().st_size > _LONGEST_DESCRIPTION:
            raise ValueError("too long")
        content = json.loads(path.read_text())
        if content["format"] == _FORMAT:
            return _parse(content)
    except Exception as error:  # JSON from anywhere raises many types of error
        raise damaged(path, error if not isinstance(error, KeyError) else f"{error} is missing") from None
    raise UserError(f"{path}: format {str(content['format'])[:20]}, but this version reads {_FORMAT}: {_ADVICE}.")


def _parse(content: Any) -> Description:
    """Return the description in parsed JSON; for invalid content raise an exception of any type."""
    shape, per_shard, names = content["shape"], content["images_per_shard"], content["class_names"]
    if not (isinstance(shape, list) and len(shape) == 3 and all(_is_count(side) for side in shape)):
        raise ValueError("shape must be height, width and channels")
    if not _is_count(per_shard) or (per_shard > 1 and per_shard * math.prod(shape) > _SHARD_BYTES):
        raise ValueError("images_per_shard is out of range")
    if names is not None and not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise ValueError("class_names must be strings")
    splits = {name: Split(**content["splits"][name]) for name in ("train", "test")}
    for split in splits.values():
        valid = isinstance(split.labels, bool) and isinstance(split.sha256, str) and len(split.sha256) == 64
        if not _is_count(split.number) or not valid:
            raise ValueError("a split must have a number, a checksum of 64 digits, and labels true or false")
    return Description((shape[0], shape[1], shape[2]), per_shard, None if names is None else tuple(names), splits)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value < 2**31


def write_description(folder: Path, description: Description) -> None:
    """Write `prepared.json`, which makes a folder a prepared image set."""
    (folder / DESCRIPTION).write_text(json.dumps({"format": _FORMAT} | asdict(description), indent=1) + "\n")


class Writer:
    """Write the images of one split one at a time."""

    def __init__(self, folder: Path, split: str, number: int, shape: tuple[int, int, int]) -> None:
        """Start a split.

        Args:
            folder: the folder to write to.
            split: its name.
            number: the number of images.
            shape: the shape "h w c" of an image.
        """
        self._folder, self._split, self._per_shard = folder, split, images_per_shard(shape)
        self._file: Any = None
        self._labels = np.full(number, -1, np.int32)
        self._digest, self._written = idx_digest((number, *shape)), 0

    def add(self, image: UInt8[np.ndarray, "h w c"], label: int) -> None:
        """Write the next image and its label, -1 if it has none."""
        from array_record.python.array_record_module import ArrayRecordWriter

        shard, position = divmod(self._written, self._per_shard)
        if position == 0:
            self._end_shard()
            self._file = ArrayRecordWriter(str(shard_path(self._folder, self._split, shard)), _OPTIONS)
        content = image.tobytes()
        with _as_os_error():
            self._file.write(content)
        self._digest.update(content)
        self._labels[self._written] = label
        self._written += 1

    def finish(self) -> Split:
        """Close the files and return the split's description."""
        self._end_shard()
        labelled = bool((self._labels >= 0).all())
        if labelled:
            np.save(labels_path(self._folder, self._split), self._labels)
        return Split(self._written, self._digest.hexdigest(), labelled)

    def _end_shard(self) -> None:
        if self._file is not None:
            with _as_os_error():
                self._file.close()


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Turn the record writer's RuntimeErrors, such as a full disk, into OSErrors."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error).partition(";")[0]) from error
