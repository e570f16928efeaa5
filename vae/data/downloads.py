"""Archives of a data set: verified by md5, and downloaded where they are missing, each of them whole or not at all."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vae.data.dataset import one_line
from vae.data.places import NotWritableError, locked
from vae.errors import InputError
from vae.files import PARTIAL


@dataclass(frozen=True)
class Archive:
    """An archive: its place, its md5, and addresses that have it, looked up when it is missing."""

    path: Path
    md5: str
    addresses: Callable[[], Sequence[str]]

    def read(self) -> bytes:
        """Return its bytes; raises `InputError` for others than the original's."""
        content = self.path.read_bytes()
        self._compare(hashlib.md5(content, usedforsecurity=False).hexdigest())
        return content

    def verify(self) -> None:
        """Raise `InputError` if its bytes are others than the original's."""
        with self.path.open("rb") as stream:
            self._compare(hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest())

    def _compare(self, found: str) -> None:
        if found != self.md5:
            size = self.path.stat().st_size
            raise InputError(
                f"{self.path}: damaged or not the original: md5 {found}, must be {self.md5} ({size} bytes); "
                "restore it (git checkout), or delete it to have it downloaded"
            )


def fetch(name: str, root: Path, archives: Sequence[Archive]) -> None:
    """Download the archives of the data set `name` that are missing; raises `InputError`."""
    if all(archive.path.exists() for archive in archives):
        return
    folder, partial = archives[0].path.parent, root / (PARTIAL + name)
    files = ", ".join(archive.path.name for archive in archives)
    hint = f"put the original archives there ({files}), or set data.root"
    try:
        with locked(root):
            shutil.rmtree(partial, ignore_errors=True)  # of a start that was killed
            try:
                for archive in archives:
                    if not archive.path.exists():  # another process may have done it while we waited
                        _download(archive, partial)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except NotWritableError as error:
        problem = f"holds no {name}, and cannot be written ({error.reason})"
        raise InputError(f"data.root = {str(root)!r}: {problem}; {hint}") from None
    except (OSError, RuntimeError) as error:
        missing = f"a file is missing in {folder}, and downloading it failed"
        raise InputError(f"data.name = {name!r}: {missing} ({one_line(error)}); {hint}") from None


def _download(archive: Archive, partial: Path) -> None:
    """Download one archive into a folder, and put it into its place; raises the last address's OSError."""
    from torchvision.datasets.utils import download_url  # here: it takes half a second, and brings torch's compiler

    *others, last = archive.addresses()
    for address in (*others, last):
        try:
            download_url(address, partial, archive.path.name, archive.md5)
            break
        except (OSError, RuntimeError):
            if address == last:
                raise
    archive.path.parent.mkdir(parents=True, exist_ok=True)
    (partial / archive.path.name).replace(archive.path)
