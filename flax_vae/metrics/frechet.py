"""The Fréchet distance between two sets of images, in the features of a classifier."""

import numpy as np
from jaxtyping import Float


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
    a, b = a.astype(np.float64), b.astype(np.float64)
    r, s = _root_of_covariance(a), _root_of_covariance(b)
    means = np.square(a.mean(0) - b.mean(0)).sum()
    spreads = np.square(r).sum() + np.square(s).sum() - 2 * np.linalg.svdvals(r @ s.T).sum()
    return float(means + max(spreads, 0.0))


def _root_of_covariance(x: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "r f"]:
    """Return R such that RᵀR is the sample covariance."""
    return np.linalg.qr((x - x.mean(0)) / np.sqrt(len(x) - 1)).R
