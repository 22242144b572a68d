"""Runs the cells of one hand-in: they come in by one pipe, a word on each goes out by another.

This is a script for a process of its own, started by `judging`; it imports nothing of the package, so that it starts
fast. Asked to fork, it waits while a copy of it goes on with a hand-in. Whatever ran before it, a check runs outside
the shell that answers can reach: with what the package and its libraries held before the first cell, with names of the
notebook that no answer has bound, and under a word that was not in this process while the answer ran.
"""

from __future__ import annotations

import builtins
import functools
import json
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType, ModuleType
from typing import Any, TextIO

from IPython.core.inputtransformer2 import TransformerManager
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

_HELD = (ModuleType, property, classmethod, staticmethod, float)  # kept beside all that can be called
_INSIDE = ("__code__", "__defaults__", "__kwdefaults__")  # of a function
_SETTINGS = Config({"HistoryManager": {"enabled": False}, "InteractiveShell": {"colors": "nocolor"}})
_CHECK = "<check>"


class _Shell(InteractiveShell):
    def ask_exit(self) -> None:
        raise SystemExit("the notebook ends itself")


class Bindings:
    """What names stand for in modules and classes, to be put back where a hand-in has bound them anew."""

    def __init__(self) -> None:
        self.modules = {name: module for name, module in sys.modules.items() if isinstance(module, ModuleType)}
        for name in ("__main__", "sys"):  # IPython's own business
            self.modules.pop(name, None)
        self.held = [binding for module in self.modules.values() for binding in _bindings(module)]
        self.replaced: dict[str, None] = {}
        self.hold({id(value): value for _, _, value in self.held}.values())

    def hold(self, values: Iterable[object]) -> None:
        """Keep the insides of those that are functions, too."""
        functions = [value for value in values if isinstance(value, FunctionType)]
        self.held += [(function, name, getattr(function, name)) for function in functions for name in _INSIDE]

    def restore(self) -> list[str]:
        """Bind all as it was, and say what had changed."""
        for stop_tracing in (sys.settrace, sys.setprofile, threading.settrace, threading.setprofile):
            stop_tracing(None)
        sys.modules.update(self.modules)
        changed = [binding for binding in self.held if _now(*binding[:2]) is not binding[2]]
        for owner, name, value in changed:
            setattr(owner, name, value)
        names = [f"{getattr(owner, '__name__', owner)}.{name}" for owner, name, _ in changed]
        self.replaced.update(dict.fromkeys(names))
        return names


def _bindings(module: ModuleType) -> Iterator[tuple[object, str, object]]:
    for name, value in list(vars(module).items()):
        if callable(value) or isinstance(value, _HELD):
            yield module, name, value
        if isinstance(value, type) and value.__module__ == module.__name__ and value.__flags__ & 1 << 9:  # a heap type
            members = list(vars(value).items())
            yield from ((value, key, v) for key, v in members if callable(v) or isinstance(v, _HELD))


def _now(owner: object, name: str) -> object:
    return getattr(owner, name, None) if isinstance(owner, FunctionType) else vars(owner).get(name)


class Judge:
    """One notebook's state, and the part of it that a check may rely on."""

    def __init__(self, preparing: str, imports: list[str]) -> None:
        self.known: dict[str, object] = {}  # what names stand for unless an answer has bound them
        exec(preparing, {})
        for line in imports:
            try:
                exec(line, self.known)
            except Exception:  # the cell that needs it will say so
                continue
        self.builtins = dict(vars(builtins))
        self.known["__builtins__"] = self.builtins
        self.module = ModuleType("__main__")
        self.names = vars(self.module)
        self._open_shell()
        self.known.update({name: value for name, value in self.names.items() if name not in self.known})
        self.bindings, self.touched = Bindings(), False

    def _open_shell(self) -> None:
        _Shell.clear_instance()
        self.shell = _Shell.instance(config=_SETTINGS, user_module=self.module, user_ns=self.names)

    def run(self, source: str, own: bool) -> BaseException | None:
        """Run a cell; one of the project's `own` comes to a shell of its own once others have had theirs."""
        if own and self.touched:
            self.bindings.restore()
            self._open_shell()
        before, self.touched = dict(self.names), not own
        result = _Shell.run_cell(self.shell, source)
        for name, value in list(self.names.items()):
            new = name not in self.known and not hasattr(builtins, name)
            if new or (own and before.get(name) is not value):
                self.known[name] = value
                self.bindings.hold([value] if own else [])
        return result.error_before_exec or result.error_in_exec

    def check(self, source: str, answers: list[str] | None) -> BaseException | None:
        """Run a check on these names of an answer; None stands for all names."""
        self.bindings.restore()
        given = {name: self.names[name] for name in answers or () if name in self.names}
        scope = {**(self.names if answers is None else self.known), **{k: _watched(v) for k, v in given.items()}}
        before = dict(scope)
        try:
            exec(compile(TransformerManager().transform_cell(source), _CHECK, "exec"), scope)
        finally:
            changed = self.bindings.restore()
            bound = {name: value for name, value in scope.items() if before.get(name) is not value}
            for names in (self.known, self.names):
                names.update(bound)
        if changed:
            raise TypeError(f"it replaces {changed[0]} while it is checked")


def _watched(value: object) -> object:
    """An answer, or a function that gives answers: they may not be of a kind that decides how it compares."""
    if not callable(value):
        return _plain(value)

    @functools.wraps(value, updated=())
    def function(*arguments: object, **options: object) -> object:
        return _plain(value(*arguments, **options))

    return function


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind.__module__.split(".")[0] in ("__main__", "unittest", "mock"):
        raise TypeError(f"a {kind.__name__} is of a class of the hand-in; give numbers, arrays or text")
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple, set)) else ()
    if str(getattr(value, "dtype", "")) == "object":
        parts = value.tolist()
    for part in parts:
        _plain(part)
    return value


def _told(run: Callable[[], BaseException | None], names: dict[str, object]) -> list | None:
    """Run and say what went wrong: the error's name, its text, and whether a line of the hand-in raised it."""
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        error = run()
    except BaseException as problem:
        error = problem
    try:
        if error is None:
            return None
        trace, raised = error.__traceback__, False
        while trace:
            raised, trace = raised or trace.tb_frame.f_globals is names, trace.tb_next
        return [type(error).__name__, str(error)[:2000], raised]
    except BaseException:  # its text is the hand-in's, too
        return [type(error).__name__, "", True]
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _pipes() -> tuple[TextIO, TextIO]:
    """Where words go and lines come from; what a cell prints and reads from now on is another pipe."""
    words, lines = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(0))
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return words, lines


def _fork(control: int) -> int:
    """Go on twice; the copy, where this is 0, has the pipes that came by the socket, and a session of its own.

    Raises:
        RuntimeError: a graphics card is in use, which no copy could go on using.
    """
    with socket.socket(fileno=os.dup(control)) as channel:
        _, pipes, _, _ = socket.recv_fds(channel, 1, 3)
    try:
        torch = sys.modules.get("torch")
        if torch and torch.cuda.is_initialized():
            raise RuntimeError("cuda is in use")
        with warnings.catch_warnings(action="ignore"):  # of threads: libraries have some that wait for work
            copy = os.fork()
        if copy == 0:
            os.setsid()
            os.close(control)
            for number, pipe in enumerate(pipes):
                os.dup2(pipe, number)
        return copy
    finally:
        for pipe in pipes:
            os.close(pipe)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # a hand-in may have closed it
            continue


def main() -> None:
    """Answer each line that comes by the standard input, until it ends."""
    judge: Judge  # made by the first line, which asks for the start
    (words, lines), control, copy = _pipes(), int(sys.argv[1]), None
    sys.path.insert(0, "")
    while line := lines.readline():
        asked, error = json.loads(line), None
        token, do = asked.pop("token"), asked.pop("do")
        if do == "start":
            judge = Judge(**asked)
        elif do == "fork":
            try:
                copy = _fork(control)
            except RuntimeError as refused:
                error = [type(refused).__name__, str(refused), False]
            if copy == 0:
                for stream in (words, lines):  # they are not its own
                    stream.close()
                words, lines = _pipes()
                os.chdir(asked["folder"])
                continue
        else:
            error = _told(functools.partial(getattr(judge, do), **asked), judge.names)
        _flush()
        word = {"token": token, "error": error, "replaced": list(judge.bindings.replaced)[:3], "copy": copy}
        words.write(json.dumps(word) + "\n")
        words.flush()
        if do == "fork" and copy:
            os.waitpid(copy, 0)


if __name__ == "__main__":
    main()
