"""What is a network worth when a layer is left fewer dimensions, or less time to learn?"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from ..kernels.checks import as_count, as_floats, as_share, as_whole, came, is_number, require_known
from .modes import called, evaluating, in_one_line, input_like, require_hooks, require_module
from .networks import as_alexnet, weighted
from .subspaces import as_acts, as_map, mapped, orthonormal

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LONGEST_SIDE = 2**31 - 1


@contextmanager
def projected(network: nn.Module, layer: str, matrix: Tensor, mean: Tensor) -> Generator[None]:
    """Within the block, the network goes on from `layer` with what `project` leaves of its activations.

    ::

        with cu.projected(network, "fc6", cu.subspace_projection(found.directions_a[:, :10]), pair.mean_a):
            cu.accuracy(network, test_set)

    Args:
        network: any torch module.
        layer: name of one of its submodules.
        matrix, mean: see `project`.

    Raises:
        ValueError: a layer that the network lacks; a compiled or traced network, which would pass over the block; when
            it is called, other numbers of units.

    Example:
        >>> network, onto = torch.nn.Sequential(torch.nn.Identity()), subspace_projection(torch.tensor([[1.0], [1.0]]))
        >>> with projected(network, "0", onto, torch.zeros(2)):
        ...     network(torch.tensor([[3.0, 1.0]])).round()
        tensor([[2., 2.]])
    """
    require_hooks(network)
    modules = dict(network.named_modules())
    require_known(layer, modules, "layer")
    moves = as_map(matrix, mean)

    def move(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        """What is left of the layer's output."""
        return mapped(as_acts(output, "layer"), *moves)

    hook = modules[layer].register_forward_hook(move)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def ablated(network: nn.Module, layer: str, units: Sequence[int] | Tensor, mean: Tensor) -> Generator[None]:
    """Within the block, some units of a layer say their mean whatever the input: what is the network worth without?

    ::

        with cu.ablated(network, "fc6", [3, 17], pair.mean_a):
            cu.accuracy(network, test_set)

    Args:
        network: any torch module.
        layer: name of one of its submodules, whose output is (n, units), (n, tokens, units) or (n, units, height,
            width).
        units: numbers of the units that are ablated, each at most once; none leaves the network as it is.
        mean: (units,) of all units of the layer, as `Measurement.mean_activation` gives it, or (height, width, units),
            the mean at each place of their maps, as `Measurement.mean_map` does.

    Raises:
        ValueError: a layer that the network lacks, units that it does not have or that are named twice; a compiled or
            traced network, which would pass over the block; when it is called, other numbers of units or places.

    With the mean, and not with zero, what follows loses what the unit tells of the input and nothing else.
    Source: Morcos et al. 2018, ablation of single units (there to zero, and to the mean).

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Identity())
        >>> with ablated(network, "0", [1], torch.tensor([0.5, 0.5, 0.5])):
        ...     network(torch.ones(1, 3))
        tensor([[1.0000, 0.5000, 1.0000]])
    """
    require_hooks(network)
    modules = dict(network.named_modules())
    require_known(layer, modules, "layer")
    mean = as_floats(mean, "mean", "floating (units,) or (height, width, units)")
    if mean.ndim not in (1, 3):
        raise ValueError(f"mean: expected (units,) or (height, width, units), got {tuple(mean.shape)}")
    gone = _as_units(units, mean.shape[-1])

    def silence(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        """The layer's output with these units at their mean."""
        return without(as_acts(output, "layer"), gone, mean)

    hook = modules[layer].register_forward_hook(silence)
    try:
        yield
    finally:
        hook.remove()


def without(acts: Tensor, units: Tensor, mean: Tensor) -> Tensor:
    """A copy of a layer's activations in which these units (k,) say their mean, see `ablated`."""
    last = acts.movedim(1, -1) if acts.ndim == 4 else acts
    if last.shape[-1] != mean.shape[-1] or (mean.ndim == 3 and last.shape[1:] != mean.shape):
        raise ValueError(f"mean: expected that of outputs {tuple(last.shape[1:])}, got {tuple(mean.shape)}")
    left, units = last.clone(), units.to(acts.device)
    left[..., units] = mean.to(acts)[..., units]
    return left.movedim(-1, 1) if acts.ndim == 4 else left


def _as_units(units: object, count: int) -> Tensor:
    """Numbers of units (k,) int64, each once."""
    numbers = as_whole(units, "units", what="numbers of units in a list, such as [3, 17]")
    outside = (numbers < 0) | (numbers >= count)
    if outside.any():
        raise ValueError(f"units: expected numbers from 0 to {count - 1}, got {int(numbers[outside][0])}")
    if len(numbers.unique()) < len(numbers):
        raise ValueError(f"units: expected each unit once, got {came(units)}")
    return numbers


def split_after(network: nn.Module, layer: str) -> tuple[nn.Sequential, nn.Sequential]:
    """The part of a chain of modules up to `layer`, and the part after it; both share the network's weights.

    Raises:
        ValueError: a network that is no chain, a layer that the network lacks.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
        >>> below, above = split_after(network, "1")
        >>> below(torch.ones(1, 3)).shape, above(below(torch.ones(1, 3))).equal(network(torch.ones(1, 3)))
        (torch.Size([1, 5]), True)
    """
    if not isinstance(network, nn.Sequential) or type(network).forward is not nn.Sequential.forward:
        raise ValueError(f"network: expected a chain of modules (nn.Sequential), got {type(network).__name__}")
    names = list(network._modules)  # named_children leaves out a module's second place in the chain
    require_known(layer, names, "layer")
    after = names.index(layer) + 1
    modules = list(network)
    return nn.Sequential(*modules[:after]), nn.Sequential(*modules[after:])


def truncated(network: nn.Module, layer: str, directions: Tensor, mean: Tensor) -> nn.Sequential:
    r"""A smaller network that computes what `projected` computes with `subspace_projection(directions)`.

    The layer hands on k coordinates and a one instead of its units, and the next layer reads those: its weights W
    become :math:`[W B, W (\mu - B B^\top \mu)]`. The one carries the mean, right up to a padded border.

    Args:
        network: "alexnet" or "alexnet-narrow" of `build_network`.
        layer: a layer whose units the next layer reads directly, not through a pooling: conv3, conv4, fc6 or fc7.
        directions: (units, k), see `subspace_projection`.
        mean: (units,) mean activation.

    Returns:
        The modules of `network` by the same names, copied; see `multiply_adds` for what is saved.

    Raises:
        ValueError: another kind of network, or one that was changed; a layer that is pooled, or the last one; other
            numbers of units; a mean beyond what the type of the weights can hold.

    Source: Raghu et al. 2017, compression by projection.

    Example:
        >>> network, directions, mean = build_network("alexnet-narrow", seed=0), torch.eye(64)[:, :10], torch.zeros(64)
        >>> smaller, images = truncated(network, "fc6", directions, mean), torch.ones(2, 1, 28, 28)
        >>> with projected(network, "fc6", subspace_projection(directions), mean):
        ...     torch.allclose(network(images), smaller(images), atol=1e-4)
        True
    """
    network = as_alexnet(network)
    names = list(dict(network.named_children()))
    require_known(layer, names, "layer")
    following = names[min(names.index(layer) + 1, len(names) - 1)]
    if following not in network.layers or following == layer:
        raise ValueError(f"layer: expected one whose units the next layer reads directly, got {layer!r}")
    units = len(weighted(network, layer).weight)
    directions, mean = as_floats(directions, "directions", "floating (units, k)"), as_floats(mean, "mean", "(units,)")
    if directions.ndim != 2 or len(directions) != units or mean.shape != (units,):
        given = f"{tuple(directions.shape)} and {tuple(mean.shape)}"
        raise ValueError(f"directions: expected ({units}, k) and mean ({units},), the units of {layer}, got {given}")
    smaller = nn.Sequential(OrderedDict(copy.deepcopy(network).named_children()))
    basis, mean = orthonormal(directions.double()), mean.double()
    encode = torch.cat([basis.T, torch.zeros(1, len(mean), dtype=torch.float64)])
    decode = torch.cat([basis, (mean - basis @ (basis.T @ mean))[:, None]], dim=1)
    before = weighted(network, following)
    reads = torch.einsum("ou...,uk->ok...", before.weight.detach().double(), decode)
    if not reads.to(before.weight.dtype).isfinite().all():
        raise ValueError(
            f"mean: expected numbers whose products with weights {before.weight.dtype} can hold, got larger"
        )
    one = torch.eye(len(encode))[-1]
    coordinates = _like(before, encode[..., None, None] if reads.ndim == 4 else encode, one, padding=0)
    smaller[names.index(layer)] = nn.Sequential(*_chain(smaller[names.index(layer)]), coordinates)
    rest = _chain(smaller[names.index(following)])[1:]
    after = _like(before, reads, before.get_parameter("bias"))
    smaller[names.index(following)] = nn.Sequential(after, *rest) if rest else after
    return smaller


def multiply_adds(network: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """Multiplications of weights with activations for one image, by the name of the convolution or linear module.

    Args:
        network: any torch module that takes images (n, channels, height, width).
        image_shape: (channels, height, width).

    Raises:
        ValueError: images that the network cannot take; a compiled or traced network, whose modules are not seen.

    Example:
        >>> multiply_adds(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3)), (1, 8, 8))
        {'0': 1296}
    """
    require_hooks(network)
    if not isinstance(image_shape, (tuple, list)) or len(image_shape) != 3:
        raise ValueError(f"image_shape: expected (channels, height, width), got {came(image_shape)}")
    image = _blank(*(as_count(size, "image_shape", at_most=_LONGEST_SIDE) for size in image_shape))
    counted: dict[str, int] = {}
    modules = {name: m for name, m in network.named_modules() if isinstance(m, (*_CONVOLUTIONS, nn.Linear))}

    def hook_of(name: str) -> Callable:
        """The hook that counts for this module: each weight is used once at every place of the output."""

        def hook(module: nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear, _inputs: object, output: Tensor) -> None:
            """Count."""
            places = (
                output[0, 0].numel() if isinstance(module, _CONVOLUTIONS) else output[0].numel() // output.shape[-1]
            )
            counted[name] = counted.get(name, 0) + module.weight.numel() * places

        return hook

    hooks = [module.register_forward_hook(hook_of(name)) for name, module in modules.items()]
    try:
        with evaluating(network), torch.no_grad():
            called(network, image.to(input_like(network)), "image_shape")
    finally:
        for hook in hooks:
            hook.remove()
    return counted


def _blank(*shape: int) -> Tensor:
    """One image (1, channels, height, width) of zeros."""
    try:
        return torch.zeros(1, *shape)
    except (RuntimeError, MemoryError) as error:
        raise ValueError(f"image_shape: no memory holds such an image: {in_one_line(error)}") from error


def freezing(schedule: Mapping[str, float]) -> Callable[[nn.Module, float], None]:
    """For `train(intervene=...)`: from the given share of training on, a layer learns no more.

    Args:
        schedule: share of training in [0, 1] by layer. Layers that it does not name learn to the end. Once all layers
            below are frozen, too, no gradient is computed for them: that is what is saved.

    Raises:
        ValueError: a share that is not from 0 to 1, here or in training; in training, a layer that the network lacks.

    Source: Raghu et al. 2017, freeze training, where layer i of L is frozen after i / L of training.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        >>> freezing({"0": 0.5})(network, 0.6)
        >>> network[0].weight.requires_grad, network[1].weight.requires_grad
        (False, True)
    """
    schedule = _as_schedule(schedule)

    def freeze(network: nn.Module, share: float) -> None:
        """Freeze the layers whose time has come."""
        require_module(network)
        share = float(as_share(share, "share", "the share of training done, from 0 to 1"))
        for module, moment in zip(_submodules(network, schedule), schedule.values(), strict=True):
            if share >= moment:
                module.requires_grad_(False)

    return freeze


def training_cost(forward: Mapping[str, int], schedule: Mapping[str, float]) -> float:
    """What training with `freezing(schedule)` costs, as a share of what it costs without.

    Args:
        forward: multiply-adds by layer, from the bottom up.
        schedule: see `freezing`.

    Raises:
        ValueError: no layer, multiply-adds or shares that are none, a schedule of layers that `forward` lacks.

    A layer costs its multiply-adds once forward, once for the gradient of its weights while it learns, and once for
    the gradient of its inputs while anything below it learns. The time of the optimiser's own steps is left out.

    Example:
        >>> training_cost({"conv1": 100, "fc2": 100}, {"conv1": 0.5})
        0.8
    """
    costs, schedule = _as_costs(forward), _as_schedule(schedule)
    for layer in schedule:
        require_known(layer, costs, "schedule")
    bottom, spent, whole = next(iter(costs)), 0.0, 0.0
    latest_below = 0.0
    for layer, cost in costs.items():
        learns = schedule.get(layer, 1.0)
        spent += cost * (1 + learns + latest_below)
        whole += cost * (2 if layer == bottom else 3)
        latest_below = max(latest_below, learns)
    return spent / whole


def _as_schedule(schedule: Mapping[str, float]) -> dict[str, float]:
    """Shares as floats of Python: NumPy's small types would round what they are compared with."""
    if not isinstance(schedule, Mapping):
        raise ValueError(f"schedule: expected shares of training by layer, got {type(schedule).__name__}")
    for layer, share in schedule.items():
        if not isinstance(layer, str) or not is_number(share) or not 0 <= share <= 1:
            said = f"{came(share, 80)} for {came(layer, 80)}"
            raise ValueError(f"schedule: expected shares of training from 0 to 1, got {said}")
    return {layer: float(share) for layer, share in schedule.items()}


def _as_costs(forward: Mapping[str, int]) -> dict[str, float]:
    """Costs as floats of Python that are at most 1, all divided by one power of two: no sum of them overflows."""
    if not isinstance(forward, Mapping) or not forward:
        said = "none" if isinstance(forward, Mapping) else type(forward).__name__
        raise ValueError(f"forward: expected at least one layer with its multiply-adds, got {said}")
    for layer, cost in forward.items():
        if not is_number(cost) or cost < 0:
            said = f"{came(cost, 80)} for {came(layer, 80)}"
            raise ValueError(f"forward: expected finite multiply-adds of at least 0, got {said}")
    costs = {layer: float(cost) for layer, cost in forward.items()}
    if not any(costs.values()):
        raise ValueError("forward: expected some multiply-adds, got 0 in every layer")
    exponent = math.frexp(max(costs.values()))[1]
    return {layer: math.ldexp(cost, -exponent) for layer, cost in costs.items()}


def _submodules(network: nn.Module, schedule: Mapping[str, float]) -> list[nn.Module]:
    try:
        return [network.get_submodule(layer) for layer in schedule]
    except AttributeError as error:
        raise ValueError(f"schedule: expected layers of the network: {in_one_line(error)}") from error


def _chain(module: nn.Module) -> list[nn.Module]:
    return list(module.children()) if isinstance(module, nn.Sequential) else [module]


def _like(module: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor, **geometry: Any) -> nn.Conv2d | nn.Linear:
    """A module of the same kind with other weights."""
    if isinstance(module, nn.Linear):
        made = skip_init(nn.Linear, weight.shape[1], weight.shape[0])
    else:
        geometry = {"padding": module.padding, "stride": module.stride, **geometry}
        made = skip_init(nn.Conv2d, weight.shape[1], weight.shape[0], weight.shape[2:], **geometry)
    made = made.to(module.weight)
    with torch.no_grad():
        made.weight.copy_(weight)
        made.get_parameter("bias").copy_(bias)
    return made
