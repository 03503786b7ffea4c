"""Arrays of images in .npy and .npz files: read, split and converted, or refused in one line."""

import numpy as np
import pytest
from files import cut, picture

from flax_vae.data import class_names, load_images
from flax_vae.system.errors import UserError


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
    classes = {image.tobytes(): label for image, label in zip(labelled.images, labelled.labels, strict=True)}
    assert classes == {image.tobytes(): label for image, label in zip(x, y, strict=True) if image.tobytes() in classes}


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
