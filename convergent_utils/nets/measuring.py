"""One pass over the images, for all networks and layers at once, keeps all that the notebooks ask for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock

import numpy as np
import torch
from torch import Tensor, nn

from ..kernels.checks import as_count, as_list, came, form_of, has_rows, is_count
from ..kernels.precision import ordinary_tensors
from ..making.checksums import checksum
from ..making.code import code
from ..making.store import Store
from .activations import Positions, as_positions, captured
from .behaviour import ADDRESS, behaviour
from .datasets import Dataset
from .distributed import gather, n_processes, rank, require_alike, same_fate
from .layers import Axes, Maps, as_axes, as_layers, find_layers, hooks_called, require_named, unwrapped
from .measurement import Measurement
from .modes import called, evaluating, in_one_line
from .one_pass import Pass, as_inputs, inputs_of


@ordinary_tensors()
def measure(
    networks: Mapping[str, nn.Module],
    images: Tensor,
    layers: Iterable[str] | str,
    *,
    pairs: Iterable[tuple[str, str]] | None = None,
    positions: Positions = "all",
    axes: Axes = None,
    folds: int = 2,
    sample: int = 4096,
    top: int = 9,
    seed: int = 0,
    first: int = 0,
    device: str = "auto",
    store: Store | str | Path | None = None,
) -> Measurement:
    """Measure all networks on the same images in one pass.

    Args:
        networks: by name; names without dots.
        images: (n, height, width, channels) uint8, normalised here, or a Dataset of them; or (n, channels, height,
            width) float, or what else the networks take, (n, ...), used as is, but for the precision of floats: it is
            that of each network's weights. NumPy arrays are read, too.
        layers: names of submodules that every network has.
        pairs: of blocks "network.layer" that meet; None: the same layer in all networks. Blocks of different map sizes
            can meet with positions="mean", "centre" or a number of places; a grid and tokens with "mean" alone.
        positions: rows of a map, as in `record`.
        axes: what the axes of the layers' outputs mean, as in `record`.
        folds: image k belongs to fold k modulo `folds`.
        sample: how many rows are in the aligned sample: random ones, the same in all blocks, of all images at 64
            places, one at random in each cell of a grid of 8 x 8 (one place for positions "centre", "mean", "first"
            and "last"), or all of these rows where there are fewer. A smaller sample is the beginning of a larger one.
            Where layers are grids and others tokens, the sample of positions "all" is of grids.
        top: strongest stimuli kept per unit.
        seed: of places and sample.
        first: number of the first image, for a part of a larger set: parts `merge` to what all images would have given.
        device: "auto" (a GPU where there is one), or a torch device; the result is on the CPU.
        store: a Store or its folder: where to look the result up, by a checksum of weights, images and options, of the
            networks' code, attributes and hooks, and of what the layers do with the first two images and a few others;
            and where to keep it. It also keeps what is measured so far, after every 4,096 images but once a minute at
            most, and goes on from there when it is called again after it was interrupted.

    Returns:
        Measurement. Networks keep their mode and device. A module called more than once counts with its last output.

    Under torchrun, with torch.distributed initialised, every process calls this with the same arguments, passes every
    n-th image through the networks, and gets what one process would have got. Process 0 alone writes to the store.

    Raises:
        ValueError: unknown layers or blocks, images of another form or that a network cannot take, fewer than 2 images
            per fold, NaN or infinity, layers whose outputs are of other inputs, or share no places.
    """
    configuration, found = None, None
    with same_fate():
        store = _as_store(store)
        images, layers, options = _read(
            networks, images, layers, pairs=pairs, positions=positions, axes=axes,
            folds=folds, sample=sample, top=top, seed=seed, first=first,
        )  # fmt: skip
        place = _device(device)
        if store is not None or n_processes() > 1:
            configuration = measurement_configuration(networks, images, layers, **options)
        if store is not None:
            found = store.find("measurement", configuration)
            found = found if isinstance(found, Measurement) else None  # something else may have been kept for it
            if found is None:
                store.require_writable()
    require_alike(configuration, "networks, images and options")
    if all(gather(found is not None)):
        _forget_parts(store, configuration)
        return found
    return _anew(networks, images, layers, {**options, "device": place}, store, configuration)


def _anew(
    networks: Mapping[str, nn.Module], images: Tensor, layers: list[str], options: Mapping[str, object],
    store: Store | None, configuration: Mapping[str, object] | None,
) -> Measurement:  # fmt: skip
    """Measure, from where an interrupted run has come, and keep what is found."""
    with same_fate():
        parts = {} if store is None else _parts(store, configuration)
    found = Pass(networks, images, layers, **options, **parts).run()
    with same_fate():
        if store is not None and rank() == 0:
            store.keep("measurement", configuration, found)
            _forget_parts(store, configuration)
    return found


def _parts(store: Store, configuration: Mapping[str, object]) -> dict[str, object]:
    """What an interrupted run kept of this process's images, and how this one keeps it: options of `Pass`."""
    kind = f"{_PART}-{rank()}-of-{n_processes()}"
    blocks = {f"{name}.{layer}" for name in configuration["networks"] for layer in configuration["layers"]}
    done = None
    with suppress(ValueError):  # of a file that cannot be read; what is done is done once more
        done = store.find(kind, configuration)

    def keep(so_far: Measurement) -> None:
        """Keep it; a run does not end because that fails."""
        try:
            store.keep(kind, configuration, so_far)
        except ValueError as error:
            warnings.warn(f"what is measured so far is not kept: {error}", stacklevel=2)

    return {"done": done if isinstance(done, Measurement) and set(done.blocks) == blocks else None, "keep": keep}


def _forget_parts(store: Store, configuration: Mapping[str, object]) -> None:
    """Remove what interrupted runs kept, of whatever processes, where the store can be written."""
    with suppress(ValueError):
        store.remove(_PART, configuration)


@ordinary_tensors()
def run_pass(
    networks: Mapping[str, nn.Module], images: Tensor, layers: Iterable[str], *, device: str = "auto", **options: object
) -> Measurement:
    """As `measure`, without a store and in this process alone."""
    images, layers, options = _read(networks, images, layers, **options)
    return Pass(networks, images, layers, device=_device(device), **options).run()


def measurement_configuration(
    networks: Mapping[str, nn.Module], images: Tensor, layers: Iterable[str], **options: object
) -> dict[str, object]:
    """All that a measurement depends on: weights, structure, images, options of `measure`, the code that measures.

    What the networks do beside it is under "probe": a checksum of their code, attributes and hooks, see `behaviour`,
    and one of the maps of the first two images and a few others. They differ between processors and versions of Python.
    """
    images, layers, options = _read(networks, images, layers, **options)
    few = images[[0, 1, *range(2, len(images), -(-len(images) // _PROBED))]]  # of two, all units may be silent
    return {
        "networks": {
            name: [ADDRESS.sub("", repr(network)), checksum(network.state_dict())] for name, network in networks.items()
        },
        "images": checksum({"images": images}),
        "layers": layers,
        "code": code(run_pass),
        "probe": {name: _probe(network, name, few, layers, options["axes"]) for name, network in networks.items()},
        **options,
    }


def _probe(network: nn.Module, name: str, images: Tensor, layers: list[str], axes: Axes) -> list[str]:
    """Checksums of how it works, and of the maps that the layers give for these images."""
    with _repeatable(), captured(network, layers, axes=axes, of=f"network {name!r}") as read:
        called(unwrapped(network), inputs_of(network, as_inputs(images)), "images", name)
        maps: dict[str, Maps] = read()
        values = checksum({layer: found.values for layer, found in maps.items()})
    return [behaviour(network), values]


@contextmanager
def _repeatable() -> Iterator[None]:
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
_PART = "measuring"  # how kinds of what is measured so far begin
_MOST_IMAGES = 2**31  # whose numbers are ranked
_PROBED = 6  # images beside the first two


def _read(
    networks: Mapping[str, nn.Module], images: object, layers: object, *,
    pairs: object = None, positions: object = "all", axes: Axes = None,
    folds: object = 2, sample: object = 4096, top: object = 9, seed: object = 0, first: object = 0,
) -> tuple[Tensor, list[str], dict[str, object]]:  # fmt: skip
    """Images, layers and options of `measure` as they are meant; what can be refused before anything is computed is."""
    _require_networks(networks)
    images, layers = _as_images(images), as_layers(layers)
    for name, network in networks.items():
        find_layers(network, layers, f"network {came(name, 40)}")
    options = {
        "pairs": _as_pairs(pairs, [f"{name}.{layer}" for name in networks for layer in layers]),
        "positions": as_positions(positions),
        "axes": None if axes is None else as_axes(axes, layers),
        "folds": _at_least(1, folds, "folds"),
        "sample": _at_least(2, sample, "sample"),
        "top": _at_least(1, top, "top"),
        "seed": _at_least(0, seed, "seed"),
        "first": _at_least(0, first, "first"),
    }
    if len(images) < 2 * options["folds"]:
        raise ValueError(f"images: expected at least 2 per fold, {2 * options['folds']}, got {len(images)}")
    if len(images) < options["top"]:
        raise ValueError(f"top: expected at most as many as the {len(images)} images, got {options['top']}")
    if options["first"] + len(images) > _MOST_IMAGES:
        most = _MOST_IMAGES - len(images)
        raise ValueError(f"first: expected at most {most} before {len(images)} images, got {options['first']}")
    return images, layers, options


def _at_least(least: int, value: object, name: str) -> int:
    """A whole number that is not below the least."""
    if is_count(value) and not least <= value < 2**63:
        raise ValueError(f"{name}: expected at least {least}, got {came(value)}")
    return as_count(value, name, at_least=least)


def _require_networks(networks: object) -> None:
    """They are modules by names."""
    if not isinstance(networks, Mapping):
        raise ValueError(f'networks: expected them by name, as in {{"net1": network}}, got {type(networks).__name__}')
    if not networks:
        raise ValueError("networks: expected at least one, got none")
    for name, network in networks.items():
        if not isinstance(name, str) or not name or "." in name or "|" in name:
            raise ValueError(f"networks: expected names without dots or '|', got {came(name)}")
        try:
            with hooks_called(network), evaluating(network):
                pass
        except ValueError as error:
            reason = str(error).removeprefix("network: ")
            raise ValueError(f"networks: {came(name, 60)}: {reason}") from error


def _as_images(images: object) -> Tensor:
    """Images as a tensor: of a data set, or of an array."""
    images = images.images if isinstance(images, Dataset) else images
    if hasattr(images, "__array__") and not isinstance(images, Tensor) and not np.ma.is_masked(images):
        images = _tensor_of(np.asarray(images))
    good = isinstance(images, Tensor) and has_rows(images) and images.ndim > 0 and not images.is_complex()
    if good and images.ndim == 4 and images.dtype != torch.uint8:
        good = images.is_floating_point()
    if not good:
        raise ValueError(
            "images: expected (n, height, width, channels) uint8 or (n, channels, height, width) float, got "
            + form_of(images)
        )
    return images.detach()


def _tensor_of(array: np.ndarray) -> Tensor | np.ndarray:
    """The array as a tensor, over the same memory where that can be; as it came where it is of no numbers."""
    if array.dtype.kind not in "fiub":
        return array
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # and nothing is written
        try:
            return torch.from_numpy(array)
        except TypeError:
            return array


def _as_pairs(pairs: object, blocks: list[str]) -> list[tuple[str, str]] | None:
    """Pairs of names of blocks."""
    if pairs is None:
        return None
    read = as_list(pairs, "pairs", "pairs of names")
    for pair in read:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"pairs: expected pairs of names, got {came(pairs)}")
        for name in pair:
            require_named(name, blocks, "pairs", "there is no block", "blocks are named network.layer")
    return [tuple(pair) for pair in read]


def _as_store(store: object) -> Store | None:
    """A store, or that of a folder."""
    if store is None or isinstance(store, Store):
        return store
    if not isinstance(store, (str, os.PathLike)):
        raise ValueError(f"store: expected a Store or its folder, got {came(store)}")
    try:
        return Store(store)
    except ValueError as error:
        raise ValueError(f"store: {str(error).removeprefix('path: ')}") from error


def _device(device: object) -> torch.device:
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.empty(0, device=torch.device(device)).device
    except Exception as error:  # each kind of device has its own
        said = in_one_line(error, 120) if isinstance(device, str) else ""
        reason = came(device, 40) + (f": {said}" if said else "")
        raise ValueError(f"device: expected 'auto' or a device that torch knows and has, got {reason}") from error
    if found.type == "meta":
        raise ValueError("device: expected 'auto' or a device that holds values, got 'meta'")
    return found
