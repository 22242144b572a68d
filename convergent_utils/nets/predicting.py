"""What networks say of images, and how often they are right."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..kernels.checks import as_count, form_of, tensor_of
from .datasets import Dataset, normalise
from .modes import called, evaluating, input_like, require_module

_LARGEST_BATCH = 2**62  # torch counts to twice as many


def accuracy(network: nn.Module, dataset: Dataset) -> float:
    """Share of the images that the network classifies rightly, in eval mode, a number from 0 to 1.

    Args:
        network: takes normalised images and returns logits (n, classes).
        dataset: images, and the labels that are right.

    Raises:
        ValueError: no images; see `predict`; labels that the network has no output for.

    Logits are compared in their own type: of float64 and whole numbers no digit is dropped.

    Example:
        >>> images = torch.tensor([[255, 0], [0, 255]], dtype=torch.uint8).reshape(2, 1, 2, 1)
        >>> dataset = Dataset(images, torch.tensor([0, 1]), ("left", "right"), "two pixels")
        >>> accuracy(torch.nn.Flatten(), dataset)
        1.0
    """
    return share_right(network, dataset, "dataset")


def predict(network: nn.Module, dataset: Dataset, *, batch: int = 250) -> Tensor:
    """What the network says of each image, in eval mode, without gradients; the mode of each module is restored.

    Args:
        network: takes normalised images (n, channels, height, width), in the type of its weights (float32 where it has
            none), and returns logits (n, classes).
        dataset: images.
        batch: images that are passed at a time.

    Returns:
        (n, classes) float32 logits on the CPU.

    Raises:
        ValueError: no images, or images that the network cannot take; logits of another form, complex, NaN or
            infinite, in float32, too.

    Example:
        >>> images = torch.tensor([[255, 0], [0, 255]], dtype=torch.uint8).reshape(2, 1, 2, 1)
        >>> dataset = Dataset(images, torch.tensor([0, 1]), ("left", "right"), "two pixels")
        >>> predict(torch.nn.Flatten(), dataset)
        tensor([[ 1., -1.],
                [-1.,  1.]])
    """
    logits = predicted(network, dataset, "dataset", min(as_count(batch, "batch"), _LARGEST_BATCH)).float()
    if not logits.isfinite().all():
        raise ValueError(f"network: expected outputs within +-{torch.finfo(torch.float32).max:.2g}, got larger ones")
    return logits


def predicted(network: nn.Module, dataset: Dataset, argument: str, batch: int = 250) -> Tensor:
    """Finite logits (n, classes) on the CPU, at least float32, or int64: nothing is rounded."""
    require_module(network)
    require_data(dataset, argument)
    like = input_like(network)
    with evaluating(network), torch.no_grad():
        logits = [_comparable(logits_of(network, part, like, argument).cpu()) for part in dataset.images.split(batch)]
    found = torch.cat(logits)
    finite = found.isfinite()
    if not finite.all():
        raise NoNumbers(f"network: expected finite real outputs, got {float(found[~finite][0])}")
    return found


def _comparable(logits: Tensor) -> Tensor:
    """The same numbers in a type that torch compares on any device."""
    if logits.is_floating_point():
        return logits if logits.dtype == torch.float64 else logits.float()
    if logits.dtype == torch.uint64 and (logits.long() < 0).any():
        raise ValueError(f"network: expected whole outputs of at most {2**63 - 1}, got larger ones")
    return logits.long()


def share_right(network: nn.Module, dataset: Dataset, argument: str) -> float:
    """As `accuracy`, of a data set that an argument of this name gave."""
    logits = predicted(network, dataset, argument)
    require_labels(logits, dataset.labels, argument)
    return float((logits.argmax(1) == dataset.labels.cpu()).double().mean())


def logits_of(network: nn.Module, images: Tensor, like: Tensor, argument: str) -> Tensor:
    """What the network says, real numbers (n, classes) in rows; quantised ones as the floats they stand for."""
    found = called(network, normalise(images).to(like), argument)
    logits = tensor_of(found.dequantize() if found.is_quantized else found) if isinstance(found, Tensor) else None
    if logits is None or logits.ndim != 2 or len(logits) != len(images):
        raise ValueError(f"network: expected logits ({len(images)}, classes), got {form_of(found)}")
    if logits.is_complex():
        raise ValueError(f"network: expected finite real outputs, got {logits.dtype}")
    return logits


def require_data(dataset: Dataset, argument: str) -> None:
    """It is a data set that holds images."""
    if not isinstance(dataset, Dataset):
        raise ValueError(f"{argument}: expected a Dataset, as load_dataset gives it, got {type(dataset).__name__}")
    if len(dataset) == 0:
        raise ValueError(f"{argument}: expected at least one image, got none")


def require_labels(logits: Tensor, labels: Tensor, argument: str) -> None:
    """The network has an output for each label."""
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        expected, given = f"0 to {logits.shape[1] - 1}", f"{labels.min()} to {labels.max()}"
        raise ValueError(f"{argument}: expected labels {expected}, for which the network has outputs, got {given}")


class NoNumbers(ValueError):
    """Outputs of a network that are NaN or infinite."""
