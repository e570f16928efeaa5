"""The common style of all pictures: size, colours, axes, legends."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

Array = Tensor | np.ndarray

# Ten colours in an order optimised for colour-vision deficiency and looks: Petroff 2021, arXiv:2107.02270.
PALETTE = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
TRAIN, TEST, VAL, NEUTRAL = PALETTE[0], PALETTE[6], PALETTE[4], PALETTE[8]
INK = "#222222"
DPI = 150
SETTING_ORDER = (0, 6, 4, 1, 2, 5, 8, 9, 7, 3)  # of the palette, for settings side by side
MARKERS = "osD^vPX<>h"
PAD = 0.07  # inches around everything
TEXT: dict[str, Any] = {"fontsize": 9, "color": INK}


def titled_figure(
    title: str, size: tuple[float, float], *, rows: int = 1, columns: int = 1, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a titled figure of `size` inches and its axes, row by row, which may share their y scale."""
    figure = Figure(figsize=size, dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=PAD, h_pad=PAD), facecolor="white")
    figure.suptitle(title, fontsize=11, fontweight="bold", color=INK)
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharey=share_y).flat)


def style(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Give axes their title, labels, grid and quiet frame."""
    axes.set_title(title, **TEXT)
    axes.set_xlabel(x_label, **TEXT)
    axes.set_ylabel(y_label, **TEXT)
    axes.tick_params(labelsize=8, color="#999999", labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.set_axisbelow(True)
    axes.grid(color="#e4e4e4", linewidth=0.7)


def legend_below(figure: Figure, handles: Sequence[Artist], *, columns: int = 4) -> None:
    """List the handles below all axes, where they hide nothing; does nothing for none."""
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8, labelcolor=INK
        )


def color_and_marker(count: int) -> list[tuple[Any, str]]:
    """Return a colour and a marker for each of `count` settings, so that settings do not differ by colour alone."""
    colors = [PALETTE[place] for place in SETTING_ORDER]
    if count > len(colors):
        colors = list(colormaps["viridis"](np.linspace(0, 0.95, count)))
    return [(colors[place], MARKERS[place % len(MARKERS)]) for place in range(count)]


def wrap(label: str, width: int = 30, *, lines: int = 3) -> str:
    """Return a label in at most `lines` lines of about `width` letters, broken between its `key = value`s."""
    label = label.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
    parts = textwrap.wrap(
        label, width, max_lines=lines, placeholder=" …", break_on_hyphens=False, break_long_words=False
    )
    return "\n".join(parts)


def numbers(values: Array) -> np.ndarray:
    """Return an array or tensor as an array on the CPU, a tensor's floating point as float32."""
    if isinstance(values, np.ndarray):
        return values
    values = values.detach().cpu()
    return (values.float() if values.is_floating_point() else values).numpy()
