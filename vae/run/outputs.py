"""Files that a command leaves, written whole."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vae.errors import InputError
from vae.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_file(path: Path, write: Callable[[Path], Any]) -> Path:
    """Write a file whole and return its path; folders on the way are made.

    Args:
        path: of the file.
        write: is called with the path of a partial file, which then takes the place of `path`.

    Raises:
        InputError: the file or its folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            write(partial)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def must_be_writable(folder: Path) -> None:
    """Raise `InputError` now rather than after minutes of work, if a folder cannot be made or written."""
    save_file(folder / ".writable", Path.touch).unlink()


def save_text(path: Path, text: str) -> Path:
    """Write a text file and return its path; raises `InputError`."""
    return save_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write an .npz and return its path; raises `InputError`."""

    def write(partial: Path) -> None:
        with partial.open("wb") as file:  # given a name, NumPy would add a suffix
            np.savez(file, allow_pickle=False, **arrays)

    return save_file(path, write)


def save_figure(path: Path, figure: "Figure") -> Path:
    """Write a picture as .png and return its path; raises `InputError`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # heavy, and most commands write no picture

    return save_file(path, FigureCanvasAgg(figure).print_png)  # `savefig` would lay everything out twice
