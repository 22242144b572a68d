"""How any network is called: the modes of its modules, where it lives, and what it takes."""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from ..kernels.checks import came
from ..kernels.checks import in_one_line as in_one_line

_NAMED = re.compile(r"\w+: ")  # how a refusal of this package begins
_REFUSED = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Within it the network is in eval mode; then each of its modules is in its own mode again, whatever happened.

    Raises:
        ValueError: the network has no modes, or another thread is within it with one of its modules.
    """
    with _alone(network):
        yield from _evaluating(network)


def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules() if hasattr(module, "training")}
    try:
        network.eval()
    except NotImplementedError as error:
        message = "network: an exported program has no eval mode; pass the module that it was exported from"
        raise ValueError(message) from error
    try:
        yield
    finally:
        for module, training in modes.items():
            if module.training != training:
                module.training = training


_AT_WORK: weakref.WeakKeyDictionary[nn.Module, tuple[int, int]] = weakref.WeakKeyDictionary()  # thread, how often
_LOOKING = threading.Lock()


@contextmanager
def _alone(network: nn.Module) -> Iterator[None]:
    """Within it no other thread is at work with the network: its modes and hooks are everybody's."""
    modules, me = list(network.modules()), threading.get_ident()
    with _LOOKING:
        if any(_AT_WORK.get(module, (me, 0))[0] != me for module in modules):
            message = "another thread is at work with it; give each thread its own, by copy.deepcopy(network)"
            raise ValueError(f"network: {message}")
        for module in modules:
            _AT_WORK[module] = me, _AT_WORK.get(module, (me, 0))[1] + 1
    try:
        yield
    finally:
        with _LOOKING:
            for module in modules:
                thread, times = _AT_WORK.pop(module)
                if times > 1:
                    _AT_WORK[module] = thread, times - 1


def require_module(network: object) -> None:
    """It is a torch module whose weights have values."""
    if not isinstance(network, nn.Module):
        raise ValueError(f"network: expected one torch module, got {type(network).__name__}")
    if any(parameter.is_meta for parameter in network.parameters()):
        raise ValueError("network: expected weights with values, got some on the meta device")


def require_hooks(network: nn.Module) -> None:
    """It calls hooks that are placed from now on: a compiled or traced network passes over them without a word."""
    require_module(network)
    compiled = hasattr(network, "_orig_mod") or any(getattr(m, "_compiled_call_impl", None) for m in network.modules())
    if compiled or isinstance(network, torch.jit.ScriptModule):
        kind = "compiled" if compiled else "traced or scripted"
        raise ValueError(f"network: a {kind} network passes over hooks; pass the module that it was made from")


def input_like(network: nn.Module) -> Tensor:
    """An empty tensor where the network lives, of the type that its inputs must have: that of its weights.

    A network without floating-point weights, as a quantised one, takes float32.
    """
    found = list(chain(network.parameters(), network.buffers()))
    dtype = next((value.dtype for value in found if value.is_floating_point()), torch.float32)
    return torch.empty(0, dtype=dtype, device=found[0].device if found else "cpu")


def called(network: nn.Module, inputs: Tensor, argument: str, name: str | None = None) -> object:
    """What the network makes of inputs; what it cannot take is refused by the name of the argument they came with."""
    try:
        return network(inputs)
    except torch.cuda.OutOfMemoryError:
        raise
    except _REFUSED as error:
        if isinstance(error, ValueError) and _NAMED.match(str(error)):
            raise
        which = "the network" if name is None else f"network {came(name, 40)}"
        message = f"{argument}: {which} cannot take images of shape {tuple(inputs.shape[1:])}, channels first"
        raise ValueError(f"{message}: {in_one_line(error)}") from error
