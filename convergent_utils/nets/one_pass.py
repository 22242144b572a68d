"""One pass over the images, for all networks and layers at once."""

from __future__ import annotations

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
from .activations import ONE_PLACE, captured, draw_places, flat_places, require_common_places, rows_of
from .datasets import normalise
from .distributed import all_reduce, gather, same_fate, share, sum_over_processes
from .layers import Maps, unwrapped
from .measurement import Measurement, Top
from .modes import called, in_one_line, input_like

_BATCH = 128
_ROWS = 2048  # of a block that are taken up together; fewer wait for the next batch
_PLACES_IN_SAMPLE = 4
_CHUNK_ENTRIES = 1 << 18  # of rows looked at more than once: 1 MB stays in the cache


class Pass:
    """One pass over the images, fold by fold, batch by batch, so that every batch is one merge.

    Args:
        networks, images, layers, positions, folds, top, seed, device: as `measure` has them once they are read.
        pairs: of blocks that meet; None: the same layer in all networks.
        axes: see `record`.
        sample: see `measure`.
    """

    def __init__(self, networks, images, layers, *, pairs, positions, axes, folds, sample, top, seed, device):
        self.networks, self.images, self.layers, self.pairs, self.axes = dict(networks), images, layers, pairs, axes
        self.positions, self.n_folds, self.n_top, self.device = positions, folds, top, device
        generator = np.random.default_rng(seed)
        self.drawn = draw_places(generator, len(images), positions)
        one = {"mean": 0.5, **ONE_PLACE}.get(positions)
        places = _PLACES_IN_SAMPLE if one is None else 1
        rows = generator.permutation(len(images))[: max(2, sample // places)]
        self.sample_images = torch.from_numpy(np.sort(rows))
        fractions = generator.random((places, 2)) if one is None else np.full((1, 2), one)
        self.sample_places = torch.from_numpy(fractions)
        self.moments: list[Moments] = []
        self.blocks: dict[str, _Block] = {}
        self.waiting: dict[str, list[_Rows]] = {}
        self.told_apart: set[str] = set()  # networks whose tokens were told from images

    def run(self) -> Measurement:
        """Go through the images of this process and join what all processes found."""
        with same_fate():
            self._go_through()
        self._join()
        return self._result()

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
                mine = share(torch.arange(fold, len(self.images), self.n_folds))
                for index in mine.split(_BATCH) if len(mine) else ():
                    self._batch(index, readers)
                    self._digest(fold, at_least=_ROWS)
                self._digest(fold, at_least=1)

    def _join(self) -> None:
        """Make of what is kept beside the moments what all processes kept."""
        forms = gather({name: block.form for name, block in self.blocks.items()})
        for name, form in next(filter(None, forms)).items():
            if name not in self.blocks:  # none of the images were this process's
                self.blocks[name] = _Block(*form, self.device)
        if not self.moments:
            self._start({name: block.sum.shape for name, block in self.blocks.items()})
        for block in self.blocks.values():
            block.join()

    def _batch(self, index: Tensor, readers: Mapping[str, Callable[[], dict[str, _Kept]]]) -> None:
        """Call all networks on the images of this index."""
        self._look_at(index)
        images = as_inputs(self.images[index])
        for name, read in readers.items():
            found = self._found(name, images, read)
            if any(kept.kind == "row" and kept.map_size[0] == len(index) > 1 for kept in found.values()):
                self._require_inputs_first(name, index, read)
            for layer, kept in found.items():
                self._take(f"{name}.{layer}", kept)
        require_common_places({name: block.kind for name, block in self.blocks.items()}, self.positions)

    def _found(self, name: str, images: Tensor, read: Callable[[], dict[str, _Kept]]) -> dict[str, _Kept]:
        """What is kept of a network's layers on these images."""
        network = self.networks[name]
        called(unwrapped(network), inputs_of(network, images, self.device), "images", name)
        return read()

    def _require_inputs_first(self, name: str, index: Tensor, read: Callable[[], dict[str, _Kept]]) -> None:
        """Once a network: as many tokens as images might be the images, which a batch of one less tells."""
        if name not in self.told_apart:
            self.told_apart.add(name)
            self._look_at(index[:-1])
            self._found(name, as_inputs(self.images[index[:-1]]), read)
            self._look_at(index)

    def _look_at(self, index: Tensor) -> None:
        """What is kept of the images of this index: their rows, and those of the aligned sample among them."""
        slot = torch.searchsorted(self.sample_images, index).clamp(max=len(self.sample_images) - 1)
        # which images of the batch are in the aligned sample, and where in it
        sampled = (self.sample_images[slot] == index).nonzero()[:, 0]
        self.slot, self.sampled = slot[sampled].to(self.device), sampled.to(self.device)
        self.index, self.places = index.to(self.device), None if self.drawn is None else self.drawn[index]

    def _take(self, name: str, kept: _Kept) -> None:
        """Let the rows of a block wait to be digested, and fill its part of the aligned sample."""
        rows = kept.rows.values
        if name not in self.blocks:
            sampled = (len(self.sample_images), len(self.sample_places))
            form = (kept.map_size, rows.shape[1:], sampled, self.n_top, rows.dtype, kept.kind)
            self.blocks[name] = _Block(*form, self.device)
        self.blocks[name].require_form(name, kept)
        self.blocks[name].sample[self.slot] = kept.sampled
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
        rows = _Rows(rows_of(values, self.positions, places), places, self.index)
        return _Kept(rows, tuple(values.shape[1:3]), kind, self._sample_of(values))

    def _sample_of(self, maps: Tensor) -> Tensor:
        """The rows of the sampled images among these maps, at the same places whatever the image."""
        if len(self.sample_places) == 1:
            maps = maps[self.sampled]
            return _at_least_single(rows_of(maps, self.positions, flat_places(maps, self.positions, None)))
        places = flat_places(maps[:1], len(self.sample_places), self.sample_places[None])
        return _at_least_single(maps.flatten(1, 2)[self.sampled[:, None], places])

    def _digest(self, fold: int, *, at_least: int) -> None:
        """Take up the batches of all blocks that have enough rows waiting, so that narrow ones go in few steps."""
        if self.waiting and not self.moments:
            self._start({name: rows[0].values.shape[1:] for name, rows in self.waiting.items()})
        ready = {}
        for name, waiting in self.waiting.items():
            if waiting and sum(rows.values[:, :, 0].numel() for rows in waiting) >= at_least:
                rows = (
                    waiting[0]
                    if len(waiting) == 1
                    else _Rows(*(_joined(parts) for parts in zip(*waiting, strict=True)))
                )
                self.blocks[name].add(rows)
                ready[name] = rows.values.flatten(0, 1)
        if ready:
            self._update(fold, ready)
        for name in ready:
            self.waiting[name].clear()

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

    def _result(self) -> Measurement:
        n_images, blocks = len(self.images), self.blocks
        states = [all_reduce(moments.state()) for moments in self.moments]
        on_cpu = [{key: value.cpu() for key, value in state.items()} for state in states]
        has_map = self.drawn is None
        grids = self.positions == "all" and any(block.kind == "grid" for block in blocks.values())
        # the sample is of places of grids where there are any, and tokens have none of them
        aligned = [name for name, block in blocks.items() if not (grids and block.kind == "row")]
        return Measurement(
            n_images=n_images,
            positions=self.positions,
            folds=tuple(Moments.from_state(state) for state in on_cpu),
            sample_images=self.sample_images.repeat_interleave(len(self.sample_places)),
            sample_places=self.sample_places.repeat(len(self.sample_images), 1),
            samples={name: blocks[name].sample.flatten(0, 1).cpu() for name in aligned},
            tops={name: block.top() for name, block in blocks.items()},
            maps={name: block.mean_map(n_images) for name, block in blocks.items() if has_map},
            active={name: block.active_share(n_images) for name, block in blocks.items()},
        )


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
        sampled: images and places of the aligned sample.
        n_top: strongest stimuli kept per unit.
        dtype: of the activations.
        kind: of its maps, see `Maps`.
        device: where it is kept.
    """

    def __init__(self, map_size, rows, sampled, n_top, dtype, kind, device):
        self.form = (map_size, tuple(rows), sampled, n_top, dtype, kind)  # all that another process needs to know
        self.map_size, self.n_top, self.kind, units = map_size, n_top, kind, rows[1]
        precise = torch.float32 if device.type == "mps" else torch.float64
        self.sample = torch.zeros(*sampled, units, dtype=torch.promote_types(dtype, torch.float32), device=device)
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
        rows, places, images = batch
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
        as_image = rows[:, :, None].permute(0, 3, 1, 2)  # the pooling of images is the one maximum that is fast
        value, place = (x.flatten(1) for x in adaptive_max_pool2d(as_image, 1, return_indices=True))
        place = place if places is None else places.gather(1, place)
        self.candidates.append((value, images[:, None].expand_as(place), place))
        if sum(len(value) for value, _, _ in self.candidates) >= _ROWS:
            self._rank()

    def _rank(self) -> None:
        """Keep the strongest of those kept before and of the candidates since."""
        if self.candidates:
            joined = zip(self.strongest, *self.candidates, strict=True)
            self.strongest = _strongest(*(torch.cat(parts) for parts in joined), self.n_top)
            self.candidates.clear()

    def join(self) -> None:
        """Make of what this process kept what all of them kept: each sampled image was in exactly one."""
        self._rank()
        self.sum, self.active, self.sample = sum_over_processes([self.sum, self.active, self.sample])
        everyone = gather(tuple(x.cpu() for x in self.strongest))
        strongest = _strongest(*(torch.cat(parts) for parts in zip(*everyone, strict=True)), self.n_top)
        by_image = strongest[1].argsort(dim=0)
        by_value = strongest[0].gather(0, by_image).argsort(dim=0, descending=True, stable=True)
        self.strongest = tuple(x.gather(0, by_image.gather(0, by_value)) for x in strongest)

    def top(self) -> Top:
        """The strongest stimuli, as kept in the measurement."""
        value, image, place = (x.T for x in self.strongest)
        return Top(value, image, torch.stack((place // self.map_size[1], place % self.map_size[1]), dim=2))

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
