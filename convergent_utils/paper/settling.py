"""What a layer still changes when accuracy has converged, in training and in random moves of the same size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.moments import PairMoments
from ..making.things import Get
from ..nets.networks import Network, build_network
from .families import Followed
from .networks import as_network


@dataclass(frozen=True)
class AtTime:
    """A followed network as it was on its way."""

    followed: Followed
    time: int

    def network(self, get: Get) -> Network:
        """The network."""
        found = get(self.followed)
        return _with_weights(found["network"], found["on the way"][self.time])


@dataclass(frozen=True)
class Perturbed:
    """A followed network when accuracy had converged, moved at random as far as training moved it from there.

    Attributes:
        followed: all followed networks, whose mean accuracy says when it had converged, see `converged`.
        number: which of them, from 0.
        at_end: moved as far as training moved it until the end; else until the next time.
        seed: of the directions, see `perturbed`.
    """

    followed: tuple[Followed, ...]
    number: int
    at_end: bool
    seed: int

    def network(self, get: Get) -> Network:
        """The network."""
        found = get(self.followed[self.number])
        kept, when = found["on the way"], converged([get(one)["curve"] for one in self.followed])
        moved = perturbed(kept[when], kept[when + 1], kept[self.followed[self.number].times], seed=self.seed)
        return _with_weights(found["network"], moved[self.at_end])


def converged(curves: Sequence[Tensor]) -> int:
    """The first time from which on mean accuracy stays within a point of its mean over the last three times.

    It leaves at least two times after it.

    Args:
        curves: of each network (times + 1,) the share of images classified rightly.
    """
    curve = torch.stack([torch.as_tensor(one, dtype=torch.float64) for one in curves]).mean(0)
    away = torch.nonzero((curve - curve[-3:].mean()).abs() > 0.01)
    return min(int(away.max()) + 1 if len(away) else 0, len(curve) - 3)


Weights = Mapping[str, Tensor]


def perturbed(here: Weights, next_time: Weights, end: Weights, *, seed: int) -> tuple[Weights, Weights]:
    """Weights that lie as far from here as those of the next time and of the end do, in random directions.

    Args:
        here, next_time, end: weights by name.
        seed: of the directions.

    Returns:
        Those for the next time and for the end. For each tensor the two moves have the lengths that they have in
        training, and the same angle between them: they are turned at random together.
    """
    generator, found = torch.Generator().manual_seed(seed), ({}, {})
    for name, weight in here.items():
        moves = torch.stack([(other[name] - weight).double().flatten() for other in (next_time, end)], 1)
        turned = torch.linalg.qr(torch.randn(*moves.shape, generator=generator, dtype=torch.float64)).Q
        turned = turned @ torch.linalg.qr(moves).R
        for k, weights in enumerate(found):
            weights[name] = (weight + turned[:, k].view_as(weight)).to(weight.dtype)
    return found


def read(directions: Tensor, fit: PairMoments, judge: PairMoments) -> Tensor:
    """Correlation of each direction of the first block with what is read of it from the second, linearly.

    Args:
        directions: (units_a, directions), one a column.
        fit, judge: moments of both blocks on the images to fit on, and on those to judge on.

    Returns:
        (directions,) from -1 to 1; 0 where either is constant.
    """
    weights = torch.linalg.lstsq(fit.cov_bb, fit.cov_ab.T @ directions).solution
    own = (directions * (judge.cov_aa @ directions)).sum(0)
    guess = (weights * (judge.cov_bb @ weights)).sum(0)
    shared = (directions * (judge.cov_ab @ weights)).sum(0)
    return torch.where(own * guess > 0, shared / (own * guess).sqrt(), 0.0)


def _with_weights(like: Network, weights: Mapping[str, Tensor]) -> Network:
    """A network of this form with other weights."""
    network = as_network(build_network(**like.configuration))
    network.load_state_dict(weights)
    return network
