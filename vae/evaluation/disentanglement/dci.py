"""Disentanglement, completeness and informativeness (Eastwood & Williams 2018), by random forests."""

from dataclasses import dataclass

import numpy as np

TREES, LEAF = 20, 4  # trees of a forest; images in a leaf, at least


@dataclass(frozen=True)
class Prediction:
    """The prediction of factors from a code.

    Attributes:
        importance: of each latent dimension for each factor, (F, D), not negative; the sum for a factor is 1.
        accuracy: of each factor's prediction for new images, (F,): the informativeness.
    """

    importance: np.ndarray
    accuracy: np.ndarray


def predict(code: np.ndarray, values: np.ndarray, new_code: np.ndarray, new_values: np.ndarray) -> Prediction:
    """Return importance and accuracy of random forests that predict factors (N, F) from a code (N, D).

    Factors are predicted as classes, since a factor on a circle, such as an orientation, has no order. Importance is
    the share of the Gini impurity that splits by a dimension remove. Each split may use any dimension, or importance
    would spread over all.

    Args:
        code, values: of N images for training.
        new_code, new_values: of other images, for the accuracy.
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
    """Return the degree to which each latent dimension matters for one factor alone, from 0 to 1.

    For a dimension it is 1 less the entropy, in units of log F, of its importances (F, D) as shares. Dimensions are
    averaged with their part of all importance as weights.
    """
    weight = importance.sum(0)
    return float(_purity(importance.T) @ weight / max(weight.sum(), np.finfo(float).tiny))


def completeness(importance: np.ndarray) -> float:
    """Return the degree to which each factor is predicted by one latent dimension alone, from 0 to 1.

    For a factor it is 1 less the entropy, in units of log D, of its importances (F, D) as shares; factors are averaged.
    """
    return float(_purity(importance).mean())


def _purity(rows: np.ndarray) -> np.ndarray:
    """Return 1 - H / log C for each row (R, C) as shares of its sum, (R,), H their entropy; 0 for a row of zeros."""
    total, most = rows.sum(1, keepdims=True), np.log(rows.shape[1]) or 1.0
    shares = np.divide(rows, total, out=np.full(rows.shape, 1 / rows.shape[1]), where=total > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return 1 + (shares * logs).sum(1) / most
