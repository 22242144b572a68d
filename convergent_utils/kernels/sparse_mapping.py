r"""Predicting each unit of one net from few units of another, from second moments alone.

All mappings act on standardised units (mean 0, variance 1). With the correlations :math:`C` within net a and
:math:`c` between a and a unit of b, the loss of weights :math:`w` needs no activations:

.. math:: \tfrac12 E[(y - w^\top x)^2] = \tfrac12 - w^\top c + \tfrac12 w^\top C w, \quad R^2 = 2 w^\top c - w^\top C w.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .checks import (
    as_activations,
    as_count,
    as_number,
    as_numbers,
    require_fields,
    require_finite,
    require_known,
    require_share,
)
from .moments import PairMoments, as_pair, standardised
from .precision import full_precision

_SOLVERS = ("auto", "coordinate descent", "fista")
_MOST_ROUNDS = 20_000  # of coordinate descent, each one sweep over all units and ten over the active ones
_MOST_STEPS = 200_000  # of FISTA
_STEPS_BETWEEN_CHECKS = 50  # of the gap, which on another device than the CPU waits for the device


@dataclass(frozen=True)
class MappingPath:
    """Linear mappings from net a to every unit of net b, one for each penalty, on the device of the moments.

    Attributes:
        penalties: (penalties,) float64.
        coefficients: (penalties, units_a, units_b) float64, on standardised units; dead units have zeros.
        bias: (penalties, units_b) float64, in standard deviations of the unit of b; zero but for `sgd_mapping`.
        r2: (penalties, units_b) float64, the share of the unit's variance explained on the data of the fit; 0 for a
            dead unit.
        n_predictors: (penalties, units_b) int64, how many coefficients are not zero.
        duality_gap: (penalties, units_b) float64, over the objective: by how much it could still fall at most. None
            where the mapping does not come from `sparse_mapping`.
        mean_a, mean_b, scale_a, scale_b: (units_a,), (units_b,), (units_a,), (units_b,) float64, means and standard
            deviations that the units were standardised by.

    Example:
        >>> a = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> mapping = least_squares(pair_moments(a, 3 * a + 1))
        >>> torch.allclose(mapping.predict(a)[0], 3 * a + 1, atol=1e-3)
        True
    """

    penalties: Tensor
    coefficients: Tensor
    bias: Tensor
    r2: Tensor
    n_predictors: Tensor
    duality_gap: Tensor | None
    mean_a: Tensor
    mean_b: Tensor
    scale_a: Tensor
    scale_b: Tensor

    def __post_init__(self):
        units = {"mean_a": "a", "mean_b": "b", "scale_a": "a", "scale_b": "b"}
        entries = {"penalties": "p", "coefficients": "pab", "bias": "pb", "r2": "pb", "n_predictors": "pb"}
        require_fields(self, whole=("n_predictors",), **entries, **units)

    def r2_on(self, pair: PairMoments) -> Tensor:
        r"""R^2 on other data, from their moments: :math:`1 - E[(y - \hat y)^2] / \mathrm{Var}[y]` there.

        Args:
            pair: moments of the same units over other samples, such as the other fold.

        Returns:
            (penalties, units_b) float64; 0 for a unit that is dead in either data. It may be far below 0 where a map
            relies on units that fire rarely.

        Raises:
            ValueError: other numbers of units, moments of which float64 cannot hold the R^2.

        Example:
            >>> a, b = torch.randn(2, 100, 40, generator=torch.Generator().manual_seed(0))
            >>> found = least_squares(pair_moments(a[:50], b[:50]))
            >>> found.r2.mean() > 0.5, found.r2_on(pair_moments(a[50:], b[50:])).mean() < 0
            (tensor(True), tensor(True))
        """
        pair = as_pair(pair, on=self.coefficients.device)
        if pair.cov_ab.shape != self.coefficients.shape[1:]:
            raise ValueError(
                f"pair: expected units {tuple(self.coefficients.shape[1:])}, got {tuple(pair.cov_ab.shape)}"
            )
        weights, offset = self.weights_and_offsets()
        with full_precision():
            missed = pair.mean_b - pair.mean_a @ weights - offset
            error = (
                pair.cov_bb.diagonal() - 2 * (weights * pair.cov_ab).sum(1) + (weights * (pair.cov_aa @ weights)).sum(1)
            )
        variance = pair.cov_bb.diagonal()
        live = (variance > 0) & (self.scale_b > 0)
        found = torch.where(live, 1 - (error + missed.square()) / variance.where(variance > 0, 1.0), 0.0)
        if not isinstance(found, FakeTensor) and not found.isfinite().all():
            raise ValueError("pair: expected moments near those of the fit, got some whose R^2 float64 cannot hold")
        return found

    def predict(self, acts_a: Tensor) -> Tensor:
        """Predicted activations of net b.

        Args:
            acts_a: (samples, units_a) float tensor or NumPy array.

        Returns:
            (penalties, samples, units_b), in the precision of `acts_a`, computed in float64.

        Raises:
            ValueError: another number of units, activations on another device, NaN or infinity; integer or complex
                types; activations whose predictions their precision cannot hold.
        """
        acts_a = as_activations(acts_a, "acts_a")
        if acts_a.shape[1] != self.coefficients.shape[1]:
            raise ValueError(f"acts_a: expected {self.coefficients.shape[1]} units, got {acts_a.shape[1]}")
        if acts_a.device != self.coefficients.device:
            raise ValueError(f"acts_a: expected activations on {self.coefficients.device}, got them on {acts_a.device}")
        require_finite(acts_a, "acts_a")
        weights, offset = self.weights_and_offsets()
        with full_precision():
            found = (acts_a.double() @ weights + offset[:, None]).to(acts_a.dtype)
        if not isinstance(found, FakeTensor) and not found.isfinite().all():
            raise ValueError(f"acts_a: expected activations whose predictions {acts_a.dtype} can hold, got larger ones")
        return found

    def weights_and_offsets(self) -> tuple[Tensor, Tensor]:
        """In units of activation: weights (penalties, units_a, units_b) and offsets (penalties, units_b), float64.

        Activations (samples, units_a) become `acts_a @ weights[k] + offsets[k]`.
        """
        weights = self.coefficients * self.scale_b / self.scale_a.where(self.scale_a > 0, 1.0)[:, None]
        return weights, self.mean_b + self.bias * self.scale_b - self.mean_a @ weights


def sparse_mapping(
    pair: PairMoments, penalties: Sequence[float] | Tensor, *, tolerance: float = 1e-10, solver: str = "auto"
) -> MappingPath:
    r"""The LASSO for every unit of net b at once, along a path of penalties.

    .. math:: \min_w \tfrac12 E[(y - w^\top x)^2] + \lambda \|w\|_1

    Args:
        pair: moments of a and b.
        penalties: :math:`\lambda \geq 0`, in any order; 1 or more lets nothing through. At 0 the minimum-norm least
            squares of `least_squares` is returned.
        tolerance: largest duality gap over the objective.
        solver: "coordinate descent" with warm starts and active sets (numba, on the CPU), "fista" (all units at once,
            on any device), or "auto": the first for moments on the CPU, the second elsewhere.

    Returns:
        MappingPath with exact zeros, penalties as given.

    Raises:
        ValueError: negative penalties, NaN or none; unknown solver; tolerance not above 0.

    Warns where the tolerance was not reached; `duality_gap` tells by how much. Where units of a are copies of each
    other the coefficients are not unique; objective and R^2 are.
    Source: Tibshirani 1996; Li et al. 2016, few-to-one mappings. Friedman et al. 2010 (coordinate descent), Beck and
    Teboulle 2009 (FISTA), O'Donoghue and Candes 2015 (its restart).

    Example:
        >>> a = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
        >>> pair = pair_moments(a, a[:, :1] + 0.3 * a[:, 1:2])
        >>> sparse_mapping(pair, [0.1, 0.5]).n_predictors
        tensor([[2],
                [1]])
    """
    pair = as_pair(pair)
    penalties = as_numbers(
        penalties, "penalties", "a row of finite numbers of at least 0", lambda penalty: penalty >= 0
    )
    penalties = pair.cov_ab.new_tensor(penalties)
    require_known(solver, _SOLVERS, "solver")
    tolerance = as_number(tolerance, "tolerance", "a positive number", lambda number: number > 0)
    if solver == "auto":
        solver = "coordinate descent" if pair.cov_ab.device.type == "cpu" else "fista"
    gram, cross, _, _ = standardised(pair)
    coefficients = cross.new_zeros(len(penalties), *cross.shape)
    gap = cross.new_zeros(len(penalties), cross.shape[1])
    descending = sorted(range(len(penalties)), key=lambda k: -float(penalties[k]))
    positive = [k for k in descending if penalties[k] > 0]
    solve = _descend if solver == "coordinate descent" else _fista
    for k, (weights, reached) in zip(positive, solve(gram, cross, penalties[positive], tolerance), strict=True):
        coefficients[k], gap[k] = weights, reached
    for k in descending[len(positive) :]:
        coefficients[k] = least_squares(pair).coefficients[0]
    worst = float(gap.max())
    if worst > tolerance:
        warnings.warn(
            f"sparse_mapping: a relative duality gap of {worst:.1e} is left, {tolerance:.1e} was asked", stacklevel=2
        )
    return path_of(pair, penalties, coefficients, gap=gap)


def least_squares(
    pair: PairMoments, *, ridge: float | Sequence[float] = 0.0, rank_tolerance: float = 1e-7
) -> MappingPath:
    r"""The dense map: :math:`w = (C + \rho I)^{+} c`, of minimum norm where units of a depend on each other.

    Args:
        pair: moments of a and b.
        ridge: :math:`\rho \geq 0`, in units of the variance of a standardised unit; or several, for an entry each.
        rank_tolerance: directions of a with less than this share of the largest eigenvalue count as absent. Moments of
            float32 activations carry a rounding of about 1e-7.

    Returns:
        MappingPath with one entry for each ridge, whose penalties are 0.

    Raises:
        ValueError: negative ridge, rank_tolerance not between 0 and 1.

    Without a ridge, R^2 on *other* data may be far below 0, where units fire rarely.
    Source: Penrose 1956 for the minimum norm, Hoerl and Kennard 1970 for the ridge.

    Example:
        >>> a = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> pair = pair_moments(a, a[:, :1] - 2 * a[:, 1:])
        >>> least_squares(pair).weights_and_offsets()[0].round(decimals=3)
        tensor([[[ 1.],
                 [-2.]]], dtype=torch.float64)
    """
    pair = as_pair(pair)
    ridges = as_numbers(ridge, "ridge", "a number of at least 0, or several", lambda number: number >= 0, alone=True)
    require_share(rank_tolerance, "rank_tolerance")
    gram, cross, _, _ = standardised(pair)
    values, vectors = torch.linalg.eigh(gram)
    kept = values > rank_tolerance * values[-1].clamp(min=torch.finfo(values.dtype).tiny)
    inverse = [torch.where(kept, 1 / (values + r).where(kept, 1.0), 0.0) for r in ridges]
    rotated = vectors.T @ cross
    return path_of(pair, cross.new_zeros(len(ridges)), torch.stack([vectors * i @ rotated for i in inverse]))


def best_subset_mapping(pair: PairMoments, k: int | Sequence[int]) -> MappingPath:
    """Each unit of b from k units of a, chosen one after the other: each time the one that adds most to R^2.

    Greedy (forward selection), not the best of all subsets: exact for k = 1, where R^2 is the squared correlation with
    the best single unit, a lower bound otherwise. Coefficients are the least squares on the chosen units. A unit of a
    that the chosen ones already contain is never added, so fewer than k may be.

    Args:
        pair: moments of a and b.
        k: number of predictors, or several, for which units are chosen but once.

    Returns:
        MappingPath with one entry for each k, whose penalty is 0.

    Raises:
        ValueError: k below 1 or above units_a, or none at all.

    Source: forward selection by orthogonalisation (Miller 1984), here on second moments.

    Example:
        >>> a = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
        >>> pair = pair_moments(a, a[:, :1] + 0.3 * a[:, 1:2])
        >>> best_subset_mapping(pair, [1, 2]).r2 > 0.99
        tensor([[False],
                [ True]])
    """
    gram, cross, _, _ = standardised(as_pair(pair))
    units_a, units_b = cross.shape
    several = isinstance(k, Sequence) and not isinstance(k, str) and len(k) > 0
    counts = [as_count(one, "k", at_most=units_a, what=" predictors") for one in (k if several else [k])]
    left = gram.diagonal().expand(units_b, units_a).clone()  # variance of each unit of a not explained by the chosen
    shared = cross.T.clone()  # covariance of what is left of each unit of a with what is left of the target
    every, chosen, explained = torch.arange(units_b, device=cross.device), [], []
    for _ in range(max(counts)):
        free = left > 1e-7
        gain = torch.where(free, shared.square() / left.where(free, 1.0), 0.0)
        pick = gain.argmax(1)
        usable = gain[every, pick] > 0
        scale = torch.where(usable, left[every, pick].rsqrt(), 0.0)
        part = gram[pick].clone()
        for other in explained:
            part -= other * other[every, pick][:, None]
        part *= scale[:, None]  # what the pick adds, against every unit of a
        shared -= part * (shared[every, pick] * scale)[:, None]
        left = (left - part.square()).clamp(min=0)
        left[every, pick] = 0
        chosen.append(torch.where(usable, pick, -1))
        explained.append(part)
    coefficients = [_on_subsets(gram, cross, torch.stack(chosen[:count], 1)) for count in counts]
    return path_of(pair, cross.new_zeros(len(counts)), torch.stack(coefficients))


def _on_subsets(gram: Tensor, cross: Tensor, chosen: Tensor) -> Tensor:
    """Least squares of each unit of b on its own chosen units of a (units_b, k), -1 for none: (units_a, units_b)."""
    used, index = chosen >= 0, chosen.clamp(min=0)
    both = used[:, :, None] & used[:, None, :]
    part = gram[index[:, :, None], index[:, None, :]] * both + torch.diag_embed((~used).to(gram.dtype))
    weights = torch.linalg.solve(part, cross.T.gather(1, index) * used)
    return torch.zeros_like(cross.T).scatter_add_(1, index, weights * used).T


def path_of(
    pair: PairMoments, penalties: Tensor, coefficients: Tensor, *, bias: Tensor | None = None, gap: Tensor | None = None
) -> MappingPath:
    """The result for coefficients on standardised units, with its R^2 on the data of the fit."""
    gram, cross, scale_a, scale_b = standardised(pair)
    coefficients = coefficients * (scale_b > 0)
    bias = (
        coefficients.new_zeros(coefficients.shape[0], coefficients.shape[2]) if bias is None else bias * (scale_b > 0)
    )
    r2 = (coefficients * (2 * cross - gram @ coefficients)).sum(1) - bias.square()
    n_predictors = (coefficients != 0).sum(1)
    means = pair.mean_a, pair.mean_b
    return MappingPath(penalties, coefficients, bias, r2, n_predictors, gap, *means, scale_a, scale_b)


def _descend(gram: Tensor, cross: Tensor, penalties: Tensor, tolerance: float) -> list[tuple[Tensor, Tensor]]:
    """Weights and gaps for falling penalties, by coordinate descent; the weights of one are the start of the next."""
    from .loops import descend_all

    matrix, targets = gram.cpu().numpy(), np.ascontiguousarray(cross.cpu().numpy().T)
    weights, fitted = np.zeros_like(targets), np.zeros_like(targets)
    found = []
    for penalty in penalties.tolist():
        gap = descend_all(matrix, targets, penalty, weights, fitted, tolerance, _MOST_ROUNDS)
        found.append((torch.from_numpy(weights.T.copy()), torch.from_numpy(gap)))
    return [(w.to(cross.device), gap.to(cross.device)) for w, gap in found]


def _gap_of(gram: Tensor, cross: Tensor, weights: Tensor, penalty: Tensor) -> Tensor:
    r"""Primal minus dual objective over the primal, for each unit of b.

    The dual point is the residual :math:`r`, scaled by :math:`s = \min(1, \lambda / \|X^\top r\|_\infty)` so that it is
    feasible; its value is :math:`s\, y^\top r - s^2 r^\top r / 2`. The variance of y is 1, or what is explained of it
    where rounding of the moments makes that more: a unit and its copy may correlate by 1 + 3e-7 in float32.
    """
    fitted = gram @ weights
    explained = (weights * cross).sum(0)
    energy = (weights * fitted).sum(0)
    variance = (2 * explained - energy).clamp(min=1)
    residual = variance - 2 * explained + energy
    primal = residual / 2 + penalty * weights.abs().sum(0)
    scale = (penalty / (cross - fitted).abs().amax(0).clamp(min=torch.finfo(cross.dtype).tiny)).clamp(max=1)
    dual = scale * (variance - explained) - scale.square() * residual / 2
    return (primal - dual).clamp(min=0) / primal.clamp(min=1e-300)


def _fista(gram: Tensor, cross: Tensor, penalties: Tensor, tolerance: float) -> list[tuple[Tensor, Tensor]]:
    """Weights and gaps for falling penalties, all units of b at once, by accelerated proximal gradients."""
    step, weights, found = 1 / torch.linalg.eigvalsh(gram)[-1].clamp(min=1e-12), torch.zeros_like(cross), []
    with full_precision():
        for penalty in penalties:
            ahead, momentum = weights, torch.ones_like(cross[0])
            for k in range(_MOST_STEPS):
                if k % _STEPS_BETWEEN_CHECKS == 0:
                    gap = _gap_of(gram, cross, weights, penalty)
                    if bool((gap <= tolerance).all()):
                        break
                moved = ahead + step * (cross - gram @ ahead)
                new = moved.sign() * (moved.abs() - step * penalty).clamp(min=0)
                turned = ((ahead - new) * (new - weights)).sum(0) > 0  # momentum points uphill: begin anew
                momentum = torch.where(turned, 1.0, momentum)
                following = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
                ahead = new + (momentum - 1) / following * (new - weights)
                weights, momentum = new, following
            found.append((weights.clone(), _gap_of(gram, cross, weights, penalty)))
    return found
