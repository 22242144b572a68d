"""The paper's figures: each function takes data and axes, draws, and returns the axes; none computes a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from ..kernels.chance import Interval

_Look = dict[str, Any]  # keywords of matplotlib
_WIDE = sns.color_palette("colorblind", 10)
_BESIDE = (_WIDE[9], (0.35, 0.35, 0.35), (0.1, 0.3, 0.15), (0.3, 0.1, 0.4))  # told apart from the others by any eye
NETWORKS = {f"net{k}": color for k, color in enumerate([*(_WIDE[k] for k in (0, 1, 2, 4)), *_BESIDE], start=1)}
# One look for each role, everywhere: colour, line, marker.
ROLES: dict[str, _Look] = {
    "semi-matching": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "bipartite": {"color": _WIDE[3], "linestyle": "-", "marker": "s"},
    "trained": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "layout": {"color": _WIDE[1], "linestyle": "--", "marker": "^"},
    "untrained": {"color": "0.45", "linestyle": "--", "marker": "v"},
    "rotated": {"color": _WIDE[2], "linestyle": "--", "marker": "P"},
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
    "natural order": {"color": "0.7", "linestyle": ":", "marker": "."},
    "bipartite, own spread": {"color": _WIDE[3], "linestyle": "--", "marker": "s"},
    "best unit": {"color": _WIDE[1], "linestyle": "-", "marker": "^"},
    "five units": {"color": _WIDE[9], "linestyle": "-", "marker": "D"},
    "best rotation": {"color": _WIDE[4], "linestyle": "-", "marker": "P"},
    "linear": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "shuffled images": {"color": "black", "linestyle": ":", "marker": "X"},
    "refitted": {"color": _WIDE[2], "linestyle": "-", "marker": "P"},
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
    "read by the output": {"color": _WIDE[4], "linestyle": "-", "marker": "D"},
    "all images": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "without the farthest": {"color": _WIDE[3], "linestyle": "-", "marker": "s"},
    "without as many at random": {"color": "0.7", "linestyle": ":", "marker": "."},
    "one moved far out": {"color": _WIDE[1], "linestyle": "-", "marker": "^"},
    "one moved to the mean distance": {"color": "0.45", "linestyle": "--", "marker": "v"},
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
    "in training": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "moved at random": {"color": "0.45", "linestyle": "--", "marker": "v"},
    "shared, given what it learned": {"color": _WIDE[3], "linestyle": "--", "marker": "D"},
    "slow with slow": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "fast with fast": {"color": _WIDE[3], "linestyle": "-", "marker": "s"},
    "slow with fast": {"color": _WIDE[9], "linestyle": "-", "marker": "X"},
    "stable half": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "unstable half": {"color": _WIDE[3], "linestyle": "-", "marker": "s"},
    "true labels": {"color": _WIDE[0], "linestyle": "-", "marker": "o"},
    "shared permutation": {"color": _WIDE[3], "linestyle": "-", "marker": "s"},
    "own permutation": {"color": _WIDE[4], "linestyle": "-", "marker": "P"},
    "true with shared": {"color": _WIDE[9], "linestyle": "-", "marker": "X"},
}


def style() -> None:
    """Type readable at half a page, a fixed resolution, no dates: the same data give the same picture."""
    sns.set_theme(context="notebook", style="ticks", palette=_WIDE)
    plt.rcParams.update({"figure.dpi": 100, "savefig.dpi": 100, "axes.spines.top": False, "axes.spines.right": False})
    plt.rcParams.update({"legend.frameon": False, "figure.constrained_layout.use": True, "axes.titlesize": "medium"})


def label_curves(ax: Axes, *, apart: float = 0.05) -> Axes:
    """Names at the right ends of the curves in the place of a legend, at least so far apart (a share of the height)."""
    names, lines = _curves(ax)
    ends = sorted((*(float(values[-1]) for values in line.get_data()[::-1]), k) for k, line in enumerate(lines))
    places, step = {}, apart * np.ptp(ax.get_ylim())  # by the layer where curves end
    for y, x, k in ends:
        place = places[round(x)] = max(y, places.get(round(x), -np.inf) + step)
        look: _Look = {"color": lines[k].get_color(), "fontsize": "small", "va": "center", "annotation_clip": False}
        ax.annotate(names[k], (x, y), (round(x) + 0.3, place), **look)
    if (legend := ax.get_legend()) is not None:
        legend.remove()
    return ax


def one_legend(figure: Figure, *, ncols: int = 3) -> Figure:
    """One legend below a figure in the place of those of its axes; what two of them draw alike stands in it once."""
    found: dict[str, Artist] = {}
    for ax in figure.axes:
        handles, names = ax.get_legend_handles_labels()
        for name, handle in zip(names, handles, strict=True):
            found.setdefault(name, handle)
        if (legend := ax.get_legend()) is not None:
            legend.remove()
    figure.legend(found.values(), found.keys(), ncols=ncols, loc="outside lower center")
    return figure


def shade_between(ax: Axes, first: str, second: str, *, label: str, text: tuple[float, float], to: float) -> Axes:
    """Shade what lies between two curves; its name stands at `text`, with a line to the middle of the shade at `to`."""
    data = dict(zip(*_curves(ax), strict=True))
    (x, y), (other_x, other_y) = (data[name].get_data() for name in (first, second))
    ax.fill(np.r_[x, other_x[::-1]], np.r_[y, other_y[::-1]], color="0.9", zorder=0)
    middle = (np.interp(to, x, y) + np.interp(to, other_x, other_y)) / 2
    ax.annotate(label, (to, middle), text, ha="center", arrowprops={"arrowstyle": "-", "color": "0.5"})
    return ax


def _curves(ax: Axes) -> tuple[list[str], list]:
    """Names and lines, without their error bars."""
    handles, names = ax.get_legend_handles_labels()
    return names, [getattr(handle, "lines", [handle])[0] for handle in handles]


def learning_curves(ax: Axes, curves: Mapping[str, Tensor], *, ylabel: str, chance: float | None = None) -> Axes:
    """One curve per network over epochs, with the chance level."""
    for name, values in curves.items():
        look: _Look = {"marker": "o", **ROLES.get(name, {"color": NETWORKS.get(name)}), "markersize": 4}
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


def spectra(ax: Axes, values: Mapping[str, Tensor], *, ylabel: str, beside: Mapping[str, Tensor] | None = None) -> Axes:
    """The units' values of each network, largest first; those `beside` (untrained networks) in grey behind."""
    for k, spectrum in enumerate((beside or {}).values()):
        look: _Look = {"color": ROLES["untrained"]["color"], "linewidth": 1, "alpha": 0.6}
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
        ax.hist(np.asarray(numbers), bins=list(bins), density=True, histtype="step", linewidth=1.6, label=name, **look)
    ax.set(xlabel=xlabel, ylabel="density")
    ax.legend()
    return ax


def sorted_matches(
    ax: Axes, scores: Mapping[str, Tensor], *, layout: Tensor | None = None, untrained: Tensor | None = None,
    rotated: Tensor | None = None,
) -> Axes:  # fmt: skip
    """Each unit's correlation with its partner, best first, beside what it is by layout, untrained, or turned."""
    baselines = {"layout": layout, "untrained": untrained, "rotated": rotated}
    curves = {**{name: values for name, values in baselines.items() if values is not None}, **scores}
    for name, values in curves.items():
        look: _Look = {**ROLES.get(name, {}), "markersize": 4}
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


def layer_map(
    ax: Axes,
    matrix: np.ndarray,
    layers: Sequence[str],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    limits: tuple[float, float] = (0, 1),
    bar: bool = True,
) -> Axes:
    """The similarity of each layer or network (rows) with each (columns), with colours from one limit to the other."""
    low, high = limits
    image = ax.imshow(matrix, cmap="mako", vmin=low, vmax=high, origin="lower", interpolation="nearest")
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.set_xticks(range(len(layers)), layers, rotation=90)
    ax.set_yticks(range(len(layers)), layers)
    if bar:
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


def pairs_of_patches(
    figure: Figure, rows: Sequence[tuple[str, Tensor, Tensor | None]], *, titles: tuple[str, str], count: int = 4
) -> Figure:
    """For each pair of units the patches that excite each most: the unit of the first net left, its partner right.

    Args:
        figure: to draw on.
        rows: caption, patches of the first unit (n, height, width, channels) uint8, patches of its partner, or None
            where it is that of the row above.
        titles: above the two halves.
        count: of each at most so many patches are shown.
    """
    halves = figure.subplots(len(rows), 2, squeeze=False)
    for (caption, first, second), (left, right) in zip(rows, halves, strict=True):
        for ax, patches in ((left, first), (right, second)):
            ax.set(xticks=[], yticks=[])
            sns.despine(ax=ax, left=True, bottom=True)
            if patches is not None:
                ax.imshow(_strip(patches[:count]), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        left.set_ylabel(caption, rotation=0, ha="right", va="center")
    for ax, title in zip(halves[0], titles, strict=True):
        ax.set_title(title)
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):  # a part of a figure has none of its own
        engine.set(h_pad=0.01, w_pad=0.02, hspace=0.02, wspace=0.02)
    return figure


def _strip(patches: Tensor) -> np.ndarray:
    """Patches side by side with a white line between."""
    padded = np.pad(patches.numpy(), ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=255)
    strip = np.concatenate(list(padded), axis=1)
    return strip[..., 0] if strip.shape[2] == 1 else strip


def _line(role: str) -> _Look:
    return {key: value for key, value in ROLES[role].items() if key != "marker"}
