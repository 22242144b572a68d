"""Freeze training: if layers settle from the bottom up, need the lower ones be trained to the end?"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..kernels.checks import as_count, require_known
from ..nets.datasets import Dataset
from ..nets.interventions import freezing, multiply_adds, training_cost
from ..nets.networks import build_network
from ..nets.training import Recipe, accuracy, train

VARIANTS = ("all layers learn", "frozen, equal steps", "frozen, equal compute")
SEEDS = (1, 2, 3)


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
