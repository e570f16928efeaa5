"""Settings of how a data set is read, and sources that have a use for some of them."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Literal

from vae.data.dataset import DataSet
from vae.errors import InputError


@dataclass(frozen=True)
class Reading:
    """The settings of `data` by which sources read a data set.

    Attributes:
        root: the folder that holds (or receives) the data sets with a name.
        images, labels: names of arrays, of the training set where a file has parts; None: by the usual names.
        channels: whether the channels of an image are its first axis or its last; auto: where they are recognised.
        range: pixel values that become 0 and 1; None: 0 and 255 of integers, 0 and 1 of floating point.
        image_size: height and width that pictures get, pixels; None: they have one size.
        binarize: larochelle: a published draw of 0/1 pixels; none: the pixels are the data set's own.
    """

    root: Path
    images: str | None = None
    labels: str | None = None
    channels: Literal["auto", "first", "last"] = "auto"
    range: tuple[float, float] | None = None
    image_size: int | None = None
    binarize: Literal["none", "larochelle"] = "none"

    def refuse_others(self, name: str, used: tuple[str, ...]) -> None:
        """Raise `InputError` if a setting has a value of its own that the source of the data set has no use for."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("root", *used) and value != field.default:
                shown = list(value) if isinstance(value, tuple) else value
                default = "null" if field.default is None else field.default
                raise InputError(
                    f"data.{field.name} = {shown!r}: data.name = {name!r} has no use for it; leave it at {default}"
                )


Source = Callable[[str, Reading], DataSet]  # the value of `data.name`, how it is read -> the data set


@dataclass(frozen=True)
class _Using:
    """A source, and the settings that it has a use for beside `root`."""

    source: Source
    settings: tuple[str, ...]

    def __call__(self, name: str, reading: Reading) -> DataSet:
        return self.source(name, reading)


def using(*settings: str) -> Callable[[Source], Source]:
    """Mark a source as one that has a use for these settings, beside `root`; of other sources they are refused."""
    return partial(_Using, settings=settings)


def settings_of(source: Source) -> tuple[str, ...]:
    """Return the settings that a source has a use for, beside `root`."""
    return source.settings if isinstance(source, _Using) else ()
