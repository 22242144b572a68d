"""What 11_shared_spaces reads of similarities themselves: do they agree, and with what networks can do together?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from ..kernels.alignment import debiased_cka, linear_cka, procrustes
from ..kernels.maximum_match import maximum_match
from ..kernels.moments import pair_moments
from ..kernels.neighbours import mutual_knn
from ..kernels.shared_space import generalised_procrustes
from ..making.things import Get, Report, Thing
from ..nets.declared import Measured
from ..nets.measurement import Measurement
from .alike import SIMILARITIES as OF_MOMENTS
from .networks import Setting
from .rungs import ladder

OF_RUNGS = {
    "matched": "best unit", "one to one": "bipartite", "rotation": "best rotation", "linear map": "linear",
}  # fmt: skip
SIMILARITIES = (
    *OF_RUNGS, "matched beyond turned", *OF_MOMENTS, "Procrustes", "debiased CKA", "CKA of means", "k-NN",
    "maximum match",
)  # fmt: skip
EPSILONS = (0.1, 0.2, 0.3)  # smaller errors that units may have in a maximum match
_TURNS = 5
_ROWS, _GALLERY = 2000, 1000


@dataclass(frozen=True)
class Agreement(Thing):
    """Similarities of every two networks, and how well one is searched with the other: (pairs, layers) by name.

    Of `SIMILARITIES` the first five are read on images that the maps were not fitted on. "image" is how often, of a
    thousand images, the one is found that an embedding belongs to, when embeddings of one network are turned into the
    space of the other, mean of both ways; there, in "CKA of means", "k-NN" and "maximum match", a layer is read by its
    means over places. "maximum match, 0.1" and so on are that of smaller errors. Pairs are those of `meeting`.

    Attributes:
        measured: networks at all places.
        means: the same networks, means over places.
        nets, layers: of which.
        seed: of turned networks.
    """

    title, seconds, published = "comparing similarities", 60.0, True

    measured: Measured
    means: Measured
    nets: tuple[str, ...]
    layers: tuple[str, ...]
    seed: int

    @property
    def meeting(self) -> list[tuple[str, str]]:
        """The pairs of networks, as they follow each other."""
        return list(combinations(self.nets, 2))

    def make(self, get: Get, report: Report) -> dict[str, Tensor]:
        """Compare them."""
        measured, means, meeting = get(self.measured), get(self.means), self.meeting
        found: dict[str, Tensor] = {}
        for row, pair in enumerate(meeting):
            for column, layer in enumerate(self.layers):
                blocks = [f"{net}.{layer}" for net in pair]
                for name, value in self._of(measured, means, *blocks).items():
                    found.setdefault(name, torch.zeros(len(meeting), len(self.layers), dtype=torch.float64))
                    found[name][row, column] = value
            report((row + 1) / len(meeting))
        return found

    def _of(self, measured: Measurement, means: Measurement, a: str, b: str) -> dict[str, float]:
        folds = range(len(measured.folds))
        fit, held = (measured.pair(a, b, fold=list(folds[part::2])) for part in (0, 1))
        both = [ladder(*some, turns=_TURNS, seed=self.seed, names=OF_RUNGS.values())
                for some in ((fit, held), (fit.swap(), held.swap()))]  # fmt: skip
        climbed = {name: np.mean([one[name] for one in both]) for name in both[0]}
        pair, rows = measured.pair(a, b), [means.sample(block)[:_ROWS].double() for block in (a, b)]
        return {
            **{name: climbed[rung] for name, rung in OF_RUNGS.items()},
            "matched beyond turned": climbed["best unit"] - climbed["best unit, rotated"],
            **{name: similarity(pair) for name, similarity in OF_MOMENTS.items()},
            "Procrustes": float(procrustes(pair)),
            "debiased CKA": float(debiased_cka(*(measured.sample(block)[:_ROWS] for block in (a, b)))),
            "CKA of means": float(linear_cka(pair_moments(*rows))),
            "k-NN": float(mutual_knn(*(some[:_GALLERY] for some in rows))),
            "maximum match": float(maximum_match(*rows).similarity),
            **{f"maximum match, {k}": float(maximum_match(*rows, epsilon=k).similarity) for k in EPSILONS},
            "image": np.mean([image_found(*rows), image_found(*rows[::-1])]),
        }


def image_found(acts_a: Tensor, acts_b: Tensor) -> float:
    """How often an image is found by the embedding of the other network, on the second half of the rows."""
    half = len(acts_a) // 2
    fit, mean = pair_moments(acts_b[:half], acts_a[:half]), acts_a[:half].mean(0)
    turn = generalised_procrustes({("b", "a"): fit}).between("b", "a")
    queries, targets = (acts_b[half:] - acts_b[:half].mean(0)) @ turn, acts_a[half:] - mean
    queries, targets = (some / some.norm(dim=1, keepdim=True).clamp(min=1e-300) for some in (queries, targets))
    return float(((queries @ targets.T).argmax(1) == torch.arange(len(queries))).double().mean())


def agreement(setting: Setting) -> Agreement:
    """It, of the networks of 00 and all layers but the last."""
    of_rows = setting.measured("trained"), setting.measured("trained", "mean")
    return Agreement(*of_rows, tuple(setting.networks), setting.layers[:-1], setting.seed)


def tau(x: Sequence[float], y: Sequence[float]) -> float:
    """Kendall's rank correlation, 0 where either is the same throughout."""
    from scipy.stats import kendalltau

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(kendalltau(x, y).statistic)


def within_layers(x: np.ndarray, y: np.ndarray) -> float:
    """The mean over layers of `tau` over pairs of networks, of (pairs, layers)."""
    return float(np.mean([tau(*of) for of in zip(x.T, y.T, strict=True)]))
