"""Functions that a name stands for: `package.module:function`, or `path/to/file.py:function`."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar, cast

import torch

from ..kernels.checks import as_seed, came, in_one_line, shown

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

Made = TypeVar("Made")


def function_named(name: str, kinds: Sequence[str]) -> Callable[[], object]:
    """The function that `module:function` stands for, found and imported.

    Args:
        name: a module as it is imported, also from the current folder, or a path that ends in .py; and the name of a
            function in it that can be called without arguments, as a class can.
        kinds: what else could have stood before the colon.

    Returns:
        What calls it, with its folder among those that are imported from.

    Raises:
        ValueError: a module or function that is missing or cannot be imported, or a function that needs arguments.
    """
    module, _, attribute = name.rpartition(":")
    found = _module(module, kinds)
    folder = os.path.dirname(os.path.abspath(inspect.getfile(found))) if module.endswith(".py") else os.getcwd()
    if not hasattr(found, attribute):
        known = [each for each, value in vars(found).items() if callable(value) and not each.startswith("_")]
        near = (difflib.get_close_matches(attribute, known, n=3) or known)[:3]
        hint = f"it has {in_one_line(', '.join(near), 80)}" if near else "it has none"
        raise ValueError(f"name: {shown(module, 80)} has no function {came(attribute, 40)}; {hint}")
    function = getattr(found, attribute)
    _require_no_arguments(function, name)
    return partial(_called_within, folder, function)  # which other processes can have, too


def _called_within(folder: str, function: Callable[[], object]) -> object:
    with importable(folder):
        return function()


def seeded(function: Callable[[], Made], seed: int) -> Made:
    """What a function returns where torch draws from `seed`; what else draws numbers afterwards is not touched."""
    seed, devices = as_seed(seed), range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        return function()


def refused(error: BaseException, what: str, most: int = 120) -> ValueError:
    """The sentence that says what went wrong where something else was at work; one of ours stays as it is."""
    if isinstance(error, ValueError) and str(error).startswith("name: "):
        return ValueError(in_one_line(error, 300))
    said = in_one_line(error, most)
    kind = "" if said == type(error).__name__ else f"{type(error).__name__}: "
    return ValueError(f"name: {what} ({kind}{said})")


def lacking(name: str, library: str, error: ImportError) -> ValueError:
    """The sentence that says which library a name needs, and how it is installed."""
    said = f"name: {shown(name, 60)} needs {library}, which cannot be imported ({in_one_line(error, 100)})"
    return ValueError(f"{said}; `pip install {library}`")


@contextmanager
def importable(folder: str) -> Generator[None]:
    """Within it modules of a folder can be imported."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _module(name: str, kinds: Sequence[str]) -> ModuleType:
    is_file = name.endswith(".py")
    if is_file and not os.path.isfile(name):
        raise ValueError(f"name: there is no file {shown(name)}")
    if not is_file and not all(part.isidentifier() for part in name.split(".")):
        said = f"expected module:function, as path/to/file.py:make, or a name that begins with {':, '.join(kinds)}:"
        raise ValueError(f"name: {said}, got {came(name, 60)} before the colon")
    try:
        with importable(os.path.dirname(os.path.abspath(name)) if is_file else os.getcwd()):
            return seeded(lambda: _of_file(Path(name).resolve()) if is_file else importlib.import_module(name), 0)
    except ModuleNotFoundError as error:
        if is_file or not name.startswith(error.name or " "):
            raise refused(error, f"cannot import {shown(name, 80)}") from error
        near = difflib.get_close_matches(name, kinds, n=1)
        hint = f"did you mean {near[0]}:?" if near else "give its path, as path/to/file.py:make, or install it"
        raise ValueError(f"name: there is no module {came(name, 80)}; {hint}") from error
    except (Exception, SystemExit) as error:  # whatever a module raises while it is imported
        raise refused(error, f"cannot import {shown(name, 80)}") from error


def _of_file(path: Path) -> ModuleType:
    """A file as a module, under a name that no other module has."""
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    loader = SourceFileLoader(name, str(path))
    specification = importlib.util.spec_from_file_location(name, path, loader=loader)
    module = importlib.util.module_from_spec(cast("ModuleSpec", specification))  # None of other files alone
    before, sys.modules[name] = sys.modules.get(name), module  # where dataclasses and pickles look for it
    try:
        loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        raise
    return module


def _require_no_arguments(function: object, name: str) -> None:
    if not callable(function) or isinstance(function, torch.nn.Module):
        mend = "write a function that returns it, as def make(): return net"
        raise ValueError(f"name: {shown(name, 80)} is no function but {came(function, 40)}; {mend}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of what is not written in Python
        return
    try:
        signature.bind()
    except TypeError as error:
        mend = "name one without any, as def make(): return function(...)"
        raise ValueError(f"name: {shown(name, 80)} needs arguments ({in_one_line(error, 60)}); {mend}") from error
