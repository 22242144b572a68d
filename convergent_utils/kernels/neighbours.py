"""Do two nets find the same samples near each other? Local likeness, which the scale of far distances cannot lift."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .checks import as_activations, as_count, require_finite, require_same_samples
from .precision import full_precision, power_of_two

_ROUNDING = 2.0**-40  # of a squared distance: others that differ by less are as far
_NONE = 2.0**-98  # a squared distance of rows of length 1 that is rounding alone
_CHUNK_ENTRIES = 1 << 21  # of the table of distances that are had at once: 8 MB
_MORE = 16  # candidates that are looked at beside twice as many as are asked for


def mutual_knn(acts_a: Tensor, acts_b: Tensor, *, k: int = 10) -> Tensor:
    r"""The share of a sample's k nearest neighbours that are the same in both nets, mean over samples.

    .. math:: \frac1n \sum_i \frac{|N_a(i) \cap N_b(i)|}{k}

    Args:
        acts_a: (samples, units_a) float tensor or NumPy array, any device.
        acts_b: (samples, units_b), the same samples in the same order.
        k: how many neighbours, at most samples - 1.

    Returns:
        0-d float64 in [0, 1], on the device of `acts_a`; 0 where all rows of a net are alike. Independent nets reach
        k / (samples - 1) on average, and more where many rows are alike, since ties go to the same samples in both.

    Raises:
        ValueError: shapes that do not pair, NaN or infinity, k that is not between 1 and samples - 1.

    Rows are brought to length 1 and not centred (rows of zeros stay); neighbours are the nearest by Euclidean distance,
    the sample itself left out; of equals the earlier sample is nearer. Time grows with the square of the samples, extra
    memory is that of one net's rows in float32 and a few megabytes; where very many samples are as near as each other,
    three times the rows in float64.
    Source: Huh et al. 2024.

    Example:
        >>> acts = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
        >>> mutual_knn(acts, 3 * acts)
        tensor(1., dtype=torch.float64)
    """
    acts_a, acts_b = as_activations(acts_a, "acts_a"), as_activations(acts_b, "acts_b")
    require_same_samples(acts_a, acts_b)
    require_finite(acts_a, "acts_a")
    require_finite(acts_b, "acts_b")
    n = len(acts_a)
    k = as_count(k, "k", at_most=n - 1, what=f" below the {n} samples")
    if isinstance(acts_a, FakeTensor):
        return acts_a.new_zeros((), dtype=torch.float64)
    with full_precision():
        if any(_all_alike(acts) for acts in (acts_a, acts_b)):
            return acts_a.new_zeros((), dtype=torch.float64)
        near = torch.cat([_nearest(acts, k) for acts in (acts_a, acts_b)], 1).sort(1).values
    return (near[:, 1:] == near[:, :-1]).sum().double() / (n * k)


def _nearest(acts: Tensor, k: int) -> Tensor:
    """Of each sample the k nearest others (samples, k), in any order.

    Distances in float32 leave a doubt of known size: what they tell for certain stays, and the rest is decided by
    distances in float64, so that the answer is that of float64 throughout.
    """
    rows, half, doubt = _rough(acts)
    n = len(rows)
    found, open_rows = rows.new_empty((n, k), dtype=torch.int64), []
    table = rows.new_empty((min(n, max(1, _CHUNK_ENTRIES // n)), n))
    for index in torch.arange(n, device=rows.device).split(len(table)):
        every = torch.arange(len(index), device=rows.device)
        rough = torch.addmm(half, rows[index], rows.T, alpha=-1, out=table[: len(index)])
        rough[every, index] = torch.inf
        value, candidate = rough.topk(min(n - 1, 2 * k + _MORE), dim=1, largest=False)
        value, margin = value.double(), doubt[index, None]
        sure, within = value < value[:, k - 1 : k] - margin, value <= value[:, k - 1 : k] + margin
        found[index] = candidate[:, :k]
        more = within[:, -1] & (candidate.shape[1] < n - 1)  # and others that were not looked at may be as near
        unsure = ((within.sum(1) > k) & ~more).nonzero()[:, 0]
        found[index[unsure]] = _decided(acts, index[unsure], candidate[unsure], sure[unsure], within[unsure], k)
        open_rows.append(index[more])
    open_rows = torch.cat(open_rows)
    if len(open_rows):
        del table, rows
        found[open_rows] = _nearest_of_all(acts, open_rows, k)
    return found


def _rough(acts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of length 1 less their mean, near size 1, and half their squared lengths, float32; and what is in doubt.

    A dot product of d numbers is off by at most d rounding units of the product of the lengths, in whatever order they
    are added; doubt (samples,) is twice that, for two distances, and what rows and squares lose by rounding.
    """
    parts = acts.split(max(1, _CHUNK_ENTRIES // acts.shape[1]))
    mean = sum(_unit(part).sum(0) for part in parts) / len(acts)
    power = power_of_two(torch.stack([(_unit(part) - mean).abs().amax() for part in parts]).amax())
    rows = acts.new_empty(acts.shape, dtype=torch.float32)
    for part, into in zip(parts, rows.split(len(parts[0])), strict=True):
        into.copy_((_unit(part) - mean) / power)
    square = torch.cat([part.double().square().sum(1) for part in rows.split(len(parts[0]))])
    longest = square.amax().sqrt()
    doubt = (acts.shape[1] + 16) * torch.finfo(torch.float32).eps * (square.sqrt() * longest + longest**2)
    return rows, (square / 2).float(), doubt


def _decided(acts: Tensor, index: Tensor, candidate: Tensor, sure: Tensor, within: Tensor, k: int) -> Tensor:
    """Of these samples the k nearest (index, k) among candidates, those in doubt by their distances in float64."""
    distance = torch.full_like(candidate, torch.inf, dtype=torch.float64).masked_fill_(sure, -torch.inf)
    row, column = (within & ~sure).nonzero().T
    at_once = max(1, _CHUNK_ENTRIES // (4 * acts.shape[1]))
    for r, c in zip(row.split(at_once), column.split(at_once), strict=True):
        distance[r, c] = (_unit(acts[index[r]]) - _unit(acts[candidate[r, c]])).square().sum(1)
    candidate, order = candidate.sort(1)
    return candidate[_smallest(distance.gather(1, order), k)].reshape(-1, k)


def _nearest_of_all(acts: Tensor, index: Tensor, k: int) -> Tensor:
    """Of these samples the k nearest (index, k), by distances to all others in float64."""
    points, step = acts.new_empty(acts.shape, dtype=torch.float64), max(1, _CHUNK_ENTRIES // acts.shape[1])
    for part, into in zip(acts.split(step), points.split(step), strict=True):
        into.copy_(_unit(part))
    points, which = points.unique(dim=0, return_inverse=True)  # of the same place, the same distance
    points -= points.mean(0)
    square, found = points.square().sum(1), []
    for part in index.split(max(1, _CHUNK_ENTRIES // (2 * len(which)))):
        own, every = points[which[part]], torch.arange(len(part), device=acts.device)
        distance = torch.addmm(square[which[part], None] + square, own, points.T, alpha=-2)
        distance[every, which[part]] = 0
        distance = distance.clamp_(min=0)[:, which]
        distance[every, part] = torch.inf
        found.append(_smallest(distance, k).nonzero()[:, 1].reshape(-1, k))
    return torch.cat(found)


def _smallest(distance: Tensor, k: int) -> Tensor:
    """The k smallest in each row, as a mask with k True in each row; of those as large the first."""
    furthest = distance.topk(k, dim=1, largest=False).values[:, -1:]
    doubt = furthest * _ROUNDING + _NONE
    nearer, as_far = distance < furthest - doubt, (distance - furthest).abs() <= doubt
    return nearer | (as_far & (as_far.cumsum(1) <= k - nearer.sum(1, keepdim=True)))


def _unit(acts: Tensor) -> Tensor:
    """Rows brought to length 1, but for those of zeros, in float64."""
    rows = acts.double()
    most = rows.abs().amax(1, keepdim=True)
    rows = rows / most.where(most > 0, 1.0)  # so that multiples of a row become the same, bit by bit
    length = rows.norm(dim=1, keepdim=True)
    return rows / length.where(length > 0, 1.0)


def _all_alike(acts: Tensor) -> bool:
    """Whether all rows of length 1 are the same."""
    first = _unit(acts[:1])
    return all(
        bool(((_unit(part) - first).square().sum(1) <= _NONE).all())
        for part in acts.split(max(1, _CHUNK_ENTRIES // acts.shape[1]))
    )
