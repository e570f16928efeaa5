"""Pixels as a file holds them -> uint8, or float32 in [0, 1]."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from vae.errors import InputError

WHITE = 255  # of 8 bits
KINDS = {"b": "truth values", "u": "integers", "i": "integers", "f": "floating point"}  # by NumPy's kind of a type
USUAL_RANGES = ((-0.5, 0.5), (-1, 1), (0, 255), (0, 1023), (0, 4095), (0, 65535))  # that a refusal may name
TOLERANCE = 1e-5  # of the range, by which pixels may lie outside, as rounding and a printed limit have it
WHOLE = 1e-3  # of a grey level, by which a pixel may miss it and still be one of 8 bits
NUMBERS_AT_ONCE = 2**22


@dataclass(frozen=True)
class Scale:
    """Pixel values that become black and white, linearly between them.

    Attributes:
        low, high: become 0 and 1.
        is_bytes: whether the result is uint8.
    """

    low: float
    high: float
    is_bytes: bool

    def convert(self, pixels: np.ndarray) -> np.ndarray:
        """Return pixels (N, C, H, W) contiguously, and without a copy where nothing changes."""
        kind = np.dtype(np.uint8 if self.is_bytes else np.float32)
        if pixels.dtype == kind and (self.low, self.high) == (0, WHITE if self.is_bytes else 1):
            return np.ascontiguousarray(pixels)
        done = np.empty(pixels.shape, kind)
        for rows in _rows(pixels):
            share = self.share(pixels[rows])
            done[rows] = np.rint(WHITE * share) if self.is_bytes else share
        return done

    def share(self, pixels: np.ndarray) -> np.ndarray:
        """Return pixels in [0, 1], float64."""
        return ((pixels.astype(np.float64) - self.low) / (self.high - self.low)).clip(0, 1)

    def gives_bytes(self, pixels: np.ndarray) -> bool:
        """Return whether all pixels become grey levels of 8 bits."""
        levels = (WHITE * self.share(pixels[rows]) for rows in _rows(pixels))
        return all(bool((np.abs(level - np.rint(level)) < WHOLE).all()) for level in levels)


def scale_of(arrays: Mapping[str, np.ndarray], limits: tuple[float, float] | None) -> tuple[Scale, list[str]]:
    """Return the scale that all parts of a data set have in common, and remarks about it.

    Args:
        arrays: pixels of each part, by how messages call it; truth values, integers or floating point.
        limits: pixel values that become 0 and 1; None: by the type of the pixels.

    Raises:
        InputError: parts of different types, or pixels outside the range.
    """
    kinds = {where: KINDS[array.dtype.kind] for where, array in arrays.items()}
    kind = next(iter(kinds.values()))
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{where} {each}" for where, each in kinds.items())
        raise InputError(f"{found}: all images must have one type of pixels")
    extremes = {where: _extremes(where, array) for where, array in arrays.items()}
    if limits is not None:
        return _given(arrays, extremes, limits), [f"pixels from {limits[0]:g} to {limits[1]:g}"]
    high = max(high for _, high in extremes.values())
    if kind == "truth values" or (kind == "integers" and min(low for low, _ in extremes.values()) >= 0 and high <= 1):
        return Scale(0, 1, is_bytes=True), ["pixels 0 and 1 are black and white"]
    scale = Scale(0, WHITE, is_bytes=True) if kind == "integers" else Scale(0, 1, is_bytes=False)
    _must_be_within(scale, kind, extremes)
    if 0 < 2 * high < scale.high:
        white = f"data.range=[0, {high:.7g}] if that is white"
        return scale, [f"no pixel is brighter than {high:.7g} of {scale.high:g} ({white})"]
    return scale, []


def _must_be_within(scale: Scale, kind: str, extremes: Mapping[str, tuple[float, float]]) -> None:
    for where, (low, high) in extremes.items():
        if low < scale.low or high > scale.high:
            found = f"{where} has values from {low:.7g} to {high:.7g}; {kind} must be in [0, {scale.high:g}]"
            raise InputError(f"{found}: say which are black and white, e.g. data.range={_usual_range(low, high)}")


def _given(
    arrays: Mapping[str, np.ndarray], extremes: Mapping[str, tuple[float, float]], limits: tuple[float, float]
) -> Scale:
    slack = TOLERANCE * (limits[1] - limits[0])
    for where, (low, high) in extremes.items():
        if low < limits[0] - slack or high > limits[1] + slack:
            found = f"{where} has values from {low:.7g} to {high:.7g}"
            raise InputError(f"data.range = {list(limits)}: {found}; must be within the range")
    scale = Scale(*limits, is_bytes=True)
    return scale if all(map(scale.gives_bytes, arrays.values())) else Scale(*limits, is_bytes=False)


def _extremes(where: str, pixels: np.ndarray) -> tuple[float, float]:
    """Return the least and the largest pixel; raises `InputError` if one is no finite number."""
    low, high = float(pixels.min()), float(pixels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"{where} holds pixels that are NaN or infinite; all must be finite numbers")
    return low, high


def _usual_range(low: float, high: float) -> str:
    usual = next((each for each in USUAL_RANGES if each[0] <= low and high <= each[1]), (low, high))
    return f"[{usual[0]:.7g}, {usual[1]:.7g}]"


def _rows(pixels: np.ndarray) -> Iterator[slice]:
    size = max(1, NUMBERS_AT_ONCE // max(1, pixels[0].size))
    for start in range(0, len(pixels), size):
        yield slice(start, start + size)
