"""Settings side by side: test losses over epochs and against the swept value, rate and distortion.

A setting is named by its label, and its data have one entry for each of its runs, which differ in their seed. Numbers
that are not finite are left out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from vae.figures.style import (
    NEUTRAL,
    TEXT,
    Array,
    color_and_marker,
    legend_below,
    numbers,
    style,
    titled_figure,
    wrap,
)

ONE_PANEL = 6  # more settings than this get a panel each

Curve = tuple[Array, Array]  # epochs (N,), nats per example (N,)
AlignedCurves = tuple[np.ndarray, np.ndarray]  # epochs (E,), nats per example (runs, E)


def loss_curves_by_setting(curves: Mapping[str, Sequence[Curve]]) -> Figure:
    """Draw the test loss over epochs: for each setting the mean of its runs and a band from lowest to highest.

    The mean is drawn as far as all runs of the setting have a loss. Beyond, single runs are thin dotted lines.
    The first tenth of the longest run may lie above the picture, and so may settings far worse than the others.

    Args:
        curves: for each setting the curve of each of its runs.
    """
    tables = {label: _align(runs) for label, runs in curves.items()}
    if len(tables) > ONE_PANEL:
        return _draw_panels(tables)
    figure, (axes,) = titled_figure("Test loss by setting", (7.2, 4.4))
    style(axes, "mean over seeds; band: lowest to highest", "epochs", "−ELBO (nats per example)")
    for (label, table), (color, marker) in zip(tables.items(), color_and_marker(len(tables)), strict=True):
        _draw_spread(axes, *table, color=color, marker=marker, label=wrap(label))
    _zoom([axes], list(tables.values()))
    legend_below(figure, _named_lines(axes), columns=3)
    return figure


def rate_distortion(points: Mapping[str, tuple[Array, Array]]) -> Figure:
    """Draw each run in the plane of rate and distortion, over diagonals on which -ELBO is the same (Alemi et al. 2018).

    Args:
        points: for each setting the KL (runs,) and the reconstruction -log p(x|z) (runs,), nats per example.
    """
    named_below = math.ceil(len(points) / 3) * max((wrap(label).count("\n") + 1 for label in points), default=0)
    figure, (axes,) = titled_figure("Rate and distortion", (6.8, 4.8 + 0.15 * named_below))
    style(axes, "each point is a run", "rate: KL(q(z|x) || p(z)) (nats)", "distortion: reconstruction (nats)")
    kept = {label: np.stack([numbers(rate), numbers(distortion)]) for label, (rate, distortion) in points.items()}
    kept = {label: pair[:, np.isfinite(pair).all(0)] for label, pair in kept.items()}
    limit = ceiling([pair.sum(0).mean() for pair in kept.values() if pair.size])
    for (label, pair), (color, marker) in zip(kept.items(), color_and_marker(len(kept)), strict=True):
        shown = pair[:, pair.sum(0) <= limit]
        axes.plot(
            *shown, marker, color=color, markersize=6, markeredgecolor="white", markeredgewidth=0.6,
            label=wrap(label), zorder=3,
        )  # fmt: skip
    handles = _named_lines(axes)
    axes.margins(0.12)
    _draw_diagonals(axes, np.concatenate([np.stack(line.get_data()) for line in handles] or [np.empty((2, 0))], axis=1))
    legend_below(figure, handles, columns=3)
    return figure


def loss_against(name: str, lines: Mapping[str, Mapping[float, Sequence[float]]]) -> Figure:
    """Draw the test loss against a swept number: mean and standard deviation over runs, and the runs as small dots.

    The scale is logarithmic (base 2) if all values are powers of two, or (base 10) if they span a factor of 100.

    Args:
        name: of the number on the x axis.
        lines: label of each line (empty where there is one only) -> value -> losses of its runs, nats per example.
    """
    figure, (axes,) = titled_figure(f"Test loss against {name}", (6.6, 4.2))
    style(axes, "mean ± standard deviation over seeds; small dots: single runs", name, "−ELBO (nats per example)")
    for (label, line), (color, marker) in zip(lines.items(), color_and_marker(len(lines)), strict=True):
        found = {value: finite(losses) for value, losses in sorted(line.items())}
        found = {value: losses for value, losses in found.items() if losses}
        for value, losses in found.items():
            axes.plot([value] * len(losses), losses, "o", color=color, markersize=2.5, alpha=0.6, linestyle="")
        _draw_error_bars(axes, list(found), list(found.values()), color=color, marker=marker, label=wrap(label))
    _scale_x(axes, sorted({value for line in lines.values() for value in line}))
    _cap(
        axes, [float(np.mean(kept)) for line in lines.values() for losses in line.values() if (kept := finite(losses))]
    )
    if any(lines):
        legend_below(figure, _named_lines(axes), columns=3)
    return figure


def loss_by_setting(losses: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the test loss of settings that have no order, one below the other, in the manner of `loss_against`.

    Args:
        losses: for each setting the losses of its runs, nats per example.
    """
    found = {label: finite(values) for label, values in losses.items()}
    labels = [wrap(label, 40) for label in found]
    height = 1.6 + 0.16 * sum(label.count("\n") + 2 for label in labels)
    figure, (axes,) = titled_figure("Test loss by setting", (6.6, height))
    style(axes, "mean ± standard deviation over seeds\nsmall dots: single runs", "−ELBO (nats per example)", "setting")
    for place, values in enumerate(found.values()):
        color, marker = color_and_marker(len(found))[place]
        axes.plot(values, [place] * len(values), "o", color=color, markersize=2.5, alpha=0.6, linestyle="")
        if values:
            error = [_deviation(values)]
            axes.errorbar([np.mean(values)], [place], xerr=error, color=color, fmt=marker, markersize=6, capsize=3)
        else:
            axes.text(0.02, place, "no result", transform=axes.get_yaxis_transform(), va="center", **TEXT)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    _cap(axes, [float(np.mean(values)) for values in found.values() if values], along="x")
    return figure


def ceiling(losses: Sequence[float]) -> float:
    """Return the loss above which a setting is left out of a picture, since its scale would hide the other settings.

    It is the median plus its absolute value, at least plus 1; infinity for fewer than three losses.
    """
    known = finite(losses)
    if len(known) < 3:
        return math.inf
    median = float(np.median(known))
    return median + max(abs(median), 1.0)


def finite(values: Sequence[float]) -> list[float]:
    """Return the finite values."""
    return [float(value) for value in values if math.isfinite(value)]


# --- curves -----------------------------------------------------------------------------------------------------------


def _align(runs: Sequence[Curve]) -> AlignedCurves:
    """Return the epochs (E,) at which any run has a loss, and the losses (runs, E), NaN where one has none."""
    by_epoch = [dict(zip(np.round(numbers(x), 6).tolist(), numbers(y).tolist(), strict=True)) for x, y in runs]
    epochs = sorted(set().union(*by_epoch))
    losses = np.array([[run.get(epoch, math.nan) for epoch in epochs] for run in by_epoch])
    losses = losses.reshape(len(by_epoch), len(epochs))
    return np.array(epochs), np.where(np.isfinite(losses), losses, math.nan)


def _mean(losses: np.ndarray) -> np.ndarray:
    """Return the mean over runs (E,), NaN where not all have a loss."""
    return losses.mean(0) if len(losses) else np.full(losses.shape[1], math.nan)


def _draw_spread(axes: Axes, epochs: np.ndarray, losses: np.ndarray, *, color: Any, marker: str, label: str) -> None:
    mean = _mean(losses)
    every = max(1, len(epochs) // 12)
    axes.plot(
        epochs, mean, color=color, linewidth=1.4, marker=marker, markersize=3.5, markevery=every, label=label,
        zorder=3,
    )  # fmt: skip
    if len(losses) > 1:
        axes.fill_between(
            epochs, losses.min(0), losses.max(0), where=np.isfinite(mean).tolist(),
            color=color, alpha=0.22, linewidth=0, zorder=2,
        )  # fmt: skip
    together = np.flatnonzero(np.isfinite(mean))
    start = together[-1] if len(together) else 0
    for run in losses if not np.isfinite(mean).all() else []:
        axes.plot(epochs[start:], run[start:], ":", color=color, linewidth=1, marker=".", markersize=3, label="_")


def _draw_panels(tables: Mapping[str, AlignedCurves]) -> Figure:
    """Draw each setting in a panel of its own, over the means of all others in grey."""
    columns = min(4, math.ceil(math.sqrt(len(tables))))
    rows = math.ceil(len(tables) / columns)
    size = (2.5 * columns + 0.3, 1.9 * rows + 0.9)
    figure, panels = titled_figure("Test loss by setting", size, rows=rows, columns=columns, share_y=True)
    used = panels[: len(tables)]
    for axes, (label, table), (color, _) in zip(used, tables.items(), color_and_marker(len(tables)), strict=True):
        style(axes, wrap(label, 32), "epochs", "−ELBO (nats)" if axes in panels[::columns] else "")
        for epochs, losses in tables.values():
            axes.plot(epochs, _mean(losses), color="#cccccc", linewidth=0.8, zorder=1, label="_")
        _draw_spread(axes, *table, color=color, marker="o", label="_")
    for axes in panels[len(tables) :]:
        axes.set_visible(False)
    _zoom(used, list(tables.values()))
    return figure


def _named_lines(axes: Axes) -> list[Line2D]:
    """Return the lines of a legend: those with a name and a finite value."""
    return [line for line in axes.lines if not str(line.get_label()).startswith("_") and _is_drawn(line)]


def _is_drawn(line: Line2D) -> bool:
    values = np.asarray(line.get_ydata(), dtype=float)
    return bool(np.isfinite(values).any())


def _zoom(panels: Sequence[Axes], tables: Sequence[AlignedCurves]) -> None:
    """Fit the scales of all panels to the curves after the first tenth, and note the peak above them."""
    last = max((epochs[-1] for epochs, _ in tables if len(epochs)), default=0.0)
    for axes in panels if last else []:
        axes.set_xlim(0, 1.03 * last)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=last >= 3))
    settled = [losses[:, epochs >= last / 10] for epochs, losses in tables]
    tops = [float(np.nanmax(part)) for part in settled if np.isfinite(part).any()]
    if not tops:
        return
    limit = ceiling([float(np.nanmedian(part)) for part in settled if np.isfinite(part).any()])
    shown = np.concatenate([part[np.isfinite(part) & (part <= limit)] for part in settled])
    margin = 0.06 * (shown.max() - shown.min()) or 1.0
    for axes in panels:
        axes.set_ylim(shown.min() - margin, shown.max() + margin)
    peak = max(float(np.nanmax(losses)) for _, losses in tables if np.isfinite(losses).any())
    if peak > shown.max() + margin:
        _note_above(panels[0], peak)


def _note_above(axes: Axes, peak: float) -> None:
    note = f"↑ up to {peak:.4g}"
    axes.text(0.97, 0.96, note, transform=axes.transAxes, ha="right", va="top", fontsize=8, color=NEUTRAL)


# --- the swept value --------------------------------------------------------------------------------------------------


def _draw_error_bars(
    axes: Axes, places: list[float], losses: list[list[float]], *, color: Any, marker: str, label: str
) -> None:
    means = [float(np.mean(values)) for values in losses]
    axes.errorbar(places, means, yerr=[_deviation(values) for values in losses], fmt="none", ecolor=color, capsize=3)
    axes.plot(places, means, color=color, marker=marker, markersize=5.5, linewidth=1.3, label=label or "_")


def _deviation(values: list[float]) -> float:
    """Return the standard deviation of two values or more, else NaN, for which no bar is drawn."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _scale_x(axes: Axes, values: list[float]) -> None:
    """Set the scale of the x axis, and ticks at the values where there is room for them."""
    positive = bool(values) and values[0] > 0
    if positive and len(values) > 1 and all(math.log2(value).is_integer() for value in values):
        axes.set_xscale("log", base=2)
    elif positive and values[-1] >= 100 * values[0]:
        axes.set_xscale("log")
    places = np.log(values) if axes.get_xscale() == "log" else np.array(values)
    if len(values) <= 12 and (len(values) < 2 or np.diff(places).min() > 0.05 * np.ptp(places)):
        axes.xaxis.set_major_locator(FixedLocator(values))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _cap(axes: Axes, means: Sequence[float], *, along: str = "y") -> None:
    """Leave means far above the others out of the picture, and note the largest."""
    limit = ceiling(means)
    above = [mean for mean in means if mean > limit]
    if above:
        shown = [mean for mean in means if mean <= limit]
        margin = 0.15 * (max(shown) - min(shown)) or 1.0
        axes.set(**{f"{along}lim": (min(shown) - margin, max(shown) + margin)})
        note = f"{'↑' if along == 'y' else '→'} up to {max(above):.4g}"
        axes.text(0.97, 0.96, note, transform=axes.transAxes, ha="right", va="top", fontsize=8, color=NEUTRAL)


# --- rate and distortion ----------------------------------------------------------------------------------------------


def _draw_diagonals(axes: Axes, points: np.ndarray) -> None:
    """Draw lines of equal x + y, each named at its end that is farther from the points (2, N)."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    size = np.array([right - left, top - bottom])
    for level in MaxNLocator(9, steps=[1, 2, 2.5, 5, 10]).tick_values(left + bottom, right + top):
        start, end = max(left, level - top), min(right, level - bottom)
        if end - start < 0.15 * size[0] and end - start < 0.15 * size[1]:
            continue
        axes.plot([start, end], [level - start, level - end], color=NEUTRAL, linewidth=0.8, linestyle="--", zorder=1)
        ends = [np.array([x, level - x]) for x in (start + 0.04 * (end - start), end - 0.04 * (end - start))]
        gaps = [np.hypot(*((points - place[:, None]) / size[:, None])).min(initial=9.0) for place in ends]
        first = gaps[0] > gaps[1]
        x, y = ends[0 if first else 1]
        axes.text(
            x, y, f"−ELBO = {level:g}", fontsize=7, color=NEUTRAL, rotation=-45, rotation_mode="anchor", zorder=2,
            transform_rotates_text=True, ha="left" if first else "right", va="bottom",
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip
