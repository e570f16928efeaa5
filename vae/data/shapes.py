"""Images made from known factors: one shape each, in every combination of kind, scale, orientation and place.

In the manner of dSprites (Matthey et al. 2017), with two differences. No shape here looks the same after a turn, so
that the orientation of each image is known. (There, a square has four that nobody can tell apart, an ellipse two.) And
at one scale all shapes have one area, and their centroid at the place that is named: no factor tells of another.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vae.data.factors import Factor, Factors
from vae.errors import InputError

SMALLEST = 0.5  # scale, of the largest
SUPERSAMPLES = 8  # points across a pixel, of which its coverage is the mean
EDGE = 0.5  # pixels that stay free around the largest shape


@dataclass(frozen=True)
class Grid:
    """The number of values of each factor; the images are all combinations of these values.

    Attributes:
        size: height and width of the images, pixels.
        scales: from half the largest to the largest, evenly.
        orientations: of the full turn, evenly.
        positions: of the centroid, along each axis: whole pixels apart, about half the image from first to last.
        grey: whether a pixel is the share of it that the shape covers; else 255 where that is half or more, or 0.

    Raises:
        InputError: the places would be less than a pixel apart, or there are too few values.
    """

    size: int = 32
    scales: int = 4
    orientations: int = 8
    positions: int = 12
    grey: bool = False

    def __post_init__(self):
        for name, least in (("size", 16), ("scales", 1), ("orientations", 1), ("positions", 1)):
            if getattr(self, name) < least:
                raise InputError(f"--{name} {getattr(self, name)}: must be at least {least}")
        if not self.step:
            most = f"an image of {self.size} pixels has at most {self.size // 2} (see --size)"
            raise InputError(f"--positions {self.positions}: {most}")

    @property
    def count(self) -> int:
        """The number of images."""
        return len(OUTLINES) * self.scales * self.orientations * self.positions**2

    @property
    def step(self) -> int:
        """Pixels between two places."""
        return self.size // (2 * self.positions)

    @property
    def first_place(self) -> float:
        """The first place, as a row or column of pixels, which are counted from 0."""
        return (self.size - 1 - (self.positions - 1) * self.step) / 2

    def values(self) -> dict[str, np.ndarray]:
        """Return the values of each factor: names, scales as shares of the largest, radians, pixels."""
        places = self.first_place + self.step * np.arange(self.positions)
        return {
            "shape": np.array(list(OUTLINES)),
            "scale": np.linspace(1.0, SMALLEST, self.scales)[::-1],
            "orientation": 2 * np.pi * np.arange(self.orientations) / self.orientations,
            "x": places,
            "y": places,
        }


def make(grid: Grid) -> Factors:
    """Return the images of a grid and their factors, the last factor running fastest; always the same."""
    values = grid.values()
    largest = (grid.first_place + 0.5 - EDGE) / max(np.abs(_outline(name)).max() for name in OUTLINES)
    drawn = np.stack([_coverage(grid, vertices) for vertices in _placed(values, largest)])
    pixels = np.rint(255 * drawn) if grid.grey else 255 * (drawn >= 0.5)
    shifts = grid.step * np.arange(grid.positions)
    moved = [np.roll(pixels, (down, right), (1, 2)) for right, down in itertools.product(shifts, shifts)]
    images = np.stack(moved, 1).reshape(-1, grid.size, grid.size).astype(np.uint8)
    levels = [len(each) for each in values.values()]
    factors = tuple(Factor(name, ordered=name in ("scale", "x", "y")) for name in values)
    return Factors(images[:, None], np.indices(levels).reshape(len(levels), -1).T, factors)


# --- shapes: closed lines through vertices (x, y), (V, 2), symmetric about the x axis; y runs down, as pixel rows do


def _triangle() -> np.ndarray:
    return np.array([[1.3, 0.0], [0.0, 0.5], [0.0, -0.5]])


def _half_disc() -> np.ndarray:
    angle = np.linspace(-np.pi / 2, np.pi / 2, 60)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _heart() -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    along = 13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle)
    return np.stack([-along, 16 * np.sin(angle) ** 3], 1)


OUTLINES: dict[str, Callable[[], np.ndarray]] = {"triangle": _triangle, "half disc": _half_disc, "heart": _heart}


def _outline(name: str) -> np.ndarray:
    """Return a shape's outline with area 1 and centroid 0 (by the shoelace formula)."""
    here = OUTLINES[name]()
    after = np.roll(here, -1, 0)
    cross = here[:, 0] * after[:, 1] - after[:, 0] * here[:, 1]  # twice the signed area of a triangle at the origin
    area = cross.sum() / 2
    centroid = ((here + after) * cross[:, None]).sum(0) / (6 * area)
    return (here - centroid) / np.sqrt(abs(area))


def _placed(values: dict[str, np.ndarray], largest: float) -> Iterator[np.ndarray]:
    """Yield the outline of each shape, scale and orientation about the origin, pixels; `largest` belongs to scale 1."""
    for name, scale, angle in itertools.product(values["shape"], values["scale"], values["orientation"]):
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        yield scale * largest * _outline(name) @ turn


def _coverage(grid: Grid, vertices: np.ndarray) -> np.ndarray:
    """Return the share of each pixel, (size, size), that lies inside a closed line about the first place.

    A point is inside if the line crosses its row an odd number of times on the way to it from the left.
    """
    points = (np.arange(grid.size * SUPERSAMPLES) + 0.5) / SUPERSAMPLES - 0.5
    start = vertices + grid.first_place
    end = np.roll(start, -1, 0)
    row, edge = np.nonzero((start[:, 1] > points[:, None]) != (end[:, 1] > points[:, None]))
    (x, y), (dx, dy) = start[edge].T, (end - start)[edge].T
    crossed_from = np.searchsorted(points, x + (points[row] - y) * dx / dy)
    crossings = np.zeros((len(points), len(points) + 1), int)
    np.add.at(crossings, (row, crossed_from), 1)
    inside = crossings.cumsum(1)[:, :-1] % 2
    return inside.reshape(grid.size, SUPERSAMPLES, grid.size, SUPERSAMPLES).mean((1, 3))
