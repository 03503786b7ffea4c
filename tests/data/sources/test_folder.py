"""Folders of image files of any size: read, split and converted, or refused in one line."""

import shutil

import numpy as np
import pytest
from files import as_image, cut, picture, save

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
    np.testing.assert_array_equal(train.x, np.stack([picture(2), picture(1), picture(0)]))
    np.testing.assert_array_equal(test.x[0], picture(3))
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 0, 1], [1])
    assert train.names == test.names == ("cat", "dog")
    assert train.provenance["shape"] == [6, 5, 3]
    assert (train.name, train.provenance["number"]) == ("pets", 3)


def test_flat_folder_is_split_nine_to_one(tmp_path, monkeypatch):
    for i in range(25):
        save(tmp_path / f"flat/{i:02}.png", picture(i, (4, 4, 3)))
    monkeypatch.chdir(tmp_path)
    train, test = load_images("flat"), load_images("flat", "test")
    assert (len(train.x), len(test.x), train.labels, train.names) == (23, 2, None, ())
    everything = {x.tobytes() for x in (*train.x, *test.x)}
    assert everything == {picture(i, (4, 4, 3)).tobytes() for i in range(25)}
    np.testing.assert_array_equal(load_images("flat").x, train.x)


def test_grey_colour_and_transparency(tmp_path):
    grey = picture(0, (4, 4, 1))
    save(tmp_path / "grey/a.png", grey)
    save(tmp_path / "grey/b.webp", grey, lossless=True)
    save(tmp_path / "grey/c.png", grey.astype(np.uint16) * 257)
    both = [*load_images(tmp_path / "grey").x, *load_images(tmp_path / "grey", "test").x]
    np.testing.assert_array_equal(both, [grey] * 3)
    shutil.copytree(tmp_path / "grey", tmp_path / "mixed")
    rgba = np.full((4, 4, 4), (200, 0, 0, 0), np.uint8)
    rgba[0, 0, 3] = 255
    save(tmp_path / "mixed/train/a.png", rgba)
    save(tmp_path / "mixed/test/a.png", grey)
    train, test = load_images(tmp_path / "mixed"), load_images(tmp_path / "mixed", "test")
    assert train.x[0, 0, :2].tolist() == [[200, 0, 0], [255, 255, 255]]
    np.testing.assert_array_equal(test.x[0], grey.repeat(3, axis=-1))


def test_image_size_smooths(tmp_path):
    stripes = np.zeros((8, 16, 3), np.uint8)
    stripes[:, ::2] = 255
    save(tmp_path / "sizes/a.png", stripes)
    save(tmp_path / "sizes/b.jpg", np.full((5, 7, 3), 100, np.uint8))
    images_ = [load_images(tmp_path / "sizes", split, image_size=(4, 6)).x for split in ("train", "test")]
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
    refused("a single example")
    save(tmp_path / "bad/b.png", picture(1, (3, 9, 3)))
    refused(r"a.png has height 6 and width 5, .*b.png has 3 and 9; pass `image_size`")
    (tmp_path / "bad/b.png").write_bytes(cut((tmp_path / "bad/a.png").read_bytes()))
    refused("b.png: not a readable image")
    save(tmp_path / "bad/dog/c.png", picture(0))
    refused("both images and folders")


SPLITS = {
    ("train", "test"): None,
    ("Train", "Test"): None,
    ("training", "testing"): None,
    ("TRAIN", "val"): "val is used as the test set",
    ("training_set", "test_set"): None,
    ("train", "valid"): "valid is used as the test set",
    ("train", "test", "val"): "val is not used, only train and test",
    ("Train", "Validation", "Testing"): "Validation is not used, only Train and Testing",
    ("train2017", "val2017"): "val2017 is used as the test set",
    ("pets_train_HR", "pets_test_HR"): None,
    ("train_imgs", "test_imgs"): None,
}


@pytest.mark.parametrize("names", SPLITS, ids=str)
def test_splits_have_their_usual_names(names, tmp_path, capsys):
    """The kind: folders that are a split to their author and a class, or nothing, to the program."""
    for i, name in enumerate(names):
        for j in range(3):
            save(tmp_path / "pets" / name / ("cat" if j else "dog") / f"{j}.png", picture(10 * i + j))
    line = SPLITS[names]
    held_out = next(i for i, name in enumerate(names) if i and (len(names) == 2 or name.lower().startswith("test")))
    for split, i in (("train", 0), ("test", held_out)):
        data = load_images(tmp_path / "pets", split)
        np.testing.assert_array_equal(data.x, [picture(10 * i + j) for j in (1, 2, 0)])
        assert data.names == ("cat", "dog")
        assert data.provenance["source"].endswith(f"pets/{names[i]}")
    err = capsys.readouterr().err
    assert line in err if line else err == ""


def test_folders_that_may_be_splits_or_classes_are_refused(tmp_path):
    def refused(line: str, *names: str):
        root = tmp_path / "-".join(names).replace("/", "_")
        for name in names:
            save(root / name / "0.png", picture(0))
        with pytest.raises(UserError, match=line):
            load_images(root)

    refused("Train and training both mean train", "Train", "training", "test")
    refused("has test, but no train", "test")
    refused(
        "train is the name of a split, but bicycle is beside it; .*move all classes into .*/train", "bicycle", "train"
    )
    refused("valid is the name of a split, but invalid is beside it", "invalid", "valid")
    refused("trainA and trainB both mean train", "trainA", "trainB", "testA")
    refused("pets holds test and train, which would be read together as one class; pass", "pets/train", "pets/test")
    refused(
        "cat holds train and val, .* put the folders of all classes into",
        "cat/train",
        "cat/val",
        "dog/train",
    )
    save(tmp_path / "classes/train/train/0.png", picture(0))
    save(tmp_path / "classes/train/bicycle/0.png", picture(0))
    assert load_images(tmp_path / "classes").names == ("bicycle", "train")


def test_what_is_not_read_is_named(tmp_path, capsys):
    """The kind: files that are skipped without a word. Those that programs hide are no one's images."""
    hidden = ("train/cat/.ipynb_checkpoints/0", "__MACOSX/cat/0", "train/cat/@eaDir/0")
    for i, name in ((0, "train/cat/0"), (2, "train/cat/more/1"), *((1, name) for name in hidden)):
        save(tmp_path / f"pets/{name}.png", picture(i))
    save(tmp_path / "pets/test/cat/0.png", picture(9))
    save(tmp_path / "pets/extra/0.png", picture(8))
    for name in ("train/labels.csv", "train/cat/2.heic", "readme.txt", "train/cat/.DS_Store"):
        (tmp_path / "pets" / name).write_text("no image")
    np.testing.assert_array_equal(load_images(tmp_path / "pets").x, [picture(0), picture(2)])
    load_images(tmp_path / "pets", "test")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("pets: 2 not read: extra, readme.txt.")
    assert lines[1].endswith(
        "pets/train: 2 not read (not PNG, JPEG, WebP, BMP, GIF, TIFF or PPM): cat/2.heic, labels.csv."
    )


def test_every_usual_format_is_read(tmp_path, capsys):
    names = ("a.bmp", "b.gif", "c.tif", "d.TIFF", "e.ppm", "f.png", "g.webp", "h.jfif", "i.JPG")
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = (240, 120, 0)
    for i, name in enumerate(names):
        options = {"jfif": {"format": "JPEG"}, "gif": {"save_all": True, "append_images": [as_image(0 * pixels)]}}
        save(tmp_path / "formats" / name, np.roll(pixels, i, 0), **options.get(name.split(".")[1], {}))
    everything = [image for split in ("train", "test") for image in load_images(tmp_path / "formats", split).x]
    means = sorted(tuple(np.asarray(image).mean((0, 1)).round(-1)) for image in everything)
    assert len(means) == len(names)
    assert {m[:2] for m in means} == {(120.0, 60.0)}
    assert "only the first frame is read" in capsys.readouterr().err


def test_a_file_that_is_no_image_starts_no_program(tmp_path):
    """Pillow would pass PostScript to Ghostscript, whatever the file is called."""
    for name in ("a.png", "b.png"):
        path = tmp_path / "files" / name
        save(path, picture(0))
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(UserError, match=r"b\.png: not a readable image \(cannot identify"):
        load_images(tmp_path / "files")
