"""Disentanglement: whether each latent encodes one factor, and one latent encodes each factor.

The three take `latents`, the posterior means of n images, and `factors`, the index of each factor's value in them. But
for ties, none depends on the order or the scales of the dimensions. A factor that has one value in these images is left
out. A constant dimension carries no information; where there is a single dimension, a constant column is the runner-up.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_BINS = 20


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness, each of them from 0 to 1, the best."""

    disentanglement: float
    completeness: float
    informativeness: float


def mig(latents: Float[np.ndarray, "n d"], factors: Int[np.ndarray, "n f"]) -> float:
    """Mutual information gap: how much more information one dimension has about a factor than any other, from 0 to 1.

    1/f Σ_k (I(z_i; v_k) - max_{j≠i} I(z_j; v_k)) / H(v_k)  with  i = argmax_j I(z_j; v_k)  (Chen et al. 2018, eq. 6)

    I and H are those of the frequencies among the images, a dimension's range being divided into 20 bins of one width.

    Raises:
        ValueError: no factor has two values.
    """
    from sklearn.metrics import mutual_info_score

    binned = [np.digitize(z, np.histogram_bin_edges(z, _BINS)[1:-1]) for z in _with_constant(latents).T]
    gaps = []
    for v in _varied(factors).T:
        *_, second, best = sorted(mutual_info_score(v, z) for z in binned)
        gaps.append((best - second) / mutual_info_score(v, v))
    return float(np.mean(gaps))


def sap(latents: Float[np.ndarray, "n d"], factors: Int[np.ndarray, "n f"]) -> float:
    """Separated attribute predictability: how much better one dimension predicts a factor than any other.

    1/f Σ_k (S_ik - max_{j≠i} S_jk)  with  i = argmax_j S_jk  (Kumar et al. 2018, section 3)

    S_jk is the balanced accuracy, the mean over the m_k values of factor k of the share that is predicted right, of
    m_k - 1 thresholds on dimension j: a decision tree of m_k leaves, fitted and scored on these images. As chance alone
    makes 1 / m_k, the highest score is 1/f Σ_k (1 - 1 / m_k).

    Raises:
        ValueError: no factor has two values.
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
    """Whether each latent encodes one factor, one latent encodes each factor, and the factors can be predicted.

    A random forest for each factor predicts its value from all dimensions. Informativeness is its accuracy on a quarter
    of the images that it has not seen, the mean over the factors. With R_ij the importance of dimension i to the forest
    of factor j, by Gini impurity and one in all for each forest, disentanglement is `concentration(R)` and completeness
    `concentration(R.T)` (Eastwood & Williams 2018, section 2). Trees grow with the number of images, so compare scores
    of one number only.

    Args:
        latents: posterior means.
        factors: the index of each factor's value.
        seed: of the forests, and of the quarter.

    Raises:
        ValueError: no factor has two values.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import train_test_split

    known, unseen, known_factors, unseen_factors = train_test_split(latents, _varied(factors), random_state=seed)
    importances, accuracies = [], []
    for v, unseen_v in zip(known_factors.T, unseen_factors.T, strict=True):
        # Each split chooses among all dimensions, and none parts off a few images: otherwise dimensions without
        # information gain importance.
        forest = RandomForestClassifier(10, max_features=None, min_samples_leaf=20, random_state=seed).fit(known, v)
        importances.append(forest.feature_importances_)
        accuracies.append(forest.score(unseen, unseen_v))
    by_latent = np.stack(importances, axis=1)
    return DCI(concentration(by_latent), concentration(by_latent.T), float(np.mean(accuracies)))


def concentration(importances: Float[np.ndarray, "r c"]) -> float:
    """How far each row's importance is on one column: 1 where it is, 0 where it is spread evenly or there is none.

    Σ_i w_i (1 - H_c(P_i))  with  P_ij = R_ij / Σ_k R_ik,  w_i = Σ_j R_ij / Σ_kj R_kj  and the entropy H_c to the base c
    """
    of_rows = importances.sum(axis=1, keepdims=True)
    if not of_rows.any():
        return 0.0
    shares = importances / np.where(of_rows > 0, of_rows, 1)
    entropies = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1) / np.log(max(2, shares.shape[1]))
    return float(np.average(1 - entropies, weights=of_rows[:, 0]))


def _varied(factors: Int[np.ndarray, "n f"]) -> Int[np.ndarray, "n g"]:
    """The factors that have at least two values."""
    varied = factors[:, np.ptp(factors, axis=0) > 0]
    if not varied.size:
        raise ValueError("no factor has two values among these images")
    return varied


def _with_constant(latents: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n e"]:
    """With a constant column, so that each dimension has a runner-up."""
    return np.column_stack([latents, np.zeros(len(latents), latents.dtype)])
