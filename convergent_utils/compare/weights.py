"""Weights from files that hold nothing but numbers; no pickle is ever run."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from ..kernels.checks import in_one_line, shown
from .named import refused

Net = TypeVar("Net", bound=nn.Module)

_SAFE = ".safetensors"
_WITHIN = ("state_dict", "model_state_dict", "model")  # where training scripts keep weights
_BEFORE = ("module.", "_orig_mod.", "model.", "network.", "net.")  # what wrappers write before each name
_LEFT_OUT = ("AuxLogits.", "aux")  # outputs in the middle, of use while a network is trained
_COUNTER = "num_batches_tracked"  # no layer's output depends on it
_CONVERT = 'safetensors.torch.save_file(model.state_dict(), "weights.safetensors")'


def read_weights(path: str) -> dict[str, Tensor]:
    """Weights by name from a safetensors file, or one of torch that holds nothing but tensors.

    Raises:
        ValueError: the file is missing, damaged or holds no weights; or it is a pickle that could run code.
    """
    if not os.path.isfile(path):
        raise ValueError(f"name: there is no file {shown(path)} with weights")
    try:
        read = _safe(path) if path.endswith(_SAFE) else _of_torch(path)
    except (pickle.UnpicklingError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "TorchScript" not in str(error):
            raise refused(error, f"cannot read {shown(path, 80)}") from error
        said = f"{shown(path, 60)} is a pickle of more than weights, which could run code, or is damaged"
        raise ValueError(f"name: {said}; where you trust it, convert it: {_CONVERT}") from error
    except Exception as error:  # a damaged file raises many kinds of error
        raise refused(error, f"cannot read {shown(path, 80)}") from error
    for key in _WITHIN:
        read = read[key] if isinstance(read, Mapping) and isinstance(read.get(key), Mapping) else read
    weights = {name: value for name, value in read.items() if isinstance(value, Tensor)} if _is_dict(read) else {}
    if not weights:
        raise ValueError(f"name: {shown(path, 60)} holds no weights by name; write it by {_CONVERT}")
    return weights


def fill(network: Net, weights: Mapping[str, Tensor], path: str) -> Net:
    """The network with these weights, all of them, in double precision where any of them is.

    Raises:
        ValueError: weights that are missing, too many or of another shape; the first few are named.
    """
    weights, own = fitting(weights, network), network.state_dict()
    weights = {name: value for name, value in weights.items() if name in own or not name.startswith(_LEFT_OUT)}
    differing = {
        "lacks": [name for name in own if name not in weights and not name.endswith(_COUNTER)],
        "has besides": [name for name in weights if name not in own],
        "has in another shape": [
            f"{name} {tuple(weights[name].shape)} for {tuple(value.shape)}"
            for name, value in own.items()
            if name in weights and weights[name].shape != value.shape
        ],
    }
    said = [f"it {how} {_first(names)}" for how, names in differing.items() if names]
    if said:
        raise ValueError(f"name: {shown(path, 60)} does not fit: {in_one_line('; '.join(said), 220)}")
    if any(value.dtype == torch.float64 for value in weights.values()):
        network = network.double()
    network.load_state_dict(weights, strict=False)
    return network


def fitting(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Weights under the names that the network has for them: what wrappers write before all names is cut off."""
    known = set(network.state_dict())
    found = dict(weights)
    while not known & set(found):
        before = next((each for each in _BEFORE if all(name.startswith(each) for name in found)), None)
        if before is None:
            return dict(weights)
        found = {name.removeprefix(before): value for name, value in found.items()}
    return found


def _safe(path: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def _of_torch(path: str) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about files that it then refuses
        return torch.load(path, map_location="cpu", weights_only=True)


def _is_dict(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _first(names: list[str], most: int = 2) -> str:
    said = ", ".join(in_one_line(name, 60) for name in names[:most])
    return said if len(names) <= most else f"{said} and {len(names) - most} more"
