"""Projections of a layer's activations on some of its directions."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.checks import as_floats, form_of, tensor_of
from ..kernels.precision import power_of_two

_ROUNDING = 1e-5  # relative, of covariances in float32
_RANK_TOLERANCE = 1e-10  # relative, of singular values of directions


def subspace_projection(directions: Tensor, *, covariance: Tensor | None = None) -> Tensor:
    r"""The matrix that projects centred activations on the span of some directions.

    .. math:: P = B B^\top \quad\text{or, in the space of samples,}\quad P = B (B^\top \Sigma B)^{-1} B^\top \Sigma

    Args:
        directions: (units, k) floating, of any lengths and angles; :math:`B` is an orthonormal basis of their span.
        covariance: (units, units) of the activations. Given, each unit's vector of activations over the samples is
            projected on the span of the k variates `acts @ directions`: every unit becomes what is best predicted of it
            from the variates. None: each sample's vector of activations is projected on the span of the directions.

    Returns:
        (units, units) float64 P; centred activations (samples, units) become `acts @ P`. P P = P.

    Raises:
        ValueError: shapes that do not pair, numbers that are not finite, a covariance that none can be: it is not
            symmetric, or a variance is negative in some direction (beyond rounding in float32).

    Source: Raghu et al. 2017, section 2.1, which projects in the space of samples. For principal components both agree.

    Example:
        >>> subspace_projection(torch.tensor([[2.0], [2.0]])).round(decimals=4)
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]], dtype=torch.float64)
    """
    directions = as_floats(directions, "directions", "floating (units, k)")
    if directions.ndim != 2 or len(directions) == 0:
        raise ValueError(f"directions: expected floating (units, k), got {form_of(directions)}")
    directions = directions.double()
    if covariance is None:
        basis = orthonormal(directions)
        return basis @ basis.T
    found = _explained(directions, _as_covariance(covariance, len(directions)).to(directions.device))
    if not found.isfinite().all():
        raise ValueError("covariance: expected numbers whose products float64 can hold, got an infinite one")
    return found


def project(acts: Tensor, matrix: Tensor, mean: Tensor) -> Tensor:
    """Activations as the projection leaves them, their mean restored.

    Args:
        acts: (samples, units), maps (n, units, height, width), or tokens (n, tokens, units), floating.
        matrix: (units, units), of `subspace_projection`.
        mean: (units,) the mean activation that is taken off before and added again after.

    Returns:
        A new tensor like `acts`.

    Raises:
        ValueError: activations that are not floating or not finite, other numbers of units.

    Example:
        >>> onto = subspace_projection(torch.tensor([[2.0], [0.0]]))
        >>> project(torch.tensor([[3.0, 1.0]]), onto, torch.tensor([0.0, 5.0])).round(decimals=4)
        tensor([[3., 5.]])
    """
    acts = as_acts(acts)
    moved = mapped(acts, *as_map(matrix, mean))
    if not moved.isfinite().all():
        raise ValueError(f"acts: expected finite numbers that {acts.dtype} holds once projected, got NaN or infinity")
    return moved


def as_acts(acts: Tensor, argument: str = "acts") -> Tensor:
    """Floating activations, dense and without a mask."""
    read = tensor_of(acts) if isinstance(acts, Tensor) else None
    if read is None or not read.is_floating_point() or read.ndim not in (2, 3, 4):
        forms = "(samples, units), (n, tokens, units) or (n, units, height, width)"
        raise ValueError(f"{argument}: expected floating activations {forms}, got {form_of(acts)}")
    return read


def as_map(matrix: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """A projection and a mean that pair."""
    matrix = as_floats(matrix, "matrix", "floating (units, units)")
    mean = as_floats(mean, "mean", "floating (units,)")
    if mean.ndim != 1 or matrix.shape != (len(mean), len(mean)):
        given = f"matrix {tuple(matrix.shape)}, mean {tuple(mean.shape)}"
        raise ValueError(f"mean: expected as many units as in matrix (units, units), got {given}")
    return matrix, mean


def mapped(acts: Tensor, matrix: Tensor, mean: Tensor) -> Tensor:
    """Activations of any layer, of which each row is mapped around the mean."""
    last = acts.movedim(1, -1) if acts.ndim == 4 else acts
    if last.shape[-1] != len(mean):
        given = f"acts {tuple(acts.shape)}, matrix {tuple(matrix.shape)}, mean {tuple(mean.shape)}"
        raise ValueError(f"mean: expected as many units as in acts and matrix, got {given}")
    matrix, offset = matrix.to(acts), (mean.double() - mean.double() @ matrix.double()).to(acts)
    moved = last @ matrix + offset
    return moved.movedim(-1, 1) if acts.ndim == 4 else moved


def _as_covariance(covariance: Tensor, units: int) -> Tensor:
    """Symmetric and nowhere negative, but for rounding in float32: a Cholesky factor exists."""
    covariance = as_floats(covariance, "covariance", f"({units}, {units}) as in directions").double()
    if covariance.shape != (units, units):
        raise ValueError(f"covariance: expected ({units}, {units}) as in directions, got {tuple(covariance.shape)}")
    scale = covariance.abs().amax()
    unit = covariance / scale if scale > 0 else covariance
    if not _is_covariance(unit):
        raise ValueError("covariance: expected a symmetric matrix without negative variances, got another")
    return covariance


def orthonormal(directions: Tensor) -> Tensor:
    """An orthonormal basis (units, rank) of the span of the directions, whatever the length of each."""
    directions, _ = _near_one(directions)
    left, singular, _ = torch.linalg.svd(directions, full_matrices=False)
    return left[:, _that_count(singular)]


def _explained(directions: Tensor, covariance: Tensor) -> Tensor:
    """The projection in the space of samples, computed in units of like variance, whose scales it does not depend on.

    The weights of units without variance, which nothing seen here decides, are as small as the span allows.
    """
    unit, spread = _standardised(covariance)
    alive = (unit.diagonal() > 0)[:, None]
    weights, _ = _near_one(directions)
    seen, size = _near_one(weights * spread[:, None] * alive)
    seen, turn = _apart(seen)
    seen, shrunk = _near_one(seen)
    weights = (weights / size) @ turn / shrunk
    left, singular, right = torch.linalg.svd(seen, full_matrices=False)
    left, right, singular = (part[_that_count(singular)] for part in (left.T, right, singular))
    basis = left.T / spread[:, None]
    if not alive.all():
        basis = basis.where(alive, _unseen(weights * ~alive, right, singular))
    of_all = left @ unit
    noise = 8 * len(unit) * torch.finfo(torch.float64).eps  # of variances near 1
    inverse = torch.linalg.pinv(of_all @ left.T, atol=noise, rtol=_RANK_TOLERANCE, hermitian=True)
    return basis @ inverse @ of_all * spread


def _apart(seen: Tensor) -> tuple[Tensor, Tensor]:
    """Columns turned so that each but the first leaves out the largest rows, beside which small ones would be lost.

    And the turn (k, k). What rounding leaves of a row, where it has no part, is taken off.
    """
    length = torch.linalg.vector_norm(seen, dim=1)
    order = length.argsort(descending=True)
    turn, turned = torch.linalg.qr(seen[order].T, mode="complete")
    turned = turned.T[order.argsort()]
    return turned.where(turned.abs() > _RANK_TOLERANCE * length[:, None], 0.0), turn


def _unseen(weights: Tensor, right: Tensor, singular: Tensor) -> Tensor:
    """The weights (units, rank) of units without variance in what is kept, less what directions of them alone give."""
    found = weights @ (right.T / singular)
    alone = weights - weights @ right.T @ right
    within = torch.linalg.pinv(alone, atol=_RANK_TOLERANCE * float(weights.abs().amax()))
    return found - alone @ (within @ found)


def _standardised(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The covariance of units brought to variances near 1 by powers of two, and these (units,); units without are 0.

    Where what came is not symmetric or has negative variances on that scale, it is of rounded numbers, and variances
    below what float32 resolves beside the largest are not magnified.
    """
    variances = covariance.diagonal().clamp(min=0)
    alive = (variances > 0).double()
    for least in (0.0, float(_ROUNDING * variances.amax())):
        spread = power_of_two(variances.clamp(min=least).sqrt())
        unit = covariance / spread[:, None] / spread * alive[:, None] * alive
        if _is_covariance(unit):
            break
    return (unit + unit.T) / 2, spread


def _near_one(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Columns brought near 1 by powers of two, and these; twice, since the power for the smallest numbers is none."""
    size = torch.ones_like(columns[0])
    for _ in range(2):
        power = power_of_two(columns.abs().amax(0))
        columns, size = columns / power, size * power
    return columns, size


def _that_count(singular: Tensor) -> Tensor:
    """Which singular values are not zero but for rounding."""
    return singular > _RANK_TOLERANCE * singular.amax() if singular.numel() else singular > 0


def _is_covariance(unit: Tensor) -> bool:
    """Whether a matrix of numbers near 1 is symmetric and nowhere negative, but for rounding in float32."""
    slack = _ROUNDING * torch.eye(len(unit), dtype=unit.dtype, device=unit.device)
    symmetric = (unit - unit.T).abs().amax() <= _ROUNDING
    return bool(symmetric and torch.linalg.cholesky_ex(unit + slack).info == 0)
