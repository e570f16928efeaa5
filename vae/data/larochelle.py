"""MNIST with one fixed draw of 0/1 pixels, the text files of Larochelle & Murray 2011, read where a user has them."""

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from vae.data.dataset import DataSet, Split, one_line
from vae.data.reading import Reading
from vae.errors import InputError

KEY = "data.binarize = 'larochelle'"
FILES = {
    "train": "binarized_mnist_train.amat",
    "val": "binarized_mnist_valid.amat",
    "test": "binarized_mnist_test.amat",
}
LINES = {"train": 50_000, "val": 10_000, "test": 10_000}  # one image each
SIDE = 28
SHA256 = {  # as TensorFlow Datasets checks the downloads
    "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "val": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}
DEPTH = 2  # of the subfolders of `data.root` that are looked into
SHOWN_FOLDERS = 8  # in a message
SHOWN_LETTERS = 12  # of a word that is no pixel
DAMAGES = (OSError, EOFError, zlib.error)
SPACE, BREAK, ZERO = b" \n0"
VALUES = {b"0", b"1"}


def read_larochelle(name: str, reading: Reading) -> DataSet:
    """Return MNIST as Larochelle & Murray drew it, 50,000 + 10,000 + 10,000 images, no labels; raises `InputError`."""
    folder = _find(reading.root)
    images = {part: _read(_path(folder, part), LINES[part]) for part in FILES}
    is_theirs = all(_sha256(images[part]) == SHA256[part] for part in FILES)
    train, val, test = (Split(torch.from_numpy(255 * array)) for array in images.values())
    draw = "Larochelle & Murray's draw" if is_theirs else "a draw other than Larochelle & Murray's"
    remark = "the published pixels" if is_theirs else "not the published pixels (their sha256 differ)"
    return DataSet(name, train, test, val, draw=draw, remarks=(f"{folder / 'binarized_mnist_*.amat'}: {remark}",))


def _find(root: Path) -> Path:
    """Return the first folder that holds the three files, `root` or one below it; raises `InputError`."""
    folders = list(_folders(root))
    there = {folder: [part for part in FILES if _path(folder, part).is_file()] for folder in folders}
    if whole := next((folder for folder in folders if len(there[folder]) == len(FILES)), None):
        return whole
    if some := next((folder for folder in folders if there[folder]), None):
        missing = " and ".join(file for part, file in FILES.items() if part not in there[some])
        raise InputError(f"{KEY}: {some} holds {FILES[there[some][0]]}, but not {missing} (or .gz)")
    shown = [str(folder) for folder in folders[:SHOWN_FOLDERS]]
    more = [f"{len(folders) - SHOWN_FOLDERS:,} more"] if len(folders) > SHOWN_FOLDERS else []
    raise InputError(
        f"{KEY}: no {', '.join(FILES.values())} (or .gz) in {', '.join(shown + more)}; put the three into one of these "
        "folders, or set data.root"
    )


def _folders(root: Path) -> Iterator[Path]:
    """Yield `root` and the folders below it, those nearer to it first."""
    level = [root]
    for depth in range(DEPTH + 1):
        yield from level
        if depth < DEPTH:
            level = [below for folder in level for below in _below(folder)]


def _below(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_dir())
    except OSError:  # not there, or not readable
        return []


def _path(folder: Path, part: str) -> Path:
    """Return the file of a part: as it was published, else compressed."""
    plain = folder / FILES[part]
    packed = plain.with_name(f"{plain.name}.gz")
    return packed if packed.is_file() and not plain.is_file() else plain


def _read(path: Path, count: int) -> np.ndarray:
    """Return the images of a file, (count, 1, 28, 28), uint8, 0 or 1; raises `InputError` that names file and line."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except DAMAGES as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)})") from None
    codes = np.frombuffer(content, np.uint8)
    pixels = _published_layout(codes, count)
    if pixels is None:
        pixels = _any_layout(codes, path, count)
    return pixels.reshape(count, 1, SIDE, SIDE)


def _published_layout(codes: np.ndarray, count: int) -> np.ndarray | None:
    """Return the pixels of lines `0 1 ... 0` with one space between two, (count, 784); None: they look otherwise."""
    if codes.size != count * 2 * SIDE**2:
        return None
    table = codes.reshape(count, -1)
    pixels = table[:, ::2] - np.uint8(ZERO)
    spaces, breaks = table[:, 1:-1:2], table[:, -1]
    return pixels if pixels.max() <= 1 and (spaces == SPACE).all() and (breaks == BREAK).all() else None


def _any_layout(codes: np.ndarray, path: Path, count: int) -> np.ndarray:
    """Return the pixels of lines of 784 values with any white space between them, (count, 784); raises `InputError`."""
    lines = bytes(codes).split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    pixels = np.empty((count, SIDE**2), np.uint8)
    for number, line in enumerate(lines[:count], start=1):
        words = line.split()
        if not VALUES.issuperset(words):
            wrong = next(word for word in words if word not in VALUES)
            shown = wrong[:SHOWN_LETTERS].decode("ascii", "replace")
            raise InputError(f"{path}: line {number:,}: holds {shown!r}; must be 0 or 1")
        if len(words) != SIDE**2:
            raise InputError(f"{path}: line {number:,}: {len(words):,} values; must be {SIDE**2}")
        pixels[number - 1] = np.frombuffer(b"".join(words), np.uint8) - ZERO
    if len(lines) != count:
        raise InputError(f"{path}: {len(lines):,} lines; must be {count:,}")
    return pixels


def _sha256(images: np.ndarray) -> str:
    """Return the sha256 of the file that was published, if it had these images."""
    text = np.full((len(images), 2 * SIDE**2), SPACE, np.uint8)
    text[:, ::2] = images.reshape(len(images), -1) + ZERO
    text[:, -1] = BREAK
    return hashlib.sha256(text.data, usedforsecurity=False).hexdigest()
