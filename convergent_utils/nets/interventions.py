"""What is a network worth when a layer is left fewer dimensions, or less time to learn?"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from ..kernels.checks import as_count, as_floats, as_share, came, form_of, is_number, require_known, tensor_of
from ..kernels.precision import power_of_two
from .modes import called, evaluating, in_one_line, input_like, require_hooks, require_module
from .networks import Network, require_as_built, weighted

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LONGEST_SIDE = 2**31 - 1
_ROUNDING = 1e-5  # relative, of covariances in float32
_RANK_TOLERANCE = 1e-10  # relative, of singular values of directions


def subspace_projection(directions: Tensor, *, covariance: Tensor | None = None) -> Tensor:
    r"""The matrix that projects centred activations on the span of some directions.

    .. math:: P = B B^\top \quad\text{or, in the space of samples,}\quad P = B (B^\top \Sigma B)^{-1} B^\top \Sigma

    Args:
        directions: (units, k) floating, of any lengths and angles; :math:`B` is an orthonormal basis of their span.
        covariance: (units, units) of the activations. Given, each unit's vector of activations over the samples is
            projected on the span of the k variates `acts @ directions`: every unit becomes what is best predicted of it
            from the variates. None: each sample's vector of activations is projected on the span of the directions.

    Returns:
        (units, units) float64 P; centred activations (samples, units) become `acts @ P`. P P = P.

    Raises:
        ValueError: shapes that do not pair, numbers that are not finite, a covariance that none can be: it is not
            symmetric, or a variance is negative in some direction (beyond rounding in float32).

    Source: Raghu et al. 2017, section 2.1, which projects in the space of samples. For principal components both agree.
    """
    directions = as_floats(directions, "directions", "floating (units, k)")
    if directions.ndim != 2 or len(directions) == 0:
        raise ValueError(f"directions: expected floating (units, k), got {form_of(directions)}")
    directions = directions.double()
    if covariance is None:
        basis = _orthonormal(directions)
        return basis @ basis.T
    found = _explained(directions, _as_covariance(covariance, len(directions)).to(directions.device))
    if not found.isfinite().all():
        raise ValueError("covariance: expected numbers whose products float64 can hold, got an infinite one")
    return found


def project(acts: Tensor, matrix: Tensor, mean: Tensor) -> Tensor:
    """Activations as the projection leaves them, their mean restored.

    Args:
        acts: (samples, units), maps (n, units, height, width), or tokens (n, tokens, units), floating.
        matrix: (units, units), of `subspace_projection`.
        mean: (units,) the mean activation that is taken off before and added again after.

    Returns:
        A new tensor like `acts`.

    Raises:
        ValueError: activations that are not floating or not finite, other numbers of units.
    """
    acts = _as_acts(acts)
    moved = _moved(acts, *_as_map(matrix, mean))
    if not moved.isfinite().all():
        raise ValueError(f"acts: expected finite numbers that {acts.dtype} holds once projected, got NaN or infinity")
    return moved


@contextmanager
def projected(network: nn.Module, layer: str, matrix: Tensor, mean: Tensor) -> Iterator[None]:
    """Within the block, the network goes on from `layer` with what `project` leaves of its activations.

        with cu.projected(network, "fc6", cu.subspace_projection(found.directions_a[:, :10]), pair.mean_a):
            cu.accuracy(network, test_set)

    Args:
        network: any torch module.
        layer: name of one of its submodules.
        matrix, mean: see `project`.

    Raises:
        ValueError: a layer that the network lacks; a compiled or traced network, which would pass over the block; when
            it is called, other numbers of units.
    """
    require_hooks(network)
    modules = dict(network.named_modules())
    require_known(layer, modules, "layer")
    moves = _as_map(matrix, mean)

    def move(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        """What is left of the layer's output."""
        return _moved(_as_acts(output, "layer"), *moves)

    hook = modules[layer].register_forward_hook(move)
    try:
        yield
    finally:
        hook.remove()


def split_after(network: nn.Sequential, layer: str) -> tuple[nn.Sequential, nn.Sequential]:
    """The part of a chain of modules up to `layer`, and the part after it; both share the network's weights.

    Raises:
        ValueError: a network that is no chain, a layer that the network lacks.
    """
    if not isinstance(network, nn.Sequential) or type(network).forward is not nn.Sequential.forward:
        raise ValueError(f"network: expected a chain of modules (nn.Sequential), got {type(network).__name__}")
    names = list(network._modules)  # named_children leaves out a module's second place in the chain
    require_known(layer, names, "layer")
    after = names.index(layer) + 1
    modules = list(network)
    return nn.Sequential(*modules[:after]), nn.Sequential(*modules[after:])


def truncated(network: Network, layer: str, directions: Tensor, mean: Tensor) -> nn.Sequential:
    r"""A smaller network that computes what `projected` computes with `subspace_projection(directions)`.

    The layer hands on k coordinates and a one instead of its units, and the next layer reads those: its weights W
    become :math:`[W B, W (\mu - B B^\top \mu)]`. The one carries the mean, right up to a padded border.

    Args:
        network: one of `build_network`.
        layer: a layer whose units the next layer reads directly, not through a pooling: conv3, conv4, fc6 or fc7.
        directions: (units, k), see `subspace_projection`.
        mean: (units,) mean activation.

    Returns:
        The modules of `network` by the same names, copied; see `multiply_adds` for what is saved.

    Raises:
        ValueError: another kind of network, or one that was changed; a layer that is pooled, or the last one; other
            numbers of units; a mean beyond what the type of the weights can hold.

    Source: Raghu et al. 2017, compression by projection.
    """
    require_as_built(network)
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
    basis, mean = _orthonormal(directions.double()), mean.double()
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
    after = _like(before, reads, before.bias)
    smaller[names.index(following)] = nn.Sequential(after, *rest) if rest else after
    return smaller


def multiply_adds(network: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """Multiplications of weights with activations for one image, by the name of the convolution or linear module.

    Args:
        network: any torch module that takes images (n, channels, height, width).
        image_shape: (channels, height, width).

    Raises:
        ValueError: images that the network cannot take; a compiled or traced network, whose modules are not seen.
    """
    require_hooks(network)
    if not isinstance(image_shape, (tuple, list)) or len(image_shape) != 3:
        raise ValueError(f"image_shape: expected (channels, height, width), got {came(image_shape)}")
    image = _blank(*(as_count(size, "image_shape", at_most=_LONGEST_SIDE) for size in image_shape))
    counted: dict[str, int] = {}
    modules = {name: m for name, m in network.named_modules() if isinstance(m, (*_CONVOLUTIONS, nn.Linear))}

    def hook_of(name: str) -> Callable:
        """The hook that counts for this module: each weight is used once at every place of the output."""

        def hook(module: nn.Module, _inputs: object, output: Tensor) -> None:
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
    """
    forward, schedule = _as_costs(forward), _as_schedule(schedule)
    for layer in schedule:
        require_known(layer, forward, "schedule")
    bottom, spent, whole = next(iter(forward)), 0.0, 0.0
    latest_below = 0.0
    for layer, cost in forward.items():
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


def _as_acts(acts: Tensor, argument: str = "acts") -> Tensor:
    """Floating activations, dense and without a mask."""
    read = tensor_of(acts) if isinstance(acts, Tensor) else None
    if read is None or not read.is_floating_point() or read.ndim not in (2, 3, 4):
        forms = "(samples, units), (n, tokens, units) or (n, units, height, width)"
        raise ValueError(f"{argument}: expected floating activations {forms}, got {form_of(acts)}")
    return read


def _as_map(matrix: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """A projection and a mean that pair."""
    matrix = as_floats(matrix, "matrix", "floating (units, units)")
    mean = as_floats(mean, "mean", "floating (units,)")
    if mean.ndim != 1 or matrix.shape != (len(mean), len(mean)):
        given = f"matrix {tuple(matrix.shape)}, mean {tuple(mean.shape)}"
        raise ValueError(f"mean: expected as many units as in matrix (units, units), got {given}")
    return matrix, mean


def _moved(acts: Tensor, matrix: Tensor, mean: Tensor) -> Tensor:
    last = acts.movedim(1, -1) if acts.ndim == 4 else acts
    if last.shape[-1] != len(mean):
        given = f"acts {tuple(acts.shape)}, matrix {tuple(matrix.shape)}, mean {tuple(mean.shape)}"
        raise ValueError(f"mean: expected as many units as in acts and matrix, got {given}")
    matrix, offset = matrix.to(acts), (mean.double() - mean.double() @ matrix.double()).to(acts)
    moved = last @ matrix + offset
    return moved.movedim(-1, 1) if acts.ndim == 4 else moved


def _as_covariance(covariance: Tensor, units: int) -> Tensor:
    """Symmetric and nowhere negative, but for rounding in float32: a Cholesky factor exists."""
    covariance = as_floats(covariance, "covariance", f"({units}, {units}) as in directions").double()
    if covariance.shape != (units, units):
        raise ValueError(f"covariance: expected ({units}, {units}) as in directions, got {tuple(covariance.shape)}")
    scale = covariance.abs().amax()
    unit = covariance / scale if scale > 0 else covariance
    if not _is_covariance(unit):
        raise ValueError("covariance: expected a symmetric matrix without negative variances, got another")
    return covariance


def _orthonormal(directions: Tensor) -> Tensor:
    """An orthonormal basis (units, rank) of the span of the directions, whatever the length of each."""
    directions, _ = _near_one(directions)
    left, singular, _ = torch.linalg.svd(directions, full_matrices=False)
    return left[:, _that_count(singular)]


def _explained(directions: Tensor, covariance: Tensor) -> Tensor:
    """The projection in the space of samples, computed in units of like variance, whose scales it does not depend on.

    The weights of units without variance, which nothing seen here decides, are as small as the span allows.
    """
    unit, spread = _standardised(covariance)
    alive = (unit.diagonal() > 0)[:, None]
    weights, _ = _near_one(directions)
    seen, size = _near_one(weights * spread[:, None] * alive)
    seen, turn = _apart(seen)
    seen, shrunk = _near_one(seen)
    weights = (weights / size) @ turn / shrunk
    left, singular, right = torch.linalg.svd(seen, full_matrices=False)
    left, right, singular = (part[_that_count(singular)] for part in (left.T, right, singular))
    basis = left.T / spread[:, None]
    if not alive.all():
        basis = basis.where(alive, _unseen(weights * ~alive, right, singular))
    of_all = left @ unit
    noise = 8 * len(unit) * torch.finfo(torch.float64).eps  # of variances near 1
    inverse = torch.linalg.pinv(of_all @ left.T, atol=noise, rtol=_RANK_TOLERANCE, hermitian=True)
    return basis @ inverse @ of_all * spread


def _apart(seen: Tensor) -> tuple[Tensor, Tensor]:
    """Columns turned so that each but the first leaves out the largest rows, beside which small ones would be lost.

    And the turn (k, k). What rounding leaves of a row, where it has no part, is taken off.
    """
    length = torch.linalg.vector_norm(seen, dim=1)
    order = length.argsort(descending=True)
    turn, turned = torch.linalg.qr(seen[order].T, mode="complete")
    turned = turned.T[order.argsort()]
    return turned.where(turned.abs() > _RANK_TOLERANCE * length[:, None], 0.0), turn


def _unseen(weights: Tensor, right: Tensor, singular: Tensor) -> Tensor:
    """The weights (units, rank) of units without variance in what is kept, less what directions of them alone give."""
    found = weights @ (right.T / singular)
    alone = weights - weights @ right.T @ right
    within = torch.linalg.pinv(alone, atol=_RANK_TOLERANCE * float(weights.abs().amax()))
    return found - alone @ (within @ found)


def _standardised(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The covariance of units brought to variances near 1 by powers of two, and these (units,); units without are 0.

    Where what came is not symmetric or has negative variances on that scale, it is of rounded numbers, and variances
    below what float32 resolves beside the largest are not magnified.
    """
    variances = covariance.diagonal().clamp(min=0)
    alive = (variances > 0).double()
    for least in (0.0, float(_ROUNDING * variances.amax())):
        spread = power_of_two(variances.clamp(min=least).sqrt())
        unit = covariance / spread[:, None] / spread * alive[:, None] * alive
        if _is_covariance(unit):
            break
    return (unit + unit.T) / 2, spread


def _near_one(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Columns brought near 1 by powers of two, and these; twice, since the power for the smallest numbers is none."""
    size = torch.ones_like(columns[0])
    for _ in range(2):
        power = power_of_two(columns.abs().amax(0))
        columns, size = columns / power, size * power
    return columns, size


def _that_count(singular: Tensor) -> Tensor:
    """Which singular values are not zero but for rounding."""
    return singular > _RANK_TOLERANCE * singular.amax() if singular.numel() else singular > 0


def _is_covariance(unit: Tensor) -> bool:
    """Whether a matrix of numbers near 1 is symmetric and nowhere negative, but for rounding in float32."""
    slack = _ROUNDING * torch.eye(len(unit), dtype=unit.dtype, device=unit.device)
    symmetric = (unit - unit.T).abs().amax() <= _ROUNDING
    return bool(symmetric and torch.linalg.cholesky_ex(unit + slack).info == 0)


def _chain(module: nn.Module) -> list[nn.Module]:
    return list(module.children()) if isinstance(module, nn.Sequential) else [module]


def _like(module: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor, **geometry: int) -> nn.Conv2d | nn.Linear:
    """A module of the same kind with other weights."""
    if isinstance(module, nn.Linear):
        made = skip_init(nn.Linear, weight.shape[1], weight.shape[0])
    else:
        geometry = {"padding": module.padding, "stride": module.stride, **geometry}
        made = skip_init(nn.Conv2d, weight.shape[1], weight.shape[0], weight.shape[2:], **geometry)
    made = made.to(module.weight)
    with torch.no_grad():
        made.weight.copy_(weight)
        made.bias.copy_(bias)
    return made
