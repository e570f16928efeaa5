"""Estimates of an evaluation that is not complete: kept in the run's folder, so that the same command continues it.

Each rank keeps the images of its own share, in a file of its own. The next attempt may have other ranks: it reads all
files, and evaluates the images that none of them holds.
"""

import contextlib
import shutil
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from vae.distributed import launch
from vae.errors import InputError, OneLineWarning, Stopped
from vae.files import remove_empty
from vae.run.contents import UNFINISHED
from vae.run.outputs import save_arrays
from vae.run.versions import versions

SECONDS = 30.0  # between two writes of a rank


class Found(NamedTuple):
    """Estimates of n images: their places in the split (n,), int64, and their numbers (n, C), float64."""

    places: np.ndarray
    numbers: np.ndarray


class UnfinishedEvaluation:
    """Estimates of some images of one evaluation of one run (all ranks: one broadcast).

    Args:
        accelerator: the process group.
        folder: of the run, or that of the output; None: nothing is known from before, and nothing is kept.
        columns: names of the C numbers of an image.
        protocol, checkpoint: of the evaluation. An evaluation that differs in one of these, in the columns or in the
            versions of packages and plugins has files of its own.

    Attributes:
        places: images that earlier attempts have evaluated, (n,), int64, sorted, the same on all ranks.
        numbers: their estimates, (n, C), float64.

    Raises:
        InputError: a file of an earlier attempt is damaged.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        folder: Path | None,
        columns: tuple[str, ...],
        protocol: Mapping[str, Any],
        checkpoint: Mapping[str, str],
    ):
        key = repr([columns, *(sorted(each.items()) for each in (protocol, checkpoint, versions()))])
        self._folder = None if folder is None else folder / UNFINISHED / sha256(key.encode()).hexdigest()[:16]
        self._name = f"{uuid.uuid4().hex}.npz"  # another command may evaluate the same at the same time
        known = launch.on_main(accelerator, partial(_read, self._folder, len(columns)))
        places, first = np.unique(known.places, return_index=True)
        self.places, self.numbers = torch.from_numpy(places), torch.from_numpy(known.numbers[first])
        self._mine: list[tuple[Tensor, Tensor]] = []
        self._tried = time.monotonic()

    def add(self, places: Tensor, numbers: Tensor) -> None:
        """Keep estimates of this attempt, and write them all once in `SECONDS` (one rank).

        Args:
            places: (n,), of images that were not there.
            numbers: (n, C).
        """
        self._mine.append((places, numbers))
        if time.monotonic() - self._tried >= SECONDS:
            self.write()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Write what has been added if a signal stops the program meanwhile."""
        try:
            yield
        except Stopped:
            self.write()
            raise

    def write(self) -> None:
        """Write this rank's estimates of this attempt (one rank); where that fails, warn: the evaluation goes on."""
        if self._folder is None or not self._mine:
            return
        found = Found(*(torch.cat(each).cpu().numpy() for each in zip(*self._mine, strict=True)))
        try:
            save_arrays(self._folder / self._name, found._asdict())
        except InputError as error:
            warnings.warn(f"{error}; a stop would lose what it was to hold", OneLineWarning, stacklevel=2)
        self._tried = time.monotonic()

    def remove(self) -> None:
        """Remove the files of all attempts (one rank, or several at once)."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            remove_empty([self._folder.parent])


def _read(folder: Path | None, columns: int) -> Found:
    """Return the estimates in all files of a folder, if there is one."""
    nothing = Found(np.empty(0, np.int64), np.empty((0, columns)))
    files = [] if folder is None else sorted(folder.glob("[!.]*.npz"))
    each = [nothing, *(_found_in(file, columns) for file in files)]
    return Found(*(np.concatenate(arrays) for arrays in zip(*each, strict=True)))


def _found_in(file: Path, columns: int) -> Found:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = Found(arrays["places"], arrays["numbers"])
        if found.places.dtype != np.int64 or found.numbers.shape != (len(found.places), columns):
            raise ValueError
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, BadZipFile, EOFError):
        raise InputError(f"{file}: damaged; delete it, and the same command evaluates its images again") from None
    return found
