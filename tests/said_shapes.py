"""Shapes and types of tensors that docstrings say, read, and written as jaxtyping has them."""

import ast
import inspect
import re
from contextlib import contextmanager
from typing import NamedTuple

import jaxtyping
import torch
from torch import Tensor

DTYPES = {
    "float64": jaxtyping.Float64,
    "float32": jaxtyping.Float32,
    "int64": jaxtyping.Int64,
    "int32": jaxtyping.Int32,
    "uint8": jaxtyping.UInt8,
    "bool": jaxtyping.Bool,
}
_SHAPE = r"\((?:[^()]|\([^()]*\))*,(?:[^()]|\([^()]*\))*\)"  # has a comma, and calls alone within
_DTYPE = rf"(?:,? ({'|'.join(DTYPES)})\b)?"
_SHAPES = re.compile(rf"(?P<by_net>by net )?(?P<shapes>0-d|{_SHAPE}(?:, {_SHAPE})*){_DTYPE}")
_SECTION = "^{}:\n((?:    .*(?:\n|$)|\n)+)"
_PARTS = (ast.Expression, ast.BinOp, ast.operator, ast.Constant, ast.Name, ast.Load, ast.Call)


class Said(NamedTuple):
    """What a docstring says of one tensor: where, of which attribute or place, if any, its dimensions and its type."""

    where: str
    attribute: str | int | None
    dims: tuple[str, ...]
    dtype: str | None
    by_net: bool = False

    @property
    def result(self) -> str:
        """What it is a part of: of attributes the class, else the function or method."""
        return self.where.partition(".")[0] if isinstance(self.attribute, str) else self.where

    @property
    def annotation(self):
        """As jaxtyping has it: an expression has no space within."""
        return DTYPES.get(self.dtype, jaxtyping.Shaped)[Tensor, " ".join(dim.replace(" ", "") for dim in self.dims)]


class Unread(NamedTuple):
    """What looks like a shape, and is none that can be read."""

    where: str
    text: str


def dims_of(shape: str) -> tuple[str, ...] | None:
    """The dimensions of "(units_a, n_live - 1)"; None where they are words."""
    if shape == "0-d":
        return ()
    dims = [dim.strip() for dim in re.split(r",(?![^(]*\))", shape[1:-1])]
    dims = dims[:-1] if dims[-1] == "" else dims
    return tuple(dims) if all(map(_is_dim, dims)) else None


def _is_dim(dim: str) -> bool:
    if dim == "...":
        return True
    try:
        nodes = list(ast.walk(ast.parse(dim, mode="eval")))
    except SyntaxError:
        return False
    calls = [node.func.id for node in nodes if isinstance(node, ast.Call)]
    return all(isinstance(node, _PARTS) for node in nodes) and set(calls) <= {"min", "max"}


def said_in(text: str, where: str, names: list[str] | None = None, dtype: str | None = None) -> list[Said | Unread]:
    """What the beginning of a text says, of one tensor or, in the order of names, of several."""
    found = _SHAPES.match(text)
    if found is None:
        return [Unread(where, text)] if text.startswith("(") else []
    shapes = [dims_of(shape) for shape in re.findall(rf"0-d|{_SHAPE}", found["shapes"])]
    if None in shapes:
        return [Unread(where, text)]
    names = names or [None] * len(shapes)
    shapes = shapes * len(names) if len(shapes) == 1 else shapes
    if len(shapes) != len(names):
        return [Unread(where, text)]
    dtype = found[found.lastindex] if found.lastindex and found[found.lastindex] in DTYPES else dtype
    return [Said(where, name, dims, dtype, bool(found["by_net"])) for name, dims in zip(names, shapes, strict=True)]


def section(doc: str, title: str) -> str:
    found = re.search(_SECTION.format(title), doc, re.MULTILINE)
    return inspect.cleandoc(found[1]) if found else ""


def attributes_said(where: str, doc: str) -> list[Said | Unread]:
    """Those of the section Attributes; the type that the first line says is that of all that say none."""
    of_all = re.search(rf"\b({'|'.join(DTYPES)})\b", doc.partition("\n\n")[0])
    entries = re.findall(r"^([a-z]\w*(?:, \w+)*): ((?:.|\n {4,})*)", section(doc, "Attributes"), re.MULTILINE)
    found = []
    for names, text in entries:
        flat = " ".join(text.split())
        found += said_in(flat, f"{where}.{names}", names.split(", "), of_all and of_all[1])
    return found


def returns_said(where: str, function) -> list[Said | Unread]:
    """What a function returns: as its section Returns begins, or, of tensors, by the first shapes of its summary."""
    doc, given = inspect.getdoc(function) or "", inspect.signature(function).return_annotation
    given = given if isinstance(given, str) else inspect.formatannotation(given)
    text = " ".join(section(doc, "Returns").split())
    if text:
        return said_in(text, where)
    summary = " ".join(doc.partition("\n\n")[0].split())
    n_wanted = {"Tensor": 1, "tuple[Tensor, Tensor]": 2}.get(given.replace("torch.", ""), 0)
    found = [one for start in _SHAPES.finditer(summary) for one in said_in(summary[start.start() :], where)][:n_wanted]
    if n_wanted < 2 or any(isinstance(one, Unread) for one in found):
        return found
    return [one._replace(attribute=k, dtype=one.dtype or found[-1].dtype) for k, one in enumerate(found)]


def members_said(where: str, kind: type) -> list[Said | Unread]:
    """What is said of public properties of a class, as of attributes, and of what its methods return."""
    found = []
    for name, member in vars(kind).items():
        if not name.startswith("_") and isinstance(member, property):
            said = returns_said(f"{where}.{name}", member.fget)
            found += [one if isinstance(one, Unread) else one._replace(attribute=name) for one in said]
        elif not name.startswith("_") and inspect.isfunction(member):
            found += returns_said(f"{where}.{name}", member)
    return found


@contextmanager
def sizes(**known: int):
    """Within it names stand for these numbers, and any other for that which it is met with first."""
    with jaxtyping.jaxtyped("context"):
        assert isinstance(torch.empty(tuple(known.values())), jaxtyping.Shaped[Tensor, " ".join(known)])
        yield


def require(said: list[Said], value) -> list[Said]:
    """A result, or what a function returned, is as it is said; what of it was there. Within `sizes`.

    Plain names are met before sums of them, for which they must stand for numbers.
    """
    there = []
    for one in sorted(said, key=lambda one: not all(dim.isidentifier() for dim in one.dims)):
        named = isinstance(one.attribute, str)
        found = value if one.attribute is None else getattr(value, one.attribute) if named else value[one.attribute]
        if found is None:  # as what other functions alone give
            continue
        for net, tensor in found.items() if one.by_net else [("", found)]:
            dims = tuple(f"units_{net}" if one.by_net and dim == "units" else dim for dim in one.dims)
            expected = one._replace(dims=dims).annotation.__name__
            form = f"{tuple(tensor.shape)} {tensor.dtype}"
            fits = isinstance(tensor, one._replace(dims=dims).annotation)
            assert fits, f"{one.where}: said {expected}, came {form}"
        there.append(one)
    return there
