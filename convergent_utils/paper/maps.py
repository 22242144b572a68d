"""What 08_maps reads: maps of more and more freedom between networks, and networks stitched together by them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels.chance import Interval
from ..kernels.intervals import groups_interval
from ..kernels.restricted import unshrunk
from ..kernels.sparse_mapping import MappingPath, least_squares
from ..making.things import Get, Report, Thing
from ..nets.datasets import normalise
from ..nets.declared import Declared, Images, Measured, OnTheWay
from ..nets.measurement import Measurement
from ..nets.networks import Network
from ..nets.stitching import Stitched, stitched
from .networks import Setting, as_network, measurements
from .on_the_way import Line, Moment, Steady
from .rungs import RUNGS, ladder, rungs
from .shifts import SHIFTS, Shifted

NOTEBOOK = "08_maps"
JOINED = tuple(rung for rung in RUNGS if rung != "soft")  # at equal widths it is the bipartite one
WIDE = ("bipartite", "best unit", "five units", "best rotation")  # tried with each unit's own spread, too
_TOGETHER = 250  # images
_EVERY, _EVERY_STARTED = 10, 8  # one in so many test images, and of images to fit maps from untrained networks


@dataclass(frozen=True)
class Sizes:
    """How much is run.

    Attributes:
        turns, few_turns: random rotations of a pair of networks, and where there are many pairs.
        shifts: of images.
    """

    turns: int = 5
    few_turns: int = 3
    shifts: tuple[str, ...] = tuple(SHIFTS)


SIZES = {
    "smoke": Sizes(turns=1, few_turns=1, shifts=("as they are", "blur of 5", "inverted")),
    "paper": Sizes(),
    "full": Sizes(turns=20, few_turns=20),
}


@dataclass(frozen=True)
class Ladder(Thing):
    """How well units are predicted by maps of more and more freedom, see `ladder`.

    For each of them (nets, nets, layers), the same in both directions: that from the first of two to the second.
    """

    title, seconds, published = "climbing the ladder of maps", 40.0, True

    measured: Measured
    nets: tuple[str, ...]
    layers: tuple[str, ...]
    turns: int
    seed: int

    def make(self, get: Get, report: Report) -> dict[str, Tensor]:
        """Climb it, from every network to each after it."""
        measured, found = get(self.measured), {}
        n, folds = len(self.nets), range(len(measured.folds))
        for done, (i, k) in enumerate(combinations(range(n), 2)):
            for column, layer in enumerate(self.layers):
                blocks = f"{self.nets[i]}.{layer}", f"{self.nets[k]}.{layer}"
                fit, held = (measured.pair(*blocks, fold=list(folds[part::2])) for part in (0, 1))
                for name, r in ladder(fit, held, turns=self.turns, seed=self.seed).items():
                    found.setdefault(name, torch.ones(n, n, len(self.layers), dtype=torch.float64))
                    found[name][i, k, column] = found[name][k, i, column] = r
            report(2 * (done + 1) / (n * (n - 1)))
        return found


@dataclass(frozen=True)
class Joined(Thing):
    """Accuracy of network b up to a layer, a map, and network a from there, see `stitched`; (layers,) for each map."""

    title, seconds, published = "stitching networks", 12.0, True

    a: str
    b: str
    networks: tuple[tuple[str, Declared], ...]
    layers: tuple[str, ...]
    fitted: Measured
    started: Measured
    test: Images

    def make(self, get: Get, report: Report) -> dict[str, Tensor]:
        """Join them in each layer."""
        networks = {name: as_network(declared.network(get)).eval() for name, declared in self.networks}
        measured, started, test, found = get(self.fitted), get(self.started), self.test.load(), {}
        images, before = normalise(test.images), untrained_name(self.b)
        seen = {name: after_each(networks[name], self.layers, images) for name in (self.b, before)}
        for done, layer in enumerate(self.layers):
            blocks = f"{self.b}.{layer}", f"{self.a}.{layer}"
            maps = {(name, self.b): mapping for name, mapping in maps_to_join(measured, *blocks).items()}
            pair = started.pair(f"{before}.{layer}", blocks[1])
            maps["untrained below", before] = least_squares(pair)
            maps["untrained below, own spread", before] = unshrunk(least_squares(pair), pair)
            for (name, below), mapping in maps.items():
                whole = stitched(networks[self.a], networks[below], layer, mapping)
                right = (said_from(whole, seen[below][layer], images) == test.labels).double().mean()
                found.setdefault(name, torch.zeros(len(self.layers), dtype=torch.float64))[done] = right
            report((done + 1) / len(self.layers))
        return found


def after_each(network: Network, layers: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    """The activations of these layers of a chain of modules, in one pass."""
    found: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    with torch.no_grad():
        for acts in images.split(_TOGETHER):
            for name, module in network.named_children():
                acts = module(acts)
                if name in found:
                    found[name].append(acts)
    return {layer: torch.cat(of_layer) for layer, of_layer in found.items()}


def said_from(whole: Stitched, acts: Tensor, images: Tensor) -> Tensor:
    """The class that a stitched network says of each image, from the layer's activations on."""
    with torch.no_grad():
        batches = zip(acts.split(_TOGETHER), images.split(_TOGETHER), strict=True)
        return torch.cat([whole.after(*batch).argmax(1) for batch in batches])


def untrained_name(name: str) -> str:
    """What a network before its first step is called beside it."""
    return f"{name}@0%"


def things(setting: Setting) -> dict[tuple, Thing]:
    """What the notebook reads, by the names under which it asks.

    Measurements; ("ladder", "trained" or "untrained"); ("joined", net a, net b) for each network and its neighbours;
    ("line", net a, net b) for each and the next; ("moment", step); ("steady", step), of two networks trained at a
    constant rate; and ("shifted", shift).
    """
    nets, layers, networks = tuple(setting.networks), setting.layers, tuple(setting.networks.items())
    started, fitted = _started(setting), setting.measured("training images")
    test = replace(setting.test, every=_EVERY)
    of_units: dict[str, Any] = {"layers": layers[:-1], "seed": setting.seed}
    sizes = SIZES[setting.profile]
    found: dict[tuple, Thing] = {}
    for kind in ("trained", "untrained"):
        found["ladder", kind] = Ladder(setting.measured(kind), nets, turns=sizes.turns, **of_units)
    for a, b in around(nets):
        joined = ((a, setting.networks[a]), (b, setting.networks[b]), (untrained_name(b), setting.at(b, 0.0)))
        found["joined", a, b] = Joined(a, b, joined, layers, fitted, started, test)
    ring = tuple(zip(nets, (*nets[1:], nets[0]), strict=True))
    for a, b in ring:
        both = tuple((net, setting.networks[net]) for net in (a, b))
        found["line", a, b] = Line(a, b, both, fitted, replace(test, every=2 * _EVERY))
    for step in setting.steps:
        then = tuple((net, setting.after(net, step)) for net in nets)
        found["moment", step] = Moment(then, test, turns=sizes.few_turns, **of_units)
    steady = _steady(setting)
    for step in first_steps(setting):
        share = step / first_steps(setting)[-1]
        then = tuple((one.name, OnTheWay(one, share) if step else one.start) for one in steady)
        found["steady", step] = Moment(then, test, turns=sizes.few_turns, **of_units)
    for shift in sizes.shifts:
        found["shifted", shift] = Shifted(networks, ring, fitted, test, shift, turns=sizes.few_turns, **of_units)
    return measurements(setting, ("trained", "all"), ("untrained", "all")) | found


def first_steps(setting: Setting) -> tuple[int, ...]:
    """The steps of the first epoch after which networks are looked at."""
    per_epoch = len(setting.train) // setting.size.recipe.batch
    return tuple(step for step in setting.steps if step <= per_epoch)


def _steady(setting: Setting) -> list[Steady]:
    """The first two networks from the same starts, on the same images in the same order, at a constant rate."""
    steps, found = first_steps(setting), []
    for net in list(setting.networks)[:2]:
        like, recipe = setting.learned[net], replace(setting.size.recipe, epochs=1)
        shares = tuple(step / steps[-1] for step in steps[1:-1])
        found.append(Steady(like.start, like.images, like.test, recipe, like.order, f"{net}, constant rate", shares))
    return found


def around(nets: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Each network and the next, and the other way round, around the circle."""
    for one, other in zip(nets, (*nets[1:], nets[0]), strict=True):
        yield one, other
        yield other, one


def _started(setting: Setting) -> Measured:
    """Untrained networks with trained ones, on training images; from every network to its neighbours."""
    networks = {**setting.networks, **{untrained_name(net): setting.at(net, 0.0) for net in setting.networks}}
    pairs = tuple(
        (f"{untrained_name(b)}.{layer}", f"{a}.{layer}")
        for a, b in around(tuple(setting.networks))
        for layer in setting.layers
    )
    images = replace(setting.train, every=_EVERY_STARTED)
    return Measured(
        tuple(networks.items()), images, setting.layers, pairs=pairs, folds=1, sample=16, top=1, seed=setting.seed,
        name="untrained with trained",
    )  # fmt: skip


def maps_to_join(measured: Measurement, b: str, a: str) -> dict[str, MappingPath]:
    """Maps from a layer "network.layer" to another's: the rungs, some with each unit's own spread, and of no image.

    "shuffled images" is the linear map that is fitted where each image meets another one.
    """
    pair = measured.pair(b, a)
    maps = rungs(pair, JOINED)
    wide = {f"{name}, own spread": unshrunk(maps[name], pair) for name in WIDE}
    return {**maps, **wide, "shuffled images": least_squares(measured.layout(b, a))}


def over_circle(values: Mapping[tuple[str, str], float], names: Sequence[str], **options: Any) -> Interval:
    """The mean over the pairs of networks around the circle; its interval leaves one network out at a time.

    Args:
        values: by pair.
        names: of all networks.
        options: of `groups_interval`.
    """

    def mean(kept: Sequence[int]) -> float:
        """Over the pairs of which both networks are kept."""
        nets = {names[k] for k in kept}
        return float(np.mean([value for pair, value in values.items() if nets.issuperset(pair)]))

    return groups_interval(mean, [len(names)], **options)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Of two lists of numbers; 0 where either is the same throughout."""
    from scipy.stats import spearmanr

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(spearmanr(x, y).statistic)
