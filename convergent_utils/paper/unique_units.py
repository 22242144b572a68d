"""What 10_unique_units reads: units that no other network has, and what networks are worth without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..kernels.correlation import correlation
from ..kernels.matching import bipartite_matching
from ..making.things import Get, Report, Thing
from ..nets.datasets import Dataset, normalise
from ..nets.declared import Declared, Images, Measured
from ..nets.interventions import split_after, without
from ..nets.networks import Network, weighted
from .joining import Joins, joins
from .networks import Setting, as_network
from .svcca import KEPT as PROJECTED
from .svcca import Judge
from .uniqueness import Found, Planted, SharedUnits, least_redundant, live_first

NOTEBOOK = "10_unique_units"
ABLATED = ("conv3", "conv5", "fc6")
PLANTED_IN = "fc6"
SET = 8  # units that are ablated together
DRAWS = 10  # sets of random units
KEPT = (8, 16, 32)  # units that are kept, as many as in both spaces of `svcca.KEPT`
CRITERIA = ("most shared", "most unique", "least redundant", "largest weights", "largest variance", "random")
_NEAR = 4  # units, of which one is drawn as like a unique one
EVERY_ONE, EVERY_SET = 20, 4  # one in so many test images is judged after one unit, or a set of units, is ablated
_EVERY_HALF = 10
_FEW = 2  # turned and shuffled networks of which nothing is told
_BATCH = 250
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Sizes:
    """How much is run.

    Attributes:
        turns, shuffles: networks that are turned, or whose rows are shuffled, for a baseline.
        joins: how networks are pruned and joined.
    """

    turns: int = 50
    shuffles: int = 50
    joins: Joins = field(default_factory=Joins)


SIZES = {
    "smoke": Sizes(turns=4, shuffles=4),
    "paper": Sizes(),
    "full": Sizes(turns=200, shuffles=200),
}


@dataclass(frozen=True)
class Ablated(Thing):
    """What a network loses without some units of a layer, see `ablations`, and with few of them, see `keeping`.

    Beside what `ablations` gives, of each of `CRITERIA` as "kept, most shared, units" the accuracy with 8, 16 and 32
    units when the others say their mean, and as "kept, most shared, samples" when the others say what is best predicted
    of them from those that are kept, see `subspace_projection`; on every fourth test image.
    """

    title, seconds, published = "ablating units", 12.0, True

    net: str
    network: Declared
    layer: str
    shared: SharedUnits
    fitted: Measured
    test: Images
    seed: int

    def make(self, get: Get, report: Report) -> dict[str, Tensor]:
        """Ablate them."""
        network, block = as_network(self.network.network(get)).eval(), f"{self.net}.{self.layer}"
        fitted, shared = get(self.fitted), get(self.shared)[self.layer]
        index = self.shared.nets.index(self.net)
        mean = fitted.mean_map(block) if self.layer.startswith("conv") else fitted.mean_activation(block)
        of_net = {name: value[index] for name, value in shared.items()}
        of_net["shared"] = mean_r(shared["r"], index)
        test = self.test.load()
        found = ablations(network, self.layer, of_net, mean, test, seed=self.seed)
        pair = fitted.pair(block, block)
        judge = Judge(network, self.layer, test, pair)
        weight = weighted(network, self.layer).weight.detach().flatten(1).norm(dim=1)
        orders = keeping(of_net, correlation(pair).matrix, weight, self.seed)
        for (criterion, order), space in product(orders.items(), PROJECTED):
            kept, basis = [order(min(count, len(weight))) for count in KEPT], torch.eye(len(weight)).double()
            found[f"kept, {criterion}, {space}"] = judge.accuracies([basis[:, some] for some in kept], space).double()
        return found


@dataclass(frozen=True)
class Halves(Thing):
    """Accuracy of two networks together, by what is left of a layer of each.

    Together they say the class with the largest mean of both logits. In a layer each keeps "all" units; the half that
    is "matched" best with the other network's, one to one; the other half, "unmatched"; or a "random" half. The other
    units say their mean. A dict of these, each (layers,).

    Attributes:
        networks: two, by name.
        layers: of which.
        fitted: measured on images of training.
        test: images; one in ten is judged.
        seed: of the random halves.
    """

    title, seconds, published = "joining halves of networks", 5.0, True

    networks: tuple[tuple[str, Declared], ...]
    layers: tuple[str, ...]
    fitted: Measured
    test: Images
    seed: int

    def make(self, get: Get, report: Report) -> dict[str, Tensor]:
        """Judge them."""
        fitted = get(self.fitted)
        data = replace(self.test, every=_EVERY_HALF).load()
        networks = {name: as_network(declared.network(get)).eval() for name, declared in self.networks}
        found: dict[str, list[float]] = {}
        for layer in self.layers:
            blocks = [f"{name}.{layer}" for name in networks]
            logits: dict[str, list[Tensor]] = {}
            for network, own, other in zip(networks.values(), blocks, blocks[::-1], strict=True):
                score = correlation(fitted.pair(own, other))
                r = bipartite_matching(score.matrix, live_a=score.live_a, live_b=score.live_b).score
                mean = fitted.mean_map(own) if layer.startswith("conv") else fitted.mean_activation(own)
                for left, gone in self._gone(r).items():
                    logits.setdefault(left, []).append(_logits_without(network, layer, gone, mean, data.images))
            for left, both in logits.items():
                right = (torch.stack(both).mean(0).argmax(1) == data.labels).double().mean()
                found.setdefault(left, []).append(float(right))
        return {left: torch.tensor(values, dtype=torch.float64) for left, values in found.items()}

    def _gone(self, r: Tensor) -> dict[str, Tensor]:
        """The units that are left out, by what is kept."""
        half, order = len(r) // 2, r.argsort(descending=True)
        drawn = torch.randperm(len(r), generator=torch.Generator().manual_seed(self.seed))
        return {"all": order[:0], "matched": order[half:], "unmatched": order[: len(r) - half], "random": drawn[half:]}


def things(setting: Setting) -> dict[tuple, Thing]:
    """What the notebook reads, by the names under which it asks.

    ("shared", "trained" or "untrained"), see `SharedUnits`; ("planted",), see `Found`; ("ablated", net, layer);
    ("halves", net a, net b) of each network and the next; ("projection", net, layer) of 06_svcca; and what `joins`
    declares.
    """
    from .svcca import things as of_svcca

    sizes, networks, nets = SIZES[setting.profile], setting.networks, tuple(setting.networks)
    found: dict[tuple, Thing] = {}
    layers, seed = setting.layers[:-1], setting.seed
    shared = SharedUnits(setting.measured("trained"), nets, layers, sizes.turns, sizes.shuffles, seed)
    found["shared", "trained"] = shared
    found["shared", "untrained"] = SharedUnits(setting.measured("untrained"), nets, layers, _FEW, _FEW, seed)
    found["planted",] = Found(_with_planted(setting), nets, PLANTED_IN, SET, setting.seed)
    fitted = setting.measured("training images")
    for net in nets:
        for layer in ABLATED:
            asked = net, networks[net], layer, shared, fitted, setting.test, seed
            found["ablated", net, layer] = Ablated(*asked)
    for a, b in zip(nets, (*nets[1:], nets[0]), strict=True):
        both = ((a, networks[a]), (b, networks[b]))
        found["halves", a, b] = Halves(both, ABLATED, fitted, setting.test, setting.seed)
    found |= {name: thing for name, thing in of_svcca(setting).items() if name[0] == "projection"}
    return found | joins(setting, sizes.joins)


def _with_planted(setting: Setting) -> Measured:
    """Networks with planted units, each with all the others as they are."""
    networks = {}
    for k, (net, declared) in enumerate(setting.networks.items()):
        networks[f"{net}, planted"] = Planted(declared, PLANTED_IN, SET, setting.seed + k)
    pairs = [
        (f"{net}, planted.{PLANTED_IN}", f"{other}.{PLANTED_IN}")
        for net in setting.networks
        for other in setting.networks
        if other != net
    ]
    return Measured(
        tuple({**setting.networks, **networks}.items()), replace(setting.test, every=EVERY_SET), (PLANTED_IN,),
        tuple(pairs), folds=2, sample=16, top=1, seed=setting.seed, name="planted",
    )  # fmt: skip


def mean_r(r: Tensor, net: int, kept: Sequence[int] | None = None) -> Tensor:
    """How far the units of a network are shared with the others, or with some of them: (units,).

    Args:
        r: (nets, nets, units) of `SharedUnits`.
        net: number of the network.
        kept: numbers of the networks that count; None: all. The network itself never does.
    """
    others = [other for other in (range(len(r)) if kept is None else kept) if other != net]
    return r[net, others].mean(0)


def ablations(
    network: Network, layer: str, of_net: Mapping[str, Tensor], mean: Tensor, test_set: Dataset, *, seed: int
) -> dict[str, Tensor]:
    """What a network loses without single units of a layer, and without sets of `SET` units.

    Args:
        network: a chain of modules.
        layer: of it.
        of_net: of its units (units,): "shared", "live", "rate", "variance", "mean", see `SharedUnits`.
        mean: what an ablated unit says, see `ablated`.
        test_set: images, of which one in 20 is judged after single units are ablated, and one in four after sets.
        seed: of the random sets.

    Returns:
        "loss" (units, classes), the cross-entropy of images of each class that is added without the unit, and "right"
        (units,) the accuracy that is lost; "own loss" and "own accuracy". Of sets, of live units, the accuracy that is
        lost of each class (classes,): "unique", the most unique ones, "shared", the most shared ones, and "random"
        (draws, classes), random ones that are like the unique ones in rate, variance and mean. "members" are the sets
        (2 + draws, set) themselves, in this order.
    """
    below, above = split_after(network, layer)
    found: dict[str, Tensor] = {}
    single, sets = (_reached(below, test_set, every) for every in (EVERY_ONE, EVERY_SET))
    classes = int(test_set.labels.max()) + 1
    units = torch.arange(len(of_net["shared"]))
    own_loss, own_right = _by_class(above, *single, units[:0], mean, classes)
    alone = [_by_class(above, *single, units[k : k + 1], mean, classes) for k in units.tolist()]
    share = single[1].bincount(minlength=classes).double() / len(single[1])
    found["own loss"], found["own accuracy"] = own_loss @ share, own_right @ share
    found["loss"] = torch.stack([loss for loss, _ in alone]) - own_loss
    found["right"] = (own_right - torch.stack([right for _, right in alone])) @ share
    members = chosen_sets(of_net, seed=seed)
    _, own_right = _by_class(above, *sets, units[:0], mean, classes)
    lost = torch.stack([own_right - _by_class(above, *sets, chosen, mean, classes)[1] for chosen in members])
    return {**found, "unique": lost[0], "shared": lost[1], "random": lost[2:], "members": torch.stack(members)}


def chosen_sets(of_net: Mapping[str, Tensor], *, seed: int) -> list[Tensor]:
    """The most unique live units, the most shared ones, and random ones that are like the unique ones; see `ablations`.

    For each unique unit one of the four that are most like it is drawn, none twice, and none of the unique ones.
    Distances are those of rate, and of the logarithms of variance and mean, each in its standard deviations.
    """
    live = of_net["live"].nonzero()[:, 0]
    order = live[of_net["shared"][live].argsort()]
    size = min(SET, len(order) // 3)
    unique, shared = order[:size], order[-size:].flip(0)
    tiny = torch.finfo(torch.float64).tiny
    looks = [of_net["rate"], of_net["variance"].clamp(min=tiny).log(), of_net["mean"].abs().clamp(min=tiny).log()]
    look = torch.stack(looks, dim=1)[live]
    look = (look - look.mean(0)) / look.std(0).clamp(min=tiny)
    places = {int(unit): row for row, unit in enumerate(live.tolist())}
    generator, drawn = torch.Generator().manual_seed(seed), []
    for _ in range(DRAWS):
        free = [unit for unit in live.tolist() if unit not in unique.tolist()]
        chosen = []
        for unit in unique[torch.randperm(size, generator=generator)].tolist():
            apart = (look[[places[other] for other in free]] - look[places[unit]]).norm(dim=1)
            near = apart.argsort()[:_NEAR]
            chosen.append(free.pop(int(near[torch.randint(len(near), (1,), generator=generator)])))
        drawn.append(torch.tensor(chosen))
    return [unique, shared, *drawn]


def keeping(
    of_net: Mapping[str, Tensor], within: Tensor, weight: Tensor, seed: int
) -> dict[str, Callable[[int], Tensor]]:
    """By each of `CRITERIA` what gives the units (count,) of a layer that are kept, dead units last.

    Args:
        of_net: of its units (units,): "shared", "live", and "variance", see `SharedUnits`.
        within: (units, units), correlations of units with each other.
        weight: (units,), the length of its incoming weights.
        seed: of the random ones.
    """
    shared, size = of_net["shared"], weight.double()
    drawn = torch.rand(len(shared), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scores = {"most shared": shared, "most unique": -shared, "largest weights": size, "random": drawn}
    scores["largest variance"] = of_net["variance"]
    orders = {name: live_first(score, of_net["live"]) for name, score in scores.items()}
    found: dict[str, Callable[[int], Tensor]] = {
        name: (lambda count, order=order: order[:count]) for name, order in orders.items()
    }
    found["least redundant"] = lambda count: least_redundant(within, count)
    return {criterion: found[criterion] for criterion in CRITERIA}


def effects(found: Mapping[str, Tensor], of_layer: Mapping[str, Tensor], net: int) -> tuple[dict, list[np.ndarray]]:
    """What the ablation of each live unit does, and what else is known of it.

    Args:
        found: of `ablations`.
        of_layer: of `SharedUnits`.
        net: number of the network.

    Returns:
        "loss added", mean over classes; "its size", whatever its sign; "accuracy lost"; and "one class", the largest
        class's share of the loss that is added, where classes whose loss falls count as 0; each (live units,). And the
        unit's rate and the logarithms of its variance and mean.
    """
    live = of_layer["live"][net]
    added = found["loss"][live].numpy()
    grown, mean = np.clip(added, 0, None), added.mean(1)
    share = grown.max(1) / np.clip(grown.sum(1), _ROUNDING, None)
    looks = [of_layer["rate"][net][live].numpy()]
    looks += [of_layer[name][net][live].abs().clamp(min=_ROUNDING).log().numpy() for name in ("variance", "mean")]
    known = {"loss added": mean, "its size": np.abs(mean), "accuracy lost": found["right"][live].numpy()}
    return known | {"one class": share}, looks


def deviations(standing: Mapping[str, Tensor], kept: Sequence[int], *, own_spread: bool = False) -> list[np.ndarray]:
    """Mean uniqueness, accuracy and loss of networks of a family (kept,), each less its mean over these.

    Args:
        standing: see `Standing`.
        kept: numbers of the networks, which are unique among themselves.
        own_spread: in standard deviations.
    """
    kept = list(kept)
    uniqueness = 1 - standing["shared"][kept][:, kept].mean(-1).sum(1) / (len(kept) - 1)
    values = [value.numpy() for value in (uniqueness, standing["accuracy"][kept], standing["loss"][kept])]
    spreads = [value.std(ddof=1) or 1.0 if own_spread else 1.0 for value in values]  # 1 where all are alike
    return [(value - value.mean()) / spread for value, spread in zip(values, spreads, strict=True)]


def partial_correlation(x: Sequence[float], y: Sequence[float], *given: Sequence[float], ranks: bool = False) -> float:
    """Correlation of x and y once what is given is taken off both, by a linear fit; 0 where nothing of either is left.

    Args:
        x, y, given: numbers, one for each thing that is looked at.
        ranks: of the ranks of all of them, so that no outlier counts for more.
    """
    from scipy.stats import rankdata

    columns = np.array([rankdata(values) if ranks else np.asarray(values, dtype=float) for values in (x, y, *given)])
    columns = columns - columns.mean(1, keepdims=True)
    spread = np.linalg.norm(columns, axis=1)
    if len(columns) > 2:
        fit, *_ = np.linalg.lstsq(columns[2:].T, columns[:2].T, rcond=None)
        columns = columns[:2] - (columns[2:].T @ fit).T
    left = np.linalg.norm(columns[:2], axis=1)
    if (left <= _ROUNDING * spread[:2]).any():
        return 0.0
    return float(columns[0] @ columns[1] / left.prod())


def _reached(below: nn.Module, test_set: Dataset, every: int) -> tuple[Tensor, Tensor]:
    """The layer's activations on one in so many test images, and their labels."""
    with torch.no_grad():
        acts = [below(normalise(images)) for images in test_set.images[::every].split(_BATCH)]
    return torch.cat(acts), test_set.labels[::every]


def _by_class(
    above: nn.Module, acts: Tensor, labels: Tensor, gone: Tensor, mean: Tensor, classes: int
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and accuracy of the images of each class (classes,) without these units; 0 for a class without."""
    with torch.no_grad():
        logits = torch.cat([above(without(part, gone, mean)) for part in acts.split(_BATCH)])
    count = labels.bincount(minlength=classes).clamp(min=1)
    loss = cross_entropy(logits, labels, reduction="none").double()
    right = (logits.argmax(1) == labels).double()
    return labels.bincount(loss, minlength=classes) / count, labels.bincount(right, minlength=classes) / count


def _logits_without(network: Network, layer: str, gone: Tensor, mean: Tensor, images: Tensor) -> Tensor:
    below, above = split_after(network, layer)
    with torch.no_grad():
        return torch.cat([above(without(below(normalise(part)), gone, mean)) for part in images.split(_BATCH)])
