"""Experiments too long to run while a notebook is read: `prepare` makes them in its pool, the store keeps them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ..kernels import cca, dft_cca, sgd_mapping, sparse_mapping
from ..nets import interventions
from . import families, freezing, optimiser, projections

if TYPE_CHECKING:
    from .prepare import Prepared


@dataclass(frozen=True)
class Experiment:
    """One kind of experiment.

    Attributes:
        title: what the line of progress calls it.
        notebooks: those that read it.
        keys: from what is prepared to the keys of all runs of it, longest first.
        run: from what is prepared and a key to the result, of a kind that the store takes.
        settings: from what is prepared to all that decides the results beside key, code and measured networks.
        modules: whose code decides the results.
        seconds: what one run takes, about; only for the estimate that is shown.
        on_trained: whether it is made on the trained networks; else it can run while they are trained.
        reads: which networks at which positions it needs measured, beside what its notebooks read.
        published: whether the results are small enough to lie in data/results/experiments.
    """

    title: str
    notebooks: tuple[str, ...]
    keys: Callable[[Prepared], list[tuple]]
    run: Callable[..., object]
    settings: Callable[[Prepared], dict[str, object]]
    modules: tuple[ModuleType, ...]
    seconds: float
    on_trained: bool = True
    reads: tuple[tuple[str, str | int], ...] = ()
    published: bool = True

    def code(self) -> str:
        """A checksum of the code that decides the results."""
        return hashlib.sha256(b"".join(Path(module.__file__).read_bytes() for module in self.modules)).hexdigest()


def _sgd_keys(paper: Prepared) -> list[tuple]:
    pairs = sorted(paper.sgd_pairs, key=lambda pair: not paper.sgd_pairs[pair])
    return [(*pair, layer) for pair in pairs for layer in optimiser.PUBLISHED_UNITS]


def _sgd(paper: Prepared, a: str, b: str, layer: str) -> dict[tuple, object]:
    options = {"layer": layer, "steps": paper.sgd_steps, "grid": paper.sgd_pairs[a, b], "seed": paper.seed}
    return {tuple(run): r2 for run, r2 in optimiser.sgd_runs(paper.measured(), a, b, **options).items()}


def _projection_keys(paper: Prepared) -> list[tuple]:
    return [(net, layer) for layer, net in product(projections.LAYERS, paper.networks)]


def _projection(paper: Prepared, net: str, layer: str) -> dict[tuple, object]:
    fitted = paper.measured("training images")
    return projections.projections(net, paper.networks, layer, fitted, paper.test_set, seed=paper.seed)


def _freezing_keys(paper: Prepared) -> list[tuple]:
    return [(variant, seed) for variant in freezing.VARIANTS[::-1] for seed in freezing.SEEDS]


def _freezing(paper: Prepared, variant: str, seed: int) -> dict[str, float]:
    options = {"recipe": paper.settings.freezing_recipe, "limit": paper.settings.freezing_limit}
    return freezing.freeze_training(variant, paper.train_set, paper.test_set, **options, seed=paper.seed + seed)


def _by_frequency(paper: Prepared, a: str, b: str) -> dict[str, object]:
    return projections.by_frequency(paper.networks[a], paper.networks[b], paper.test_set.images)


def _sgd_settings(paper: Prepared) -> dict[str, object]:
    return {"steps": paper.sgd_steps, "every_pair": paper.settings.every_pair, "seed": paper.seed}


def _projection_settings(paper: Prepared) -> dict[str, object]:
    return {"train_set": paper.train_set.source, "seed": paper.seed}


def _freezing_settings(paper: Prepared) -> dict[str, object]:
    data = [paper.train_set.source, paper.test_set.source, paper.settings.freezing_limit]
    return {"recipe": asdict(paper.settings.freezing_recipe), "data": data, "seed": paper.seed}


def _family_keys(paper: Prepared) -> list[tuple]:
    longest_first = sorted(families.members(paper.settings.families), key=lambda name: name != families.FOLLOWED[1])
    return [(family, member) for family in longest_first for member in paper.members(family)]


def _family_settings(paper: Prepared) -> dict[str, object]:
    data = [paper.train_set.source, paper.test_set.source]
    return {"sizes": asdict(paper.settings.families), "data": data, "seed": paper.seed}


EXPERIMENTS = {
    "family": Experiment(
        title="training families",
        notebooks=("07_pwcca",),
        keys=_family_keys,
        run=families.make,
        settings=_family_settings,
        modules=(families,),
        seconds=20.0,
        on_trained=False,
        published=False,
    ),
    "sgd": Experiment(
        title="running the original optimiser",
        notebooks=("04_sparse_mapping",),
        keys=_sgd_keys,
        run=_sgd,
        settings=_sgd_settings,
        modules=(sgd_mapping, sparse_mapping, optimiser),
        seconds=1.5,
    ),
    "dft": Experiment(
        title="comparing whole maps",
        notebooks=("06_svcca",),
        keys=lambda paper: [tuple(list(paper.networks)[:2])],
        run=_by_frequency,
        settings=lambda paper: {},
        modules=(cca, dft_cca, projections),
        seconds=20.0,
    ),
    "projection": Experiment(
        title="projecting layers",
        notebooks=("06_svcca",),
        keys=_projection_keys,
        run=_projection,
        settings=_projection_settings,
        modules=(cca, interventions, projections),
        seconds=15.0,
        reads=(("training images", "all"),),
    ),
    "freezing": Experiment(
        title="freeze training",
        notebooks=("06_svcca",),
        keys=_freezing_keys,
        run=_freezing,
        settings=_freezing_settings,
        modules=(interventions, freezing),
        seconds=40.0,
        on_trained=False,
    ),
}
