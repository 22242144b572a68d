"""What 01_activation_statistics reads."""

from ..making.things import Thing
from .networks import Setting, measurements

NOTEBOOK = "01_activation_statistics"


def things(setting: Setting) -> dict[tuple, Thing]:
    """Measurements, by the names under which the notebook asks for them."""
    return measurements(setting, ("trained", "all"), ("untrained", "all"), ("same start", "all"))
