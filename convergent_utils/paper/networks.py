"""The networks of the paper, and what of them is measured; all declared, nothing made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any, Protocol, cast

from torch import nn

from ..kernels.checks import require_known
from ..nets.datasets import Dataset
from ..nets.declared import Condensed, Declared, Followed, Images, Learned, Measured, OnTheWay, Shuffled, Start
from ..nets.networks import Network, build_network
from ..nets.training import CHECKPOINTS, Recipe

NOTEBOOK = "00_networks"
REORDERED = "net1-reordered"
_FIRST_STEPS = (5, 10, 20, 40, 80, 157)  # of the first epoch, after which networks are looked at, and after each epoch
FOLDS = 4  # two to fit on and two to judge on; of the two to fit on, one may choose what the other fitted


class SomeImages(Protocol):
    """`Images`, or anything that chooses some of them."""

    def load(self) -> Dataset:
        """The images."""
        ...

    def __len__(self) -> int:
        """How many, about."""
        ...


def as_network(network: nn.Module) -> Network:
    """A network of the paper: each is one of this package, whatever else could have been declared."""
    return cast("Network", network)  # it was built from a declaration


@dataclass(frozen=True)
class Profile:
    """How large a run is; notebooks that make more have sizes of their own.

    Attributes:
        recipe: of the networks.
        n_networks: how many, net1 and so on.
        train_limit, test_limit: how many images; None: all.
        sample: rows of the aligned sample.
        planted: net2 is a shuffled copy of net1, net3 an independent untrained network.
    """

    recipe: Recipe
    n_networks: int
    train_limit: int | None = None
    test_limit: int | None = None
    sample: int = 4096
    planted: bool = False


PROFILES = {
    "smoke": Profile(Recipe(epochs=3), n_networks=3, train_limit=2048, test_limit=512, sample=1024, planted=True),
    "paper": Profile(Recipe(), n_networks=8),
    "full": Profile(Recipe(), n_networks=8),
}


@dataclass(frozen=True)
class Setting:
    """What all declarations of a run are made of.

    Attributes:
        profile: one of `PROFILES`.
        seed: base seed.
        train, test: the images to train on, and those that everything is measured on.
        channels, classes: of the images.
    """

    profile: str
    seed: int
    train: Images
    test: Images
    channels: int
    classes: int

    @classmethod
    def of(cls, dataset: str, *, seed: int, profile: str) -> Setting:
        """The setting of images that are named as in `load_dataset`."""
        size = PROFILES[profile]
        train, test = Images.of(dataset, "train", size.train_limit), Images.of(dataset, "test", size.test_limit)
        return cls(profile, seed, train, test, train.load().images.shape[3], train.classes)

    @property
    def size(self) -> Profile:
        """How large the run is."""
        return PROFILES[self.profile]

    def start(self, seed: int, *, structure: str = "alexnet", width: float = 1.0, scaled: bool = False) -> Start:
        """A network for these images, before its first step."""
        return Start(structure, self.channels, self.classes, width, seed, scaled)

    @cached_property
    def learned(self) -> dict[str, Learned]:
        """The networks that are trained, by name; net k has seed `seed + k`, for its start and the order of images."""
        found: dict[str, Learned] = {name: Condensed.of(whole) for name, whole in self.followed.items()}
        start, order = self.start(self.seed + 1), self.seed + self.size.n_networks + 1
        return {**found, REORDERED: Learned(start, self.train, self.test, self.size.recipe, order, REORDERED)}

    @cached_property
    def followed(self) -> dict[str, Followed]:
        """Those but for the reordered one, with all that is kept on their way."""
        untrained = replace(self.size.recipe, epochs=0)
        shares = tuple(step / self.steps[-1] for step in self.steps[1:-1])
        found = {}
        for k in range(1, self.size.n_networks + 1):
            recipe, seed = untrained if self.size.planted and k != 1 else self.size.recipe, self.seed + k
            asked = self.start(seed), self.train, self.test, recipe, seed, f"net{k}"
            found[f"net{k}"] = Followed(*asked, shares=shares)
        return found

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """The steps of training after which the networks are looked at, from 0 to the last one."""
        recipe = self.size.recipe
        per_epoch = len(self.train) // recipe.batch
        total = round(recipe.epochs * per_epoch)
        epochs = range(per_epoch, total, per_epoch)
        return (0, *(step for step in _FIRST_STEPS if step < min(per_epoch, total)), *epochs, total)

    @cached_property
    def networks(self) -> dict[str, Declared]:
        """The networks in the end, by name."""
        found: dict[str, Declared] = {name: one for name, one in self.learned.items() if name != REORDERED}
        return {**found, "net2": Shuffled(found["net1"], self.seed)} if self.size.planted else found

    def at(self, name: str, share: float) -> Declared:
        """A network as it was after a share of its training."""
        if self.size.planted and name == "net2":
            return Shuffled(self.at("net1", share), self.seed)
        learned = self.learned[name]
        return learned.start if share == 0 else OnTheWay(learned, share)

    def after(self, name: str, step: int) -> Declared:
        """A network as it was after one of `steps` of its training."""
        if self.size.planted and name == "net2":
            return Shuffled(self.after("net1", step), self.seed)
        learned = self.learned[name]
        if step in (0, self.steps[-1]):
            return learned if step else learned.start
        return OnTheWay(self.followed[name], step / self.steps[-1])

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Layers that all networks have, from bottom to top."""
        return build_network("alexnet", channels=self.channels, classes=self.classes).layers

    def measured(self, which: str, positions: str | int = "all") -> Measured:
        """The measurement of the networks, or of what they were.

        Args:
            which: "trained", "untrained", the "same start" pair; "training images", the trained networks on a quarter
                of the images they were trained on; or "training", all networks, final and on their way, on half of the
                test images, where each network on its way meets its final form layer by layer, and each start all.
            positions: as in `measure`; of "all" only layers of the same name meet.
        """
        known = {
            "trained": self.networks,
            "training images": self.networks,
            "untrained": {name: self.at(name, 0.0) for name in self.networks},
            "same start": {"net1": self.networks["net1"], REORDERED: self.learned[REORDERED]},
            "training": self._on_their_way(),
        }
        require_known(which, known, "which")
        networks, layers, of_training = known[which], self.layers, {"images": replace(self.train, every=4)}
        options: dict[str, Any] = {"images": self.test, "folds": FOLDS, "sample": self.size.sample, "seed": self.seed}
        if positions == "all":  # else there are few rows, and any two layers may meet
            meet = combinations(networks, 2)
            options["pairs"] = tuple((f"{a}.{layer}", f"{b}.{layer}") for a, b in meet for layer in layers)
        options |= of_training if which == "training images" else {}
        if which == "training":
            final = {name: name.partition("@")[0] for name in networks}
            meet = [(name, net) for name in networks for net in self.networks if net == final[name] or "@0%" in name]
            pairs = tuple((f"{name}.{layer}", f"{net}.{layer}") for name, net in meet for layer in layers)
            options |= {"images": replace(self.test, every=2), "pairs": pairs, "folds": 1, "top": 1}
        return Measured(tuple(networks.items()), layers=layers, positions=positions, name=which, **options)

    def _on_their_way(self) -> dict[str, Declared]:
        """The trained networks, and as "net1@35%" each as it was after that share of its training."""
        shares = [share for share in CHECKPOINTS if share < 1]
        return {
            **self.networks,
            **{f"{net}@{share:.0%}": self.at(net, share) for net in self.networks for share in shares},
        }


def measurements(setting: Setting, *asked: tuple[str, str | int]) -> dict[tuple, Measured]:
    """Measurements under the names by which notebooks ask for them, such as ("measured", "trained", "all")."""
    return {("measured", which, positions): setting.measured(which, positions) for which, positions in asked}


def things(setting: Setting) -> dict[tuple, Measured]:
    """What 00_networks reads, by the names under which it asks."""
    return measurements(setting, ("trained", "all"))
