"""Data sets of torchvision: verified, unpacked once, safe for many processes.

Only fetching and unpacking are left to torchvision: to import it brings torch's compiler, and takes half a second.
"""

import contextlib
import gzip
import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from filelock import FileLock, Timeout

from vae.data import idx
from vae.data.dataset import DataSet, Split, one_line
from vae.data.reading import Reading
from vae.errors import InputError

FETCHED = ("MNIST", "FashionMNIST", "KMNIST", "EMNIST")  # into data.root, if they are not there
LOCK_TIMEOUT = 1800  # seconds to wait for another process that downloads or unpacks
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
EMNIST_FILES = tuple(f"emnist-balanced-{file.replace('t10k', 'test')}" for file in FILES)
MD5 = {  # of the archive of each file, as torchvision checks them
    "MNIST": (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
    "FashionMNIST": (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
    "KMNIST": (
        "bdb82020997e1d708af4cf47b453dcf7",
        "e144d726b3acfaa3e44228e80efcd344",
        "5c965bf0a639b31b8f53240b1b52f4d7",
        "7320c461ea6c1c855c0b718fb2a4b134",
    ),
}
CLASS_NAMES = {
    "FashionMNIST": [
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ],
    "KMNIST": ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"],
    "EMNIST": list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"),  # balanced: letters of one shape are one class
}


def read_mnist(name: str, reading: Reading) -> DataSet:
    """Return MNIST, FashionMNIST or KMNIST, four gzip archives each; raises `InputError`."""
    root, folder = reading.root, reading.root / name / "raw"
    archives = {folder / f"{file}.gz": md5 for file, md5 in zip(FILES, MD5[name], strict=True)}
    if not _is_unpacked(archives):
        with _locked(root):
            if not _is_unpacked(archives):  # another process may have done it while we waited
                _unpack(archives, lambda: getattr(_datasets(), name)(root, download=True))
    return _from_files(name, folder, FILES)


def read_emnist(name: str, reading: Reading) -> DataSet:
    """Return EMNIST balanced (47 classes), turned upright: the files hold each image transposed."""
    root, folder = reading.root, reading.root / name / "raw"
    if not all((folder / file).exists() for file in EMNIST_FILES):
        with _locked(root):
            _download(root / name, lambda: _datasets().EMNIST(root, split="balanced", download=True))
    data = _from_files(name, folder, EMNIST_FILES)
    upright = {
        part: replace(split, images=split.images.transpose(-1, -2).contiguous())
        for part, split in {"train": data.train, "test": data.test}.items()
    }
    return replace(data, **upright)


def _datasets() -> ModuleType:
    """Return `torchvision.datasets`, imported where it is needed."""
    from torchvision import datasets

    return datasets


def _from_files(name: str, folder: Path, files: Sequence[str]) -> DataSet:
    """Return the data set whose images and labels, for training and testing, are in four IDX files."""
    try:
        arrays = [idx.read(folder / file, dimensions) for file, dimensions in zip(files, (3, 1, 3, 1), strict=True)]
    except (OSError, ValueError) as error:
        raise InputError(f"data.name={name}: the unpacked files cannot be read ({one_line(error)})") from None
    train, test = (Split(images.unsqueeze(1), labels.long()) for images, labels in (arrays[:2], arrays[2:]))
    return DataSet(name, train, test, class_names=CLASS_NAMES.get(name))


def _is_unpacked(archives: dict[Path, str]) -> bool:
    """Return whether every archive is intact and its unpacked file matches it; refuses one with the wrong md5."""
    for archive, md5 in archives.items():
        if archive.exists() and (found := _md5_of(archive)) != md5:
            raise InputError(
                f"{archive}: damaged or not the original: md5 {found}, must be {md5} ({archive.stat().st_size} bytes); "
                "restore it (git checkout), or delete it to have it downloaded"
            )
    return all(_matches(archive.with_suffix(""), archive) for archive in archives)


def _md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _matches(unpacked: Path, archive: Path) -> bool:
    """Return whether an unpacked file has the length and CRC-32 that end its gzip archive (RFC 1952, section 2.3.1)."""
    if not unpacked.exists():
        return False
    if not archive.exists():  # somebody keeps the unpacked files only; the reader checks their size
        return True
    crc, size = struct.unpack("<II", archive.read_bytes()[-8:])
    return unpacked.stat().st_size == size and zlib.crc32(unpacked.read_bytes()) == crc


def _unpack(archives: dict[Path, str], download: Callable[[], object]) -> None:
    """Let torchvision fetch what is missing and unpack; files of an unpacking that was cut short are removed first."""
    for archive in archives:
        unpacked = archive.with_suffix("")
        if unpacked.exists() and not _matches(unpacked, archive):
            unpacked.unlink()
    _download(next(iter(archives)).parent, download)


def _download(folder: Path, download: Callable[[], object]) -> None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its progress bar is on stderr and stays
            download()
    except (OSError, RuntimeError, EOFError, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        for left_empty in (folder, folder.parent):
            with contextlib.suppress(OSError):
                left_empty.rmdir()
        missing = "a file is missing or cannot be unpacked, and downloading it failed"
        raise InputError(
            f"{folder}: {missing} ({one_line(error)}); put the original archives there, or set data.root"
        ) from None


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold a lock on the data folder, so that processes and jobs that start together unpack once."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / ".lock")
        lock.acquire(timeout=LOCK_TIMEOUT)
    except Timeout:
        hint = f"another process has held {root / '.lock'} for {LOCK_TIMEOUT // 60} minutes"
        raise InputError(f"data.root = {str(root)!r}: {hint}; end it, or delete that file if there is none") from None
    except OSError as error:
        raise InputError(f"data.root = {str(root)!r}: cannot be written ({error.strerror}); set data.root") from None
    try:
        yield
    finally:
        lock.release()
