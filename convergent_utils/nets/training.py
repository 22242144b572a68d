"""Training, the same recipe for every network; only the seed differs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ..kernels.checks import is_count
from .datasets import Dataset, normalise

VERSION = 1  # raise it when the same recipe and seed would train another network than before
CHECKPOINTS = (0.0, 0.35, 0.75, 1.0)


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
    """

    epochs: float = 6
    batch: int = 64
    rate: float = 2e-3
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        if not is_count(self.batch) or self.batch < 1:
            raise ValueError(f"batch: expected a whole number of at least 1, got {self.batch}")
        for argument in ("epochs", "rate", "weight_decay"):
            value = getattr(self, argument)
            if not 0 <= value < math.inf:
                raise ValueError(f"{argument}: expected a finite number of at least 0, got {value}")


@dataclass(frozen=True)
class History:
    """Learning curves, one entry before training and one after each epoch.

    Attributes:
        loss: (epochs + 1,) mean cross-entropy in nats over the epoch's training images (at first: over test images).
        test_accuracy: (epochs + 1,) share of test images classified rightly; NaN where no test images were given.
    """

    loss: Tensor
    test_accuracy: Tensor


@dataclass(frozen=True)
class Trained:
    """A trained network, its learning curves, and its weights on the way.

    Attributes:
        network: in eval mode.
        history: learning curves.
        checkpoints: weights by share of training done: 0, .35, .75 and 1.
    """

    network: nn.Module
    history: History
    checkpoints: dict[float, dict[str, Tensor]]

    def at(self, share: float) -> nn.Module:
        """A copy of the network as it was after that share of training; 0 is the untrained network.

        Raises:
            ValueError: a share of which no checkpoint was kept.
        """
        if share not in self.checkpoints:
            raise ValueError(f"share: expected one of {', '.join(map(str, self.checkpoints))}, got {share}")
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.checkpoints[share])
        return network


def train(
    network: nn.Module,
    dataset: Dataset,
    recipe: Recipe | None = None,
    *,
    seed: int,
    test: Dataset | None = None,
    rate: Callable[[float], float] | None = None,
    intervene: Callable[[nn.Module, float], None] | None = None,
    report: Callable[[float], None] | None = None,
) -> Trained:
    """Train a copy of `network`; the same seed and number of threads give the same weights to the last bit.

    Args:
        network: takes normalised images and returns logits (n, classes).
        dataset: training images.
        recipe: how.
        seed: of the order of the images; the initial weights are the network's own.
        test: images for the learning curve; they are not trained on.
        rate: by the share of training done, as a share of the recipe's, with AdamW's first momentum at .9 throughout;
            None: both rise and fall as `Recipe` says.
        intervene: called before each step with the network and the share of training done, as `freezing` makes it;
            parameters that it freezes are free again in the end.
        report: called with the share of training done, now and then.

    Returns:
        Trained.

    Raises:
        ValueError: fewer images than one batch, or labels that the network has no output for.
    """
    recipe = recipe or Recipe()
    network = copy.deepcopy(network)
    per_epoch = len(dataset) // recipe.batch
    if per_epoch == 0:
        raise ValueError(f"dataset: expected at least one batch of {recipe.batch} images, got {len(dataset)}")
    total, report = round(recipe.epochs * per_epoch), report or (lambda share: None)
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay)
    schedule = _schedule(optimiser, recipe, max(total, 1), rate)
    generator = torch.Generator().manual_seed(seed)
    loss, accuracy = [_loss(network, test)], [_accuracy_or_nan(network, test)]
    checkpoints, step = {share: _weights(network) for share in CHECKPOINTS if round(share * total) == 0}, 0
    while step < total:
        order, losses = torch.randperm(len(dataset), generator=generator), []
        for chosen in order[: min(per_epoch, total - step) * recipe.batch].split(recipe.batch):
            if intervene is not None:
                intervene(network, step / total)
            losses.append(_step(network, dataset, chosen, optimiser))
            schedule.step()
            step += 1
            checkpoints.update({share: _weights(network) for share in CHECKPOINTS if round(share * total) == step})
            if step % 20 == 0 or step == total:
                report(step / total)
        loss.append(float(torch.stack(losses).mean()))
        accuracy.append(_accuracy_or_nan(network, test))
    for parameter in trainable:
        parameter.requires_grad_(True)
    history = History(torch.tensor(loss, dtype=torch.float64), torch.tensor(accuracy, dtype=torch.float64))
    return Trained(network.eval(), history, checkpoints)


def accuracy(network: nn.Module, dataset: Dataset) -> float:
    """Share of the images that the network classifies rightly, in eval mode, a number from 0 to 1.

    Args:
        network: takes normalised images and returns logits (n, classes).
        dataset: images, and the labels that are right.
    """
    return float((predict(network, dataset).argmax(1) == dataset.labels).double().mean())


def predict(network: nn.Module, dataset: Dataset, *, batch: int = 250) -> Tensor:
    """What the network says of each image, in eval mode, without gradients; its mode is restored.

    Args:
        network: takes normalised images (n, channels, height, width) float32 and returns logits (n, classes).
        dataset: images.
        batch: images that are passed at a time.

    Returns:
        (n, classes) float32 logits on the CPU.
    """
    training, device = network.training, next(network.parameters()).device
    network.eval()
    with torch.no_grad():
        logits = [network(normalise(images).to(device)).cpu() for images in dataset.images.split(batch)]
    network.train(training)
    return torch.cat(logits)


def _schedule(
    optimiser: torch.optim.Optimizer, recipe: Recipe, total: int, rate: Callable[[float], float] | None
) -> torch.optim.lr_scheduler.LRScheduler:
    if rate is not None:
        return torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step / total))
    rise = 0.25 if total != 4 else 0.5  # a quarter of four steps is one, and torch divides by its length less one
    return torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=total, pct_start=rise)


def _step(network: nn.Module, dataset: Dataset, chosen: Tensor, optimiser: torch.optim.Optimizer) -> Tensor:
    device = next(network.parameters()).device
    network.train()
    optimiser.zero_grad()
    logits, labels = network(normalise(dataset.images[chosen]).to(device)), dataset.labels
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        expected, came = f"0 to {logits.shape[1] - 1}", f"{labels.min()} to {labels.max()}"
        raise ValueError(f"dataset: expected labels {expected}, for which the network has outputs, got {came}")
    loss = F.cross_entropy(logits, labels[chosen].to(device))
    loss.backward()
    optimiser.step()
    return loss.detach()


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def _loss(network: nn.Module, test: Dataset | None) -> float:
    return float(F.cross_entropy(predict(network, test), test.labels)) if test is not None else float("nan")


def _accuracy_or_nan(network: nn.Module, test: Dataset | None) -> float:
    return accuracy(network, test) if test is not None else float("nan")
