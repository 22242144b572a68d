"""Where the bins of a unit lie, and which of them each activation falls into."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .checks import (
    as_activations,
    as_count,
    came,
    form_of,
    has_rows,
    require_finite,
    require_finite_units,
    require_known,
)

_BINNINGS = ("relu-quantile", "quantile", "uniform")
MOST_CELLS = 256  # of one unit: codes are uint8


@dataclass(frozen=True, eq=False)
class BinEdges:
    """Where the bins of each unit end, to bin any batch alike.

    Attributes:
        cuts: (units, bins - 1) ascending, in the precision of the activations they were made from. Bin k holds
            cuts[k - 1] <= x < cuts[k]; the first and the last bin are open. Where bins were merged, the rest of the row
            is +infinity, which no activation reaches.
        zero_bin: exact zeros have a bin of their own, in front of the others, wherever the cuts lie.

    Example:
        >>> edges = bin_edges(torch.tensor([[0.0], [0.0], [1.0], [2.0], [3.0], [4.0]]), bins=2)
        >>> edges.codes(torch.tensor([[0.0], [1.5], [9.0]]))
        tensor([[0, 1, 2]], dtype=torch.uint8)
    """

    cuts: Tensor
    zero_bin: bool

    def __post_init__(self):
        if not isinstance(self.zero_bin, bool):
            raise ValueError(f"zero_bin: expected True or False, got {came(self.zero_bin)}")
        if not isinstance(self.cuts, Tensor) or not has_rows(self.cuts) or self.cuts.ndim != 2:
            raise ValueError(f"cuts: expected a tensor with 2 axes, got {form_of(self.cuts)}")
        if not self.cuts.is_floating_point() or not len(self.cuts) or self.n_cells > MOST_CELLS:
            raise ValueError(f"cuts: expected floats for units of at most {MOST_CELLS} bins, got {form_of(self.cuts)}")
        rising = (self.cuts[:, 1:] >= self.cuts[:, :-1]).all() & (self.cuts > -math.inf).all()  # not so where NaN is
        if not isinstance(self.cuts, FakeTensor) and not rising:
            raise ValueError("cuts: expected numbers that ascend for each unit, got some that fall, or NaN")

    @property
    def n_cells(self) -> int:
        """Bins of a unit none of whose bins were merged, that of the zeros included."""
        return self.cuts.shape[1] + 1 + self.zero_bin

    @property
    def n_bins(self) -> Tensor:
        """Bins that each unit has, that of the zeros included, (units,) int64."""
        return self.cuts.isfinite().sum(1) + 1 + int(self.zero_bin)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BinEdges) or self.zero_bin != other.zero_bin:
            return False
        return self.cuts.device == other.cuts.device and torch.equal(self.cuts, other.cuts)

    def codes(self, acts: Tensor | np.ndarray) -> Tensor:
        """The bin (units, samples) uint8 of each of the activations (samples, units), on their device.

        Raises:
            ValueError: another number of units; NaN or infinity (naming the unit); integer or complex types.
        """
        acts = as_activations(acts, "acts")
        require_units(acts, self, "acts")
        require_finite(acts, "acts")
        return codes_of(acts.T.contiguous(), self, compiled=acts.device.type == "cpu")


def bin_edges(acts: Tensor | np.ndarray, *, bins: int = 10, binning: str = "relu-quantile") -> BinEdges:
    r"""The bins of each unit, from its own activations.

    Args:
        acts: (samples, units) float tensor or NumPy array.
        bins: how many, 2 to 256; 2 to 255 with "relu-quantile", whose bin of zeros comes on top.
        binning: "quantile": as many samples in each, cut :math:`k` is the sorted activation of rank
            :math:`\lfloor k n / \text{bins} \rfloor`; equal activations share a bin, so bins that ties would leave
            empty are merged. "relu-quantile": one bin for exact zeros, quantile bins for the rest; negative activations
            are part of that rest. "uniform": equal widths from the unit's minimum to its maximum.

    Returns:
        BinEdges on the device of `acts`. A constant unit has one bin; with "relu-quantile" one more for zeros.

    Raises:
        ValueError: bins out of range, unknown binning, fewer than 2 samples, NaN or infinity (naming the unit), integer
            or complex types.

    With "quantile" a unit that leaves its lowest activation on fewer samples than one bin holds has a single bin, hence
    information 0 with every unit; "relu-quantile" sees a unit that fires once.
    Cuts of quantiles are activations of the unit, never means of two, so that a strictly increasing map of the unit
    (for "relu-quantile" one that keeps 0 and only 0 at 0) moves no sample to another bin.
    Source: Li et al. 2016, mutual information ("relu-quantile").

    Example:
        >>> bin_edges(torch.tensor([[0.0], [0.0], [1.0], [2.0], [3.0], [4.0]]), bins=2).cuts
        tensor([[3.]])
    """
    acts = as_activations(acts, "acts")
    if len(acts) < 2:
        raise ValueError(f"acts: expected at least 2 samples, got {len(acts)}")
    return edges_of(acts.T.contiguous(), "acts", bins, binning)


def edges_of(rows: Tensor, name: str, bins: int, binning: str) -> BinEdges:
    """Bins of the units whose activations are the rows (units, samples)."""
    require_known(binning, _BINNINGS, "binning")
    zero_bin = binning == "relu-quantile"
    bins = as_count(bins, "bins", at_least=2, at_most=MOST_CELLS - zero_bin)
    low, high = rows.aminmax(dim=1, keepdim=True)  # NaN is passed on
    require_finite_units(torch.maximum(low.abs(), high.abs())[:, 0], name)
    cuts = _uniform_cuts(low, high, bins) if binning == "uniform" else _quantile_cuts(rows, bins, zero_bin)
    return BinEdges(cuts, zero_bin)


def _uniform_cuts(low: Tensor, high: Tensor, bins: int) -> Tensor:
    """Cuts at equal distances (units, bins - 1) between the extremes (units, 1)."""
    step = (high / 2 - low / 2) * (torch.arange(1, bins, dtype=low.dtype, device=low.device) / bins)
    return _merged((low + step + step).sort(1).values, low)  # in two steps: the difference itself may overflow


def _quantile_cuts(rows: Tensor, bins: int, zero_bin: bool) -> Tensor:
    """Cuts at the quantiles of each row (units, bins - 1), with a bin of zeros those of what is not zero."""
    n_samples, on_cpu = rows.shape[1], rows.device.type == "cpu"
    # torch would sort indices along, three times as slow on the CPU
    ordered = torch.from_numpy(np.sort(rows.numpy(), axis=1)) if on_cpu else rows.sort(1).values
    zero = ordered.new_zeros(len(ordered), 1)
    n_negative, n_zero = torch.searchsorted(ordered, zero), torch.zeros_like(zero, dtype=torch.int64)
    if zero_bin:
        n_zero = torch.searchsorted(ordered, zero, right=True) - n_negative
    ranks = torch.arange(bins, device=rows.device) * (n_samples - n_zero) // bins
    place = torch.where(ranks < n_negative, ranks, ranks + n_zero).clamp(max=n_samples - 1)
    chosen = ordered.gather(1, place)
    return _merged(chosen[:, 1:], chosen[:, :1])


def _merged(cuts: Tensor, low: Tensor) -> Tensor:
    """Ascending cuts without those that leave a bin empty: equal to one before or to the lowest activation."""
    return cuts.where(cuts > torch.cat([low, cuts[:, :-1]], 1), math.inf).sort(1).values


def codes_of(rows: Tensor, edges: BinEdges, *, compiled: bool) -> Tensor:
    """Bins (units, samples) uint8 of rows of activations (units, samples), by compiled loops on the CPU or by torch."""
    dtype = torch.promote_types(rows.dtype, edges.cuts.dtype)
    rows, cuts = rows.to(dtype), edges.cuts.to(dtype)
    if not compiled:
        found = torch.searchsorted(cuts, rows, right=True, out_int32=True)
        return ((found + 1).masked_fill_(rows == 0, 0) if edges.zero_bin else found).to(torch.uint8)
    from .loops import place

    codes = torch.empty(rows.shape, dtype=torch.uint8)
    place(rows.numpy(), cuts.numpy(), edges.zero_bin, codes.numpy())
    return codes


def require_edges(edges: object, name: str) -> None:
    """They are bins as `bin_edges` makes them."""
    if not isinstance(edges, BinEdges):
        raise ValueError(f"{name}: expected BinEdges, got {came(edges)}; did you mean bin_edges(acts)?")


def require_units(acts: Tensor, edges: BinEdges, name: str) -> None:
    """The activations have the units, and are on the device, that the bins were made for."""
    if acts.device != edges.cuts.device:
        raise ValueError(f"{name}: expected activations on {edges.cuts.device} as their bins, got {acts.device}")
    if acts.shape[1] != len(edges.cuts):
        raise ValueError(f"{name}: expected {len(edges.cuts)} units, got {acts.shape[1]}")
