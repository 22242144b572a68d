"""When do networks come to be alike, and does a straight line join their weights?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..kernels.alignment import linear_cka
from ..kernels.correlation import correlation
from ..kernels.matching import bipartite_matching
from ..kernels.moments import PairMoments
from ..making.things import Get, Report, Thing
from ..nets.datasets import Dataset
from ..nets.declared import CURVE, Declared, Followed, Images, Measured
from ..nets.measurement import Measurement
from ..nets.measuring import run_pass
from ..nets.networks import Network, weighted, with_units
from ..nets.predicting import accuracy, predict
from ..nets.training import CHECKPOINTS, Trained, train
from .networks import as_network
from .rungs import ladder

RUNG = "best unit"  # that is followed over training
_NO_WAY = 1e-6
POINTS = 11  # of a line between two networks, its ends among them


@dataclass(frozen=True)
class Moment(Thing):
    """How alike networks are at one moment of their training.

    A dict of "matched" and "rotated" (pairs, layers), the correlation of units with the best one of the other network,
    on other images, as it is and with the second network turned at random; "CKA" (pairs, layers); "directions"
    (networks, layers), that lead, see `directions`; "accuracy" (networks,).

    Attributes:
        networks: by name, as they are then.
        test: images, on half of which partners are chosen, and read on the others.
        layers, turns, seed: as of the ladder.
    """

    title, seconds, published = "looking at networks on their way", 6.0, True

    networks: tuple[tuple[str, Declared], ...]
    test: Images
    layers: tuple[str, ...]
    turns: int
    seed: int

    def make(self, get: Get, report: Report) -> dict[str, Tensor]:
        """Look at them."""
        networks, test = {name: declared.network(get).eval() for name, declared in self.networks}, self.test.load()
        pairs = list(combinations(networks, 2))
        blocks = [(f"{a}.{layer}", f"{b}.{layer}") for a, b in pairs for layer in self.layers]
        seen = run_pass(networks, test.images, self.layers, pairs=blocks, folds=2, sample=16, top=1, seed=self.seed)
        found = {name: torch.zeros(len(blocks), dtype=torch.float64) for name in ("matched", "rotated", "CKA")}
        for number, (a, b) in enumerate(blocks):
            fit, held = (seen.pair(a, b, fold=part) for part in (0, 1))
            rs = ladder(fit, held, turns=self.turns, seed=self.seed, names=[RUNG])
            numbers = {"matched": rs[RUNG], "rotated": rs[f"{RUNG}, rotated"], "CKA": linear_cka(seen.pair(a, b))}
            for name, value in numbers.items():
                found[name][number] = value
        found = {name: values.view(len(pairs), len(self.layers)) for name, values in found.items()}
        used = [[directions(_own(seen, f"{net}.{layer}")) for layer in self.layers] for net in networks]
        right = torch.tensor([accuracy(network, test) for network in networks.values()], dtype=torch.float64)
        return {**found, "directions": torch.tensor(used, dtype=torch.float64), "accuracy": right}


def _own(measured: Measurement, block: str) -> PairMoments:
    return measured.pair(block, block)


def directions(pair: PairMoments) -> float:
    r"""How many directions lead net a: the participation ratio of its covariance.

    .. math:: (\operatorname{tr} \Sigma)^2 / \operatorname{tr} \Sigma^2

    k directions of equal variance give k; a few large ones count for little more than themselves.
    """
    covariance = pair.cov_aa
    squares = float(covariance.square().sum())
    return float(covariance.diagonal().sum()) ** 2 / squares if squares > 0 else 0.0


@dataclass(frozen=True)
class Steady(Followed):
    """A network that is followed while it is trained at a rate that does not change.

    Attributes:
        rate: as a share of the recipe's.
    """

    rate: float = 0.3

    def make(self, get: Get, report: Report) -> Trained:
        """Train it."""
        network, data, test, rate = self.start.network(), self.images.load(), self.test.load(), self.rate
        return train(
            network, data, self.recipe, seed=self.order, test=test, curve=CURVE, report=report,
            keep=(*CHECKPOINTS, *self.shares), rate=lambda share: rate,
        )  # fmt: skip


@dataclass(frozen=True)
class Line(Thing):
    """Test loss on a straight line between the weights of two networks, (points,) in nats.

    A dict: "as they are"; "matched", where the second network has its hidden units in the order of those they are
    matched with in the first; "matched and scaled", where they have their spread, too.

    Attributes:
        a, b: names of networks.
        networks: by name.
        fitted: both on training images, where units are matched.
        test: images of the loss.
    """

    title, seconds, published = "walking between networks", 8.0, True

    a: str
    b: str
    networks: tuple[tuple[str, Declared], ...]
    fitted: Measured
    test: Images

    def make(self, get: Get, report: Report) -> dict[str, Tensor]:
        """Walk it."""
        networks = {name: as_network(declared.network(get)).eval() for name, declared in self.networks}
        first, second, test, measured = networks[self.a], networks[self.b], self.test.load(), get(self.fitted)
        hidden = first.layers[:-1]
        pairs = {layer: measured.pair(f"{self.a}.{layer}", f"{self.b}.{layer}") for layer in hidden}
        order = {layer: partners(pair) for layer, pair in pairs.items()}
        matched = with_units(second, order, width=second.configuration["width"])
        spread = {layer: spread_of(pair, order[layer]) for layer, pair in pairs.items()}
        ends = {"as they are": second, "matched": matched, "matched and scaled": rescaled(matched, spread)}
        return {name: losses_between(first, end, test) for name, end in ends.items()}


def partners(pair: PairMoments) -> Tensor:
    """For each unit of net a one of net b of as many units, (units,); those without a match take what is left."""
    found = correlation(pair)
    index = bipartite_matching(found.matrix, live_a=found.live_a, live_b=found.live_b).index.clone()
    taken = torch.zeros(len(pair.mean_b), dtype=torch.bool)
    taken[index[index >= 0]] = True
    index[index < 0] = (~taken).nonzero()[:, 0]
    return index


def spread_of(pair: PairMoments, order: Tensor) -> Tensor:
    """What the units of net b in this order are multiplied by to vary as those of net a, (units,); 1 for dead ones."""
    a, b = pair.cov_aa.diagonal(), pair.cov_bb.diagonal()[order]
    live = (a > 0) & (b > 0)
    return torch.where(live, (a / b.where(live, 1.0)).sqrt(), 1.0)


def rescaled(network: Network, scale: Mapping[str, Tensor]) -> Network:
    """A copy that computes the same, with units of hidden layers multiplied by positive numbers.

    Behind a ReLU a unit may be multiplied, if all that read it divide by as much.

    Args:
        network: one of `build_network`.
        scale: by hidden layer (units,), all of them.
    """
    order = {layer: torch.arange(len(values)) for layer, values in scale.items()}
    made, before = with_units(network, order, width=network.configuration["width"]), None
    with torch.no_grad():
        for layer in made.layers:
            module = weighted(made, layer)
            if before is not None:  # each unit below feeds one input, or all places of its map
                each = before.repeat_interleave(module.weight.shape[1] // len(before)).to(module.weight)
                module.weight /= each.view(1, -1, *[1] * (module.weight.ndim - 2))
            before = scale.get(layer)
            if before is not None:
                values = before.to(module.weight)
                module.weight *= values.view(-1, *[1] * (module.weight.ndim - 1))
                module.get_parameter("bias").mul_(values)
    return made


def losses_between(first: Network, second: Network, test: Dataset) -> Tensor:
    """Mean cross-entropy (points,) float64 in nats, on a straight line from the weights of the first to the other's."""
    start, end, losses = first.state_dict(), second.state_dict(), []
    walker = with_units(
        first, {layer: torch.arange(len(weighted(first, layer).weight)) for layer in first.layers[:-1]},
        width=first.configuration["width"],
    )  # fmt: skip
    for share in torch.linspace(0, 1, POINTS).tolist():
        walker.load_state_dict({name: start[name] + share * (end[name] - start[name]) for name in start})
        logits = predict(walker, test)
        losses.append(F.cross_entropy(logits.double(), test.labels))
    return torch.stack(losses)


def barrier(losses: Tensor) -> float:
    """How far the loss rises above the straight line between its ends, at most; in nats."""
    straight = torch.linspace(0, 1, len(losses), dtype=torch.float64)
    return float((losses - (losses[0] + straight * (losses[-1] - losses[0]))).max())


def share_of_way(values: np.ndarray) -> np.ndarray:
    """How much of the way from the first to the last is done: (s(t) - s(0)) / (s(end) - s(0)), along the first axis.

    Where there is no way to go, all of it.
    """
    way = values[-1] - values[0]
    return np.where(np.abs(way) > _NO_WAY, (values - values[0]) / np.where(np.abs(way) > _NO_WAY, way, 1.0), 1.0)
