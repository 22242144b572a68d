"""What 02_one_to_one_matching reads beside measurements: do units match better when a partner may lie a step aside?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from ..making.things import Get, Report, Thing
from ..nets.datasets import normalise
from ..nets.declared import Declared, Images
from ..nets.interventions import split_after
from .networks import Setting, as_network, measurements

NOTEBOOK = "02_one_to_one_matching"
ASKED = (
    *(("trained", "all"), ("untrained", "all"), ("same start", "all")),
    *(("trained", "centre"), ("trained", "mean")),
)
REACH = 2  # places of a layer's map, in each direction
_EVERY = 20  # one in so many test images


@dataclass(frozen=True)
class Displaced(Thing):
    """How well units match when a partner may lie some places away, see `displaced_matches`; by layer.

    Attributes:
        networks: by name.
        images: on which.
        layers: convolutions.
        reach: how many places a partner may lie away, in each direction.
    """

    title, seconds, published = "matching displaced units", 60.0, True

    networks: tuple[tuple[str, Declared], ...]
    images: Images
    layers: tuple[str, ...]
    reach: int

    def make(self, get: Get, report: Report) -> dict[str, dict[str, Tensor]]:
        """Match them."""
        networks = [as_network(declared.network(get)) for _, declared in self.networks]
        images, found = normalise(self.images.load().images), {}
        for layer in self.layers:
            with torch.no_grad():
                maps = [split_after(network, layer)[0](images).permute(0, 2, 3, 1) for network in networks]
            found[layer] = displaced_matches(maps, self.reach)
        return found


def things(setting: Setting) -> dict[tuple, Thing]:
    """Measurements, and ("displaced", kind) for trained and untrained networks, by the names the notebook asks for."""
    test, convolutions = replace(setting.test, every=_EVERY), tuple(k for k in setting.layers if k.startswith("conv"))
    kinds = {"trained": setting.networks, "untrained": {name: setting.at(name, 0.0) for name in setting.networks}}
    return measurements(setting, *ASKED) | {
        ("displaced", kind): Displaced(tuple(networks.items()), test, convolutions, REACH)
        for kind, networks in kinds.items()
    }


def displaced_matches(maps: Sequence[Tensor], reach: int) -> dict[str, Tensor]:
    """The largest correlation of each unit with any unit of another network, in its place and up to some places away.

    Args:
        maps: for each network its maps (n, height, width, units), of the same form for all.
        reach: how many places away, in each direction, or as many as leave one place of the map.

    Returns:
        "r" (2, nets, nets, units), by semi-matching: [0, a, b] the units of a with the live ones of b in their place,
        [1, a, b] with those of b at the best of the (2 reach + 1)^2 displacements. The places of a are those that have
        a place at all displacements; 0 for dead units. "live" (nets, units): units that vary there.
    """
    n_nets, (_, height, width, units) = len(maps), maps[0].shape
    down, across = min(reach, (height - 1) // 2), min(reach, (width - 1) // 2)
    found = {}
    here = _standardised(maps, down, across, 0, 0)
    for dy, dx in product(range(-down, down + 1), range(-across, across + 1)):
        there = _standardised(maps, down, across, dy, dx)
        r = (here.T @ there / len(here)).masked_fill(~_varies(there), -1.0).view(n_nets, units, n_nets, units)
        found[dy, dx] = r.amax(3).permute(0, 2, 1).contiguous()
    best, live = torch.stack([*found.values()]).amax(0), _varies(here).view(n_nets, units)
    return {"r": torch.stack([found[0, 0], best]) * live[:, None], "live": live}


def _varies(acts: Tensor) -> Tensor:
    """Which columns are not zero throughout."""
    return acts.abs().amax(0) > 0


def _standardised(maps: Sequence[Tensor], down: int, across: int, dy: int, dx: int) -> Tensor:
    """Rows of all networks side by side, at the inner places moved by (dy, dx); units have mean 0 and variance 1."""
    _, height, width, units = maps[0].shape
    rows = [m[:, down + dy : height - down + dy, across + dx : width - across + dx].reshape(-1, units) for m in maps]
    acts = torch.cat(rows, 1)
    dead = acts.amax(0) == acts.amin(0)  # before the mean is taken off, which rounds
    acts = (acts - acts.mean(0)).masked_fill(dead, 0.0)
    return acts / acts.square().mean(0).sqrt().where(~dead, torch.inf)
