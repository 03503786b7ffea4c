"""`flax-vae prepare`: image sets of any size, rewritten so that any image can be read alone."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from flax_vae.data import is_path, is_source, load_images
from flax_vae.data.arrays import map_npy
from flax_vae.data.images import OneSize, nine_to_one, pixel_size, resize
from flax_vae.data.own_images import check_images, list_splits, names_of_classes, pixels, to_bytes
from flax_vae.data.records import Split, Writer, is_prepared, write_about
from flax_vae.data.tfds_images import examples, find_or_prepare, stored_splits
from flax_vae.data.tfds_images import names_of_classes as names_of_labels
from flax_vae.system.console import progress
from flax_vae.system.files import new_directory

_AT_ONCE = 500  # images of an array
Image = tuple[str, UInt8[np.ndarray, "_h _w _c"], int]  # what it is called in an error, its pixels, its label or -1


@dataclass(frozen=True)
class Source:
    """A set whose images come one after the other, those of both splits.

    Attributes:
        is_test: which of them are held out.
        read: the images, from the first; every call begins again.
        class_names: of the labels, or None.
        channels: of all images; 1 of some that may have colours, which only reading them tells.
    """

    is_test: Bool[np.ndarray, " n"]
    read: Callable[[], Iterator[Image]]
    class_names: tuple[str, ...] | None
    channels: int


class _Coloured(Exception):
    """An image has colours, where all before it are grey."""


def prepare_images(
    name_or_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> dict[str, Split]:
    """Rewrite an image set as a folder for `load_images`, of which a training reads as much as it needs at a time.

    Images, splits and sums are those that `load_images` gives of the set itself; factors are left out. Folders of
    images, .npy files and TFDS sets are read one image at a time, others at once.

    Args:
        name_or_path, data_dir, image_size: as in `load_images`.
        out: a folder that does not exist yet or is empty; it appears when all is in it.

    Returns:
        The splits "train" and "test", with the number of images and their sum.

    Raises:
        UserError: no such images, or the folder cannot be written.
    """
    size = pixel_size(image_size)
    source = _source(name_or_path, None if data_dir is None else Path(data_dir).expanduser())
    with new_directory(Path(out)) as folder:
        try:
            return _write(source, folder, size, source.channels)
        except _Coloured:
            for path in folder.iterdir():
                path.unlink()
            return _write(source, folder, size, 3)


def _write(source: Source, folder: Path, size: tuple[int, int] | None, channels: int) -> dict[str, Split]:
    """Write all images with this number of channels, and what they are."""
    parts = {"train": ~source.is_test, "test": source.is_test}
    writers: dict[str, Writer] = {}
    one_size = OneSize(size)
    images = progress(source.read(), len(source.is_test), "Preparing images")
    for (name, image, label), held_out in zip(images, source.is_test, strict=True):
        if image.shape[-1] > channels:
            raise _Coloured
        to = one_size.of(name, image)
        shape = (*to, channels)
        if not writers:
            writers = {split: Writer(folder, split, int(part.sum()), shape) for split, part in parts.items()}
        writers["test" if held_out else "train"].add(np.broadcast_to(resize(image, to), shape), label)
    splits = {split: writer.finish() for split, writer in writers.items()}
    write_about(folder, shape, source.class_names, splits)
    return splits


def _source(name_or_path: str | os.PathLike[str], data_dir: Path | None) -> Source:
    if not is_source(name_or_path):
        if not is_path(name_or_path):
            return _of_tfds(str(name_or_path), data_dir)
        path = Path(name_or_path).expanduser()
        if path.is_dir() and not is_prepared(path):
            return _of_folder(path)
        if path.suffix.lower() == ".npy":
            return _of_array(path)
    return _loaded(name_or_path, data_dir)


def _of_folder(root: Path) -> Source:
    files, is_test = list_splits(root)
    names = names_of_classes(files)
    labels = {name: label for label, name in enumerate(names or ())}

    def read() -> Iterator[Image]:
        for path, name in files:
            yield str(path), pixels(path), -1 if name is None else labels[name]

    return Source(is_test, read, names, 1)


def _of_array(path: Path) -> Source:
    where = str(path)
    number, *_, channels = check_images(map_npy(path), where).shape

    def read() -> Iterator[Image]:
        for start in range(0, number, _AT_ONCE):
            block = check_images(map_npy(path), where)[start : start + _AT_ONCE]  # anew: what was read is kept mapped
            for image in to_bytes(block, where):
                yield where, image, -1

    return Source(nine_to_one(number, "test", where), read, None, channels)


def _of_tfds(name: str, data_dir: Path | None) -> Source:
    builder = find_or_prepare(name, data_dir)
    train, held_out = stored_splits(builder, name)
    counts = {split: builder.info.splits[split].num_examples for split in filter(None, (train, held_out))}
    several = np.arange(sum(counts.values())) >= counts[train]
    is_test = several if held_out else nine_to_one(counts[train], "test", name)

    def read() -> Iterator[Image]:
        for split in counts:
            yield from examples(builder, name, split)

    return Source(is_test, read, names_of_labels(builder), builder.info.features["image"].shape[-1])


def _loaded(name_or_path: str | os.PathLike[str], data_dir: Path | None) -> Source:
    """Of images that `load_images` gives."""
    parts = [load_images(name_or_path, split, data_dir) for split in ("train", "test")]  # type: ignore[arg-type]

    def read() -> Iterator[Image]:
        for data in parts:
            for start in range(0, len(data.images), _AT_ONCE):
                labels = None if data.labels is None else data.labels[start : start + _AT_ONCE]
                for i, image in enumerate(data.images[start : start + _AT_ONCE]):
                    yield data.name, image, -1 if labels is None else int(labels[i])

    train, test = (len(data.images) for data in parts)
    return Source(np.arange(train + test) >= train, read, parts[0].class_names, parts[0].images.shape[-1])
