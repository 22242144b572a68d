"""Correlation of units, within one net or between two."""

from dataclasses import dataclass

from torch import Tensor

from .moments import PairMoments, as_pair


@dataclass(frozen=True)
class Correlation:
    """Pearson correlations and the masks of the units that have one.

    Attributes:
        matrix: (units_a, units_b) float64 in [-1, 1]; rows and columns of dead units are 0.
        live_a, live_b: (units_a,), (units_b,) bool, False for a unit that never changes.

    Example:
        >>> a = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
        >>> correlation(pair_moments(a, a)).live_a
        tensor([ True, False])
    """

    matrix: Tensor
    live_a: Tensor
    live_b: Tensor


def correlation(pair: PairMoments) -> Correlation:
    r"""Correlation of every unit of a with every unit of b.

    .. math:: c_{ij} = \frac{E[(x_i - \mu_i)(y_j - \nu_j)]}{\sigma_i \tau_j}

    Args:
        pair: moments of both. With moments of a block and itself the result is the within-net correlation.

    Returns:
        Correlation, signed, on the device of the moments. A dead unit has correlation 0 and is masked, never NaN.

    Source: Li et al. 2016, section 2 (within-net and between-net correlation).

    Example:
        >>> a = torch.tensor([[1.0], [2.0], [3.0]])
        >>> correlation(pair_moments(a, torch.cat([a, -a], dim=1))).matrix.round(decimals=4)
        tensor([[ 1., -1.]], dtype=torch.float64)
    """
    pair = as_pair(pair)
    deviation_a = pair.cov_aa.diagonal().clamp(min=0).sqrt()
    deviation_b = pair.cov_bb.diagonal().clamp(min=0).sqrt()
    live_a, live_b = deviation_a > 0, deviation_b > 0
    scaled = pair.cov_ab / deviation_a.where(live_a, 1.0)[:, None] / deviation_b.where(live_b, 1.0)
    matrix = scaled.clamp(-1, 1) * (live_a[:, None] & live_b)
    return Correlation(matrix, live_a, live_b)
