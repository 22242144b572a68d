r"""Several processes that measure together, as torchrun starts them: what each of them found becomes the whole.

Process :math:`r` has counts :math:`n_r`, means :math:`\mu_r, \nu_r` and comoments :math:`C_r` of two blocks. Chan's
merge of all of them at once is

.. math:: \mu = \frac1n \sum_r n_r \mu_r, \qquad
          C = \sum_r \left[ C_r + n_r (\mu_r - \mu)(\nu_r - \nu)^\top \right],

two sums over the processes, whatever their number. Each one shifts its comoments to the common means by itself; what
is squared are deviations of means, so nothing is lost where means are large.

Every function here is called by all processes in the same order. Where torch.distributed is not initialised there is
one process, and what it has is the whole. With the nccl backend call `torch.cuda.set_device(LOCAL_RANK)` first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.distributed
from torch import Tensor

from .modes import in_one_line

_KINDS = ("count", "resolution", "mean", "comoment")


def all_reduce(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The merge of the `Moments.state()` of all processes; every process gets the state of the whole.

    Args:
        state: of the same blocks and pairs in every process. Counts may differ, a process without rows has counts of 0.

    Returns:
        A new state: counts are summed, means and comoments merged in float64, the resolution of a block is the
        coarsest of all processes. Each tensor is on the device where it was. Where torch.distributed is not
        initialised, `state` itself, once it is looked at.

    Raises:
        ValueError: in every process, when one of them gives no such state, or one of other blocks or pairs.

    NaN and infinity stay in the units that have them and are reported when a pair is read, as in a single process.
    """
    with same_fate():
        header = _header(state)
    if n_processes() == 1:
        return state
    headers = gather(header)
    _require_alike_headers(headers)
    names, pairs = _names(state, "mean"), [name.split("|") for name in _names(state, "comoment")]
    count, mean = ({name: state[f"{kind}/{name}"] for name in names} for kind in ("count", "mean"))
    total = {name: sum(other[f"count/{name}"] for other in headers) for name in names}
    sums = sum_over_processes([_times(count[name], mean[name].double()) for name in names])
    common = {name: value / max(1, total[name]) for name, value in zip(names, sums, strict=True)}
    apart = {name: mean[name].double() - common[name] for name in names}
    shifted = [
        _times(count[a], torch.outer(apart[a], apart[b])).add_(_times(count[a] > 0, state[f"comoment/{a}|{b}"]))
        for a, b in pairs
    ]
    merged = {f"comoment/{a}|{b}": value for (a, b), value in zip(pairs, sum_over_processes(shifted), strict=True)}
    for name in names:
        resolution = max(other[f"resolution/{name}"] for other in headers)
        merged[f"count/{name}"], merged[f"mean/{name}"] = torch.tensor(total[name]), common[name]
        merged[f"resolution/{name}"] = torch.tensor(resolution, dtype=torch.float64)
    return {key: merged[key].to(value.device) for key, value in state.items()}


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


def sum_over_processes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sums of tensors of the same shapes in every process, in one collective.

    They are summed in float64 on the device of the backend, and come back in the types and on the devices they had.
    """
    if n_processes() == 1 or not tensors:
        return list(tensors)
    device = torch.device("cuda" if torch.distributed.get_backend() == "nccl" else "cpu")
    flat = torch.cat([tensor.flatten().to(device).double() for tensor in tensors])  # mps has no float64: move first
    torch.distributed.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [
        part.reshape(tensor.shape).to(tensor.dtype).to(tensor.device)
        for part, tensor in zip(parts, tensors, strict=True)
    ]


@contextmanager
def same_fate() -> Iterator[None]:
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


def _names(state: Mapping[str, Tensor], kind: str) -> list[str]:
    """Names of the blocks or pairs that have a tensor of this kind, in the same order in every process."""
    return sorted(key.partition("/")[2] for key in state if key.startswith(f"{kind}/"))


def _times(count: Tensor, value: Tensor) -> Tensor:
    """`value`, `count` times; zeros where that is nothing, since 0 times NaN is NaN."""
    return value * int(count) if count else torch.zeros_like(value)


def _header(state: Mapping[str, Tensor]) -> dict[str, int | float | tuple[int, ...]]:
    """What the processes must know of each other's state: counts and resolutions, and the shapes of the rest."""
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"state: expected Moments.state(), a dict of tensors, got {type(state).__name__}")
    header: dict[str, int | float | tuple[int, ...]] = {}
    for key, value in state.items():
        kind, _, name = str(key).partition("/")
        blocks = name.split("|") if kind == "comoment" else [name]
        needed = [f"{part}/{block}" for block in blocks for part in ("count", "resolution", "mean")]
        lacks = next((each for each in needed if each not in state), None)
        if kind not in _KINDS or lacks is not None or value.ndim != _dimensions(kind):
            shown = in_one_line(repr(key), 80)
            came = f"{shown} of shape {tuple(value.shape)}" if lacks is None else f"{shown} without {lacks[:80]!r}"
            raise ValueError(f"state: expected Moments.state(), got {came}")
        header[key] = value.item() if kind in ("count", "resolution") else tuple(value.shape)
    return header


def _dimensions(kind: str) -> int:
    """Of the tensors of this kind."""
    return {"mean": 1, "comoment": 2}.get(kind, 0)


def _require_alike_headers(headers: list[dict]) -> None:
    """Every process has blocks and pairs as the first one; the error names what differs."""
    first = {key: value for key, value in headers[0].items() if isinstance(value, tuple)}
    for number, header in enumerate(headers):
        other = {key: value for key, value in header.items() if isinstance(value, tuple)}
        for key in [*first, *other]:
            if first.get(key) != other.get(key):
                raise ValueError(
                    f"state: expected the same blocks and pairs in every process, got {key!r} of shape "
                    f"{first.get(key)} in process 0 and {other.get(key)} in process {number}"
                )
