"""Files written whole: a crash leaves the old contents or the new. Imports no torch."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from vae.errors import InputError

PARTIAL = ".partial-"  # begins the name of a file or folder that is not whole yet


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a partial file to write, and rename it to `path` afterwards, whole or not at all."""
    partial = path.with_name(PARTIAL + path.name)
    try:
        yield partial
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def expanded(path: str | Path) -> Path:
    """Return a path with a home folder in the place of `~`; raises `InputError` if nobody has that one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{path}: there is no such home folder; give the whole path") from None


def write_text(path: Path, text: str) -> None:
    """Replace a file's contents whole, see `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def make_folder(folder: Path) -> list[Path]:
    """Make a folder with its parents, and return those that were made, the outermost last; raises OSError."""
    missing, present = [], folder
    while not present.exists():
        missing.append(present)
        present = present.parent
    made: list[Path] = []
    try:
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
            made.insert(0, each)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError:
        remove_empty(made)
        raise
    return made


def remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, as far as they are empty."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def sync(path: Path) -> None:
    """Force a file or folder to the disk, so that the rename cannot overtake its contents."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno == errno.EINVAL):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)
