import pytest
import torch
from torch import nn

import convergent_utils as cu


@pytest.fixture(scope="module")
def network():
    return cu.build_network("alexnet", seed=1)


@pytest.fixture(scope="module")
def inputs():
    return torch.randn(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def by_hand(network, inputs, layer):
    with torch.no_grad():
        value = inputs
        for name, module in network.named_children():
            value = module(value)
            if name == layer:
                return value.permute(0, 2, 3, 1) if value.ndim == 4 else value[:, None, None]


@pytest.mark.parametrize("layer", ["conv1", "conv4", "fc6", "fc8"])
def test_rows_equal_the_layers_computed_by_hand(network, inputs, layer):
    maps = by_hand(network, inputs, layer)
    wanted = {
        "all": maps.flatten(0, 2),
        "mean": maps.mean((1, 2)),
        "centre": maps[:, maps.shape[1] // 2, maps.shape[2] // 2],
    }
    for positions, rows_wanted in wanted.items():
        with cu.record(network, layer, positions=positions) as rows:
            network(inputs)
        assert torch.allclose(rows[layer], rows_wanted, atol=1e-6), positions


def test_random_places_are_the_same_spot_in_every_layer_and_any_split(network, inputs):
    ramp = nn.Sequential(nn.Identity(), nn.AvgPool2d(2))
    where = torch.arange(28.0).expand(6, 1, 28, 28)
    with cu.record(ramp, ["0", "1"], positions=5, seed=3) as rows:
        ramp(where)
    assert rows["0"].shape == (30, 1)
    assert (rows["1"] - (rows["0"] // 2 * 2 + 0.5)).abs().max() == 0
    assert len(rows["0"].unique()) > 10
    with cu.record(network, ["conv1"], positions=5, seed=3) as rows:
        network(inputs)
        whole = rows["conv1"]
    with cu.record(network, ["conv1"], positions=5, seed=3) as rows:
        parts = []
        for part in inputs.split([1, 3, 2]):
            network(part)
            parts.append(rows["conv1"])
    assert torch.equal(torch.cat(parts), whole)
    with cu.record(network, ["conv1"], positions=5, seed=4) as rows:
        network(inputs)
    assert not torch.equal(rows["conv1"], whole)


def test_everything_is_restored_even_after_an_error(inputs):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.ReLU())
    network.train()
    network[1].eval()  # a frozen module in a network that trains
    modes = [module.training for module in network.modules()]
    with pytest.raises(RuntimeError, match="mine"), cu.record(network, ["3"]) as rows:
        network(inputs)
        assert not network.training
        assert not rows["3"].requires_grad
        raise RuntimeError("mine")
    assert [module.training for module in network.modules()] == modes
    assert all(not module._forward_hooks for module in network.modules())
    assert network(inputs).requires_grad
    torch.set_grad_enabled(True)


def test_tokens_and_neurons_have_places_too():
    layer = nn.Linear(4, 3)
    with cu.record(nn.Sequential(layer), ["0"]) as rows:
        layer_input = torch.randn(2, 5, 4)
        nn.Sequential(layer)(layer_input)
    with cu.record(layer, [""]) as rows:
        layer(layer_input)
    assert rows[""].shape == (10, 3)


def test_overwritten_outputs_are_refused_and_not_silently_wrong(inputs):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True))
    with pytest.raises(ValueError, match="'0' is overwritten in place"), cu.record(network, ["0"]):
        network(inputs)
    with cu.record(network, ["1"]) as rows:
        network(inputs)
    assert (rows["1"] >= 0).all()


def test_inference_mode_changes_nothing(inputs):
    """Where tensors have no version, an overwritten output is still found out."""
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True))
    with cu.record(network, ["1"]) as rows:
        network(inputs)
        expected = rows["1"].clone()
        with torch.inference_mode():
            network(inputs)
        assert torch.equal(rows["1"], expected)
        first, refused = cu.record(network, ["0"]), pytest.raises(ValueError, match="'0' is overwritten in place")
        with refused, first, torch.inference_mode():
            network(inputs)
    with torch.inference_mode(), cu.record(network, ["1"]) as rows:
        network(inputs)
        assert torch.equal(rows["1"], expected)


def test_bad_arguments_are_named(network, inputs):
    with pytest.raises(ValueError, match="did you mean 'conv1'"), cu.record(network, ["conv_1"]):
        pass
    with pytest.raises(ValueError, match="did you mean 'centre'"), cu.record(network, ["conv1"], positions="center"):
        pass
    with pytest.raises(ValueError, match="at least 1 place"), cu.record(network, ["conv1"], positions=0):
        pass
    with pytest.raises(ValueError, match="at least one"), cu.record(network, []):
        pass
    unused = nn.ModuleDict({"used": nn.Linear(2, 2), "idle": nn.Linear(2, 2)})
    unused.forward = lambda x: unused["used"](x)
    with pytest.raises(ValueError, match="'idle' was not called"), cu.record(unused, ["idle"]):
        unused(torch.zeros(1, 2))
    silent = nn.Sequential(nn.Identity())
    silent[0].forward = lambda x: {"no": "tensor"}
    with pytest.raises(ValueError, match="expected a tensor"), cu.record(silent, ["0"]):
        silent(torch.randn(2, 5))


def test_of_several_things_the_first_tensor_is_recorded():
    lstm, inputs = nn.LSTM(4, 3), torch.randn(2, 5, 4)
    attention, tokens = nn.MultiheadAttention(4, 2, batch_first=True), torch.randn(3, 6, 4)
    for network, arguments, wanted in (
        (lstm, (inputs,), lambda: lstm(inputs)[0].transpose(0, 1)),  # tokens come first
        (attention, (tokens, tokens, tokens), lambda: attention(tokens, tokens, tokens)[0]),
    ):
        with cu.record(network, [""]) as rows:
            network(*arguments)
        assert torch.allclose(rows[""], wanted().detach().flatten(0, 1), atol=1e-6)
    with cu.record(lstm, [""], output=lambda given: given[1][0][0]) as rows:
        lstm(inputs)
    assert torch.allclose(rows[""], lstm(inputs)[1][0][0].detach(), atol=1e-6)


def shapes(network, layers, *inputs, **options):
    with cu.record(network, layers, **options) as rows:
        network(*inputs)
        return {layer: tuple(value.shape) for layer, value in rows.items()}


@pytest.mark.parametrize(
    ("module", "shape", "units"),
    [
        (nn.Conv1d(3, 12, 5), (7, 3, 50), 12),
        (nn.ConvTranspose1d(3, 12, 5), (7, 3, 50), 12),
        (nn.BatchNorm1d(3), (7, 3, 50), 3),
        (nn.InstanceNorm1d(3), (7, 3, 50), 3),
        (nn.MaxPool1d(2), (7, 3, 50), 3),
        (nn.AdaptiveAvgPool1d(6), (7, 3, 50), 3),
        (nn.GroupNorm(1, 3), (7, 3, 50), 3),
        (nn.BatchNorm1d(3), (7, 3), 3),
        (nn.Linear(9, 4), (7, 5, 9), 4),
        (nn.LayerNorm(9), (7, 5, 6, 9), 9),
        (nn.Linear(9, 4), (7, 5, 6, 9), 4),
        (nn.LayerNorm([3, 5, 5]), (7, 3, 5, 5), 3),
        (nn.ReLU(), (7, 3, 5, 5), 3),
        (nn.TransformerEncoderLayer(6, 2, 8, batch_first=False), (9, 7, 6), 6),
        (nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), (7, 9, 6), 6),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_the_module_tells_what_axes_mean(module, shape, units):
    network = nn.Sequential(module)
    assert shapes(network, ["0"], torch.randn(shape), positions="mean") == {"0": (7, units)}


class Block(nn.Module):
    """Of maps with units last, as in Swin, or first, as in ConvNeXt; within it they are last."""

    def __init__(self, units, *, last):
        super().__init__()
        self.norm, self.mix, self.last = nn.LayerNorm(units), nn.Linear(units, units), last

    def forward(self, maps):
        return self.mix(self.norm(maps)) if self.last else self.mix(self.norm(maps.movedim(1, 3))).movedim(3, 1)


@pytest.mark.parametrize(("last", "shape"), [(True, (7, 5, 6, 9)), (False, (7, 9, 5, 6))])
def test_blocks_of_transformers_of_images(last, shape):
    network = nn.Sequential(Block(9, last=last), nn.Sequential(nn.Identity(), Block(9, last=last)))
    assert shapes(network, ["0", "1", "1.0"], torch.randn(shape), positions="mean") == dict.fromkeys(
        ("0", "1", "1.0"), (7, 9)
    )


class Own(nn.Module):
    """Somebody's own module of parts; it calls them in order, or does what it is told."""

    def __init__(self, *parts, does=None):
        super().__init__()
        self.parts, self.does = nn.ModuleList(parts), does

    def forward(self, x):
        if self.does is not None:
            return self.does(self.parts, x)
        for part in self.parts:
            x = part(x)
        return x


class Permute(nn.Module):
    def __init__(self, *axes):
        super().__init__()
        self.axes = axes

    def forward(self, x):
        return x.permute(*self.axes)


class OwnNorm(nn.LayerNorm):
    """One that somebody wrote for another precision."""

    def forward(self, x):
        return super().forward(x.float()).to(x.dtype)


LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


@pytest.mark.parametrize(
    ("network", "layer", "shape", "units"),
    [
        # an attention of windows and a dropped path within a block of Swin: no norm of their own
        (Own(nn.LayerNorm(9), Own(nn.Linear(9, 27), nn.Linear(27, 9))), "parts.1", (7, 5, 6, 9), 9),
        (Own(nn.LayerNorm(9), Own(nn.Identity())), "parts.1", (7, 5, 6, 9), 9),
        (nn.Sequential(nn.Conv2d(3, 9, 1), Permute(*LAST), nn.LayerNorm(9)), "1", (7, 3, 5, 6), 9),
        # a block of ConvNeXt
        (
            nn.Sequential(nn.Conv2d(9, 9, 1), Permute(*LAST), nn.LayerNorm(9), nn.Linear(9, 4), Permute(*FIRST)),
            "1", (7, 9, 5, 6), 9,
        ),
        (
            nn.Sequential(nn.Conv2d(9, 9, 1), Permute(*LAST), nn.LayerNorm(9), nn.Linear(9, 4), Permute(*FIRST)),
            "4", (7, 9, 5, 6), 4,
        ),
        (nn.Sequential(nn.Conv1d(3, 12, 5), nn.LocalResponseNorm(2)), "1", (7, 3, 50), 12),
        (nn.Sequential(nn.Conv2d(3, 12, 1), nn.Flatten(2)), "1", (7, 3, 5, 6), 12),
        (nn.Sequential(Permute(*LAST), nn.Flatten(1, 2)), "1", (7, 3, 5, 6), 3),
        (Own(Own(nn.Conv1d(3, 12, 5)), nn.Linear(46, 2)), "parts.0", (7, 3, 50), 12),
        (Own(Own(nn.Conv1d(3, 12, 5), nn.ReLU()), nn.Linear(46, 2)), "parts.0.parts.1", (7, 3, 50), 12),
        # a gate of channels, whose linear maps are of as many units as maps are wide
        (Own(nn.Conv2d(3, 12, 1), Own(nn.Linear(12, 6), does=lambda parts, x: x)), "parts.1", (7, 3, 5, 6), 12),
    ],
)  # fmt: skip
def test_what_lies_around_tells_what_axes_mean(network, layer, shape, units):
    assert shapes(network, layer, torch.randn(shape), positions="mean") == {layer: (7, units)}


@pytest.mark.parametrize(
    ("network", "shape", "right"),
    [
        (Own(nn.Conv2d(3, 12, 1), nn.LayerNorm(6)), (7, 3, 5, 6), "nchw"),
        (Own(nn.LayerNorm(9), nn.Linear(9, 5)), (7, 5, 5, 9), "nhwc"),
        (Own(nn.Conv1d(3, 12, 1), nn.LayerNorm(50)), (7, 3, 50), "ndt"),
        # turned after a convolution, by a module that does not say so; a norm of one's own; neither map is square
        (nn.Sequential(nn.Conv2d(3, 12, 1), Permute(*LAST)), (7, 3, 5, 6), "nhwc"),
        (Own(OwnNorm(12), nn.Linear(12, 12)), (7, 5, 6, 12), "nhwc"),
        # gates and joins of convolutions over time
        (Own(nn.Conv1d(3, 24, 1), does=lambda parts, x: parts[0](x).chunk(2, 1)[0]), (7, 3, 50), "ndt"),
        (Own(nn.Conv1d(3, 9, 1), does=lambda parts, x: torch.cat([x, parts[0](x)], 1)), (7, 3, 50), "ndt"),
    ],
)
def test_axes_that_sizes_do_not_tell_are_asked_for(network, shape, right):
    network = nn.Sequential(network)
    with pytest.raises(ValueError, match="^layers: '0': its output .* may have the axes .*option axes$"):
        shapes(network, "0", torch.randn(shape))
    found = shapes(network, "0", torch.randn(shape), axes=right, positions="mean")
    assert found == {"0": (7, 5 if shape == (7, 5, 5, 9) else 12)}


def test_square_maps_tell_what_sizes_do_not():
    turned, joined = (
        nn.Sequential(nn.Conv2d(3, 12, 1), Permute(*LAST)),
        Own(nn.Conv2d(3, 8, 1), does=lambda parts, x: torch.cat([parts[0](x), x, x], 1)),
    )
    assert shapes(turned, "1", torch.randn(7, 3, 5, 5), positions="mean") == {"1": (7, 12)}
    network = nn.Sequential(joined, nn.Conv2d(14, 8, 1))
    assert shapes(network, "0", torch.randn(7, 3, 8, 8), positions="mean") == {"0": (7, 14)}


def test_as_many_tokens_as_inputs_are_told_apart_or_refused():
    mixed = Own(nn.MultiheadAttention(6, 2), does=lambda parts, x: parts[0](*[x.transpose(0, 1)] * 3)[0])
    first, rows = nn.Sequential(Own(mixed, nn.Linear(6, 5)), Permute(1, 0, 2)), torch.randn(9, 9, 6)
    for layer in ("0", "0.parts.0", "0.parts.1"):
        with pytest.raises(ValueError, match="may have the axes 'ntd' or 'tnd'"):
            shapes(first, layer, rows)
        with pytest.raises(ValueError, match="^layers: .*is of 9 inputs, and 8 went in"):
            cu.measure({"a": first}, rows, layer, top=1, sample=2, folds=1)
    plain = nn.Sequential(nn.Linear(6, 5))
    for images in (rows, torch.randn(9 + 128, 9, 6)):
        found = cu.measure({"a": plain}, images, "0", top=1, sample=2, folds=1)
        assert torch.allclose(found.mean_map("a.0")[:, 0], plain(images).mean(0).double(), atol=1e-6)
        with pytest.raises(ValueError, match="inputs, and .* went in"):
            cu.measure(
                {"a": nn.Sequential(Permute(1, 0, 2), plain, Permute(1, 0, 2))}, images, "1", top=1, sample=2, folds=1
            )


def test_what_works_number_by_number_has_the_axes_of_what_came_before():
    inner = nn.Sequential(nn.Conv1d(3, 12, 5), nn.Dropout(), nn.Sequential(nn.ReLU()))
    network, time = nn.Sequential(inner, nn.GELU(), nn.Flatten(2), nn.Tanh()), torch.randn(7, 3, 50)
    found = shapes(network, ["0", "0.2", "0.2.0", "1", "3"], time, positions="mean")
    assert found == {"0": (7, 12), "0.2": (7, 12), "0.2.0": (7, 12), "1": (7, 12), "3": (7, 12)}
    maps = nn.Sequential(nn.LayerNorm(9), nn.GELU())
    assert shapes(maps, "1", torch.randn(7, 5, 6, 9), positions="mean") == {"1": (7, 9)}
    assert shapes(nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU()), "1", torch.randn(7, 1, 5, 6), positions="mean") == {
        "1": (7, 4)
    }


def test_a_norm_that_calls_itself_of_one_axis_may_be_of_maps():
    class LayerNorm2d(nn.LayerNorm):
        def forward(self, maps):
            return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    assert shapes(nn.Sequential(LayerNorm2d(3)), "0", torch.randn(7, 3, 5, 5)) == {"0": (175, 3)}


@pytest.mark.parametrize(
    ("axes", "order"), [("nchw", (0, 2, 3, 1)), ("nhwc", (0, 1, 2, 3)), ("ntd", (0, 1, 2)), ("ndt", (0, 2, 1))]
)
def test_axes_are_as_told(axes, order):
    network, inputs = nn.Sequential(nn.Identity()), torch.randn((4, 3, 5, 2)[: len(order)])
    for given in (axes, {"0": axes}):
        with cu.record(network, "0", axes=given) as rows:
            network(inputs)
            assert torch.equal(rows["0"], inputs.permute(order).flatten(0, -2))


class SequenceFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.out = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, rows):
        return self.out(self.block(rows.transpose(0, 1))[0])


def test_outputs_of_other_inputs_are_refused():
    network, rows = SequenceFirst(), torch.randn(20, 9, 6)
    with pytest.raises(ValueError, match="^layers: 'block': .*axes='ntd', is of 9 inputs, and 20 went in.* axes$"):
        shapes(network, "block", rows)
    with cu.record(network, ["block", "out"], axes={"block": "tnd"}, positions="mean") as found:
        network(rows)
        assert torch.allclose(found["block"], network.block(rows).mean(1), atol=1e-6)
    for axes in ("nchw", "tnd"):
        with pytest.raises(ValueError, match="^axes: "):
            shapes(network, "out", rows, axes=axes)
    with pytest.raises(ValueError, match="is of 9 inputs, and 20 went in"):
        shapes(nn.Sequential(nn.Linear(6, 5)), "0", rows, axes="tnd")
    with pytest.raises(ValueError, match="of 4 inputs, and 2 went in"):
        shapes(nn.Sequential(nn.Flatten(0, 1), nn.Linear(6, 5)), "1", torch.randn(2, 2, 6))


def test_the_number_of_inputs_is_that_of_the_first_tensor():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, scale=1.0, *, batch):
            return self.inner(batch["rows"] * scale)

    network, batch = Named(), {"name": "x", "rows": torch.randn(5, 3)}
    with cu.record(network, "inner") as rows:
        network(2.0, batch=batch)
        assert rows["inner"].shape == (5, 2)


def test_tokens_have_a_first_and_a_last_and_no_centre():
    network, tokens = nn.Sequential(nn.Identity()), torch.randn(4, 7, 3)
    for positions, wanted in (("first", tokens[:, 0]), ("last", tokens[:, -1]), ("mean", tokens.mean(1))):
        with cu.record(network, "0", positions=positions) as rows:
            network(tokens)
            assert torch.equal(rows["0"], wanted)
    assert shapes(network, "0", tokens, positions=5) == {"0": (20, 3)}
    with pytest.raises(ValueError, match="^positions: the tokens of '0' have no centre"):
        shapes(network, "0", tokens, positions="centre")
    for positions in ("first", "last"):
        with pytest.raises(ValueError, match=f"^positions: the grid of '0' has no {positions}"):
            shapes(network, "0", torch.randn(4, 3, 2, 2), positions=positions)
        assert shapes(network, "0", torch.randn(4, 3, 1, 1), positions=positions) == {"0": (4, 3)}
    mixed = nn.Sequential(nn.Identity(), nn.Flatten(2), nn.Identity())
    with pytest.raises(ValueError, match="^positions: the tokens of '1' are no places of the grid of '0'"):
        shapes(mixed, ["0", "1"], torch.randn(4, 3, 2, 2), positions=2)
    assert shapes(mixed, ["0", "1"], torch.randn(4, 3, 2, 2))["0"] == (16, 3)


def test_a_hook_that_cannot_be_placed_leaves_none_behind():
    network = nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.ReLU())).train()
    with pytest.raises(ValueError, match="^layers: '1' takes no hooks"), cu.record(network, ["0", "1"]):
        pass
    assert not network[0]._forward_hooks
    assert not network._forward_pre_hooks
    assert network.training
    assert network[0].training


def test_padded_tokens_on_the_fused_path():
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, dropout=0.0), 2)

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder

        def forward(self, rows):
            return self.encoder(rows, src_key_padding_mask=torch.tensor([[False] * 5, [False] * 3 + [True] * 2]))

    network, rows, fused = Padded(), torch.randn(2, 5, 6), torch.backends.mha.get_fastpath_enabled()
    whole = network(rows)  # in training mode, without dropout
    with cu.record(network, ["encoder", "encoder.layers.1", "encoder.layers.0.linear1"]) as found:
        network(rows)
    assert torch.allclose(found["encoder"], whole.detach().flatten(0, 1), atol=1e-5)
    assert found["encoder.layers.0.linear1"].shape == (10, 8)
    assert torch.backends.mha.get_fastpath_enabled() == fused


@pytest.mark.parametrize(
    "wrap",
    [
        lambda network: torch.compile(network, backend="eager"),
        nn.DataParallel,
        lambda network: torch.compile(nn.DataParallel(network), backend="eager"),
        lambda network: network.compile(backend="eager") or network,
    ],
    ids=["compiled", "parallel", "both", "in place"],
)
def test_wrapped_networks_are_recorded(wrap, generator):
    inputs, network = torch.randn(6, 4, generator=generator), nn.Sequential(nn.Linear(4, 5), nn.ReLU())
    wanted, wrapped = network[0](inputs).detach(), wrap(network)
    with torch.no_grad():
        wrapped(inputs)  # a compiled one passes over hooks that come later
    prefixed = next(name for name, module in wrapped.named_modules() if module is network[0])
    with cu.record(wrapped, ["0", prefixed]) as rows:
        wrapped(inputs)
    assert torch.allclose(rows["0"], wanted)
    assert torch.equal(rows[prefixed], rows["0"])
    found = cu.measure({"one": wrapped, "plain": nn.Sequential(nn.Linear(4, 3))}, inputs, "0", sample=4, top=2)
    assert torch.allclose(found.mean_activation("one.0"), wanted.double().mean(0), atol=1e-6)


def test_networks_that_pass_over_hooks_are_refused(generator):
    inputs, network = torch.randn(6, 4, generator=generator), nn.Sequential(nn.Linear(4, 5), nn.ReLU())
    exported = torch.export.export(network, (inputs,))
    others = (torch.jit.trace(network, inputs), torch.jit.script(network), exported, exported.module())
    for other in others:
        with pytest.raises(ValueError, match="^network: "), cu.record(other, "0"):
            other(inputs)
        with pytest.raises(ValueError, match="^networks: 'n': "):
            cu.measure({"n": other}, inputs, "0", sample=4, top=2)


def test_an_unknown_layer_is_answered_shortly():
    network = nn.ModuleDict({f"block{k}": nn.Linear(2, 2) for k in range(500)})
    with pytest.raises(ValueError, match="^layers: ") as refused, cu.record(network, "block_42"):
        pass
    said = str(refused.value)
    assert len(said) <= 300
    assert "'block42'" in said
    assert "named_modules" in said
    with pytest.raises(ValueError, match="^layers: network 'b' has no layer '0'"):
        cu.measure({"a": nn.Sequential(nn.Linear(2, 2)), "b": network}, torch.randn(9, 2), "0")


def test_generators_that_record_may_end_in_any_order():
    def rows_of(network):
        with cu.record(network, "0") as rows:
            for _ in range(2):
                network(torch.ones(1, 3))
                yield rows["0"]

    one, other = (nn.Sequential(nn.Linear(3, 2), nn.Dropout()).train() for _ in range(2))
    for pair in ((one, other), (one, one)):
        first, second = map(rows_of, pair)
        assert next(first).requires_grad is next(second).requires_grad is False
        first.close()
        assert not pair[1].training, "the second is still at work"
        assert not torch.is_grad_enabled()
        second.close()
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert all(module.training for network in pair for module in network.modules())
