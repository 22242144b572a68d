r"""The same space without its units: what is left of a similarity when one net is turned by a random rotation?

A rotation mixes all units of a net and keeps the space that they span. A similarity that compares spaces cannot see it;
what a matching of units loses by it is owed to the units. With :math:`D` the inverse standard deviations of the live
units of b, and :math:`Q` a random rotation of them, the turned net :math:`y^\top D Q` has

.. math:: \Sigma_{ab} D Q, \qquad Q^\top D \Sigma_{bb} D Q,

so no activations are needed.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .checks import as_count, as_seed, as_share, came
from .moments import PairMoments, as_pair, standardised
from .precision import full_precision

_ROUNDING = 1e-6  # of a variance of 1
_MOST_UNITS = 10**5  # have rotations of eighty gigabytes
_LEAST_SHARE = {True: 1e-5, False: 1e-10}  # of the largest eigenvalue, of coarse rows and of float64: less is rounding
_COARSE = 1e-10  # resolution from which rows are coarse


def random_rotation(units: int, *, seed: int) -> Tensor:
    """An orthogonal matrix, any as likely as any other.

    Args:
        units: how many.
        seed: of the random numbers.

    Returns:
        (units, units) float64 on the CPU; its columns are orthonormal, as are its rows. Reflections count as rotations.

    Raises:
        ValueError: units or seed are no such numbers.

    It is the Q of the QR decomposition of a Gaussian matrix, columns signed by the diagonal of R, without which not all
    matrices are equally likely. Source: Stewart 1980; Mezzadri 2007.

    Example:
        >>> turn = random_rotation(3, seed=0)
        >>> torch.allclose(turn.T @ turn, torch.eye(3, dtype=torch.float64))
        True
    """
    units = as_count(units, "units", at_most=_MOST_UNITS)
    return _orthogonal(_gaussian(units, seed))


def rotated(pair: PairMoments, *, seed: int, share: float | None = None, whiten: bool = False) -> PairMoments:
    """The moments of net a with net b turned at random: the same space, with other units.

    Args:
        pair: moments of both nets.
        seed: of the rotation.
        share: turn only the leading principal components of b's standardised units that hold this share of their
            variance, among themselves; None: all.
        whiten: first give all directions of b the same variance (of the standardised units, the nearest such net), so
            that large components do not lead all turned units.

    Returns:
        PairMoments of a and the turned net, on the device of the moments. Live units of b are standardised before the
        turn; dead ones stay dead, in their places. The baseline of a similarity of units is its mean over several
        seeds.

    Raises:
        ValueError: seed is none, share is not from 0 to 1, whiten is not True or False; covariances that no activations
            have.

    A turned unit may stand for a direction or for its opposite: where units have a sign, as behind a ReLU, compare also
    with the absolute scores of the turned net.
    Source: Khosla et al. 2024 and Gurnee et al. 2024, a random rotation as the null of unit matching. `share` and
    `whiten` are milder and stricter forms of it.

    Example:
        >>> a = torch.randn(500, 20, generator=torch.Generator().manual_seed(0))
        >>> turned = rotated(pair_moments(a, a), seed=0)
        >>> cca(turned).similarity > 0.99, semi_matching(correlation(turned).matrix).mean < 0.7
        (tensor(True), tensor(True))
    """
    pair, seed = as_pair(pair), as_seed(seed)
    share = None if share is None else as_share(share, "share", "a share of variance from 0 to 1")
    if not isinstance(whiten, bool):
        raise ValueError(f"whiten: expected True or False, got {came(whiten)}")
    gram, _, scale, _ = standardised(pair.swap())
    live = scale > 0
    inverse = torch.where(live, 1 / scale.where(live, 1.0), 0.0)
    with full_precision():
        least = _LEAST_SHARE[pair.resolution > _COARSE]
        turn = _turn(gram, live, seed, share, least if whiten else None)
        matrix = inverse[:, None] * turn
        within = matrix.T @ pair.cov_bb @ matrix
        within, mean, across = (within + within.T) / 2, pair.mean_b @ matrix, pair.cov_ab @ matrix
    if not isinstance(within, FakeTensor) and (within.diagonal() < -_ROUNDING).any():
        raise ValueError("pair: expected covariances that some activations have, got cov_bb with a negative variance")
    return replace(pair, mean_b=mean, cov_ab=across, cov_bb=within)


def _turn(gram: Tensor, live: Tensor, seed: int, share: float | None, whiten: float | None) -> Tensor:
    """What standardised units (units,) with these correlations are multiplied by; zeros for dead ones.

    With `whiten`, directions with less than this share of the largest eigenvalue are left out.
    """
    drawn = _gaussian(len(gram), seed).to(gram.device)
    among = live[:, None] & live
    turn = _orthogonal(torch.where(among, drawn, torch.eye(len(gram)).to(drawn)))  # dead units turn to themselves
    if share is None and whiten is None:
        return turn * among
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    if share is not None:
        held = values.cumsum(0) / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
        leading = torch.cat([held.new_zeros(1), held[:-1]]) < share - 1e-12
        among_leading = leading[:, None] & leading
        own = torch.eye(len(gram)).to(drawn)
        turn = vectors @ _orthogonal(torch.where(among_leading, drawn, own)) @ vectors.T
    if whiten is not None:
        varies = values > whiten * values[0]
        turn = (vectors * torch.where(varies, values.where(varies, 1.0).rsqrt(), 0.0)) @ vectors.T @ turn
    return turn * among


def _gaussian(units: int, seed: int) -> Tensor:
    return torch.randn(units, units, generator=torch.Generator().manual_seed(as_seed(seed)), dtype=torch.float64)


def _orthogonal(matrix: Tensor) -> Tensor:
    """Its columns made orthonormal, one after another."""
    columns, triangle = torch.linalg.qr(matrix)
    return columns * triangle.diagonal().sign().where(triangle.diagonal() != 0, 1.0)
