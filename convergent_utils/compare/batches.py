"""What is in a batch of anybody's: a tensor, an array, texts, or a tuple, list or dict of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels.checks import came


def n_inputs(batch: object) -> int:
    """How many inputs there are in a batch: of a tuple the first, of a dict any."""
    if isinstance(batch, Mapping):
        batch = next(iter(batch.values()), ())
    elif isinstance(batch, (list, tuple)) and not are_texts(batch):
        return n_inputs(batch[0]) if batch else 0
    if isinstance(batch, (str, bytes)) or not isinstance(batch, Sized):
        raise ValueError(f"name: expected batches of tensors, arrays or texts, got {came(batch, 80)}")
    return len(batch)


def part(batch: Any, n: int, of: int) -> object:
    """The first inputs of a batch of so many; what goes with all of them stays as it is."""
    if isinstance(batch, Mapping):
        return {key: part(value, n, of) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)) and not are_texts(batch):
        return [part(value, n, of) for value in batch]
    return batch[:n] if np.ndim(batch) and len(batch) == of else batch


def kind_of(batch: object) -> str:
    """Texts, pictures or other."""
    if isinstance(batch, (list, tuple)):
        return "texts" if are_texts(batch) else kind_of(batch[0])
    uint8 = isinstance(batch, (Tensor, np.ndarray)) and batch.dtype in (torch.uint8, np.uint8)
    return "pictures" if uint8 and batch.ndim == 4 else "other"


def are_texts(values: Sequence) -> bool:
    """Whether all are texts, and there is one."""
    return len(values) > 0 and all(isinstance(value, str) for value in values)


def input_at(batch: Any, place: int) -> object:
    """One input of a batch."""
    if isinstance(batch, Mapping):
        return {key: input_at(value, place) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)) and not are_texts(batch):
        return input_at(batch[0], place)
    return batch[place] if np.ndim(batch) else batch
