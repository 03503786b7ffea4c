"""The classifier: its training, its accuracy and its features."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from flax_vae.data.sources.fashion_mnist import from_subset
from flax_vae.metrics.classifier import Classifier, accuracy, features, train_classifier
from flax_vae.metrics.frechet import frechet_distance

RNG = np.random.default_rng(0)


def small(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return every third pixel of a thousand real images, and their labels."""
    data = from_subset(split, "for tests")
    return data.x[:1000, ::3, ::3], data.labels[:1000]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    images, labels = small("train")
    return train_classifier(images[:600], labels[:600], seed=0)


def test_the_classifier_learns_real_images(classifier: Classifier) -> None:
    images, labels = small("test")
    assert accuracy(classifier, images, labels) > 0.4
    assert classifier.name == "conv 16-32-64 on 600 images"


@pytest.mark.slow
def test_training_on_several_devices_changes_nothing_but_rounding(tmp_path: Path) -> None:
    """Five microbatches on one device and on five, in separate programs, since JAX fixes the number of devices.

    The bits are the same, except with JAX 0.8, which compiles convolutions for one and for five devices differently.
    """
    program = """
import sys, numpy as np
from flax_vae import use_machine
from flax_vae.metrics.classifier import train_classifier
from flax_vae.training.sharding import data_mesh
devices, data, out = int(sys.argv[1]), np.load(sys.argv[2]), sys.argv[3]
use_machine(devices)
params = train_classifier(data["images"], data["labels"], seed=0).params
mesh = data_mesh(5)
assert devices == (mesh.size if mesh else 1)
np.savez(out, **{name: layer["kernel"] for name, layer in params.items()})
"""
    images, labels = small("train")
    np.savez(tmp_path / "few.npz", images=images[:100], labels=labels[:100])
    for devices in ("1", "5"):
        words = [sys.executable, "-c", program, devices, tmp_path / "few.npz", tmp_path / f"{devices}.npz"]
        subprocess.run(words, check=True)
    alone, shared = np.load(tmp_path / "1.npz"), np.load(tmp_path / "5.npz")
    assert set(alone) == {"Conv_0", "Conv_1", "Conv_2", "Dense_0", "Dense_1"}
    # Adam enlarges the rounding errors of gradients near 0; its twenty steps move the weights by up to 0.02.
    rounding = 5e-5 if jax.__version_info__ < (0, 9) else 0
    for name in alone:
        np.testing.assert_allclose(alone[name], shared[name], rtol=0, atol=rounding)


@pytest.mark.slow
def test_labels_unseen_in_training_count_as_errors(classifier: Classifier) -> None:
    """The accuracy is at most the share of images whose class was seen, for arbitrary label numbers."""
    images, labels = small("train")
    has_known_class = np.isin(labels, (3, 7))
    of_two = train_classifier(images[has_known_class], 1000 * labels[has_known_class], seed=0)
    assert accuracy(of_two, images[has_known_class], 1000 * labels[has_known_class]) > 0.9
    assert 0.9 * has_known_class.mean() < accuracy(of_two, images, 1000 * labels) <= has_known_class.mean()


def test_the_frechet_distance_of_features_grows_with_noise(classifier: Classifier) -> None:
    """Distances of one half of the real images with added noise from the other half."""
    images, _ = small("test")
    all_features = features(classifier, images)
    assert all_features.shape == (1000, 64)
    real, others = all_features[:500], images[500:] / np.float32(255)
    np.testing.assert_allclose(features(classifier, others), all_features[500:], rtol=1e-5, atol=1e-5)
    noise = RNG.normal(size=others.shape).astype(np.float32)
    distances = [
        frechet_distance(features(classifier, np.clip(others + scale * noise, 0, 1)), real)
        for scale in (0, 0.1, 0.2, 0.4)
    ]
    assert (np.diff(distances) > 0).all(), distances


@pytest.mark.slow
def test_images_of_any_shape_and_reproducible_training() -> None:
    """Colour images of 14x9 pixels, fewer than a batch, with classes of different brightness."""
    labels = np.arange(50, dtype=np.int32) % 2
    images = (RNG.integers(0, 100, (50, 14, 9, 3)) + 100 * labels[:, None, None, None]).astype(np.uint8)
    first, again, other = (train_classifier(images, labels, seed) for seed in (1, 1, 2))
    assert accuracy(first, images, labels) > 0.9
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    assert not np.array_equal(features(first, images), features(other, images))
    assert features(first, images).shape == (50, 64)
