"""Pictures of comparisons: curves over layers beside their baselines, maps of layers, trees of networks."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..drawing import figures
from ..kernels.checks import as_list, require_known
from .compared import Compared
from .explained import MEANINGS, pair_name

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from matplotlib.typing import RcKeyType

CHOSEN = ("bipartite matching", "linear map", "debiased CKA", "mutual k-NN", "SVCCA", "best rotation")
# One look for each role, that of all figures of this package.
LOOKS: dict[str, dict[str, Any]] = {
    "found": figures.ROLES["trained"],
    **{role: figures.ROLES[role] for role in ("rotated", "layout", "untrained", "finite sample")},
}
_LONGEST = 14  # characters of the name of a layer
_MOST_TICKS = 16
_LOWEST = -0.5  # what is smaller is written, not drawn
_INK = "#0a0b0c"  # stands for the colour of the text around, dark or light
_PAGE: dict[RcKeyType, Any] = {
    **{key: _INK for key in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")},
    "svg.fonttype": "none",
    "svg.hashsalt": "convergent",
    "font.size": 10,
}


def curves(comparison: Compared, similarities: Iterable[str] | None = None) -> Figure:
    """Small multiples: each similarity over layers, beside its baselines.

    Args:
        comparison: what `compare` returns.
        similarities: names; None: those of `CHOSEN` that were computed.

    Raises:
        ValueError: unknown similarities, or none that was computed.
    """
    names = _chosen(comparison, similarities)
    columns = 2 if len(names) == 4 else min(3, len(names))
    rows = -(-len(names) // columns)
    plt.get_backend()  # a notebook shows figures once it has one
    with plt.rc_context():
        figures.style()
        figure = Figure(figsize=(4.2 * columns, 3.1 * rows + 0.5), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True).flatten()
        for ax, name in zip(axes, names, strict=False):
            curve(ax, comparison, name)
        for ax in axes[len(names) :]:
            ax.remove()
        handles = {name: line for ax in figure.axes for line, name in zip(*ax.get_legend_handles_labels(), strict=True)}
        known = [role for role in LOOKS if role in handles]
        figure.legend([handles[role] for role in known], known, loc="outside lower center", ncols=len(known))
        figure.suptitle(plain(f"{comparison.a} and {comparison.b}"))
    return figure


def _chosen(comparison: Compared, similarities: str | Iterable[str] | None) -> list[str]:
    computed = [name for name in MEANINGS if comparison.values(name)]
    if similarities is None:
        return [name for name in CHOSEN if name in computed] or computed[:6] or _none()
    given = [similarities] if isinstance(similarities, str) else as_list(similarities, "similarities", "their names")
    for name in given:
        require_known(name, MEANINGS, "similarities")
    return [name for name in dict.fromkeys(given) if name in computed] or _none()


def _none() -> list[str]:
    raise ValueError("similarities: expected at least one that was computed, got none; Comparison.left_out says why")


def curve(ax: Axes, comparison: Compared, similarity: str) -> Axes:
    """One similarity over pairs of layers with all its baselines; no line where there is no number."""
    x = np.arange(len(comparison.pairs))
    for role, look in reversed(LOOKS.items()):
        at = {(n.layer_a, n.layer_b): n for n in comparison.numbers if (n.similarity, n.role) == (similarity, role)}
        if not at:
            continue
        numbers = [at.get(pair) for pair in comparison.pairs]
        values = np.array([np.nan if n is None else n.value for n in numbers])
        ends = np.array([(np.nan, np.nan) if n is None or n.low is None else (n.low, n.high) for n in numbers]).T
        _spread(ax, x, ends, look["color"], thin=role == "found")
        ax.plot(x, values, label=role, markersize=5, zorder=3 if role == "found" else 2, **look)
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    _limits(ax, comparison, similarity)
    ax.set(title=similarity, ylabel=MEANINGS[similarity].axis, xlim=(-0.5, len(x) - 0.5))
    _name_layers(ax, [pair_name(pair) for pair in comparison.pairs])
    return ax


def _spread(ax: Axes, x: np.ndarray, ends: np.ndarray, color: object, *, thin: bool) -> None:
    """Thin lines between two values, or a shade between them, which of a single layer is a broad line."""
    if thin or len(x) == 1:
        ax.vlines(x, *ends, color=color, linewidth=1 if thin else 12, alpha=0.8 if thin else 0.25)
    else:
        ax.fill_between(x, *ends, color=color, alpha=0.25, linewidth=0)


def _limits(ax: Axes, comparison: Compared, similarity: str) -> None:
    """From below all values to above them; those that lie far below are written."""
    of = [n for n in comparison.numbers if n.similarity == similarity and n.role in LOOKS]
    values = [v for n in of for v in (n.value, n.low, n.high) if v is not None]
    low, high = max(_LOWEST, min([0.0, *values])), max([0.2, *values])
    if MEANINGS[similarity].axis != "nats":
        high = max(high, 1.0)
    ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    for n in of:
        if n.role == "found" and n.value < _LOWEST:
            x = comparison.pairs.index((n.layer_a, n.layer_b))
            ax.annotate(f"↓ {n.value:.1f}", (x, low), ha="center", va="bottom", fontsize="small")


def _name_layers(ax: Axes, names: list[str]) -> None:
    shown = short_names(names)
    step = -(-len(names) // _MOST_TICKS)
    long = sum(map(len, shown[::step])) > 26
    ax.set_xticks(range(0, len(names), step), [plain(name) for name in shown[::step]])
    ax.tick_params(axis="x", labelrotation=90 if long and len(shown[::step]) > 8 else 35 if long else 0)
    if long and len(shown[::step]) <= 8:
        for label in ax.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")


def short_names(names: Sequence[str], longest: int = _LONGEST) -> list[str]:
    """Names without the beginning, up to a dot, that all share; the middle of long ones left out where they differ."""
    parts = [name.split(".") for name in names]
    while len(parts) > 1 and all(len(part) > 1 for part in parts) and len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    whole = [".".join(part) for part in parts]
    half = (longest - 1) // 2
    shown = [name if len(name) <= longest else f"{name[:half]}…{name[-half:]}" for name in whole]
    return shown if len(set(shown)) == len(set(whole)) else whole


def plain(name: str) -> str:
    """A name as it is, no formula in it, on one line."""
    return " ".join(str(name).split()).replace("$", r"\$")


def layer_map(comparison: Compared, similarity: str, ax: Axes | None = None) -> Axes:
    """Every layer of a (rows) with every layer of b (columns); empty where two share no sample.

    Args:
        comparison: what `compare` returns.
        similarity: any of `SIMILARITIES`.
        ax: where to draw; None: in a figure of its own.
    """
    rows, columns, values = comparison.map_values(similarity)
    if ax is None:
        size = 1.8 + 0.45 * max(len(rows), len(columns), 4)
        ax = plt.figure(figsize=(size + 1.2, size), layout="constrained").add_subplot()
    values = np.ma.masked_invalid(values.numpy())
    top = max(1.0, float(values.max())) if values.count() else 1.0
    mesh = ax.pcolormesh(values, cmap=sns.color_palette("mako", as_cmap=True), vmin=min(0.0, top), vmax=top)
    ax.set(title=similarity, xlabel=plain(comparison.b), ylabel=plain(comparison.a), facecolor="none")
    for axis, names in ((ax.xaxis, columns), (ax.yaxis, rows)):
        axis.set_ticks(np.arange(len(names)) + 0.5, [plain(name) for name in short_names(names)])
    ax.tick_params(axis="x", labelrotation=90)
    ax.figure.colorbar(mesh, ax=ax, label=MEANINGS[similarity].axis, shrink=0.8)
    if max(values.shape) <= 10:
        for (row, column), value in np.ma.ndenumerate(values):  # without those that are masked
            light = "white" if value < 0.65 * top else "black"
            ax.text(column + 0.5, row + 0.5, f"{value:.2f}", color=light, ha="center", va="center", fontsize="small")
    return ax


def tree(ax: Axes, merges: np.ndarray, names: Sequence[str], *, title: str) -> Axes:
    """A tree of networks, which are joined where they are alike.

    Args:
        ax: where to draw.
        merges: as scipy's `linkage` returns them.
        names: of the networks.
        title: what the distance is.
    """
    from scipy.cluster.hierarchy import dendrogram

    color = LOOKS["found"]["color"]
    labels = [plain(name) for name in short_names(names, 24)]
    as_one = {"color_threshold": 0, "above_threshold_color": plt.matplotlib.colors.to_hex(color)}
    dendrogram(merges, ax=ax, labels=labels, orientation="right", leaf_font_size=10, **as_one)
    ax.set(title=title, xlabel="distance at which they join", xlim=(0, max(1e-3, 1.05 * merges[:, 2].max())))
    return ax


def page_figure(width: float, height: float) -> Figure:
    """An empty figure for a page; draw on it within `page_style`."""
    return Figure(figsize=(width, height), layout="constrained")


def page_style() -> AbstractContextManager[None]:
    """A context in which what is drawn takes the colour of the text of a page, dark or light."""
    return plt.rc_context({**_PAGE, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": "medium"})


def svg(figure: Figure, name: str, said: str) -> str:
    """A figure as a part of a page, without addresses or names that another on the page could have, too.

    Args:
        figure: made within `page_style`.
        name: of letters and numbers, another for each figure of a page.
        said: what it shows, escaped already, for readers who do not see it.
    """
    written = io.StringIO()
    with page_style(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that matplotlib's own type lacks; a page has another
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    text = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>|<!--.*?-->", "", written.getvalue(), flags=re.S)
    text = re.sub(r'\s(xmlns(:\w+)?|version)="[^"]*"', "", text)
    text = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", text).replace("xlink:href", "href")
    text = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 system-ui, sans-serif", text)
    text = re.sub(r'(<svg [^>]*?) width="[^"]*pt"', r"\1", text, count=1)
    text = re.sub(r'(<svg [^>]*?) height="[^"]*pt"', r"\1", text, count=1)
    text = text.replace(_INK, "currentColor")
    return text.replace("<svg", f'<svg role="img" aria-label="{said}"', 1).replace("\n", " ")
