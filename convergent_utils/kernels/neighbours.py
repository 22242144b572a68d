"""Do two nets find the same samples near each other? Local likeness, which the scale of far distances cannot lift."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .checks import as_activations, as_count, require_finite, require_same_samples
from .precision import power_of_two

_ROUNDING = 2.0**-40  # of a distance: others that differ by less are as far
_CHUNK_ENTRIES = 1 << 24  # of the table of distances that are had at once: 128 MB


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
    the sample itself left out; of equals the earlier sample is nearer.
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
    nets = [_points(acts_a), _points(acts_b)]
    common = acts_a.new_zeros((), dtype=torch.float64)
    if any(len(points) == 1 for points, _ in nets) and not isinstance(acts_a, FakeTensor):
        return common
    for index in torch.arange(n, device=acts_a.device).split(max(1, _CHUNK_ENTRIES // n)):
        near_a, near_b = (_nearest(points, which, index, k) for points, which in nets)
        common += (near_a & near_b).sum()
    return common / (n * k)


def _points(acts: Tensor) -> tuple[Tensor, Tensor]:
    """Where rows of length 1 lie, each place once, less their mean; and which of these places each row is at."""
    rows = acts.double()
    rows = rows / power_of_two(rows.abs().amax(1, keepdim=True))
    length = rows.norm(dim=1, keepdim=True)
    rows = rows / length.where(length > 0, 1.0)
    if isinstance(rows, FakeTensor):
        return rows, torch.arange(len(rows), device=rows.device)
    points, which = rows.unique(dim=0, return_inverse=True)
    return points - points.mean(0), which


def _nearest(points: Tensor, which: Tensor, index: Tensor, k: int) -> Tensor:
    """Of each sample of this index the k nearest others, as (index, samples) bool."""
    own, every = points[which[index]], torch.arange(len(index), device=index.device)
    distance = own.square().sum(1, keepdim=True) + points.square().sum(1) - 2 * own @ points.T
    distance[every, which[index]] = 0  # at the same place
    distance = distance.clamp(min=0)[:, which]
    distance[every, index] = torch.inf
    furthest = distance.topk(k, dim=1, largest=False).values[:, -1:]
    nearer, as_far = distance < furthest * (1 - _ROUNDING), (distance - furthest).abs() <= furthest * _ROUNDING
    return nearer | (as_far & (as_far.cumsum(1) <= k - nearer.sum(1, keepdim=True)))
