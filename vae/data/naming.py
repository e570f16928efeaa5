"""Names of arrays -> the images and labels of each part of the data: `x_train`, `test_images`, `imgs`."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vae.components import nearest
from vae.data.archive import NAMELESS, Archive
from vae.data.layout import looks_like_images
from vae.errors import InputError

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "t10k"), "test"),
}
# usual names, of which the first that is there counts; the last is the name of `train` and `test` alone
IMAGES = ("images", "image", "imgs", "img", "x", "data", "pixels", "pictures", "inputs", "")
LABELS = ("labels", "label", "y", "targets", "target")
CLASS_NAMES = ("class_names", "label_names", "classes")
SECOND = "arr_1"  # the second of two nameless arrays
BETWEEN_WORDS = re.compile(r"[_\-.\s/]+|(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True)
class Names:
    """Names of the arrays of images and of labels, by the part of the data: train, and maybe val and test."""

    images: Mapping[str, str]
    labels: Mapping[str, str]


def split_name(name: str) -> tuple[str, str]:
    """Return the part of the data that an array's name tells, train if none, and the rest of it in lower case.

    `x_train`, `trainX` and `Xtrain` are train and `x`; `test-imgs` is test and `imgs`.
    """
    words = [word.lower() for word in BETWEEN_WORDS.split(name) if word]
    told = [word for word in words if word in PARTS]
    if len(told) == 1:
        return PARTS[told[0]], "_".join(word for word in words if word not in PARTS)
    whole = name.lower()
    for word, part in PARTS.items():  # in one word with a usual name
        for rest in (whole.removeprefix(word), whole.removesuffix(word)):
            if rest != whole and rest in IMAGES[:-1] + LABELS:
                return part, rest
    return "train", "_".join(words)


def choose(archive: Archive, images: str | None, labels: str | None) -> Names:
    """Return the names of the arrays that hold the images and labels of a file.

    Args:
        archive: the file.
        images, labels: names that the user gives, of the training set; None: by the usual names.

    Raises:
        InputError: there are no images under a usual name, several that may be meant, or none of a given name.
    """
    for key, name in (("images", images), ("labels", labels)):
        if name is not None and name not in archive.headers:
            near = nearest(name, list(archive.headers))
            raise InputError(f"data.{key} = {name!r}: {archive.path} holds no such array; {_holds(archive)}{near}")
    groups = _grouped(archive.headers)
    chosen = _usual_images(archive, groups) if images is None else _like(groups, images)
    by_part = _one_each(archive, "images", chosen)
    if labels is not None:
        return Names(by_part, _one_each(archive, "labels", _like(groups, labels)))
    found = _usual_labels(archive, groups)
    own = "train" if images is None else split_name(images)[0]
    if own != "train":  # trained on by name, and alone
        found = {"train": found[own]} if own in found else {}
    return Names(by_part, _one_each(archive, "labels", found))


Group = dict[str, list[str]]  # part of the data -> names of arrays


def _grouped(names: Iterable[str]) -> dict[str, Group]:
    """Return names by what is left of them without the part of the data."""
    groups: dict[str, Group] = {}
    for name in names:
        part, rest = split_name(name)
        groups.setdefault(rest, {}).setdefault(part, []).append(name)
    return groups


def _like(groups: Mapping[str, Group], name: str) -> Group:
    """Return a name that is given for training, and names of other parts that differ by the part alone."""
    part, rest = split_name(name)
    return {"train": [name]} if part != "train" else {**groups[rest], "train": [name]}


def _usual_images(archive: Archive, groups: Mapping[str, Group]) -> Group:
    usual = [groups[rest] for rest in IMAGES if "train" in groups.get(rest, {})]
    likely = [group for group in usual if _may_be_images(archive, group)]
    if usual:
        return (likely or usual)[0]
    others = [group for group in groups.values() if _may_be_images(archive, group)]
    # rows of numbers may be anything, but in an array without a name
    others = [g for g in others if g["train"] == [NAMELESS] or len(archive.headers[g["train"][0]].shape) > 2]
    if len(others) == 1:
        return others[0]
    problem = "several arrays may be the images" if others else "no array can be told to be the images"
    raise InputError(f"{archive.path}: {problem}; {_holds(archive)}; name the array with data.images=NAME")


def _usual_labels(archive: Archive, groups: Mapping[str, Group]) -> Group:
    if list(archive.headers) == [NAMELESS, SECOND]:
        return {"train": [SECOND]}
    return next((groups[rest] for rest in LABELS if rest in groups), {})


def _may_be_images(archive: Archive, group: Group) -> bool:
    headers = [archive.headers[name] for name in group.get("train", ())]
    return any(header.is_numeric and looks_like_images(header.shape) for header in headers)


def _one_each(archive: Archive, key: str, group: Group) -> dict[str, str]:
    for names in group.values():
        if len(names) > 1:
            shown = " and ".join(f"`{name}`" for name in names)
            raise InputError(f"{archive.path}: holds {shown}; say which of them is meant with data.{key}={names[0]}")
    return {part: names[0] for part, names in group.items()}


def _holds(archive: Archive) -> str:
    return f"it holds {archive.contents()}"
