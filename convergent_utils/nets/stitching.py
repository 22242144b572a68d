"""Are the two halves of networks interchangeable? One network up to a layer, a map, another network from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules import activation

from ..kernels.checks import as_list, came, form_of, require_known
from ..kernels.sparse_mapping import MappingPath
from .interventions import split_after
from .modes import called, require_hooks

_NOT_BY_UNIT = ("MultiheadAttention", "GLU", "Softmax", "Softmax2d", "LogSoftmax", "Softmin")  # they mix units


class Stitched(nn.Module):
    """Network b up to a layer, a map, and network a from there, as `stitched` makes it; it holds both networks."""

    def __init__(self, below: nn.Module, above: nn.Module, mapping: MappingPath, nonlinearity: nn.Module):
        super().__init__()
        self.below, self.above, self.nonlinearity, self.mapping = below, above, nonlinearity, mapping

    def forward(self, inputs: Tensor) -> Tensor:
        """What network a makes of what the map makes of network b's layer.

        Args:
            inputs: as both networks take them.

        Raises:
            ValueError: a map from another number of units, or a layer that is no cut; see `stitched`.
        """
        if not isinstance(inputs, Tensor):
            raise ValueError(f"inputs: expected a tensor, as both networks take it, got {came(inputs)}")
        return self.after(called(self.below, inputs, "inputs"), inputs)

    def after(self, acts: Tensor, inputs: Tensor) -> Tensor:
        """What network a makes of the layer's activations, as `below` gives them for these inputs."""
        return self.above(self.nonlinearity(_predicted(self.mapping, acts)), inputs)


class _Chain(nn.Module):
    """The upper part of a chain of modules, which reads nothing but the layer."""

    def __init__(self, modules: nn.Sequential):
        super().__init__()
        self.modules_above = modules

    def forward(self, acts: Tensor, inputs: Tensor) -> Tensor:
        return called(self.modules_above, acts, "mapping")


class _Upto(nn.Module):
    """Any network, of which the output of a layer is taken."""

    def __init__(self, network: nn.Module, layer: str):
        super().__init__()
        self.network, self.layer = network, layer

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: list[object] = []
        with _hooked(self.network, self.layer, outputs.append):
            called(self.network, inputs, "inputs")
        return _only(outputs, self.layer)


class _From(nn.Module):
    """Any network, of which the output of a layer is replaced."""

    def __init__(self, network: nn.Module, layer: str):
        super().__init__()
        self.network, self.layer, self.is_cut = network, layer, False

    def forward(self, acts: Tensor, inputs: Tensor) -> Tensor:
        found = self._with(acts, inputs)
        if not self.is_cut and not self.training and inputs.any():
            if not _alike(found, self._with(acts, torch.zeros_like(inputs))):
                message = f"what follows {came(self.layer, 60)} reads more than its output"
                raise ValueError(f"layer: {message}, as where a connection passes it by; stitch behind that")
            self.is_cut = True
        return found

    def _with(self, acts: Tensor, inputs: Tensor) -> Tensor:
        outputs: list[object] = []

        def replaced(output: object) -> Tensor:
            """What goes on instead of the layer's output."""
            outputs.append(output)
            if not isinstance(output, Tensor) or output.shape != acts.shape:
                came_in = f"{form_of(output)} in network a, {form_of(acts)} of the map"
                raise ValueError(f"mapping: expected one to the units of {came(self.layer, 40)}, got {came_in}")
            return acts

        with _hooked(self.network, self.layer, replaced):
            found = called(self.network, inputs, "inputs")
        _only(outputs, self.layer)
        return found


def stitched(
    network_a: nn.Module, network_b: nn.Module, layer: str | tuple[str, str], mapping: MappingPath
) -> Stitched:
    """Network b up to a layer, a map from its units to those of network a, and network a from there.

    Args:
        network_a: whose part above the layer is used.
        network_b: whose part up to the layer is used, on the same inputs.
        layer: name of a submodule of both, or of one of each, (in a, in b).
        mapping: with one entry, fitted on the moments `pair(b, a)`, since every map goes from its pair's first network
            to its second: of `matching_map`, `best_rotation`, `least_squares`, `best_subset_mapping` and others. It is
            applied at every place of maps (n, units, height, width), to every token of (n, tokens, units).

    Returns:
        A module in eval mode, which `accuracy` and `predict` take; it shares the weights of both networks.

    Raises:
        ValueError: a layer that a network lacks; several entries, or other numbers of units; a compiled or traced
            network. When it is called: a layer that is called more than once, or that is no cut, since what follows in
            network a reads something else as well.

    What the map predicts goes through the layer's own non-linearity: that which network a's layer ends with, if it is a
    chain of modules or that module itself. Else, as after a last layer or a residual block, it goes on as it is.
    How much accuracy is lost beside network a's own says how far the two halves are interchangeable up to such a map.
    Source: Lenc and Vedaldi 2015; Bansal et al. 2021. There the map is trained on labels, here it comes from moments.

    Example:
        >>> network = build_network("alexnet-narrow", seed=0)
        >>> shuffled, _ = permuted_copy(network, seed=1)
        >>> images = torch.rand(200, 1, 28, 28)
        >>> pair = measure({"a": network, "b": shuffled}, images, "fc6").pair("b.fc6", "a.fc6")
        >>> found = correlation(pair)
        >>> match = bipartite_matching(found.matrix, live_a=found.live_a, live_b=found.live_b)
        >>> joined = stitched(network, shuffled, "fc6", matching_map(pair, match))
        >>> torch.allclose(joined(images), network(images), atol=1e-4)
        True
    """
    in_a, in_b = _as_layers(layer)
    for name, network, its in (("network_a", network_a, in_a), ("network_b", network_b, in_b)):
        _require(network, name)
        require_known(its, dict(network.named_modules()), "layer")
    if not isinstance(mapping, MappingPath):
        raise ValueError(f"mapping: expected a MappingPath, such as least_squares(pair), got {came(mapping)}")
    if len(mapping.penalties) != 1:
        count = len(mapping.penalties)
        raise ValueError(f"mapping: expected one with one entry, got {count} penalties; fit it with the one you want")
    below = split_after(network_b, in_b)[0] if _is_chain(network_b, in_b) else _Upto(network_b, in_b)
    above = _Chain(split_after(network_a, in_a)[1]) if _is_chain(network_a, in_a) else _From(network_a, in_a)
    return Stitched(below, above, mapping, _nonlinearity(network_a.get_submodule(in_a))).eval()


def _as_layers(layer: object) -> tuple[str, str]:
    both = [layer, layer] if isinstance(layer, str) else as_list(layer, "layer", "a name, or one of each network")
    if len(both) != 2 or not all(isinstance(name, str) and name for name in both):
        raise ValueError(f"layer: expected a name, or one of each network, got {came(layer)}")
    return both[0], both[1]


def _require(network: object, name: str) -> None:
    """It is a network whose hooks are called."""
    try:
        require_hooks(network)
    except ValueError as error:
        raise ValueError(f"{name}{str(error).removeprefix('network')}") from error


def _is_chain(network: nn.Module, layer: str) -> bool:
    """Whether the network is a chain of modules, one of which is the layer."""
    plain = type(network).forward is nn.Sequential.forward and "forward" not in vars(network)
    return plain and layer in network._modules and not (network._forward_hooks or network._forward_pre_hooks)


def _nonlinearity(layer: nn.Module) -> nn.Module:
    """That which a layer ends with; one that passes all on where there is none."""
    while isinstance(layer, nn.Sequential) and len(layer):
        layer = layer[-1]
    is_one = type(layer).__module__ == activation.__name__ and type(layer).__name__ not in _NOT_BY_UNIT
    return layer if is_one else nn.Identity()


def _predicted(mapping: MappingPath, acts: object) -> Tensor:
    """The map applied to each row of a layer's output."""
    if not isinstance(acts, Tensor) or not acts.is_floating_point() or acts.ndim not in (2, 3, 4):
        forms = "(inputs, units), (inputs, tokens, units) or (inputs, units, height, width)"
        raise ValueError(f"layer: expected one that gives floats {forms}, got {form_of(acts)}")
    last = acts.movedim(1, -1) if acts.ndim == 4 else acts
    if last.shape[-1] != mapping.coefficients.shape[1]:
        units = f"{last.shape[-1]}, got one from {mapping.coefficients.shape[1]}"
        raise ValueError(f"mapping: expected one from as many units as network b's layer has, {units}; fit pair(b, a)")
    weights, offsets = mapping.weights_and_offsets()
    moved = last @ weights[0].to(acts) + offsets[0].to(acts)
    return moved.movedim(-1, 1) if acts.ndim == 4 else moved


@contextmanager
def _hooked(network: nn.Module, layer: str, told: Callable[[object], object]) -> Iterator[None]:
    """Within it, what a layer gives is told, and replaced by what `told` returns, if anything."""
    hook = network.get_submodule(layer).register_forward_hook(lambda module, args, output: told(output))
    try:
        yield
    finally:
        hook.remove()


def _only(outputs: list[object], layer: str) -> object:
    if len(outputs) != 1:
        times = f"{len(outputs)} times" if outputs else "never"
        raise ValueError(f"layer: expected one that is called once, and {came(layer, 60)} is called {times}")
    return outputs[0]


def _alike(found: object, other: object) -> bool:
    """Whether two outputs are the same numbers."""
    if not isinstance(found, Tensor) or not isinstance(other, Tensor):
        raise ValueError(f"network_a: expected one that returns a tensor, got {form_of(found)}")
    return torch.equal(found, other)
