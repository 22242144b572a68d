"""The paper: its networks, its claims, and what its notebooks read."""

from .claims import OWN, above, below, between
from .networks import PROFILES, REORDERED
from .prepare import prepare

__all__ = ["OWN", "PROFILES", "REORDERED", "above", "below", "between", "prepare"]
