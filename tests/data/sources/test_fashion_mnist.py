"""Fashion-MNIST from every place: found in the right order, verified and cached; damage is reported in one line."""

import functools
import gzip
import http.server
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from files import cached_files, cut
from full_set import DEBIAN, NAMES, SUBSET, full_set

from flax_vae.data import Examples, load_images
from flax_vae.data.sources import fashion_mnist
from flax_vae.system.errors import UserError


def copies(source: Path, folder: Path, **damage) -> Path:
    """Copy the four files to a new folder, some of them changed by functions of their bytes."""
    folder.mkdir(parents=True)
    for name in NAMES:
        content = (source / name).read_bytes()
        (folder / name).write_bytes(damage.get(name.split("-ubyte")[0].replace("-", "_"), bytes)(content))
    return folder


def flip(content: bytes) -> bytes:
    return content[:-500] + bytes((content[-500] ^ 1,)) + content[-499:]


def repainted(content: bytes) -> bytes:
    """Change one pixel, in an otherwise valid file."""
    raw = gzip.decompress(content)
    return gzip.compress(raw[:-1] + bytes((raw[-1] ^ 1,)), 1)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Serve a folder on the loopback interface instead of the real address."""
    servers = []

    def start(folder: Path):
        handler = functools.partial(QuietHandler, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        servers.append(server)
        monkeypatch.setattr(fashion_mnist, "URL", f"http://127.0.0.1:{server.server_port}/")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@full_set
def test_full_set_then_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(fashion_mnist, "USUAL_PLACES", (str(DEBIAN),))
    first = load_images("fashion_mnist")
    assert first.x.shape == (60_000, 28, 28, 1)
    assert first.x.dtype == np.uint8
    assert first.labels[:4].tolist() == [9, 0, 0, 3]
    assert [first.names[i] for i in (0, 9)] == ["T-shirt/top", "Ankle boot"]
    assert np.bincount(first.labels).tolist() == [6000] * 10
    assert str(DEBIAN) in first.provenance["source"]
    assert first.provenance["sha256"] == "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    test = load_images("fashion_mnist", "test")
    assert (len(test.x), test.labels[:4].tolist()) == (10_000, [9, 2, 1, 1])
    monkeypatch.setattr(fashion_mnist, "USUAL_PLACES", ())
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        second = load_images("fashion_mnist")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1
    assert "cache" in second.provenance["source"]
    np.testing.assert_array_equal(second.x, first.x)
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
    assert data.x.shape == (10_000, 28, 28, 1)


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
    data = Examples(np.zeros((1, 28, 28, 1), np.uint8), np.zeros(1, np.int32))
    fashion_mnist.write_cache(data, "test")
    assert "is not cached" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        ({"t10k_images_idx3": cut}, "t10k-images-idx3-ubyte.gz: truncated"),
        ({"t10k_images_idx3": flip}, "t10k-images-idx3-ubyte.gz: truncated or altered"),
        ({"t10k_images_idx3": lambda c: gzip.decompress(c)[:-9]}, "t10k-images-idx3-ubyte.gz: truncated"),
        ({"t10k_images_idx3": lambda c: gzip.decompress(c)[:6]}, "t10k-images-idx3-ubyte.gz: truncated"),
        ({"t10k_labels_idx1": lambda _: b"<html>not found</html>"}, "t10k-labels-idx1-ubyte.gz: wrong magic number"),
        ({}, "t10k-images-idx3-ubyte is altered"),  # valid, but not the full set
    ],
)
def test_damage_in_data_dir(tmp_path, damage, line):
    folder = copies(SUBSET, tmp_path / "damaged", **damage)
    with pytest.raises(UserError, match=line) as error:
        load_images("fashion_mnist", "test", data_dir=folder)
    assert str(folder) in str(error.value)
    assert "download it again" in str(error.value)
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
    assert (train.x.shape, test.x.shape) == ((8000, 28, 28, 1), (2000, 28, 28, 1))
    assert (train.labels[:4].tolist(), test.labels[:4].tolist()) == ([9, 0, 0, 3], [9, 2, 1, 1])
    assert train.provenance["subset"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["Skipped", "WARNING", "Skipped"]
    assert "apt-get install dataset-fashion-mnist" in lines[1]
    assert "data directory" in lines[1]
    assert not cached_files(tmp_path)


@pytest.mark.slow
def test_a_silent_server_is_abandoned(monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts but never answers, like a firewall
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
    assert data.x.shape == (60_000, 28, 28, 1)
    assert "downloaded" in data.provenance["source"]
    assert "subset" not in data.provenance
    assert len(cached_files(tmp_path)) == 4
    assert "cache" in load_images("fashion_mnist", "test").provenance["source"]
    assert "WARNING" not in capsys.readouterr().err


@pytest.mark.quick(2)
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


def test_bundled_subset():
    assert sum(path.stat().st_size for path in SUBSET.iterdir()) <= 4_500_000
    assert "Zalando SE" in (SUBSET / "LICENSE").read_text()


@full_set
def test_subset_is_the_beginning_of_the_full_set():
    for name in NAMES:
        start, size = (16, 784) if "images" in name else (8, 1)
        part, full = (gzip.decompress((folder / name).read_bytes()) for folder in (SUBSET, DEBIAN))
        number = 8000 if "train" in name else 2000
        assert part[start:] == full[start : start + number * size]


def test_resized_fashion_mnist():
    data = load_images("fashion_mnist", "test", image_size=(14, 20), resize="stretch")
    assert data.x.shape == (2000, 14, 20, 1)
    assert (data.provenance["shape"], data.provenance["subset"]) == ([14, 20, 1], True)
    full = load_images("fashion_mnist", "test")
    assert data.provenance["sha256"] != full.provenance["sha256"]
    assert abs(data.x.mean() - full.x.mean()) < 1


def test_import_is_light():
    code = "import sys, flax_vae.data; assert not {'tensorflow_datasets', 'matplotlib', 'tensorflow'} & {*sys.modules}"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
