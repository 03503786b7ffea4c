"""The user's own images: folders and arrays of any size, read, split and converted, or refused in one line."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from files import as_image, cut, picture

from flax_vae.data import class_names, load_images
from flax_vae.system.errors import UserError


def save(path: Path, array: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    as_image(array).save(path, **options)


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
    for labels in ([2**32 + 1, 0, 1, 2], [-1, 0, 1, 2]):  # beyond int32, and below 0
        np.savez(path, images=x, labels=np.array(labels))
        with pytest.raises(UserError, match="labels"):
            load_images(path)
    np.savez(path, images=x, labels=np.array([0, 10**8, 1, 10**8]))
    with pytest.raises(UserError, match="labels up to 100000000, but a conditional model takes at most 10,000 classes"):
        class_names(load_images(path))
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
    refused(r"a.png has height 6 and width 5, .*b.png has 3 and 9; pass `image_size`")
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
