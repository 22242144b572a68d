"""Everything a notebook reads: it is loaded from the store, or made once, in one pool of one-thread processes."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pkgutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import chain, combinations
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..kernels.checks import is_count, require_known
from ..kernels.moments import PairMoments, pair_moments
from ..making.checkout import PROJECT
from ..making.pool import Job, Pool
from ..making.store import Store, load
from ..making.things import Get, Report, Shelf, Thing
from ..nets.datasets import Dataset
from ..nets.declared import Learned
from ..nets.measurement import Measurement
from ..nets.networks import Network
from ..nets.receptive_fields import patch, receptive_field
from ..nets.training import Trained
from .claims import Ledger
from .networks import PROFILES, REORDERED, Profile, Setting, as_network

FROM_PUBLISHED = "published"  # what CONVERGENT_RUN is inside a run to which what is published may serve
PUBLISHED = PROJECT / "data" / "networks"
EXPERIMENTS_PUBLISHED = PROJECT / "data" / "results" / "experiments"
_LEAST_ACCURACY = {"fashion-mnist": 0.85}  # elsewhere: twice what guessing gives
_MOST_DEAD = 0.25  # of a layer's units


@dataclass(frozen=True)
class Prepared:
    """What the notebooks read.

    Attributes:
        setting: profile, base seed and images, of which all is declared.
        store: where things are kept.
        published: whether what is published may serve where the store has nothing.
        notebook: for which it was prepared, if it was for one.
    """

    setting: Setting
    store: Store = field(repr=False)
    published: bool = False
    notebook: str = ""

    @cached_property
    def ledger(self) -> Ledger:
        """What takes the claims of the notebook.

        Raises:
            ValueError: what is read was not prepared for one notebook.
        """
        if not self.notebook:
            raise ValueError("notebooks: expected one, whose claims these are")
        return Ledger(self.notebook, profile=self.profile)

    @cached_property
    def things(self) -> dict[tuple, Thing]:
        """All that the notebooks declare, by the names under which they ask for it."""
        return {name: thing for module in notebooks().values() for name, thing in module.things(self.setting).items()}

    def __getitem__(self, name: object) -> Any:
        """What a notebook has declared under a name, such as ("freezing", variant, 1); made now if it is not at hand.

        Raises:
            ValueError: a name under which nothing is declared.
        """
        return self.shelf(self.thing(*(name if isinstance(name, tuple) else (name,))))

    def thing(self, *name: object) -> Thing:
        """What is declared under a name.

        Raises:
            ValueError: nothing is.
        """
        try:
            return self.things[name]
        except (KeyError, TypeError) as error:  # or what no name can be, as a list
            alike = [known for known in self.things if known[:1] == name[:1]]
            known = ", ".join(dict.fromkeys(map(str, alike or [known[0] for known in self.things])))
            raise ValueError(f"name: expected one such as {known:.160}, got {name!s:.80}") from error

    @property
    def shelf(self) -> Shelf:
        """What gives things."""
        return Shelf(self.store, published_result if self.published else _nothing)

    @cached_property
    def trained(self) -> dict[str, Trained]:
        """The trained networks with their learning curves, by name, net1 first."""
        shelf = cast("Get", self.shelf)  # gives what each thing makes
        found = {name: shelf(self.setting.learned[name]) for name in self.setting.networks}
        if self.settings.planted:  # net2 computes what net1 computes
            get, of = cast("Get", cache(self.shelf)), found["net1"]  # as without the cache
            way = {share: self.setting.at("net2", share).network(get).state_dict() for share in of.checkpoints}
            found["net2"] = replace(of, network=self.setting.networks["net2"].network(get), checkpoints=way)
        return found

    @cached_property
    def reordered(self) -> Trained:
        """net1 trained again from the same start, with its images in another order."""
        return cast("Get", self.shelf)(self.setting.learned[REORDERED])  # gives a Trained

    @cached_property
    def networks(self) -> dict[str, Network]:
        """The trained networks by name."""
        return {name: as_network(trained.network) for name, trained in self.trained.items()}

    @cached_property
    def untrained(self) -> dict[str, Network]:
        """The same networks before their first step, by the same names."""
        return {name: as_network(trained.at(0.0)) for name, trained in self.trained.items()}

    @cached_property
    def train_set(self) -> Dataset:
        """The images the networks were trained on."""
        return self.setting.train.load()

    @cached_property
    def test_set(self) -> Dataset:
        """The images that everything is measured on."""
        return self.setting.test.load()

    @property
    def profile(self) -> str:
        """The name of the profile."""
        return self.setting.profile

    @property
    def seed(self) -> int:
        """The base seed."""
        return self.setting.seed

    @property
    def settings(self) -> Profile:
        """How large the run is."""
        return self.setting.size

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers that all networks have, from bottom to top."""
        return self.setting.layers

    def over_pairs(self, number: Callable[[str, str], object]) -> np.ndarray:
        """A number, or an array of them, for each pair of networks, as a symmetric array (nets, nets, ...)."""
        names = list(self.networks)
        found = {(i, k): np.asarray(number(names[i], names[k])) for i, k in combinations(range(len(names)), 2)}
        values = np.zeros((len(names), len(names), *found[0, 1].shape))
        for (i, k), value in found.items():
            values[i, k] = values[k, i] = value
        return values

    def beside_baselines(
        self, similarity: Callable[[PairMoments], object], *, layers: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """A similarity of each pair of networks in each layer, and what it is without what is in question.

        Args:
            similarity: from moments to a number, or an array, such as `lambda pair: cu.svcca(pair).similarity`.
            layers: names; default: all but the last, whose units are classes.

        Returns:
            By role, symmetric (nets, nets, layers, ...): "trained"; "layout", when each image meets another at the same
            place; "untrained", of the networks before their first step; and "finite sample", when the rows of the
            second net are exchanged, on the rows of the aligned sample.
        """
        trained, untrained = self._on_test_images, self.measured("untrained")
        order = torch.randperm(len(trained.sample_images), generator=torch.Generator().manual_seed(self.seed))
        roles: dict[str, Callable[[str, str], PairMoments]] = {
            "trained": trained.pair,
            "layout": trained.layout,
            "untrained": untrained.pair,
            "finite sample": lambda a, b: pair_moments(trained.sample(a), trained.sample(b)[order]),
        }
        layers = self.layers[:-1] if layers is None else layers
        return {
            role: self.over_pairs(lambda a, b, of=of: [similarity(of(f"{a}.{k}", f"{b}.{k}")) for k in layers])
            for role, of in roles.items()
        }

    def dead_share(self) -> dict[str, float]:
        """For each block "network.layer" of the trained networks the share of units that fire on no test image."""
        return _dead_share(self._on_test_images)

    def measured(self, which: str = "trained", positions: str | int = "all") -> Measurement:
        """The measurement on the test images of all networks; which: see `Setting.measured` and `pwcca.things`."""
        return self["measured", which, positions]

    @cached_property
    def _on_test_images(self) -> Measurement:
        """The first of all measurements, read once."""
        return self.measured()

    def patches(self, net: str, layer: str, unit: int, *, count: int = 6) -> Tensor:
        """The patches of test images that excite a unit of a trained network most, strongest first.

        (count, height, width, channels) uint8, as large as the unit's receptive field, black beyond the image.
        """
        top, field = self._on_test_images.top(f"{net}.{layer}"), receptive_field(self.networks[net], layer)
        chosen = zip(top.image[unit, :count].tolist(), top.place[unit, :count].tolist(), strict=True)
        return torch.cat([patch(self.test_set.images[k : k + 1], field, place) for k, place in chosen])


def prepare(
    *asked: str,
    dataset: str = "fashion-mnist",
    seed: int = 0,
    profile: str = "paper",
    store: Store | None = None,
    published: bool | None = None,
) -> Prepared:
    """Load what the notebooks read; train and measure what the store lacks, and say so.

    Args:
        asked: names of notebooks; none means all.
        dataset: see `load_dataset`.
        seed: base seed; net k has seed `seed + k`, for its weights and for the order of its images.
        profile: "paper", "smoke" (small and planted, for tests), or "full" (what "paper" does on a part, on the whole).
        store: where results are kept; default: see `Store`.
        published: whether the networks and results in data/ may serve; default: yes, except inside `make paper`
            without FROM=published.

    Raises:
        ValueError: unknown names, a data set that cannot be read, a store that cannot be written, or a network that did
            not learn: below 85 % accuracy (twice chance on other data), or more than a quarter of a layer's units dead.
    """
    require_settings(profile=profile, dataset=dataset, seed=seed)
    for notebook in asked:
        if not isinstance(notebook, str):
            raise ValueError(f"notebooks: expected names, one by one, got {notebook!r:.80}")
        require_known(notebook, notebooks(), "notebooks")
    if not isinstance(store, Store | None):
        raise ValueError(f"store: expected a Store, such as Store({str(store)!r:.80}), got {type(store).__name__}")
    published = os.environ.get("CONVERGENT_RUN") in (None, FROM_PUBLISHED) if published is None else published
    result = _prepared(store or Store(), dataset, seed, profile, published, asked[0] if len(asked) == 1 else "")
    read = [thing for name in asked or notebooks() for thing in notebooks()[name].things(result.setting).values()]
    least = _LEAST_ACCURACY.get(dataset, 2 / result.setting.classes)
    with Pool() as pool:
        for number, made in enumerate(result.shelf.rounds([*result.setting.learned.values(), *read])):
            if number:
                _require_learned(result, least)
            result.store.require_writable()  # one that lacks nothing may be read-only
            pool.run([_job(result, thing) for thing in made], extra=int(number == 0))
    _require_learned(result, least)
    return result


def to_train(asked: Iterable[str], store: Store | None = None, **settings: Any) -> dict[str, int]:
    """How many networks would have to be trained for each of these notebooks, where what is published may serve.

    Args:
        asked: names of notebooks.
        store: as for `prepare`.
        settings: dataset, seed and profile, as for `prepare`.
    """
    prepared = _prepared(store or Store(), **settings, published=True)
    found = {}
    for name in asked:
        things = [*prepared.setting.learned.values(), *notebooks()[name].things(prepared.setting).values()]
        made = prepared.shelf.rounds(things)
        found[name] = sum("training" in thing.title for thing in chain.from_iterable(made))
    return found


@cache
def notebooks() -> dict[str, ModuleType]:
    """The notebooks that declare what they read, each with the file of this folder where they do."""
    package = __name__.rpartition(".")[0]
    folder = importlib.import_module(package).__path__
    modules = [importlib.import_module(f"{package}.{found.name}") for found in pkgutil.iter_modules(folder)]
    return dict(sorted((one.NOTEBOOK, one) for one in modules if hasattr(one, "NOTEBOOK")))


def _prepared(store: Store, dataset: str, seed: int, profile: str, published: bool, notebook: str = "") -> Prepared:
    setting = Setting.of(dataset, seed=int(seed), profile=profile)
    return Prepared(setting, store, published, notebook)


def require_settings(*, profile: str, dataset: str, seed: int) -> None:
    """What every run is given is of the right type; what a data set holds is seen when it is read."""
    if not isinstance(profile, str):
        raise ValueError(f"profile: expected one of {', '.join(PROFILES)}, got {profile!r:.80}")
    require_known(profile, PROFILES, "profile")
    if not isinstance(dataset, str):
        raise ValueError(f"dataset: expected a name such as 'npz:PATH', got {dataset!r:.80}")
    if not is_count(seed) or not 0 <= seed < 2**32:
        raise ValueError(f"seed: expected a whole number from 0 to 2^32 - 1, got {seed!r:.80}")


def _job(prepared: Prepared, thing: Thing) -> Job:
    arguments = (prepared.store.path, prepared.published, thing)
    return Job((thing.title, getattr(thing, "name", "")), _make, arguments, thing.seconds)


def _make(store_path: Path, published: bool, thing: Thing, report: Report) -> None:
    """Make a thing in another process; another run may have made it while this one waited.

    Raises:
        ValueError: this process has other code than the one that asks, which was edited meanwhile.
    """
    if replace(thing).key != thing.key:
        raise ValueError(f"code: what {thing.title} needs was edited while it ran; start again")
    Shelf(Store(store_path), published_result if published else _nothing)(thing, report)


def _nothing(thing: Thing) -> None:
    """What is published of a thing where nothing may serve."""


def published_result(thing: Thing) -> object | None:
    """What is published of a thing, if it was made of the same things by the same code."""
    if thing.published:
        return Store(EXPERIMENTS_PUBLISHED).find(thing.kind, thing.configuration, remove=False)
    if not isinstance(thing, Learned):
        return None
    known, path = published_keys().get(thing.name, {}), published_path(thing.name)
    if known.get("key") != thing.key or not path.exists():
        return None
    if known.get("file") != file_checksum(path):
        warnings.warn(f"{path} is damaged, or no file of this version; it will be made again", stacklevel=2)
        return None
    form: Any = load(path)
    start, end = thing.start.network().state_dict(), form["network"].state_dict()
    weights = {0.0: start, **form["on_the_way"], 1.0: end}
    return Trained(form["network"], form["history"], weights)


def published_path(name: str) -> Path:
    """The file of a published network."""
    return PUBLISHED / f"{name}.safetensors"


def keys_path() -> Path:
    """The file of the keys of published networks, apart from theirs: those stay as they are when only code changes."""
    return published_path("keys").with_suffix(".json")


def published_keys() -> dict[str, dict[str, str]]:
    """For each published network its key, what it was made of, and a checksum of its file."""
    try:
        return {name: {**one} for name, one in json.loads(keys_path().read_text(encoding="utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (AttributeError, TypeError, ValueError) as error:
        warnings.warn(f"{keys_path()} is damaged ({error}); networks will be made again", stacklevel=2)
        return {}


def file_checksum(path: Path) -> str:
    """The first half of the sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def published_form(trained: Trained) -> dict:
    """What is published of a network: its weights on the way and in the end, and its learning curves."""
    on_the_way = {share: weights for share, weights in trained.checkpoints.items() if 0 < share < 1}
    return {"network": trained.network, "history": trained.history, "on_the_way": on_the_way}


def _require_learned(prepared: Prepared, least: float) -> None:
    """Refuse networks that did not learn, or that are damaged; planted ones need not have."""
    if not prepared.settings.planted:
        _require_accuracy({**prepared.trained, REORDERED: prepared.reordered}, least)
        measured = prepared.shelf.find(prepared.thing("measured", "trained", "all"))
        if isinstance(measured, Measurement):
            _require_live_units(measured)


def _dead_share(measured: Measurement) -> dict[str, float]:
    return {block: float((measured.active_share(block) == 0).double().mean()) for block in measured.blocks}


def _require_accuracy(trained: Mapping[str, Trained], least: float) -> None:
    for name, one in trained.items():
        reached = float(one.history.test_accuracy[-1])
        if reached < least:
            raise ValueError(
                f"{name} did not learn: it is right on {reached:.1%} of the test images, {least:.0%} is asked"
            )


def _require_live_units(measured: Measurement) -> None:
    for block, share in _dead_share(measured).items():
        if share > _MOST_DEAD:
            raise ValueError(f"{block} is damaged: {share:.0%} of its units never fire, at most {_MOST_DEAD:.0%} may")
