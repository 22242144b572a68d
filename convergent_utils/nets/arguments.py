"""Arguments that are numbers or tensors: read where their meaning is clear, else refused by their names."""

from __future__ import annotations

import math
import numbers
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from ..kernels.checks import is_count
from .modes import in_one_line


def as_count(value: object, name: str, *, at_least: int = 1) -> int:
    """A whole number of Python or NumPy, as Python has it."""
    if not is_count(value) or value < at_least:
        raise ValueError(f"{name}: expected a whole number of at least {at_least}, got {in_one_line(repr(value))}")
    return int(value)


def as_seed(value: object) -> int:
    """A seed that torch takes."""
    if not is_count(value) or not -(2**63) <= value < 2**64:
        raise ValueError(f"seed: expected a whole number of at most 64 bits, got {in_one_line(repr(value))}")
    return int(value)


def is_number(value: object) -> bool:
    """Whether it is a finite real number, of Python or of NumPy."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def as_share(value: object, name: str, what: str = "shares of training from 0 to 1") -> float:
    """A number from 0 to 1."""
    if not is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name}: expected {what}, got {in_one_line(repr(value))}")
    return value


def as_floats(value: object, name: str, what: str) -> Tensor:
    """A finite floating-point tensor, or NumPy array, whose values lie in rows."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.ma.is_masked(value):
        value = torch.from_numpy(np.array(value, dtype=np.float64))
    if not isinstance(value, Tensor) or not has_rows(value) or not value.is_floating_point():
        raise ValueError(f"{name}: expected {what}, got {form_of(value)}")
    if not value.isfinite().all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    return value


def as_whole(value: object, name: str, *, what: str) -> Tensor:
    """Whole numbers (n,) as int64, from a tensor, NumPy array or list of whole numbers of any type."""
    read = value
    if isinstance(value, (np.ndarray, list, tuple)) and not np.ma.is_masked(value):
        with suppress(ValueError, TypeError):  # what NumPy does not take is refused below
            array = np.array(value)
            read = torch.from_numpy(array.astype(np.int64)) if array.dtype.kind in "iu" else array
    whole = isinstance(read, Tensor) and not (read.is_floating_point() or read.is_complex() or read.dtype == torch.bool)
    if not whole or read.ndim != 1 or not has_rows(read):
        raise ValueError(f"{name}: expected {what}, got {form_of(read)}")
    return read.long()


def has_rows(value: Tensor) -> bool:
    """Whether its values are there, in rows: it is not sparse, nested, quantised, or on the meta device."""
    return not (value.is_nested or value.is_quantized or value.is_meta or value.layout != torch.strided)


def form_of(value: object) -> str:
    """What kind of value it is, in a few words."""
    if not isinstance(value, (Tensor, np.ndarray)):
        return type(value).__name__
    if isinstance(value, Tensor) and not has_rows(value):
        kinds = {"nested": value.is_nested, "quantised": value.is_quantized, "meta": value.is_meta}
        kind = next((kind for kind, is_it in kinds.items() if is_it), str(value.layout).removeprefix("torch."))
        return f"a {kind} tensor"
    masked = ", masked" if np.ma.is_masked(value) else ""
    return f"{tuple(value.shape)} {value.dtype}{masked}"
