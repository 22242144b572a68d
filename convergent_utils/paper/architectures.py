"""What 09_architectures reads: plain, residual and inception networks, and how alike they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations, combinations_with_replacement

import numpy as np
import torch
from torch import Tensor, nn

from ..kernels.chance import chance_level
from ..kernels.correlation import correlation
from ..kernels.matching import semi_matching
from ..kernels.moments import PairMoments
from ..kernels.neighbours import mutual_knn
from ..kernels.rotation import rotated
from ..kernels.sparse_mapping import least_squares
from ..making.code import apart
from ..making.things import Get, Report, Thing
from ..nets.datasets import normalise
from ..nets.declared import Declared, Images, Learned, Measured, OnTheWay
from ..nets.measurement import Measurement
from ..nets.networks import Network, build_network
from ..nets.training import CHECKPOINTS, Recipe
from .alike import SIMILARITIES as OF_MOMENTS
from .alike import both_ways
from .networks import Setting, as_network

NOTEBOOK = "09_architectures"
INCEPTION = "inception"
_SEEDS = {"plain": 2000, "residual": 3000, INCEPTION: 4000}  # and 10 for each layer of depth: every network has its own
_SETTLING = 1000  # training images from which batch norms of untrained networks have their means and spreads
_ROWS = 512  # of the aligned sample, on which neighbours are looked for and chance is drawn
_SECONDS_PER_IMAGE = 5e-5  # and layer, of training on one thread; only for the estimate that is shown
SIMILARITIES = ("matched", "turned", "linear R2", "PWCCA", "CKA", "k-NN")


@dataclass(frozen=True)
class Sizes:
    """How many networks there are, and how they are trained.

    Attributes:
        depths: of plain and residual networks.
        compared: the depth at which all three families meet, one of `depths`.
        per_kind: networks of each family and depth.
        images, recipe: what all are trained on, and how.
        turns, shuffles: how often a network is turned, or its rows are shuffled, for a baseline.
    """

    depths: tuple[int, ...] = (8, 14, 20)
    compared: int = 14
    per_kind: int = 4
    images: int = 10_000
    recipe: Recipe = field(default_factory=lambda: Recipe(epochs=3, rate=5e-3))
    turns: int = 10
    shuffles: int = 19


SIZES = {
    "smoke": Sizes((8, 14), 8, per_kind=3, images=512, recipe=Recipe(epochs=1, rate=5e-3), turns=3, shuffles=19),
    "paper": Sizes(),
    "full": Sizes((8, 14, 20, 32), per_kind=8, images=60_000, recipe=Recipe(epochs=12, rate=5e-3)),
}


@dataclass(frozen=True)
class Deep:
    """A plain, residual or inception network before its first step; see `build_network`."""

    structure: str
    depth: int
    channels: int
    classes: int
    seed: int

    def network(self, get: Get | None = None) -> Network:
        """The network."""
        sizes = {"channels": self.channels, "classes": self.classes, "depth": self.depth}
        return as_network(build_network(self.structure, **sizes, seed=self.seed))


@dataclass(frozen=True)
class Settled:
    """A network before its first step, its batch norms with the means and spreads that its units have on images.

    As it is made, a batch norm takes every unit to have mean 0 and variance 1, and leaves it as it is: a network that
    nobody would compare, since its first step of training would set that right.

    Attributes:
        start: the network.
        images: all of which pass through it at once.
    """

    start: Deep
    images: Images

    def network(self, get: Get | None = None) -> Network:
        """The network, in eval mode; no weight of it is changed."""
        network = self.start.network(get)
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        usual = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over batches, of which there is one
        with torch.no_grad():
            network.train()(normalise(self.images.load().images))
        for norm, momentum in zip(norms, usual, strict=True):
            norm.momentum = momentum
        return network.eval()


@dataclass(frozen=True)
class LearnedDeep(Learned):
    """One of these networks, trained."""

    title = "training deep networks"

    start: Deep

    @property
    @apart
    def seconds(self) -> float:
        """Of training, about."""
        return _SECONDS_PER_IMAGE * len(self.images) * self.recipe.epochs * self.start.depth


@dataclass(frozen=True)
class Compared(Thing):
    """How alike every two networks of a measurement are: by each of `SIMILARITIES` (networks, networks, layers).

    "matched" is the correlation of a unit with its best partner, and "turned" the same when the other network is turned
    at random, both means over live units; "linear R2" the share of variance that a linear map from all units of the
    other explains, fitted on one half of the images and judged on the other, a dead unit counting 0. All three are
    means over both ways. "PWCCA" is the
    mean of both ways. "CKA" is calibrated, see `Chance.calibrated`; it and "k-NN", the shared nearest neighbours, are
    of the rows of the aligned sample.

    Attributes:
        measured: whose networks all meet.
        layers: of which.
        turns, shuffles: for the baselines.
    """

    title, seconds = "comparing architectures", 60.0

    measured: Measured
    layers: tuple[str, ...]
    turns: int
    shuffles: int

    def make(self, get: Get, report: Report) -> dict[str, Tensor]:
        """Compare them."""
        measured, names = get(self.measured), [name for name, _ in self.measured.networks]
        shape = len(names), len(names), len(self.layers)
        found = {name: torch.ones(shape, dtype=torch.float64) for name in SIMILARITIES}
        meeting = list(combinations(enumerate(names), 2))
        for done, ((i, a), (j, b)) in enumerate(meeting):
            for k, layer in enumerate(self.layers):
                values = self._of(measured, f"{a}.{layer}", f"{b}.{layer}")
                for name, value in values.items():
                    found[name][i, j, k] = found[name][j, i, k] = float(value)
            report((done + 1) / len(meeting))
        return found

    def _of(self, measured: Measurement, a: str, b: str) -> dict[str, float | Tensor]:
        pair, rows = measured.pair(a, b), [measured.sample(block).double() for block in (a, b)]
        fit, held = (measured.pair(a, b, fold=fold) for fold in (0, 1))
        chance = chance_level(_cka_of_rows, *rows, n_shuffles=self.shuffles)
        return {
            "matched": matched(pair),
            "turned": np.mean([_turned(pair, k) for k in range(self.turns)]),
            "linear R2": (linear_r2(fit, held) + linear_r2(fit.swap(), held.swap())) / 2,
            "PWCCA": both_ways(pair),
            "CKA": chance.calibrated(),
            "k-NN": mutual_knn(*rows),
        }


def _cka_of_rows(acts_a: Tensor, acts_b: Tensor) -> Tensor:
    """CKA of the rows of a sample; they are centred once more, which costs little."""
    a, b = (acts - acts.mean(0) for acts in (acts_a, acts_b))
    own = (a.T @ a).norm() * (b.T @ b).norm()
    return (a.T @ b).square().sum() / own if own else own


def matched(pair: PairMoments) -> float:
    """Correlation of a unit with its best partner, mean over live units and over both ways."""
    return (_best(pair) + _best(pair.swap())) / 2


def _best(pair: PairMoments) -> float:
    found = correlation(pair)
    score = semi_matching(found.matrix, live_a=found.live_a, live_b=found.live_b).score
    return float(score[found.live_a].mean()) if found.live_a.any() else 0.0


def _turned(pair: PairMoments, seed: int) -> float:
    """`matched` when one network is turned at random, mean over which."""
    return (_best(rotated(pair, seed=seed)) + _best(rotated(pair.swap(), seed=seed))) / 2


def linear_r2(fit: PairMoments, held: PairMoments) -> float:
    """Share of variance of the units of b that a linear map from all of a explains on other images, mean over units."""
    return float(least_squares(fit).r2_on(held).mean())


@dataclass(frozen=True)
class LayerMaps(Thing):
    """Every layer of networks beside every layer of others: by each similarity (meetings, layers, layers).

    By "matched" and those of `alike.SIMILARITIES`, on means over places. Entry (i, j) is layer i of the first network
    beside layer j of the second; of a network and itself, too.

    Attributes:
        measured: where these layers meet.
        layers: of which.
        meet: names of networks, two by two; a network may meet itself.
    """

    title, seconds = "comparing layers", 30.0

    measured: Measured
    layers: tuple[str, ...]
    meet: tuple[tuple[str, str], ...]

    def make(self, get: Get, report: Report) -> dict[str, Tensor]:
        """Compare them."""
        measured, count = get(self.measured), len(self.layers)
        of = {"matched": matched, **OF_MOMENTS}
        found = {name: torch.ones(len(self.meet), count, count, dtype=torch.float64) for name in of}
        for number, (a, b) in enumerate(self.meet):
            for i, j in np.ndindex(count, count):
                if a == b and j <= i:  # it is itself, or was compared
                    continue
                pair = measured.pair(f"{a}.{self.layers[i]}", f"{b}.{self.layers[j]}")
                for name, similarity in of.items():
                    found[name][number, i, j] = similarity(pair)
                    if a == b:
                        found[name][number, j, i] = found[name][number, i, j]
            report((number + 1) / len(self.meet))
        return found


def kinds(sizes: Sizes) -> list[tuple[str, int]]:
    """Families and depths of the networks."""
    found = [(family, depth) for depth in sizes.depths for family in ("plain", "residual")]
    return [*found, (INCEPTION, sizes.compared)]


def named(family: str, depth: int, sizes: Sizes) -> list[str]:
    """The networks of a family and depth, as they are named in measurements."""
    return [f"{family} {depth} {k}" for k in range(1, sizes.per_kind + 1)]


def blocks(depth: int) -> tuple[str, ...]:
    """The layers that are compared: the stem and all blocks."""
    return ("stem", *(f"block{k}" for k in range(1, (depth - 2) // 2 + 1)))


def things(setting: Setting) -> dict[tuple, Thing]:
    """What the notebook reads, by the names under which it asks.

    ("deep", family, depth, number), a `Trained`; ("compared", depth) and ("compared, untrained", depth), see
    `Compared`, of all networks of that depth. Of the deepest plain and residual ones, on means over places:
    ("measured", "inside", "mean"), where all layers of two networks of a family meet, and those of one; ("layers",
    family) and ("layers, untrained", family), the `LayerMaps` of it, of `meetings` in their order; and
    ("layers, on the way", share), of residual networks after a share of training with what they are in the end.
    """
    sizes = SIZES[setting.profile]
    made = networks_of(setting)
    second, deepest = replace(setting.test, every=2), max(sizes.depths)
    found: dict[tuple, Thing] = {
        ("deep", *kind, k): one for kind, of in made.items() for k, one in enumerate(of.values(), 1)
    }
    for depth in sizes.depths:
        trained = {name: one for kind, of in made.items() if kind[1] == depth for name, one in of.items()}
        for said, networks in (("", trained), (", untrained", _at_first(trained))):
            measured = _measured(setting, f"depth {depth}{said}", networks, second, blocks(depth))
            found[f"compared{said}", depth] = Compared(measured, blocks(depth), sizes.turns, sizes.shuffles)
    for said in ("", ", untrained"):
        inside = {**made["plain", deepest], **made["residual", deepest]}
        meet = {family: meetings(family, sizes) for family in ("plain", "residual")}
        networks = _at_first(inside) if said else inside
        measured = _of_layers(setting, f"inside{said}", networks, second, (*meet["plain"], *meet["residual"]))
        found["measured", f"inside{said}", "mean"] = measured
        found |= {(f"layers{said}", family): LayerMaps(measured, blocks(deepest), of) for family, of in meet.items()}
    residual = made["residual", deepest]
    for share in CHECKPOINTS[:-1]:
        then = {
            f"{name}@{share:.0%}": OnTheWay(one, share) if share else _settled(one) for name, one in residual.items()
        }
        meet = tuple(zip(then, residual, strict=True))
        measured = _of_layers(setting, f"{share:.0%} of the way", {**residual, **then}, second, meet)
        found["layers, on the way", share] = LayerMaps(measured, blocks(deepest), meet)
    return found


def meetings(family: str, sizes: Sizes) -> tuple[tuple[str, str], ...]:
    """The deepest networks of a family, each with itself and with all others, as `LayerMaps` has them."""
    return tuple(combinations_with_replacement(named(family, max(sizes.depths), sizes), 2))


def networks_of(setting: Setting) -> dict[tuple[str, int], dict[str, LearnedDeep]]:
    """All networks by family and depth, and by name."""
    sizes = SIZES[setting.profile]
    return {kind: _networks(setting, sizes, *kind) for kind in kinds(sizes)}


def _networks(setting: Setting, sizes: Sizes, family: str, depth: int) -> dict[str, LearnedDeep]:
    images = replace(setting.train, part=min(sizes.images, setting.train.count))
    found = {}
    for k, name in enumerate(named(family, depth, sizes), start=1):
        seed = setting.seed + _SEEDS[family] + 10 * depth + k
        start = Deep(family, depth, setting.channels, setting.classes, seed)
        found[name] = LearnedDeep(start, images, setting.test, sizes.recipe, seed, name)
    return found


def _at_first(networks: Mapping[str, LearnedDeep]) -> dict[str, Declared]:
    return {name: _settled(one) for name, one in networks.items()}


def _settled(one: LearnedDeep) -> Settled:
    return Settled(one.start, replace(one.images, part=min(_SETTLING, len(one.images))))


def _of_layers(
    setting: Setting, which: str, networks: Mapping[str, Declared], images: Images, meet: tuple[tuple[str, str], ...]
) -> Measured:
    """Their measurement on means over places, where every layer of one meets every layer of the other."""
    layers = blocks(max(SIZES[setting.profile].depths))
    pairs = (
        (f"{a}.{layers[i]}", f"{b}.{layers[j]}")
        for a, b in meet
        for i, j in np.ndindex(len(layers), len(layers))
        if a != b or i < j
    )
    return _measured(setting, which, networks, images, layers, pairs=tuple(pairs), positions="mean")


def _measured(
    setting: Setting, which: str, networks: Mapping[str, Declared], images: Images, layers: tuple[str, ...], *,
    pairs: tuple[tuple[str, str], ...] | None = None, positions: str = "all",
) -> Measured:  # fmt: skip
    options = {"folds": 2, "sample": _ROWS, "top": 1, "seed": setting.seed, "name": which}
    return Measured(tuple(networks.items()), images, layers, pairs, positions, **options)


def same_unit(pair: PairMoments) -> tuple[float, float]:
    """Mean correlation of unit i of one layer with unit i of another, and what it is on average if one is shuffled.

    Over the units that both have, those that are live in both.
    """
    found = correlation(pair)
    n = min(found.matrix.shape)
    live = found.live_a[:n] & found.live_b[:n]
    matrix = found.matrix[:n, :n][live][:, live]
    return (float(matrix.diagonal().mean()), float(matrix.mean())) if live.any() else (0.0, 0.0)


def found_again(maps: np.ndarray) -> float:
    """How often a layer is most like that of the same number, over rows and columns of maps (..., layers, layers)."""
    return float(np.mean([maps.argmax(axis) == np.arange(maps.shape[-1]) for axis in (-1, -2)]))
