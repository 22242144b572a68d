import numpy as np
import pytest
import torch

import convergent_utils as cu
from convergent_utils.nets import store

LAYERS = ["conv1", "conv3", "fc6"]


@pytest.fixture(scope="module")
def images():
    return cu.load_dataset("fashion-mnist", split="test", limit=90).images


@pytest.fixture(scope="module")
def networks():
    return {f"net{k}": cu.build_network("alexnet-narrow", seed=k) for k in (1, 2)}


@pytest.fixture(scope="module")
def measured(networks, images):
    return cu.measure(networks, images, LAYERS, sample=80)


def recorded(network, images, layer, **options):
    with cu.record(network, layer, **options) as rows:
        network(cu.normalise(images))
    return rows[layer]


@pytest.mark.parametrize("positions", ["all", "centre", "mean", 3])
@pytest.mark.parametrize("layer", LAYERS)
def test_one_pass_equals_recording_and_comparing(networks, images, positions, layer):
    found = cu.measure(networks, images, LAYERS, positions=positions, sample=40)
    rows = [recorded(net, images, layer, positions=positions, seed=0) for net in networks.values()]
    direct = cu.pair_moments(*rows)
    pair = found.pair(f"net1.{layer}", f"net2.{layer}")
    assert pair.n_samples == direct.n_samples
    assert torch.allclose(pair.cov_ab, direct.cov_ab, rtol=1e-4, atol=1e-6)
    assert torch.allclose(found.mean_activation(f"net1.{layer}"), direct.mean_a, rtol=1e-5)
    assert torch.allclose(found.active_share(f"net1.{layer}"), (rows[0] != 0).double().mean(0))


def test_folds_are_images_by_parity_and_merge_to_the_whole(measured, networks, images):
    rows = [recorded(net, images[1::2], "conv3") for net in networks.values()]
    odd = measured.pair("net1.conv3", "net2.conv3", fold=1)
    assert torch.allclose(odd.cov_ab, cu.pair_moments(*rows).cov_ab, rtol=1e-4, atol=1e-6)
    even, whole = measured.pair("net1.conv3", "net2.conv3", fold=0), measured.pair("net1.conv3", "net2.conv3")
    assert whole.n_samples == odd.n_samples + even.n_samples
    with pytest.raises(ValueError, match="fold: expected 0 to 1"):
        measured.pair("net1.conv3", "net2.conv3", fold=2)


def test_several_folds_are_read_as_one(networks, images):
    quarters = cu.measure(networks, images, "conv3", folds=4, sample=8)
    halves = cu.measure(networks, images, "conv3", folds=2, sample=8)
    blocks = "net1.conv3", "net2.conv3"
    even, wanted = quarters.pair(*blocks, fold=(2, 0)), halves.pair(*blocks, fold=0)
    assert even.n_samples == wanted.n_samples != quarters.pair(*blocks, fold=2).n_samples
    assert torch.allclose(even.cov_ab, wanted.cov_ab, rtol=1e-4, atol=1e-6)
    assert torch.equal(quarters.pair(*blocks, fold=range(4)).cov_ab, quarters.pair(*blocks).cov_ab)
    for wrong in ((), (0, 4), -1):
        with pytest.raises(ValueError, match="fold: expected 0 to 3"):
            quarters.pair(*blocks, fold=wrong)


def test_layout_is_the_mean_over_real_shuffles(measured, networks, images):
    a, b = (recorded(net, images, "conv3").unflatten(0, (90, -1)).double() for net in networks.values())
    generator, total = torch.Generator().manual_seed(0), 0
    shuffles = [torch.randperm(90, generator=generator) for _ in range(300)]
    for order in shuffles:
        total = total + cu.pair_moments(a.flatten(0, 1), b[order].flatten(0, 1)).cov_ab
    layout = measured.layout("net1.conv3", "net2.conv3")
    scale = layout.cov_ab.abs().max()
    assert ((total / 300 - layout.cov_ab).abs().max() / scale) < 0.02
    cyclic = sum(cu.pair_moments(a.flatten(0, 1), b.roll(k, 0).flatten(0, 1)).cov_ab for k in range(90)) / 90
    assert torch.allclose(cyclic, layout.cov_ab, rtol=1e-4, atol=1e-6), "the 90 cyclic shifts pair all images equally"


def test_layout_and_content_add_up(measured):
    parts = measured.layout("net1.conv1", "net2.conv1"), measured.content("net1.conv1", "net2.conv1")
    whole = measured.pair("net1.conv1", "net2.conv1")
    assert torch.allclose(parts[0].cov_ab + parts[1].cov_ab, whole.cov_ab)
    assert torch.equal(parts[0].cov_aa, whole.cov_aa)
    assert (measured.layout("net1.fc6", "net2.fc6").cov_ab == 0).all(), "one place has no layout"
    mean_map = measured.mean_map("net2.conv1")
    assert mean_map.shape == (28, 28, 16)
    assert torch.allclose(mean_map.mean((0, 1)), whole.mean_b, rtol=1e-5)


def test_layout_where_there_is_none_to_tell(networks, images):
    centre = cu.measure(networks, images, ["conv1"], positions="centre", sample=10)
    with pytest.raises(ValueError, match="positions='all'"):
        centre.layout("net1.conv1", "net2.conv1")
    across = cu.measure(networks, images, ["conv1", "conv3"], positions=2, sample=10)
    with pytest.raises(ValueError, match="no mean map"):
        across.mean_map("net1.conv1")


def test_the_sample_has_the_same_rows_in_every_block(measured, networks, images):
    assert len(measured.sample_images) == 80
    assert len(measured.sample_images.unique()) == 20
    for block in ("net1.conv1", "net2.conv3", "net1.fc6"):
        net, layer = block.split(".")
        maps = recorded(networks[net], images, layer).unflatten(0, (90, -1))
        side = round(maps.shape[1] ** 0.5)
        for row in range(0, 80, 7):
            down, across = (measured.sample_places[row] * side).long().tolist()
            wanted = maps[measured.sample_images[row], down * side + across]
            assert torch.allclose(measured.sample(block)[row], wanted, atol=1e-6)
    whole = measured.sample_places.unflatten(0, (20, 4))
    assert (whole == whole[0]).all(), "the same places for every image, so images can be exchanged"


@pytest.mark.parametrize("positions", ["all", "centre", 3])
def test_top_stimuli_are_the_strongest(networks, images, positions):
    found = cu.measure(networks, images, ["conv1", "fc6"], positions=positions, top=5, sample=10)
    full = recorded(networks["net1"], images, "conv1").unflatten(0, (90, 28, 28))
    rows = recorded(networks["net1"], images, "conv1", positions=positions, seed=0).unflatten(0, (90, -1))
    top = found.top("net1.conv1")
    best = rows.amax(1).sort(0, descending=True).values[:5].T
    assert torch.allclose(top.value, best, atol=1e-5)
    unit = torch.arange(16)[:, None].expand(16, 5)
    there = full[top.image, top.place[..., 0], top.place[..., 1], unit]
    assert torch.allclose(there, top.value, atol=1e-5), "the unit does have that activation at that place of that image"
    assert all(len(set(images.tolist())) == 5 for images in top.image), "one place per image"


def test_pairs_across_layers_meet_at_shared_places(networks, images):
    pairs = [("net1.conv1", "net2.fc6")]
    found = cu.measure(networks, images, ["conv1", "fc6"], pairs=pairs, positions="mean", sample=10)
    rows = recorded(networks["net1"], images, "conv1", positions="mean"), recorded(networks["net2"], images, "fc6")
    assert torch.allclose(found.pair(*pairs[0]).cov_ab, cu.pair_moments(*rows).cov_ab, rtol=1e-4, atol=1e-7)
    with pytest.raises(ValueError, match="not accumulated"):
        found.pair("net1.conv1", "net2.conv1")
    with pytest.raises(ValueError, match="expected .* samples"):
        cu.measure(networks, images, ["conv1", "fc6"], pairs=pairs, sample=10)


def test_floating_images_are_used_as_they_are(networks, images):
    as_given = cu.measure(networks, cu.normalise(images), ["conv1"], sample=10)
    from_bytes = cu.measure(networks, images, ["conv1"], sample=10)
    assert torch.equal(*(m.pair("net1.conv1", "net2.conv1").cov_ab for m in (as_given, from_bytes)))


def test_networks_are_left_as_they_were(networks, images):
    network = networks["net1"].train()
    cu.measure(networks, images, ["conv1"], sample=10)
    assert network.training
    assert all(not module._forward_hooks for module in network.modules())
    network.eval()


def test_inference_mode_changes_nothing(networks, images):
    expected = cu.measure(networks, images, ["conv1", "fc6"], sample=10)
    with torch.inference_mode():
        found = cu.measure(networks, images, ["conv1", "fc6"], sample=10)
    pair = found.pair("net1.fc6", "net2.fc6", fold=np.int64(1))
    assert pair.cov_ab.equal(expected.pair("net1.fc6", "net2.fc6", fold=1).cov_ab)
    merged = found.folds[0].merge(found.folds[1])
    merged.update({name: torch.zeros(1, units) for name, units in merged.blocks.items()})


def test_the_store_is_used_and_follows_weights_images_and_options(networks, images, tmp_path, monkeypatch):
    kept = store.Store(tmp_path)
    options = {"sample": 10, "store": kept}
    first = cu.measure(networks, images, ["conv1"], **options)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    again = cu.measure(networks, images, ["conv1"], **options)
    assert torch.equal(again.sample("net2.conv1"), first.sample("net2.conv1"))
    assert again.blocks == first.blocks
    assert torch.equal(again.top("net1.conv1").image, first.top("net1.conv1").image)
    assert torch.equal(again.layout("net1.conv1", "net2.conv1").cov_ab, first.layout("net1.conv1", "net2.conv1").cov_ab)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    other = {**networks, "net2": cu.build_network("alexnet-narrow", seed=9)}
    cu.measure(other, images, ["conv1"], **options)
    cu.measure(networks, images[1:], ["conv1"], **options)
    cu.measure(networks, images, ["conv1"], positions="mean", **options)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["conv_1"]}, "did you mean 'conv1'"),
        ({"positions": "al"}, "did you mean 'all'"),
        ({"folds": 0}, "folds: expected at least 1"),
        ({"folds": 50}, "images: expected at least 2 per fold"),
        ({"top": 91}, "top: expected at most as many"),
        ({"pairs": [("net1.conv1", "net3.conv1")]}, "pairs: .*did you mean"),
    ],
)
def test_bad_arguments_are_named(networks, images, options, message):
    with pytest.raises(ValueError, match=message):
        cu.measure(networks, images, **{"layers": ["conv1"], "sample": 10, **options})


def test_bad_images_and_names_are_named(networks, images):
    for other in (images.tolist(), images.long(), "images"):
        with pytest.raises(ValueError, match="images: expected"):
            cu.measure(networks, other, ["conv1"])
    with pytest.raises(ValueError, match="device: expected 'auto' or"):
        cu.measure(networks, images, ["conv1"], device="tpu")
    with pytest.raises(ValueError, match="without dots"):
        cu.measure({"net.1": networks["net1"]}, images, ["conv1"])
    spoilt = cu.normalise(images)
    spoilt[7] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in unit 0"):
        cu.measure(networks, spoilt, ["conv1"])
    with pytest.raises(ValueError, match="block: .*did you mean 'net1.conv1'"):
        cu.measure(networks, images, ["conv1"], sample=10).sample("net1.conv")


class CallsItselfInInferenceMode(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(20, 5)

    @torch.inference_mode()
    def forward(self, rows):
        return self.inner(rows)


def test_networks_of_rows_and_of_their_own_mode(generator):
    rows = torch.randn(40, 20, generator=generator)
    networks = {"a": CallsItselfInInferenceMode(), "b": torch.nn.Sequential()}
    networks["b"].add_module("inner", torch.nn.Linear(20, 7))
    found = cu.measure(networks, rows, ["inner"], sample=10)
    expected = cu.pair_moments(networks["a"].inner(rows), networks["b"].inner(rows))
    assert torch.allclose(found.pair("a.inner", "b.inner").cov_ab, expected.cov_ab, atol=1e-6)
