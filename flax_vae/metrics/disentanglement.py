"""Disentanglement: the degree to which each latent encodes one factor, and one latent encodes each factor.

All three metrics take `latents`, the posterior means of n images, and `factors`, the index of each factor's value.
Except for ties, none depends on the order or the scale of the dimensions. Factors with a single value in these
images are left out. A constant column is added to the latents, so that each dimension has a runner-up.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_BINS = 20


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness, each from 0 to 1 (best)."""

    disentanglement: float
    completeness: float
    informativeness: float


def mig(latents: Float[np.ndarray, "n d"], factors: Int[np.ndarray, "n f"]) -> float:
    """Return the mutual information gap between the most informative dimension of a factor and the next, from 0 to 1.

    1/f Σ_k (I(z_i; v_k) - max_{j≠i} I(z_j; v_k)) / H(v_k)  with  i = argmax_j I(z_j; v_k)  (Chen et al. 2018, eq. 6)

    I and H are computed from frequencies among the images, with the range of each dimension divided into 20 equal bins.

    Raises:
        ValueError: no factor has two values among the images.
    """
    from sklearn.metrics import mutual_info_score

    binned = [np.digitize(z, np.histogram_bin_edges(z, _BINS)[1:-1]) for z in _with_constant(latents).T]
    gaps = []
    for v in _varied(factors).T:
        *_, second, best = sorted(mutual_info_score(v, z) for z in binned)
        gaps.append((best - second) / mutual_info_score(v, v))
    return float(np.mean(gaps))


def sap(latents: Float[np.ndarray, "n d"], factors: Int[np.ndarray, "n f"]) -> float:
    """Return the separated attribute predictability: the lead of the most predictive dimension over the next.

    1/f Σ_k (S_ik - max_{j≠i} S_jk)  with  i = argmax_j S_jk  (Kumar et al. 2018, section 3)

    S_jk is the balanced accuracy of a decision tree with m_k leaves on dimension j, fitted and scored on these images,
    where m_k is the number of values of factor k. Chance scores 1/m_k, so the highest SAP is 1/f Σ_k (1 - 1/m_k).

    Raises:
        ValueError: no factor has two values among the images.
    """
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    columns, gaps = _with_constant(latents).T[..., None], []
    for v in _varied(factors).T:
        tree = DecisionTreeClassifier(max_leaf_nodes=len(np.unique(v)), class_weight="balanced", random_state=0)
        *_, second, best = sorted(balanced_accuracy_score(v, tree.fit(z, v).predict(z)) for z in columns)
        gaps.append(best - second)
    return float(np.mean(gaps))


def dci(latents: Float[np.ndarray, "n d"], factors: Int[np.ndarray, "n f"], seed: int = 0) -> DCI:
    """Return disentanglement, completeness and informativeness (Eastwood & Williams 2018, section 2).

    For each factor, a random forest predicts its value from all dimensions. Informativeness is its accuracy on a
    held-out quarter of the images, averaged over the factors. R_ij is the Gini importance of dimension i in the forest
    of factor j, normalised to sum to 1 over i. Disentanglement is `concentration(R)`, and completeness
    `concentration(R.T)`. The size of the trees depends on the number of images: compare only scores from equally many.

    Args:
        latents: posterior means.
        factors: the index of each factor's value.
        seed: seed of the forests and of the held-out quarter.

    Raises:
        ValueError: no factor has two values among the images.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import train_test_split

    train, test, train_factors, test_factors = train_test_split(latents, _varied(factors), random_state=seed)
    importances, accuracies = [], []
    for v, test_v in zip(train_factors.T, test_factors.T, strict=True):
        # Splits consider all dimensions, and leaves hold at least 20 images; otherwise uninformative dimensions gain
        # importance.
        forest = RandomForestClassifier(10, max_features=None, min_samples_leaf=20, random_state=seed).fit(train, v)
        importances.append(forest.feature_importances_)
        accuracies.append(forest.score(test, test_v))
    by_latent = np.stack(importances, axis=1)
    return DCI(concentration(by_latent), concentration(by_latent.T), float(np.mean(accuracies)))


def concentration(importances: Float[np.ndarray, "r c"]) -> float:
    """Return the concentration of each row on one column: 1 for a single nonzero entry, 0 for a uniform or zero row.

    Σ_i w_i (1 - H_c(P_i))  with  P_ij = R_ij / Σ_k R_ik,  w_i = Σ_j R_ij / Σ_kj R_kj  and the entropy H_c to the base c
    """
    row_sums = importances.sum(axis=1, keepdims=True)
    if not row_sums.any():
        return 0.0
    shares = importances / np.where(row_sums > 0, row_sums, 1)
    entropies = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1) / np.log(max(2, shares.shape[1]))
    return float(np.average(1 - entropies, weights=row_sums[:, 0]))


def _varied(factors: Int[np.ndarray, "n f"]) -> Int[np.ndarray, "n g"]:
    """Return the factors with at least two values."""
    varied = factors[:, np.ptp(factors, axis=0) > 0]
    if not varied.size:
        raise ValueError("no factor has two values among these images")
    return varied


def _with_constant(latents: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n e"]:
    """Append a constant column, so that each dimension has a runner-up."""
    return np.column_stack([latents, np.zeros(len(latents), latents.dtype)])
