r"""Maps from one net to the other that are given little freedom: a match, a rotation.

Both act on standardised units, and each predicted unit gets slope and offset by regression, so that they can be judged
on other data and put in the place of a layer, as any `MappingPath`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .checks import came, require_fields
from .matching import Match
from .moments import PairMoments, as_pair, standardised
from .precision import full_precision, power_of_two
from .soft_matching import SoftMatch
from .sparse_mapping import MappingPath, path_of

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Rotation(MappingPath):
    """The best rotation from net a to net b, as a `MappingPath` with one entry.

    Attributes:
        matrix: (units_a, units_b) float64, from standardised units of a to those of b: orthonormal rows or columns (the
            fewer of them) over live units; zeros for dead ones. The coefficients are its columns times a slope each.

    Example:
        >>> a = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
        >>> b = a[:, [2, 0, 1]]
        >>> found = best_rotation(pair_moments(a[:250], b[:250]))
        >>> found.correlation_on(pair_moments(a[250:], b[250:])).round(decimals=4)
        tensor([1., 1., 1.], dtype=torch.float64)
    """

    matrix: Tensor

    def __post_init__(self):
        super().__post_init__()
        require_fields(self, matrix="ab", coefficients="pab")

    @property
    def live(self) -> Tensor:
        """(units_b,) bool, the units that were not dead on the data of the fit: a mean is of these."""
        return self.scale_b > 0

    def correlation_on(self, pair: PairMoments) -> Tensor:
        """How well each unit of b correlates with what the rotation predicts of it, on other data.

        Args:
            pair: moments of the same units over other samples.

        Returns:
            (units_b,) float64 in [-1, 1], on the device of the moments; 0 for a unit that is dead in either data.

        Raises:
            ValueError: other numbers of units, or another device.
        """
        pair = as_pair(pair, on=self.matrix.device)
        if pair.cov_ab.shape != self.matrix.shape:
            raise ValueError(f"pair: expected units {tuple(self.matrix.shape)}, got {tuple(pair.cov_ab.shape)}")
        gram, cross, scale, _ = standardised(pair)
        live = self.scale_a > 0
        weights = torch.where(live, scale / self.scale_a.where(live, 1.0), 0.0)[:, None] * self.matrix
        weights = weights / power_of_two(weights.abs().amax(0))
        with full_precision():
            across = (weights * cross).sum(0)
            own = (weights * (gram @ weights)).sum(0).clamp(min=0).sqrt()
        predicted = (own > 0) & (self.coefficients[0] != 0).any(0)
        return torch.where(predicted, across / own.where(own > 0, 1.0), 0.0).clamp(-1, 1)


def best_rotation(pair: PairMoments) -> Rotation:
    r"""The rotation of net a's standardised units that comes nearest to those of net b.

    .. math:: R = U V^\top, \qquad C_{ab} = U S V^\top

    with :math:`C_{ab}` the correlations of live units. Of all rotations it has the largest sum of covariances of turned
    with true units, :math:`\operatorname{tr} R^\top C_{ab} = \sum_k s_k`, and so the smallest mean squared distance.

    Args:
        pair: moments of a and b, any widths. Of unequal widths, R has orthonormal rows or columns, and is nearest once
            the narrower net is filled up with dead units.

    Returns:
        Rotation. Dead units of b are predicted by their mean.

    Both nets are standardised, so a permutation with one scale for each unit is a case of it; `procrustes` weighs units
    by their variance. On the data of the fit it is too good: judge it with `correlation_on` or `r2_on` other data.
    Source: Schönemann 1966; Kapoor et al. 2025, as a map between the two extremes of a permutation and a linear map.

    Example:
        >>> acts = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
        >>> best_rotation(pair_moments(acts, 3 * acts[:, [2, 0, 1, 3]])).matrix.round().int().argmax(0)
        tensor([2, 0, 1, 3])
    """
    pair = as_pair(pair)
    gram, cross, scale_a, scale_b = standardised(pair)
    live_a, live_b = scale_a > 0, scale_b > 0
    if not isinstance(cross, FakeTensor):
        cross = cross[live_a][:, live_b]
    left, _, right = torch.linalg.svd(cross, full_matrices=False)
    matrix = left @ right
    if not isinstance(cross, FakeTensor):
        whole = gram.new_zeros(len(live_a), len(live_b))
        whole[live_a.nonzero(), live_b.nonzero()[:, 0]] = matrix
        matrix = whole
    return Rotation(**vars(_with_slopes(pair, matrix)), matrix=matrix)


def matching_map(pair: PairMoments, match: Match | SoftMatch) -> MappingPath:
    """A match as a map: each unit of b from its partner in a alone, with slope and offset.

    Args:
        pair: moments of a and b, on which slopes and offsets are fitted.
        match: of the units of a with those of b, as `bipartite_matching` of their correlations gives it. A unit of b
            that is the partner of several is predicted from the one with the highest score. Of `soft_matching` a unit
            of b is predicted from the sum of its partners, each by its share.

    Returns:
        MappingPath with one entry. Units of b that are nobody's partner are predicted by their mean.

    Raises:
        ValueError: the match is of other numbers of units, or its scores are not finite.

    Source: Li et al. 2016, one-to-one alignment, as the map with the least freedom (Kapoor et al. 2025).

    Example:
        >>> a = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
        >>> pair = pair_moments(a, 2 * a[:, [2, 0, 1]] + 1)
        >>> match = bipartite_matching(correlation(pair).matrix)
        >>> matching_map(pair, match).r2.round(decimals=4)
        tensor([[1., 1., 1.]], dtype=torch.float64)
    """
    pair = as_pair(pair)
    units_a, units_b = pair.cov_ab.shape
    if isinstance(match, SoftMatch):
        if match.plan.shape != pair.cov_ab.shape or match.plan.device != pair.cov_ab.device:
            raise ValueError(f"match: expected shares of {units_a} units with {units_b}, got {came(match.plan)}")
        shares = match.plan.where(match.plan > _ROUNDING / max(units_a, units_b), 0.0)  # of the solver's, else
        return _with_slopes(pair, shares)
    if not isinstance(match, Match):
        raise ValueError(f"match: expected a Match, got {came(match)}; did you mean bipartite_matching(score)?")
    index = match.index
    if len(index) != units_a or index.device != pair.cov_ab.device or not (index < units_b).all():
        raise ValueError(f"match: expected partners of {units_a} units among {units_b}, got {came(index)}")
    chosen = pair.cov_ab.new_zeros(units_a, units_b)
    if not isinstance(match.score, FakeTensor) and not match.score.isfinite().all():
        raise ValueError("match: expected finite scores, got NaN or infinity")
    order = match.score.double().argsort(stable=True)  # the best is written last
    for unit in order[index[order] >= 0].tolist():
        chosen[:, index[unit]] = 0
        chosen[unit, index[unit]] = 1
    return _with_slopes(pair, chosen)


def unshrunk(mapping: MappingPath, pair: PairMoments) -> MappingPath:
    r"""The map with each predicted unit as wide as the true one: its slope divided by its multiple correlation.

    A regression predicts a unit with :math:`R^2` of its variance alone. Where many units are predicted poorly, what
    follows reads a layer that hardly moves; this gives each its own deviation back, at the price of a larger error.

    Args:
        mapping: any.
        pair: the moments that it was fitted on.

    Returns:
        MappingPath. A unit that was predicted by its mean still is.

    Raises:
        ValueError: other numbers of units, or another device.

    Source: Jordan et al. 2023, who give the units of an interpolated network their spread back (REPAIR).

    Example:
        >>> a = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
        >>> b = a + torch.randn(500, 4, generator=torch.Generator().manual_seed(1))
        >>> pair = pair_moments(a, b)
        >>> wide = unshrunk(least_squares(pair), pair).predict(a)[0]
        >>> torch.allclose(wide.std(0), b.std(0))
        True
    """
    if not isinstance(mapping, MappingPath):
        raise ValueError(f"mapping: expected a MappingPath, such as least_squares(pair), got {came(mapping)}")
    pair = as_pair(pair, on=mapping.coefficients.device)
    if pair.cov_ab.shape != mapping.coefficients.shape[1:]:
        units = f"{tuple(mapping.coefficients.shape[1:])}, got {tuple(pair.cov_ab.shape)}"
        raise ValueError(f"pair: expected the moments of the fit, of units {units}")
    gram, _, scale_a, scale_b = standardised(pair)
    if not isinstance(gram, FakeTensor) and not (
        torch.allclose(scale_a, mapping.scale_a, atol=0) and torch.allclose(scale_b, mapping.scale_b, atol=0)
    ):
        raise ValueError("pair: expected the moments of the fit, got some of units with other deviations")
    with full_precision():
        variance = (mapping.coefficients * (gram @ mapping.coefficients)).sum(1).clamp(min=0)
    predicts = variance > _ROUNDING  # else it is rounding, which must not be made a deviation of
    found = torch.where(predicts, variance.where(predicts, 1.0).rsqrt(), 0.0)
    return path_of(pair, mapping.penalties, mapping.coefficients * found[:, None], bias=mapping.bias)


def _with_slopes(pair: PairMoments, matrix: Tensor) -> MappingPath:
    """The map (units_a, units_b) of standardised units, each predicted unit times the slope that fits it best."""
    gram, cross, _, _ = standardised(pair)
    with full_precision():
        variance = (matrix * (gram @ matrix)).sum(0)
        slope = torch.where(variance > 0, (matrix * cross).sum(0) / variance.where(variance > 0, 1.0), 0.0)
    return path_of(pair, pair.cov_ab.new_zeros(1), (matrix * slope)[None])
