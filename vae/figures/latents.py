"""The aggregate posterior: scatter by class, 2-D histogram, marginals against the prior."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullLocator

from vae.figures.style import (
    INK,
    NEUTRAL,
    PALETTE,
    TEXT,
    TRAIN,
    Array,
    legend_below,
    numbers,
    style,
    titled_figure,
)

CLASS_ORDER = (0, 1, 3, 2, 4, 9, 5, 7, 8, 6)  # digits that lie together (3 5 8, 4 7 9) get unlike colours
NAMED_CLASSES = 60  # more classes than this are coloured, but not named
MASSES = ((0.5, "-"), (0.95, "--"))  # of the prior, that lines in the plane hold


@dataclass(frozen=True)
class ShownPrior:
    """Marginals, draws and density of a prior other than N(0, I), for pictures.

    Attributes:
        marginals: values of z_d (G,) -> the density of each dimension, (G, D).
        draws: of the prior, (S, D).
        density: points (N, D) -> the prior's density, (N,), up to a factor; None: it is not known.
    """

    marginals: Callable[[np.ndarray], np.ndarray]
    draws: np.ndarray
    density: Callable[[np.ndarray], np.ndarray] | None


def latent_scatter(
    z: Array,
    labels: Array | None,
    *,
    class_names: Sequence[str] | None = None,
    axis_names: Sequence[str] = ("$z_1$", "$z_2$"),
) -> Figure:
    """Draw posterior means in the plane, coloured by class.

    Args:
        z: posterior means (N, 2).
        labels: classes (N,), integers; None: no colours.
        class_names: name of class 0, 1, ...; a class without a name is shown by its number.
        axis_names: of the two axes.
    """
    points = numbers(z)
    order = np.random.default_rng(0).permutation(len(points))  # so that no class lies on top of the others
    figure, (axes,) = titled_figure("Test set in latent space", (6.4, 5.4))
    style(axes, f"posterior means E[z|x] of {len(points):,} images", *axis_names)
    axes.set_aspect("equal", adjustable="datalim")
    if labels is None:
        axes.scatter(*points[order].T, color=TRAIN, s=5, alpha=0.75, linewidths=0)
        return figure
    classes, index = np.unique(numbers(labels).astype(int), return_inverse=True)
    colors = class_colors(len(classes))
    axes.scatter(*points[order].T, c=colors[index[order]], s=5, alpha=0.75, linewidths=0)
    if len(classes) <= NAMED_CLASSES:
        known = dict(enumerate(class_names or ()))
        names = [known.get(label, str(label)) for label in classes.tolist()]
        _name_classes(axes, [np.median(points[index == i], axis=0) for i in range(len(names))], names, colors)
    return figure


def latent_histogram(z: Array, *, prior: ShownPrior | None = None, bins: int = 100) -> Figure:
    """Draw the aggregate posterior as a 2-D histogram with a log colour scale, under lines that hold half the prior.

    Lines are those of equal density (Hyndman 1996): no smaller region holds as much. A prior whose density is not known
    has none.

    Args:
        z: one sample of q(z|x) for each image, (N, 2).
        prior: None: N(0, I), whose lines are circles.
        bins: cells along each axis.
    """
    figure, axes, limit = _histogram("Aggregate posterior", numbers(z), bins)
    if prior is None:
        _draw_circles(axes)
    elif prior.density is not None:
        _draw_outlines(axes, prior.density, prior.draws, limit, "the prior")
    legend_below(figure, axes.lines)
    return figure


def latent_mixture(
    z: Array, draws: np.ndarray, density: Callable[[np.ndarray], np.ndarray], *, standard: bool, bins: int = 100
) -> Figure:
    """Draw the aggregate posterior as `latent_histogram` does, under lines that hold half of a mixture fitted to it.

    Args:
        z: one sample of q(z|x) for each image, (N, 2).
        draws: of the mixture, (S, 2).
        density: points (N, 2) -> the mixture's density, (N,), up to a factor.
        standard: whether the prior is N(0, I), whose lines are then drawn too.
        bins: cells along each axis.
    """
    figure, axes, limit = _histogram("Aggregate posterior and the mixture fitted to it", numbers(z), bins)
    if standard:
        _draw_circles(axes, NEUTRAL)
    _draw_outlines(axes, density, draws, limit, "the mixture")
    legend_below(figure, axes.lines, columns=2)
    return figure


def _histogram(title: str, points: np.ndarray, bins: int) -> tuple[Figure, Axes, float]:
    """Return a figure, its axes and their limit, with z (N, 2) as a 2-D histogram with a log colour scale."""
    figure, (axes,) = titled_figure(title, (5.8, 5.6))
    style(axes, f"one z ~ q(z|x) for each of {len(points):,} test images", "$z_1$", "$z_2$")
    limit = max(3.0, 1.05 * float(np.abs(points).max()))
    cells = axes.hist2d(*points.T, bins=bins, range=[[-limit, limit]] * 2, norm=LogNorm(), cmin=1, cmap="viridis")
    cells[3].set_clim(1, max(2.0, float(np.nanmax(cells[0]))))
    bar = figure.colorbar(cells[3], ax=axes, pad=0.02)
    bar.set_label("images per cell (log scale)", **TEXT)
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    bar.ax.yaxis.set_major_formatter("{x:.0f}")
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.tick_params(labelsize=8, color="#999999", labelcolor=INK)
    axes.set_aspect("equal")
    return figure, axes, limit


def latent_marginals(z: Array, *, prior: ShownPrior | None = None, max_dims: int = 8) -> Figure:
    """Draw each dimension of the aggregate posterior against the density of the prior.

    Args:
        z: one sample of q(z|x) for each image, (N, D).
        prior: None: N(0, I).
        max_dims: the most dimensions that are drawn, the first ones.
    """
    points = numbers(z)
    total, shown = points.shape[1], min(points.shape[1], max_dims)
    rows, columns = math.ceil(shown / 4), min(shown, 4)
    title = "Marginals of the aggregate posterior" + (f", first {shown} of {total} dimensions" if shown < total else "")
    figure, panels = titled_figure(
        title, (max(2.4 * columns, 5.2), 2.1 * rows + 1.1), rows=rows, columns=columns, share_y=True
    )
    limit = max(3.5, float(np.quantile(np.abs(points[:, :shown]), 0.999)))
    grid = np.linspace(-limit, limit, 200)
    normal = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    densities = np.tile(normal[:, None], total) if prior is None else prior.marginals(grid)
    label = "the prior, N(0, 1)" if prior is None else "the prior"
    handles: list[Artist] = []
    for dim, axes in enumerate(panels[:shown]):
        axes.margins(x=0)
        style(axes, "", f"$z_{{{dim + 1}}}$", "density" if dim % columns == 0 else "")
        values, edges = np.histogram(points[:, dim], bins=70, range=(-limit, limit), density=True)
        cells = axes.stairs(
            values, edges, fill=True, color=TRAIN, alpha=0.6, label="one z ~ q(z|x) for each test image"
        )
        handles = [cells, *axes.plot(grid, densities[:, dim], color=PALETTE[2], label=label)]
    for axes in panels[shown:]:
        axes.set_visible(False)
    legend_below(figure, handles)
    return figure


def class_colors(count: int) -> np.ndarray:
    """Return (count, 4) colours: the palette, or for more classes than it has, a colour map."""
    if count > len(PALETTE):
        return colormaps["turbo"](np.linspace(0, 1, count))
    return to_rgba_array([PALETTE[place] for place in CLASS_ORDER[:count]])


def _draw_circles(axes: Axes, color: str = PALETTE[2]) -> None:
    angle = np.linspace(0, 2 * math.pi, 200)
    for mass, line in MASSES:
        radius = math.sqrt(-2 * math.log(1 - mass))  # P(|z| < r) = 1 - exp(-r^2 / 2) in the plane
        label = f"holds {mass:.0%} of N(0, I)"
        axes.plot(radius * np.cos(angle), radius * np.sin(angle), line, color=color, linewidth=1.5, label=label)


def _draw_outlines(
    axes: Axes, density: Callable[[np.ndarray], np.ndarray], draws: np.ndarray, limit: float, whose: str
) -> None:
    """Draw the lines of equal density within which shares of a distribution's draws lie."""
    at_draws = density(draws)
    ticks = np.linspace(-limit, limit, 200)
    points = np.stack(np.meshgrid(ticks, ticks), -1)
    values = density(points.reshape(-1, 2)).reshape(points.shape[:-1])
    for mass, line in MASSES:
        level = float(np.quantile(at_draws, 1 - mass))
        axes.contour(ticks, ticks, values, levels=[level], colors=PALETTE[2], linewidths=1.5, linestyles=line)
        label = f"holds {mass:.0%} of {whose}"
        axes.plot([], [], line, color=PALETTE[2], linewidth=1.5, label=label)  # contours have no place in a legend


def _name_classes(axes: Axes, places: list[np.ndarray], names: list[str], colors: np.ndarray) -> None:
    """Write each class's name at its place and list them all beside the axes."""
    for (x, y), name, color in zip(places, names, colors, strict=True):
        halo = [withStroke(linewidth=2.5, foreground="white")]
        axes.text(x, y, name, color=INK, fontsize=9, fontweight="bold", ha="center", va="center", path_effects=halo)
        axes.plot([], [], "o", color=color, label=name, markersize=5)
    axes.legend(  # beside the points, where it hides nothing
        loc="upper left", bbox_to_anchor=(1.01, 1), ncols=math.ceil(len(names) / 20),
        title="class", title_fontsize=8, frameon=False, fontsize=8, labelcolor=INK,
    )  # fmt: skip
