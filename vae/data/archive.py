"""The arrays of an .npz or .npy, opened one by one as they are needed; pickled objects are never opened."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from vae.data.dataset import one_line
from vae.errors import InputError

NAMELESS = "arr_0"  # name of the first array that is saved without one, and of that of an .npy
UNREADABLE = OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}  # by version of the format


@dataclass(frozen=True)
class Header:
    """Shape and type of an array; `dtype` is None where its file says neither in a way that is known here."""

    shape: tuple[int, ...]
    dtype: np.dtype | None

    @property
    def is_numeric(self) -> bool:
        """True for truth values, integers and floating point."""
        return self.dtype is not None and self.dtype.kind in "buif"

    @property
    def is_text(self) -> bool:
        """True for strings."""
        return self.dtype is not None and self.dtype.kind in "SU"

    @property
    def is_pickled(self) -> bool:
        """True for objects, which are pickled, and for what is not known."""
        return self.dtype is None or self.dtype.hasobject

    def __str__(self) -> str:
        kind = "pickled" if self.is_pickled else "text" if self.is_text else self.dtype
        return f"{self.shape} {kind}"


class Archive:
    """The arrays of a file.

    Args:
        path: of an .npz or .npy.

    Attributes:
        headers: shape and type of each array, by its name.

    Raises:
        InputError: the file cannot be read, or is neither.
    """

    def __init__(self, path: Path):
        self.path = path
        with self._reading():
            with path.open("rb") as stream:
                self._is_single = stream.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX
            self.headers = {name: self._header(name) for name in self._names()}

    def read(self, name: str) -> np.ndarray:
        """Return an array; raises `InputError` if it is damaged or pickled."""
        if self.headers[name].is_pickled:
            way_out = "save it as a plain array of numbers or text"
            raise InputError(f"{self.where(name)} holds pickled objects, which are never opened; {way_out}")
        with self._reading(), self._open(name) as stream:
            return npy.read_array(stream, allow_pickle=False)

    def where(self, name: str) -> str:
        """Return how a message calls an array."""
        return f"{self.path}" if self._is_single else f"{self.path}: `{name}`"

    def contents(self) -> str:
        """Return a list of the arrays with their shapes and types."""
        return ", ".join(f"{name} {header}" for name, header in self.headers.items()) or "nothing"

    def _names(self) -> list[str]:
        if self._is_single:
            return [NAMELESS]
        with zipfile.ZipFile(self.path) as file:
            return [name.removesuffix(".npy") for name in file.namelist() if name.endswith(".npy")]

    def _header(self, name: str) -> Header:
        with self._open(name) as stream:
            version = npy.read_magic(stream)
            if version not in HEADERS:
                return Header((), None)
            shape, _, dtype = HEADERS[version](stream)
        return Header(shape, dtype)

    @contextmanager
    def _open(self, name: str) -> Iterator[BinaryIO]:
        if self._is_single:
            with self.path.open("rb") as stream:
                yield stream
        else:
            with zipfile.ZipFile(self.path) as file, file.open(f"{name}.npy") as member:
                yield member  # type: ignore[misc]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except UNREADABLE as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
            raise InputError(f"{self.path}: not a readable .npz or .npy ({reason})") from None
