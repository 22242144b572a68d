"""How well the units of one network are predicted from another, judged on images that the map was not fitted on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..kernels.moments import PairMoments
from ..kernels.sparse_mapping import MappingPath, least_squares
from ..nets.measurement import Measurement

RIDGES = tuple(10.0**k for k in range(-6, 2))
# Even images and odd images, each in two parts; see `measure` for folds.
_HALVES = (((0, 2), (1, 3)), ((1, 3), (0, 2)))


@dataclass(frozen=True)
class Predictions:
    """Every network's units predicted from every other's, along a path of maps; networks are sorted by name.

    Attributes:
        r2: (nets, nets, penalties, units_b) R^2 on images that the map was not fitted on, [from a, of b]; NaN from a
            network to itself.
        n_predictors: (nets, nets, penalties, units_b), mean over the two fits.
    """

    r2: np.ndarray
    n_predictors: np.ndarray


def predictions(measured: Measurement, layer: str, fit: Callable[..., MappingPath]) -> Predictions:
    """Fit on the even images and judge on the odd ones, then the other way round; the mean of both.

    Args:
        measured: with four folds; image k is in fold k modulo 4.
        layer: the layer that is predicted and predicted from.
        fit: callable (half, first, second) -> MappingPath, given the moments of the images to fit on, and of the two
            parts of these, for what needs to be chosen.

    Raises:
        ValueError: another number of folds.
    """
    if len(measured.folds) != 4:
        raise ValueError(f"measured: expected four folds, got {len(measured.folds)}")
    names = sorted({block.rpartition(".")[0] for block in measured.blocks})
    found = {
        (i, k): _both_ways(measured, f"{a}.{layer}", f"{b}.{layer}", fit)
        for i, a in enumerate(names)
        for k, b in enumerate(names)
        if a != b
    }
    shape = next(iter(found.values())).shape
    values = np.full((len(names), len(names), *shape), np.nan)
    for place, value in found.items():
        values[place] = value
    return Predictions(values[:, :, 0], values[:, :, 1])


def _both_ways(measured: Measurement, a: str, b: str, fit: Callable[..., MappingPath]) -> np.ndarray:
    """R^2 and number of predictors (2, penalties, units_b) of one pair of blocks."""
    found = []
    for mine, others in _HALVES:
        path = fit(*(measured.pair(a, b, fold=fold) for fold in (mine, *mine)))
        found.append(np.stack([path.r2_on(measured.pair(a, b, fold=others)), path.n_predictors]))
    return np.mean(found, axis=0)


def dense_mapping(
    half: PairMoments, first: PairMoments, second: PairMoments, ridges: Sequence[float] = RIDGES
) -> MappingPath:
    """Least squares with the ridge that does best on one part of the images when fitted on the other, both ways."""
    ways = ((first, second), (second, first))
    judged = sum(least_squares(fitted, ridge=ridges).r2_on(other).mean(1) for fitted, other in ways)
    return least_squares(half, ridge=ridges[int(judged.argmax())])
