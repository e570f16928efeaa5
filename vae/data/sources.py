"""The sources of data sets, by name or by the ending of a path."""

from collections.abc import Callable
from pathlib import Path

from vae.components import nearest
from vae.data.arrays import read_arrays
from vae.data.dataset import DataSet
from vae.data.mnist import read_emnist, read_mnist
from vae.data.reading import Reading, Source, settings_of
from vae.errors import InputError

# `data.name`, or the ending of a path -> the function that reads it
SOURCES: dict[str, Callable[[str, Reading], DataSet]] = {
    "MNIST": read_mnist,
    "FashionMNIST": read_mnist,
    "KMNIST": read_mnist,
    "QMNIST": read_mnist,
    "EMNIST": read_emnist,
    ".npz": read_arrays,
    ".npy": read_arrays,
}

FETCHED = {  # those that are downloaded -> what data.root holds where they are there
    "MNIST": "MNIST/raw/*",
    "FashionMNIST": "FashionMNIST/raw/*",
    "KMNIST": "KMNIST/raw/*",
    "QMNIST": "QMNIST/raw/*",
    "EMNIST": "EMNIST/raw/*",
}


def load(name: str, reading: Reading | str | Path) -> DataSet:
    """Return the data set called `name`.

    Args:
        name: a name of `SOURCES`, or a path that ends as one of them does.
        reading: how it is read; or the folder `root` alone.

    Raises:
        InputError: a missing, altered or unusable file, an unknown name, or a setting that means nothing for it.
    """
    source = source_of(name)
    if not isinstance(reading, Reading):
        reading = Reading(Path(reading).expanduser())
    reading.refuse_others(name, settings_of(source))
    return source(name, reading)


def source_of(name: str) -> Source:
    """Return the function that reads the data set called `name`; raises `InputError` for an unknown name."""
    endings = [key for key in SOURCES if key.startswith(".") and name.endswith(key)]
    if name in SOURCES or endings:
        return SOURCES[name if name in SOURCES else endings[0]]
    known = [f"path/to/file{key}" if key.startswith(".") else key for key in SOURCES]
    raise InputError(f"data.name = {name!r}: no such data set{nearest(name, known)}; known: {', '.join(known)}")
