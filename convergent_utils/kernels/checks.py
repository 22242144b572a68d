"""Checks of arguments: each error names the argument, what was expected and what came."""

import difflib
import numbers
import warnings
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def as_activations(value: Tensor | np.ndarray, name: str) -> Tensor:
    """The activations `value` as a tensor (samples, units), at least float32, on the device they are on.

    Values are not looked at here: what accumulates them checks that they are finite.
    """
    if isinstance(value, np.ndarray):
        value = _from_numpy(value, name)
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: expected a float tensor or NumPy array (samples, units), got {type(value).__name__}")
    if not value.is_floating_point():
        raise ValueError(f"{name}: expected floating-point activations, got {value.dtype}")
    if value.ndim != 2 or value.shape[1] == 0:
        raise ValueError(f"{name}: expected shape (samples, units) with at least one unit, got {tuple(value.shape)}")
    return value.detach() if value.dtype in (torch.float32, torch.float64) else value.detach().float()


def _from_numpy(value: np.ndarray, name: str) -> Tensor:
    """A tensor over the same memory where it is contiguous and in the machine's byte order, also if it is read-only."""
    if value.dtype.kind != "f" or value.dtype.itemsize > 8:
        raise ValueError(f"{name}: expected floating-point activations or scores, got {value.dtype}")
    value = np.ascontiguousarray(value.astype(value.dtype.newbyteorder("="), copy=False))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # and nothing is written
        return torch.from_numpy(value)


def require_same_samples(acts_a: Tensor, acts_b: Tensor) -> None:
    """Both have as many rows, at least two."""
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


def as_score(score: Tensor | np.ndarray) -> Tensor:
    """A finite floating-point score matrix (units_a, units_b)."""
    if isinstance(score, np.ndarray):
        score = _from_numpy(score, "score")
    if not isinstance(score, Tensor) or score.ndim != 2 or not score.is_floating_point():
        came = f"{tuple(score.shape)} {score.dtype}" if isinstance(score, Tensor) else type(score).__name__
        raise ValueError(f"score: expected a floating-point matrix (units_a, units_b), got {came}")
    if 0 in score.shape:
        raise ValueError(f"score: expected at least one unit on each side, got {tuple(score.shape)}")
    if not isinstance(score, FakeTensor) and not torch.isfinite(score).all():
        a, b = (int(k) for k in (~torch.isfinite(score)).nonzero()[0])
        raise ValueError(f"score: expected finite scores, got {float(score[a, b])} for unit {a} of a and unit {b} of b")
    return score


def as_live(live: Tensor | np.ndarray | None, units: int, name: str, like: Tensor) -> Tensor:
    """A mask (units,) of live units on the device of `like`; None means that every unit is live."""
    if live is None:
        return torch.ones(units, dtype=torch.bool, device=like.device)
    live = torch.as_tensor(live, device=like.device)
    if live.shape != (units,) or live.dtype != torch.bool:
        raise ValueError(f"{name}: expected a boolean mask of {units} units, got {tuple(live.shape)} {live.dtype}")
    return live


def is_count(value: object) -> bool:
    """Whether it is a whole number, of Python or of NumPy."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def require_share(value: float, name: str) -> None:
    """`value` lies between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name}: expected a share between 0 and 1, got {value}")


def require_known(name: str, known: Iterable[str], argument: str) -> None:
    """`name` is one of `known`; the error names the nearest one that is."""
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{argument}: expected one of {', '.join(filter(None, known))}, got {name!r}{hint}")
