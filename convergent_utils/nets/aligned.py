"""The aligned sample: the same images and places in all blocks, chosen one by one, in whatever order they come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..kernels.checks import came, form_of, has_rows, is_count
from .activations import ONE_PLACE, Positions

_NUMBERS = ("keys", "images", "places")
_STATE = ("size", "seed", "fractions", *_NUMBERS, "rows")
_PLACES_ACROSS = 8  # and down
_STEP = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio


class Candidates(NamedTuple):
    """Rows of a batch that are wanted: keys, numbers of image and place, and which image of the batch each is of."""

    keys: Tensor
    images: Tensor
    places: Tensor
    of: Tensor


class AlignedSample:
    """Of all rows (image, place) those with the smallest keys, where a key depends on seed, image and place alone.

    Args:
        size: most rows that are kept.
        seed: of the keys.
        fractions: (places, 2) float64, where the places of every image lie (down, across), in [0, 1).

    Attributes:
        keys, images, places: (rows,) int64: of each row its key, the number of its image, and which place it is at.
        rows: by block, (rows, units).

    `update` takes up a batch in place, `merge` makes a new sample from two. Laws, all exact once rows are `arranged`:
    an empty part is the identity, merging commutes and is associative, any split of the images equals one batch, and
    the first m rows are the sample of size m.
    """

    def __init__(self, size: int, *, seed: int, fractions: Tensor):
        self.size, self.seed, self.fractions = size, seed, fractions
        self.keys = self.images = self.places = torch.zeros(0, dtype=torch.int64)
        self.rows: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def candidates(self, images: Tensor) -> Candidates:
        """The rows of these images (n,) whose keys are among the smallest so far."""
        keys = row_keys(self.seed, images, len(self.fractions))
        together = torch.cat([self.keys, keys.flatten()])
        most = together.kthvalue(min(self.size, len(together))).values if len(together) else 0
        of, places = (keys <= most).nonzero().T
        return Candidates(keys[of, places], images[of], places, of)

    def update(self, batch: Candidates, rows: Mapping[str, Tensor]) -> None:
        """Take up the rows (candidates, units) of every block. A row that falls out makes room for one that comes."""
        n, keys = len(self), torch.cat([self.keys, batch.keys])
        kept = torch.zeros_like(keys, dtype=torch.bool).index_fill_(0, keys.argsort()[: self.size], True)
        taken = kept[n:].nonzero()[:, 0]
        room = torch.cat([(~kept[:n]).nonzero()[:, 0], torch.arange(n, int(kept.sum()))])
        self.keys, self.images, self.places = (
            _put(held, room, new[taken])
            for held, new in ((self.keys, batch.keys), (self.images, batch.images), (self.places, batch.places))
        )
        for name, new in rows.items():
            self.rows[name] = _put(self.rows.get(name, new[:0]), room, new[taken.to(new.device)])

    def arranged(self) -> AlignedSample:
        """The same rows on the CPU, smallest key first."""
        order, made = self.keys.argsort(), AlignedSample(self.size, seed=self.seed, fractions=self.fractions)
        made.keys, made.images, made.places = self.keys[order], self.images[order], self.places[order]
        made.rows = {name: rows[order.to(rows.device)].cpu() for name, rows in self.rows.items()}
        return made

    def merge(self, other: AlignedSample) -> AlignedSample:
        """The sample of both parts together, as a new object, arranged.

        Raises:
            ValueError: another size, seed, places or blocks; an image that is in both.
        """
        alike = isinstance(other, AlignedSample) and (self.size, self.seed) == (other.size, other.seed)
        if not alike or not self.fractions.equal(other.fractions):
            raise ValueError("other: expected an aligned sample of the same size, seed and places")
        mine, theirs = ({name: (rows.shape[1], rows.dtype) for name, rows in one.rows.items()} for one in (self, other))
        if len(self) and len(other) and mine != theirs:
            raise ValueError("other: expected an aligned sample of the same blocks, as wide and as precise")
        twice = self.images[torch.isin(self.images, other.images)]
        if len(twice):
            raise ValueError(f"other: expected other images, got number {int(twice[0])} in both")
        merged = AlignedSample.from_state(self.state())
        merged.update(Candidates(other.keys, other.images, other.places, torch.arange(len(other))), other.rows)
        return merged.arranged()

    def state(self) -> dict[str, object]:
        """Everything, to be saved, sent or gone on from; `from_state` is its inverse."""
        numbers = {name: getattr(self, name).clone() for name in ("fractions", *_NUMBERS)}
        rows = {name: rows.clone() for name, rows in self.rows.items()}
        return {"size": self.size, "seed": self.seed, **numbers, "rows": rows}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> AlignedSample:
        """The sample whose `state` it was.

        Raises:
            ValueError: no such state.
        """
        if not isinstance(state, Mapping) or set(state) != set(_STATE):
            raise ValueError(f"state: expected AlignedSample.state(), a dict of {', '.join(_STATE)}, got {came(state)}")
        numbers, rows, fractions = [state[name] for name in _NUMBERS], state["rows"], state["fractions"]
        if not is_count(state["size"]) or not is_count(state["seed"]) or not isinstance(rows, Mapping):
            raise ValueError("state: expected size and seed as whole numbers, and rows by block")
        fits = _is(fractions, 2, float64=True) and fractions.shape[1] == 2
        if not fits or not ((fractions >= 0) & (fractions < 1)).all():
            raise ValueError(f"state: expected fractions (places, 2) float64 from 0 to 1, got {form_of(fractions)}")
        if not all(_is(value, 1) and len(value) == len(numbers[0]) for value in numbers):
            raise ValueError("state: expected keys, images and places, equally many whole numbers")
        made = cls(state["size"], seed=state["seed"], fractions=fractions)
        made.keys, made.images, made.places = numbers
        made.rows = dict(rows)
        if len(made.keys.unique()) < len(made) or (made.places < 0).any() or (made.places >= len(fractions)).any():
            raise ValueError("state: expected keys that differ, and places among the fractions")
        for name, value in made.rows.items():
            fits = isinstance(value, Tensor) and has_rows(value) and value.is_floating_point() and value.ndim == 2
            if not fits or len(value) != len(made):
                raise ValueError(f"state: expected {len(made)} rows of {came(name, 60)}, got {form_of(value)}")
        return made


def places_of(positions: Positions, seed: int) -> Tensor:
    """Fractions (places, 2) of the map at which images have rows of the aligned sample: one in each cell of a grid."""
    one = {"mean": 0.5, **ONE_PLACE}.get(positions)
    if one is not None:
        return torch.full((1, 2), one, dtype=torch.float64)
    corners = np.stack(np.meshgrid(*[np.arange(_PLACES_ACROSS)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    within = np.random.default_rng([seed, 1]).random(corners.shape)
    return torch.from_numpy((corners + within) / _PLACES_ACROSS)


def row_keys(seed: int, images: Tensor, places: int) -> Tensor:
    """Keys (n, places) int64 from 0 on, as good as random, of the rows of images with these numbers (n,).

    Source: the mixing function of SplitMix64 (Steele, Lea and Flood 2014), once each for seed, image and place.
    """
    key = _mixed(np.full(1, seed, dtype=np.uint64) + _STEP)
    key = _mixed(key + images.numpy().astype(np.uint64)[:, None] * _STEP)
    key = _mixed(key + (np.arange(places, dtype=np.uint64) + np.uint64(1)) * _STEP)
    return torch.from_numpy((key >> np.uint64(1)).astype(np.int64))


def _mixed(value: np.ndarray) -> np.ndarray:
    """Every bit of the result depends on every bit of the value; one to one."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _put(held: Tensor, room: Tensor, new: Tensor) -> Tensor:
    """`new` rows in these places of what is held, in place but for what must be added at the end."""
    more = max(0, int(room.max()) + 1 - len(held)) if len(room) else 0
    held = torch.cat([held, new.new_zeros(more, *new.shape[1:])]) if more else held
    held[room.to(held.device)] = new
    return held


def _is(value: object, axes: int, *, float64: bool = False) -> bool:
    """A dense tensor of whole numbers, or of float64, with so many axes."""
    dtype = torch.float64 if float64 else torch.int64
    return isinstance(value, Tensor) and has_rows(value) and value.dtype == dtype and value.ndim == axes
