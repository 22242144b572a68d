"""One pass over the images, for all networks and layers at once, keeps all that the notebooks ask for."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d

from ..kernels import moments as moments_module
from ..kernels.checks import require_known
from ..kernels.moments import Moments, PairMoments
from ..kernels.precision import ordinary_tensors
from . import activations, distributed
from .activations import Positions, captured, draw_places, flat_places, require_positions, rows_of
from .datasets import normalise
from .distributed import all_reduce, gather, n_processes, rank, require_alike, same_fate, share, sum_over_processes
from .store import Store, checksum

_BATCH = 128
_ROWS = 2048  # of a block that are taken up together; fewer wait for the next batch
_PLACES_IN_SAMPLE = 4
_CHUNK_ENTRIES = 1 << 18  # of rows looked at more than once: 1 MB stays in the cache


@dataclass(frozen=True)
class Top:
    """The strongest stimuli of each unit, strongest first, one place per image.

    Attributes:
        value: (units, top) activation.
        image: (units, top) int64 index of the image.
        place: (units, top, 2) int64 row and column on the map; 0 where rows have no place (positions="mean").
    """

    value: Tensor
    image: Tensor
    place: Tensor


@dataclass(frozen=True)
class Measurement:
    """What `measure` keeps. Blocks are named "network.layer"; activations are after the layer's non-linearity.

    Attributes:
        n_images: number of images.
        positions: as given to `measure`.
        sample_images: (rows,) int64, the image of each row of the aligned sample.
        sample_places: (rows, 2) its place as fractions (down, across) of the map.
    """

    n_images: int
    positions: Positions
    folds: tuple[Moments, ...]
    sample_images: Tensor
    sample_places: Tensor
    samples: dict[str, Tensor]
    tops: dict[str, Top]
    maps: dict[str, Tensor]
    active: dict[str, Tensor]

    @property
    def blocks(self) -> dict[str, int]:
        """Names of the blocks and their numbers of units."""
        return self.folds[0].blocks

    def pair(self, a: str, b: str, *, fold: int | Iterable[int] | None = None) -> PairMoments:
        """Moments of two blocks, over all images, or those of one fold or several merged.

        Image k is in fold k modulo the number of folds.

        Raises:
            ValueError: unknown blocks or fold, a pair that was not measured.
        """
        if fold is None:
            return self._merged(range(len(self.folds))).pair(a, b)
        chosen = [fold] if isinstance(fold, int | np.integer) else list(fold)
        if not chosen or any(k not in range(len(self.folds)) for k in chosen):
            raise ValueError(f"fold: expected 0 to {len(self.folds) - 1}, or several of them, got {fold}")
        return self._merged(chosen).pair(a, b)

    def _merged(self, chosen: Iterable[int]) -> Moments:
        """The moments of these folds together, merged once."""
        key = tuple(sorted(set(chosen)))
        if key not in self._merges:
            self._merges[key] = reduce(Moments.merge, [self.folds[k] for k in key])
        return self._merges[key]

    @cached_property
    def _merges(self) -> dict[tuple[int, ...], Moments]:
        return {}

    def layout(self, a: str, b: str) -> PairMoments:
        r"""The moments of a with b when images are shuffled and places kept, in closed form.

        .. math:: \Sigma^{layout}_{ab} = \frac1P \sum_p (\bar a(p) - \mu_a)(\bar b(p) - \mu_b)^\top

        where :math:`\bar a(p)` is the mean map. This is the mean of the covariance over all permutations of the images.
        Means and variances are those of the whole, so `correlation` of it is the shuffled-image baseline.

        Raises:
            ValueError: positions are not "all", or the two maps differ in size.
        """
        if self.positions != "all":
            raise ValueError(f"positions: the layout needs positions='all', this measurement has {self.positions!r}")
        pair, map_a, map_b = self.pair(a, b), self.mean_map(a), self.mean_map(b)
        if map_a.shape[:2] != map_b.shape[:2]:
            raise ValueError(
                f"b: expected a map of {tuple(map_a.shape[:2])} places as in a, got {tuple(map_b.shape[:2])}"
            )
        centred_a, centred_b = ((m - m.mean((0, 1))).flatten(0, 1) for m in (map_a, map_b))
        live = (pair.cov_aa.diagonal() > 0)[:, None] & (pair.cov_bb.diagonal() > 0)
        return replace(pair, cov_ab=centred_a.T @ centred_b / len(centred_a) * live)

    def content(self, a: str, b: str) -> PairMoments:
        """The moments with the layout part taken out of cov_ab: what depends on which image it is."""
        pair = self.pair(a, b)
        return replace(pair, cov_ab=pair.cov_ab - self.layout(a, b).cov_ab)

    def sample(self, block: str) -> Tensor:
        """(rows, units) float32 of the aligned sample; row k is the same image and place in every block.

        Raises:
            ValueError: unknown block.
        """
        require_known(block, self.blocks, "block")
        return self.samples[block]

    def top(self, block: str) -> Top:
        """The strongest stimuli of each unit.

        Raises:
            ValueError: unknown block.
        """
        require_known(block, self.blocks, "block")
        return self.tops[block]

    def mean_map(self, block: str) -> Tensor:
        """(height, width, units) float64, each unit's mean activation at each place over images.

        Raises:
            ValueError: unknown block, places drawn anew for each image.
        """
        require_known(block, self.blocks, "block")
        if block not in self.maps:
            raise ValueError(f"positions: places drawn anew for each image have no mean map, got {self.positions!r}")
        return self.maps[block]

    def mean_activation(self, block: str) -> Tensor:
        """(units,) float64."""
        return self.pair(block, block).mean_a

    def active_share(self, block: str) -> Tensor:
        """(units,) float64, the share of rows on which the activation is not zero.

        Raises:
            ValueError: unknown block.
        """
        require_known(block, self.blocks, "block")
        return self.active[block]


@ordinary_tensors()
def measure(
    networks: Mapping[str, nn.Module],
    images: Tensor,
    layers: Iterable[str] | str,
    *,
    pairs: Iterable[tuple[str, str]] | None = None,
    positions: Positions = "all",
    folds: int = 2,
    sample: int = 4096,
    top: int = 9,
    seed: int = 0,
    device: str = "auto",
    store: Store | None = None,
) -> Measurement:
    """Measure all networks on the same images in one pass.

    Args:
        networks: by name; names without dots.
        images: (n, height, width, channels) uint8, normalised here; or (n, channels, height, width) float, or what else
            the networks take, (n, ...), used as is.
        layers: names of submodules that every network has.
        pairs: of blocks "network.layer" that meet; None: the same layer in all networks. Blocks of different map sizes
            can meet with positions="mean", "centre" or a number of places.
        positions: rows of a map, as in `record`.
        folds: image k belongs to fold k modulo `folds`.
        sample: about this many rows in the aligned sample: random images at the same four random places each (one place
            for positions "centre" and "mean").
        top: strongest stimuli kept per unit.
        seed: of places and sample.
        device: "auto" (a GPU where there is one), or a torch device; the result is on the CPU.
        store: where to look the result up, by a checksum of weights, images and options, and to keep it.

    Returns:
        Measurement. Networks keep their mode and device.

    Under torchrun, with torch.distributed initialised, every process calls this with the same arguments, passes every
    n-th image through the networks, and gets what one process would have got. Process 0 alone writes to the store.

    Raises:
        ValueError: unknown layers or blocks, images of another form, fewer than 2 images per fold, NaN or infinity.
    """
    layers = [layers] if isinstance(layers, str) else list(layers)
    pairs = None if pairs is None else [tuple(pair) for pair in pairs]
    options = {"pairs": pairs, "positions": positions, "folds": folds, "sample": sample, "top": top, "seed": seed}
    configuration, found = None, None
    with same_fate():
        _require_arguments(networks, images, options)
        if store is not None or n_processes() > 1:
            configuration = measurement_configuration(networks, images, layers, **options)
        if store is not None:
            found = store.find("measurement", configuration)
            if found is None and rank() == 0:
                store.require_writable()
    require_alike(configuration, "networks, images and options")
    if all(gather(found is not None)):
        return found
    found = _Pass(networks, images, layers, device=device, **options).run()
    with same_fate():
        if store is not None and rank() == 0:
            store.keep("measurement", configuration, found)
    return found


def _require_arguments(networks: Mapping[str, nn.Module], images: Tensor, options: Mapping[str, object]) -> None:
    """What can be refused before anything is computed."""
    require_positions(options["positions"])
    if not networks:
        raise ValueError("networks: expected at least one, got none")
    if not isinstance(images, Tensor) or (
        images.ndim == 4 and images.dtype != torch.uint8 and not images.is_floating_point()
    ):
        came = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(
            f"images: expected (n, height, width, channels) uint8 or (n, channels, height, width) float, got {came}"
        )
    for argument, least in (("folds", 1), ("sample", 2), ("top", 1)):
        if options[argument] < least:
            raise ValueError(f"{argument}: expected at least {least}, got {options[argument]}")
    if len(images) < 2 * options["folds"]:
        raise ValueError(f"images: expected at least 2 per fold, {2 * options['folds']}, got {len(images)}")
    if len(images) < options["top"]:
        raise ValueError(f"top: expected at most as many as the {len(images)} images, got {options['top']}")
    if any("." in name for name in networks):
        raise ValueError(f"networks: expected names without dots, got {', '.join(networks)}")


class _Pass:
    """One pass over the images, fold by fold, batch by batch, so that every batch is one merge."""

    def __init__(self, networks, images, layers, *, pairs, positions, folds, sample, top, seed, device):
        self.networks, self.images, self.layers, self.pairs = dict(networks), images, layers, pairs
        self.positions, self.n_folds, self.n_top, self.device = positions, folds, top, _device(device)
        generator = np.random.default_rng(seed)
        self.drawn = draw_places(generator, len(images), positions)
        places = 1 if positions in ("centre", "mean") else _PLACES_IN_SAMPLE
        rows = generator.permutation(len(images))[: max(2, sample // places)]
        self.sample_images = torch.from_numpy(np.sort(rows))
        fractions = np.full((1, 2), 0.5) if places == 1 else generator.random((places, 2))
        self.sample_places = torch.from_numpy(fractions)
        self.moments: list[Moments] = []
        self.blocks: dict[str, _Block] = {}
        self.waiting: dict[str, list[_Rows]] = {}

    def run(self) -> Measurement:
        """Go through the images of this process and join what all processes found."""
        with same_fate():
            self._go_through()
        self._join()
        return self._result()

    def _go_through(self) -> None:
        """Call the networks on this process's images; they return to their devices whatever happens."""
        homes = {name: _home(network) for name, network in self.networks.items()}
        try:
            with ExitStack() as stack:
                readers = {}
                for name, network in self.networks.items():
                    capture = captured(network.to(self.device), self.layers, partial(self._kept, name))
                    readers[name] = stack.enter_context(capture)
                for fold in range(self.n_folds):
                    mine = share(torch.arange(fold, len(self.images), self.n_folds))
                    for index in mine.split(_BATCH) if len(mine) else ():
                        self._batch(index, readers)
                        self._digest(fold, at_least=_ROWS)
                    self._digest(fold, at_least=1)
        finally:
            for name, home in homes.items():
                self.networks[name].to(home)

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

    def _batch(self, index: Tensor, readers: Mapping[str, Callable[[], dict[str, _Rows]]]) -> None:
        """Call all networks on the images of this index."""
        slot = torch.searchsorted(self.sample_images, index).clamp(max=len(self.sample_images) - 1)
        # which images of the batch are in the aligned sample, and where in it
        sampled = (self.sample_images[slot] == index).nonzero()[:, 0]
        self.slot, self.sampled = slot[sampled].to(self.device), sampled.to(self.device)
        self.index, self.places = index.to(self.device), None if self.drawn is None else self.drawn[index]
        images = self.images[index]
        images = (normalise(images) if images.dtype == torch.uint8 else images).to(self.device)
        for name, read in readers.items():
            self.networks[name](images)
            for layer, rows in read().items():
                self.waiting.setdefault(f"{name}.{layer}", []).append(rows)

    @ordinary_tensors()  # also where a network calls itself in inference mode
    def _kept(self, network: str, layer: str, maps: Tensor) -> _Rows:
        """What is kept of a layer's maps until it is digested; the aligned sample is filled at once."""
        places, name = flat_places(maps, self.positions, self.places), f"{network}.{layer}"
        rows = _Rows(rows_of(maps, self.positions, places), places, self.index)
        if name not in self.blocks:
            sampled = (len(self.sample_images), len(self.sample_places))
            form = (maps.shape[1:3], rows.values.shape[1:], sampled, self.n_top, rows.values.dtype)
            self.blocks[name] = _Block(*form, self.device)
        self._sample_rows(self.blocks[name], maps)
        return rows

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
            self.moments[fold].update(ready)
        for name in ready:
            self.waiting[name].clear()

    def _start(self, shapes: dict[str, torch.Size]) -> None:
        """Make the moments, now that places and units of all blocks are known."""
        pairs, nets = self.pairs, self.networks
        if pairs is None:
            pairs = [(f"{a}.{layer}", f"{b}.{layer}") for layer in self.layers for a in nets for b in nets]
        self.moments = [Moments({name: s[1] for name, s in shapes.items()}, pairs=pairs) for _ in range(self.n_folds)]
        for a, b in pairs:
            if shapes[a][0] != shapes[b][0]:
                raise ValueError(
                    f"pairs: expected blocks with the same samples, got {shapes[a][0]} places of {a} and "
                    f"{shapes[b][0]} of {b}; positions='mean' or 'centre' or a number gives both the same"
                )

    def _sample_rows(self, block: _Block, maps: Tensor) -> None:
        """Fill the aligned sample with the sampled images of these maps, at the same places whatever the image."""
        if self.positions in ("centre", "mean"):
            maps = maps[self.sampled]
            block.sample[self.slot] = rows_of(maps, self.positions, flat_places(maps, self.positions, None)).float()
            return
        if block.sampled_places is None:
            block.sampled_places = flat_places(maps[:1], len(self.sample_places), self.sample_places[None])
        block.sample[self.slot] = maps.flatten(1, 2)[self.sampled[:, None], block.sampled_places].float()

    def _result(self) -> Measurement:
        n_images, blocks = len(self.images), self.blocks
        states = [all_reduce(moments.state()) for moments in self.moments]
        on_cpu = [{key: value.cpu() for key, value in state.items()} for state in states]
        has_map = self.drawn is None
        return Measurement(
            n_images=n_images,
            positions=self.positions,
            folds=tuple(Moments.from_state(state) for state in on_cpu),
            sample_images=self.sample_images.repeat_interleave(len(self.sample_places)),
            sample_places=self.sample_places.repeat(len(self.sample_images), 1),
            samples={name: block.sample.flatten(0, 1).cpu() for name, block in blocks.items()},
            tops={name: block.top() for name, block in blocks.items()},
            maps={name: block.mean_map(n_images) for name, block in blocks.items() if has_map},
            active={name: block.active_share(n_images) for name, block in blocks.items()},
        )


class _Rows(NamedTuple):
    """Activations (n, places, units), their places as in `flat_places`, and the index (n,) of their images."""

    values: Tensor
    places: Tensor | None
    images: Tensor


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
        device: where it is kept.
    """

    def __init__(self, map_size, rows, sampled, n_top, dtype, device):
        self.form = (tuple(map_size), tuple(rows), sampled, n_top, dtype)  # all that another process needs to know
        self.map_size, self.n_top, units = tuple(map_size), n_top, rows[1]
        precise = torch.float32 if device.type == "mps" else torch.float64
        self.sample = torch.zeros(*sampled, units, device=device)
        self.sum = torch.zeros(*rows, dtype=precise, device=device)
        self.active = torch.zeros(units, dtype=precise, device=device)
        none = torch.zeros(0, units, dtype=torch.int64, device=device)
        # value, image, place, each (top, units)
        self.strongest = (torch.zeros(0, units, dtype=dtype, device=device), none, none)
        self.candidates: list[tuple[Tensor, Tensor, Tensor]] = []  # one stimulus of each image, not ranked yet
        self.sampled_places: Tensor | None = None  # counted along the rows of the map, the same for every image

    def add(self, batch: _Rows) -> None:
        """Add the rows of a batch."""
        rows, places, images = batch
        precise = torch.promote_types(rows.dtype, torch.float32)
        total, active = torch.zeros_like(rows[0], dtype=precise), torch.zeros_like(rows[0, 0], dtype=precise)
        for part in rows.split(max(1, _CHUNK_ENTRIES // rows[0].numel())):
            total += part.sum(0, dtype=precise)
            # ones and zeros as floats: many times faster to write and to sum than booleans
            active += torch.ne(part, 0, out=torch.empty_like(part)).sum((0, 1), dtype=precise)
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


def _device(device: str) -> torch.device:
    if device != "auto":
        try:
            return torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"device: expected 'auto' or a device that torch knows, got {device!r}") from error
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _home(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def measurement_configuration(
    networks: Mapping[str, nn.Module], images: Tensor, layers: Iterable[str], **options: object
) -> dict[str, object]:
    """All that a measurement depends on: weights, structure, images, options of `measure`, the code that measures."""
    code = hashlib.sha256()
    for module in (moments_module, activations, distributed, inspect.getmodule(_Pass)):
        code.update(Path(module.__file__).read_bytes())
    return {
        "networks": {name: [repr(network), checksum(network.state_dict())] for name, network in networks.items()},
        "images": checksum({"images": images}),
        "layers": list(layers),
        "code": code.hexdigest(),
        **options,
    }
