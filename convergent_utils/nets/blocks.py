"""What is kept of one block, a layer of a network, beside its moments."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, pad

from ..kernels.checks import in_one_line
from .top import Top

_CANDIDATES = 1 << 19  # for the strongest stimuli that wait to be ranked
_CHUNK_ENTRIES = 1 << 18  # of rows looked at more than once: 1 MB stays in the cache


class Rows(NamedTuple):
    """Activations of a batch.

    Attributes:
        values: (n, places, units).
        places: (n, places) int64 as in `flat_places`; None where they are all places of the map.
        images: (n,) int64 numbers of the inputs.
        counted: (n, places) bool, which of them count; None where all do.
    """

    values: Tensor
    places: Tensor | None
    images: Tensor
    counted: Tensor | None

    @property
    def samples(self) -> Tensor:
        """(samples, units), those that count."""
        return self.values.flatten(0, 1) if self.counted is None else self.values[self.counted]

    @property
    def lengths(self) -> Tensor:
        """(n,) how many rows of each input count."""
        if self.counted is None:
            return torch.full_like(self.images, self.values.shape[1])
        return self.counted.sum(1)

    def of(self, chosen: Tensor) -> Rows:
        """Those of the inputs of this index (m,) int64."""
        places, counted = (None if part is None else part[chosen] for part in (self.places, self.counted))
        return Rows(self.values[chosen], places, self.images[chosen], counted)

    @staticmethod
    def joined(parts: list[Rows]) -> Rows:
        """Of several batches; where they have unlike numbers of places the shorter are filled with what does not count.

        A single one is not copied.
        """
        if len(parts) == 1:
            return parts[0]
        most = max(part.values.shape[1] for part in parts)
        if any(part.values.shape[1] < most for part in parts):
            parts = [part._filled(most) for part in parts]
        values, images = torch.cat([part.values for part in parts]), torch.cat([part.images for part in parts])
        places = [part.places for part in parts if part.places is not None]
        counted = [part.counted for part in parts if part.counted is not None]
        return Rows(values, torch.cat(places) if places else None, images, torch.cat(counted) if counted else None)

    def _filled(self, places: int) -> Rows:
        more = places - self.values.shape[1]
        counted = torch.ones_like(self.values[:, :, 0], dtype=torch.bool) if self.counted is None else self.counted
        values, counted = pad(self.values, (0, 0, 0, more)), pad(counted, (0, more))
        return Rows(values, None if self.places is None else pad(self.places, (0, more)), self.images, counted)


class Kept(NamedTuple):
    """Of one layer in one batch: its rows, the height, width and kind of its maps, its rows of the aligned sample."""

    rows: Rows
    map_size: tuple[int, int]
    kind: str
    sampled: Tensor


class Block:
    """What is kept of one block beside its moments, summed up batch by batch on its device.

    Args:
        kept: of the first batch; those that follow are of the same form.
        n_top: strongest stimuli kept per unit.
        device: where it is kept.
    """

    def __init__(self, kept: Kept, n_top: int, device: torch.device):
        rows = kept.rows.values
        self.map_size, self.n_top, self.kind, self.units = kept.map_size, n_top, kept.kind, rows.shape[2]
        self.precise = torch.float32 if device.type == "mps" else torch.float64
        self.sum = torch.zeros(rows.shape[1:], dtype=self.precise, device=device)
        self.masked, self.counts = kept.rows.counted is not None, self.sum.new_zeros(len(self.sum))
        self.active = self.sum.new_zeros(self.units)
        none = torch.zeros(0, self.units, dtype=torch.int64, device=device)
        # value, image, place, each (top, units)
        self.strongest = (torch.zeros(0, self.units, dtype=rows.dtype, device=device), none, none)
        self.candidates: list[tuple[Tensor, Tensor, Tensor]] = []  # one stimulus of each image, not ranked yet

    def require_form(self, name: str, kept: Kept) -> None:
        """These maps are as those of the batches before."""
        came, before = (kept.map_size, kept.rows.values.shape[2]), (self.map_size, self.units)
        if came != before:
            message = f"expected maps and units of one size for all, got {before} and {came}"
            hint = "; for sequences of unlike length say by `mask` which tokens count" if self.kind == "row" else ""
            raise ValueError(f"inputs: {in_one_line(name)}: {message}{hint}")

    def add(self, batch: Rows) -> None:
        """Add the rows of a batch."""
        rows, counted = batch.values, batch.counted
        if counted is not None:
            rows = rows.masked_fill(~counted[:, :, None], 0)
            self._grow(rows.shape[1])
            self.counts[: rows.shape[1]] += counted.sum(0)
        precise = torch.promote_types(rows.dtype, torch.float32)
        total, active = torch.zeros_like(rows[0], dtype=precise), torch.zeros_like(rows[0, 0], dtype=precise)
        for part in rows.split(max(1, _CHUNK_ENTRIES // max(1, rows[0].numel()))):
            total += part.sum(0, dtype=precise)
            # ones and zeros as floats: many times faster to write and to sum than booleans
            active += torch.ne(part, 0, out=torch.empty_like(part)).sum((0, 1), dtype=precise)
        if not total.isfinite().all():  # near the largest float32 the sum of a batch is above it
            total = rows.sum(0, dtype=self.sum.dtype)
        self.sum[: len(total)] += total
        self.active += active
        if counted is not None:
            batch = batch._replace(values=batch.values.masked_fill(~counted[:, :, None], -torch.inf))
        for few in torch.arange(len(rows)).split(max(1, _CANDIDATES // self.units)):
            these = slice(int(few[0]), int(few[-1]) + 1)
            places = None if batch.places is None else batch.places[these]
            self._add_candidates(batch.values[these], places, batch.images[these])

    def _grow(self, places: int) -> None:
        """Make room for longer sequences."""
        if (more := places - len(self.sum)) > 0:
            self.sum, self.counts = pad(self.sum, (0, 0, 0, more)), pad(self.counts, (0, more))

    def _add_candidates(self, rows: Tensor, places: Tensor | None, images: Tensor) -> None:
        """Of each image and unit the strongest of its rows."""
        as_image = rows[:, :, None].permute(0, 3, 1, 2)  # the pooling of images is the one maximum that is fast
        value, place = (x.flatten(1) for x in adaptive_max_pool2d(as_image, 1, return_indices=True))
        place = place if places is None else places.gather(1, place)
        self.candidates.append((value, images[:, None].expand_as(place), place))
        if sum(value.numel() for value, _, _ in self.candidates) >= _CANDIDATES:
            self._rank()

    def _rank(self) -> None:
        """Keep the strongest of those kept before and of the candidates since."""
        if self.candidates:
            joined = zip(self.strongest, *self.candidates, strict=True)
            self.strongest = _strongest(*(torch.cat(parts) for parts in joined), self.n_top)
            self.candidates.clear()

    def top(self) -> Top:
        """The strongest stimuli, as kept in the measurement."""
        self._rank()
        value, image, place = (x.T.cpu() for x in self.strongest)
        places = torch.stack((place // self.map_size[1], place % self.map_size[1]), dim=2)
        return Top(value, image, places).ranked(self.n_top)

    def mean_map(self, n_images: int) -> Tensor:
        """(height, width, units); one place where rows are the centre or the mean, and 0 where no row counts."""
        total = self.sum.cpu().double()
        counts = self.counted_rows()
        if counts is None:
            shape = self.map_size if len(total) == self.map_size[0] * self.map_size[1] else (1, 1)
            return (total / n_images).reshape(*shape, -1)
        return (total.reshape(*counts.shape, -1) / counts.clamp(min=1)[:, :, None].double()).contiguous()

    def counted_rows(self) -> Tensor | None:
        """(height, width) int64, how many rows at each place count; None where all do."""
        if not self.masked:
            return None
        shape = self.map_size if len(self.sum) == self.map_size[0] * self.map_size[1] else (-1, 1)
        return self.counts.cpu().round().long().reshape(shape)

    def active_share(self, n_images: int) -> Tensor:
        """(units,) the share of rows that are not zero."""
        rows = n_images * len(self.sum) if not self.masked else float(self.counts.sum())
        return self.active.cpu().double() / rows


def _strongest(value: Tensor, image: Tensor, place: Tensor, n_top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each unit the strongest and, among equals, the earliest images; each (stimuli, units), in no order.

    Equals are common (many images are dark somewhere); ranking them makes the result the same however images are split.
    """
    n_top = min(n_top, len(value))
    weakest = value.topk(n_top, dim=0).values[-1]
    preference = (-image).int().masked_fill(value > weakest, 1).masked_fill(value < weakest, torch.iinfo(torch.int).min)
    kept = preference.topk(n_top, dim=0).indices
    return value.gather(0, kept), image.gather(0, kept), place.gather(0, kept)
