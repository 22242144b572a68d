"""How any network is called: the modes of its modules, where it lives, and what it takes."""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.checks import came, form_of
from ..kernels.checks import in_one_line as in_one_line

_NAMED = re.compile(r"\w+: ")  # how a refusal of this package begins
_OPTIONS = ("layers", "axes", "output", "mask", "positions", "inputs")  # of which hooks may say that they do not fit
_REFUSED = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError)


_LOOKING = threading.RLock()  # a generator may be collected, and so left, while this thread holds it
# of each module: the thread at work with it, how often it came, and the mode before
_AT_WORK: weakref.WeakKeyDictionary[nn.Module, tuple[int, int, bool | None]] = weakref.WeakKeyDictionary()


def layout_of(network: nn.Module) -> torch.memory_format:
    """How the weights of convolutions lie, and so the maps that they make: channels last, or one after another."""
    weights = [weight for weight in network.parameters() if weight.ndim == 4]
    is_last = not all(map(Tensor.is_contiguous, weights))
    return torch.channels_last if is_last else torch.contiguous_format


@contextmanager
def evaluating(network: nn.Module) -> Generator[None]:
    """Within it the network is in eval mode; then each of its modules is in its own mode again, whatever happened.

    One may come more than once and leave in any order: the modes are as before when the last has left.

    Raises:
        ValueError: the network has no modes, or another thread is within it with one of its modules.
    """
    modules = list(network.modules())
    _begin_work(modules)
    try:
        try:
            network.eval()
        except NotImplementedError as error:
            message = "network: an exported program has no eval mode; pass the module that it was exported from"
            raise ValueError(message) from error
        yield
    finally:
        _end_work(modules)


def _begin_work(modules: list[nn.Module]) -> None:
    """No other thread may be at work with these: modes and hooks are everybody's."""
    me, others = threading.get_ident(), {thread.ident for thread in threading.enumerate()}
    others.discard(me)  # and who has ended is none
    with _LOOKING:
        if any(_AT_WORK.get(module, (me,))[0] in others for module in modules):
            message = "another thread is at work with it; give each thread its own, by copy.deepcopy(network)"
            raise ValueError(f"network: {message}")
        for module in modules:
            thread, times, mode = _AT_WORK.get(module, (me, 0, getattr(module, "training", None)))
            _AT_WORK[module] = me, times + 1 if thread == me else 1, mode


def _end_work(modules: list[nn.Module]) -> None:
    with _LOOKING:
        for module in modules:
            thread, times, mode = _AT_WORK.pop(module, (0, 0, None))
            if times > 1:
                _AT_WORK[module] = thread, times - 1, mode
            elif mode is not None and module.training != mode:
                module.training = mode


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


def called(network: nn.Module, inputs: Tensor, argument: str, name: str | None = None) -> Any:
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


def called_as_asked(network: nn.Module, inputs: object, name: str) -> object:
    """What the network makes of a tensor, a dict of keyword arguments or a tuple of arguments; else it is refused."""
    try:
        if isinstance(inputs, Mapping):
            return network(**inputs)
        return network(*inputs) if isinstance(inputs, tuple) else network(inputs)
    except torch.cuda.OutOfMemoryError:
        raise
    except _REFUSED as error:
        if isinstance(error, ValueError) and in_one_line(error).partition(":")[0] in _OPTIONS:
            raise
        message = f"inputs: network {came(name, 40)} cannot take {_form(inputs)}"
        raise ValueError(f"{message}: {in_one_line(error, 150)}") from error


def _form(inputs: object) -> str:
    if isinstance(inputs, Tensor):
        return f"inputs of shape {tuple(inputs.shape[1:])}{', channels first' if inputs.ndim == 4 else ''}"
    if isinstance(inputs, Mapping):
        return f"the keywords {came(list(inputs), 80)}"
    return f"a {type(inputs).__name__} of {len(inputs)}" if isinstance(inputs, (tuple, list)) else form_of(inputs)
