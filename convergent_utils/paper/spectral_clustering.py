"""What 05_spectral_clustering reads, and its own figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..kernels.clustering import MergeTree
from ..making.things import Thing
from .networks import Setting, measurements

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOTEBOOK = "05_spectral_clustering"


def things(setting: Setting) -> dict[tuple, Thing]:
    """Measurements, by the names under which the notebook asks for them."""
    return measurements(setting, ("trained", "all"), ("untrained", "all"))


def affinity_matrix(ax: Axes, affinity: Tensor, *, title: str, xlabel: str) -> Axes:
    """An affinity from white (none) to dark; the darkest hundredth of the entries share one colour."""
    image = ax.imshow(affinity, cmap="mako_r", vmin=0, vmax=np.quantile(affinity, 0.99), interpolation="nearest")
    ax.set(title=title, xlabel=xlabel, xticks=[], yticks=[])
    ax.figure.colorbar(image, ax=ax, label="affinity", shrink=0.85)
    return ax


def group_edges(ax: Axes, labels: Tensor) -> Axes:
    """Lines between the groups of a matrix whose rows and columns are sorted by these labels."""
    for edge in (labels.diff().nonzero()[:, 0] + 0.5).tolist():
        ax.axhline(edge, color="black", linewidth=0.6)
        ax.axvline(edge, color="black", linewidth=0.6)
    return ax


def stacked_counts(ax: Axes, counts: Mapping[str, Sequence[int]], *, title: str) -> Axes:
    """One bar per group: how many units of each network it holds."""
    from ..drawing.figures import NETWORKS

    bottom = 0
    for name, values in counts.items():
        heights = np.asarray(values)
        ax.bar(range(1, len(heights) + 1), heights, bottom=bottom, color=NETWORKS[name], label=name)
        bottom = bottom + heights
    ax.set(title=title, xlabel="groups, largest first", ylabel="units in the group")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend()
    return ax


def tree_on_matrix(axes: Sequence[Axes], affinity: Tensor, tree: MergeTree, *, units_a: int, title: str) -> None:
    """Above, the tree of merges; below, to which net each leaf belongs, and the affinity in the order of the leaves."""
    import seaborn as sns
    from matplotlib.colors import ListedColormap
    from scipy.cluster import hierarchy

    from ..drawing.figures import NETWORKS

    above, strip, below = axes
    order = tree.leaf_order
    hierarchy.dendrogram(tree.merges.numpy(), ax=above, no_labels=True, color_threshold=0, above_threshold_color="0.3")
    above.set(title=title, yticks=[])
    strip.imshow(
        (order >= units_a).int()[None], cmap=ListedColormap([NETWORKS["net1"], NETWORKS["net2"]]), aspect="auto"
    )
    strip.set(xticks=[], yticks=[])
    affinity = affinity[order][:, order]
    below.imshow(
        affinity, cmap="mako_r", vmin=0, vmax=np.quantile(affinity, 0.99), aspect="auto", interpolation="nearest"
    )
    below.set(xticks=[], yticks=[], xlabel="units of both nets, in the order of the tree")
    for ax in axes:
        sns.despine(ax=ax, left=True, bottom=True)
