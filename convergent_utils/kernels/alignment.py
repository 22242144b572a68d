r"""Are two representations alike up to a rotation? Comparisons that weigh a direction by its variance.

A rotation or one scale for a whole net changes none of them; scaling single units does, for a unit with more variance
counts for more. Canonical correlations, which any invertible map leaves alone, count every direction alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import as_activations, require_same_samples, require_share
from .moments import Moments, PairMoments, as_pair
from .precision import power_of_two

_CHUNK_ROWS = 1024  # that are copied to float64 at a time
_ROUNDING = 1e-12  # of a sum of squares from which all may be taken away again


@dataclass(frozen=True)
class PartialLeastSquares:
    """Pairs of directions, one in each net, along which the nets vary together most.

    Attributes:
        covariance: (min(units_a, units_b),) float64, of the scores of each pair, falling, in activations squared.
        correlation: (min(units_a, units_b),) float64 in [0, 1], of the same scores; not sorted.
        directions_a, directions_b: (units_a, min(units_a, units_b)), (units_b, min(units_a, units_b)) float64,
            orthonormal columns; the scores of net a are `(acts_a - mean_a) @ directions_a`. The largest entry of each
            column of directions_a is positive.

    Example:
        >>> a = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 9.0])
        >>> partial_least_squares(pair_moments(a, a[:, [1, 0]])).directions_a.abs().round()
        tensor([[0., 1.],
                [1., 0.]], dtype=torch.float64)
    """

    covariance: Tensor
    correlation: Tensor
    directions_a: Tensor
    directions_b: Tensor


def linear_cka(pair: PairMoments) -> Tensor:
    r"""Centred kernel alignment with linear kernels: do the nets find the same pairs of inputs alike?

    .. math:: \frac{\|\Sigma_{ab}\|_F^2}{\|\Sigma_{aa}\|_F \, \|\Sigma_{bb}\|_F}

    It is the cosine of the two matrices of inner products between centred samples, without those matrices: time and
    memory do not grow with samples squared.

    Args:
        pair: moments of both nets, any widths.

    Returns:
        0-d float64 in [0, 1], on the device of the moments; 0 where a net has dead units alone.

    With few samples it is large by chance, about :math:`u / (u + n)` for u independent units in each net and n samples;
    `debiased_cka` is not. Statisticians have it as the RV coefficient.
    Source: Kornblith et al. 2019.

    Example:
        >>> a = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
        >>> linear_cka(pair_moments(a, 2 * a @ random_rotation(3, seed=1).float())).round(decimals=4)
        tensor(1., dtype=torch.float64)
    """
    pair, _, _ = as_pair(pair).at_common_scale()
    own = pair.cov_aa.norm() * pair.cov_bb.norm()
    return _ratio(pair.cov_ab.square().sum(), own).clamp(max=1)


def debiased_cka(acts_a: Tensor, acts_b: Tensor) -> Tensor:
    r"""Centred kernel alignment that is 0 on average for independent nets, however few the samples.

    .. math:: \frac{H(X, Y)}{\sqrt{H(X, X) \, H(Y, Y)}}, \quad
        H(X, Y) = \frac{1}{n (n - 3)} \Big[ \|X^\top Y\|_F^2 - \frac{n}{n - 2} \sum_i |x_i|^2 |y_i|^2
        + \frac{\|X\|_F^2 \, \|Y\|_F^2}{(n - 1)(n - 2)} \Big]

    for centred rows :math:`x_i, y_i`. H is the unbiased estimate of the Hilbert-Schmidt independence criterion, which
    compares no sample with itself. The matrix of samples by samples is never made: on centred rows, the sums along its
    rows that the estimate asks for are known beforehand.

    Args:
        acts_a: (samples, units_a) float tensor or NumPy array, any device.
        acts_b: (samples, units_b), the same samples in the same order.

    Returns:
        0-d float64 in [-1, 1], negative about every second time for independent nets. 0 where a net has dead units
        alone, or varies on a single sample: then the samples left to compare are all alike.

    Raises:
        ValueError: fewer than 4 samples, and as in `pair_moments`.

    Everything is computed in float64, a chunk of rows at a time: where few samples hold most of the variance, float32
    would have no digits left once their products with themselves are taken away.
    Source: Song et al. 2012 for the estimate; H(X, X) is a sum of squares (Székely and Rizzo 2014), never negative.

    Example:
        >>> a, b = torch.randn(2, 50, 100, generator=torch.Generator().manual_seed(0))
        >>> linear_cka(pair_moments(a, b)) > 0.5, debiased_cka(a, b).abs() < 0.1
        (tensor(True), tensor(True))
    """
    acts_a, acts_b = as_activations(acts_a, "acts_a"), as_activations(acts_b, "acts_b")
    require_same_samples(acts_a, acts_b)
    if len(acts_a) < 4:
        raise ValueError(f"acts_a: expected at least 4 samples, got {len(acts_a)}")
    moments = Moments({"acts_a": acts_a.shape[1], "acts_b": acts_b.shape[1]})
    (scale_a, still_a), (scale_b, still_b) = _size(acts_a), _size(acts_b)
    for rows_a, rows_b in zip(_chunks(acts_a, scale_a, still_a), _chunks(acts_b, scale_b, still_b), strict=True):
        moments.update({"acts_a": rows_a, "acts_b": rows_b})
    pair = moments.pair("acts_a", "acts_b")
    norms_a = torch.cat([(rows - pair.mean_a).square().sum(1) for rows in _chunks(acts_a, scale_a, still_a)])
    norms_b = torch.cat([(rows - pair.mean_b).square().sum(1) for rows in _chunks(acts_b, scale_b, still_b)])

    return debiased_of(pair, norms_a, norms_b)


def debiased_of(pair: PairMoments, norms_a: Tensor, norms_b: Tensor) -> Tensor:
    """As `debiased_cka`, of moments of float64 rows and the squared norms (samples,) of the centred rows of either net.

    Shuffled rows of a net change cov_ab and the order of its norms alone.
    """
    n = len(norms_a)

    def unbiased(covariance: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """H but for its factor, from a covariance and the squared norms of the rows of either side."""
        return n**2 * covariance.square().sum() - n / (n - 2) * x @ y + x.sum() * y.sum() / ((n - 1) * (n - 2))

    own = 1.0
    for covariance, norms in ((pair.cov_aa, norms_a), (pair.cov_bb, norms_b)):
        itself = unbiased(covariance, norms, norms)
        own = own * itself.where(itself > _ROUNDING * norms.sum().square(), 0.0).sqrt()
    return _ratio(unbiased(pair.cov_ab, norms_a, norms_b), own).clamp(-1, 1)


def procrustes(pair: PairMoments) -> Tensor:
    r"""How well the best rotation of one net fits the other.

    .. math:: \frac{\|\Sigma_{ab}\|_*}{\sqrt{\operatorname{tr} \Sigma_{aa} \, \operatorname{tr} \Sigma_{bb}}}

    the nuclear norm :math:`\|\cdot\|_*` being the sum of the singular values.

    Args:
        pair: moments of both nets; the narrower one counts as filled up with dead units.

    Returns:
        0-d float64 in [0, 1], on the device of the moments; 0 where a net has dead units alone.

    The *Procrustes distance*, what the best rotation leaves of two nets scaled to total variance 1, is
    :math:`\sqrt{2 (1 - s)}`, a root mean square; the angular distance is :math:`\arccos s`. Both are metrics.
    Of nets as they are it leaves the mean square
    :math:`\operatorname{tr} \Sigma_{aa} + \operatorname{tr} \Sigma_{bb} - 2 \|\Sigma_{ab}\|_*`.
    Source: Schönemann 1966; Williams et al. 2021.

    Example:
        >>> a = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
        >>> procrustes(pair_moments(a, 2 * a @ random_rotation(3, seed=1).float())).round(decimals=4)
        tensor(1., dtype=torch.float64)
    """
    pair, _, _ = as_pair(pair).at_common_scale()
    own = pair.cov_aa.trace().sqrt() * pair.cov_bb.trace().sqrt()
    return _ratio(torch.linalg.svdvals(pair.cov_ab).sum(), own).clamp(max=1)


def partial_least_squares(pair: PairMoments, *, rank_tolerance: float = 1e-7) -> PartialLeastSquares:
    r"""The pairs of directions, one in each net, with the largest covariance, and how well each pair correlates.

    .. math:: \Sigma_{ab} = U S V^\top, \quad
        r_k = \frac{s_k}{\sqrt{u_k^\top \Sigma_{aa} u_k \; v_k^\top \Sigma_{bb} v_k}}

    Args:
        pair: moments of both nets, any widths.
        rank_tolerance: scores with less than this share of the total variance of their net have correlation 0.

    Returns:
        PartialLeastSquares, on the device of the moments. Directions of dead units have covariance and correlation 0.

    Raises:
        ValueError: rank_tolerance not between 0 and 1.

    Canonical correlations are the largest that any directions have; these are correlations of directions with much
    variance in both nets, so few samples for the units harm them less.
    Source: Tucker 1958; Wegelin 2000. The symmetric variant, in which neither net predicts the other.

    Example:
        >>> a = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 9.0])
        >>> found = partial_least_squares(pair_moments(a, a))
        >>> found.covariance > 50, found.correlation.round(decimals=4)
        (tensor([ True, False]), tensor([1., 1.], dtype=torch.float64))
    """
    require_share(rank_tolerance, "rank_tolerance")
    pair, scale_a, scale_b = as_pair(pair).at_common_scale()
    left, covariance, right = torch.linalg.svd(pair.cov_ab, full_matrices=False)
    sign = left.gather(0, left.abs().argmax(0, keepdim=True)).sign()
    directions, correlation = (left * sign, right.T * sign), covariance
    for across, within in zip(directions, (pair.cov_aa, pair.cov_bb), strict=True):
        variance = (across * (within @ across)).sum(0)
        live = variance > rank_tolerance * within.trace()
        correlation = torch.where(live, correlation / variance.where(live, 1.0).sqrt(), 0.0)
    return PartialLeastSquares(covariance * scale_a * scale_b, correlation.clamp(max=1), *directions)


def _size(acts: Tensor) -> tuple[Tensor, Tensor]:
    """A power of two (0-d) near the largest activation that varies, float64, and which units never do (units,)."""
    high, low = acts.amax(0), acts.amin(0)
    still = (high == low) & high.isfinite()
    largest = torch.maximum(high, -low).masked_fill(still, 0).amax()
    return power_of_two((largest.cpu() if largest.device.type == "mps" else largest).double()), still


def _chunks(acts: Tensor, size: Tensor, still: Tensor) -> Iterator[Tensor]:
    """The rows over `size` in float64 (on the CPU where their device has none), a few at a time to copy little.

    Units that never change become 0: they carry nothing, and may be too large to be divided by the size of the others.
    """
    for rows in acts.split(_CHUNK_ROWS):
        rows = rows.masked_fill(still, 0)
        yield (rows.cpu() if rows.device.type == "mps" else rows).double() / size


def _ratio(shared: Tensor, own: Tensor) -> Tensor:
    """What both share as a part of what each has; 0 where one has nothing."""
    return torch.where(own > 0, shared / own.where(own > 0, 1.0), 0.0)
