"""Activations that were saved, read from where they lie, and a network that gives them out layer by layer."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..kernels.checks import came, in_one_line, shown
from .named import refused

_ENDINGS = (".npy", ".npz", ".safetensors")
_ALONE = "activations"  # the layer of an array without a name
_FLOATS = {name: getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64")}
_SAFE = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
_HEADER = 30  # bytes of a zip file before the name of an entry


class _Array(NamedTuple):
    """An array in a file: its shape, its type, and what reads rows of it from one place to another."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    rows: Callable[[int, int], Tensor]


@dataclass(frozen=True)
class SavedRows:
    """Rows of saved activations, which stay in their files until they are read.

    Attributes:
        parts: of each file its number of samples, and its arrays by layer.
        layers: the type of each layer's activations.
    """

    parts: Sequence[tuple[int, Mapping[str, _Array]]] = field(repr=False)
    layers: Mapping[str, torch.dtype]

    def __len__(self) -> int:
        return sum(length for length, _ in self.parts)

    def __call__(self, places: Sequence[int]) -> dict[str, Tensor]:
        """The rows at consecutive places, by layer."""
        first, end, found, begin = places[0], places[-1] + 1, {name: [] for name in self.layers}, 0
        for length, arrays in self.parts:
            low, high = max(first - begin, 0), min(end - begin, length)
            begin += length
            for name in self.layers if low < high else ():
                found[name].append(arrays[name].rows(low, high))
        return {name: rows[0] if len(rows) == 1 else torch.cat(rows) for name, rows in found.items()}


def saved_rows(path: str) -> SavedRows:
    """The activations in a file, or in a folder of parts.

    Args:
        path: a file .npy of one array, which becomes the layer "activations"; .npz or .safetensors, of which each array
            is a layer; or a folder of such files of one kind, joined in the order of their names, in which numbers are
            ordered by value. Arrays are (samples, units) of floats, or (samples, ...) as a layer gives them out.

    Files are mapped into memory and not read whole, but for compressed .npz.

    Raises:
        ValueError: a file that is missing or cannot be read, or arrays that do not fit together.
    """
    files = _files(path) if os.path.isdir(path) else [path]
    parts = [_arrays(file) for file in files]
    usual = {name: (array.shape[1:], array.dtype) for name, array in parts[0].items()}
    for file, arrays in zip(files, parts, strict=True):
        others = {name: (array.shape[1:], array.dtype) for name, array in arrays.items()}
        if others != usual:
            name = next(iter(sorted(name for name in {*usual, *others} if usual.get(name) != others.get(name))))
            said = f"layer {came(name, 60)} is {_form(others.get(name))} and in {os.path.basename(files[0]):.40} "
            raise ValueError(f"name: {shown(file, 80)}: its {said}{_form(usual.get(name))}")
    lengths = [next(iter(arrays.values())).shape[0] for arrays in parts]
    layers = {name: dtype for name, (_, dtype) in usual.items() if dtype is not None}
    return SavedRows(list(zip(lengths, parts, strict=True)), layers)


class SavedActivations(nn.Module):
    """A network whose layers give out what they are given: saved activations can be recorded as any others.

    Args:
        layers: names of layers; dots in them stand for modules within modules. With types, as `SavedRows.layers`, the
            network is of the most precise of them, else of float32.

    Example:
        >>> network = SavedActivations(["block.0", "block.1"])
        >>> [name for name, _ in network.named_modules()]
        ['', 'block', 'block.0', 'block.1']
    """

    def __init__(self, layers: Mapping[str, torch.dtype] | Iterable[str]):
        super().__init__()
        types = list(layers.values()) if isinstance(layers, Mapping) else [torch.float32]
        dtype = max(types, key=lambda dtype: torch.finfo(dtype).bits, default=torch.float32)
        self.register_buffer("_like", torch.empty(0, dtype=dtype), persistent=False)  # tells of what type inputs are
        for name in layers:
            _place(self, name)

    def forward(self, /, **rows: Tensor) -> dict[str, Tensor]:
        """Each layer is called with its rows."""
        return {name: _find(self, name)(value) for name, value in rows.items()}


def _place(network: nn.Module, name: str) -> None:
    """Make the module of a layer, and those that it lies in.

    Names go straight among the modules, since a layer may be called as a method is ("type").
    """
    if not isinstance(name, str) or not all(name.split(".")):
        raise ValueError(f"layers: expected names of layers, got {came(name, 60)} among them")
    for step in name.split("."):
        within = network._modules.get(step)
        if within is None:
            within = network._modules[step] = nn.Identity()
        network = within


def _find(network: nn.Module, name: str) -> nn.Module:
    for step in name.split("."):
        within = network._modules.get(step)
        if within is None:
            raise ValueError(f"inputs: there is no layer {came(name, 60)}")
        network = within
    return network


def _files(folder: str) -> list[str]:
    names = [name for name in os.listdir(folder) if name.endswith(_ENDINGS) and not name.startswith(".")]
    if not names:
        raise ValueError(f"name: {shown(folder)} holds no file that ends in {', '.join(_ENDINGS)}")
    kinds = sorted({os.path.splitext(name)[1] for name in names})
    if len(kinds) > 1:
        raise ValueError(f"name: expected parts of one kind in {shown(folder)}, got {', '.join(kinds)}")
    return [os.path.join(folder, name) for name in sorted(names, key=_by_number)]


def _by_number(name: str) -> list[tuple[int, str]]:
    """So that part 10 comes after part 2."""
    return [(int(piece), piece) if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", name)]


def _arrays(file: str) -> dict[str, _Array]:
    """The arrays of a file by layer, all of as many samples."""
    if not os.path.isfile(file):
        raise ValueError(f"name: there is no file or folder {shown(file)}")
    ending = os.path.splitext(file)[1]
    if ending not in _ENDINGS:
        raise ValueError(f"name: expected a file that ends in {', '.join(_ENDINGS)}, or a folder, got {shown(file)}")
    try:
        found = {".npy": _of_npy, ".npz": _of_npz, ".safetensors": _of_safetensors}[ending](file)
    except Exception as error:  # a damaged file raises many kinds of error
        raise refused(error, f"cannot read {shown(file, 80)}") from error
    for name, array in found.items():
        if array.dtype is None or len(array.shape) < 2 or 0 in array.shape:
            expected = "activations (samples, units) of floats of 16 to 64 bits"
            kind = f"{array.shape} of another type" if array.dtype is None else f"{array.shape}"
            raise ValueError(f"name: {shown(file, 80)}: expected {expected}, got {came(name, 40)} {kind}")
    lengths = {array.shape[0]: name for name, array in found.items()}
    if len(lengths) != 1:
        said = ", ".join(f"{n} in {in_one_line(name, 40)}" for n, name in list(lengths.items())[:2]) or "none at all"
        raise ValueError(f"name: {shown(file, 80)}: expected layers of as many samples each, got {said}")
    return found


def _of_npy(file: str) -> dict[str, _Array]:
    return {_ALONE: _in_numpy(np.load(file, mmap_mode="r", allow_pickle=False), partial(np.load, file, mmap_mode="r"))}


def _of_npz(file: str) -> dict[str, _Array]:
    found = {}
    with zipfile.ZipFile(file) as archive:
        for item in archive.infolist():
            open_it = partial(_mapped, file, item.header_offset)
            if item.compress_type != zipfile.ZIP_STORED:
                with np.load(file, allow_pickle=False) as arrays:
                    whole = arrays[item.filename]
                open_it = partial(np.asarray, whole)
            found[item.filename.removesuffix(".npy")] = _in_numpy(open_it(), open_it)
    return found


def _mapped(file: str, offset: int) -> np.ndarray:
    """An array that lies as it is in a zip file, from the header of its entry on."""
    with open(file, "rb") as stream:
        stream.seek(offset)
        header = stream.read(_HEADER)
        stream.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), os.SEEK_CUR)
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        if dtype.hasobject:
            raise ValueError("it holds objects of Python, which are not read")
        order = "F" if fortran else "C"
        return np.memmap(file, dtype, "r", stream.tell(), shape, order) if 0 not in shape else np.empty(shape, dtype)


def _in_numpy(array: np.ndarray, open_it: Callable[[], np.ndarray]) -> _Array:
    return _Array(array.shape, _FLOATS.get(array.dtype.newbyteorder("=").name), partial(_rows_of_numpy, open_it))


def _rows_of_numpy(open_it: Callable[[], np.ndarray], low: int, high: int) -> Tensor:
    """Rows from one place to another, copied."""
    rows = open_it()[low:high]
    return torch.from_numpy(np.array(rows, dtype=rows.dtype.newbyteorder("="), order="C"))


def _of_safetensors(file: str) -> dict[str, _Array]:
    from safetensors import safe_open

    found = {}
    with safe_open(file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118
            array = opened.get_slice(name)
            rows = partial(_rows_of_safetensors, file, name)
            found[name] = _Array(tuple(array.get_shape()), _SAFE.get(array.get_dtype()), rows)
    return found


def _rows_of_safetensors(file: str, name: str, low: int, high: int) -> Tensor:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return opened.get_slice(name)[low:high]


def _form(of: tuple[tuple[int, ...], torch.dtype | None] | None) -> str:
    return "not there" if of is None else f"{of[0]} {str(of[1]).removeprefix('torch.')}"
