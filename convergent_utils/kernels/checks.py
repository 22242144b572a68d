"""Checks of arguments: each error names the argument, what was expected and what came."""

from __future__ import annotations

import difflib
import math
import numbers
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, TypeGuard, TypeVar, overload

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.masked import MaskedTensor

_LONGEST = 150  # characters of what another said, or of what came, within a sentence
_LONGEST_SENTENCE = 300
_MOST_LISTED = 10**6
_LONGEST_NUMBER = 1024  # bits of a whole number that is written out
_Value = TypeVar("_Value")


def as_activations(value: Tensor | np.ndarray, name: str) -> Tensor:
    """The activations `value` as a tensor (samples, units), at least float32, on the device they are on.

    Values are not looked at here: what accumulates them checks that they are finite.
    """
    read = tensor_of(value)
    if read is None:
        raise ValueError(f"{name}: expected a float tensor or NumPy array (samples, units), got {form_of(value)}")
    if not read.is_floating_point():
        raise ValueError(f"{name}: expected floating-point activations, got {read.dtype}")
    if read.ndim != 2 or read.shape[1] == 0:
        raise ValueError(f"{name}: expected shape (samples, units) with at least one unit, got {tuple(read.shape)}")
    return read.detach() if read.dtype in (torch.float32, torch.float64) else read.detach().float()


def tensor_of(value: object, *, lists: bool = False) -> Tensor | None:
    """The values of a tensor, a NumPy array, or an object with `__dlpack__` or `__array__`, over the same memory.

    With `lists` also those of a number, or of a list or tuple of numbers, which are copied.

    None where there are none in rows, or a mask hides any of them; a mask that hides nothing is passed over. Memory is
    copied where it is not contiguous, or in another byte order than the machine's.
    """
    if isinstance(value, MaskedTensor):
        value = value.get_data() if value.get_mask().all() else None
    elif not isinstance(value, (Tensor, np.ndarray)):
        value = _exported(value, lists)
    if isinstance(value, Tensor):
        if has_rows(value) and value.is_floating_point() and value.dtype.itemsize == 1:
            value = value.float()  # torch does no more with eight bits than to convert them
        return value.resolve_neg() if has_rows(value) else None
    if not isinstance(value, np.ndarray) or np.ma.is_masked(value):
        return None
    with warnings.catch_warnings(), suppress(TypeError):  # types that torch has not
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # and nothing is written
        return torch.from_numpy(np.asarray(value, dtype=value.dtype.newbyteorder("="), order="C"))
    return None


def _exported(value: object, lists: bool) -> Tensor | np.ndarray | None:
    """What an array of another library gives out, on its device where it can; with `lists` lists of numbers, too."""
    with suppress(Exception):
        if hasattr(value, "__dlpack__"):
            return torch.from_dlpack(value)
    with suppress(Exception):
        if hasattr(value, "__array__") or (lists and isinstance(value, (numbers.Number, list, tuple, range))):
            return np.asanyarray(value)
    return None


def require_same_samples(acts_a: Tensor, acts_b: Tensor) -> None:
    """Both have as many rows, at least two, on one device."""
    if acts_a.device != acts_b.device:
        raise ValueError(f"acts_b: expected activations on {acts_a.device} as acts_a, got them on {acts_b.device}")
    if len(acts_a) != len(acts_b):
        raise ValueError(f"acts_b: expected {len(acts_a)} samples as in acts_a, got {len(acts_b)}")
    if len(acts_a) < 2:
        raise ValueError(f"acts_a: expected at least 2 samples, got {len(acts_a)}")


def require_finite_units(per_unit: Tensor, name: str) -> None:
    """No entry of a per-unit summary (units,) is NaN or infinite; the error names the first unit that is."""
    if isinstance(per_unit, FakeTensor):
        return  # a fake tensor has a shape and no values
    finite = torch.isfinite(per_unit)
    if not finite.all():
        raise ValueError(
            f"{name}: expected finite activations, got NaN or infinity in unit {int((~finite).nonzero()[0])}"
        )


def require_finite(acts: Tensor, name: str) -> None:
    """No activation (samples, units) is NaN or infinite. Their sum tells; only if it is neither are units looked at."""
    if isinstance(acts, FakeTensor) or acts.sum().isfinite():
        return
    require_finite_units(acts.abs().amax(0), name)


def as_score(score: Tensor | np.ndarray) -> Tensor:
    """A finite floating-point score matrix (units_a, units_b)."""
    read = tensor_of(score)
    if read is None or read.ndim != 2 or not read.is_floating_point():
        raise ValueError(f"score: expected a floating-point matrix (units_a, units_b), got {form_of(score)}")
    if 0 in read.shape:
        raise ValueError(f"score: expected at least one unit on each side, got {tuple(read.shape)}")
    if not isinstance(read, FakeTensor) and not torch.isfinite(read).all():
        a, b = (int(k) for k in (~torch.isfinite(read)).nonzero()[0])
        raise ValueError(f"score: expected finite scores, got {float(read[a, b])} for unit {a} of a and unit {b} of b")
    return read


def as_live(live: Tensor | np.ndarray | None, units: int, name: str, like: Tensor) -> Tensor:
    """A mask (units,) of live units on the device of `like`; None means that every unit is live."""
    if live is None:
        return torch.ones(units, dtype=torch.bool, device=like.device)
    read = tensor_of(live, lists=True)
    if read is None or read.shape != (units,) or read.dtype != torch.bool:
        raise ValueError(f"{name}: expected a boolean mask of {units} units, got {form_of(live)}")
    return read.to(like.device)


def require_share(value: object, name: str) -> None:
    """`value` lies between 0 and 1."""
    as_number(value, name, "a share between 0 and 1", lambda share: 0 < share < 1)


def is_count(value: object) -> TypeGuard[int]:
    """Whether it is a whole number, of Python or of NumPy."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite real number, of Python or of NumPy, that a float can hold."""
    with suppress(Exception):
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    return False


def as_number(value: object, name: str, what: str, within: Callable[[float], bool]) -> float:
    """A finite number of Python or NumPy, or a tensor of one, as Python has it."""
    plain = _plain(value)
    if not is_number(plain) or not within(float(plain)):  # as a float: a fraction may be smaller than any
        raise ValueError(f"{name}: expected {what}, got {came(value)}")
    return float(plain)


def as_count(value: object, name: str, *, at_least: int = 1, at_most: float = math.inf, what: str = "") -> int:
    """A whole number of Python or NumPy, or a tensor of one, as Python has it."""
    plain = _plain(value)
    if not is_count(plain) or not at_least <= plain <= at_most:
        most = f"{at_least} to {at_most}" if at_most < math.inf else f"a whole number of at least {at_least}"
        raise ValueError(f"{name}: expected {most}{what}, got {came(value)}")
    return int(plain)


def as_seed(value: object) -> int:
    """A seed that torch takes."""
    plain = _plain(value)
    if not is_count(plain) or not -(2**63) <= plain < 2**64:
        raise ValueError(f"seed: expected a whole number of at most 64 bits, got {came(value)}")
    return int(plain)


def as_share(value: object, name: str, what: str = "shares of training from 0 to 1") -> float:
    """A number from 0 to 1."""
    if not is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name}: expected {what}, got {came(value)}")
    return value


@overload
def require_named(value: Mapping[str, _Value], name: str, what: str) -> dict[str, _Value]: ...
@overload
def require_named(value: object, name: str, what: str) -> dict[str, Any]: ...
def require_named(value: object, name: str, what: str) -> dict[str, Any]:
    """The entries of a mapping whose keys are text."""
    with suppress(Exception):
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return dict(value.items())
    raise ValueError(f"{name}: expected {what} by name, got {came(value)}")


@overload
def as_list(value: Iterable[_Value], name: str, what: str) -> list[_Value]: ...
@overload
def as_list(value: object, name: str, what: str) -> list[object]: ...
def as_list(value: Any, name: str, what: str) -> list[Any]:
    """What is in a list, tuple or other iterable that ends, but for text and mappings."""
    with suppress(Exception):  # whatever somebody's own may raise
        found = None if isinstance(value, (str, bytes, Mapping)) else list(islice(value, _MOST_LISTED + 1))
        if found is not None and len(found) <= _MOST_LISTED:
            return found
    raise ValueError(f"{name}: expected {what}, got {came(value)}")


def require_fields(result: object, *, whole: tuple[str, ...] = (), **axes: str) -> None:
    """Each of the fields is a dense tensor, finite and float64 or of whole numbers: results can also be made by hand.

    Letters name its axes; the same letter stands for the same length in all.
    """
    sizes, values = {}, {name: getattr(result, name) for name in axes}
    for name, letters in axes.items():
        value = values[name]
        if not isinstance(value, Tensor) or not has_rows(value) or value.ndim != len(letters):
            raise ValueError(f"{name}: expected a tensor with {len(letters)} axes, got {form_of(value)}")
        expected = tuple(sizes.setdefault(letter, size) for letter, size in zip(letters, value.shape, strict=True))
        dtype = torch.int64 if name in whole else torch.float64
        if value.shape != expected or value.dtype != dtype:
            raise ValueError(f"{name}: expected {expected} {dtype}, got {form_of(value)}")
        first = next(iter(values.values()))
        if value.device != first.device:
            raise ValueError(f"{name}: expected a tensor on {first.device} as the others, got it on {value.device}")
    if any(isinstance(value, FakeTensor) for value in values.values()):
        return
    finite = torch.stack([value.isfinite().all() for value in values.values()]).tolist()  # one wait for a device
    for name, is_finite in zip(values, finite, strict=True):
        if not is_finite:
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")


def require_callable(value: object, name: str) -> None:
    """It can be called."""
    if not callable(value):
        raise ValueError(f"{name}: expected a function, got {came(value)}")


def _plain(value: object) -> object:
    """A tensor or array of no dimensions as a number of Python; all else as it is."""
    read = tensor_of(value) if isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0 else None
    return value if read is None or isinstance(read, FakeTensor) else read.item()


def as_numbers(
    value: object, name: str, what: str, within: Callable[[float], bool], *, alone: bool = False
) -> list[float]:
    """A row of at least one finite number, or where it may stand alone a number, as floats of Python."""
    read = tensor_of(value, lists=True)
    real = read is not None and read.ndim in (1 - alone, 1) and not read.is_complex() and read.dtype != torch.bool
    found = read.flatten().tolist() if real else []
    if not found or not all(is_number(number) and within(number) for number in found):
        raise ValueError(f"{name}: expected {what}, got {came(value)}")
    return [float(number) for number in found]


def as_floats(value: object, name: str, what: str) -> Tensor:
    """A finite floating-point tensor, or NumPy array, whose values lie in rows."""
    read = tensor_of(value)
    if read is None or not read.is_floating_point():
        raise ValueError(f"{name}: expected {what}, got {form_of(value)}")
    if not read.isfinite().all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    return read if isinstance(value, Tensor) else read.double()


def as_whole(value: object, name: str, *, what: str) -> Tensor:
    """Whole numbers (n,) as int64, from a tensor, NumPy array or list of whole numbers of any type."""
    read = tensor_of(value, lists=True)
    read = read.long() if read is not None and read.numel() == 0 else read  # an empty list has no type
    whole = read is not None and not (read.is_floating_point() or read.is_complex() or read.dtype == torch.bool)
    if not whole or read.ndim != 1:
        raise ValueError(f"{name}: expected {what}, got {form_of(value if read is None else read)}")
    if read.dtype == torch.uint64 and (read.long() < 0).any():
        raise ValueError(f"{name}: expected {what}, got some above {2**63 - 1}")
    return read.long()


def has_rows(value: Tensor) -> bool:
    """Whether its values are there, in rows: it is not sparse, nested, quantised, or on the meta device."""
    return not (value.is_nested or value.is_quantized or value.is_meta or value.layout != torch.strided)


def form_of(value: object) -> str:
    """What kind of value it is, in a few words."""
    if not isinstance(value, (Tensor, np.ndarray)):
        return type(value).__name__
    if isinstance(value, MaskedTensor):
        return "a masked tensor"
    if isinstance(value, Tensor) and not has_rows(value):
        kinds = {"nested": value.is_nested, "quantised": value.is_quantized, "meta": value.is_meta}
        kind = next((kind for kind, is_it in kinds.items() if is_it), str(value.layout).removeprefix("torch."))
        return f"a {kind} tensor"
    masked = ", masked" if np.ma.is_masked(value) else ""
    return f"{tuple(value.shape)} {value.dtype}{masked}"


def came(value: object, most: int = _LONGEST) -> str:
    """What came, as it is written, in one short line; of tensors and arrays the form."""
    if isinstance(value, int) and value.bit_length() > _LONGEST_NUMBER:
        return f"a whole number of {value.bit_length()} bits"  # Python refuses to write the longest
    with suppress(Exception):
        return form_of(value) if isinstance(value, (Tensor, np.ndarray)) else in_one_line(repr(value), most)
    return type(value).__name__


def in_one_line(error: object, most: int = _LONGEST) -> str:
    """What another said, short enough to stand within a sentence."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else f"{text[: most - 3]}..."


def shown(path: object, most: int = 100) -> str:
    """The path, or the end of a long one, in characters that can be printed in one line."""
    text = str(path)
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= most else f"...{text[3 - most :]}"


def require_known(name: object, known: Iterable[str], argument: str) -> str:
    """`name`, one of `known`; the error names the nearest ones that are, and where there are few, all of them."""
    known = list(known)
    if isinstance(name, str) and name in known:
        return name
    known = [str(other) for other in known if other]
    near = difflib.get_close_matches(name if isinstance(name, str) else came(name), known, n=3)
    hint = f", got {came(name, 60)}" + (f"; did you mean {near[0]!r}?" if near else "")
    said = f"{argument}: expected one of {', '.join(known)}{hint}"
    if len(said) > _LONGEST_SENTENCE:
        first = [in_one_line(other, 40) for other in dict.fromkeys([*near, *known[:3]])][:3]
        hint = hint if len(hint) < 120 else f", got {came(name, 60)}"
        said = f"{argument}: expected one of {', '.join(first)} and {len(known) - len(first)} others{hint}"
    raise ValueError(said)


def rows_of_images(images: Tensor | None, n_samples: int) -> Tensor:
    """(images, rows of each) indices of the rows of each image, in their order."""
    if images is None:
        return torch.arange(n_samples)[:, None]
    images = as_whole(images, "images", what=f"the image of each of {n_samples} rows as whole numbers").cpu()
    if len(images) != n_samples:
        raise ValueError(f"images: expected the image of each of {n_samples} rows, got {len(images)}")
    counts = images.unique(return_counts=True)[1]
    if counts.min() != counts.max():
        raise ValueError(f"images: expected equally many rows of each image, got {counts.min()} to {counts.max()}")
    return images.argsort(stable=True).reshape(len(counts), -1)
