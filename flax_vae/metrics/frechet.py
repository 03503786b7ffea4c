"""The Fréchet distance between two sets of images, in the features of a classifier."""

import numpy as np
from jaxtyping import Float

_GROUPS = 20  # of images, for the standard error


def frechet_distance(a: Float[np.ndarray, "n f"], b: Float[np.ndarray, "m f"]) -> float:
    """Return the squared Wasserstein distance of normals with the moments of two sets of features (Heusel et al. 2017).

    |μ_a - μ_b|² + tr(A + B - 2 (A B)^(1/2))

    With A = RᵀR and B = SᵀS, from a QR decomposition of the centred features, the eigenvalues of A B are the squares of
    the singular values of R Sᵀ: their sum is the trace of the root, even if a covariance is singular.

    Covariances of few images bias the distance upwards: compare only distances over equally many images.

    Raises:
        ValueError: a set has fewer than two images, and so no covariance.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a covariance needs at least two images of each set, not {len(a)} and {len(b)}")
    return _distance(_moments(a), _moments(b))


def frechet_error(a: Float[np.ndarray, "n f"], b: Float[np.ndarray, "m f"]) -> float | None:
    """Return the standard error of the distance over other draws of the first set, or None for fewer than three images.

    It is a jackknife, from the distances without one of twenty groups of images: no images are drawn again, and the
    covariances follow from sums over each group.
    """
    if (count := len(a)) < 3:
        return None
    groups, other, distances = min(_GROUPS, count), _moments(b), []
    centre = a.mean(0, dtype=np.float64)
    x = a - centre
    products = x.T @ x
    for group in range(groups):
        left_out = x[group::groups]
        rest = count - len(left_out)
        mean = -left_out.sum(0) / rest
        covariance = (products - left_out.T @ left_out - rest * np.outer(mean, mean)) / (rest - 1)
        variances, axes = np.linalg.eigh(covariance)
        root = np.sqrt(variances.clip(0))[:, None] * axes.T
        distances.append(_distance((centre + mean, root), other))
    return float(np.sqrt(groups - 1) * np.std(distances))


def _moments(x: Float[np.ndarray, "n f"]) -> tuple[Float[np.ndarray, " f"], Float[np.ndarray, "r f"]]:
    """Return the mean, and R such that RᵀR is the sample covariance."""
    x = x.astype(np.float64)
    mean = x.mean(0)
    return mean, np.linalg.qr((x - mean) / np.sqrt(len(x) - 1)).R


def _distance(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    (mean, r), (other, s) = a, b
    spreads = np.square(r).sum() + np.square(s).sum() - 2 * np.linalg.svdvals(r @ s.T).sum()
    return float(np.square(mean - other).sum() + max(spreads, 0.0))
