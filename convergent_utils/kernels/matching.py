"""One-to-one alignment: which unit of net b is the twin of each unit of net a?"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .checks import as_live, as_score, form_of, has_rows, require_fields
from .precision import power_of_two


@dataclass(frozen=True)
class Match:
    """A partner in b for each unit of a.

    Attributes:
        index: (units_a,) int64, the partner's place in b; -1 for a dead or unmatched unit.
        score: (units_a,) the score of each pair, the dtype of the score matrix; 0 where index is -1.

    Example:
        >>> found = bipartite_matching(torch.tensor([[0.9], [0.5]]))
        >>> found.index, found.mean
        (tensor([ 0, -1]), tensor(0.9000))
    """

    index: Tensor
    score: Tensor

    def __post_init__(self):
        require_fields(self, whole=("index",), index="a")
        fits = isinstance(self.score, Tensor) and has_rows(self.score) and self.score.is_floating_point()
        if not fits or self.score.shape != self.index.shape:
            raise ValueError(f"score: expected floats, one for each index, got {form_of(self.score)}")

    @property
    def mean(self) -> Tensor:
        """Mean score of the matched units, a 0-d tensor; 0 where no unit is matched."""
        if not isinstance(self.score, FakeTensor) and not self.score.isfinite().all():
            raise ValueError("score: expected finite scores, got NaN or infinity")
        count, dtype = (self.index >= 0).sum().clamp(min=1), self.score.dtype
        score = self.score.float() if dtype.itemsize < 4 else self.score  # a sum of halves soon leaves their range
        power = power_of_two(score.abs().amax(), score.dtype) if len(score) else score.new_ones(())
        mean, most = (score / power).sum() / count * power, torch.finfo(dtype).max
        return mean.clamp(-most, most).to(dtype)


def semi_matching(score: Tensor, *, live_a: Tensor | None = None, live_b: Tensor | None = None) -> Match:
    r"""Best partner in net b for each unit of net a, partners may repeat.

    .. math:: m(i) = \arg\max_j s_{ij}

    Args:
        score: (units_a, units_b), floating, finite, any device; larger is more alike.
        live_a, live_b: (units_a,), (units_b,) bool; a dead unit gets no partner and is nobody's partner.

    Returns:
        Match with `index` (units_a,) int64 and `score` (units_a,), the dtype of `score`.

    Raises:
        ValueError: `score` is not a finite matrix, or a mask does not fit it.

    Two units of a may share a partner; `bipartite_matching` forbids it.
    Source: Li et al. 2016, one-to-one alignment.

    Example:
        >>> semi_matching(torch.tensor([[0.9, 0.8], [0.7, 0.2]])).index
        tensor([0, 0])
    """
    score = as_score(score)
    live_a, live_b = as_live(live_a, len(score), "live_a", score), as_live(live_b, score.shape[1], "live_b", score)
    best, index = score.masked_fill(~live_b, -torch.inf).max(dim=1)
    matched = live_a & live_b.any()
    return Match(index.where(matched, -1), best.where(matched, 0))


def bipartite_matching(score: Tensor, *, live_a: Tensor | None = None, live_b: Tensor | None = None) -> Match:
    r"""The one-to-one assignment of units of a to units of b with the largest total score.

    .. math:: \max_m \sum_i s_{i\,m(i)} \quad\text{with } m \text{ injective}

    Args:
        score: (units_a, units_b), any widths, floating, finite, any device; larger is more alike.
        live_a, live_b: (units_a,), (units_b,) bool; a dead unit gets no partner and is nobody's partner.

    Returns:
        Match; where one net has fewer live units, the units of a left over have index -1 and score 0. The assignment
        itself is solved on the CPU (scipy, shortest augmenting paths); the result is on the device of `score`.

    Raises:
        ValueError: `score` is not a finite matrix, or a mask does not fit it.

    Source: Li et al. 2016, one-to-one alignment; Crouse 2016 for the solver.

    Example:
        >>> bipartite_matching(torch.tensor([[0.9, 0.8], [0.7, 0.2]])).index
        tensor([1, 0])
    """
    from scipy.optimize import linear_sum_assignment

    score = as_score(score)
    live_a, live_b = as_live(live_a, len(score), "live_a", score), as_live(live_b, score.shape[1], "live_b", score)
    rows, columns = np.flatnonzero(live_a.cpu()), np.flatnonzero(live_b.cpu())
    chosen_a, chosen_b = linear_sum_assignment(
        score.detach().cpu().double().numpy()[np.ix_(rows, columns)], maximize=True
    )
    index = torch.full((len(score),), -1, dtype=torch.int64)
    index[torch.from_numpy(rows[chosen_a])] = torch.from_numpy(columns[chosen_b])
    index = index.to(score.device)
    partner = score.gather(1, index.clamp(min=0)[:, None])[:, 0]
    return Match(index, partner.where(index >= 0, 0))
