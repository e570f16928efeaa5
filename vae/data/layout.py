"""The axes of an array of images: where the channels are, and images that are flattened."""

from dataclasses import dataclass
from math import isqrt
from typing import Literal

import numpy as np

from vae.errors import InputError

COLOURS = (1, 3, 4)  # channels by which their axis is recognised
SMALLEST = 8  # height and width of a flattened image, pixels
SHAPES = "(N, H, W), (N, C, H, W) or (N, H, W, C) with N >= 2, or flattened square images (N, H * W)"

Channels = Literal["auto", "first", "last"]


@dataclass(frozen=True)
class Layout:
    """The axes of an array.

    Attributes:
        shape: the array's, after flattened images have been given their axes: (N, C, H, W) or (N, H, W, C).
        last: whether the channels are the last axis.
    """

    shape: tuple[int, int, int, int]
    last: bool

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, *image = self.shape
        C, H, W = (image[2], image[0], image[1]) if self.last else image
        return C, H, W

    def view(self, array: np.ndarray) -> np.ndarray:
        """Return an array as (N, C, H, W), its numbers where they are."""
        array = array.reshape(self.shape)
        return array.transpose(0, 3, 1, 2) if self.last else array


def looks_like_images(shape: tuple[int, ...]) -> bool:
    """Return whether an array of this shape may hold images."""
    if len(shape) == 2:
        return shape[0] > 1 and (_side(shape[1]) is not None or _side(shape[1], 3) is not None)
    return len(shape) in (3, 4) and shape[0] > 1 and 0 not in shape


def layout_of(shape: tuple[int, ...], channels: Channels, where: str) -> Layout:
    """Return the axes of an array of images.

    Args:
        shape: the array's.
        channels: the axis of the channels, where it is given.
        where: the array, for messages.

    Raises:
        InputError: no images have this shape, or their channels cannot be told.
    """
    if not looks_like_images(shape):
        raise InputError(f"{where} has shape {shape}; must be {SHAPES}")
    if len(shape) == 4:
        last = _is_last(shape, where) if channels == "auto" else channels == "last"
        return Layout((shape[0], shape[1], shape[2], shape[3]), last)
    count, colour = shape[0], _side(shape[1], 3) if len(shape) == 2 else None
    if colour is not None:
        if channels == "auto":
            meant = f"three channels of {colour} x {colour} one after another, or three numbers a pixel"
            raise InputError(f"{where} has shape {shape}: {meant}? say data.channels=first or data.channels=last")
        last = channels == "last"
        return Layout((count, colour, colour, 3) if last else (count, 3, colour, colour), last)
    if channels != "auto":
        problem = f"{where} has shape {shape}, no axis of channels"
        raise InputError(f"data.channels = {channels!r}: {problem}; leave it at auto")
    if len(shape) == 3:
        return Layout((count, 1, shape[1], shape[2]), last=False)
    side = _side(shape[1])
    assert side is not None  # as `looks_like_images` says
    return Layout((count, 1, side, side), last=False)


def _is_last(shape: tuple[int, ...], where: str) -> bool:
    """Return whether the last axis has the channels, and not the second.

    It is the one of them that has 1, 3 or 4; where neither has, the one beside a square.
    """
    first, last = shape[1] in COLOURS, shape[3] in COLOURS
    if not (first or last):
        first, last = shape[2] == shape[3], shape[1] == shape[2]
    if first == last:
        asked = "say data.channels=first or data.channels=last"
        raise InputError(f"{where} has shape {shape}: both the second and the last axis may be the channels; {asked}")
    return last


def _side(pixels: int, channels: int = 1) -> int | None:
    """Return height and width of a flattened square image with so many numbers; None: it is none."""
    side = isqrt(pixels // channels)
    return side if side >= SMALLEST and side * side * channels == pixels else None
