"""Families of networks that differ in one thing: their labels, width, learning rate, or what was cut off them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.checks import require_known
from ..making.code import apart
from ..making.things import Get, Report, Thing
from ..nets.datasets import Dataset
from ..nets.declared import CURVE, Declared, channels_last, training_seconds
from ..nets.networks import Network, weighted, with_units
from ..nets.predicting import accuracy
from ..nets.training import Recipe, train
from .networks import Setting, SomeImages, as_network

LABELS = ("true labels", "shared permutation", "own permutation")
FOLLOWED = "constant rate"
LONGER, PRUNED, RANDOM = "narrow, longer", "pruned", "pruned at random"
SLOW, SLOW_RATE = "slow rate", 2.5e-4
LEARNED = 0.99  # share of the training images that a network must know to count as one that has learned them
_PATIENCE = (1, 2, 4)  # times the recipe's epochs until it does
CUT = 2.0  # width of the networks that are pruned to 1


@dataclass(frozen=True)
class Sizes:
    """How large the families are.

    Attributes:
        per_label, label_images: networks of each kind of labels, and images that they learn by heart.
        label_recipe: of those, whatever their labels.
        widths, per_width: factors on "alexnet-narrow", and networks of each.
        per_rate: networks of the slow learning rate; they are compared with as many of width 1.
        per_cut: networks that are pruned, pruned at random, or narrow and trained as long.
        images, recipe: of all but those of the labels.
        followed, followed_epochs: networks whose weights are kept on their way, at a constant rate, and their epochs.
        followed_times: how often weights are kept, evenly; the number of epochs is a multiple of it.
        shuffles: how often the layers of two networks are shuffled against each other to calibrate a similarity.
    """

    per_label: int = 4
    label_images: int = 2000
    label_recipe: Recipe = field(default_factory=lambda: Recipe(epochs=40, weight_decay=0.0))
    widths: tuple[float, ...] = (0.25, 0.5, 1, 2)
    per_width: int = 8
    per_rate: int = 8
    per_cut: int = 4
    images: int = 10_000
    recipe: Recipe = field(default_factory=lambda: Recipe(epochs=3))
    followed: int = 4
    followed_epochs: int = 20
    followed_times: int = 10
    shuffles: int = 19


SIZES = {
    "smoke": Sizes(
        per_label=3,
        label_images=144,
        label_recipe=Recipe(epochs=16, batch=16, weight_decay=0.0),
        widths=(0.25, 0.5, 1),
        per_width=3,
        per_rate=3,
        per_cut=3,
        images=512,
        recipe=Recipe(epochs=1),
        followed=3,
        followed_epochs=3,
        followed_times=3,
        shuffles=19,
    ),
    "paper": Sizes(),
    "full": Sizes(
        per_label=5,
        widths=(0.25, 0.5, 1, 2, 3, 5, 7),
        per_rate=20,
        per_width=20,
        per_cut=8,
        images=20_000,
        recipe=Recipe(epochs=6),
        followed=8,
        followed_epochs=40,
    ),
}


def width_name(width: float) -> str:
    """The name of the family of networks of this width; other widths have other names."""
    return f"width {_percent(width)}"


def _percent(share: float) -> str:
    """All digits of the share, so that no two are alike: 12% and 12.5%."""
    return f"{Decimal(str(float(share))).scaleb(2).normalize():f}%"


# Of each family, what is added to the base seed and the number of a member: a new one gets a new number.
_SEEDS = {
    **{width_name(width): 100 * k for k, width in enumerate((3, 2, 1, 0.5, 0.25), start=1)},
    **{LABELS[0]: 700, LABELS[1]: 800, LABELS[2]: 900, LONGER: 1000, SLOW: 1100},
    **{PRUNED: 1400, RANDOM: 1500, FOLLOWED: 1600, width_name(5): 1700, width_name(7): 1800},
}


@dataclass(frozen=True)
class Member(Thing):
    """A network of a family, and how good it is.

    A dict of "network"; "accuracy", the share of test images classified rightly; "epochs".

    Attributes:
        start: the network before its first step.
        images, test, recipe, order: as in `Learned`.
        name: of the family, and the number.
    """

    title = "training families"

    start: Declared
    images: SomeImages
    test: SomeImages
    recipe: Recipe
    order: int
    name: str = field(default="", compare=False)

    @property
    @apart
    def seconds(self) -> float:
        """Of training, about."""
        return training_seconds(self.images, self.recipe)

    def make(self, get: Get, report: Report) -> dict[str, Any]:
        """Train it."""
        data = self.images.load()
        trained = train(self.start.network(get), data, self.recipe, seed=self.order)
        return _judged(trained.network, self.test.load(), self.recipe)

    def network(self, get: Get) -> Network:
        """The network in the end."""
        return channels_last(get(self)["network"])


@dataclass(frozen=True)
class ByHeart(Member):
    """A network that is trained until it knows its labels: for once, twice or four times the recipe's epochs.

    In its dict is beside the others "fitted", the share of its training images of which it knows the label.
    """

    def make(self, get: Get, report: Report) -> dict[str, Any]:
        """Train it, anew each time."""
        data, test = self.images.load(), self.test.load()
        for times in _PATIENCE:
            longer = replace(self.recipe, epochs=times * self.recipe.epochs)
            network = train(self.start.network(get), data, longer, seed=self.order).network
            fitted = accuracy(network, data)
            if fitted >= LEARNED:
                break
        return {**_judged(network, test, longer), "fitted": fitted}


@dataclass(frozen=True)
class Followed(Member):
    """A network that is kept on its way, at a rate that does not change.

    In its dict are beside the others "on the way", its weights by the number of the time, from 0 before the first step
    on, and "curve" (times + 1,), the share of test images classified rightly then (of `CURVE` images before the end).

    Attributes:
        times: how often its weights are kept, evenly.
    """

    times: int = 10

    def make(self, get: Get, report: Report) -> dict[str, Any]:
        """Train it."""
        data, test, shares = self.images.load(), self.test.load(), [k / self.times for k in range(self.times + 1)]
        trained = train(
            self.start.network(get), data, self.recipe, seed=self.order, test=test, curve=CURVE,
            rate=lambda share: 1.0, keep=shares, report=report,
        )  # fmt: skip
        kept = {k: trained.checkpoints[share] for k, share in enumerate(shares)}
        curve = trained.history.test_accuracy[:: int(self.recipe.epochs) // self.times]
        return {**_judged(trained.network, test, self.recipe), "on the way": kept, "curve": curve}


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
        wide = as_network(self.wide.network(get))
        return with_units(wide, kept_units(wide, self.by_chance), width=1.0)


def members(sizes: Sizes) -> dict[str, int]:
    """How many networks each family has."""
    found = {width_name(width): sizes.per_width for width in sorted({*sizes.widths, 1.0, CUT}, reverse=True)}
    found |= {**dict.fromkeys(LABELS, sizes.per_label), SLOW: sizes.per_rate, FOLLOWED: sizes.followed}
    return {**found, **dict.fromkeys((LONGER, PRUNED, RANDOM), sizes.per_cut)}


def families(setting: Setting, sizes: Sizes) -> dict[str, list[Member]]:
    """All networks of each family; those of the others differ from those of width 1 in what their name says.

    Convolutions start at the scale that keeps the size of signals whatever the width: from the smaller start of the
    networks of the other notebooks shuffled labels are never learned.
    """
    numbers = {family: range(1, count + 1) for family, count in members(sizes).items()}
    wide = [_member(setting, sizes, width_name(CUT), k) for k in numbers[width_name(CUT)]]
    return {family: [_member(setting, sizes, family, k, wide) for k in of] for family, of in numbers.items()}


def _member(setting: Setting, sizes: Sizes, family: str, k: int, wide: Sequence[Member] = ()) -> Member:
    """One network of a family."""
    require_known(family, _SEEDS, "family")
    seed = setting.seed + _SEEDS[family] + k
    width = {width_name(width): width for width in (*sizes.widths, CUT)}.get(family, 1.0)
    start: Declared = setting.start(seed, structure="alexnet-narrow", width=float(width), scaled=True)
    options: dict[str, Any] = {"test": setting.test, "order": seed, "name": f"{family} {k}"}
    if family in LABELS:
        shuffle = {LABELS[0]: None, LABELS[1]: setting.seed + _SEEDS[family], LABELS[2]: seed}[family]
        images = replace(setting.train, part=sizes.label_images, permuted=shuffle)
        return ByHeart(start, images, recipe=sizes.label_recipe, **options)
    images, recipe = replace(setting.train, part=sizes.images), sizes.recipe
    if family == FOLLOWED:
        recipe = replace(recipe, epochs=sizes.followed_epochs)
        return Followed(start, images, recipe=recipe, times=sizes.followed_times, **options)
    if family == SLOW:
        recipe = replace(recipe, rate=SLOW_RATE)
    if family == LONGER:
        recipe = replace(recipe, epochs=recipe.epochs + 1)
    if family in (PRUNED, RANDOM):
        start, recipe = Cut(wide[k - 1], seed if family == RANDOM else None), replace(recipe, epochs=1)
    return Member(start, images, recipe=recipe, **options)


def _judged(network: nn.Module, test_set: Dataset, recipe: Recipe) -> dict[str, Any]:
    return {"network": network, "accuracy": accuracy(network, test_set), "epochs": recipe.epochs}


def kept_units(wide: Network, seed: int | None) -> dict[str, Tensor]:
    """Half of the units of each hidden layer: those of the largest incoming weights, or random ones."""
    generator, kept = torch.Generator().manual_seed(seed or 0), {}
    for layer in wide.layers[:-1]:
        weight = weighted(wide, layer).weight.detach().flatten(1)
        order = weight.norm(dim=1).argsort(descending=True)
        if seed is not None:
            order = torch.randperm(len(weight), generator=generator)
        kept[layer] = order[: round(len(weight) / CUT)].sort().values
    return kept
