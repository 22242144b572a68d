"""What to bear in mind about the numbers of a comparison."""

from __future__ import annotations

from collections.abc import Iterable

from ..nets.measurement import Measurement
from ..nets.untrained import untrained_of

_INPUTS_A_UNIT = 10
_ROWS = 100  # fewer have no hundredth part
_LISTED = 4  # layers by name
_SHUFFLES = 19
_MUCH = 0.2  # of the variance


def cautions(measured: Measurement, a: str, b: str, pairs: Iterable[tuple[str, str]]) -> list[str]:
    """What to bear in mind about these numbers; what holds of several layers is said once."""
    pairs = list(pairs)
    blocks = dict.fromkeys([*(f"{a}.{one}" for one, _ in pairs), *(f"{b}.{other}" for _, other in pairs)])
    of: dict[str, list[str]] = {}
    for block in blocks:
        for said in (*_of_units(measured, block), *_outliers(measured, block)):
            of.setdefault(said, []).append(block)
    found = [f"{_named(names)}: {said}" for said, names in of.items()]
    if not {untrained_of(a), untrained_of(b)} <= set(measured.networks):
        found.append("no untrained networks were measured; what architecture and inputs alone give is not known")
    return found


def _named(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names) if more < 2 else f"{', '.join(names[:_LISTED])} and {more} others"


def _of_units(measured: Measurement, block: str) -> list[str]:
    """Too few inputs for so many units, and units that never change."""
    if not measured.has_pair(block, block):
        return []
    own, found = measured.pair(block, block), []
    units, live = len(own.mean_a), int((own.cov_aa.diagonal() > 0).sum())
    if measured.n_images < _INPUTS_A_UNIT * live:
        found.append(
            f"{measured.n_images} inputs for {live} units; CCA, linear CKA and others are larger by chance alone below "
            "about ten inputs a unit, and a linear map carries over worse"
        )
    if live < units:
        found.append(f"{units - live} of {units} units never change and are left out")
    return found


def _outliers(measured: Measurement, block: str) -> list[str]:
    """Few inputs that hold much of the variance move CKA more than all others."""
    if block not in measured.samples or len(measured.sample(block)) < _ROWS:
        return []
    rows = measured.sample(block).double()
    away = rows - rows.mean(0)
    size = (away / away.abs().max().clamp(min=1e-300)).square().sum(1)
    share = float(size.sort(descending=True).values[: len(size) // 100].sum() / size.sum().clamp(min=1e-300))
    if share < _MUCH:
        return []
    return [f"1 % of the sampled rows hold {share:.0%} of the variance; CKA and Procrustes hang on them"]


def of_few(shuffles: int) -> list[str]:
    """What so many shuffles cannot tell."""
    if shuffles >= _SHUFFLES:
        return []
    least = 1 / (shuffles + 1)
    return [f"of {shuffles} shuffles no p value is below {least:.2g}, so “beyond chance” says little; take {_SHUFFLES}"]
