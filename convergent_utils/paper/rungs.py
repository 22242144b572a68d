"""Maps of more and more freedom between two layers, and how well they predict units on other images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from ..kernels.correlation import correlation
from ..kernels.matching import Match, bipartite_matching
from ..kernels.moments import PairMoments
from ..kernels.restricted import best_rotation, matching_map
from ..kernels.rotation import random_rotation
from ..kernels.soft_matching import SoftMatch, soft_matching
from ..kernels.sparse_mapping import MappingPath, best_subset_mapping, least_squares

FEW = 5  # units that the map of a few reads
RUNGS = ("natural order", "bipartite", "soft", "best unit", "five units", "best rotation", "linear")
UNITS = ("bipartite", "best unit")  # rungs that are compared with those of a network that is turned at random


def rungs(pair: PairMoments, names: Iterable[str] = RUNGS) -> dict[str, MappingPath]:
    """From net a to net b, maps of more and more freedom, fitted on these moments; by their names among `RUNGS`."""
    return {name: _FITTED[name](pair) for name in names}


def ladder(
    fit: PairMoments, held: PairMoments, *, turns: int, seed: int, names: Iterable[str] = RUNGS
) -> dict[str, float]:
    """How well the units of net b are predicted from net a, by maps of more and more freedom, on other images.

    Args:
        fit, held: moments of the images that maps are fitted on, and of others.
        turns: how many random rotations of net b.
        seed: of the first.
        names: rungs that are climbed.

    Returns:
        By these names the correlation of a unit with what is predicted of it, mean over live units; and
        "bipartite, rotated" and "best unit, rotated", where net b is turned, matched, and read on the other images.
    """
    found = {name: predicted(mapping, held) for name, mapping in rungs(fit, names).items()}
    null: dict[str, list[float]] = {name: [] for name in UNITS if turns and name in names}
    for k in range(turns):
        turn = turn_of(fit, seed + k)
        then, then_held = _turned(fit, turn), _turned(held, turn)
        for name, mapping in rungs(then, null).items():
            null[name].append(predicted(mapping, then_held))
    return found | {f"{name}, rotated": sum(values) / len(values) for name, values in null.items()}


def drawn_in(mapping: MappingPath, share: Tensor) -> MappingPath:
    """The map with each predicted unit drawn towards its mean: this share (units_b,) of its deviation is kept."""
    return replace(mapping, coefficients=mapping.coefficients * share)


def predicted(mapping: MappingPath, pair: PairMoments) -> float:
    """The correlation of units with what is predicted of them, mean over the units that were live in the fit."""
    live_a, live_b = mapping.scale_a > 0, mapping.scale_b > 0
    weights = mapping.coefficients[0] * torch.where(live_a, 1 / mapping.scale_a.where(live_a, 1.0), 0.0)[:, None]
    across = (weights * pair.cov_ab).sum(0)
    own = (weights * (pair.cov_aa @ weights)).sum(0) * pair.cov_bb.diagonal()
    r = torch.where(own > 0, across / own.where(own > 0, 1.0).sqrt(), 0.0)
    return float(r[live_b].clamp(-1, 1).mean()) if live_b.any() else 0.0


def _in_order(pair: PairMoments) -> MappingPath:
    """Each unit from that of the same number."""
    units_a, units_b = pair.cov_ab.shape
    numbers = torch.arange(units_a)
    return matching_map(pair, Match(numbers.where(numbers < units_b, -1), torch.ones(units_a)))


def matched(pair: PairMoments, matching: Callable[..., Match | SoftMatch] = bipartite_matching) -> MappingPath:
    """Each unit from that which it is matched with by correlation."""
    found = correlation(pair)
    return matching_map(pair, matching(found.matrix, live_a=found.live_a, live_b=found.live_b))


_FITTED: dict[str, Callable[[PairMoments], MappingPath]] = {
    "natural order": _in_order,
    "bipartite": matched,
    "soft": partial(matched, matching=soft_matching),
    "best unit": partial(best_subset_mapping, k=1),
    "five units": partial(best_subset_mapping, k=FEW),
    "best rotation": best_rotation,
    "linear": least_squares,
}


def turn_of(pair: PairMoments, seed: int) -> Tensor:
    """What net b (units,) is multiplied by: its live units brought to one spread, and turned."""
    variance = pair.cov_bb.diagonal()
    live = (variance > 0).nonzero()[:, 0]
    turn = torch.zeros_like(pair.cov_bb)
    turn[live[:, None], live] = _rotation(max(len(live), 1), seed)[: len(live)] / variance[live, None].sqrt()
    return turn


@lru_cache(maxsize=64)
def _rotation(units: int, seed: int) -> Tensor:
    """The same for all pairs of networks, drawn once."""
    return random_rotation(units, seed=seed)


def _turned(pair: PairMoments, turn: Tensor) -> PairMoments:
    """Moments with net b turned."""
    within = turn.T @ pair.cov_bb @ turn
    return replace(pair, mean_b=pair.mean_b @ turn, cov_ab=pair.cov_ab @ turn, cov_bb=(within + within.T) / 2)
