"""What networks are given: tensors, data sets or batches that come one after the other, as each network takes them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler
from torch.utils.data import Dataset as TorchDataset

from ..kernels.checks import came, form_of, has_rows, in_one_line
from .datasets import Dataset, normalise
from .layers import unwrapped
from .modes import called_as_asked, input_like
from .networks import Network

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")
Prepare = Callable[..., object]
Mask = str | Callable[[object], object]


class Held:
    """Inputs in memory, any of which can be had by its number.

    Args:
        values: a tensor (n, ...), or several by keyword, all of n inputs.
    """

    def __init__(self, values: Tensor | dict[str, Tensor]):
        self.values = values
        self.length = len(values) if isinstance(values, Tensor) else len(next(iter(values.values())))

    def at(self, index: Tensor) -> Tensor | dict[str, Tensor]:
        """The batch of these numbers."""
        if isinstance(self.values, Tensor):
            return self.values[index]
        return {name: value[index] for name, value in self.values.items()}

    def batches(self, size: int) -> Iterator[Tensor | dict[str, Tensor]]:
        """All, in order."""
        return (self.at(index) for index in torch.arange(self.length).split(size))


class Stream:
    """Batches that come in an order of their own, once or as often as they are asked for.

    Args:
        source: an iterable of batches.
    """

    def __init__(self, source: Iterable[object]):
        self.source, self.length = source, _length_of(source)
        self.once = isinstance(source, Iterator)  # asked without a call, which would start a loader's processes
        self._first: list[object] = []

    def first(self) -> object:
        """The first batch; it comes again when all are gone through."""
        if not self._first:
            batch = next(self._begun(), None)
            if batch is None:
                raise ValueError("inputs: expected batches, got none; an iterator that was read is empty")
            self._first = [batch]
        return self._first[0]

    def batches(self, size: int) -> Iterator[object]:
        """All, in order; `size` is that of the batches as they come."""
        if self.once and self._first:
            return chain([self._first[0]], self.source)
        return self._begun()

    def _begun(self) -> Iterator[object]:
        try:
            return iter(self.source)
        except Exception as error:  # whatever somebody's own may raise
            raise ValueError(f"inputs: {form_of(self.source)} gives no batches: {in_one_line(error, 120)}") from error


class Feed:
    """What all networks are given, in step.

    Args:
        given: see `measure`.
        networks: their names.
        batch: how many inputs of what is held in memory go together.
    """

    def __init__(self, given: object, networks: Iterable[str], batch: int):
        networks, self.batch = list(networks), batch
        if isinstance(given, Mapping) and given and set(given) <= set(networks):
            if lacking := [name for name in networks if name not in given]:
                raise ValueError(
                    f"inputs: expected inputs of each network or of all, got none of {came(lacking[0], 60)}"
                )
            each = {name: given[name] for name in networks}
            self.sources = self._shared_of(each, lambda source: _source(source, batch))
        else:
            self.sources = dict.fromkeys(networks, _source(given, batch))
        lengths = {length for source in self.sources.values() if (length := source.length) is not None}
        if len(lengths) > 1:
            few, many = min(lengths), max(lengths)
            raise ValueError(
                f"inputs: expected as many of each network, in step, got {few} of one and {many} of another"
            )
        self.length: int | None = next(iter(lengths), None)
        self.held = all(isinstance(source, Held) for source in self.sources.values())
        self.n_held = self.length if self.held else None
        self.once = any(isinstance(source, Stream) and source.once for source in self.sources.values())

    def at(self, index: Tensor) -> dict[str, Tensor | dict[str, Tensor]]:
        """By network the batch of these numbers, where all are held."""
        held = {name: source for name, source in self.sources.items() if isinstance(source, Held)}
        return self._shared_of(held, lambda source: source.at(index))

    def first(self) -> dict[str, object]:
        """By network the first batch."""
        few = torch.arange(min(self.batch, self.length or 0))
        return self._shared(lambda source: source.at(few) if isinstance(source, Held) else source.first())

    def batches(self) -> Iterator[dict[str, object]]:
        """By network one batch after the other.

        Raises:
            ValueError: batches of unlike numbers of inputs, or one network has more of them.
        """
        running = self._shared(lambda source: source.batches(self.batch))
        while True:
            found = self._shared_of(running, lambda batches: next(batches, _END))
            ended = [name for name, batch in found.items() if batch is _END]
            if ended:
                if len(ended) < len(found):
                    raise ValueError(f"inputs: those of {came(ended[0], 60)} end before those of other networks")
                return
            numbers = {name: n_inputs(batch) for name, batch in found.items()}
            if len(set(numbers.values())) > 1:
                raise ValueError(f"inputs: expected as many in each batch of all networks, got {came(numbers, 150)}")
            yield found

    def _shared(self, made: Callable[[Held | Stream], _Made]) -> dict[str, _Made]:
        return self._shared_of(self.sources, made)

    @staticmethod
    def _shared_of(of: Mapping[str, _Given], made: Callable[[_Given], _Made]) -> dict[str, _Made]:
        """By network; what several networks share is made once."""
        once = {id(value): value for value in of.values()}
        found = {key: made(value) for key, value in once.items()}
        return {name: found[id(value)] for name, value in of.items()}


_END = object()
_UNKNOWN = object()


def _source(given: object, batch: int) -> Held | Stream:
    """Where inputs come from, whatever they are."""
    given = given.images if isinstance(given, Dataset) else given
    held = _as_held(given)
    if held is not None:
        return Held(held)
    if isinstance(given, Mapping):
        values = {name: _as_held(value) for name, value in given.items()}
        lengths = {0 if value is None else len(value) for value in values.values()}
        if not values or len(lengths) > 1 or not all(isinstance(name, str) for name in values) or lengths == {0}:
            raise ValueError(
                "inputs: expected a dict of equally long tensors by keyword, or of inputs by network, got "
                f"{came(list(given), 120)}"
            )
        return Held({name: value for name, value in values.items() if value is not None})
    if isinstance(given, TorchDataset) and not isinstance(given, torch.utils.data.IterableDataset):
        return Stream(DataLoader(given, batch_size=batch))
    if isinstance(given, (str, bytes, Tensor, np.ndarray, nn.Module)) or not isinstance(given, Iterable):
        raise ValueError(
            "inputs: expected (n, height, width, channels) uint8 or (n, channels, height, width) float, a Dataset, a "
            f"DataLoader or another iterable of batches, got {form_of(given)}"
        )
    if isinstance(given, DataLoader) and isinstance(given.sampler, RandomSampler):
        warnings.warn(
            "inputs: this loader comes in another order each time, so what excites a unit cannot be found again by its "
            "number; give it shuffle=False",
            stacklevel=2,
        )
    return Stream(given)


def _as_held(given: object) -> Tensor | None:
    """A tensor of inputs, of a tensor or an array; None of what is neither, or no inputs."""
    if hasattr(given, "__array__") and not isinstance(given, Tensor) and not np.ma.is_masked(given):
        given = _tensor_of(np.asarray(given))
    if not isinstance(given, Tensor) or not has_rows(given) or given.ndim == 0 or given.is_complex():
        return None
    if given.ndim == 4 and given.dtype != torch.uint8 and not given.is_floating_point():
        return None
    return given.detach()


def _tensor_of(array: np.ndarray) -> Tensor | np.ndarray:
    """The array as a tensor, over the same memory where that can be; as it came where it is of no numbers."""
    if array.dtype.kind not in "fiub":
        return array
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # and nothing is written
        try:
            return torch.from_numpy(array)
        except TypeError:
            return array


def _length_of(source: Iterable[object]) -> int | None:
    """How many inputs an iterable has, where that is known beforehand."""
    try:
        if isinstance(source, DataLoader):
            if source.batch_size is None:  # batches are of its data set's or sampler's own making
                return None
            sampler: Any = source.sampler  # what has no length raises a TypeError
            return len(source) * source.batch_size if source.drop_last else len(sampler)
        return sum(map(n_inputs, source)) if isinstance(source, (list, tuple)) else None
    except (TypeError, NotImplementedError):  # of data sets without a length
        return None


def first_of(batch: Any) -> Any:
    """The inputs of a batch: the first of a tuple or list of several things."""
    several = isinstance(batch, (tuple, list)) and len(batch) > 0
    return batch[0] if several and isinstance(batch[0], (Tensor, np.ndarray, Mapping, tuple, list)) else batch


def n_inputs(batch: Any) -> int:
    """How many inputs a batch has."""
    found = first_of(batch)
    if isinstance(found, Mapping):
        found = next((value for value in found.values() if hasattr(value, "__len__")), None)
    sized: Any = found  # what has no length raises a TypeError
    try:
        return len(sized)
    except TypeError as error:
        raise ValueError(f"inputs: expected batches of several inputs, got {form_of(found)}") from error


class Entrance:
    """How one network takes a batch.

    Args:
        name, network: whose it is.
        prepare: from a batch to the input of the network; None: as it is.
        mask: see `measure`; None where all rows count.
        device: where the network is called.
    """

    def __init__(self, name: str, network: nn.Module, prepare: Prepare | None, mask: Mask | None, device: torch.device):
        self.name, self.network, self.prepare, self.mask_of = name, unwrapped(network), prepare, mask
        self.device, self.warned = device, isinstance(self.network, Network)

    def inputs(self, batch: object) -> object:
        """The batch as the network takes it: a tensor, a dict of keyword arguments, or a tuple of arguments."""
        if self.prepare is None:
            made = self._as_it_is(first_of(batch))
        else:
            several = isinstance(batch, (tuple, list)) and first_of(batch) is not batch and _takes_several(self.prepare)
            try:
                made = self.prepare(*batch) if several else self.prepare(first_of(batch))
            except Exception as error:  # whatever somebody's own may raise
                given = form_of(first_of(batch))
                message = f"prepare: that of network {came(self.name, 40)} cannot take a batch, {given}"
                raise ValueError(f"{message}: {in_one_line(error, 120)}") from error
        like = input_like(self.network)
        return _placed(made, self.device, like.dtype)

    def _as_it_is(self, batch: object) -> object:
        """Arrays as tensors, pictures of bytes as numbers from -1 to 1."""
        if isinstance(batch, Mapping):
            return {str(name): value if (held := _as_tensor(value)) is None else held for name, value in batch.items()}
        found = _as_tensor(batch)
        if found is None:
            if isinstance(batch, (tuple, list)) and all(isinstance(value, Tensor) for value in batch):
                return list(batch)
            message = "expected tensors, arrays or dicts of them in a batch; make them by the option prepare"
            raise ValueError(f"inputs: {message}, got {form_of(batch)}")
        if found.dtype != torch.uint8 or found.ndim != 4:
            return found
        if not self.warned:
            self.warned = True
            warnings.warn(
                f"inputs: pictures of bytes become numbers from -1 to 1 for network {came(self.name, 60)}; if it was "
                "trained on others, as with ImageNet's mean, say so by the option prepare",
                stacklevel=2,
            )
        return normalise(found)

    def mask(self, batch: object, inputs: object) -> Tensor | None:
        """(n, ...) bool, which rows count; None where all do."""
        if self.mask_of is None:
            return None
        if isinstance(self.mask_of, str):
            holders = [held for held in (inputs, first_of(batch)) if isinstance(held, Mapping)]
            found = next((held[self.mask_of] for held in holders if self.mask_of in held), None)
            if found is None:
                keys = list(dict.fromkeys(str(key) for held in holders for key in held))
                message = f"there is no {came(self.mask_of, 60)} in a batch of network {came(self.name, 40)}"
                raise ValueError(f"mask: {message}; it has {came(keys, 80) if keys else 'no keys'}")
        else:
            try:
                found = self.mask_of(first_of(batch))
            except Exception as error:  # whatever somebody's own may raise
                message = f"cannot be made of a batch, {form_of(first_of(batch))}"
                raise ValueError(f"mask: {message}: {in_one_line(error, 120)}") from error
        return self._as_mask(found, n_inputs(batch))

    def _as_mask(self, found: object, n: int) -> Tensor:
        mask = found if isinstance(found, Tensor) else _as_tensor(found)
        fits = mask is not None and has_rows(mask) and mask.ndim in (1, 2, 3) and len(mask) == n
        if not fits or not ((mask == 0) | (mask == 1)).all():
            expected = f"({n},) or ({n}, tokens) of 0 and 1, 1 where a row counts"
            raise ValueError(f"mask: expected {expected}, for network {came(self.name, 40)}, got {form_of(found)}")
        return mask.to(self.device) != 0

    def call(self, inputs: object) -> None:
        """Call the network; what it cannot take is refused."""
        called_as_asked(self.network, inputs, self.name)


def given_to(entrances: Mapping[str, Entrance], batch: Mapping[str, object]) -> dict[str, tuple[object, Tensor | None]]:
    """By network what it is given of a batch, and which rows of it count."""
    found = {}
    for name, entrance in entrances.items():
        inputs = entrance.inputs(batch[name])
        found[name] = inputs, entrance.mask(batch[name], inputs)
    return found


def picked(inputs: object, index: Tensor, n: int) -> object | None:
    """Those of this index among n inputs, as a network takes them; None where it cannot be told which are which."""
    if isinstance(inputs, Tensor):
        return None if inputs.ndim and len(inputs) != n else inputs[index.to(inputs.device)] if inputs.ndim else inputs
    if isinstance(inputs, Mapping):
        found = {name: _picked_within(value, index, n) for name, value in inputs.items()}
        return None if any(value is _UNKNOWN for value in found.values()) else found
    if isinstance(inputs, tuple):
        found = tuple(_picked_within(value, index, n) for value in inputs)
        return None if any(value is _UNKNOWN for value in found) else found
    return [inputs[k] for k in index.tolist()] if isinstance(inputs, list) and len(inputs) == n else None


def _picked_within(value: object, index: Tensor, n: int) -> object:
    """As `picked`, of one argument among several."""
    if not hasattr(value, "__len__") or isinstance(value, str):
        return value
    found = picked(value, index, n)
    return _UNKNOWN if found is None else found


def _as_tensor(value: object) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    found = _tensor_of(np.asarray(value)) if hasattr(value, "__array__") else None
    return found if isinstance(found, Tensor) else None


def _placed(value: object, device: torch.device, dtype: torch.dtype) -> object:
    """On the device, floating-point numbers in the type of the network's weights."""
    if isinstance(value, Tensor):
        return value.to(device, dtype if value.is_floating_point() else value.dtype)
    if isinstance(value, np.ndarray) and isinstance(found := _tensor_of(value), Tensor):
        return _placed(found, device, dtype)
    if isinstance(value, Mapping):
        return {str(name): _placed(each, device, dtype) for name, each in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)([_placed(each, device, dtype) for each in value]) if type(value) in (tuple, list) else value
    return value


def _takes_several(function: Callable) -> bool:
    """Whether it asks for more than one argument."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    placed = [each for each in found if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    several = any(each.kind is each.VAR_POSITIONAL for each in found)
    return several or sum(each.default is each.empty for each in placed) > 1
