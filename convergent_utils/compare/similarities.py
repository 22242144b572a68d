"""Every similarity that a comparison gives, of two blocks as they are or as a baseline has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from ..kernels.alignment import debiased_cka, debiased_of, linear_cka, procrustes
from ..kernels.cca import cca, pwcca, svcca
from ..kernels.checks import in_one_line
from ..kernels.correlation import correlation
from ..kernels.matching import bipartite_matching, semi_matching
from ..kernels.moments import PairMoments, pair_moments
from ..kernels.mutual_information import matched_information
from ..kernels.neighbours import mutual_knn
from ..kernels.restricted import best_rotation
from ..kernels.rotation import rotated
from ..kernels.soft_matching import soft_matching
from ..kernels.sparse_mapping import MappingPath, best_subset_mapping, least_squares
from ..nets.measurement import Measurement

_NEIGHBOURS = 10
_PREDICTORS = 5
_POINTS = 1000  # inputs between which neighbours are looked for
_ROWS_A_CELL = 5  # of a histogram of two units
_ROWS_OF_INFORMATION = 2048

Part = TypeVar("Part")


@dataclass(frozen=True)
class View:
    """Two blocks, as they are or as a baseline has them. What a baseline does not have is None.

    Attributes:
        pair: their moments.
        fit, held_out: moments of one part of the inputs, and of the others.
        rows: of both, (rows, units), the aligned sample.
        points: as `rows`, one of each input.
        norms: squared norms of the centred rows of both, where `pair` is of these rows in float64.
    """

    pair: PairMoments | None
    fit: PairMoments | None = None
    held_out: PairMoments | None = None
    rows: tuple[Tensor, Tensor] | None = None
    points: tuple[Tensor, Tensor] | None = None
    norms: tuple[Tensor, Tensor] | None = None

    def other_way(self) -> View:
        """From b to a."""
        pair, fit, held_out = (None if it is None else it.swap() for it in (self.pair, self.fit, self.held_out))
        rows, points = (None if it is None else it[::-1] for it in (self.rows, self.points))
        return View(pair, fit, held_out, rows, points)


def _known(part: Part | None) -> Part:
    """A part of a view of which `can_see` told that it is there."""
    return cast("Part", part)  # one of these, by its name


def view_of(measured: Measurement, a: str, b: str) -> View:
    """Two blocks as they were measured; where their moments were not, as the aligned sample has them.

    Args:
        measured: has them.
        a, b: "network.layer".

    Raises:
        ValueError: neither moments nor a sample in common.
    """
    sample = _sample_of(measured, a, b)
    if not measured.has_pair(a, b):
        if sample is None:
            message = f"{in_one_line(a, 60)} and {in_one_line(b, 60)} have neither moments nor sampled rows in common"
            raise ValueError(f"layers: {message}; measure them with positions='mean', or name them in pairs")
        return _of_sample(sample)
    rows, points = (None, None) if sample is None else (sample.rows, sample.points)
    pair, folds = measured.pair(a, b), range(len(measured.folds))
    if len(folds) < 2:
        return View(pair, rows=rows, points=points)
    return View(pair, measured.pair(a, b, fold=0), measured.pair(a, b, fold=folds[1:]), rows, points)


def _of_sample(sample: _Sample) -> View:
    """Every other input is held out."""
    parts = [sample.images % 2 == part for part in (0, 1)]
    folds = [pair_moments(*(side[part] for side in sample.rows)) for part in parts if part.sum() > 1]
    fit, held_out = folds if len(folds) == 2 else (None, None)
    return View(pair_moments(*sample.rows), fit, held_out, sample.rows, sample.points)


def similarity_map(measured: Measurement, a: str, b: str, similarity: str) -> Tensor:
    """(layers_a, layers_b) float64, each layer of a with each of b on the aligned sample; NaN where they share none."""
    of, sides = SIMILARITIES[similarity], (layers_of(measured, a), layers_of(measured, b))
    values = torch.full((len(sides[0]), len(sides[1])), torch.nan, dtype=torch.float64)
    for (i, one), (k, other) in product(enumerate(sides[0]), enumerate(sides[1])):
        sample = _sample_of(measured, f"{a}.{one}", f"{b}.{other}")
        if sample is None:
            continue
        view = sampled_view(*sample.rows) if of.needs == "pair" else _of_sample(sample)
        if can_see(of, view):
            values[i, k] = of.of(view)
    return values


def layers_of(measured: Measurement, network: str) -> list[str]:
    """Its layers, in the order in which they were called where that is kept."""
    return [block.partition(".")[2] for block in measured.order if block.partition(".")[0] == network]


@dataclass(frozen=True)
class _Sample:
    """The aligned sample of two blocks: the image of each row, the rows, and one row of each image."""

    images: Tensor
    rows: tuple[Tensor, Tensor]
    points: tuple[Tensor, Tensor]


def _sample_of(measured: Measurement, a: str, b: str) -> _Sample | None:
    """None where they have none in common. Small maps are sampled at one place several times; it counts once."""
    if a not in measured.samples or b not in measured.samples:
        return None
    rows_a, rows_b, images = measured.sample(a), measured.sample(b), measured.sample_images
    both = zip(images.tolist(), *(np.ascontiguousarray(side.numpy()) for side in (rows_a, rows_b)), strict=True)
    first = {(image, one.tobytes(), other.tobytes()): k for k, (image, one, other) in reversed([*enumerate(both)])}
    kept = torch.tensor(sorted(first.values()), dtype=torch.int64)
    once = torch.from_numpy(np.unique(images.numpy(), return_index=True)[1])[:_POINTS]
    return _Sample(images[kept], (rows_a[kept], rows_b[kept]), (rows_a[once], rows_b[once]))


def layout_view(measured: Measurement, a: str, b: str) -> View | None:
    """When each input meets others at the same place; None where rows have no place."""
    if all(block in measured.maps and measured.maps[block][..., 0].numel() == 1 for block in (a, b)):
        return None
    try:
        return View(measured.layout(a, b))
    except ValueError:
        return None


def rotated_views(view: View, turns: Iterable[int]) -> Iterable[View]:
    """With b turned at random, once for each seed."""
    for seed in turns:
        yield View(rotated(_known(view.pair), seed=seed))


def shuffled_view(base: PairMoments, rows_a: Tensor, rows_b: Tensor) -> View:
    """Of rows in another order than those of `base`, which changes what is between both networks alone."""
    centred_a, centred_b = rows_a.double() - base.mean_a, rows_b.double() - base.mean_b
    norms = centred_a.square().sum(1), centred_b.square().sum(1)
    return View(replace(base, cov_ab=centred_a.T @ centred_b / len(rows_a)), rows=(rows_a, rows_b), norms=norms)


def sampled_view(rows_a: Tensor, rows_b: Tensor) -> View:
    """Of rows, in whatever order."""
    return View(pair_moments(rows_a, rows_b), rows=(rows_a, rows_b))


def _semi(view: View) -> float:
    """Mean correlation of each unit with its best partner, in both directions."""
    found = correlation(_known(view.pair))
    one = semi_matching(found.matrix, live_a=found.live_a, live_b=found.live_b)
    other = semi_matching(found.matrix.T, live_a=found.live_b, live_b=found.live_a)
    return float(one.mean + other.mean) / 2


def _bipartite(view: View) -> float:
    """Mean correlation of matched units, the same in both directions."""
    found = correlation(_known(view.pair))
    return float(bipartite_matching(found.matrix, live_a=found.live_a, live_b=found.live_b).mean)


def _soft(view: View) -> float:
    """That of matched shares of units; of as many live units in both, whole units are as good."""
    found = correlation(_known(view.pair))
    if found.live_a.sum() == found.live_b.sum():
        return _bipartite(view)
    return float(soft_matching(found.matrix, live_a=found.live_a, live_b=found.live_b).mean)


def _rotation(view: View) -> float:
    """Mean correlation of units with what the best rotation predicts, on other inputs, in both directions."""
    both = []
    for way in (view, view.other_way()):
        found = best_rotation(_known(way.fit))
        both.append(_mean_of(found.correlation_on(_known(way.held_out)), found.live))
    return sum(both) / 2


def _explained(view: View, mapping: Callable[[PairMoments], MappingPath]) -> float:
    """R^2 on other inputs, mean over live units, in both directions."""
    both = []
    for way in (view, view.other_way()):
        held_out = _known(way.held_out)
        r2 = mapping(_known(way.fit)).r2_on(held_out)[0]
        both.append(_mean_of(r2, held_out.cov_bb.diagonal() > 0))
    return sum(both) / 2


def _five(pair: PairMoments) -> MappingPath:
    """Of five units, or of all where there are fewer."""
    return best_subset_mapping(pair, min(_PREDICTORS, len(pair.mean_a)))


def _mean_of(values: Tensor, live: Tensor) -> float:
    return float(values[live].mean()) if live.any() else 0.0


def _debiased(view: View) -> float:
    if view.norms is not None:
        return float(debiased_of(_known(view.pair), *view.norms))
    return float(debiased_cka(*_known(view.rows)))


def _information(view: View) -> float:
    """Mean mutual information, in nats, of units matched by correlation; fewer bins where there are few rows."""
    rows_a, rows_b = (side[:_ROWS_OF_INFORMATION] for side in _known(view.rows))
    bins = max(2, min(10, math.isqrt(len(rows_a) // _ROWS_A_CELL) - 1))
    found = correlation(_known(view.pair))
    match = semi_matching(found.matrix, live_a=found.live_a, live_b=found.live_b)
    values = matched_information(rows_a, rows_b, match.index, bins=bins)
    return float(values.mean()) if len(values) else 0.0


def _neighbours(view: View) -> float:
    points = _known(view.points)
    return float(mutual_knn(*points, k=min(_NEIGHBOURS, len(points[0]) - 1)))


@dataclass(frozen=True)
class Similarity:
    """One similarity of two blocks.

    Attributes:
        of: from a view to the number.
        needs: what the view must have, of "pair", "folds", "rows" and "points".
        sees_units: whether it changes when a network is turned, so that the rotated baseline says something.
        question: what it helps to answer, of "units", "space" and "neighbours".
        seconds, power: what one evaluation takes for blocks of 512 units, and how that grows with units.
    """

    of: Callable[[View], float]
    needs: str
    sees_units: bool
    question: str
    seconds: float
    power: float = 3.0


SIMILARITIES = {
    "semi-matching": Similarity(_semi, "pair", True, "units", 0.01, 2.0),
    "bipartite matching": Similarity(_bipartite, "pair", True, "units", 0.06),
    "soft matching": Similarity(_soft, "pair", True, "units", 0.15),
    "best rotation": Similarity(_rotation, "folds", False, "space", 0.3),
    "linear map": Similarity(lambda v: _explained(v, least_squares), "folds", False, "space", 0.25),
    "five units": Similarity(lambda v: _explained(v, _five), "folds", True, "units", 1.0),
    "CCA": Similarity(lambda v: float(cca(_known(v.pair)).similarity), "pair", False, "space", 0.3),
    "SVCCA": Similarity(lambda v: float(svcca(_known(v.pair)).similarity), "pair", False, "space", 0.3),
    "PWCCA": Similarity(lambda v: float(pwcca(_known(v.pair)).similarity), "pair", False, "space", 0.3),
    "linear CKA": Similarity(lambda v: float(linear_cka(_known(v.pair))), "pair", False, "space", 0.005, 2.0),
    "debiased CKA": Similarity(_debiased, "rows", False, "space", 0.15, 2.0),
    "Procrustes": Similarity(lambda v: float(procrustes(_known(v.pair))), "pair", False, "space", 0.1),
    "mutual information": Similarity(_information, "rows", True, "units", 0.3, 1.0),
    "mutual k-NN": Similarity(_neighbours, "points", False, "neighbours", 0.15, 1.0),
}


def can_see(similarity: Similarity, view: View) -> bool:
    """Whether a view has what a similarity needs."""
    if similarity.needs == "points" and view.points is not None and min(side.shape[1] for side in view.points) < 2:
        return False  # one unit is +1 or -1 once rows have length 1
    needed = {"pair": view.pair, "folds": view.held_out, "rows": view.rows, "points": view.points}[similarity.needs]
    return needed is not None


def halves(view: View, similarity: Similarity) -> tuple[float, float] | None:
    """The number on either part of the inputs, where it is made of moments of all; None where it is not."""
    if similarity.needs != "pair" or view.held_out is None:
        return None
    fit, held_out = (similarity.of(replace(view, pair=part)) for part in (view.fit, view.held_out))
    return fit, held_out


def matched_units(measured: Measurement, a: str, b: str) -> tuple[Tensor, Tensor]:
    """(units_a,) partners in b by bipartite matching, -1 for none, and their correlations."""
    view = view_of(measured, a, b)
    found = correlation(_known(view.pair))
    match = bipartite_matching(found.matrix, live_a=found.live_a, live_b=found.live_b)
    return match.index, match.score
