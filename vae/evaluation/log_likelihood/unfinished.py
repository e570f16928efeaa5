"""Estimates of an evaluation that is not complete: kept in the run's folder, so that the same command continues it.

Each rank keeps the images of its own share, in a file of its own. The next attempt may have other ranks: it reads all
files, and evaluates the images that none of them holds.
"""

import contextlib
import shutil
import time
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
from vae.errors import InputError, Stopped
from vae.files import remove_empty, replacing
from vae.run.contents import UNFINISHED

SECONDS = 30.0  # between two writes of a rank: what a crash costs at most, besides the images of one pass


class Found(NamedTuple):
    """Estimates of n images: their places in the split (n,), int64, and their numbers (n, C), float64."""

    places: np.ndarray
    numbers: np.ndarray


class Unfinished:
    """Estimates of some images of one evaluation of one run (all ranks: one broadcast).

    Args:
        accelerator: the process group.
        folder: of the run.
        protocol, checkpoint: of the evaluation; another one has files of its own.

    Attributes:
        places: images that earlier attempts have evaluated, (n,), int64, sorted, the same on all ranks.
        numbers: their estimates, (n, C), float64.

    Raises:
        InputError: a file of an earlier attempt is damaged.
    """

    def __init__(
        self, accelerator: Accelerator, folder: Path, protocol: Mapping[str, Any], checkpoint: Mapping[str, str]
    ):
        key = repr((sorted(protocol.items()), sorted(checkpoint.items())))
        self._folder = folder / UNFINISHED / sha256(key.encode()).hexdigest()[:16]
        attempt, earlier = launch.on_main(accelerator, partial(_read, self._folder))
        self._file = self._folder / f"attempt-{attempt}-rank-{accelerator.process_index}.npz"
        places, first = np.unique(np.concatenate([each.places for each in earlier] or [[]]), return_index=True)
        self.places = torch.from_numpy(places.astype(np.int64))
        self.numbers = torch.from_numpy(np.concatenate([each.numbers for each in earlier] or [np.empty((0, 0))])[first])
        self._mine: list[tuple[Tensor, Tensor]] = []
        self._written = time.monotonic()

    def add(self, places: Tensor, numbers: Tensor) -> None:
        """Keep estimates of this attempt, and write them all once in `SECONDS` (one rank).

        Args:
            places: (n,), of images that were not there.
            numbers: (n, C).
        """
        self._mine.append((places, numbers))
        if time.monotonic() - self._written >= SECONDS:
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
        """Write this rank's estimates of this attempt (one rank); raises `InputError` where they cannot be written."""
        if not self._mine:
            return
        found = Found(*(torch.cat(each).cpu().numpy() for each in zip(*self._mine, strict=True)))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._file) as whole, whole.open("wb") as file:
                np.savez(file, allow_pickle=False, **found._asdict())
        except OSError as error:
            raise InputError(f"{self._file}: cannot be written: {error.strerror}") from None
        self._written = time.monotonic()

    def remove(self) -> None:
        """Remove the files of all attempts (one rank, or several at once)."""
        shutil.rmtree(self._folder, ignore_errors=True)
        remove_empty([self._folder.parent])


def _read(folder: Path) -> tuple[int, list[Found]]:
    """Return the number of the next attempt, and what the earlier ones have found."""
    files = sorted(folder.glob("attempt-*-rank-*.npz"))
    attempts = [int(file.name.split("-")[1]) for file in files]
    return max(attempts, default=-1) + 1, [_found_in(file) for file in files]


def _found_in(file: Path) -> Found:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = Found(arrays["places"], arrays["numbers"])
        if found.places.shape != found.numbers.shape[:1] or found.places.dtype != np.int64:
            raise ValueError
    except (OSError, ValueError, KeyError, BadZipFile, EOFError):
        raise InputError(f"{file}: damaged; delete it, and the same command evaluates its images again") from None
    return found
