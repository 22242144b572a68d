"""What `measure` is asked for, read and checked before anything is computed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from ..kernels.checks import as_count, as_list, came, is_count
from .activations import Positions, as_positions
from .inputs import Entrance, Feed, Mask, Prepare
from .layers import Axes, Output, as_axes, as_outputs, hooks_called, require_named
from .modes import evaluating, in_one_line
from .naming import Names, example_of, resolved
from .parts import Options
from .untrained import is_untrained, untrained_of, with_untrained

_Read = TypeVar("_Read")
_MOST_INPUTS = 2**31  # whose numbers are ranked
_GROUP = 256  # inputs whose whole maps are compared together
_MOST_FLAT = 100_000  # numbers of one input in a layer, beyond which its whole maps are compared where it is named


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        networks: by name, untrained copies among them.
        feed: what they are given.
        entrances: how each takes it.
        layers: of each network, by common name.
        options: of the pass.
        device: where the networks are called.
    """

    networks: dict[str, nn.Module]
    feed: Feed
    entrances: dict[str, Entrance]
    layers: Names
    options: Options
    device: torch.device


def read(
    networks: Mapping[str, nn.Module], inputs: object, layers: object, *,
    pairs: Iterable[tuple[str, str]] | None = None, positions: Positions = "all", axes: Axes = None,
    prepare: Prepare | Mapping[str, Prepare] | None = None, mask: Mask | Mapping[str, Mask] | None = None,
    output: Output = None, autocast: torch.dtype | None = None, flattened: bool | Iterable[str] = False,
    untrained: bool = False, batch: int = 128, folds: int = 2, sample: int = 4096, top: int = 9, seed: int = 0,
    first: int = 0, device: str | torch.device = "auto",
) -> Request:  # fmt: skip
    """The request as it is meant; what can be refused before anything is computed is."""
    _require_networks(networks)
    counts = {
        "folds": _at_least(1, folds, "folds"),
        "sample": _at_least(2, sample, "sample"),
        "top": _at_least(1, top, "top"),
        "seed": _at_least(0, seed, "seed"),
        "first": _at_least(0, first, "first"),
    }
    _require_flag(untrained, "untrained")
    networks = with_untrained(networks, seed=counts["seed"]) if untrained else dict(networks)
    place, feed = _device(device), Feed(_by_trained(inputs, networks), networks, _at_least(1, batch, "batch"))
    prepare, mask = (_by_network(value, networks, name) for value, name in ((prepare, "prepare"), (mask, "mask")))
    entrances = {name: Entrance(name, network, prepare[name], mask[name], place) for name, network in networks.items()}
    called = example_of(feed, entrances, networks)
    names = resolved(_by_trained(layers, networks), networks, called)
    blocks = [f"{network}.{layer}" for network, there in names.items() for layer in there]
    require_enough(feed.length, counts)
    flat = _as_flattened(flattened, names, blocks, called)
    if flat and counts["first"] % _GROUP:
        raise ValueError(f"first: expected a multiple of {_GROUP} where whole maps are compared, got {first}")
    options = Options(
        **counts,
        pairs=_as_pairs(pairs, names, blocks),
        positions=as_positions(positions),
        axes=_by_layer(axes, names, "axes", as_axes),
        output=_by_layer(output, names, "output", as_outputs),
        autocast=_as_autocast(autocast),
        flattened=flat,
    )
    return Request(networks, feed, entrances, names, options, place)


def require_enough(n: int | None, counts: Mapping[str, int]) -> None:
    """There are inputs enough for folds and strongest stimuli, and not too many to be ranked."""
    if n is None:
        return
    if n < 2 * counts["folds"]:
        raise ValueError(f"inputs: expected at least 2 per fold, {2 * counts['folds']}, got {n}")
    if n < counts["top"]:
        raise ValueError(f"top: expected at most as many as the {n} inputs, got {counts['top']}")
    if counts["first"] + n > _MOST_INPUTS:
        raise ValueError(f"first: expected at most {_MOST_INPUTS - n} before {n} inputs, got {counts['first']}")


def _at_least(least: int, value: object, name: str) -> int:
    """A whole number that is not below the least."""
    if is_count(value) and not least <= value < 2**63:
        raise ValueError(f"{name}: expected at least {least}, got {came(value)}")
    return as_count(value, name, at_least=least)


def _require_flag(value: object, name: str) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False, got {came(value)}")


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


def _by_trained(given: Any, networks: Mapping[str, nn.Module]) -> Any:
    """What is given by network is given to its untrained copy, too."""
    if not isinstance(given, Mapping) or not given or not set(given) <= set(networks):
        return given
    copies = {untrained_of(name): value for name, value in given.items() if untrained_of(name) in networks}
    return {**copies, **given}


def _by_network(value: Any, networks: Mapping[str, nn.Module], argument: str) -> dict[str, Any]:
    """A function, or the key of a mask, for each network."""
    if isinstance(value, Mapping):
        for name in value:
            require_named(name, networks, argument, "there is no network", "give it by the names of networks")
        found = _by_trained(value, networks) or {}
    else:
        found = dict.fromkeys(networks, value)
    for each in found.values():
        if each is not None and not callable(each) and not (argument == "mask" and isinstance(each, str)):
            kind = "the key of a batch, a function" if argument == "mask" else "a function"
            raise ValueError(f"{argument}: expected {kind}, or such by network, got {came(each, 80)}")
    return {name: found.get(name) for name in networks}


def _by_layer(
    value: Any, names: Names, argument: str, read: Callable[[Any, Iterable[str]], dict[str, _Read]]
) -> dict[str, dict[str, _Read]]:
    """Of each network what is given for its layers, by their names there."""
    if not isinstance(value, Mapping):
        return {network: read(value, there.values()) for network, there in names.items()}
    known = {name for there in names.values() for pair in there.items() for name in pair}
    for name in value:
        require_named(name, known, argument, "among layers there is no", "name layers that are recorded")
    found = {}
    for network, there in names.items():
        given = {layer: value[name] for common, layer in there.items() for name in (layer, common) if name in value}
        found[network] = read(given, there.values())
    return found


def _as_pairs(pairs: Iterable[tuple[str, str]] | None, names: Names, blocks: list[str]) -> list[tuple[str, str]]:
    """Pairs of names of blocks."""
    if pairs is None:
        common = dict.fromkeys(layer for there in names.values() for layer in there)
        of = {layer: [name for name, there in names.items() if layer in there] for layer in common}
        alike = ((layer, a, b) for layer in common for a in of[layer] for b in of[layer])
        return [(f"{a}.{layer}", f"{b}.{layer}") for layer, a, b in alike if is_untrained(a) == is_untrained(b)]
    read = as_list(pairs, "pairs", "pairs of names")
    for pair in read:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"pairs: expected pairs of names, got {came(pairs)}")
        for name in pair:
            require_named(name, blocks, "pairs", "there is no block", "blocks are named network.layer")
    return [(a, b) for a, b in read]


def _as_autocast(value: torch.dtype | None) -> torch.dtype | None:
    """The type of lower precision."""
    if not any(value is each for each in (None, torch.bfloat16, torch.float16)):
        raise ValueError(f"autocast: expected None, torch.bfloat16 or torch.float16, got {came(value)}")
    return value


def _as_flattened(value: bool | Iterable[str], names: Names, blocks: list[str], called: Callable) -> tuple[str, ...]:
    """Blocks whose whole maps are compared."""
    if isinstance(value, bool) and not value:
        return ()
    if value is not True:
        layers = {layer for there in names.values() for layer in there}
        wanted = [value] if isinstance(value, str) else as_list(value, "flattened", "names of layers, or True")
        for layer in wanted:
            require_named(layer, layers, "flattened", "among layers there is no", "or give True for all that fit")
        return tuple(block for block in blocks if block.partition(".")[2] in wanted)
    large, found = [], []
    for network, there in names.items():
        numbers: Mapping[str, int] = called(network)
        for common, layer in there.items():
            (large if numbers.get(layer, 1) > _MOST_FLAT else found).append(f"{network}.{common}")
    if large:
        named = came(large, 120)
        warnings.warn(
            f"flattened: {named} have over {_MOST_FLAT:,} numbers an input and are left out; name them to have them",
            stacklevel=2,
        )
    return tuple(found)


def _device(device: str | torch.device) -> torch.device:
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
