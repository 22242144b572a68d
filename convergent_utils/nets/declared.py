"""Networks and measurements as plain values, from which they are made; see `making.things`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import torch
from torch import nn

from ..making.code import apart
from ..making.things import Get, Report, Thing
from .datasets import Dataset, load_dataset
from .measurement import Measurement
from .measuring import run_pass
from .networks import Network, own_network, permuted_copy, weighted
from .training import CHECKPOINTS, Recipe, Trained, train

_Net = TypeVar("_Net", bound=nn.Module)
_LOADED: dict[tuple[str, str, int | None], Dataset] = {}  # what this process has read
CURVE = 2000  # test images on which learning curves are drawn; their last point is of all
_SECONDS_PER_IMAGE = 1e-3  # of training, on one thread; only for the estimate that is shown


@dataclass(frozen=True)
class Images:
    """Images with labels, known by their checksum.

    Attributes:
        source: `Dataset.source` of what is read.
        classes: how many kinds of labels there are.
        part: how many of them, spread evenly; None: all.
        permuted: seed of a permutation of their labels, which keeps how often each occurs; None: as they are.
        every: one in so many of these, from the first on.
        name, split, limit: where they are read from, see `load_dataset`.
        count: how many are read.
    """

    source: str
    classes: int = 10
    part: int | None = None
    permuted: int | None = None
    every: int = 1
    name: str = field(default="fashion-mnist", compare=False)
    split: str = field(default="train", compare=False)
    limit: int | None = field(default=None, compare=False)
    count: int = field(default=0, compare=False)

    @classmethod
    @apart
    def of(cls, name: str, split: str, limit: int | None = None) -> Images:
        """All images of a split, or that many of them, see `load_dataset`."""
        data = _load(name, split, limit)
        return cls(data.source, len(data.classes), name=name, split=split, limit=limit, count=len(data))

    def load(self) -> Dataset:
        """The images."""
        data = _read(self)
        data = data if self.part is None else data.part(self.part)
        images, labels = data.images, data.labels
        if self.permuted is not None:
            labels = labels[torch.randperm(len(data), generator=torch.Generator().manual_seed(self.permuted))]
        return replace(data, images=images[:: self.every], labels=labels[:: self.every])

    def __len__(self) -> int:
        return -(-min(self.count, self.part or self.count) // self.every)


@apart
def _read(images: Images) -> Dataset:
    """What `load_dataset` gives, once a process for the same images.

    Raises:
        ValueError: other images than were declared.
    """
    data = _LOADED.get((images.name, images.split, images.limit))
    if data is None or data.source != images.source:
        data = _load(images.name, images.split, images.limit)
    if (data.source, len(data.classes)) != (images.source, images.classes):
        raise ValueError(f"dataset: the images of {images.name!r:.80} were changed while they were used; start again")
    return data


@apart
def _load(name: str, split: str, limit: int | None) -> Dataset:
    """Read them now, whatever was read before."""
    _LOADED[name, split, limit] = load_dataset(name, split=split, limit=limit)
    return _LOADED[name, split, limit]


def channels_last(network: _Net) -> _Net:
    """An AlexNet laid out such that the units of a place lie side by side, in which a CPU reads it in half of the time.

    Its numbers are those of before, but for rounding; it trains in the layout that it was built in. Others stay as
    they are.
    """
    is_alexnet = isinstance(network, Network) and network.configuration["name"].startswith("alexnet")
    return network.to(memory_format=torch.channels_last) if is_alexnet else network


class Declared(Protocol):
    """What gives a network: one of the classes below, or anything with this method."""

    def network(self, get: Get) -> nn.Module:
        """The network."""


class Begun(Protocol):
    """A network before its first step."""

    def network(self, get: Get | None = None) -> Network:
        """The network."""
        ...


@dataclass(frozen=True)
class Start:
    """A network before its first step, quicker to build than to read.

    Attributes:
        structure, channels, classes, width, seed: see `build_network`, where the first is the name.
        scaled: whether convolutions start at the scale that keeps the size of signals (He et al. 2015) whatever the
            width, and not at a smaller one.
    """

    structure: str
    channels: int
    classes: int
    width: float
    seed: int
    scaled: bool = False

    def network(self, get: Get | None = None) -> Network:
        """The network."""
        network = own_network(self.structure, self.channels, self.classes, self.width, self.seed)
        if self.scaled:
            with torch.no_grad():
                for layer in network.layers:
                    if layer.startswith("conv"):
                        weight = weighted(network, layer).weight
                        weight *= math.sqrt(2 / weight[0].numel()) / weight.std()
        return channels_last(network)


@dataclass(frozen=True)
class Learned(Thing):
    """A trained network, a `Trained`.

    Attributes:
        start: the network before its first step.
        images: those that it learns.
        test: those that it is judged on: on `CURVE` of them after each epoch, on all in the end.
        recipe: see `train`.
        order: seed of the order of the images.
        name: what it is called.
    """

    title = "training"

    start: Begun
    images: Images
    test: Images
    recipe: Recipe
    order: int
    name: str = field(default="", compare=False)

    @property
    @apart
    def seconds(self) -> float:
        """Of training, about."""
        return training_seconds(self.images, self.recipe)

    def make(self, get: Get, report: Report) -> Trained:
        """Train it."""
        network, data, test = self.start.network(), self.images.load(), self.test.load()
        return train(network, data, self.recipe, seed=self.order, test=test, curve=CURVE, report=report)

    def network(self, get: Get) -> nn.Module:
        """The network in the end."""
        return channels_last(get(self).network)


@dataclass(frozen=True)
class Followed(Learned):
    """A network that is followed while it is trained: of its weights on the way more are kept.

    Attributes:
        shares: of training, after which they are kept beside the usual ones.
    """

    shares: tuple[float, ...] = ()

    def make(self, get: Get, report: Report) -> Trained:
        """Train it."""
        network, data, test = self.start.network(), self.images.load(), self.test.load()
        keep = (*CHECKPOINTS, *self.shares)
        return train(network, data, self.recipe, seed=self.order, test=test, curve=CURVE, report=report, keep=keep)


@dataclass(frozen=True)
class Condensed(Learned):
    """A network that was followed, with its usual weights on the way alone: it is small enough to be published.

    Attributes:
        whole: with all of them; it has the other fields, too.
    """

    title, seconds = "condensing networks", 0.1

    whole: Followed = field(kw_only=True)

    @classmethod
    def of(cls, whole: Followed) -> Condensed:
        """It, of what has all of them."""
        return cls(whole.start, whole.images, whole.test, whole.recipe, whole.order, whole.name, whole=whole)

    def make(self, get: Get, report: Report) -> Trained:
        """Leave out the others."""
        found = get(self.whole)
        return replace(found, checkpoints={share: found.checkpoints[share] for share in CHECKPOINTS})


@dataclass(frozen=True)
class OnTheWay:
    """A network as it was after a share of its training."""

    learned: Learned
    share: float

    def network(self, get: Get) -> nn.Module:
        """The network."""
        return channels_last(get(self.learned).at(self.share))


@dataclass(frozen=True)
class Shuffled:
    """A network of which the units are shuffled, see `permuted_copy`."""

    of: Declared
    seed: int

    def network(self, get: Get) -> Network:
        """The network, in eval mode."""
        return channels_last(permuted_copy(self.of.network(get), seed=self.seed)[0].eval())


@dataclass(frozen=True)
class Measured(Thing):
    """What `measure` finds of networks.

    Attributes:
        networks: by name.
        images: on which.
        layers, pairs, positions, folds, sample, top, seed: see `measure`.
        name: what it is called.
    """

    title = "measuring"

    networks: tuple[tuple[str, Declared], ...]
    images: Images
    layers: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...] | None = None
    positions: str | int = "all"
    folds: int = 2
    sample: int = 4096
    top: int = 9
    seed: int = 0
    name: str = field(default="", compare=False)

    @property
    @apart
    def seconds(self) -> float:
        """Of measuring, about."""
        return _SECONDS_PER_IMAGE * len(self.networks) * len(self.images) / 2

    def make(self, get: Get, report: Report) -> Measurement:
        """Measure them."""
        networks = {name: declared.network(get) for name, declared in self.networks}
        return run_pass(
            networks, self.images.load().images, self.layers, pairs=self.pairs, positions=self.positions,
            folds=self.folds, sample=self.sample, top=self.top, seed=self.seed,
        )  # fmt: skip


@apart
def training_seconds(images: Images, recipe: Recipe) -> float:
    """What training takes on one thread, about."""
    return _SECONDS_PER_IMAGE * len(images) * recipe.epochs
