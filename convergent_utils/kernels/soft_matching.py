"""Alignment in shares: how much of each unit of net a answers to each unit of net b?"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .checks import as_live, as_number, as_score, require_fields
from .precision import power_of_two

_MOST_STEPS = 10**8  # of the solver, which stops long before


@dataclass(frozen=True)
class SoftMatch:
    """Shares of the units of net a that are matched with units of net b.

    Attributes:
        plan: (units_a, units_b) float64, at least 0; the shares, which sum to `mass`.
        score: (units_a,) float64, of each unit the mean score of its partners, weighted by shares; 0 for a unit that
            is dead or wholly unmatched.
        mean: 0-d float64, the mean score over all shares; 0 where nothing is matched.
        unmatched_a, unmatched_b: (units_a,), (units_b,) float64 in [0, 1], the share of each unit that has no partner;
            1 for a dead one.

    Example:
        >>> found = soft_matching(torch.tensor([[0.9], [0.1]]), mass=0.5)
        >>> found.unmatched_a.round(decimals=4)
        tensor([0., 1.], dtype=torch.float64)
    """

    plan: Tensor
    score: Tensor
    mean: Tensor
    unmatched_a: Tensor
    unmatched_b: Tensor

    def __post_init__(self):
        require_fields(self, plan="ab", score="a", mean="", unmatched_a="a", unmatched_b="b")


def soft_matching(
    score: Tensor, *, live_a: Tensor | None = None, live_b: Tensor | None = None, mass: float = 1.0
) -> SoftMatch:
    r"""The matching of units in shares with the largest score; of nets of any two widths.

    .. math:: \max_{T \geq 0} \sum_{ij} T_{ij} s_{ij}, \quad
        \sum_j T_{ij} = \frac{1}{u_a}, \quad \sum_i T_{ij} = \frac{1}{u_b}

    over the :math:`u_a` and :math:`u_b` live units. With a mass below 1 the sums are at most these, and all of
    :math:`T` sums to the mass, so units without a good partner may stay unmatched.

    Args:
        score: (units_a, units_b), any widths, floating, finite, any device; larger is more alike.
        live_a, live_b: (units_a,), (units_b,) bool; a dead unit is matched with none.
        mass: how much is matched, from 1e-9 to 1.

    Returns:
        SoftMatch, on the device of `score`; the problem is solved on the CPU (network simplex of POT, exact).

    Raises:
        ValueError: `score` is not a finite matrix, a mask does not fit it, mass is not from 1e-9 to 1.

    At equal numbers of live units it is `bipartite_matching`. With correlations as scores,
    :math:`\sqrt{2 (1 - \text{mean})}` is a metric between nets, the soft matching distance.
    Source: Khosla and Williams 2024; Kapoor et al. 2026 for a mass below 1.

    Example:
        >>> soft_matching(torch.tensor([[0.9], [0.5]])).plan
        tensor([[0.5000],
                [0.5000]], dtype=torch.float64)
    """
    score = as_score(score)
    live_a, live_b = as_live(live_a, len(score), "live_a", score), as_live(live_b, score.shape[1], "live_b", score)
    mass = as_number(mass, "mass", "a share from 1e-9 to 1", lambda share: 1e-9 <= share <= 1)
    rows, columns = np.flatnonzero(live_a.cpu()), np.flatnonzero(live_b.cpu())
    double = score.detach().cpu().double()
    power = power_of_two(double.abs().amax()) if double.numel() else double.new_ones(())
    double = double / power
    plan = np.zeros(score.shape)
    if len(rows) and len(columns):
        plan[np.ix_(rows, columns)] = _transport(double.numpy()[np.ix_(rows, columns)], mass)
    plan = torch.from_numpy(plan)
    ends = (double.min(), double.max()) if double.numel() else (0.0, 0.0)  # no mean lies beyond, but for rounding
    matched_a, matched_b, total = plan.sum(1), plan.sum(0), plan.sum()
    sums = (plan * double).sum(1)
    found = SoftMatch(
        plan=plan,
        score=power * torch.where(matched_a > 0, (sums / matched_a.where(matched_a > 0, 1.0)).clamp(*ends), 0.0),
        mean=power * (sums.sum() / total).clamp(*ends) if total > 0 else total,
        unmatched_a=(1 - len(rows) * matched_a).clamp(0, 1),
        unmatched_b=(1 - len(columns) * matched_b).clamp(0, 1),
    )
    return SoftMatch(**{name: value.to(score.device) for name, value in vars(found).items()})


def _transport(score: np.ndarray, mass: float) -> np.ndarray:
    """The plan of live units. What is left over goes to a unit of its own in either net, at a cost above all others."""
    import ot  # takes a second

    shares = [np.full(units, 1 / units) for units in score.shape]
    best = score.max(1, keepdims=True) if mass == 1 else score.max()  # all of a row's mass is matched somewhere
    cost = best - score
    cost = cost / max(float(cost.max()), np.finfo(float).tiny)
    if mass < 1:
        cost = np.pad(cost, (0, 1), constant_values=0.0)
        cost[-1, -1] = 2 * 2
        shares = [np.append(share, 1 - mass) for share in shares]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = ot.emd(*shares, cost, numItermax=_MOST_STEPS)
    return plan[: score.shape[0], : score.shape[1]]
