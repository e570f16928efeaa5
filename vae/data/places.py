"""Places of data sets: the folder of `data.root`, and locks on folders; what fails leaves no folder behind."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from vae.errors import InputError
from vae.files import expanded, make_folder, remove_empty

PROJECT = Path(__file__).resolve().parents[2]
USERS_CACHE = "~/.cache/vae"
FORMER_DEFAULT = "data"  # `data.root` of runs that older versions saved
LOCK = ".lock"
LOCK_TIMEOUT = 1800  # seconds to wait for another process that downloads or reads


class NotWritableError(InputError):
    """A folder that is to receive files cannot be written.

    Args:
        folder: that folder.
        error: of the operating system.
    """

    def __init__(self, folder: Path, error: OSError):
        super().__init__(f"{folder}: cannot be written ({error.strerror})")
        self.reason = error.strerror


def users_cache() -> Path | None:
    """Return ~/.cache/vae; None for a user without a home."""
    try:
        return Path(USERS_CACHE).expanduser()
    except RuntimeError:
        return None


def root_of(root: str | None, name: str) -> Path:
    """Return the folder that holds (or receives) the data set called `name`.

    Args:
        root: `data.root`; None: the project's own `data/`, or ~/.cache/vae where the package is installed without the
            project. Older versions saved `data` for that folder, and meant it so where ./data has no such data set.
        name: `data.name`.
    """
    own = PROJECT / "data" if (PROJECT / "train_ddp.py").is_file() else users_cache() or Path("data")
    if root is None:
        return own
    given = expanded(root)
    is_elsewhere = root == FORMER_DEFAULT and not (given / name).is_dir() and (own / name).is_dir()
    return own if is_elsewhere else given


@contextlib.contextmanager
def locked(folder: Path, name: str = LOCK) -> Iterator[None]:
    """Hold a lock in a folder, which is made if need be, so that of processes that start together one does the work.

    The lock's file goes afterwards: who has waited for it finds the work done, and so does who makes it anew. After a
    failure folders that were made for it go, too.

    Raises:
        NotWritableError: the folder cannot be written.
        InputError: another process has held the lock for too long.
    """
    lock, made = FileLock(folder / name), []
    while not lock.is_locked:
        made = _make_and_acquire(lock, folder) or made
    try:
        try:
            yield
        finally:
            (folder / name).unlink(missing_ok=True)
            lock.release()
    except BaseException:
        remove_empty(made)
        raise


def _make_and_acquire(lock: FileLock, folder: Path) -> list[Path]:
    """Make a folder and acquire its lock, unless another process removes it meanwhile; returns what was made."""
    made = []
    try:
        made = make_folder(folder)
        with contextlib.suppress(FileNotFoundError):
            lock.acquire(timeout=LOCK_TIMEOUT)
    except Timeout:
        hint = f"another process has held it for {LOCK_TIMEOUT // 60} minutes"
        raise InputError(f"{lock.lock_file}: {hint}; end it, or delete that file if there is none") from None
    except OSError as error:
        remove_empty(made)
        raise NotWritableError(folder, error) from None
    return made
