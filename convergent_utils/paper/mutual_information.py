"""What 03_mutual_information reads."""

from ..making.things import Thing
from .networks import Setting, measurements

NOTEBOOK = "03_mutual_information"


def things(setting: Setting) -> dict[tuple, Thing]:
    """Measurements, by the names under which the notebook asks for them."""
    return measurements(setting, ("trained", "all"), ("untrained", "all"))
