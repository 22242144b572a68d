"""The networks that are compared, and a copy whose units are shuffled."""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, cast, overload

import numpy as np
import torch
from torch import Tensor, nn

from ..kernels.checks import as_count, as_seed, as_whole, came, is_number, require_known
from . import architectures
from .modes import in_one_line, require_module

_Own = Literal["alexnet", "alexnet-narrow", "plain", "residual", "inception"]
_WIDTHS = {  # convolutions 1 to 5, fully connected 6 and 7
    "alexnet": ((24, 48, 64, 64, 48), (128, 128)),
    "alexnet-narrow": ((16, 24, 32, 32, 24), (64, 64)),
}
_KERNELS = (5, 5, 3, 3, 3)
_DEPTH = 14  # of deep networks, where it is not given
_WIDEST = 100  # times the usual widths: 1.5 thousand million weights
# what modules hold that is compared otherwise, or says nothing of what they compute
_APART = ("training", "configuration", "_parameters", "_buffers", "_modules", "_is_full_backward_hook")
_CONVOLUTION_STD = 0.02  # AlexNet's own was .01
_CONNECTED_BIAS = 1.0  # as AlexNet's
_TORCHVISION = "torchvision:"
WITH_HEADS = ("inception_v3", "googlenet")  # that are trained with further outputs, which nothing needs afterwards


class Network(nn.Sequential):
    """A chain of named modules; those in ``layers`` can be recorded, after their ReLU.

    Attributes:
        configuration: the arguments of `build_network` that made it.
        layers: names of its layers from bottom to top: conv1 to fc8; or stem, block1 and so on, fc.

    Example:
        >>> build_network("alexnet-narrow").layers
        ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8')
    """

    def __init__(self, modules: OrderedDict[str, nn.Module], configuration: dict[str, Any]):
        if not isinstance(modules, Mapping) or not isinstance(configuration, Mapping):
            given = type(configuration if isinstance(modules, Mapping) else modules).__name__
            raise ValueError(f"modules: expected modules by name and a configuration, two dicts, got {given}")
        super().__init__(OrderedDict(modules))
        self.configuration = configuration
        self.layers = tuple(name for name in modules if name.startswith(("conv", "fc", "stem", "block")))

    def state(self) -> dict[str, object]:
        """Configuration and weights, of which `from_state` makes it again.

        Raises:
            ValueError: the network was changed since it was built.
        """
        changed = change_of(self)
        if changed is not None:
            remedy = "remove what was added, or save its state_dict instead"
            raise ValueError(f"obj: cannot save a Network whose modules were changed ({changed}); {remedy}")
        return {"configuration": self.configuration, "weights": dict(self.state_dict())}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Network:
        """The network whose `state` it was, in eval mode, its weights in the type that they had."""
        require_known(state["configuration"]["name"], (*_WIDTHS, *architectures.FAMILIES), "name")
        network: Network = build_network(**state["configuration"])
        network.load_state_dict({name: value.clone() for name, value in state["weights"].items()}, assign=True)
        return network.eval()


@overload
def build_network(
    name: _Own, *, channels: int | None = None, classes: int = 10, width: float = 1.0, seed: int = 0,
    depth: int | None = None,
) -> Network: ...  # fmt: skip
@overload
def build_network(
    name: str, *, channels: int | None = None, classes: int = 10, width: float = 1.0, seed: int = 0,
    depth: int | None = None,
) -> nn.Module: ...  # fmt: skip
def build_network(
    name: str, *, channels: int | None = None, classes: int = 10, width: float = 1.0, seed: int = 0,
    depth: int | None = None,
) -> nn.Module:  # fmt: skip
    """An untrained network with weights drawn from `seed`.

    Args:
        name: "alexnet" (convolutions of 24-48-64-64-48 channels, fully connected 128-128) or "alexnet-narrow"
            (16-24-32-32-24, 64-64), both with layers conv1 to conv5, fc6, fc7, fc8. The last pooling gives 3 x 3 for
            images of any size (at least 12 x 12). "plain", "residual" and "inception": deep networks with batch norm,
            see `depth`. Or "torchvision:NAME", as "torchvision:resnet18": a network of torchvision, which is no
            `Network`, with weights as torchvision draws them; nothing is downloaded.
        channels: of the images, as 1 or 3; None: 1, and 3 for torchvision's, which take no other.
        classes: number of outputs of fc8, or of torchvision's last layer.
        width: factor on every width but that of the last layer, at most 100; torchvision's have width 1.
        seed: of the weights. As in AlexNet, convolutions start small (normal, standard deviation .02) and the biases of
            fc6 and fc7 at one; other biases are zero, and fully connected weights have variance 2 / fan-in (He et al.
            2015). At that larger scale the random start would still be most of a convolution's final weights, so that
            what is compared is hardly learned. Above conv1 each unit's weights are centred: what all its inputs share
            then adds nothing, where else it silences up to a third of a layer for good. Deep networks have batch norm
            and start as He et al. (2015) say.
        depth: layers with weights on the way through "plain", "residual" or "inception", 14 by default: 8, 14, 20 and
            so on, a stem of stride 2, then blocks of two layers in three stages of 12, 24 and 48 units, layers block1
            and so on, and fc. Plain and residual ones have as many weights, inception a tenth more at most (at depth 8
            a fifth). Within a block can be recorded "block1.inner", the first of its layers; "block1.outer" of plain
            ones; what a residual block adds to its stream, "block1.added"; and branches, "block1.1x1", "3x3", "5x5",
            "pool".

    Raises:
        ValueError: unknown name; channels, classes, width, seed or depth out of range; a depth where the name tells it;
            torchvision is not installed.

    Example:
        >>> build_network("torchvision:resnet18", classes=100).fc.out_features
        100
    """
    if depth is not None and name not in architectures.FAMILIES:
        raise ValueError(
            f"depth: expected of {', '.join(architectures.FAMILIES)} only, got {came(depth)}; leave it out"
        )
    if isinstance(name, str) and name.startswith(_TORCHVISION):
        for argument, given, only in (("channels", 3 if channels is None else channels, 3), ("width", width, 1)):
            if not (is_number(given) and given == only):
                raise ValueError(f"{argument}: a network of torchvision has {only}, got {came(given)}; leave it out")
        return torchvision_network(name.removeprefix(_TORCHVISION), classes=as_count(classes, "classes"), seed=seed)
    return own_network(name, 1 if channels is None else channels, classes, width, seed, depth)


def torchvision_network(name: str, *, classes: int | None = None, seed: int = 0) -> nn.Module:
    """A network of torchvision with weights drawn from `seed`; nothing is downloaded.

    Args:
        name: as in `torchvision.models.list_models`.
        classes: number of outputs; None: as many as torchvision's own, for ImageNet 1,000.
        seed: of the weights.

    Raises:
        ValueError: unknown name, classes that no memory holds, or torchvision is not installed.

    Further outputs in the middle, with which Inception and GoogLeNet are trained, are left out.
    """
    try:
        from torchvision import models
    except ImportError as error:
        said = f"{in_one_line(name, 40)} needs torchvision, which cannot be imported ({in_one_line(error, 80)})"
        raise ValueError(f"name: {said}; `pip install torchvision`") from error
    require_known(name, models.list_models(), "name")
    build = models.get_model_builder(name)
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if name.endswith(WITH_HEADS):
        options |= {"aux_logits": False, "init_weights": True}
    if "weights_backbone" in inspect.signature(build).parameters:  # else it is downloaded
        options["weights_backbone"] = None
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(as_seed(seed))
            return build(weights=None, **options)
    except (RuntimeError, TypeError, MemoryError, OverflowError) as error:
        argument, size = ("name", "") if classes is None else ("classes", f" of {classes} classes")
        raise ValueError(f"{argument}: cannot make {_TORCHVISION}{name}{size}: {in_one_line(error)}") from error


def own_network(name: str, channels: int, classes: int, width: float, seed: int, depth: int | None = None) -> Network:
    """A network of this package, see `build_network`."""
    require_known(name, (*_WIDTHS, *architectures.FAMILIES), "name")
    channels, classes, seed = as_count(channels, "channels"), as_count(classes, "classes"), as_seed(seed)
    if not is_number(width) or not 0 < float(width) <= _WIDEST:
        raise ValueError(f"width: expected a positive number of at most {_WIDEST}, got {came(width)}")
    width = width.item() if isinstance(width, np.generic) else width
    configuration: dict[str, Any] = {"name": name, "channels": channels, "classes": classes, "width": width}
    configuration["seed"] = seed
    if name in architectures.FAMILIES:
        configuration["depth"] = _DEPTH if depth is None else architectures.as_depth(depth)
    chain = _modules if name in _WIDTHS else architectures.modules_of
    sizes = {argument: value for argument, value in configuration.items() if argument != "seed"}
    try:
        with torch.random.fork_rng(devices=[]):  # torch draws weights of its own, which are replaced
            modules = chain(**sizes)
    except (RuntimeError, TypeError, MemoryError, OverflowError) as error:  # sizes that no memory holds, or no integer
        amounts = {"channels": channels, "classes": classes, "width": (100 * width) ** 2}
        largest = max(amounts, key=lambda argument: amounts[argument])
        raise ValueError(f"{largest}: cannot make a network of these sizes: {in_one_line(error)}") from error
    return _initialised(Network(modules, configuration), seed)


def _modules(name: str, channels: int, classes: int, width: float) -> OrderedDict[str, nn.Module]:
    """The chain of a network."""
    convolutions, connected = ([max(1, round(width * units)) for units in part] for part in _WIDTHS[name])
    inputs = channels
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for k, (units, size) in enumerate(zip(convolutions, _KERNELS, strict=True), start=1):
        modules[f"conv{k}"] = nn.Sequential(nn.Conv2d(inputs, units, size, padding=size // 2), nn.ReLU(inplace=True))
        if k in (1, 2):
            modules[f"pool{k}"] = nn.MaxPool2d(2)
        inputs = units
    modules["pool5"], modules["flatten"] = nn.AdaptiveMaxPool2d(3), nn.Flatten()
    inputs *= 9
    for k, units in enumerate(connected, start=6):
        modules[f"fc{k}"] = nn.Sequential(nn.Linear(inputs, units), nn.ReLU(inplace=True))
        inputs = units
    modules["fc8"] = nn.Linear(inputs, classes)
    return modules


def permuted_copy(network: nn.Module, *, seed: int) -> tuple[Network, dict[str, Tensor]]:
    """The same function with its hidden units shuffled: every method must find the shuffle out.

    Args:
        network: one of `build_network`.
        seed: of the permutations.

    Returns:
        The copy, and for each hidden layer a permutation (units,) int64 whose entry j is the original unit that stands
        at place j of the copy; of deep networks also for the layers within blocks, see `build_network`. The units of
        the last layer are classes and keep their places. Units of a residual stream move together in all its blocks,
        those of an inception block within their branch.

    Raises:
        ValueError: another kind of network, or one that was changed, as with another module, attribute or a hook.

    Example:
        >>> network = build_network("alexnet-narrow", seed=0)
        >>> images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        >>> shuffled, permutations = permuted_copy(network, seed=1)
        >>> torch.allclose(shuffled(images), network(images), atol=1e-4), len(permutations["conv1"])
        (True, 16)
    """
    network = as_built(network)
    generator, permutations = torch.Generator().manual_seed(as_seed(seed)), {}
    if network.configuration["name"] in architectures.FAMILIES:
        copied = copy.deepcopy(network)
        return copied, architectures.shuffle(copied, generator)
    for layer in network.layers[:-1]:
        permutations[layer] = torch.randperm(len(weighted(network, layer).weight), generator=generator)
    return with_units(network, permutations, width=network.configuration["width"]), permutations


def with_units(network: nn.Module, units: Mapping[str, Tensor], *, width: float) -> Network:
    """A network of some units of another's hidden layers, with the weights that they had there.

    Args:
        network: "alexnet" or "alexnet-narrow" of `build_network`.
        units: for each hidden layer the original units (units,) int64 that stand at the places of the new one.
        width: as in `build_network`, of the new network; it says how many units each layer has.

    Raises:
        ValueError: another kind of network, one that was changed, a hidden layer that is left out, units that the
            network does not have, or another number of them than that width has.

    Example:
        >>> network, halves = build_network("alexnet-narrow"), (8, 12, 16, 16, 12, 32, 32)
        >>> units = dict(zip(network.layers, map(torch.arange, halves)))
        >>> with_units(network, units, width=0.5).fc6[0].out_features
        32
    """
    network = as_alexnet(network)
    units = _as_units(network, units)
    sizes: dict[str, Any] = {**network.configuration, "width": width}
    made: Network = build_network(**sizes).to(next(network.parameters()))
    incoming, below = None, 0
    with torch.no_grad():
        for layer in network.layers:
            source, target = weighted(network, layer), weighted(made, layer)
            weight, bias = source.weight, source.get_parameter("bias")
            target_bias = target.get_parameter("bias")
            if incoming is not None:  # each unit below feeds as many inputs: one, or all places of its map
                weight = weight.unflatten(1, (below, -1))[:, incoming.to(weight.device)].flatten(1, 2)
            if layer != network.layers[-1]:
                incoming, below = units[layer], len(weight)
                weight, bias = weight[incoming.to(weight.device)], bias[incoming.to(bias.device)]
            if weight.shape != target.weight.shape:
                raise ValueError(f"units: expected {len(target.weight)} of {layer} at width {width}, got {len(weight)}")
            target.weight.copy_(weight)
            target_bias.copy_(bias)
            target.weight.requires_grad_(source.weight.requires_grad)
            target_bias.requires_grad_(source.get_parameter("bias").requires_grad)
    return made.train(network.training)


def weighted(network: Network, layer: str) -> nn.Conv2d | nn.Linear:
    """The module of a layer that carries its weights."""
    module = network.get_submodule(layer)
    found = module[0] if isinstance(module, nn.Sequential) else module
    return cast("nn.Conv2d | nn.Linear", found)  # a layer is a convolution or linear map, or begins with one


def as_own(network: nn.Module) -> Network:
    """It, a network of `build_network`."""
    if not isinstance(network, Network):
        raise ValueError(f"network: expected one made by build_network, got {type(network).__name__}")
    require_module(network)
    return network


def as_built(network: nn.Module) -> Network:
    """It, a network of `build_network` whose configuration says all of it but its weights."""
    own = as_own(network)
    changed = change_of(own)
    if changed is not None:
        raise ValueError(f"network: expected one as build_network makes it, got one with {changed}")
    return own


def as_alexnet(network: nn.Module) -> Network:
    """It, "alexnet" or "alexnet-narrow" as it was built: each of its layers reads the one below."""
    built = as_built(network)
    if built.configuration["name"] not in _WIDTHS:
        raise ValueError(f"network: expected one of {', '.join(_WIDTHS)}, got {came(built.configuration['name'])}")
    return built


def change_of(network: Network) -> str | None:
    """In what a network differs from what `build_network` makes of its configuration, in a few words; None: nothing.

    Weights may have any values and types.
    """
    try:
        with torch.device("meta"):  # a network without memory
            made: Network = build_network(**network.configuration)
    except (TypeError, ValueError) as error:
        return f"another configuration ({in_one_line(error, 100)})"
    ours, theirs = (dict(net.named_modules(remove_duplicate=False)) for net in (network, made))
    if list(ours) != list(theirs):
        name = next((name for name in (*ours, *theirs) if (name in ours) != (name in theirs)), "another order")
        return f"other modules ({in_one_line(name, 80)})"
    for name, module in ours.items():
        if changed := _changed(module, theirs[name]):
            return f"{changed} in {name or 'the network itself'}"
    return None


def _changed(module: nn.Module, other: nn.Module) -> str | None:
    """In what a module differs from another, its own modules aside."""
    if type(module) is not type(other):
        return f"a {in_one_line(type(module).__name__, 60)} for a {type(other).__name__}"
    for name in vars(module):
        if name not in _APART and not _equal(vars(module)[name], vars(other).get(name, _APART)):
            return name.strip("_").replace("_", " ") if name.startswith("_") else f"another {in_one_line(name, 60)}"
    ours, theirs = (_shapes(one) for one in (module, other))
    return None if ours == theirs else "other weights"


def _equal(ours: object, theirs: object) -> bool:
    """Whether both are equal; what cannot be compared is not."""
    with suppress(TypeError, ValueError, RuntimeError):
        return bool(type(ours) is type(theirs) and ours == theirs)
    return False


def _shapes(module: nn.Module) -> dict[str, object]:
    """The shapes of a module's own weights and buffers."""
    found = {**module._parameters, **module._buffers}
    return {name: None if value is None else tuple(value.shape) for name, value in found.items()}


def _as_units(network: Network, units: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Indices int64 of units of each hidden layer."""
    hidden = network.layers[:-1]
    if not isinstance(units, Mapping) or any(layer not in hidden for layer in units):
        given = came(list(units)) if isinstance(units, Mapping) else type(units).__name__
        raise ValueError(f"units: expected units by hidden layer, {', '.join(hidden)}, got {given}")
    found = {}
    for layer in hidden:
        n_units, given = len(weighted(network, layer).weight), units.get(layer)
        found[layer] = as_whole(given, "units", what=f"some of the {n_units} of {layer}")
        wrong = found[layer][(found[layer] < 0) | (found[layer] >= n_units)]
        if len(wrong):
            raise ValueError(f"units: expected some of the {n_units} of {layer}, got {int(wrong[0])}")
    return found


def _initialised(network: Network, seed: int) -> Network:
    if next(network.parameters()).is_meta:  # a structure without values; to draw them costs torch a second
        return network
    generator = torch.Generator().manual_seed(seed)
    if network.configuration["name"] in architectures.FAMILIES:
        architectures.initialise(network, generator)
        return network
    with torch.no_grad():
        for layer in network.layers:
            module = weighted(network, layer)
            if layer.startswith("conv"):
                nn.init.normal_(module.weight, std=_CONVOLUTION_STD, generator=generator)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if layer != "conv1":
                module.weight -= module.weight.mean(tuple(range(1, module.weight.ndim)), keepdim=True)
            nn.init.constant_(module.get_parameter("bias"), _CONNECTED_BIAS if layer in ("fc6", "fc7") else 0.0)
    return network
