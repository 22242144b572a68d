"""What 02_one_to_one_matching reads."""

from ..making.things import Thing
from .networks import Setting, measurements

NOTEBOOK = "02_one_to_one_matching"
ASKED = (
    *(("trained", "all"), ("untrained", "all"), ("same start", "all")),
    *(("trained", "centre"), ("trained", "mean")),
)


def things(setting: Setting) -> dict[tuple, Thing]:
    """Measurements, by the names under which the notebook asks for them."""
    return measurements(setting, *ASKED)
