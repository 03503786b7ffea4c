"""Prepared image sets: pixels as ArrayRecord files, of which any image can be read alone.

A folder holds shards of records for each split, a record being the bytes "h w c" of an image; labels as a .npy file,
where there are any; and `prepared.json`, which says what they are. Files have names of this module's choice, and none
may be a link: a stranger's folder makes nobody read what lies outside of it.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from flax_vae.batches import OnDisk
from flax_vae.data.arrays import read_npy
from flax_vae.data.images import ImageData, idx_digest, idx_sha256, image_data, resize_all
from flax_vae.system.errors import UserError
from flax_vae.system.memory import memory_limit, require_memory

ABOUT = "prepared.json"
_FORMAT = 1
_OPTIONS = "group_size:1,uncompressed"  # each image by itself, and none that grows
_SHARD_BYTES = 2**30  # of pixels in a file, at most, unless a single image has more
_MOST_WHOLE = 2**31  # bytes of images that are read into memory, where that is eight times as large
_LONGEST_ABOUT = 2**24  # bytes of a `prepared.json`
_READ_BYTES = 2**23  # that are held twice at a time
_CHECKED = 2**28  # bytes that are asked for at once without a look at the memory
_MEND = "get or prepare it again"


@dataclass(frozen=True)
class Split:
    """What `prepared.json` says of a split: how many images, their sum as of `idx_sha256`, whether labels are there."""

    number: int
    sha256: str
    labels: bool


@dataclass(frozen=True)
class About:
    """What `prepared.json` says: shape "h w c", the images of a full shard, the classes, and the splits."""

    shape: tuple[int, int, int]
    images_per_shard: int
    class_names: tuple[str, ...] | None
    splits: dict[str, Split]

    def shards(self, folder: Path, split: str) -> Iterator[tuple[Path, int]]:
        """The files of a split and how many records each has."""
        number = self.splits[split].number
        for i, start in enumerate(range(0, number, self.images_per_shard)):
            yield shard_path(folder, split, i), min(self.images_per_shard, number - start)


def shard_path(folder: Path, split: str, i: int) -> Path:
    """A file of records."""
    return folder / f"{split}-{i:05}.array_record"


def labels_path(folder: Path, split: str) -> Path:
    """The file of a split's labels."""
    return folder / f"{split}-labels.npy"


class RecordImages(OnDisk):
    """The images of a split, or some of them, read by as many threads as there are shards."""

    def __init__(self, source: Any, shape: tuple[int, ...], where: str, rows: Int[np.ndarray, " n"] | None = None):
        """Some records of a source.

        Args:
            source: of records, as Grain has it.
            shape: "n h w c".
            where: the folder, for errors.
            rows: which records they are; None for all.
        """
        self.shape, self.dtype = shape, np.dtype(np.uint8)
        self._source, self._where, self._rows = source, where, rows

    def __getitem__(self, index: Any) -> UInt8[np.ndarray, "..."]:
        """The images of an integer, a slice, a mask or an array of indices of any shape."""
        wanted, one = self._wanted(index), math.prod(self.shape[1:])
        if wanted.size * one > _CHECKED:
            what = f"{wanted.size:,} images of {self._where} at once"
            require_memory(2 * wanted.size * one, what, "this figure needs a set that fits in memory")
        pixels, rows, step = np.empty((wanted.size, one), np.uint8), wanted.ravel().tolist(), max(1, _READ_BYTES // one)
        for start in range(0, len(rows), step):
            try:
                records = self._source.__getitems__(rows[start : start + step])
            except Exception as error:  # damaged files raise all sorts of things
                raise _damaged(self._where, error) from None
            if any(len(record) != one for record in records):
                raise _damaged(self._where, f"a record is not an image of {one} bytes")
            pixels[start : start + step] = np.frombuffer(b"".join(records), np.uint8).reshape(-1, one)
        return pixels.reshape(*wanted.shape, *self.shape[1:])

    def only(self, which: Any) -> "RecordImages":
        """Those of a mask or an array of indices."""
        rows = self._wanted(which)
        return RecordImages(self._source, (len(rows), *self.shape[1:]), self._where, rows)

    def _wanted(self, index: Any) -> Int[np.ndarray, "..."]:
        """The numbers of the records of an index."""
        count = len(self)
        if isinstance(index, slice):
            chosen = np.arange(*index.indices(count))
        else:
            chosen = np.asarray(index)
            chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
            if chosen.size and not -count <= chosen.min() <= chosen.max() < count:
                raise IndexError(f"an index beyond {count:,} images")
            chosen = chosen % count
        return np.asarray(chosen if self._rows is None else self._rows[chosen])


def is_prepared(path: Path) -> bool:
    """Whether a path is a prepared image set."""
    return path.is_dir() and (path / ABOUT).exists()


def load_prepared(folder: Path, split: str, size: tuple[int, int] | None) -> ImageData:
    """The split of a prepared image set, in memory where it is small for it, else on disk.

    Raises:
        UserError: it is damaged or of another version, or to be resized and on disk.
    """
    about = read_about(folder)
    what, names = about.splits[split], about.class_names
    images: Any = _open(folder, split, about)
    labels = _read_labels(folder, split, about) if what.labels else None
    if images.nbytes <= min(_MOST_WHOLE, memory_limit() // 8):
        images = images[:]
        if idx_sha256(images) != what.sha256:
            raise _damaged(folder, f"the {split} images are others than {ABOUT} says")
    elif size not in (None, about.shape[:2]):
        height, width = about.shape[:2]
        raise UserError(f"{folder}: images of {height} x {width} on disk: prepare them again with --image-size.")
    pixels = resize_all(images, size)
    digest = what.sha256 if pixels is images else None
    return image_data(pixels, labels, names, folder.resolve().name, f"prepared images in {folder}", digest)


def _open(folder: Path, split: str, about: About) -> RecordImages:
    """The images of a split, once its files are what they should be, as far as that can be told without reading all."""
    from array_record.python.array_record_module import ArrayRecordReader
    from grain.sources import ArrayRecordDataSource

    paths, size = [], math.prod(about.shape)
    for path, number in about.shards(folder, split):
        _refuse_no_file(path)
        try:
            reader = ArrayRecordReader(str(path))
            found, options = reader.num_records(), reader.writer_options_string()
            reader.close()
        except Exception as error:
            raise _damaged(path, error) from None
        if found != number or path.stat().st_size < number * size:
            raise _damaged(path, f"it has {found:,} records, and {number:,} images of {size:,} bytes are due")
        if not {"uncompressed", "group_size:1"} <= set(options.split(",")):
            raise _damaged(path, f"its records are not single and uncompressed: {options[:100]}")
        paths.append(str(path))
    return RecordImages(ArrayRecordDataSource(paths), (about.splits[split].number, *about.shape), str(folder))


def _read_labels(folder: Path, split: str, about: About) -> Int[np.ndarray, " n"]:
    path, number, names = labels_path(folder, split), about.splits[split].number, about.class_names
    _refuse_no_file(path)
    labels = np.array(read_npy(path))
    if labels.shape != (number,) or labels.dtype != np.int32:
        raise _damaged(path, f"labels of shape {labels.shape} and type {labels.dtype} for {number:,} images")
    if labels.min() < 0 or (names is not None and labels.max() >= len(names)):
        raise _damaged(path, f"labels from {labels.min()} to {labels.max()}")
    return labels


def _refuse_no_file(path: Path) -> None:
    """Raise UserError unless it is a file, and not a link to one."""
    if path.is_symlink() or not path.is_file():
        raise UserError(f"{path}: {'a link' if path.is_symlink() else 'missing'}: {_MEND}.")


def _damaged(where: object, why: object) -> UserError:
    reason = (str(why) or repr(why)).splitlines()[0][:300]
    return UserError(f"{where}: damaged ({reason}): {_MEND}.")


def read_about(folder: Path) -> About:
    """What a prepared image set says of itself.

    Raises:
        UserError: it is damaged, or of another version.
    """
    path = folder / ABOUT
    _refuse_no_file(path)
    try:
        if path.stat().st_size > _LONGEST_ABOUT:
            raise ValueError("too long")
        found = json.loads(path.read_text())
        if found["format"] == _FORMAT:
            return _about(found)
    except Exception as error:  # JSON from anywhere raises all sorts of things
        raise _damaged(path, error if not isinstance(error, KeyError) else f"{error} is missing") from None
    raise UserError(f"{path}: of format {str(found['format'])[:20]}, where this version reads {_FORMAT}: {_MEND}.")


def _about(found: Any) -> About:
    """What JSON says, or an error that is the reader's to name."""
    shape, per_shard, names = found["shape"], found["images_per_shard"], found["class_names"]
    if not (isinstance(shape, list) and len(shape) == 3 and all(_is_count(side) for side in shape)):
        raise ValueError("shape is height, width and channels")
    if not _is_count(per_shard) or (per_shard > 1 and per_shard * math.prod(shape) > _SHARD_BYTES):
        raise ValueError("images_per_shard is out of range")
    if names is not None and not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise ValueError("class_names are strings")
    splits = {name: Split(**found["splits"][name]) for name in ("train", "test")}
    for split in splits.values():
        sound = isinstance(split.labels, bool) and isinstance(split.sha256, str) and len(split.sha256) == 64
        if not _is_count(split.number) or not sound:
            raise ValueError("a split has a number, a sum of 64 digits, and labels or none")
    return About((shape[0], shape[1], shape[2]), per_shard, None if names is None else tuple(names), splits)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value < 2**31


@contextmanager
def _system_errors() -> Iterator[None]:
    """What the writer of records says of a full disk and the like, as Python has it."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error).partition(";")[0]) from error


class Writer:
    """Writes the images of one split as they come."""

    def __init__(self, folder: Path, split: str, number: int, shape: tuple[int, int, int]) -> None:
        """Begin.

        Args:
            folder: where.
            split: its name.
            number: how many images will come.
            shape: theirs, "h w c".
        """
        self._folder, self._split, self._number = folder, split, number
        self._per_shard, self._shards = images_per_shard(shape), 0
        self._file: Any = None
        self._labels = np.full(number, -1, np.int32)
        self._digest, self._written = idx_digest((number, *shape)), 0

    def add(self, image: UInt8[np.ndarray, "h w c"], label: int) -> None:
        """The next image, and its label, or -1."""
        from array_record.python.array_record_module import ArrayRecordWriter

        if self._written % self._per_shard == 0:
            self._end_shard()
            self._file = ArrayRecordWriter(str(shard_path(self._folder, self._split, self._shards)), _OPTIONS)
            self._shards += 1
        content = image.tobytes()
        with _system_errors():
            self._file.write(content)
        self._digest.update(content)
        self._labels[self._written] = label
        self._written += 1

    def finish(self) -> Split:
        """What the split is, once all of its images are written."""
        self._end_shard()
        labelled = bool((self._labels >= 0).all())
        if labelled:
            np.save(labels_path(self._folder, self._split), self._labels)
        return Split(self._number, self._digest.hexdigest(), labelled)

    def _end_shard(self) -> None:
        if self._file is not None:
            with _system_errors():
                self._file.close()


def images_per_shard(shape: tuple[int, int, int]) -> int:
    """How many images of a shape fill a file."""
    return max(1, _SHARD_BYTES // math.prod(shape))


def write_about(
    folder: Path, shape: tuple[int, int, int], class_names: tuple[str, ...] | None, splits: dict[str, Split]
) -> None:
    """Write `prepared.json`, which makes a folder a prepared image set."""
    about = asdict(About(shape, images_per_shard(shape), class_names, splits))
    (folder / ABOUT).write_text(json.dumps({"format": _FORMAT} | about, indent=1) + "\n")
