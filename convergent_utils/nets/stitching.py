"""Are the two halves of networks interchangeable? One network up to a layer, a map, another network from there."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.checks import as_list, came, form_of, has_rows, require_known
from ..kernels.sparse_mapping import MappingPath
from .interventions import split_after
from .layers import Layer, find_layers, unit_axis
from .modes import called, require_hooks

_ONCE_AS_TWICE = (nn.ReLU, nn.ReLU6, nn.Hardtanh)  # what has passed one of them passes it unchanged


class Stitched(nn.Module):
    """Network b up to a layer, a map, and network a from there, as `stitched` makes it; it holds both networks."""

    def __init__(self, below: nn.Module, above: nn.Module, mapping: MappingPath, layer: Layer, nonlinearity: nn.Module):
        super().__init__()
        self.below, self.above, self.nonlinearity = below, above, nonlinearity
        self.mapping, self.layer, self.training = mapping, layer, False

    def forward(self, inputs: Tensor) -> Tensor:
        """What network a makes of what the map makes of network b's layer.

        Args:
            inputs: as both networks take them.

        Raises:
            ValueError: a map from another number of units, or a layer that is no cut; see `stitched`.
        """
        _require_inputs(inputs)
        return self.after(called(self.below, inputs, "inputs"), inputs)

    def after(self, acts: Tensor, inputs: Tensor) -> Tensor:
        """What network a makes of the layer's activations, as `below` gives them for these inputs."""
        _require_inputs(inputs)
        return self.above(self.nonlinearity(_predicted(self.mapping, acts, self.layer)), inputs)


class _Chain(nn.Module):
    """The upper part of a chain of modules, which reads nothing but the layer."""

    def __init__(self, modules: nn.Sequential):
        super().__init__()
        self.modules_above = modules

    def forward(self, acts: Tensor, inputs: Tensor) -> Tensor:
        """What follows makes of the layer's activations; the inputs are not looked at."""
        return called(self.modules_above, acts, "mapping")


class _Upto(nn.Module):
    """Any network, of which the output of a layer is taken."""

    def __init__(self, network: nn.Module, layer: str):
        super().__init__()
        self.network, self.layer = network, layer

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's output for these inputs."""
        outputs: list[Any] = []

        def kept(output: object) -> None:
            """Copied, since what follows may write into it."""
            outputs.append(output.clone() if isinstance(output, Tensor) else output)

        with _hooked(self.network, self.layer, kept):
            called(self.network, inputs, "inputs")
        return _only(outputs, self.layer)


class _From(nn.Module):
    """Any network, of which the output of a layer is replaced."""

    def __init__(self, network: nn.Module, layer: str):
        super().__init__()
        self.network, self.layer, self.is_cut = network, layer, False

    def forward(self, acts: Tensor, inputs: Tensor) -> Tensor:
        """What the network makes of these activations in place of the layer's own for these inputs."""
        found = self._with(self.network, acts, inputs)
        if not self.is_cut and not any(module.training for module in self.network.modules()):
            self._require_cut(acts.detach(), inputs)
        return found

    def _require_cut(self, acts: Tensor, inputs: Tensor) -> None:
        """With the layer's output replaced, the network says the same of other inputs: of NaN, or of zeros for tokens.

        A copy is asked, so that nobody's hooks see it.
        """
        network = copy.deepcopy(self.network)
        others = torch.full_like(inputs, torch.nan) if inputs.is_floating_point() else torch.zeros_like(inputs)
        with torch.no_grad():
            found = self._with(network, acts, inputs)
            try:
                of_others = self._with(network, acts, others)
            except ValueError:  # zeros are no text for it
                return
        if not torch.allclose(found, of_others, rtol=0, atol=0, equal_nan=bool(found.isnan().any())):
            message = f"what follows {came(self.layer, 60)} reads more than its output"
            raise ValueError(f"layer: {message}, as where a connection passes it by; stitch behind that")
        self.is_cut = inputs.is_floating_point() or bool(inputs.any())

    def _with(self, network: nn.Module, acts: Tensor, inputs: Tensor) -> Tensor:
        outputs: list[object] = []

        def replaced(output: object) -> Tensor:
            """What goes on instead of the layer's output."""
            outputs.append(output)
            if not isinstance(output, Tensor) or output.shape != acts.shape:
                came_in = f"{form_of(output)} in network a, {form_of(acts)} of the map"
                raise ValueError(f"mapping: expected one to the units of {came(self.layer, 40)}, got {came_in}")
            return acts.clone()  # what follows may write into it

        with _hooked(network, self.layer, replaced):
            found = called(network, inputs, "inputs")
        _only(outputs, self.layer)
        if not isinstance(found, Tensor):
            raise ValueError(f"network_a: expected one that returns a tensor, got {form_of(found)}")
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
            applied at every place of maps and to every token; which axis counts units is told as by `measure`.

    Returns:
        A module, which `accuracy` and `predict` take. It shares the weights of both networks and leaves them in their
        modes: bring them to eval mode before you call it by hand.

    Raises:
        ValueError: a layer that a network lacks; several entries, or other numbers of units; a compiled or traced
            network. When it is called: a layer that is called more than once, or that is no cut, since what follows in
            network a reads something else as well.

    What the map predicts goes through the layer's own rectifier (ReLU, ReLU6, Hardtanh), if network a's layer is one or
    is a chain that ends with one. Other non-linearities would change what has passed them before, as the activations
    that a map is fitted on have; there, as after a last layer or a residual block, it goes on as it is.
    How much accuracy is lost beside network a's own says how far the two halves are interchangeable up to such a map.
    Source: Lenc and Vedaldi 2015; Bansal et al. 2021. There the map is trained on labels, here it comes from moments.

    Example:
        >>> network = build_network("alexnet-narrow", seed=0).eval()
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
        require_known(its, dict(network.named_modules(remove_duplicate=False)), "layer")
    if not isinstance(mapping, MappingPath):
        raise ValueError(f"mapping: expected a MappingPath, such as least_squares(pair), got {came(mapping)}")
    if len(mapping.penalties) != 1:
        count = len(mapping.penalties)
        raise ValueError(f"mapping: expected one with one entry, got {count} penalties; fit it with the one you want")
    below = split_after(network_b, in_b)[0] if _is_chain(network_b, in_b) else _Upto(network_b, in_b)
    above = _Chain(split_after(network_a, in_a)[1]) if _is_chain(network_a, in_a) else _From(network_a, in_a)
    of_b = find_layers(network_b, [in_b])[0]
    return Stitched(below, above, mapping, of_b, _nonlinearity(network_a.get_submodule(in_a)))


def _as_layers(layer: str | Iterable[str]) -> tuple[str, str]:
    both = [layer, layer] if isinstance(layer, str) else as_list(layer, "layer", "a name, or one of each network")
    if (
        isinstance(layer, (set, frozenset))
        or len(both) != 2
        or not all(isinstance(name, str) and name for name in both)
    ):
        raise ValueError(f"layer: expected a name, or one of each network, got {came(layer)}")
    return both[0], both[1]


def _require(network: nn.Module, name: str) -> None:
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
    while isinstance(layer, nn.Sequential) and type(layer).forward is nn.Sequential.forward and len(layer):
        layer = layer[-1]
    return layer if isinstance(layer, _ONCE_AS_TWICE) else nn.Identity()


def _require_inputs(inputs: object) -> None:
    if not isinstance(inputs, Tensor) or not has_rows(inputs):
        raise ValueError(f"inputs: expected a tensor, as both networks take it, got {form_of(inputs)}")


def _predicted(mapping: MappingPath, acts: Tensor, layer: Layer) -> Tensor:
    """The map applied to each row of a layer's output, in float32 at least."""
    axis = unit_axis(acts, layer)
    last = acts.movedim(axis, -1)
    if last.shape[-1] != mapping.coefficients.shape[1]:
        units = f"{last.shape[-1]}, got one from {mapping.coefficients.shape[1]}"
        raise ValueError(f"mapping: expected one from as many units as network b's layer has, {units}; fit pair(b, a)")
    last = last.to(torch.promote_types(last.dtype, torch.float32))
    weights, offsets = mapping.weights_and_offsets()
    centre = offsets[0] + mapping.mean_a @ weights[0]  # far from zero the products would lose digits
    moved = (last - mapping.mean_a.to(last)) @ weights[0].to(last) + centre.to(last)
    moved = moved.to(acts.dtype)
    if not moved.isfinite().all() and acts.isfinite().all():
        raise ValueError(f"mapping: expected one whose predictions {acts.dtype} can hold, got larger ones")
    return moved.movedim(-1, axis)


@contextmanager
def _hooked(network: nn.Module, layer: str, told: Callable[[object], object]) -> Generator[None]:
    """Within it, what a layer gives is told, and replaced by what `told` returns, if anything."""
    me = threading.get_ident()

    def hook_of_mine(_module: nn.Module, _args: object, output: object) -> object:
        """Another thread's call is its own affair."""
        return told(output) if threading.get_ident() == me else None

    hook = network.get_submodule(layer).register_forward_hook(hook_of_mine)
    try:
        yield
    finally:
        hook.remove()


def _only(outputs: list[Any], layer: str) -> Any:
    if len(outputs) != 1:
        times = f"{len(outputs)} times" if outputs else "never"
        raise ValueError(f"layer: expected one that is called once, and {came(layer, 60)} is called {times}")
    return outputs[0]
