"""Disentanglement, completeness, informativeness (Eastwood & Williams 2018), of random forests that predict factors."""

from dataclasses import dataclass

import numpy as np

TREES, LEAF = 20, 4  # trees of a forest; images in a leaf, at least


@dataclass(frozen=True)
class Prediction:
    """How factors are predicted from a code.

    Attributes:
        importance: of each latent dimension for each factor, (F, D), not negative; each factor's sum to 1.
        accuracy: of the prediction of new images, for each factor, (F,): their informativeness.
    """

    importance: np.ndarray
    accuracy: np.ndarray


def predict(code: np.ndarray, values: np.ndarray, new_code: np.ndarray, new_values: np.ndarray) -> Prediction:
    """Return how random forests predict factors (N, F) from a code (N, D), and how well those of new images.

    Factors are predicted as classes, since one on a circle, as an orientation, has no order. Importance is the share of
    the Gini impurity that splits by a dimension take away; each split may be by any dimension, or importance would
    spread over all.

    Args:
        code, values: N images to learn from.
        new_code, new_values: others.
    """
    from sklearn.ensemble import RandomForestClassifier  # seconds, that only scores need

    importance, accuracy = [], []
    for known, wanted in zip(values.T, new_values.T, strict=True):
        forest = RandomForestClassifier(
            TREES,
            max_features=None,  # pyright: ignore[reportArgumentType]
            min_samples_leaf=LEAF,
            random_state=0,
        )
        forest.fit(code, known)
        importance.append(forest.feature_importances_)
        accuracy.append(float(np.mean(forest.predict(new_code) == wanted)))
    return Prediction(np.stack(importance), np.array(accuracy))


def disentanglement(importance: np.ndarray) -> float:
    """Return to what extent each latent dimension matters for one factor alone, from 0 to 1.

    For dimension d, 1 less the entropy, in units of log F, of its importances (F, D) taken as shares; on average over
    dimensions, each weighted by its part of all importance.
    """
    weight = importance.sum(0)
    return float(_purity(importance.T) @ weight / max(weight.sum(), np.finfo(float).tiny))


def completeness(importance: np.ndarray) -> float:
    """Return to what extent each factor is predicted by one latent dimension alone, from 0 to 1.

    For a factor, 1 less the entropy, in units of log D, of its importances (F, D) taken as shares; the mean of all.
    """
    return float(_purity(importance).mean())


def _purity(rows: np.ndarray) -> np.ndarray:
    """Return 1 - entropy, in units of the largest, of each row (R, C) as shares of its sum, (R,); of zeros 0."""
    total, most = rows.sum(1, keepdims=True), np.log(rows.shape[1]) or 1.0
    shares = np.divide(rows, total, out=np.full(rows.shape, 1 / rows.shape[1]), where=total > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return 1 + (shares * logs).sum(1) / most
