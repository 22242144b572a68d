"""Families of networks that differ in one thing: their labels, width, learning rate, or what was cut off them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..nets.datasets import Dataset
from ..nets.networks import Network, build_network, weighted, with_units
from ..nets.training import Recipe, accuracy, train

if TYPE_CHECKING:
    from .prepare import Prepared

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


def width_name(width: float) -> str:
    """The name of the family of networks of this width; other widths have other names."""
    return f"width {_percent(width)}"


def rate_name(rate: float) -> str:
    """The name of the family of networks of this learning rate, as a share of the middle one."""
    return f"rate {_percent(rate / RATES[1])}"


def _percent(share: float) -> str:
    """All digits of the share, so that no two are alike: 12% and 12.5%."""
    return f"{Decimal(str(float(share))).scaleb(2).normalize():f}%"


def _share(percent: str) -> float:
    """The share that `_percent` wrote."""
    return float(Decimal(percent.rstrip("%")).scaleb(-2))


def members(sizes: Sizes) -> dict[str, int]:
    """How many networks each family has; their order decides their seeds."""
    found = {width_name(width): sizes.per_width for width in sorted({*sizes.widths, 1.0, _CUT}, reverse=True)}
    found |= {FOLLOWED[0]: sizes.followed, **dict.fromkeys(LABELS, sizes.per_label), LONGER: sizes.per_width}
    found |= {rate_name(rate): sizes.per_rate for rate in RATES}
    return {**found, PRUNED: sizes.per_width, RANDOM: sizes.per_width, FOLLOWED[1]: sizes.followed}


def start(paper: Prepared, family: str, member: int) -> Network:
    """A network before its first step; no two networks of any families have the same seed.

    Convolutions start at the scale that keeps the size of signals (He et al. 2015) whatever the width. From the smaller
    start of the networks of the other notebooks shuffled labels are never learned.
    """
    width = _share(family.removeprefix("width ")) if family.startswith("width") else 1.0
    structure = {"channels": paper.train_set.images.shape[3], "classes": len(paper.train_set.classes), "width": width}
    network = build_network("alexnet-narrow", **structure, seed=_seed(paper, family, member))
    with torch.no_grad():
        for layer in network.layers:
            if layer.startswith("conv"):
                weight = weighted(network, layer).weight
                weight *= math.sqrt(2 / weight[0].numel()) / weight.std()
    return network


def make(paper: Prepared, family: str, member: int) -> dict[str, object]:
    """Train one network.

    Args:
        paper: images, seed and sizes.
        family: one of `members`.
        member: 1, 2, ...

    Returns:
        "network"; "fitted" and "accuracy": share of training and of test images classified rightly (by the labels that
        it was trained on, and by the true ones); "epochs"; of followed networks "on the way", their weights by the
        number of the time, from 0 before the first step on, and "curve" (times + 1,), the share of test images then.
    """
    sizes, seed = paper.settings.families, _seed(paper, family, member)
    if family in LABELS:
        return _learned_by_heart(paper, family, member)
    data, recipe = paper.train_set.part(sizes.images), sizes.recipe
    if family in FOLLOWED:
        return _followed(paper, family, member, data)
    network = start(paper, family, member)
    if family.startswith("rate"):
        recipe = replace(recipe, rate=RATES[[rate_name(rate) for rate in RATES].index(family)])
    if family == LONGER:
        recipe = replace(recipe, epochs=recipe.epochs + 1)
    if family in (PRUNED, RANDOM):
        wide = paper.result("family", width_name(_CUT), member)["network"]
        network = with_units(wide, _kept_units(wide, seed if family == RANDOM else None), width=1.0)
        recipe = replace(recipe, epochs=1)
    trained = train(network, data, recipe, seed=seed)
    return {**_judged(trained.network, data, paper.test_set), "epochs": recipe.epochs}


def _followed(paper: Prepared, family: str, member: int, data: Dataset) -> dict[str, object]:
    sizes, seed, kept = paper.settings.families, _seed(paper, family, member), {}
    epochs, times = sizes.followed_epochs[FOLLOWED.index(family)], sizes.followed_times
    options = {"test": paper.test_set, "rate": (lambda share: 1.0) if family == FOLLOWED[1] else None}
    recipe = replace(sizes.recipe, epochs=epochs)
    keep = _keeping(kept, times)
    trained = train(start(paper, family, member), data, recipe, seed=seed, intervene=keep, **options)
    kept[times] = trained.network.state_dict()
    curve = trained.history.test_accuracy[:: epochs // times]
    judged = _judged(trained.network, data, paper.test_set)
    return {**judged, "epochs": epochs, "on the way": kept, "curve": curve}


def _learned_by_heart(paper: Prepared, family: str, member: int) -> dict[str, object]:
    sizes, seed = paper.settings.families, _seed(paper, family, member)
    data, recipe = labelled(paper, family, member), sizes.label_recipe
    for times in _PATIENCE:
        longer = replace(recipe, epochs=times * recipe.epochs)
        judged = _judged(train(start(paper, family, member), data, longer, seed=seed).network, data, paper.test_set)
        if judged["fitted"] >= LEARNED:
            break
    return {**judged, "epochs": longer.epochs}


def labelled(paper: Prepared, family: str, member: int) -> Dataset:
    """The images that the networks of `LABELS` learn, with the labels that this one learns.

    A permutation keeps how often each label occurs, and takes away all that it says about the image.
    """
    data = paper.train_set.part(paper.settings.families.label_images)
    if family == LABELS[0]:
        return data
    seed = _seed(paper, family, 0 if family == LABELS[1] else member)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return replace(data, labels=data.labels[order])


def _seed(paper: Prepared, family: str, member: int) -> int:
    return paper.seed + 100 * (1 + list(members(paper.settings.families)).index(family)) + member


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


def _kept_units(wide: Network, seed: int | None) -> dict[str, Tensor]:
    """Half of the units of each hidden layer: those of the largest incoming weights, or random ones."""
    generator, kept = torch.Generator().manual_seed(seed or 0), {}
    for layer in wide.layers[:-1]:
        weight = weighted(wide, layer).weight.detach().flatten(1)
        order = weight.norm(dim=1).argsort(descending=True)
        if seed is not None:
            order = torch.randperm(len(weight), generator=generator)
        kept[layer] = order[: round(len(weight) / _CUT)].sort().values
    return kept
