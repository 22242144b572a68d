"""How unique the units of networks are, beside units of networks that are turned or shuffled."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.correlation import correlation
from ..kernels.matching import semi_matching
from ..kernels.moments import PairMoments
from ..kernels.sharedness import Sharedness, sharedness
from ..kernels.soft_matching import soft_matching
from ..kernels.sparse_mapping import least_squares
from ..making.things import Get, Report, Thing
from ..nets.declared import Declared, Measured
from ..nets.measurement import Measurement
from ..nets.networks import Network, weighted
from .networks import as_network
from .rungs import turn_of

MATCHED = 0.5  # of the mass, by partial soft matching
_ROWS = 512  # of the aligned sample, in each half
_LEAST = 1e-12  # of a length to divide by


@dataclass(frozen=True)
class SharedUnits(Thing):
    """How far every unit of a network is shared with the others, and what is known of it, by layer.

    Of each layer a dict of tensors. "r" (nets, nets, units): entry (i, j) is `Sharedness.r` of the units of network i
    in network j, 0 for i = j. The others are (nets, units). "live". "turned" and "turned sd", the mean and the spread
    of what `r` is on average over the other networks when these are turned at random, over turns; "either sign" and
    "either sign sd", the same where a turned unit may also stand for its opposite; "shuffled" and "shuffled sd", where
    rows are shuffled. "unexplained", what the best linear map from all units of another network leaves of the variance,
    from 0 to 1, and "unmatched", the share that partial soft matching leaves without a partner when half of the mass is
    matched, both means over the other networks. "rate", the share of rows in which the unit is active, "variance", and
    "mean".

    Attributes:
        measured: where all networks meet, on several folds of images: partners are chosen on every second fold and
            read on the others. Rows are shuffled in the aligned sample, 512 to choose and 512 to read.
        nets: names.
        layers: of which.
        turns, shuffles: how many.
        seed: of the first.
    """

    title, seconds, published = "looking for unique units", 60.0, True

    measured: Measured
    nets: tuple[str, ...]
    layers: tuple[str, ...]
    turns: int
    shuffles: int
    seed: int

    def make(self, get: Get, report: Report) -> dict[str, dict[str, Tensor]]:
        """Look for partners of each unit."""
        measured, found = get(self.measured), {}
        for done, layer in enumerate(self.layers):
            blocks = [f"{net}.{layer}" for net in self.nets]
            found[layer] = self._of(measured, blocks)
            report((done + 1) / len(self.layers))
        return found

    def _of(self, measured: Measurement, blocks: list[str]) -> dict[str, Tensor]:
        everywhere = range(len(blocks))
        pairs = {
            (i, j): _fit_and_held(measured, blocks[i], blocks[j]) for i in everywhere for j in everywhere if i != j
        }
        rows: dict[str, list[Tensor]] = {}
        for i in everywhere:
            others = [j for j in everywhere if j != i]
            shared = found_again([pairs[i, j] for j in others])
            r = torch.zeros(len(blocks), shared.r.shape[1], dtype=torch.float64)
            r[others] = shared.r
            fits = [pairs[i, j][0] for j in others]
            of_net = {
                "r": r,
                "live": shared.live,
                "unexplained": torch.stack([_unexplained(*pairs[j, i]) for j in others]).mean(0),
                "unmatched": torch.stack([_unmatched(fit) for fit in fits]).mean(0),
                "rate": measured.active_share(blocks[i]),
                "variance": fits[0].cov_aa.diagonal(),
                "mean": fits[0].mean_a,
            }
            for name, value in of_net.items():
                rows.setdefault(name, []).append(value)
        nulls = {**self._turned(pairs, blocks), "shuffled": self._shuffled(measured, blocks)}
        for name, drawn in nulls.items():
            rows[name], rows[f"{name} sd"] = list(drawn.mean(0)), list(drawn.std(0))
        return {name: torch.stack(values) for name, values in rows.items()}

    def _turned(
        self, pairs: dict[tuple[int, int], tuple[PairMoments, PairMoments]], blocks: list[str]
    ) -> dict[str, Tensor]:
        """Mean r over the other networks, each turned; (turns, nets, units), with its sign and with either."""
        nets, units = len(blocks), len(next(iter(pairs.values()))[0].mean_a)
        signed, either = torch.zeros(2, self.turns, nets, units, dtype=torch.float64)
        for j in range(nets):
            others = [i for i in range(nets) if i != j]
            both = [_stacked(pairs[i, j][part] for i in others) for part in (0, 1)]
            for k in range(self.turns):
                turn = turn_of(pairs[others[0], j][0], self.seed + k * nets + j)
                fit, held = (across @ (turn / _deviation(within, turn)) for across, within in both)
                for found, score, r in ((signed, fit, held), (either, fit.abs(), held * fit.sign())):
                    found[k, others] += _read(score, fit, r).unflatten(0, (nets - 1, units)) / (nets - 1)
        return {"turned": signed, "either sign": either}

    def _shuffled(self, measured: Measurement, blocks: list[str]) -> Tensor:
        """Mean r over the other networks, rows of each shuffled; (shuffles, nets, units)."""
        rows = [measured.sample(block)[: 2 * _ROWS].double() for block in blocks]
        generator = torch.Generator().manual_seed(self.seed)
        found = torch.zeros(self.shuffles, len(rows), rows[0].shape[1], dtype=torch.float64)
        halves = [_halves(of) for of in rows]
        for k in range(self.shuffles):
            for j, of_j in enumerate(rows):
                dealt = _halves(of_j[torch.randperm(len(of_j), generator=generator)])
                for i, own in enumerate(halves):
                    if i != j:
                        fit, held = (one.T @ other for one, other in zip(own, dealt, strict=True))
                        found[k, i] += _read(fit, fit, held) / (len(rows) - 1)
        return found


def _stacked(pairs: Iterable[PairMoments]) -> tuple[Tensor, Tensor]:
    """Covariances of the standardised units of several networks, one below another, with another's; and its own."""
    pairs = list(pairs)
    deviations = [pair.cov_aa.diagonal().sqrt() for pair in pairs]
    across = [
        pair.cov_ab / deviation.where(deviation > 0, 1.0)[:, None]
        for pair, deviation in zip(pairs, deviations, strict=True)
    ]
    return torch.cat(across), pairs[0].cov_bb


def _deviation(within: Tensor, turn: Tensor) -> Tensor:
    """Of each turned unit (units,); 1 for a dead one, which has no covariance to divide."""
    variance = (turn * (within @ turn)).sum(0).clamp(min=0)
    return variance.sqrt().where(variance > 0, 1.0)


def _read(score: Tensor, fit: Tensor, held: Tensor) -> Tensor:
    """Of each unit what `held` says of the partner with the best score; of a dead unit of the other net `fit` has 0."""
    partner = semi_matching(score, live_b=(fit != 0).any(0)).index.clamp(min=0)
    return held.gather(1, partner[:, None])[:, 0]


def _halves(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Both halves of rows, each unit with mean 0 and length 1, so that products are correlations; 0 where dead."""
    centred = [half - half.mean(0) for half in rows.chunk(2)]
    first, second = (half / half.norm(dim=0).clamp(min=_LEAST) for half in centred)
    return first, second


@dataclass(frozen=True)
class Planted:
    """A network with planted units: the incoming weights of some units of a layer are shuffled, each unit's own.

    Such a unit reads as much as before, in no order that was learned; what follows reads it as before.

    Attributes:
        of: the network.
        layer: of it.
        count: how many units, see `planted`.
        seed: of their numbers and of the shuffles.
    """

    of: Declared
    layer: str
    count: int
    seed: int

    def network(self, get: Get) -> Network:
        """The network, in eval mode."""
        network = copy.deepcopy(as_network(self.of.network(get))).eval()
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            weight = weighted(network, self.layer).weight
            for unit in planted(len(weight), self.count, self.seed).tolist():
                order = torch.randperm(weight[unit].numel(), generator=generator)
                weight[unit] = weight[unit].flatten()[order].reshape(weight[unit].shape)
        return network


def planted(units: int, count: int, seed: int) -> Tensor:
    """The numbers (count,) of the units that are planted among so many, in their order."""
    return torch.randperm(units, generator=torch.Generator().manual_seed(seed + 1))[:count].sort().values


@dataclass(frozen=True)
class Found(Thing):
    """How many of the planted units of networks are among as many most unique ones: (networks,) shares.

    Attributes:
        measured: networks "NAME, planted" with the others as they are.
        nets: names.
        layer: where.
        count: planted units of each.
        seed: of the first network's; the next one's is one more.
    """

    title, seconds, published = "looking for planted units", 5.0, True

    measured: Measured
    nets: tuple[str, ...]
    layer: str
    count: int
    seed: int

    def make(self, get: Get, report: Report) -> Tensor:
        """Look for them."""
        measured, shares = get(self.measured), []
        for k, net in enumerate(self.nets):
            found = of_network(measured, f"{net}, planted", [one for one in self.nets if one != net], self.layer)
            live = found.live.nonzero()[:, 0]
            known = [unit for unit in planted(len(found.live), self.count, self.seed + k).tolist() if found.live[unit]]
            unique = live[found.uniqueness[live].argsort(descending=True)][: len(known)]
            shares.append(len({*unique.tolist()} & {*known}) / max(len(known), 1))
        return torch.tensor(shares, dtype=torch.float64)


def found_again(pairs: Sequence[tuple[PairMoments, PairMoments]]) -> Sharedness:
    """`sharedness` of pairs of moments, those to choose partners on and those to read them on."""
    return sharedness(*zip(*pairs, strict=True))


def of_network(measured: Measurement, net: str, others: Sequence[str], layer: str) -> Sharedness:
    """How far the units of a network are shared with others, partners chosen on one half of the folds."""
    return found_again([_fit_and_held(measured, f"{net}.{layer}", f"{other}.{layer}") for other in others])


def live_first(score: Tensor, live: Tensor) -> Tensor:
    """Numbers (units,) of units, those with the largest score first, dead ones last."""
    return score.masked_fill(~live, -torch.inf).argsort(descending=True)


def least_redundant(within: Tensor, keep: int) -> Tensor:
    """Which units (keep,) are left when, one by one, that which is most like another one is dropped.

    Args:
        within: (units, units) correlations of the units of a network with each other; dead units have zeros and are
            dropped first.
        keep: how many.
    """
    likeness = within.abs().clone()
    dead = likeness.sum(1) == 0
    likeness.fill_diagonal_(-1.0)
    left = [int(unit) for unit in dead.logical_not().nonzero()[:, 0]]
    left += [int(unit) for unit in dead.nonzero()[:, 0]][: max(0, keep - len(left))]
    while len(left) > keep:
        part = likeness[left][:, left]
        left.pop(int(part.amax(1).argmax()))
    return torch.tensor(sorted(left))


def _fit_and_held(measured: Measurement, a: str, b: str) -> tuple[PairMoments, PairMoments]:
    folds = list(range(len(measured.folds)))
    fit, held = (measured.pair(a, b, fold=folds[part::2]) for part in (0, 1))
    return fit, held


def _unexplained(fit: PairMoments, held: PairMoments) -> Tensor:
    """Of each unit of net b (units_b,) what a linear map from net a leaves of its variance, on other images."""
    return (1 - least_squares(fit).r2_on(held)[0]).clamp(0, 1)


def _unmatched(pair: PairMoments) -> Tensor:
    """Of each unit of net a (units_a,) the share without a partner when half of the mass is matched."""
    found = correlation(pair)
    if not (found.live_a.any() and found.live_b.any()):
        return torch.ones(len(found.live_a), dtype=torch.float64)
    return soft_matching(found.matrix, live_a=found.live_a, live_b=found.live_b, mass=MATCHED).unmatched_a
