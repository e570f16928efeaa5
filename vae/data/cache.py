"""A cache of images that take long to read: arrays in one file, valid for what they were read from."""

import contextlib
import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vae.data.places import NotWritableError, locked
from vae.files import replacing

KEY = "made of"  # the array that says what a cache is valid for
VERSION = 1  # of the reading: other versions' caches are read anew

Arrays = dict[str, np.ndarray]


def key_of(*inputs: Any) -> str:
    """Return a checksum of everything that the arrays of a cache depend on."""
    return hashlib.sha256(json.dumps([VERSION, *inputs]).encode()).hexdigest()


def cached(places: Sequence[Path], key: str, read: Callable[[], Arrays]) -> Arrays:
    """Return arrays that are read once: those of a valid cache, or what `read` returns.

    The cache is written whole and under a lock, so that of processes that start together one reads. Where no place can
    be written, each process reads.

    Args:
        places: files that may be the cache, the preferred one first.
        key: a checksum of everything that the arrays depend on.
        read: makes the arrays.

    Raises:
        InputError: as `read` raises it.
    """
    for place in places:
        if (arrays := _load(place, key)) is not None:
            return arrays
    for place in places:
        with contextlib.suppress(NotWritableError), locked(place.parent, f".{place.name}.lock"):
            return _load(place, key) or _read_and_keep(place, key, read)  # read by another process meanwhile, or by us
    return read()


def _read_and_keep(place: Path, key: str, read: Callable[[], Arrays]) -> Arrays:
    arrays = read()
    with contextlib.suppress(OSError), replacing(place) as partial, partial.open("wb") as file:  # the disk may be full
        np.savez(file, allow_pickle=False, **{KEY: np.array(key)}, **arrays)
    return arrays


def _load(place: Path, key: str) -> Arrays | None:
    """Return the arrays of a cache; None if there is none, it is damaged, or valid for something else."""
    try:
        with place.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if archive[KEY].item() != key:
                return None
            return {name: archive[name] for name in archive.files if name != KEY}
    except (OSError, ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error):
        return None
