"""Images whose factors of variation are known, and the .npz that keeps them; training reads the images alone."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vae.data.archive import Archive
from vae.data.arrays import read_images
from vae.data.dataset import Split
from vae.data.naming import choose
from vae.data.reading import Reading
from vae.errors import InputError
from vae.files import expanded, replacing

FACTORS, NAMES, ORDERED = "factors", "factor_names", "factor_ordered"  # arrays of the .npz
MOST_LEVELS = 1000  # of a factor


@dataclass(frozen=True)
class Factor:
    """A factor: its name, and whether the order of its values means something (not of kinds, nor on a circle)."""

    name: str
    ordered: bool = False


DSPRITES = "latents_classes"  # array of the factors of dSprites (Matthey et al. 2017)
DSPRITES_FACTORS = (
    Factor("color"),
    Factor("shape"),
    Factor("scale", ordered=True),
    Factor("orientation"),
    Factor("x", ordered=True),
    Factor("y", ordered=True),
)


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


def read(name: str, reading: Reading) -> Factors:
    """Return all images of a data set with their factors, in the file's order; of one with parts, those for training.

    Args:
        name: `data.name` of a run; the path of an .npz that holds `factors` (N, F), integers, for its images. It may
            hold `factor_names` (F,), and `factor_ordered` (F,), true where the order of a factor's values means
            something. dSprites has its own names of arrays; of its factors the colour has one value, and is left out.
        reading: how the images are read.

    Raises:
        InputError: the data have no factors, or unusable ones.
    """
    path = expanded(name)
    archive = Archive(path) if path.suffix == ".npz" else None
    if archive is None or not {FACTORS, DSPRITES} & archive.headers.keys():
        raise InputError(
            f"data.name = {name!r}: has no factors, which the scores need; see python -m vae shapes --help"
        )
    images = choose(archive, reading.images, reading.labels).images["train"]
    pixels, _ = read_images(archive, {"train": images}, reading)
    found, factors = (_described if FACTORS in archive.headers else _dsprites)(archive, len(pixels["train"]))
    values = np.stack([_counted(path, factor.name, each) for factor, each in zip(factors, found.T, strict=True)], 1)
    return Factors(pixels["train"], values, factors)


def _described(archive: Archive, images: int) -> tuple[np.ndarray, tuple[Factor, ...]]:
    """Return the factors (N, F) and their descriptions; raises `InputError`."""
    found = archive.read(FACTORS)
    if found.ndim != 2 or len(found) != images or not found.size or not np.issubdtype(found.dtype, np.integer):
        wanted = f"must be ({images}, F), integers"
        raise InputError(f"{archive.where(FACTORS)} has shape {found.shape} ({found.dtype}); {wanted}")
    count = found.shape[1]
    names = archive.read(NAMES) if NAMES in archive.headers else np.arange(count)
    ordered = archive.read(ORDERED) if ORDERED in archive.headers else np.zeros(count, bool)
    for key, array in ((NAMES, names), (ORDERED, ordered)):
        if array.shape != (count,):
            raise InputError(f"{archive.where(key)} has shape {array.shape}; must be ({count},), one for each factor")
    return found, tuple(Factor(str(name), bool(order)) for name, order in zip(names, ordered, strict=True))


def _dsprites(archive: Archive, images: int) -> tuple[np.ndarray, tuple[Factor, ...]]:
    """Return the factors of dSprites that vary; raises `InputError`."""
    found = archive.read(DSPRITES)
    if found.shape != (images, len(DSPRITES_FACTORS)):
        wanted = f"must be ({images}, {len(DSPRITES_FACTORS)})"
        raise InputError(f"{archive.where(DSPRITES)} has shape {found.shape}; {wanted}")
    varying = [column for column, factor in enumerate(DSPRITES_FACTORS) if factor.name != "color"]
    return found[:, varying], tuple(DSPRITES_FACTORS[column] for column in varying)


def _counted(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    """Return a factor's values as 0, 1, ... in their order; raises `InputError` for a single one or too many."""
    known, counted = np.unique(values, return_inverse=True)
    if not 2 <= len(known) <= MOST_LEVELS:
        raise InputError(f"{path}: factor {name} has {len(known)} different values; must have 2 to {MOST_LEVELS}")
    return counted.reshape(len(values))
