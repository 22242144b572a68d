"""The same network before it learned anything: a baseline for whatever is measured of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import nn

from ..kernels.checks import came, in_one_line
from .modes import input_like, require_module

_SUFFIX = "-untrained"


def reinitialised(network: nn.Module, *, seed: int = 0) -> nn.Module:
    """A copy whose weights are drawn anew, as its modules draw them when they are made.

    Args:
        network: every module of it that has weights or buffers of its own has `reset_parameters`, as torch's have.
        seed: of what is drawn; torch's own stream of random numbers stays where it is.

    Raises:
        ValueError: a module that cannot draw its weights anew.

    What was done to a network between its making and its training, as other initialisations, is not known here.
    """
    require_module(network)
    lacking = [name or "the network itself" for name, module in network.named_modules() if not _can_be_reset(module)]
    if lacking:
        first = dict(network.named_modules()).get(lacking[0], network)
        raise ValueError(
            f"untrained: {came(lacking[0], 60)}, a {type(first).__name__}, has weights and no reset_parameters; give "
            "an untrained network among networks, named as the trained one with '-untrained' after it"
        )
    try:
        made = copy.deepcopy(network)
    except Exception as error:  # whatever somebody's own may raise
        raise ValueError(f"untrained: the network cannot be copied: {in_one_line(error, 150)}") from error
    home = input_like(made).device
    made.to("cpu")  # whose stream is the same everywhere
    with torch.random.fork_rng(devices=()), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for module in reversed(list(made.modules())):  # as where they are made: parts before the whole
            if _holds(module) and (reset := _reset_of(module)) is not None:
                reset()
    return made.to(home)


def with_untrained(networks: Mapping[str, nn.Module], *, seed: int = 0) -> dict[str, nn.Module]:
    """The networks and, after them, a copy of each that is drawn anew, unless one of its name is among them.

    Raises:
        ValueError: see `reinitialised`.
    """
    made = dict(networks)
    for number, name in enumerate(name for name in networks if not name.endswith(_SUFFIX)):
        if untrained_of(name) not in made:
            try:
                made[untrained_of(name)] = reinitialised(networks[name], seed=seed + number)
            except ValueError as error:
                said = str(error).removeprefix("untrained: ").removeprefix("network: ")
                raise ValueError(f"untrained: network {came(name, 40)}: {said}") from error
    return made


def untrained_of(name: str) -> str:
    """The name of a network's untrained copy."""
    return f"{name}{_SUFFIX}"


def is_untrained(name: str) -> bool:
    """Whether it is the name of an untrained copy."""
    return name.endswith(_SUFFIX)


def _holds(module: nn.Module) -> bool:
    """Whether it has weights or buffers of its own."""
    return bool(list(module.parameters(recurse=False)) + list(module.buffers(recurse=False)))


def _can_be_reset(module: nn.Module) -> bool:
    return not _holds(module) or callable(_reset_of(module))


def _reset_of(module: nn.Module) -> Callable[[], object] | None:
    """What draws its own weights anew."""
    name = "_reset_parameters" if isinstance(module, nn.MultiheadAttention) else "reset_parameters"
    return getattr(module, name, None)
