"""Deep networks of three families, alike in all but how their blocks are built: plain, residual and inception."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ..kernels.checks import as_count, came

FAMILIES = ("plain", "residual", "inception")
_UNITS = (12, 24, 48)  # of the stages, each at half the resolution of the one before
_PER_STEP = 2 * len(_UNITS)  # layers of one block in each stage
_LEAST, _MOST = 2 + _PER_STEP, 2 + 100 * _PER_STEP
_BRANCHES = ("1x1", "3x3", "5x5", "pool")


class Around(nn.Module):
    """The path around a residual block: every `stride`-th place, and units of zeros where the block has more.

    It has no weights (option A of He et al. 2016), so a unit of the stream stays the same unit in all stages.
    """

    def __init__(self, stride: int, extra: int):
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, units, height, width) to (n, units + extra, height / stride, width / stride), rounded up."""
        return F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


class Residual(nn.Module):
    """A block that adds to a stream of units; what comes out, after a ReLU, is the stream.

    Attributes:
        inner: the first convolution, batch norm and ReLU.
        added: the second convolution and batch norm, what the block adds.
        around: the stream as it comes in, on its way past both.
    """

    def __init__(self, inputs: int, units: int, stride: int):
        super().__init__()
        self.inner = _convolution(inputs, units, 3, stride)
        self.added = _convolution(units, units, 3, relu=False)
        self.around = Around(stride, units - inputs)
        self.relu = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """The stream after the block."""
        return self.relu(self.around(maps) + self.added(self.inner(maps)))

    def paths(self) -> list[list[nn.Module]]:
        """Ways from what comes in to what is added up."""
        return [[self.inner, self.added], [self.around]]

    def below(self, part: str) -> list[nn.Module]:
        """What comes in has passed these modules before it meets a part of the block."""
        passed: dict[str, list[nn.Module]] = {"inner": [], "added": [self.inner], "around": [], "relu": [self]}
        return passed[part]


class Inception(nn.Module):
    """A block of four branches side by side, each a quarter of the units: 1x1, 3x3, 5x5, and a pooling.

    The two wide convolutions read a layer of 1x1 convolutions of their own. That is 5/3 as wide as the block (in the
    original it is narrower), with which a block has as many weights as two convolutions of 3x3.
    """

    def __init__(self, inputs: int, units: int, stride: int):
        super().__init__()
        inner, quarter = 5 * units // 3, units // 4
        chains = (
            [_convolution(inputs, quarter, 1, stride)],
            [_convolution(inputs, inner, 1), _convolution(inner, quarter, 3, stride)],
            [_convolution(inputs, inner, 1), _convolution(inner, quarter, 5, stride)],
            [nn.MaxPool2d(3, stride, padding=1), _convolution(inputs, quarter, 1)],
        )
        for name, chain in zip(_BRANCHES, chains, strict=True):
            self.add_module(name, nn.Sequential(*chain))

    def forward(self, maps: Tensor) -> Tensor:
        """The units of all branches, one branch after the other."""
        return torch.cat([branch(maps) for branch in self.children()], dim=1)

    def paths(self) -> list[list[nn.Module]]:
        """Ways from what comes in to what is joined."""
        return [[branch] for branch in self.children()]

    def below(self, part: str) -> list[nn.Module]:
        """What comes in has passed these modules before it meets a branch: none."""
        return []


def modules_of(name: str, channels: int, classes: int, width: float, depth: int) -> OrderedDict[str, nn.Module]:
    """The chain of a network: a stem, blocks of two layers in three stages, the mean over places, and the classes.

    Args:
        name: one of `FAMILIES`.
        channels: of the images.
        classes: number of outputs.
        width: factor on all units but the outputs; stages stay divisible by four.
        depth: 8, 14, 20 and so on, see `as_depth`.
    """
    stages = [max(4, 4 * round(width * units / 4)) for units in _UNITS]
    modules: OrderedDict[str, nn.Module] = OrderedDict(stem=_convolution(channels, stages[0], 3, 2))
    inputs, per_stage = stages[0], (depth - 2) // _PER_STEP
    for stage, units in enumerate(stages):
        for k in range(per_stage):
            block = {"plain": _plain, "residual": Residual, "inception": Inception}[name]
            stride = 2 if stage and not k else 1
            modules[f"block{stage * per_stage + k + 1}"] = block(inputs, units, stride)
            inputs = units
    modules |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(inputs, classes)}
    return modules


def as_depth(depth: object) -> int:
    """Layers with weights on the way from the image to the classes: a stem, two in each block, and the last.

    Raises:
        ValueError: not 8, 14, 20 and so on, up to 602.
    """
    found = as_count(depth, "depth")
    if not _LEAST <= found <= _MOST or (found - 2) % _PER_STEP:
        raise ValueError(f"depth: expected 8, 14, 20 and so on by six up to {_MOST}, got {came(depth)}")
    return found


def initialise(network: nn.Sequential, generator: torch.Generator) -> None:
    """Draw weights that keep the size of signals (He et al. 2015); batch norm starts as it is made."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        nn.init.kaiming_normal_(network.get_parameter("fc.weight"), nonlinearity="linear", generator=generator)
        nn.init.zeros_(network.get_parameter("fc.bias"))


def shuffle(network: nn.Sequential, generator: torch.Generator) -> dict[str, Tensor]:
    """Shuffle the hidden units of a network in place, so that it still computes the same.

    Units of a residual stream keep their places over blocks together, those that a stage adds among themselves; units
    of an inception block stay in their branch.

    Returns:
        For the stem, each block, and each convolution within a block by its path (such as "block1.inner"), a
        permutation (units,) int64 whose entry j is the unit from before that stands at place j now.
    """
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        found["stem"] = incoming = _shuffled(network.get_submodule("stem"), None, generator)
        for name, module in network.named_children():
            if name.startswith("block"):
                incoming = _shuffle_block(module, name, incoming, generator, found)
        weight = network.get_parameter("fc.weight")
        weight.copy_(weight[:, incoming])
    return found


def _shuffle_block(
    block: nn.Module, name: str, incoming: Tensor, generator: torch.Generator, found: dict[str, Tensor]
) -> Tensor:
    """Shuffle one block, note how, and return the order of its units."""
    if isinstance(block, Inception):
        order, before = [], 0
        for branch, chain in block.named_children():
            inside = incoming
            for layer in (layer for layer in chain.children() if not isinstance(layer, nn.MaxPool2d)):
                inside = _shuffled(layer, inside, generator)
            found[f"{name}.{branch}"] = inside
            order.append(before + inside)
            before += len(inside)
        found[name] = torch.cat(order)
        return found[name]
    found[f"{name}.inner"] = inner = _shuffled(block.get_submodule("inner"), incoming, generator)
    if isinstance(block, Residual):
        new = torch.randperm(block.around.extra, generator=generator)
        found[name] = torch.cat([incoming, len(incoming) + new])
        _reorder(block.added, inner, found[name])
        found[f"{name}.added"] = found[name]
    else:
        found[name] = found[f"{name}.outer"] = _shuffled(block.get_submodule("outer"), inner, generator)
    return found[name]


def _shuffled(layer: nn.Module, incoming: Tensor | None, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(layer.get_parameter("0.weight")), generator=generator)
    _reorder(layer, incoming, order)
    return order


def _reorder(layer: nn.Module, incoming: Tensor | None, order: Tensor) -> None:
    """Put the units of a convolution and its batch norm into this order, and its inputs into that of those below."""
    weight = layer.get_parameter("0.weight")
    weight.copy_((weight if incoming is None else weight[:, incoming])[order])
    norm = [layer.get_parameter("1.weight"), layer.get_parameter("1.bias")]
    for values in (*norm, layer.get_buffer("1.running_mean"), layer.get_buffer("1.running_var")):
        values.copy_(values[order])


def _plain(inputs: int, units: int, stride: int) -> nn.Sequential:
    """A block of two convolutions, one after the other."""
    return nn.Sequential(OrderedDict(inner=_convolution(inputs, units, 3, stride), outer=_convolution(units, units, 3)))


def _convolution(inputs: int, units: int, size: int, stride: int = 1, *, relu: bool = True) -> nn.Sequential:
    """A convolution with batch norm, after which its biases would change nothing."""
    chain = [nn.Conv2d(inputs, units, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(units)]
    return nn.Sequential(*chain, *([nn.ReLU(inplace=True)] if relu else []))
