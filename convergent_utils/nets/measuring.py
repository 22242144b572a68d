"""One pass over the inputs, for all networks and layers at once, keeps all that the notebooks ask for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..kernels.checks import came
from ..kernels.precision import ordinary_tensors
from ..making.checksums import checksum
from ..making.code import code
from ..making.store import Store
from .activations import Positions, captured
from .behaviour import ADDRESS, behaviour
from .distributed import gather, n_processes, rank, require_alike, same_fate
from .inputs import Held, Mask, Prepare, Stream, given_to, n_inputs, picked
from .layers import Axes, Output
from .local import as_processes, in_processes
from .measurement import Measurement
from .one_pass import Pass
from .progress import Progress, reporting
from .reading import Request, read, require_enough


@ordinary_tensors()
def measure(
    networks: Mapping[str, nn.Module],
    inputs: object,
    layers: Iterable[str] | str | Mapping[str, object],
    *,
    pairs: Iterable[tuple[str, str]] | None = None,
    positions: Positions = "all",
    axes: Axes = None,
    prepare: Prepare | Mapping[str, Prepare | None] | None = None,
    mask: Mask | Mapping[str, Mask] | None = None,
    output: Output = None,
    autocast: torch.dtype | None = None,
    flattened: bool | Iterable[str] = False,
    untrained: bool = False,
    batch: int = 128,
    folds: int = 2,
    sample: int = 4096,
    top: int = 9,
    seed: int = 0,
    first: int = 0,
    device: str | torch.device = "auto",
    store: Store | str | os.PathLike[str] | None = None,
    progress: Progress = None,
    processes: int = 1,
) -> Measurement:
    """Measure all networks on the same inputs in one pass: moments, a sample of activations, strongest stimuli.

    Args:
        networks: torch modules by name, without dots. Wrappers (torch.compile, DataParallel) are looked into.
        inputs: pictures (n, height, width, channels) uint8, normalised here to [-1, 1]; or (n, channels, height, width)
            float, or what else the networks take, (n, ...), used as it is but for the precision of floats, which is
            that of each network's weights. A tensor, a NumPy array, a Dataset; a dict of tensors that are keyword
            arguments; or a DataLoader, or any iterable of batches: of a tuple the first is taken, a dict becomes
            keyword arguments. Or such by network: they are gone through in step.
        layers: names of submodules that every network has, or patterns of such: "layer*" is none of "layer1.0", for
            which "layer*.0" or "**" stands. Or by network names, patterns, or a dict from a common name to the name
            there: `{"a": {"early": "blocks.2"}, "b": {"early": "features.3"}}` are the blocks a.early and b.early.
        pairs: of blocks "network.layer" that meet; None: the same layer in all networks. Blocks of different map sizes
            can meet with positions="mean", "centre" or a number of places; a grid and tokens with "mean" alone.
        positions: rows of a map, as in `record`, among those that count.
        axes: what the axes of the layers' outputs mean, as in `record`.
        prepare: from a batch as it comes to the input of a network, one function for all or by network. Of a tuple it
            gets the first, or all where it has several arguments. It returns a tensor, a dict of keyword arguments or
            a tuple of arguments.
        mask: which rows count, as tokens among padding: the key of a batch, or a function from a batch, to (n, tokens)
            of 0 and 1; one for all or by network. Sequences may then be of unlike length. An input of which nothing
            counts is left out.
        output: from what a module gives to a tensor, as in `record`.
        autocast: torch.bfloat16 or torch.float16 calls the networks under torch.autocast. Otherwise they are called in
            the precision of their weights. What is measured is summed up exactly in either case.
        flattened: whether whole maps are compared, too, as one long row for each input: `flattened` of the result has
            their sums. True: of layers of up to 100,000 numbers an input; or names of layers of any size.
        untrained: whether a copy of each network with weights drawn anew is measured beside it: "NAME-untrained".
        batch: how many inputs go together, where they do not come in batches.
        folds: input k belongs to fold k modulo `folds`.
        sample: how many rows are in the aligned sample: random ones, the same in all blocks, of all inputs at 64
            places, one at random in each cell of a grid of 8 x 8 (one place for positions "centre", "mean", "first"
            and "last"), or all of these rows where there are fewer. A smaller sample is the beginning of a larger one.
            Where layers are grids and others tokens, the sample of positions "all" is of grids.
        top: strongest stimuli kept per unit.
        seed: of places, sample and untrained copies.
        first: number of the first input, for a part of a larger set: parts `merge` to what all inputs would have given.
        device: "auto" (a GPU where there is one), or a torch device; the result is on the CPU.
        store: a Store or its folder: where to look the result up, by a checksum of weights, inputs and options, of the
            networks' code, attributes and hooks, and of what the layers do with a few inputs; and where to keep it. It
            also keeps what is measured so far, every 20 seconds at most, and goes on from there when it is called again
            after it was interrupted. Batches of an iterable are then read and prepared again, and compared with those
            before.
        progress: called with how many inputs are done and how many there are, None where that is not known. None:
            a bar where errors are shown on a terminal; False: nothing.
        processes: how many of this machine measure together, of one thread each. Networks, inputs and functions are
            sent to them, so they are of modules that other processes can import; a script calls this under
            `if __name__ == "__main__":`.

    Returns:
        Measurement. Networks keep their mode and device. A module called more than once counts with its last output.

    Under torchrun, with torch.distributed initialised, every process calls this with the same arguments, passes every
    n-th input (of an iterable, every n-th group of 256) through the networks, and gets what one process would have got.
    Process 0 alone writes to the store.

    Raises:
        ValueError: unknown layers or blocks, inputs of another form or that a network cannot take, fewer than 2 inputs
            per fold, NaN or infinity, layers whose outputs are of other inputs, or share no places; a module that
            cannot draw its weights anew for `untrained`.

    Example:
        >>> networks = {name: build_network("alexnet-narrow", seed=k) for k, name in enumerate("ab")}
        >>> images = torch.rand(16, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        >>> measured = measure(networks, images, ["conv1", "fc6"])
        >>> measured.pair("a.fc6", "b.fc6").cov_ab.shape
        torch.Size([64, 64])
    """
    asked: dict[str, Any] = {
        "pairs": pairs, "positions": positions, "axes": axes, "prepare": prepare, "mask": mask, "output": output,
        "autocast": autocast, "flattened": flattened, "untrained": untrained, "batch": batch, "folds": folds,
        "sample": sample, "top": top, "seed": seed, "first": first, "device": device,
    }  # fmt: skip
    with same_fate():
        store = _as_store(store)
        request = read(networks, inputs, layers, **asked)
    if as_processes(processes, progress) > 1:
        given = {"networks": networks, "inputs": inputs, "layers": layers, "store": store and store.path, **asked}
        return in_processes(processes, measure, {**given, "progress": progress})
    with reporting(progress, request.feed.length) as report:
        return _measured(request, store, report)


def _measured(request: Request, store: Store | None, report: Callable[[int], object] | None) -> Measurement:
    """What is found in the store, or measured anew and kept there."""
    configuration, found, place = None, None, None
    with same_fate():
        if store is not None and request.feed.once:
            message = "an iterator is read once, and a store has to read it again"
            raise ValueError(f"inputs: {message}; give a list, a DataLoader or another iterable that starts anew")
        if store is not None or n_processes() > 1:
            configuration = _configuration(request)
            place = None if store is None else _Place(store, configuration)
        if place is not None:
            found = _found_in(place, request)
            if found is None:
                place.store.require_writable()
    require_alike(configuration, "networks, inputs and options")
    if all(gather(found is not None)) and place is not None and found is not None:
        _forget_parts(place)
        return found
    return _anew(request, place, report)


class _Place(NamedTuple):
    """Where a measurement is kept."""

    store: Store
    configuration: Mapping[str, Any]


def _anew(request: Request, place: _Place | None, report: Callable[[int], object] | None) -> Measurement:
    """Measure, from where an interrupted run has come, and keep what is found."""
    trail = Trail() if place is not None and not request.feed.held else None
    with same_fate():
        done, keep = (None, None) if place is None else _parts(place, trail)
    try:
        found = _pass(request, report, known=trail, done=done, keep=keep)
    except ValueError as error:
        if trail is None or _CHANGED not in str(error):  # in whatever process that was seen
            raise
        warnings.warn(f"inputs: {_CHANGED}; all are measured anew", stacklevel=4)
        trail.begin()
        found = _pass(request, report, known=trail, keep=keep)
    with same_fate():
        require_enough(found.n_images, {name: getattr(request.options, name) for name in ("folds", "top", "first")})
        if place is not None and rank() == 0:
            place.store.keep("measurement", place.configuration, _kept(found, trail))
            _forget_parts(place)
    return found


def _pass(request: Request, report: Callable[[int], object] | None, **more: Any) -> Measurement:
    """One pass over all inputs that are not done."""
    asked = request.networks, request.feed, request.entrances, request.layers, request.options
    return Pass(*asked, device=request.device, report=report, **more).run()


@dataclass
class Trail:
    """What is known of the batches of a stream that were gone through: how many, and a checksum of all.

    Attributes:
        n, digest: so far.
        expected: both as they were when a run was interrupted, or at its end.
    """

    n: int = 0
    digest: str = ""
    expected: tuple[int, str] = field(default=(0, ""))

    def begin(self, expected: tuple[int, str] = (0, "")) -> None:
        """Go through them from the beginning."""
        self.n, self.digest, self.expected = 0, "", expected

    def __call__(self, n: int, given: Mapping[str, object]) -> None:
        """Take up the next batch, of n inputs, as the networks are given it: whatever made it so has its share.

        Raises:
            ValueError: it does not lead to what was expected.
        """
        self.digest = checksum({name: plain_batch(value) for name, value in given.items()}, self.digest)
        self.n += n
        if self.n - n < self.expected[0] <= self.n and not self.arrived():
            raise ValueError(f"inputs: {_CHANGED}")

    def arrived(self) -> bool:
        """Whether what was expected is reached exactly."""
        return (self.n, self.digest) == self.expected


def plain_batch(batch: object) -> object:
    """A batch in tensors, arrays and plain values alone, of which checksums are made.

    Raises:
        ValueError: it holds something else.
    """
    if isinstance(batch, Mapping):
        return {str(name): plain_batch(value) for name, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return [plain_batch(value) for value in batch]
    if batch is None or isinstance(batch, (Tensor, bool, int, float, str, bytes)):
        return batch
    array = np.asarray(batch) if hasattr(batch, "__array__") or hasattr(batch, "__array_interface__") else None
    if array is None or array.dtype.hasobject:
        said = f"a store needs checksums of batches, and one holds a {came(type(batch).__name__, 60)}"
        raise ValueError(f"inputs: {said}; give arrays, or no store")
    return array


def _kept(found: Measurement | None, trail: Trail | None) -> object:
    """What is written of it."""
    return found if trail is None else {"measurement": found, "trail": (trail.n, trail.digest)}


def _read_back(kept: Any) -> tuple[Measurement | None, tuple[int, str]]:
    """A measurement that was written, and the trail to it."""
    if isinstance(kept, Mapping) and set(kept) == {"measurement", "trail"}:
        return kept["measurement"], tuple(kept["trail"])
    return (kept, (0, "")) if isinstance(kept, Measurement) else (None, (0, ""))


def _found_in(place: _Place, request: Request) -> Measurement | None:
    """What is in the store; of a stream, where all its batches are as they were."""
    found, expected = _read_back(place.store.find("measurement", place.configuration))
    if found is None or request.feed.held:
        return found
    trail = Trail()
    for batch in request.feed.batches():
        trail(n_inputs(next(iter(batch.values()))), given_to(request.entrances, batch))
    trail.expected = expected
    return found if trail.arrived() else None


def _parts(place: _Place, trail: Trail | None) -> tuple[Measurement | None, Callable[[Measurement | None], None]]:
    """What an interrupted run kept of this process's inputs, and how this one keeps it: options of `Pass`."""
    store, configuration = place
    kind = f"{_PART}-{rank()}-of-{n_processes()}"
    blocks = {f"{name}.{layer}" for name, there in configuration["layers"].items() for layer in there}
    done, expected = None, (0, "")
    with suppress(ValueError):  # of a file that cannot be read; what is done is done once more
        done, expected = _read_back(store.find(kind, configuration))
    if done is not None and (set(done.blocks) != blocks or (trail is not None and not expected[1])):
        done = None
    if trail is not None:
        trail.begin(expected if done is not None else (0, ""))

    def keep(so_far: Measurement | None) -> None:
        """Keep it; a run does not end because that fails."""
        try:
            store.keep(kind, configuration, _kept(so_far, trail))
        except ValueError as error:
            warnings.warn(f"what is measured so far is not kept: {error}", stacklevel=2)

    return done, keep


def _forget_parts(place: _Place) -> None:
    """Remove what interrupted runs kept, of whatever processes, where the store can be written."""
    with suppress(ValueError):
        place.store.remove(_PART, place.configuration)


@ordinary_tensors()
def run_pass(networks: Mapping[str, nn.Module], inputs: object, layers: Iterable[str], **options: Any) -> Measurement:
    """As `measure`, without a store and in this process alone."""
    return _pass(read(networks, inputs, layers, **options), None)


def measurement_configuration(
    networks: Mapping[str, nn.Module], inputs: object, layers: Iterable[str], **options: Any
) -> dict[str, Any]:
    """All that a measurement depends on: weights, structure, inputs, options of `measure`, the code that measures.

    What the networks do beside it is under "probe": a checksum of their code, attributes and hooks, see `behaviour`,
    and one of the maps of a few inputs. They differ between processors and versions of Python. Of batches that come
    one after the other it holds what is made of the first alone: what is kept of them holds a checksum of all.
    """
    return _configuration(read(networks, inputs, layers, **options))


def _configuration(request: Request) -> dict[str, Any]:
    """As `measurement_configuration`, of what is asked for."""
    feed, options = request.feed, request.options
    batches: Mapping[str, object] = feed.first() if feed.n_held is None else feed.at(_few(feed.n_held))
    once = {id(source): source for source in feed.sources.values()}
    sums = {key: _checksum_of(source) for key, source in once.items()}
    known = {name: [ADDRESS.sub("", repr(net)), checksum(net.state_dict())] for name, net in request.networks.items()}
    return {
        "networks": known,
        "inputs": {name: sums[id(source)] for name, source in feed.sources.items()},
        "layers": request.layers,
        "code": code(run_pass),
        "probe": {name: _probe(request, name, batches[name]) for name in request.networks},
        "options": {name: value for name, value in vars(options).items() if name not in ("output", "autocast")},
        "autocast": str(options.autocast),
    }


def _few(n: int) -> Tensor:
    """A few of n inputs: the first two and some others; of two, all units may be silent."""
    return torch.tensor(sorted({0, 1, *range(2, n, max(1, -(-n // _PROBED)))}))


def _checksum_of(source: Held | Stream) -> list[object]:
    """What is known beforehand of where inputs come from."""
    if isinstance(source, Held):
        return ["held", checksum({"inputs": source.values})]
    return ["stream", source.length]


def _probe(request: Request, name: str, batch: object) -> list[str]:
    """Checksums of how a network works and is fed, and of the maps that its layers give for a few inputs."""
    network, entrance, options = request.networks[name], request.entrances[name], request.options
    n, there = n_inputs(batch), dict.fromkeys(request.layers[name].values())
    with _repeatable(), captured(
        network, there, axes=options.axes[name], output=options.output[name], of=f"network {name!r}",
        n_inputs=lambda: n,
    ) as read_maps:  # fmt: skip
        inputs = entrance.inputs(batch)
        mask = entrance.mask(batch, inputs)
        if (few := picked(inputs, torch.arange(min(n, 2 + _PROBED)), n)) is not None:
            inputs, n = few, min(n, 2 + _PROBED)
        entrance.call(inputs)
        maps = read_maps()
        values = checksum({"mask": mask, "maps": {layer: found.values for layer, found in maps.items()}})
    asked = [entrance.prepare, entrance.mask_of, dict(options.output[name])]
    return [behaviour(network), behaviour(nn.Module(), asked), values]


@contextmanager
def _repeatable() -> Generator[None]:
    """Within it all processes of a machine find the same numbers: in one thread, of one stream of random ones."""
    threads = torch.get_num_threads()
    with _STREAM, torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(0)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


_STREAM = RLock()  # of random numbers, one for all threads
_CHANGED = "they are others than when measuring was interrupted"  # as batches of a stream may be
_PART = "measuring"  # how kinds of what is measured so far begin
_PROBED = 6  # inputs beside the first two


def _as_store(store: Store | str | os.PathLike[str] | None) -> Store | None:
    """A store, or that of a folder."""
    if store is None or isinstance(store, Store):
        return store
    if not isinstance(store, (str, os.PathLike)):
        raise ValueError(f"store: expected a Store or its folder, got {came(store)}")
    try:
        return Store(store)
    except ValueError as error:
        said = str(error).removeprefix("path: ").removeprefix("CONVERGENT_STORE: ")
        raise ValueError(f"store: {said}") from error
