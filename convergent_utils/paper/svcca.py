"""What 06_svcca reads beside measurements.

How many directions does a layer need? Must whole maps be compared place by place? If layers settle from the bottom up,
need the lower ones be trained to the end?
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np
import torch
from torch import Tensor

from ..kernels.alignment import debiased_cka, debiased_of
from ..kernels.cca import cca, svcca
from ..kernels.chance import Interval
from ..kernels.checks import as_count, require_known
from ..kernels.dft_cca import dft_cca
from ..kernels.moments import Moments, PairMoments, pair_moments
from ..making.things import Get, Report, Thing
from ..nets.datasets import Dataset, normalise
from ..nets.declared import Declared, Images, Measured
from ..nets.interventions import freezing, multiply_adds, split_after, training_cost
from ..nets.measurement import Measurement
from ..nets.networks import Network, build_network
from ..nets.predicting import accuracy
from ..nets.subspaces import project, subspace_projection
from ..nets.training import Recipe, train
from .networks import Setting, as_network, measurements

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOTEBOOK = "06_svcca"

LAYERS = ("conv3", "conv5", "fc6")
MAPPED = "conv5"  # whose maps are compared whole
KEPT = {"samples": (4, 8, 10, 16, 25, 32, 64), "units": (8, 16, 32)}  # directions or units, by space of projection
FEW = (8, 10, 16, 25)  # of those in the space of samples, at which rivals are compared
MADE_OF = (1, 2, 4, 8, 16, 32, 64)  # units, of which `DISTRIBUTED` directions are made up
_READ = 500  # training images, on which it is found what the output reads
DISTRIBUTED = 8  # directions that are restricted to few units
VARIANTS = ("all layers learn", "frozen, equal steps", "frozen, equal compute")
SEEDS = (1, 2, 3)
_BATCH = 500
_SHARE = 4  # one in so many test images is judged after a projection
_ROWS = {2: torch.contiguous_format, 4: torch.channels_last}  # how activations lie that are projected row by row


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
    train: Images
    test: Images
    seed: int

    def make(self, get: Get, report: Report) -> dict[tuple[str, str], Tensor]:
        """Project it."""
        networks = {name: as_network(declared.network(get)) for name, declared in self.networks}
        images = self.train.load().images
        return projections(self.net, networks, self.layer, get(self.fitted), images, self.test.load(), seed=self.seed)


@dataclass(frozen=True)
class ByFrequency(Thing):
    """Canonical correlations of whole maps of two networks, see `by_frequency`."""

    title, seconds, published = "comparing whole maps", 20.0, True

    a: Declared
    b: Declared
    images: Images

    def make(self, get: Get, report: Report) -> dict[str, Tensor]:
        """Compare them."""
        return by_frequency(as_network(self.a.network(get)), as_network(self.b.network(get)), self.images.load().images)


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
        declared, some = tuple(networks.items()), replace(setting.train, part=_READ)
        found["projection", net, layer] = Projected(net, declared, layer, fitted, some, test, setting.seed)
    (a, first), (b, second) = list(networks.items())[:2]
    return {**found, ("dft", a, b): ByFrequency(first, second, test)}


def projections(
    name: str,
    networks: Mapping[str, Network],
    layer: str,
    fitted: Measurement,
    images: Tensor,
    test_set: Dataset,
    *,
    seed: int,
) -> dict[tuple[str, str], Tensor]:
    """Test accuracy of a network whose layer is projected on some of its directions or units.

    Args:
        name: of the network whose layer is projected; it is compared with all others by SVCCA.
        networks: by name.
        layer: name.
        fitted: of all networks on training images, whence directions and means are taken.
        images: of training, on which it is found what the output reads.
        test_set: on every fourth image of which accuracy is taken.
        seed: of random directions and units.

    Returns:
        By (what is kept, the space of the projection), see `subspace_projection`, the accuracy (kept,) when the first
        of them are kept, as many as `KEPT` says, or all where there are fewer. What is kept: "svcca NAME", the
        directions most alike in the network of that name; "principal components", "random directions", "random units",
        "most active units"; and "read by the output", of `read_directions`, in the space of samples. As "svcca NAME in
        few units" the first `DISTRIBUTED` directions, made up of the units that contribute most, as many as `MADE_OF`
        says and as there are. Under ("everything", "") the accuracy of the network as it is.
    """
    pairs = {other: fitted.pair(f"{name}.{layer}", f"{other}.{layer}") for other in networks if other != name}
    pair = next(iter(pairs.values()))
    judge = Judge(networks[name], layer, test_set, pair)
    found = {("everything", ""): torch.tensor(judge.whole)}
    compared = {**_of_pairs(pairs), **_of_net(pair, seed)}
    for space, counts in KEPT.items():
        for kept, directions in compared.items():
            found[kept, space] = judge.accuracies([directions[:, :k] for k in counts], space)
    read = read_directions(networks[name], layer, images, pair.cov_aa)
    found["read by the output", "samples"] = judge.accuracies([read[:, :k] for k in KEPT["samples"]], "samples")
    for other, shared in pairs.items():
        found[f"svcca {other} in few units", "samples"] = judge.accuracies(_in_few_units(shared), "samples")
    return found


def read_directions(network: Network, layer: str, images: Tensor, covariance: Tensor) -> Tensor:
    r"""The directions of a layer that move the output most, the most important first.

    With :math:`J` the derivative of the outputs, less their mean over classes, by the layer's units at one place, and
    :math:`\Sigma` the covariance of the units,

    .. math:: G = E \sum_{places} J^\top J, \qquad \Sigma^{1/2} G \Sigma^{1/2} = U \Lambda U^\top, \qquad
        D = \Sigma^{-1/2} U.

    Were the rest of the network linear, no other k variates would predict its outputs better than the first k.

    Args:
        network: a chain of modules, see `split_after`.
        layer: of this network.
        images: (n, height, width, channels) uint8. No labels are used.
        covariance: (units, units) of the layer.

    Returns:
        (units, units) float64, one direction a column, of any length.

    Source: the active subspace of Constantine 2015, weighed by the covariance; where the rest of the network is linear,
    reduced-rank regression.
    """
    below, above = split_after(network, layer)
    gram = torch.zeros_like(covariance)
    for batch in images.split(_BATCH):
        with torch.no_grad():
            acts = below(normalise(batch))
        acts.requires_grad_()
        outputs = above(acts)
        outputs = outputs - outputs.mean(1, keepdim=True)
        for k in range(outputs.shape[1]):
            (slope,) = torch.autograd.grad(outputs[:, k].sum(), acts, retain_graph=True)
            rows = slope.movedim(1, -1).flatten(0, -2).double()
            gram += rows.T @ rows / len(images)
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return gram @ root @ torch.linalg.eigh(root @ gram @ root).eigenvectors.flip(1)


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
    for m in MADE_OF:
        if m <= len(order):
            restricted.append(torch.zeros_like(directions).index_copy_(0, order[:m], directions[order[:m]]))
    return restricted


class Judge:
    """A network whose test images have come as far as the layer; the rest is computed for each projection."""

    def __init__(self, network: Network, layer: str, test_set: Dataset, pair: PairMoments):
        below, self.above = split_after(network, layer)
        self.mean, self.covariance = pair.mean_a, pair.cov_aa
        self.labels = test_set.labels[::_SHARE]
        with torch.no_grad():
            maps = [below(normalise(batch)) for batch in test_set.images[::_SHARE].split(_BATCH)]
        self.maps = [some.contiguous(memory_format=_ROWS[some.ndim]) for some in maps]

    def accuracies(self, directions: list[Tensor], space: str) -> Tensor:
        """The accuracy when the layer is projected on each set of directions; on as many as units it stays as it is."""
        covariance, found = self.covariance if space == "samples" else None, []
        for some in directions:
            matrix = subspace_projection(some, covariance=covariance)
            found.append(self.whole if some.shape[1] == len(matrix) and _is_identity(matrix) else self.accuracy(matrix))
        return torch.tensor(found)

    @cached_property
    def whole(self) -> float:
        """The accuracy of the network as it is."""
        return self.accuracy(torch.eye(len(self.mean)))

    def accuracy(self, matrix: Tensor) -> float:
        """The accuracy when the layer is projected with this matrix."""
        with torch.no_grad():
            guesses = [self.above(project(maps, matrix, self.mean)).argmax(1) for maps in self.maps]
        return float((torch.cat(guesses) == self.labels).double().mean())


def _is_identity(matrix: Tensor) -> bool:
    return torch.allclose(matrix, torch.eye(len(matrix), dtype=matrix.dtype), atol=1e-9)


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


def across(similarity: Callable[[str, str], SupportsFloat], a: str, b: str, layers: Sequence[str]) -> np.ndarray:
    """The similarity of each layer of a (rows) with each layer of b (columns), of blocks such as "net1.conv1"."""
    return np.array([[float(similarity(f"{a}.{k}", f"{b}.{j}")) for j in layers] for k in layers])


def debiased(measured: Measurement) -> Callable[[str, str], Tensor]:
    """`debiased_cka` of any two blocks on the aligned sample; sums over its rows are made once, not for each pair."""
    rows = {block: measured.sample(block).double() for block in measured.blocks}
    rows = {block: acts / acts.abs().max().clamp(min=1e-300) for block, acts in rows.items()}
    moments = Moments({block: acts.shape[1] for block, acts in rows.items()})
    moments.update(rows)
    norms = {block: (acts - acts.mean(0)).square().sum(1) for block, acts in rows.items()}
    return lambda a, b: debiased_of(moments.pair(a, b), norms[a], norms[b])


OUTLIERS = (
    "all images",
    "without the farthest",
    "without as many at random",
    "one moved far out",
    "one moved to the mean distance",
)
_FARTHEST, _TIMES = 0.01, 10


def with_outliers(acts_a: Tensor, acts_b: Tensor, *, seed: int) -> np.ndarray:
    """Debiased CKA of two layers, when a few inputs are left out, or one is moved in one network.

    Args:
        acts_a, acts_b: (samples, units) activations of the same inputs.
        seed: of the inputs that are drawn at random.

    Returns:
        In the order of `OUTLIERS`: of all inputs; without the hundredth that lies farthest from the mean, in
        whichever network it does so more (distances as multiples of the mean distance); without as many drawn at
        random; with one input, drawn at random, moved in the second network away from the mean, to ten times the
        distance of the farthest; and with this one moved to the mean distance.

    Source: Davari et al. 2023, who move a few points or a part of them.
    """
    distance_a, distance_b = ((acts - acts.mean(0)).norm(dim=1) for acts in (acts_a, acts_b))
    count, generator = max(1, round(_FARTHEST * len(acts_a))), torch.Generator().manual_seed(seed)
    farthest = torch.maximum(distance_a / distance_a.mean(), distance_b / distance_b.mean()).argsort(descending=True)
    drawn = torch.randperm(len(acts_a), generator=generator)
    found = [debiased_cka(acts_a, acts_b)]
    found += [debiased_cka(acts_a[order[count:]], acts_b[order[count:]]) for order in (farthest, drawn)]
    one = next(k for k in drawn.tolist() if distance_b[k] > 0)
    for distance in (_TIMES * distance_b.max(), distance_b.mean()):
        moved, mean = acts_b.clone(), acts_b.mean(0)
        moved[one] = mean + (acts_b[one] - mean) * distance / distance_b[one]
        found.append(debiased_cka(acts_a, moved))
    return np.array([float(value) for value in found])


# Chosen by what the names mean, before any error was looked at.
LIKE = {
    "tops": ("T-shirt", "pullover", "coat", "shirt"),
    "footwear": ("sandal", "sneaker", "ankle boot"),
    "four-legged animals": ("cat", "deer", "dog", "horse"),
    "road vehicles": ("automobile", "truck"),
}


def like_classes(data: Dataset) -> dict[str, tuple[str, ...]]:
    """Groups of classes that are alike by the meaning of their names; no error of a network is looked at.

    Where no names are known, one group of the three classes whose mean images lie nearest to each other.
    """
    found = {name: group for name, group in LIKE.items() if set(group) <= set(data.classes)}
    if found or len(data.classes) < 3:
        return found
    images = data.images.flatten(1).double()
    means = torch.stack([images[data.labels == k].mean(0) for k in range(len(data.classes))])
    apart = torch.cdist(means, means)
    nearest = min(combinations(range(len(means)), 3), key=lambda three: float(apart[three, :][:, three].sum()))
    return {"nearest mean images": tuple(data.classes[k] for k in nearest)}


def likeness(curves: np.ndarray, classes: Sequence[str], groups: Mapping[str, Sequence[str]]) -> float:
    """Distance between the curves of classes of one group, as a share of that of all classes; root mean square.

    Args:
        curves: (layers, classes).
        classes: their names.
        groups: names of like classes.
    """
    apart = np.sqrt(((curves[:, :, None] - curves[:, None]) ** 2).mean(0))
    number = {name: k for k, name in enumerate(classes)}
    alike = [apart[number[a], number[b]] for group in groups.values() for a, b in combinations(group, 2)]
    return float(np.mean(alike) / max(apart[np.triu_indices(len(classes), 1)].mean(), 1e-9))


def accuracy_over_kept(
    ax: Axes,
    curves: Mapping[str, Mapping[int, Interval]],
    *,
    ticks: Sequence[int],
    levels: Mapping[str, float],
    xlabel: str,
) -> Axes:
    """Accuracy over how many directions or units are kept, with its interval, and levels to compare it with."""
    from ..drawing.figures import ROLES

    for k, (name, values) in enumerate(curves.items()):
        x = np.array(list(values)) * 1.03 ** (k - len(curves) / 2)
        middle = np.array([v.estimate for v in values.values()])
        spread = np.abs(np.array([(v.low, v.high) for v in values.values()]).T - middle)
        look: dict[str, Any] = {"capsize": 2, "elinewidth": 0.8, **ROLES.get(name, {"marker": "o"}), "markersize": 4}
        ax.errorbar(x, middle, yerr=spread, label=name, **look)
    for (name, level), line in zip(levels.items(), ("-", ":"), strict=False):
        ax.axhline(level, color="black", linewidth=0.8, linestyle=line, label=name)
    ax.set(xscale="log", xlabel=xlabel, ylabel="test accuracy", xticks=ticks, xticklabels=ticks, ylim=(0, 1))
    ax.minorticks_off()
    return ax


def class_curves(
    ax: Axes,
    curves: Mapping[str, Sequence[Interval]],
    groups: Mapping[str, Sequence[str]],
    layers: Sequence[str],
    *,
    untrained: Sequence[Interval],
) -> Axes:
    """How well each layer knows each class, classes of a group in one colour, each with its name at its left end.

    Args:
        ax: to draw on.
        curves: by class, for each layer.
        groups: names of like classes; all others are grey.
        layers: names.
        untrained: for each layer, the mean over classes before training.
    """
    from ..drawing.figures import NETWORKS, ROLES

    hues = dict(zip(groups, list(NETWORKS.values())[: len(groups)], strict=True))
    of = {name: hue for hue in groups for name in groups[hue]}
    for name, values in curves.items():
        hue = hues.get(of.get(name), "0.6")
        middle = [v.estimate for v in values]
        ax.plot(middle, color=hue, marker="o", markersize=3, linewidth=1.4)
        ax.fill_between(
            range(len(values)), [v.low for v in values], [v.high for v in values], color=hue, alpha=0.1, linewidth=0
        )
    for hue, color in {**hues, "other classes": "0.6"}.items():
        ax.plot([], [], color=color, marker="o", markersize=3, label=hue)
    look: dict[str, Any] = {**ROLES["untrained"], "color": "k"}
    ax.plot([v.estimate for v in untrained], label="untrained, mean of classes", **look)
    ax.set_xticks(range(len(layers)), layers)
    ax.set(ylabel="correlation with the output of the class", xlim=(-1.9, len(layers) - 0.8))
    _name_left_ends(ax, {name: (values[0].estimate, hues.get(of.get(name), "0.45")) for name, values in curves.items()})
    ax.legend(ncols=2, loc="lower right")
    return ax


def _name_left_ends(ax: Axes, ends: Mapping[str, tuple[float, object]], *, apart: float = 0.045) -> None:
    """Names left of the first points of curves, a share of the height apart, with a line to each."""
    low, high = ax.get_ylim()
    step, place = apart * (high - low), -np.inf
    for name, (y, color) in sorted(ends.items(), key=lambda one: one[1][0]):
        place = max(y - 0.5 * step, place + step)
        ax.annotate(
            name, (0, y), (-0.35, place), ha="right", va="center", color=color, fontsize="small",
            arrowprops={"arrowstyle": "-", "color": "0.7", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 2},
        )  # fmt: skip


def frequency_squares(axes: Sequence[Axes], squares: Mapping[str, np.ndarray]) -> None:
    """A correlation for each frequency (height, width), 0 in the middle, on one scale of colours and as numbers."""
    for ax, (title, square) in zip(axes, squares.items(), strict=True):
        height, width = square.shape
        square = np.fft.fftshift(square)
        image = ax.imshow(square, cmap="mako", vmin=0, vmax=1, origin="lower")
        for (row, column), value in np.ndenumerate(square):
            said, color = f"{value:.2f}".removeprefix("0"), "white" if value < 0.6 else "black"
            ax.text(column, row, said, ha="center", va="center", fontsize=7, color=color)
        ax.set(title=title, xlabel="cycles across the map", ylabel="cycles down the map")
        ax.set_xticks(range(width), np.fft.fftshift(np.fft.fftfreq(width, 1 / width)).astype(int))
        ax.set_yticks(range(height), np.fft.fftshift(np.fft.fftfreq(height, 1 / height)).astype(int))
    axes[0].figure.colorbar(image, ax=list(axes), label=r"correlation $\rho$", shrink=0.8)
