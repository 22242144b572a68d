"""The judge of odd inputs: what a public function is given is either right, or refused in one sentence."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass

import numpy as np
import pytest
import torch

LONGEST = 300  # characters of a refusal


@dataclass(frozen=True)
class Row:
    """One input.

    Attributes:
        function: the public name that is called, as in `cu.__all__`.
        what: the oddity, in a few words.
        call: makes the arguments and calls the function.
        expect: the name of the argument that a ValueError must begin with; or what is called with the result, and
            returns whether it is right.
    """

    function: str
    what: str
    call: Callable[[], object]
    expect: str | Callable[[object], bool]

    @property
    def id(self) -> str:
        """As pytest shows it."""
        return f"{self.function}-{self.what}".replace(" ", "_")


def judge(row):
    """Assert that the row's answer is finite and right, or its refusal a sentence; and that nothing else is said."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if isinstance(row.expect, str):
            with pytest.raises(ValueError) as refused:  # noqa: PT011
                row.call()
            said = str(refused.value)
            kind = type(refused.value)
            assert kind is ValueError or kind.__module__.startswith("convergent_utils"), kind
            assert said.startswith(f"{row.expect}:"), said
            assert len(said) <= LONGEST, f"{len(said)} characters: {said}"
            assert "\n" not in said, said
            return
        result = row.call()
    assert all_finite(result), result
    assert row.expect(result), result


def all_finite(value):
    """Whether no number in a result, however nested, is NaN or infinite."""
    if isinstance(value, torch.Tensor):
        return bool(torch.isfinite(value).all()) if value.is_floating_point() else True
    if isinstance(value, np.ndarray):
        return bool(np.isfinite(value).all()) if value.dtype.kind == "f" else True
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(all_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(all_finite, value))
    if is_dataclass(value):
        return all(all_finite(getattr(value, field.name)) for field in fields(value))
    return True
