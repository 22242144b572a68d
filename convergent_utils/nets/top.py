"""The inputs that excite a unit most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Top:
    """The strongest stimuli of each unit, strongest first, one place per image.

    Attributes:
        value: (units, top) activation.
        image: (units, top) int64 number of the image.
        place: (units, top, 2) int64 row and column on the map; 0 where rows have no place (positions="mean").

    Example:
        >>> place = torch.zeros(1, 2, 2, dtype=torch.int64)
        >>> one = Top(torch.tensor([[0.9, 0.5]]), torch.tensor([[3, 1]]), place)
        >>> other = Top(torch.tensor([[0.7, 0.6]]), torch.tensor([[8, 9]]), place)
        >>> one.merge(other, 2).image
        tensor([[3, 8]])
    """

    value: Tensor
    image: Tensor
    place: Tensor

    def merge(self, other: Top, most: int) -> Top:
        """The `most` strongest of both, which are of other images."""
        return Top(*(torch.cat([vars(self)[name], vars(other)[name]], dim=1) for name in vars(self))).ranked(most)

    def ranked(self, most: int) -> Top:
        """The `most` strongest, strongest first; of equals the earlier image comes first."""
        by_image = self.image.argsort(dim=1)
        by_value = self.value.gather(1, by_image).argsort(dim=1, descending=True, stable=True)
        order = by_image.gather(1, by_value)[:, :most]
        place = self.place.gather(1, order[:, :, None].expand(-1, -1, 2))
        return Top(self.value.gather(1, order), self.image.gather(1, order), place)
