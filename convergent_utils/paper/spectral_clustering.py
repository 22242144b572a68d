"""What 05_spectral_clustering reads, what it computes of groups of units, and its own figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..kernels.affinities import mapping_affinity, subspace_overlap
from ..kernels.clustering import (
    MergeTree,
    cluster_composition,
    crossing_share,
    hierarchical_clustering,
    spectral_embedding,
)
from ..kernels.correlation import correlation
from ..kernels.matching import bipartite_matching
from ..kernels.moments import PairMoments
from ..kernels.restricted import best_rotation, matching_map
from ..kernels.rotation import random_rotation
from ..kernels.sparse_mapping import MappingPath, best_subset_mapping, least_squares
from ..nets.declared import Measured
from .networks import Setting, measurements
from .rungs import predicted

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOTEBOOK = "05_spectral_clustering"
SCALES = ("bipartite", "best unit", "best rotation", "linear")  # maps that are compared on one scale
_TURNS = 3
SHADE = "as a share of its 99th percentile"
_CROSSING, _HIGHER = "#000000", "#bbbbbb"


def things(setting: Setting) -> dict[tuple, Measured]:
    """Measurements, by the names under which the notebook asks for them."""
    return measurements(setting, ("trained", "all"), ("untrained", "all"))


def merge_tree(affinity: Tensor, n_components: int, linkage: str = "average") -> MergeTree:
    """The tree of merges of units in a spectral embedding.

    Args:
        affinity: (units, units) of both networks.
        n_components: how many eigenvectors; fewer where fewer units have links.
        linkage: see `hierarchical_clustering`.
    """
    k = min(n_components, int((affinity.sum(1) > 0).sum()))
    return hierarchical_clustering(spectral_embedding(affinity, k), linkage=linkage)


def crossings_of_choices(affinity: Tensor, n_components: Sequence[int], linkages: Sequence[str]) -> np.ndarray:
    """The share of leaf merges that cross the networks, (numbers of eigenvectors, linkages), of equally wide nets."""
    whole = spectral_embedding(affinity, min(max(n_components), int((affinity.sum(1) > 0).sum())))
    found = np.zeros((len(n_components), len(linkages)))
    for row, k in enumerate(n_components):
        part = replace(whole, vectors=whole.vectors[:, :k], eigenvalues=whole.eigenvalues[:k])
        for column, linkage in enumerate(linkages):
            tree = hierarchical_clustering(part, linkage=linkage)
            found[row, column] = float(crossing_share(tree, len(affinity) // 2))
    return found


def shuffled_map(path: MappingPath, generator: torch.Generator) -> MappingPath:
    """A map whose entries are permuted within each column: as many links of the same strengths, to other units."""
    order = torch.rand(path.coefficients.shape, generator=generator).argsort(1)
    return replace(path, coefficients=path.coefficients.gather(1, order))


def shuffled_affinities(there: MappingPath, back: MappingPath, count: int, *, seed: int) -> list[Tensor]:
    """Affinities of two maps, each time of maps that are shuffled anew."""
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(count):
        found.append(mapping_affinity(shuffled_map(there, generator), shuffled_map(back, generator)))
    return found


def halves(labels: Tensor, units_a: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each group that holds two or more units of either net, the units of net a and those of net b."""
    for k in (cluster_composition(labels, units_a) >= 2).all(1).nonzero()[:, 0].tolist():
        yield (labels[:units_a] == k).nonzero()[:, 0], (labels[units_a:] == k).nonzero()[:, 0]


def dealt(groups: Iterator[tuple[Tensor, Tensor]], units_a: int, units_b: int, *, seed: int) -> Iterator:
    """Groups of the same sizes of units drawn at random, in place of these."""
    generator = torch.Generator().manual_seed(seed)
    for a, b in groups:
        drawn = (torch.randperm(n, generator=generator) for n in (units_a, units_b))
        yield tuple(units[: len(half)] for units, half in zip(drawn, (a, b), strict=True))


def overlap(pair: PairMoments, units_a: Tensor, units_b: Tensor) -> float:
    """Mean cosine of the principal angles between the spans of some units of net a and some of net b."""
    return float(subspace_overlap(pair, units_a, units_b).mean())


def angles_and_matches(pair: PairMoments, groups: Iterator[tuple[Tensor, Tensor]]) -> np.ndarray:
    """Mean over groups: the cosine of the principal angles, and the correlation of matched units, of either sign; (2,).

    Zeros where there are no groups.
    """
    scores, numbers = correlation(pair).matrix.abs(), []
    for a, b in groups:
        matched = bipartite_matching(scores[a][:, b])
        numbers.append((overlap(pair, a, b), float(matched.score[matched.index >= 0].mean())))
    return np.mean(numbers, axis=0) if numbers else np.zeros(2)


def on_one_scale(fit: PairMoments, held: PairMoments, maps: Sequence[str] = SCALES) -> np.ndarray:
    """How well units of net b are predicted from net a on other images, by maps of more and more freedom.

    Args:
        fit, held: moments of the images that maps are fitted on, and of others.
        maps: among `SCALES`. A matched unit or the best single unit counts whatever the sign of its correlation.

    Returns:
        (maps,) the correlation of a unit with what is predicted of it, mean over the live units of net b.
    """
    return np.array([predicted(_FITTED[name](fit), held) for name in maps])


def groups_on_one_scale(
    fit: PairMoments, held: PairMoments, groups: Iterator[tuple[Tensor, Tensor]], maps: Sequence[str] = SCALES
) -> np.ndarray:
    """`on_one_scale` within groups, mean over them; zeros where there are none.

    The larger half of a group is left those units alone that have a partner in the smaller one, so that each map reads
    the same units and predicts the same units.
    """
    scores, numbers = correlation(fit).matrix.abs(), []
    for a, b in groups:
        match = bipartite_matching(scores[a][:, b]).index
        a, b = a[match >= 0], b[match[match >= 0]]
        numbers.append(on_one_scale(among(fit, a, b), among(held, a, b), maps))
    return np.mean(numbers, axis=0) if numbers else np.zeros(len(maps))


def among(pair: PairMoments, a: Tensor, b: Tensor) -> PairMoments:
    """The moments of some units of net a and some of net b."""
    parts = {"cov_aa": pair.cov_aa[a][:, a], "cov_ab": pair.cov_ab[a][:, b], "cov_bb": pair.cov_bb[b][:, b]}
    return replace(pair, mean_a=pair.mean_a[a], mean_b=pair.mean_b[b], **parts)


def turned_on_one_scale(fit: PairMoments, held: PairMoments, *, seed: int) -> float:
    """As `on_one_scale` for matched units, when the live units of net b are standardised and turned at random.

    The mean over a few turns: what a match is worth where the space is the same and the units are others.
    """
    spread = fit.cov_bb.diagonal().sqrt()
    live = (spread > 0).nonzero()[:, 0]
    found = []
    for k in range(_TURNS):
        turn = random_rotation(max(len(live), 1), seed=seed + k)[: len(live)] / spread[live, None]
        found.append(on_one_scale(_seen(fit, live, turn), _seen(held, live, turn), SCALES[:1])[0])
    return float(np.mean(found))


def _seen(pair: PairMoments, live: Tensor, turn: Tensor) -> PairMoments:
    """The moments with net b's live units turned."""
    pair = among(pair, torch.arange(len(pair.mean_a)), live)
    within = turn.T @ pair.cov_bb @ turn
    moved = {"mean_b": pair.mean_b @ turn, "cov_ab": pair.cov_ab @ turn, "cov_bb": (within + within.T) / 2}
    return replace(pair, **moved)


def _matched(pair: PairMoments) -> MappingPath:
    """Each unit from that which it is matched with, whatever the sign of their correlation."""
    found = correlation(pair)
    return matching_map(pair, bipartite_matching(found.matrix.abs(), live_a=found.live_a, live_b=found.live_b))


_FITTED: dict[str, Callable[[PairMoments], MappingPath]] = {
    "bipartite": _matched,
    "best unit": partial(best_subset_mapping, k=1),
    "best rotation": best_rotation,
    "linear": least_squares,
}


def affinity_matrix(ax: Axes, affinity: Tensor, *, title: str, xlabel: str, bar: bool = True) -> Axes:
    """An affinity from white (none) to dark; the darkest hundredth of the entries share one colour.

    Colours follow the root of the affinity, so that weak links are seen beside strong ones.
    """
    from matplotlib.colors import PowerNorm

    values = np.asarray(affinity)
    top = np.quantile(values, 0.99) or values.max() or 1.0
    shade: dict[str, Any] = {"cmap": "mako_r", "norm": PowerNorm(0.5, 0, 1), "interpolation": "nearest"}
    image = ax.imshow((values / top).clip(max=1), aspect="auto", **shade)
    ax.set(title=title, xlabel=xlabel, xticks=[], yticks=[])
    if bar:
        ax.figure.colorbar(image, ax=ax, label=SHADE, shrink=0.85)
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
    ax.locator_params(axis="x", integer=True)
    ax.legend()
    return ax


def in_two_orders(
    figure: Figure, affinities: Mapping[str, Tensor], trees: Mapping[str, MergeTree], units_a: int
) -> None:
    """Affinities in natural order, and below in the order of their trees, with the trees between.

    Args:
        figure: to draw on.
        affinities: (units_a + units_b) squared by name, one column for each.
        trees: by the same names.
        units_a: units of net1; those after them are of net2.
    """
    rows = figure.subplots(4, len(affinities), height_ratios=(6, 3, 0.5, 6), squeeze=False)
    for (name, affinity), column in zip(affinities.items(), rows.T, strict=True):
        affinity_matrix(column[0], affinity, title=name, xlabel="", bar=False)
        quarters(column[0], units_a, len(affinity))
        tree_on_matrix(column[1:], affinity, trees[name], units_a=units_a)
        column[3].set_xlabel("order of the tree")
    for ax in rows[0, 1:]:
        ax.set_yticks([])
    rows[1, 0].set_ylabel("distance")
    figure.legend(handles=_looks(), ncols=2, loc="outside lower center")
    label = f"affinity, {SHADE}"
    figure.colorbar(rows[0, 0].images[0], ax=rows, location="bottom", label=label, shrink=0.6, aspect=40)


def quarters(ax: Axes, units_a: int, units: int) -> Axes:
    """Lines between the units of two networks in natural order, and the names of these."""
    middles = units_a / 2 - 0.5, (units_a + units) / 2 - 0.5
    ax.axhline(units_a - 0.5, color="0.5", linewidth=0.8)
    ax.axvline(units_a - 0.5, color="0.5", linewidth=0.8)
    ax.set_xticks(middles, ("net1", "net2"))
    ax.set_yticks(middles, ("net1", "net2"), rotation=90, va="center")
    ax.tick_params(length=0)
    return ax


def tree_on_matrix(axes: Sequence[Axes], affinity: Tensor, tree: MergeTree, *, units_a: int, title: str = "") -> None:
    """Above, the tree; below, to which net each leaf belongs, and the affinity in the order of the leaves.

    The smallest merges, of two single units, stand out: one colour for those of both networks, and each network's own
    colour for those within it.
    """
    import seaborn as sns
    from matplotlib.colors import ListedColormap
    from scipy.cluster import hierarchy

    from ..drawing.figures import NETWORKS

    above, strip, below = axes
    order, links = tree.leaf_order, _link_colors(tree, units_a)
    hierarchy.dendrogram(tree.merges.numpy(), ax=above, no_labels=True, link_color_func=links.__getitem__)
    for lines in above.collections:
        lines.set_linewidth(0.9)
    above.set(title=title, xticks=[])
    both = ListedColormap([NETWORKS["net1"], NETWORKS["net2"]])
    strip.imshow((order >= units_a).int()[None], cmap=both, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    strip.set(xticks=[], yticks=[])
    affinity_matrix(below, affinity[order][:, order], title="", xlabel="units in the order of the tree", bar=False)
    for ax in axes:
        sns.despine(ax=ax, left=ax is not above, bottom=True)


def _link_colors(tree: MergeTree, units_a: int) -> dict[int, str]:
    """The colour of each merge, by its number in scipy's linkage matrix."""
    from ..drawing.figures import NETWORKS

    leaves, colors = len(tree.units), {}
    for k, pair in enumerate(tree.merges[:, :2].long().tolist()):
        colors[leaves + k] = _HIGHER
        if max(pair) < leaves:
            of = {"net1" if tree.units[leaf] < units_a else "net2" for leaf in pair}
            colors[leaves + k] = _CROSSING if len(of) == 2 else _hex(NETWORKS[of.pop()])
    return colors


def _looks() -> list[Artist]:
    """What the legend of trees shows."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from ..drawing.figures import NETWORKS

    return [
        *(Patch(color=NETWORKS[net], label=f"{net}: unit, or merge of two") for net in ("net1", "net2")),
        Line2D([], [], color=_CROSSING, label="merge of two units, one of each"),
        Line2D([], [], color=_HIGHER, label="merge of larger groups"),
    ]


def _hex(color: tuple[float, float, float]) -> str:
    from matplotlib.colors import to_hex

    return to_hex(color)
