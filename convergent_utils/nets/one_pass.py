"""One pass over the images, for all networks and layers at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d

from ..kernels.checks import came
from ..kernels.moments import Moments
from ..kernels.precision import ordinary_tensors
from ..making.checksums import checksum
from .activations import (
    captured,
    draw_places,
    flat_places,
    require_common_places,
    rows_of,
)
from .aligned import AlignedSample, places_of
from .datasets import normalise
from .distributed import merged, same_fate, share
from .layers import Maps, unwrapped
from .measurement import Measurement, Top
from .modes import called, in_one_line, input_like

_BATCH = 128
_ROWS = 2048  # of a block that are taken up together; fewer wait for the next batch
_ENTRIES = 1 << 22  # of these rows, at most, when there are fewer: 16 MB in float32
_CANDIDATES = 1 << 19  # for the strongest stimuli that wait to be ranked
_BATCHES = 32  # after which everything is taken up, where it may be kept
_SECONDS_BETWEEN = 60.0  # two times that what is measured so far is kept, or, where that is more,
_TIMES_AS_LONG = 20.0  # as keeping it took
_CHUNK_ENTRIES = 1 << 18  # of rows looked at more than once: 1 MB stays in the cache


class Pass:
    """One pass over the images, fold by fold, batch by batch, so that every batch is one merge.

    Args:
        networks, images, layers, positions, folds, top, seed, device: as `measure` has them once they are read.
        pairs: of blocks that meet; None: the same layer in all networks.
        axes: see `record`.
        sample, first: see `measure`.
        done: what is measured already of these images, to go on from.
        keep: called now and then with what is measured so far.
    """

    def __init__(
        self, networks, images, layers, *, pairs, positions, axes, folds, sample, top, seed, first, device,
        done: Measurement | None = None, keep: Callable[[Measurement], None] | None = None,
    ):  # fmt: skip
        self.networks, self.images, self.layers, self.pairs, self.axes = dict(networks), images, layers, pairs, axes
        self.weights = {name: checksum(network.state_dict()) for name, network in networks.items()}
        self.positions, self.n_folds, self.n_top, self.device, self.first = positions, folds, top, device, first
        self.drawn = draw_places(np.random.default_rng(seed), len(images), positions, before=first)
        self.aligned = AlignedSample(sample, seed=seed, fractions=places_of(positions, seed))
        self.done, self.keep = done, None if keep is None else _Seldom(keep)
        self.moments: list[Moments] = [] if done is None else list(done.folds)
        self.blocks: dict[str, _Block] = {}
        self.waiting: dict[str, list[_Rows]] = {}
        self.seen: list[Tensor] = []  # numbers of images
        self.told_apart: set[str] = set()  # networks whose tokens were told from images

    def run(self) -> Measurement:
        """Go through the images of this process and merge what all processes found."""
        with same_fate():
            self._go_through()
        return merged(self._so_far())

    def _go_through(self) -> None:
        """Call the networks on this process's images; they return to their devices whatever happens."""
        with ExitStack() as stack:
            readers = {}
            for name, network in self.networks.items():
                stack.enter_context(_on_device(network, self.device, name))
                keep = partial(self._kept, name)
                capture = captured(network, self.layers, keep, axes=self.axes, of=f"network {name!r}")
                readers[name] = stack.enter_context(capture)
            for fold in range(self.n_folds):
                mine = self._mine(fold)
                for number, batch in enumerate(mine.split(_BATCH) if len(mine) else (), start=1):
                    self._batch(batch, readers)
                    self._digest(fold, at_least=_ROWS)
                    if self.keep is not None and number % _BATCHES == 0:
                        self._digest(fold, at_least=1)
                        self.keep(self._so_far)
                self._digest(fold, at_least=1)
                if self.keep is not None:
                    self.keep(self._so_far)

    def _mine(self, fold: int) -> Tensor:
        """Numbers of the images of a fold that are left to this process."""
        numbers = torch.arange(self.first, self.first + len(self.images))
        mine = share(numbers[numbers % self.n_folds == fold])
        return mine if self.done is None else mine[~torch.isin(mine, self.done.images)]

    def _batch(self, numbers: Tensor, readers: Mapping[str, Callable[[], dict[str, _Kept]]]) -> None:
        """Call all networks on the images with these numbers."""
        self._look_at(numbers)
        images, found = as_inputs(self.images[numbers - self.first]), {}
        for name, read in readers.items():
            kept_of = self._found(name, images, read)
            if any(kept.kind == "row" and kept.map_size[0] == len(numbers) > 1 for kept in kept_of.values()):
                self._require_inputs_first(name, numbers, read)
            for layer, kept in kept_of.items():
                found[f"{name}.{layer}"] = kept
                self._take(f"{name}.{layer}", kept)
        kinds = {name: kept.kind for name, kept in found.items()}
        require_common_places(kinds, self.positions)
        # the sample is of places of grids where there are any, and tokens have none of them
        grids = self.positions == "all" and "grid" in kinds.values()
        sampled = {name: kept.sampled for name, kept in found.items() if not (grids and kept.kind == "row")}
        self.aligned.update(self.wanted, sampled)
        self.seen.append(numbers)

    def _found(self, name: str, images: Tensor, read: Callable[[], dict[str, _Kept]]) -> dict[str, _Kept]:
        """What is kept of a network's layers on these images."""
        network = self.networks[name]
        called(unwrapped(network), inputs_of(network, images, self.device), "images", name)
        return read()

    def _require_inputs_first(self, name: str, numbers: Tensor, read: Callable[[], dict[str, _Kept]]) -> None:
        """Once a network: as many tokens as images might be the images, which a batch of one less tells."""
        if name not in self.told_apart:
            self.told_apart.add(name)
            self._look_at(numbers[:-1])
            self._found(name, as_inputs(self.images[numbers[:-1] - self.first]), read)
            self._look_at(numbers)

    def _look_at(self, numbers: Tensor) -> None:
        """What is kept of the images with these numbers: their rows, and those wanted for the aligned sample."""
        self.wanted, self.numbers = self.aligned.candidates(numbers), numbers.to(self.device)
        self.places = None if self.drawn is None else self.drawn[numbers - self.first]

    def _take(self, name: str, kept: _Kept) -> None:
        """Let the rows of a block wait to be digested."""
        rows = kept.rows.values
        if name not in self.blocks:
            form = (kept.map_size, rows.shape[1:], self.n_top, rows.dtype, kept.kind)
            self.blocks[name] = _Block(*form, self.device)
        self.blocks[name].require_form(name, kept)
        self.waiting.setdefault(name, []).append(kept.rows)

    @ordinary_tensors()  # also where a network calls itself in inference mode
    def _kept(self, network: str, layer: str, maps: Maps) -> _Kept:
        """What is kept of a layer's maps until the network returns."""
        values, kind = maps
        if not values.is_floating_point():
            raise ValueError(
                f"layers: {came(layer, 60)} of network {came(network, 60)}: "
                f"expected floating-point outputs, got {values.dtype}"
            )
        places = flat_places(values, self.positions, self.places)
        rows = _Rows(rows_of(values, self.positions, places), places, self.numbers)
        return _Kept(rows, tuple(values.shape[1:3]), kind, self._sample_of(values))

    def _sample_of(self, maps: Tensor) -> Tensor:
        """The rows of these maps that are wanted for the aligned sample, at the same places whatever the image."""
        of = self.wanted.of.to(maps.device)
        if len(self.aligned.fractions) == 1:
            maps = maps[of]
            return _at_least_single(rows_of(maps, self.positions, flat_places(maps, self.positions, None))[:, 0])
        places = flat_places(maps[:1], len(self.aligned.fractions), self.aligned.fractions[None])[0]
        return _at_least_single(maps.flatten(1, 2)[of, places[self.wanted.places.to(maps.device)]])

    def _digest(self, fold: int, *, at_least: int) -> None:
        """Take up the batches of all blocks that have enough rows waiting, so that narrow ones go in few steps."""
        if self.waiting and not self.moments:
            self._start({name: rows[0].values.shape[1:] for name, rows in self.waiting.items()})
        ready, widest = {}, max((block.units for block in self.blocks.values()), default=1)
        at_least = min(at_least, max(1, _ENTRIES // widest))
        for name, waiting in self.waiting.items():
            if waiting and sum(rows.values[:, :, 0].numel() for rows in waiting) >= at_least:
                rows = waiting[0]
                if len(waiting) > 1:
                    rows = _Rows(*(_joined(parts) for parts in zip(*waiting, strict=True)))
                waiting.clear()
                self.blocks[name].add(rows)
                ready[name] = rows.values.flatten(0, 1)
        if ready:
            self._update(fold, ready)

    def _update(self, fold: int, rows: Mapping[str, Tensor]) -> None:
        try:
            self.moments[fold].update(rows)
        except ValueError as error:  # it names the block
            raise ValueError(f"images: {in_one_line(error, 250)}") from error

    def _start(self, shapes: dict[str, torch.Size]) -> None:
        """Make the moments, now that places and units of all blocks are known."""
        pairs, nets = self.pairs, self.networks
        if pairs is None:
            pairs = [(f"{a}.{layer}", f"{b}.{layer}") for layer in self.layers for a in nets for b in nets]
        self.moments = [Moments({name: s[1] for name, s in shapes.items()}, pairs=pairs) for _ in range(self.n_folds)]
        for a, b in pairs:
            kinds = [self.blocks[name].kind for name in (a, b)]
            if self.positions != "mean" and {"grid", "row"} <= set(kinds):
                row, grid = (came((a, b)[kinds.index(kind)], 70) for kind in ("row", "grid"))
                message = f"the tokens of {row} are no places of the grid of {grid}"
                raise ValueError(f"positions: {message}; they meet under 'mean' alone")
            if shapes[a][0] != shapes[b][0]:
                raise ValueError(
                    f"pairs: expected blocks with the same samples, got {shapes[a][0]} places of {in_one_line(a, 60)} "
                    f"and {shapes[b][0]} of {in_one_line(b, 60)}; positions='mean' or a number gives both the same"
                )

    def _so_far(self) -> Measurement | None:
        """What this process measured, and what was done before; None of no images."""
        if not self.seen:
            return self.done
        blocks, seen = self.blocks, torch.cat(self.seen)
        found = Measurement(
            networks=self.weights,
            images=seen.sort().values,
            positions=self.positions,
            folds=tuple(map(self._on_cpu, self.moments)),
            aligned=self.aligned.arranged(),
            n_top=self.n_top,
            tops={name: block.top() for name, block in blocks.items()},
            maps={name: block.mean_map(len(seen)) for name, block in blocks.items() if self.drawn is None},
            active={name: block.active_share(len(seen)) for name, block in blocks.items()},
        )
        return found if self.done is None else self.done.beside(found, found.folds)

    def _on_cpu(self, moments: Moments) -> Moments:
        """The same object where it is there."""
        if self.device.type == "cpu":
            return moments
        return Moments.from_state({key: value.cpu() for key, value in moments.state().items()})


class _Seldom:
    """Calls `keep` with what is made: once a minute at most, and for a small share of the time."""

    def __init__(self, keep: Callable[[Measurement], None]):
        self.keep, self.again = keep, time.monotonic() + _SECONDS_BETWEEN

    def __call__(self, make: Callable[[], Measurement | None]) -> None:
        """Make it and keep it, if it is time."""
        start = time.monotonic()
        if start >= self.again:
            self.keep(make())
            took = time.monotonic() - start
            self.again = start + took + max(_SECONDS_BETWEEN, _TIMES_AS_LONG * took)


class _Rows(NamedTuple):
    """Activations (n, places, units), their places as in `flat_places`, and the index (n,) of their images."""

    values: Tensor
    places: Tensor | None
    images: Tensor


class _Kept(NamedTuple):
    """Of one layer in one batch: its rows, the height, width and kind of its maps, its rows of the aligned sample."""

    rows: _Rows
    map_size: tuple[int, int]
    kind: str
    sampled: Tensor


def _at_least_single(values: Tensor) -> Tensor:
    """In float32, or float64 where they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _joined(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    return None if parts[0] is None else torch.cat(parts)


class _Block:
    """What is kept of one block beside its moments, summed up batch by batch on its device.

    Args:
        map_size: height and width.
        rows: places and units of each image.
        n_top: strongest stimuli kept per unit.
        dtype: of the activations.
        kind: of its maps, see `Maps`.
        device: where it is kept.
    """

    def __init__(self, map_size, rows, n_top, dtype, kind, device):
        self.map_size, self.n_top, self.kind, self.units = map_size, n_top, kind, rows[1]
        units = self.units
        precise = torch.float32 if device.type == "mps" else torch.float64
        self.sum = torch.zeros(*rows, dtype=precise, device=device)
        self.active = torch.zeros(units, dtype=precise, device=device)
        none = torch.zeros(0, units, dtype=torch.int64, device=device)
        # value, image, place, each (top, units)
        self.strongest = (torch.zeros(0, units, dtype=dtype, device=device), none, none)
        self.candidates: list[tuple[Tensor, Tensor, Tensor]] = []  # one stimulus of each image, not ranked yet

    def require_form(self, name: str, kept: _Kept) -> None:
        """These maps are as those of the batches before."""
        came, before = (kept.map_size, kept.rows.values.shape[2]), (self.map_size, self.sum.shape[1])
        if came != before:
            message = f"expected maps and units of one size for all images, got {before} and {came}"
            raise ValueError(f"images: {in_one_line(name)}: {message}")

    def add(self, batch: _Rows) -> None:
        """Add the rows of a batch."""
        rows = batch.values
        precise = torch.promote_types(rows.dtype, torch.float32)
        total, active = torch.zeros_like(rows[0], dtype=precise), torch.zeros_like(rows[0, 0], dtype=precise)
        for part in rows.split(max(1, _CHUNK_ENTRIES // rows[0].numel())):
            total += part.sum(0, dtype=precise)
            # ones and zeros as floats: many times faster to write and to sum than booleans
            active += torch.ne(part, 0, out=torch.empty_like(part)).sum((0, 1), dtype=precise)
        if not total.isfinite().all():  # near the largest float32 the sum of a batch is above it
            total = rows.sum(0, dtype=self.sum.dtype)
        self.sum += total
        self.active += active
        for few in torch.arange(len(rows)).split(max(1, _CANDIDATES // self.units)):
            self._add_candidates(*(None if part is None else part[few[0] : few[-1] + 1] for part in batch))

    def _add_candidates(self, rows: Tensor, places: Tensor | None, images: Tensor) -> None:
        """Of each image and unit the strongest of its rows."""
        as_image = rows[:, :, None].permute(0, 3, 1, 2)  # the pooling of images is the one maximum that is fast
        value, place = (x.flatten(1) for x in adaptive_max_pool2d(as_image, 1, return_indices=True))
        place = place if places is None else places.gather(1, place)
        self.candidates.append((value, images[:, None].expand_as(place), place))
        if sum(value.numel() for value, _, _ in self.candidates) >= _CANDIDATES:
            self._rank()

    def _rank(self) -> None:
        """Keep the strongest of those kept before and of the candidates since."""
        if self.candidates:
            joined = zip(self.strongest, *self.candidates, strict=True)
            self.strongest = _strongest(*(torch.cat(parts) for parts in joined), self.n_top)
            self.candidates.clear()

    def top(self) -> Top:
        """The strongest stimuli, as kept in the measurement."""
        self._rank()
        value, image, place = (x.T.cpu() for x in self.strongest)
        places = torch.stack((place // self.map_size[1], place % self.map_size[1]), dim=2)
        return Top(value, image, places).ranked(self.n_top)

    def mean_map(self, n_images: int) -> Tensor:
        """(height, width, units); one place where rows are the centre or the mean."""
        shape = self.map_size if len(self.sum) == self.map_size[0] * self.map_size[1] else (1, 1)
        return (self.sum.cpu().double() / n_images).reshape(*shape, -1)

    def active_share(self, n_images: int) -> Tensor:
        """(units,) the share of rows that are not zero."""
        return self.active.cpu().double() / (n_images * len(self.sum))


def _strongest(value: Tensor, image: Tensor, place: Tensor, n_top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each unit the strongest and, among equals, the earliest images; each (stimuli, units), in no order.

    Equals are common (many images are dark somewhere); ranking them makes the result the same however images are split.
    """
    n_top = min(n_top, len(value))
    weakest = value.topk(n_top, dim=0).values[-1]
    preference = (-image).int().masked_fill(value > weakest, 1).masked_fill(value < weakest, torch.iinfo(torch.int).min)
    kept = preference.topk(n_top, dim=0).indices
    return value.gather(0, kept), image.gather(0, kept), place.gather(0, kept)


def as_inputs(images: Tensor) -> Tensor:
    """Images as networks take them, but for type and device."""
    return normalise(images) if images.dtype == torch.uint8 and images.ndim == 4 else images


def inputs_of(network: nn.Module, images: Tensor, device: torch.device | None = None) -> Tensor:
    """Floating-point images in the type of the network's weights, on a device or where the network is."""
    like = input_like(network)
    return images.to(device or like.device, like.dtype if images.is_floating_point() else images.dtype)


@contextmanager
def _on_device(network: nn.Module, device: torch.device, name: str) -> Iterator[None]:
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
