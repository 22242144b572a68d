"""Everything a notebook reads: it is loaded from the store, or made once, in one pool of one-thread processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..kernels.checks import require_known
from ..kernels.sgd_mapping import SgdRun
from ..nets.activations import patch, receptive_field
from ..nets.datasets import Dataset, load_dataset
from ..nets.measuring import Measurement, measure, measurement_configuration
from ..nets.networks import Network, build_network, permuted_copy
from ..nets.store import Store, configuration_hash, load
from ..nets.training import VERSION, History, Recipe, Trained, train
from .experiments import PUBLISHED_UNITS, experiment_code, sgd_pairs, sgd_runs
from .pool import run_jobs

REORDERED = "net1-reordered"
PUBLISHED = Path(__file__).parents[2] / "data" / "networks"
_SECONDS_PER_IMAGE = 1e-3  # of training, on one thread; only for the estimate that is shown
_SECONDS_PER_STEP = 3e-4  # of the original optimiser, a layer's runs together
_LEAST_ACCURACY = {"fashion-mnist": 0.85}  # elsewhere: twice what guessing gives
_MOST_DEAD = 0.25  # of a layer's units
_FOLDS = 4  # two to fit on and two to judge on; of the two to fit on, one may choose what the other fitted


@dataclass(frozen=True)
class Profile:
    """How large a run is."""

    recipe: Recipe
    n_networks: int
    train_limit: int | None = None
    test_limit: int | None = None
    sample: int = 4096
    planted: bool = False  # net2 is a shuffled copy of net1, net3 an independent untrained network
    sgd_steps: tuple[int, ...] = (500, 1500, 4500, 15000)
    every_pair: bool = False  # the whole grid of the original optimiser on every pair of networks


PROFILES = {
    "smoke": Profile(
        Recipe(epochs=3), 3, train_limit=2048, test_limit=512, sample=1024, planted=True, sgd_steps=(10, 30, 90, 300)
    ),
    "paper": Profile(Recipe(), 4),
    "full": Profile(Recipe(), 4, every_pair=True),
}
# What each notebook reads, beside the networks: (which networks, positions).
MEASUREMENTS = {
    "00_networks": [("trained", "all")],
    "01_activation_statistics": [("trained", "all"), ("untrained", "all"), ("same start", "all")],
    "02_one_to_one_matching": [
        *(("trained", "all"), ("untrained", "all"), ("same start", "all")),
        *(("trained", "centre"), ("trained", "mean")),
    ],
    "03_mutual_information": [("trained", "all"), ("untrained", "all")],
    "04_sparse_mapping": [("trained", "all"), ("untrained", "all")],
    "05_spectral_clustering": [("trained", "all"), ("untrained", "all")],
}
SGD_NOTEBOOKS = ("04_sparse_mapping",)  # those that read the runs of the original optimiser


@dataclass(frozen=True)
class Prepared:
    """What the notebooks read.

    Attributes:
        trained: by name, net1 first.
        reordered: net1 trained again from the same start, with its images in another order.
        train_set, test_set: the images they were trained on, and those that everything is measured on.
    """

    trained: dict[str, Trained]
    reordered: Trained
    train_set: Dataset
    test_set: Dataset
    profile: str
    seed: int
    store: Store = field(repr=False)

    @cached_property
    def networks(self) -> dict[str, Network]:
        """The trained networks by name."""
        return {name: trained.network for name, trained in self.trained.items()}

    @cached_property
    def untrained(self) -> dict[str, Network]:
        """The same networks before their first step, by the same names."""
        return {name: trained.at(0.0) for name, trained in self.trained.items()}

    @cached_property
    def same_start(self) -> dict[str, Network]:
        """Two networks that differ in nothing but the order of their images: how alike can two networks be?"""
        return {"net1": self.networks["net1"], REORDERED: self.reordered.network}

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers that all networks have, from bottom to top."""
        return next(iter(self.networks.values())).layers

    def dead_share(self) -> dict[str, float]:
        """For each block "network.layer" of the trained networks the share of units that fire on no test image."""
        measured = self.measured()
        return {block: float((measured.active_share(block) == 0).double().mean()) for block in measured.blocks}

    def measured(self, which: str = "trained", positions: str | int = "all") -> Measurement:
        """The measurement on the test images of all networks, "trained" or "untrained", or of the "same start" pair.

        It is read from the store if it is there.
        """
        require_known(which, ("trained", "untrained", "same start"), "which")
        arguments, options = self._measuring(which, positions)
        return measure(*arguments, **options, store=self.store)

    def has_measured(self, which: str, positions: str | int) -> bool:
        """Whether the store holds that measurement, undamaged."""
        arguments, options = self._measuring(which, positions)
        return self.store.find("measurement", measurement_configuration(*arguments, **options)) is not None

    def patches(self, net: str, layer: str, unit: int, *, count: int = 6) -> Tensor:
        """The patches of test images that excite a unit of a trained network most, strongest first.

        (count, height, width, channels) uint8, as large as the unit's receptive field, black beyond the image.
        """
        top, field = self.measured().top(f"{net}.{layer}"), receptive_field(self.networks[net], layer)
        chosen = zip(top.image[unit, :count].tolist(), top.place[unit, :count].tolist(), strict=True)
        return torch.cat([patch(self.test_set.images[k : k + 1], field, place) for k, place in chosen])

    @property
    def sgd_pairs(self) -> dict[tuple[str, str], bool]:
        """The pairs of networks that the original optimiser was run on, and whether with the whole grid."""
        return sgd_pairs(self.networks, PROFILES[self.profile].every_pair)

    @property
    def sgd_steps(self) -> tuple[int, ...]:
        """After how many steps those runs were looked at; the rate is halved as often as the second, the recipe ends
        with the third.
        """
        return PROFILES[self.profile].sgd_steps

    def sgd(self, a: str, b: str, layer: str) -> dict[SgdRun, Tensor]:
        """R^2 of the units of net b from net a by the original optimiser, see `sgd_runs`; from the store if there."""
        configuration = self._sgd_configuration(a, b, layer)
        found = self.store.find("sgd", configuration)
        if found is None:
            options = {key: configuration[key] for key in ("layer", "steps", "grid", "seed")}
            found = {tuple(run): r2 for run, r2 in sgd_runs(self.measured(), a, b, **options).items()}
            self.store.keep("sgd", configuration, found)
        return {SgdRun(*run): r2 for run, r2 in found.items()}

    def has_sgd(self, a: str, b: str, layer: str) -> bool:
        """Whether the store holds those runs, undamaged."""
        return self.store.find("sgd", self._sgd_configuration(a, b, layer)) is not None

    def _sgd_configuration(self, a: str, b: str, layer: str) -> dict[str, object]:
        return {
            "measurement": self._hash_of_measured,
            **{"pair": [a, b], "layer": layer, "steps": list(self.sgd_steps)},
            **{"grid": self.sgd_pairs[a, b], "seed": self.seed, "code": experiment_code()},
        }

    @cached_property
    def _hash_of_measured(self) -> str:
        arguments, options = self._measuring("trained", "all")
        return configuration_hash(measurement_configuration(*arguments, **options))

    def _measuring(self, which: str, positions: str | int) -> tuple[tuple, dict]:
        """The arguments and options of `measure`."""
        sets = {"trained": "networks", "untrained": "untrained", "same start": "same_start"}
        networks = getattr(self, sets[which])
        options = {"pairs": None, "positions": positions, "folds": _FOLDS, "top": 9, "seed": self.seed}
        return (networks, self.test_set.images, self.layers), {**options, "sample": PROFILES[self.profile].sample}


def prepare(
    *notebooks: str,
    dataset: str = "fashion-mnist",
    seed: int = 0,
    profile: str = "paper",
    store: Store | None = None,
    published: bool | None = None,
) -> Prepared:
    """Load what the notebooks read; train and measure what the store lacks, and say so.

    Args:
        notebooks: their names; none means all.
        dataset: see `load_dataset`.
        seed: base seed; net k has seed `seed + k`, for its weights and for the order of its images.
        profile: "paper", "smoke" (small and planted, for tests), or "full" (what "paper" does on a part, on the whole).
        store: where results are kept; default: see `Store`.
        published: whether the networks in data/networks may serve; default: yes, except inside `make paper`.

    Raises:
        ValueError: unknown names, a data set that cannot be read, a store that cannot be written, or a network that did
            not learn: below 85 % accuracy (twice chance on other data), or more than a quarter of a layer's units dead.
    """
    require_known(profile, PROFILES, "profile")
    for notebook in notebooks:
        require_known(notebook, MEASUREMENTS, "notebooks")
    store = store or Store()
    settings = PROFILES[profile]
    train_set = load_dataset(dataset, split="train", limit=settings.train_limit)
    test_set = load_dataset(dataset, split="test", limit=settings.test_limit)
    configurations = network_configurations(train_set, test_set, seed=seed, profile=profile)
    published = os.environ.get("CONVERGENT_RUN") is None if published is None else published
    found = {name: _find_network(store, name, c, published) for name, c in configurations.items()}
    wanted = dict.fromkeys(need for name in notebooks or MEASUREMENTS for need in MEASUREMENTS[name])

    def prepared(trained: dict[str, Trained]) -> Prepared:
        """These networks with all that the notebooks read beside them."""
        reordered = trained.pop(REORDERED)
        trained = _planted(trained, seed) if settings.planted else trained
        return Prepared(trained, reordered, train_set, test_set, profile, seed, store)

    lacking = [name for name, trained in found.items() if trained is None]
    training = [(_train_job, (store.path, configurations[name], dataset, profile)) for name in lacking]
    # untrained networks need no training, so they are measured beside it
    before = _measure_jobs(prepared(_starts(configurations)), [need for need in wanted if need[0] == "untrained"])
    title = f"training {', '.join(lacking)}" if lacking else "measuring untrained networks"
    epochs = sum(configurations[name]["recipe"]["epochs"] for name in lacking)
    epoch, measurement = (_SECONDS_PER_IMAGE * n for n in (len(train_set), settings.n_networks * len(test_set) / 2))
    _run(store, title, training + before, epochs * epoch + len(before) * measurement, extra_workers=1)
    result = prepared({**found, **{name: store.find("network", configurations[name]) for name in lacking}})
    if not settings.planted:
        _require_accuracy(result, _LEAST_ACCURACY.get(dataset, 2 / len(train_set.classes)))
    after = _measure_jobs(result, wanted)
    _run(store, "measuring", after, len(after) * measurement)
    if not settings.planted:
        _require_live_units(result)
    if any(notebook in SGD_NOTEBOOKS for notebook in notebooks or MEASUREMENTS):
        _run_sgd(result)
    return result


def _run_sgd(prepared: Prepared) -> None:
    """The runs of the original optimiser that the store lacks, those with the whole grid first."""
    wanted = [(*pair, layer) for pair in prepared.sgd_pairs for layer in PUBLISHED_UNITS]
    lacking = [run for run in wanted if not prepared.has_sgd(*run)]
    lacking.sort(key=lambda run: not prepared.sgd_pairs[run[:2]])
    grids = sum(prepared.sgd_pairs[a, b] for a, b, _ in lacking)
    seconds = _SECONDS_PER_STEP * (grids * prepared.sgd_steps[3] + len(lacking) * prepared.sgd_steps[2])
    jobs = [(_sgd_job, (prepared, *run)) for run in lacking]
    _run(prepared.store, "running the original optimiser", jobs, seconds)


def _measure_jobs(prepared: Prepared, needs: Iterable[tuple[str, str | int]]) -> list[tuple[Callable, tuple]]:
    """A job for each measurement that the store lacks."""
    return [(_measure_job, (prepared, *need)) for need in needs if not prepared.has_measured(*need)]


def _run(store: Store, title: str, jobs: list[tuple[Callable, tuple]], seconds: float, **options: int) -> None:
    """Run the jobs, if there are any; a store that lacks nothing may be read-only."""
    if jobs:
        store.require_writable()
    run_jobs(title, jobs, seconds, **options)


def _starts(configurations: dict[str, dict]) -> dict[str, Trained]:
    """The networks before their first step."""
    networks = {name: build_network(**configuration["network"]) for name, configuration in configurations.items()}
    nothing = History(loss=torch.zeros(0), test_accuracy=torch.zeros(0))
    return {name: Trained(network, nothing, {0.0: network.state_dict()}) for name, network in networks.items()}


def network_configurations(train_set: Dataset, test_set: Dataset, *, seed: int, profile: str) -> dict[str, dict]:
    """All that decides each network: structure, recipe, seed and data. Its hash is the network's name in the store."""
    settings, configurations = PROFILES[profile], {}
    structure = {"channels": train_set.images.shape[3], "classes": len(train_set.classes), "width": 1.0}
    seeds = {f"net{k}": (seed + k, seed + k) for k in range(1, settings.n_networks + 1)}  # of start and of order
    seeds[REORDERED] = (seed + 1, seed + settings.n_networks + 1)
    for name, (start, order) in seeds.items():
        untrained = settings.planted and start != seed + 1
        configurations[name] = {
            "network": {"name": "alexnet", **structure, "seed": start},
            "recipe": asdict(replace(settings.recipe, epochs=0) if untrained else settings.recipe),
            "seed": order,
            "data": [train_set.source, test_set.source],
            "threads": 1,
            "version": VERSION,
        }
    return configurations


def published_path(name: str) -> Path:
    """The file of a published network."""
    return PUBLISHED / f"{name}.safetensors"


def published_form(trained: Trained, configuration: dict) -> dict:
    """What is published of a network: final weights and learning curves, with the hash of its configuration."""
    return {"hash": configuration_hash(configuration), "network": trained.network, "history": trained.history}


def _find_network(store: Store, name: str, configuration: dict, published: bool) -> Trained | None:
    trained = store.find("network", configuration)
    if trained is None and published and published_path(name).exists():
        form = load(published_path(name))
        if form["hash"] == configuration_hash(configuration):
            start = build_network(**configuration["network"]).state_dict()
            trained = Trained(form["network"], form["history"], {0.0: start, 1.0: form["network"].state_dict()})
    return trained


def _planted(found: dict[str, Trained], seed: int) -> dict[str, Trained]:
    """Networks whose answers are known: net2 computes what net1 computes, net3 has nothing to do with either."""
    original = found["net1"]
    checkpoints = {
        share: permuted_copy(original.at(share), seed=seed)[0].state_dict() for share in original.checkpoints
    }
    copy = permuted_copy(original.network, seed=seed)[0].eval()
    return {**found, "net2": replace(original, network=copy, checkpoints=checkpoints)}


def _require_accuracy(prepared: Prepared, least: float) -> None:
    for name, trained in {**prepared.trained, REORDERED: prepared.reordered}.items():
        reached = float(trained.history.test_accuracy[-1])
        if reached < least:
            raise ValueError(
                f"{name} did not learn: it is right on {reached:.1%} of the test images, {least:.0%} is asked"
            )


def _require_live_units(prepared: Prepared) -> None:
    for block, share in prepared.dead_share().items():
        if share > _MOST_DEAD:
            raise ValueError(f"{block} is damaged: {share:.0%} of its units never fire, at most {_MOST_DEAD:.0%} may")


def _train_job(
    store_path: Path, configuration: dict, dataset: str, profile: str, report: Callable[[float], None]
) -> None:
    settings, store = PROFILES[profile], Store(store_path)
    with store.lock("network", configuration):
        if store.find("network", configuration) is not None:
            return  # made by another run, while this one waited
        train_set = load_dataset(dataset, split="train", limit=settings.train_limit)
        test_set = load_dataset(dataset, split="test", limit=settings.test_limit)
        network, recipe = build_network(**configuration["network"]), Recipe(**configuration["recipe"])
        trained = train(network, train_set, recipe, seed=configuration["seed"], test=test_set, report=report)
        store.keep("network", configuration, trained)


def _measure_job(prepared: Prepared, which: str, positions: str | int, report: Callable[[float], None]) -> None:
    arguments, options = prepared._measuring(which, positions)
    with prepared.store.lock("measurement", measurement_configuration(*arguments, **options)):
        prepared.measured(which, positions)  # from the store, if another run made it while this one waited


def _sgd_job(prepared: Prepared, a: str, b: str, layer: str, report: Callable[[float], None]) -> None:
    with prepared.store.lock("sgd", prepared._sgd_configuration(a, b, layer)):
        prepared.sgd(a, b, layer)
