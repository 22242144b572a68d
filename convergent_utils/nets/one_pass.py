"""One pass over the inputs, for all networks and layers at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from ..kernels.checks import came
from ..kernels.moments import Moments
from ..kernels.precision import ordinary_tensors
from ..kernels.streaming_cka import StreamingCKA
from ..making.checksums import checksum
from .activations import captured, draw_places, flat_places, require_common_places, rows_of
from .aligned import AlignedSample, places_of
from .blocks import Block, Kept, Rows
from .distributed import merged, n_processes, same_fate
from .inputs import Entrance, Feed, picked
from .layers import Maps
from .masked import MaskedMaps
from .measurement import Measurement
from .modes import in_one_line
from .naming import Names
from .parts import Call, Known, Options, Part, call_of, counted_in, parts

_ROWS = 2048  # of a block that are taken up together; fewer wait for the next batch
_ENTRIES = 1 << 22  # of these rows, at most, when there are fewer: 16 MB in float32
_BATCHES = 32  # after which everything is taken up, where it may be kept,
_SECONDS_OF_FEW = 5.0  # or after so long
_SECONDS_BETWEEN = 20.0  # two times that what is measured so far is kept, or, where that is more,
_TIMES_AS_LONG = 20.0  # as keeping it took


class Pass:
    """One pass over the inputs, batch by batch, so that every batch is one merge.

    Args:
        networks: by name.
        feed: what they are given. What is held in memory is gone through fold by fold, the rest as it comes.
        entrances: of each network how it takes a batch.
        layers: of each network its layers, by common name.
        options: as `measure` has them.
        device: where the networks are called.
        done: what is measured already of these inputs, to go on from.
        keep: called now and then with what is measured so far, and what is known of the inputs gone through.
        report: called after each batch with the number of inputs gone through.
        known: takes up what the networks are given of every batch of a stream; and refuses what is not as before.
    """

    def __init__(
        self, networks: Mapping[str, nn.Module], feed: Feed, entrances: Mapping[str, Entrance], layers: Names,
        options: Options, *, device: torch.device, done: Measurement | None = None,
        keep: Callable[[Measurement | None], None] | None = None, report: Callable[[int], object] | None = None,
        known: Known | None = None,
    ):  # fmt: skip
        self.networks, self.feed, self.entrances, self.layers, self.options = networks, feed, entrances, layers, options
        self.weights = {name: checksum(network.state_dict()) for name, network in networks.items()}
        self.device, self.done, self.report, self.known = device, done, report, known
        self.keep = None if keep is None else _Seldom(keep)
        self.aligned = AlignedSample(
            options.sample, seed=options.seed, fractions=places_of(options.positions, options.seed)
        )
        self.flattened: StreamingCKA | None = None if done is None else done.flattened
        self.flat: dict[str, Tensor] = {}
        self.moments: list[Moments] = [] if done is None else list(done.folds)
        self.blocks: dict[str, Block] = {}
        self.waiting: list[dict[str, list[Rows]]] = [{} for _ in range(options.folds)]
        self.seen: list[Tensor] = []  # numbers of inputs
        self.told_apart: set[str] = set()  # networks whose tokens were told from inputs
        by_fold = feed.held and not options.flattened  # else what is done is gone through once more
        self.gone = len(done.images) if done is not None and by_fold else 0

    def run(self) -> Measurement:
        """Go through the inputs of this process and merge what all processes found."""
        with same_fate():
            self._go_through()
        found = merged(self._so_far(finished=True))
        if found is None and not self.gone:
            raise ValueError("inputs: expected batches, got none; an iterator that was read is empty")
        if found is None:
            raise ValueError("mask: expected inputs with rows that count, got none")
        return found

    def _go_through(self) -> None:
        """Call the networks on this process's inputs; they return to their devices whatever happens."""
        with ExitStack() as stack:
            readers: dict[str, Callable[[], dict[str, Kept]]] = {}
            for name, network in self.networks.items():
                stack.enter_context(_on_device(network, self.device, name))
                there = self.layers[name]
                capture = captured(
                    network, dict.fromkeys(there.values()), partial(self._kept, name),
                    axes=self.options.axes[name], output=self.options.output[name], of=f"network {name!r}",
                    n_inputs=lambda: self.n,
                )  # fmt: skip
                readers[name] = stack.enter_context(capture)
            done = () if self.done is None else self.done.images
            since, looked = 0, time.monotonic()
            for part, ends in parts(self.feed, self.entrances, self.options, done, self.known):
                self._part(part, readers)
                self._digest(at_least=1 if ends else _ROWS)
                self._went_through(len(part.numbers))
                since += 1
                slow = time.monotonic() - looked > _SECONDS_OF_FEW
                if self.keep is not None and (ends or since == _BATCHES or slow):
                    self._digest(at_least=1)
                    self.keep(self._so_far)
                    since, looked = 0, time.monotonic()
            self._digest(at_least=1)

    def _went_through(self, n: int) -> None:
        self.gone += n
        if self.report is not None:
            self.report(self.gone)

    def _part(self, part: Part, readers: Mapping[str, Callable[[], dict[str, Kept]]]) -> None:
        """Call all networks on a batch, and let what is kept of it wait."""
        if not len(part.mine):
            return
        calls = {name: call_of(name, part) for name in readers}
        counted = counted_in(calls, part)
        if self.options.flattened and n_processes() > 1 and not counted.all():
            message = "several processes cannot compare whole maps where inputs are left out"
            raise ValueError(f"flattened: {message}; measure in one process, or without those inputs")
        if not counted.any():
            return
        numbers, found = part.numbers[part.mine][counted], {}
        self.wanted, self.at = self.aligned.candidates(numbers), numbers.to(self.device)
        positions = self.options.positions
        self.places = self._drawn(part, positions)[counted] if isinstance(positions, int) else None
        for name, read in readers.items():
            for common, kept in self._found(name, calls[name], counted, read).items():
                found[f"{name}.{common}"] = kept
        self._take(found, numbers)

    def _drawn(self, part: Part, positions: int) -> Tensor:
        """Places (mine, positions, 2) of this process's inputs of a batch, as fractions of the map."""
        first, last = int(part.numbers[0]), int(part.numbers[-1])
        drawn = draw_places(np.random.default_rng(self.options.seed), last - first + 1, positions, before=first)
        return drawn[part.numbers[part.mine] - first]

    def _found(self, name: str, call: Call, counted: Tensor, read: Callable) -> dict[str, Kept]:
        """What is kept of a network's layers, by common name."""
        self.n, self.mask = call.n, None if call.mask is None else call.mask[counted.to(call.mask.device)]
        self.which = None if counted.all() and len(call.which) == call.n else call.which[counted].to(self.device)
        self._call(name, call.inputs)
        found = read()
        rows_first = any(kept.kind == "row" and kept.map_size[0] == call.n > 1 for kept in found.values())
        if rows_first and name not in self.told_apart and self.mask is None:
            self._require_inputs_first(name, call, read)
        return {common: found[layer] for common, layer in self.layers[name].items()}

    def _call(self, name: str, inputs: object) -> None:
        """Call a network, in lower precision where that is asked for."""
        lower = nullcontext()
        if self.options.autocast is not None:
            lower = torch.autocast(self.device.type, dtype=self.options.autocast)
        with lower:
            self.entrances[name].call(inputs)

    def _require_inputs_first(self, name: str, call: Call, read: Callable) -> None:
        """Once a network: as many tokens as inputs might be the inputs, which a batch of one less tells."""
        self.told_apart.add(name)
        few = picked(call.inputs, torch.arange(call.n - 1), call.n)
        if few is None or self.which is not None:
            return
        held = self.wanted, self.at, self.places, dict(self.flat)
        self.n, self.at = call.n - 1, self.at[:-1]
        self.wanted = self.aligned.candidates(self.at.cpu())
        self.places = None if self.places is None else self.places[:-1]
        self._call(name, few)
        read()
        self.wanted, self.at, self.places, self.flat = held

    def _take(self, found: Mapping[str, Kept], numbers: Tensor) -> None:
        """Let the rows of all blocks wait to be digested, fold by fold; take up what is wanted of them now."""
        kinds = {name: kept.kind for name, kept in found.items()}
        require_common_places(kinds, self.options.positions)
        for name, kept in found.items():
            if name not in self.blocks:
                self.blocks[name] = Block(kept, self.options.top, self.device)
            self.blocks[name].require_form(name, kept)
        self._require_same_rows(found)
        fold_of = numbers % self.options.folds
        for fold in fold_of.unique().tolist():
            chosen = None if (fold_of == fold).all() else (fold_of == fold).nonzero()[:, 0].to(self.device)
            for name, kept in found.items():
                rows = kept.rows if chosen is None else kept.rows.of(chosen)
                self.waiting[fold].setdefault(name, []).append(rows)
        # the sample is of places of grids where there are any, and tokens have none of them
        grids = self.options.positions == "all" and "grid" in kinds.values()
        sampled = {name: kept.sampled for name, kept in found.items() if not (grids and kept.kind == "row")}
        self.aligned.update(self.wanted, sampled)
        self.seen.append(numbers)
        if self.flat:
            if self.flattened is None:
                pairs = [pair for pair in self.options.pairs if set(pair) <= set(self.flat)]
                self.flattened = StreamingCKA({name: rows.shape[1] for name, rows in self.flat.items()}, pairs=pairs)
            self.flattened.update(self.flat)
            self.flat.clear()

    def _require_same_rows(self, found: Mapping[str, Kept]) -> None:
        """Blocks that meet have as many rows that count of each input."""
        for a, b in self.options.pairs:
            one, other = found[a].rows, found[b].rows
            if one.counted is None and other.counted is None:
                continue
            both = one.counted is not None and other.counted is not None
            same = both and one.counted.equal(other.counted) if self._grids(found[a], found[b]) else True
            if not same or not one.lengths.equal(other.lengths):
                message = f"{came(a, 60)} and {came(b, 60)} have unlike rows that count"
                raise ValueError(f"mask: {message}; give both the same, or take positions='mean'")

    @staticmethod
    def _grids(*kept: Kept) -> bool:
        return any(each.kind == "grid" for each in kept)

    @ordinary_tensors()  # also where a network calls itself in inference mode, or in lower precision
    def _kept(self, network: str, layer: str, maps: Maps) -> Kept:
        """What is kept of a layer's maps until the network returns."""
        values, kind = maps
        if not values.is_floating_point():
            raise ValueError(
                f"layers: {came(layer, 60)} of network {came(network, 60)}: "
                f"expected floating-point outputs, got {values.dtype}"
            )
        values = values if self.which is None else values[self.which]
        positions, masked = self.options.positions, None
        values = _at_least_single(values) if positions == "mean" else values  # a mean has more digits than halves
        if self.mask is not None:
            masked = MaskedMaps(values, self.mask, kind, f"{network}.{layer}")
        for common, there in self.layers[network].items():
            if there == layer and (block := f"{network}.{common}") in self.options.flattened:
                self._flatten(block, values, masked)
        if masked is not None:
            rows = masked.rows(positions, self.places, self.at)
            return Kept(rows, masked.size, kind, self._sample_of_masked(masked, rows))
        places = flat_places(values, positions, self.places)
        rows = Rows(rows_of(values, positions, places), places, self.at, None)
        return Kept(rows, (values.shape[1], values.shape[2]), kind, self._sample_of(values))

    def _flatten(self, block: str, values: Tensor, masked: MaskedMaps | None) -> None:
        """Keep whole maps until all networks are called."""
        units = None if self.flattened is None else self.flattened.blocks[block]
        if units not in (None, values[0].numel()) or not (masked is None or masked.counted.all()):
            message = "has maps of unlike sizes, or places that do not count"
            raise ValueError(f"flattened: {came(block, 60)} {message}; name layers that have none, as pooled ones")
        self.flat[block] = _at_least_single(values.flatten(1)).clone()

    def _sample_of(self, maps: Tensor) -> Tensor:
        """The rows of these maps that are wanted for the aligned sample, at the same places whatever the input."""
        of, positions = self.wanted.of.to(maps.device), self.options.positions
        if len(self.aligned.fractions) == 1:
            maps = maps[of]
            return _at_least_single(rows_of(maps, positions, flat_places(maps, positions, None))[:, 0])
        places = flat_places(maps[:1], len(self.aligned.fractions), self.aligned.fractions[None])[0]
        return _at_least_single(maps.flatten(1, 2)[of, places[self.wanted.places.to(maps.device)]])

    def _sample_of_masked(self, masked: MaskedMaps, rows: Rows) -> Tensor:
        """As `_sample_of`, where not all rows count."""
        of = self.wanted.of.to(rows.values.device)
        if len(self.aligned.fractions) == 1:
            return _at_least_single(rows.values[of, 0])
        return _at_least_single(masked.sampled(of, self.wanted.places, self.aligned.fractions))

    def _digest(self, *, at_least: int) -> None:
        """Take up the batches of all blocks that have enough rows waiting, so that narrow ones go in few steps."""
        if not self.moments and any(self.waiting):
            self._start()
        widest = max((block.units for block in self.blocks.values()), default=1)
        at_least = min(at_least, max(1, _ENTRIES // widest))
        for fold, blocks in enumerate(self.waiting):
            ready = {}
            for name, waiting in blocks.items():
                if waiting and sum(rows.values[:, :, 0].numel() for rows in waiting) >= at_least:
                    rows = Rows.joined(waiting)
                    waiting.clear()
                    self.blocks[name].add(rows)
                    ready[name] = rows.samples
            if ready:
                self._update(fold, ready)

    def _update(self, fold: int, rows: Mapping[str, Tensor]) -> None:
        try:
            self.moments[fold].update(rows)
        except ValueError as error:  # it names the block
            raise ValueError(f"inputs: {in_one_line(error, 250)}") from error

    def _start(self) -> None:
        """Make the moments, now that places and units of all blocks are known."""
        units = {name: block.units for name, block in self.blocks.items()}
        self.moments = [Moments(units, pairs=self.options.pairs) for _ in range(self.options.folds)]
        for a, b in self.options.pairs:
            kinds = [self.blocks[name].kind for name in (a, b)]
            if self.options.positions != "mean" and {"grid", "row"} <= set(kinds):
                row, grid = (came((a, b)[kinds.index(kind)], 70) for kind in ("row", "grid"))
                message = f"the tokens of {row} are no places of the grid of {grid}"
                raise ValueError(f"positions: {message}; they meet under 'mean' alone")
            places = [len(self.blocks[name].sum) for name in (a, b)]
            masked = [self.blocks[name].masked for name in (a, b)]
            if places[0] != places[1] and not all(masked):
                raise ValueError(
                    f"pairs: expected blocks with the same samples, got {places[0]} places of {in_one_line(a, 60)} "
                    f"and {places[1]} of {in_one_line(b, 60)}; positions='mean' or a number gives both the same"
                )

    def _so_far(self, *, finished: bool = False) -> Measurement | None:
        """What this process measured, and what was done before; None of no inputs."""
        flattened = self.flattened.finished() if self.flattened and finished else self.flattened
        if not self.seen:
            return None if self.done is None else replace(self.done, flattened=flattened)
        blocks, seen = self.blocks, torch.cat(self.seen)
        counted = {name: block.counted_rows() for name, block in blocks.items()}
        with_map = not isinstance(self.options.positions, int)
        found = Measurement(
            networks=self.weights,
            images=seen.sort().values,
            positions=self.options.positions,
            folds=tuple(map(self._on_cpu, self.moments)),
            aligned=self.aligned.arranged(),
            n_top=self.options.top,
            tops={name: block.top() for name, block in blocks.items()},
            maps={name: block.mean_map(len(seen)) for name, block in blocks.items() if with_map},
            active={name: block.active_share(len(seen)) for name, block in blocks.items()},
            counted={name: rows for name, rows in counted.items() if rows is not None},
        )
        if self.done is not None:
            found = self.done.beside(found, found.folds, flattened)
        return replace(found, flattened=flattened)

    def _on_cpu(self, moments: Moments) -> Moments:
        """The same object where it is there."""
        if self.device.type == "cpu":
            return moments
        return Moments.from_state({key: value.cpu() for key, value in moments.state().items()})


class _Seldom:
    """Calls `keep` with what is made: every 20 seconds at most, and for a small share of the time."""

    def __init__(self, keep: Callable[[Measurement | None], None]):
        self.keep, self.again = keep, time.monotonic() + _SECONDS_BETWEEN

    def __call__(self, make: Callable[[], Measurement | None]) -> None:
        """Make it and keep it, if it is time."""
        start = time.monotonic()
        if start >= self.again:
            self.keep(make())
            took = time.monotonic() - start
            self.again = start + took + max(_SECONDS_BETWEEN, _TIMES_AS_LONG * took)


@contextmanager
def _on_device(network: nn.Module, device: torch.device, name: str) -> Generator[None]:
    """Within it the network is on the device; afterwards it is where it was. One that is there is not touched."""
    held = [value.device for value in chain(network.parameters(), network.buffers())]
    home = held[0] if held else torch.device("cpu")
    if all(place == device for place in [home, *held]):
        yield
        return
    try:
        try:
            network.to(device)
        except (RuntimeError, TypeError, NotImplementedError) as error:
            message = f"network {came(name, 60)} cannot be moved to {device}"
            raise ValueError(f"device: {message}; try device={home.type!r}: {in_one_line(error, 100)}") from error
        yield
    finally:
        network.to(home)


def _at_least_single(values: Tensor) -> Tensor:
    """In float32, or float64 where they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
