"""How far would a number move with other networks of the same kind? Intervals by leaving one network out at a time."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .chance import Interval
from .checks import as_number, as_whole, came, form_of, require_callable, require_known, tensor_of

_MOST_NETWORKS = 10**4


class _Scale(NamedTuple):
    """The range of a number, and the way to where it has none, and back."""

    low: float
    high: float
    there: Callable[[float], float]
    back: Callable[[float], float]


def _logit(share: float) -> float:
    return math.log(share) - math.log1p(-share)


def _logistic(number: float) -> float:
    return (1 + math.tanh(number / 2)) / 2


def _exponential(number: float) -> float:
    """It may be infinite, which is refused as such."""
    return math.exp(number) if number < _MOST_LOG else math.inf


_MOST_LOG = 709.0  # its exponential is near the largest float
_SCALES = {
    "plain": _Scale(-math.inf, math.inf, float, float),
    "arctanh": _Scale(-1.0, 1.0, math.atanh, math.tanh),
    "logit": _Scale(0.0, 1.0, _logit, _logistic),
    "log": _Scale(0.0, math.inf, math.log, _exponential),
}


def network_interval(values: Tensor | np.ndarray, *, level: float = 0.95, scale: str = "plain") -> Interval:
    r"""Mean over pairs of networks, with an interval for other networks of the same kind.

    The leave-one-network-out jackknife: with :math:`\theta_{(k)}` the mean without network k,

    .. math:: \theta \pm t_{n-1} \sqrt{\frac{n-1}{n} \sum_k (\theta_{(k)} - \theta)^2}.

    Pairs that share a network are not independent, so a bootstrap over pairs (or over so few networks) is too narrow.

    Args:
        values: (nets, nets), finite off the diagonal; [i, j] compares net i with net j; the diagonal is ignored.
        level: coverage, between 0 and 1.
        scale: on which the interval is made, so that it cannot leave the possible range: "arctanh" for numbers between
            -1 and 1, "logit" between 0 and 1, "log" above 0, or "plain". Where the mean of all networks, or of all but
            one, lies at an end of the range, the plain interval is cut there.

    Returns:
        Interval of the mean over all ordered pairs of different networks.

    Raises:
        ValueError: not a square matrix, fewer than 3 networks, NaN or infinity, an interval that float64 cannot hold,
            level outside (0, 1), an unknown scale, a mean out of its range.

    Source: Tukey 1958, the jackknife.

    Example:
        >>> found = network_interval(torch.tensor([[1.0, 0.6, 0.7], [0.6, 1.0, 0.8], [0.7, 0.8, 1.0]]), scale="logit")
        >>> round(found.low, 2), round(found.estimate, 2), round(found.high, 2)
        (0.17, 0.7, 0.96)
    """
    values = _between_networks(values)
    n = values.shape[0] if values.ndim else 0
    if values.shape != (n, n) or n < 3:
        raise ValueError(f"values: expected (nets, nets) with at least 3 networks, got {values.shape}")
    between = ~np.eye(n, dtype=bool)
    if not np.isfinite(values[between]).all():
        raise ValueError("values: expected finite values between different networks, got NaN or infinity")
    power = _power(values[between].tolist())
    values = values / power  # so that no sum overflows

    def mean(nets: list[int]) -> float:
        """Over all ordered pairs of different ones among these."""
        return values[np.ix_(nets, nets)][between[np.ix_(nets, nets)]].mean()

    return _interval(mean, [n], _as_level(level), "values", power, scale)


def groups_interval(
    statistic: Callable[..., float | Tensor],
    n_networks: Sequence[int],
    *,
    level: float = 0.95,
    scale: str = "plain",
) -> Interval:
    r"""A number of one or several groups of networks, with an interval for other networks of the same groups.

    The leave-one-network-out jackknife, one network of one group at a time: with :math:`\theta_{(gk)}` the number
    without network k of the :math:`n_g` of group g,

    .. math:: v_g = \frac{n_g - 1}{n_g} \sum_k (\theta_{(gk)} - \theta)^2, \quad
        \theta \pm t_\nu \sqrt{\textstyle\sum_g v_g}, \quad \nu = \frac{(\sum_g v_g)^2}{\sum_g v_g^2 / (n_g - 1)}.

    Args:
        statistic: called with one list of indices of networks per group, such as ``[0, 2, 3], [0, 1, 2, 3]``.
        n_networks: of each group.
        level: coverage, between 0 and 1.
        scale: on which the interval is made, see `network_interval`.

    Returns:
        Interval of the statistic of all networks.

    Raises:
        ValueError: no group, fewer than 3 networks in one, a statistic that is not finite or whose interval float64
            cannot hold, level outside (0, 1), an unknown scale, a statistic out of its range.

    The sum over groups and its degrees of freedom take the groups to be independent:
    no network of one may share its start with one of another. With one group it is `network_interval`. Deviations are
    from the number of all networks, not from the mean of those without one: for means over pairs these are the same;
    for counts and other numbers that move in steps the interval is wider. Give a number that cannot leave a range,
    such as a correlation, its scale, or the interval may.
    Source: Tukey 1958, the jackknife; Welch 1938 and Satterthwaite 1946, the degrees of freedom.

    Example:
        >>> deep, shallow = torch.tensor([0.7, 0.8, 0.9]), torch.tensor([0.3, 0.4, 0.5])
        >>> found = groups_interval(lambda i, j: deep[i].mean() - shallow[j].mean(), [3, 3])
        >>> round(found.estimate, 2), found.low > 0
        (0.4, True)
    """
    require_callable(statistic, "statistic")
    n_networks = as_whole(n_networks, "n_networks", what="a row of whole numbers, one for each group").tolist()
    if not n_networks or min(n_networks) < 3 or max(n_networks) > _MOST_NETWORKS:
        expected = f"expected at least 3 networks in each group and at most {_MOST_NETWORKS}"
        raise ValueError(f"n_networks: {expected}, got {came(n_networks)}")
    return _interval(statistic, n_networks, _as_level(level), "statistic", scale=scale)


def paired_difference(ours: Interval, baseline: Interval | float, *, level: float = 0.95) -> Interval:
    """A number less its baseline, both found of the same networks, with an interval for other networks.

    What is left out of one is left out of the other: for means over pairs of networks it is the `network_interval` of
    the differences pair by pair.

    Args:
        ours: as `network_interval` and `groups_interval` give it; any other is moved, where the baseline is a number.
        baseline: of as many networks, in the same order; or a number that does not vary with them.
        level: coverage, between 0 and 1.

    Raises:
        ValueError: intervals of other networks, or not found by leaving networks out; a baseline that is not finite,
            level outside (0, 1).
    """
    level = _as_level(level)
    if not isinstance(baseline, Interval):
        number = as_number(baseline, "baseline", "an interval or a finite number", math.isfinite)
        if not ours.without:
            return Interval(ours.estimate - number, ours.low - number, ours.high - number)
        baseline = Interval(number, number, number, tuple((number,) * len(of) for of in ours.without))
    if not ours.without or [len(of) for of in ours.without] != [len(of) for of in baseline.without]:
        expected = (
            "expected an interval that network_interval or groups_interval found of the same networks, or a number"
        )
        raise ValueError(f"baseline: {expected}, got one of {[len(of) for of in baseline.without] or 'none'}")
    estimate = ours.estimate - baseline.estimate
    without = tuple(
        tuple(a - b for a, b in zip(*pair, strict=True)) for pair in zip(ours.without, baseline.without, strict=True)
    )
    error, freedom = _standard_error(estimate, without)
    half = error * _quantile(freedom, level) if error else 0.0
    return Interval(estimate, estimate - half, estimate + half, without)


def p_value(found: Interval, number: float) -> float:
    """The two-sided p-value of `number` being the true one: one minus the level at which the interval reaches it.

    It is 0 where the number cannot be. Intervals that were not found by leaving networks out count as normal ones of
    95 %, each side by itself.
    """
    number = as_number(number, "number", "a finite number", math.isfinite)
    possible = _SCALES[found.scale].low < number < _SCALES[found.scale].high
    if found.low == found.high or number == found.estimate or not possible:
        return float(number == found.estimate)
    if not found.without:
        end = found.low if number < found.estimate else found.high
        if end == found.estimate:
            return 0.0
        from scipy.special import ndtr, ndtri

        return 2 * float(ndtr(-abs((number - found.estimate) / (end - found.estimate)) * ndtri(0.975)))
    from scipy.special import stdtr

    there, _ = _on_scale([found.estimate, *chain(*found.without)], found.scale)
    error, freedom = _standard_error(
        there(found.estimate), [[there(x) for x in left_out] for left_out in found.without]
    )
    return 2 * float(stdtr(freedom, -abs(there(number) - there(found.estimate)) / error)) if error else 0.0


def _as_level(level: float) -> float:
    return as_number(level, "level", "a coverage between 0 and 1", lambda share: 0 < share < 1)


def _interval(
    statistic: Callable[..., float | Tensor],
    n_networks: Sequence[int],
    level: float,
    argument: str,
    unit: float = 1.0,
    scale: str = "plain",
) -> Interval:
    """The interval of a statistic in units of a power of two, on a scale; errors blame the argument."""
    require_known(scale, _SCALES, "scale")
    everyone = [list(range(n)) for n in n_networks]
    estimate, without = _number(statistic(*everyone)), []
    for g, n in enumerate(n_networks):
        left_out = [
            _number(statistic(*everyone[:g], [k for k in range(n) if k != out], *everyone[g + 1 :])) for out in range(n)
        ]
        if not np.isfinite([estimate, *left_out]).all():
            finding = f"{estimate} and, without one of group {g}, {came(left_out)}"
            raise ValueError(f"{argument}: expected finite numbers, got {finding}")
        without.append(left_out)
    without = [[value * unit for value in left_out] for left_out in without]
    estimate, range_ = estimate * unit, _SCALES[scale]
    numbers = [estimate, *chain(*without)]
    if not range_.low <= min(numbers) <= max(numbers) <= range_.high:
        within = f"numbers from {range_.low:g} to {range_.high:g}"
        raise ValueError(f"{argument}: expected {within}, as the scale has them, got {came(numbers, 60)}")
    there, back = _on_scale(numbers, scale)
    error, freedom = _standard_error(there(estimate), [[there(value) for value in left_out] for left_out in without])
    half = error * _quantile(freedom, level) if error else 0.0
    low, high = back(there(estimate) - half), back(there(estimate) + half)
    low, high = max(low, range_.low), min(high, range_.high)
    if not np.isfinite([low, high]).all():
        width = f"{estimate} plus or minus {half}"
        raise ValueError(f"{argument}: expected numbers whose interval float64 can hold, got {width}")
    return Interval(estimate, low, high, tuple(map(tuple, without)), scale)


def _on_scale(numbers: Sequence[float], scale: str) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """The way to the scale, and back; neither moves anything where one of the numbers lies at an end of the range."""
    found = _SCALES[scale]
    used = found.low < min(numbers) and max(numbers) < found.high
    return (found.there, found.back) if used else (float, float)


def _quantile(freedom: float, level: float) -> float:
    """How many standard errors the interval reaches to each side."""
    from scipy.special import stdtrit

    above, below = (1 + level) / 2, (1 - level) / 2
    return float(stdtrit(freedom, above) if above < 1 else -stdtrit(freedom, below))  # the same, where one rounds to 1


def _standard_error(estimate: float, without: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The standard error from the numbers without each network of each group, and its degrees of freedom."""
    unit = _power([estimate, *chain(*without)])
    apart = [[value / unit - estimate / unit for value in left_out] for left_out in without]
    power = _power(chain(*apart))
    variances = [(len(d) - 1) / len(d) * sum((value / power) ** 2 for value in d) for d in apart]
    variance = sum(variances)
    if variance == 0:
        return 0.0, math.inf
    freedom = variance**2 / sum(v**2 / (len(d) - 1) for v, d in zip(variances, apart, strict=True))
    return math.sqrt(variance) * power * unit, freedom


def _power(numbers: Iterable[float]) -> float:
    """A power of two near the largest of the numbers; 1 where even the squares of their squares are ordinary."""
    largest = max(map(abs, numbers))
    return 1.0 if largest == 0 or 1e-60 < largest < 1e60 else 2.0 ** (math.frexp(largest)[1] - 1)


def _between_networks(values: Tensor | np.ndarray) -> np.ndarray:
    """Real numbers in float64; None, as it may stand on the diagonal, becomes NaN."""
    read = tensor_of(values, lists=True)
    if read is None and not isinstance(values, Tensor) and not np.ma.is_masked(values):
        with suppress(Exception):
            read = tensor_of([[math.nan if value is None else value for value in row] for row in values], lists=True)
    if read is None or read.is_complex() or read.dtype == torch.bool:
        raise ValueError(f"values: expected real numbers (nets, nets), got {form_of(values)}")
    return read.detach().cpu().double().numpy()


def _number(value: Tensor | float) -> float:
    """What a statistic of networks returned."""
    with suppress(Exception):
        value = value.item() if isinstance(value, (Tensor, np.ndarray)) else value  # float would warn of some
        if not isinstance(value, (str, bytes)):
            return float(value)
    raise ValueError(f"statistic: expected a function that returns a number, got {came(value)}")
