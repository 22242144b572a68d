"""What 03_mutual_information reads, and its own figures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..kernels.correlation import correlation
from ..kernels.moments import pair_moments
from ..kernels.mutual_information import mutual_information
from ..kernels.rotation import random_rotation
from ..making.things import Get, Report, Thing
from ..nets.declared import Measured
from ..nets.measurement import Measurement
from .networks import Setting, measurements

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOTEBOOK = "03_mutual_information"
MEASURES = ("information", "correlation", "size of correlation")
TURNS = 2  # of each network
_FEW_SAMPLES = "mutual information:"  # how the warning of few samples begins


@dataclass(frozen=True)
class Turned(Thing):
    """How alike matched units are, as they are and with one of two networks turned, see `beside_turned`; by layer.

    Attributes:
        measured: whose aligned sample is read.
        networks, layers: names.
        turns: how many.
        seed: of the first.
        binning: of the units of both networks.
    """

    title, seconds, published = "turning networks", 40.0, True

    measured: Measured
    networks: tuple[str, ...]
    layers: tuple[str, ...]
    turns: int
    seed: int
    binning: str

    def make(self, get: Get, report: Report) -> dict[str, Tensor]:
        """Turn each network, and match the others with it."""
        measured, found = get(self.measured), {}
        for k, layer in enumerate(self.layers):
            acts = [live_activations(measured, f"{net}.{layer}") for net in self.networks]
            found[layer] = beside_turned(acts, turns=self.turns, seed=self.seed, binning=self.binning)
            report((k + 1) / len(self.layers))
        return found


def things(setting: Setting) -> dict[tuple, Thing]:
    """Measurements, and ("turned", kind), by the names under which the notebook asks for them."""
    found: dict[tuple, Thing] = dict(measurements(setting, ("trained", "all"), ("untrained", "all")))
    names, layers = tuple(setting.networks), setting.layers[:-1]
    for kind in ("trained", "untrained"):
        found["turned", kind] = Turned(setting.measured(kind), names, layers, TURNS, setting.seed, "quantile")
    return found


def live_activations(measured: Measurement, block: str) -> Tensor:
    """Rows of the aligned sample (rows, units), without units that are constant on it.

    A neuron of a fully connected layer has one place only, so there each image counts once.
    """
    found = measured.sample(block)
    if block.rpartition(".")[2].startswith("fc"):
        found = found[torch.from_numpy(np.unique(measured.sample_images.numpy(), return_index=True)[1])]
    return found[:, (found != found[0]).any(0)]


def equivalent(information: Tensor) -> Tensor:
    r"""The correlation of two jointly normal units that share as much: :math:`\sqrt{1 - e^{-2I}}`.

    Args:
        information: in nats, any shape; below 0, by its correction, it counts as none.

    Source: Linfoot 1957.
    """
    return (1 - torch.exp(-2 * information.clamp(min=0))).sqrt()


def beside_turned(acts: Sequence[Tensor], *, turns: int, seed: int, binning: str = "quantile") -> Tensor:
    """How alike units and their best partners are, and what is left if the partners' network is turned at random.

    A turned network has its units, each with mean 0 and variance 1, mixed by a random rotation: the same space, other
    units. Both are binned in one way.

    Args:
        acts: of each network (rows, units), the same rows; no unit is constant.
        turns: how many rotations of each network; no two networks have the same.
        seed: of the first.
        binning: see `bin_edges`. A turned unit has no exact zeros, so with "relu-quantile" its bins are quantiles.

    Returns:
        (measures, 2, nets, nets) float64, measures as in `MEASURES`, first as they are, then turned, the mean of all
        turns: [., ., a, b] is the mean over the units of a of what each has with its best partner in b, for information
        the equivalent correlation. Zeros on the diagonal.
    """
    found = torch.zeros(len(MEASURES), 2, len(acts), len(acts), dtype=torch.float64)
    for a, b in combinations(range(len(acts)), 2):
        scores = _scores(acts[a], acts[b], binning)
        found[:, 0, a, b], found[:, 0, b, a] = _best(scores), _best([score.T for score in scores])
    for b, own in enumerate(acts):
        for k in range(turns):
            turned = _turned(own, seed + len(acts) * k + b)
            for a in (a for a in range(len(acts)) if a != b):
                found[:, 1, a, b] += _best(_scores(acts[a], turned, binning)) / turns
    return found


def _turned(acts: Tensor, seed: int) -> Tensor:
    """Rows of the turned network."""
    acts = acts.double()
    standard = (acts - acts.mean(0)) / acts.std(0, correction=0)
    return standard @ random_rotation(acts.shape[1], seed=seed)


def _scores(x: Tensor, y: Tensor, binning: str) -> list[Tensor]:
    """The likeness of all units of x to all of y, by each of the measures."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_FEW_SAMPLES)
        information = mutual_information(x, y, binning=binning)
    r = correlation(pair_moments(x.double(), y.double())).matrix
    return [equivalent(information), r, r.abs()]


def _best(scores: Sequence[Tensor]) -> Tensor:
    """Mean over units of x of the largest likeness to any unit of y, by each of the measures."""
    return torch.stack([score.max(1).values.mean() for score in scores])


def information_matrix(ax: Axes, matrix: Tensor, *, title: str, xlabel: str, ylabel: str) -> Axes:
    """Mutual information from white (none, or below none by its correction) to dark (the largest entry)."""
    image = ax.imshow(matrix, cmap="mako_r", vmin=0, aspect="auto", interpolation="nearest")
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.figure.colorbar(image, ax=ax, label="mutual information (nats)", shrink=0.85)
    return ax


def information_against_correlation(
    ax: Axes, points: Mapping[str, tuple[Tensor, Tensor]], *, normal: tuple[np.ndarray, np.ndarray]
) -> Axes:
    """One dot for each pair of units: (correlations, mutual information); the curve is that of normal units.

    A legend is left to the caller: several panels may share one.
    """
    from ..drawing.figures import ROLES

    for name, (r, information) in points.items():
        color = ROLES.get(name, {}).get("color")
        ax.scatter(r.flatten(), information.flatten(), s=5, color=color, alpha=0.6, linewidths=0, label=name)
    ax.plot(*normal, color="black", linewidth=1, label="jointly normal")
    ax.set(xlabel="correlation r", ylabel="mutual information (nats)", xlim=(-1, 1))
    return ax


def joint_histogram(ax: Axes, counts: Tensor, *, title: str, xlabel: str, ylabel: str) -> Axes:
    """Samples (bins_a, bins_b) in each pair of bins, on a logarithmic scale; pairs without any are white."""
    from matplotlib.colors import LogNorm

    shown = np.ma.masked_less(np.asarray(counts, dtype=float).T, 1)
    look: dict[str, Any] = {"cmap": "mako_r", "norm": LogNorm(1, max(shown.max(), 2)), "interpolation": "nearest"}
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
