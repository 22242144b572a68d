"""What each number of a comparison says, in plain sentences: for pages, figures and tables."""

from __future__ import annotations

from typing import NamedTuple


class Meaning(NamedTuple):
    """What a similarity says.

    Attributes:
        axis: the quantity and its unit, as an axis names it.
        says: a plain sentence.
    """

    axis: str
    says: str


MEANINGS = {
    "semi-matching": Meaning(
        "correlation r", "each unit takes its most correlated partner; a partner may be taken twice; mean correlation"
    ),
    "bipartite matching": Meaning(
        "correlation r", "each unit gets one partner of its own, so that the sum of correlations is largest; their mean"
    ),
    "soft matching": Meaning(
        "correlation r", "as bipartite matching, but a unit may be shared out among several partners; mean correlation"
    ),
    "best rotation": Meaning(
        "correlation r",
        "units of one network against what the other gives after the best rotation of all its units; the rotation is "
        "found on one part of the inputs, the correlation on the others",
    ),
    "linear map": Meaning(
        "R², other inputs",
        "the share of variance that a linear map from one network explains in the other; the map is fitted on one part "
        "of the inputs, the share is of the others, and below 0 where the map does worse than the mean",
    ),
    "five units": Meaning(
        "R², other inputs", "as the linear map, but each unit is predicted from at most five units of the other network"
    ),
    "CCA": Meaning("correlation ρ", "canonical correlation analysis: mean correlation of the best paired directions"),
    "SVCCA": Meaning(
        "correlation ρ", "as CCA, between the directions that hold most of the variance, so that noise counts little"
    ),
    "PWCCA": Meaning(
        "correlation ρ", "as CCA, where a direction counts by how much of the first network's activations it carries"
    ),
    "linear CKA": Meaning(
        "CKA",
        "centred kernel alignment: do two networks find the same inputs alike? 1 for the same space "
        "up to a rotation and one scale",
    ),
    "debiased CKA": Meaning("CKA", "as linear CKA, less what few inputs add by chance; near 0 where nothing is shared"),
    "flattened CKA": Meaning("CKA", "as debiased CKA, of whole maps, each input one long row"),
    "Procrustes": Meaning("similarity", "how well one space lies on the other after the best rotation, scales kept"),
    "mutual information": Meaning("nats", "what a unit tells about its matched partner, be it linear or not; in nats"),
    "mutual k-NN": Meaning(
        "share of neighbours", "of the ten nearest inputs of each input in one network, how many are so in the other"
    ),
}

ROLES = {
    "found": "the number of these two networks; a thin line joins its values on two parts of the inputs",
    "rotated": (
        "one network is turned by a random rotation: the same space in a basis of no meaning. The mean of all turns; "
        "the shade reaches from the smallest to the largest. What lies above is owed to units, the rest to the space"
    ),
    "layout": (
        "each input meets other inputs at the same place, so that only what all inputs share is left, such as a border"
    ),
    "untrained": "the same networks with weights drawn anew: what architecture and inputs alone give",
    "finite sample": (
        "rows of one network are shuffled, so that nothing belongs together: what chance gives with so many inputs, "
        "each row counted by itself. The shade holds 95 % of all shuffles"
    ),
    "calibrated": (
        "how far the number lies above what chance reaches, on a scale from 0 to 1; it is made of the sampled rows, "
        "and what is found of all, so it can be a little above it"
    ),
}

SAME_UNITS = 0.9
MARGIN = 0.05  # one draw of untrained networks differs from another by about as much
SAME_SPACE = 0.9

RULES = {
    "Do they span the same space?": (
        "“Beyond chance” means: debiased CKA is above that of every shuffle. “The same space up to a linear map” "
        f"means: beyond chance, and a linear map explains at least {SAME_SPACE} of the variance on other inputs (R²). "
        "“Part of a space” means: beyond chance, and R² is above 0. “More than untrained” means: both are above those "
        f"of untrained networks by {MARGIN} or more."
    ),
    "Are their units the same?": (
        "“Beyond a random basis” means: the correlation of matched units (bipartite matching) is above that of every "
        f"random turn. “The same units” means: beyond a random basis, and at least {SAME_UNITS}. “More than untrained” "
        f"means: above that of untrained networks by {MARGIN} or more."
    ),
    "Do they find the same neighbours?": (
        "“More often than by chance” means: mutual k-NN is above that of every shuffle. “More than untrained” means: "
        f"above that of untrained networks by {MARGIN} or more."
    ),
    "At which depth are they most and least alike?": (
        "The pairs of layers with the largest and the smallest number; baselines are not taken off."
    ),
}


def anchor(word: str) -> str:
    """The name of the place on a page where a similarity or baseline is explained."""
    return "is-" + word.replace(" ", "-").lower()


def pair_name(pair: tuple[str, str]) -> str:
    """A pair of layers in one name."""
    return pair[0] if pair[0] == pair[1] else f"{pair[0]} – {pair[1]}"
