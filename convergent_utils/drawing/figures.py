"""The paper's figures: each function takes data and axes, draws, and returns the axes; none computes a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from scipy.cluster import hierarchy
from torch import Tensor

from ..kernels.chance import Interval
from ..kernels.clustering import MergeTree

_WIDE = sns.color_palette("colorblind", 10)
NETWORKS = {f"net{k}": _WIDE[color] for k, color in enumerate((0, 1, 2, 4), start=1)}
# One look for each role, everywhere: colour, line, marker.
ROLES = {
    "semi-matching": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "bipartite": {"color": _WIDE[3], "linestyle": "-", "marker": "s"},
    "trained": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "layout": {"color": _WIDE[1], "linestyle": "--", "marker": "^"},
    "untrained": {"color": "0.45", "linestyle": "--", "marker": "v"},
    "finite sample": {"color": "0.7", "linestyle": ":", "marker": "."},
    "same start": {"color": _WIDE[5], "linestyle": "-", "marker": "*"},
    "within a net": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "between nets": {"color": _WIDE[3], "linestyle": "-", "marker": "s"},
    "as they are": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "divided by the layer's mean": {"color": _WIDE[2], "linestyle": "-", "marker": "P"},
    "published": {"color": "black", "linestyle": "-.", "marker": "D"},
    "all positions": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "layout taken out": {"color": _WIDE[9], "linestyle": "-", "marker": "P"},
    "best single unit": {"color": "black", "linestyle": ":", "marker": "."},
    "random start": {"color": _WIDE[3], "linestyle": "-", "marker": "s"},
    "zero start": {"color": _WIDE[2], "linestyle": "-", "marker": "P"},
    "exact": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "maps": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "correlation": {"color": _WIDE[2], "linestyle": "-", "marker": "s"},
    "subspace": {"color": _WIDE[4], "linestyle": "-", "marker": "P"},
    "shuffled maps": {"color": "black", "linestyle": ":", "marker": "X"},
    "shuffled labels": {"color": "0.7", "linestyle": ":", "marker": "."},
    "random groups": {"color": "black", "linestyle": ":", "marker": "X"},
    "local": {"color": _WIDE[0]},
    "slightly distributed": {"color": _WIDE[9]},
    "fully distributed": {"color": _WIDE[1]},
    "unpredictable": {"color": "0.85"},
    "SVCCA directions": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "principal components": {"color": _WIDE[3], "linestyle": "-", "marker": "s"},
    "random directions": {"color": "0.45", "linestyle": "--", "marker": "v"},
    "random units": {"color": "0.7", "linestyle": ":", "marker": "."},
    "most active units": {"color": _WIDE[2], "linestyle": "-", "marker": "P"},
    "another network's start": {"color": "0.45", "linestyle": "--", "marker": "X"},
    "flattened": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "by frequency": {"color": _WIDE[3], "linestyle": "-", "marker": "s"},
    "flattened, exchanged": {"color": _WIDE[0], "linestyle": ":", "marker": "o"},
    "by frequency, exchanged": {"color": _WIDE[3], "linestyle": ":", "marker": "s"},
    "start": {"color": "0.45", "linestyle": "-", "marker": "v"},
    "35 %": {"color": _WIDE[9], "linestyle": "-", "marker": "s"},
    "75 %": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "centre": {"color": _WIDE[2], "linestyle": "-", "marker": "s"},
    "spatial means": {"color": _WIDE[4], "linestyle": "-", "marker": "X"},
    "correlations": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "weights": {"color": _WIDE[3], "linestyle": "-", "marker": "s"},
    "falling rate": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "constant rate": {"color": _WIDE[3], "linestyle": "-", "marker": "s"},
    "stable half": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "unstable half": {"color": _WIDE[3], "linestyle": "-", "marker": "s"},
    "true labels": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "shared permutation": {"color": _WIDE[3], "linestyle": "-", "marker": "s"},
    "own permutation": {"color": _WIDE[4], "linestyle": "-", "marker": "P"},
    "true with shared": {"color": _WIDE[9], "linestyle": "-", "marker": "X"},
    "equally many units": {"color": _WIDE[9], "linestyle": "-", "marker": "P"},
    "equally many units, untrained": {"color": "0.7", "linestyle": "--", "marker": "<"},
}


def style() -> None:
    """Type readable at half a page, a fixed resolution, no dates: the same data give the same picture."""
    sns.set_theme(context="notebook", style="ticks", palette=_WIDE)
    plt.rcParams.update({"figure.dpi": 100, "savefig.dpi": 100, "axes.spines.top": False, "axes.spines.right": False})
    plt.rcParams.update({"legend.frameon": False, "figure.constrained_layout.use": True, "axes.titlesize": "medium"})


def learning_curves(ax: Axes, curves: Mapping[str, Tensor], *, ylabel: str, chance: float | None = None) -> Axes:
    """One curve per network over epochs, with the chance level."""
    for name, values in curves.items():
        look = {"marker": "o", **ROLES.get(name, {"color": NETWORKS.get(name)}), "markersize": 4}
        ax.plot(range(len(values)), values, label=name, **look)
    if chance is not None:
        ax.axhline(chance, **_line("finite sample"), label="guessing")
    ax.set(xlabel="epochs of training", ylabel=ylabel)
    ax.legend()
    return ax


def filters(ax: Axes, weights: Tensor, *, title: str) -> Axes:
    """First-layer filters (units, channels, height, width) in a strip, each scaled to its own largest weight."""
    weights = weights.detach().numpy().astype(float)
    scaled = weights / np.abs(weights).max(axis=(1, 2, 3), keepdims=True).clip(min=1e-12)
    padded = np.pad(scaled, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    strip = np.concatenate(list(padded.transpose(0, 2, 3, 1)), axis=1)
    if strip.shape[2] == 1:
        ax.imshow(strip[..., 0], cmap="vlag", vmin=-1, vmax=1)
    else:
        ax.imshow(np.nan_to_num(strip, nan=1.0) / 2 + 0.5)
    ax.set_title(title, loc="left")
    ax.axis("off")
    return ax


def correlation_matrix(
    ax: Axes, matrix: Tensor, *, title: str, xlabel: str, ylabel: str, bar: bool = True, label: str = "correlation r"
) -> Axes:
    """Correlations, or weights on standardised units, with diverging colours from -1 to 1."""
    image = ax.imshow(matrix, cmap="vlag", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    if bar:
        ax.figure.colorbar(image, ax=ax, label=label, shrink=0.85)
    return ax


def grey_matrix(ax: Axes, matrix: Tensor, *, title: str, xlabel: str, ylabel: str) -> Axes:
    """A matrix as Li et al. showed it: its own minimum black, its own maximum white."""
    image = ax.imshow(matrix, cmap="gray", aspect="auto", interpolation="nearest")
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.figure.colorbar(image, ax=ax, label="correlation r", shrink=0.85)
    return ax


def spectra(ax: Axes, values: Mapping[str, Tensor], *, ylabel: str, beside: Mapping[str, Tensor] | None = None) -> Axes:
    """The units' values of each network, largest first; those `beside` (untrained networks) in grey behind."""
    for k, spectrum in enumerate((beside or {}).values()):
        look = {"color": ROLES["untrained"]["color"], "linewidth": 1, "alpha": 0.6}
        ax.plot(range(1, len(spectrum) + 1), np.sort(spectrum)[::-1], label=None if k else "untrained", **look)
    for k, (name, spectrum) in enumerate(values.items()):
        color = NETWORKS.get(name, _WIDE[k % 10])
        ax.plot(range(1, len(spectrum) + 1), np.sort(spectrum)[::-1], color=color, label=name)
    ax.set(xlabel="units, largest first", ylabel=ylabel, yscale="log")
    ax.legend()
    return ax


def clouds(ax: Axes, points: Mapping[str, tuple[Tensor, Tensor]], *, xlabel: str, ylabel: str) -> Axes:
    """One dot per unit, one colour per network."""
    for k, (name, (x, y)) in enumerate(points.items()):
        color = NETWORKS.get(name, "0.6" if name == "untrained" else _WIDE[k % 10])
        ax.scatter(x, y, s=16, color=color, alpha=0.8, linewidths=0, label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return ax


def distributions(ax: Axes, values: Mapping[str, Tensor], *, xlabel: str, bins: np.ndarray) -> Axes:
    """How often each value occurs, one outline per name, each with an area of one."""
    for name, numbers in values.items():
        look = {key: value for key, value in ROLES.get(name, {}).items() if key in ("color", "linestyle")}
        ax.hist(np.asarray(numbers), bins=bins, density=True, histtype="step", linewidth=1.6, label=name, **look)
    ax.set(xlabel=xlabel, ylabel="density")
    ax.legend()
    return ax


def chance_band(ax: Axes, lows: Sequence[float], highs: Sequence[float], *, label: str) -> Axes:
    """Shade what chance gives at each layer, behind the curves of `per_layer`."""
    ax.fill_between(range(len(lows)), lows, highs, color="0.88", linewidth=0, label=label, zorder=0)
    return ax


def sorted_matches(
    ax: Axes, scores: Mapping[str, Tensor], *, layout: Tensor | None = None, untrained: Tensor | None = None
) -> Axes:
    """Each unit's correlation with its partner, best first, beside what layout alone and untrained networks give."""
    baselines = {"layout": layout, "untrained": untrained}
    curves = {**{name: values for name, values in baselines.items() if values is not None}, **scores}
    for name, values in curves.items():
        look = {**ROLES.get(name, {}), "markersize": 4}
        ax.plot(range(1, len(values) + 1), np.sort(values)[::-1], label=name, **look)
    ax.set(xlabel="units of the first net, best matched first", ylabel="correlation r with partner", ylim=(-0.15, 1.02))
    ax.axhline(0, color="0.8", linewidth=0.8)
    ax.legend()
    return ax


def per_layer(
    ax: Axes, curves: Mapping[str, Sequence[Interval | float]], layers: Sequence[str], *, ylabel: str
) -> Axes:
    """A number per layer with its interval; curves shorter than the layers end early (published curves do)."""
    for k, (name, values) in enumerate(curves.items()):
        x = np.arange(len(values)) + 0.05 * (k - len(curves) / 2)
        middle = np.array([v.estimate if isinstance(v, Interval) else v for v in values])
        ends = [(v.low, v.high) if isinstance(v, Interval) else (v, v) for v in values]
        spread = np.abs(np.array(ends).T - middle)
        ax.errorbar(x, middle, yerr=spread, label=name, capsize=3, markersize=5, **ROLES.get(name, {"marker": "o"}))
    ax.set(xlabel="layer", ylabel=ylabel)
    ax.set_xticks(range(len(layers)), layers)
    ax.axhline(0, color="0.8", linewidth=0.8)
    ax.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.17))
    return ax


def prediction_paths(
    ax: Axes,
    paths: Mapping[str, tuple[Sequence[float], Sequence[Interval]]],
    levels: Mapping[str, Interval] | None = None,
) -> Axes:
    """R^2 over the number of predictors, with its interval; `levels` are what all units together reach."""
    for name, (n_predictors, r2) in paths.items():
        look = ROLES.get(name, {})
        ax.plot(n_predictors, [v.estimate for v in r2], markersize=4, label=name, **look)
        ax.fill_between(n_predictors, [v.low for v in r2], [v.high for v in r2], color=look.get("color"), alpha=0.15)
    for name, level in (levels or {}).items():
        ax.axhline(level.estimate, color=ROLES.get(name, {}).get("color"), linewidth=0.8, alpha=0.7)
    ax.set(xscale="log", xlabel="predictors per unit", ylabel="$R^2$ on other images", ylim=(-0.02, 1))
    ax.set_xlim(left=0.3)  # less than one unit in three has a predictor: nothing is to be seen there
    ax.legend()
    return ax


def convergence(
    ax: Axes,
    runs: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    levels: Mapping[str, float],
    marks: Mapping[str, float],
) -> Axes:
    """R^2 of an optimiser over its effective time, beside what needs no optimiser, with marked times."""
    for name, (times, r2) in runs.items():
        look = {key: value for key, value in ROLES.get(name, {}).items() if key != "linestyle"}
        ax.plot(times, r2, linestyle="none", markersize=4, alpha=0.7, label=name, **look)
    for name, level in levels.items():
        ax.axhline(level, label=name, **_line(name))
    for name, time in marks.items():
        ax.axvline(time, color="0.6", linewidth=0.8, label=name)
    ax.set(xscale="log", xlabel="effective time", ylabel="$R^2$, mean over units", ylim=(-0.3, 1))
    return ax


def accuracy_over_kept(
    ax: Axes, kept: Sequence[int], curves: Mapping[str, Sequence[Interval]], *, levels: Mapping[str, float], xlabel: str
) -> Axes:
    """Accuracy over how many directions or units are kept, with its interval, and levels to compare it with."""
    for k, (name, values) in enumerate(curves.items()):
        x = np.array(kept[: len(values)]) * 1.04 ** (k - len(curves) / 2)
        middle = np.array([v.estimate for v in values])
        spread = np.abs(np.array([(v.low, v.high) for v in values]).T - middle)
        look = {"capsize": 2, "elinewidth": 0.8, "markersize": 4, **ROLES.get(name, {"marker": "o"})}
        ax.errorbar(x, middle, yerr=spread, label=name, **look)
    for (name, level), line in zip(levels.items(), ("-", ":"), strict=False):
        ax.axhline(level, color="black", linewidth=0.8, linestyle=line, label=name)
    ax.set(xscale="log", xlabel=xlabel, ylabel="test accuracy", xticks=kept, xticklabels=kept, ylim=(0, 1))
    ax.minorticks_off()
    return ax


def layer_map(
    ax: Axes,
    matrix: np.ndarray,
    layers: Sequence[str],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    limits: tuple[float, float] = (0, 1),
) -> Axes:
    """The similarity of each layer or network (rows) with each (columns), with colours from one limit to the other."""
    low, high = limits
    image = ax.imshow(matrix, cmap="mako", vmin=low, vmax=high, origin="lower", interpolation="nearest")
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.set_xticks(range(len(layers)), layers, rotation=90)
    ax.set_yticks(range(len(layers)), layers)
    ax.figure.colorbar(image, ax=ax, label="similarity", shrink=0.7)
    return ax


def canonical_correlations(ax: Axes, spectra: Mapping[str, Tensor], *, title: str = "") -> Axes:
    """The canonical correlations of each comparison, largest first."""
    for name, rho in spectra.items():
        look = ROLES.get(name, {}) if len(rho) < 200 else _line(name)  # marks of more would hide the line
        ax.plot(range(1, len(rho) + 1), np.sort(rho)[::-1], markersize=3, label=name, **look)
    ax.set(title=title, xlabel="canonical directions, most alike first", ylabel=r"correlation $\rho$", ylim=(0, 1.02))
    ax.legend()
    return ax


def weights(ax: Axes, values: Tensor) -> Axes:
    """What each canonical correlation counts in a similarity, as a share of the largest, beside the correlations."""
    ax.plot(range(1, len(values) + 1), values / values.max(), markersize=3, label="weights", **ROLES["weights"])
    ax.set_ylabel(r"correlation $\rho$; weight, of the largest")
    ax.legend()
    return ax


def shares(ax: Axes, parts: Mapping[str, Sequence[float]], labels: Sequence[str], *, ylabel: str) -> Axes:
    """Stacked bars that add up to one."""
    bottom = np.zeros(len(labels))
    for name, values in parts.items():
        ax.bar(labels, values, bottom=bottom, color=ROLES[name]["color"], label=name, width=0.7)
        bottom += np.asarray(values)
    ax.set(ylabel=ylabel, ylim=(0, 1))
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    return ax


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
    for name, (r, information) in points.items():
        color = ROLES.get(name, {}).get("color")
        ax.scatter(r.flatten(), information.flatten(), s=5, color=color, alpha=0.6, linewidths=0, label=name)
    ax.plot(*normal, color="black", linewidth=1, label="jointly normal")
    ax.set(xlabel="correlation r", ylabel="mutual information (nats)", xlim=(-1, 1))
    ax.legend(markerscale=2)
    return ax


def joint_histogram(ax: Axes, counts: Tensor, *, title: str, xlabel: str, ylabel: str) -> Axes:
    """Samples (bins_a, bins_b) in each pair of bins, on a logarithmic scale; pairs without any are white."""
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


def pairs_of_patches(figure: Figure, rows: Sequence[tuple[str, Tensor, Tensor]], *, titles: tuple[str, str]) -> Figure:
    """For each pair of units the patches that excite each most: the unit of the first net left, its partner right.

    Args:
        figure: to draw on.
        rows: caption, patches of the first unit (n, height, width, channels) uint8, patches of its partner.
        titles: above the two halves.
    """
    halves = figure.subplots(len(rows), 2, squeeze=False)
    for (caption, first, second), (left, right) in zip(rows, halves, strict=True):
        for ax, patches in ((left, first), (right, second)):
            ax.imshow(_strip(patches), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            sns.despine(ax=ax, left=True, bottom=True)
        left.set_ylabel(caption, rotation=0, ha="right", va="center", fontsize="small")
    for ax, title in zip(halves[0], titles, strict=True):
        ax.set_title(title)
    return figure


def _strip(patches: Tensor) -> np.ndarray:
    """Patches side by side with a white line between."""
    padded = np.pad(patches.numpy(), ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=255)
    strip = np.concatenate(list(padded), axis=1)
    return strip[..., 0] if strip.shape[2] == 1 else strip


def _line(role: str) -> dict[str, object]:
    return {key: value for key, value in ROLES[role].items() if key != "marker"}
