"""The sources of data sets, by name or by the ending of a path."""

from collections.abc import Callable
from pathlib import Path

from vae.components import nearest
from vae.data.arrays import read_npz
from vae.data.dataset import DataSet
from vae.data.torchvision import read_emnist, read_mnist
from vae.errors import InputError

# `data.name`, or the ending of a path -> the function that reads it, given the folder `data.root`
SOURCES: dict[str, Callable[[str, Path], DataSet]] = {
    "MNIST": read_mnist,
    "FashionMNIST": read_mnist,
    "KMNIST": read_mnist,
    "EMNIST": read_emnist,
    ".npz": read_npz,
}


def load(name: str, root: str | Path) -> DataSet:
    """Return the data set called `name`.

    Args:
        name: a name of `SOURCES`, or a path that ends as one of them does.
        root: the folder that holds (or receives) the data sets with a name.

    Raises:
        InputError: a missing, altered or unusable file, or an unknown name.
    """
    endings = [key for key in SOURCES if key.startswith(".") and name.endswith(key)]
    if name in SOURCES or endings:
        return SOURCES[name if name in SOURCES else endings[0]](name, Path(root).expanduser())
    known = [f"path/to/file{key}" if key.startswith(".") else key for key in SOURCES]
    raise InputError(f"data.name = {name!r}: no such data set{nearest(name, known)}; known: {', '.join(known)}")
