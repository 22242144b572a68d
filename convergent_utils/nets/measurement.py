"""What one pass over the images keeps of networks and layers, and how it is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, reduce

from torch import Tensor

from ..kernels.checks import came, is_count
from ..kernels.moments import Moments, PairMoments
from .activations import Positions
from .layers import require_named


@dataclass(frozen=True)
class Top:
    """The strongest stimuli of each unit, strongest first, one place per image.

    Attributes:
        value: (units, top) activation.
        image: (units, top) int64 index of the image.
        place: (units, top, 2) int64 row and column on the map; 0 where rows have no place (positions="mean").
    """

    value: Tensor
    image: Tensor
    place: Tensor


@dataclass(frozen=True)
class Measurement:
    """What `measure` keeps. Blocks are named "network.layer"; activations are after the layer's non-linearity.

    Attributes:
        n_images: number of images.
        positions: as given to `measure`.
        sample_images: (rows,) int64, the image of each row of the aligned sample.
        sample_places: (rows, 2) its place as fractions (down, across) of the map.
    """

    n_images: int
    positions: Positions
    folds: tuple[Moments, ...]
    sample_images: Tensor
    sample_places: Tensor
    samples: dict[str, Tensor]
    tops: dict[str, Top]
    maps: dict[str, Tensor]
    active: dict[str, Tensor]

    @property
    def blocks(self) -> dict[str, int]:
        """Names of the blocks and their numbers of units."""
        return self.folds[0].blocks

    def pair(self, a: str, b: str, *, fold: int | Iterable[int] | None = None) -> PairMoments:
        """Moments of two blocks, over all images, or those of one fold or several merged.

        Image k is in fold k modulo the number of folds.

        Raises:
            ValueError: unknown blocks or fold, a pair that was not measured.
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
        r"""The moments of a with b when images are shuffled and places kept, in closed form.

        .. math:: \Sigma^{layout}_{ab} = \frac1P \sum_p (\bar a(p) - \mu_a)(\bar b(p) - \mu_b)^\top

        where :math:`\bar a(p)` is the mean map. This is the mean of the covariance over all permutations of the images.
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
        centred_a, centred_b = ((m - m.mean((0, 1))).flatten(0, 1) for m in (map_a, map_b))
        live = (pair.cov_aa.diagonal() > 0)[:, None] & (pair.cov_bb.diagonal() > 0)
        return replace(pair, cov_ab=centred_a.T @ centred_b / len(centred_a) * live)

    def content(self, a: str, b: str) -> PairMoments:
        """The moments with the layout part taken out of cov_ab: what depends on which image it is."""
        pair = self.pair(a, b)
        return replace(pair, cov_ab=pair.cov_ab - self.layout(a, b).cov_ab)

    def sample(self, block: str) -> Tensor:
        """(rows, units) of the aligned sample; row k is the same image and place in every block.

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
        """(units,) float64.

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
