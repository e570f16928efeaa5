"""Labels as a file holds them -> classes 0, 1, ... and their names."""

from collections.abc import Mapping

import numpy as np

from vae.data.dataset import HIDDEN


class NotClassesError(ValueError):
    """Labels that name no classes, with the reason."""


def numbered(labels: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str] | None]:
    """Return the class of each image, (N,), int64, for each part, and the names of the classes.

    Classes are the sorted distinct labels of all parts. Where these are 0, 1, ... already, maybe with -1 for images
    whose label is hidden, they stay as they are, and the names are None.

    Args:
        labels: of each part: (N,), (N, 1) or one-hot (N, C); integers, whole floating point, truth values or text.

    Raises:
        NotClassesError: they are none of these.
    """
    columns = {part: _column(array) for part, array in labels.items()}
    if len({array.dtype.kind in "SU" for array in columns.values()}) > 1:
        raise NotClassesError("are text in one part of the data and numbers in another")
    known = np.unique(np.concatenate([np.unique(array) for array in columns.values()]))
    if _are_numbers_of_classes(known):
        return {part: array.astype(np.int64) for part, array in columns.items()}, None
    classes = {part: np.searchsorted(known, array).astype(np.int64) for part, array in columns.items()}
    return classes, [str(name) for name in known.tolist()]


def text(array: np.ndarray) -> np.ndarray:
    """Return an array of strings, which a file may hold as bytes."""
    return np.char.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array


def _are_numbers_of_classes(known: np.ndarray) -> bool:
    """Return whether distinct labels are 0, 1, ..., or these and -1; -1 and 1 alone, or -1 and 0, are two classes."""
    if known.dtype.kind not in "ui":
        return False
    classes = known[known != HIDDEN]
    is_counted = np.array_equal(classes, np.arange(len(classes)))
    return is_counted and (len(classes) == len(known) or len(classes) > 1)


def _column(labels: np.ndarray) -> np.ndarray:
    """Return the label of each image, (N,): integers, truth values or text."""
    if labels.ndim > 1 and labels.size == len(labels):
        labels = labels.reshape(len(labels))
    if labels.dtype.kind == "f":
        if not (np.abs(labels) < 2**53).all() or (labels != np.rint(labels)).any():
            raise NotClassesError("are not whole numbers")
        labels = labels.astype(np.int64)
    if labels.ndim == 2 and labels.dtype.kind in "uib" and _is_one_hot(labels):
        return labels.argmax(1)
    if labels.ndim != 1:
        raise NotClassesError("are neither one for each image nor one-hot")
    if labels.dtype.kind == "S":
        return text(labels)
    if labels.dtype.kind not in "uibU":
        raise NotClassesError(f"have type {labels.dtype}")
    is_larger = labels.dtype == np.uint64 and labels.max(initial=0) > np.iinfo(np.int64).max
    return labels if labels.dtype.kind in "bU" or is_larger else labels.astype(np.int64)


def _is_one_hot(labels: np.ndarray) -> bool:
    return bool(((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all())
