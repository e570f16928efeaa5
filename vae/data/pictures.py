"""A folder of pictures: flat, or a class a subfolder, or these below train, val and test."""

import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from vae.data.cache import Arrays, cached, key_of
from vae.data.dataset import DataSet, Split, held_out
from vae.data.decoding import Picture, decode, endings
from vae.data.places import users_cache
from vae.data.reading import Reading, using
from vae.errors import InputError
from vae.files import expanded

TRAIN, VALIDATION, TEST = "train", ("val", "valid", "validation"), "test"  # names of subfolders that are parts


@dataclass(frozen=True)
class Files:
    """Picture files, and the name of the class of each, or None where they have no classes."""

    paths: Sequence[Path]
    classes: Sequence[str] | None

    def __getitem__(self, numbers: Sequence[int]) -> "Files":
        classes = None if self.classes is None else [self.classes[number] for number in numbers]
        return Files([self.paths[number] for number in numbers], classes)


@using("image_size")
def read_pictures(name: str, reading: Reading) -> DataSet:
    """Return the data set of a folder of pictures.

    They are read once: a cache beside the folder, or below `data.root`, is valid for the same files and size.

    Args:
        name: the folder's path.
        reading: the size that pictures get, and `data.root`.

    Raises:
        InputError: there is no picture, one cannot be read, or their sizes differ.
    """
    folder = expanded(name).resolve()
    try:
        parts, remarks = _parts(folder, name)
        key = key_of(reading.image_size, {part: _stamps(folder, files) for part, files in parts.items()})
    except OSError as error:
        raise InputError(f"{error.filename or name}: cannot be read ({error.strerror})") from None
    arrays = cached(_places(folder, reading), key, lambda: _decode(parts, reading.image_size, name))
    names = _in_order({each for files in parts.values() for each in files.classes or ()})
    numbers = {each: number for number, each in enumerate(names)}
    splits = {part: _split(arrays[part], files, numbers) for part, files in parts.items()}
    return DataSet(folder.name, splits["train"], splits["test"], splits.get("val"), names or None, remarks)


def _in_order(names: set[str]) -> list[str]:
    """Return the names of classes in their order: that of numbers if all are, else the alphabet's."""
    return sorted(names, key=int if all(name.isdecimal() for name in names) else str)


def _split(images: np.ndarray, files: Files, numbers: dict[str, int]) -> Split:
    labels = None if files.classes is None else torch.tensor([numbers[each] for each in files.classes])
    return Split(torch.from_numpy(images), labels)


def _decode(parts: dict[str, Files], image_size: int | None, where: str) -> Arrays:
    """Return the pictures of each part; of one size, and grey only if all parts are."""
    pictures = [Picture(str(path), partial(Path, path)) for files in parts.values() for path in files.paths]
    ends = np.cumsum([len(files.paths) for files in parts.values()])
    return dict(zip(parts, np.split(decode(pictures, image_size, where), ends[:-1]), strict=True))


def _parts(folder: Path, name: str) -> tuple[dict[str, Files], tuple[str, ...]]:
    """Return the files of each part, and a remark where, without a part for testing, a fixed tenth is held out."""
    inside = {each.name.lower(): each for each in _visible(folder) if each.is_dir()}
    validation = [each for each in VALIDATION if each in inside]
    known = [each for each in (TRAIN, *validation, TEST) if each in inside]
    if TRAIN in inside and len(known) == len(inside) and len(validation) <= 1 and not _pictures_in(folder):
        found = {
            "val" if each in VALIDATION else each: _files(inside[each], str(Path(name, inside[each].name)))
            for each in known
        }
    else:
        found = {TRAIN: _files(folder, name)}
    if TEST in found:
        remarks: tuple[str, ...] = ()
    else:
        remarks = ("a tenth is held out for testing",)
        count = len(found[TRAIN].paths)
        if count < 2:
            raise InputError(f"{name}: holds a single picture; must hold 2 or more")
        kept, test = held_out(count, max(1, count // 10))
        found[TEST], found[TRAIN] = found[TRAIN][test.tolist()], found[TRAIN][kept.tolist()]
    return found, remarks


def _files(folder: Path, name: str) -> Files:
    """Return the pictures of a folder, in the order of their names; raises `InputError` if there are none."""
    here, known = _pictures_in(folder), endings()
    below = {each.name: list(_below(each, known)) for each in _visible(folder) if each.is_dir()}
    classes = {label: paths for label, paths in below.items() if paths}
    if here and classes:
        other = next(iter(classes))
        raise InputError(
            f"{name}: holds pictures ({here[0].name}, ...) beside folders of pictures ({other}, ...); "
            "must hold pictures alone, or a folder for each class"
        )
    if not here and not classes:
        wanted = "must hold files that end in .png, .jpg, .tif, ..., or a folder of them for each class"
        raise InputError(f"{name}: holds no pictures; {wanted}")
    if here:
        return Files(here, None)
    paths = [path for paths in classes.values() for path in paths]
    return Files(paths, [label for label, paths in classes.items() for _ in paths])


def _pictures_in(folder: Path) -> list[Path]:
    known = endings()
    return [each for each in _visible(folder) if each.suffix.lower() in known and each.is_file()]


def _visible(folder: Path) -> list[Path]:
    """Return what a folder holds, in the order of the names, but for hidden files and folders."""
    return sorted(each for each in folder.iterdir() if not each.name.startswith("."))


def _below(folder: Path, known: set[str]) -> Iterator[Path]:
    """Yield the pictures in a folder and in those below it, in the order of the names; raises OSError."""

    def fail(error: OSError) -> None:
        raise error

    for path, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for file in sorted(files):
            if not file.startswith(".") and Path(file).suffix.lower() in known:
                yield Path(path, file)


def _stamps(folder: Path, files: Files) -> list[tuple[str, int, int]]:
    """Return name, size and time of the last change of each file, by which a cache is valid or not."""
    found = ((path, path.stat()) for path in files.paths)
    return [(str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns) for path, stat in found]


def _places(folder: Path, reading: Reading) -> list[Path]:
    """Return where the cache may be: beside the folder, below `data.root`, in the user's cache."""
    ending = f".{reading.image_size}.cache" if reading.image_size else ".cache"
    elsewhere = f"pictures/{folder.name}-{zlib.crc32(os.fsencode(folder)):08x}{ending}"
    beside = folder.with_name(folder.name + ending) if folder.name else folder / ending
    return [beside, *(place / elsewhere for place in (reading.root, users_cache()) if place)]
