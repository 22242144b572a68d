"""What a network does beside its weights, as far as it can be read: code, attributes and hooks."""

from __future__ import annotations

import functools
import hashlib
import re
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..making.checksums import checksum

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # of an object in this very process
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, np.generic, range, slice)
_INNER = {"__func__": (staticmethod, classmethod), "fget": property, "func": functools.cached_property}
_CALLED = (types.FunctionType, types.CodeType, types.MethodType, functools.partial)
_CALLED = (*_CALLED, staticmethod, classmethod, property, functools.cached_property)
_OF_TORCH = frozenset(vars(nn.Module()))  # weights, buffers, children and hooks are looked at by themselves
_DEEPEST = 100
_PLACES = ("stdlib", "platstdlib", "purelib", "platlib")
_LIBRARIES = (*{sysconfig.get_path(place) for place in _PLACES}, str(Path(torch.__file__).parent), "<frozen")


def behaviour(network: nn.Module) -> str:
    """sha256 of the code, the attributes and the hooks of a network and of its modules, weights apart.

    Followed are functions, with their defaults, constants, closures and the globals that they name; methods of classes;
    and attributes, whatever they hold, to a depth of a hundred. Libraries count by the names of their functions. What
    is equal has the same sum, whether it is one object or several. What changes in every process, or with every call,
    gives another: this errs only towards being different.
    """
    return _sum(network, {}, 0, frozenset(map(id, network.modules())))


def _sum(value: object, sums: dict[int, tuple[str, object]], depth: int, saved: frozenset[int]) -> str:
    """The checksum of a value and of all that it is made of.

    Args:
        value: anything.
        sums: of the objects so far by address; they are held, so that no other object gets theirs.
        depth: of the objects that lead to it.
        saved: addresses of the modules whose weights are in the network's state; those of others count here.
    """
    if depth > _DEEPEST:
        return f"below the deepest: {type(value).__qualname__}"
    if id(value) in sums and not isinstance(value, _PLAIN):
        return sums[id(value)][0]
    sums[id(value)] = "a circle", value
    said, parts = _said(value, saved)
    digest = hashlib.sha256(said.encode(errors="surrogatepass"))
    for part in parts:
        digest.update(_sum(part, sums, depth + 1, saved).encode())
    sums[id(value)] = digest.hexdigest(), value
    return digest.hexdigest()


def _said(value: object, saved: frozenset[int]) -> tuple[str, Iterable[object]]:
    """What is said of a value itself, and the values that it is made of."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, _PLAIN):
        return f"{kind} {value!r}", []
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{kind} {checksum({'': value})}", []
    if isinstance(value, nn.Module):
        return "module", _of_module(value, id(value) in saved)
    if isinstance(value, Mapping):
        items = sorted(value.items(), key=lambda item: _short(item[0]))  # a dict that was loaded has another order
        return f"{kind} {len(value)}", [part for item in items for part in item]
    if isinstance(value, (list, tuple)):
        return f"{kind} {len(value)}", list(value)
    if isinstance(value, (set, frozenset)):
        return f"{kind} {sorted(map(_short, value))}", []
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}", []
    if isinstance(value, type):
        return _of_class(value)
    if isinstance(value, _CALLED):
        return _of_code(value)
    if isinstance(value, torch.Generator):
        return kind, [value.get_state()]
    if not hasattr(value, "__dict__") or _in_library(type(value)):
        return f"{kind} {_short(value)}", []
    return kind, [type(value), dict(vars(value))]


def _of_module(module: nn.Module, saved: bool) -> Iterator[object]:
    """Class, attributes, hooks, what is not saved, and children of a module."""
    yield type(module)
    yield {name: value for name, value in vars(module).items() if name not in _OF_TORCH}
    hooks = module._forward_pre_hooks, module._forward_hooks  # their keys grow with every hook of a process
    yield [list(each.values()) for each in hooks]
    buffers = dict(module.named_buffers(recurse=False))
    yield {name: buffers.get(name) for name in sorted(module._non_persistent_buffers_set)}
    yield {} if saved else {**buffers, **dict(module.named_parameters(recurse=False))}
    yield dict(module._modules.items())


def _of_class(value: type) -> tuple[str, list[object]]:
    """Its name, and of one that is in no library, or was changed from outside, what it defines and inherits."""
    own = {name: each for name, each in vars(value).items() if not name.startswith("__") or callable(each)}
    changed = any(isinstance(each, types.FunctionType) and not _in_library(each) for each in own.values())
    name = f"class {value.__module__}.{value.__qualname__}"
    return name, [*value.__mro__[1:], own] if changed or not _in_library(value) else []


def _of_code(value: Callable | types.CodeType) -> tuple[str, list[object]]:
    """What is said of a value that is code or can be called, and what it is made of."""
    for name, kinds in _INNER.items():
        if isinstance(value, kinds):
            return name, [getattr(value, name)]
    if isinstance(value, types.CodeType):
        return f"code {value.co_code.hex()} {value.co_names} {value.co_varnames}", list(value.co_consts)
    if isinstance(value, types.MethodType):
        return "method", [value.__func__, value.__self__]
    if isinstance(value, functools.partial):
        return "partial", [value.func, value.args, value.keywords]
    parts = [value.__defaults__, value.__kwdefaults__, [_content(cell) for cell in value.__closure__ or ()]]
    if not _in_library(value):
        known = value.__globals__
        parts += [value.__code__, {name: known[name] for name in _names(value.__code__) if name in known}]
    return f"function {value.__module__}.{value.__qualname__}", parts


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # not yet filled


def _names(code: types.CodeType) -> list[str]:
    """The globals and attributes that code names, also in functions within it."""
    within = (name for part in code.co_consts if isinstance(part, types.CodeType) for name in _names(part))
    return sorted({*code.co_names, *within})


def _in_library(value: object) -> bool:
    """Whether a class or function comes from an installed package or Python itself."""
    if isinstance(value, types.FunctionType):
        return value.__code__.co_filename.startswith(_LIBRARIES)
    module = sys.modules.get(value.__module__)
    path = getattr(module, "__file__", None) or _LIBRARIES[0]  # what has no file is Python's own
    return module is not None and module.__name__ != "__main__" and path.startswith(_LIBRARIES)


def _short(value: object) -> str:
    """As it is written, without its address."""
    try:
        return ADDRESS.sub("", repr(value))
    except Exception:  # whatever somebody's own may raise
        return type(value).__qualname__
