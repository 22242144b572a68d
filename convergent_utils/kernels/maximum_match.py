r"""The largest groups of units, one in each net, that say the same: each unit is a mixture of the other group.

A match asks more than that the spaces of two nets are alike, and less than that single units are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import as_activations, as_number, form_of, require_fields, require_finite, require_same_samples
from .precision import full_precision, power_of_two

_CHUNK_ROWS = 1024  # that are copied to float64 at a time
# by precision of the rows: directions of a span with less than the first share of its largest are rounding of its
# units, and so is what is less than the second of a unit's squared length
_ROUNDING = {torch.float32: (1e-10, 1e-8), torch.float64: (1e-12, 1e-10)}


@dataclass(frozen=True)
class MaximumMatch:
    """The largest groups of units of two nets that match.

    Attributes:
        in_a, in_b: (units_a,), (units_b,) bool, the units that belong to the match; dead ones never do.
        similarity: 0-d float64 in [0, 1], the share of the live units of both nets that do.
        rounds: how many times units were looked at until all that were left belonged.

    Example:
        >>> a = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> b = torch.stack([a[:, 0] + a[:, 1], a[:, 0] - a[:, 1]], 1)
        >>> float(maximum_match(a, b).similarity)  # two of three units, and two of two
        0.8
    """

    in_a: Tensor
    in_b: Tensor
    similarity: Tensor
    rounds: int

    def __post_init__(self):
        require_fields(self, similarity="")
        for name, value in (("in_a", self.in_a), ("in_b", self.in_b)):
            if not isinstance(value, Tensor) or value.dtype != torch.bool or value.ndim != 1:
                raise ValueError(f"{name}: expected a boolean mask of units, got {form_of(value)}")


def maximum_match(acts_a: Tensor, acts_b: Tensor, *, epsilon: float = 0.5) -> MaximumMatch:
    r"""The largest groups of units, one in each net, of which each unit is nearly a mixture of the other group.

    .. math:: \operatorname{dist}(x, \operatorname{span} Y) \leq \varepsilon |x|, \quad
        \operatorname{dist}(y, \operatorname{span} X) \leq \varepsilon |y| \qquad
        \text{for all } x \in X \subseteq A, \; y \in Y \subseteq B

    where a unit is the vector of its activations over all samples.

    Args:
        acts_a: (samples, units_a) float tensor or NumPy array, any device.
        acts_b: (samples, units_b), the same samples in the same order.
        epsilon: how much of a unit's length may be missing, from 0 to 1.

    Returns:
        MaximumMatch, on the device of `acts_a`. 0 units where a net has dead units alone, and similarity 0.

    Raises:
        ValueError: shapes that do not pair, NaN or infinity, epsilon that is not from 0 to 1.

    Activations are not centred, as in the paper. Units that never vary are left out of spans and counts, which the
    paper does not do: a constant would be near the mixtures of any units with a mean. Where a net has as many units as
    there are samples, its span is usually everything, and all units of the other are near it. Distances below 1e-4 of a
    unit's length for float32 rows, or 1e-5 for float64, are taken for rounding, so epsilon 0 asks for mixtures but for
    that; directions in which the units of a group hold less than 1e-5 or 1e-6 of the largest count as none.
    The union of two matches is a match, so one holds all others. It is found from all units by leaving out those too
    far from what is left, until none is; the samples are read once.
    Source: Wang et al. 2018.

    Example:
        >>> a = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> b = torch.stack([a[:, 0] + a[:, 1], a[:, 0] - a[:, 1]], 1)
        >>> maximum_match(a, b).in_a
        tensor([ True,  True, False])
    """
    acts_a, acts_b = as_activations(acts_a, "acts_a"), as_activations(acts_b, "acts_b")
    require_same_samples(acts_a, acts_b)
    require_finite(acts_a, "acts_a")
    require_finite(acts_b, "acts_b")
    epsilon = as_number(epsilon, "epsilon", "a number from 0 to 1", lambda value: 0 <= value <= 1)
    cut, allowed = _ROUNDING[min(acts_a.dtype, acts_b.dtype, key=lambda dtype: torch.finfo(dtype).bits)]
    within_a, across, within_b, live_a, live_b = _cosines(acts_a, acts_b)
    in_a, in_b, rounds, leaves = live_a, live_b, 0, True
    # A unit that is too far from all that is left of the other net is too far from every group within it, so it is in
    # no match of what is left: the largest match loses nothing, however many are left out at once.
    while leaves:
        near_a = in_a & (_distance(across.T, within_b, in_b, cut) <= epsilon**2 + allowed) & in_b.any()
        near_b = in_b & (_distance(across, within_a, in_a, cut) <= epsilon**2 + allowed) & in_a.any()
        leaves = bool((near_a != in_a).any() | (near_b != in_b).any())
        in_a, in_b, rounds = near_a, near_b, rounds + 1
    live = live_a.sum() + live_b.sum()
    similarity = (in_a.sum() + in_b.sum()).double() / live.clamp(min=1).double()
    return MaximumMatch(in_a, in_b, similarity, rounds)


def _cosines(acts_a: Tensor, acts_b: Tensor) -> tuple[Tensor, ...]:
    """Products of units brought to length 1, within a, across, and within b; and which live. Zeros for dead ones."""
    nets, powers, live = (acts_a, acts_b), [], []
    for acts in nets:
        high, low = acts.amax(0), acts.amin(0)
        live.append(high > low)
        powers.append(power_of_two(torch.maximum(high, -low).double()))
    total = acts_a.new_zeros((acts_a.shape[1] + acts_b.shape[1],) * 2, dtype=torch.float64)
    power, lives = torch.cat(powers), torch.cat(live)
    with full_precision():
        for parts in zip(*(acts.split(_CHUNK_ROWS) for acts in nets), strict=True):
            rows = torch.cat([part.double() for part in parts], 1) / power
            total += rows.T @ rows
    length = total.diagonal().sqrt()
    inverse = torch.where(lives, 1 / length.where(length > 0, 1.0), 0.0)
    total, units = total * inverse[:, None] * inverse, acts_a.shape[1]
    return total[:units, :units], total[:units, units:], total[units:, units:], *live


def _distance(across: Tensor, within: Tensor, group: Tensor, cut: float) -> Tensor:
    """Squared distances of units (n,) of length 1 from the span of a group, from cosines (group's net, n)."""
    if not group.any():
        return across.new_ones(across.shape[1])
    values, vectors = torch.linalg.eigh(within[group][:, group])
    kept = values > cut * values[-1]
    with full_precision():
        along = vectors[:, kept].T @ across[group] / values[kept].sqrt()[:, None]
    return 1 - along.square().sum(0)
