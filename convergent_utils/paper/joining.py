"""Networks that are cut by how unique their units are, and networks that are joined without what both have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..kernels.correlation import correlation
from ..kernels.matching import bipartite_matching
from ..kernels.moments import PairMoments
from ..making.things import Get, Report, Thing
from ..nets.datasets import Dataset
from ..nets.declared import Declared, Images, Learned, Measured
from ..nets.networks import Network, build_network, weighted, with_units
from ..nets.predicting import accuracy, predict
from .families import CUT, LONGER, PRUNED, RANDOM, SIZES, SLOW, Member, families, width_name
from .networks import Setting, as_network
from .pwcca import measured_families
from .uniqueness import least_redundant, live_first, of_network

PART, JOINT = 0.5, 0.75  # widths of the networks that are joined, and of what comes of two
CUT_BY = ("most shared", "most unique", "least redundant")
DROPPED = ("overlapping", "random", "unmatched")
_SEED = 1900  # added to the base seed and the number of a network that is as wide as a joined one
_MEASURED = 8  # one in so many images of training
_JUDGED = 2000  # images of training, whose loss is taken


@dataclass(frozen=True)
class Joins:
    """How large this is.

    Attributes:
        joins: two networks each; where there are fewer than twice as many networks, neighbours around the circle.
        tuning: epochs after networks were cut or joined.
    """

    joins: int = 4
    tuning: int = 1


@dataclass(frozen=True)
class CutBy:
    """Half of the units of each hidden layer of a wide network, with the weights that they had there.

    Attributes:
        wide: the network that they are taken from, one of its family.
        family: names of its networks.
        measured: of the family, on images of training.
        criterion: which are kept, one of `CUT_BY`.
    """

    wide: Member
    family: tuple[str, ...]
    measured: Measured
    criterion: str

    def network(self, get: Get) -> Network:
        """The network, not trained any further."""
        wide, measured, kept = self.wide.network(get), get(self.measured), {}
        name = self.wide.name
        for layer in wide.layers[:-1]:
            block, half = f"{name}.{layer}", round(len(weighted(wide, layer).weight) / CUT)
            if self.criterion == "least redundant":
                kept[layer] = least_redundant(correlation(measured.pair(block, block)).matrix, half)
                continue
            found = of_network(measured, name, [one for one in self.family if one != name], layer)
            shared = found.mean if self.criterion == "most shared" else -found.mean
            kept[layer] = live_first(shared, found.live)[:half].sort().values
        return with_units(wide, kept, width=1.0)


@dataclass(frozen=True)
class Joined:
    """Two networks in one, see `joined`.

    Attributes:
        a, b: networks of one width.
        names: of both, in `measured`.
        measured: on images of training.
        dropped: which units, see `joined`; "none".
        seed: of random ones.
    """

    a: Declared
    b: Declared
    names: tuple[str, str]
    measured: Measured
    dropped: str
    seed: int

    def network(self, get: Get) -> Network:
        """The network, not trained any further."""
        a, b = as_network(self.a.network(get)), as_network(self.b.network(get))
        pairs = {}
        if self.dropped != "none":
            measured = get(self.measured)
            pairs = {layer: measured.pair(*(f"{name}.{layer}" for name in self.names)) for layer in a.layers[:-1]}
        return joined(a, b, pairs, self.dropped, seed=self.seed)


@dataclass(frozen=True)
class Scores(Thing):
    """The share of test images that networks classify rightly, by their names."""

    title, seconds, published = "judging pruned and joined networks", 10.0, True

    networks: tuple[tuple[str, Declared], ...]
    test: Images

    def make(self, get: Get, report: Report) -> dict[str, float]:
        """Judge them."""
        test = self.test.load()
        return {name: _accuracy(declared, get, test) for name, declared in self.networks}


@dataclass(frozen=True)
class Standing(Thing):
    """How unique the units of the networks of a family are, and how good the networks.

    A dict of "shared" (nets, nets, layers), the mean over live units of network i of their correlation with the best
    partner in network j, see `Sharedness.r`, 0 for i = j; "accuracy" (nets,) on test images; and "loss" (nets,), the
    mean cross-entropy over some 2,000 of the images that they were trained on.

    Attributes:
        networks: of one family, by name.
        measured: where all meet.
        layers: of which.
        train, test: images.
    """

    title, seconds, published = "comparing networks of a family", 20.0, True

    networks: tuple[tuple[str, Declared], ...]
    measured: Measured
    layers: tuple[str, ...]
    train: Images
    test: Images

    def make(self, get: Get, report: Report) -> dict[str, Tensor]:
        """Compare them."""
        measured, names = get(self.measured), [name for name, _ in self.networks]
        shared = torch.zeros(len(names), len(names), len(self.layers), dtype=torch.float64)
        for i, name in enumerate(names):
            others = [k for k in range(len(names)) if k != i]
            for column, layer in enumerate(self.layers):
                found = of_network(measured, name, [names[k] for k in others], layer)
                shared[i, others, column] = found.r[:, found.live].mean(1) if found.live.any() else 0.0
        data, test = self.train.load(), self.test.load()
        losses = [cross_entropy(predict(one.network(get), data), data.labels) for _, one in self.networks]
        right = [_accuracy(one, get, test) for _, one in self.networks]
        return {"shared": shared, "accuracy": torch.tensor(right).double(), "loss": torch.stack(losses).double()}


def joins(setting: Setting, sizes: Joins) -> dict[tuple, Thing]:
    """What is declared of pruned and joined networks, and of families.

    ("scores", "pruned", k) and ("scores", "joined", k), of the k-th wide network and the k-th join, see `Scores`; and
    ("standing", family), see `Standing`, of the networks of 00 ("eight networks") and of families of 07.
    """
    made = families(setting, SIZES[setting.profile])
    wide, parts = made[width_name(CUT)], made[width_name(PART)]
    measured, found = _measured(setting, wide, parts), {}
    for k, (one, narrow, pruned, random) in enumerate(
        zip(wide, made[LONGER], made[PRUNED], made[RANDOM], strict=False), start=1
    ):
        starts: dict[str, Declared] = {"largest weights": pruned.start, "random": random.start}
        tuned: dict[str, Declared] = {"largest weights": pruned, "random": random}
        for criterion in CUT_BY:
            starts[criterion] = CutBy(one, tuple(of.name for of in wide), measured, criterion)
            tuned[criterion] = replace(pruned, start=starts[criterion], name=f"{criterion} {k}")
        networks: dict[str, Declared] = {"wide": one, "trained small": narrow}
        networks |= {f"{criterion}, cut": start for criterion, start in starts.items()}
        networks |= {f"{criterion}, tuned": member for criterion, member in tuned.items()}
        found["scores", "pruned", k] = Scores(tuple(networks.items()), setting.test)
    for k, (a, b) in enumerate(_two_by_two(parts, sizes.joins), start=1):
        found["scores", "joined", k] = Scores(tuple(_joined(setting, sizes, k, a, b, measured).items()), setting.test)
    return found | _standings(setting, made)


def _joined(setting: Setting, sizes: Joins, k: int, a: Member, b: Member, measured: Measured) -> dict[str, Declared]:
    """Two networks, what comes of them, and what they are compared with, by name."""
    seed = setting.seed + _SEED + k
    again = replace(a.recipe, epochs=sizes.tuning)
    tuned = {one.name: replace(one, start=one, recipe=again, name=f"{one.name}, tuned") for one in (a, b)}
    names = (a.name, b.name)
    found: dict[str, Declared] = {
        "one": a,
        "the other": b,
        "one, tuned": tuned[a.name],
        "the other, tuned": tuned[b.name],
    }
    found["both"] = Joined(a, b, names, measured, "none", seed)
    found["both, tuned apart"] = Joined(*tuned.values(), names, measured, "none", seed)
    for dropped in DROPPED:
        start = Joined(a, b, names, measured, dropped, seed)
        found[f"{dropped}, dropped"] = start
        found[f"{dropped}, tuned"] = replace(a, start=start, recipe=again, order=seed, name=f"{dropped} {k}")
    start = setting.start(seed, structure="alexnet-narrow", width=JOINT, scaled=True)
    longer = replace(a.recipe, epochs=2 * a.recipe.epochs + sizes.tuning)
    found["as wide"] = replace(a, start=start, recipe=longer, order=seed, name=f"as wide {k}")
    return found


def _standings(setting: Setting, made: Mapping[str, list[Member]]) -> dict[tuple, Thing]:
    sizes, measured = SIZES[setting.profile], measured_families(setting)
    asked = {width_name(width): "widths" for width in sizes.widths} | {SLOW: "rates"}
    found: dict[tuple, Thing] = {}
    for family, which in asked.items():
        images = replace(setting.train, part=sizes.images, every=max(1, sizes.images // _JUDGED))
        networks = tuple((one.name, one) for one in made[family])
        found["standing", family] = Standing(networks, measured[which], setting.layers[:-1], images, setting.test)
    images = replace(setting.train, every=max(1, len(setting.train) // _JUDGED))
    options = setting.measured("trained"), setting.layers[:-1], images, setting.test
    found["standing", "eight networks"] = Standing(tuple(setting.networks.items()), *options)
    return found


def _measured(setting: Setting, wide: list[Member], parts: list[Member]) -> Measured:
    """Wide networks, and those that are joined, on images of training; networks of one width meet."""
    pairs = []
    for family in (wide, parts):
        names = [one.name for one in family]
        pairs += [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]
    return Measured(
        tuple((one.name, one) for one in (*wide, *parts)),
        replace(setting.train, every=_MEASURED),
        setting.layers,
        tuple((f"{a}.{layer}", f"{b}.{layer}") for a, b in pairs for layer in setting.layers[:-1]),
        folds=2,
        sample=16,
        top=1,
        seed=setting.seed,
        name="to cut and to join",
    )


def _two_by_two(parts: list[Member], count: int) -> list[tuple[Member, Member]]:
    """As many joins: of networks that are in no other join, or else of neighbours around the circle."""
    if len(parts) >= 2 * count:
        return [(parts[2 * k], parts[2 * k + 1]) for k in range(count)]
    return [(one, parts[(k + 1) % len(parts)]) for k, one in enumerate(parts)][:count]


def _accuracy(declared: Declared, get: Get, test: Dataset) -> float:
    """What was found when it was trained, or is found now."""
    if isinstance(declared, Learned):
        return float(get(declared).history.test_accuracy[-1])
    return get(declared)["accuracy"] if isinstance(declared, Member) else accuracy(declared.network(get), test)


def joined(a: Network, b: Network, pairs: Mapping[str, PairMoments], dropped: str, *, seed: int) -> Network:
    """One network of two: side by side, their logits averaged, a quarter of the units of each hidden layer dropped.

    Units are paired one to one by correlation. Of a quarter as many pairs as there are units, one unit is dropped, that
    which adds less to the layer above (the length of its outgoing weights times its standard deviation), and the other
    stands in for it, with slope and offset.

    Args:
        a, b: "alexnet-narrow" of one width.
        pairs: moments of both by hidden layer.
        dropped: of the pairs that are most alike, "overlapping"; the least alike, "unmatched"; or "random" ones.
            "none": all units stay.
        seed: of random ones.

    Returns:
        "alexnet-narrow" of twice the width, or of one and a half times it, in eval mode.
    """
    share = 2.0 if dropped == "none" else JOINT / PART
    made = as_network(build_network(**{**a.configuration, "width": a.configuration["width"] * share})).eval()
    below: tuple[Tensor, Tensor] | None = None
    with torch.no_grad():
        for layer in made.layers:
            target = weighted(made, layer)
            both = [weighted(network, layer) for network in (a, b)]
            weight = _side_by_side([one.weight.double() for one in both], first=below is None)
            bias = torch.cat([one.get_parameter("bias") for one in both]).double()
            if below is not None:
                matrix, offset = below
                weight = weight.unflatten(1, (len(matrix), -1)) if layer == "fc6" else weight
                bias = bias + weight.flatten(2).sum(2) @ offset if weight.ndim > 2 else bias + weight @ offset
                weight = torch.einsum("ou...,uk->ok...", weight, matrix)
            if layer == made.layers[-1]:
                half = len(weight) // 2
                weight, bias = (weight[:half] + weight[half:]) / 2, (bias[:half] + bias[half:]) / 2
            else:
                kept, ways, offset = _stand_ins(a, b, layer, pairs.get(layer), len(target.weight), dropped, seed)
                weight, bias, below = weight[kept], bias[kept], (ways, offset)
            target.weight.copy_(weight.reshape(target.weight.shape))
            target.get_parameter("bias").copy_(bias)
    return made


def _side_by_side(weights: list[Tensor], *, first: bool) -> Tensor:
    """Weights of two layers in one; each reads its own network, or in the first the image."""
    if first:
        return torch.cat(weights)
    rows = [[one if k == j else torch.zeros_like(one) for j in range(2)] for k, one in enumerate(weights)]
    return torch.cat([torch.cat(row, dim=1) for row in rows])


def _stand_ins(
    a: Network, b: Network, layer: str, pair: PairMoments | None, count: int, dropped: str, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The units (count,) of both that stay, and what all units are of them: a matrix (units, count) and offsets."""
    width = len(weighted(a, layer).weight)
    if pair is None:
        return torch.arange(2 * width), torch.eye(2 * width).double(), torch.zeros(2 * width).double()
    score = correlation(pair)
    match = bipartite_matching(score.matrix, live_a=score.live_a, live_b=score.live_b)
    paired = (match.index >= 0).nonzero()[:, 0]
    drawn = torch.rand(len(paired), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    order = {"overlapping": match.score[paired], "unmatched": -match.score[paired], "random": drawn}[dropped]
    chosen = paired[order.argsort(descending=True)][: 2 * width - count]
    variance = torch.cat([pair.cov_aa.diagonal(), pair.cov_bb.diagonal()])
    mean, adds = torch.cat([pair.mean_a, pair.mean_b]), _outgoing(a, b, layer) * variance.sqrt()
    offset, gone = torch.zeros(2 * width).double(), []
    matrix = torch.eye(2 * width).double()
    for unit in chosen.tolist():
        both = (unit, width + int(match.index[unit]))
        out, stays = sorted(both, key=lambda one: float(adds[one]))
        slope = (pair.cov_ab[both[0], both[1] - width] / variance[stays]).clamp(min=0)
        matrix[out] = 0.0
        matrix[out, stays], offset[out] = slope, mean[out] - slope * mean[stays]
        gone.append(out)
    for out in [unit for unit in variance.argsort().tolist() if unit not in gone][: 2 * width - count - len(gone)]:
        matrix[out], offset[out] = 0.0, mean[out]  # dead ones, where there are too few pairs
        gone.append(out)
    kept = torch.tensor([unit for unit in range(2 * width) if unit not in gone])
    return kept, matrix[:, kept], offset


def _outgoing(a: Network, b: Network, layer: str) -> Tensor:
    """Lengths of the weights by which each unit of both is read."""
    above = a.layers[a.layers.index(layer) + 1]
    found = []
    for network in (a, b):
        weight = weighted(network, above).weight.detach().double()
        units = len(weighted(network, layer).weight)
        found.append(weight.unflatten(1, (units, -1)).transpose(0, 1).flatten(1).norm(dim=1))
    return torch.cat(found)
