"""Data sets with a reader or a list of files in torchvision, which takes half a second to import."""

import io
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vae.data.cache import Arrays, cached, key_of
from vae.data.dataset import DataSet, Split, one_line
from vae.data.decoding import Picture, decode
from vae.data.downloads import Archive, fetch
from vae.data.places import NotWritableError, locked
from vae.data.reading import Reading, using
from vae.errors import InputError

CELEBA_SIZE = (218, 178)


def read_cifar(name: str, reading: Reading) -> DataSet:
    """Return CIFAR10 or CIFAR100 (its fine labels), from the batches or the archive; raises `InputError`."""
    from torchvision import datasets

    kind = getattr(datasets, name)
    try:
        train, test = _batches(kind, reading.root)
    except RuntimeError:  # some are missing or damaged
        train, test = _unpacked(name, kind, reading.root)
    return DataSet(name, _cifar_split(train), _cifar_split(test), class_names=list(train.classes))


def _batches(kind: Any, root: Path) -> tuple[Any, Any]:
    """Return torchvision's training and test sets, each file verified; raises RuntimeError if they are not there."""
    return kind(root, train=True), kind(root, train=False)


def _unpacked(name: str, kind: Any, root: Path) -> tuple[Any, Any]:
    """Return torchvision's sets from the archive: unpacked in the root, or where that cannot be written, for once."""
    archive = Archive(root / kind.filename, kind.tgz_md5, lambda: [kind.url])
    fetch(name, root, [archive])
    archive.verify()
    try:
        with locked(root):
            kind(root, download=True)  # does nothing where another process has unpacked it meanwhile
            return _batches(kind, root)
    except NotWritableError:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, kind.filename).symlink_to(archive.path.resolve())
            kind(folder, download=True)
            return _batches(kind, Path(folder))
    except OSError as error:
        raise InputError(f"{archive.path}: cannot be unpacked ({one_line(error)}); make room there") from None


def _cifar_split(part: Any) -> Split:
    images = np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))
    return Split(torch.from_numpy(images), torch.tensor(part.targets))


def read_svhn(name: str, reading: Reading) -> DataSet:
    """Return SVHN, cropped digits, from two MATLAB files, which are slow to read: cached; raises `InputError`."""
    from torchvision import datasets

    listed = [datasets.SVHN.split_list[part] for part in ("train", "test")]
    archives = [Archive(reading.root / file, md5, partial(list, [url])) for url, file, md5 in listed]

    def read() -> Arrays:
        parts = {part: datasets.SVHN(reading.root, split=part) for part in ("train", "test")}
        images = {part: np.ascontiguousarray(each.data) for part, each in parts.items()}
        return images | {f"{part} labels": each.labels for part, each in parts.items()}

    arrays = _cached(name, reading, archives, read)
    return DataSet(name, _labelled(arrays, "train"), _labelled(arrays, "test"))


@using("image_size")
def read_omniglot(name: str, reading: Reading) -> DataSet:
    """Return Omniglot: the background set for training, the evaluation set, of other characters, for testing.

    Classes are characters, 964 and 659 of them. The pictures are read from the two archives, once: cached.
    """
    from torchvision import datasets

    kind = datasets.Omniglot
    folder = reading.root / kind.folder
    archives = [
        Archive(folder / f"{part}.zip", md5, partial(list, [f"{kind.download_url_prefix}/{part}.zip"]))
        for part, md5 in kind.zips_md5.items()
    ]
    arrays = _cached(name, reading, archives, lambda: _omniglot(archives, reading.image_size))
    names = arrays["names"].tolist()
    return DataSet(name, _labelled(arrays, "train"), _labelled(arrays, "test"), class_names=names)


def _omniglot(archives: Sequence[Archive], image_size: int | None) -> Arrays:
    names: list[str] = []
    arrays: Arrays = {}
    for part, archive in zip(("train", "test"), archives, strict=True):
        with zipfile.ZipFile(archive.path) as packed:
            files = sorted(file for file in packed.namelist() if file.endswith(".png"))
            characters = [file.split("/", 1)[1].rpartition("/")[0] for file in files]  # alphabet/character
            pictures = [Picture(f"{archive.path}/{file}", partial(_member, packed, file)) for file in files]
            arrays[part] = decode(pictures, image_size, archive.path.stem)
        names += sorted(set(characters))
        numbers = {character: number for number, character in enumerate(names)}
        arrays[f"{part} labels"] = np.array([numbers[character] for character in characters])
    return arrays | {"names": np.array(names)}


def _member(packed: zipfile.ZipFile, file: str) -> io.BytesIO:
    return io.BytesIO(packed.read(file))  # threads may do it at once


@using("image_size")
def read_celeba(name: str, reading: Reading) -> DataSet:
    """Return CelebA, aligned and cropped, in its three parts and without labels; read once: cached.

    Raises:
        InputError: it is not there (Google gives it to people, not to programs), or `data.image_size` is not given.
    """
    height, width = CELEBA_SIZE
    if reading.image_size is None:
        problem = f"pictures have {height}x{width} pixels (height x width), 24 GB in all"
        raise InputError(f"data.image_size = null: {name}'s {problem}; set it, e.g. data.image_size=64")
    places = [reading.root / f"{name}.{reading.image_size}.cache"]
    arrays = cached(places, key_of(name, reading.image_size), lambda: _celeba(name, reading))
    parts = {part: Split(torch.from_numpy(images)) for part, images in arrays.items()}
    return DataSet(name, parts["train"], parts["test"], parts["valid"])


def _celeba(name: str, reading: Reading) -> Arrays:
    from torchvision import datasets

    kind, pictures, counts = datasets.CelebA, [], {}
    folder = reading.root / kind.base_folder
    for part in ("train", "valid", "test"):
        try:
            files = kind(reading.root, split=part).filename
        except RuntimeError:
            listed = ", ".join(file for _, _, file in kind.file_list if file.endswith(".txt"))
            where = "mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
            hint = f"put {listed} and the unzipped folder img_align_celeba there (from {where})"
            raise InputError(f"{folder}: does not hold {name}'s original files; {hint}, or set data.root") from None
        paths = [folder / "img_align_celeba" / file for file in files]
        pictures += [Picture(str(path), partial(Path, path)) for path in paths]
        counts[part] = len(files)
    ends = np.cumsum(list(counts.values()))
    return dict(zip(counts, np.split(decode(pictures, reading.image_size, name), ends[:-1]), strict=True))


def _labelled(arrays: Arrays, part: str) -> Split:
    return Split(torch.from_numpy(arrays[part]), torch.from_numpy(arrays[f"{part} labels"]))


def _cached(name: str, reading: Reading, archives: Sequence[Archive], read: Callable[[], Arrays]) -> Arrays:
    """Return arrays that are made of archives, which are fetched and verified where no cache is there."""

    def fetch_and_read() -> Arrays:
        fetch(name, reading.root, archives)
        for archive in archives:
            archive.verify()
        return read()

    ending = f".{reading.image_size}.cache" if reading.image_size else ".cache"
    key = key_of(name, reading.image_size, [archive.md5 for archive in archives])
    return cached([reading.root / f"{name}{ending}"], key, fetch_and_read)
