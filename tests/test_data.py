"""Images from everywhere: found, verified, split and converted; damage is said in one line."""

import functools
import gzip
import http.server
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_vae.data import ImageData, fashion_mnist, images, load_images
from flax_vae.errors import UserError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
SUBSET = fashion_mnist.SUBSET
NAMES = [f"{name}.gz" for files in fashion_mnist.FILES.values() for name in files]
full_set = pytest.mark.skipif(
    not all((DEBIAN / name).exists() for name in NAMES),
    reason="the full Fashion-MNIST is not here: apt-get install dataset-fashion-mnist",
)


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """A home without a cache or data sets, and a download address where nobody listens."""
    for variable, folder in {"HOME": "home", "XDG_CACHE_HOME": "cache", "TFDS_DATA_DIR": "tfds"}.items():
        monkeypatch.setenv(variable, str(tmp_path / folder))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fashion_mnist, "USUAL_PLACES", ())
    monkeypatch.setattr(fashion_mnist, "URL", "http://127.0.0.1:9/")
    images.say_once.cache_clear()
    fashion_mnist.download.cache_clear()


def copies(source: Path, folder: Path, **damage) -> Path:
    """The four files in a folder of their own, some of them changed by functions of their bytes."""
    folder.mkdir(parents=True)
    for name in NAMES:
        content = (source / name).read_bytes()
        (folder / name).write_bytes(damage.get(name.split("-ubyte")[0].replace("-", "_"), bytes)(content))
    return folder


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def flip(content: bytes) -> bytes:
    return content[:-500] + bytes((content[-500] ^ 1,)) + content[-499:]


def repainted(content: bytes) -> bytes:
    """One pixel changed, in a file that is otherwise in order."""
    raw = gzip.decompress(content)
    return gzip.compress(raw[:-1] + bytes((raw[-1] ^ 1,)), 1)


def cached_files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Serve a folder on loopback, in the place of the real address."""
    servers = []

    def start(folder: Path):
        handler = functools.partial(QuietHandler, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setattr(fashion_mnist, "URL", f"http://127.0.0.1:{server.server_port}/")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


# Fashion-MNIST


@full_set
def test_full_set_then_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(fashion_mnist, "USUAL_PLACES", (str(DEBIAN),))
    first = load_images("fashion_mnist")
    assert first.images.shape == (60_000, 28, 28, 1)
    assert first.images.dtype == np.uint8
    assert first.labels[:4].tolist() == [9, 0, 0, 3]
    assert [first.class_names[i] for i in (0, 9)] == ["T-shirt/top", "Ankle boot"]
    assert np.bincount(first.labels).tolist() == [6000] * 10
    assert str(DEBIAN) in first.provenance["source"]
    assert first.provenance["sha256"] == "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    test = load_images("fashion_mnist", "test")
    assert (len(test.images), test.labels[:4].tolist()) == (10_000, [9, 2, 1, 1])
    monkeypatch.setattr(fashion_mnist, "USUAL_PLACES", ())
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        second = load_images("fashion_mnist")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1
    assert "cache" in second.provenance["source"]
    np.testing.assert_array_equal(second.images, first.images)
    np.testing.assert_array_equal(second.labels, first.labels)
    assert len(cached_files(tmp_path)) == 4


@full_set
@pytest.mark.parametrize("layout", ["", "fashion-mnist", "FashionMNIST/raw"], ids=["plain", "keras", "torchvision"])
def test_data_dir_layouts(tmp_path, layout):
    folder = tmp_path / "data" / layout
    folder.mkdir(parents=True)
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (folder / name).write_bytes(gzip.decompress((DEBIAN / f"{name}.gz").read_bytes()))
    data = load_images("fashion_mnist", "test", data_dir=tmp_path / "data")
    assert str(folder) in data.provenance["source"]
    assert data.images.shape == (10_000, 28, 28, 1)


@full_set
def test_damaged_cache_is_rewritten(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(fashion_mnist, "USUAL_PLACES", (str(DEBIAN),))
    load_images("fashion_mnist", "test")
    path = next(path for path in cached_files(tmp_path) if "images" in path.name)
    good = path.read_bytes()
    path.write_bytes(flip(good))
    assert str(DEBIAN) in load_images("fashion_mnist", "test").provenance["source"]
    assert "altered" in capsys.readouterr().err
    assert path.read_bytes() == good


def test_unwritable_cache_is_no_obstacle(monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    data = ImageData(np.zeros((1, 28, 28, 1), np.uint8), np.zeros(1, np.int32), None, "", {})
    fashion_mnist.write_cache(data, "test")
    assert "No cache" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        ({"t10k_images_idx3": cut}, "t10k-images-idx3-ubyte.gz: truncated"),
        ({"t10k_images_idx3": flip}, "t10k-images-idx3-ubyte.gz: truncated or altered"),
        ({"t10k_images_idx3": lambda c: gzip.decompress(c)[:-9]}, "t10k-images-idx3-ubyte.gz: truncated"),
        ({"t10k_images_idx3": lambda c: gzip.decompress(c)[:6]}, "t10k-images-idx3-ubyte.gz: truncated"),
        ({"t10k_labels_idx1": lambda _: b"<html>not found</html>"}, "t10k-labels-idx1-ubyte.gz: wrong magic number"),
        ({}, "t10k-images-idx3-ubyte is altered"),  # in order, but not the whole set
    ],
)
def test_damage_in_data_dir(tmp_path, damage, line):
    folder = copies(SUBSET, tmp_path / "damaged", **damage)
    with pytest.raises(UserError, match=line) as error:
        load_images("fashion_mnist", "test", data_dir=folder)
    assert str(folder) in str(error.value)
    assert "get it again" in str(error.value)
    assert not cached_files(tmp_path)


def test_incomplete_or_missing_data_dir(tmp_path):
    folder = copies(SUBSET, tmp_path / "incomplete")
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte\.gz is missing"):
        load_images("fashion_mnist", data_dir=folder)
    with pytest.raises(UserError, match="no such folder"):
        load_images("fashion_mnist", data_dir=tmp_path / "nowhere")


def test_subset_without_network(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        fashion_mnist, "USUAL_PLACES", (str(copies(SUBSET, tmp_path / "damaged", train_images_idx3=cut)),)
    )
    start = time.perf_counter()
    train, test = load_images("fashion_mnist"), load_images("fashion_mnist", "test")
    assert time.perf_counter() - start < 10
    assert (train.images.shape, test.images.shape) == ((8000, 28, 28, 1), (2000, 28, 28, 1))
    assert (train.labels[:4].tolist(), test.labels[:4].tolist()) == ([9, 0, 0, 3], [9, 2, 1, 1])
    assert train.provenance["subset"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["Passed over", "WARNING", "Passed over"]
    assert "apt-get install dataset-fashion-mnist" in lines[1]
    assert "--data-dir" in lines[1]
    assert not cached_files(tmp_path)


def test_silent_server_is_given_up(monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, never answers: what a firewall looks like
        monkeypatch.setattr(fashion_mnist, "URL", f"http://127.0.0.1:{server.getsockname()[1]}/")
        start = time.perf_counter()
        assert load_images("fashion_mnist").provenance["subset"]
        assert load_images("fashion_mnist", "test").provenance["subset"]
        assert time.perf_counter() - start < 10
    assert re.search("no answer|timed out", capsys.readouterr().err)


@full_set
def test_download(serve, tmp_path, capsys):
    serve(DEBIAN)
    data = load_images("fashion_mnist")
    assert data.images.shape == (60_000, 28, 28, 1)
    assert "downloaded" in data.provenance["source"]
    assert "subset" not in data.provenance
    assert len(cached_files(tmp_path)) == 4
    assert "cache" in load_images("fashion_mnist", "test").provenance["source"]
    assert "WARNING" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "damage", "reason"),
    [
        pytest.param(DEBIAN, {"t10k_images_idx3": cut}, "truncated", marks=full_set, id="truncated"),
        pytest.param(DEBIAN, {"t10k_images_idx3": flip}, "altered", marks=full_set, id="altered"),
        pytest.param(DEBIAN, {"t10k_labels_idx1": repainted}, "t10k-labels.*altered", marks=full_set, id="relabelled"),
        pytest.param(SUBSET, {}, "altered", id="other-contents"),
        pytest.param(SUBSET, {"train_images_idx3": cut}, "truncated", id="truncated-other-contents"),
    ],
)
def test_bad_download_is_not_used(serve, tmp_path, capsys, source, damage, reason):
    serve(copies(source, tmp_path / "server", **damage))
    assert load_images("fashion_mnist").provenance["subset"]
    assert re.search(f"WARNING.*{reason}", capsys.readouterr().err)
    assert not cached_files(tmp_path)


def test_file_missing_on_server(serve, tmp_path, capsys):
    serve(tmp_path)
    assert load_images("fashion_mnist").provenance["subset"]
    assert "404" in capsys.readouterr().err


def test_progress_only_after_two_seconds(capsys):
    assert list(images.watched(range(3), 3, "Downloading")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    assert list(images.watched((time.sleep(0.75) for _ in range(3)), 3, "Downloading")) == [None] * 3
    assert "Downloading" in capsys.readouterr().err


def test_bundled_subset():
    assert sum(path.stat().st_size for path in SUBSET.iterdir()) <= 4_500_000
    assert "Zalando SE" in (SUBSET / "LICENSE").read_text()


@full_set
def test_subset_is_the_beginning_of_the_full_set():
    for name in NAMES:
        start, size = (16, 784) if "images" in name else (8, 1)
        part, whole = (gzip.decompress((folder / name).read_bytes()) for folder in (SUBSET, DEBIAN))
        number = 8000 if "train" in name else 2000
        assert part[start:] == whole[start : start + number * size]


def test_resized_fashion_mnist():
    data = load_images("fashion_mnist", "test", image_size=(14, 20))
    assert data.images.shape == (2000, 14, 20, 1)
    assert (data.provenance["shape"], data.provenance["subset"]) == ([14, 20, 1], True)
    whole = load_images("fashion_mnist", "test")
    assert data.provenance["sha256"] != whole.provenance["sha256"]
    assert abs(data.images.mean() - whole.images.mean()) < 1


def test_import_is_light():
    code = "import sys, flax_vae.data; assert not {'tensorflow_datasets', 'matplotlib', 'tensorflow'} & {*sys.modules}"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


# TFDS


def tfds_builder(set_name: str, features: dict, examples: dict[str, list[dict]], registered: bool, urls=()) -> type:
    """A builder of a set of that name; TFDS finds the registered ones, and the others once they are prepared."""
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=not registered):
        name = set_name
        VERSION = tfds.core.Version("3.0.1")
        url_infos = dict.fromkeys(urls)

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, _):
            return {split: iter(enumerate(some)) for split, some in examples.items()}

        def _generate_examples(self):
            raise NotImplementedError

    return Builder


@pytest.fixture
def tfds_set(tmp_path):
    """Prepare a set in the folder where TFDS looks."""

    def prepare(name: str, features: dict, examples: dict[str, list[dict]]):
        tfds_builder(name, features, examples, registered=False)(
            data_dir=tmp_path / "tfds", file_format="array_record"
        ).download_and_prepare()

    return prepare


def picture(seed: int, shape: tuple[int, ...] = (6, 5, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def png(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array.squeeze())


def image_features(shape=(6, 5, 3)):
    import tensorflow_datasets as tfds

    return {"image": tfds.features.Image(shape=shape), "label": tfds.features.ClassLabel(names=["cat", "dog"])}


@full_set
def test_fashion_mnist_prepared_by_tfds(tfds_set, tmp_path):
    import tensorflow_datasets as tfds

    raw, labels = (
        gzip.decompress((DEBIAN / f"t10k-{n}-ubyte.gz").read_bytes()) for n in ("images-idx3", "labels-idx1")
    )
    pictures = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)
    features = {"image": tfds.features.Image(shape=(28, 28, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
    examples = [{"image": png(x), "label": y} for x, y in zip(pictures, labels[8:], strict=True)]
    tfds_set("fashion_mnist", features, {"train": examples[:1], "test": examples})
    data = load_images("fashion_mnist", "test")
    np.testing.assert_array_equal(data.images[..., 0], pictures)  # TFDS had shuffled them
    assert data.labels[:4].tolist() == [9, 2, 1, 1]
    assert "TFDS" in data.provenance["source"]
    assert len(cached_files(tmp_path)) == 2
    assert "tensorflow" not in sys.modules


def as_tfrecord(folder: Path) -> None:
    """Rewrite a prepared set as TensorFlow would have stored it."""
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
    made = {"train": [picture(i) for i in range(7)], "test": [picture(i) for i in range(7, 10)]}
    examples = {s: [{"image": png(x), "label": i % 2} for i, x in enumerate(some)] for s, some in made.items()}
    tfds_set("my_pets", image_features(), examples)
    if file_format == "tfrecord":
        as_tfrecord(tmp_path / "tfds/my_pets/3.0.1")
    for split, some in made.items():
        data = load_images("my_pets", split)
        assert data.images.shape == (len(some), 6, 5, 3)
        assert sorted(x.tobytes() for x in data.images) == sorted(x.tobytes() for x in some)
        label = {x.tobytes(): i % 2 for i, x in enumerate(some)}
        assert data.labels.tolist() == [label[x.tobytes()] for x in data.images]
    assert data.class_names == ("cat", "dog")
    assert "TFDS" in data.provenance["source"]


def test_damaged_tfds_set(tfds_set, tmp_path):
    tfds_set("torn_pets", image_features(), {"train": [{"image": png(picture(i)), "label": 0} for i in range(9)]})
    path = next((tmp_path / "tfds/torn_pets/3.0.1").glob("*array_record-*"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"torn_pets.*not readable.*prepare it anew"):
        load_images("torn_pets")


def test_tfds_set_of_one_split_and_several_sizes(tfds_set):
    examples = [{"image": png(picture(i, (6 + i, 5, 3))), "label": 0} for i in range(20)]
    tfds_set("my_sizes", image_features((None, None, 3)), {"train": examples})
    with pytest.raises(UserError, match=r"image \d+ of my_sizes.*--image-size"):
        load_images("my_sizes")
    train, test = load_images("my_sizes", "train", image_size=8), load_images("my_sizes", "test", image_size=8)
    assert (train.images.shape, test.images.shape) == ((18, 8, 8, 3), (2, 8, 8, 3))


def test_tfds_set_without_images(tfds_set):
    import tensorflow_datasets as tfds

    tfds_set("my_words", {"text": tfds.features.Text()}, {"train": [{"text": "one"}]})
    with pytest.raises(UserError, match=r"my_words is no set of 8-bit images.*text"):
        load_images("my_words")


def test_tfds_set_is_prepared_on_demand(capfd):
    examples = [{"image": png(picture(i)), "label": 1} for i in range(4)]
    tfds_builder("willing_pets", image_features(), {"train": examples, "validation": examples[:1]}, registered=True)
    assert load_images("willing_pets").images.shape == (4, 6, 5, 3)
    np.testing.assert_array_equal(load_images("willing_pets", "test").images, [picture(0)])
    assert "tensorflow" not in sys.modules


@pytest.mark.skipif(find_spec("tensorflow") is not None, reason="says what happens where TensorFlow is not installed")
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


# The user's own images


def save(path: Path, array: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.squeeze()).save(path, **options)


def test_folder_of_classes_with_splits(tmp_path):
    root = tmp_path / "pets"
    for i, name in enumerate(("dog/0.png", "cat/deep/1.webp", "cat/2.png")):
        save(root / "train" / name, picture(i), **({"lossless": True} if "webp" in name else {}))
    save(root / "val/dog/3.png", picture(3))
    (root / "train/.hidden").mkdir()
    (root / "train/dog/._0.png").write_bytes(b"no image")
    train, test = load_images(root), load_images(str(root), "test")
    np.testing.assert_array_equal(train.images, np.stack([picture(2), picture(1), picture(0)]))
    np.testing.assert_array_equal(test.images[0], picture(3))
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 0, 1], [1])
    assert train.class_names == test.class_names == ("cat", "dog")
    assert train.provenance["shape"] == [6, 5, 3]
    assert (train.name, train.provenance["number"]) == ("pets", 3)


def test_flat_folder_is_split_nine_to_one(tmp_path, monkeypatch):
    for i in range(25):
        save(tmp_path / f"flat/{i:02}.png", picture(i, (4, 4, 3)))
    monkeypatch.chdir(tmp_path)
    train, test = load_images("flat"), load_images("flat", "test")
    assert (len(train.images), len(test.images), train.labels, train.class_names) == (23, 2, None, None)
    everything = {x.tobytes() for x in (*train.images, *test.images)}
    assert everything == {picture(i, (4, 4, 3)).tobytes() for i in range(25)}
    np.testing.assert_array_equal(load_images("flat").images, train.images)


def test_grey_colour_and_transparency(tmp_path):
    grey = picture(0, (4, 4, 1))
    save(tmp_path / "grey/a.png", grey)
    save(tmp_path / "grey/b.webp", grey, lossless=True)
    save(tmp_path / "grey/c.png", grey.astype(np.uint16) * 257)
    both = [*load_images(tmp_path / "grey").images, *load_images(tmp_path / "grey", "test").images]
    np.testing.assert_array_equal(both, [grey] * 3)
    shutil.copytree(tmp_path / "grey", tmp_path / "mixed")
    rgba = np.full((4, 4, 4), (200, 0, 0, 0), np.uint8)
    rgba[0, 0, 3] = 255
    save(tmp_path / "mixed/train/a.png", rgba)
    save(tmp_path / "mixed/test/a.png", grey)
    train, test = load_images(tmp_path / "mixed"), load_images(tmp_path / "mixed", "test")
    assert train.images[0, 0, :2].tolist() == [[200, 0, 0], [255, 255, 255]]
    np.testing.assert_array_equal(test.images[0], grey.repeat(3, axis=-1))


def test_image_size_smooths(tmp_path):
    stripes = np.zeros((8, 16, 3), np.uint8)
    stripes[:, ::2] = 255
    save(tmp_path / "sizes/a.png", stripes)
    save(tmp_path / "sizes/b.jpg", np.full((5, 7, 3), 100, np.uint8))
    images_ = [load_images(tmp_path / "sizes", split, image_size=(4, 6)).images for split in ("train", "test")]
    assert [x.shape for x in images_] == [(1, 4, 6, 1)] * 2
    assert sorted(round(float(x.mean()), -1) for x in images_) == [100, 130]
    assert all(np.ptp(x) < 60 for x in images_)


def test_npy_bytes_and_floats(tmp_path):
    pictures = picture(0, (20, 3, 7, 2))
    np.save(tmp_path / "bytes.npy", pictures)
    np.save(tmp_path / "floats.npy", pictures.astype(np.float32) / 255)
    np.save(tmp_path / "grey.npy", pictures[..., 0])
    for split, number in (("train", 18), ("test", 2)):
        bytes_, floats, grey = (load_images(tmp_path / f"{n}.npy", split).images for n in ("bytes", "floats", "grey"))
        assert bytes_.shape == (number, 3, 7, 2)
        np.testing.assert_array_equal(bytes_, floats)
        np.testing.assert_array_equal(grey, bytes_[..., :1])


def test_npz_of_keras_and_others(tmp_path):
    x, y = picture(0, (20, 4, 4)), np.arange(20) % 3
    np.savez(tmp_path / "keras.npz", x_train=x[:15], y_train=y[:15, None], x_test=x[15:], y_test=y[15:, None])
    train, test = load_images(tmp_path / "keras.npz"), load_images(tmp_path / "keras.npz", "test")
    np.testing.assert_array_equal(train.images[..., 0], x[:15])
    np.testing.assert_array_equal(test.labels, y[15:])
    np.savez(tmp_path / "labelled.npz", images=x, labels=y)
    np.savez(tmp_path / "single.npz", x)
    labelled, single = load_images(tmp_path / "labelled.npz"), load_images(tmp_path / "single.npz")
    np.testing.assert_array_equal(labelled.images, single.images)
    found = {image.tobytes(): label for image, label in zip(labelled.images, labelled.labels, strict=True)}
    assert found == {image.tobytes(): label for image, label in zip(x, y, strict=True) if image.tobytes() in found}


BAD_ARRAYS = {
    "rank": (np.zeros((4, 784), np.uint8), r"shape \(4, 784\).*reshape"),
    "integers": (np.zeros((4, 2, 2), np.int64), "type int64.*uint8"),
    "objects": (np.array([None, {}], object), "not a readable .npy file.*[Oo]bject"),
    "none": (np.zeros((0, 2, 2), np.uint8), "no images"),
    "nan": (np.full((4, 2, 2), np.nan), "NaN"),
    "range": (np.full((4, 2, 2), 255.0), r"outside \[0, 1\].*divide"),
    "infinite": (np.full((4, 2, 2), np.inf), r"outside \[0, 1\]"),
    "single": (np.zeros((1, 2, 2), np.uint8), "at least two"),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_bad_array(tmp_path, kind):
    array, line = BAD_ARRAYS[kind]
    path = tmp_path / f"{kind}.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(UserError, match=line) as error:
        load_images(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_archives(tmp_path):
    path = tmp_path / "bad.npz"
    x = np.zeros((4, 2, 2), np.uint8)
    np.savez(path, a=x, b=x)
    with pytest.raises(UserError, match="holds a, b"):
        load_images(path)
    np.savez(path, images=x, labels=np.zeros((4, 10)))
    with pytest.raises(UserError, match=r"labels of shape \(4, 10\)"):
        load_images(path)
    np.savez(path, images=np.array([{}] * 4))
    with pytest.raises(UserError, match="Object arrays"):
        load_images(path)
    for name in ("cut.npz", "cut.npy"):
        (np.savez if name.endswith("z") else np.save)(tmp_path / name, picture(0, (50, 20, 20)))
        (tmp_path / name).write_bytes(cut((tmp_path / name).read_bytes()))
        with pytest.raises(UserError, match=f"{name}: not a readable"):
            load_images(tmp_path / name)


def test_bad_folders(tmp_path):
    def refused(line: str):
        with pytest.raises(UserError, match=line):
            load_images(tmp_path / "bad")

    refused("no such file or folder")
    (tmp_path / "bad/cat").mkdir(parents=True)
    refused("bad/cat: an empty class folder")
    (tmp_path / "bad/cat").rmdir()
    refused("bad: no images")
    save(tmp_path / "bad/a.png", picture(0))
    refused("single image")
    save(tmp_path / "bad/b.png", picture(1, (3, 9, 3)))
    refused(r"a.png is 6 pixels high and 5 wide, .*b.png 3 and 9; pass --image-size")
    (tmp_path / "bad/b.png").write_bytes(cut((tmp_path / "bad/a.png").read_bytes()))
    refused("b.png: not a readable image")
    save(tmp_path / "bad/dog/c.png", picture(0))
    refused("both images and folders")


def test_other_paths(tmp_path):
    (tmp_path / "notes.txt").write_text("no images")
    with pytest.raises(UserError, match="neither a folder of images nor"):
        load_images(tmp_path / "notes.txt")
    for name in ("missing.npy", "./missing", str(tmp_path / "missing")):
        with pytest.raises(UserError, match="no such file or folder"):
            load_images(name)
    with pytest.raises(UserError, match="at least one pixel"):
        load_images(image_size=0)
