"""What is measured: which networks, on which images, and which of them meet."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING

from torch import nn

from ..kernels.checks import require_known
from ..nets.networks import build_network
from .families import FOLLOWED, LABELS, LONGER, PRUNED, RANDOM, RATES, rate_name, start, width_name

if TYPE_CHECKING:
    from .prepare import Prepared

_FOLDS = 4  # two to fit on and two to judge on; of the two to fit on, one may choose what the other fitted
# What each notebook reads, beside the networks: (which networks, positions).
MEASUREMENTS = {
    "00_networks": [("trained", "all")],
    "01_activation_statistics": [("trained", "all"), ("untrained", "all"), ("same start", "all")],
    "02_one_to_one_matching": [
        *(("trained", "all"), ("untrained", "all"), ("same start", "all")),
        *(("trained", "centre"), ("trained", "mean")),
    ],
    "03_mutual_information": [("trained", "all"), ("untrained", "all")],
    "04_sparse_mapping": [("trained", "all"), ("untrained", "all")],
    "05_spectral_clustering": [("trained", "all"), ("untrained", "all")],
    "06_svcca": [
        *(("trained", "all"), ("untrained", "all"), ("trained", "mean")),
        *(("training", "all"), ("training", "mean")),
    ],
    "07_pwcca": [
        *(("widths", "all"), ("rates", "all"), ("labels, training images", "all"), ("labels, test images", "all")),
        *(("pruned", "all"), ("labels, untrained", "all"), ("widths, untrained", "all")),
        *(("falling rate", 4), ("constant rate", 4)),
    ],
}
_OF_FOUR = {"trained": "networks", "untrained": "untrained", "same start": "same_start", "training": "training",
            "training images": "networks"}  # fmt: skip
_OF_FAMILIES = {
    "labels, training images": LABELS,
    "labels, test images": LABELS,
    "labels, untrained": LABELS,
    "rates": tuple(rate_name(rate) for rate in RATES),
    "pruned": (width_name(1), LONGER, PRUNED, RANDOM),
    **{family: (family,) for family in FOLLOWED},
    "widths": None,
    "widths, untrained": None,
}
_WITHIN = ("widths, untrained", "pruned", *FOLLOWED)  # where networks meet those of their family alone


def before_training(which: str) -> bool:
    """Whether a measurement needs no trained network."""
    return which.endswith("untrained")


def to_measure(paper: Prepared, which: str, positions: str | int) -> tuple[tuple, dict[str, object]]:
    """The arguments and options of `measure`.

    Args:
        paper: networks and images.
        which: see `Prepared.measured`.
        positions: as in `measure`.
    """
    require_known(which, [*_OF_FOUR, *_OF_FAMILIES], "which")
    options = {"pairs": None, "positions": positions, "folds": _FOLDS, "top": 9, "seed": paper.seed}
    if which in _OF_FAMILIES:
        return _families(paper, which, {**options, "top": 1, "sample": 512})
    networks, images = getattr(paper, _OF_FOUR[which]), paper.test_set.images
    if which == "training images":
        images = paper.train_set.images[::4]
    if which == "training":
        final = {name: name.partition("@")[0] for name in networks}
        meet = [(name, net) for name in networks for net in paper.networks if net == final[name] or "@0%" in name]
        pairs = [(f"{name}.{layer}", f"{net}.{layer}") for name, net in meet for layer in paper.layers]
        images, options = images[::2], {**options, "pairs": pairs, "folds": 1, "top": 1}
    return (networks, images, paper.layers), {**options, "sample": paper.settings.sample}


def _families(paper: Prepared, which: str, options: dict[str, object]) -> tuple[tuple, dict[str, object]]:
    """The networks of families, named "true labels 1", and on their way "constant rate 1@3", at the third time.

    "labels, training images" and "labels, test images" are those learned by heart and as many others, "labels,
    untrained" the latter; there, and with "rates" and "widths", on every second test image, all networks meet. With
    "widths, untrained" and "pruned", on the same images, those of one family do; with "falling rate" and "constant
    rate", on all test images, each network meets itself at all times.
    """
    families = _OF_FAMILIES[which] or [width_name(width) for width in paper.settings.families.widths]
    names = [(family, member) for family in families for member in paper.members(family)]
    made = start if before_training(which) else (lambda paper, *name: paper.family(*name)["network"])
    networks = {f"{family} {member}": made(paper, family, member) for family, member in names}
    images, options = paper.test_set.images, {**options, "folds": 1}
    if which.startswith("labels"):
        part = paper.train_set.part(paper.settings.families.label_images)
        images = part.images if which == "labels, training images" else paper.test_set.part(len(part)).images
    if which.startswith(("widths", "rates", "pruned")):
        images = images[::2]
    if which in FOLLOWED:
        networks, options = _at_all_times(paper, which, networks), {**options, "folds": 2}
    if which in _WITHIN:
        kin = {name: name.partition("@")[0] if "@" in name else name.rpartition(" ")[0] for name in networks}
        meet = [(a, b) for a, b in combinations(networks, 2) if kin[a] == kin[b]]
        options["pairs"] = [(f"{a}.{layer}", f"{b}.{layer}") for a, b in meet for layer in paper.layers]
    return (networks, images, paper.layers), options


def _at_all_times(paper: Prepared, family: str, networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Followed networks as they were on their way."""
    found = {}
    for name, network in networks.items():
        weights = paper.family(family, int(name.rpartition(" ")[2]))["on the way"]
        for time, at in sorted(weights.items()):
            found[f"{name}@{time}"] = build_network(**network.configuration)
            found[f"{name}@{time}"].load_state_dict(at)
    return found
