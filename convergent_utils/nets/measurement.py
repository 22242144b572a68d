"""What one pass over the images keeps of networks and layers, and how it is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, reduce
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..kernels.checks import as_count, came, has_rows, in_one_line, is_count, require_fields
from ..kernels.moments import Moments, PairMoments
from ..kernels.streaming_cka import StreamingCKA
from .activations import Positions, as_positions
from .aligned import AlignedSample
from .layers import require_named
from .top import Top as Top


@dataclass(frozen=True)
class Measurement:
    """What `measure` keeps: moments, a sample of activations, and the strongest stimuli of each unit.

    A block is a layer of a network, named "network.layer"; activations are what the module of that name gives. Methods
    such as `pair`, `sample` and `top` read it out, by the names of blocks.

    Attributes:
        networks: of each network a checksum of its weights.
        images: (n_images,) int64, the numbers of the images, ascending.
        positions: as given to `measure`.
        folds: moments of the images of each fold.
        aligned: rows at the same images and places in every block.
        n_top: how many of the strongest stimuli of each unit are kept.
        tops: of each block its strongest stimuli.
        maps: of each block (height, width, units) float64, the mean over images; none where places are drawn anew.
        active: of each block (units,) float64, the share of rows that are not zero.
        counted: of each block (height, width) int64, at each place how many rows count; none where all do. Places of
            sequences are the numbers of tokens among those that count.
        flattened: sums over whole maps of some blocks, of which `flattened.cka()` is made; None where not asked for.

    `merge` makes the measurement of two parts, of other images. Laws: it commutes and is associative to rounding, and
    any split of the images equals one measurement; samples and strongest stimuli exactly, where a network gives an
    image the same numbers whatever others are in its batch.

    Example:
        >>> images = torch.arange(32.0).reshape(16, 2)
        >>> measured = measure({"net": torch.nn.Sequential(torch.nn.Identity())}, images, "0")
        >>> measured.blocks, measured.mean_activation("net.0")
        ({'net.0': 2}, tensor([15., 16.], dtype=torch.float64))
    """

    networks: dict[str, str]
    images: Tensor
    positions: Positions
    folds: tuple[Moments, ...]
    aligned: AlignedSample
    n_top: int
    tops: dict[str, Top]
    maps: dict[str, Tensor]
    active: dict[str, Tensor]
    counted: dict[str, Tensor] = field(default_factory=dict)
    flattened: StreamingCKA | None = None

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def sample_images(self) -> Tensor:
        """(rows,) int64, the number of the image of each row of the aligned sample."""
        return self.aligned.images

    @property
    def sample_places(self) -> Tensor:
        """(rows, 2) float64, the place of each row of the aligned sample as fractions (down, across) of the map."""
        return self.aligned.fractions[self.aligned.places]

    @property
    def samples(self) -> dict[str, Tensor]:
        """The aligned sample by block, see `sample`."""
        return self.aligned.rows

    def merge(self, other: Measurement) -> Measurement:
        """The measurement of the images of both, as a new object.

        ::

            whole = cu.measure(networks, images[:500], layers).merge(
                cu.measure(networks, images[500:], layers, first=500)
            )

        Raises:
            ValueError: other networks, blocks, pairs or options; an image that is in both.
        """
        self._require_mergeable(other)
        flattened = self.flattened
        if flattened is not None and other.flattened is not None:
            flattened = flattened.merge(other.flattened)
        folds = tuple(mine.merge(it) for mine, it in zip(self.folds, other.folds, strict=True))
        return self.beside(other, folds, flattened)

    def beside(self, other: Measurement, folds: tuple[Moments, ...], flattened: StreamingCKA | None) -> Measurement:
        """As `merge`, with moments and sums over whole maps that are merged already."""
        return replace(
            self,
            images=torch.cat([self.images, other.images]).sort().values,
            folds=folds,
            aligned=self.aligned.merge(other.aligned),
            tops={name: top.merge(other.tops[name], self.n_top) for name, top in self.tops.items()},
            maps={name: _mean_of_both(self, other, name, "maps") for name in self.maps},
            active={name: _mean_of_both(self, other, name, "active") for name in self.active},
            counted={name: sum(_equally_long(rows, other.counted[name])) for name, rows in self.counted.items()},
            flattened=flattened,
        )

    def _require_mergeable(self, other: Measurement) -> None:
        """It is of the same blocks and options, and of other images."""
        if not isinstance(other, Measurement):
            raise ValueError(f"other: expected a Measurement, got {came(other)}")
        forms = [{k: v.shape for k, v in one.maps.items() if k not in one.counted} for one in (self, other)]
        forms = [(one.blocks, form, set(one.counted)) for one, form in zip((self, other), forms, strict=True)]
        if forms[0] != forms[1]:
            raise ValueError("other: expected a measurement of the same blocks, of as many units and places")
        differs = [name for name, found in self.networks.items() if other.networks.get(name) != found]
        if differs or len(self.networks) != len(other.networks):
            named = came(differs[0], 60) if differs else "all networks"
            raise ValueError(f"other: expected a measurement of the same networks, got other weights of {named}")
        mine, theirs = ((m.positions, len(m.folds), m.n_top) for m in (self, other))
        if mine != theirs:
            raise ValueError(f"other: expected the same positions, folds and top {mine}, got {theirs}")
        twice = self.images[torch.isin(self.images, other.images)]
        if len(twice):
            message = f"expected other images, got number {int(twice[0])} in both"
            raise ValueError(f"other: {message}; say with `first` where the numbers of a part begin")

    def state(self) -> dict[str, object]:
        """Everything in dicts, tuples and tensors, to be saved, sent or gone on from; `from_state` is its inverse."""
        return {
            "networks": dict(self.networks),
            "images": self.images.clone(),
            "positions": self.positions,
            "folds": tuple(fold.state() for fold in self.folds),
            "aligned": self.aligned.state(),
            "n_top": self.n_top,
            "tops": {name: _cloned(vars(top)) for name, top in self.tops.items()},
            "maps": _cloned(self.maps),
            "active": _cloned(self.active),
            "counted": _cloned(self.counted),
            "flattened": None if self.flattened is None else self.flattened.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Measurement:
        """The measurement whose `state` it was.

        Raises:
            ValueError: no such state.
        """
        if not isinstance(state, Mapping) or set(state) != {each.name for each in fields(cls)}:
            raise ValueError(f"state: expected Measurement.state(), got {came(state)}")
        try:
            folds = tuple(map(Moments.from_state, state["folds"]))
            tops = {name: Top(**top) for name, top in state["tops"].items()}
            aligned = AlignedSample.from_state(state["aligned"])
            flat = None if state["flattened"] is None else StreamingCKA.from_state(state["flattened"])
            made: dict[str, Any] = {"folds": folds, "aligned": aligned, "tops": tops, "flattened": flat}
            found = cls(**{**state, **made})
            found._require_whole()
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = in_one_line(error, 200).removeprefix("state: ")
            raise ValueError(f"state: expected Measurement.state(), got another: {reason}") from error
        return found

    def _require_whole(self) -> None:
        """Whatever belongs to its blocks is there, in shapes that fit."""
        if not self.folds or any(
            (f.blocks, f.pairs) != (self.folds[0].blocks, self.folds[0].pairs) for f in self.folds
        ):
            raise ValueError("folds: expected at least one, all of the same blocks")
        if not all(isinstance(value, str) for pair in self.networks.items() for value in pair):
            raise ValueError("networks: expected checksums by name")
        require_fields(self, whole=("images",), images="n")
        if not (self.images.diff() > 0).all() or (self.images < 0).any() or not self._counts_fit():
            raise ValueError("images: expected ascending numbers, as many in each fold as there are moments of")
        as_count(self.n_top, "n_top")
        if not isinstance(self.counted, Mapping) or not set(self.counted) <= set(self.blocks):
            raise ValueError("counted: expected numbers of rows of some of the blocks")
        for name, rows in self.counted.items():
            require_fields(SimpleNamespace(rows=rows), whole=("rows",), rows="hw")
            if (rows < 0).any() or (name in self.maps and rows.shape != self.maps[name].shape[:2]):
                raise ValueError(f"counted: expected how many rows there are at the places of {came(name, 60)}")
        with_map = set() if isinstance(as_positions(self.positions), int) else set(self.blocks)
        for name, found, expected in (("active", self.active, set(self.blocks)), ("maps", self.maps, with_map)):
            if set(found) != expected or not all(_is_of(value, self.blocks[k]) for k, value in found.items()):
                raise ValueError(f"{name}: expected finite float64 tensors of the units of each block")
        if set(self.tops) != set(self.blocks) or not set(self.aligned.rows) <= set(self.blocks):
            raise ValueError("tops and aligned: expected those of the blocks")
        for name, top in self.tops.items():
            self._require_top(name, top)
        for name, rows in self.aligned.rows.items():
            if rows.shape[1] != self.blocks[name]:
                raise ValueError(f"aligned: expected rows of {self.blocks[name]} units of {came(name, 60)}")
        for images in (self.aligned.images, *(top.image for top in self.tops.values())):
            if not torch.isin(images, self.images).all():
                raise ValueError("aligned and tops: expected images among those that were measured")

    def _require_top(self, block: str, top: Top) -> None:
        """Strongest stimuli as they are of this block."""
        of = {"value": top.value.double(), "image": top.image, "row": top.place[..., 0], "column": top.place[..., 1]}
        letters = dict.fromkeys(of, "uk")
        require_fields(SimpleNamespace(**of), whole=("image", "row", "column"), **letters)
        if len(top.value) != self.blocks[block] or top.place.shape[2:] != (2,) or not top.value.is_floating_point():
            raise ValueError(f"tops: expected those of {self.blocks[block]} units of {came(block, 60)}")

    def _counts_fit(self) -> bool:
        """The samples of each fold are as many as its images, so many times as each image has rows."""
        images = torch.bincount(self.images % len(self.folds), minlength=len(self.folds)).tolist()
        for block in self.blocks:
            if block in self.counted:
                if sum(fold.n_samples(block) for fold in self.folds) != int(self.counted[block].sum()):
                    return False
                continue
            counts = [fold.n_samples(block) for fold in self.folds]
            rows = sum(counts) // max(1, len(self.images))
            if rows < 1 or counts != [rows * each for each in images]:
                return False
        return True

    @property
    def blocks(self) -> dict[str, int]:
        """Names of the blocks and their numbers of units."""
        return self.folds[0].blocks

    @property
    def order(self) -> list[str]:
        """Names of the blocks in the order in which their layers were called, where that is known."""
        return list(self.tops)

    def has_pair(self, a: str, b: str) -> bool:
        """Whether these blocks were measured together."""
        return any(pair in self.folds[0].pairs for pair in ((a, b), (b, a)))

    def pair(self, a: str, b: str, *, fold: int | Iterable[int] | None = None) -> PairMoments:
        """Moments of two blocks, over all images, or those of one fold or several merged.

        Image k is in fold k modulo the number of folds.

        Raises:
            ValueError: unknown blocks or fold, a pair that was not measured.

        Example:
            >>> network, images = torch.nn.Sequential(torch.nn.Identity()), torch.arange(32.0).reshape(16, 2)
            >>> measured = measure({"net": network}, images, "0")
            >>> measured.pair("net.0", "net.0", fold=1).mean_a
            tensor([16., 17.], dtype=torch.float64)
        """
        self._require_block(a, "a")
        self._require_block(b, "b")
        if fold is None:
            return self._merged(range(len(self.folds))).pair(a, b)
        chosen = [fold] if is_count(fold) else list(fold) if isinstance(fold, Iterable) else []
        if not chosen or not all(is_count(k) and 0 <= k < len(self.folds) for k in chosen):
            most = len(self.folds) - 1
            raise ValueError(f"fold: expected 0 to {most}, or several of them, got {came(fold)}")
        return self._merged(map(int, chosen)).pair(a, b)

    def _require_block(self, block: str, argument: str = "block") -> None:
        require_named(block, self.blocks, argument, "there is no block", "Measurement.blocks lists all")

    def _merged(self, chosen: Iterable[int]) -> Moments:
        """The moments of these folds together, merged once."""
        key = tuple(sorted(set(chosen)))
        if key not in self._merges:
            self._merges[key] = reduce(Moments.merge, [self.folds[k] for k in key])
        return self._merges[key]

    @cached_property
    def _merges(self) -> dict[tuple[int, ...], Moments]:
        return {}

    def layout(self, a: str, b: str) -> PairMoments:
        r"""The moments of a with b when images are shuffled and places kept, in closed form; of sequences, when each
        token meets those that come as late in others.

        .. math:: \Sigma^{layout}_{ab} = \sum_p w_p (\bar a(p) - \mu_a)(\bar b(p) - \mu_b)^\top

        where :math:`\bar a(p)` is the mean map and :math:`w_p` the share of rows that are at place p, 1 over the number
        of places where all rows count. This is the mean of the covariance over all permutations of the images.
        Means and variances are those of the whole, so `correlation` of it is the shuffled-image baseline.

        Raises:
            ValueError: positions are not "all", or the two maps differ in size.
        """
        if self.positions != "all":
            raise ValueError(f"positions: the layout needs positions='all', this measurement has {self.positions!r}")
        pair, map_a, map_b = self.pair(a, b), self.mean_map(a), self.mean_map(b)
        if map_a.shape[:2] != map_b.shape[:2]:
            raise ValueError(
                f"b: expected a map of {tuple(map_a.shape[:2])} places as in a, got {tuple(map_b.shape[:2])}"
            )
        live = (pair.cov_aa.diagonal() > 0)[:, None] & (pair.cov_bb.diagonal() > 0)
        if a in self.counted:
            share = (self.counted[a].double() / self.counted[a].sum()).flatten()[:, None]
            centred_a, centred_b = (m - (m * share).sum(0) for m in (map_a.flatten(0, 1), map_b.flatten(0, 1)))
            return replace(pair, cov_ab=(centred_a * share).T @ centred_b * live)
        centred_a, centred_b = ((m - m.mean((0, 1))).flatten(0, 1) for m in (map_a, map_b))
        return replace(pair, cov_ab=centred_a.T @ centred_b / len(centred_a) * live)

    def content(self, a: str, b: str) -> PairMoments:
        """The moments with the layout part taken out of cov_ab: what depends on which image it is."""
        pair = self.pair(a, b)
        return replace(pair, cov_ab=pair.cov_ab - self.layout(a, b).cov_ab)

    def sample(self, block: str) -> Tensor:
        """(rows, units) of the aligned sample; row k is the same image and place in every block.

        An image can have several rows. Where a layer has one place alone, these are the same row again; take one each,
        such as `np.unique(measured.sample_images, return_index=True)[1]`, before rows are counted.

        In float32, or in float64 where the network is.

        Raises:
            ValueError: unknown block; one of tokens where others are grids, whose places the sample is of.
        """
        self._require_block(block)
        if block not in self.samples:
            message = "are no places of a grid; measure them in a call of their own"
            raise ValueError(f"block: the tokens of {came(block, 100)} {message}")
        return self.samples[block]

    def top(self, block: str) -> Top:
        """The strongest stimuli of each unit.

        Raises:
            ValueError: unknown block.
        """
        self._require_block(block)
        return self.tops[block]

    def mean_map(self, block: str) -> Tensor:
        """(height, width, units) float64, each unit's mean activation at each place over images.

        Raises:
            ValueError: unknown block, places drawn anew for each image.
        """
        self._require_block(block)
        if block not in self.maps:
            raise ValueError(f"positions: places drawn anew for each image have no mean map, got {self.positions!r}")
        return self.maps[block]

    def mean_activation(self, block: str) -> Tensor:
        """(units,) float64, each unit's mean activation.

        Raises:
            ValueError: unknown block.
        """
        self._require_block(block)
        return self.pair(block, block).mean_a

    def active_share(self, block: str) -> Tensor:
        """(units,) float64, the share of rows on which the activation is not zero.

        Raises:
            ValueError: unknown block.
        """
        self._require_block(block)
        return self.active[block]


def _is_of(value: object, units: int) -> bool:
    """A finite float64 tensor whose last axis is of so many units."""
    fits = isinstance(value, Tensor) and has_rows(value) and value.dtype == torch.float64
    return fits and value.shape[-1:] == (units,) and bool(value.isfinite().all())


def _cloned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in tensors.items()}


def _equally_long(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both, filled with zeros along the first axis to the same length."""
    most = max(len(one), len(other))
    one, other = (torch.cat([each, each.new_zeros(most - len(each), *each.shape[1:])]) for each in (one, other))
    return one, other


def _mean_of_both(one: Measurement, other: Measurement, block: str, what: str) -> Tensor:
    """The mean over the rows of both measurements of "maps" or "active"."""
    means = vars(one)[what][block], vars(other)[what][block]
    n = one.n_images, other.n_images
    if block not in one.counted:
        return (means[0] * n[0] + means[1] * n[1]) / sum(n)
    rows = _equally_long(one.counted[block], other.counted[block])
    if what == "active":
        n = [int(each.sum()) for each in rows]
        return (means[0] * n[0] + means[1] * n[1]) / sum(n)
    weights, means = [each[:, :, None].double() for each in rows], _equally_long(*means)
    return (means[0] * weights[0] + means[1] * weights[1]) / (weights[0] + weights[1]).clamp(min=1)
