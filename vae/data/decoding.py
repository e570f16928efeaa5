"""Pictures, decoded by Pillow: all as one array of bytes.

Pillow is imported where it is used: a run on other data needs none of it at its start.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import numpy as np

from vae.bars import Bar
from vae.data.dataset import one_line
from vae.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image as Opened

THREADS = 8  # decoding and resizing release the interpreter; on a network file system they wait
BLOCK = 32  # pictures that a thread takes at once
SIZES_SHOWN = 3  # in a refusal of pictures that differ
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
GREY = ("1", "L", "LA", "La", "I", *SIXTEEN_BITS)

Made = TypeVar("Made")


@dataclass(frozen=True)
class Picture:
    """A picture: its name for messages, and a function that opens it."""

    name: str
    open: Callable[[], Path | IO[bytes]]


@dataclass(frozen=True)
class Look:
    """Properties of a picture by its header: without colours or not, height and width in pixels."""

    grey: bool
    size: tuple[int, int]


def endings() -> set[str]:
    """Return the endings of names, in lower case, of files that Pillow can open."""
    from PIL import Image

    known = Image.registered_extensions()  # loads all of Pillow's formats
    return {ending for ending, kind in known.items() if kind in Image.OPEN}


def decode(pictures: Sequence[Picture], image_size: int | None, where: str) -> np.ndarray:
    """Return pictures (N, C, H, W), uint8: grey (C = 1) if all of them are, else RGB.

    Colours of a palette and other colour spaces become RGB, what is transparent lies over white, 16 bits become 8, a
    photograph is turned as its camera says.

    Args:
        pictures: at least one.
        image_size: H and W, from the centre of a picture whose shorter side is resized to it; None: they have one size.
        where: the pictures are, for messages.

    Raises:
        InputError: a picture cannot be read, or sizes differ.
    """
    looks = _each(pictures, lambda _, picture: _look(picture), f"{where}: looking at sizes")
    height, width = (image_size, image_size) if image_size else _one_size(looks, where)
    channels = 1 if all(look.grey for look in looks) else 3
    try:
        array = np.empty((len(pictures), channels, height, width), np.uint8)
    except MemoryError as error:
        raise InputError(f"{where}: {one_line(error)}; set data.image_size, e.g. data.image_size=64") from None

    def fill(number: int, picture: Picture) -> None:
        array[number] = _pixels(picture, channels, (height, width), resized=bool(image_size))

    _each(pictures, fill, f"{where}: reading")
    return array


def _each(pictures: Sequence[Picture], work: Callable[[int, Picture], Made], doing: str) -> list[Made]:
    """Return what `work` makes of each picture and its number, by a few threads; the first failure names its file."""

    def work_on(block: range) -> list[Made]:
        return [_naming(work, number, pictures[number]) for number in block]

    made: list[Made] = []
    count = len(pictures)
    with (
        ThreadPoolExecutor(min(THREADS, 2 * (os.cpu_count() or 1)), thread_name_prefix="pictures") as threads,
        Bar(doing, count, "picture") as bar,
    ):
        waiting = [threads.submit(work_on, range(start, min(start + BLOCK, count))) for start in range(0, count, BLOCK)]
        try:
            for block in waiting:
                made += block.result()
                bar.advance(len(block.result()))
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return made


def _naming(work: Callable[[int, Picture], Made], number: int, picture: Picture) -> Made:
    from PIL import UnidentifiedImageError

    try:
        return work(number, picture)
    except InputError:
        raise
    except Exception as error:  # of damaged pictures, Pillow's formats raise anything
        reason = "no picture" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise InputError(f"{picture.name}: cannot be read as a picture ({reason}); repair or remove it") from None


def _look(picture: Picture) -> Look:
    from PIL import ExifTags, Image

    with Image.open(picture.open()) as image:
        width, height = image.size
        if image.format in ("JPEG", "MPO") and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5:
            width, height = height, width  # it lies on its side
        return Look(image.mode in GREY, (height, width))


def _one_size(looks: Sequence[Look], where: str) -> tuple[int, int]:
    """Return the size that all pictures have; raises `InputError` with the sizes found if they differ."""
    counts = Counter(look.size for look in looks)
    if len(counts) == 1:
        return looks[0].size
    common = counts.most_common(SIZES_SHOWN)
    shown = ", ".join(f"{height}x{width} ({count:,})" for (height, width), count in common)
    more = f" and {len(counts) - SIZES_SHOWN:,} more" if len(counts) > SIZES_SHOWN else ""
    small = min(64, min(min(size) for size in counts))
    raise InputError(
        f"{where}: pictures have {len(counts):,} sizes (height x width): {shown}{more}; "
        f"set data.image_size, e.g. data.image_size={small}"
    )


def _pixels(picture: Picture, channels: int, size: tuple[int, int], *, resized: bool) -> np.ndarray:
    """Return the pixels of a picture (C, H, W), uint8."""
    from PIL import Image, ImageOps

    with Image.open(picture.open()) as opened:
        mode, kind = opened.mode, opened.format
        image = _with_8_bits(ImageOps.exif_transpose(opened), mode, kind)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("L" if channels == 1 else "RGB")
    if resized:
        image = _from_the_centre(image, size[0])
    if (image.height, image.width) != size:
        raise ValueError(f"{image.height}x{image.width} pixels, not {size[0]}x{size[1]} as its header says")
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _with_8_bits(image: "Opened", mode: str, kind: str | None) -> "Opened":
    """Return a picture whose pixels have 8 bits: of 16 bits the nearest, 65535 becomes 255."""
    from PIL import Image

    if mode in SIXTEEN_BITS or (mode == "I" and kind == "PNG"):  # older versions of Pillow call 16 bits of a PNG I
        return Image.fromarray(((np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    if mode in ("I", "F"):
        raise ValueError(f"pixels of Pillow's mode {mode} have no range of their own: save it with 8 or 16 bits")
    return image


def _from_the_centre(image: "Opened", size: int) -> "Opened":
    """Return the square in the centre, after the shorter side was resized: torchvision's Resize and CenterCrop."""
    from PIL import Image

    short = min(image.size)
    width, height = (int(size * side / short) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))
