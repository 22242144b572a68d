r"""Counts, means and joint covariances of units: all that a linear comparison of two representations needs.

The primitive is a merge (Chan, Golub, LeVeque 1979). Two parts with counts :math:`n_1, n_2`, means
:math:`\mu_1, \mu_2` and comoments :math:`C_1, C_2` (sums of products of centred activations) make the whole

.. math:: C = C_1 + C_2 + \frac{n_1 n_2}{n_1 + n_2} (\mu_2 - \mu_1)(\mu_2 - \mu_1)^\top,

so a batch, a worker, a GPU or a resumed run is one merge each. The product inside a batch is taken in the precision of
the activations, the state is float64. Units far from zero are shifted to their mean before the product: raw float32
moments would lose every digit of a unit whose mean is a thousand standard deviations. Units near zero are not: a unit
that is mostly silent would lose digits if its zeros were moved.

Activations of any finite scale are right. Where their squares would leave the range of their precision, units are
divided by powers of two before the product and multiplied after it, in float64; neither rounds anything. What float64
itself cannot hold, deviations above about 1e154 or below 1e-154, is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .checks import (
    as_activations,
    came,
    form_of,
    has_rows,
    is_count,
    is_number,
    require_finite_units,
    require_known,
    require_named,
    require_same_samples,
)
from .precision import full_precision, ordinary_tensors, power_of_two
from .products import (
    LEAST_SQUARE,
    Part,
    Tile,
    as_blocks,
    connected,
    is_wide,
    moments_of,
    ordered_pairs,
    powers_of,
    require_held,
    runs_of,
    tiles_of,
)

_MOST_UNITS = 10**6  # have covariances of terabytes
_MOST_LOOKED_AT = 256  # units of a net whose covariances are seen to be possible: for more it would take time
_IMPOSSIBLE = 0.25  # of a product of deviations, by which no rounding moves a covariance
_STATE_AXES = {"count": 0, "resolution": 0, "mean": 1, "comoment": 2}


@dataclass(frozen=True)
class PairMoments:
    r"""First and second moments of two sets of units over the same samples.

    Attributes:
        n_samples: number of samples, the same for both.
        mean_a, mean_b: (units_a,), (units_b,) float64, in units of activation.
        cov_aa, cov_ab, cov_bb: (units_a, units_a), (units_a, units_b), (units_b, units_b) float64, the covariance
            :math:`E[(x - \mu)(y - \nu)]`, divided by n_samples (not n_samples - 1).
        resolution: the rounding unit of the rows, of the coarser ones where nets or batches differ: 1.2e-7 for float32
            and half precisions, 2.2e-16 for float64. Moments of unknown rows count as of float32.

    A unit that never changes has a variance of exactly zero.

    Example:
        >>> pair_moments(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [8.0]])).swap().mean_a
        tensor([4.], dtype=torch.float64)
    """

    n_samples: int
    mean_a: Tensor
    mean_b: Tensor
    cov_aa: Tensor
    cov_ab: Tensor
    cov_bb: Tensor
    resolution: float = torch.finfo(torch.float32).eps

    def swap(self) -> PairMoments:
        """The same moments with a and b exchanged."""
        covariances = self.cov_bb, self.cov_ab.T, self.cov_aa
        return PairMoments(self.n_samples, self.mean_b, self.mean_a, *covariances, self.resolution)

    def at_common_scale(self) -> tuple[PairMoments, Tensor, Tensor]:
        """Each net divided by a power of two, so that its largest deviation is between 1 and 2, and the two powers.

        Nothing is rounded, and squares of covariances stay finite. Units too faint to matter beside it become dead.
        """
        a, b = (
            power_of_two(covariance.diagonal().amax().clamp(min=0).sqrt()) for covariance in (self.cov_aa, self.cov_bb)
        )
        means, covariances = (self.mean_a / a, self.mean_b / b), (self.cov_aa / a / a, self.cov_ab / a / b)
        return PairMoments(self.n_samples, *means, *covariances, self.cov_bb / b / b, self.resolution), a, b


class Moments:
    """Streaming joint moments of named blocks of units.

    Args:
        blocks: name and number of units of each block, for example {"net1.conv1": 24, "net2.conv1": 24}.
        pairs: pairs of names whose joint covariance is wanted; None means all. Each block's own covariance is always
            kept. Blocks joined by a pair, directly or through others, must come with the same rows.

    `update` merges one batch in place, `merge` makes a new object from two, `pair` reads the moments out. State is
    float64 on the device of the rows (on the CPU where that device has no float64). Laws: an empty part is the
    identity, merging commutes and is associative to rounding, and any split of the rows equals one batch.

    Example:
        >>> moments = Moments({"a": 1, "b": 1})
        >>> for rows in torch.arange(6.0)[:, None].split(2):
        ...     moments.update({"a": rows, "b": 2 * rows})
        >>> moments.n_samples("a"), moments.pair("a", "b").mean_b
        (6, tensor([5.], dtype=torch.float64))
    """

    def __init__(self, blocks: Mapping[str, int], *, pairs: Iterable[tuple[str, str] | list[str]] | None = None):
        self.blocks = as_blocks(blocks, at_most=_MOST_UNITS)
        self.pairs = ordered_pairs(self.blocks, pairs)
        self._parts = [(group, Part()) for group in connected(self.blocks, self.pairs)]

    @ordinary_tensors()
    def update(self, rows: Mapping[str, Tensor]) -> None:
        """Merge a batch: rows[name] is (samples, units) of that block. Blocks joined by pairs must come together.

        Raises:
            ValueError: unknown or missing blocks, unequal rows within a group, wrong widths, integer or complex types;
                NaN or infinity, or squares above what float64 can hold (on the CPU at once and nothing is merged;
                elsewhere when a pair is read, since looking would stall the device).
        """
        rows = require_named(rows, "rows", "activations")
        for name in rows:
            require_known(name, self.blocks, "rows")
        batches = []
        for group, part in self._parts:
            if any(name in rows for name in group):
                batches.append((part, *self._batch(group, self._checked(group, rows))))
        for part, batch, _ in batches:
            part.require_room(batch)
        for part, batch, tiles in batches:
            with full_precision():
                part.merge(batch, tiles)

    @ordinary_tensors()
    def merge(self, other: Moments) -> Moments:
        """The moments of both parts together, as a new object.

        Raises:
            ValueError: other blocks or pairs; squares above what float64 can hold, as in `update`.
        """
        if not isinstance(other, Moments) or self.blocks != other.blocks or self.pairs != other.pairs:
            raise ValueError("other: expected moments of the same blocks and pairs")
        merged = copy.deepcopy(self)
        for (_, mine), (_, theirs) in zip(merged._parts, other._parts, strict=True):
            mine.require_room(theirs)
            mine.merge(theirs)
        return merged

    def pair(self, a: str, b: str) -> PairMoments:
        """Moments of blocks a and b; a may equal b.

        Raises:
            ValueError: unknown block, a pair that was not asked for, fewer than 2 samples, NaN or infinity, a unit that
                varies too little or too much for float64 to hold its variance.
        """
        for argument, name in (("a", a), ("b", b)):
            require_known(name, self.blocks, argument)
        if (min(a, b), max(a, b)) not in self.pairs:
            raise ValueError(f"b: the pair ({a!r}, {b!r}) was not accumulated; name it in pairs")
        part = self._part(a)
        if part.count < 2:
            raise ValueError(f"a: expected at least 2 samples, got {part.count}")
        live_a, live_b = part.varies(a), part.varies(b)
        for name, live in ((a, live_a), (b, live_b)):
            square = part.comoment[name, name].diagonal()
            require_finite_units(part.mean[name], name)
            require_held(square.isfinite() & ((live == 0) | (square >= LEAST_SQUARE * part.count)), name)
        cov_ab = part.comoment[a, b] if a <= b else part.comoment[b, a].T
        return PairMoments(
            n_samples=part.count,
            mean_a=part.mean[a].clone(),
            mean_b=part.mean[b].clone(),
            cov_aa=part.comoment[a, a] * torch.outer(live_a, live_a) / part.count,
            cov_ab=cov_ab * torch.outer(live_a, live_b) / part.count,
            cov_bb=part.comoment[b, b] * torch.outer(live_b, live_b) / part.count,
            resolution=max(part.resolution[a], part.resolution[b]),
        )

    def n_samples(self, block: str) -> int:
        """How many samples of a block there are.

        Raises:
            ValueError: unknown block.
        """
        require_known(block, self.blocks, "block")
        return self._part(block).count

    def state(self) -> dict[str, Tensor]:
        """Everything as tensors by name, to be saved, sent or reduced; `from_state` is its inverse."""
        tensors = {}
        for name, units in self.blocks.items():
            part, zeros = self._part(name), torch.zeros(units, dtype=torch.float64)
            tensors[f"count/{name}"] = torch.tensor(part.count)
            tensors[f"resolution/{name}"] = torch.tensor(part.resolution.get(name, 0.0), dtype=torch.float64)
            tensors[f"mean/{name}"] = part.mean.get(name, zeros).clone()
        for a, b in self.pairs:
            zeros = torch.zeros(self.blocks[a], self.blocks[b], dtype=torch.float64)
            tensors[f"comoment/{a}|{b}"] = self._part(a).comoment.get((a, b), zeros).clone()
        return tensors

    @classmethod
    @ordinary_tensors()
    def from_state(cls, tensors: Mapping[str, Tensor]) -> Moments:
        """The moments whose `state` was `tensors`.

        Raises:
            ValueError: tensors that no state has, are missing or of another shape; unequal counts of blocks that come
                together.
        """
        tensors = require_named(tensors, "tensors", "tensors")
        found: dict[str, dict[str, Tensor]] = {"count": {}, "resolution": {}, "mean": {}, "comoment": {}}
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            require_known(kind, found, "tensors")
            if not isinstance(value, Tensor) or not has_rows(value) or value.ndim != _STATE_AXES[kind]:
                raise ValueError(f"tensors: expected {came(key)} with {_STATE_AXES[kind]} axes, got {form_of(value)}")
            found[kind][name] = value
        pairs = [name.split("|") for name in found["comoment"]]
        moments = cls({name: len(mean) for name, mean in found["mean"].items()}, pairs=pairs)
        for key, like in moments.state().items():
            value = tensors.get(key)
            if value is None or value.shape != like.shape or value.dtype != like.dtype:
                raise ValueError(f"tensors: expected {came(key)} of shape {form_of(like)}, got {form_of(value)}")
        for group, part in moments._parts:
            counts = {int(found["count"][name]) for name in group}
            if len(counts) > 1 or min(counts) < 0:
                raise ValueError(f"tensors: expected one count of {', '.join(group)}, got {sorted(counts)}")
            resolutions = [float(found["resolution"][name]) for name in group]
            if not all(0 <= resolution < 1 for resolution in resolutions):
                raise ValueError(f"tensors: expected resolutions from 0 to 1, got {came(resolutions)}")
            part.count = counts.pop()
            if part.count:
                part.resolution = dict(zip(group, resolutions, strict=True))
                part.mean = {name: found["mean"][name].clone() for name in group}
                joined = [(a, b) for a, b in moments.pairs if a in group]
                part.comoment = {(a, b): found["comoment"][f"{a}|{b}"].clone() for a, b in joined}
        return moments

    def _part(self, name: str) -> Part:
        return next(part for group, part in self._parts if name in group)

    def _checked(self, group: list[str], rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The rows of a group, in its order, each of the right width and all of the same length."""
        missing = [name for name in group if name not in rows]
        if missing:
            raise ValueError(f"rows: expected {missing[0]!r} together with the blocks it is paired with")
        checked = {name: as_activations(rows[name], name) for name in group}
        n_rows = len(checked[group[0]])
        for name, block in checked.items():
            if block.shape[1] != self.blocks[name]:
                raise ValueError(f"{name}: expected {self.blocks[name]} units, got {block.shape[1]}")
            if len(block) != n_rows:
                raise ValueError(f"{name}: expected {n_rows} samples as in {group[0]}, got {len(block)}")
            if block.device != checked[group[0]].device:
                raise ValueError(f"{name}: expected {checked[group[0]].device} as {group[0]}, got {block.device}")
        return checked

    def _batch(self, group: list[str], rows: dict[str, Tensor]) -> tuple[Part, Iterator[Tile] | None]:
        """The moments of a batch, from products of shifted rows in their own precision; of many units in tiles.

        Units are brought to powers of two where they must be. On the CPU that is seen by the squares, for looking at
        all rows beforehand takes time; elsewhere looking would stall the device, and it is always done.
        """
        if len(rows[group[0]]) == 0:
            return Part(), None
        on_cpu, runs, tiles = rows[group[0]].device.type == "cpu", runs_of(group, self.pairs), None
        wide = is_wide(rows, runs)
        with full_precision():
            part = moments_of(rows, runs) if on_cpu and not wide else None
            if part is None:
                power = {name: powers_of(block) for name, block in rows.items()}
                part = moments_of(rows, [] if wide else runs, power)
                tiles = tiles_of(rows, runs, power) if wide else None
        for name, mean in part.mean.items():
            if mean.device.type == "cpu":
                require_finite_units(mean, name)
                if not wide:
                    require_held(part.comoment[name, name].diagonal().isfinite(), name)
        return part, tiles


def pair_moments(acts_a: Tensor, acts_b: Tensor) -> PairMoments:
    r"""Means and covariances of the units of two nets over the same samples: what most similarities are made of.

    .. math:: \Sigma_{ab} = E[(x - \mu_a)(y - \mu_b)^\top]

    with :math:`x` and :math:`y` the activations of one sample in net a and in net b, and :math:`\mu` their means over
    all samples.

    Args:
        acts_a: (samples, units_a) float tensor or NumPy array, any device.
        acts_b: (samples, units_b), the same samples in the same order.

    Returns:
        PairMoments, float64. float16 and bfloat16 are read as float32. For float32 the correlations are within 1e-6 of
        float64 also where means are a hundred standard deviations, at any scale. Extra memory does not grow with the
        samples.

    Raises:
        ValueError: shapes that do not pair, fewer than 2 samples, NaN or infinity (naming the unit), integer or
            complex types, float64 activations whose variance float64 cannot hold.

    Source: Chan, Golub and LeVeque 1979, the merge of the parts.

    Example:
        >>> pair_moments(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [8.0]])).cov_ab
        tensor([[4.]], dtype=torch.float64)
    """
    acts_a, acts_b = as_activations(acts_a, "acts_a"), as_activations(acts_b, "acts_b")
    require_same_samples(acts_a, acts_b)
    moments = Moments({"acts_a": acts_a.shape[1], "acts_b": acts_b.shape[1]})
    moments.update({"acts_a": acts_a, "acts_b": acts_b})
    return moments.pair("acts_a", "acts_b")


def as_pair(pair: object, *, on: torch.device | None = None) -> PairMoments:
    """Moments whose shapes fit and whose values are finite, also where they were made by hand.

    Sums tell, not a look at each value: one pass, and one wait for a device.
    """
    if not isinstance(pair, PairMoments):
        raise ValueError(f"pair: expected PairMoments, got {came(pair)}; did you mean pair_moments(a, b)?")
    _require_fitting(pair)
    if on is not None and pair.cov_ab.device != on:
        raise ValueError(f"pair: expected moments on {on}, got them on {pair.cov_ab.device}")
    if isinstance(pair.cov_ab, FakeTensor):
        return pair
    means, covariances = (pair.mean_a, pair.mean_b), (pair.cov_aa, pair.cov_ab, pair.cov_bb)
    total = torch.stack([value.sum() for value in (*means, *covariances)])
    least = torch.stack([pair.cov_aa.diagonal().amin(), pair.cov_bb.diagonal().amin()])
    possible = _possible(pair)
    if not (total.isfinite().all() & (least >= 0).all() & possible.all()):
        if not all(value.isfinite().all() for value in (*means, *covariances)):
            raise ValueError("pair: expected finite moments, got NaN or infinity")
        if not (least >= 0).all():
            raise ValueError(f"pair: expected variances of at least 0, got {float(least.min())}")
        for name, is_possible in zip(("cov_aa", "cov_bb", "cov_ab"), possible.tolist(), strict=True):
            if not is_possible:
                symmetric = " and symmetric" if name != "cov_ab" else ""
                raise ValueError(f"pair: expected {name} within the variances of its units{symmetric}, got another")
    return pair


def standardised(pair: PairMoments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Correlations within a and between a and b, and the standard deviations; dead units have zeros everywhere."""
    scale_a, scale_b = (cov.diagonal().clamp(min=0).sqrt() for cov in (pair.cov_aa, pair.cov_bb))
    inverse_a, inverse_b = (torch.where(s > 0, 1 / s.where(s > 0, 1.0), 0.0) for s in (scale_a, scale_b))
    gram = pair.cov_aa * inverse_a[:, None] * inverse_a
    gram = (gram + gram.T) / 2
    gram.diagonal().copy_((scale_a > 0).to(gram.dtype))
    return gram, pair.cov_ab * inverse_a[:, None] * inverse_b, scale_a, scale_b


def _possible(pair: PairMoments) -> Tensor:
    """Whether cov_aa, cov_bb and cov_ab (3,) can be covariances, rounding of any activations aside; a corner of each.

    Those within a net are symmetric, and none is larger than the product of the deviations of its two units.
    """
    (a, b), few = (pair.cov_aa, pair.cov_bb), slice(_MOST_LOOKED_AT)
    deviation_a, deviation_b = (covariance.diagonal()[few].sqrt() for covariance in (a, b))
    found = []
    for covariance, deviation in ((a, deviation_a), (b, deviation_b)):
        part, most = covariance[few, few], deviation[:, None] * deviation
        found += [((part - part.T).abs() <= _IMPOSSIBLE * most).all() & (part.abs() <= (1 + _IMPOSSIBLE) * most).all()]
    most = deviation_a[:, None] * deviation_b
    found += [(pair.cov_ab[few, few].abs() <= (1 + _IMPOSSIBLE) * most).all()]
    return torch.stack(found)


def _require_fitting(pair: PairMoments) -> None:
    """The fields are dense float64 tensors of shapes that belong together, on one device; counts are counts."""
    if not is_count(pair.n_samples) or not 2 <= pair.n_samples < 2**63:
        raise ValueError(f"pair: expected n_samples of at least 2 and at most 63 bits, got {came(pair.n_samples)}")
    if not is_number(pair.resolution) or not 0 < pair.resolution < 1:
        raise ValueError(f"pair: expected a resolution between 0 and 1, got {came(pair.resolution)}")
    widths = [value.shape[0] if isinstance(value, Tensor) and value.ndim else 0 for value in (pair.mean_a, pair.mean_b)]
    shapes = {"mean_a": "a", "mean_b": "b", "cov_aa": "aa", "cov_ab": "ab", "cov_bb": "bb"}
    for field_name, letters in shapes.items():
        value, shape = getattr(pair, field_name), tuple(widths["ab".index(letter)] for letter in letters)
        fits = isinstance(value, Tensor) and has_rows(value) and value.dtype == torch.float64
        if not fits or value.shape != shape or 0 in shape:
            raise ValueError(f"pair: expected {field_name} as float64 of shape {shape}, got {form_of(value)}")
        if value.device != pair.mean_a.device:
            raise ValueError(f"pair: expected {field_name} on {pair.mean_a.device} as mean_a, got it on {value.device}")
