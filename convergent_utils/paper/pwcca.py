"""What 07_pwcca reads: families of networks, and what is measured of them; see `families`, `settling`, `alike`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from ..making.things import Thing
from ..nets.declared import Declared, Images, Measured
from .alike import Calibrated, GivenLabel
from .families import FOLLOWED, LABELS, LONGER, PRUNED, RANDOM, SIZES, SLOW, Followed, Member, families, width_name
from .networks import Setting, SomeImages
from .settling import AtTime, Perturbed

NOTEBOOK = "07_pwcca"
_ROWS = 1024  # of the aligned sample, of which similarities are calibrated


def things(setting: Setting) -> dict[tuple, Thing]:
    """What the notebook reads, by the names under which it asks.

    ("family", family, number); ("given label", which), see `GivenLabel`; ("calibrated", which), see `Calibrated`; and
    measurements ("measured", which, positions). "labels, training images" and "labels, test images" are those learned
    by heart and as many others, "labels, untrained" the latter; there, and with "rates", on every second test image,
    all networks meet. With "widths", "widths, untrained" and "pruned", on the same images, those of one family do;
    with "constant rate", on all test images, each network meets itself at all times. Networks are named
    "true labels 1", and on their way "constant rate 1@3", at the third time; "constant rate 1@next, perturbed" and
    "constant rate 1@end, perturbed" see `Perturbed`.
    """
    sizes = SIZES[setting.profile]
    made, measured = families(setting, sizes), measured_families(setting)
    found: dict[tuple, Thing] = {("family", name, k): one for name, of in made.items() for k, one in enumerate(of, 1)}
    found |= {("measured", which, one.positions): one for which, one in measured.items()}
    for which in ("widths", "widths, untrained"):
        found["calibrated", which] = Calibrated(measured[which], setting.layers[:-1], sizes.shuffles)
    learned, _ = _to_learn(setting)
    given: dict[str, tuple[dict[str, Declared], SomeImages]] = {
        "true labels": (_in_the_end(made, LABELS), learned),
        "untrained": (_at_first(made, LABELS), learned),
        "shared permutation": (_in_the_end(made, LABELS[1:2]), made[LABELS[1]][0].images),
    }
    for which, (networks, images) in given.items():
        found["given label", which] = GivenLabel(tuple(networks.items()), images, setting.layers)
    return found


def measured_families(setting: Setting) -> dict[str, Measured]:
    """Measurements of families, see `things`, by what is measured."""
    sizes = SIZES[setting.profile]
    made = families(setting, sizes)
    widths = [width_name(width) for width in sizes.widths]
    rates = {name: made[name][: sizes.per_rate] for name in (SLOW, width_name(1))}
    cut = {name: made[name][: sizes.per_cut] for name in (width_name(1), LONGER, PRUNED, RANDOM)}
    followed = [one for one in made[FOLLOWED] if isinstance(one, Followed)]
    learned, new = _to_learn(setting)
    second = replace(setting.test, every=2)
    asked: dict[str, tuple[dict[str, Declared], Images, dict[str, Any]]] = {
        "labels, training images": (_in_the_end(made, LABELS), learned, {}),
        "labels, test images": (_in_the_end(made, LABELS), new, {}),
        "labels, untrained": (_at_first(made, LABELS), new, {}),
        "widths": (_in_the_end(made, widths), second, {"within": True, "sample": _ROWS, "folds": 2}),
        "widths, untrained": (_at_first(made, widths), second, {"within": True, "sample": _ROWS}),
        "rates": (_in_the_end(rates, rates), second, {"folds": 2}),
        "pruned": (_in_the_end(cut, cut), second, {"within": True}),
        FOLLOWED: (_on_their_way(followed), setting.test, {"within": True, "positions": 4, "folds": 2}),
    }
    return {
        which: _measured(setting, which, networks, images, **options)
        for which, (networks, images, options) in asked.items()
    }


def _to_learn(setting: Setting) -> tuple[Images, Images]:
    """The images that are learned by heart, and as many that are not."""
    sizes = SIZES[setting.profile]
    learned, new = (
        replace(images, part=min(sizes.label_images, setting.train.count)) for images in (setting.train, setting.test)
    )
    return learned, new


def _on_their_way(followed: Sequence[Followed]) -> dict[str, Declared]:
    found: dict[str, Declared] = {f"{one.name}@{k}": AtTime(one, k) for one in followed for k in range(one.times + 1)}
    for number, one in enumerate(followed):
        for at_end, time in ((False, "next"), (True, "end")):
            found[f"{one.name}@{time}, perturbed"] = Perturbed(tuple(followed), number, at_end, seed=one.order)
    return found


def _in_the_end(made: Mapping[str, list[Member]], families: Iterable[str]) -> dict[str, Declared]:
    return {one.name: one for family in families for one in made[family]}


def _at_first(made: Mapping[str, list[Member]], families: Iterable[str]) -> dict[str, Declared]:
    return {one.name: one.start for family in families for one in made[family]}


def _measured(
    setting: Setting, which: str, networks: Mapping[str, Declared], images: Images, *,
    positions: str | int = "all", folds: int = 1, within: bool = False, sample: int = 512,
) -> Measured:  # fmt: skip
    """The measurement of these networks, all of which meet, or only those of one family, or one network's times."""
    pairs, layers = None, setting.layers
    if within:
        kin = {name: name.partition("@")[0] if "@" in name else name.rpartition(" ")[0] for name in networks}
        meet = [(a, b) for a, b in combinations(networks, 2) if kin[a] == kin[b]]
        pairs = tuple((f"{a}.{layer}", f"{b}.{layer}") for a, b in meet for layer in layers)
    return Measured(
        tuple(networks.items()),
        images,
        layers,
        pairs,
        positions,
        folds,
        sample=sample,
        top=1,
        seed=setting.seed,
        name=which,
    )
