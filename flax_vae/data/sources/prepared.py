"""A prepared image set, which may exceed memory."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from flax_vae.batches import OnDisk
from flax_vae.data.arrays import idx_sha256, read_npy
from flax_vae.data.examples import Examples, make_examples
from flax_vae.data.records import DESCRIPTION, Description, damaged, labels_path, read_description, require_file
from flax_vae.data.resizing import Size, resize_all
from flax_vae.system.errors import UserError
from flax_vae.system.memory import memory_limit, require_memory

_MOST_IN_MEMORY = 2**31  # bytes of images that are read into memory, if memory is at least eight times as large
_READ_BYTES = 2**23  # per read, held twice
_CHECKED = 2**28  # bytes: larger requests are checked against free memory first


def load_prepared(folder: Path, split: str, size: Size | None) -> Examples:
    """Load a split of a prepared image set: in memory if it is small enough, else on disk.

    Raises:
        UserError: the set is damaged or of another version, or on disk and to be resized.
    """
    description = read_description(folder)
    expected = description.splits[split]
    images: Any = _open(folder, split, description)
    labels = _read_labels(folder, split, description) if expected.labels else None
    if images.nbytes <= min(_MOST_IN_MEMORY, memory_limit() // 8):
        images = images[:]
        if idx_sha256(images) != expected.sha256:
            raise damaged(folder, f"the {split} images differ from their checksum in {DESCRIPTION}")
    elif size is not None and size.shape != description.shape[:2]:
        height, width = description.shape[:2]
        raise UserError(f"{folder}: images of {height} x {width} on disk: prepare them again with this `image_size`.")
    pixels = resize_all(images, size)
    sha256 = expected.sha256 if pixels is images else None
    source = f"prepared images in {folder}"
    return make_examples(pixels, labels, description.class_names, folder.resolve().name, source, sha256)


def _open(folder: Path, split: str, description: Description) -> "RecordImages":
    """Open the images of a split after checking its files as far as possible without reading them."""
    from array_record.python.array_record_module import ArrayRecordReader
    from grain.sources import ArrayRecordDataSource

    paths, size = [], math.prod(description.shape)
    for path, number in description.shards(folder, split):
        require_file(path)
        try:
            reader = ArrayRecordReader(str(path))
            records, options = reader.num_records(), reader.writer_options_string()
            reader.close()
        except Exception as error:
            raise damaged(path, error) from None
        if records != number or path.stat().st_size < number * size:
            raise damaged(path, f"{records:,} records instead of {number:,} images of {size:,} bytes")
        if not {"uncompressed", "group_size:1"} <= set(options.split(",")):
            raise damaged(path, f"its records are not single and uncompressed: {options[:100]}")
        paths.append(str(path))
    rows = np.arange(description.splits[split].number)
    return RecordImages(ArrayRecordDataSource(paths), description.shape, str(folder), rows)


def _read_labels(folder: Path, split: str, description: Description) -> Int[np.ndarray, " n"]:
    path, number, names = labels_path(folder, split), description.splits[split].number, description.class_names
    require_file(path)
    labels = np.array(read_npy(path))
    if labels.shape != (number,) or labels.dtype != np.int32:
        raise damaged(path, f"labels of shape {labels.shape} and type {labels.dtype} for {number:,} images")
    if labels.min() < 0 or (names is not None and labels.max() >= len(names)):
        raise damaged(path, f"labels from {labels.min()} to {labels.max()}")
    return labels


class RecordImages(OnDisk):
    """The images of a split, or a selection of them, read by one thread per file."""

    def __init__(self, source: Any, image_shape: tuple[int, ...], where: str, rows: Int[np.ndarray, " n"]) -> None:
        """Select records of a source.

        Args:
            source: Grain's data source of records.
            image_shape: "h w c".
            where: the folder, for error messages.
            rows: the indices of the selected records.
        """
        self.shape, self.dtype = (len(rows), *image_shape), np.dtype(np.uint8)
        self._source, self._where, self._rows = source, where, rows

    def __getitem__(self, index: Any) -> UInt8[np.ndarray, "..."]:
        """Read the images at an integer, a slice, a mask or an array of indices of any shape."""
        wanted, image_bytes = np.asarray(self._rows[index]), math.prod(self.shape[1:])
        if wanted.size * image_bytes > _CHECKED:
            what = f"{wanted.size:,} images of {self._where} at once"
            require_memory(2 * wanted.size * image_bytes, what, "this figure needs a set that fits in memory")
        pixels, rows = np.empty((wanted.size, image_bytes), np.uint8), wanted.ravel().tolist()
        step = max(1, _READ_BYTES // image_bytes)
        for start in range(0, len(rows), step):
            try:
                records = self._source.__getitems__(rows[start : start + step])
            except Exception as error:  # damaged files raise many types of error
                raise damaged(self._where, error) from None
            if any(len(record) != image_bytes for record in records):
                raise damaged(self._where, f"a record is not an image of {image_bytes} bytes")
            pixels[start : start + step] = np.frombuffer(b"".join(records), np.uint8).reshape(-1, image_bytes)
        return pixels.reshape(*wanted.shape, *self.shape[1:])

    def only(self, which: Any) -> "RecordImages":
        """Return the subset at a mask or an array of indices, still on disk."""
        return RecordImages(self._source, self.shape[1:], self._where, self._rows[which])
