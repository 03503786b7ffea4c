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
from flax_vae.errors import UserError

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
    root = data_root(data_dir)
    return load_prepared(name, split, root, size) or read(prepare(name, root), name, split, size)


def load_prepared(name: str, split: str, root: Path, size: tuple[int, int] | None = None) -> ImageData | None:
    """The split of a set that TFDS has prepared under the root, by whomever; None if there is none."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=root)
    except ValueError:  # not found, or no such name is possible
        return None
    return read(builder, name, split, size)


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
    import tensorflow_datasets as tfds
    from PIL import Image

    check_features(builder, name)
    features, splits = dict(builder.info.features.items()), builder.info.splits
    if "train" not in splits:
        raise UserError(f"{name} has no split `train`, only {', '.join(splits)}; another set is needed")
    held_out = next((other for other in ("test", "validation") if other in splits), None)
    stored = held_out if split == "test" and held_out else "train"
    number = splits[stored].num_examples
    wanted = np.ones(number, bool) if held_out else nine_to_one(number, split, name)
    label, channels = features.get("label"), features["image"].shape[-1]
    class_names = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else None
    labels = []

    def named_images() -> Iterator[tuple[str, UInt8[np.ndarray, "h w c"]]]:
        for i, record in enumerate(records(builder, stored)):
            labels.append(record["label"] if class_names else -1)
            image = np.asarray(Image.open(io.BytesIO(record["image"])).convert(MODES[channels]))
            yield f"image {i} of {name}", image.reshape(*image.shape[:2], channels)

    try:
        images = stack(named_images(), wanted, channels, size)
    except UserError:
        raise
    except Exception as error:  # damaged records raise all sorts of things
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(
            f"{builder.data_dir}: not readable ({reason}); delete it, and let TFDS prepare it anew"
        ) from error
    kept = np.array(labels)[wanted] if class_names and min(labels) >= 0 else None  # -1 stands for a hidden label
    return image_data(images, kept, class_names, name, f"TFDS in {builder.data_dir}")


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
