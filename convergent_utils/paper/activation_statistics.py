"""What 01_activation_statistics reads, and its own figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..nets.declared import Measured
from .networks import Setting, measurements

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOTEBOOK = "01_activation_statistics"
_NAMED = 4  # networks that have their own colour in figures
_OUT_OF_SIGHT = 0.01  # of the most active unit of a layer: units that are less active need not fit into its picture


def things(setting: Setting) -> dict[tuple, Measured]:
    """Measurements, by the names under which the notebook asks for them."""
    return measurements(setting, ("trained", "all"), ("untrained", "all"), ("same start", "all"))


def dealt_spectra(groups: Sequence[Tensor], *, draws: int = 199, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Between which values a spectrum lies if its units are dealt from the pool of all networks' units.

    Args:
        groups: for each network its live units' values (units,).
        draws: how many spectra are dealt.
        seed: of the draws.

    Returns:
        By place in the spectrum, largest first, the values that 2.5 % of the spectra lie below and above, each (units,)
        of the largest group.
    """
    generator, pool = np.random.default_rng(seed), np.concatenate([np.asarray(group) for group in groups])
    units = max(map(len, groups))
    dealt = [np.sort(generator.permutation(pool)[:units])[::-1] for _ in range(draws)]
    low, high = np.quantile(dealt, [0.025, 0.975], axis=0)
    return low, high


def variance_components(groups: Sequence[Tensor]) -> tuple[float, float]:
    r"""How much of a variance lies between groups, and how much within them.

    .. math:: \sigma^2_{within} = MS_{within}, \qquad \sigma^2_{between} = (MS_{between} - MS_{within}) / n

    with the mean squares of a one-way analysis of variance, and n the members of a group; for groups of unequal size
    :math:`(N - \sum_j n_j^2 / N) / (k - 1)` of k groups with N members in all.

    Args:
        groups: at least two, each (members,), together with more members than groups.

    Returns:
        Between and within. The first is below 0 where the means of groups lie closer together than those of random
        groups; it is not clipped, for its mean would then be above 0.

    Source: Searle, Casella and McCulloch 1992.
    """
    values = [np.asarray(group, dtype=float) for group in groups]
    sizes, total = np.array([len(each) for each in values]), sum(map(len, values))
    centre = np.concatenate(values).mean()
    between = sum(len(each) * (each.mean() - centre) ** 2 for each in values) / (len(values) - 1)
    within = sum(((each - each.mean()) ** 2).sum() for each in values) / (total - len(values))
    members = (total - (sizes**2).sum() / total) / (len(values) - 1)
    return (between - within) / members, within


def spectra_of_layers(
    figure: Figure,
    spectra: Mapping[str, Mapping[str, Tensor]],
    *,
    chance: Mapping[str, tuple[np.ndarray, np.ndarray]],
    untrained: Mapping[str, Mapping[str, Tensor]],
) -> Figure:
    """One panel for each layer: the spectrum of each network before the band of chance; and one of untrained networks.

    Args:
        figure: to draw on, empty.
        spectra: by layer, by network: the units' mean activations (units,); those of 0 have no place.
        chance: by layer, see `dealt_spectra`.
        untrained: as `spectra`; the mean of all networks is drawn, a curve for each layer.
    """
    from ..drawing.figures import NETWORKS

    axes = figure.subplots((len(spectra) + 2) // 2, 2).flatten()
    for ax, (layer, networks) in zip(axes, spectra.items(), strict=False):
        places = np.arange(1, len(chance[layer][0]) + 1)
        ax.fill_between(places, *chance[layer], color="0.85", linewidth=0, label="shuffled labels")
        curves = {name: _spectrum(values) for name, values in networks.items()}
        for k, name in enumerate([*curves][_NAMED:] + [*curves][:_NAMED]):
            look = {"color": NETWORKS.get(name), "linewidth": 1.8, "label": name} if name in [*curves][:_NAMED] else {
                "color": "black", "linewidth": 0.6, "label": None if k else "other networks"}  # fmt: skip
            ax.plot(np.arange(1, len(curves[name]) + 1), curves[name], **look)
        loudest, quietest = (f(f(curve) for curve in curves.values()) for f in (max, min))
        ax.set(title=layer, ylim=(0.85 * max(quietest, _OUT_OF_SIGHT * loudest), 1.15 * loudest))
        _plain_log(ax)
    _spectra_before(axes[len(spectra)], untrained)
    for ax in axes[len(spectra) + 1 :]:
        ax.axis("off")
    for ax in axes[: len(spectra) : 2]:
        ax.set_ylabel("mean activation")
    for ax in axes[len(spectra) - 1 : len(spectra)]:
        ax.set_xlabel("units, most active first")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


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


def _spectrum(values: Tensor) -> np.ndarray:
    """Values of live units, largest first."""
    found = np.asarray(values)
    return np.sort(found[found > 0])[::-1]


def _spectra_before(ax: Axes, untrained: Mapping[str, Mapping[str, Tensor]]) -> Axes:
    """The spectrum of each layer before training, mean of the networks, with its name at its end."""
    from ..drawing.figures import ROLES

    look: dict[str, Any] = {key: value for key, value in ROLES["untrained"].items() if key != "marker"}
    at: dict[float, list[str]] = {}
    for layer, networks in untrained.items():
        found = [_spectrum(values) for values in networks.values()]
        units = min(map(len, found))
        curve = np.exp(np.mean([np.log(each[:units]) for each in found], axis=0))
        ax.plot(np.linspace(0, 1, units), curve, **look)
        at.setdefault(round(float(np.log10(curve[-1])), 1), []).append(layer)
    for end, layers in at.items():
        ax.annotate(", ".join(layers), (1.02, 10.0**end), va="center", annotation_clip=False, fontsize="small")
    ax.set(title="untrained, mean of networks", yscale="log", xticks=[0, 1], xticklabels=["first", "last"])
    return ax


def _plain_log(ax: Axes) -> Axes:
    """A logarithmic axis whose marks are plain numbers."""
    low, high = ax.get_ylim()
    marks = [digit * 10.0**power for power in range(-9, 9) for digit in (1, 2, 5)]
    shown = [mark for mark in marks if low <= mark <= high]
    ax.set(yscale="log", ylim=(low, high))
    ax.set_yticks(shown, [f"{mark:g}" for mark in shown])
    ax.minorticks_off()
    return ax
