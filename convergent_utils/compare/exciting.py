"""Pairs of matched units, and the inputs that excite each most, as a part of a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels.checks import came, in_one_line
from ..nets.measurement import Measurement
from .compared import Compared
from .explained import pair_name
from .page import escaped
from .similarities import matched_units

_LAYERS, _SHOWN = 3, 5  # layers, and inputs for each unit
_PIXELS, _COLOURS = 96, 96
_AROUND, _LONGEST = 8, 160  # tokens on either side, characters of a text


@dataclass(frozen=True)
class Matched:
    """Two matched units of one pair of layers.

    Attributes:
        rank: "best", "middle" or "worst".
        blocks: "network.layer" of either.
        units: the number of either.
        correlation: of the two.
    """

    rank: str
    blocks: tuple[str, str]
    units: tuple[int, int]
    correlation: float


def chosen_units(comparison: Compared) -> dict[tuple[str, str], list[Matched]]:
    """For up to three pairs of layers, from the first to the last, the best, middle and worst matched pair of units."""
    pairs = list(comparison.pairs)
    places = sorted({round(k * (len(pairs) - 1) / max(1, _LAYERS - 1)) for k in range(_LAYERS)})
    found = {}
    for pair in (pairs[place] for place in places):
        blocks = f"{comparison.a}.{pair[0]}", f"{comparison.b}.{pair[1]}"
        index, score = matched_units(comparison.measurement, *blocks)
        order = sorted((index >= 0).nonzero()[:, 0].tolist(), key=lambda unit, score=score: -float(score[unit]))
        ranks = {"best": 0, "middle": len(order) // 2, "worst": len(order) - 1}
        few = {} if not order else {place: rank for rank, place in reversed(ranks.items())}
        found[pair] = [
            Matched(rank, blocks, (order[place], int(index[order[place]])), float(score[order[place]]))
            for place, rank in sorted(few.items())
        ]
    return found


def units_part(comparison: Compared, inputs: object) -> tuple[str, list[str]]:
    """HTML of the chosen units with what excites them, and sentences of what could not be shown.

    Raises:
        ValueError: inputs that are of another kind, or that cannot be shown.
    """
    chosen, measured = chosen_units(comparison), comparison.measurement
    tops = {
        (block, unit): measured.top(block).image[unit][:_SHOWN].tolist()
        for pairs in chosen.values()
        for pair in pairs
        for block, unit in zip(pair.blocks, pair.units, strict=True)
    }
    wanted = sorted({number for numbers in tops.values() for number in numbers})
    shown = as_shown(inputs, wanted)
    lacking = [number for number in wanted if number not in shown] if inputs is not None else []
    count = f"{len(lacking)} of {len(wanted)} inputs that excite units most"
    said = [f"{count} were not given, such as number {lacking[0]}"] if lacking else []
    parts = []
    for pair, units in chosen.items():
        parts.append(f"<h3>{escaped(pair_name(pair))}</h3>")
        parts += [_of_pair(measured, one, shown) for one in units] or ["<p>No live units were matched.</p>"]
    return "\n".join(parts), said


def as_shown(inputs: object, numbers: list[int]) -> dict[int, object]:
    """What the inputs of these running numbers are, of those that are there.

    Raises:
        ValueError: inputs of no kind that can be shown.
    """
    if inputs is None or not numbers:
        return {}
    of = getattr(inputs, "shown", inputs)
    try:
        if callable(of):
            found = of(numbers)
            if not isinstance(found, Mapping):
                raise ValueError(f"expected a function that returns a dict by number, got {came(found, 60)}")
            return {number: found[number] for number in numbers if number in found}
        rows: Any = getattr(inputs, "images", inputs)
        if isinstance(rows, (str, bytes)) or not hasattr(rows, "__getitem__") or not hasattr(rows, "__len__"):
            raise ValueError(f"expected inputs by number, or a function from numbers to a dict, got {came(inputs, 60)}")
        there = set(rows) if isinstance(rows, Mapping) else range(len(rows))
        return {number: rows[number] for number in numbers if number in there}
    except Exception as error:  # whatever somebody's own may raise
        reason = in_one_line(error, 200).removeprefix("inputs: ")
        raise ValueError(f"inputs: {reason or type(error).__name__}") from error


def _of_pair(measured: Measurement, pair: Matched, shown: Mapping[int, object]) -> str:
    """A best, middle or worst pair of units."""
    title = f"{pair.rank} pair, correlation {pair.correlation:.2f}"
    rows = []
    for block, unit in zip(pair.blocks, pair.units, strict=True):
        top, size = measured.top(block), _size_of_map(measured, block)
        each = zip(*(part[unit][:_SHOWN].tolist() for part in (top.image, top.value, top.place)), strict=True)
        cells = "".join(_stimulus(shown.get(image), image, value, place, size) for image, value, place in each)
        rows.append(f'<div class="unit"><p>unit {unit} of {escaped(block)}</p><div class="stimuli">{cells}</div></div>')
    return f'<section class="pair"><h4>{title}</h4>{"".join(rows)}</section>'


def _size_of_map(measured: Measurement, block: str) -> tuple[int, int]:
    """Height and width; (1, 1) where places are not those of a map."""
    found = measured.maps.get(block)
    return (1, 1) if found is None else (found.shape[0], found.shape[1])


def _stimulus(item: object, number: int, value: float, place: Iterable[int], size: tuple[int, int]) -> str:
    """One input with its number and how much it excites the unit."""
    said = f"input {number}, {value:.3g}"
    text = _text(item, list(place), size, said)
    if text is not None:
        return text
    picture = as_picture(item)
    if picture is None:
        return f'<span class="number">{said}</span>'
    frame = ""
    if min(size) > 1:
        (row, column), (height, width) = place, size
        box = (100 * row / height, 100 * column / width, 100 / height, 100 / width)
        frame = '<i style="top:{:.2f}%;left:{:.2f}%;height:{:.2f}%;width:{:.2f}%"></i>'.format(*box)
    source = base64.b64encode(_png(picture)).decode()
    return (
        f'<figure class="picture"><span><img alt="{said}" src="data:image/png;base64,{source}">{frame}</span>'
        f"<figcaption>{number}: {value:.3g}</figcaption></figure>"
    )


def _text(item: object, place: list[int], size: tuple[int, int], said: str) -> str | None:
    """A text, or the tokens around the strongest; None of what is neither."""
    token = max(place) if max(size) > 1 else None
    tokens = list(item) if isinstance(item, (list, tuple)) else []
    if tokens and all(isinstance(each, str) for each in tokens):
        at = token if token is not None and token < len(tokens) else None
        first = 0 if at is None else max(0, at - _AROUND)
        last = min(len(tokens), (at or 0) + _AROUND + 1)
        words = [
            f"<mark>{escaped(word)}</mark>" if k == at else escaped(word)
            for k, word in enumerate(tokens[first:last], start=first)
        ]
        text = f"{'…' if first else ''}{''.join(words)}{'…' if last < len(tokens) else ''}"
    elif isinstance(item, str):
        text = escaped(item if len(item) <= _LONGEST else f"{item[:_LONGEST]}…")
    else:
        return None
    where = "" if token is None else f", token {token}"
    return f'<p class="text"><q>{text}</q> <small>{said}{where}</small></p>'


def as_picture(item: object) -> np.ndarray | None:
    """(height, width) or (height, width, 3) uint8; None of what is no picture.

    Floating-point pictures are (channels, height, width); they are stretched from their smallest value to the largest.
    """
    array = item.detach().cpu().float().numpy() if isinstance(item, Tensor) and item.dtype != torch.uint8 else item
    array = np.asarray(array) if isinstance(array, (Tensor, np.ndarray)) else None
    if array is None or array.size == 0 or array.ndim not in (2, 3):
        return None
    if array.dtype != np.uint8:
        if array.ndim != 3 or array.shape[0] not in (1, 3) or array.dtype.kind != "f" or not np.isfinite(array).all():
            return None
        low, high = float(array.min()), float(array.max())
        array = ((array - low) / max(high - low, 1e-12) * 255).astype(np.uint8).transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        return None
    array = array[:, :, :3] if array.ndim == 3 else array
    return array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array


def _png(pixels: np.ndarray) -> bytes:
    """Small: at most so many pixels high and wide, and so many colours."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((_PIXELS, _PIXELS))
    if image.mode != "L":
        image = image.quantize(_COLOURS)
    written = io.BytesIO()
    image.save(written, "PNG", optimize=True)
    return written.getvalue()
