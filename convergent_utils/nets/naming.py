"""Which layers a network has, and which of several networks are meant: names, patterns, or others in each network."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from ..kernels.checks import as_list, came
from ..kernels.precision import full_precision, ordinary_tensors
from .activations import plain_attention
from .inputs import Entrance, Feed, Prepare, n_inputs, picked
from .layers import Output, as_layers, as_outputs, find_layers, hooks_called, plain, tensor_in, unwrapped
from .modes import evaluating, input_like

Names = dict[str, dict[str, str]]  # of each network, by common name, the name there
_WILD = frozenset("*?[")


def layers(
    network: nn.Module, example: object, *, prepare: Prepare | None = None, output: Output = None
) -> dict[str, tuple[int, ...]]:
    """Names of all layers that a network calls, and the shapes of what they give, in the order in which they end.

    Args:
        network: any torch module, in whatever mode; it is called once, in eval mode.
        example: a batch as `measure` takes them: a tensor, an array, a dict of keyword arguments, or a DataLoader or
            Dataset, of which the first batch is taken.
        prepare: from a batch to the network's input, see `measure`.
        output: from what a module gives to a tensor, see `record`.

    Returns:
        By name, the shape with the axis of inputs. Modules that give no tensor are left out, those that are called
        several times stand once, with what they gave last.

    Raises:
        ValueError: no network, an example that it cannot take, a `prepare` or `output` that fails.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU())
        >>> layers(network, torch.zeros(2, 3))
        {'0': (2, 5), '1': (2, 5)}
    """
    inner = unwrapped(network)
    if prepare is not None and not callable(prepare):
        raise ValueError(f"prepare: expected a function, got {came(prepare, 80)}")
    entrance = Entrance(type(inner).__name__, network, prepare, None, input_like(inner).device)
    entrance.warned = True
    whole = isinstance(example, (Tensor, Mapping, tuple, list)) or hasattr(example, "__array__")
    try:
        batch = example if whole else Feed(example, ["it"], 2).first()["it"]
        return called_layers(network, lambda: entrance.call(entrance.inputs(batch)), output)
    except ValueError as error:
        argument, _, said = str(error).partition(": ")
        if argument != "inputs":
            raise
        raise ValueError(f"example: {said}") from error


def called_layers(network: nn.Module, call: Callable[[], object], output: Output) -> dict[str, tuple[int, ...]]:
    """As `layers`, of what calls the network."""
    found: dict[str, tuple[int, ...]] = {}
    modules = {plain(name): module for name, module in unwrapped(network).named_modules() if name}
    convert = as_outputs(output, modules)

    def hook_of(name: str) -> Callable:
        """Notes the shape of what the module of this name gives."""

        def hook(_module: nn.Module, _inputs: object, given: object) -> None:
            """Note it."""
            given = tensor_in(given, name, convert[name])
            if isinstance(given, Tensor):
                found[name] = tuple(given.shape)

        return hook

    with ExitStack() as stack:
        calm = plain_attention(), ordinary_tensors(), full_precision()
        for context in (hooks_called(network), evaluating(network), *calm):
            stack.enter_context(context)
        for name, module in modules.items():
            if not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_hook(hook_of(name)).remove)
        call()
    return found


def resolved(wanted: object, networks: Mapping[str, nn.Module], called: Callable[[str], Iterable[str]]) -> Names:
    """The layers of each network by their common names.

    Args:
        wanted: names or patterns for all networks; or, by network, names, patterns, or a dict from common names to the
            names there. A pattern is of names as in a path: "layer*" is none of "layer1.0", "layer?.0" is.
        networks: by name.
        called: from the name of a network to those of its layers that it calls; asked where patterns are given.

    Raises:
        ValueError: names that a network lacks, patterns that nothing fits.
    """
    if not (isinstance(wanted, Mapping) and wanted):
        given = as_layers(wanted)
        return {name: _found(given, name, networks[name], called) for name in networks}
    if stranger := next((name for name in wanted if name not in networks), None):
        raise ValueError(f"layers: expected them by network, {came(list(networks), 80)}, got {came(stranger, 60)}")
    if lacking := next((name for name in networks if name not in wanted), None):
        raise ValueError(f"layers: expected layers of each network, got none of {came(lacking, 60)}")
    return {name: _found(wanted[name], name, networks[name], called) for name in networks}


def _found(wanted: object, name: str, network: nn.Module, called: Callable[[str], Iterable[str]]) -> dict[str, str]:
    """The layers of one network by their common names."""
    of = f"network {came(name, 40)}"
    if isinstance(wanted, Mapping):
        for common in wanted:
            if not isinstance(common, str) or not common or "|" in common:
                raise ValueError(f"layers: expected common names without '|', got {came(common, 60)}")
        find_layers(network, as_layers(as_list(wanted.values(), "layers", "names of layers")), of)
        return dict(wanted)
    found = []
    for each in as_layers(wanted):
        if _WILD.isdisjoint(each):
            find_layers(network, [each], of)
            found.append(each)
            continue
        fitting = [layer for layer in called(name) if _fits(layer, each)]
        if not fitting:
            near = came([layer for layer in called(name) if "." not in layer][:6], 120)
            raise ValueError(f"layers: {of} calls no layer that fits {came(each, 60)}; it calls {near} and others")
        found += fitting
    return {layer: layer for layer in dict.fromkeys(found)}


def _fits(name: str, pattern: str) -> bool:
    """Whether a name fits a pattern, part by part between dots; ** stands for any parts."""
    return _parts_fit(name.split("."), pattern.split("."))


def _parts_fit(names: list[str], patterns: list[str]) -> bool:
    if not patterns or not names:
        return not names and all(each == "**" for each in patterns)
    if patterns[0] == "**":
        return _parts_fit(names, patterns[1:]) or _parts_fit(names[1:], patterns)
    return fnmatch.fnmatchcase(names[0], patterns[0]) and _parts_fit(names[1:], patterns[1:])


def example_of(feed: Feed, entrances: Mapping[str, Entrance], networks: Mapping[str, nn.Module]) -> Callable:
    """From the name of a network to the layers that it calls, on a few of the first inputs, and how many numbers each
    gives for an input; each network is asked once.
    """
    known: dict[str, dict[str, int]] = {}

    def called(name: str) -> dict[str, int]:
        """Of this network."""
        if name not in known:
            entrance, batch = entrances[name], feed.first()[name]
            inputs = entrance.inputs(batch)
            n = n_inputs(batch)
            few = picked(inputs, torch.arange(min(2, n)), n)
            n, inputs = (n, inputs) if few is None else (min(2, n), few)
            shapes = called_layers(networks[name], partial(entrance.call, inputs), None)
            known[name] = {layer: math.prod(shape) // n for layer, shape in shapes.items()}
        return known[name]

    return called
