"""Arrays of images in .npy and .npz files: read, split and converted, or refused in one line."""

import numpy as np
import pytest
from files import cut, picture

from flax_vae import prepare_images
from flax_vae.data import class_names, load_images
from flax_vae.system.errors import UserError


def test_npy_bytes_and_floats(tmp_path):
    pictures = picture(0, (20, 3, 7, 2))
    np.save(tmp_path / "bytes.npy", pictures)
    np.save(tmp_path / "floats.npy", pictures.astype(np.float32) / 255)
    np.save(tmp_path / "grey.npy", pictures[..., 0])
    for split, number in (("train", 18), ("test", 2)):
        bytes_, floats, grey = (load_images(tmp_path / f"{n}.npy", split).x for n in ("bytes", "floats", "grey"))
        assert bytes_.shape == (number, 3, 7, 2)
        np.testing.assert_array_equal(bytes_, floats)
        np.testing.assert_array_equal(grey, bytes_[..., :1])


def test_npz_of_keras_and_others(tmp_path):
    x, y = picture(0, (20, 4, 4)), np.arange(20) % 3
    np.savez(tmp_path / "keras.npz", x_train=x[:15], y_train=y[:15, None], x_test=x[15:], y_test=y[15:, None])
    train, test = load_images(tmp_path / "keras.npz"), load_images(tmp_path / "keras.npz", "test")
    np.testing.assert_array_equal(train.x[..., 0], x[:15])
    np.testing.assert_array_equal(test.labels, y[15:])
    np.savez(tmp_path / "labelled.npz", images=x, labels=y)
    np.savez(tmp_path / "single.npz", x)
    labelled, single = load_images(tmp_path / "labelled.npz"), load_images(tmp_path / "single.npz")
    np.testing.assert_array_equal(labelled.x, single.x)
    classes = {image.tobytes(): label for image, label in zip(labelled.x, labelled.labels, strict=True)}
    assert classes == {image.tobytes(): label for image, label in zip(x, y, strict=True) if image.tobytes() in classes}


BAD_ARRAYS = {
    "rank": (np.zeros(784, np.uint8), r"shape \(784,\).*reshape"),
    "integers": (np.zeros((4, 2, 2), np.int64), "type int64.*uint8"),
    "objects": (np.array([None, {}], object), "not a readable .npy file.*[Oo]bject"),
    "none": (np.zeros((0, 2, 2), np.uint8), "no images"),
    "nan": (np.full((4, 2, 2), np.nan), "NaN"),
    "range": (np.full((4, 2, 2), 255.0), r"outside \[0, 1\].*divide"),
    "infinite": (np.full((4, 2, 2), np.inf), r"outside \[0, 1\]"),
    "single": (np.full((1, 2, 2), 255, np.uint8), "at least two"),
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
    x = picture(0, (4, 2, 2))
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


X, Y = picture(0, (20, 4, 4)), np.arange(20) % 3
KEYS = {  # names of the training images, training labels, test images, test labels; others
    ("x_train", "y_train", "x_test", "y_test"): {},
    ("X_train", "y_train", "X_val", "y_val"): {},
    ("train_images", "train_labels", "test_images", "test_labels"): {"val_images": X, "val_labels": Y},
    ("train_data", "train_targets", "valid_data", "valid_targets"): {},
    ("imgs_training", "label_training", "imgs_testing", "label_testing"): {"metadata": Y},
    ("trainX", "trainY", "testX", "testY"): {},
}


@pytest.mark.parametrize("keys", KEYS, ids=str)
def test_npz_keys_are_the_usual_ones(keys, tmp_path, capsys):
    """The kind: arrays that hold images or labels under a usual name, and are skipped in silence."""
    arrays = dict(zip(keys, (X[:15], Y[:15], X[15:], Y[15:]), strict=True)) | KEYS[keys]
    np.savez(tmp_path / "a.npz", **arrays)
    train, test = load_images(tmp_path / "a.npz"), load_images(tmp_path / "a.npz", "test")
    np.testing.assert_array_equal(train.x[..., 0], X[:15])
    np.testing.assert_array_equal(test.x[..., 0], X[15:])
    assert (train.labels.tolist(), test.labels.tolist()) == (Y[:15].tolist(), Y[15:].tolist())
    assert train.provenance["source"].startswith(f"{keys[0]} in ")
    err = capsys.readouterr().err
    assert all(name in err for name in KEYS[keys])
    assert ("is used as the test set" in err) == ("val" in keys[2])


@pytest.mark.parametrize("name", ["label", "labels", "target", "targets", "y"])
def test_labels_of_a_set_without_splits(name, tmp_path):
    np.savez(tmp_path / "a.npz", images=X, **{name: Y[:, None].astype(np.int64)})
    data = load_images(tmp_path / "a.npz")
    assert sorted(data.labels) == sorted(Y[[x.tobytes() in {i.tobytes() for i in data.x} for x in X]])


def test_labels_may_be_texts(tmp_path):
    """They are numbered in alphabetical order, over both splits."""
    np.savez(tmp_path / "a.npz", x_train=X[:4], y_train=["dog", "cat", "dog", "cat"], x_test=X[4:], y_test=["emu"] * 16)
    train, test = load_images(tmp_path / "a.npz"), load_images(tmp_path / "a.npz", "test")
    assert train.names == test.names == ("cat", "dog", "emu")
    assert (train.labels.tolist(), test.labels.tolist()) == ([1, 0, 1, 0], [2] * 16)


def test_two_arrays_for_one_split_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=X, train_images=X)
    with pytest.raises(UserError, match="x_train and train_images both mean train; rename or remove one"):
        load_images(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x_test=X, y_test=Y)
    with pytest.raises(UserError, match="has x_test, but no train"):
        load_images(tmp_path / "a.npz")


AXES = {
    "n c h w": ((30, 3, 28, 28), r"x\.transpose\(0, 2, 3, 1\)"),
    "n 1 h w": ((30, 1, 28, 28), r"x\.transpose\(0, 2, 3, 1\)"),
    "h w c n": ((28, 28, 3, 300), r"x\.transpose\(3, 0, 1, 2\)"),
    "c h w n": ((3, 28, 28, 300), r"x\.transpose\(3, 1, 2, 0\)"),
    "h w n": ((28, 28, 300), r"x\.transpose\(2, 0, 1\)"),
}


@pytest.mark.parametrize("layout", AXES)
def test_axes_in_another_order_are_refused_with_the_transpose(layout, tmp_path):
    """The kind: arrays of other programs, which would train as images of many channels."""
    shape, line = AXES[layout]
    pixels = picture(0, shape)
    np.save(tmp_path / "a.npy", pixels)
    np.savez(tmp_path / "a.npz", x_train=pixels, x_test=pixels)
    for name in ("a.npy", "a.npz"):
        for read in (load_images, lambda path: prepare_images(path, tmp_path / "out")):
            with pytest.raises(UserError, match=f"save {line}"):
                read(tmp_path / name)
    axes = eval(line.replace("\\", "").removeprefix("x.transpose"))
    np.save(tmp_path / "a.npy", pixels.transpose(axes))
    assert load_images(tmp_path / "a.npy").x.shape[1:] in ((28, 28, 1), (28, 28, 3))


@pytest.mark.parametrize("shape", [(28, 28, 40), (30, 1, 784), (30, 784, 1)], ids=str)
def test_grey_images_of_an_unlikely_shape_are_read_with_an_axis_of_channels(shape, tmp_path):
    """The kind: flattened images, or axes in another order, which a shape alone cannot tell from narrow images."""
    pixels = picture(0, shape)
    np.save(tmp_path / "a.npy", pixels)
    with pytest.raises(UserError, match=r"look like .*, or, if this shape is right, save x\[..., None\]"):
        load_images(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", pixels[..., None])
    assert load_images(tmp_path / "a.npy").x.shape[1:3] == shape[1:]
