"""Recording what units do: their activations at chosen places."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ..kernels.checks import require_known
from ..kernels.precision import full_precision, ordinary_tensors

Positions = str | int


@contextmanager
def record(
    network: nn.Module, layers: list[str] | str, *, positions: Positions = "all", seed: int = 0
) -> Iterator[dict[str, Tensor]]:
    """Record activations while the network is called.

        with record(network, ["conv1", "fc6"]) as rows:
            network(images)
            rows["conv1"]  # (images x places, units)

    Args:
        network: any torch module; within the block it is in eval mode, without gradients, in full float32; autocast
            around the block is off, and a network in half precision takes input in half precision.
        layers: names of its submodules, as in `named_modules`. A module called more than once keeps its last output.
        positions: which places of a map become rows: "all" (images x height x width), "centre", "mean" (the mean over
            places), or a number of random places per image, drawn from (seed, how many images came before), the same
            fractions of the map in every layer. Outputs (n, units) have one place, (n, tokens, units) a row of them.
        seed: of the random places.

    Yields:
        A dict from layer to rows (samples, units), refilled by each call of the network.

    Raises:
        ValueError: a layer that the network lacks (the nearest name is given), unknown positions, an output that is no
            tensor, or one that a later module has overwritten in place.

    Modes and gradients are as before afterwards, and no hook is left behind, whatever happened in between.
    """
    require_positions(positions)
    rows: dict[str, Tensor] = {}
    generator = np.random.default_rng(seed)

    def refill(_module: nn.Module, _inputs: object, _output: object) -> None:
        """After each call of the network: the rows of all layers at the same places."""
        maps = read()
        drawn = draw_places(generator, len(next(iter(maps.values()))), positions)
        for name, value in maps.items():
            rows[name] = rows_of(value, positions, flat_places(value, positions, drawn)).flatten(0, 1)

    with captured(network, [layers] if isinstance(layers, str) else layers) as read:
        hook = network.register_forward_hook(refill)
        try:
            yield rows
        finally:
            hook.remove()


@contextmanager
def captured(
    network: nn.Module, layers: list[str], keep: Callable[[str, Tensor], object] | None = None
) -> Iterator[Callable[[], dict[str, object]]]:
    """Hooks on `layers`; yields a function that reads what was kept of them in the last call of the network.

    Args:
        network, layers: see `record`.
        keep: from (layer, map), map (n, height, width, units), to what is kept of it, called as soon as the layer has
            been; None keeps the maps. Where it copies what it keeps, maps are freed while the network goes on.
    """
    modules = dict(network.named_modules())
    if not layers:
        raise ValueError("layers: expected at least one, got none")
    for name in layers:
        require_known(name, modules, "layers")
    kept: dict[str, object] = {}
    watched: dict[
        str, tuple[Tensor, int | Tensor]
    ] = {}  # outputs, their versions; from the second call only whole maps
    calls = 0

    def hook_of(name: str) -> Callable:
        """The hook that keeps what is wanted of this layer's output."""

        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            """Keep it, and watch the output so that `read` can tell if a later module overwrites it."""
            if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
                came = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise ValueError(f"layers: {name!r}: expected a tensor of 2, 3 or 4 dimensions as output, got {came}")
            if keep is None or calls == 0:  # in inference mode a tensor has no version
                watched[name] = (output, output.clone() if output.is_inference() else output._version)
            kept[name] = _as_map(output) if keep is None else keep(name, _as_map(output))

        return hook

    def read() -> dict[str, object]:
        """What was kept, by layer, once it is sure that all were called and none was overwritten."""
        nonlocal calls
        for name in layers:
            if name not in kept:
                raise ValueError(f"layers: {name!r} was not called by the network")
        for name, (output, was) in watched.items():
            same = _same(output, was) if isinstance(was, Tensor) else output._version == was
            if not same:
                raise ValueError(f"layers: {name!r} is overwritten in place by a later module; record that one instead")
        watched.clear()
        calls += 1
        found = {name: kept[name] for name in layers}
        kept.clear()
        return found

    hooks = [modules[name].register_forward_hook(hook_of(name)) for name in layers]
    modes = {module: module.training for module in modules.values()}
    network.eval()
    try:
        with ordinary_tensors(), full_precision():
            yield read
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training


def require_positions(positions: Positions) -> None:
    """`positions` is "all", "centre", "mean" or a positive number of places."""
    if isinstance(positions, int) and not isinstance(positions, bool):
        if positions < 1:
            raise ValueError(f"positions: expected at least 1 place per image, got {positions}")
    else:
        require_known(positions, ("all", "centre", "mean"), "positions")


def flat_places(maps: Tensor, positions: Positions, drawn: Tensor | None) -> Tensor | None:
    """The places (n, places) int64 that become rows, counted along the rows of the map; None where none are picked.

    Args:
        maps: (n, height, width, units).
        positions: see `record`.
        drawn: (n, places, 2) fractions (down, across) in [0, 1) where positions is a number.
    """
    n, height, width, _ = maps.shape
    if positions in ("all", "mean"):
        return None
    if positions == "centre":
        drawn = torch.full((n, 1, 2), 0.5, dtype=torch.float64)
    down, across = ((drawn[..., k] * size).long() for k, size in enumerate((height, width)))
    return (down * width + across).to(maps.device)


def rows_of(maps: Tensor, positions: Positions, places: Tensor | None) -> Tensor:
    """The rows (n, places, units) of maps (n, height, width, units) at the places of `flat_places`."""
    if positions == "mean":
        return maps.mean((1, 2))[:, None]
    rows = maps.flatten(1, 2)
    return rows if places is None else rows[torch.arange(len(maps), device=maps.device)[:, None], places]


def draw_places(generator: np.random.Generator, images: int, positions: Positions) -> Tensor | None:
    """The next places (images, positions, 2) of the stream, fractions in [0, 1); None where nothing is drawn.

    The stream is read image by image, so any split of the images into batches draws the same places.
    """
    return torch.from_numpy(generator.random((images, positions, 2))) if isinstance(positions, int) else None


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _as_map(output: Tensor) -> Tensor:
    """An output as (n, height, width, units), without copying."""
    if output.ndim == 4:
        return output.permute(0, 2, 3, 1)
    return output[:, :, None] if output.ndim == 3 else output[:, None, None]
