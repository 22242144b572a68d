"""Do two nets find the same samples near each other? Local likeness, which the scale of far distances cannot lift."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import as_activations, as_count, require_finite, require_same_samples
from .precision import power_of_two

_FINENESS = 2.0**40  # distances that differ by less than its inverse are equal but for rounding
_CHUNK_ENTRIES = 1 << 24  # of the table of distances that are had at once: 128 MB


def mutual_knn(acts_a: Tensor, acts_b: Tensor, *, k: int = 10) -> Tensor:
    r"""The share of a sample's k nearest neighbours that are the same in both nets, mean over samples.

    .. math:: \frac1n \sum_i \frac{|N_a(i) \cap N_b(i)|}{k}

    Args:
        acts_a: (samples, units_a) float tensor or NumPy array, any device.
        acts_b: (samples, units_b), the same samples in the same order.
        k: how many neighbours, at most samples - 1.

    Returns:
        0-d float64 in [0, 1], on the device of `acts_a`. Independent nets reach k / (samples - 1) on average.

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
    rows_a, rows_b = _at_length_one(acts_a), _at_length_one(acts_b)
    common = rows_a.new_zeros(())
    for index in torch.arange(n, device=acts_a.device).split(max(1, _CHUNK_ENTRIES // n)):
        common += (_nearest(rows_a, index, k) & _nearest(rows_b, index, k)).sum()
    return common / (n * k)


def _at_length_one(acts: Tensor) -> Tensor:
    """Rows in float64, each divided by its length."""
    rows = acts.double()
    rows = rows / power_of_two(rows.abs().amax(1, keepdim=True))
    length = rows.norm(dim=1, keepdim=True)
    return rows / length.where(length > 0, 1.0)


def _nearest(rows: Tensor, index: Tensor, k: int) -> Tensor:
    """Of each sample of this index the k nearest others, as (index, samples) bool."""
    # of rows of length 1 (or 0) the squared distance, less the sample's own length
    distance = ((rows.square().sum(1) - 2 * rows[index] @ rows.T) * _FINENESS).round()
    distance[torch.arange(len(index), device=index.device), index] = torch.inf
    furthest = distance.topk(k, dim=1, largest=False).values[:, -1:]
    nearer, as_far = distance < furthest, distance == furthest
    return nearer | (as_far & (as_far.cumsum(1) <= k - nearer.sum(1, keepdim=True)))
