"""Curves over epochs: losses and the gradient norm."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vae.figures.style import (
    NEUTRAL,
    TEST,
    TRAIN,
    VAL,
    legend_below,
    style,
    titled_figure,
)

Row = Mapping[str, Any]  # one line of metrics.jsonl

LABEL_OF = {
    "train": r"train (loss: reconstruction + $\beta\,$KL)",
    "val": r"validation (loss: −ELBO, $\beta$ = 1)",
    "test": r"test (loss: −ELBO, $\beta$ = 1)",
    "test_raw": "test, raw weights",
}
STYLE_OF: dict[str, dict[str, Any]] = {
    "train": {"color": TRAIN, "linewidth": 1.3},
    "test": {"color": TEST, "linewidth": 1.3, "marker": "o", "markersize": 3},
    "test_raw": {"color": TEST, "linewidth": 1.0, "linestyle": ":", "marker": "x", "markersize": 3},
    "val": {"color": VAL, "linewidth": 1.3, "marker": "s", "markersize": 2.5, "linestyle": "--"},
}


def loss_curves(train: Sequence[Row], test: Sequence[Row]) -> Figure:
    """Draw loss, reconstruction and KL over epochs, the KL with its weight beta.

    The training loss is reconstruction + beta KL with the beta of that moment; a test loss is always -ELBO (beta = 1).

    Args:
        train, test: rows of metrics.jsonl: `split`, `epoch` (epochs seen) and nats per example under `loss`,
            `reconstruction`, `kl`; training rows also `beta`. Rows of split `val` may be among them, and, where weights
            are averaged, of `test_raw`; those of `val_raw` are not drawn.
    """
    figure, panels = titled_figure("Loss during training", (10, 3.7), columns=3)
    splits = _by_split([*train, *test])
    for axes, key, title in zip(
        panels, ("loss", "reconstruction", "kl"), ("loss", "reconstruction", "KL(q(z|x) || p(z))"), strict=True
    ):
        style(axes, title, "epochs", "nats per example")
        for split, rows in splits.items():
            axes.plot(_column(rows, "epoch"), _column(rows, key), label=LABEL_OF[split], **STYLE_OF[split])
        _zoom(axes, list(splits.values()), key)
    beta = [_draw_beta(panels[2], splits["train"])] if "train" in splits else []
    legend_below(figure, [*panels[0].lines, *beta])
    return figure


def gradient_norm(train: Sequence[Row], max_grad_norm: float | None) -> Figure:
    """Draw the global norm of the gradient before clipping, with the threshold it is clipped to.

    Args:
        train: rows of metrics.jsonl with `epoch` and `grad_norm`.
        max_grad_norm: the threshold; None: no clipping.
    """
    figure, (axes,) = titled_figure("Gradient norm during training", (6.4, 3.6))
    style(axes, "global norm before clipping, mean over each logging interval", "epochs", "L2 norm (log scale)")
    axes.plot(_column(train, "epoch"), _column(train, "grad_norm"), label="gradient norm", **STYLE_OF["train"])
    axes.set_yscale("log")
    if max_grad_norm is not None:
        axes.axhline(max_grad_norm, color=TEST, linestyle="--", label=f"clipped to {max_grad_norm:g}")
    axes.grid(which="minor", color="#f0f0f0", linewidth=0.5)
    legend_below(figure, axes.lines)
    return figure


def _by_split(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each split that is drawn and has any: train, val, test_raw, test."""
    found = {split: [row for row in rows if row["split"] == split] for split in ("train", "val", "test_raw", "test")}
    return {split: part for split, part in found.items() if part}


def _column(rows: Sequence[Row], key: str) -> np.ndarray:
    return np.array([row[key] for row in rows], dtype=float)


def _zoom(axes: Axes, curves: Sequence[Sequence[Row]], key: str) -> None:
    """Fit the y axis to the curves after the first epoch (or tenth of the run), and note the peak above it."""
    rows = [row for curve in curves for row in curve if math.isfinite(row[key])]
    if not rows:
        return
    settled_at = min(1.0, max(row["epoch"] for row in rows) / 10)
    low, peak = min(row[key] for row in rows), max(row[key] for row in rows)
    high = max(row[key] for row in rows if row["epoch"] >= settled_at)
    margin = 0.06 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)
    if peak > high + margin:
        note = f"↑ up to {peak:.3g}"
        axes.text(0.97, 0.96, note, transform=axes.transAxes, ha="right", va="top", fontsize=8, color=NEUTRAL)


def _draw_beta(axes: Axes, rows: Sequence[Row]) -> Any:
    """Draw beta on a second axis and return its line."""
    beta = _column(rows, "beta")
    twin = axes.twinx()
    (line,) = twin.plot(
        _column(rows, "epoch"), beta, color=NEUTRAL, linewidth=1.2, linestyle=":", label=r"$\beta$ in training"
    )
    twin.set_ylim(0, 1.25 * float(np.nanmax(beta, initial=0.0)) or 1.0)
    twin.set_ylabel(r"$\beta$", fontsize=9, color=NEUTRAL)
    twin.tick_params(labelsize=8, color="#999999", labelcolor=NEUTRAL)
    twin.spines[:].set_visible(False)
    return line
