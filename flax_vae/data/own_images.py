"""The user's own images: a folder of image files, a .npy or a .npz file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from flax_vae.data.arrays import open_npz, read_npy
from flax_vae.data.images import ImageData, image_data, nine_to_one, resize_all, stack
from flax_vae.data.records import is_prepared, load_prepared
from flax_vae.system.errors import UserError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")
FLOAT_CHUNK = 1024  # images converted at a time: the floats may be larger than memory


def load_own(path: Path, split: str, size: tuple[int, int] | None) -> ImageData:
    """The split of the images at the path: a folder, of files or prepared, a .npy or a .npz file.

    Raises:
        UserError: there is nothing at the path, or nothing that can be read as images.
    """
    if is_prepared(path):
        return load_prepared(path, split, size)
    if path.is_dir():
        return load_folder(path, split, size)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check the spelling")
    if path.suffix.lower() not in (".npy", ".npz"):
        raise UserError(f"{path}: neither a folder of images nor a .npy or .npz file; one of these is needed")
    return load_arrays(path, split, size)


def load_folder(root: Path, split: str, size: tuple[int, int] | None) -> ImageData:
    """The split of a folder of PNG, JPEG and WebP files.

    `train` and `test` (or `val`, or `validation`) in it are the splits; otherwise a tenth of the images is held out.
    Folders below are classes, labelled in the order of their names. The images are grey (c = 1) if all of both splits
    are, else RGB; transparent parts become white; 16 bits become 8; the camera's rotation is applied. Both splits are
    read, whichever is asked for: they have to fit each other.
    """
    files, is_test = list_splits(root)
    wanted = is_test if split == "test" else ~is_test
    colours = set()

    def named_images() -> Iterator[tuple[str, UInt8[np.ndarray, "h w c"]]]:
        for path, _ in files:
            image = pixels(path)
            colours.add(image.shape[-1])
            yield str(path), image

    images = stack(named_images(), wanted, 3, size)
    if colours == {1}:
        images = np.ascontiguousarray(images[..., :1])
    class_names = names_of_classes(files)
    names = [name for (_, name), keep in zip(files, wanted, strict=True) if keep]
    labels = np.array([class_names.index(name) for name in names]) if class_names and None not in names else None
    return image_data(images, labels, class_names, root.resolve().name, f"images in {root}")


def list_splits(root: Path) -> tuple[list[tuple[Path, str | None]], Bool[np.ndarray, " n"]]:
    """The image files of both splits, each with the name of its class, and which of them are the held-out ones."""
    held_out = next((root / name for name in ("test", "val", "validation") if (root / name).is_dir()), None)
    base = root / "train" if (root / "train").is_dir() else root
    files = list_images(base)
    if held_out is None or base == root:
        return files, nine_to_one(len(files), "test", str(base))
    number = len(files)
    files += list_images(held_out)
    return files, np.arange(len(files)) >= number


def names_of_classes(files: list[tuple[Path, str | None]]) -> tuple[str, ...] | None:
    """The classes of image files, in the order of their labels, or None."""
    return tuple(sorted({name for _, name in files if name is not None})) or None


def list_images(folder: Path) -> list[tuple[Path, str | None]]:
    """The image files in order, each with the name of its class; hidden files are passed over."""
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    loose: list[tuple[Path, str | None]] = [(path, None) for path in visible if is_image(path)]
    classes = [path for path in visible if path.is_dir()]
    if loose and classes:
        raise UserError(f"{folder} holds both images and folders ({classes[0].name}); move the ones or the others away")
    found = loose
    for subfolder in classes:
        images = sorted(path for path in subfolder.rglob("*") if is_image(path))
        if not images:
            raise UserError(f"{subfolder}: an empty class folder, no PNG, JPEG or WebP files in it; fill or remove it")
        found += [(path, subfolder.name) for path in images]
    if not found:
        raise UserError(f"{folder}: no images, PNG, JPEG or WebP files, in it; is it the right folder?")
    return found


def is_image(path: Path) -> bool:
    """Whether the name says that it is an image."""
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()


def open_image(path: Path, exactly: bool) -> Any:
    """Pillow's image: upright, of 8 bits, on white where it was transparent."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            lost = lost_of(file) if exactly else []
            image = ImageOps.exif_transpose(file)
    except Exception as error:  # decoders raise all sorts of things over damaged files
        raise UserError(f"{path}: not a readable image ({error}); replace or remove it") from error
    if lost:
        raise UserError(
            f"{path} has {' and '.join(lost)}, which would be lost: save it as a grey or RGB image of 8 bits first."
        )
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image


def lost_of(file: Any) -> list[str]:
    """What 8 bits of grey or of RGB do not hold of a file that Pillow has opened."""
    found = {"several frames": getattr(file, "n_frames", 1) > 1, "transparency": file.has_transparency_data}
    found |= {"more than 8 bits": file.mode[0] in "IF", "inks": file.mode == "CMYK"}
    return [name for name, there in found.items() if there]


def pixels(path: Path, exactly: bool = False) -> UInt8[np.ndarray, "h w c"]:
    """The image, with a single channel if it has no colour, whatever its format calls itself: WebP knows no grey.

    Args:
        path: of the file.
        exactly: whether to refuse a file that holds more than these pixels.

    Raises:
        UserError: it cannot be read, or holds more.
    """
    image = open_image(path, exactly)
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[..., None]
    rgb = np.asarray(image.convert("RGB"))
    return rgb[..., :1] if (rgb == rgb[..., :1]).all() else rgb


def load_arrays(path: Path, split: str, size: tuple[int, int] | None) -> ImageData:
    """The split of the images in a .npy or .npz file: "n h w" or "n h w c", bytes or floats from 0 to 1.

    A .npz holds `x_train`, `x_test` and perhaps `y_train`, `y_test`, as Keras has them, or `images` and perhaps
    `labels`, or a single array. Where no test part is given, a tenth of the images is held out.
    """
    images, labels, is_split = read_arrays(path, split)
    images = check_images(images, str(path))
    if labels is not None:
        labels = check_labels(labels, len(images), str(path))
    if not is_split:
        wanted = nine_to_one(len(images), split, str(path))
        images, labels = images[wanted], None if labels is None else labels[wanted]
    return image_data(resize_all(to_bytes(images, str(path)), size), labels, None, path.stem, f"arrays in {path}")


def read_arrays(path: Path, split: str) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """Images, labels, and whether they are the split already."""
    if path.suffix.lower() == ".npy":
        return read_npy(path), None, False
    with open_npz(path) as archive:
        names = set(archive)
        is_split = {"x_train", "x_test"} <= names
        if is_split:
            x, y = f"x_{split}", f"y_{split}"
        elif "x_train" in names:
            x, y = "x_train", "y_train"
        else:
            x, y = next(iter(names)) if len(names) == 1 else "images", "labels"
        if x not in names:
            raise UserError(
                f"{path} holds {', '.join(sorted(names)) or 'nothing'}; x_train, images or a single array is due"
            )
        return archive[x], archive[y] if y in names else None, is_split


def check_images(array: np.ndarray, where: str) -> np.ndarray:
    """The array as "n h w c"; raises UserError for another rank, another type or nothing in it."""
    if array.ndim not in (3, 4):
        raise UserError(f"{where}: images of shape {array.shape}; (n, h, w) or (n, h, w, c) is needed, so reshape them")
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise UserError(
            f"{where}: images of type {array.dtype}; uint8 or floats from 0 to 1 are needed, so convert them"
        )
    if array.size == 0:
        raise UserError(f"{where}: no images in it, its shape is {array.shape}")
    return array[..., None] if array.ndim == 3 else array


def check_labels(labels: np.ndarray, number: int, where: str) -> np.ndarray:
    """The labels as "n"; raises UserError unless they are one class number for each image."""
    if labels.size != number or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise UserError(
            f"{where}: labels of shape {labels.shape} and type {labels.dtype} for {number} images; "
            "one integer from 0 for each is needed, or no labels"
        )
    return labels.reshape(number)


def to_bytes(images: np.ndarray, where: str) -> UInt8[np.ndarray, "n h w c"]:
    """Floats from 0 to 1 rounded to 0 to 255; bytes as they are."""
    if images.dtype == np.uint8:
        return images
    converted = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), FLOAT_CHUNK):
        chunk = images[start : start + FLOAT_CHUNK]
        if np.isnan(chunk).any():
            raise UserError(f"{where}: NaN among the pixels; replace them, or leave out the images that have them")
        if chunk.min() < 0 or chunk.max() > 1:
            raise UserError(
                f"{where}: floats from {chunk.min():.4g} to {chunk.max():.4g}, outside [0, 1]; "
                "divide by the largest value, or save them as uint8"
            )
        converted[start : start + FLOAT_CHUNK] = np.rint(chunk * 255)
    return converted
