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
    lstm = nn.LSTM(4, 3)
    with pytest.raises(ValueError, match="expected a tensor"), cu.record(lstm, [""]):
        lstm(torch.randn(2, 5, 4))
