"""A user's own images: the arrays of an `.npz` or `.npy` file."""

from collections.abc import Mapping

import numpy as np
import torch

from vae.data.archive import Archive
from vae.data.classes import NotClassesError, numbered, text
from vae.data.dataset import HIDDEN, DataSet, Split
from vae.data.layout import Layout, layout_of
from vae.data.naming import CLASS_NAMES, choose
from vae.data.pixels import scale_of
from vae.data.reading import Reading, using
from vae.errors import InputError
from vae.files import expanded

Arrays = dict[str, np.ndarray]  # by the part of the data


@using("images", "labels", "channels", "range")
def read_arrays(name: str, reading: Reading) -> DataSet:
    """Return the data set of an `.npz` or `.npy` file.

    Without test images the last tenth of a fixed permutation is the test set.

    Args:
        name: the file's path.
        reading: how its arrays are named and laid out.

    Raises:
        InputError: an unusable file.
    """
    archive = Archive(expanded(name))
    names = choose(archive, reading.images, reading.labels)
    labels = {part: array for part, array in names.labels.items() if part in names.images}
    for part, array in labels.items():
        _must_be_as_many(archive, array, names.images[part])
    images, remarks = read_images(archive, names.images, reading)
    classes, class_names, more = _read_labels(archive, labels, is_given=reading.labels is not None)
    known = {part: torch.from_numpy(array) for part, array in classes.items()}
    parts = {part: Split(torch.from_numpy(array), known.get(part)) for part, array in images.items()}
    origin = _origin(archive, names.images, labels if classes else {})
    return _with_test(archive.path.stem, parts, class_names, [*origin, *remarks, *more])


def read_images(archive: Archive, names: Mapping[str, str], reading: Reading) -> tuple[Arrays, list[str]]:
    """Return the images of each part, (N, C, H, W), uint8 or float32 in [0, 1], and remarks about them.

    Args:
        archive: the file.
        names: the array of each part.
        reading: their layout and range, where they are given.

    Raises:
        InputError: arrays that are no images, of several sizes, or with pixels out of range.
    """
    layouts = {part: _layout(archive, name, reading) for part, name in names.items()}
    for part, layout in layouts.items():
        if layout.image_shape != layouts["train"].image_shape:
            shapes = [f"`{names[each]}` has shape {archive.headers[names[each]].shape}" for each in (part, "train")]
            raise InputError(f"{archive.path}: {', but '.join(shapes)}; all images must have one size")
    arrays = {archive.where(name): layouts[part].view(archive.read(name)) for part, name in names.items()}
    scale, remarks = scale_of(arrays, reading.range)
    images = {part: scale.convert(arrays.pop(archive.where(name))) for part, name in names.items()}
    return images, ["channels last"] * layouts["train"].last + remarks


def _layout(archive: Archive, name: str, reading: Reading) -> Layout:
    header, where = archive.headers[name], archive.where(name)
    if not header.is_numeric:
        kind = "pickled objects, which are never opened" if header.is_pickled else header.dtype
        raise InputError(f"{where} holds {kind}; images must be integers, truth values or floating point")
    return layout_of(header.shape, reading.channels, where)


def _must_be_as_many(archive: Archive, labels: str, images: str) -> None:
    shape, count = archive.headers[labels].shape, archive.headers[images].shape[:1]
    if count and shape[:1] != count:
        found = f"`{labels}` has shape {shape} for {count[0]} images (`{images}`)"
        raise InputError(f"{archive.path}: {found}; must be one for each")


def _read_labels(
    archive: Archive, names: Mapping[str, str], *, is_given: bool
) -> tuple[Arrays, list[str] | None, list[str]]:
    """Return the classes of each part, the names of the classes, and remarks.

    Labels that name no classes are refused where the user named them, and else left out with a remark.
    """
    if not names:
        return {}, None, []
    first = archive.where(next(iter(names.values())))
    try:
        if any(archive.headers[name].is_pickled for name in names.values()) and not is_given:
            raise NotClassesError("are pickled objects")
        classes, class_names = numbered({part: archive.read(name) for part, name in names.items()})
    except NotClassesError as reason:
        if is_given:
            wanted = "must be (N,), (N, 1) or one-hot, whole numbers or text"
            raise InputError(f"{first}: these labels {reason}; {wanted}") from None
        return {}, None, [f"`{next(iter(names.values()))}` {reason}, and are not used as labels"]
    count = sum(int((array == HIDDEN).sum()) for array in classes.values())
    remarks = [f"{count:,} labels are -1: hidden"] if count else []
    return classes, class_names or _names_of_classes(archive, classes), remarks


def _names_of_classes(archive: Archive, classes: Mapping[str, np.ndarray]) -> list[str] | None:
    """Return names that a file holds for classes 0, 1, ..., if it holds some."""
    count = 1 + max(int(array.max()) for array in classes.values())
    for name in CLASS_NAMES:
        header = archive.headers.get(name)
        if header is not None and header.is_text and header.shape == (count,):
            return [str(each) for each in text(archive.read(name))]
    return None


def _origin(archive: Archive, images: Mapping[str, str], labels: Mapping[str, str]) -> list[str]:
    if len(archive.headers) == 1:
        return []
    return [f"images `{images['train']}`" + (f", labels `{labels['train']}`" if "train" in labels else "")]


def _with_test(name: str, parts: Mapping[str, Split], class_names: list[str] | None, remarks: list[str]) -> DataSet:
    """Return the data set of these parts; without a test set a tenth is held out for it."""
    train, test, val = parts["train"], parts.get("test"), parts.get("val")
    if test is None:
        held_out = DataSet(name, train, train).hold_out(max(1, len(train) // 10))
        assert held_out.val is not None
        train, test = held_out.train, held_out.val
        remarks = [*remarks, "a tenth is held out for testing"]
    return DataSet(name, train, test, val, class_names, tuple(remarks))
