import copy
import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread

import numpy as np
import pytest
import torch

import convergent_utils as cu
from convergent_utils.kernels.precision import ProcessWide
from convergent_utils.making import store
from convergent_utils.nets import measuring, modes
from convergent_utils.nets.behaviour import behaviour

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
    assert len(measured.sample_images.unique()) > 40, "rows are chosen one by one, not image by image"
    for block in ("net1.conv1", "net2.conv3", "net1.fc6"):
        net, layer = block.split(".")
        maps = recorded(networks[net], images, layer).unflatten(0, (90, -1))
        side = round(maps.shape[1] ** 0.5)
        for row in range(0, 80, 7):
            down, across = (measured.sample_places[row] * side).long().tolist()
            wanted = maps[measured.sample_images[row], down * side + across]
            assert torch.allclose(measured.sample(block)[row], wanted, atol=1e-6)
    assert len(measured.sample_places.unique(dim=0)) <= 64, "the same places for every image, which can be exchanged"


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
        ({"folds": 50}, "inputs: expected at least 2 per fold"),
        ({"top": 91}, "top: expected at most as many"),
        ({"pairs": [("net1.conv1", "net3.conv1")]}, "pairs: .*did you mean"),
    ],
)
def test_bad_arguments_are_named(networks, images, options, message):
    with pytest.raises(ValueError, match=message):
        cu.measure(networks, images, **{"layers": ["conv1"], "sample": 10, **options})


def test_bad_images_and_names_are_named(networks, images):
    for other in (images.tolist(), images.long(), "images"):
        with pytest.raises(ValueError, match="inputs: expected"):
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


class Decoder(torch.nn.Module):
    """Its ReLU is called on maps of 4 x 4, then of 8 x 8 with other units; or each time on one of its own."""

    def __init__(self, *, shared):
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(1, 6, 3, 2, 1), torch.nn.Conv2d(6, 5, 3, padding=1)
        self.relu = torch.nn.ReLU()
        self.before = self.relu if shared else torch.nn.ReLU()

    def forward(self, images):
        small = self.before(self.first(images))
        return self.relu(self.second(torch.nn.functional.interpolate(small, scale_factor=2)))


@pytest.mark.parametrize("positions", ["all", "centre", "mean", 3])
def test_a_module_called_twice_counts_with_its_last_call(generator, positions):
    own = Decoder(shared=False)
    shared = Decoder(shared=True)
    shared.load_state_dict(own.state_dict())
    images = torch.randn(30, 1, 8, 8, generator=generator)
    one, other = (
        cu.measure({"n": net}, images, "relu", positions=positions, sample=16, top=3) for net in (own, shared)
    )
    assert one.blocks == other.blocks == {"n.relu": 5}
    assert torch.equal(one.pair("n.relu", "n.relu").cov_ab, other.pair("n.relu", "n.relu").cov_ab)
    assert torch.equal(one.sample("n.relu"), other.sample("n.relu"))
    for part in ("value", "image", "place"):
        assert torch.equal(getattr(one.top("n.relu"), part), getattr(other.top("n.relu"), part))
    assert torch.equal(one.active_share("n.relu"), other.active_share("n.relu"))
    if positions != 3:
        assert torch.equal(one.mean_map("n.relu"), other.mean_map("n.relu"))


def test_an_earlier_call_of_a_module_is_no_reason_to_refuse(generator):
    class Windows(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = torch.nn.ReLU()

        def forward(self, rows):
            self.relu(rows.reshape(-1, 1))
            self.relu(rows.reshape(len(rows), 1, 1, 1, -1))
            return self.relu(rows)

    rows = torch.randn(20, 4, generator=generator)
    found = cu.measure({"n": Windows()}, rows, "relu", sample=8)
    assert torch.allclose(found.mean_activation("n.relu"), rows.relu().double().mean(0), atol=1e-6)


class Acts(torch.nn.Module):
    """Equal weights and equal repr, whatever it does with them."""

    def __init__(self, act=torch.relu, slope=1.0, shift=0.0):
        super().__init__()
        self.linear, self.out, self.act, self.slope = torch.nn.Linear(4, 3), torch.nn.Identity(), act, slope
        self.register_buffer("shift", torch.tensor(shift), persistent=False)
        torch.nn.init.constant_(self.linear.weight, 0.5)
        torch.nn.init.constant_(self.linear.bias, 0.1)

    def forward(self, rows):
        return self.out(self.act(self.linear(rows)) * self.slope + self.shift)


class Edited(Acts):
    def __repr__(self):
        return super().__repr__().replace("Edited", "Acts")

    def forward(self, rows):
        return super().forward(rows + 1)


def ablated():
    network = Acts()
    network.linear.register_forward_hook(lambda module, inputs, output: output * torch.tensor([1.0, 0, 1]))
    return network


@pytest.mark.parametrize(
    "other", [lambda: Acts(torch.tanh), lambda: Acts(slope=3.0), lambda: Acts(shift=2.0), Edited, ablated]
)
def test_the_store_tells_networks_apart_that_have_the_same_weights(other, generator, tmp_path):
    rows, kept = torch.randn(20, 4, generator=generator), store.Store(tmp_path)
    cu.measure({"n": Acts()}, rows, "out", sample=8, store=kept)
    found = cu.measure({"n": other()}, rows, "out", sample=8, store=kept).mean_activation("n.out")
    assert torch.equal(found, cu.measure({"n": other()}, rows, "out", sample=8).mean_activation("n.out"))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    cu.measure({"n": other()}, rows, "out", sample=8, store=kept)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2, "the same network is found again"


class Sealed(torch.nn.Linear):
    """What it does lies where nobody can read it: within an object of a library that says nothing of itself."""

    def __init__(self, factor):
        super().__init__(4, 3)
        torch.nn.init.constant_(self.weight, 0.5)
        torch.nn.init.constant_(self.bias, 0.1)
        self.sealed = memoryview(bytes([factor]))

    def forward(self, rows):
        return super().forward(rows) * self.sealed[0]


def test_what_cannot_be_read_is_seen_by_the_probe(generator, tmp_path):
    rows, nets = torch.randn(20, 4, generator=generator), {factor: Sealed(factor) for factor in (2, 3)}
    assert behaviour(nets[2]) == behaviour(nets[3])
    found = [cu.measure({"n": net}, rows, "", sample=8, store=tmp_path).mean_activation("n.") for net in nets.values()]
    assert torch.allclose(found[0] / 2, found[1] / 3)


def test_something_else_that_was_kept_for_a_measurement_is_not_returned(generator, tmp_path):
    rows, kept = torch.randn(20, 4, generator=generator), store.Store(tmp_path)
    configuration = measuring.measurement_configuration({"n": Acts()}, rows, ["out"], sample=8)
    kept.keep("measurement", configuration, torch.ones(3))
    for _ in range(2):
        assert isinstance(cu.measure({"n": Acts()}, rows, "out", sample=8, store=kept), cu.Measurement)
    assert isinstance(kept.find("measurement", configuration), cu.Measurement)


def test_the_probe_is_apart_from_what_any_processor_agrees_on(generator):
    rows = torch.randn(20, 4, generator=generator)
    one, other = (measuring.measurement_configuration({"n": net}, rows, ["out"]) for net in (Acts(), Acts(torch.tanh)))
    assert one.pop("probe") != other.pop("probe")
    assert one == other
    network, before = Acts(), torch.get_rng_state()
    measuring.measurement_configuration({"n": network}, rows, ["out"])
    assert torch.equal(torch.get_rng_state(), before)


def test_state_that_is_no_tensor_has_a_key(generator, tmp_path):
    class Extra(torch.nn.Linear):
        told = 1

        def get_extra_state(self):
            return {"told": self.told, "object": object()}

    rows, kept = torch.randn(20, 4, generator=generator), store.Store(tmp_path)
    quantised = torch.nn.Sequential(torch.nn.Linear(4, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(quantised, {torch.nn.Linear})
        for network in (torch.nn.Sequential(Extra(4, 3)), quantised):
            found = [cu.measure({"n": network}, rows, "0", sample=8, store=kept) for _ in range(2)]
            assert torch.equal(found[0].sample("n.0"), found[1].sample("n.0"))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert store.checksum({"a": {"told": 1}}) != store.checksum({"a": {"told": 2}})


def test_images_are_read_and_cast(networks, images, generator, tmp_path):
    wanted = cu.measure(networks, images, "conv1", sample=8).mean_activation("net1.conv1")
    for given in (
        images.numpy(),
        cu.load_dataset("fashion-mnist", split="test", limit=90),
        cu.normalise(images).numpy(),
    ):
        assert torch.equal(cu.measure(networks, given, "conv1", sample=8).mean_activation("net1.conv1"), wanted)
    (tmp_path / "images.npy").write_bytes(b"")
    np.save(tmp_path / "images.npy", images.numpy())
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(cu.measure(networks, mapped, "conv1", sample=8).mean_activation("net1.conv1"), wanted)
    for dtype, close in ((torch.float64, 1e-5), (torch.bfloat16, 0.1)):
        nets = {"net1": cu.build_network("alexnet-narrow", seed=1).to(dtype), "net2": networks["net2"]}
        found = cu.measure(nets, images, "conv1", sample=8).mean_activation("net1.conv1")
        assert torch.allclose(found, wanted, rtol=close, atol=close)


class Patches(torch.nn.Module):
    """A small transformer of images: a grid of patches, then tokens with one for the class."""

    def __init__(self, units=6, side=3):
        super().__init__()
        self.project = torch.nn.Conv2d(1, units, side, side)
        self.block, self.head = torch.nn.Linear(units, units), torch.nn.Linear(units, 4)

    def forward(self, images):
        tokens = self.project(images).flatten(2).transpose(1, 2)
        return self.head(self.block(torch.cat((tokens[:, :1] * 0 + 1, tokens), dim=1))[:, 0])


def test_tokens_are_no_places_of_an_image(generator):
    images = torch.randn(20, 1, 9, 9, generator=generator)
    networks = {"a": Patches(), "b": Patches(5)}
    across = {"pairs": [("a.project", "b.block")], "sample": 12}
    for positions in ("all", "centre", 4, "first", "last"):
        with pytest.raises(ValueError, match="^positions: "):
            cu.measure(networks, images, ["project", "block"], positions=positions, **across)
    found = cu.measure(networks, images, ["project", "block"], positions="mean", **across)
    assert found.pair("a.project", "b.block").n_samples == 20
    apart = cu.measure(networks, images, ["project", "block", "head"], positions="all", sample=12, pairs=[])
    assert apart.sample("a.project").shape == (12, 6)
    with pytest.raises(ValueError, match="^block: the tokens of 'b.block'"):
        apart.sample("b.block")
    tokens = cu.measure(networks, images, "block", positions="all", sample=12)
    with cu.record(networks["a"], "block") as rows:
        networks["a"](images)
        whole = rows["block"].unflatten(0, (20, 10))
    place = (tokens.sample_places[:, 0] * 10).long()
    assert torch.equal(tokens.sample("a.block"), whole[tokens.sample_images, place])
    for positions, token in (("first", 0), ("last", 9)):
        found = cu.measure(networks, images, ["block", "head"], positions=positions, sample=12)
        assert torch.allclose(found.mean_activation("a.block"), whole[:, token].double().mean(0), atol=1e-6)
        assert torch.equal(found.sample("a.block"), whole[found.sample_images, token])
        assert (found.top("a.block").place == torch.tensor([token, 0])).all()
    some = cu.measure(networks, images, ["block", "head"], positions=3, sample=12)
    assert some.pair("a.block", "b.block").n_samples == 60


def test_axes_of_measure(generator):
    time = torch.randn(30, 1, 50, generator=generator)
    network = torch.nn.Sequential(torch.nn.Conv1d(1, 12, 5), torch.nn.ReLU())
    direct = network(time).detach().transpose(1, 2).flatten(0, 1).double()
    for axes in ({"1": "ndt"}, "ndt"):
        found = cu.measure({"n": network}, time, ["0", "1"], axes=axes, sample=8)
        assert found.blocks == {"n.0": 12, "n.1": 12}
        assert torch.allclose(found.mean_activation("n.1"), direct.mean(0), atol=1e-6)
    assert cu.measure({"n": network}, time, "0", sample=8).blocks == {"n.0": 12}
    keys = [
        measuring.measurement_configuration({"n": network}, time, ["0"], axes=axes) for axes in (None, "ndt", "ntd")
    ]
    assert len({store.configuration_hash(key) for key in keys}) == 3


def test_tokens_that_come_first_are_not_images(generator):
    class First(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.block = torch.nn.TransformerEncoderLayer(6, 2, 8, batch_first=False)
            self.after = torch.nn.Linear(6, 3)

        def forward(self, rows):
            return self.after(self.block(rows.transpose(0, 1)))

    rows, network = torch.randn(40, 9, 6, generator=generator), First().eval()
    wanted = network.block(rows.transpose(0, 1)).mean(0)
    found = cu.measure({"n": network}, rows, ["block", "block.linear1"], positions="mean", sample=8)
    assert torch.allclose(found.mean_activation("n.block"), wanted.double().mean(0), atol=1e-6)
    with pytest.raises(ValueError, match="layers: 'after': .* is of 9 inputs, and .* by the option axes"):
        cu.measure({"n": network}, rows, "after", sample=8)
    found = cu.measure({"n": network}, rows, "after", axes="tnd", sample=8)
    assert torch.allclose(found.mean_activation("n.after"), network(rows).double().mean((0, 1)), atol=1e-6)


def in_threads(*works):
    """What each of several works gives or raises, each in a thread of its own; together they are as in `works`."""
    with ThreadPoolExecutor(len(works)) as pool:
        futures = [pool.submit(work) for work in works]
        return [future.exception() or future.result() for future in futures]


def test_of_threads_at_one_network_one_is_right_and_the_others_are_refused(generator):
    inside, network = Event(), torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).train()
    twin, rows = copy.deepcopy(network), torch.randn(40, 3, generator=generator)
    done = Event()

    def slow():
        with cu.record(network, "0") as found:
            network(rows)
            inside.set()
            done.wait(10)
            return found["0"]

    def others():
        inside.wait(10)
        tries = [
            lambda: cu.measure({"n": network}, rows, "0", sample=4),
            lambda: cu.measure({"n": torch.nn.Sequential(network[0])}, rows, "0", sample=4),  # a module of it
            lambda: modes.evaluating(network).__enter__(),  # as in predictions
            lambda: cu.record(network, "0").__enter__(),
        ]
        said = []
        for work in tries:
            with pytest.raises(ValueError, match="another thread is at work with it") as refused:
                work()
            said.append(str(refused.value))
        found = cu.measure({"n": twin}, rows, "0", sample=4)
        done.set()
        return said, found

    found, (said, measured) = in_threads(slow, others)
    wanted = torch.nn.functional.linear(rows, network[0].weight, network[0].bias)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert torch.allclose(measured.mean_activation("n.0"), wanted.double().mean(0), atol=1e-6)
    assert all(text.startswith("network") and len(text) <= 300 for text in said)
    assert network.training
    assert network[1].training
    assert not network[0]._forward_hooks
    assert cu.measure({"n": network}, rows, "0", sample=4).n_images == 40


def test_what_a_thread_that_has_ended_left_open_stands_in_nobodys_way(generator):
    network, rows, held = (
        torch.nn.Sequential(torch.nn.Linear(3, 2)).train(),
        torch.randn(20, 3, generator=generator),
        [],
    )
    in_threads(lambda: held.append(cu.record(network, "0")) or held[0].__enter__())
    assert cu.measure({"n": network}, rows, "0", sample=4).n_images == 20
    assert network.training
    held[0].__exit__(None, None, None)
    assert network.training
    assert not network[0]._forward_hooks


def test_what_threads_change_for_the_process_is_as_before_once_all_have_left():
    entered, left = [Event(), Event()], [Event(), Event()]

    def work(k):
        with cu.record(torch.nn.Linear(3, 2), ""):
            entered[k].set()
            entered[1 - k].wait(10)
            if k:
                left[0].wait(10)
            assert not torch.backends.mha.get_fastpath_enabled()
            assert torch.get_float32_matmul_precision() == "highest"
        left[k].set()

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert in_threads(lambda: work(0), lambda: work(1)) == [None, None]
        assert torch.backends.mha.get_fastpath_enabled()
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("positions", ["all", "mean", "centre", 3])
@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.float32, 1e38), (torch.bfloat16, 1e38), (torch.float64, 1e50), (torch.float64, 1e-60)]
)
def test_what_is_kept_beside_moments_has_any_scale(generator, positions, dtype, scale):
    maps = 1 + torch.rand(20, 2, 6, 6, generator=generator, dtype=torch.float64)
    images = (maps * scale).to(dtype)
    options = {"positions": positions, "sample": 16, "top": 3}
    network = torch.nn.Sequential(torch.nn.PReLU(dtype=dtype))
    found = cu.measure({"n": network}, images, "0", **options)
    wanted = cu.measure({"n": network.double()}, images.double() / scale, "0", **options)
    rough = {"rtol": 0.01 if dtype == torch.bfloat16 else 1e-6, "atol": 0}
    assert torch.allclose(found.sample("n.0").double() / scale, wanted.sample("n.0").double(), **rough)
    assert torch.allclose(found.top("n.0").value.double() / scale, wanted.top("n.0").value, **rough)
    assert torch.allclose(found.mean_activation("n.0") / scale, wanted.mean_activation("n.0"), **rough)
    if positions != 3:
        assert torch.allclose(found.mean_map("n.0") / scale, wanted.mean_map("n.0"), **rough)


def test_what_ends_while_a_setting_is_changed_is_waited_for_by_nobody():
    setting, left = ProcessWide(), []

    def change(stack):
        """As where a generator is collected just now."""
        with setting.changed(lambda inner: inner.callback(left.append, "inner")):
            pass
        stack.callback(left.append, "outer")

    def work():
        with setting.changed(change):
            pass

    thread = Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert left == ["inner", "outer"]


def test_a_change_that_fails_half_way_is_taken_back():
    setting, left = ProcessWide(), []

    def change(stack):
        stack.callback(left.append, "taken back")
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"), setting.changed(change):
        pytest.fail("it goes on")
    assert left == ["taken back"]
    assert setting.within == []
