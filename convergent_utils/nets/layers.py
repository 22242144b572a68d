"""Layers of any network: found by name, also within wrappers, and what the axes of their outputs mean."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from ..kernels.checks import as_list, came, form_of, has_rows
from .modes import in_one_line, require_hooks, require_module

Axes = str | Mapping[str, str | None] | None
Output = Callable[[object], Tensor] | Mapping[str, Callable[[object], Tensor] | None] | None

# From the axes of an output to those of a map (n, height, width, units); tokens are a map of width 1.
_ORDERS = {"nchw": (0, 2, 3, 1), "nhwc": (0, 1, 2, 3), "ntd": (0, 1, 2), "ndt": (0, 2, 1), "tnd": (1, 0, 2)}
_SEQUENCE_FIRST = (nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder)
_SEQUENCE_FIRST_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.MultiheadAttention, nn.RNNBase)
_RMS_NORM = getattr(nn, "RMSNorm", nn.LayerNorm)
_OF_CHANNELS = (  # units come second
    *(nn.GroupNorm, nn.SyncBatchNorm, nn.LocalResponseNorm, nn.Upsample, nn.Unfold),
    *(nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle),
)
_OF_LAST_AXIS = (nn.LayerNorm, nn.Linear, nn.Embedding, _RMS_NORM)  # units come last
_WITH_CHANNELS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
_DIMENSIONS = ("1d", "2d", "3d")  # as the names of torch's poolings, paddings and the like end
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class Maps(NamedTuple):
    """An output as maps (n, height, width, units), and what they are of: a "grid", a "row" of tokens, or a "point"."""

    values: Tensor
    kind: str


class Sizes(NamedTuple):
    """What modules tell of axes: how many units a last axis may have, and a second one; sizes of which neither is
    known; and whether all convolutions are of one dimension.
    """

    last: frozenset[int] = frozenset()
    channels: frozenset[int | None] = frozenset()  # of one that is lazy not yet known
    others: frozenset[int] = frozenset()
    one_dimensional: bool = False


class Layer(NamedTuple):
    """One layer: its name as it was given, its module, those that it lies in, outermost first; the module that tells
    what the axes of its output mean, the last that does not work number by number; and what sizes tell of the axes of
    maps and of tokens.
    """

    name: str
    module: nn.Module
    within: tuple[nn.Module, ...]
    teller: nn.Module
    of_maps: Sizes
    of_tokens: Sizes


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside of what torch.compile, DataParallel or DistributedDataParallel made of it."""
    require_module(network)
    while (inner := _inner(network)) is not None:
        network = inner
    return network


@contextmanager
def hooks_called(network: nn.Module) -> Generator[None]:
    """Within it a compiled network calls the hooks that were placed after it was compiled.

    Raises:
        ValueError: a network that cannot: a traced or scripted one, one that is spread over several devices.
    """
    require_module(network)
    if any(len(getattr(module, "device_ids", None) or ()) > 1 for module in network.modules() if _parallel(module)):
        raise ValueError("network: one that is spread over several devices has outputs in parts; pass its .module")
    compiled = any(_compiled(module) for module in network.modules())
    eager = compiled and hasattr(torch.compiler, "set_stance")
    if not eager:
        require_hooks(network)
    elif isinstance(unwrapped(network), torch.jit.ScriptModule):
        require_hooks(unwrapped(network))
    with torch.compiler.set_stance("force_eager") if eager else nullcontext():
        yield


def as_layers(layers: object) -> list[str]:
    """Names of layers, one or several, each once."""
    if isinstance(layers, (Tensor, nn.Module)):
        raise ValueError(f"layers: expected names of layers, got {came(layers)}")
    found = [layers] if isinstance(layers, str) else as_list(layers, "layers", "names of layers")
    for layer in found:
        if not isinstance(layer, str):
            raise ValueError(f"layers: expected names of layers, got {came(layer)} among them")
    if not found:
        raise ValueError("layers: expected at least one, got none")
    return [str(name) for name in dict.fromkeys(found)]


def find_layers(network: nn.Module, names: Iterable[str], of: str = "the network") -> list[Layer]:
    """The layers of these names; the prefixes of wrappers may be left out.

    Raises:
        ValueError: a name that the network lacks; the nearest are named.
    """
    require_module(network)
    known = {plain(name): module for name, module in network.named_modules(remove_duplicate=False)}
    known |= dict(unwrapped(network).named_modules(remove_duplicate=False))
    known |= dict(network.named_modules(remove_duplicate=False)) | {"": unwrapped(network)}
    found = []
    for name in names:
        require_named(name, known, "layers", f"{of} has no layer", "dict(network.named_modules()) lists all")
        parts = name.split(".")
        parents = [known.get(".".join(parts[:k])) for k in range(len(parts))]
        within = tuple(parent for parent in parents if parent is not None)
        teller = _teller(known[name], within)
        sizes = (_sizes((teller, *reversed(within)), maps=maps) for maps in (True, False))
        found.append(Layer(name, known[name], within, teller, *sizes))
    return found


def require_named(name: object, known: Iterable[str], argument: str, lacks: str, how: str) -> None:
    """`name` is one of `known`; a short error tells the nearest that are, and how to list all."""
    known = list(known)
    if isinstance(name, str) and name in known:
        return
    named = [each for each in known if each]
    near = difflib.get_close_matches(name[:100] if isinstance(name, str) else came(name, 100), named, n=3)
    hint = " or ".join(came(each, 40) for each in near or named[:3])
    hint = f"did you mean {hint}? " if near else f"it has {hint.replace(' or ', ', ')}; " if hint else ""
    raise ValueError(f"{argument}: {in_one_line(lacks, 60)} {came(name, 50)}; {hint}{how}")


def as_axes(axes: Axes, layers: Iterable[str]) -> dict[str, str | None]:
    """The axes of each layer, None where they are to be recognised."""
    layers = list(layers)
    if isinstance(axes, Mapping):
        for layer in axes:
            require_named(layer, layers, "axes", "among layers there is no", "name layers that are recorded")
        given = {layer: axes.get(layer) for layer in layers}
    else:
        given = dict.fromkeys(layers, axes)
    for value in given.values():
        if value is not None and not (isinstance(value, str) and value in _ORDERS):
            raise ValueError(f"axes: expected one of {', '.join(_ORDERS)}, or such by layer, got {came(value, 80)}")
    return given


def as_outputs(output: Output, layers: Iterable[str]) -> dict[str, Callable[[object], Tensor] | None]:
    """How the output of each layer becomes a tensor, None where that is told by what it is."""
    layers = list(layers)
    given = dict(output) if isinstance(output, Mapping) else dict.fromkeys(layers, output)
    for layer, convert in given.items():
        require_named(layer, layers, "output", "among layers there is no", "name layers that are recorded")
        if convert is not None and not callable(convert):
            raise ValueError(f"output: expected a function from a module's output to a tensor, got {came(convert, 80)}")
    return {layer: given.get(layer) for layer in layers}


def tensor_in(output: object, layer: str, convert: Callable[[object], Tensor] | None = None) -> Any:
    """The tensor in what a module gives: itself, `last_hidden_state`, or else the first in a tuple or a dict.

    Args:
        output: what the module gave.
        layer: its name, for refusals.
        convert: somebody's own way to it.

    Returns:
        The tensor, or what came where there is none.
    """
    if convert is not None:
        try:
            return convert(output)
        except Exception as error:  # whatever somebody's own may raise
            message = f"cannot be made of what {came(layer, 60)} gives, {form_of(output)}"
            raise ValueError(f"output: a tensor {message}: {in_one_line(error, 120)}") from error
    if isinstance(output, Mapping):
        output = output["last_hidden_state"] if "last_hidden_state" in output else tuple(output.values())
    if isinstance(output, (tuple, list)):
        return next((value for value in output if isinstance(value, Tensor)), output)
    return output


def as_maps(
    output: object, layer: Layer, axes: str | None, n_inputs: Iterable[int], *, either_way: bool = False
) -> Maps:
    """The output of a layer as maps, without copying.

    Args:
        output: of the layer.
        layer: whose it is.
        axes: as given for it.
        n_inputs: how many inputs there may have been; none where that is not known.
        either_way: whether as many tokens as inputs may come first.

    Raises:
        ValueError: no such tensor, axes that it does not have or that cannot be told, or another number of inputs than
            went in.
    """
    if isinstance(output, Tensor) and output.is_quantized:
        output = output.dequantize()
    if not isinstance(output, Tensor) or not has_rows(output) or output.ndim not in (2, 3, 4):
        message = "expected a tensor of 2, 3 or 4 dimensions as output"
        hint = "; make one by the option output" if not isinstance(output, Tensor) or has_rows(output) else ""
        raise ValueError(f"layers: {_short(layer)}: {message}, got {form_of(output)}{hint}")
    if axes is not None and len(axes) != output.ndim:
        message = f"do not fit its output of shape {tuple(output.shape)}; give axes by layer, or None"
        raise ValueError(f"axes: {_short(layer)}: {axes!r} {message}")
    axes = axes or _recognised(output, layer, either_way)
    where, n_inputs = axes.index("n"), list(n_inputs)
    if n_inputs and output.shape[where] not in n_inputs:
        raise ValueError(
            f"layers: {_short(layer)}: its output {tuple(output.shape)}, read with axes={axes!r}, is of "
            f"{output.shape[where]} inputs, and {n_inputs[0]} went in; give the axes that it has by the option axes"
        )
    if 0 in output.shape[:where] + output.shape[where + 1 :]:
        raise ValueError(f"layers: {_short(layer)}: expected places and units in its output, got {form_of(output)}")
    if output.ndim == 2:
        return Maps(output[:, None, None], "point")
    values = output.permute(_ORDERS[axes])
    values, kind = (values, "grid") if output.ndim == 4 else (values[:, :, None], "row")
    return Maps(values, "point" if values.shape[1] * values.shape[2] == 1 else kind)


def unit_axis(output: Tensor, layer: Layer) -> int:
    """Which axis of a layer's output counts its units.

    Raises:
        ValueError: it cannot be told, or the output is no maps; see `as_maps`.
    """
    as_maps(output, layer, None, ())
    axes = "nd" if output.ndim == 2 else _recognised(output, layer, False)
    return max(axes.find("c"), axes.find("d"))


def tokens_come_first(network: nn.Module) -> bool:
    """Whether it has modules of torch that take (tokens, n, units)."""
    return any(getattr(module, "batch_first", None) is False for module in network.modules())


def _recognised(output: Tensor, layer: Layer, either_way: bool) -> str:
    """The axes of a layer's output that its module tells, else those that are usual.

    Raises:
        ValueError: two orders are as likely as each other.
    """
    if output.ndim == 2:
        return "nd"
    if output.ndim == 3 and any(_takes_tokens_first(each) for each in (*layer.within, layer.module, layer.teller)):
        return "tnd"
    axes = _told(output, layer.teller) or _guessed(output, layer)
    batch_first = any(getattr(each, "batch_first", False) for each in (*layer.within, layer.module))
    if axes == "ntd" and either_way and not batch_first and output.shape[0] == output.shape[1] > 1:
        raise _ambiguous(output, layer, "ntd", "tnd")
    return axes


def _told(output: Tensor, module: nn.Module) -> str | None:
    """The axes that a module of torch itself gives."""
    if not getattr(type(module).forward, "__module__", "").startswith("torch."):
        return None
    if isinstance(module, nn.Flatten):
        return "ndt" if module.start_dim in (2, -2) else "ntd"
    if isinstance(module, _OF_LAST_AXIS) and len(getattr(module, "normalized_shape", (0,))) == 1:
        return "nhwc" if output.ndim == 4 else "ntd"
    by_channels = isinstance(module, _OF_CHANNELS) or any(
        kind.__name__[-2:] in _DIMENSIONS for kind in type(module).__mro__
    )
    return None if not by_channels else "nchw" if output.ndim == 4 else "ndt"


def _guessed(output: Tensor, layer: Layer) -> str:
    """The axes that the sizes of norms, linear maps and convolutions tell, in the layer or around it."""
    if output.ndim == 3:
        return _of_tokens(output, layer)
    second, end, sizes = output.shape[1], output.shape[3], layer.of_maps
    usual = second in sizes.last | sizes.channels
    if end in sizes.last and usual:
        raise _ambiguous(output, layer, "nchw", "nhwc")
    if end in sizes.last:
        return "nhwc"
    if not usual and end in sizes.channels | sizes.others:  # as where a map is turned after a convolution
        square = output.shape[1] == output.shape[2], output.shape[2] == output.shape[3]
        if square[0] == square[1]:
            raise _ambiguous(output, layer, "nchw", "nhwc")
        return "nhwc" if square[0] else "nchw"
    return "nchw"


def _of_tokens(output: Tensor, layer: Layer) -> str:
    second, end, sizes = output.shape[1], output.shape[2], layer.of_tokens
    as_usual, otherwise = end in sizes.last | sizes.channels, second in sizes.channels
    of_time = sizes.one_dimensional and not sizes.last  # nothing here has units last, yet none of the sizes fits
    if (as_usual and otherwise) or (of_time and not as_usual and not otherwise):
        raise _ambiguous(output, layer, "ntd", "ndt")
    return "ndt" if otherwise else "ntd"


def _sizes(around: Iterable[nn.Module], *, maps: bool) -> Sizes:
    """What the nearest of these modules tells that has any norm, linear layer or convolution."""
    for module in around:
        parts = list(module.modules())
        last = {each.normalized_shape[0] for each in parts if _norms_last_axis(each)}
        linear = {each.out_features for each in parts if isinstance(each, nn.Linear)}
        if last or not maps:  # of maps, linear layers without a norm are often gates of channels
            last |= linear
        of_channels = [each for each in parts if isinstance(each, _WITH_CHANNELS)]
        found = (vars(each) for each in of_channels)
        channels = {size.get("out_channels") or size.get("num_features") or size.get("num_channels") for size in found}
        shapes = (getattr(each, "normalized_shape", None) for each in parts)
        norms = {shape[0] for shape in shapes if isinstance(shape, tuple) and len(shape) == 1}  # of one's own, too
        if last or channels or norms:
            one_dimensional = bool(of_channels) and all(type(each).__name__.endswith("1d") for each in of_channels)
            return Sizes(frozenset(last), frozenset(channels), frozenset(linear | norms), one_dimensional)
    return Sizes()


def _norms_last_axis(module: nn.Module) -> TypeGuard[nn.LayerNorm]:
    return type(module) in (nn.LayerNorm, _RMS_NORM) and len(getattr(module, "normalized_shape", ())) == 1


def _ambiguous(output: Tensor, layer: Layer, one: str, other: str) -> ValueError:
    form = f"its output {tuple(output.shape)} may have the axes {one!r} or {other!r}"
    return ValueError(f"layers: {_short(layer)}: {form}; say which by the option axes")


def _teller(module: nn.Module, within: tuple[nn.Module, ...]) -> nn.Module:
    """The module itself or, in a sequence, the last up to it that does not work number by number."""
    top = module
    for parent in reversed(within):
        if not _is_sequence(parent):
            break
        top = parent
    chain, last = _in_order(top), _in_order(module)[-1]
    before = chain[: len(chain) - chain[::-1].index(last)]
    return next((each for each in reversed(before) if not _keeps_axes(each)), module)


def _is_sequence(module: nn.Module) -> TypeGuard[nn.Sequential]:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and len(module) > 0


def _in_order(module: nn.Module) -> list[nn.Module]:
    """The modules of a sequence, and of sequences within it, in the order in which they are called."""
    return [each for part in module for each in _in_order(part)] if _is_sequence(module) else [module]


def _keeps_axes(module: nn.Module) -> bool:
    """Whether it works number by number."""
    kind = type(module)
    by_number = kind.__module__ in ("torch.nn.modules.activation", "torch.nn.modules.dropout") or kind is nn.Identity
    return by_number and kind is not nn.MultiheadAttention and not kind.__name__.endswith("1d")


def _takes_tokens_first(module: nn.Module) -> bool:
    """Whether it is a transformer of torch, or a layer of one, that takes (tokens, n, units)."""
    if isinstance(module, _SEQUENCE_FIRST):
        inner = (each for each in module.modules() if isinstance(each, nn.MultiheadAttention))
        return any(not each.batch_first for each in inner)
    if isinstance(module, _SEQUENCE_FIRST_LAYERS):
        return not getattr(module, "self_attn", module).batch_first
    return False


def _inner(network: nn.Module) -> nn.Module | None:
    """What a wrapper wraps."""
    return network.module if _parallel(network) else getattr(network, "_orig_mod", None)


def _parallel(module: nn.Module) -> TypeGuard[nn.DataParallel | nn.parallel.DistributedDataParallel]:
    return isinstance(module, _PARALLEL)


def _compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def plain(name: str) -> str:
    """A name without what torch.compile puts into it."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _short(layer: Layer) -> str:
    return came(layer.name, 60)
