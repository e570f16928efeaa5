"""Pictures made of images: reconstructions, samples, interpolation, the decoded latent plane."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vae.canvas import tile
from vae.figures.style import (
    INK,
    PAD,
    TEXT,
    Array,
    numbers,
    titled_figure,
    wrap,
)

MAX_HEIGHT = 8.5  # inches, of many rows


def reconstructions(originals: Array, reconstructed: Array, *, columns: int = 10) -> Figure:
    """Draw originals over their reconstructions.

    Args:
        originals, reconstructed: (N, C, H, W) each, in [0, 1], C = 1 or 3.
        columns: pairs in one row.
    """
    above, below = _pixels(originals), _pixels(reconstructed)
    pairs = [part[start : start + columns] for start in range(0, len(above), columns) for part in (above, below)]
    canvas = np.concatenate([tile(part, columns=columns, gap=2, pad=2) for part in pairs])
    figure, axes = _image_figure("Test images and their reconstructions", canvas, width=7.5)
    axes.set_title("mean of p(x|z) at z = E[z|x]", **TEXT)
    height = len(canvas) / len(pairs)
    names = ["original", "reconstruction"] * (len(pairs) // 2)
    axes.set_yticks([(row + 0.5) * height - 1.5 for row in range(len(pairs))], names)
    return _trim(figure, axes)


def images_by_setting(
    title: str, note: str, rows: Mapping[str, Array], *, columns: Sequence[str] = (), below: str = ""
) -> Figure:
    """Draw a labelled row of images for each setting.

    Args:
        title, note: of the picture.
        rows: label -> images (N, C, H, W) in [0, 1], C = 1 or 3; the same N everywhere.
        columns: N labels of the columns; none: no labels.
        below: label of the axis of the columns.
    """
    canvas = _canvas(rows)
    height, width = canvas.shape[:2]
    figure, axes = _image_figure(title, canvas, width=min(7.5, max(4.2, MAX_HEIGHT * width / height + 1.6)))
    axes.set_title(note, **TEXT)
    _name_rows(axes, canvas, list(rows))
    if columns:
        wide = (width + 2) / len(columns)
        axes.set_xticks([(column + 0.5) * wide - 1.5 for column in range(len(columns))], columns)
        axes.set_xlabel(below, **TEXT)
    return _trim(figure, axes)


def draw_rows(axes: Axes, rows: Mapping[str, Array]) -> None:
    """Draw a labelled row of images for each setting, as `images_by_setting` does, into axes of another picture."""
    canvas = _canvas(rows)
    _show(axes, canvas)
    _name_rows(axes, canvas, list(rows), letters=16)


def samples(images: Array, *, columns: int = 8) -> Figure:
    """Draw a grid of images generated from the prior.

    Args:
        images: (N, C, H, W) in [0, 1], C = 1 or 3.
        columns: images in one row.
    """
    figure, axes = _image_figure("Samples", tile(_pixels(images), columns=columns, gap=2), width=4.6)
    axes.set_title(f"{len(images)} means of p(x|z), z ~ p(z)", **TEXT)
    return _trim(figure, axes)


def samples_side_by_side(panels: Mapping[str, Array], *, columns: int = 8) -> Figure:
    """Draw grids of images beside each other, each with its title.

    Args:
        panels: title -> images (N, C, H, W) in [0, 1], C = 1 or 3; the same N everywhere.
        columns: images in one row of a grid.
    """
    grids = [tile(_pixels(images), columns=columns, gap=2) for images in panels.values()]
    width = 4.1 * len(grids)
    height = 4.1 * grids[0].shape[0] / grids[0].shape[1]
    figure, axes = titled_figure("Means of p(x|z)", (width, height + 1.2), columns=len(grids))
    for each, title, grid in zip(axes, panels, grids, strict=True):
        _show(each, grid)
        each.set_title(title, **TEXT)
    return _trim(figure, axes[0])


def interpolation(images: Array) -> Figure:
    """Draw decoded points of a line in latent space as a strip.

    Args:
        images: (N, C, H, W) in [0, 1], from the start of the line to its end, evenly spaced, C = 1 or 3.
    """
    pixels = _pixels(images)
    count, width = len(pixels), pixels.shape[-1] + 2
    figure, axes = _image_figure("Interpolation between two test images", tile(pixels, columns=count, gap=2), width=7.5)
    axes.set_title("mean of p(x|z) on the straight line between the two codes E[z|x]", **TEXT)
    fractions = np.linspace(0, 1, count)
    axes.set_xticks([(index + 0.5) * width - 1.5 for index in range(count)], [f"{f:.2g}" for f in fractions])
    axes.set_xlabel("fraction of the way from the first code to the second", **TEXT)
    return _trim(figure, axes)


def latent_plane(images: Array, z_values: Array, *, standard: bool = True) -> Figure:
    """Draw the decoded latent plane, each image at its own place.

    Args:
        images: (n * n, C, H, W) in [0, 1], C = 1 or 3; image i * n + j is decoded at z = (z_values[j], z_values[i]).
        z_values: (n,), ascending and evenly spaced.
        standard: whether the prior is N(0, I), so that they are standard deviations of it.
    """
    z, pixels = numbers(z_values), _pixels(images)
    upwards = pixels.reshape(len(z), len(z), *pixels.shape[1:])[::-1].reshape(pixels.shape)
    half = (z[-1] - z[0]) / (len(z) - 1) / 2
    edges = (z[0] - half, z[-1] + half)
    canvas = tile(upwards, columns=len(z), gap=0)
    figure, axes = _image_figure("Decoded latent plane", canvas, width=5.0, extent=(*edges, *edges))
    prior, unit = ("; the prior is N(0, I)", " (standard deviations of the prior)") if standard else ("", "")
    axes.set_title(f"mean of p(x|z) on an even {len(z)} × {len(z)} grid of z{prior}", **TEXT)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.set_xlabel(f"$z_1${unit}", **TEXT)
    axes.set_ylabel(f"$z_2${unit}", **TEXT)
    return _trim(figure, axes)


def _image_figure(
    title: str, canvas: np.ndarray, *, width: float, extent: tuple[float, float, float, float] | None = None
) -> tuple[Figure, Axes]:
    """Return a figure `width` inches wide, with room to trim, that shows a canvas (H, W, C) in [0, 1]."""
    figure, (axes,) = titled_figure(title, (width, width * canvas.shape[0] / canvas.shape[1] + 1.5))
    _show(axes, canvas, extent)
    return figure, axes


def _canvas(rows: Mapping[str, Array]) -> np.ndarray:
    """Return rows of images as one canvas (H', W', C)."""
    pixels = [_pixels(images) for images in rows.values()]
    columns = max(map(len, pixels))
    return np.concatenate([tile(images, columns=columns, gap=2, pad=2) for images in pixels])


def _name_rows(axes: Axes, canvas: np.ndarray, labels: Sequence[str], letters: int = 26) -> None:
    step, names = len(canvas) / len(labels), [wrap(label, letters) for label in labels]
    axes.set_yticks([(row + 0.5) * step - 1.5 for row in range(len(labels))], names)


def _show(axes: Axes, canvas: np.ndarray, extent: tuple[float, float, float, float] | None = None) -> None:
    """Show a canvas (H, W, C) in [0, 1] on axes without a frame."""
    grey = canvas.shape[-1] == 1
    axes.imshow(canvas[..., 0] if grey else canvas, cmap="gray", vmin=0, vmax=1, extent=extent)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.tick_params(length=0, labelsize=8, labelcolor=INK)
    axes.spines[:].set_visible(False)


def _trim(figure: Figure, axes: Axes) -> Figure:
    """Return the figure without the height that its image, whose proportions are fixed, leaves empty."""
    axes.set_anchor("N")
    figure.draw_without_rendering()
    lowest = axes.get_tightbbox()
    assert lowest is not None
    figure.set_figheight(figure.get_figheight() - lowest.y0 / figure.dpi + PAD)
    return figure


def _pixels(images: Array) -> np.ndarray:
    """Return images (N, C, H, W) as float32 for the screen: a mean a little outside [0, 1] is shown as 0 or 1."""
    array = numbers(images).astype(np.float32)
    if array.ndim != 4 or array.shape[1] not in (1, 3):
        raise ValueError(f"images have shape {array.shape}: must be (N, C, H, W) with C = 1 or 3")
    return array.clip(0, 1)
