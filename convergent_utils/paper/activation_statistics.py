"""What 01_activation_statistics reads, and its own figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ..making.things import Thing
from .networks import Setting, measurements

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOTEBOOK = "01_activation_statistics"


def things(setting: Setting) -> dict[tuple, Thing]:
    """Measurements, by the names under which the notebook asks for them."""
    return measurements(setting, ("trained", "all"), ("untrained", "all"), ("same start", "all"))


def grey_matrix(ax: Axes, matrix: Tensor, *, title: str, xlabel: str, ylabel: str) -> Axes:
    """A matrix as Li et al. showed it: its own minimum black, its own maximum white."""
    image = ax.imshow(matrix, cmap="gray", aspect="auto", interpolation="nearest")
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.figure.colorbar(image, ax=ax, label="correlation r", shrink=0.85)
    return ax


def chance_band(ax: Axes, lows: Sequence[float], highs: Sequence[float], *, label: str) -> Axes:
    """Shade what chance gives at each layer, behind the curves of `per_layer`."""
    ax.fill_between(range(len(lows)), lows, highs, color="0.88", linewidth=0, label=label, zorder=0)
    return ax
