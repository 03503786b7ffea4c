"""The Fréchet distance against closed forms and SciPy, and its properties."""

import numpy as np
import pytest
import scipy.linalg

from flax_vae.metrics.frechet import frechet_distance, frechet_error

RNG = np.random.default_rng(0)
MIX_A, MIX_B = RNG.normal(size=(2, 6, 6))
A, B = RNG.normal(size=(50, 6)) @ MIX_A, RNG.normal(size=(80, 6)) @ MIX_B + 1


def with_moments(mean: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Return features with exactly this sample mean and diagonal sample covariance."""
    x = RNG.normal(size=(20, len(mean)))
    q, _ = np.linalg.qr(x - x.mean(0))
    return mean + q * np.sqrt(19) * deviations


def by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root)


def test_distance_of_diagonal_normals_is_that_of_means_and_deviations() -> None:
    """With commuting covariances (A B)^(1/2) is A^(1/2) B^(1/2); a deviation of 0 makes one singular."""
    means, deviations = RNG.normal(size=(2, 4)), np.array([[1.0, 2.0, 0.5, 3.0], [2.0, 2.0, 0.0, 1.0]])
    a, b = map(with_moments, means, deviations)
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-12)


def test_distance_of_full_covariances_equals_that_of_scipy() -> None:
    np.testing.assert_allclose(frechet_distance(A, B), by_scipy(A, B), rtol=1e-9)


def test_distance_is_symmetric_and_invariant_to_rotation() -> None:
    rotation, _ = np.linalg.qr(RNG.normal(size=(6, 6)))
    np.testing.assert_allclose(frechet_distance(B, A), frechet_distance(A, B), rtol=1e-12)
    np.testing.assert_allclose(frechet_distance(A @ rotation, B @ rotation), frechet_distance(A, B), rtol=1e-12)


def test_distance_of_a_set_from_itself_is_zero_even_with_fewer_images_than_features() -> None:
    for x in (A, A[:3]):
        assert 0 <= frechet_distance(x, x[::-1]) < 1e-12


def test_distance_with_fewer_images_than_features_is_that_in_their_span() -> None:
    """Three images in six dimensions, compared with the same images in coordinates of the plane that they span."""
    plane, _ = np.linalg.qr(RNG.normal(size=(6, 2)))
    a, b = RNG.normal(size=(3, 2)), RNG.normal(size=(40, 2))
    np.testing.assert_allclose(frechet_distance(a @ plane.T, b @ plane.T), by_scipy(a, b), rtol=1e-9)


def test_the_standard_error_is_the_deviation_over_other_draws() -> None:
    """Two hundred sets of draws, of two sizes: the error falls with the root of their number."""
    for count in (400, 1600):
        sets = RNG.normal(size=(200, count, 6)) @ MIX_A
        deviation = np.std([frechet_distance(draws, B) for draws in sets])
        errors = [frechet_error(draws, B) for draws in sets[:30]]
        np.testing.assert_allclose(np.sqrt(np.mean(np.square(errors))), deviation, rtol=0.2)
    without = [frechet_distance(np.delete(A, slice(group, None, 20), axis=0), B) for group in range(20)]
    np.testing.assert_allclose(frechet_error(A, B), np.sqrt(19) * np.std(without))
    assert frechet_error(A[:3], B) > 0
    assert frechet_error(A[:2], B) is None


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="two images"):
        frechet_distance(A, B[:1])
