"""Samples by a classifier: shares of classes, entropies of predictions, the most and least certain samples."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vae.figures.images import draw_rows
from vae.figures.style import PALETTE, SETTING_ORDER, TEXT, Array, legend_below, numbers, style, titled_figure

BINS = 40


def sample_quality(
    shares: Mapping[str, Array],
    entropies: Mapping[str, Array],
    rows: Mapping[str, Array],
    *,
    class_names: Sequence[str],
    note: str,
) -> Figure:
    """Draw the shares of predicted classes, the entropies of predictions, and rows of images.

    Args:
        shares: of several sets of images -> the share of each of C classes, (C,).
        entropies: of the same sets -> the entropy of each prediction, (N,), nats.
        rows: label -> images (n, C, H, W) in [0, 1], all of one size.
        class_names: C names.
        note: the lines under the picture.
    """
    figure, axes = titled_figure("Samples as a classifier sees them", (7.5, 3.6 + 0.66 * len(rows)), rows=2, columns=2)
    grid = axes[0].get_gridspec()
    assert grid is not None
    grid.set_height_ratios([2.4, 0.66 * len(rows)])
    for each in axes[2:]:
        each.remove()
    below = figure.add_subplot(grid[1, :])
    style(axes[0], "most probable class", "", "share of the images")
    style(axes[1], "entropy of the prediction", "nats", "share of the images (log scale)")
    _draw_shares(axes[0], shares, class_names)
    _draw_entropies(axes[1], entropies, highest=math.log(len(class_names)))
    draw_rows(below, rows)
    below.set_xlabel(note, **TEXT)
    legend_below(figure, axes[0].containers)  # pyright: ignore[reportArgumentType]
    return figure


def _draw_shares(axes: Axes, shares: Mapping[str, Array], class_names: Sequence[str]) -> None:
    width = 0.8 / len(shares)
    for place, (name, color) in enumerate(zip(shares, SETTING_ORDER, strict=False)):
        bars = np.arange(len(class_names)) + width * (place - (len(shares) - 1) / 2)
        axes.bar(bars, numbers(shares[name]), width, color=PALETTE[color], label=name)
    long = max(map(len, class_names)) > 3
    axes.set_xticks(range(len(class_names)), class_names, rotation=90 if long else 0)
    axes.grid(axis="x", visible=False)


def _draw_entropies(axes: Axes, entropies: Mapping[str, Array], *, highest: float) -> None:
    edges = np.linspace(0, highest, BINS + 1)
    for each, color in zip(entropies.values(), SETTING_ORDER, strict=False):
        counts, _ = np.histogram(numbers(each).astype(float).clip(0, highest), edges)
        axes.stairs(counts / counts.sum(), edges, color=PALETTE[color], linewidth=1.5)
    axes.set_yscale("log")
