"""Images whose factors of variation are known, and the .npz that keeps them; training reads the images alone."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vae.data.arrays import npz_split, read_arrays
from vae.data.dataset import Split
from vae.errors import InputError
from vae.files import replacing

FACTORS, NAMES, ORDERED = "factors", "factor_names", "factor_ordered"  # arrays of the .npz
MOST_LEVELS = 1000  # of a factor


@dataclass(frozen=True)
class Factor:
    """A factor: its name, and whether the order of its values means something (not of kinds, nor on a circle)."""

    name: str
    ordered: bool = False


@dataclass(frozen=True)
class Factors:
    """Images (N, C, H, W), uint8 or float32 in [0, 1], and the factors (N, F) that made them, values 0, 1, ... each."""

    images: np.ndarray
    values: np.ndarray
    factors: tuple[Factor, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the factors."""
        return tuple(factor.name for factor in self.factors)

    @property
    def levels(self) -> list[int]:
        """The number of values of each factor."""
        return [int(most) + 1 for most in self.values.max(0)]

    @property
    def split(self) -> Split:
        """The images as a part of a data set; the values of the first factor are the labels."""
        return Split(torch.from_numpy(self.images), torch.from_numpy(self.values[:, 0].astype(np.int64)))


def write(path: Path, data: Factors) -> None:
    """Write an .npz that `data.name` may name, whole.

    Raises:
        InputError: it cannot be written.
    """
    arrays = {
        "images": data.images,
        "labels": data.values[:, 0],
        FACTORS: data.values,
        NAMES: np.array(data.names),
        ORDERED: np.array([factor.ordered for factor in data.factors]),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, partial.open("wb") as file:  # given a name, NumPy would add a suffix
            np.savez_compressed(file, allow_pickle=False, **arrays)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def read(name: str) -> Factors:
    """Return all images of a data set with their factors, in the file's order.

    Args:
        name: `data.name` of a run; the path of an .npz that holds `factors` (N, F), integers, for its `images`, and may
            hold `factor_names` (F,) and `factor_ordered` (F,), true where the order of a factor's values means
            something.

    Raises:
        InputError: the data have no factors, or unusable ones.
    """
    path = Path(name).expanduser()
    arrays = read_arrays(path) if path.suffix == ".npz" else {}
    if FACTORS not in arrays:
        raise InputError(
            f"data.name = {name!r}: has no factors, which the scores need; see python -m vae shapes --help"
        )
    part, found = npz_split(path, arrays, ""), arrays[FACTORS]
    if found.ndim != 2 or len(found) != len(part) or not found.size or not np.issubdtype(found.dtype, np.integer):
        raise InputError(
            f"{path}: `{FACTORS}` has shape {found.shape} ({found.dtype}); must be ({len(part)}, F), integers"
        )
    count = found.shape[1]
    names = arrays[NAMES] if NAMES in arrays else np.arange(count)
    ordered = arrays[ORDERED] if ORDERED in arrays else np.zeros(count, bool)
    for key, array in ((NAMES, names), (ORDERED, ordered)):
        if array.shape != (count,):
            raise InputError(f"{path}: `{key}` has shape {array.shape}; must be ({count},), one for each factor")
    values = np.stack([_counted(path, str(name), each) for name, each in zip(names, found.T, strict=True)], 1)
    factors = tuple(Factor(str(name), bool(order)) for name, order in zip(names, ordered, strict=True))
    return Factors(part.images.numpy(), values, factors)


def _counted(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    """Return a factor's values as 0, 1, ... in their order; raises `InputError` for a single one or too many."""
    known, counted = np.unique(values, return_inverse=True)
    if not 2 <= len(known) <= MOST_LEVELS:
        raise InputError(f"{path}: factor {name} has {len(known)} different values; must have 2 to {MOST_LEVELS}")
    return counted.reshape(len(values))
