"""All numbers of comparisons together: for a page, a file, a command."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch

from ..kernels.checks import as_list, came
from ..nets.measurement import Measurement
from .compared import Compared

if TYPE_CHECKING:
    import pandas


def as_comparisons(comparisons: object) -> list[Compared]:
    """At least one of what `compare` returns, of networks that are the same wherever they have one name.

    Raises:
        ValueError: anything else.
    """
    one = _is_comparison(comparisons)
    listed = [comparisons] if one else as_list(comparisons, "comparisons", "what `compare` returns, in a list")
    given = [_as_comparison(each) for each in listed]
    if not given:
        raise ValueError("comparisons: expected at least one, got none")
    known: dict[str, str] = {}
    for each in given:
        for name in (each.a, each.b):
            found = each.measurement.networks[name]
            if known.setdefault(name, found) != found:
                raise ValueError(f"comparisons: expected one network of each name, got two of {came(name, 60)}")
    return given


def _is_comparison(value: object) -> TypeGuard[Compared]:
    return hasattr(value, "map_values")


def _as_comparison(value: object) -> Compared:
    if not _is_comparison(value):
        raise ValueError(f"comparisons: expected what `compare` returns, in a list, got {came(value, 80)} among them")
    return value


def versions() -> dict[str, str]:
    """Of what the numbers were made with."""
    from .. import __version__

    return {
        "convergent_utils": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "Python": platform.python_version(),
    }


def as_json(comparisons: Compared | Iterable[Compared]) -> dict[str, Any]:
    """All of comparisons in dicts, lists and plain values.

    Args:
        comparisons: what `compare` returns, or several of them in a list.

    Returns:
        `networks`: by name the checksum of the weights, or "none"; `layers`: by network the units of each layer;
        `inputs`, `positions`, `folds`, `sampled rows` of the first measurement; `versions`; and `comparisons`, of each
        `a`, `b`, `pairs`, `settings`, `cautions`, `left_out` and `numbers`, whose keys are the attributes of `Number`
        that are not None.

    Raises:
        ValueError: no comparisons.
    """
    given = as_comparisons(comparisons)
    measured = given[0].measurement
    names = dict.fromkeys(name for one in given for name in (one.a, one.b))
    of = {name: next(one.measurement for one in given if name in (one.a, one.b)) for name in names}
    return {
        "networks": {name: _weights(of[name].networks[name]) for name in names},
        "layers": {name: _layers(of[name], name) for name in names},
        "inputs": measured.n_images,
        "positions": measured.positions,
        "folds": len(measured.folds),
        "sampled rows": len(measured.sample_images),
        "versions": versions(),
        "comparisons": [_one(each) for each in given],
    }


def _weights(checksum: str) -> str:
    """The checksum of weights; saved activations have none."""
    return "none" if checksum == hashlib.sha256(b"").hexdigest() else checksum


def _layers(measured: Measurement, network: str) -> dict[str, int]:
    found = {}
    for block, units in measured.blocks.items():
        name, _, layer = block.partition(".")
        if name == network:
            found[layer] = units
    return found


def _one(comparison: Compared) -> dict[str, object]:
    return {
        "a": comparison.a,
        "b": comparison.b,
        "pairs": [list(pair) for pair in comparison.pairs],
        "settings": dict(comparison.settings),
        "cautions": list(comparison.cautions),
        "left_out": list(comparison.left_out),
        "numbers": [_plain(vars(number)) for number in comparison.numbers],
    }


def _plain(number: dict[str, object]) -> dict[str, object]:
    """What JSON can hold; it has no NaN."""
    wanted = {key: value for key, value in number.items() if value is not None}
    return {k: v if not isinstance(v, float) or math.isfinite(v) else str(v) for k, v in wanted.items()}


def table(comparisons: Compared | Iterable[Compared]) -> pandas.DataFrame:
    """All numbers, one a row, as `Comparison.table` of each.

    Args:
        comparisons: what `compare` returns, or several of them in a list.

    Raises:
        ValueError: no comparisons.
    """
    import pandas as pd

    return pd.concat([one.table() for one in as_comparisons(comparisons)], ignore_index=True)
