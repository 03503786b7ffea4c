"""A folder of image files."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from flax_vae.data.image_files import list_images, read_image
from flax_vae.data.images import ImageData, image_data, nine_to_one
from flax_vae.data.resizing import NamedImage, stack


def load_folder(root: Path, split: str, size: tuple[int, int] | None) -> ImageData:
    """Load a split of a folder of PNG, JPEG and WebP files.

    The subfolders `train` and `test` (or `val`, or `validation`) are the splits; without them a tenth of the images is
    held out. Folders below are classes, labelled in alphabetical order. The images are grey (c = 1) if all images of
    both splits are, else RGB; transparent areas become white, 16 bits become 8, and rotation in EXIF is applied.
    Both splits are read for either one, because they have to fit together.
    """
    files, is_test = list_splits(root)
    wanted = is_test if split == "test" else ~is_test
    channel_counts = set()

    def images() -> Iterator[NamedImage]:
        for image in read_files(files):
            channel_counts.add(image[1].shape[-1])
            yield image

    pixels, labels = stack(images(), wanted, 3, size)
    if channel_counts == {1}:
        pixels = np.ascontiguousarray(pixels[..., :1])
    return image_data(pixels, labels, classes_of(files), root.resolve().name, f"images in {root}")


def list_splits(root: Path) -> tuple[list[tuple[Path, str | None]], Bool[np.ndarray, " n"]]:
    """List the image files of both splits with their class names, and return the mask of the held-out ones."""
    held_out = next((root / name for name in ("test", "val", "validation") if (root / name).is_dir()), None)
    base = root / "train" if (root / "train").is_dir() else root
    files = list_images(base)
    if held_out is None or base == root:
        return files, nine_to_one(len(files), "test", str(base))
    number = len(files)
    files += list_images(held_out)
    return files, np.arange(len(files)) >= number


def read_files(files: list[tuple[Path, str | None]]) -> Iterator[NamedImage]:
    """Read image files, given with their class names."""
    labels: dict[str | None, int] = {name: label for label, name in enumerate(classes_of(files) or ())}
    for path, name in files:
        yield str(path), read_image(path), labels.get(name, -1)


def classes_of(files: list[tuple[Path, str | None]]) -> tuple[str, ...] | None:
    """Return the class names of image files, in the order of their labels, or None."""
    return tuple(sorted({name for _, name in files if name is not None})) or None
