"""The separated attribute predictability score (Kumar et al. 2018): how far the best dimension is above the second."""

from collections.abc import Sequence

import numpy as np


def predictability(
    code: np.ndarray, values: np.ndarray, new_code: np.ndarray, new_values: np.ndarray, ordered: Sequence[bool]
) -> np.ndarray:
    """Return how well each factor is predicted from each latent dimension alone, (F, D), from 0 to 1.

    Of a factor whose order means something R^2 of linear regression; of others the accuracy of the best thresholds, one
    fewer than there are classes, on new images, each class with the same weight. A constant dimension
    predicts nothing.

    Args:
        code, values: N images, (N, D) and (N, F), to learn from.
        new_code, new_values: others.
        ordered: of each factor, whether its order means something.
    """
    found = np.zeros((values.shape[1], code.shape[1]))
    for dimension in np.flatnonzero(code.std(0) > 0):
        one, new = code[:, [dimension]], new_code[:, [dimension]]
        for factor, known in enumerate(values.T):
            if ordered[factor]:
                found[factor, dimension] = np.corrcoef(one[:, 0], known)[0, 1] ** 2
            else:
                found[factor, dimension] = _by_thresholds(one, known, new, new_values[:, factor])
    return found


def _by_thresholds(code: np.ndarray, classes: np.ndarray, new_code: np.ndarray, new_classes: np.ndarray) -> float:
    """Return the mean over classes of the share of new images (N, 1) of a class that thresholds assign to it."""
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_leaf_nodes=len(np.unique(classes)), class_weight="balanced", random_state=0)
    return float(balanced_accuracy_score(new_classes, tree.fit(code, classes).predict(new_code)))
