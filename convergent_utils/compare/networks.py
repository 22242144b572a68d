"""Networks by name: anybody's function, torchvision, timm, a folder of transformers, a file of weights."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

from torch import Tensor, nn

from ..kernels.checks import as_seed, came, in_one_line, require_known, shown
from ..making.store import load
from ..nets.networks import WITH_HEADS, Network, build_network, torchvision_network, weighted
from ..nets.training import Trained
from .named import function_named, lacking, refused, seeded
from .preparing import Pictures
from .transformers_folder import load_folder
from .weights import fill, fitting, read_weights

_OWN = ("alexnet", "alexnet-narrow")
_KINDS = ("torchvision", "timm", "hf")
_FORMS = "module:function, torchvision:NAME, timm:NAME, hf:FOLDER, ARCHITECTURE@WEIGHTS or a file of cu.save"


@dataclass(frozen=True)
class Loaded:
    """A network, and how it is fed.

    Attributes:
        network: in eval mode.
        prepare: from a raw batch, pictures (n, height, width, channels) uint8 or a list of texts, to what the network
            takes, a tensor or a dict of them; None: what `measure` makes of pictures by itself, in [-1, 1], channels
            first.
        description: in one line, what it is, and whence its weights are.
        untrained: makes the same network with weights freshly drawn from a seed, in eval mode; None where it is not
            known how.
        drawn: whether its weights are themselves drawn from a seed, and not read.
    """

    network: nn.Module
    prepare: Callable[..., object] | None
    description: str
    untrained: Callable[[int], nn.Module] | None
    drawn: bool = False


def load_network(name: str, *, seed: int = 0) -> Loaded:
    """The network that a name stands for; nothing is downloaded, and no pickle is run.

    Args:
        name: one of

            - "module:function", or "path/to/file.py:function": what a function returns, called without arguments;
            - "torchvision:NAME" or "torchvision:NAME@WEIGHTS", in which pictures keep their size, unless the network
              has a fixed or a least one, and are normalised by ImageNet's mean and standard deviation;
            - "timm:NAME" or "timm:NAME@WEIGHTS", with the mean, deviation and fixed size that timm knows for it;
            - "hf:FOLDER": a local folder with config.json, read by transformers, with the weights of its
              model.safetensors where there are any, its tokenizer or else the bytes of texts, and the mean, deviation
              and size of its preprocessor_config.json;
            - "alexnet" or "alexnet-narrow", as in `build_network`, alone or with "@WEIGHTS", which also say how wide it
              is and how many channels and classes it has;
            - a file that `cu.save` wrote of a Network, a Trained, or a dict with such as "network".

            WEIGHTS is a file of safetensors, or of torch with nothing but tensors. Another number of classes than usual
            is read off it. Inception and GoogLeNet with WEIGHTS bring inputs to the scale that torchvision's own
            weights expect.
        seed: of all weights that are not read.

    Raises:
        ValueError: anything that is wrong with the name, or with what it stands for.

    Example:
        >>> load_network("alexnet-narrow", seed=1).description
        'alexnet-narrow, weights drawn from seed 1'
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"name: expected the name of a network, {_FORMS}, got {came(name, 40)}")
    seed, (kind, colon, rest) = as_seed(seed), name.partition(":")
    if os.path.isfile(name):
        return _of_file(name)
    if colon and kind in _KINDS:
        if not rest:
            raise ValueError(f"name: put a name or folder after {name}, as in {_FORMS}")
        if kind == "hf":
            return Loaded(*load_folder(rest, seed))
        make, prepare = (_torchvision, _of_torchvision) if kind == "torchvision" else (_timm, _of_timm)
        return _of_library(name, *rest.partition("@")[::2], make=make, prepare=prepare, seed=seed)
    architecture, _, path = name.partition("@")
    if architecture in _OWN:
        return _of_own(architecture, path, seed)
    if colon:
        return _of_function(name, seed)
    near = difflib.get_close_matches(architecture, _OWN, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"name: there is no file {shown(name, 80)}; {hint}expected {_FORMS}")


def _of_function(name: str, seed: int) -> Loaded:
    function = function_named(name, _KINDS)
    try:
        network = seeded(function, seed)
    except Exception as error:  # whatever somebody's own may raise
        raise refused(error, f"{shown(name, 80)} cannot be called") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"name: {shown(name, 80)} must return a torch.nn.Module, got {came(network, 60)}")
    if any(parameter.is_meta for parameter in network.parameters()):
        raise ValueError(f"name: {shown(name, 80)} must return weights with values, got some on the meta device")
    return Loaded(network.eval(), None, f"{shown(name)} ({type(network).__name__}), called with seed {seed}", None)


def _of_file(path: str) -> Loaded:
    """A checkpoint of this package."""
    if path.endswith(".py"):
        raise ValueError(f"name: {shown(path, 80)} may hold many functions; say which, as {shown(path, 80)}:make")
    try:
        network = load(path)
    except ValueError as error:
        mend = "weights alone need their architecture, as torchvision:resnet18@FILE"
        raise ValueError(f"name: {in_one_line(str(error).removeprefix('path: '), 200)}; {mend}") from error
    network = network.get("network") if isinstance(network, Mapping) else network
    network = network.network if isinstance(network, Trained) else network
    if not isinstance(network, Network):
        raise ValueError(f"name: {shown(path, 80)} holds no Network and no Trained, but {came(network, 60)}")
    said = f"{network.configuration['name']}, weights of {shown(path)}"
    return Loaded(network.eval(), None, said, partial(_own, network.configuration))


def _of_own(name: str, path: str, seed: int) -> Loaded:
    """A network of `build_network`, of the sizes that its weights have."""
    if not path:
        network = _own({"name": name}, seed)
        said = f"{name}, weights drawn from seed {seed}"
    else:
        weights, usual = read_weights(path), _own({"name": name})
        network = fill(_own({"name": name, **_sizes(fitting(weights, usual), usual)}), weights, path)
        said = f"{name}, weights of {shown(path)}"
    return Loaded(network.eval(), None, said, partial(_own, network.configuration), not path)


def _own(configuration: Mapping[str, Any], seed: int = 0) -> Network:
    """A network of this package, in eval mode."""
    arguments: dict[str, Any] = {**configuration, "seed": seed}
    return cast("Network", build_network(**arguments)).eval()  # others are those of torchvision alone


def _sizes(weights: Mapping[str, Tensor], usual: Network) -> dict[str, float]:
    """The arguments of `build_network` that weights tell; where some lack, `fill` refuses them."""
    first, last, hidden = (weights.get(name) for name in ("conv1.0.weight", "fc8.weight", "fc7.0.weight"))
    found = {}
    if first is not None and first.ndim == 4 and first.shape[1]:
        found["channels"] = first.shape[1]
    if last is not None and last.ndim == 2 and len(last):
        found["classes"] = len(last)
    if hidden is not None and 0 < len(hidden) <= 100 * len(weighted(usual, "fc7").weight):
        found["width"] = len(hidden) / len(weighted(usual, "fc7").weight)
    return found


def _of_library(
    name: str, architecture: str, path: str, *, make: Callable[[str, int | None, int], nn.Module],
    prepare: Callable[..., Pictures], seed: int,
) -> Loaded:  # fmt: skip
    """A network of torchvision or timm, with as many outputs as its weights have."""
    if "@" in name and not path:
        raise ValueError(f"name: put the path of a file of weights after {shown(name, 80)}, or leave out @")
    network, classes = make(architecture, None, seed), None
    if path:
        weights = read_weights(path)
        classes = _classes(fitting(weights, network), network)
        network = network if classes is None else make(architecture, classes, seed)
        network = fill(network, weights, path)
        if make is _torchvision and architecture.endswith(WITH_HEADS):
            # to the scale that torchvision's own weights expect
            network.transform_input = True  # ty: ignore[invalid-assignment]  # torch declares no such attributes
    said = f"{name.partition('@')[0]}, weights " + (f"of {shown(path)}" if path else f"drawn from seed {seed}")
    return Loaded(network.eval(), prepare(network, architecture), said, partial(make, architecture, classes), not path)


def _classes(weights: Mapping[str, Tensor], network: nn.Module) -> int | None:
    """How many outputs the weights have, where they are not as many as usual."""
    name, usual = list(network.named_parameters())[-1]
    found = weights.get(name)
    differs = found is not None and found.ndim == usual.ndim and len(found) != len(usual)
    return len(found) or None if differs else None


def _torchvision(name: str, classes: int | None, seed: int) -> nn.Module:
    try:
        return torchvision_network(name, classes=classes, seed=seed).eval()
    except ValueError as error:
        raise ValueError(f"name: {str(error).partition(': ')[2]}") from error


def _of_torchvision(network: nn.Module, name: str) -> Pictures:
    from torchvision import models

    fixed = getattr(network, "image_size", 224 if isinstance(network, models.MaxVit) else None)
    least = getattr(models.get_model_weights(name), "DEFAULT", None)
    least = max(least.meta.get("min_size", (1, 1))) if least is not None else 1
    if isinstance(getattr(network, "transform", None), nn.Module):  # detectors normalise by themselves
        return Pictures(mean=(0.0,) * 3, std=(1.0,) * 3)
    # torchvision names 224 for networks that take any size, too
    return Pictures(size=None if fixed is None else (fixed, fixed), at_least=least if least < 224 else 1)


class OfTimm(Protocol):
    """A network of timm."""

    pretrained_cfg: Mapping[str, Any]


def _timm(name: str, classes: int | None, seed: int) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise lacking(f"timm:{name}", "timm", error) from error
    if not timm.is_model(name):
        require_known(name, timm.list_models(), "name")
    sizes = {} if classes is None else {"num_classes": classes}
    try:
        return seeded(lambda: timm.create_model(name, pretrained=False, **sizes), seed).eval()
    except Exception as error:  # whatever timm raises
        raise refused(error, f"timm cannot make {shown(name, 60)}") from error


def _of_timm(network: OfTimm, name: str) -> Pictures:
    known = network.pretrained_cfg
    size = tuple(known["input_size"][1:]) if known.get("fixed_input_size") else None
    least = max((known.get("min_input_size") or (3, 1, 1))[1:])
    return Pictures(tuple(known["mean"]), tuple(known["std"]), size, least)
