"""Histograms of log p(x), and the images with the least and the most of it.

A model may give a higher likelihood to images of another kind than to those it was trained on (Nalisnick et al. 2019,
Do deep generative models know what they don't know?).
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from vae.figures.images import draw_rows
from vae.figures.style import INK, PALETTE, SETTING_ORDER, Array, numbers, style, titled_figure

BINS = 80
TAIL = 0.002  # of each set of values, on each side, may lie outside the picture


def scores(values: Mapping[str, Array], rows: Mapping[str, Array], unit: str, note: str = "") -> Figure:
    """Draw histograms of log p(x) over rows of images.

    Args:
        values: name of each set of images -> log p(x), (N,), finite.
        rows: label -> images (n, C, H, W) in [0, 1], C = 1 or 3, all of one size.
        unit: label of the axis of log p(x).
        note: the title of the histograms.
    """
    figure, (axes, below) = titled_figure("Log-likelihood of images", (7.5, 3.4 + 0.62 * len(rows)), rows=2)
    grid = axes.get_gridspec()
    assert grid is not None
    grid.set_height_ratios([2.4, 0.62 * len(rows)])
    style(axes, note.replace(": ", ":\n", 1), unit, "share of the images")
    arrays = {name: numbers(each).astype(float) for name, each in values.items()}
    ends = [np.quantile(each, (TAIL, 1 - TAIL)) for each in arrays.values()]
    edges = np.linspace(min(low for low, _ in ends), max(high for _, high in ends), BINS + 1)
    for (name, each), color in zip(arrays.items(), SETTING_ORDER, strict=False):
        counts, _ = np.histogram(each, edges)
        label = f"{name}, {len(each):,} images: mean " + f"{each.mean():.1f}".replace("-", "−")
        axes.stairs(counts / len(each), edges, fill=True, alpha=0.6, color=PALETTE[color], label=label)
    draw_rows(below, rows)
    axes.legend(loc="best", frameon=False, fontsize=8, labelcolor=INK)
    return figure
