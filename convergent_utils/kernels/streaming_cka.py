r"""Debiased centred kernel alignment in one pass, of layers too wide for covariances: whole flattened maps.

Inputs are gathered into groups by their running number, whatever the batches they come in. Each group g of n inputs
gives the unbiased estimate H of the Hilbert-Schmidt independence criterion; estimates are summed, and the ratio is
taken of the sums:

.. math:: \frac{\sum_g w_g H_g(X, Y)}{\sqrt{\sum_g w_g H_g(X, X) \, \sum_g w_g H_g(Y, Y)}}, \quad
    H_g(X, Y) = \frac{1}{n (n - 3)} \sum_{i \ne j} A_{ij} B_{ij}, \quad
    A_{ij} = K_{ij} + \frac{K_{ii} + K_{jj}}{n - 2} - \frac{\operatorname{tr} K}{(n - 1)(n - 2)}

for the products :math:`K_{ij} = x_i \cdot x_j` of the group's centred rows, and B likewise of the other net. H(X, X) is
so a sum of squares, and nothing is lost where a row's product with itself is much larger than those with others.

Time grows with units times samples, and memory with units alone: no more is kept than the rows of one group.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import overload

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .checks import (
    as_activations,
    as_count,
    came,
    form_of,
    has_rows,
    in_one_line,
    require_finite,
    require_known,
    require_named,
)
from .independence import NOTHING, Sums, independence, normalised, ratio, together
from .precision import ordinary_tensors
from .products import as_blocks, ordered_pairs

_MOST_UNITS = 10**9  # of which a group is a terabyte
_MOST_ROWS = 2**14  # whose products are 2 GB
_FEWEST = 4  # rows that have an unbiased estimate
_STATE = {  # axes and types of what is kept
    "rows": (0, (torch.int64,)),
    "count": (0, (torch.int64,)),
    "waiting": (2, (torch.float32, torch.float64)),
    "sum": (0, (torch.float64,)),
    "power": (0, (torch.int64,)),
}


class StreamingCKA:
    r"""Debiased CKA of named blocks of units, from rows that come batch by batch.

    .. math:: \frac{\sum_g w_g H_g(X, Y)}{\sqrt{\sum_g w_g H_g(X, X) \, \sum_g w_g H_g(Y, Y)}}

    Args:
        blocks: name and number of units of each block, for example {"net1.conv1": 16384, "net2.conv1": 16384}; the
            units of a map are all its channels at all its places.
        pairs: pairs of names that are compared; None means all.
        rows: inputs in a group, whatever the batches. Those left over at the end are a group, too, which counts by its
            share of a whole one; fewer than 4 are left out.

    `update` takes one batch in, `merge` makes a new object from two, `cka` reads the similarities out; `n_samples` is
    the number of inputs so far. The rows of an unfinished group are kept as they came, at least float32, until it is
    `finished`; all else is float64, on the device of the rows (on the CPU where that device has no float64).
    Laws: an empty part is the identity, merging commutes, and batches of any size
    give the same to the last bit. With one group it is `debiased_cka`.

    Example:
        >>> acts = torch.randn(600, 50)
        >>> found = StreamingCKA({"a": 50, "b": 50}).update({"a": acts, "b": 2 * acts}).cka()
        >>> round(float(found["a", "b"]), 6)
        1.0

    Source: Nguyen et al. 2021; Song et al. 2012 for the estimate, Székely and Rizzo 2014 for its form. Departure: they
    leave out what does not fill a group.
    """

    def __init__(
        self,
        blocks: Mapping[str, int],
        pairs: Iterable[tuple[str, str] | list[str]] | None = None,
        *,
        rows: int = 256,
    ):
        self.blocks = as_blocks(blocks, at_most=_MOST_UNITS)
        if not self.blocks:
            raise ValueError("blocks: expected at least one block")
        self.pairs = ordered_pairs(self.blocks, pairs)
        self.rows = as_count(rows, "rows", at_least=_FEWEST, at_most=_MOST_ROWS)
        self.n_samples = 0
        self._finished = False
        self._sums: Sums | None = None
        self._waiting: dict[str, Tensor] = {}  # room for a group, whose first rows are filled

    @ordinary_tensors()
    def update(self, rows: Mapping[str, Tensor]) -> StreamingCKA:
        """Take in a batch: rows[name] is (samples, units) of that block, the same samples in all.

        Returns:
            The object itself.

        Raises:
            ValueError: unknown or missing blocks, unequal samples, wrong widths, integer or complex types; NaN or
                infinity (on the CPU at once and nothing is taken in; elsewhere when it is read, since looking would
                stall the device).
        """
        if self._finished:
            raise ValueError("rows: no inputs can follow once it is finished; begin a new one")
        blocks = self._checked(rows)
        n_samples, start = len(next(iter(blocks.values()))), 0
        while start < n_samples:
            filled = self.n_samples % self.rows
            stop = min(n_samples, start + self.rows - filled)
            piece = {name: block[start:stop] for name, block in blocks.items()}
            if stop - start < self.rows:  # else it is a whole group, and need not wait
                piece = self._kept(piece, filled)
            if filled + stop - start == self.rows:
                self._sums = self._with(piece)
            self.n_samples += stop - start
            start = stop
        return self

    @ordinary_tensors()
    def merge(self, other: StreamingCKA) -> StreamingCKA:
        """Both parts together, as a new object. Each begins at the first input of a group: at a multiple of `rows`.

        Raises:
            ValueError: other blocks, pairs or rows; both parts have an unfinished group.
        """
        if not isinstance(other, StreamingCKA) or self._like != other._like:
            raise ValueError("other: expected a StreamingCKA of the same blocks, pairs and rows")
        left_over = self.n_samples % self.rows, other.n_samples % other.rows
        if all(left_over):
            raise ValueError(
                f"other: expected at most one of both parts with an unfinished group, got {left_over[0]} and "
                f"{left_over[1]} samples left over; cut the inputs at multiples of {self.rows}"
            )
        merged, last = copy.copy(self), other if left_over[1] else self
        merged._waiting = {name: room.clone() for name, room in last._waiting.items()} if any(left_over) else {}
        merged._sums, merged._finished = together(self._sums, other._sums), self._finished or other._finished
        merged.n_samples = self.n_samples + other.n_samples
        return merged

    @ordinary_tensors()
    def finished(self) -> StreamingCKA:
        """As a new object without the rows of the unfinished group, which counts as the last: nothing can follow it.

        It is small, since of inputs nothing is kept. Parts that begin before it merge with it still.
        """
        if self.n_samples % self.rows == 0 or self.n_samples < _FEWEST:
            return self
        made = copy.copy(self)
        made._sums, made._waiting, made._finished = self._all_sums(), {}, True
        return made

    @overload
    def cka(self) -> dict[tuple[str, str], Tensor]: ...
    @overload
    def cka(self, a: str, b: str) -> Tensor: ...
    def cka(self, a: str | None = None, b: str | None = None) -> Tensor | dict[tuple[str, str], Tensor]:
        """The similarity of blocks a and b; without them those of all pairs.

        Returns:
            0-d float64 in [-1, 1] but for rounding, never clamped: negative about every second time for independent
            nets; 0 where a block has dead units alone, or varies on a single sample of each group. Of all pairs a dict
            by both names, the smaller first; a block is not compared with itself there.

        Raises:
            ValueError: unknown block, a pair that was not asked for, fewer than 4 samples, NaN or infinity.
        """
        pairs = [pair for pair in self.pairs if pair[0] != pair[1]]
        if a is not None or b is not None:
            a, b = require_known(a, self.blocks, "a"), require_known(b, self.blocks, "b")
            pairs = [(min(a, b), max(a, b))]
            if pairs[0] not in self.pairs:
                raise ValueError(f"b: the pair ({came(a, 60)}, {came(b, 60)}) was not accumulated; name it in pairs")
        sums = self._all_sums()
        if sums is None:
            raise ValueError(f"rows: expected at least {_FEWEST} samples in `update`, got {self.n_samples}")
        names = list(self.blocks)
        self._require_finite(sums.value.diagonal(), {name for pair in pairs for name in pair})
        found = {(a, b): ratio(sums, names.index(a), names.index(b)) for a, b in pairs}
        return found if a is None else found[pairs[0]]

    def state(self) -> dict[str, Tensor]:
        """Everything as tensors by name, to be saved or sent; `from_state` is its inverse."""
        n_blocks, filled = len(self.blocks), 0 if self._finished else self.n_samples % self.rows
        tensors = {"rows": torch.tensor(self.rows), "count": torch.tensor(self.n_samples)}
        for name, units in self.blocks.items():
            room = self._waiting.get(name, torch.zeros(0, units))
            tensors[f"waiting/{name}"] = room[:filled].clone()
        value, power = self._sums or normalised(torch.zeros(n_blocks, n_blocks, dtype=torch.float64), torch.tensor(0))
        names = list(self.blocks)
        for a, b in self.pairs:
            entry = names.index(a), names.index(b)
            tensors[f"sum/{a}|{b}"], tensors[f"power/{a}|{b}"] = value[entry].clone(), power[entry].clone()
        return tensors

    @classmethod
    @ordinary_tensors()
    def from_state(cls, tensors: Mapping[str, Tensor]) -> StreamingCKA:
        """The object whose `state` was `tensors`.

        Raises:
            ValueError: tensors that no state has, are missing or of another shape or type, or do not go together.
        """
        found = _by_kind(tensors)
        if "" not in found["rows"] or "" not in found["count"] or not found["waiting"]:
            raise ValueError("tensors: expected rows, count, and what waits of each block")
        count, rows = (int(found[kind][""]) for kind in ("count", "rows"))
        if count < 0 or not _FEWEST <= rows <= _MOST_ROWS:
            raise ValueError(f"tensors: expected a count and {_FEWEST} to {_MOST_ROWS} rows, got {count} and {rows}")
        blocks = {name: waiting.shape[1] for name, waiting in found["waiting"].items()}
        try:
            made = cls(blocks, [name.split("|") for name in found["sum"]], rows=rows)
        except ValueError as error:
            raise ValueError(f"tensors: {in_one_line(error, 250)}") from error
        finished = count % rows > 0 and count >= _FEWEST and not any(map(len, found["waiting"].values()))
        for name, waiting in found["waiting"].items():
            if len(waiting) != count % rows and not finished:
                raise ValueError(f"tensors: expected {count % rows} rows of {came(name, 60)}, got {len(waiting)}")
        if found["sum"].keys() != found["power"].keys() or made.state().keys() != dict(tensors).keys():
            raise ValueError("tensors: expected a sum and a power for each pair and each block")
        if count % rows and not finished:
            made._kept(found["waiting"], 0)
        made._finished = finished
        made.n_samples, made._sums = count, _from_pairs(made, found) if count >= rows or finished else None
        return made

    @property
    def _like(self) -> tuple[object, ...]:
        """What parts that merge have in common."""
        return self.blocks, self.pairs, self.rows

    def _checked(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The rows of all blocks, in their order, each of the right width and all of the same length."""
        rows = require_named(rows, "rows", "activations")
        for name in rows:
            require_known(name, self.blocks, "rows")
        missing = [name for name in self.blocks if name not in rows]
        if missing:
            raise ValueError(f"rows: expected {came(missing[0])} together with the other blocks")
        checked = {name: as_activations(rows[name], name) for name in self.blocks}
        first, like = next(iter(checked.items()))
        for name, block in checked.items():
            if block.shape[1] != self.blocks[name]:
                raise ValueError(f"{name}: expected {self.blocks[name]} units, got {block.shape[1]}; flatten maps")
            if len(block) != len(like):
                raise ValueError(f"{name}: expected {len(like)} samples as in {first}, got {len(block)}")
            if block.device != like.device:
                raise ValueError(f"{name}: expected {like.device} as {first}, got {block.device}")
        checked = {name: block.cpu() if block.device.type == "mps" else block for name, block in checked.items()}
        for name, block in checked.items():
            if block.device.type == "cpu":
                require_finite(block, name)
        return checked

    def _kept(self, piece: Mapping[str, Tensor], filled: int) -> dict[str, Tensor]:
        """The room for a group, once the piece is copied to it; in the finest precision that was seen."""
        for name, block in piece.items():
            room = self._waiting.get(name)
            if room is None:
                room = block.new_empty(self.rows, block.shape[1])
            room = room.to(torch.promote_types(room.dtype, block.dtype))
            room[filled : filled + len(block)] = block
            self._waiting[name] = room
        return self._waiting

    def _with(self, group: Mapping[str, Tensor]) -> Sums:
        """The sums once those of a group are added."""
        found = independence(list(group.values()), self.rows)
        return self._sums.plus(found) if self._sums else found

    def _all_sums(self) -> Sums | None:
        """The sums, with those of the samples left over; None where there are fewer than 4 samples."""
        filled = self.n_samples % self.rows
        if filled < _FEWEST or self._finished:
            return self._sums
        return self._with({name: self._waiting[name][:filled] for name in self.blocks})

    def _require_finite(self, own: Tensor, names: set[str]) -> None:
        """No sum (blocks,) of the named blocks is NaN."""
        if isinstance(own, FakeTensor):
            return
        for name, is_finite in zip(self.blocks, own.isfinite().tolist(), strict=True):
            if name in names and not is_finite:
                raise ValueError(f"{name}: expected finite activations, got NaN or infinity")


def _by_kind(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of a state by their kinds and names, each of the right type."""
    found: dict[str, dict[str, Tensor]] = {kind: {} for kind in _STATE}
    for key, value in require_named(tensors, "tensors", "tensors").items():
        kind, _, name = key.partition("/")
        require_known(kind, found, "tensors")
        axes, dtypes = _STATE[kind]
        if not isinstance(value, Tensor) or not has_rows(value) or value.ndim != axes or value.dtype not in dtypes:
            raise ValueError(f"tensors: expected {came(key, 60)} with {axes} axes as {dtypes[0]}, got {form_of(value)}")
        found[kind][name] = value
    if not all(abs(int(power)) <= -NOTHING for power in found["power"].values()):
        raise ValueError("tensors: expected powers of at most 41 bits")
    return found


def _from_pairs(made: StreamingCKA, found: Mapping[str, Mapping[str, Tensor]]) -> Sums:
    """The sums of all pairs from those of each; of pairs that were not asked for there are none."""
    names = list(made.blocks)
    like = next(iter(found["sum"].values()))
    value = torch.zeros(len(names), len(names), dtype=torch.float64, device=like.device)
    power = torch.zeros(len(names), len(names), dtype=torch.int64, device=like.device)
    for a, b in made.pairs:
        for entry in ((names.index(a), names.index(b)), (names.index(b), names.index(a))):
            value[entry], power[entry] = found["sum"][f"{a}|{b}"], found["power"][f"{a}|{b}"]
    return normalised(value, power)
