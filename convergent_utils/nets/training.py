"""Training, the same recipe for every network; only the seed differs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ..kernels.checks import (
    as_count,
    as_list,
    as_number,
    as_seed,
    as_share,
    came,
    form_of,
    is_count,
    is_number,
    require_named,
    tensor_of,
)
from .datasets import Dataset
from .modes import in_one_line, input_like, layout_of, require_module
from .predicting import NoNumbers, logits_of, predicted, require_data, require_labels, share_right

CHECKPOINTS = (0.0, 0.35, 0.75, 1.0)
_MOST = 1e9  # epochs, or any rate: beyond it no step can be counted


@dataclass(frozen=True)
class Recipe:
    """How to train: AdamW with decoupled weight decay, its rate rising over the first quarter and falling to zero.
    Its first momentum goes the other way, from .95 to .85 and back (the one-cycle schedule).

    Attributes:
        epochs: passes over the training images, the last of which may be in part; 0 leaves the network as it is.
        batch: images per step.
        rate: peak learning rate; larger ones kill units of fc6.
        weight_decay: per step, times the rate.

    Raises:
        ValueError: an attribute out of range.

    Example:
        >>> Recipe(epochs=1)
        Recipe(epochs=1, batch=64, rate=0.002, weight_decay=0.1)
    """

    epochs: float = 6
    batch: int = 64
    rate: float = 2e-3
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch", as_count(self.batch, "batch"))
        for argument in ("epochs", "rate", "weight_decay"):
            value = getattr(self, argument)
            number = as_number(
                value, argument, f"a number from 0 to {_MOST:g}", lambda number: 0 <= float(number) <= _MOST
            )
            # Python's numbers in all arithmetic; a whole number stays one, by which results are found again
            object.__setattr__(self, argument, int(value) if is_count(value) else number)


@dataclass(frozen=True)
class History:
    """Learning curves, one entry before training and one after each epoch.

    Attributes:
        loss: (epochs + 1,) mean cross-entropy in nats over the epoch's training images, the first over test images.
        test_accuracy: (epochs + 1,) share of test images classified rightly. The last is of all of them, the others,
            and the first loss, perhaps of some, see `train`; NaN where no test images were given.
    """

    loss: Tensor
    test_accuracy: Tensor

    def __post_init__(self) -> None:
        for argument in ("loss", "test_accuracy"):
            value = getattr(self, argument)
            read = tensor_of(value) if isinstance(value, Tensor) else None
            real = read is not None and read.ndim == 1 and not read.is_complex()
            if not real or (argument != "loss" and len(read) != len(self.loss)):
                raise ValueError(f"{argument}: expected a curve (epochs + 1,), as long as loss, got {form_of(value)}")
            object.__setattr__(self, argument, read)


@dataclass(frozen=True)
class Trained:
    """A trained network, its learning curves, and its weights on the way.

    Attributes:
        network, history: the network in eval mode, its learning curves.
        checkpoints: weights by share of training done, such as 0, .35, .75 and 1.

    Raises:
        ValueError: an attribute of another kind.
    """

    network: nn.Module
    history: History
    checkpoints: dict[float, dict[str, Tensor]]

    def __post_init__(self) -> None:
        require_module(self.network)
        if not isinstance(self.history, History):
            raise ValueError(f"history: expected a History, got {came(self.history)}")
        if not isinstance(self.checkpoints, Mapping) or not all(map(is_number, self.checkpoints)):
            raise ValueError(f"checkpoints: expected weights by share of training, got {came(self.checkpoints)}")
        for weights in self.checkpoints.values():
            require_named(weights, "checkpoints", "weights")
            if not all(isinstance(value, Tensor) for value in weights.values()):
                raise ValueError("checkpoints: expected tensors by name, got others")

    def at(self, share: float) -> nn.Module:
        """A copy of the network as it was after that share of training; 0 is the untrained network.

        Raises:
            ValueError: a share of which no checkpoint was kept, or whose weights are those of another network.
        """
        if not is_number(share) or share not in self.checkpoints:
            known = in_one_line(", ".join(map(str, self.checkpoints)), 80) if self.checkpoints else "none"
            raise ValueError(f"share: expected one of {known}, got {came(share)}")
        network = _deep_copy(self.network)
        try:
            network.load_state_dict(self.checkpoints[share])
        except RuntimeError as error:
            raise ValueError(f"checkpoints: expected weights of the network: {in_one_line(error)}") from error
        return network


def train(
    network: nn.Module,
    dataset: Dataset,
    recipe: Recipe | None = None,
    *,
    seed: int,
    test: Dataset | None = None,
    curve: int | None = None,
    rate: Callable[[float], float] | None = None,
    intervene: Callable[[nn.Module, float], None] | None = None,
    report: Callable[[float], None] | None = None,
    keep: Iterable[float] = CHECKPOINTS,
) -> Trained:
    """Train a copy of `network`; the same seed and number of threads give the same weights to the last bit.

    Args:
        network: takes normalised images, in the type of its weights, and returns logits (n, classes). Modules in eval
            mode within a network in training mode, as frozen batch norm, stay so.
        dataset, recipe: training images, and how to train.
        seed: of the order of the images; the initial weights are the network's own.
        test: images for the learning curve; they are not trained on.
        curve: on how many of them, spread evenly, the network is judged before the end; in the end it is on all.
            Default: on all each time, which costs a sixth of training where there are half as many as are learned.
        rate: by share of training done, a share of the recipe's, first momentum .9 throughout; None: as `Recipe` says.
        intervene: called before each step with the network and the share of training done, as `freezing` makes it;
            parameters that it freezes are free again in the end.
        report: called with the share of training done, now and then.
        keep: shares of training after which weights are kept, see `Trained`; those at the start and in the end always.

    Raises:
        ValueError: fewer images than one batch, images that the network cannot take, labels without an output, a curve
            without test images, nothing to learn, training that diverges (a loss or weight is NaN or infinite).

    Example:
        >>> images = torch.tensor([0, 255], dtype=torch.uint8).repeat(32)[:, None, None, None].expand(-1, 28, 28, 1)
        >>> dataset = Dataset(images.contiguous(), torch.arange(64) % 2, ("dark", "light"), "two greys")
        >>> network = build_network("plain", classes=2, depth=8)
        >>> trained = train(network, dataset, Recipe(epochs=3, batch=32), seed=0)
        >>> trained.history.loss[3] < trained.history.loss[1]
        tensor(True)
    """
    _require_functions(rate=rate, intervene=intervene, report=report)
    recipe, generator = _as_recipe(recipe), torch.Generator().manual_seed(as_seed(seed))
    start, network = network, _copied(network)
    require_data(dataset, "dataset")
    some = _of_the_curve(test, curve)
    _require_trainable(network, recipe)
    _require_a_batch(dataset, recipe)
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    run = _Run(network, dataset, recipe, rate, intervene, report or (lambda share: None), _as_shares(keep))
    loss, accuracy = [_loss(network, some)], [_accuracy_or_nan(network, some if run.total else test)]
    while run.step < run.total:
        loss.append(run.epoch(torch.randperm(len(dataset), generator=generator)))
        try:
            accuracy.append(_accuracy_or_nan(network, some if run.step < run.total else test))
        except NoNumbers as error:  # it had finite outputs before
            raise run.diverged(run.step) from error
    for parameter in trainable:
        parameter.requires_grad_(True)
    history = History(torch.tensor(loss, dtype=torch.float64), torch.tensor(accuracy, dtype=torch.float64))
    return Trained(network.eval().to(memory_format=layout_of(start)), history, run.checkpoints)


def _of_the_curve(test: Dataset | None, curve: int | None) -> Dataset | None:
    """The test images that the network is judged on before the end."""
    if test is not None:
        require_data(test, "test")
    if curve is None:
        return test
    count = as_count(curve, "curve")
    if test is None:
        raise ValueError("curve: expected test images to draw it on; give test=, or leave curve out")
    return test.part(count)


class _Run:
    """A network that is being trained, and how far it is."""

    def __init__(
        self,
        network: nn.Module,
        dataset: Dataset,
        recipe: Recipe,
        rate: Callable[[float], float] | None,
        intervene: Callable[[nn.Module, float], None] | None,
        report: Callable[[float], None],
        shares: list[float],
    ):
        self.network, self.dataset, self.recipe = network, dataset, recipe
        self.intervene, self.report = intervene, report
        self.per_epoch, self.step = len(dataset) // recipe.batch, 0
        self.total = round(recipe.epochs * self.per_epoch)
        self.largest = _Largest(lambda share: 1.0 if rate is None else rate(share))
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay)
        asked = self.largest if rate is not None else None
        self.schedule = _schedule(self.optimiser, recipe, max(self.total, 1), asked)
        self.learning, self.like = [module for module in network.modules() if module.training], input_like(network)
        self.shares, self.checkpoints = shares, {}
        self._keep()

    def epoch(self, order: Tensor) -> float:
        """Train on the images in this order, or on as many as are left; the mean loss."""
        losses: list[Tensor] = []
        left = min(self.per_epoch, self.total - self.step)
        for chosen in order[: left * self.recipe.batch].split(int(self.recipe.batch)):
            if self.intervene is not None:
                if losses:
                    self._require_finite(losses[-1][None])
                self._intervene(self.intervene)
            for module in self.learning:  # what was frozen in eval mode stays so
                module.training = True
            losses.append(_loss_of_step(self.network, self.dataset, chosen, self.optimiser, self.like))
            self._move()
            self._keep()
            if self.step % 20 == 0 or self.step == self.total:
                self.report(self.step / self.total)
        self._require_finite(torch.stack(losses))
        return float(torch.stack(losses).mean())

    def _keep(self) -> None:
        """Keep the weights, if it is time."""
        due = [share for share in self.shares if round(share * self.total) == self.step]
        self.checkpoints.update({share: _weights(self.network) for share in due})

    def _intervene(self, intervene: Callable[[nn.Module, float], None]) -> None:
        """What the caller does to the network before a step, after which its weights are finite."""
        intervene(self.network, self.step / self.total)
        if not _has_finite_weights(self.network):
            expected = "expected to leave finite weights, got NaN or infinity"
            raise ValueError(f"intervene: {expected} before step {self.step + 1}")

    def _move(self) -> None:
        """Move the weights; a step that their type cannot hold is one of a training that diverges."""
        try:
            self.optimiser.step()
        except RuntimeError as error:
            if "overflow" in str(error):
                raise self.diverged(self.step + 1) from error
            raise
        self.schedule.step()
        self.step += 1

    def _require_finite(self, losses: Tensor) -> None:
        """After each epoch, or each step where the caller intervenes: no loss and no weight is NaN or infinite."""
        bad = (~losses.isfinite()).nonzero()
        if len(bad) or not _has_finite_weights(self.network):
            at = self.step - len(losses) + int(bad[0]) + 1 if len(bad) else self.step
            if at == 1 and len(bad):  # nothing was learned yet
                due = "network" if self.intervene is None else "intervene"
                raise ValueError(f"{due}: expected a finite loss before training, got {float(losses[0])}")
            raise self.diverged(at)

    def diverged(self, at: int) -> ValueError:
        """The refusal of a training that diverged, by the name of what was too large."""
        if self.largest.found > 1:
            return ValueError(f"rate: training diverged at step {at}; try shares below {self.largest.found:g}")
        return ValueError(f"recipe: training diverged at step {at}; try a rate below {self.recipe.rate:g}")


def _require_a_batch(dataset: Dataset, recipe: Recipe) -> None:
    if len(dataset) < recipe.batch:
        least = came(recipe.batch, 40)
        raise ValueError(f"dataset: expected at least one batch of {least} images, got {len(dataset)}")


def _require_trainable(network: nn.Module, recipe: Recipe) -> None:
    parameters = dict(network.named_parameters())
    if not parameters or (recipe.epochs > 0 and not any(value.requires_grad for value in parameters.values())):
        raise ValueError("network: expected weights that can learn, got none, or only frozen ones")
    for name, value in parameters.items():
        if not value.isfinite().all():
            raise ValueError(f"network: expected finite weights, got NaN or infinity in {in_one_line(name)}")


def _has_finite_weights(network: nn.Module) -> bool:
    return all(value.isfinite().all() for value in network.parameters())


class _Largest:
    """The caller's rate, and the largest share that it gave."""

    def __init__(self, rate: Callable[[float], float]):
        self.rate, self.found = rate, 0.0

    def __call__(self, share: float) -> float:
        what = f"shares of the recipe's rate, finite and at least 0, at {share:g}"
        given = as_number(self.rate(share), "rate", what, lambda number: number >= 0)
        self.found = max(self.found, given)
        return given


def _copied(network: nn.Module) -> nn.Module:
    """A copy that learns: in training mode, if it is not already; in one layout, on which the last bits depend."""
    require_module(network)
    network = _deep_copy(network).to(memory_format=torch.contiguous_format)
    return network if network.training else network.train()


def _deep_copy(network: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(network)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"network: cannot be copied: {in_one_line(error)}") from error


def _as_recipe(recipe: Recipe | None) -> Recipe:
    if not isinstance(recipe, (Recipe, type(None))):
        raise ValueError(f"recipe: expected a Recipe, got {type(recipe).__name__}")
    return recipe or Recipe()


def _schedule(
    optimiser: torch.optim.Optimizer, recipe: Recipe, total: int, rate: Callable[[float], float] | None
) -> torch.optim.lr_scheduler.LRScheduler:
    if rate is not None:
        return torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step / total))
    rise = 0.25 if total != 4 else 0.5  # a quarter of four steps is one, and torch divides by its length less one
    return torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=total, pct_start=rise)


def _as_shares(keep: object) -> list[float]:
    """Shares of training, in their order, the start and the end among them."""
    given = keep.tolist() if isinstance(keep, Tensor) else keep
    listed = as_list(given, "keep", "shares of training in a list, such as [0.1, 0.5]")
    shares = [as_share(each, "keep", "shares of training from 0 to 1") for each in listed]
    return sorted({0.0, *map(float, shares), 1.0})


def _require_functions(**functions: object) -> None:
    for argument, function in functions.items():
        if function is not None and not callable(function):
            raise ValueError(f"{argument}: expected a function, got {type(function).__name__}")


def _loss_of_step(
    network: nn.Module, dataset: Dataset, chosen: Tensor, optimiser: torch.optim.Optimizer, like: Tensor
) -> Tensor:
    optimiser.zero_grad()
    logits = logits_of(network, dataset.images[chosen], like, "dataset")
    if not logits.is_floating_point():
        raise ValueError(f"network: expected floating-point outputs to learn from, got {logits.dtype}")
    require_labels(logits, dataset.labels, "dataset")
    loss = F.cross_entropy(logits, dataset.labels[chosen].to(like.device))
    if loss.requires_grad:  # else all that learned is frozen
        loss.backward()
    return loss.detach()


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def _loss(network: nn.Module, test: Dataset | None) -> float:
    if test is None:
        return math.nan
    logits = predicted(network, test, "test")
    require_labels(logits, test.labels, "test")
    return float(F.cross_entropy(logits if logits.is_floating_point() else logits.double(), test.labels.cpu()))


def _accuracy_or_nan(network: nn.Module, test: Dataset | None) -> float:
    return share_right(network, test, "test") if test is not None else math.nan
