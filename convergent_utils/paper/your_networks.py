"""What 12_your_networks reads: the networks alone. It measures before its reader's eyes, as the reader will."""

from __future__ import annotations

from ..making.things import Thing
from .networks import Setting

NOTEBOOK = "12_your_networks"


def things(_setting: Setting) -> dict[tuple, Thing]:
    """Nothing beside the networks."""
    return {}
