"""A user's own images: the arrays of an `.npz` file."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from vae.data.dataset import DataSet, Split, one_line
from vae.data.reading import Reading, using
from vae.errors import InputError


@using("images", "labels", "channels", "range")
def read_npz(name: str, reading: Reading) -> DataSet:
    """Return the data set of an `.npz` file.

    Args:
        name: the file's path. It holds `images` (N, H, W) or (N, C, H, W), uint8 or floating point in [0, 1], and may
            hold `labels` (N,), `test_images` and `test_labels`; without them the last tenth of a fixed permutation is
            the test set.
        reading: how its arrays are named and laid out.

    Raises:
        InputError: an unusable file.
    """
    path = Path(name).expanduser()
    arrays = read_arrays(path)
    train = npz_split(path, arrays, "")
    if "test_images" in arrays:
        test = npz_split(path, arrays, "test_")
        if test.images.shape[1:] != train.images.shape[1:]:
            shapes = f"{tuple(test.images.shape)}, but `images` {tuple(train.images.shape)}"
            raise InputError(f"{path}: `test_images` has shape {shapes}; all images must have one size")
    else:
        held_out = DataSet(path.stem, train, train).hold_out(max(1, len(train) // 10))
        assert held_out.val is not None
        train, test = held_out.train, held_out.val
    return DataSet(path.stem, train, test)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz that holds `images`; raises `InputError`."""
    try:
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array: save it with np.savez(path, images=...)")
            with archive:
                arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        raise InputError(f"{path}: not a readable .npz of plain arrays ({reason})") from None
    if "images" not in arrays:
        found = ", ".join(arrays) or "nothing"
        raise InputError(f"{path}: holds {found}; must hold `images` (N, H, W) or (N, C, H, W) and may hold `labels`")
    return arrays


def npz_split(path: Path, arrays: dict[str, np.ndarray], prefix: str) -> Split:
    """Return the images of an .npz called `{prefix}images`, with labels if it has any; raises `InputError`."""
    images, labels = arrays[f"{prefix}images"], arrays.get(f"{prefix}labels")
    where = f"{path}: `{prefix}images`"
    if images.ndim not in (3, 4) or 0 in images.shape or len(images) < 2:
        raise InputError(f"{where} has shape {images.shape}; must be (N, H, W) or (N, C, H, W) with N >= 2")
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise InputError(f"{where} has type {images.dtype}; must be uint8, or floating point in [0, 1]")
    if images.dtype != np.uint8 and not (images.min() >= 0 and images.max() <= 1):  # also refuses NaN
        raise InputError(
            f"{where} has values from {images.min():g} to {images.max():g}; floating point must be in [0, 1]"
        )
    if labels is not None and (labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer)):
        raise InputError(
            f"{path}: `{prefix}labels` has shape {labels.shape} ({labels.dtype}); must be ({len(images)},), integers"
        )
    pixels = torch.from_numpy(np.ascontiguousarray(images if images.dtype == np.uint8 else images.astype(np.float32)))
    return Split(
        pixels if pixels.ndim == 4 else pixels.unsqueeze(1),
        None if labels is None else torch.from_numpy(labels.astype(np.int64)),
    )
