import pytest
import torch

import convergent_utils as cu
from convergent_utils.nets.networks import weighted

IMAGES = torch.randn(20, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def widths(network):
    return [p.shape[0] for name, p in network.named_parameters() if name.endswith("bias")]


def test_structure():
    network = cu.build_network("alexnet", classes=7)
    assert network.layers == ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
    assert widths(network) == [24, 48, 64, 64, 48, 128, 128, 7]
    assert widths(cu.build_network("alexnet-narrow")) == [16, 24, 32, 32, 24, 64, 64, 10]
    assert widths(cu.build_network("alexnet", width=0.25)) == [6, 12, 16, 16, 12, 32, 32, 10]


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (1, 12), (3, 64)])
def test_any_size_of_image(channels, size):
    assert cu.build_network("alexnet", channels=channels)(torch.randn(2, channels, size, size)).shape == (2, 10)


def test_the_seed_decides_the_weights_and_nothing_else_does():
    torch.manual_seed(1)
    first = cu.build_network("alexnet", seed=3).state_dict()
    torch.manual_seed(2)
    again, other = cu.build_network("alexnet", seed=3).state_dict(), cu.build_network("alexnet", seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.0.weight"], other["conv1.0.weight"])


def test_the_global_generator_is_left_alone(tmp_path):
    network, before = cu.build_network("alexnet-narrow"), torch.get_rng_state()
    cu.build_network("alexnet-narrow", seed=3)
    cu.permuted_copy(network, seed=1)
    cu.truncated(network, "fc6", torch.eye(64)[:, :3], torch.zeros(64))
    cu.save(network, tmp_path / "network.safetensors")
    cu.load(tmp_path / "network.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


def test_hardly_a_unit_is_dead_before_training():
    images = cu.normalise(cu.load_dataset("fashion-mnist", split="test", limit=500).images)
    for seed in range(1, 5):
        network = cu.build_network("alexnet", seed=seed)
        with cu.record(network, network.layers[:-1]) as rows:
            network(images)
        for layer, values in rows.items():
            dead = 1 - (values > 0).any(0).double().mean()
            assert dead <= 0.05, f"{layer} of seed {seed}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "alexnt"}, "did you mean 'alexnet'"),
        ({"name": "alexnet", "width": 0}, "width: expected a positive number"),
        ({"name": "alexnet", "channels": 0}, "channels"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        cu.build_network(**arguments)


def test_a_permuted_copy_computes_the_same_with_its_units_shuffled():
    network = cu.build_network("alexnet", seed=1).double()
    with torch.no_grad():
        for name, p in network.named_parameters():
            if name.endswith("bias"):
                p.normal_(generator=torch.Generator().manual_seed(len(name)))
    copy, shuffles = cu.permuted_copy(network, seed=5)
    images = IMAGES.double()
    assert torch.allclose(copy(images), network(images), atol=1e-10)
    assert list(shuffles) == list(network.layers[:-1])
    with cu.record(network, network.layers) as original, cu.record(copy, network.layers) as shuffled:
        network(images), copy(images)
        for layer, order in shuffles.items():
            assert sorted(order.tolist()) == list(range(len(order)))
            assert not torch.equal(order, torch.arange(len(order)))
            assert torch.allclose(shuffled[layer], original[layer][:, order], atol=1e-10), layer
    assert torch.equal(cu.permuted_copy(network, seed=5)[1]["conv3"], shuffles["conv3"])
    assert not torch.equal(cu.permuted_copy(network, seed=6)[1]["conv3"], shuffles["conv3"])


def test_only_own_networks_can_be_permuted():
    with pytest.raises(ValueError, match="build_network"):
        cu.permuted_copy(torch.nn.Linear(2, 2), seed=0)


def test_cutting_units_that_say_nothing_changes_nothing():
    """Half of the units of each hidden layer feed nothing; without them the network computes the same."""
    wide = cu.build_network("alexnet-narrow", width=2, seed=1).double()
    generator, kept, places = torch.Generator().manual_seed(0), {}, {"fc6": 9}
    for layer, above in zip(wide.layers, wide.layers[1:], strict=False):
        order = torch.randperm(len(weighted(wide, layer).weight), generator=generator)
        kept[layer], silent = order.tensor_split(2)
        with torch.no_grad():
            inputs = weighted(wide, above).weight.unflatten(1, (len(order), places.get(above, 1)))
            inputs[:, silent] = 0
    cut = cu.with_units(wide, kept, width=1)
    assert cut.configuration["width"] == 1
    assert torch.allclose(cut(IMAGES.double()), wide(IMAGES.double()), atol=1e-12)
    assert torch.equal(weighted(cut, "conv3").bias, weighted(wide, "conv3").bias[kept["conv3"]])
    with pytest.raises(ValueError, match="units: expected 48 of conv1 at width 3, got 16"):
        cu.with_units(wide, kept, width=3)
    for wrong in ({}, {**kept, "fc7": torch.tensor([0, 128])}):
        with pytest.raises(ValueError, match=r"units: expected some of the \d+ of (conv1|fc7), got"):
            cu.with_units(wide, wrong, width=1)
