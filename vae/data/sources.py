"""Reading a data set: one of torchvision's (verified, unpacked once, safe for many processes) or an `.npz` file."""

import contextlib
import gzip
import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from vae.components import nearest
from vae.data import idx, randomness
from vae.errors import InputError

HIDDEN = -1  # the label of an image that has none
LOCK_TIMEOUT = 1800  # seconds to wait for another process that downloads or unpacks


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W), uint8 or float32 in [0, 1], and labels (N,), int64, where there are any (-1: hidden)."""

    images: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def fingerprint(self) -> str:
        """The CRC-32 of the pixels."""
        return f"{zlib.crc32(np.ascontiguousarray(self.images.numpy()).data):08x}"

    @cached_property
    def levels(self) -> int | None:
        """Values that pixels may have: 2 (0 and 1), 256 (8 bits, also if divided by 255), None: any in [0, 1]."""
        scaled = self.images if self.images.dtype == torch.uint8 else 255 * self.images
        if bool(((scaled == 0) | (scaled == 255)).all()):
            return 2
        is_whole = scaled.dtype == torch.uint8 or bool(((scaled - scaled.round()).abs() < 1e-3).all())
        return 256 if is_whole else None

    @cached_property
    def hides_labels(self) -> bool:
        """Whether some images have no label."""
        return self.labels is None or bool((self.labels == HIDDEN).any())

    def binarize(self, seed: int, name: str) -> "Split":
        """Return the images with 0/1 pixels, drawn with the seed for the part called `name`."""
        return replace(self, images=randomness.binarize(self.images, seed, f"binarize/{name}"))

    def __getitem__(self, index: Tensor) -> "Split":
        return Split(self.images[index], None if self.labels is None else self.labels[index])


@dataclass(frozen=True)
class DataSet:
    """A named data set; `val` is a part held out of the training set, if any."""

    name: str
    train: Split
    test: Split
    val: Split | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, C, H, W = self.train.images.shape
        return C, H, W

    @property
    def classes(self) -> int:
        """How many there are, numbered from 0; 0 without labels."""
        labels = [part.labels for part in (self.train, self.val, self.test) if part is not None]
        return 1 + max((int(each.max()) for each in labels if each is not None), default=-1)

    @cached_property
    def fingerprint(self) -> str:
        """A checksum of all pixels, to notice that a run is continued on other data."""
        parts = [part.fingerprint for part in (self.train, self.val, self.test) if part is not None]
        return f"{zlib.crc32(' '.join(parts).encode()):08x}"

    def hold_out(self, val_size: int) -> "DataSet":
        """Return the data set with the last `val_size` examples of a fixed permutation of the training set held out.

        The permutation is the same for every seed, so that runs are compared on the same validation set.

        Raises:
            InputError: nothing would be left to train on.
        """
        count = len(self.train)
        if not val_size:
            return self
        if val_size >= count:
            raise InputError(f"data.val_size = {val_size}: must be smaller than the training set ({count} examples)")
        order = randomness.permutation(count, 0, "validation")
        kept, held_out = order[:-val_size].sort().values, order[-val_size:]
        return replace(self, train=self.train[kept], val=self.train[held_out])

    def hide_labels(self, labelled: int, repeats: int, seed: int) -> "DataSet":
        """Return the data set with the labels of all but a few training images gone.

        These are as many of each class, the first ones of a permutation, whatever the labels further on may be. They
        stand behind the others once more for each repeat, so that they are a larger share of an epoch.

        Args:
            labelled: how many images keep theirs.
            repeats: how often an epoch has each of these.
            seed: of the permutation.

        Raises:
            InputError: there are no labels, or not so many of each class.
        """
        labels, key = self.train.labels, f"data.labelled = {labelled}"
        if labels is None:
            raise InputError(f"{key}: {self.name} has no labels to keep; use 0")
        each, rest = divmod(labelled, self.classes)
        fewest = int(labels.bincount(minlength=self.classes).min())
        if rest or each > fewest:
            wanted = f"a multiple of the {self.classes} classes, at most {self.classes * fewest}"
            raise InputError(f"{key}: must be {wanted} (the smallest class has {fewest} images for training)")
        order = randomness.permutation(len(labels), seed, "labelled")
        kept = torch.cat([order[labels[order] == label][:each] for label in range(self.classes)])
        known = torch.full_like(labels, HIDDEN).index_copy(0, kept, labels[kept])
        epoch = torch.cat([torch.arange(len(labels)), kept.sort().values.repeat(repeats - 1)])
        return replace(self, train=replace(self.train, labels=known)[epoch])

    def binarize_evaluation(self, seed: int) -> "DataSet":
        """Return the data set with one fixed draw of 0/1 pixels for validation and test."""
        val = self.val.binarize(seed, "val") if self.val else None
        return replace(self, val=val, test=self.test.binarize(seed, "test"))

    def binarize_training(self, seed: int) -> "DataSet":
        """Return the data set with the 0/1 pixels that a static run trains on, and a dynamic run in its first epoch."""
        return replace(self, train=self.train.binarize(seed, "train"))


def load(name: str, root: str | Path) -> DataSet:
    """Return the data set called `name`.

    Args:
        name: `MNIST`, `FashionMNIST`, `KMNIST`, `EMNIST` (its `balanced` split), or the path of an `.npz` with `images`
            (N, H, W) or (N, C, H, W), uint8 or floating point in [0, 1], optional `labels` (N,), and optional
            `test_images`, `test_labels`; without them the last tenth of a fixed permutation is the test set.
        root: the folder that holds (or receives) torchvision's data sets.

    Raises:
        InputError: a missing, altered or unusable file, or an unknown name.
    """
    if name in READERS:
        return READERS[name](name, Path(root).expanduser())
    if name.endswith(".npz"):
        return _read_npz(Path(name).expanduser())
    known = [*READERS, "path/to/file.npz"]
    raise InputError(f"data.name = {name!r}: no such data set{nearest(name, known)}; known: {', '.join(known)}")


# --- torchvision's ----------------------------------------------------------------------------------------------------
# Only fetching and unpacking are left to torchvision: importing it brings torch's compiler, and takes half a second.

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


def _read_mnist(name: str, root: Path) -> DataSet:
    """Read MNIST, FashionMNIST or KMNIST: four gzip archives each."""
    folder = root / name / "raw"
    archives = {folder / f"{file}.gz": md5 for file, md5 in zip(FILES, MD5[name], strict=True)}
    if not _is_unpacked(archives):
        with _locked(root):
            if not _is_unpacked(archives):  # another process may have done it while we waited
                _unpack(archives, lambda: getattr(_datasets(), name)(root, download=True))
    return _from_files(name, folder, FILES)


def _read_emnist(name: str, root: Path) -> DataSet:
    """Read EMNIST balanced (47 classes), turned upright: the files hold each image transposed."""
    folder = root / name / "raw"
    if not all((folder / file).exists() for file in EMNIST_FILES):
        with _locked(root):
            _download(root / name, lambda: _datasets().EMNIST(root, split="balanced", download=True))
    data = _from_files(name, folder, EMNIST_FILES)
    upright = {
        part: replace(split, images=split.images.transpose(-1, -2).contiguous())
        for part, split in {"train": data.train, "test": data.test}.items()
    }
    return replace(data, **upright)


READERS: dict[str, Callable[[str, Path], DataSet]] = {
    "MNIST": _read_mnist,
    "FashionMNIST": _read_mnist,
    "KMNIST": _read_mnist,
    "EMNIST": _read_emnist,
}


def class_names(name: str) -> list[str] | None:
    """Return the names of the classes of the data set called `name`, where they are others than its labels."""
    if name not in ("FashionMNIST", "KMNIST", "EMNIST"):
        return None
    source = getattr(_datasets(), name)
    return source.classes_split_dict["balanced"] if name == "EMNIST" else source.classes


def _datasets() -> ModuleType:
    """Return `torchvision.datasets`, imported where it is needed."""
    from torchvision import datasets

    return datasets


def _from_files(name: str, folder: Path, files: Sequence[str]) -> DataSet:
    """Return the data set whose images and labels, for training and testing, are in four IDX files."""
    try:
        arrays = [idx.read(folder / file, dimensions) for file, dimensions in zip(files, (3, 1, 3, 1), strict=True)]
    except (OSError, ValueError) as error:
        raise InputError(f"data.name={name}: the unpacked files cannot be read ({_one_line(error)})") from None
    train, test = (Split(images.unsqueeze(1), labels.long()) for images, labels in (arrays[:2], arrays[2:]))
    return DataSet(name, train, test)


def _is_unpacked(archives: dict[Path, str]) -> bool:
    """Whether every archive is intact and its unpacked file matches it; refuses an archive with the wrong md5."""
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
    """Whether the unpacked file has the length and CRC-32 that end the gzip archive (RFC 1952, section 2.3.1)."""
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
            f"{folder}: {missing} ({_one_line(error)}); put the original archives there, or set data.root"
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


# --- npz --------------------------------------------------------------------------------------------------------------


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
        reason = error.strerror if isinstance(error, OSError) and error.strerror else _one_line(error)
        raise InputError(f"{path}: not a readable .npz of plain arrays ({reason})") from None
    if "images" not in arrays:
        found = ", ".join(arrays) or "nothing"
        raise InputError(f"{path}: holds {found}; must hold `images` (N, H, W) or (N, C, H, W) and may hold `labels`")
    return arrays


def _read_npz(path: Path) -> DataSet:
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


def _one_line(error: BaseException) -> str:
    return " ".join(f"{error}".split()) or type(error).__name__
