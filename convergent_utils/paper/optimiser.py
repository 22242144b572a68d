"""The original optimiser of sparse mappings, run again: was it the maps or the optimiser that explained so little?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations, product

from torch import Tensor

from ..kernels.sgd_mapping import SgdRun, sgd_mappings
from ..nets.measurement import Measurement

# Li et al. 2016: the channels of their layers, and the decays of their table.
PUBLISHED_UNITS = {"conv1": 96, "conv2": 256, "conv3": 384, "conv4": 384, "conv5": 256}
DECAYS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


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
        seed: of the starts and of the order of images.

    Returns:
        For each run (steps, units_b): three entries, or four for runs of the grid without decay.
    """
    acts = [measured.sample(f"{net}.{layer}") for net in (a, b)]
    options = {"images": measured.sample_images, "halve_every": steps[1], "seed": seed}
    recipe, whole = _planned(layer, acts[1].shape[1])
    planned = [(recipe | {run for run in whole if grid and run.decay}, steps[:3])]
    planned += [({run for run in whole if not run.decay}, steps)] if grid else []
    found = {}
    for runs, wanted in planned:
        ordered = sorted(runs)
        paths = sgd_mappings(*acts, ordered, steps=wanted, **options)
        found |= {run: path.r2 for run, path in zip(ordered, paths, strict=True)}
    return found


def _planned(layer: str, own: int) -> tuple[set[SgdRun], set[SgdRun]]:
    """The runs of a layer of `own` units that tell how the recipe fares, and those of the whole grid."""
    published, starts = PUBLISHED_UNITS[layer], ("random", "zero")
    recipe = {SgdRun(start, "original", published, decay) for start in starts for decay in (0.0, 1e-4)}
    recipe.add(SgdRun("random", "original", own, 0.0))
    scales = {own, *PUBLISHED_UNITS.values()}
    whole = {SgdRun(*options, 0.0) for options in product(starts, ("original", "constant"), scales)}
    whole |= {SgdRun("random", "original", published, decay) for decay in DECAYS}
    return recipe, whole


def sgd_pairs(names: Iterable[str], every_pair: bool) -> dict[tuple[str, str], bool]:
    """All pairs of networks, and whether the whole grid is run on them: on the first and the last, or on every one."""
    pairs = list(combinations(names, 2))
    return {pair: every_pair or pair in (pairs[0], pairs[-1]) for pair in pairs}
