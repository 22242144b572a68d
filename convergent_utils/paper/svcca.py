"""What 06_svcca reads beside measurements.

How many directions does a layer need? Must whole maps be compared place by place? If layers settle from the bottom up,
need the lower ones be trained to the end?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..kernels.cca import cca, svcca
from ..kernels.chance import Interval
from ..kernels.checks import as_count, require_known
from ..kernels.dft_cca import dft_cca
from ..kernels.moments import PairMoments, pair_moments
from ..making.things import Get, Report, Thing
from ..nets.datasets import Dataset, normalise
from ..nets.declared import Declared, Images, Measured
from ..nets.interventions import freezing, multiply_adds, split_after, training_cost
from ..nets.measurement import Measurement
from ..nets.networks import Network, build_network
from ..nets.predicting import accuracy
from ..nets.subspaces import project, subspace_projection
from ..nets.training import Recipe, train
from .networks import Setting, measurements

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOTEBOOK = "06_svcca"

LAYERS = ("conv3", "conv5", "fc6")
MAPPED = "conv5"  # whose maps are compared whole
KEPT = (1, 2, 4, 8, 16, 32, 64)  # directions or units that are kept
SPACES = ("samples", "units")
DISTRIBUTED = 8  # directions that are restricted to few units
VARIANTS = ("all layers learn", "frozen, equal steps", "frozen, equal compute")
SEEDS = (1, 2, 3)
_BATCH = 500
_SHARE = 4  # one in so many test images is judged after a projection


@dataclass(frozen=True)
class Sizes:
    """How large freeze training is.

    Attributes:
        recipe: of training where all layers learn.
        images: how many are trained on.
    """

    recipe: Recipe = field(default_factory=lambda: Recipe(epochs=3))
    images: int = 10_000


SIZES = {
    "smoke": Sizes(Recipe(epochs=1), images=512),
    "paper": Sizes(),
    "full": Sizes(Recipe(), images=20_000),
}


@dataclass(frozen=True)
class Projected(Thing):
    """Test accuracy of a network whose layer is projected, see `projections`."""

    title, seconds, published = "projecting layers", 15.0, True

    net: str
    networks: tuple[tuple[str, Declared], ...]
    layer: str
    fitted: Measured
    test: Images
    seed: int

    def make(self, get: Get, report: Report) -> dict[tuple[str, str], Tensor]:
        """Project it."""
        networks = {name: declared.network(get) for name, declared in self.networks}
        return projections(self.net, networks, self.layer, get(self.fitted), self.test.load(), seed=self.seed)


@dataclass(frozen=True)
class ByFrequency(Thing):
    """Canonical correlations of whole maps of two networks, see `by_frequency`."""

    title, seconds, published = "comparing whole maps", 20.0, True

    a: Declared
    b: Declared
    images: Images

    def make(self, get: Get, report: Report) -> dict[str, Tensor]:
        """Compare them."""
        return by_frequency(self.a.network(get), self.b.network(get), self.images.load().images)


@dataclass(frozen=True)
class Frozen(Thing):
    """A network some of whose layers are frozen while it is trained, see `freeze_training`."""

    title, seconds, published = "freeze training", 40.0, True

    variant: str
    train: Images
    test: Images
    recipe: Recipe
    limit: int
    seed: int

    def make(self, get: Get, report: Report) -> dict[str, float]:
        """Train it."""
        options = {"recipe": self.recipe, "limit": self.limit, "seed": self.seed}
        return freeze_training(self.variant, self.train.load(), self.test.load(), **options)


def things(setting: Setting) -> dict[tuple, Thing]:
    """What the notebook reads, by the names under which it asks.

    Measurements; ("freezing", variant, number), ("projection", net, layer) and ("dft", net a, net b).
    """
    networks, test, size = setting.networks, setting.test, SIZES[setting.profile]
    found: dict[tuple, Thing] = {
        **measurements(setting, ("trained", "all"), ("untrained", "all"), ("trained", "mean")),
        **measurements(setting, ("training", "all"), ("training", "mean")),
    }
    for variant, k in product(VARIANTS, SEEDS):
        frozen = Frozen(variant, setting.train, test, size.recipe, size.images, setting.seed + k)
        found["freezing", variant, k] = frozen
    fitted = setting.measured("training images")
    for layer, net in product(LAYERS, networks):
        found["projection", net, layer] = Projected(net, tuple(networks.items()), layer, fitted, test, setting.seed)
    (a, first), (b, second) = list(networks.items())[:2]
    return {**found, ("dft", a, b): ByFrequency(first, second, test)}


def projections(
    name: str, networks: Mapping[str, Network], layer: str, fitted: Measurement, test_set: Dataset, *, seed: int
) -> dict[tuple[str, str], Tensor]:
    """Test accuracy of a network whose layer is projected on some of its directions or units.

    Args:
        name: of the network whose layer is projected; it is compared with all others by SVCCA.
        networks: by name.
        layer: name.
        fitted: of all networks on training images, whence directions and means are taken.
        test_set: on every fourth image of which accuracy is taken.
        seed: of random directions and units.

    Returns:
        By (what is kept, the space of the projection), see `subspace_projection`, the accuracy (kept,) when the first
        1, 2, 4, ... of them are kept, as far as there are so many. What is kept: "svcca NAME", the directions most
        alike in the network of that name; "svcca NAME in few units", the first `DISTRIBUTED` of them made up of the
        units that contribute most; "principal components", "random directions", "random units", "most active units".
        Under ("everything", "") the accuracy of the network as it is.
    """
    pairs = {other: fitted.pair(f"{name}.{layer}", f"{other}.{layer}") for other in networks if other != name}
    pair = next(iter(pairs.values()))
    judge = _Judge(networks[name], layer, test_set, pair)
    found = {("everything", ""): torch.tensor(judge.accuracy(torch.eye(len(pair.mean_a))))}
    for space in SPACES:
        for kept, directions in {**_of_pairs(pairs), **_of_net(pair, seed)}.items():
            found[kept, space] = judge.accuracies([directions[:, :k] for k in KEPT if k <= directions.shape[1]], space)
    for other, shared in pairs.items():
        found[f"svcca {other} in few units", "samples"] = judge.accuracies(_in_few_units(shared), "samples")
    return found


def _of_pairs(pairs: Mapping[str, PairMoments]) -> dict[str, Tensor]:
    """Directions (units, k) by their names, those that depend on the other network."""
    return {f"svcca {other}": svcca(pair).directions_a for other, pair in pairs.items()}


def _of_net(pair: PairMoments, seed: int) -> dict[str, Tensor]:
    """Directions (units, units) by their names, those of the network alone."""
    units, generator = len(pair.mean_a), torch.Generator().manual_seed(seed)
    every = torch.eye(units, dtype=torch.float64)
    return {
        "principal components": torch.linalg.eigh(pair.cov_aa).eigenvectors.flip(1),
        "random directions": torch.randn(units, units, generator=generator, dtype=torch.float64),
        "random units": every[:, torch.randperm(units, generator=generator)],
        "most active units": every[:, pair.mean_a.argsort(descending=True)],
    }


def _in_few_units(pair: PairMoments) -> list[Tensor]:
    """The first directions, all but their largest m contributions set to zero, for each m that is kept."""
    directions = svcca(pair).directions_a[:, :DISTRIBUTED]
    contribution = directions.square().sum(1) * pair.cov_aa.diagonal()
    order, restricted = contribution.argsort(descending=True), []
    for m in KEPT:
        if m <= len(order):
            restricted.append(torch.zeros_like(directions).index_copy_(0, order[:m], directions[order[:m]]))
    return restricted


class _Judge:
    """A network whose test images have come as far as the layer; the rest is computed for each projection."""

    def __init__(self, network: Network, layer: str, test_set: Dataset, pair: PairMoments):
        below, self.above = split_after(network, layer)
        self.mean, self.covariance = pair.mean_a, pair.cov_aa
        self.labels = test_set.labels[::_SHARE]
        with torch.no_grad():
            self.maps = [below(normalise(batch)) for batch in test_set.images[::_SHARE].split(_BATCH)]

    def accuracies(self, directions: list[Tensor], space: str) -> Tensor:
        """The accuracy when the layer is projected on each set of directions."""
        covariance = self.covariance if space == "samples" else None
        matrices = [subspace_projection(some, covariance=covariance) for some in directions]
        return torch.tensor([self.accuracy(matrix) for matrix in matrices])

    def accuracy(self, matrix: Tensor) -> float:
        """The accuracy when the layer is projected with this matrix."""
        with torch.no_grad():
            guesses = [self.above(project(maps, matrix, self.mean)).argmax(1) for maps in self.maps]
        return float((torch.cat(guesses) == self.labels).double().mean())


def by_frequency(network_a: Network, network_b: Network, images: Tensor) -> dict[str, Tensor]:
    """Canonical correlations of two stacks of maps of the layer `MAPPED`, by frequency and with all units flattened.

    Args:
        network_a, network_b: networks.
        images: on which they are compared; channels are left out until there are eight images for each flattened unit.

    Returns:
        "rho" (height, width, channels) by `dft_cca`; "flattened" (height x width x channels,) by `cca` of the flattened
        maps; "chance rho" and "chance flattened" the same when each image of a meets the next image of b;
        "off_diagonal" (2,) of the nets' covariances what lies between frequencies; "images" and "channels".
    """
    maps = []
    for network in (network_a, network_b):
        below = split_after(network, MAPPED)[0]
        with torch.no_grad():
            maps.append(torch.cat([below(normalise(batch)).permute(0, 2, 3, 1) for batch in images.split(_BATCH)]))
    n, height, width, channels = maps[0].shape
    channels = max(1, min(channels, n // (8 * height * width)))
    a, b = (some[..., :channels] for some in maps)
    found = {"images": torch.tensor(n), "channels": torch.tensor(channels)}
    for prefix, partner in (("", b), ("chance ", b.roll(1, 0))):
        by_dft = dft_cca(a, partner)
        found[f"{prefix}rho"], found[f"{prefix}flattened"] = by_dft.rho, _flattened(a, partner)
        found.setdefault("off_diagonal", torch.stack([by_dft.off_diagonal_a, by_dft.off_diagonal_b]))
    return found


def _flattened(maps_a: Tensor, maps_b: Tensor) -> Tensor:
    """Canonical correlations of maps of which every unit at every place is a dimension of its own."""
    return cca(pair_moments(maps_a.flatten(1), maps_b.flatten(1))).rho


def schedule(layers: tuple[str, ...]) -> dict[str, float]:
    """When each layer is frozen: layer i of L after i / L of training (Raghu et al. 2017)."""
    return {layer: (k + 1) / len(layers) for k, layer in enumerate(layers)}


def freeze_training(
    variant: str, train_set: Dataset, test_set: Dataset, *, recipe: Recipe, limit: int, seed: int
) -> dict[str, float]:
    """Train one network.

    Args:
        variant: one of `VARIANTS`; at equal compute it trains longer by what freezing saves.
        train_set: images spread evenly over it are trained on.
        test_set: what it is judged on.
        recipe: of training where all layers learn.
        limit: number of training images.
        seed: of the start and of the order of images.

    Returns:
        "accuracy": share of test images classified rightly in the end; "epochs": passes over the training images;
        "cost": multiply-adds of the whole training, as a share of those of training all layers for the recipe's epochs.

    Raises:
        ValueError: an unknown variant, a recipe of no epochs, no images.
    """
    require_known(variant, VARIANTS, "variant")
    if recipe.epochs == 0:
        raise ValueError("recipe: expected more than 0 epochs, of which cost is a share, got 0")
    structure = {"channels": train_set.images.shape[3], "classes": len(train_set.classes)}
    network = build_network("alexnet", **structure, seed=seed)
    n, height, width, channels = train_set.images.shape
    chosen = torch.linspace(0, n - 1, min(as_count(limit, "limit"), n)).long()
    few = replace(train_set, images=train_set.images[chosen], labels=train_set.labels[chosen])
    frozen = schedule(network.layers) if variant != VARIANTS[0] else {}
    forward = {name.partition(".")[0]: n for name, n in multiply_adds(network, (channels, height, width)).items()}
    cost = training_cost(forward, frozen)
    epochs = recipe.epochs / cost if variant == VARIANTS[2] else recipe.epochs
    trained = train(network, few, replace(recipe, epochs=epochs), seed=seed, intervene=freezing(frozen))
    reached = accuracy(trained.network, test_set)
    return {"accuracy": reached, "epochs": epochs, "cost": cost * epochs / recipe.epochs}


def accuracy_over_kept(
    ax: Axes, kept: Sequence[int], curves: Mapping[str, Sequence[Interval]], *, levels: Mapping[str, float], xlabel: str
) -> Axes:
    """Accuracy over how many directions or units are kept, with its interval, and levels to compare it with."""
    from ..drawing.figures import ROLES

    for k, (name, values) in enumerate(curves.items()):
        x = np.array(kept[: len(values)]) * 1.04 ** (k - len(curves) / 2)
        middle = np.array([v.estimate for v in values])
        spread = np.abs(np.array([(v.low, v.high) for v in values]).T - middle)
        look = {"capsize": 2, "elinewidth": 0.8, "markersize": 4, **ROLES.get(name, {"marker": "o"})}
        ax.errorbar(x, middle, yerr=spread, label=name, **look)
    for (name, level), line in zip(levels.items(), ("-", ":"), strict=False):
        ax.axhline(level, color="black", linewidth=0.8, linestyle=line, label=name)
    ax.set(xscale="log", xlabel=xlabel, ylabel="test accuracy", xticks=kept, xticklabels=kept, ylim=(0, 1))
    ax.minorticks_off()
    return ax
