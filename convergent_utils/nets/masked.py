"""Rows of which not all count, as tokens among padding."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.checks import came
from .activations import ONE_PLACE, Positions
from .blocks import Rows


class MaskedMaps:
    """Maps of which some places count. Of sequences those that count come first, so that a place is a token's number
    among them.

    Args:
        values: (n, height, width, units).
        mask: (n,), (n, tokens) or (n, height, width) bool, at least one of each input.
        kind: see `Maps`.
        of: what refusals call the layer.

    Attributes:
        values: (n, places, units).
        counted: (n, places) bool.
        size: height and width of the maps; of sequences (1, 1), since they differ.

    Raises:
        ValueError: a mask that does not fit.
    """

    def __init__(self, values: Tensor, mask: Tensor, kind: str, of: str):
        n, height, width, _ = values.shape
        self.values, self.size, self.kind = values.flatten(1, 2), (height, width), kind
        if mask.ndim == 1 or height * width == 1:
            self.counted = torch.ones(n, height * width, dtype=torch.bool, device=values.device)
        elif tuple(mask.shape[1:]) == (height, width) or (width == 1 and tuple(mask.shape[1:]) == (height,)):
            self.counted = mask.flatten(1).to(values.device)
        else:
            message = f"one of {tuple(mask.shape[1:])} does not fit {came(of, 60)}, which has {height * width} places"
            raise ValueError(f"mask: {message}; measure that layer apart, or make a mask that fits by a function")
        if kind != "grid":
            order = (~self.counted).byte().argsort(dim=1, stable=True)
            self.counted, self.size = self.counted.gather(1, order), (1, 1)
            self.values = self._at(order)

    def _at(self, places: Tensor) -> Tensor:
        """(n, picked, units) at these places (n, picked)."""
        return self.values[torch.arange(len(self.values), device=self.values.device)[:, None], places]

    def _places(self, fractions: Tensor) -> Tensor:
        """(n, picked) int64, among the places that count those at these fractions (n or 1, picked) of them."""
        order = (~self.counted).byte().argsort(dim=1, stable=True)
        picked = fractions.to(order.device) * self.counted.sum(1, keepdim=True)
        return order.gather(1, picked.long())

    def rows(self, positions: Positions, drawn: Tensor | None, numbers: Tensor) -> Rows:
        """The rows at `positions`, see `record`; `drawn` (n, picked, 2) as in `flat_places`."""
        if positions == "all":
            return Rows(self.values, None, numbers, self.counted)
        if positions == "mean":
            total = self.values.masked_fill(~self.counted[:, :, None], 0).sum(1, keepdim=True)
            return Rows(total / self.counted.sum(1)[:, None, None], None, numbers, None)
        if self.kind == "grid":
            message = "of a grid of which not all places count there are"
            raise ValueError(f"positions: {message} 'all' and 'mean', got {positions!r}; or leave out the mask")
        if drawn is None:
            drawn = torch.full((1, 1, 2), ONE_PLACE[positions], dtype=torch.float64)
        places = self._places(drawn[..., 0])
        return Rows(self._at(places), places, numbers, None)

    def sampled(self, of: Tensor, which: Tensor, fractions: Tensor) -> Tensor:
        """(candidates, units), rows of these inputs at these of the places at `fractions` (places, 2)."""
        places = self._places(fractions[None, :, 0])
        return self.values[of, places[of, which.to(of.device)]]
