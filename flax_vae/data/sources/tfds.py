"""Image sets of TensorFlow Datasets by name, read without TensorFlow."""

import contextlib
import difflib
import io
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flax_vae.data.examples import Examples, make_examples, nine_to_one
from flax_vae.data.resizing import NamedImage, Size, stack
from flax_vae.data.sources import SOURCES
from flax_vae.data.splits import log_unused, train_and_test
from flax_vae.data.values import white_of, whitened
from flax_vae.system.console import log_once
from flax_vae.system.errors import UserError
from flax_vae.system.network import check_reachable

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's names for the number of channels
_LABELS = ("label", "labels", "target", "targets")


def data_root(data_dir: Path | None) -> Path:
    """Return TFDS's data directory: `data_dir`, $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    return data_dir or Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def is_known(name: str) -> bool:
    """Return whether TFDS has a set of this name; a config and a version may follow, as in "emnist/letters:3.1.0"."""
    import tensorflow_datasets as tfds

    return re.split("[/:]", name)[0] in tfds.list_builders(with_community_datasets=False)


def find_or_prepare(name: str, data_dir: Path | None) -> Any:
    """Return the builder of a prepared set, preparing the set first if needed.

    Raises:
        UserError: unknown name, or preparing the set requires TensorFlow or a network connection.
    """
    root = data_root(data_dir)
    return find(name, root) or _prepare(name, root)


def find(name: str, root: Path) -> Any:
    """Return the builder of a set already prepared under the root, or None."""
    import tensorflow_datasets as tfds

    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=root)
    except ValueError:  # the set does not exist, or its name is invalid
        return None


def _prepare(name: str, root: Path) -> Any:
    """Download and prepare a set with TFDS, and return its builder."""
    import tensorflow_datasets as tfds

    if not is_known(name):
        names = {*SOURCES, *tfds.list_builders(with_community_datasets=False)}
        close = difflib.get_close_matches(re.sub("[- ]", "_", name.lower()), names, n=3)
        advice = f"pass {', '.join(SOURCES)}, the name of a TFDS image set, a folder, a .npy or a .npz file."
        if close:
            advice = f"did you mean {' or '.join(close)}?"
        raise UserError(f"{name}: no data set of this name and no such path; {advice}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints many lines about the missing TensorFlow
            builder = tfds.builder(name, data_dir=root, file_format="array_record")
            _check_features(builder, name)
            # TFDS itself retries for minutes without a network.
            for url in list(builder.url_infos)[:1]:
                check_reachable(url)
            builder.download_and_prepare()
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"{name} is not in {root} and cannot be downloaded ({error}); connect to the network, or pass `data_dir`."
        ) from error
    except Exception as error:  # builders raise many types of error
        reason = (str(error) or repr(error)).splitlines()[0]
        if "No module named 'tensorflow'" in str(error):
            reason = "preparing this set needs TensorFlow, once; pip install tensorflow"
        raise UserError(f"TFDS cannot prepare {name} in {root}: {reason}.") from error
    return builder


def _check_features(builder: Any, name: str) -> None:
    """Raise UserError unless the examples hold an image of bytes."""
    import tensorflow_datasets as tfds

    features = dict(builder.info.features.items())
    image = features.get("image")
    if not isinstance(image, tfds.features.Image) or image.np_dtype != np.uint8 or image.shape[-1] not in _MODES:
        raise UserError(f"{name} is not a set of 8-bit images: it holds {', '.join(features)}; choose another set.")


def read(builder: Any, name: str, split: str, size: Size | None) -> Examples:
    """Load a split of a prepared set.

    For a set without a test split, the validation split is used instead, or a tenth of the training images.

    Raises:
        UserError: no `image` feature of bytes, or images of different sizes without `size`.
    """
    train, held_out = stored_splits(builder, name)
    stored = held_out if split == "test" and held_out else train
    number = builder.info.splits[stored].num_examples
    wanted = np.ones(number, bool) if held_out else nine_to_one(number, split, name)
    labels = find_labels(builder, name)
    pixels, numbers = stack(
        read_examples(builder, name, stored, labels), wanted, builder.info.features["image"].shape[-1], size
    )
    return make_examples(pixels, numbers, labels.names, name, f"TFDS in {builder.data_dir}")


def stored_splits(builder: Any, name: str) -> tuple[str, str | None]:
    """Return TFDS's names of the training and test split; None if the test images are taken from the first.

    Raises:
        UserError: the set is not of 8-bit images, or has no training split.
    """
    _check_features(builder, name)
    splits = tuple(builder.info.splits)
    if "train" not in splits:
        raise UserError(f"{name} has no split train, only {', '.join(splits)}; choose another set.")
    parts = train_and_test({split: split for split in splits if split in ("train", "test", "validation")}, name)
    log_unused(set(splits) - {"train", "test", "validation"}, name)
    return parts["train"], parts.get("test")


class Labels(NamedTuple):
    """The labels of a set.

    Attributes:
        feature: the name of their feature, or None without labels.
        names: the names of the classes, or None.
        numbers: the class number of each value that is a text or an integer without a name.
    """

    feature: str | None = None
    names: tuple[str, ...] | None = None
    numbers: dict[Any, int] | None = None

    def number(self, record: dict[str, Any]) -> int:
        """Return the class number of an example; -1 if it is missing or hidden."""
        if self.feature is None:
            return -1
        value = record[self.feature]
        return int(value) if self.numbers is None else self.numbers.get(_plain(value), -1)


def find_labels(builder: Any, name: str) -> Labels:
    """Return the labels of a set: classes, integers or texts. Integers and texts are numbered in ascending order.

    They have a usual name, or are the only feature of classes. All other features are logged.
    """
    import tensorflow_datasets as tfds

    features = dict(builder.info.features.items())
    classes = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    candidates = [key for key in _LABELS if key in features] or (classes if len(classes) == 1 else [])
    log_unused(features.keys() - {"image", *candidates}, name)
    for key in candidates:
        if key in classes:
            return Labels(key, tuple(features[key].names))
        if features[key].shape == () and np.dtype(features[key].np_dtype).kind in "iuOSU":
            with _readable(builder):
                values = {_plain(record[key]) for split in builder.info.splits for record in _records(builder, split)}
            distinct = sorted(values - {-1})  # -1 where labels are hidden
            numbers = {value: number for number, value in enumerate(distinct)}
            return Labels(key, tuple(map(str, distinct)) or None, numbers)
        log_once(f"{name}: {key} is not read: it is not one class per image.")
    return Labels()


def _plain(value: Any) -> Any:
    """Return a text or an integer of Python."""
    value = value.item() if isinstance(value, np.ndarray | np.generic) else value
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def read_examples(builder: Any, name: str, stored: str, labels: Labels) -> Iterator[NamedImage]:
    """Yield the images of a split in bytes, with white at 255; see `_examples`."""
    train = (image for _, image, _ in _examples(builder, name, "train", Labels()))
    return whitened(_examples(builder, name, stored, labels), white_of(train, name))


def _examples(builder: Any, name: str, stored: str, labels: Labels) -> Iterator[NamedImage]:
    """Yield the image of each example, with the label -1 if it is missing or hidden.

    Raises:
        UserError: the examples are damaged, or their number differs from the declared one.
    """
    from PIL import Image

    channels, number = builder.info.features["image"].shape[-1], builder.info.splits[stored].num_examples
    count = 0
    with _readable(builder):
        for count, record in enumerate(_records(builder, stored), 1):
            if count > number:
                break
            image = np.asarray(Image.open(io.BytesIO(record["image"])).convert(_MODES[channels]))
            yield f"image {count - 1} of {name}", image.reshape(*image.shape[:2], channels), labels.number(record)
        if count != number:
            raise ValueError(f"the number of examples in split {stored} is not {number}")


@contextlib.contextmanager
def _readable(builder: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # damaged records raise many types of error
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(f"{builder.data_dir}: not readable ({reason}); delete it and prepare it again.") from error


def _records(builder: Any, split: str) -> Iterator[dict[str, Any]]:
    """Yield the examples as stored, with images still compressed."""
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    if builder.info.file_format.value == "array_record":
        yield from builder.as_data_source(split=split, decoders=decoders)
        return
    # Most sets were prepared by TensorFlow as TFRecords, which TFDS can only read with TensorFlow. A TFRecord is the
    # length in 8 bytes, 4 bytes of its checksum, the example, and 4 bytes of its checksum.
    for path in builder.info.splits[split].filepaths:
        with open(path, "rb") as file:
            while header := file.read(12):
                example = file.read(struct.unpack("<Q", header[:8])[0])
                file.read(4)
                yield builder.info.features.deserialize_example_np(example, decoders=decoders)
