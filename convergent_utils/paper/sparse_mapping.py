"""What 04_sparse_mapping reads: predictions of units, and the original optimiser, run again.

Was it the maps or the optimiser that explained so little?
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..kernels.chance import Interval
from ..kernels.moments import PairMoments
from ..kernels.sgd_mapping import SgdRun, sgd_mappings
from ..kernels.sparse_mapping import MappingPath, least_squares
from ..making.things import Get, Report, Thing
from ..nets.declared import Measured
from ..nets.measurement import Measurement
from .networks import Setting, measurements

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOTEBOOK = "04_sparse_mapping"

# Li et al. 2016: the channels of their layers, and the decays of their table.
PUBLISHED_UNITS = {"conv1": 96, "conv2": 256, "conv3": 384, "conv4": 384, "conv5": 256}
DECAYS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
ROWS = 128  # in a step of the optimiser; theirs had all places of 32 images


@dataclass(frozen=True)
class Sizes:
    """How much is run of the original optimiser.

    Attributes:
        steps: after how many steps runs are looked at; the rate is halved as often as the second, the recipe ends with
            the third.
        every_pair: the whole grid on every pair of networks; else the recipe on each network and the next, around the
            circle, and the whole grid on two of these pairs.
    """

    steps: tuple[int, ...] = (500, 1500, 4500, 15000)
    every_pair: bool = False


SIZES = {"smoke": Sizes(steps=(10, 30, 90, 300)), "paper": Sizes(), "full": Sizes(every_pair=True)}


@dataclass(frozen=True)
class Optimised(Thing):
    """Runs of the original optimiser from one network to another, see `sgd_runs`; by the fields of `SgdRun`."""

    title, seconds, published = "running the original optimiser", 1.5, True

    measured: Measured
    a: str
    b: str
    layer: str
    steps: tuple[int, ...]
    grid: bool
    seed: int

    def make(self, get: Get, report: Report) -> dict[tuple, Tensor]:
        """Run them."""
        options = {"layer": self.layer, "steps": self.steps, "grid": self.grid, "seed": self.seed}
        return {tuple(run): r2 for run, r2 in sgd_runs(get(self.measured), self.a, self.b, **options).items()}


def things(setting: Setting) -> dict[tuple, Thing]:
    """What the notebook reads, by the names under which it asks: measurements, and ("sgd", net a, net b, layer)."""
    measured, sizes = setting.measured("trained"), SIZES[setting.profile]
    pairs = sorted(sgd_pairs(setting.networks, setting.profile).items(), key=lambda found: not found[1])
    return measurements(setting, ("trained", "all"), ("untrained", "all")) | {
        ("sgd", a, b, layer): Optimised(measured, a, b, layer, sizes.steps, grid, setting.seed)
        for (a, b), grid in pairs
        for layer in PUBLISHED_UNITS
    }


def sgd_runs(
    measured: Measurement, a: str, b: str, *, layer: str, steps: Sequence[int], grid: bool, seed: int
) -> dict[SgdRun, Tensor]:
    """R^2 of every unit of net b predicted from net a by the original optimiser, on the aligned sample.

    Args:
        measured: of both networks.
        a, b: names of networks.
        layer: one of those in `PUBLISHED_UNITS`.
        steps: four numbers of steps in rising order; the rate is halved as often as the second, the recipe ends with
            the third.
        grid: whether to run both starts, both schedules and every number of units to the last number of steps, and all
            decays; else only what tells how the recipe fares, at the layer's own units and at those of the paper.
        seed: of the starts and of the order of rows.

    Returns:
        For each run (steps, units_b): three entries, or four for runs of the grid without decay.
    """
    acts = [measured.sample(f"{net}.{layer}") for net in (a, b)]
    recipe, whole = _planned(layer, acts[1].shape[1])
    planned = [(recipe | {run for run in whole if grid and run.decay}, steps[:3])]
    planned += [({run for run in whole if not run.decay}, steps)] if grid else []
    found = {}
    for runs, wanted in planned:
        ordered = sorted(runs)
        paths = sgd_mappings(*acts, ordered, steps=wanted, batch=ROWS, halve_every=steps[1], seed=seed)
        found |= {run: path.r2 for run, path in zip(ordered, paths, strict=True)}
    return found


def by_run(found: Mapping[tuple, Tensor]) -> dict[SgdRun, Tensor]:
    """What was made of `Optimised`, by run."""
    return {SgdRun(*run): r2 for run, r2 in found.items()}


def _planned(layer: str, own: int) -> tuple[set[SgdRun], set[SgdRun]]:
    """The runs of a layer of `own` units that tell how the recipe fares, and those of the whole grid."""
    published, starts = PUBLISHED_UNITS[layer], ("random", "zero")
    recipe = {SgdRun(start, "original", published, decay) for start in starts for decay in (0.0, 1e-4)}
    recipe.add(SgdRun("random", "original", own, 0.0))
    scales = {own, *PUBLISHED_UNITS.values()}
    whole = {SgdRun(*options, 0.0) for options in product(starts, ("original", "constant"), scales)}
    whole |= {SgdRun("random", "original", published, decay) for decay in DECAYS}
    return recipe, whole


def sgd_pairs(names: Iterable[str], profile: str) -> dict[tuple[str, str], bool]:
    """The pairs of networks that the optimiser is run on, see `Sizes`, and whether the whole grid is."""
    names = list(names)
    if SIZES[profile].every_pair:
        return dict.fromkeys(combinations(names, 2), True)
    pairs = list(pairwise([*names, names[0]]))
    return {pair: pair in (pairs[0], pairs[len(pairs) // 2]) for pair in pairs}


RIDGES = tuple(10.0**k for k in range(-6, 2))
# Even images and odd images, each in two parts; see `measure` for folds.
_HALVES = (((0, 2), (1, 3)), ((1, 3), (0, 2)))


@dataclass(frozen=True)
class Predictions:
    """Every network's units predicted from every other's, along a path of maps; networks are sorted by name.

    Attributes:
        r2: (nets, nets, penalties, units_b) R^2 on images that the map was not fitted on, [from a, of b]; NaN from a
            network to itself.
        n_predictors: (nets, nets, penalties, units_b), mean over the two fits.
    """

    r2: np.ndarray
    n_predictors: np.ndarray


def predictions(measured: Measurement, layer: str, fit: Callable[..., MappingPath]) -> Predictions:
    """Fit on the even images and judge on the odd ones, then the other way round; the mean of both.

    Args:
        measured: with four folds; image k is in fold k modulo 4.
        layer: the layer that is predicted and predicted from.
        fit: callable (half, first, second) -> MappingPath, given the moments of the images to fit on, and of the two
            parts of these, for what needs to be chosen.

    Raises:
        ValueError: another number of folds.
    """
    if len(measured.folds) != 4:
        raise ValueError(f"measured: expected four folds, got {len(measured.folds)}")
    names = sorted({block.rpartition(".")[0] for block in measured.blocks})
    found = {
        (i, k): _both_ways(measured, f"{a}.{layer}", f"{b}.{layer}", fit)
        for i, a in enumerate(names)
        for k, b in enumerate(names)
        if a != b
    }
    shape = next(iter(found.values())).shape
    values = np.full((len(names), len(names), *shape), np.nan)
    for place, value in found.items():
        values[place] = value
    return Predictions(values[:, :, 0], values[:, :, 1])


def _both_ways(measured: Measurement, a: str, b: str, fit: Callable[..., MappingPath]) -> np.ndarray:
    """R^2 and number of predictors (2, penalties, units_b) of one pair of blocks."""
    found = []
    for mine, others in _HALVES:
        path = fit(*(measured.pair(a, b, fold=fold) for fold in (mine, *mine)))
        found.append(np.stack([path.r2_on(measured.pair(a, b, fold=others)), path.n_predictors]))
    return np.mean(found, axis=0)


def dense_mapping(
    half: PairMoments, first: PairMoments, second: PairMoments, ridges: Sequence[float] = RIDGES
) -> MappingPath:
    """Least squares with the ridge that does best on one part of the images when fitted on the other, both ways."""
    ways = ((first, second), (second, first))
    judged = [least_squares(fitted, ridge=ridges).r2_on(other).mean(1) for fitted, other in ways]
    return least_squares(half, ridge=ridges[int((judged[0] + judged[1]).argmax())])


def prediction_paths(
    ax: Axes,
    paths: Mapping[str, tuple[Sequence[float], Sequence[Interval]]],
    levels: Mapping[str, Interval] | None = None,
) -> Axes:
    """R^2 over the number of predictors, with its interval; `levels` are what all units together reach."""
    from ..drawing.figures import ROLES

    for name, (n_predictors, r2) in paths.items():
        look: dict[str, Any] = ROLES.get(name, {})
        ax.plot(n_predictors, [v.estimate for v in r2], markersize=4, label=name, **look)
        ax.fill_between(n_predictors, [v.low for v in r2], [v.high for v in r2], color=look.get("color"), alpha=0.15)
    for name, level in (levels or {}).items():
        ax.axhline(level.estimate, color=ROLES.get(name, {}).get("color"), linewidth=0.8, alpha=0.7)
    ax.set(xscale="log", xlabel="predictors per unit", ylabel="$R^2$ on other images", ylim=(-0.02, 1))
    ax.set_xlim(left=0.3)  # less than one unit in three has a predictor: nothing is to be seen there
    ax.legend()
    return ax
