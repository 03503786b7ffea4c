"""Image sets of TFDS, read and prepared without TensorFlow."""

import gzip
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from files import as_image, cached_files, picture
from full_set import DEBIAN, full_set

from flax_vae import prepare_images
from flax_vae.data import load_images
from flax_vae.data.arrays import idx_sha256
from flax_vae.data.sources import fashion_mnist
from flax_vae.system.errors import UserError


def tfds_builder(set_name: str, features: dict, examples: dict[str, list[dict]], registered: bool, urls=()) -> type:
    """Return a builder of a set; TFDS finds registered builders by name, and other sets once they are prepared."""
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=not registered):
        name = set_name
        VERSION = tfds.core.Version("3.0.1")
        url_infos = dict.fromkeys(urls)

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, _):
            return {split: iter(enumerate(images)) for split, images in examples.items()}

        def _generate_examples(self):
            raise NotImplementedError

    return Builder


@pytest.fixture
def tfds_set(tmp_path):
    """Prepare a set in TFDS's data directory."""

    def prepare(name: str, features: dict, examples: dict[str, list[dict]]):
        tfds_builder(name, features, examples, registered=False)(
            data_dir=tmp_path / "tfds", file_format="array_record"
        ).download_and_prepare()

    return prepare


def image_features(shape=(6, 5, 3)):
    import tensorflow_datasets as tfds

    return {"image": tfds.features.Image(shape=shape), "label": tfds.features.ClassLabel(names=["cat", "dog"])}


def check_fashion_mnist(tfds_set, pictures: np.ndarray, labels: np.ndarray) -> None:
    """Prepare a test split with TFDS, which shuffles it, and check that it is loaded in the published order."""
    import tensorflow_datasets as tfds

    features = {"image": tfds.features.Image(shape=(28, 28, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
    examples = [{"image": as_image(x), "label": y} for x, y in zip(pictures, labels, strict=True)]
    tfds_set("fashion_mnist", features, {"train": examples[:1], "test": examples})
    data = load_images("fashion_mnist", "test")
    np.testing.assert_array_equal(data.x[..., 0], pictures)
    np.testing.assert_array_equal(data.labels, labels)
    assert data.labels[:4].tolist() == [9, 2, 1, 1]
    assert "TFDS" in data.provenance["source"]


@pytest.mark.slow
@full_set
def test_fashion_mnist_prepared_by_tfds(tfds_set, tmp_path):
    """All 10,000 images, with the published checksums."""
    raw, labels = (
        gzip.decompress((DEBIAN / f"t10k-{n}-ubyte.gz").read_bytes()) for n in ("images-idx3", "labels-idx1")
    )
    pictures = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)
    check_fashion_mnist(tfds_set, pictures, np.frombuffer(labels, np.uint8, offset=8))
    assert len(cached_files(tmp_path)) == 2
    assert "tensorflow" not in sys.modules


def test_beginning_of_fashion_mnist_prepared_by_tfds(tfds_set, tmp_path, monkeypatch):
    """The first 300 images, with their own checksums."""
    subset = fashion_mnist.from_subset("test", "for tests")
    pictures, labels = subset.x[:300, ..., 0], subset.labels[:300].astype(np.uint8)
    for name, array in zip(fashion_mnist.FILES["test"], (pictures, labels), strict=True):
        monkeypatch.setitem(fashion_mnist.SHA256, name, idx_sha256(array))
    check_fashion_mnist(tfds_set, pictures, labels)
    assert len(cached_files(tmp_path)) == 2
    assert "tensorflow" not in sys.modules


def as_tfrecord(folder: Path) -> None:
    """Rewrite a prepared set as TFRecords, as TensorFlow stores it."""
    from array_record.python.array_record_module import ArrayRecordReader

    for path in folder.glob("*.array_record-*"):
        records = ArrayRecordReader(str(path)).read_all()
        framed = (len(record).to_bytes(8, "little") + b"sum1" + record + b"sum2" for record in records)
        path.with_name(path.name.replace("array_record", "tfrecord")).write_bytes(b"".join(framed))
        path.unlink()
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_prepared_tfds_set(tfds_set, tmp_path, file_format):
    pictures = {"train": [picture(i) for i in range(7)], "test": [picture(i) for i in range(7, 10)]}
    examples = {
        s: [{"image": as_image(x), "label": i % 2} for i, x in enumerate(images)] for s, images in pictures.items()
    }
    tfds_set("my_pets", image_features(), examples)
    if file_format == "tfrecord":
        as_tfrecord(tmp_path / "tfds/my_pets/3.0.1")
    for split, images in pictures.items():
        data = load_images("my_pets", split)
        assert data.x.shape == (len(images), 6, 5, 3)
        assert sorted(x.tobytes() for x in data.x) == sorted(x.tobytes() for x in images)
        label = {x.tobytes(): i % 2 for i, x in enumerate(images)}
        assert data.labels.tolist() == [label[x.tobytes()] for x in data.x]
    assert data.names == ("cat", "dog")
    assert "TFDS" in data.provenance["source"]


@pytest.mark.parametrize("splits", [("train", "test"), ("train",)], ids=str)
def test_tfds_set_prepared_for_reading_from_disk(tfds_set, tmp_path, splits):
    pictures = {split: [picture(10 * i + j) for j in range(12)] for i, split in enumerate(splits)}
    examples = {s: [{"image": as_image(x), "label": i % 2} for i, x in enumerate(x)] for s, x in pictures.items()}
    tfds_set("more_pets", image_features(), examples)
    prepare_images("more_pets", tmp_path / "out")
    for split in ("train", "test"):
        expected, actual = load_images("more_pets", split), load_images(tmp_path / "out", split)
        np.testing.assert_array_equal(actual.x, expected.x)
        np.testing.assert_array_equal(actual.labels, expected.labels)
        assert actual.names == expected.names
        assert actual.provenance["sha256"] == expected.provenance["sha256"]


def test_damaged_tfds_set(tfds_set, tmp_path):
    tfds_set("torn_pets", image_features(), {"train": [{"image": as_image(picture(i)), "label": 0} for i in range(9)]})
    path = next((tmp_path / "tfds/torn_pets/3.0.1").glob("*array_record-*"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"torn_pets.*not readable.*prepare it again"):
        load_images("torn_pets")
    with pytest.raises(UserError, match=r"torn_pets.*not readable.*prepare it again"):
        prepare_images("torn_pets", tmp_path / "out")


def test_tfds_set_of_one_split_and_several_sizes(tfds_set):
    examples = [{"image": as_image(picture(i, (6 + i, 5, 3))), "label": 0} for i in range(20)]
    tfds_set("my_sizes", image_features((None, None, 3)), {"train": examples})
    with pytest.raises(UserError, match=r"image \d+ of my_sizes.*`image_size`"):
        load_images("my_sizes")
    train, test = load_images("my_sizes", "train", image_size=8), load_images("my_sizes", "test", image_size=8)
    assert (train.x.shape, test.x.shape) == ((18, 8, 8, 3), (2, 8, 8, 3))


def test_tfds_set_without_images(tfds_set):
    import tensorflow_datasets as tfds

    tfds_set("my_words", {"text": tfds.features.Text()}, {"train": [{"text": "one"}]})
    with pytest.raises(UserError, match=r"my_words is not a set of 8-bit images.*text"):
        load_images("my_words")


def test_tfds_set_is_prepared_on_demand(capfd):
    examples = [{"image": as_image(picture(i)), "label": 1} for i in range(4)]
    tfds_builder("willing_pets", image_features(), {"train": examples, "validation": examples[:1]}, registered=True)
    assert load_images("willing_pets").x.shape == (4, 6, 5, 3)
    np.testing.assert_array_equal(load_images("willing_pets", "test").x, [picture(0)])
    assert "tensorflow" not in sys.modules


@pytest.mark.skipif(find_spec("tensorflow") is not None, reason="tests the error without TensorFlow")
def test_tfds_set_that_needs_tensorflow(capfd):
    tfds_builder("heavy_pets", image_features(), {"train": [{"image": picture(0), "label": 1}]}, registered=True)
    with pytest.raises(UserError, match=r"cannot prepare heavy_pets.*needs TensorFlow"):
        load_images("heavy_pets")
    assert "Failed to import" not in capfd.readouterr().out


def test_tfds_set_out_of_reach():
    tfds_builder("far_pets", image_features(), {}, registered=True, urls=("http://127.0.0.1:9/pets.zip",))
    with pytest.raises(UserError, match=r"far_pets is not in .* cannot be downloaded .*refused"):
        load_images("far_pets")


@pytest.mark.parametrize(
    ("name", "guess"), [("fashion_mnits", "fashion_mnist"), ("Fashion-MNIST", "fashion_mnist"), ("cifar1O", "cifar10")]
)
def test_unknown_name(name, guess):
    with pytest.raises(UserError, match=f"{name}.*did you mean.*{guess}"):
        load_images(name)


@pytest.mark.parametrize("kind", ["labels", "int64", "text", "target", "species"])
def test_labels_of_tfds_are_read_whatever_their_type(tfds_set, tmp_path, kind):
    """The kind: labels that were dropped because their name or their type is not the most usual one."""
    import tensorflow_datasets as tfds

    key, feature, values, names = {
        "labels": ("labels", tfds.features.ClassLabel(names=["cat", "dog"]), [0, 1], ("cat", "dog")),
        "int64": ("label", tfds.features.Scalar(np.int64), [2**40, 7], ("7", str(2**40))),
        "text": ("label", tfds.features.Text(), ["dog", "cät"], ("cät", "dog")),
        "species": ("species", tfds.features.ClassLabel(names=["cat", "dog"]), [0, 1], ("cat", "dog")),
        "target": ("target", tfds.features.Tensor(shape=(), dtype=np.uint8), [3, 5], ("3", "5")),
    }[kind]
    pictures = [picture(i) for i in range(6)]
    examples = [{"image": as_image(x), key: values[i % 2]} for i, x in enumerate(pictures)]
    features = {"image": tfds.features.Image(shape=(6, 5, 3)), key: feature}
    tfds_set(f"pets_{kind}", features, {"train": examples[:4], "test": examples[4:]})
    prepare_images(f"pets_{kind}", tmp_path / "out")
    number = {x.tobytes(): names.index(str(v) if kind not in ("labels", "species") else names[v]) for x, v in
              zip(pictures, values * 3, strict=True)}  # fmt: skip
    for split in ("train", "test"):
        for data in (load_images(f"pets_{kind}", split), load_images(tmp_path / "out", split)):
            assert data.names == names
            assert data.labels.tolist() == [number[x.tobytes()] for x in data.x]


def test_labels_of_tfds_that_are_no_classes_are_named(tfds_set, capsys):
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(6, 5, 3)),
        "labels": tfds.features.Tensor(shape=(2,), dtype=np.int64),
    }
    tfds_set("pets_of_two", features, {"train": [{"image": as_image(picture(i)), "labels": [1, 2]} for i in range(3)]})
    assert load_images("pets_of_two").labels is None
    assert "pets_of_two: labels is not read: it is not one class per image" in capsys.readouterr().err


def test_features_of_tfds_that_are_not_read_are_named(tfds_set, capsys):
    """The kind: labels that are skipped without a word, such as the second classes of a set that has two."""
    import tensorflow_datasets as tfds

    classes = tfds.features.ClassLabel(num_classes=3)
    features = {"image": tfds.features.Image(shape=(6, 5, 3)), "shape": classes, "colour": classes}
    example = {"image": as_image(picture(0)), "shape": 1, "colour": 2}
    tfds_set("pets_of_two_kinds", features, {"train": [example] * 3})
    assert load_images("pets_of_two_kinds").labels is None
    assert "pets_of_two_kinds: 2 not read: colour, shape." in capsys.readouterr().err


def test_masks_of_tfds_are_black_and_white(tfds_set, tmp_path):
    """As those of dSprites, which are 0 and 1."""
    masks = np.random.default_rng(0).integers(0, 2, (5, 6, 5, 1), np.uint8)
    examples = [{"image": as_image(mask), "label": 0} for mask in masks]
    tfds_set("pet_masks", image_features((6, 5, 1)), {"train": examples})
    prepare_images("pet_masks", tmp_path / "out")
    for name in ("pet_masks", tmp_path / "out"):
        assert np.unique(load_images(name).x).tolist() == [0, 255]
