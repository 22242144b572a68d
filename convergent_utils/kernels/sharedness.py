"""Which units of a network have a partner in other networks, and which have none?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import as_list, as_live, require_fields
from .correlation import correlation
from .matching import semi_matching
from .moments import PairMoments, as_pair


@dataclass(frozen=True)
class Sharedness:
    """How well each unit of net a is found again in other nets.

    Attributes:
        r: (nets, units_a) float64 in [-1, 1], the correlation of each unit with its best partner in each other net, on
            samples on which the partner was not chosen; 0 for a dead unit.
        partner: (nets, units_a) int64, the partner's place; -1 for a dead unit, and where a net has dead units alone.
        live: (units_a,) bool, whether the unit varies.

    Example:
        >>> acts = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
        >>> found = sharedness([pair_moments(acts, acts[:, [2, 0, 1]])])
        >>> found.partner, found.mean.round(decimals=4)
        (tensor([[1, 2, 0]]), tensor([1., 1., 1.], dtype=torch.float64))
    """

    r: Tensor
    partner: Tensor
    live: Tensor

    def __post_init__(self):
        require_fields(self, r="na", partner="na", whole=("partner",))
        object.__setattr__(self, "live", as_live(self.live, self.r.shape[1], "live", self.r))

    @property
    def mean(self) -> Tensor:
        """(units_a,) float64, the mean over the other nets: how far a unit is shared."""
        return self.r.mean(0)

    @property
    def largest(self) -> Tensor:
        """(units_a,) float64, the correlation in the net where the unit is found best."""
        return self.r.amax(0)

    @property
    def uniqueness(self) -> Tensor:
        """(units_a,) float64 in [0, 2]: 1 for a unit that no other net has, 0 for one that all have; dead units 1."""
        return 1 - self.mean


def sharedness(pairs: Iterable[PairMoments], held: Iterable[PairMoments] | None = None) -> Sharedness:
    r"""How well each unit of a net is found again in other nets, and so how unique it is.

    .. math:: m_k(i) = \arg\max_j c^{fit}_{i j k}, \quad r_{k i} = c^{held}_{i\, m_k(i)\, k}, \quad
        \text{uniqueness}_i = 1 - \frac{1}{n} \sum_k r_{k i}

    Args:
        pairs: moments of net a with each of the n other nets, in any order; net a is the first of each pair.
        held: the same over other samples, in the same order. None: partners are judged on the samples on which they
            were chosen, which finds some likeness by chance.

    Returns:
        Sharedness. The best partner by `semi_matching` of signed correlations; partners may repeat.

    Raises:
        ValueError: no pair, pairs whose first nets have other numbers of units, or `held` that does not go with them.

    A partner by chance is found, too, the more easily the wider a net is: set it beside `rotated` and shuffled nets.
    Source: Li et al. 2016, the maximum correlation of a unit; here held out, and over all other nets.

    Example:
        >>> acts = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
        >>> other = torch.cat([2 * acts[:, [1, 0, 2]], torch.randn(500, 1)], dim=1)
        >>> sharedness([pair_moments(acts, other)]).uniqueness.round().int()
        tensor([0, 0, 0, 1], dtype=torch.int32)
    """
    pairs = _as_pairs(pairs, "pairs")
    held = pairs if held is None else _as_pairs(held, "held")
    if [pair.cov_ab.shape for pair in held] != [pair.cov_ab.shape for pair in pairs]:
        raise ValueError(f"held: expected {len(pairs)} moments of the same units as in pairs, got others")
    found = [_found_again(fit, other) for fit, other in zip(pairs, held, strict=True)]
    r, partner = (torch.stack(part) for part in zip(*found, strict=True))
    return Sharedness(r, partner, pairs[0].cov_aa.diagonal() > 0)


def _found_again(fit: PairMoments, held: PairMoments) -> tuple[Tensor, Tensor]:
    """Of each unit of a the correlation with its partner in b, and the partner (units_a,)."""
    score = correlation(fit)
    partner = semi_matching(score.matrix, live_a=score.live_a, live_b=score.live_b).index
    r = correlation(held).matrix.gather(1, partner.clamp(min=0)[:, None])[:, 0]
    return r.where(partner >= 0, 0.0), partner


def _as_pairs(value: object, name: str) -> list[PairMoments]:
    if isinstance(value, PairMoments):
        raise ValueError(f"{name}: expected moments with several other networks in a list, got one; write [pair]")
    pairs = as_list(value, name, "moments of one network with each of the others")
    if not pairs:
        raise ValueError(f"{name}: expected moments with at least one other network, got none")
    try:
        first = as_pair(pairs[0])
        pairs = [first, *(as_pair(pair, on=first.cov_ab.device) for pair in pairs[1:])]
    except ValueError as error:
        raise ValueError(f"{name}{str(error).removeprefix('pair')}") from error
    units = sorted({len(pair.mean_a) for pair in pairs})
    if len(units) > 1:
        raise ValueError(f"{name}: expected one network as the first of all pairs, got {units[0]} and {units[1]} units")
    return pairs
