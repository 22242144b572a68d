r"""One space for several nets, and one map into it for each: instead of a map for each pair of nets.

Maps of pairs need not fit together: from a to b to c is another map than from a to c. Maps into one space do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import as_activations, as_count, came, in_one_line, require_finite, require_known
from .moments import Moments, PairMoments, as_pair
from .precision import full_precision, power_of_two
from .products import connected

_TOLERANCE = 1e-10  # by which the last round moves what the maps are made of, as a share of it
_ROUNDING = 1e-14  # of a sum
_MOST_ROUNDS = 2000
_LONGEST = 150  # characters of what another check said

Cross = dict[tuple[str, str], Tensor]
Maps = dict[str, Tensor]


@dataclass(frozen=True)
class SharedSpace:
    """One space for several nets.

    Attributes:
        maps: by net (units, dimensions) float64, from centred activations to the space; zeros for dead units. Over live
            units columns are orthonormal times one scale, which brings the net to a total variance of 1. Dimensions
            are in order of what nets share there, most first.
        means: by net (units,) float64, what is taken off activations first.
        agreement: 0-d float64 in [0, 1], how alike the nets are in the space, see `generalised_procrustes`.
        rounds: how many times all maps were made anew until none moved.

    Example:
        >>> acts = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
        >>> twin = 3 * acts[:, [2, 0, 1, 3]] + 1
        >>> space = generalised_procrustes({("a", "b"): pair_moments(acts, twin)})
        >>> torch.allclose(space.transform("a", acts), space.transform("b", twin), atol=1e-5)
        True
    """

    maps: Maps
    means: Maps
    agreement: Tensor
    rounds: int

    def __post_init__(self):
        for name, values, axes in (("maps", self.maps, 2), ("means", self.means, 1)):
            if not isinstance(values, Mapping) or not values or not all(_is_matrix(v, axes) for v in values.values()):
                raise ValueError(f"{name}: expected finite float64 tensors with {axes} axes by net, got {came(values)}")
        shapes = {name: len(matrix) for name, matrix in self.maps.items()}
        if shapes != {name: len(mean) for name, mean in self.means.items()}:
            raise ValueError(f"means: expected one of each unit of {came(shapes)}, got others")
        if len({matrix.shape[1] for matrix in self.maps.values()}) > 1:
            raise ValueError("maps: expected one number of dimensions, got several")

    def transform(self, name: str, acts: Tensor) -> Tensor:
        """Activations of a net in the shared space.

        Args:
            name: of the net.
            acts: (samples, units) float tensor or NumPy array, of any samples.

        Returns:
            (samples, dimensions), in the precision of `acts`, computed in float64.

        Raises:
            ValueError: an unknown net, another number of units, another device, NaN or infinity; activations whose
                places in the space their precision cannot hold.
        """
        require_known(name, self.maps, "name")
        acts, matrix = as_activations(acts, "acts"), self.maps[name]
        if acts.shape[1] != len(matrix):
            raise ValueError(f"acts: expected {len(matrix)} units, got {acts.shape[1]}")
        if acts.device != matrix.device:
            raise ValueError(f"acts: expected activations on {matrix.device}, got them on {acts.device}")
        require_finite(acts, "acts")
        with full_precision():
            found = ((acts.double() - self.means[name]) @ matrix).to(acts.dtype)
        if not found.isfinite().all():
            raise ValueError(f"acts: expected activations whose places {acts.dtype} can hold, got larger ones")
        return found

    def between(self, a: str, b: str) -> Tensor:
        r"""The map from net a through the space to net b.

        .. math:: \frac{t_b}{t_a} R_a R_b^\top

        Args:
            a: name of the net that is known.
            b: name of the net that is predicted.

        Returns:
            (units_a, units_b) float64: centred activations of a times it are predictions of b's, centred. From a to b
            and on to c is the map from a to c.

        Raises:
            ValueError: an unknown net.
        """
        for argument, name in (("a", a), ("b", b)):
            require_known(name, self.maps, argument)
        sizes = [power_of_two(self.maps[name].abs().amax()) for name in (a, b)]
        first, second = (self.maps[name] / size for name, size in zip((a, b), sizes, strict=True))
        with full_precision():
            return (
                first
                @ (second / second.square().sum(0).clamp(min=torch.finfo(torch.float64).tiny)).T
                * (sizes[0] / sizes[1])
            )


def generalised_procrustes(
    moments: Moments | Mapping[tuple[str, str], PairMoments], *, dimensions: int | None = None
) -> SharedSpace:
    r"""The rotation of each net into one space, such that all nets are as alike there as they can be.

    .. math:: \max_{R_k^\top R_k = 1} \sum_{k < l} \operatorname{tr} R_k^\top C_{kl} R_l, \quad
        C_{kl} = \frac{\Sigma_{kl}}{t_k t_l}, \; t_k^2 = \operatorname{tr} \Sigma_{kk}, \qquad
        \text{agreement} = \operatorname{mean}_{k < l} \frac{\operatorname{tr} R_k^\top C_{kl} R_l}
        {\sqrt{\operatorname{tr} R_k^\top C_{kk} R_k \; \operatorname{tr} R_l^\top C_{ll} R_l}}

    Args:
        moments: joint moments of at least two nets, any widths, as `Moments` or as pairs by the names of their nets.
            Pairs that are not given count for nothing, but all nets must be joined, directly or through others.
        dimensions: of the space; None: as many as the narrowest net has live units, and no more are possible.

    Returns:
        SharedSpace, on the device of the moments. Two nets of equal width give the rotation of `procrustes`, and its
        value as their agreement. Directions in which no nets share anything are any.

    Raises:
        ValueError: fewer than two nets, one that no pair joins to the others or that has dead units alone, pairs of one
            net with other numbers of units, or more dimensions than there can be.

    The order of nets changes nothing, but for rounding. It begins with the leading eigenvectors of all :math:`C_{kl}`
    side by side, without those of a net with itself, or with nets joined one after another, whichever is better; then
    each map in turn is the best for what the others are, by a singular value decomposition, until none moves or 2,000
    rounds are over; nets of noise alone take the most, four of 256 units half a minute. The sum never falls, but it
    need not be the largest of all. Directions that hold little more than noise move last, and are known less well than
    the agreement. Where pairs of a net are of other samples, its mean, variance and scale are those of its pairs on
    average.
    Source: Gower 1975; ten Berge 1977, the rounds; O'Donoghue and Candès 2015, how they are made fewer.

    Example:
        >>> acts = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
        >>> moments = Moments({"a": 4, "b": 4, "c": 4})
        >>> moments.update({"a": acts, "b": 3 * acts[:, [2, 0, 1, 3]], "c": 1 - acts})
        >>> generalised_procrustes(moments).agreement
        tensor(1., dtype=torch.float64)
    """
    nets, cross = _read(moments)
    live = {name: net.own.diagonal() > 0 for name, net in nets.items()}
    narrowest = min(nets, key=lambda name: int(live[name].sum()))
    most = int(live[narrowest].sum())
    what = f", the live units of {came(narrowest, 60)}"
    dimensions = most if dimensions is None else as_count(dimensions, "dimensions", at_most=most, what=what)
    kept = {(a, b): block[live[a]][:, live[b]] for (a, b), block in cross.items()}
    with full_precision():
        starts = _spectral(kept, dimensions), _grown(kept, dimensions)
        turns, rounds = _in_turn(kept, max(starts, key=lambda start: float(_shared(kept, start).trace())))
        turns = _along_axes(turns, _shared(kept, turns))
        own = {name: (turn * (nets[name].own[live[name]][:, live[name]] @ turn)).sum() for name, turn in turns.items()}
        alike = [(turns[a] * (block @ turns[b])).sum() / (own[a] * own[b]).sqrt() for (a, b), block in kept.items()]
    maps = {name: net.own.new_zeros(len(net.own), dimensions) for name, net in nets.items()}
    for name, net in nets.items():
        maps[name][live[name]] = turns[name] / net.scale
    return SharedSpace(maps, {name: net.mean for name, net in nets.items()}, _mean(alike), rounds)


@dataclass
class _Net:
    """What pairs say of one net: its mean, its deviation, and its covariance at a total variance of 1."""

    mean: Tensor
    scale: Tensor
    own: Tensor
    pairs: int = 1

    def meet(self, mean: Tensor, scale: Tensor, own: Tensor) -> None:
        """Average with what another pair says; equal values stay as they are, bit by bit."""
        self.pairs += 1
        for name, value in (("mean", mean), ("scale", scale), ("own", own)):
            before = getattr(self, name)
            setattr(self, name, before + (value / self.pairs - before / self.pairs))


def _read(moments: Moments | Mapping[tuple[str, str], PairMoments]) -> tuple[dict[str, _Net], Cross]:
    """The nets by name, in the order of names, and the covariances between them at a total variance of 1."""
    found, cross = {}, {}
    for a, b, pair in _pairs_of(moments):
        common, *powers = pair.at_common_scale()
        sizes = [covariance.trace().sqrt() for covariance in (common.cov_aa, common.cov_bb)]
        of_nets = (a, pair.mean_a, common.cov_aa), (b, pair.mean_b, common.cov_bb)
        for (name, mean, own), size, power in zip(of_nets, sizes, powers, strict=True):
            if not size > 0:
                raise ValueError(f"moments: expected units that vary in each network, got none in {came(name)}")
            said = mean, size * power, own / size / size
            if name not in found:
                found[name] = _Net(*said)
            elif len(found[name].mean) == len(mean) and found[name].mean.device == mean.device:
                found[name].meet(*said)
            else:
                units = f"{len(found[name].mean)} and {len(mean)} units"
                raise ValueError(f"moments: expected one width and device of {came(name, 60)}, got pairs of {units}")
        cross[a, b] = common.cov_ab / sizes[0] / sizes[1]
    return {name: found[name] for name in sorted(found)}, cross


def _pairs_of(
    moments: Moments | Mapping[tuple[str, str], PairMoments],
) -> Iterator[tuple[str, str, PairMoments]]:
    """Each pair once, the smaller name first; all nets are joined."""
    if isinstance(moments, Moments):
        names, read = list(moments.blocks), moments.pair
        given = [pair for pair in moments.pairs if pair[0] != pair[1]]
    else:
        named = _named_pairs(moments)
        names, read = sorted({name for pair in named for name in pair}), lambda a, b: named[a, b]
        given = list(named)
    if len(names) < 2:
        raise ValueError(f"moments: expected pairs of at least two networks, got {len(names)}")
    apart = connected(names, given)
    if len(apart) > 1:
        one, other = came(apart[-1][0], 60), came(apart[0][0], 60)
        raise ValueError(f"moments: expected pairs that join all networks, got none that joins {one} with {other}")
    for a, b in sorted(given, key=sorted):
        try:
            pair = as_pair(read(a, b))
        except ValueError as error:
            said = in_one_line(str(error).removeprefix("pair: "), _LONGEST)
            raise ValueError(f"moments: of {came(a, 60)} and {came(b, 60)}: {said}") from error
        yield (a, b, pair) if a < b else (b, a, pair.swap())


def _named_pairs(moments: object) -> dict[tuple[str, str], object]:
    """Pairs by two names, but for those of a net with itself."""
    with suppress(Exception):
        given = dict(moments.items()) if isinstance(moments, Mapping) else None
        if given and all(isinstance(key, tuple) and [type(name) for name in key] == [str, str] for key in given):
            twice = next(((a, b) for a, b in given if a < b and (b, a) in given), None)
            if twice is None:
                return {(a, b): "nothing" if pair is None else pair for (a, b), pair in given.items() if a != b}
            moments = f"{twice} in both orders"
    expected = "Moments, or PairMoments by pairs of names, each pair once"
    raise ValueError(f"moments: expected {expected}, got {came(moments)}")


def _pull(cross: Cross, maps: Maps, name: str) -> Tensor:
    """What the maps of the other nets say about that of this one, (units, dimensions)."""
    parts = [block @ maps[b] for (a, b), block in cross.items() if a == name and b in maps]
    parts += [block.T @ maps[a] for (a, b), block in cross.items() if b == name and a in maps]
    return sum(parts, torch.zeros_like(parts[0]))


def _polar(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right


def _shared(cross: Cross, maps: Maps) -> Tensor:
    """The covariance between nets in the space, (dimensions, dimensions), summed over pairs; its trace is maximised."""
    parts = [maps[a].T @ (block @ maps[b]) for (a, b), block in cross.items()]
    found = sum(parts, torch.zeros_like(parts[0]))
    return (found + found.T) / 2


def _spectral(cross: Cross, dimensions: int) -> Maps:
    """From the leading eigenvectors of all covariances between nets side by side."""
    units = {a: len(block) for (a, _), block in cross.items()}
    units |= {b: block.shape[1] for (_, b), block in cross.items()}
    names, first = sorted(units), next(iter(cross.values()))
    whole = first.new_zeros(sum(units.values()), sum(units.values()))
    part = dict(zip(names, torch.arange(len(whole)).split([units[name] for name in names]), strict=True))
    for (a, b), block in cross.items():
        whole[part[a][:, None], part[b]], whole[part[b][:, None], part[a]] = block, block.T
    leading = torch.linalg.eigh(whole).eigenvectors[:, -dimensions:]
    return {name: _polar(leading[part[name]]) for name in names}


def _grown(cross: Cross, dimensions: int) -> Maps:
    """From the net that has most in common with others, the nearest next: right also where many pairs are missing."""
    near = {pair: float(block.norm()) for pair, block in cross.items()}
    names = sorted({name for pair in cross for name in pair})

    def nearness(name: str, others: set[str]) -> float:
        """How much a net has in common with others: the size of its covariances with them, summed."""
        return sum(near.get((name, other), 0.0) + near.get((other, name), 0.0) for other in others)

    first = max(names, key=lambda name: nearness(name, set(names)))
    among = [block if a == first else block.T for (a, b), block in cross.items() if first in (a, b)]
    maps = {first: torch.linalg.eigh(sum(block @ block.T for block in among)).eigenvectors[:, -dimensions:]}
    while len(maps) < len(names):
        joined = {name for pair in cross if len(maps.keys() & pair) == 1 for name in pair if name not in maps}
        name = max(sorted(joined), key=lambda name: nearness(name, set(maps)))  # which may be 0 of all
        maps[name] = _polar(_pull(cross, maps, name))
    return maps


def _in_turn(cross: Cross, maps: Maps) -> tuple[Maps, int]:
    """Each map made the best for what the others are, in rounds, until none moves.

    From the second round on others count as already further along, as they went in the round before; where that leads
    back, or makes the sum smaller, the next round begins without it.
    """
    names, rounds, run, moves = sorted(maps), 0, 0, True
    before, reached, pull, step = maps, _shared(cross, maps).trace(), None, None
    while moves and rounds < _MOST_ROUNDS:
        rounds, ahead = rounds + 1, run / (run + 3)
        found, pulled = {name: maps[name] + ahead * (maps[name] - before[name]) for name in names}, []
        for name in names:
            pulled.append(_pull(cross, found, name))
            found[name] = _polar(pulled[-1])
        value = _shared(cross, found).trace()
        if run and value < reached - _ROUNDING * reached.abs():
            run, before = 0, maps
            continue
        last, pull = pull, torch.cat(pulled)
        moved, step = step, pull if last is None else pull - last
        moves = step.norm() > _TOLERANCE * pull.norm()
        run = 0 if moved is not None and (step * moved).sum() < 0 else run + 1
        before, maps, reached = maps, found, value
    return maps, rounds


def _along_axes(maps: Maps, shared: Tensor) -> Maps:
    """Turned so that dimensions are the axes of what is shared, most first, the largest entry of each positive."""
    axes = torch.linalg.eigh(shared).eigenvectors.flip(1)
    turned = torch.cat([maps[name] @ axes for name in sorted(maps)])
    sign = turned.gather(0, turned.abs().argmax(0, keepdim=True)).sign()
    lengths = [len(maps[name]) for name in sorted(maps)]
    return dict(zip(sorted(maps), (turned * sign).split(lengths), strict=True))


def _mean(alike: list[Tensor]) -> Tensor:
    found = torch.stack(alike)
    return torch.where(found.isfinite(), found, 0.0).mean().clamp(0, 1)


def _is_matrix(value: object, axes: int) -> bool:
    fits = isinstance(value, Tensor) and value.dtype == torch.float64 and value.ndim == axes
    return fits and bool(value.isfinite().all())
