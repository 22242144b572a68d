"""What 03_mutual_information reads, and its own figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..making.things import Thing
from .networks import Setting, measurements

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOTEBOOK = "03_mutual_information"


def things(setting: Setting) -> dict[tuple, Thing]:
    """Measurements, by the names under which the notebook asks for them."""
    return measurements(setting, ("trained", "all"), ("untrained", "all"))


def information_matrix(ax: Axes, matrix: Tensor, *, title: str, xlabel: str, ylabel: str) -> Axes:
    """Mutual information from white (none, or below none by its correction) to dark (the largest entry)."""
    image = ax.imshow(matrix, cmap="mako_r", vmin=0, aspect="auto", interpolation="nearest")
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.figure.colorbar(image, ax=ax, label="mutual information (nats)", shrink=0.85)
    return ax


def information_against_correlation(
    ax: Axes, points: Mapping[str, tuple[Tensor, Tensor]], *, normal: tuple[np.ndarray, np.ndarray]
) -> Axes:
    """One dot for each pair of units: (correlations, mutual information); the curve is that of normal units."""
    from ..drawing.figures import ROLES

    for name, (r, information) in points.items():
        color = ROLES.get(name, {}).get("color")
        ax.scatter(r.flatten(), information.flatten(), s=5, color=color, alpha=0.6, linewidths=0, label=name)
    ax.plot(*normal, color="black", linewidth=1, label="jointly normal")
    ax.set(xlabel="correlation r", ylabel="mutual information (nats)", xlim=(-1, 1))
    ax.legend(markerscale=2)
    return ax


def joint_histogram(ax: Axes, counts: Tensor, *, title: str, xlabel: str, ylabel: str) -> Axes:
    """Samples (bins_a, bins_b) in each pair of bins, on a logarithmic scale; pairs without any are white."""
    from matplotlib.colors import LogNorm

    shown = np.ma.masked_less(np.asarray(counts, dtype=float).T, 1)
    look = {"cmap": "mako_r", "norm": LogNorm(1, max(shown.max(), 2)), "interpolation": "nearest"}
    image = ax.imshow(shown, aspect="auto", origin="lower", **look)
    xticks, yticks = (range(0, n, max(1, n // 5)) for n in reversed(shown.shape))
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel, xticks=xticks, yticks=yticks)
    ax.figure.colorbar(image, ax=ax, label="samples", shrink=0.85)
    return ax


def information_over_bins(
    ax: Axes, bins: Sequence[int], curves: Mapping[str, Sequence[tuple[float, float]]], *, marked: int
) -> Axes:
    """Mutual information (corrected, as counted) over the number of bins, one of them marked."""
    from ..drawing.figures import ROLES

    for name, values in curves.items():
        corrected, counted = zip(*values, strict=True)
        color = ROLES.get(name, {}).get("color")
        ax.plot(bins, corrected, color=color, marker="o", markersize=4, label=f"{name}, corrected")
        ax.plot(bins, counted, color=color, linestyle=":", label=f"{name}, as counted")
        ax.plot(bins[marked], corrected[marked], "o", color="black", markersize=10, fillstyle="none")
    ax.set(xlabel="bins", ylabel="mutual information (nats)", xscale="log", xticks=bins, xticklabels=bins)
    ax.minorticks_off()
    ax.set_ylim(bottom=0)
    ax.legend()
    return ax
