"""What comparing will take, said before it is spent."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import torch

from .similarities import SIMILARITIES

_USUAL = 0.0085  # seconds that a machine takes for the problem below on which SIMILARITIES' seconds were found
_OVERHEAD = 0.004  # seconds of one evaluation, however narrow


def speed() -> float:
    """How many times longer than usual this machine takes, found on a small eigenproblem."""
    matrix = torch.randn(192, 192, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix, took = matrix @ matrix.T, []
    for _ in range(5):
        start = time.perf_counter()
        torch.linalg.eigh(matrix)
        took.append(time.perf_counter() - start)
    return max(0.1, sorted(took)[2] / _USUAL)


def seconds(similarity: str, units: int, evaluations: int, factor: float = 1.0) -> float:
    """Of so many evaluations between blocks of so many units, about."""
    found = SIMILARITIES[similarity]
    return evaluations * (_OVERHEAD + factor * found.seconds * (units / 512) ** found.power)


def affordable(wanted: Mapping[tuple, float], budget: float) -> tuple[list[tuple], list[tuple]]:
    """What fits a budget of seconds, cheapest first; and what is left over, in the order given.

    Args:
        wanted: of each thing its seconds.
        budget: in seconds.
    """
    kept, spent = set(), 0.0
    for thing, cost in sorted(wanted.items(), key=lambda item: item[1]):
        if spent + cost <= budget:
            kept.add(thing)
            spent += cost
    return [thing for thing in wanted if thing in kept], [thing for thing in wanted if thing not in kept]


def said(times: Iterable[float]) -> str:
    """A time in words."""
    total = sum(times)
    return f"{total:.0f} s" if total < 120 else f"{total / 60:.0f} min"
