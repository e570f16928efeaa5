"""Use of the latent dimensions: the KL of each, and the number of active ones."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from vae.figures.style import (
    INK,
    NEUTRAL,
    TEST,
    TRAIN,
    Array,
    color_and_marker,
    legend_below,
    numbers,
    style,
    titled_figure,
    wrap,
)


def latent_use(kl: Array | None, variance: Array, *, threshold: float = 0.01) -> Figure:
    """Draw each dimension's KL and the variance of its posterior mean, the most used first.

    Args:
        kl: mean KL of each dimension (D,), nats; None: not known, and the variance alone is drawn.
        variance: Var_x(E[z_d|x]) of each dimension (D,).
        threshold: variance above which a dimension counts as active (Burda et al. 2016, section 5).
    """
    spread = numbers(variance)
    order = np.argsort(-(spread if kl is None else numbers(kl)), kind="stable")
    active = spread > threshold
    title = f"Use of the latent dimensions: {active.sum()} of {len(spread)} active"
    panels_wanted = [] if kl is None else [(numbers(kl), "KL(q($z_d$|x) || p($z_d$)), mean over the test set", "nats")]
    panels_wanted.append((spread.clip(min=1e-9), "variance of E[$z_d$|x] over the test set", "variance (log scale)"))
    figure, panels = titled_figure(title, (4.4 * len(panels_wanted) + 0.6, 3.5), columns=len(panels_wanted))
    places, bars = np.arange(len(spread)), dict[str, Artist]()
    for axes, (values, what, unit) in zip(panels, panels_wanted, strict=True):
        style(axes, what, "latent dimension d, most used first", unit)
        for chosen, color, label in ((active, TRAIN, "active"), (~active, NEUTRAL, "not active")):
            drawn = axes.bar(places[chosen[order]], values[order][chosen[order]], color=color, width=0.8)
            if drawn.patches:
                bars[label] = Patch(color=color, label=label)
        if len(places) <= 40:
            axes.set_xticks(places, [str(dim + 1) for dim in order], fontsize=8 if len(places) <= 20 else 6)
        axes.grid(visible=False, axis="x")
    panels[-1].set_yscale("log")
    panels[-1].set_ylim(min(threshold / 3, max(spread.min(initial=1.0) / 2, 1e-6)), 2 * max(spread.max(), threshold))
    line = panels[-1].axhline(threshold, color=TEST, linestyle="--", linewidth=1.2, label=f"active above {threshold:g}")
    legend_below(figure, [*bars.values(), line])
    return figure


def latent_use_by_setting(kl: Mapping[str, Sequence[Array]], active: Mapping[str, Sequence[tuple[int, int]]]) -> Figure:
    """Draw the KL of each latent dimension, by rank, and the number of active dimensions, for each setting.

    Args:
        kl: for each setting the KL (D,) of the dimensions of each of its runs, nats, in any order; a setting without
            any is left out of the left panel.
        active: for each setting the number of active dimensions of each of its runs, and of all dimensions.
    """
    looks = dict(zip(active, color_and_marker(len(active)), strict=True))
    labels = [wrap(label, 34) for label in active]
    height = max(3.6, 1.2 + 0.15 * sum(label.count("\n") + 2 for label in labels))
    figure, (left, right) = titled_figure("Use of the latent dimensions by setting", (10, height), columns=2)
    style(left, "KL of each dimension, sorted\nmean over seeds; band: lowest to highest", "rank", "nats")
    for label, runs in kl.items():
        if runs:
            ranked = np.stack([np.sort(numbers(run))[::-1] for run in runs])
            rank, (color, marker) = np.arange(1, ranked.shape[1] + 1), looks[label]
            left.plot(rank, ranked.mean(0), color=color, marker=marker, markersize=4, linewidth=1.2, label=label)
            left.fill_between(rank, ranked.min(0), ranked.max(0), color=color, alpha=0.2, linewidth=0)
    left.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    left.set_ylim(bottom=0)
    what = "active dimensions\n(variance of E[$z_d$|x] over the test set above 0.01)"
    style(right, what, "latent dimensions", "setting")
    for place, (label, counts) in enumerate(active.items()):
        color, _ = looks[label]
        total = max((dims for _, dims in counts), default=0)
        right.barh(place, total, height=0.62, color="#eeeeee", edgecolor="#bbbbbb", linewidth=0.6)
        if counts:
            right.barh(place, np.mean([used for used, _ in counts]), height=0.62, color=color, alpha=0.75)
            right.plot([used for used, _ in counts], [place] * len(counts), "o", color=INK, markersize=3)
    right.set_yticks(range(len(labels)), labels)
    right.set_ylim(len(labels) - 0.5, -0.5)
    right.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    right.grid(visible=False, axis="y")
    return figure
