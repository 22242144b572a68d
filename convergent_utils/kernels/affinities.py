"""How strongly units belong together, within a net and between two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .cca import cca
from .checks import (
    as_floats,
    as_number,
    as_whole,
    came,
    in_one_line,
    tensor_of,
)
from .moments import PairMoments, as_pair, standardised
from .sparse_mapping import MappingPath


def correlation_affinity(pair: PairMoments) -> Tensor:
    r"""Absolute correlation of every two units, of one net or of both.

    .. math:: A_{ij} = |c_{ij}|, \quad i \neq j

    Args:
        pair: moments of a and b.

    Returns:
        (units_a + units_b, units_a + units_b) float64, in [0, 1], on the device of the moments; dead units have zeros.

    It sees groups of units that vary apart from the others and outnumber the dimensions of their subspace. It does not
    see them behind a factor that all units share, as when every unit of a layer fires more on a bright image;
    `subspace_affinity` does.
    Source: ours.

    Example:
        >>> a = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> correlation_affinity(pair_moments(a, a[:, [1, 0]])).round().int()
        tensor([[0, 0, 0, 1],
                [0, 0, 1, 0],
                [0, 1, 0, 0],
                [1, 0, 0, 0]], dtype=torch.int32)
    """
    return _joint_correlation(as_pair(pair)).abs().clamp(max=1).fill_diagonal_(0)


def mapping_affinity(a_to_b: MappingPath, b_to_a: MappingPath) -> Tensor:
    r"""How much each unit of one net is used to predict each of the other, both directions averaged.

    .. math:: A = \begin{pmatrix} 0 & W \\ W^\top & 0 \end{pmatrix}, \quad W = \tfrac12 (|W_{ab}| + |W_{ba}|^\top)

    Args:
        a_to_b: maps from net a to b, for one penalty.
        b_to_a: maps from net b to a, for one penalty.

    Returns:
        (units_a + units_b, units_a + units_b) float64, on the device of the maps. Dead units, and units that predict
        nothing and are predicted by nothing, have zeros.

    Raises:
        ValueError: more than one penalty, maps of other numbers of units than the way back, NaN or infinity.

    There is **no link within a net**, so even structureless maps give trees whose smallest merges mostly cross the
    nets: chance is this affinity on structureless maps, not 1/2. `correlation_affinity` and `subspace_affinity` have
    links within nets.
    Source: Li et al. 2016, many-to-many; the paper gives no formula, so this is reconstructed.

    Example:
        >>> a = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> pair = pair_moments(a, a[:, [1, 0]])
        >>> mapping_affinity(sparse_mapping(pair, [0.5]), sparse_mapping(pair.swap(), [0.5])).round(decimals=2)
        tensor([[0.0000, 0.0000, 0.0000, 0.5000],
                [0.0000, 0.0000, 0.5000, 0.0000],
                [0.0000, 0.5000, 0.0000, 0.0000],
                [0.5000, 0.0000, 0.0000, 0.0000]], dtype=torch.float64)
    """
    for name, path in (("a_to_b", a_to_b), ("b_to_a", b_to_a)):
        if not isinstance(path, MappingPath):
            raise ValueError(
                f"{name}: expected a MappingPath, got {came(path)}; did you mean sparse_mapping(pair, [.1])?"
            )
        if len(path.coefficients) != 1:
            raise ValueError(f"{name}: expected maps for one penalty, got {len(path.coefficients)} penalties")
        as_floats(path.coefficients, name, "maps of floating-point coefficients")
    forward, back = a_to_b.coefficients[0].abs(), b_to_a.coefficients[0].abs().T
    if forward.shape != back.shape:
        raise ValueError(f"b_to_a: expected maps of units {tuple(forward.T.shape)}, got {tuple(back.T.shape)}")
    links = forward.double() / 2 + back.to(forward.device).double() / 2
    within_a, within_b = (links.new_zeros(n, n) for n in links.shape)
    return _joined(within_a, links, within_b)


def subspace_affinity(pair: PairMoments, *, ridge: float = 0.3) -> Tensor:
    r"""Which units lie in the same subspace, whatever basis of it each net has.

    With the correlations :math:`C` of all units of both nets, every unit is predicted from all units by ridge
    regression:

    .. math:: Z = \arg\min_Z E\|x - Z^\top x\|^2 + \rho \|Z\|_F^2 = (C + \rho I)^{-1} C, \quad A_{ij} = Z_{ij}^2

    As :math:`\rho \to 0` on data of low rank, Z is the projection on the space that the units span, which is block
    diagonal over independent subspaces however their bases lie, correlated or not. A direction of variance
    :math:`\lambda` keeps the share :math:`\lambda / (\lambda + \rho)`, so a factor that all units share counts as *one*
    direction however large it is, and noise counts for little. Entries are squared because the sum of squares between
    two groups, :math:`\|Z_{gh}\|_F^2`, stays the same when the (uncorrelated) units of each are turned into another
    basis; that of absolute values does not. A direction that one net has to itself links the units of that net as
    firmly as a shared one links those of both.

    Args:
        pair: moments of a and b.
        ridge: :math:`\rho > 0`, in variances of one unit. Large, A is as the squared correlation; much below the noise,
            units predict only themselves. From .1 to 1 planted subspaces are found.

    Returns:
        (units_a + units_b, units_a + units_b) float64, in [0, 1], on the device of the moments; dead units have zeros.

    Raises:
        ValueError: ridge is not a positive number.

    Source: the shape interaction matrix of Costeira and Kanade 1998, made soft by the ridge as in the least squares
    regression of Lu et al. 2012, who take absolute values where we take squares.

    Example:
        >>> a = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
        >>> turn = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
        >>> b = torch.cat([a[:, :2] @ turn, a[:, 2:] @ turn], dim=1)
        >>> subspace_affinity(pair_moments(a, b))[0].round(decimals=1)
        tensor([0.0000, 0.0000, 0.0000, 0.0000, 0.1000, 0.1000, 0.0000, 0.0000],
               dtype=torch.float64)
    """
    ridge = as_number(ridge, "ridge", "a positive number", lambda number: number > 0)
    joint = _joint_correlation(as_pair(pair))
    # off the diagonal (C + rI)^-1 C = I - r (C + rI)^-1 is the second term alone
    shared = ridge * torch.linalg.inv(joint + ridge * torch.eye(len(joint), dtype=joint.dtype, device=joint.device))
    return ((shared + shared.T) / 2).square().fill_diagonal_(0)


def subspace_overlap(
    pair: PairMoments, units_a: Tensor | Sequence[int], units_b: Tensor | Sequence[int], *, rank_tolerance: float = 1e-7
) -> Tensor:
    r"""How far the activations of some units of a and some of b span the same subspace.

    .. math:: \cos \theta_k = \rho_k

    The cosines of the principal angles between the two spans are the canonical correlations of the two groups, see
    `cca`.

    Args:
        pair: moments of a and b.
        units_a: units of a, as indices or as a mask, for example `labels[:n] == 3`.
        units_b: units of b, numbered within b.
        rank_tolerance: directions of a group with less than this share of its largest eigenvalue count as absent.

    Returns:
        (k,) float64 in [0, 1], k the smaller rank, falling; 1 for a direction that both share. Empty where a group has
        no live unit.

    Raises:
        ValueError: units that the net does not have.

    With few samples for the units it is large by chance: compare with random groups of the same sizes.
    Source: Björck and Golub 1973, through second moments.

    Example:
        >>> a = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
        >>> b = a[:, :2] @ torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
        >>> subspace_overlap(pair_moments(a, b), [0, 1], [0, 1]).round(decimals=3)
        tensor([1., 1.], dtype=torch.float64)
    """
    pair = as_pair(pair)
    a, b = _members(units_a, pair.cov_aa, "units_a"), _members(units_b, pair.cov_bb, "units_b")
    if not len(a) or not len(b):
        return pair.cov_ab.new_empty(0)
    covariances = {"cov_aa": pair.cov_aa[a][:, a], "cov_ab": pair.cov_ab[a][:, b], "cov_bb": pair.cov_bb[b][:, b]}
    part = replace(pair, mean_a=pair.mean_a[a], mean_b=pair.mean_b[b], **covariances)
    return cca(part, rank_tolerance=rank_tolerance).rho


def _joint_correlation(pair: PairMoments) -> Tensor:
    """Correlations of all units of both nets, symmetric; dead units have zeros, on the diagonal as well."""
    within_a, cross, _, _ = standardised(pair)
    return _joined(within_a, cross, standardised(pair.swap())[0])


def _joined(within_a: Tensor, between: Tensor, within_b: Tensor) -> Tensor:
    return torch.cat([torch.cat([within_a, between], 1), torch.cat([between.T, within_b], 1)])


def _members(units: Tensor | Sequence[int], covariance: Tensor, name: str) -> Tensor:
    """Indices of units on the device of their covariance, from indices or a mask."""
    n_units = len(covariance)
    what, read = f"indices from 0 to {n_units - 1} or a mask of {n_units} units", tensor_of(units, lists=True)
    if read is not None and read.dtype == torch.bool and read.shape == (n_units,):
        read = read.nonzero()[:, 0]
    read = as_whole(units if read is None else read, name, what=what).cpu()
    if (read < 0).any() or (read >= n_units).any():
        raise ValueError(f"{name}: expected {what}, got {in_one_line(read.tolist())}")
    return read.to(covariance.device)
