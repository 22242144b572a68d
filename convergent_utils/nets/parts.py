"""The parts of all inputs that a process takes, and how a network is called on each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.checks import came
from .distributed import n_processes, rank, share
from .inputs import Entrance, Feed, given_to, n_inputs, picked

Known = Callable[[int, Mapping[str, object]], None]
_GROUP = 256  # inputs of a stream that one of several processes takes together


@dataclass(frozen=True)
class Options:
    """Options of `measure` that have to do with the pass, once they are read."""

    pairs: list[tuple[str, str]]
    positions: str | int
    axes: Mapping[str, Mapping[str, str | None]]
    output: Mapping[str, Mapping[str, Callable[[object], Tensor] | None]]
    autocast: torch.dtype | None
    flattened: tuple[str, ...]
    folds: int
    sample: int
    top: int
    seed: int
    first: int


@dataclass(frozen=True)
class Part:
    """Part of the inputs.

    Attributes:
        numbers: (n,) int64, of the inputs of a batch.
        mine: (mine,) int64, which of them this process takes.
        given: by network, its inputs and the mask of their rows, see `given_to`.
    """

    numbers: Tensor
    mine: Tensor
    given: dict[str, tuple[object, Tensor | None]]


@dataclass(frozen=True)
class Call:
    """One call of a network.

    Attributes:
        inputs: as the network takes them.
        n: how many there are.
        which: (mine,) int64, which of them are this process's.
        mask: (mine, ...) bool, their rows that count; None where all do.
    """

    inputs: object
    n: int
    which: Tensor
    mask: Tensor | None


def parts(
    feed: Feed, entrances: Mapping[str, Entrance], options: Options, done: Tensor | tuple, known: Known | None
) -> Iterator[tuple[Part, bool]]:
    """Batches, and whether with each a fold ends that this process has a share of.

    Args:
        feed: what is held in memory is gone through fold by fold, the rest as it comes.
        entrances: how each network takes it.
        options: of the pass.
        done: numbers of inputs that are measured already.
        known: called with how many inputs a batch of a stream has, and what the networks are given of it.
    """
    done = torch.as_tensor(done, dtype=torch.int64)
    if feed.n_held is not None and not options.flattened:
        for fold in range(options.folds):
            numbers = torch.arange(options.first, options.first + feed.n_held)
            mine = share(numbers[numbers % options.folds == fold])
            split = mine[~torch.isin(mine, done)].split(feed.batch) if len(mine) else ()
            for k, part in enumerate(split, start=1):
                given = given_to(entrances, feed.at(part - options.first))
                yield Part(part, torch.arange(len(part)), given), k == len(split)
        return
    first = options.first
    for batch in feed.batches():
        numbers = torch.arange(first, first + n_inputs(next(iter(batch.values()))))
        mine = (numbers - options.first) // _GROUP % n_processes() == rank()
        mine = (mine & ~torch.isin(numbers, done)).nonzero()[:, 0]
        given = given_to(entrances, batch) if known is not None or len(mine) else {}
        if known is not None:
            known(len(numbers), given)
        yield Part(numbers, mine, given), False
        first += len(numbers)


def call_of(name: str, part: Part) -> Call:
    """How a network is called on this process's inputs of a batch."""
    inputs, mask = part.given[name]
    n, which = len(part.numbers), torch.arange(len(part.mine))
    mask = None if mask is None else mask[part.mine.to(mask.device)]
    if len(part.mine) < n:
        few = picked(inputs, part.mine, n)
        inputs, n, which = (inputs, n, part.mine) if few is None else (few, len(part.mine), which)
    return Call(inputs, n, which, mask)


def counted_in(calls: Mapping[str, Call], part: Part) -> Tensor:
    """(mine,) bool, which inputs have rows that count, the same in all networks.

    Raises:
        ValueError: they differ between networks.
    """
    masks = {name: call.mask for name, call in calls.items() if call.mask is not None}
    of = {name: (mask if mask.ndim == 1 else mask.flatten(1).any(1)).cpu() for name, mask in masks.items()}
    if not of:
        return torch.ones(len(part.mine), dtype=torch.bool)
    first = next(iter(of))
    for name, counted in of.items():
        if not counted.equal(of[first]):
            message = "expected the same inputs to have rows that count in all networks, they differ in"
            raise ValueError(f"mask: {message} {came(first, 60)} and {came(name, 60)}")
    return of[first]
