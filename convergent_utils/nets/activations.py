"""Recording what units do: their activations at chosen places."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar, cast, overload

import numpy as np
import torch
from torch import Tensor, nn

from ..kernels.checks import as_count, came, is_count, require_known
from ..kernels.precision import ProcessWide, full_precision, ordinary_tensors
from .layers import (
    Axes,
    Layer,
    Maps,
    Output,
    as_axes,
    as_layers,
    as_maps,
    as_outputs,
    find_layers,
    hooks_called,
    tensor_in,
    tokens_come_first,
    unwrapped,
)
from .modes import evaluating, in_one_line

Positions = str | int
_Kept = TypeVar("_Kept")

_MOST_PLACES = 100_000  # of an image
_NAMED = ("all", "centre", "mean", "first", "last")


@contextmanager
def record(
    network: nn.Module,
    layers: Iterable[str] | str,
    *,
    positions: Positions = "all",
    axes: Axes = None,
    output: Output = None,
    seed: int = 0,
) -> Generator[dict[str, Tensor]]:
    """Record activations while the network is called.

    ::

        with record(network, ["conv1", "fc6"]) as rows:
            network(images)
            rows["conv1"]  # (images x places, units)

    Args:
        network: any torch module; within the block it is in eval mode, without gradients, in full float32; autocast
            around the block is off, and a network in half precision takes input in half precision.
        layers: names of its submodules, as in `named_modules`. A module called more than once keeps its last output.
            Prefixes that torch.compile and DataParallel put before them may be left out.
        positions: which places of a map become rows: "all" (images x height x width), "centre", "mean" (the mean over
            places), or a number of random places per image, drawn from (seed, how many images came before), the same
            fractions of the map in every layer. Outputs (n, units) have one place. Tokens are no places of an image:
            of them there are "all", "mean", "first", "last" or a number, and no number for grids and tokens together.
        axes: what the axes of outputs mean, one for all layers or a dict by layer: "nchw", "nhwc", "ntd" (n, tokens,
            units), "ndt" (n, units, tokens) or "tnd" (tokens, n, units). None: "nchw" and "ntd", but as the module
            tells where it is one of torch's (Conv1d, poolings and norms of one dimension; LayerNorm and Linear over
            maps; transformers with batch_first=False), also through a ReLU or Dropout after it in an nn.Sequential;
            else as the sizes of norms, linear maps and convolutions tell that lie in the module or around it, as in
            Swin. Where they leave two ways open, you are asked.
        output: from what a module gives to a tensor, one function for all layers or a dict by layer. None: a tensor
            itself, `last_hidden_state` of what has one, and of a tuple or dict the first tensor.
        seed: of the random places.

    Yields:
        A dict from layer to rows (samples, units), refilled by each call of the network.

    Raises:
        ValueError: a layer that the network lacks (the nearest names are given), unknown positions, an output that is
            no tensor, whose axes cannot be told, or that has other inputs than the network along the axis of inputs, or
            that a later module has overwritten in place; a network that passes over hooks.

    Modes and gradients are as before afterwards, and no hook is left behind, whatever happened in between. One thread
    at a time can be at work with a network, or with two that share modules; the others are refused.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())
        >>> with record(network, "1") as rows:
        ...     output = network(torch.zeros(2, 1, 8, 8))
        >>> rows["1"].shape
        torch.Size([72, 4])
    """
    positions, layers = as_positions(positions), as_layers(layers)
    rows: dict[str, Tensor] = {}
    generator = np.random.default_rng(as_count(seed, "seed", at_least=0))

    def refill(_module: nn.Module, _inputs: object, _output: object) -> None:
        """After each call of the network: the rows of all layers at the same places."""
        maps = read()
        require_common_places({name: kind for name, (_, kind) in maps.items()}, positions)
        drawn = draw_places(generator, len(next(iter(maps.values())).values), positions)
        for name, (value, _) in maps.items():
            rows[name] = rows_of(value, positions, flat_places(value, positions, drawn)).flatten(0, 1)

    with captured(network, layers, axes=axes, output=output, either_way=True) as read:
        hook = unwrapped(network).register_forward_hook(refill)
        try:
            yield rows
        finally:
            hook.remove()


@overload
def captured(
    network: nn.Module, layers: Iterable[str], keep: None = None, *, axes: Axes = None, output: Output = None,
    of: str = "the network", either_way: bool = False, n_inputs: Callable[[], int] | None = None,
) -> AbstractContextManager[Callable[[], dict[str, Maps]]]: ...  # fmt: skip
@overload
def captured(
    network: nn.Module, layers: Iterable[str], keep: Callable[[str, Maps], _Kept], *, axes: Axes = None,
    output: Output = None, of: str = "the network", either_way: bool = False,
    n_inputs: Callable[[], int] | None = None,
) -> AbstractContextManager[Callable[[], dict[str, _Kept]]]: ...  # fmt: skip
@contextmanager
def captured(
    network: nn.Module,
    layers: Iterable[str],
    keep: Callable[[str, Maps], object] | None = None,
    *,
    axes: Axes = None,
    output: Output = None,
    of: str = "the network",
    either_way: bool = False,
    n_inputs: Callable[[], int] | None = None,
) -> Generator[Callable[[], dict[str, Any]]]:
    """Hooks on `layers`; yields a function that reads what was kept of them in the last call of the network.

    Args:
        network, layers, axes, output: see `record`.
        keep: from (layer, maps) to what is kept of them, called as soon as the layer has been; None keeps the maps.
            Where it copies what it keeps, maps are freed while the network goes on.
        of: what refusals call the network.
        either_way: whether a network of sequences may be called with tokens first.
        n_inputs: tells of how many inputs a call is; None: as long as its first tensor.

    What one call of a layer is refused for is said when the last one is read.
    """
    found = find_layers(network, layers, of)
    capture = _Capture(found, keep, as_axes(axes, layers), either_way and tokens_come_first(network))
    capture.convert, capture.n_inputs = as_outputs(output, layers), n_inputs
    with ExitStack() as stack:
        stack.enter_context(hooks_called(network))
        stack.enter_context(evaluating(network))
        stack.enter_context(plain_attention())
        stack.enter_context(ordinary_tensors())
        stack.enter_context(full_precision())
        stack.callback(unwrapped(network).register_forward_pre_hook(capture.count, with_kwargs=True).remove)
        for layer in found:
            stack.callback(_hooked(layer, capture.hook_of(layer)).remove)
        yield capture.read


class _Capture:
    """What was kept of layers in the last call of a network."""

    def __init__(self, layers: list[Layer], keep: Callable | None, axes: Mapping[str, str | None], either_way: bool):
        self.layers, self.keep, self.axes = layers, keep, axes
        self.either_way = either_way
        self.convert: Mapping[str, Callable | None] = {}
        self.n_inputs: Callable[[], int] | None = None
        self.kept: dict[str, Any] = {}  # of a layer what `keep` gives, or a ValueError
        # outputs and their versions; from the second call on only where whole maps are kept
        self.watched: dict[str, tuple[Tensor, int | Tensor]] = {}
        self.calls = 0
        self.inputs: tuple[int, ...] = ()
        self.first: Tensor | None = None

    def count(self, _module: nn.Module, arguments: tuple, named: dict) -> None:
        """Before each call of the network: how many inputs it gets."""
        first = _first_tensor((arguments, named))
        self.inputs = () if first is None else tuple(first.shape[:1])
        if self.n_inputs is not None:
            self.inputs = (self.n_inputs(),)
        self.first = first if self.either_way else None

    def hook_of(self, layer: Layer) -> Callable:
        """The hook that keeps what is wanted of this layer's output."""

        def hook(_module: nn.Module, _inputs: object, output: Any) -> None:
            """Keep it, and watch the output so that `read` can tell if a later module overwrites it."""
            try:
                output = tensor_in(output, layer.name, self.convert.get(layer.name))
                n_inputs = self._inputs_of(output)
                maps = as_maps(output, layer, self.axes[layer.name], n_inputs, either_way=self.either_way)
                self.kept[layer.name] = maps if self.keep is None else self.keep(layer.name, maps)
            except ValueError as error:
                self.kept[layer.name] = error
                return
            if self.keep is None or self.calls == 0:  # in inference mode a tensor has no version
                version = output.clone() if output.is_inference() else output._version
                self.watched[layer.name] = (output, version)  # what a view shows changes with it

        return hook

    def _inputs_of(self, output: object) -> tuple[int, ...]:
        """How many inputs went in: as many as the first tensor is long, or, where tokens come first, wide."""
        first = self.first
        if first is None or not isinstance(output, Tensor):
            return self.inputs
        either_way = output.ndim == 2 or first.shape[:2] == output.shape[:2]
        return (*self.inputs, *first.shape[1:2]) if either_way else self.inputs

    def read(self) -> dict[str, Any]:
        """What was kept, by layer, once it is sure that all were called and none was overwritten."""
        found, watched = dict(self.kept), dict(self.watched)
        self.kept.clear()
        self.watched.clear()
        self.calls += 1
        for layer in self.layers:
            if layer.name not in found:
                raise ValueError(f"layers: {came(layer.name)} was not called by the network")
            if isinstance(found[layer.name], ValueError):
                raise found[layer.name]
        for name, (output, was) in watched.items():
            same = _same(output, was) if isinstance(was, Tensor) else output._version == was
            if not same:
                message = "is overwritten in place by a later module; record that one instead"
                raise ValueError(f"layers: {came(name)} {message}")
        return {layer.name: found[layer.name] for layer in self.layers}


def _hooked(layer: Layer, hook: Callable) -> torch.utils.hooks.RemovableHandle:
    """The handle of a hook on a layer."""
    try:
        return layer.module.register_forward_hook(hook)
    except RuntimeError as error:  # of a ScriptModule
        name = came(layer.name, 60)
        message = f"layers: {name} takes no hooks; put the module that it was scripted or traced from in its place"
        raise ValueError(message) from error


def plain_attention() -> AbstractContextManager[None]:
    """Within it transformers call their modules one by one; their fused path drops padding and calls no hooks."""
    return _ATTENTION.changed(_no_fast_path)


def _no_fast_path(stack: ExitStack) -> None:
    stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
    torch.backends.mha.set_fastpath_enabled(False)


_ATTENTION = ProcessWide()


def _first_tensor(arguments: object) -> Tensor | None:
    """The first tensor with an axis among the arguments of a call, or within them."""
    if isinstance(arguments, Tensor):
        return arguments if arguments.ndim and not arguments.is_nested else None
    if isinstance(arguments, Mapping):
        arguments = tuple(arguments.values())
    found = map(_first_tensor, arguments) if isinstance(arguments, (tuple, list)) else ()
    return next((each for each in found if each is not None), None)


def as_positions(positions: Positions) -> Positions:
    """`positions` where it is "all", "centre", "mean", "first", "last" or a positive number of places."""
    if is_count(positions):
        if not 1 <= positions <= _MOST_PLACES:
            most = f"and at most {_MOST_PLACES:,}" if positions > 1 else "per image"
            raise ValueError(f"positions: expected at least 1 place {most}, got {came(positions)}")
        return int(positions)
    if not isinstance(positions, str):
        expected = "'all', 'centre', 'mean', 'first', 'last' or a whole number of places"
        raise ValueError(f"positions: expected {expected}, got {came(positions, 80)}")
    require_known(in_one_line(positions), _NAMED, "positions")
    return positions


def require_common_places(kinds: Mapping[str, str], positions: Positions) -> None:
    """These layers have such places: tokens have no centre, grids no first, and a number is of one of them.

    Args:
        kinds: of each layer, see `Maps`.
        positions: see `record`.
    """
    row, grid = (next((name for name, it in kinds.items() if it == kind), None) for kind in ("row", "grid"))
    row, grid = (None if name is None else came(name, 70) for name in (row, grid))
    if positions == "centre" and row is not None:
        raise ValueError(f"positions: the tokens of {row} have no centre; take 'mean', 'first', 'last' or a number")
    if positions in ("first", "last") and grid is not None:
        raise ValueError(f"positions: the grid of {grid} has no {positions} place; take 'mean', 'centre' or a number")
    if isinstance(positions, int) and row is not None and grid is not None:
        message = f"the tokens of {row} are no places of the grid of {grid}"
        raise ValueError(f"positions: {message}; take 'mean', or each of them in a call of its own")


@overload
def flat_places(maps: Tensor, positions: Positions, drawn: Tensor) -> Tensor: ...
@overload
def flat_places(maps: Tensor, positions: Positions, drawn: Tensor | None) -> Tensor | None: ...
def flat_places(maps: Tensor, positions: Positions, drawn: Tensor | None) -> Tensor | None:
    """The places (n, places) int64 that become rows, counted along the rows of the map; None where none are picked.

    Args:
        maps: (n, height, width, units).
        positions: see `record`.
        drawn: (n, places, 2) fractions (down, across) in [0, 1) where positions is a number.
    """
    n, height, width, _ = maps.shape
    if positions in ONE_PLACE:
        drawn = torch.full((n, 1, 2), ONE_PLACE[positions], dtype=torch.float64)
    if drawn is None:
        return None
    down, across = ((drawn[..., k] * size).long() for k, size in enumerate((height, width)))
    return (down * width + across).to(maps.device)


# Where the one place lies, as a fraction of the map; that of "last" is just below 1.
ONE_PLACE: dict[Positions, float] = {"centre": 0.5, "first": 0.0, "last": float(np.nextafter(1, 0))}


def rows_of(maps: Tensor, positions: Positions, places: Tensor | None) -> Tensor:
    """The rows (n, places, units) of maps (n, height, width, units) at the places of `flat_places`."""
    if positions == "mean":
        if not (maps.is_floating_point() or maps.is_complex()):
            raise ValueError(f"positions: 'mean' is of floating-point outputs, got {maps.dtype}; take another")
        mean = maps.mean((1, 2))[:, None]
        if not mean.isfinite().all():  # near the largest number of a type the sum over places is above it
            mean = (
                maps.to(torch.complex128 if maps.is_complex() else torch.float64).mean((1, 2))[:, None].to(maps.dtype)
            )
        return mean
    rows = maps.flatten(1, 2)
    return rows if places is None else rows[torch.arange(len(maps), device=maps.device)[:, None], places]


@overload
def draw_places(generator: np.random.Generator, images: int, positions: int, *, before: int = 0) -> Tensor: ...
@overload
def draw_places(
    generator: np.random.Generator, images: int, positions: Positions, *, before: int = 0
) -> Tensor | None: ...
def draw_places(generator: np.random.Generator, images: int, positions: Positions, *, before: int = 0) -> Tensor | None:
    """The next places (images, positions, 2) of the stream, fractions in [0, 1); None where nothing is drawn.

    The stream is read image by image, so any split of the images into batches draws the same places. Those of as many
    images as come `before` are left out.
    """
    if not isinstance(positions, int):
        return None
    if before:
        bits = cast("np.random.PCG64", generator.bit_generator)  # as that of default_rng is
        bits.advance(2 * positions * before)  # a fraction is one step
    return torch.from_numpy(generator.random((images, positions, 2)))


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
