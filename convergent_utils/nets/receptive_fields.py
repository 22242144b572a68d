"""The patch of the image that a unit of a map sees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from ..kernels.checks import as_count, as_whole, came, form_of, in_one_line, require_known, tensor_of
from .architectures import Around, Inception, Residual

_WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d)  # each place of theirs sees a window of places
_WHOLE = (nn.Linear, nn.Flatten, nn.GroupNorm)  # each unit sees all places
_OF_THE_IMAGE = (nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)  # windows as large as the image makes them
_SAME_PLACE = (
    *(nn.Identity, nn.BatchNorm2d, nn.InstanceNorm2d, nn.LocalResponseNorm, nn.Dropout, nn.Dropout2d, nn.AlphaDropout),
    *(nn.FeatureAlphaDropout, nn.Threshold, nn.ReLU, nn.RReLU, nn.Hardtanh, nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid),
    *(nn.Tanh, nn.SiLU, nn.Mish, nn.Hardswish, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.Hardshrink, nn.LeakyReLU),
    *(nn.LogSigmoid, nn.Softplus, nn.Softshrink, nn.PReLU, nn.Softsign, nn.Tanhshrink, nn.Softmax2d),
)
_MOST = 2**31 - 1  # pixels
_GEOMETRY = ("kernel_size", "stride", "padding", "dilation")


@dataclass(frozen=True)
class ReceptiveField:
    """The window of the image that one unit of a layer sees.

    At place (y, x) of the map it covers rows from `start + y * step` to `start + y * step + size`, columns likewise;
    parts outside the image are padding. All in pixels.

    Example:
        >>> field = ReceptiveField(size=5, step=2, start=-2)
        >>> [field.start + y * field.step for y in range(3)]
        [-2, 0, 2]
    """

    size: int
    step: int
    start: int

    def __post_init__(self) -> None:
        for name, least in (("size", 1), ("step", 1), ("start", -_MOST)):
            object.__setattr__(self, name, as_count(getattr(self, name), name, at_least=least, at_most=_MOST))


def receptive_field(network: nn.Sequential, layer: str) -> ReceptiveField | None:
    """From the size, stride and padding of the modules up to `layer`; None where a unit sees the whole image.

    Args:
        network: a chain of named modules, each of them a module of torch, a chain, or a block of a residual or
            inception network of `build_network`.
        layer: one of their names, or of a part, as "block1.inner".

    Raises:
        ValueError: `network` is not such a chain, has no such layer, or a module on the way there is none of those
            whose windows are known: windowed (convolution, pooling), at one place (batch norm, dropout, activation
            functions) or over all places (linear, group and instance norm, layer norm of whole maps).

    Example:
        >>> receptive_field(build_network("alexnet-narrow"), "conv2")
        ReceptiveField(size=14, step=2, start=-6)
    """
    if not _is_chain(network):
        raise ValueError(f"network: expected a chain of modules (nn.Sequential), got {type(network).__name__}")
    if not isinstance(layer, str):
        raise ValueError(f"layer: expected the name of a module of the network, got {came(layer)}")
    modules = _up_to(network, layer)
    whole = next((k for k, module in enumerate(modules) if _sees_all(module)), None)
    varying = [module for module in modules[:whole] if isinstance(module, _OF_THE_IMAGE)]
    field = _seen_through((module for module in modules[:whole] if module not in varying), ReceptiveField(1, 1, 0))
    if whole is not None:
        return None
    if varying:
        raise ValueError(f"layer: the windows of {_named(varying[0])} vary with the image; choose a layer below it")
    return field


def _seen_through(modules: Iterable[nn.Module], field: ReceptiveField) -> ReceptiveField:
    """The window of the image behind a place after these modules, where `field` is that before them."""
    size, step, start = field.size, field.step, field.start
    for module in modules:
        if isinstance(module, (Residual, Inception)):
            ends = [_seen_through(_in_order(path), ReceptiveField(size, step, start)) for path in module.paths()]
            start, step = min(end.start for end in ends), ends[0].step
            size = max(end.start + end.size for end in ends) - start
        elif isinstance(module, (*_WINDOWS, Around)):
            kernel, stride, padding, dilation = _geometry(module)
            start -= padding * step
            size += (kernel - 1) * dilation * step
            step *= stride
        elif not isinstance(module, _SAME_PLACE):
            raise ValueError(f"network: the window of {_named(module)} is not known; choose a layer below it")
    return ReceptiveField(size, step, start)


def patch(images: Tensor, field: ReceptiveField | None, place: tuple[int, int]) -> Tensor:
    """What a unit sees at a place of its map: images (n, height, width, channels) cropped to its receptive field.

    Returns:
        (n, size, size, channels), the dtype of the images, 0 outside the image; the whole images where field is None.

    Raises:
        ValueError: images of another shape, no place, or one whose window lies outside the images.

    Example:
        >>> images = torch.arange(16).reshape(1, 4, 4, 1)
        >>> patch(images, ReceptiveField(size=2, step=1, start=0), (1, 2)).flatten()
        tensor([ 6,  7, 10, 11])
    """
    read = tensor_of(images) if isinstance(images, Tensor) else None
    if read is None or read.ndim != 4:
        raise ValueError(f"images: expected a dense tensor (n, height, width, channels), got {form_of(images)}")
    images = read
    if field is None:
        return images
    if not isinstance(field, ReceptiveField):
        raise ValueError(f"field: expected a ReceptiveField, as receptive_field gives it, got {type(field).__name__}")
    n, height, width, channels = images.shape
    down, across = _as_place(place)
    top, left = (field.start + k * field.step for k in (down, across))
    rows = slice(max(top, 0), min(top + field.size, height))
    columns = slice(max(left, 0), min(left + field.size, width))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        raise ValueError(f"place: expected one whose window meets images of {height} x {width}, got {(down, across)}")
    try:
        cropped = images.new_zeros(n, field.size, field.size, channels)
    except (RuntimeError, MemoryError) as error:
        raise ValueError(f"field: no memory holds patches of this size: {in_one_line(error)}") from error
    cropped[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = images[
        :, rows, columns
    ]
    return cropped


def _as_place(place: object) -> tuple[int, int]:
    what = "two whole numbers, row and column"
    found = as_whole(place, "place", what=what).tolist()
    if len(found) != 2:
        raise ValueError(f"place: expected {what}, got {len(found)}")
    return found[0], found[1]


def _is_chain(module: nn.Module) -> bool:
    """Whether it calls its children one after the other, and does nothing else."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _in_order(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """These modules, one after the other; chains among them are taken apart."""
    return [part for one in modules for part in (_in_order(one.children()) if _is_chain(one) else [one])]


def _up_to(network: nn.Module, layer: str) -> list[nn.Module]:
    """The modules that a chain or a block calls on the way to a part of it."""
    parts = dict(network.named_children())
    name, _, rest = layer.partition(".")
    require_known(name, parts, "layer")
    names = list(parts)
    is_block = isinstance(network, (Residual, Inception))
    chain = network.below(name) if is_block else [parts[other] for other in names[: names.index(name)]]
    if rest and not (_is_chain(parts[name]) or isinstance(parts[name], (Residual, Inception))):
        raise ValueError(f"layer: {came(name)} has no parts, so there is no {came(layer)}")
    return _in_order(chain) + (_up_to(parts[name], rest) if rest else _in_order([parts[name]]))


def _sees_all(module: nn.Module) -> bool:
    """Whether each of its units depends on all places of a map."""
    if isinstance(module, nn.InstanceNorm2d):
        return not module.track_running_stats
    return isinstance(module, _WHOLE) or (isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 3)


def _geometry(module: nn.Module) -> list[int]:
    """Size, stride, padding and dilation of square windows, in places of the map below."""
    if getattr(module, "padding_mode", "zeros") != "zeros":
        raise ValueError(f"network: expected padding by zeros, got {module.padding_mode!r} in {_named(module)}")
    found = []
    for field in _GEOMETRY:
        value = getattr(module, field, 0 if field == "padding" else 1)
        value = module.kernel_size if value is None else value  # a stride that is not given
        values = set(value) if isinstance(value, tuple) else {value}
        if len(values) != 1 or isinstance(value, str):
            raise ValueError(f"network: expected square windows, got {field} {value} in {_named(module)}")
        found.append(values.pop())
    return found


def _named(module: nn.Module) -> str:
    text = " ".join(str(module).split())
    return text if len(text) <= 100 else f"{type(module).__name__}(...)"
