"""A folder of image files."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from flax_vae.data.examples import Examples, make_examples, nine_to_one
from flax_vae.data.image_files import is_visible, list_images, read_image
from flax_vae.data.resizing import NamedImage, Size, stack
from flax_vae.data.splits import log_unused, one_each, split_and_rest, train_and_test
from flax_vae.data.values import white_of, whitened
from flax_vae.system.errors import UserError

Files = list[tuple[Path, str | None]]  # image files with their class names


def load_folder(root: Path, split: str, size: Size | None) -> Examples:
    """Load a split of a folder of image files.

    The subfolders `train` and `test` (or `val`) are the splits, also by other usual names; without them a tenth of the
    images is held out. Folders below are classes, labelled in alphabetical order. The images are grey (c = 1) if all
    images of both splits are, else RGB; transparent areas become white, 16 bits become 8, and rotation in EXIF is
    applied. Both splits are read for either one, because they have to fit together.
    """
    files, is_test = list_splits(root)
    wanted = is_test if split == "test" else ~is_test
    parts = _split_folders(root)
    part = parts.get(split, parts.get("train", ""))
    channel_counts = set()

    def images() -> Iterator[NamedImage]:
        for image in read_files(files, is_test, root):
            channel_counts.add(image[1].shape[-1])
            yield image

    pixels, labels = stack(images(), wanted, 3, size)
    if channel_counts == {1}:
        pixels = np.ascontiguousarray(pixels[..., :1])
    return make_examples(pixels, labels, classes_of(files), root.resolve().name, f"images in {root / part}")


def list_splits(root: Path) -> tuple[Files, Bool[np.ndarray, " n"]]:
    """List the image files of both splits with their class names, and return the mask of the held-out ones.

    Raises:
        UserError: no images, or folders of which some are splits and others may be classes.
    """
    parts = _split_folders(root)
    base = root / parts.get("train", "")
    _refuse_splits_of_classes(base)
    files = list_images(base)
    if "test" not in parts:
        return files, nine_to_one(len(files), "test", str(base))
    number = len(files)
    files += list_images(root / parts["test"])
    return files, np.arange(len(files)) >= number


def _split_folders(root: Path) -> dict[str, str]:
    """Return the names of the folders that are the splits "train" and "test", if there are any.

    A name with another word in it, such as `train2017`, is that of a split only if all folders have such names.
    """
    names, found = [path.name for path in sorted(root.iterdir()) if is_visible(path.name)], defaultdict(list)
    mentioned = {name: split_and_rest(name) for name in names if (root / name).is_dir()}
    splits_only = len(mentioned) > 1 and all(split for split, _ in mentioned.values())
    for name, (split, rest) in mentioned.items():
        if split and (rest in ("", "set", "data", "images") or splits_only):
            found[split].append(name)
    splits = one_each(found, str(root))
    others = [name for name in names if name not in splits.values()]
    other_folders = [name for name in others if name in mentioned]
    if not splits:
        return {}
    if other_folders and len(splits) == 1:
        (name,) = splits.values()
        raise UserError(
            f"{root}: {name} is the name of a split, but {other_folders[0]} is beside it; remove one of them, or, if "
            f"{name} is a class, move all classes into {root / 'train'}."
        )
    parts = train_and_test(splits, str(root))
    log_unused(others, str(root))
    return parts


def _refuse_splits_of_classes(base: Path) -> None:
    """Raise UserError for a class folder that holds splits, which would be read together as one class."""
    for folder in sorted(path for path in base.iterdir() if path.is_dir() and is_visible(path.name)):
        splits = {split_and_rest(path.name)[0]: path.name for path in sorted(folder.iterdir()) if path.is_dir()}
        if "train" in splits and len(splits.keys() - {None}) > 1:
            names = " and ".join(name for split, name in splits.items() if split)
            raise UserError(
                f"{folder} holds {names}, which would be read together as one class; pass this folder if it is the "
                f"data set, or else put the folders of all classes into {names}."
            )


def read_files(files: Files, is_test: Bool[np.ndarray, " n"], root: Path) -> Iterator[NamedImage]:
    """Read image files, given with their class names; the training images decide what is white."""
    labels: dict[str | None, int] = {name: label for label, name in enumerate(classes_of(files) or ())}
    train = (path for (path, _), held_out in zip(files, is_test, strict=True) if not held_out)
    white = white_of(map(read_image, train), str(root))
    return whitened(((str(path), read_image(path), labels.get(name, -1)) for path, name in files), white)


def classes_of(files: Files) -> tuple[str, ...] | None:
    """Return the class names of image files, in the order of their labels, or None."""
    return tuple(sorted({name for _, name in files if name is not None})) or None
