"""What a comparison holds, as all that words, draws or writes one sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from ..nets.measurement import Measurement

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Number:
    """One number of a comparison.

    Attributes:
        layer_a, layer_b: of which layers.
        similarity: which one.
        role: "found"; a baseline, "rotated", "layout", "untrained" or "finite sample"; or "calibrated", see `Chance`.
        value: the number; of "rotated" the mean of all turns, of "finite sample" that of all shuffles.
        low, high: of "found" its values on the two halves of the inputs, of "rotated" the smallest and largest of all
            turns, of "finite sample" the 2.5 and 97.5 percentiles of all shuffles; None where there are none.
        p_value: of "finite sample", how often shuffled inputs reach what is found; None elsewhere.
    """

    layer_a: str
    layer_b: str
    similarity: str
    role: str
    value: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None


class Compared(Protocol):
    """A `Comparison`, which itself calls what draws and writes it."""

    @property
    def a(self) -> str:
        """Name of one network."""
        ...

    @property
    def b(self) -> str:
        """Name of the other."""
        ...

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Layers of a and b that were compared."""
        ...

    @property
    def numbers(self) -> tuple[Number, ...]:
        """All of them."""
        ...

    @property
    def left_out(self) -> tuple[str, ...]:
        """What was not computed."""
        ...

    @property
    def cautions(self) -> tuple[str, ...]:
        """What to bear in mind."""
        ...

    @property
    def settings(self) -> Mapping[str, int]:
        """Turns, shuffles and seed."""
        ...

    @property
    def measurement(self) -> Measurement:
        """What it was made of."""
        ...

    def values(self, similarity: str, role: str = "found") -> dict[tuple[str, str], float]:
        """A number by pair of layers."""
        ...

    def table(self) -> pandas.DataFrame:
        """All numbers, one a row."""
        ...

    def map_values(self, similarity: str = "linear CKA") -> tuple[list[str], list[str], Tensor]:
        """Layers of a, layers of b, and the similarity of each with each."""
        ...
