"""The information of latent dimensions about the factors of the data."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from vae.figures.style import INK, TEXT, titled_figure

DARK = 0.6  # share of the colour scale from which numbers are white
LEAST = 0.005  # share of a factor's entropy that has a number: less would be 0.00


def factor_information(shares: np.ndarray, names: Sequence[str], note: str) -> Figure:
    """Draw the information of each latent dimension about each factor, the dimensions of one factor side by side.

    Args:
        shares: I(z_d; factor) / H(factor), (F, D), from 0 to 1.
        names: of the factors (F,).
        note: the line under the title.
    """
    order = by_factor(shares)
    count, dims = shares.shape
    figure, (axes,) = titled_figure("Factors and latent dimensions", (max(4.6, 0.5 * dims + 2.0), 0.42 * count + 1.7))
    axes.set_title(note, **TEXT)
    image = axes.imshow(shares[:, order], cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares[:, order]):
        if share >= LEAST:
            color = "white" if share > DARK else INK
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=8, color=color)
    axes.set_yticks(range(count), names)
    axes.set_xticks(range(dims), [str(dimension + 1) for dimension in order])
    axes.set_xlabel("latent dimension d", **TEXT)
    axes.tick_params(length=0, labelsize=8, labelcolor=INK)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    bar.ax.tick_params(labelsize=8, color="#999999", labelcolor=INK)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure


def by_factor(shares: np.ndarray) -> list[int]:
    """Return latent dimensions in the order of the factor of which each has the largest share, largest share first.

    Args:
        shares: I(z_d; factor) / H(factor), (F, D); dimensions with less than `LEAST` of each factor come last.
    """
    best, most = shares.argmax(0), shares.max(0)
    return sorted(range(shares.shape[1]), key=lambda dim: (most[dim] < LEAST, best[dim], -most[dim]))
