"""Everything a notebook reads: it is loaded from the store, or made once, in one pool of one-thread processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..kernels.checks import is_count, require_known
from ..kernels.sgd_mapping import SgdRun
from ..making.pool import Job, Pool
from ..making.store import Store, configuration_hash, load
from ..nets.datasets import Dataset, load_dataset
from ..nets.measurement import Measurement
from ..nets.measuring import measure, measurement_configuration
from ..nets.networks import Network, build_network, permuted_copy
from ..nets.receptive_fields import patch, receptive_field
from ..nets.training import CHECKPOINTS, VERSION, History, Recipe, Trained, train
from .experiments import EXPERIMENTS
from .families import Sizes, members
from .measurements import MEASUREMENTS, before_training, to_measure
from .optimiser import sgd_pairs

REORDERED = "net1-reordered"
PUBLISHED = Path(__file__).parents[2] / "data" / "networks"
EXPERIMENTS_PUBLISHED = Path(__file__).parents[2] / "data" / "results" / "experiments"
_SECONDS_PER_IMAGE = 1e-3  # of training, on one thread; only for the estimate that is shown
_LEAST_ACCURACY = {"fashion-mnist": 0.85}  # elsewhere: twice what guessing gives
_MOST_DEAD = 0.25  # of a layer's units


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
    freezing_recipe: Recipe = field(default_factory=lambda: Recipe(epochs=3))
    freezing_limit: int = 10_000  # training images of freeze training
    families: Sizes = field(default_factory=Sizes)


PROFILES = {
    "smoke": Profile(
        Recipe(epochs=3),
        n_networks=3,
        train_limit=2048,
        test_limit=512,
        sample=1024,
        planted=True,
        sgd_steps=(10, 30, 90, 300),
        freezing_recipe=Recipe(epochs=1),
        freezing_limit=512,
        families=Sizes(
            per_label=3,
            label_images=144,
            label_recipe=Recipe(epochs=16, batch=16, weight_decay=0.0),
            widths=(0.25, 0.5, 1),
            per_rate=3,
            images=512,
            recipe=Recipe(epochs=1),
            followed_epochs=(3, 3),
            followed_times=3,
        ),
    ),
    "paper": Profile(Recipe(), 4),
    "full": Profile(
        Recipe(),
        4,
        every_pair=True,
        freezing_recipe=Recipe(),
        freezing_limit=20_000,
        families=Sizes(
            per_label=5,
            widths=(0.25, 0.5, 1, 2, 3, 5, 7),
            per_width=5,
            per_rate=20,
            images=20_000,
            recipe=Recipe(epochs=6),
            followed=5,
            followed_epochs=(20, 40),
        ),
    ),
}


@dataclass(frozen=True)
class Prepared:
    """What the notebooks read.

    Attributes:
        trained: by name, net1 first.
        reordered: net1 trained again from the same start, with its images in another order.
        train_set, test_set: the images they were trained on, and those that everything is measured on.
        published: whether the published results of experiments may serve where the store has none.
    """

    trained: dict[str, Trained]
    reordered: Trained
    train_set: Dataset
    test_set: Dataset
    profile: str
    seed: int
    store: Store = field(repr=False)
    published: bool = False

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

    @cached_property
    def training(self) -> dict[str, Network]:
        """The trained networks, and as "net1@35%" each as it was after that share of its training."""
        shares = [share for share in CHECKPOINTS if share < 1]
        before = {f"{name}@{share:.0%}": net.at(share) for name, net in self.trained.items() for share in shares}
        return {**self.networks, **before}

    @property
    def settings(self) -> Profile:
        """How large the run is."""
        return PROFILES[self.profile]

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers that all networks have, from bottom to top."""
        return next(iter(self.networks.values())).layers

    def over_pairs(self, number: Callable[[str, str], object]) -> np.ndarray:
        """A number, or an array of them, for each pair of networks, as a symmetric array (nets, nets, ...)."""
        names = list(self.networks)
        found = {(i, k): np.asarray(number(names[i], names[k])) for i, k in combinations(range(len(names)), 2)}
        values = np.zeros((len(names), len(names), *found[0, 1].shape))
        for (i, k), value in found.items():
            values[i, k] = values[k, i] = value
        return values

    def dead_share(self) -> dict[str, float]:
        """For each block "network.layer" of the trained networks the share of units that fire on no test image."""
        measured = self._on_test_images
        return {block: float((measured.active_share(block) == 0).double().mean()) for block in measured.blocks}

    def measured(self, which: str = "trained", positions: str | int = "all") -> Measurement:
        """The measurement on the test images of all networks, from the store if it is there.

        Args:
            which: "trained", "untrained", the "same start" pair; "training images", the trained networks on a quarter
                of the images they were trained on; or "training", all networks, final and on their way, on half of the
                test images, where each network on its way meets its final form layer by layer, and each start all.
                Of families of networks (see `family`) all names, images and pairs are those of `to_measure`.
            positions: as in `measure`.
        """
        arguments, options = to_measure(self, which, positions)
        return measure(*arguments, **options, store=self.store)

    @cached_property
    def _on_test_images(self) -> Measurement:
        """The first of all measurements, read once."""
        return self.measured()

    def has_measured(self, which: str, positions: str | int) -> bool:
        """Whether the store holds that measurement, undamaged."""
        arguments, options = to_measure(self, which, positions)
        return self.store.find("measurement", measurement_configuration(*arguments, **options)) is not None

    def patches(self, net: str, layer: str, unit: int, *, count: int = 6) -> Tensor:
        """The patches of test images that excite a unit of a trained network most, strongest first.

        (count, height, width, channels) uint8, as large as the unit's receptive field, black beyond the image.
        """
        top, field = self._on_test_images.top(f"{net}.{layer}"), receptive_field(self.networks[net], layer)
        chosen = zip(top.image[unit, :count].tolist(), top.place[unit, :count].tolist(), strict=True)
        return torch.cat([patch(self.test_set.images[k : k + 1], field, place) for k, place in chosen])

    def result(self, experiment: str, *key: object) -> object:
        """The result of an experiment of `EXPERIMENTS` at one of its keys, from the store if it is there."""
        require_known(experiment, EXPERIMENTS, "experiment")
        found = self._found(experiment, *key)
        if found is None:
            configuration = self._experiment(experiment, *key)
            with self.store.lock(experiment, configuration):
                found = self._found(experiment, *key)  # perhaps made by another run, while this one waited
                if found is None:
                    found = EXPERIMENTS[experiment].run(self, *key)
                    self.store.keep(experiment, configuration, found)
        return found

    def family(self, name: str, member: int) -> dict[str, object]:
        """A network of a family, trained alike but for one thing, and how good it is; see `families.make`."""
        return self.result("family", name, member)

    def members(self, family: str) -> range:
        """The numbers of the networks of a family."""
        known = members(self.settings.families)
        require_known(family, known, "family")
        return range(1, known[family] + 1)

    def has_result(self, experiment: str, *key: object) -> bool:
        """Whether the store holds it, undamaged, or it is published."""
        return self._found(experiment, *key) is not None

    def result_files(self, store: Store) -> list[Path]:
        """Where the results of all experiments lie in a store."""
        return [
            store.file(name, self._experiment(name, *key))
            for name, experiment in EXPERIMENTS.items()
            if experiment.published
            for key in experiment.keys(self)
        ]

    def _found(self, experiment: str, *key: object) -> object | None:
        """The result, from the store or from what is published."""
        configuration = self._experiment(experiment, *key)
        found = self.store.find(experiment, configuration)
        if found is None and self.published:
            found = Store(EXPERIMENTS_PUBLISHED).find(experiment, configuration)
        return found

    @property
    def sgd_pairs(self) -> dict[tuple[str, str], bool]:
        """The pairs of networks that the original optimiser was run on, and whether with the whole grid."""
        return sgd_pairs(self.networks, self.settings.every_pair)

    @property
    def sgd_steps(self) -> tuple[int, ...]:
        """After how many steps those runs were looked at; the rate is halved as often as the second, the recipe ends
        with the third.
        """
        return self.settings.sgd_steps

    def sgd(self, a: str, b: str, layer: str) -> dict[SgdRun, Tensor]:
        """R^2 of the units of net b from net a by the original optimiser, see `sgd_runs`."""
        return {SgdRun(*run): r2 for run, r2 in self.result("sgd", a, b, layer).items()}

    def _experiment(self, name: str, *key: object) -> dict[str, object]:
        """All that decides the result."""
        experiment = EXPERIMENTS[name]
        return {
            "key": list(key), "code": experiment.code(), "settings": experiment.settings(self),
            "measured": self._hash_of_measured if experiment.on_trained else None, "training": VERSION,
        }  # fmt: skip

    @cached_property
    def _hash_of_measured(self) -> str:
        arguments, options = to_measure(self, "trained", "all")
        # our own networks are known by weights and class, on any processor
        return configuration_hash(measurement_configuration(*arguments, probe=False, **options))


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
        published: whether the networks and results in data/ may serve; default: yes, except inside `make paper`.

    Raises:
        ValueError: unknown names, a data set that cannot be read, a store that cannot be written, or a network that did
            not learn: below 85 % accuracy (twice chance on other data), or more than a quarter of a layer's units dead.
    """
    require_settings(profile=profile, dataset=dataset, seed=seed)
    for notebook in notebooks:
        if not isinstance(notebook, str):
            raise ValueError(f"notebooks: expected names, one by one, got {notebook!r:.80}")
        require_known(notebook, MEASUREMENTS, "notebooks")
    if not isinstance(store, Store | None):
        raise ValueError(f"store: expected a Store, such as Store({str(store)!r:.80}), got {type(store).__name__}")
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
        return Prepared(trained, reordered, train_set, test_set, profile, seed, store, published)

    asked = [e for e, experiment in EXPERIMENTS.items() if set(experiment.notebooks) & set(notebooks or MEASUREMENTS)]
    lacking = [name for name, trained in found.items() if trained is None]
    with Pool() as pool:

        def run(jobs: list[Job], **options: int) -> None:
            """Run the jobs, if there are any; a store that lacks nothing may be read-only."""
            if jobs:
                store.require_writable()
            pool.run(jobs, **options)

        # what needs no trained network is made beside the training
        start, apart = prepared(_starts(configurations)), [e for e in asked if not EXPERIMENTS[e].on_trained]
        before = _measure_jobs(start, [need for need in wanted if before_training(need[0])])
        run(_train_jobs(start, configurations, lacking, dataset) + before + _experiment_jobs(start, apart), extra=1)
        result = prepared({**found, **{name: store.find("network", configurations[name]) for name in lacking}})
        if not settings.planted:
            _require_accuracy(result, _LEAST_ACCURACY.get(dataset, 2 / len(train_set.classes)))
        due = {e: _experiment_jobs(result, [e]) for e in asked if EXPERIMENTS[e].on_trained}
        wanted |= {need: None for e, jobs in due.items() if jobs for need in EXPERIMENTS[e].reads}
        run(_measure_jobs(result, wanted))
        if not settings.planted:
            _require_live_units(result)
        run([job for jobs in due.values() for job in jobs])
    return result


def require_settings(*, profile: str, dataset: str, seed: int) -> None:
    """What every run is given is of the right type; what a data set holds is seen when it is read."""
    if not isinstance(profile, str):
        raise ValueError(f"profile: expected one of {', '.join(PROFILES)}, got {profile!r:.80}")
    require_known(profile, PROFILES, "profile")
    if not isinstance(dataset, str):
        raise ValueError(f"dataset: expected a name such as 'npz:PATH', got {dataset!r:.80}")
    if not is_count(seed) or not 0 <= seed < 2**32:
        raise ValueError(f"seed: expected a whole number from 0 to 2^32 - 1, got {seed!r:.80}")


def _train_jobs(prepared: Prepared, configurations: dict[str, dict], lacking: list[str], dataset: str) -> list[Job]:
    """A job for each network that is lacking."""
    seconds = _SECONDS_PER_IMAGE * len(prepared.train_set)
    return [
        Job(
            ("training", name),
            _train_job,
            (prepared.store.path, configurations[name], dataset, prepared.profile),
            seconds * configurations[name]["recipe"]["epochs"],
        )
        for name in lacking
    ]


def _measure_jobs(prepared: Prepared, needs: Iterable[tuple[str, str | int]]) -> list[Job]:
    """A job for each measurement that the store lacks, those that take long first."""
    needs = sorted(needs, key=lambda need: need[0] != "training")
    seconds = _SECONDS_PER_IMAGE * len(prepared.networks) * len(prepared.test_set) / 2
    return [
        Job(
            ("measuring", which),
            _measure_job,
            (prepared, which, positions),
            seconds * (2 if which == "training" else 1),
        )
        for which, positions in needs
        if not prepared.has_measured(which, positions)
    ]


def _experiment_jobs(prepared: Prepared, names: Iterable[str]) -> list[Job]:
    """A job for each result of these experiments that the store lacks."""
    return [
        Job((EXPERIMENTS[name].title, ""), _experiment_job, (prepared, name, *key), EXPERIMENTS[name].seconds)
        for name in names
        for key in EXPERIMENTS[name].keys(prepared)
        if not prepared.has_result(name, *key)
    ]


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
    """What is published of a network: its weights on the way and in the end, its learning curves, its configuration's
    hash.
    """
    on_the_way = {share: weights for share, weights in trained.checkpoints.items() if 0 < share < 1}
    form = {"hash": configuration_hash(configuration), "network": trained.network, "history": trained.history}
    return {**form, "on_the_way": on_the_way}


def _find_network(store: Store, name: str, configuration: dict, published: bool) -> Trained | None:
    trained = store.find("network", configuration)
    if trained is None and published and published_path(name).exists():
        form = load(published_path(name))
        if form["hash"] == configuration_hash(configuration):
            start, final = build_network(**configuration["network"]).state_dict(), form["network"].state_dict()
            trained = Trained(form["network"], form["history"], {0.0: start, **form["on_the_way"], 1.0: final})
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
    arguments, options = to_measure(prepared, which, positions)
    with prepared.store.lock("measurement", measurement_configuration(*arguments, **options)):
        measure(*arguments, **options, store=prepared.store)  # from there, if another run made it while this one waited


def _experiment_job(prepared: Prepared, name: str, *key: object, report: Callable[[float], None]) -> None:
    prepared.result(name, *key)
