r"""Canonical correlations: do two nets span the same directions, whatever basis of them each net has?

With covariances :math:`\Sigma_{aa}, \Sigma_{ab}, \Sigma_{bb}` and axes :math:`K_a, K_b` along which each net has
variance 1, :math:`K_a^\top \Sigma_{aa} K_a = I`, one singular value decomposition says it all:

.. math:: K_a^\top \Sigma_{ab} K_b = U \, \mathrm{diag}(\rho) \, V^\top, \quad h_a = (x - \mu_a)^\top K_a U.

The three similarities are weighted means :math:`\sum_i \alpha_i \rho_i`. They differ in the axes they keep (`svcca`)
and in the weights (`pwcca`). Nothing is ever added to a covariance: a direction is kept as it is or left out.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.weak import WeakIdKeyDictionary

from .checks import (
    as_activations,
    as_count,
    as_number,
    came,
    require_fields,
    require_finite,
    require_known,
    require_share,
)
from .moments import PairMoments, as_pair
from .precision import power_of_two

_RANK_TOLERANCES = 1e-5, 1e-10  # of moments of float32 and of float64 rows
_PRINCIPAL = WeakIdKeyDictionary()  # of covariances, for as long as they are there
_POWERS = {"variance": 1.0, "singular": 0.5}  # of the eigenvalues that a share is a share of


@dataclass(frozen=True)
class CCAResult:
    """Canonical correlations and variates, float64 on the device of the moments; k is min(rank_a, rank_b).

    Attributes:
        rho: (k,) canonical correlations in [0, 1], falling.
        weights: (k,) what each counts in the similarity; they sum to 1.
        directions_a, directions_b: (units_a, k), (units_b, k) weights of the units in each variate; dead units have
            zeros. `variates_a` and `variates_b` apply them.
        mean_a, mean_b: (units_a,), (units_b,) means of the units.
        rank_a, rank_b: how many directions of each net were compared.
        coverage: 0-d, the share of what all rank_a variates weigh that the k compared do; below 1 for `pwcca` alone.
        rank_tolerance: directions with less than this share of the largest eigenvalue were left out.
        n_samples: number of samples of the moments.
    """

    rho: Tensor
    weights: Tensor
    directions_a: Tensor
    directions_b: Tensor
    mean_a: Tensor
    mean_b: Tensor
    rank_a: int
    rank_b: int
    coverage: Tensor
    rank_tolerance: float
    n_samples: int

    def __post_init__(self):
        sides = {"directions_a": "ak", "directions_b": "bk", "mean_a": "a", "mean_b": "b", "coverage": ""}
        require_fields(self, whole=(), rho="k", weights="k", **sides)
        most = min(as_count(self.rank_a, "rank_a", at_least=0), as_count(self.rank_b, "rank_b", at_least=0))
        if most != len(self.rho):
            raise ValueError(f"rank_a: expected that of rho or more, {len(self.rho)}, got {most} as the smaller rank")
        if not isinstance(self.rho, FakeTensor) and not ((self.rho >= 0) & (self.rho <= 1)).all():
            raise ValueError(f"rho: expected correlations from 0 to 1, got {came(self.rho.tolist())}")
        require_share(self.rank_tolerance, "rank_tolerance")
        as_count(self.n_samples, "n_samples", at_least=2, at_most=2**63 - 1)

    @property
    def similarity(self) -> Tensor:
        """The weighted mean of rho, 0-d in [0, 1]; 0 where a net has no live unit."""
        return self.weights @ self.rho

    @property
    def similarity_by_width(self) -> Tensor:
        """The sum of rho over the width of the narrower net: less than 1 for a truncated layer with itself."""
        return self.rho.sum() / min(len(self.directions_a), len(self.directions_b))

    def variates_a(self, acts_a: Tensor | np.ndarray) -> Tensor:
        """Canonical variates (samples, k) of activations (samples, units_a), of the fit or new ones."""
        return _variates(acts_a, self.mean_a, self.directions_a, "acts_a")

    def variates_b(self, acts_b: Tensor | np.ndarray) -> Tensor:
        """Canonical variates (samples, k) of activations (samples, units_b), of the fit or new ones."""
        return _variates(acts_b, self.mean_b, self.directions_b, "acts_b")

    def rho_on(self, pair: PairMoments) -> Tensor:
        r"""The correlation of each pair of variates in other samples, from their moments.

        .. math:: \frac{d_a^\top \Sigma'_{ab} d_b}{\sqrt{d_a^\top \Sigma'_{aa} d_a \; d_b^\top \Sigma'_{bb} d_b}}

        Args:
            pair: moments of the same units over other samples, such as the other fold.

        Returns:
            (k,) float64 in [-1, 1], not sorted; 0 where a variate keeps less than `rank_tolerance` of its variance.

        Raises:
            ValueError: other numbers of units.
        """
        pair, units = as_pair(pair, on=self.rho.device), (len(self.directions_a), len(self.directions_b))
        if pair.cov_ab.shape != units:
            raise ValueError(f"pair: expected units {units}, got {tuple(pair.cov_ab.shape)}")
        a, unit_a, least_a = _near_one(self.directions_a, pair.cov_aa, self.rank_tolerance)
        b, unit_b, least_b = _near_one(self.directions_b, pair.cov_bb, self.rank_tolerance)
        forms = (a, pair.cov_ab, b, unit_a, unit_b), (a, pair.cov_aa, a, unit_a, unit_a)
        forms = *forms, (b, pair.cov_bb, b, unit_b, unit_b)
        shared, variance_a, variance_b = (
            (x * ((covariance / of_x[:, None] / of_y) @ y)).sum(0) for x, covariance, y, of_x, of_y in forms
        )
        live = (variance_a > least_a) & (variance_b > least_b)
        return torch.where(live, shared / (variance_a * variance_b).sqrt(), 0.0).clamp(-1, 1)


@dataclass(frozen=True)
class CorrelationCount:
    """How many canonical correlations are not zero.

    Attributes:
        count: number of correlations before the first p value that reaches the level.
        p_value: (k,) float64, entry i of the hypothesis that rho[i] and all after it are zero.
    """

    count: int
    p_value: Tensor


def cca(pair: PairMoments, *, rank_tolerance: float | None = None) -> CCAResult:
    r"""Canonical correlation analysis; its similarity is the mean of rho.

    .. math:: \rho_i = \max_{u, v} \mathrm{corr}(u^\top x, v^\top y), \quad
        u^\top x, v^\top y \text{ uncorrelated with those before}, \quad \alpha_i = 1 / k

    for activations :math:`x` of net a and :math:`y` of net b: the mixture of units of either net that correlate most,
    then those that do beside them, and so on. The mixtures are the canonical variates; :math:`\alpha_i` is what
    :math:`\rho_i` counts in the similarity.

    Args:
        pair: moments of a and b.
        rank_tolerance: directions of a net's *correlation* matrix with less than this share of its largest eigenvalue
            count as absent, so the scales of units do not matter. None follows the `resolution` of the moments: 1e-10
            for float64 rows, else 1e-5, singular values below .3 % of the largest. Moments of 512 float32 units blur
            eigenvalues by up to 2e-6 of the largest, so copies and sums of other units are never counted.

    Returns:
        CCAResult. Symmetric, and invariant to any invertible map of either net.

    Raises:
        ValueError: rank_tolerance is not between 0 and 1.

    Dead units are left out; with no live unit in a net rho is empty and the similarity 0. Where a spectrum falls
    without a gap the ranks depend on the tolerance: both are in the result. Of tied rho the variates are not unique.
    With fewer samples than directions of both nets some rho are 1 whatever the data: a warning, also where one net
    alone has as many directions as its samples can have and only some are kept.
    Source: Hotelling 1936; Björck and Golub 1973, through second moments.

    Example:
        >>> cca(pair_moments(torch.eye(9, 2), torch.eye(9, 2) @ torch.tensor([[1.0, 5], [0, 1]]))).rho.round(decimals=4)
        tensor([1., 1.], dtype=torch.float64)
    """
    return _compared(as_pair(pair), _inverse_deviation, rank_tolerance)


def svcca(
    pair: PairMoments, *, keep: float = 0.99, rule: str = "variance", rank_tolerance: float | None = None
) -> CCAResult:
    r"""CCA of the largest principal directions of each net.

    .. math:: \min n \text{ with } \sum_{i \le n} \lambda_i^p \geq \text{keep} \sum_i \lambda_i^p, \; \alpha_i = 1 / k

    Args:
        pair: moments of a and b.
        keep: share that the kept directions reach, above 0 and at most 1; of each net for itself.
        rule: "variance" counts the eigenvalues of the covariance (p = 1), "singular" their roots (p = 1/2).
        rank_tolerance: as in `cca`, but of the *covariance*; what counts as absent does so in the sums as well.

    Returns:
        CCAResult; rank_a and rank_b are the numbers kept. Symmetric, and invariant to rotations and to a common scale
        of all units of either net, not to scales of single units: quiet units are cut off.

    Raises:
        ValueError: keep or rank_tolerance out of range, unknown rule.

    Source: Raghu et al. 2017. Its text keeps a share of the variance, its appendix A one of the singular values. Its
    text divides the sum of rho by the width of the layer, so that a truncated layer differs from itself; we divide by
    the directions compared, and give the other as `similarity_by_width`.

    Example:
        >>> svcca(pair_moments(torch.eye(9, 3), torch.eye(9, 3) * torch.tensor([1.0, 1.0, 0.01]))).rank_b
        2
    """
    require_known(rule, _POWERS, "rule")
    keep = as_number(keep, "keep", "a share above 0 and at most 1", lambda share: 0 < share <= 1)
    common, scale_a, scale_b = as_pair(pair).at_common_scale()
    found = _compared(common, _live, rank_tolerance, keep=keep, power=_POWERS[rule])
    directions = {"directions_a": found.directions_a / scale_a, "directions_b": found.directions_b / scale_b}
    return replace(found, **directions, mean_a=pair.mean_a, mean_b=pair.mean_b)


def pwcca(pair: PairMoments, *, rank_tolerance: float | None = None) -> CCAResult:
    r"""CCA in which a correlation counts as much as net a uses its variate.

    .. math:: \alpha_i \propto \sum_j |\langle h_i, z_j \rangle|, \quad \sum_{i \le k} \alpha_i = 1

    with the canonical variates :math:`h_i` of net a, see `cca`, and its centred units :math:`z_j`, not standardised. So
    correlations of directions that the layer hardly uses count little. For a number that treats both nets alike take
    the mean of ``pwcca(pair)`` and ``pwcca(pair.swap())``.

    Args:
        pair: moments of a and b.
        rank_tolerance: as in `cca`.

    Returns:
        CCAResult. Not symmetric. Invariant to any invertible map of net b, to shifts, signs, permutation and a common
        scale of the units of net a; *not* to rotations of net a or to scales of its single units.

    Raises:
        ValueError: rank_tolerance is not between 0 and 1.

    The weights are shared out among the variates that have a partner. Where net a has more directions than net b the
    others are counted along their principal axes, which are unique, and `coverage` is the partners' share of the whole.
    Where rho are tied, as at 1 for what both nets share without noise, the variates and so the weights are not unique.
    Source: Morcos, Raghu and Bengio 2018, which does not say what to do about unequal widths.

    Example:
        >>> pwcca(pair_moments(torch.eye(9, 2) * torch.tensor([9, 1]), torch.eye(9)[:, ::2])).weights.round(decimals=1)
        tensor([0.9000, 0.1000], dtype=torch.float64)
    """
    found = _compared(as_pair(pair), _inverse_deviation, rank_tolerance)
    projection = pair.cov_aa @ found.directions_a  # <h_i, z_j> / n_samples, (units_a, k)
    alpha, coverage = projection.abs().sum(0), found.coverage
    if found.rank_a > found.rank_b:
        every = pair.cov_aa @ _axes(pair.cov_aa, _inverse_deviation, found.rank_tolerance)[0]
        rest = every - projection @ (found.directions_a.T @ every)
        scale = power_of_two(rest.abs().amax())
        left, size, _ = torch.linalg.svd(rest / scale, full_matrices=False)
        coverage = alpha.sum() / (alpha.sum() + scale * (left * size).abs().sum())
    return replace(found, weights=alpha / alpha.sum(), coverage=coverage)


def significant_correlations(
    found: CCAResult, *, n_samples: int | None = None, level: float = 0.05
) -> CorrelationCount:
    r"""How many canonical correlations are not zero, by Bartlett's test of one after the other.

    .. math:: \chi^2_i = -\Big(n - 1 - i - \frac{p + q + 1}{2} + \sum_{j \le i} \rho_j^{-2}\Big)
        \sum_{j > i} \log(1 - \rho_j^2), \quad (p - i)(q - i) \text{ degrees of freedom}

    for i = 0, 1, ..., with p and q the ranks of the two nets and n samples.

    Args:
        found: of any of the three; what `svcca` keeps of a net does not depend on the other.
        n_samples: number of *independent* samples, such as images, not positions; None for that of the moments.
        level: below which a p value is significant.

    Returns:
        CorrelationCount; counting ends at the first p value that is not significant.

    Raises:
        ValueError: n_samples above that of the moments or not above the directions of both nets together, where the
            test is undefined; level not between 0 and 1.

    Assumes normal activations. On independent ones it keeps its level with ten samples for each direction of both nets
    together; with two and a half it finds something in 20 % of cases where 5 % are promised.
    Source: Bartlett 1938, 1947; Lawley 1959 for the sum of inverse squares.

    Example:
        >>> significant_correlations(cca(pair_moments(torch.eye(20, 3), torch.eye(20)[:, 2:5]))).count
        1
    """
    if not isinstance(found, CCAResult):
        raise ValueError(f"found: expected a CCAResult, got {came(found)}; did you mean cca(pair)?")
    n = found.n_samples if n_samples is None else as_count(n_samples, "n_samples")
    p, q = found.rank_a, found.rank_b
    if not p + q < n <= found.n_samples:
        expected = f"expected more than {p} + {q} directions and at most {found.n_samples} samples"
        raise ValueError(f"n_samples: {expected}, got {came(n)}")
    level = as_number(level, "level", "a number between 0 and 1", lambda number: 0 < number < 1)
    before, squares = torch.arange(len(found.rho), device=found.rho.device), found.rho.square()
    left = -torch.log1p(-squares).flip(0).cumsum(0).flip(0)
    inverse = torch.cat([squares.new_zeros(1), 1 / squares]).cumsum(0)[:-1]
    factor = n - 1 - before - (p + q + 1) / 2 + inverse
    statistic = torch.where(left > 0, factor * left, 0.0)
    p_value = torch.special.gammaincc((p - before) * (q - before) / 2, statistic / 2)
    return CorrelationCount(int((p_value < level).cumprod(0).sum()), p_value)


def _axes(
    covariance: Tensor, weigh: Callable[[Tensor], Tensor], rank_tolerance: float, keep: float = 1.0, power: float = 1.0
) -> tuple[Tensor, int]:
    """Axes (units, rank) with variance 1: principal directions of units whose weight is not 0, largest first.
    Those above the relative cut, whose number is returned as well; of them the fewest that make up the share `keep`.
    """
    weight, values, vectors = _principal(covariance, weigh)
    if not isinstance(values, FakeTensor) and values[0] < -values[-1] / 4:  # no rounding of activations does that
        ends = f"{float(values[0]):.2g} to {float(values[-1]):.2g}"
        raise ValueError(f"pair: expected positive semi-definite covariances, got one with eigenvalues of {ends}")
    values, vectors = values.flip(0), vectors.flip(1)
    values = values[values > rank_tolerance * values[:1]]
    share, n_directions = values.pow(power), len(values)
    values = values[share.cumsum(0) - share < keep * share.sum()]
    return weight[:, None] * vectors[:, : len(values)] / values.sqrt(), n_directions


def _principal(covariance: Tensor, weigh: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of the units, and values, rising, and vectors of the weighted covariance. Found once for a tensor that
    stays as it is: all pairs of a net, and all shuffles of its rows, have the same.
    """
    if isinstance(covariance, FakeTensor) or covariance.is_inference():
        weight = weigh(covariance.diagonal())
        return weight, *torch.linalg.eigh(covariance * weight[:, None] * weight)
    known, key = _PRINCIPAL.get(covariance, {}), (weigh, covariance._version)
    if key not in known:
        weight = weigh(covariance.diagonal())
        known = {**known, key: (weight, *torch.linalg.eigh(covariance * weight[:, None] * weight))}
        _PRINCIPAL[covariance] = known
    return known[key]


def _singular(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular values and vectors; of many that are equal, as with fewer samples than units, torch may find none."""
    try:
        return torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError:
        import scipy.linalg  # like all of scipy when it is used: torch alone is imported with the package

        found = scipy.linalg.svd(matrix.cpu().numpy(), full_matrices=False, lapack_driver="gesvd")
        left, values, right = (torch.from_numpy(part).to(matrix) for part in found)
        return left, values, right


def _compared(
    pair: PairMoments, weigh: Callable[[Tensor], Tensor], rank_tolerance: float | None, **share: float
) -> CCAResult:
    """CCA along the axes of both nets, all correlations of equal weight; warns the caller's caller of few samples."""
    if rank_tolerance is None:
        rank_tolerance = _RANK_TOLERANCES[pair.resolution <= torch.finfo(torch.float64).eps]
    require_share(rank_tolerance, "rank_tolerance")
    (axes_a, all_a), (axes_b, all_b) = (
        _axes(covariance, weigh, rank_tolerance, **share) for covariance in (pair.cov_aa, pair.cov_bb)
    )
    left, rho, right = _singular(axes_a.T @ pair.cov_ab @ axes_b)
    rank_a, rank_b, most = axes_a.shape[1], axes_b.shape[1], pair.n_samples - 1
    surplus = rank_a + rank_b - most
    if surplus > 0 or max(all_a, all_b) >= most:  # the second: a net has as many directions as samples can have
        chance = min(1.0, max(rank_a, rank_b) / most)
        kept = f" kept of {all_a} + {all_b}" if (all_a, all_b) != (rank_a, rank_b) else ""
        ones = f"{surplus} or more correlations are 1 whatever the data, and " if surplus > 0 else ""
        warnings.warn(
            f"{pair.n_samples} samples are too few for {rank_a} + {rank_b} directions{kept}: {ones}independent "
            f"units would score about {chance:.2f} to {math.sqrt(chance):.2f}, so the value is meaningless",
            stacklevel=3,
        )
    return CCAResult(
        rho=rho.clamp(max=1),
        weights=torch.full_like(rho, 1 / max(len(rho), 1)),
        directions_a=axes_a @ left,
        directions_b=axes_b @ right.T,
        mean_a=pair.mean_a,
        mean_b=pair.mean_b,
        rank_a=rank_a,
        rank_b=rank_b,
        coverage=rho.new_ones(()),
        rank_tolerance=rank_tolerance,
        n_samples=pair.n_samples,
    )


def _variates(acts: Tensor | np.ndarray, mean: Tensor, directions: Tensor, name: str) -> Tensor:
    acts = as_activations(acts, name)
    if acts.shape[1] != len(mean):
        raise ValueError(f"{name}: expected {len(mean)} units, got {acts.shape[1]}")
    require_finite(acts, name)
    return (acts.to(mean) - mean) @ directions


def _near_one(directions: Tensor, covariance: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """Directions (units, k) over units of about variance 1, and near 1 themselves, the units and the least variances.
    All by powers of two, which round nothing: activations of other samples may have any scale.
    """
    variance = covariance.diagonal()
    units = power_of_two(variance.sqrt())
    size = power_of_two(directions.abs().amax(0))
    directions = directions / size * units[:, None] * (variance > 0)[:, None]
    size_there = power_of_two(directions.abs().amax(0))
    return directions / size_there, units, least / size / size / size_there / size_there


def _inverse_deviation(variance: Tensor) -> Tensor:
    """One over the standard deviation of each unit, 0 for a dead one."""
    return variance.where(variance > 0, math.inf).rsqrt()


def _live(variance: Tensor) -> Tensor:
    """1 for each unit, 0 for a dead one."""
    return (variance > 0).to(variance.dtype)
