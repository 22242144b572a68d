"""Which code a function or class reaches in this package, and a hash of it that comments and layout do not change."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import multiprocessing
import symtable
import sys
import textwrap
import time
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from keyword import iskeyword
from pathlib import Path
from threading import RLock
from types import FunctionType

_PACKAGE = __name__.partition(".")[0]
_FOLDER = Path(__file__).parents[1]
_APART = "apart"  # the decorator
_SAID = ("title", "seconds", "published")  # attributes of classes that decide nothing of what is made
_OPENING, _CLOSING = ("(", "[", "{"), (")", "]", "}")
_IMPORTED = time.time()
_PARSING = RLock()  # Python 3.11 cannot parse in two threads at once


def apart(function: FunctionType) -> FunctionType:
    """Mark a function or method that decides no number of a result, so that an edit of it makes nothing anew.

    Such is what reads data that are known by their checksum.
    """
    return function


def code(*roots: type | FunctionType, stop: Iterable[type] = ()) -> str:
    """A hash of all code that the roots reach, see `reached`: sixteen hexadecimal digits.

    It is the same for Python 3.11 to 3.13, and for another layout, other comments and other docstrings; nor does it
    matter in which module something stands.

    Args:
        roots, stop: as in `reached`.

    Raises:
        ValueError: a root whose source is not at hand.
    """
    texts = sorted(f"{name} {text}" for (_, name), text in reached(*roots, stop=stop).items())
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def reached(*roots: type | FunctionType, stop: Iterable[type] = ()) -> dict[tuple[str, str], str]:
    """The code of this package, and of the roots' own, that the roots reach: its tokens, by module and name.

    Functions, constants and defaults are reached by their names, also through modules (`module.NAME`), and a class that
    is named, annotated or returned with all its methods. What is marked with `apart` counts by its name alone.

    Args:
        roots: functions and classes.
        stop: classes that are not followed, unless they are roots.

    Raises:
        ValueError: a root whose source is not at hand, or code of this package that was edited since it was imported.
    """
    packages = frozenset([_PACKAGE, *(root.__module__.partition(".")[0] for root in roots)])
    waiting, found = [(root.__module__, root.__qualname__) for root in roots], {}
    stops = {(one.__module__, one.__qualname__) for one in stop} - set(waiting)
    with _PARSING:
        while waiting:
            unit = waiting.pop()
            if unit not in found and unit not in stops:
                part = _part(*unit, packages)
                found[unit] = part.text
                waiting += part.reached
    return found


def bare(source: str) -> str:
    """The tokens of Python's source, comments, docstrings and layout apart; the same for any version of Python."""
    lines, start, within, found = source.splitlines(keepends=True), (0, 0), 0, []
    docstrings = set(_docstrings(ast.parse(source)))
    for token in tokenize.generate_tokens(iter(lines).__next__):
        kind = tokenize.tok_name[token.type]
        if kind == "FSTRING_START":  # from Python 3.12 on; before, it is one string
            start, within = (start if within else token.start), within + 1
        elif kind == "FSTRING_END":
            within -= 1
            if not within:
                found.append(_between(lines, start, token.end))
        elif not within and kind not in ("COMMENT", "NL") and token.start not in docstrings:
            found.append(token.string.strip() or kind)
    return " ".join(_without_last_commas(found))


_Unit = tuple[str, str]  # of a module and a name in it


@dataclass(frozen=True)
class _Part:
    """The text of a definition, and what it names."""

    text: str
    reached: tuple[_Unit, ...]


@cache
def _part(module: str, name: str, packages: frozenset[str]) -> _Part:
    """What a name of a module is defined by: the tokens of all statements that define it."""
    source = _source(module, packages)
    if name not in source.definitions:
        raise ValueError(f"roots: the source of {module}.{name} is not at hand")
    texts, reached = [], []
    for statement in source.definitions[name]:
        if not _is_apart(statement):
            text = source.text(statement)
            units, imported = source.named_in(text, packages)
            texts += [bare(text), *imported]
            reached += units
    return _Part("\n".join(texts), tuple(dict.fromkeys(reached)))


class _Source:
    """A module, parsed."""

    def __init__(self, name: str, path: Path):
        text = path.read_text(encoding="utf-8")
        self.name, self.lines, tree = name, text.splitlines(keepends=True), ast.parse(text)
        self.package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self.definitions: dict[str, list[ast.stmt]] = {}
        for names, statement in _defined(tree.body):
            for defined in names:
                self.definitions.setdefault(defined, []).append(statement)
        self.imports = dict(self.imported(*_outside_functions(tree.body)))

    def text(self, statement: ast.stmt) -> str:
        """The source of a statement of the module, without what within it decides nothing."""
        first, lines = _first_line(statement), list(self.lines)
        for node in ast.walk(statement):
            if isinstance(node, ast.ClassDef):
                for member in filter(_decides_nothing, node.body):
                    indent = lines[member.lineno - 1][: member.col_offset]
                    start, stop = _first_line(member) - 1, member.end_lineno or member.lineno
                    lines[start:stop] = [f"{indent}pass\n", *["\n"] * (stop - start - 1)]
        return textwrap.dedent("".join(lines[first - 1 : statement.end_lineno]))

    def imported(self, *nodes: ast.AST) -> Iterator[tuple[str, tuple[str, str | None]]]:
        """Each name that is imported, with the module and the name there; None: the module itself."""
        for node in nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    bound = alias.asname or alias.name.partition(".")[0]
                    yield bound, (alias.name if alias.asname else bound, None)
            elif isinstance(node, ast.ImportFrom):
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), self.package)
                for alias in node.names:
                    yield alias.asname or alias.name, (base, alias.name)

    def named_in(self, text: str, packages: frozenset[str]) -> tuple[list[_Unit], list[str]]:
        """What a piece of this module's code reaches at once, and what its names mean that are imported."""
        tree = ast.parse(text)
        within = dict(self.imported(*ast.walk(tree)))
        names = {*_global_names(symtable.symtable(text, self.name, "exec")), *within}
        found = _Names(lambda name: _resolved(self, name, within, packages) if name in names else None, packages)
        found.visit(tree)
        imports = {name: of for name, of in {**self.imports, **within}.items() if name in names}
        meant = []
        for name, (module, there) in sorted(imports.items()):
            if not _is_own(module, packages):
                meant.append(f"{name} is {module} {there or ''}")
            elif name != (there or module.rpartition(".")[2]):
                meant.append(f"{name} is {there or module}")  # where it stands does not count, so that it can move
        return found.units, meant


class _Names(ast.NodeVisitor):
    """Collects what names stand for, also at the end of a chain of modules, as in `checks.as_count`."""

    def __init__(self, resolve, packages: frozenset[str]):
        self.resolve, self.packages, self.units = resolve, packages, []

    def visit_Name(self, node: ast.Name) -> None:
        """A name by itself; of a module, all that it defines."""
        self._take(self.resolve(node.id))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """An attribute of a module, or of anything else."""
        found = self._of(node)
        if found is None:
            self.generic_visit(node)
        else:
            self._take(found)

    def _of(self, node: ast.expr) -> tuple[str, str | None] | None:
        """What an expression stands for, if it is a module or something in one."""
        if isinstance(node, ast.Name):
            return self.resolve(node.id)
        if isinstance(node, ast.Attribute):
            base = self._of(node.value)
            if base is not None:
                module, name = base
                return base if name is not None else _named_in(module, node.attr, self.packages)
        return None

    def _take(self, found: tuple[str, str | None] | None) -> None:
        if found is not None:
            module, name = found
            known = [name] if name is not None else _source(module, self.packages).definitions
            self.units += [(module, one) for one in known]


def _resolved(
    source: _Source, name: str, within: dict[str, tuple[str, str | None]], packages: frozenset[str]
) -> tuple[str, str | None] | None:
    """What a name stands for in a module: something of ours, a module of ours (no name), or None."""
    imported = within.get(name)
    if imported is None and name in source.definitions:
        return source.name, name
    module, there = imported or source.imports.get(name, ("", None))
    if not _is_own(module, packages):
        return None
    return (module, None) if there is None else _named_in(module, there, packages)


def _named_in(module: str, name: str, packages: frozenset[str]) -> tuple[str, str | None] | None:
    """What a name stands for in a module of ours: defined there, imported there, or a module below it."""
    source = _source(module, packages)
    if name in source.definitions or name in source.imports:
        return _resolved(source, name, {}, packages)
    return (f"{module}.{name}", None) if _path(f"{module}.{name}") else None


def _is_own(module: str, packages: frozenset[str]) -> bool:
    return module.partition(".")[0] in packages


def _source(module: str, packages: frozenset[str]) -> _Source:
    path = _path(module)
    if path is None:
        raise ValueError(f"roots: the source of {module} is not at hand")
    return _parsed(module, path)


@cache
def _parsed(module: str, path: Path) -> _Source:
    edited = _FOLDER in path.parents and _IMPORTED < path.stat().st_mtime <= time.time()
    if edited and multiprocessing.parent_process() is None:  # a worker compares its keys with those that it is given
        raise ValueError(f"code: {path.name} was edited after it was imported; start again")
    return _Source(module, path)


@cache
def _path(module: str) -> Path | None:
    """The file of a module, also of the one that is run as a script."""
    named = getattr(sys.modules.get(module), "__file__", None)
    if named is None:
        try:
            named = getattr(importlib.util.find_spec(module), "origin", None)
        except (ImportError, ValueError):
            return None
    return Path(named) if named and str(named).endswith(".py") else None


def _defined(body: list[ast.stmt]) -> Iterator[tuple[list[str], ast.stmt]]:
    """Names that statements of a module define, and the statement."""
    for statement in _outside_functions(body):
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield [statement.name], statement
        elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            yield [node.id for one in targets for node in ast.walk(one) if isinstance(node, ast.Name)], statement


def _outside_functions(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, also under conditions and the like."""
    for statement in body:
        yield statement
        if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for _, value in ast.iter_fields(statement):
                if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                    yield from _outside_functions(value)


def _global_names(table: symtable.SymbolTable, *, outermost: bool = True) -> Iterator[str]:
    """Names that are read and belong to the module, or to Python."""
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (outermost or symbol.is_global()):
            yield symbol.get_name()
    for inner in table.get_children():
        yield from _global_names(inner, outermost=False)


def _first_line(statement: ast.stmt) -> int:
    return min([statement.lineno, *(one.lineno for one in getattr(statement, "decorator_list", ()))])


def _is_apart(node: ast.AST) -> bool:
    decorators = getattr(node, "decorator_list", ())
    return any(_APART in (getattr(one, "id", ""), getattr(one, "attr", "")) for one in decorators)


def _decides_nothing(member: ast.stmt) -> bool:
    """Whether a member of a class is set apart, or only said while something is made."""
    if isinstance(member, (ast.Assign, ast.AnnAssign)):
        targets = member.targets if isinstance(member, ast.Assign) else [member.target]
        names = [one for target in targets for one in (target.elts if isinstance(target, ast.Tuple) else [target])]
        return all(isinstance(name, ast.Name) and name.id in _SAID for name in names)
    return _is_apart(member)


def _without_last_commas(tokens: list[str]) -> list[str]:
    """Tokens without commas before a closing bracket, which a formatter sets, but for that of a tuple of one."""
    kept, brackets = [], []
    for token in tokens:
        if token in _OPENING:
            called = bool(kept) and (kept[-1] in _CLOSING or (kept[-1].isidentifier() and not iskeyword(kept[-1])))
            brackets.append([token, called, 0])
        elif token == "," and brackets:
            brackets[-1][2] += 1
        elif token in _CLOSING and brackets:
            opening, called, commas = brackets.pop()
            needed = commas == 1 and (opening == "[" if called else opening == "(")
            if kept[-1] == "," and not needed:
                kept.pop()
        kept.append(token)
    return kept


def _docstrings(tree: ast.AST) -> Iterator[tuple[int, int]]:
    """Where docstrings begin: line and column."""
    for node in ast.walk(tree):
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, kinds) and ast.get_docstring(node) is not None:
            yield node.body[0].lineno, node.body[0].col_offset


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """The source between two places, each a line from 1 and a column."""
    (first, left), (last, right) = start, end
    text = "".join(lines[first - 1 : last])
    return text[left : len(text) - len(lines[last - 1]) + right]
