"""Results as tensors and a tree of plain values, and back; only classes of this package are ever made."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.masked import MaskedTensor

from ..kernels.checks import form_of, has_rows, in_one_line, tensor_of

_LONGEST_NUMBER = 3300  # bits; Python writes no number of many more
_PACKAGE = __name__.partition(".")[0]
_MODULES = {  # where the classes were that older files name without their module
    "kernels.alignment": ("PartialLeastSquares",),
    "kernels.binning": ("BinEdges",),
    "kernels.cca": ("CCAResult", "CorrelationCount"),
    "kernels.chance": ("Chance", "Interval"),
    "kernels.clustering": ("MergeTree", "SpectralEmbedding"),
    "kernels.correlation": ("Correlation",),
    "kernels.dft_cca": ("DFTCCA",),
    "kernels.matching": ("Match",),
    "kernels.moments": ("Moments", "PairMoments"),
    "kernels.sparse_mapping": ("MappingPath",),
    "nets.datasets": ("Dataset",),
    "nets.measurement": ("Measurement",),
    "nets.top": ("Top",),
    "nets.networks": ("Network",),
    "nets.receptive_fields": ("ReceptiveField",),
    "nets.training": ("History", "Recipe", "Trained"),
}
_BEFORE = {name: f"{_PACKAGE}.{module}:{name}" for module, names in _MODULES.items() for name in names}


def _class_named(name: str) -> type[Any]:
    """The class of this package that a file names: one that is made from its fields, or from its state.

    Nothing else is ever made from a file.
    """
    module, _, cls = _BEFORE.get(name, name).partition(":")
    if module.partition(".")[0] != _PACKAGE or not cls.isidentifier():
        raise ValueError(f"{in_one_line(name)} is no class of this package")
    found = getattr(importlib.import_module(module), cls, None)
    if not isinstance(found, type) or not (is_dataclass(found) or hasattr(found, "from_state")):
        raise ValueError(f"{in_one_line(name)} is no result of this package")
    return found


def _name_of(cls: type) -> str | None:
    """The name by which a file says of which class its object is; None for one that it cannot hold."""
    name = f"{cls.__module__}:{cls.__qualname__}"
    try:
        return name if _class_named(name) is cls else None
    except (ValueError, ImportError):
        return None


def encode(value: Any, tensors: dict[str, Tensor]) -> object:
    """A JSON tree of `value`; its tensors are put aside under numbers."""
    kind = type(value).__name__
    if isinstance(value, int) and value.bit_length() > _LONGEST_NUMBER:
        raise ValueError("obj: cannot save a whole number of more than 1,000 digits; save it as text instead")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic) and isinstance(value.item(), (bool, int, float, str)):
        return value.item()
    if isinstance(value, Tensor):
        shown_whole = tensor_of(value) if isinstance(value, MaskedTensor) else value
        if shown_whole is None or not has_rows(value):
            raise ValueError(f"obj: cannot save {form_of(value)}; save a dense tensor of its values instead")
        if value.dtype in (torch.complex128, torch.complex32):  # the files know complex64 alone
            raise ValueError(f"obj: cannot save {form_of(value)}; save its real and imaginary parts instead")
        key = f"{len(tensors):06d}"
        dense = shown_whole.detach().resolve_conj().resolve_neg().cpu()
        tensors[key] = dense.clone(memory_format=torch.contiguous_format)
        return {"tensor": key}
    if type(value) in (list, tuple):
        return {kind: [encode(item, tensors) for item in value]}
    if isinstance(value, Mapping):
        return {"dict": [[encode(k, tensors), encode(v, tensors)] for k, v in value.items()]}
    name = _name_of(type(value))
    if name is None:
        hint = "torch.from_numpy of it" if isinstance(value, np.ndarray) else "its tensors in a dict"
        raise ValueError(f"obj: cannot save a {in_one_line(kind)}; save {hint} instead")
    if is_dataclass(value):
        content = {field.name: getattr(value, field.name) for field in fields(value)}
    else:
        content = value.state()
    return {"class": name, "content": encode(content, tensors)}


def decode(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value of a tree; what names a class of this package is made again."""
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        return tensors[tree["tensor"]]
    if "list" in tree or "tuple" in tree:
        kind, items = next(iter(tree.items()))
        return (tuple if kind == "tuple" else list)(decode(item, tensors) for item in items)
    if "dict" in tree:
        return {decode(k, tensors): decode(v, tensors) for k, v in tree["dict"]}
    made, content = _class_named(tree["class"]), decode(tree["content"], tensors)
    if not is_dataclass(made):
        return made.from_state(content)
    if not isinstance(content, dict) or not content.keys() <= {field.name for field in fields(made)}:
        raise ValueError(f"a {in_one_line(tree['class'], 60)} of another version of this package")
    for field in fields(made):
        if field.type in ("Tensor", Tensor) and not isinstance(content[field.name], Tensor):
            raise ValueError(f"{field.name} of a {tree['class']} is no tensor")
    return made(**content)
