r"""The unbiased Hilbert-Schmidt independence criterion of a group of inputs, and sums of it of any scale.

.. math:: H(X, Y) = \frac{1}{n (n - 3)} \sum_{i \ne j} A_{ij} B_{ij}, \quad
    A_{ij} = K_{ij} + \frac{K_{ii} + K_{jj}}{n - 2} - \frac{\operatorname{tr} K}{(n - 1)(n - 2)}

for the products :math:`K_{ij} = x_i \cdot x_j` of centred rows, and B likewise of the other net. Source: Song et al.
2012 for the estimate, Székely and Rizzo 2014 for its form.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_CHUNK_ENTRIES = 1 << 20  # in float64 at a time on a processor: 8 MB stay in its cache
_CHUNK_ENTRIES_ELSEWHERE = 1 << 23  # 64 MB: fewer launches
_STRIPS, _STRIP = 4, 64  # products are taken in so many strips of rows or fewer, none narrower but the last
_NOISE = 1e-8  # of the trace of products: what is left below it, once that is taken away, is rounding
NOTHING = -(2**40)  # the power of a sum of 0, below that of any other


class Sums(NamedTuple):
    """Sums (blocks, blocks) of any size: value times two to the power; values are 0, or 0.5 to 1 in size."""

    value: Tensor
    power: Tensor

    def plus(self, other: Sums) -> Sums:
        """Both together, on the device of the first; in either order the same to the last bit."""
        other = Sums(*(part.to(self.value.device) for part in other))
        power = torch.maximum(self.power, other.power)
        parts = [part.value * _two_to(part.power - power) for part in (self, other)]
        value = sum(parts, torch.zeros_like(parts[0]))
        return normalised(value, power)


def independence(group: list[Tensor], rows: int) -> Sums:
    """The unbiased estimate of each pair of blocks from one group, times its share of a whole one."""
    n = len(group[0])
    matrices, exponents = zip(*(_without_samples_themselves(block) for block in group), strict=True)
    flat, exponent = torch.stack(matrices).flatten(1), torch.stack(exponents)
    return normalised(flat @ flat.T * (n / rows / (n * (n - 3))), 2 * (exponent[:, None] + exponent))


def _without_samples_themselves(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix A (n, n) of the group's rows over a power of two, and its exponent (0-d).

    Where little more than rounding is left of the products, nothing is.
    """
    products, exponent = _products(rows)
    n, own = len(products), products.diagonal().clone()
    level = own / (n - 2)
    products += level[:, None] + level - own.sum() / ((n - 1) * (n - 2))
    products.fill_diagonal_(0)
    return products.masked_fill(products.norm() <= _NOISE * own.sum(), 0), exponent


def _products(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Products (n, n) in float64 of centred rows over a power of two, and its exponent; some units at a time.

    Rows are copied to the same place in the same order, however they lie in memory: so no bit depends on the batches.
    """
    n, units = rows.shape
    exponent, factor = _scale(rows)
    strip = max(_STRIP, -(-n // _STRIPS))
    step = max(_STRIP, (_CHUNK_ENTRIES if rows.device.type == "cpu" else _CHUNK_ENTRIES_ELSEWHERE) // n)
    products = torch.zeros(n, n, dtype=torch.float64, device=rows.device)
    room = torch.empty(n, min(step, units), dtype=torch.float64, device=rows.device)
    for start in range(0, units, step):
        chunk = room[:, : min(step, units - start)]
        chunk.copy_(rows[:, start : start + step])
        if factor is not None:
            chunk.mul_(factor[start : start + step])
        chunk.sub_(chunk[0].clone())  # units that never change become 0, which their mean may miss by a rounding
        chunk.sub_(chunk.mean(0))
        for k in range(0, n, strip):  # with the rows below them alone: the matrix is symmetric
            products[k : k + strip, k:].addmm_(chunk[k : k + strip], chunk[k:].T)
    return products.triu() + products.triu(1).T, exponent


def _scale(rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """The exponent (0-d int64) of the largest activation that varies, and the factors (units,) that bring it near 1.

    Fourth powers of float32 are in the range of float64 as they are. Units that never change are multiplied by 0: they
    may be too large to be divided by the size of the others.
    """
    if rows.dtype == torch.float32:
        return torch.zeros((), dtype=torch.int64, device=rows.device), None
    high, low = rows.amax(0), rows.amin(0)
    still = high == low
    largest = torch.maximum(high, -low).masked_fill(still, 0).amax()
    exponent = torch.frexp(largest).exponent.long().masked_fill(~largest.isfinite(), 0).clamp(-1022, 1022)
    return exponent, _two_to(-exponent).expand(len(still)).masked_fill(still, 0)


def normalised(value: Tensor, power: Tensor) -> Sums:
    """Values brought between 0.5 and 1, and their powers."""
    mantissa, exponent = torch.frexp(value)
    return Sums(mantissa, (power + exponent.long()).masked_fill(value == 0, NOTHING))


def _two_to(power: Tensor) -> Tensor:
    """Two to whole powers, exactly; the nearest normal number of float64 where they leave its range."""
    return ((power.clamp(-1022, 1023) + 1023) << 52).view(torch.float64)


def together(one: Sums | None, other: Sums | None) -> Sums | None:
    """The sums of two parts, either of which may have none."""
    return one.plus(other) if one and other else one or other


def ratio(sums: Sums, a: int, b: int) -> Tensor:
    """What both share as a part of what each has (0-d); 0 where one has nothing."""
    value, power = sums.value.diagonal(), sums.power[a, a] + sums.power[b, b]
    own = (value[a] * value[b] * _two_to(power % 2)).sqrt()
    shared = sums.value[a, b] * _two_to(sums.power[a, b] - (power - power % 2) // 2)
    return torch.where(own > 0, shared / own.where(own > 0, 1.0), 0.0)
