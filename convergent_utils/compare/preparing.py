"""From raw pictures and texts to what networks take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..kernels.checks import came, form_of

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of its colours, from 0 to 1
BYTES = 256  # how many there are; the number after them stands for no byte


@dataclass(frozen=True)
class Pictures:
    """From pictures (n, height, width, channels) uint8 to (n, channels, height, width) float32.

    Attributes:
        mean, std: of each channel, where pixels go from 0 to 1.
        size: height and width, to which pictures are brought, whatever theirs, bilinearly; None: they keep theirs.
        at_least: smaller sides are enlarged to this, the other in proportion.
        key: under which a network takes them, as "pixel_values"; None: as they are.

    Grey pictures are repeated where the network takes colour. Floating-point tensors are prepared already.
    """

    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    size: tuple[int, int] | None = None
    at_least: int = 1
    key: str | None = None

    def __call__(self, batch: Tensor) -> Tensor | dict[str, Tensor]:
        """What the network takes.

        Raises:
            ValueError: something else than pictures, or of other channels.
        """
        prepared = self._prepared(batch)
        return prepared if self.key is None else {self.key: prepared}

    def _prepared(self, batch: Tensor) -> Tensor:
        batch = torch.from_numpy(batch) if isinstance(batch, np.ndarray) else batch
        channels = len(self.mean)
        if isinstance(batch, Tensor) and batch.is_floating_point():
            return batch
        fits = isinstance(batch, Tensor) and batch.dtype == torch.uint8 and batch.ndim == 4
        if not fits or batch.shape[3] not in (1, channels):
            expected = f"pictures (n, height, width, {channels}) uint8"
            raise ValueError(f"inputs: the network takes {expected}, got {form_of(batch)}")
        values = batch.permute(0, 3, 1, 2).float().div_(255)
        height, width = values.shape[2:]
        enlarged = max(1.0, self.at_least / min(height, width))
        size = self.size or (round(height * enlarged), round(width * enlarged))
        if size != (height, width):
            values = F.interpolate(values, size, mode="bilinear", antialias=True, align_corners=False)
        mean, std = (torch.tensor(each, device=values.device)[:, None, None] for each in (self.mean, self.std))
        return (values - mean) / std


@dataclass(frozen=True)
class Bytes:
    """From texts to their bytes in UTF-8: `input_ids` and `attention_mask`, both (n, longest) int64.

    Attributes:
        pad: the number that stands after the end of a shorter text, where the mask is 0.
        longest: how many bytes of a text are kept; None: all.
    """

    pad: int
    longest: int | None = None

    def __call__(self, batch: Sequence[str]) -> dict[str, Tensor]:
        """What the network takes."""
        rows = [torch.tensor(list(text.encode()[: self.longest])) for text in as_texts(batch)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad)
        lengths = torch.tensor([len(row) for row in rows])
        return {"input_ids": ids.long(), "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}

    def pieces(self, text: str) -> list[str]:
        """What each byte stands for: the first of a character for all of it, the others for nothing."""
        found = [piece for character in text for piece in (character, *[""] * (len(character.encode()) - 1))]
        return found[: self.longest]


class Tokenizer(Protocol):
    """What is used of a tokenizer of transformers."""

    padding_side: str
    pad_token: str | None
    eos_token: str | None
    model_max_length: int

    def __call__(self, text: str | list[str], **options: object) -> Mapping[str, Any]:
        """Numbers of tokens, and what goes with them."""
        ...

    def decode(self, token_ids: list[int]) -> str:
        """The text of tokens."""
        ...

    def convert_ids_to_tokens(self, ids: int) -> str:
        """The token of a number."""
        ...


@dataclass(frozen=True)
class Tokens:
    """From texts to what a tokenizer of transformers makes of them, padded on the right.

    Attributes:
        tokenizer: it.
        longest: how many tokens of a text are kept; None: all.
    """

    tokenizer: Tokenizer
    longest: int | None = None

    def __call__(self, batch: Sequence[str]) -> dict[str, Tensor]:
        """What the network takes: `input_ids`, `attention_mask` and what else the tokenizer gives."""
        options = {"truncation": self.longest is not None, "max_length": self.longest}
        made = self.tokenizer(as_texts(batch), padding=True, return_tensors="pt", **options)
        return dict(made)

    def pieces(self, text: str) -> list[str]:
        """What each token stands for."""
        options = {"truncation": self.longest is not None, "max_length": self.longest}
        return [self.tokenizer.decode([number]) for number in self.tokenizer(text, **options)["input_ids"]]


def in_pieces(texts: Mapping[int, object], prepares: Sequence[object]) -> dict[int, object]:
    """Each text as the tokens that all networks are given for it; a text of which they are given unlike ones stays."""
    found = {}
    for number, text in texts.items():
        given = [each.pieces(text) for each in prepares if isinstance(each, (Bytes, Tokens)) and isinstance(text, str)]
        alike = len(given) == len(prepares) and all(pieces == given[0] for pieces in given)
        found[number] = given[0] if alike else text
    return found


def as_texts(batch: object) -> list[str]:
    """A list of texts, none of them empty."""
    texts = list(batch) if isinstance(batch, (list, tuple)) else []
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"inputs: the network takes a list of texts, got {came(batch, 80)}")
    return texts


def fed(prepare: object) -> str:
    """How pictures are prepared, in a few words behind what a network is; nothing of what prepares none."""
    if not isinstance(prepare, Pictures):
        return ""
    size = "" if prepare.size is None else f"brought to {prepare.size[0]} x {prepare.size[1]}, "
    mean, std = (", ".join(f"{value:.3g}" for value in values) for values in (prepare.mean, prepare.std))
    return f"; pictures {size}less {mean}, over {std}"
