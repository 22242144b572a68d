"""What to bear in mind about the numbers of a comparison."""

from __future__ import annotations

from collections.abc import Iterable

from ..nets.measurement import Measurement
from ..nets.untrained import untrained_of

_INPUTS_A_UNIT = 10
_MUCH = 0.2  # of the variance


def cautions(measured: Measurement, a: str, b: str, pairs: Iterable[tuple[str, str]]) -> list[str]:
    """What to bear in mind about these numbers."""
    found = []
    pairs = list(pairs)
    sides = [f"{a}.{one}" for one, _ in pairs], [f"{b}.{other}" for _, other in pairs]
    for block in dict.fromkeys([*sides[0], *sides[1]]):
        own = measured.pair(block, block) if measured.has_pair(block, block) else None
        if own is None:
            continue
        units, live = len(own.mean_a), int((own.cov_aa.diagonal() > 0).sum())
        if measured.n_images < _INPUTS_A_UNIT * live:
            found.append(
                f"{block}: {measured.n_images} inputs for {live} units; CCA, linear maps and CKA are larger by chance "
                "alone below about ten inputs a unit"
            )
        if live < units:
            found.append(f"{block}: {units - live} of {units} units never change and are left out")
        found += _outliers(measured, block)
    if not {untrained_of(a), untrained_of(b)} <= set(measured.networks):
        found.append("no untrained networks were measured; what architecture and inputs alone give is not known")
    return found


def _outliers(measured: Measurement, block: str) -> list[str]:
    """Few inputs that hold much of the variance move CKA more than all others."""
    if block not in measured.samples:
        return []
    rows = measured.sample(block).double()
    size = (rows - rows.mean(0)).square().sum(1)
    few = max(1, len(size) // 100)
    share = float(size.sort(descending=True).values[:few].sum() / size.sum().clamp(min=1e-300))
    if share < _MUCH:
        return []
    return [f"{block}: 1 % of the sampled rows hold {share:.0%} of the variance; CKA and Procrustes hang on them"]
