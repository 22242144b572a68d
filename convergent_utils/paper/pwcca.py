"""What 07_pwcca reads: families of networks that differ in one thing.

Their labels, width, learning rate, or what was cut off them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import combinations

import torch
from torch import Tensor, nn

from ..kernels.checks import require_known
from ..making.code import apart
from ..making.things import Get, Report, Thing
from ..nets.datasets import Dataset
from ..nets.declared import CURVE, Declared, Images, Measured, training_seconds
from ..nets.networks import Network, build_network, weighted, with_units
from ..nets.predicting import accuracy
from ..nets.training import Recipe, train
from .networks import Setting

NOTEBOOK = "07_pwcca"
LABELS = ("true labels", "shared permutation", "own permutation")
FOLLOWED = ("falling rate", "constant rate")
LONGER, PRUNED, RANDOM = "narrow, longer", "pruned", "pruned at random"
RATES = (2.5e-4, 1e-3, 4e-3)
LEARNED = 0.99  # share of the training images that a network must know to count as one that has learned them
_PATIENCE = (1, 2, 4)  # times the recipe's epochs until it does
_CUT = 2.0  # width of the networks that are pruned to 1


@dataclass(frozen=True)
class Sizes:
    """How large the families are.

    Attributes:
        per_label, label_images: networks of each kind of labels, and images that they learn by heart.
        label_recipe: of those, whatever their labels.
        widths, per_width: factors on "alexnet-narrow", and networks of each, also of the pruned ones.
        per_rate: networks of each learning rate.
        images, recipe: of all other networks.
        followed, followed_epochs: networks whose weights are kept on their way, and their epochs: of those trained as
            all others, at a rate that falls to zero, and of those trained at a constant one.
        followed_times: how often weights are kept, evenly; the numbers of epochs are multiples of it.
    """

    per_label: int = 4
    label_images: int = 2000
    label_recipe: Recipe = field(default_factory=lambda: Recipe(epochs=40, weight_decay=0.0))
    widths: tuple[float, ...] = (0.25, 0.5, 1, 2, 3)
    per_width: int = 3
    per_rate: int = 4
    images: int = 10_000
    recipe: Recipe = field(default_factory=lambda: Recipe(epochs=3))
    followed: int = 3
    followed_epochs: tuple[int, int] = (10, 20)
    followed_times: int = 10


SIZES = {
    "smoke": Sizes(
        per_label=3,
        label_images=144,
        label_recipe=Recipe(epochs=16, batch=16, weight_decay=0.0),
        widths=(0.25, 0.5, 1),
        per_rate=3,
        images=512,
        recipe=Recipe(epochs=1),
        followed_epochs=(3, 3),
        followed_times=3,
    ),
    "paper": Sizes(),
    "full": Sizes(
        per_label=5,
        widths=(0.25, 0.5, 1, 2, 3, 5, 7),
        per_width=5,
        per_rate=20,
        images=20_000,
        recipe=Recipe(epochs=6),
        followed=5,
        followed_epochs=(20, 40),
    ),
}


def width_name(width: float) -> str:
    """The name of the family of networks of this width; other widths have other names."""
    return f"width {_percent(width)}"


def rate_name(rate: float) -> str:
    """The name of the family of networks of this learning rate, as a share of the middle one."""
    return f"rate {_percent(rate / RATES[1])}"


def _percent(share: float) -> str:
    """All digits of the share, so that no two are alike: 12% and 12.5%."""
    return f"{Decimal(str(float(share))).scaleb(2).normalize():f}%"


# Of each family, what is added to the base seed and the number of a member: a new one gets a new number.
_SEEDS = {
    **{width_name(width): 100 * k for k, width in enumerate((3, 2, 1, 0.5, 0.25), start=1)},
    **{FOLLOWED[0]: 600, LABELS[0]: 700, LABELS[1]: 800, LABELS[2]: 900, LONGER: 1000},
    **{rate_name(rate): 100 * k for k, rate in enumerate(RATES, start=11)},
    **{PRUNED: 1400, RANDOM: 1500, FOLLOWED[1]: 1600, width_name(5): 1700, width_name(7): 1800},
}


@dataclass(frozen=True)
class Member(Thing):
    """A network of a family, and how good it is.

    A dict of "network"; "fitted" and "accuracy", the shares of training and of test images classified rightly (by the
    labels that it was trained on, and by the true ones); "epochs".

    Attributes:
        start: the network before its first step.
        images, test, recipe, order: as in `Learned`.
        name: of the family, and the number.
    """

    title = "training families"

    start: Declared
    images: Images
    test: Images
    recipe: Recipe
    order: int
    name: str = field(default="", compare=False)

    @property
    @apart
    def seconds(self) -> float:
        """Of training, about."""
        return training_seconds(self.images, self.recipe)

    def make(self, get: Get, report: Report) -> dict[str, object]:
        """Train it."""
        data = self.images.load()
        trained = train(self.start.network(get), data, self.recipe, seed=self.order)
        return {**_judged(trained.network, data, self.test.load()), "epochs": self.recipe.epochs}

    def network(self, get: Get) -> nn.Module:
        """The network in the end."""
        return get(self)["network"]


@dataclass(frozen=True)
class ByHeart(Member):
    """A network that is trained until it knows its labels: for once, twice or four times the recipe's epochs."""

    def make(self, get: Get, report: Report) -> dict[str, object]:
        """Train it, anew each time."""
        data, test = self.images.load(), self.test.load()
        for times in _PATIENCE:
            longer = replace(self.recipe, epochs=times * self.recipe.epochs)
            judged = _judged(train(self.start.network(get), data, longer, seed=self.order).network, data, test)
            if judged["fitted"] >= LEARNED:
                break
        return {**judged, "epochs": longer.epochs}


@dataclass(frozen=True)
class Followed(Member):
    """A network that is kept on its way.

    In its dict are beside the others "on the way", its weights by the number of the time, from 0 before the first step
    on, and "curve" (times + 1,), the share of test images classified rightly then (of `CURVE` images before the end).

    Attributes:
        times: how often its weights are kept, evenly.
        constant: its rate does not change; else it rises and falls as that of all others.
    """

    times: int = 10
    constant: bool = False

    def make(self, get: Get, report: Report) -> dict[str, object]:
        """Train it."""
        data, test, kept = self.images.load(), self.test.load(), {}
        options = {"test": test, "curve": CURVE, "rate": (lambda share: 1.0) if self.constant else None}
        keep = _keeping(kept, self.times)
        trained = train(self.start.network(get), data, self.recipe, seed=self.order, intervene=keep, **options)
        kept[self.times] = trained.network.state_dict()
        curve = trained.history.test_accuracy[:: int(self.recipe.epochs) // self.times]
        judged = _judged(trained.network, data, test)
        return {**judged, "epochs": self.recipe.epochs, "on the way": kept, "curve": curve}


@dataclass(frozen=True)
class AtTime:
    """A followed network as it was on its way."""

    followed: Followed
    time: int

    def network(self, get: Get) -> Network:
        """The network."""
        found = get(self.followed)
        network = build_network(**found["network"].configuration)
        network.load_state_dict(found["on the way"][self.time])
        return network


@dataclass(frozen=True)
class Cut:
    """Half of the units of each hidden layer of a wide network, with the weights that they had there.

    Attributes:
        wide: the network that they are taken from.
        by_chance: seed of random ones; None: those of the largest incoming weights.
    """

    wide: Declared
    by_chance: int | None

    def network(self, get: Get) -> Network:
        """The network, not trained any further."""
        wide = self.wide.network(get)
        return with_units(wide, kept_units(wide, self.by_chance), width=1.0)


def members(sizes: Sizes) -> dict[str, int]:
    """How many networks each family has."""
    found = {width_name(width): sizes.per_width for width in sorted({*sizes.widths, 1.0, _CUT}, reverse=True)}
    found |= {FOLLOWED[0]: sizes.followed, **dict.fromkeys(LABELS, sizes.per_label), LONGER: sizes.per_width}
    found |= {rate_name(rate): sizes.per_rate for rate in RATES}
    return {**found, PRUNED: sizes.per_width, RANDOM: sizes.per_width, FOLLOWED[1]: sizes.followed}


def families(setting: Setting, sizes: Sizes) -> dict[str, list[Member]]:
    """All networks of each family; those of the others differ from those of width 1 in what their name says.

    Convolutions start at the scale that keeps the size of signals whatever the width: from the smaller start of the
    networks of the other notebooks shuffled labels are never learned.
    """
    numbers = {family: range(1, count + 1) for family, count in members(sizes).items()}
    wide = [_member(setting, sizes, width_name(_CUT), k) for k in numbers[width_name(_CUT)]]
    return {family: [_member(setting, sizes, family, k, wide) for k in of] for family, of in numbers.items()}


def _member(setting: Setting, sizes: Sizes, family: str, k: int, wide: list[Member] | None = None) -> Member:
    """One network of a family."""
    require_known(family, _SEEDS, "family")
    seed = setting.seed + _SEEDS[family] + k
    width = {width_name(width): width for width in (*sizes.widths, _CUT)}.get(family, 1.0)
    start: Declared = setting.start(seed, structure="alexnet-narrow", width=float(width), scaled=True)
    options = {"test": setting.test, "order": seed, "name": f"{family} {k}"}
    if family in LABELS:
        shuffle = {LABELS[0]: None, LABELS[1]: setting.seed + _SEEDS[family], LABELS[2]: seed}[family]
        images = replace(setting.train, part=sizes.label_images, permuted=shuffle)
        return ByHeart(start, images, recipe=sizes.label_recipe, **options)
    images, recipe = replace(setting.train, part=sizes.images), sizes.recipe
    if family in FOLLOWED:
        constant = family == FOLLOWED[1]
        recipe = replace(recipe, epochs=sizes.followed_epochs[constant])
        return Followed(start, images, recipe=recipe, times=sizes.followed_times, constant=constant, **options)
    if family.startswith("rate"):
        recipe = replace(recipe, rate=next(rate for rate in RATES if rate_name(rate) == family))
    if family == LONGER:
        recipe = replace(recipe, epochs=recipe.epochs + 1)
    if family in (PRUNED, RANDOM):
        start, recipe = Cut(wide[k - 1], seed if family == RANDOM else None), replace(recipe, epochs=1)
    return Member(start, images, recipe=recipe, **options)


def things(setting: Setting) -> dict[tuple, Thing]:
    """What the notebook reads, by the names under which it asks.

    ("family", family, number), and measurements ("measured", which, positions). "labels, training images" and "labels,
    test images" are those learned by heart and as many others, "labels, untrained" the latter; there, and with "rates"
    and "widths", on every second test image, all networks meet. With "widths, untrained" and "pruned", on the same
    images, those of one family do; with "falling rate" and "constant rate", on all test images, each network meets
    itself at all times. Networks are named "true labels 1", and on their way "constant rate 1@3", at the third time.
    """
    sizes = SIZES[setting.profile]
    made = families(setting, sizes)
    found: dict[tuple, Thing] = {("family", name, k): one for name, of in made.items() for k, one in enumerate(of, 1)}
    widths, rates = [width_name(width) for width in sizes.widths], [rate_name(rate) for rate in RATES]
    learned, new = (
        replace(images, part=min(sizes.label_images, setting.train.count)) for images in (setting.train, setting.test)
    )
    second = replace(setting.test, every=2)
    asked = {
        "labels, training images": (_in_the_end(made, LABELS), learned, {}),
        "labels, test images": (_in_the_end(made, LABELS), new, {}),
        "labels, untrained": (_at_first(made, LABELS), new, {}),
        "widths": (_in_the_end(made, widths), second, {}),
        "widths, untrained": (_at_first(made, widths), second, {"within": True}),
        "rates": (_in_the_end(made, rates), second, {}),
        "pruned": (_in_the_end(made, (width_name(1), LONGER, PRUNED, RANDOM)), second, {"within": True}),
    }
    for which, (networks, images, options) in asked.items():
        found["measured", which, "all"] = _measured(setting, which, networks, images, **options)
    for which in FOLLOWED:
        networks = {f"{one.name}@{k}": AtTime(one, k) for one in made[which] for k in range(one.times + 1)}
        options = {"positions": 4, "folds": 2, "within": True}
        found["measured", which, 4] = _measured(setting, which, networks, setting.test, **options)
    return found


def _in_the_end(made: Mapping[str, list[Member]], families: Iterable[str]) -> dict[str, Declared]:
    return {one.name: one for family in families for one in made[family]}


def _at_first(made: Mapping[str, list[Member]], families: Iterable[str]) -> dict[str, Declared]:
    return {one.name: one.start for family in families for one in made[family]}


def _measured(
    setting: Setting, which: str, networks: Mapping[str, Declared], images: Images, *,
    positions: str | int = "all", folds: int = 1, within: bool = False,
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
        sample=512,
        top=1,
        seed=setting.seed,
        name=which,
    )


def _judged(network: nn.Module, train_set: Dataset, test_set: Dataset) -> dict[str, object]:
    return {"network": network, "fitted": accuracy(network, train_set), "accuracy": accuracy(network, test_set)}


def _keeping(kept: dict[int, Mapping[str, Tensor]], times: int) -> Callable[[nn.Module, float], None]:
    """To be called before each step: keeps the weights at that many times, evenly spread."""

    def keep(network: nn.Module, share: float) -> None:
        """Keep the weights if it is time."""
        time = int(share * times + 1e-9)
        if time not in kept:
            kept[time] = {name: value.detach().clone() for name, value in network.state_dict().items()}

    return keep


def kept_units(wide: Network, seed: int | None) -> dict[str, Tensor]:
    """Half of the units of each hidden layer: those of the largest incoming weights, or random ones."""
    generator, kept = torch.Generator().manual_seed(seed or 0), {}
    for layer in wide.layers[:-1]:
        weight = weighted(wide, layer).weight.detach().flatten(1)
        order = weight.norm(dim=1).argsort(descending=True)
        if seed is not None:
            order = torch.randperm(len(weight), generator=generator)
        kept[layer] = order[: round(len(weight) / _CUT)].sort().values
    return kept
