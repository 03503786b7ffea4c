"""Folders of image files of any size: read, split and converted, or refused in one line."""

import shutil

import numpy as np
import pytest
from files import cut, picture, save

from flax_vae.data import load_images
from flax_vae.system.errors import UserError


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
