"""Separated attribute predictability (Kumar et al. 2018): the best latent dimension's score less the second best's."""

from collections.abc import Sequence

import numpy as np


def predictability(
    code: np.ndarray, values: np.ndarray, new_code: np.ndarray, new_values: np.ndarray, ordered: Sequence[bool]
) -> np.ndarray:
    """Return a score for the prediction of each factor from each latent dimension alone, (F, D), from 0 to 1.

    For a factor whose order means something it is R^2 of linear regression, 0 for a constant dimension. For others it
    is the accuracy on new images of the best thresholds, one fewer than there are classes, each class with the same
    weight. Of C classes a constant dimension has 1/C right.

    Args:
        code, values: of N images for training, (N, D) and (N, F).
        new_code, new_values: of other images, for the accuracy.
        ordered: for each factor, whether its order means something.
    """
    found = np.zeros((values.shape[1], code.shape[1]))
    for dimension in range(code.shape[1]):
        one, new = code[:, [dimension]], new_code[:, [dimension]]
        for factor, known in enumerate(values.T):
            if not ordered[factor]:
                found[factor, dimension] = _by_thresholds(one, known, new, new_values[:, factor])
            elif one.std() > 0:
                found[factor, dimension] = np.corrcoef(one[:, 0], known)[0, 1] ** 2
    return found


def _by_thresholds(code: np.ndarray, classes: np.ndarray, new_code: np.ndarray, new_classes: np.ndarray) -> float:
    """Return the balanced accuracy of thresholds on a code (N, 1): the mean over classes of the share that is right."""
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_leaf_nodes=len(np.unique(classes)), class_weight="balanced", random_state=0)
    return float(balanced_accuracy_score(new_classes, tree.fit(code, classes).predict(new_code)))
