"""The sources of data sets, by name or by the kind of a path."""

from collections.abc import Callable
from pathlib import Path

from vae.components import nearest
from vae.data.arrays import read_arrays
from vae.data.dataset import DataSet
from vae.data.larochelle import read_larochelle
from vae.data.mnist import read_emnist, read_mnist
from vae.data.pictures import read_pictures
from vae.data.reading import Reading, Source, settings_of, using
from vae.data.torchvision import read_celeba, read_cifar, read_omniglot, read_svhn
from vae.errors import InputError
from vae.files import expanded


@using("binarize")
def read_either_mnist(name: str, reading: Reading) -> DataSet:
    """Return MNIST with its grey pixels, or with those of a published draw; raises `InputError`."""
    return (read_larochelle if reading.binarize == "larochelle" else read_mnist)(name, reading)


# `data.name`, or the ending of a path (of a folder a slash) -> the function that reads it
SOURCES: dict[str, Callable[[str, Reading], DataSet]] = {
    "MNIST": read_either_mnist,
    "FashionMNIST": read_mnist,
    "KMNIST": read_mnist,
    "QMNIST": read_mnist,
    "EMNIST": read_emnist,
    "CIFAR10": read_cifar,
    "CIFAR100": read_cifar,
    "SVHN": read_svhn,
    "Omniglot": read_omniglot,
    "CelebA": read_celeba,
    ".npz": read_arrays,
    ".npy": read_arrays,
    "/": read_pictures,
}

FETCHED = {  # those that are downloaded -> what data.root holds where they are there
    "MNIST": ["MNIST/raw/*"],
    "FashionMNIST": ["FashionMNIST/raw/*"],
    "KMNIST": ["KMNIST/raw/*"],
    "QMNIST": ["QMNIST/raw/*"],
    "EMNIST": ["EMNIST/raw/*"],
    "CIFAR10": ["cifar-10-*"],
    "CIFAR100": ["cifar-100-*"],
    "SVHN": ["t*_32x32.mat", "SVHN*.cache"],
    "Omniglot": ["omniglot-py/*", "Omniglot*.cache"],
}


def load(name: str, reading: Reading | str | Path) -> DataSet:
    """Return the data set called `name`.

    Args:
        name: a name of `SOURCES`, the path of a folder, or one that ends as one of them does.
        reading: how it is read; or the folder `root` alone.

    Raises:
        InputError: a missing, altered or unusable file, an unknown name, or a setting that means nothing for it.
    """
    source = source_of(name)
    if not isinstance(reading, Reading):
        reading = Reading(expanded(reading))
    reading.refuse_others(name, settings_of(source))
    return source(name, reading)


def takes(name: str, setting: str) -> bool:
    """Return true if the source of the data set called `name` has a use for a setting of `Reading`."""
    return setting in settings_of(source_of(name))


def kind_of(name: str) -> str | None:
    """Return the key of `SOURCES` for the data set called `name`: the name, a folder's slash, an ending; or None."""
    endings = [key for key in SOURCES if key.startswith(".") and name.endswith(key)]
    folder = ["/"] if expanded(name).is_dir() else []
    return next(iter([name] * (name in SOURCES) + folder + endings), None)


def source_of(name: str) -> Source:
    """Return the function that reads the data set called `name`; raises `InputError` for an unknown name."""
    if kind := kind_of(name):
        return SOURCES[kind]
    paths = {"/": "path/to/folder/"} | {key: f"path/to/file{key}" for key in SOURCES if key.startswith(".")}
    known = [paths.get(key, key) for key in SOURCES]
    raise InputError(f"data.name = {name!r}: no such data set{nearest(name, known)}; known: {', '.join(known)}")
