"""Image sets of TensorFlow Datasets by name, read without TensorFlow."""

import contextlib
import difflib
import io
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from flax_vae.data.images import ImageData, image_data, nine_to_one, stack
from flax_vae.data.network import check_reachable
from flax_vae.system.errors import UserError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's names for the number of channels


def data_root(data_dir: Path | None) -> Path:
    """Where TFDS keeps its sets: data_dir, $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    return data_dir or Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def is_known(name: str) -> bool:
    """Whether TFDS has a set of this name; a config and a version may follow, as in "emnist/letters:3.1.0"."""
    import tensorflow_datasets as tfds

    return re.split("[/:]", name)[0] in tfds.list_builders(with_community_datasets=False)


def load_tfds(name: str, split: str, data_dir: Path | None, size: tuple[int, int] | None) -> ImageData:
    """The split of a TFDS image set, prepared here if it is not yet.

    A set without a test split has its validation split in that place, or a tenth of train.

    Raises:
        UserError: unknown name; no feature `image` of bytes; images of several sizes and no size to bring them to; the
            set has to be prepared and that needs TensorFlow or the network.
    """
    return read(find_or_prepare(name, data_dir), name, split, size)


def find_or_prepare(name: str, data_dir: Path | None) -> Any:
    """The builder of a set that is there, or is prepared now."""
    root = data_root(data_dir)
    return find(name, root) or prepare(name, root)


def load_prepared(name: str, split: str, root: Path) -> ImageData | None:
    """The split of a set that TFDS has prepared under the root, by whomever; None if there is none."""
    builder = find(name, root)
    return None if builder is None else read(builder, name, split, None)


def find(name: str, root: Path) -> Any:
    """The builder of a set that TFDS has prepared under the root, or None."""
    import tensorflow_datasets as tfds

    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=root)
    except ValueError:  # not found, or no such name is possible
        return None


def prepare(name: str, root: Path) -> Any:
    """The builder of the set, once TFDS has downloaded and written it."""
    import tensorflow_datasets as tfds

    if not is_known(name):
        raise UserError(f"{name}: no data set of this name and no such path{did_you_mean(name)}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # where TFDS says over many lines that TensorFlow is missing
            builder = tfds.builder(name, data_dir=root, file_format="array_record")
            check_features(builder, name)
            # TFDS itself would retry for minutes before it says that there is no network.
            for url in list(builder.url_infos)[:1]:
                check_reachable(url)
            builder.download_and_prepare()
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"{name} is not in {root} and cannot be downloaded ({error}); connect to the network, or name --data-dir"
        ) from error
    except Exception as error:  # a builder may raise anything
        reason = (str(error) or repr(error)).splitlines()[0]
        if "No module named 'tensorflow'" in str(error):
            reason = "it needs TensorFlow for this once; pip install tensorflow"
        raise UserError(f"TFDS cannot prepare {name} in {root}: {reason}") from error
    return builder


def did_you_mean(name: str) -> str:
    """The known names that come closest, as the end of a sentence."""
    import tensorflow_datasets as tfds

    names = tfds.list_builders(with_community_datasets=False)
    close = difflib.get_close_matches(re.sub("[- ]", "_", name.lower()), names, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else "; a TFDS image set, a folder, .npy or .npz is needed"


def check_features(builder: Any, name: str) -> None:
    """Raise UserError unless the examples hold an image of bytes."""
    import tensorflow_datasets as tfds

    features = dict(builder.info.features.items())
    image = features.get("image")
    if not isinstance(image, tfds.features.Image) or image.np_dtype != np.uint8 or image.shape[-1] not in MODES:
        raise UserError(f"{name} is no set of 8-bit images: it needs a feature `image`, and has {', '.join(features)}")


def read(builder: Any, name: str, split: str, size: tuple[int, int] | None) -> ImageData:
    """The split of a prepared set."""
    train, held_out = stored_splits(builder, name)
    stored = held_out if split == "test" and held_out else train
    number = builder.info.splits[stored].num_examples
    wanted = np.ones(number, bool) if held_out else nine_to_one(number, split, name)
    labels = []

    def named_images() -> Iterator[tuple[str, UInt8[np.ndarray, "h w c"]]]:
        for what, image, label in examples(builder, name, stored):
            labels.append(label)
            yield what, image

    images = stack(named_images(), wanted, builder.info.features["image"].shape[-1], size)
    kept = np.array(labels)[wanted] if min(labels) >= 0 else None
    return image_data(images, kept, names_of_classes(builder), name, f"TFDS in {builder.data_dir}")


def stored_splits(builder: Any, name: str) -> tuple[str, str | None]:
    """The splits to train on and to test with, in TFDS's words; None where the second is a part of the first."""
    check_features(builder, name)
    splits = builder.info.splits
    if "train" not in splits:
        raise UserError(f"{name} has no split `train`, only {', '.join(splits)}; another set is needed")
    return "train", next((other for other in ("test", "validation") if other in splits), None)


def names_of_classes(builder: Any) -> tuple[str, ...] | None:
    """The classes of a set's labels, or None."""
    import tensorflow_datasets as tfds

    label = dict(builder.info.features.items()).get("label")
    return tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else None


def examples(builder: Any, name: str, stored: str) -> Iterator[tuple[str, UInt8[np.ndarray, "h w c"], int]]:
    """What each example of a split is called in an error, its image, and its label, -1 where it has none or hides it.

    Raises:
        UserError: they are damaged, or not as many as there should be.
    """
    from PIL import Image

    channels, number = builder.info.features["image"].shape[-1], builder.info.splits[stored].num_examples
    labelled, read = names_of_classes(builder) is not None, 0
    try:
        for record in records(builder, stored):
            image = np.asarray(Image.open(io.BytesIO(record["image"])).convert(MODES[channels]))
            read += 1
            if read > number:
                break
            label = int(record["label"]) if labelled else -1
            yield f"image {read - 1} of {name}", image.reshape(*image.shape[:2], channels), label
        if read != number:
            raise ValueError(f"other than {number} examples in split {stored}")
    except Exception as error:  # damaged records raise all sorts of things
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(
            f"{builder.data_dir}: not readable ({reason}); delete it, and let TFDS prepare it anew"
        ) from error


def records(builder: Any, split: str) -> Iterator[dict[str, Any]]:
    """The examples as they were stored, images still compressed."""
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    if builder.info.file_format.value == "array_record":
        yield from builder.as_data_source(split=split, decoders=decoders)
        return
    # Most sets were prepared by TensorFlow, which writes TFRecord: the length in 8 bytes, 4 of its checksum, the
    # example, 4 of its checksum. TFDS reads those with TensorFlow only.
    for path in builder.info.splits[split].filepaths:
        with open(path, "rb") as file:
            while header := file.read(12):
                example = file.read(struct.unpack("<Q", header[:8])[0])
                file.read(4)
                yield builder.info.features.deserialize_example_np(example, decoders=decoders)
