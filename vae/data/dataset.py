"""A data set: images and labels for training, validation and test, one tensor each."""

import textwrap
import zlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vae.data import randomness
from vae.errors import InputError

HIDDEN = -1  # the label of an image that has none
SHOWN_NAMES = 60  # letters of class names in a line


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
        return _crc32(self.images)

    @cached_property
    def labels_fingerprint(self) -> str | None:
        """The CRC-32 of the labels; None where there are none."""
        return None if self.labels is None else _crc32(self.labels)

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
        """True if some images have no label."""
        return self.labels is None or bool((self.labels == HIDDEN).any())

    def binarize(self, seed: int, name: str) -> "Split":
        """Return the images with 0/1 pixels, drawn with the seed for the part called `name`."""
        return replace(self, images=randomness.binarize(self.images, seed, name))

    def __getitem__(self, index: Tensor) -> "Split":
        return Split(self.images[index], None if self.labels is None else self.labels[index])


@dataclass(frozen=True)
class DataSet:
    """A named data set.

    Attributes:
        name: how figures and reports call it.
        train, test: its parts.
        val: a part held out of the training set, if any.
        class_names: of class 0, 1, ..., where the classes have other names than their numbers.
        remarks: how its source understood the files, where there is a choice.
        draw: whose draw of 0/1 pixels its files hold; None: the pixels are the data set's own.
    """

    name: str
    train: Split
    test: Split
    val: Split | None = None
    class_names: list[str] | None = None
    remarks: tuple[str, ...] = ()
    draw: str | None = None

    @property
    def summary(self) -> str:
        """The data set in a line: sizes of the parts, shape and type of an image, classes, remarks."""
        parts = {"training": self.train, "validation": self.val, "test": self.test}
        *first, last = [f"{len(part):,} {name}" for name, part in parts.items() if part is not None]
        shape, kind = "x".join(map(str, self.image_shape)), str(self.train.images.dtype).removeprefix("torch.")
        classes = f"{self.classes} class{'' if self.classes == 1 else 'es'}" if self.classes else "no labels"
        if self.class_names:
            classes += f" ({self.shown_names})"
        return "; ".join([f"{', '.join(first)} and {last} images, {shape}, {kind}, {classes}", *self.remarks])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, C, H, W = self.train.images.shape
        return C, H, W

    @property
    def classes(self) -> int:
        """The number of classes, which are numbered from 0; 0 without labels."""
        labels = [part.labels for part in (self.train, self.val, self.test) if part is not None]
        return 1 + max((int(each.max()) for each in labels if each is not None), default=-1)

    @property
    def hides_labels(self) -> bool:
        """True if some images have no label."""
        return any(part.hides_labels for part in (self.train, self.val, self.test) if part is not None)

    @property
    def names(self) -> list[str]:
        """The name of each class: its number, where it has no other."""
        return self.class_names or [str(number) for number in range(self.classes)]

    @property
    def shown_names(self) -> str:
        """The names of the classes in a line, the first ones of many."""
        return textwrap.shorten(", ".join(self.names), SHOWN_NAMES, placeholder=" ...")

    def class_of(self, label: str) -> int | None:
        """Return the class of a name, or of a number where the names are words; None: there is no such class."""
        if label in self.names:
            return self.names.index(label)
        are_words = not any(name.lstrip("-").isdecimal() for name in self.names)
        return int(label) if are_words and label.isdecimal() and int(label) < self.classes else None

    def numbered_as(self, other: "DataSet") -> "DataSet":
        """Return the data set with the class numbers of another one, by the names of the classes.

        Raises:
            InputError: there is a class of another name.
        """
        names = other.names
        if unknown := next((name for name in self.names if name not in names), None):
            raise InputError(f"{self.name}: its class {unknown!r} is none of {other.name}'s: {other.shown_names}")
        numbers = torch.tensor([names.index(name) for name in self.names] + [HIDDEN])  # [-1]: of a hidden label
        parts = {"train": self.train, "val": self.val, "test": self.test}
        changed = {
            name: replace(part, labels=numbers[part.labels])
            for name, part in parts.items()
            if part is not None and part.labels is not None
        }
        return replace(self, **changed, class_names=other.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """A checksum of all pixels."""
        return self.fingerprint_of(labels=False)

    def fingerprint_of(self, *, labels: bool) -> str:
        """Return a checksum of all pixels, to notice that a run is continued on other data.

        Args:
            labels: whether it is one of the labels too, where there are any.
        """
        splits = [part for part in (self.train, self.val, self.test) if part is not None]
        parts = [part.fingerprint for part in splits]
        if labels:
            parts += [part.labels_fingerprint for part in splits if part.labels_fingerprint]
        return f"{zlib.crc32(' '.join(parts).encode()):08x}"

    def hold_out(self, val_size: int) -> "DataSet":
        """Return the data set with the last `val_size` examples of a fixed permutation of the training set held out.

        The permutation is the same for every seed, so that runs are compared on the same validation set.

        Raises:
            InputError: nothing would be left to train on, or there is a validation set.
        """
        count = len(self.train)
        if not val_size:
            return self
        if self.val is not None:
            problem = f"{self.name} has a validation set of its own ({len(self.val):,} images)"
            raise InputError(f"data.val_size = {val_size}: {problem}; leave it at 0")
        if val_size >= count:
            raise InputError(f"data.val_size = {val_size}: must be smaller than the training set ({count} examples)")
        kept, others = held_out(count, val_size)
        return replace(self, train=self.train[kept], val=self.train[others])

    def hide_labels(self, labelled: int, repeats: int, seed: int) -> "DataSet":
        """Return the data set with the labels of all but a few training images gone.

        Equally many images of each class keep their label: the first ones of a permutation. They stand behind the
        others once more for each repeat, so that they are a larger share of an epoch.

        Args:
            labelled: how many images keep their label.
            repeats: how often an epoch has each of these images.
            seed: of the permutation.

        Raises:
            InputError: there are no labels, or not so many of each class.
        """
        labels, key = self.train.labels, f"data.labelled = {labelled}"
        if labels is None:
            raise InputError(f"{key}: {self.name} has no labels to keep; use 0")
        each, rest = divmod(labelled, self.classes)
        fewest = int(labels[labels != HIDDEN].bincount(minlength=self.classes).min())
        if rest or each > fewest:
            wanted = f"a multiple of the {self.classes} classes, at most {self.classes * fewest}"
            raise InputError(f"{key}: must be {wanted} (the smallest class has {fewest} labelled images for training)")
        order = randomness.permutation(len(labels), seed, "labelled")
        kept = torch.cat([order[labels[order] == label][:each] for label in range(self.classes)])
        known = torch.full_like(labels, HIDDEN).index_copy(0, kept, labels[kept])
        epoch = torch.cat([torch.arange(len(labels)), kept.sort().values.repeat(repeats - 1)])
        return replace(self, train=replace(self.train, labels=known)[epoch])

    def binarize_evaluation(self, seed: int) -> "DataSet":
        """Return the data set with one fixed draw of 0/1 pixels for validation and test."""
        val = None if self.val is None else self.val.binarize(seed, "val")
        return replace(self, val=val, test=self.test.binarize(seed, "test"))

    def binarize_training(self, seed: int) -> "DataSet":
        """Return the data set with the 0/1 pixels that a static run trains on, and a dynamic run in its first epoch."""
        return replace(self, train=self.train.binarize(seed, "train"))


def _crc32(numbers: Tensor) -> str:
    return f"{zlib.crc32(np.ascontiguousarray(numbers.numpy()).data):08x}"


def held_out(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Return which of `count` examples stay, in order, and which are held out: the last of a fixed permutation."""
    order = randomness.permutation(count, 0, "validation")
    return order[:-size].sort().values, order[-size:]


def one_line(error: BaseException) -> str:
    """Return the message of an error, for an `InputError` of one line."""
    return " ".join(f"{error}".split()) or type(error).__name__
