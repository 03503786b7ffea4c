"""`flax-vae prepare`: rewrite image sets of any size for random access."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from flax_vae.data.arrays import map_npy
from flax_vae.data.examples import nine_to_one
from flax_vae.data.load import is_source, load_images, path_of
from flax_vae.data.records import Description, Split, Writer, images_per_shard, is_prepared, write_description
from flax_vae.data.resizing import NamedImage, Resize, Size, make_size, resize, with_common_size
from flax_vae.data.sources import tfds
from flax_vae.data.sources.folder import classes_of, list_splits, read_files
from flax_vae.data.values import check_images, to_bytes, white_of
from flax_vae.system.console import progress
from flax_vae.system.files import new_directory

_BLOCK = 500  # images of an array, read together


@dataclass(frozen=True)
class Source:
    """A data set that yields the images of both splits one at a time.

    Attributes:
        is_test: the mask of the held-out images.
        read: returns a new iterator over all images.
        class_names: the names of the classes, or None.
        channels: the number of channels of all images; 1 if some may turn out to be in colour once they are read.
    """

    is_test: Bool[np.ndarray, " n"]
    read: Callable[[], Iterator[NamedImage]]
    class_names: tuple[str, ...] | None
    channels: int


class _Coloured(Exception):
    """An image is in colour although all previous ones are grey."""


def prepare_images(
    name_or_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    resize: Resize = "crop",
) -> dict[str, Split]:
    """Rewrite an image set as a folder from which `load_images` and training can stream.

    The images, splits and checksums are those of `load_images`; factors are omitted. Folders of images, .npy files and
    TFDS sets are read one image at a time, other sets at once.

    Args:
        name_or_path, data_dir, image_size, resize: see `load_images`.
        out: a folder that is empty or does not exist yet; it appears once it is complete.

    Returns:
        The splits "train" and "test", with their numbers of images and checksums.

    Raises:
        UserError: the images cannot be loaded, or the folder cannot be written.
    """
    size = make_size(image_size, resize)
    source = _source(name_or_path, None if data_dir is None else Path(data_dir).expanduser())
    with new_directory(Path(out)) as folder:
        try:
            return _write(source, folder, size, source.channels)
        except _Coloured:
            for path in folder.iterdir():
                path.unlink()
            return _write(source, folder, size, 3)


def _write(source: Source, folder: Path, size: Size | None, channels: int) -> dict[str, Split]:
    """Write all images with `channels` channels, and their description."""
    masks = {"train": ~source.is_test, "test": source.is_test}
    writers: dict[str, Writer] = {}
    images = with_common_size(progress(source.read(), len(source.is_test), "Preparing images"), size)
    for (image, target, label), held_out in zip(images, source.is_test, strict=True):
        if image.shape[-1] > channels:
            raise _Coloured
        shape = (*target.shape, channels)
        if not writers:
            writers = {split: Writer(folder, split, int(mask.sum()), shape) for split, mask in masks.items()}
        writers["test" if held_out else "train"].add(np.broadcast_to(resize(image, target), shape), label)
    splits = {split: writer.finish() for split, writer in writers.items()}
    write_description(folder, Description(shape, images_per_shard(shape), source.class_names, splits))
    return splits


def _source(name_or_path: str | os.PathLike[str], data_dir: Path | None) -> Source:
    path = path_of(name_or_path)
    if path is None:
        if not is_source(str(name_or_path)):
            return _tfds_source(str(name_or_path), data_dir)
    elif path.is_dir() and not is_prepared(path):
        files, is_test = list_splits(path)
        return Source(is_test, lambda: read_files(files, is_test, path), classes_of(files), 1)
    elif path.suffix.lower() == ".npy":
        return _array_source(path)
    return _loaded_source(name_or_path, data_dir)


def _array_source(path: Path) -> Source:
    where = str(path)
    number, *_, channels = check_images(map_npy(path), where).shape

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, number, _BLOCK):
            # Each block opens the file again, because pages that were read stay mapped.
            yield check_images(map_npy(path), where)[start : start + _BLOCK]

    def read() -> Iterator[NamedImage]:
        white = white_of(blocks(), where)
        for block in blocks():
            for image in to_bytes(block, white, where):
                yield where, image, -1

    return Source(nine_to_one(number, "test", where), read, None, channels)


def _tfds_source(name: str, data_dir: Path | None) -> Source:
    builder = tfds.find_or_prepare(name, data_dir)
    train, held_out = tfds.stored_splits(builder, name)
    counts = {split: builder.info.splits[split].num_examples for split in filter(None, (train, held_out))}
    after_train = np.arange(sum(counts.values())) >= counts[train]
    is_test = after_train if held_out else nine_to_one(counts[train], "test", name)
    labels = tfds.find_labels(builder, name)

    def read() -> Iterator[NamedImage]:
        for split in counts:
            yield from tfds.read_examples(builder, name, split, labels)

    return Source(is_test, read, labels.names, builder.info.features["image"].shape[-1])


def _loaded_source(name_or_path: str | os.PathLike[str], data_dir: Path | None) -> Source:
    """Return a source of images that `load_images` loads."""
    splits = [load_images(name_or_path, split, data_dir) for split in ("train", "test")]  # type: ignore[arg-type]

    def read() -> Iterator[NamedImage]:
        for data in splits:
            labels = np.full(len(data.x), -1) if data.labels is None else data.labels
            for start in range(0, len(data.x), _BLOCK):
                for number, image in enumerate(data.x[start : start + _BLOCK], start):
                    yield data.name, image, int(labels[number])

    train, test = (len(data.x) for data in splits)
    return Source(np.arange(train + test) >= train, read, splits[0].names or None, splits[0].x.shape[-1])
