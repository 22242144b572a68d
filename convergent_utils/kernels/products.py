"""Sums of products of rows, chunk by chunk, as exact as the rows allow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, overload

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .checks import as_list, came, is_count, require_known, require_named
from .precision import power_of_two

_CHUNK_ENTRIES = 1 << 22  # of the shifted copy of a batch: 16 MB in float32
_SHIFT_ROWS = 1024  # that a batch's shift is guessed from
_CHUNK_ROWS = 4096  # that one product sums in their own precision: five times as many cost float32 a digit
_FEW_UNITS, _FEW_ROWS = 12, 256  # on the CPU products of fewer units sum row by row, and lose a digit over more rows
_MOST_AT_ONCE = 1 << 22  # entries of comoments that a wide batch has at once: 32 MB in float64
_SAFE_SQUARES = 2.0**-60, 2.0**80  # means of squares between which no product of float32 loses anything
_SAFE_LARGEST = 2.0**-18, 2.0**38  # largest activations of units whose squares are safe in any batch of a wide net
LEAST_SQUARE = torch.finfo(torch.float64).tiny  # below it float64 loses digits
_HELD_BY_FLOAT64 = 1e-10  # rows of a coarser resolution have squares that float64 holds, whatever they are
_TRACE = math.ulp(0.0)  # stands for the squares of a unit that varies, where float64 would have 0


class Tile(NamedTuple):
    """Comoments (some units of a, units of b)."""

    a: str
    b: str
    units: slice
    values: Tensor


class Run(NamedTuple):
    """Units of a block, and the neighbouring blocks that they meet: one product."""

    a: str
    partners: list[str]
    units: slice = slice(None)


@dataclass
class Part:
    """Count, means and comoments of the blocks of one group, and the rounding unit of the coarsest rows seen."""

    count: int = 0
    mean: dict[str, Tensor] = field(default_factory=dict)
    comoment: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    resolution: dict[str, float] = field(default_factory=dict)

    def require_room(self, other: Part) -> None:
        """Float64 can hold the squares of both parts together. On the CPU alone, since looking would stall a device."""
        if self.count == 0 or other.count == 0:
            return
        between = self.count * other.count / (self.count + other.count)
        for name, mean in self.mean.items():
            theirs = other.mean[name]
            if mean.device.type == theirs.device.type == "cpu":
                square = self.comoment[name, name].diagonal() + between * (theirs - mean).square()
                if (name, name) in other.comoment:
                    square = square + other.comoment[name, name].diagonal()
                require_held(~square.isinf(), name)

    def merge(self, other: Part, tiles: Iterable[Tile] | None = None) -> None:
        """Chan's merge, in place; `other` is left alone. Its comoments may come in tiles, one after another."""
        if other.count == 0:
            return
        if tiles is None:
            tiles = (Tile(a, b, slice(None), values) for (a, b), values in other.comoment.items())
        if self.count == 0:
            self.count, self.resolution = other.count, dict(other.resolution)
            self.mean = {name: mean.clone() for name, mean in other.mean.items()}
            for a, b, units, values in tiles:
                if (a, b) not in self.comoment:
                    self.comoment[a, b] = values.new_empty(len(self.mean[a]), len(self.mean[b]))
                self.comoment[a, b][units] = values
            return
        total = self.count + other.count
        between = self.count * other.count / total
        apart = {name: other.mean[name].to(mean.device) - mean for name, mean in self.mean.items()}
        for a, b, units, values in tiles:
            comoment = self.comoment[a, b][units]
            comoment += values.to(comoment.device)
            comoment.addr_(apart[a][units], apart[b], alpha=between)
        for name, mean in self.mean.items():
            mean += apart[name] * (other.count / total)
            self.resolution[name] = max(self.resolution[name], other.resolution[name])
            if self.resolution[name] < _HELD_BY_FLOAT64:
                deviation = apart[name].abs() * math.sqrt(between / total)
                self._leave_trace(name, deviation > self.resolution[name] * mean.abs())
        self.count = total

    def multiply(self, power: Mapping[str, Tensor]) -> None:
        """Multiply the units of each block by powers of two, in place."""
        varies = {name: self.varies(name) > 0 for name in power if (name, name) in self.comoment}
        for (a, b), comoment in self.comoment.items():
            comoment.mul_(power[a][:, None]).mul_(power[b])
        for name, mean in self.mean.items():
            mean.mul_(power[name])
        for name, moves in varies.items():
            self._leave_trace(name, moves)

    def varies(self, name: str) -> Tensor:
        """1.0 for units that vary by more than the rounding of their own values, else 0.0, (units,) float64."""
        deviation = self.comoment[name, name].diagonal().clamp(min=0).sqrt() / math.sqrt(max(self.count, 1))
        return (deviation > self.resolution[name] * self.mean[name].abs()).double()

    def _leave_trace(self, name: str, varies: Tensor) -> None:
        """Units that vary are not told from dead ones by squares too small for float64: these do not become 0.

        A unit that varies more later outweighs the trace; one that does not is refused when it is read.
        """
        square = self.comoment[name, name].diagonal()
        square.copy_(square.clamp(min=_TRACE).where(varies, square))


def _state(value: Tensor) -> Tensor:
    """`value` in float64, on the CPU where its device has no float64."""
    return _where_held(value).double()


def _where_held(value: Tensor) -> Tensor:
    """`value` where its float64 is held: on the CPU where its device has none."""
    return value.cpu() if value.device.type == "mps" else value


@overload
def moments_of(rows: Mapping[str, Tensor], runs: Sequence[Run], power: Mapping[str, Tensor]) -> Part: ...
@overload
def moments_of(rows: Mapping[str, Tensor], runs: Sequence[Run], power: None = None) -> Part | None: ...
def moments_of(
    rows: Mapping[str, Tensor], runs: Sequence[Run], power: Mapping[str, Tensor] | None = None
) -> Part | None:
    """The moments of a batch whose units are divided by powers of two; None where none are given and squares need them.

    It goes chunk by chunk, so that the shifted copy stays in the cache and no product sums too many rows.
    """
    shift, residual, products = _sums(rows, runs, power, _step(rows))
    comoments = {(tile.a, tile.b): tile.values for tile in _tiles(rows, runs, products)}
    if power is None and not all(_fits(comoments[a, a].diagonal(), rows[a], shift[a]) for a in rows):
        return None
    n_rows = _centre(rows, runs, products, residual)
    mean = {name: _state(shift[name]) + residual[name] for name in rows}
    part = Part(n_rows, mean, comoments, {name: torch.finfo(block.dtype).eps for name, block in rows.items()})
    if power is not None:
        part.multiply(power)
    return part


def is_wide(rows: Mapping[str, Tensor], runs: Sequence[Run]) -> bool:
    """Whether comoments are too many to have them of a batch at once; rows whose squares may not be held are never."""
    entries = sum(rows[a].shape[1] * rows[b].shape[1] for a, partners, _ in runs for b in partners)
    coarse = all(torch.finfo(block.dtype).eps >= _HELD_BY_FLOAT64 for block in rows.values())
    return coarse and entries > _MOST_AT_ONCE


def tiles_of(rows: Mapping[str, Tensor], runs: Sequence[Run], power: Mapping[str, Tensor]) -> Iterator[Tile]:
    """The comoments of a batch, few at a time: what is given out may be used before the next is asked for.

    Where the largest activations are such that no square loses anything, nothing is divided by powers of two.
    """
    least, most = _SAFE_LARGEST
    if all(((each > least) & (each < most)).all() for each in power.values()):
        power = {}
    for some in _waves(rows, runs):
        needed = {name for a, partners, _ in some for name in (a, *partners)}
        few = {name: block for name, block in rows.items() if name in needed}
        _, residual, products = _sums(few, some, power or None, _step(rows))
        _centre(few, some, products, residual)
        for tile in _tiles(few, some, products):
            if power:
                tile.values.mul_(power[tile.a][tile.units][:, None]).mul_(power[tile.b])
            yield tile


def _waves(rows: Mapping[str, Tensor], runs: Sequence[Run]) -> Iterator[list[Run]]:
    """The runs, those of many units cut, some at a time, so that their comoments are not too many."""
    wave, entries = [], 0
    for a, partners, _ in runs:
        across, units = sum(rows[b].shape[1] for b in partners), rows[a].shape[1]
        step = max(1, _MOST_AT_ONCE // across)
        for start in range(0, units, step):
            size = min(step, units - start) * across
            if wave and entries + size > _MOST_AT_ONCE:
                yield wave
                wave, entries = [], 0
            wave.append(Run(a, partners, slice(start, start + step)))
            entries += size
    if wave:
        yield wave


def _step(rows: Mapping[str, Tensor]) -> int:
    """How many rows are shifted and multiplied together."""
    units = [block.shape[1] for block in rows.values()]
    if min(units) < _FEW_UNITS and all(block.device.type == "cpu" for block in rows.values()):
        return _FEW_ROWS
    return max(256, min(_CHUNK_ROWS, _CHUNK_ENTRIES // sum(units)))


def _sums(
    rows: Mapping[str, Tensor], runs: Sequence[Run], power: Mapping[str, Tensor] | None, step: int
) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Tensor]]:
    """What units were shifted by, what is left of their means, and the product of each run."""
    columns, n_rows = _columns(rows), len(next(iter(rows.values())))
    inverse = None if power is None else {name: (1 / power[name]).to(block) for name, block in rows.items()}
    shift = torch.cat([_shift(block, None if inverse is None else inverse[name]) for name, block in rows.items()])
    spans = [_span(columns, run) for run in runs]
    products = [_state(shift).new_zeros(a.stop - a.start, b.stop - b.start) for a, b in spans]
    total = torch.zeros_like(_state(shift))
    for start in range(0, n_rows, step):
        shifted = shift.new_empty(min(step, n_rows - start), len(shift))
        for name, block in rows.items():
            chunk = block[start : start + step]
            chunk = chunk if inverse is None else chunk * inverse[name]
            torch.sub(chunk, shift[columns[name]], out=shifted[:, columns[name]])
        total += _state(shifted.sum(0))
        for product, (a, b) in zip(products, spans, strict=True):
            product += _where_held(shifted[:, a].T @ shifted[:, b])
    residual = total / n_rows
    apart = {name: shift[span] for name, span in columns.items()}
    return apart, {name: residual[span] for name, span in columns.items()}, products


def _centre(
    rows: Mapping[str, Tensor], runs: Sequence[Run], products: list[Tensor], residual: Mapping[str, Tensor]
) -> int:
    """Take off the products, in place, what is left of the means; the number of rows."""
    n_rows = len(next(iter(rows.values())))
    for product, (a, partners, units) in zip(products, runs, strict=True):
        product.addr_(residual[a][units], torch.cat([residual[b] for b in partners]), alpha=-n_rows)
    return n_rows


def _tiles(rows: Mapping[str, Tensor], runs: Sequence[Run], products: list[Tensor]) -> Iterator[Tile]:
    """Views of the products, pair by pair."""
    for product, (a, partners, units) in zip(products, runs, strict=True):
        for b, values in zip(partners, product.split([rows[b].shape[1] for b in partners], dim=1), strict=True):
            yield Tile(a, b, units, values)


def _span(columns: Mapping[str, slice], run: Run) -> tuple[slice, slice]:
    """The columns of a run's units, and those of their partners."""
    own = columns[run.a]
    start, stop, _ = run.units.indices(own.stop - own.start)
    return slice(own.start + start, own.start + stop), slice(
        columns[run.partners[0]].start, columns[run.partners[-1]].stop
    )


def _fits(square: Tensor, block: Tensor, shift: Tensor) -> bool:
    """Whether sums of squares (units,) of shifted rows lost nothing: they are far from both ends, or of dead units."""
    least, most = (end * len(block) for end in _SAFE_SQUARES)
    still = square == 0
    return bool((still | ((square > least) & (square < most))).all() and (block[:, still] == shift[still]).all())


def powers_of(rows: Tensor) -> Tensor:
    """A power of two (units,) float64 near the largest activation of each unit, in the range of their precision."""
    return power_of_two(_state(torch.maximum(rows.amax(0), -rows.amin(0))), rows.dtype)


def require_held(held: Tensor, name: str) -> None:
    """`held` is True of all units (units,): float64 can hold their squares."""
    if not isinstance(held, FakeTensor) and not held.all():
        unit = int((~held).nonzero()[0])
        raise ValueError(
            f"{name}: expected activations whose squares float64 can hold, got too large or too small ones in unit "
            f"{unit}; multiply them by a power of two that brings them near 1"
        )


def _shift(rows: Tensor, inverse: Tensor | None = None) -> Tensor:
    """What is taken off each unit before products: about its mean, (units,); 0 where it is less than a deviation away.

    Products are summed in the rows' own precision. Far from zero that would lose digits; but a unit that is mostly
    silent would, once its zeros were moved, add the same small number thousands of times, and lose them there.
    """
    sample = rows[:: max(1, len(rows) // _SHIFT_ROWS)]
    deviation, mean = torch.std_mean(sample if inverse is None else sample * inverse, 0, correction=0)
    return mean.where(mean.abs() > deviation, 0.0)


def _columns(rows: Mapping[str, Tensor]) -> dict[str, slice]:
    """The columns of each block when they stand side by side."""
    columns, start = {}, 0
    for name, block in rows.items():
        columns[name] = slice(start, start + block.shape[1])
        start = columns[name].stop
    return columns


def runs_of(group: list[str], pairs: list[tuple[str, str]]) -> list[Run]:
    """For each block its partners, cut into runs of neighbours: one product serves a whole run."""
    wanted, runs = set(pairs), []
    for k, a in enumerate(group):
        run: list[str] = []
        for b in [*group[k:], None]:
            if b is not None and (a, b) in wanted:
                run.append(b)
            elif run:
                runs.append(Run(a, run))
                run = []
    return runs


def as_blocks(blocks: Mapping[str, int], *, at_most: int) -> dict[str, int]:
    """Names and numbers of units of blocks, sorted by name."""
    blocks = require_named(blocks, "blocks", "numbers of units")
    for name, units in blocks.items():
        if not is_count(units) or not 1 <= units <= at_most:
            raise ValueError(f"blocks: expected 1 to {at_most} units for {came(name, 60)}, got {came(units)}")
        if "|" in name:
            raise ValueError(f"blocks: expected names without '|', got {came(name)}")
    return {name: int(units) for name, units in sorted(blocks.items())}


def ordered_pairs(names: Iterable[str], pairs: Iterable[tuple[str, str] | list[str]] | None) -> list[tuple[str, str]]:
    """The pairs asked for and every self-pair, once each, sorted, the smaller name first."""
    if pairs is None:
        return [(a, b) for a in names for b in names if a <= b]
    wanted = {(a, a) for a in names}
    for pair in as_list(pairs, "pairs", "pairs of names"):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"pairs: expected pairs of names, got {came(pair)}")
        a, b = pair
        for name in (a, b):
            require_known(name, names, "pairs")
        wanted.add((min(a, b), max(a, b)))
    return sorted(wanted)


def connected(names: Iterable[str], pairs: list[tuple[str, str]]) -> list[list[str]]:
    """Groups of blocks joined by pairs, directly or through others, each in the order of the blocks."""
    group = {name: {name} for name in names}
    for a, b in pairs:
        if group[a] is not group[b]:
            joined = group[a] | group[b]
            group.update(dict.fromkeys(joined, joined))
    seen: dict[int, list[str]] = {}
    for name in names:
        seen.setdefault(id(group[name]), []).append(name)
    return list(seen.values())
