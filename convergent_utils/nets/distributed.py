"""Several processes that measure together, as torchrun starts them: what they found is merged into the whole.

Parts are merged in pairs, and the results in pairs again (a tree), so that any number of processes takes few rounds.
Whatever has `merge` and can be saved can be merged so.

Every function here is called by all processes in the same order. Where torch.distributed is not initialised there is
one process, and what it has is the whole. With the nccl backend call `torch.cuda.set_device(LOCAL_RANK)` first.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, Self, TypeVar, overload

import torch
import torch.distributed
from torch import Tensor

from ..kernels.moments import Moments
from ..making.encoding import decode, encode
from .modes import in_one_line


class Mergeable(Protocol):
    """What can be merged."""

    def merge(self, other: Self) -> Self:
        """Both together, as a new object."""


Found = TypeVar("Found", bound=Mergeable)


def all_reduce(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The merge of the `Moments.state()` of all processes; every process gets the state of the whole.

    Args:
        state: of the same blocks and pairs in every process. Counts may differ, a process without rows has counts of 0.

    Returns:
        A new state, each tensor on the device where it was. Where torch.distributed is not initialised, `state` itself,
        once it is looked at.

    Raises:
        ValueError: in every process, when one of them gives no such state, or one of other blocks or pairs.

    NaN and infinity stay in the units that have them and are reported when a pair is read, as in a single process.

    Example:
        >>> moments = Moments({"a": 1, "b": 1})
        >>> moments.update({"a": torch.ones(5, 1), "b": torch.ones(5, 1)})
        >>> Moments.from_state(all_reduce(moments.state())).n_samples("a")
        5
    """
    with same_fate():
        shapes, moments = _shapes(state), _moments(state)
    if n_processes() == 1:
        return state
    _require_alike_shapes(gather(shapes))
    whole = merged(moments).state()
    return {key: whole[key].to(value.device) for key, value in state.items()}


@overload
def merged(part: Found) -> Found: ...
@overload
def merged(part: Found | None) -> Found | None: ...
def merged(part: Found | None) -> Found | None:
    """The merge of what all processes have; the same in every one. None is what nothing was found of.

    Raises:
        ValueError: in every process, when two parts cannot be merged.
    """
    step = 1
    while step < n_processes():
        sends = rank() % (2 * step) == step
        others = _exchanged(part if sends else None, {number: number - step for number in _senders(step)})
        with same_fate():
            if sends:
                part = None
            elif others is not None:
                part = others if part is None else part.merge(others)
        step *= 2
    return part if n_processes() == 1 else _from_first(part)


def _senders(step: int) -> range:
    """The processes that hand over what they have in this round."""
    return range(step, n_processes(), 2 * step)


def _exchanged(part: object, routes: Mapping[int, int]) -> Any:
    """What a process is sent, from one process to another along each route; None where it is sent nothing."""
    tree, tensors = _taken_apart(part)
    forms = gather((tree, {key: (value.shape, value.dtype) for key, value in tensors.items()}))
    if rank() in routes:
        for value in tensors.values():
            torch.distributed.send(_to_send(value), routes[rank()])
    source = next((number for number, to in routes.items() if to == rank()), None)
    if source is None:
        return None
    tree, shapes = forms[source]
    came = {key: _empty(*form) for key, form in shapes.items()}
    for value in came.values():
        torch.distributed.recv(value, source)
    return decode(tree, {key: value.cpu() for key, value in came.items()})


def _from_first(part: object) -> Any:
    """What process 0 has, in every process."""
    tree, tensors = _taken_apart(part if rank() == 0 else None)
    tree, shapes = gather((tree, {key: (value.shape, value.dtype) for key, value in tensors.items()}))[0]
    came = {}
    for key, form in shapes.items():
        came[key] = _to_send(tensors[key]) if rank() == 0 else _empty(*form)
        torch.distributed.broadcast(came[key], 0)
    return part if rank() == 0 else decode(tree, {key: value.cpu() for key, value in came.items()})


def _taken_apart(part: object) -> tuple[object, dict[str, Tensor]]:
    """A tree of plain values, and the tensors that go with it."""
    tensors: dict[str, Tensor] = {}
    return encode(part, tensors), tensors


def _device() -> str:
    """Where the backend takes tensors."""
    return "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"


def _to_send(value: Tensor) -> Tensor:
    return value.to(_device()).contiguous()


def _empty(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=_device())


def n_processes() -> int:
    """How many processes work together; 1 where torch.distributed is not initialised."""
    return torch.distributed.get_world_size() if _initialised() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return torch.distributed.get_rank() if _initialised() else 0


def share(index: Tensor) -> Tensor:
    """The images of `index` (n,) that this process takes: number `rank()`, then every `n_processes()`-th. None twice,
    none padded: shares may differ by one image, or be empty.
    """
    return index[index % n_processes() == rank()]


def gather(obj: object) -> list:
    """What every process gave, by rank. For small things: they are pickled."""
    if not _initialised():
        return [obj]
    everyone: list = [None] * n_processes()
    torch.distributed.all_gather_object(everyone, obj)
    return everyone


@contextmanager
def same_fate() -> Generator[None]:
    """What one process raises within it, all raise, so that none waits in vain for another. Never nested."""
    error = None
    try:
        yield
    except Exception as raised:
        error = raised
    kind = ValueError if isinstance(error, ValueError) else RuntimeError
    fates = gather(None if error is None else (kind, str(error)))
    if error is not None:
        raise error
    for number, fate in enumerate(fates):
        if fate is not None:
            raise fate[0](f"{fate[1]} (process {number})")


def require_alike(obj: object, argument: str) -> None:
    """All processes have the same `obj`, a value of plain Python."""
    for number, other in enumerate(gather(obj)):
        if other != obj:
            raise ValueError(f"{argument}: expected the same in every process, process {number} has others")


def _initialised() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes of a state's tensors."""
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"state: expected Moments.state(), a dict of tensors, got {type(state).__name__}")
    return {key: tuple(value.shape) for key, value in state.items()}


def _moments(state: Mapping[str, Tensor]) -> Moments:
    """The moments of a state."""
    try:
        return Moments.from_state({key: value.cpu() for key, value in state.items()})
    except ValueError as error:
        raise ValueError(f"state: {in_one_line(error, 250).removeprefix('tensors: ')}") from error


def _require_alike_shapes(shapes: list[dict]) -> None:
    """Every process has blocks and pairs as the first one; the error names what differs."""
    first = shapes[0]
    for number, other in enumerate(shapes):
        for key in [*first, *other]:
            if first.get(key) != other.get(key):
                raise ValueError(
                    f"state: expected the same blocks and pairs in every process, got {key!r} of shape "
                    f"{first.get(key)} in process 0 and {other.get(key)} in process {number}"
                )
