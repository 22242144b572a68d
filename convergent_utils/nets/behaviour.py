"""What a network does beside its weights, as far as it can be read: code, attributes and hooks."""

from __future__ import annotations

import dis
import functools
import hashlib
import os
import re
import sys
import sysconfig
import types
import uuid
import weakref
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..making.checksums import checksum

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # of an object in this very process
_PLAIN = {type(None), type(...), bool, int, float, complex, str, bytes, range, torch.dtype, torch.device, torch.layout}
_INNER = {"__func__": (staticmethod, classmethod), "fget": property, "func": functools.cached_property}
_CALLED = (types.FunctionType, types.CodeType, types.MethodType, functools.partial)
_CALLED = (*_CALLED, staticmethod, classmethod, property, functools.cached_property)
_OF_CLASSES = {"__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__", "__static_attributes__"}
_OF_ALL_MODULES = (nn.modules.module._global_forward_pre_hooks, nn.modules.module._global_forward_hooks)
_LOADS = ("LOAD_GLOBAL", "LOAD_NAME")
_OF_TORCH = frozenset(vars(nn.Module()))  # weights, buffers, children and hooks are looked at by themselves
_DEEPEST = 200
_PLACES = ("stdlib", "platstdlib", "purelib", "platlib")
_LIBRARIES = (*{sysconfig.get_path(place) for place in _PLACES}, str(Path(torch.__file__).parent), "<frozen")
_INSTALLED = "*.dist-info"  # beside what pip installed


def behaviour(network: nn.Module, *more: object) -> str:
    """sha256 of the code, the attributes and the hooks of a network and of its modules, weights apart, and of others.

    Followed are functions, with their defaults, constants, closures and the globals that they name; methods of classes;
    and attributes, whatever they hold. Of libraries functions and classes count by their names, objects by what they
    hold. What is equal has the same sum, whether it is one object or several. What changes in every process, or with
    every call, and what is too deep to be looked at, gives another: this errs only towards being different.
    """
    return _Sums(network).of([network, *more, *(list(hooks.values()) for hooks in _OF_ALL_MODULES)])


class _Sums:
    """Checksums of objects and of all that they are made of.

    Args:
        network: whose saved weights do not count, and whose modules have names.
    """

    def __init__(self, network: nn.Module):
        saved, tensors = network.state_dict(keep_vars=True), chain(network.named_parameters(), network.named_buffers())
        self.saved = {id(value) for name, value in tensors if name in saved}
        self.names = {id(module): name for name, module in network.named_modules()}
        self.found: dict[int, tuple[str, object]] = {}  # by address; objects are held, so that no other gets theirs
        self.depth = 0

    def of(self, value: object) -> str:
        """The checksum of a value."""
        if type(value) in _PLAIN:
            return f"{type(value).__name__} {_short(value)}"
        if isinstance(value, weakref.ref):  # what it points to is held elsewhere, and changed where it is copied
            return "weak reference"
        if id(value) in self.found:
            return self.found[id(value)][0]
        if self.depth > _DEEPEST:
            return uuid.uuid4().hex
        self.found[id(value)] = "a circle", value
        self.depth += 1
        try:
            said, parts = self._said(value)
            digest = hashlib.sha256(said.encode(errors="surrogatepass"))
            for part in parts:
                digest.update(self.of(part).encode(errors="surrogatepass"))
            self.found[id(value)] = digest.hexdigest(), value
        except Exception:  # whatever somebody's own may raise
            self.found[id(value)] = f"unreadable {type(value).__qualname__}", value
        self.depth -= 1
        return self.found[id(value)][0]

    def _said(self, value: object) -> tuple[str, Iterable[object]]:
        """What is said of a value itself, and the values that it is made of."""
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if isinstance(value, nn.Module):
            return f"module {self.names.get(id(value))}", self._of_module(value)
        if isinstance(value, types.ModuleType):
            return f"module {value.__name__}", []
        if isinstance(value, type):
            return _of_class(value)
        if isinstance(value, _CALLED):
            return _of_code(value)
        if isinstance(value, Tensor) or (isinstance(value, np.ndarray) and not value.dtype.hasobject):
            return f"{kind} {checksum({'': value})}", [] if _is_libraries(type(value)) else [_attributes(value)]
        more = [] if _is_libraries(type(value)) else [type(value), _attributes(value)]
        if isinstance(value, Mapping):
            items = list(value.items())
            if all(type(each) in _PLAIN for item in items for each in item):  # one that was loaded has another order
                items.sort(key=lambda item: _short(item[0]))
            return f"{kind} {len(items)}", [*more, *(part for item in items for part in item)]
        if isinstance(value, (list, tuple, np.ndarray)):
            return f"{kind} {len(value)}", [*more, *value]
        if isinstance(value, (set, frozenset)):
            return f"{kind} {sorted(map(self.of, value))}", more
        if isinstance(value, torch.Generator):
            return kind, [value.get_state()]
        return f"{kind} {_short(value) if isinstance(value, tuple(_PLAIN)) else ''}", [*more, *_held(value)]

    def _of_module(self, module: nn.Module) -> Iterator[object]:
        """Class, attributes, hooks, weights that are not saved, and children of a module."""
        yield type(module)
        yield {name: value for name, value in _attributes(module).items() if name not in _OF_TORCH}
        hooks = module._forward_pre_hooks, module._forward_hooks  # their keys grow with every hook of a process
        yield [list(each.values()) for each in hooks]
        weights = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
        yield {name: None if id(value) in self.saved else value for name, value in weights.items()}
        yield list(dict(module._modules.items()).items())


def _held(value: object) -> list[object]:
    """What an object holds, as its attributes say, or else pickle does; what cannot be read leaves its text."""
    if isinstance(value, types.BuiltinMethodType):
        return [value.__name__, None if isinstance(value.__self__, types.ModuleType) else value.__self__]
    held = _attributes(value)
    if hasattr(value, "__wrapped__"):
        held["__wrapped__"] = value.__wrapped__
    if held:
        return [held]
    try:
        reduced = value.__reduce_ex__(2)
    except Exception:  # each kind of object has its own
        return [_short(value)]
    return [reduced] if isinstance(reduced, str) else [list(part) if _is_iterator(part) else part for part in reduced]


def _is_iterator(value: object) -> bool:
    return isinstance(value, Iterator)


def _attributes(value: object) -> dict[str, object]:
    """Attributes by name; in what order they were set says nothing."""
    return dict(sorted(getattr(value, "__dict__", {}).items()))


def _of_class(value: type) -> tuple[str, list[object]]:
    """Its name, and of one that is in no library, or was changed from outside, what it defines and inherits."""
    own = {name: each for name, each in vars(value).items() if name not in _OF_CLASSES}
    name = f"class {value.__module__}.{value.__qualname__}"
    if _is_libraries(value) and not any(map(_is_own_function, own.values())):
        return name, []
    return name, [*value.__mro__[1:], type(value), own]


def _of_code(value: Any) -> tuple[str, list[object]]:
    """What is said of a value that is code or can be called, and what it is made of."""
    for name, kinds in _INNER.items():
        if isinstance(value, kinds):
            return name, [getattr(value, name)]
    if isinstance(value, types.CodeType):
        return f"code {value.co_code.hex()} {value.co_names} {value.co_varnames}", list(value.co_consts)
    if isinstance(value, types.MethodType):
        return "method", [value.__func__, value.__self__]
    if isinstance(value, functools.partial):
        return "partial", [value.func, value.args, value.keywords, _attributes(value)]
    cells = [_content(cell) for cell in value.__closure__ or ()]
    parts = [value.__defaults__, value.__kwdefaults__, cells, _attributes(value)]
    if not _is_libraries(value):
        parts += [value.__code__, _globals_of(value, cells)]
    return f"function {value.__module__}.{value.__qualname__}", parts


def _globals_of(function: types.FunctionType, cells: list[object]) -> dict[str, object]:
    """The globals that it names, and of modules what it names of them: in libraries, what is none of theirs."""
    named, loaded = _names_in(function.__code__)
    found = {name: function.__globals__[name] for name in sorted(loaded) if name in function.__globals__}
    for module in [value for value in [*found.values(), *cells] if isinstance(value, types.ModuleType)]:
        held = {name: value for name, value in vars(module).items() if name in named}
        ours = (getattr(module, "__file__", None) or _LIBRARIES[0]).startswith(_libraries())
        found[f"of {module.__name__}"] = {k: held[k] for k in sorted(held) if not ours or _is_own_function(held[k])}
    return found


@functools.lru_cache(maxsize=2**14)
def _names_in(code: types.CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """All names in code and in the code within it, and those of them that it loads as globals."""
    codes = [code]
    for each in codes:  # grows
        codes += [part for part in each.co_consts if isinstance(part, types.CodeType)]
    loaded = {step.argval for each in codes for step in dis.get_instructions(each) if step.opname in _LOADS}
    return frozenset(name for each in codes for name in each.co_names), frozenset(loaded)


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # not yet filled


def _is_own_function(value: object) -> bool:
    """Whether it is somebody's own function, which may stand in a library's class or module."""
    return isinstance(value, types.FunctionType) and not _is_libraries(value)


@functools.cache
def _libraries() -> tuple[str, ...]:
    """Where libraries lie: Python's places, and folders of its path that pip installed to, as a user's own."""
    others = {path for path in sys.path if path and any(Path(path).glob(_INSTALLED))}
    return (*_LIBRARIES, *sorted(os.path.join(path, "") for path in others))


def _is_libraries(value: object) -> bool:
    """Whether a class or function comes from an installed package or Python itself."""
    if isinstance(value, types.FunctionType):
        return value.__code__.co_filename.startswith(_libraries())
    module = sys.modules.get(value.__module__)
    path = getattr(module, "__file__", None) or _LIBRARIES[0]  # what has no file is Python's own
    return module is not None and module.__name__ != "__main__" and path.startswith(_libraries())


def _short(value: object) -> str:
    """As it is written, without its address."""
    try:
        return ADDRESS.sub("", repr(value))
    except Exception:  # whatever somebody's own may raise; Python writes no number of 5,000 digits
        return f"{value:x}" if isinstance(value, int) else type(value).__qualname__
