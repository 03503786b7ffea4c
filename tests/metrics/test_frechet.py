"""The Fréchet distance against closed forms and SciPy, and the classifier in whose features it is taken."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.linalg

from flax_vae.data.sources.fashion_mnist import from_subset
from flax_vae.metrics.frechet import Classifier, accuracy, features, frechet_distance, train_classifier

RNG = np.random.default_rng(0)
MIX_A, MIX_B = RNG.normal(size=(2, 6, 6))
A, B = RNG.normal(size=(50, 6)) @ MIX_A, RNG.normal(size=(80, 6)) @ MIX_B + 1


def with_moments(mean: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Features whose sample mean and (diagonal) sample covariance are exactly these."""
    x = RNG.normal(size=(20, len(mean)))
    q, _ = np.linalg.qr(x - x.mean(0))
    return mean + q * np.sqrt(19) * deviations


def by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root)


def test_of_diagonal_normals_it_is_the_distance_of_means_and_deviations() -> None:
    """With commuting covariances (A B)^(1/2) is A^(1/2) B^(1/2); a deviation of 0 makes one singular."""
    means, deviations = RNG.normal(size=(2, 4)), np.array([[1.0, 2.0, 0.5, 3.0], [2.0, 2.0, 0.0, 1.0]])
    a, b = map(with_moments, means, deviations)
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-12)


def test_of_full_covariances_it_is_scipys() -> None:
    np.testing.assert_allclose(frechet_distance(A, B), by_scipy(A, B), rtol=1e-9)


def test_it_is_symmetric_and_knows_no_axes() -> None:
    rotation, _ = np.linalg.qr(RNG.normal(size=(6, 6)))
    np.testing.assert_allclose(frechet_distance(B, A), frechet_distance(A, B), rtol=1e-12)
    np.testing.assert_allclose(frechet_distance(A @ rotation, B @ rotation), frechet_distance(A, B), rtol=1e-12)


def test_a_set_is_at_no_distance_from_itself_even_with_fewer_images_than_features() -> None:
    for x in (A, A[:3]):
        assert 0 <= frechet_distance(x, x[::-1]) < 1e-12


def test_with_fewer_images_than_features_it_is_that_of_their_span() -> None:
    """Three images in six dimensions, against the same in coordinates of the plane that they span."""
    plane, _ = np.linalg.qr(RNG.normal(size=(6, 2)))
    a, b = RNG.normal(size=(3, 2)), RNG.normal(size=(40, 2))
    np.testing.assert_allclose(frechet_distance(a @ plane.T, b @ plane.T), by_scipy(a, b), rtol=1e-9)


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="two images"):
        frechet_distance(A, B[:1])


def small(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Every third pixel of a thousand real images, and their labels."""
    data = from_subset(split, "for tests")
    return data.images[:1000, ::3, ::3], data.labels[:1000]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    images, labels = small("train")
    return train_classifier(images[:600], labels[:600], seed=0)


def test_it_learns_real_images(classifier: Classifier) -> None:
    images, labels = small("test")
    assert accuracy(classifier, images, labels) > 0.4
    assert classifier.name == "conv 16-32-64 on 600 images"


@pytest.mark.slow
def test_devices_share_its_training_and_change_no_bit(tmp_path: Path) -> None:
    """In programs of their own, since JAX counts its devices once: five microbatches on one device and on five."""
    program = """
import sys, numpy as np
from flax_vae import use_machine
from flax_vae.metrics.frechet import train_classifier
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
    for name in alone:
        np.testing.assert_array_equal(alone[name], shared[name])


@pytest.mark.slow
def test_labels_that_it_never_saw_cannot_be_right(classifier: Classifier) -> None:
    """Whatever their numbers; only the share of the images whose class it learned can be."""
    images, labels = small("train")
    some = np.isin(labels, (3, 7))
    of_two = train_classifier(images[some], 1000 * labels[some], seed=0)
    assert accuracy(of_two, images[some], 1000 * labels[some]) > 0.9
    assert 0.9 * some.mean() < accuracy(of_two, images, 1000 * labels) <= some.mean()


def test_noise_takes_images_away_and_more_noise_farther(classifier: Classifier) -> None:
    """Noise on real images other than those from which the distance is taken; without any, it is the least."""
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
def test_images_of_any_shape_and_the_same_seed_the_same_bits() -> None:
    """Colour images of 14x9 pixels, fewer than a batch; nearly all are told after a few steps, by their brightness."""
    labels = np.arange(50, dtype=np.int32) % 2
    images = (RNG.integers(0, 100, (50, 14, 9, 3)) + 100 * labels[:, None, None, None]).astype(np.uint8)
    first, again, other = (train_classifier(images, labels, seed) for seed in (1, 1, 2))
    assert accuracy(first, images, labels) > 0.9
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    assert not np.array_equal(features(first, images), features(other, images))
    assert features(first, images).shape == (50, 64)
