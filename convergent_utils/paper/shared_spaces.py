"""What 11_shared_spaces reads: embeddings that are compared, exchanged, and brought into one space."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import torch

from ..making.things import Thing
from ..nets.datasets import Dataset
from ..nets.declared import Declared, Images
from .agreement import agreement
from .architectures import SIZES as DEEP_SIZES
from .architectures import blocks, networks_of
from .consensus import federations
from .embeddings import Alike, Embedded
from .exchange import Exchanged, OneSpace
from .families import LABELS, Member, families, width_name
from .families import SIZES as FAMILY_SIZES
from .joining import Scores
from .maps import around
from .maps import things as of_maps
from .networks import Setting

NOTEBOOK = "11_shared_spaces"
_COMPARED, _SEARCHED = 1000, 5000  # images, about
_SEED = 5000  # of networks that are trained for this notebook, and more for each


@dataclass(frozen=True)
class Sizes:
    """How much is run.

    Attributes:
        per_family: networks of each family whose embeddings are compared.
        shuffles: how often the images of two networks are shuffled against each other.
        anchors: images on which maps are fitted.
        gallery: images of each class that are searched.
        blind: networks that are trained without half of the classes.
        federations: of five clients each.
    """

    per_family: int = 4
    shuffles: int = 19
    anchors: tuple[int, ...] = (16, 64, 256, 1024)
    gallery: int = 200
    blind: int = 4
    federations: int = 4


SIZES = {
    "smoke": Sizes(per_family=3, anchors=(16, 64, 160), gallery=25, blind=3, federations=3),
    "paper": Sizes(),
    "full": Sizes(per_family=8, blind=8, federations=8),
}


@dataclass(frozen=True)
class OfClasses:
    """The images of some classes among others."""

    images: Images
    classes: tuple[int, ...]

    def load(self) -> Dataset:
        """The images."""
        data = self.images.load()
        index = torch.isin(data.labels, torch.tensor(self.classes))
        return replace(data, images=data.images[index], labels=data.labels[index])

    def __len__(self) -> int:
        return len(self.images) * len(self.classes) // self.images.classes


def things(setting: Setting) -> dict[tuple, Thing]:
    """What the notebook reads, by the names under which it asks.

    ("ability",), the accuracy of networks of `kinds_of` by name, and ("alike",), see `Alike`, of the same networks in
    the same order; ("exchanged", which), see `Exchanged`, of "trained" and "untrained" networks, "across" kinds,
    of networks that are "blind" for half of the classes, "blind, untrained", "seen", like the blind ones but of all
    classes, and "met", with anchors of the classes that are searched; ("one space",), see `OneSpace`; ("federation",
    "alike" or "skewed", k), see `Federation`; ("agreement",), see `Agreement`; and ("joined", net a, net b) of 08_maps.
    """
    sizes, of_kinds = SIZES[setting.profile], [one for of in kinds_of(setting).values() for one in of]
    compared = Embedded(tuple(of_kinds), _some(setting, _COMPARED))
    found: dict[tuple, Thing] = {
        ("ability",): Scores(tuple((name, declared) for name, declared, _ in of_kinds), setting.test),
        ("alike",): Alike(compared, sizes.shuffles, setting.seed),
    }
    exchanged = _exchanges(setting, sizes)
    found |= {("exchanged", which): one for which, one in exchanged.items()}
    found["one space",] = OneSpace(exchanged["trained"])
    found |= {name: thing for name, thing in of_maps(setting).items() if name[0] == "joined"}
    return found | federations(setting, sizes.federations) | {("agreement",): agreement(setting)}


def _some(setting: Setting, count: int) -> Images:
    """Test images, evenly, about so many."""
    return replace(setting.test, every=max(1, len(setting.test) // count))


def _exchanges(setting: Setting, sizes: Sizes) -> dict[str, Exchanged]:
    """What is exchanged: see `things`."""
    images, top, nets = _some(setting, _SEARCHED), setting.layers[-2], tuple(setting.networks)
    half = -(-setting.classes // 2)
    one, other = tuple(range(half)), tuple(range(half, setting.classes))
    anchors, most, splits = sizes.anchors, sizes.anchors[-1:], ((one, other), (other, one))
    pairs, ring = unlike(setting), tuple(around(nets))
    known = {one[0]: one for of in kinds_of(setting).values() for one in of}
    asked = dict.fromkeys((*nets, *(name for pair in pairs for name in pair)))
    trained = Embedded(tuple(known[name] for name in asked), images)
    untrained = Embedded(tuple((net, setting.at(net, 0.0), top) for net in nets), images)
    blind = _blind(setting, one, sizes.blind)
    states: dict[str, list[tuple[str, Declared, str]]] = {"blind": [(member.name, member, top) for member in blind]}
    states["blind, untrained"] = [(member.name, member.start, top) for member in blind]
    states["seen"] = kinds_of(setting)[width_name(1)][: len(blind)]
    return {
        "trained": Exchanged(trained, ring, splits, anchors, sizes.gallery),
        "untrained": Exchanged(untrained, ring, splits, anchors, sizes.gallery),
        "met": Exchanged(trained, ring, ((one, one), (other, other)), most, sizes.gallery),
        "across": Exchanged(trained, pairs, splits, most, sizes.gallery),
        **{
            state: Exchanged(
                Embedded(tuple(of), images), tuple(around(tuple(one[0] for one in of))), splits[:1], most, sizes.gallery
            )
            for state, of in states.items()
        },
    }


def kinds_of(setting: Setting) -> dict[str, list[tuple[str, Declared, str]]]:
    """Networks with the layer that is read, by family: alike in all but their seeds."""
    sizes, top = SIZES[setting.profile], setting.layers[-2]
    found: dict[str, list[tuple[str, Declared, str]]] = {
        "eight networks": [(net, one, top) for net, one in setting.networks.items()]
    }
    made, asked = families(setting, FAMILY_SIZES[setting.profile]), FAMILY_SIZES[setting.profile].widths
    for family in (*map(width_name, asked), *LABELS):
        found[family] = [(one.name, one, top) for one in made[family][: sizes.per_family]]
    for (kind, depth), networks in networks_of(setting).items():
        of = list(networks.values())[: sizes.per_family]
        found[f"{kind} {depth}"] = [(one.name, one, blocks(depth)[-1]) for one in of]
    return found


def unlike(setting: Setting) -> tuple[tuple[str, str], ...]:
    """Pairs of networks of unlike architecture, both ways: the first of each kind, then the second, and so on."""
    found, depth = kinds_of(setting), DEEP_SIZES[setting.profile].compared
    chosen = [found[name] for name in ("eight networks", width_name(1), f"plain {depth}", f"residual {depth}")]
    return tuple(
        (one[0], other[0]) for of in zip(*chosen, strict=False) for one, other in product(of, of) if one != other
    )


def _blind(setting: Setting, classes: tuple[int, ...], count: int) -> list[Member]:
    """Narrow networks that never saw the other classes."""
    sizes, found = FAMILY_SIZES[setting.profile], []
    images = OfClasses(replace(setting.train, part=sizes.images), classes)
    for k in range(1, count + 1):
        seed = setting.seed + _SEED + k
        start = setting.start(seed, structure="alexnet-narrow", scaled=True)
        found.append(Member(start, images, setting.test, sizes.recipe, seed, f"half of the classes {k}"))
    return found
