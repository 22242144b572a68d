"""How large would the number be by chance?"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .checks import (
    as_activations,
    as_count,
    as_list,
    as_number,
    as_seed,
    came,
    form_of,
    in_one_line,
    require_callable,
    require_finite,
    require_same_samples,
    rows_of_images,
    tensor_of,
)
from .precision import power_of_two

_TIES = 100  # rounding units of a value: differences up to them are rounding, not a smaller value
_MOST_SHUFFLES = 10**7  # take hours, and torch takes quantiles of no more than
_MOST_SORTED = 16_000_000  # numbers that torch takes quantiles of


@dataclass(frozen=True)
class Interval:
    """An estimate and the two ends of its confidence interval.

    Attributes:
        estimate, low, high: finite numbers.
        without: where it was found by leaving out one network at a time, the number without each network of each group.
        scale: on which it was made then, see `network_interval`.

    Example:
        >>> found = network_interval(torch.tensor([[1.0, 0.6, 0.7], [0.6, 1.0, 0.8], [0.7, 0.8, 1.0]]))
        >>> found.low < found.estimate < found.high
        True
    """

    estimate: float
    low: float
    high: float
    without: tuple[tuple[float, ...], ...] = field(default=(), compare=False, repr=False)
    scale: str = field(default="plain", compare=False, repr=False)


@dataclass(frozen=True)
class Chance:
    """A similarity beside what it is on activations that no longer belong together.

    Attributes:
        observed: the similarity itself, a number or a vector.
        null: (n_shuffles, ...) float64, the similarity after each shuffle.
        mean, low, high: mean and 2.5 and 97.5 percentiles of the null.
        p_value: (1 + shuffles that reach the observed value, but for rounding) / (1 + n_shuffles). Rounding is that of
            the type that the similarity returned: 1.2e-5 of the value for float32, 2.2e-14 for float64.

    Example:
        >>> a, b = torch.randn(2, 200, 3, generator=torch.Generator().manual_seed(0))
        >>> chance = chance_level(debiased_cka, a, a + b, n_shuffles=19)
        >>> chance.observed > chance.high
        tensor(True)
    """

    observed: Tensor
    null: Tensor
    mean: Tensor
    low: Tensor
    high: Tensor
    p_value: Tensor

    def calibrated(self, limit: float | Tensor = 1.0, *, alpha: float = 0.05) -> Tensor:
        r"""How far the observed value lies above what chance reaches, on a scale on which its limit is 1.

        .. math:: \max\Big(0, \frac{s - \tau}{s_{max} - \tau}\Big)

        where :math:`\tau` is the value of rank :math:`\lceil (1 - \alpha)(K + 1) \rceil` among the observed one and
        those of the K shuffles.

        Args:
            limit: the largest value that the similarity can have, a number or one for each entry.
            alpha: the share of shuffles that may lie above, between 0 and 1.

        Returns:
            float64, a number or a vector as `observed`, each entry by itself; 0 where limit is not above tau.

        Raises:
            ValueError: alpha is not between 0 and 1, limit is no such number, or so near to chance that no score fits.

        Similarities grow by themselves with width; calibrated ones do not. Where many pairs of layers are compared and
        the largest is read, let the similarity return that largest one.
        Source: Gröger et al. 2026.

        Example:
            >>> a, b = torch.randn(2, 50, 100, generator=torch.Generator().manual_seed(0))
            >>> chance = chance_level(lambda x, y: linear_cka(pair_moments(x, y)), a, b, n_shuffles=19)
            >>> chance.observed > 0.5, chance.calibrated() < 0.1
            (tensor(True), tensor(True))
        """
        alpha = as_number(alpha, "alpha", "a share between 0 and 1", lambda share: 0 < share < 1)
        read = tensor_of(limit, lists=True)
        fits = read is not None and not read.is_complex() and read.dtype != torch.bool
        if not fits or (read.ndim and read.shape != self.observed.shape) or not read.isfinite().all():
            expected = f"a finite number or one for each entry {tuple(self.observed.shape)}"
            raise ValueError(f"limit: expected {expected}, got {came(limit)}")
        limit = read.detach().to(self.observed.device, torch.float64)
        if self.null.shape[1:] != self.observed.shape or not len(self.null):
            raise ValueError(f"null: expected shuffles of {tuple(self.observed.shape)}, got {form_of(self.null)}")
        return above_chance(self.observed, self.observed, self.null, limit, alpha)[0]


def above_chance(values: Tensor, observed: Tensor, null: Tensor, limit: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Calibrated scores of values on the scale of one observed value and its shuffles, and tau; float64."""
    together = torch.cat([observed[None], null])
    power = power_of_two(torch.maximum(together.abs().amax(0), limit.abs())) * 2  # so that no difference overflows
    rank = math.ceil(round((1 - alpha) * len(together), 9))
    tau = (together / power).kthvalue(max(1, rank), dim=0).values
    room = limit / power - tau
    found = torch.where(room > 0, (values / power - tau) / room.where(room > 0, 1.0), 0.0).clamp(min=0)
    if not found.isfinite().all():
        raise ValueError("limit: expected one that chance does not come so near to, got a score above all floats")
    return found, tau * power


def chance_level(
    similarity: Callable[[Tensor, Tensor], Tensor | float],
    acts_a: Tensor,
    acts_b: Tensor,
    *,
    images: Tensor | None = None,
    places: Tensor | None = None,
    n_shuffles: int = 100,
    seed: int = 0,
) -> Chance:
    """The similarity of a with shuffled rows of b.

    Args:
        similarity: callable (acts_a, acts_b) -> number or vector, larger is more alike.
        acts_a: (samples, units_a) float tensor or NumPy array.
        acts_b: (samples, units_b), the same samples.
        images: (samples,) integer, the image of each row. Given, whole images of b are exchanged and places kept, so
            that what all images share (a dark border, a centred object) stays in the null: the layout baseline. Every
            image must have equally many rows, with its places in the same order. None: every row is its own image, the
            finite-sample baseline.
        places: (samples,) or (samples, 2), the place of each row, as `Measurement.sample_places`. Given, rows are
            exchanged with others at the same place: the layout baseline where images have unequally many rows.
        n_shuffles: number of shuffles, 10 million at most.
        seed: of the generator of the shuffles.

    Returns:
        Chance.

    Raises:
        ValueError: shapes that do not pair, images with unequal rows, images and places both, n_shuffles < 1, a
            similarity that is not finite.

    Source: Fisher 1935, the test by permutation; Phipson and Smyth 2010, why p counts the observed value, too.

    Example:
        >>> a = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
        >>> chance = chance_level(mutual_knn, a, 2 * a, n_shuffles=19)
        >>> chance.p_value
        tensor(0.0500, dtype=torch.float64)
    """
    require_callable(similarity, "similarity")
    acts_a, acts_b = as_activations(acts_a, "acts_a"), as_activations(acts_b, "acts_b")
    require_same_samples(acts_a, acts_b)
    require_finite(acts_a, "acts_a")
    require_finite(acts_b, "acts_b")
    orders = shuffles(len(acts_b), images, places, n_shuffles=n_shuffles, seed=seed)
    observed = finite_of(similarity(acts_a, acts_b), "similarity")
    null = []
    for order in orders:
        null.append(finite_of(similarity(acts_a, acts_b[order.to(acts_b.device)]), "similarity", observed))
    return _beside(observed, null)


def label_chance(
    statistic: Callable[[Sequence[Tensor]], Tensor | float],
    groups: Sequence[Tensor],
    *,
    n_shuffles: int = 199,
    seed: int = 0,
) -> Chance:
    """A difference between groups, beside what it is when their members are dealt out anew.

    Are the units of several networks drawn from one distribution? If so, it does not matter which network a unit is
    from, and the statistic of the true groups is one more draw from the null.

    Args:
        statistic: callable (list of groups) -> number or vector, larger is more different.
        groups: at least two, each (members, ...), the same trailing shape and dtype; members may differ in number.
        n_shuffles: number of shuffles, 10 million at most; each keeps the sizes of the groups.
        seed: of the generator of the shuffles.

    Returns:
        Chance. `p_value` is the share of shuffles at least as different; a statistic *below* `low` says that the groups
        are more alike than draws from one pool, as when something regulates each of them.

    Raises:
        ValueError: fewer than two groups, an empty one, members of unlike shapes or devices, n_shuffles < 1, a
            statistic that is not finite.

    Source: Fisher 1935; Phipson and Smyth 2010.

    Example:
        >>> groups = [torch.arange(10.0), torch.arange(10.0) + 8]
        >>> label_chance(lambda two: two[1].mean() - two[0].mean(), groups).p_value < 0.05
        tensor(True)
    """
    require_callable(statistic, "statistic")
    groups, n_shuffles = _checked_groups(groups), as_count(n_shuffles, "n_shuffles", at_most=_MOST_SHUFFLES)
    generator, pooled = torch.Generator().manual_seed(as_seed(seed)), torch.cat(groups)
    sizes = [len(group) for group in groups]
    observed, null = finite_of(statistic(list(pooled.split(sizes))), "statistic"), []
    for _ in range(n_shuffles):
        dealt = pooled[torch.randperm(len(pooled), generator=generator).to(pooled.device)].split(sizes)
        null.append(finite_of(statistic(dealt), "statistic", observed))
    return _beside(observed, null)


def shuffles(
    n_samples: int, images: Tensor | None, places: Tensor | None, *, n_shuffles: int, seed: int
) -> Iterator[Tensor]:
    """Orders (samples,) of the rows, as many as there are shuffles, once all arguments are checked."""
    n_shuffles = as_count(n_shuffles, "n_shuffles", at_most=_MOST_SHUFFLES)
    if images is not None and places is not None:
        raise ValueError("places: expected images or places, not both; images are exchanged with all their places")
    rows, groups = rows_of_images(images, n_samples), _groups_of(places, n_samples)
    generator = torch.Generator().manual_seed(as_seed(seed))
    return (_dealt(rows, groups, generator) for _ in range(n_shuffles))


def _groups_of(places: Tensor | None, n_samples: int) -> Tensor | None:
    """(samples,) int64, equal for rows at the same place."""
    if places is None:
        return None
    read = tensor_of(places, lists=True)
    fits = read is not None and not read.is_complex() and read.ndim in (1, 2) and len(read) == n_samples
    if not fits or read.numel() == 0 or not read.double().isfinite().all():
        raise ValueError(f"places: expected the place of each of {n_samples} rows, got {form_of(places)}")
    return read.detach().cpu().unique(dim=0, return_inverse=True)[1]


def _dealt(rows: Tensor, groups: Tensor | None, generator: torch.Generator) -> Tensor:
    """An order (samples,) in which images are exchanged with all their rows, or rows with others of their group."""
    dealt = torch.randperm(len(rows), generator=generator)
    held, given = rows.flatten(), rows[dealt].flatten()
    if groups is not None:
        held, given = groups.argsort(stable=True), dealt[groups[dealt].argsort(stable=True)]
    return torch.empty_like(held).index_copy_(0, held, given)


def _beside(observed: Tensor, shuffled: Sequence[Tensor]) -> Chance:
    """The observed value beside those of the shuffles, all of the types that the similarity returned."""
    ties = ties_of([observed, *shuffled])
    observed, null = observed.double(), torch.stack([value.double() for value in shuffled])
    reached = null >= observed - ties * observed.abs()
    p_value = (1 + reached.sum(0)).double() / (1 + len(null))
    power, most = power_of_two(null.abs().amax(0)), torch.finfo(torch.float64).max
    null_near_one = null / power  # sums and differences of the largest numbers overflow
    ends = [(end * power).clamp(-most, most) for end in (null_near_one.mean(0), *_percentiles(null_near_one))]
    return Chance(observed, null, *ends, p_value)


def _percentiles(null: Tensor) -> Tensor:
    """The 2.5 and 97.5 percentiles (2, ...) of numbers (n_shuffles, ...), some columns at a time: torch has a limit."""
    shares = torch.tensor([0.025, 0.975], dtype=torch.float64, device=null.device)
    columns = null.reshape(len(null), -1).split(max(1, _MOST_SORTED // len(null)), 1)
    found = [torch.quantile(part, shares, dim=0) for part in columns]
    return torch.cat(found, 1).reshape(2, *null.shape[1:])


def ties_of(values: Iterable[Tensor]) -> float:
    """The share of a value that is rounding, of the coarsest type; halves are summed in float32, and rounded once."""
    kinds = {value.dtype if value.is_floating_point() else torch.float64 for value in values}
    steps = [torch.finfo(kind).eps for kind in kinds]
    return max(max(_TIES * min(eps, torch.finfo(torch.float32).eps), 2 * eps) for eps in steps)


def finite_of(value: Tensor | float, argument: str, like: Tensor | None = None) -> Tensor:
    """The number or vector, in its own type; nothing reaches NaN, which would have the smallest of p values."""
    read = tensor_of(value, lists=True)
    if read is None or read.is_complex():
        raise ValueError(f"{argument}: expected a function that returns a number or a vector, got {came(value)}")
    read = (read.cpu() if read.device.type == "mps" else read).detach()
    if read.numel() == 0:
        raise ValueError(f"{argument}: expected a function that returns at least one number, got none")
    if not read.isfinite().all():
        raise ValueError(f"{argument}: expected finite numbers, got NaN or infinity")
    if like is not None and read.shape != like.shape:
        raise ValueError(f"{argument}: expected one shape, got {tuple(like.shape)} and then {tuple(read.shape)}")
    return read


def _checked_groups(groups: Sequence[Tensor]) -> list[Tensor]:
    """The groups as tensors that can be pooled."""
    read: list[Tensor] = []
    for group in as_list(groups, "groups", "at least two tensors of members"):
        found = tensor_of(group, lists=True)
        if found is None or found.ndim == 0:
            raise ValueError(f"groups: expected tensors of members, got {form_of(group)}")
        read.append(found)
    if len(read) < 2 or any(len(group) == 0 for group in read):
        raise ValueError(f"groups: expected at least two with members, got sizes {came([len(g) for g in read])}")
    for what, of in (("shape", lambda group: tuple(group.shape[1:])), ("device", lambda group: group.device)):
        kinds = list(dict.fromkeys(map(of, read)))
        if len(kinds) > 1:
            raise ValueError(f"groups: expected members of one {what}, got {in_one_line(', '.join(map(str, kinds)))}")
    return read
