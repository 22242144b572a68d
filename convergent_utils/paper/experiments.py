"""Experiments too long to run while a notebook is read: `prepare` makes them in its pool, the store keeps them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..kernels import sgd_mapping as sgd_module
from ..kernels import sparse_mapping as exact_module
from ..kernels.sgd_mapping import sgd_mapping
from ..nets.measuring import Measurement

# Li et al. 2016: the channels of their layers, and the decays of their table.
PUBLISHED_UNITS = {"conv1": 96, "conv2": 256, "conv3": 384, "conv4": 384, "conv5": 256}
DECAYS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


class SgdRun(NamedTuple):
    """One run of the original optimiser, as `sgd_mapping` names its options; `units` divide the loss."""

    start: str
    schedule: str
    units: int
    decay: float


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
    return {
        run: sgd_mapping(
            *acts, images=measured.sample_images, steps=wanted, halve_every=steps[1], seed=seed, start=run.start,
            schedule=run.schedule, loss_units=run.units, decay=run.decay,
        ).r2
        for run, wanted in _planned(layer, acts[1].shape[1], steps, grid).items()
    }  # fmt: skip


def _planned(layer: str, own: int, steps: Sequence[int], grid: bool) -> dict[SgdRun, Sequence[int]]:
    """The runs of a layer with `own` units, and the numbers of steps after which each is looked at."""
    published, recipe = PUBLISHED_UNITS[layer], steps[:3]
    starts, schedules, scales = ("random", "zero"), ("original", "constant"), {own, *PUBLISHED_UNITS.values()}
    planned = {SgdRun("random", "original", own, 0.0): recipe}
    planned |= {SgdRun(start, "original", published, decay): recipe for start in starts for decay in (0.0, 1e-4)}
    if grid:
        planned |= {SgdRun("random", "original", published, decay): recipe for decay in DECAYS}
        planned |= {SgdRun(*run, 0.0): steps for run in product(starts, schedules, sorted(scales))}
    return planned


def sgd_pairs(names: Iterable[str], every_pair: bool) -> dict[tuple[str, str], bool]:
    """All pairs of networks, and whether the whole grid is run on them: on the first and the last, or on every one."""
    pairs = list(combinations(names, 2))
    return {pair: every_pair or pair in (pairs[0], pairs[-1]) for pair in pairs}


def experiment_code() -> str:
    """A checksum of the code that the experiments run."""
    files = [Path(module.__file__) for module in (sgd_module, exact_module)] + [Path(__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
