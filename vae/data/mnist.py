"""MNIST and its kin, read from their archives: nothing is unpacked, so that the folder need not be writable."""

import contextlib
import gzip
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from types import ModuleType

from torch import Tensor

from vae.data import idx
from vae.data.dataset import DataSet, Split, one_line
from vae.data.downloads import Archive, fetch
from vae.data.reading import Reading
from vae.errors import InputError

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
QMNIST_FILES = (
    "qmnist-train-images-idx3-ubyte",
    "qmnist-train-labels-idx2-int",
    "qmnist-test-images-idx3-ubyte",
    "qmnist-test-labels-idx2-int",
)
EMNIST_FILES = tuple(f"emnist-balanced-{file.replace('t10k', 'test')}" for file in FILES)
EMNIST_ARCHIVE, EMNIST_MD5 = "gzip.zip", "58c8d27c78d21e728a6bc7b3cc06412e"
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
    "QMNIST": (
        "ed72d4157d28c017586c42bc6afe6370",
        "0058f8dd561b90ffdd0f734c6a30e5e4",
        "1394631089c404de565df7b7aeaf9412",
        "5b5b05890a5e13444e108efe57b788aa",
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
DAMAGES = (OSError, ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile)  # of files without an md5


def read_mnist(name: str, reading: Reading) -> DataSet:
    """Return MNIST, FashionMNIST, KMNIST or QMNIST, four gzip archives each; raises `InputError`."""
    files, folder = QMNIST_FILES if name == "QMNIST" else FILES, reading.root / name / "raw"
    archives = {
        file: Archive(folder / f"{file}.gz", md5, partial(addresses, name, f"{file}.gz"))
        for file, md5 in zip(files, MD5[name], strict=True)
    }
    fetch(name, reading.root, [archive for file, archive in archives.items() if not (folder / file).exists()])
    with _naming(name):
        arrays = [
            _array(gzip.decompress(archive.read()) if archive.path.exists() else (folder / file).read_bytes(), file)
            for file, archive in archives.items()
        ]
    return _data_set(name, arrays)


def read_emnist(name: str, reading: Reading) -> DataSet:
    """Return EMNIST balanced (47 classes), turned upright: the files hold each image transposed."""
    folder = reading.root / name / "raw"
    with _naming(name):
        if all((folder / file).exists() for file in EMNIST_FILES):
            arrays = [_array((folder / file).read_bytes(), file) for file in EMNIST_FILES]
        else:
            archive = Archive(folder / EMNIST_ARCHIVE, EMNIST_MD5, lambda: [_datasets().EMNIST.url])
            fetch(name, reading.root, [archive])
            archive.verify()
            with zipfile.ZipFile(archive.path) as packed:
                arrays = [_array(gzip.decompress(packed.read(f"gzip/{file}.gz")), file) for file in EMNIST_FILES]
    upright = [array.transpose(-1, -2).contiguous() if array.dim() == 3 else array for array in arrays]
    return _data_set(name, upright)


def _datasets() -> ModuleType:
    """Return `torchvision.datasets`, imported where it is needed: it takes half a second."""
    from torchvision import datasets

    return datasets


def addresses(name: str, file: str) -> list[str]:
    """Return the addresses of an archive, as torchvision knows them."""
    kind = getattr(_datasets(), name)
    if name == "QMNIST":
        return [url for each in kind.resources.values() for url, _ in each if url.endswith(f"/{file}")]
    return [f"{mirror}{file}" for mirror in kind.mirrors]


def _array(content: bytes, file: str) -> Tensor:
    """Return the array of an IDX file; of QMNIST's labels the classes alone, which are the first column."""
    if "idx2-int" in file:
        return idx.parse(content, file, 2, "i4")[:, 0]
    return idx.parse(content, file, 3 if "images" in file else 1)


def _data_set(name: str, arrays: Sequence[Tensor]) -> DataSet:
    train, test = (Split(images.unsqueeze(1), labels.long()) for images, labels in (arrays[:2], arrays[2:]))
    return DataSet(name, train, test, class_names=CLASS_NAMES.get(name))


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Turn damage of a file into an `InputError` that names the data set and, where it is known, the file."""
    try:
        yield
    except InputError:
        raise
    except DAMAGES as error:
        raise InputError(f"data.name = {name!r}: its files cannot be read ({one_line(error)})") from None
