r"""Mutual information of every unit of net a with every unit of net b, from histograms of two units at a time.

Each unit has bins of its own. From the counts :math:`c_{xy}` of a pair over n samples, of margins :math:`c_x, c_y`,

.. math:: I = \log n + \frac1n \Bigl(\sum_{xy} c_{xy} \log c_{xy} - \sum_x c_x \log c_x - \sum_y c_y \log c_y\Bigr).

Counting is nearly all of the work: compiled loops on the CPU (numba, in threads), products of indicators elsewhere.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .binning import MOST_CELLS, BinEdges, codes_of, edges_of, require_edges, require_units
from .checks import (
    as_activations,
    as_count,
    came,
    form_of,
    require_finite_units,
    require_known,
    require_same_samples,
)
from .precision import full_precision, ordinary_tensors

_CountsOf = Callable[[slice, slice], Tensor]
_CORRECTIONS = ("miller-madow",)
_MOST_BYTES = 2 << 30  # of the counts of a JointHistogram
_MOST_SAMPLES = 2**31 - 1  # counts are int32
_SAMPLES_PER_CELL = 5  # fewer than that in the joint table, and the bias is no longer small: warn
_LONGEST_TABLE = 1 << 20  # of k log k; for more samples logarithms are taken as they come
_BLOCK = 4096  # samples whose joint codes stay in the nearest cache
_EXACT_IN_HALF = 2048  # integers up to it are exact in float16


def mutual_information(
    acts_a: Tensor | np.ndarray, acts_b: Tensor | np.ndarray, *, bins: int = 10, binning: str = "relu-quantile",
    correction: str | None = "miller-madow", method: str = "auto",
) -> Tensor:  # fmt: skip
    r"""Mutual information of every unit of net a with every unit of net b.

    .. math:: I = \sum_{xy} p_{xy} \log \frac{p_{xy}}{p_x p_y} + \frac{(K_x - 1) + (K_y - 1) - (K_{xy} - 1)}{2 n}

    with :math:`p` the shares of samples in the bins and :math:`K` the numbers of bins, and of pairs of bins, that hold
    any. The second term (Miller, Madow) takes off what independent units have, about :math:`(K_x - 1)(K_y - 1) / 2n`.

    Args:
        acts_a: (samples, units_a) float tensor or NumPy array, any device.
        acts_b: (samples, units_b), the same samples in the same order.
        bins, binning: how many bins a unit has, and "relu-quantile", "quantile" or "uniform", see `bin_edges`.
        correction: "miller-madow", or None for the plug-in value.
        method: how pairs are counted, all to the same counts. "numba": compiled loops, on the CPU. "scatter": by torch,
            one sample at a time. "product": by torch, of indicators. "auto": "numba" on the CPU, else "product".

    Returns:
        (units_a, units_b) float64 in nats, at most the logarithm of the number of bins (before the correction). Pairs
        are tiled: beside the bins of each sample and the result, memory does not grow with samples or units.

    Raises:
        ValueError: shapes that do not pair, fewer than 2 samples, bins out of range, unknown binning, correction or
            method, NaN or infinity (naming the unit), integer or complex types.

    Dead and constant units have 0 with every unit; a unit has its own entropy with itself and with a copy. Near
    independence the corrected value may lie below 0; it is not clipped, for its mean would then be above 0.

    Warns where there are fewer than 5 samples for each cell of the joint table of the two units with most bins. The
    correction takes rows to be independent, which cannot be checked here: neighbouring places of one image are not.
    Use one place per image, or report the excess over `chance_level` with whole images shuffled.
    Source: Li et al. 2016; Miller 1955. Li et al.'s own correction mixes bits and nats and counts
    :math:`K_x K_y` where :math:`(K_x - 1)(K_y - 1)` is right; it is not offered.

    Example:
        >>> a = torch.arange(-50.0, 50.0)[:, None]
        >>> mutual_information(a, a**2, bins=4, binning="quantile").exp().round()
        tensor([[2.]], dtype=torch.float64)
    """
    acts_a, acts_b = as_activations(acts_a, "acts_a"), as_activations(acts_b, "acts_b")
    require_same_samples(acts_a, acts_b)
    _require_correction(correction)
    method = _resolved(method, acts_a.device)
    rows_a, rows_b = acts_a.T.contiguous(), acts_b.T.contiguous()
    edges_a, edges_b = edges_of(rows_a, "acts_a", bins, binning), edges_of(rows_b, "acts_b", bins, binning)
    _warn_of_few_samples(edges_a, edges_b, len(acts_a))
    compiled = method == "numba"
    codes_a, codes_b = codes_of(rows_a, edges_a, compiled=compiled), codes_of(rows_b, edges_b, compiled=compiled)
    cells = edges_a.n_cells, edges_b.n_cells

    def counts_of(i: slice, j: slice) -> Tensor:
        """Joint counts of a tile of pairs."""
        counts = torch.zeros(i.stop - i.start, j.stop - j.start, *cells, dtype=torch.int32, device=acts_a.device)
        _COUNTING[method](counts, codes_a[i], codes_b[j])
        return counts

    shape = (len(codes_a), len(codes_b), *cells)
    return _over_tiles(counts_of, shape, len(acts_a), correction, acts_a.device)


def matched_information(
    acts_a: Tensor, acts_b: Tensor, index: Tensor, *, bins: int = 10, binning: str = "relu-quantile"
) -> Tensor:
    """Mutual information (matched,) float64 of units that have one partner each, so that few histograms are counted.

    Args:
        acts_a, acts_b, bins, binning: as in `mutual_information`, on the CPU.
        index: (units_a,) int64, the partner of each unit among those of b, or -1 for none: such are left out.
    """
    units = (index >= 0).nonzero()[:, 0]
    if not len(units):
        return torch.empty(0, dtype=torch.float64)
    rows_a, rows_b = acts_a.T.contiguous()[units], acts_b.T.contiguous()[index[units]]
    edges_a, edges_b = edges_of(rows_a, "acts_a", bins, binning), edges_of(rows_b, "acts_b", bins, binning)
    codes_a, codes_b = codes_of(rows_a, edges_a, compiled=True), codes_of(rows_b, edges_b, compiled=True)
    shape = (len(units), edges_a.n_cells, edges_b.n_cells)
    first = torch.arange(len(units))[:, None] * shape[1] + codes_a
    counts = torch.bincount((first * shape[2] + codes_b).flatten(), minlength=math.prod(shape)).view(shape)
    return _information(counts, counts.sum(2), counts.sum(1), len(acts_a), None, "miller-madow")


class JointHistogram:
    """Streaming joint histograms of every unit of net a with every unit of net b.

    Args:
        edges_a, edges_b: bins of the units of either net, on one device, for example `bin_edges` of a first batch.
        method: see `mutual_information`.

    Attributes:
        counts: (units_a, units_b, bins_a, bins_b) int32, samples in each pair of bins; that of zeros comes first.
        n_samples: number of samples so far.

    Raises:
        ValueError: counts that would need more than 2 GiB; unknown method.

    `update` counts one batch in place, `merge` makes a new histogram from two. Laws, all exact: an empty part is the
    identity, merging commutes and is associative, and any split of the rows equals one batch.

    Example:
        >>> acts, edges = torch.arange(40.0)[:, None], BinEdges(torch.tensor([[30.0]]), zero_bin=False)
        >>> found = JointHistogram(edges, edges)
        >>> found.update(acts, acts)
        >>> found.counts.flatten()
        tensor([30,  0,  0, 10], dtype=torch.int32)
    """

    @ordinary_tensors()
    def __init__(self, edges_a: BinEdges, edges_b: BinEdges, *, method: str = "auto"):
        require_edges(edges_a, "edges_a")
        require_edges(edges_b, "edges_b")
        if edges_a.cuts.device != edges_b.cuts.device:
            came = f"{edges_a.cuts.device} and {edges_b.cuts.device}"
            raise ValueError(f"edges_b: expected bins on one device, got them on {came}")
        shape = (len(edges_a.cuts), len(edges_b.cuts), edges_a.n_cells, edges_b.n_cells)
        if 4 * math.prod(shape) > _MOST_BYTES:
            raise ValueError(
                f"edges_a: expected counts of at most 2 GiB, got {4 * math.prod(shape) / 2**30:.1f} GiB for "
                f"{shape[0]} x {shape[1]} units; take fewer bins, or fewer units at a time"
            )
        device = edges_a.cuts.device
        self.edges_a, self.edges_b, self.method, self.n_samples = edges_a, edges_b, _resolved(method, device), 0
        self.counts = torch.zeros(shape, dtype=torch.int32, device=device)
        self._largest = torch.zeros(shape[0] + shape[1], device=device)

    @ordinary_tensors()
    def update(self, a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> None:
        """Count a batch: (samples, units_a) and (samples, units_b), the same samples.

        Raises:
            ValueError: unequal samples, wrong widths, integer or complex types, over 2^31 - 1 samples in all; NaN or
                infinity (on the CPU at once, nothing is counted; elsewhere once it is read: looking stalls the device).
        """
        a, b = as_activations(a, "a"), as_activations(b, "b")
        require_units(a, self.edges_a, "a")
        require_units(b, self.edges_b, "b")
        if len(a) != len(b):
            raise ValueError(f"b: expected {len(a)} samples as in a, got {len(b)}")
        if len(a) == 0:
            return
        largest = torch.cat([a.abs().amax(0), b.abs().amax(0)])
        if a.device.type == "cpu":
            self._require_finite(largest)
        self._add(len(a), largest)
        compiled = self.method == "numba"
        codes_a = codes_of(a.T.contiguous(), self.edges_a, compiled=compiled)
        codes_b = codes_of(b.T.contiguous(), self.edges_b, compiled=compiled)
        _COUNTING[self.method](self.counts, codes_a, codes_b)

    @ordinary_tensors()
    def merge(self, other: JointHistogram) -> JointHistogram:
        """The histogram of both parts together, as a new object.

        Raises:
            ValueError: other bins, more than 2^31 - 1 samples in all.
        """
        if not isinstance(other, JointHistogram) or not (
            self.edges_a == other.edges_a and self.edges_b == other.edges_b
        ):
            raise ValueError("other: expected a joint histogram over the same bins")
        merged = JointHistogram(self.edges_a, self.edges_b, method=self.method)
        for part in (self, other):
            merged._add(part.n_samples, part._largest)
            merged.counts += part.counts
        return merged

    def state(self) -> dict[str, object]:
        """Everything, to be saved, sent or gone on from; `from_state` is its inverse."""
        edges = {"edges_a": self.edges_a, "edges_b": self.edges_b}
        return {**edges, "n_samples": self.n_samples, "counts": self.counts.clone(), "largest": self._largest.clone()}

    @classmethod
    @ordinary_tensors()
    def from_state(cls, state: Mapping[str, Any]) -> JointHistogram:
        """The histogram whose `state` it was; how it counts is chosen anew, for the device of the edges.

        Raises:
            ValueError: no such state; counts that are not those of so many samples.
        """
        fields = ("edges_a", "edges_b", "n_samples", "counts", "largest")
        if not isinstance(state, Mapping) or set(state) != set(fields):
            what = f"JointHistogram.state(), a dict of {', '.join(fields)}"
            raise ValueError(f"state: expected {what}, got {came(state)}")
        made, largest = cls(state["edges_a"], state["edges_b"]), state["largest"]
        for name, like, value in (("counts", made.counts, state["counts"]), ("largest", made._largest, largest)):
            alike = isinstance(value, Tensor) and value.shape == like.shape and value.device == like.device
            if not alike or value.is_floating_point() != like.is_floating_point():
                raise ValueError(f"state: expected {name} {form_of(like)}, got {form_of(value)}")
        made._add(as_count(state["n_samples"], "state", at_least=0, what=" as n_samples"), largest)
        if not (state["counts"].sum((2, 3)) == made.n_samples).all() or (state["counts"] < 0).any():
            raise ValueError(f"state: expected counts of {made.n_samples} samples for each pair of units, got others")
        made.counts += state["counts"]
        return made

    def mutual_information(self, *, correction: str | None = "miller-madow") -> Tensor:
        """Mutual information of all pairs (units_a, units_b) float64 in nats; see the function of that name.

        Raises:
            ValueError: fewer than 2 samples, unknown correction, NaN or infinity among the batches.
        """
        _require_correction(correction)
        if self.n_samples < 2:
            raise ValueError(f"a: expected at least 2 samples, got {self.n_samples}")
        self._require_finite(self._largest)
        _warn_of_few_samples(self.edges_a, self.edges_b, self.n_samples)
        shape, device = self.counts.shape, self.counts.device
        return _over_tiles(lambda i, j: self.counts[i, j], shape, self.n_samples, correction, device)

    def _add(self, n_samples: int, largest: Tensor) -> None:
        """Note more samples and the largest activation of each unit of a, then of b; NaN, once seen, stays."""
        if self.n_samples + n_samples > _MOST_SAMPLES:
            raise ValueError(f"a: expected at most {_MOST_SAMPLES} samples, got {self.n_samples + n_samples}")
        self.n_samples, self._largest = self.n_samples + n_samples, torch.maximum(self._largest, largest)

    def _require_finite(self, largest: Tensor) -> None:
        for name, part in zip(("a", "b"), largest.split(self.counts.shape[:2]), strict=True):
            require_finite_units(part, name)


def _over_tiles(
    counts_of: _CountsOf, shape: Sequence[int], n_samples: int, correction: str | None, device: torch.device
) -> Tensor:
    """Mutual information (units_a, units_b), tile by tile, on the CPU where the device has no float64."""
    units_a, units_b, *cells = shape
    to = torch.device("cpu") if device.type == "mps" else device
    found = torch.empty(units_a, units_b, dtype=torch.float64, device=to)
    table = None
    if n_samples < _LONGEST_TABLE:
        table = torch.arange(n_samples + 1, dtype=torch.float64, device=to)
        table = torch.xlogy(table, table)
    for i, j in _tiles(units_a, units_b, _tile_entries(device) // math.prod(cells)):
        counts = counts_of(i, j).to(to)
        margin_a, margin_b = counts[:, :1].sum(3, dtype=torch.int32), counts[:1].sum(2, dtype=torch.int32)
        found[i, j] = _information(counts, margin_a, margin_b, n_samples, table, correction)
    return found


def _information(
    counts: Tensor, margin_a: Tensor, margin_b: Tensor, n_samples: int, table: Tensor | None, correction: str | None
) -> Tensor:
    """Mutual information (...) from counts (..., bins_a, bins_b), all of `n_samples`, and their margins (..., bins)."""
    weight_a, weight_b = _n_log_n(margin_a, table).sum(-1), _n_log_n(margin_b, table).sum(-1)
    weight = _n_log_n(counts, table).flatten(-2).sum(-1)
    found = ((weight - weight_a - weight_b) / n_samples + math.log(n_samples)).clamp(min=0)
    filled_a, filled_b = (margin_a > 0).sum(-1), (margin_b > 0).sum(-1)
    if correction is not None:
        filled = counts.clamp(max=1).flatten(-2).sum(-1, dtype=torch.int32)
        found += (filled_a + filled_b - filled - 1).double() / (2 * n_samples)
    return found.where((filled_a > 1) & (filled_b > 1), 0.0)  # not a rounding error beside 0, for a constant unit


def _n_log_n(counts: Tensor, table: Tensor | None) -> Tensor:
    """Each count times its logarithm, 0 for 0, float64; looked up in a table of the first integers, if there is one."""
    if table is None:
        return torch.xlogy(counts.double(), counts)
    return table.index_select(0, counts.flatten()).view(counts.shape)


def _resolved(method: str, device: torch.device) -> str:
    """How pairs are counted on the device."""
    require_known(method, ("auto", *_COUNTING), "method")
    if method == "numba" and device.type != "cpu":
        raise ValueError(f"method: 'numba' counts on the CPU, got activations on {device.type}")
    return method if method != "auto" else "numba" if device.type == "cpu" else "product"


def _count_compiled(counts: Tensor, codes_a: Tensor, codes_b: Tensor) -> None:
    """In compiled loops, where it pays two units of b at a time.
    One pass then fills a table of three units (bins_a, bins_b, bins_b), and summing it over either unit of b gives two
    pairs: half the steps, once samples far outnumber the cells of that table.
    """
    from .loops import tally

    units_b, n_samples, (cells_a, cells_b) = len(codes_b), codes_b.shape[1], counts.shape[2:]
    n_cells = cells_a * cells_b**2
    n_paired = units_b - units_b % 2 if n_cells <= MOST_CELLS**2 and 8 * n_cells <= n_samples else 0
    codes_a, codes_b, counts = codes_a.numpy(), codes_b.numpy(), counts.numpy()
    joint_b = codes_b[0:n_paired:2].astype(np.uint16) * np.uint16(cells_b) + codes_b[1:n_paired:2]
    for codes, first, width in ((joint_b, 0, 2), (codes_b[n_paired:].astype(np.uint16), n_paired, 1)):
        _in_threads(partial(tally, counts, codes_a, codes, first, width), len(codes_a) * len(codes))


def _in_threads(loop: Callable[[int, int], None], n_steps: int) -> None:
    """Run loop(start, stop) over all steps, in as many threads as torch has."""
    threads = max(1, min(torch.get_num_threads(), n_steps))
    ends = [n_steps * k // threads for k in range(threads + 1)]
    if threads == 1:
        loop(0, n_steps)
        return
    with ThreadPoolExecutor(threads) as pool:
        for part in [pool.submit(loop, *span) for span in pairwise(ends)]:
            part.result()


def _count_by_scatter(counts: Tensor, codes_a: Tensor, codes_b: Tensor) -> None:
    """One addition a sample and pair; few pairs and samples at a time, so that their indices stay in the cache."""
    one, cells_b = counts.new_ones(1, 1, 1), counts.shape[3]
    for i, j in _tiles(*counts.shape[:2], 64):
        table = counts[i, j].flatten(2)
        for k in range(0, codes_a.shape[1], _BLOCK // 2):
            first, second = (codes[units, k : k + _BLOCK // 2].long() for codes, units in ((codes_a, i), (codes_b, j)))
            index = (first * cells_b)[:, None] + second
            table.scatter_add_(2, index, one.expand_as(index))


@full_precision()
def _count_by_product(counts: Tensor, codes_a: Tensor, codes_b: Tensor) -> None:
    """As products of indicators (bin, sample), in half precision where that is fast: exact for so few samples."""
    dtype = torch.float32 if counts.device.type == "cpu" else torch.float16
    cells = counts.shape[2:]
    for i, j in _tiles(*counts.shape[:2], _tile_entries(counts.device) // math.prod(cells)):
        for k in range(0, codes_a.shape[1], _EXACT_IN_HALF):
            hot_a, hot_b = (
                (codes[:, None, k : k + _EXACT_IN_HALF] == torch.arange(n, device=codes.device)[:, None]).to(dtype)
                for codes, n in zip((codes_a[i], codes_b[j]), cells, strict=True)
            )
            found = (hot_a.flatten(0, 1) @ hot_b.flatten(0, 1).T).to(torch.int32)
            counts[i, j] += found.view(len(hot_a), cells[0], len(hot_b), cells[1]).transpose(1, 2)


# Ways to add to counts (units_a, units_b, bins_a, bins_b), given codes (units, samples) of both nets.
_COUNTING = {"numba": _count_compiled, "scatter": _count_by_scatter, "product": _count_by_product}


def _tiles(units_a: int, units_b: int, pairs: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of at most `pairs` pairs of units that cover all, as square as they come; at least one pair each."""
    step_b = max(1, min(units_b, math.isqrt(max(pairs, 1))))
    step_a = max(1, min(units_a, pairs // step_b))
    for i in range(0, units_a, step_a):
        for j in range(0, units_b, step_b):
            yield slice(i, min(i + step_a, units_a)), slice(j, min(j + step_b, units_b))


def _tile_entries(device: torch.device) -> int:
    """Numbers worked on at a time: on the CPU 1 MB of float64, which stays in the cache, elsewhere 128 MB."""
    return 1 << 17 if device.type == "cpu" else 1 << 24


def _require_correction(correction: str | None) -> None:
    if correction is not None:
        require_known(correction, _CORRECTIONS, "correction")


def _warn_of_few_samples(edges_a: BinEdges, edges_b: BinEdges, n_samples: int) -> None:
    if isinstance(edges_a.cuts, FakeTensor):
        return  # a fake tensor has a shape and no values
    cells = int(edges_a.n_bins.max()) * int(edges_b.n_bins.max())
    if n_samples < _SAMPLES_PER_CELL * cells:
        warnings.warn(
            f"mutual information: {n_samples} samples for joint histograms of {cells} cells, expected at least "
            f"{_SAMPLES_PER_CELL} for each; values are biased, take fewer bins",
            stacklevel=3,
        )
