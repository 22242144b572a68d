import copy
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import convergent_utils as cu


@pytest.fixture(scope="module")
def data():
    return cu.load_dataset("fashion-mnist", limit=512)


@pytest.fixture(scope="module")
def network(data):
    return cu.train(cu.build_network("alexnet-narrow", seed=1), data, cu.Recipe(epochs=2), seed=1).network


@pytest.fixture(scope="module")
def measured(network, data):
    """The network with a shuffled copy and one that has learned nothing."""
    networks = {
        "own": network,
        "copy": cu.permuted_copy(network, seed=2)[0],
        "untrained": cu.build_network("alexnet-narrow", seed=3),
    }
    return networks, cu.measure(networks, data.images, network.layers, sample=16)


def matched(pair, matching=cu.bipartite_matching):
    found = cu.correlation(pair)
    return cu.matching_map(pair, matching(found.matrix, live_a=found.live_a, live_b=found.live_b))


MAPS = {
    "bipartite": matched,
    "soft": lambda pair: matched(pair, cu.soft_matching),
    "rotation": cu.best_rotation,
    "least squares": cu.least_squares,
}


@pytest.mark.parametrize("mapping", MAPS)
@pytest.mark.parametrize("layer", ["conv1", "conv4", "fc6", "fc8"])
def test_a_shuffled_copy_is_stitched_at_own_accuracy(network, measured, data, layer, mapping):
    networks, found = measured
    fitted = MAPS[mapping](found.pair(f"copy.{layer}", f"own.{layer}"))
    joined = cu.stitched(network, networks["copy"], layer, fitted)
    assert cu.accuracy(joined, data) == pytest.approx(float(cu.accuracy(network, data)), abs=0.001)


def test_shrunken_maps_of_a_copy_print_what_they_lose(network, measured, data):
    networks, found = measured
    pair = found.pair("copy.conv3", "own.conv3")
    own = float(cu.accuracy(network, data))
    for name, fitted in {
        "ridge": cu.least_squares(pair, ridge=0.1),
        "sparse": cu.sparse_mapping(pair, [0.1]),
    }.items():
        lost = own - float(cu.accuracy(cu.stitched(network, networks["copy"], "conv3", fitted), data))
        print(f"{name} loses {lost:.3f}")
        assert lost < own - 0.2  # it is still far from chance


def test_above_an_untrained_network_there_is_chance(measured, data):
    networks, found = measured
    fitted = cu.least_squares(found.pair("own.conv3", "untrained.conv3"))
    joined = cu.stitched(networks["untrained"], networks["own"], "conv3", fitted)
    assert float(cu.accuracy(joined, data)) < 0.25


def chain(first, second):
    return nn.Sequential(OrderedDict(first=first, second=second)).eval()


def test_a_turned_layer_is_stitched_by_a_rotation_and_by_least_squares_alone(generator):
    inputs = torch.randn(4000, 12, generator=generator, dtype=torch.float64)
    inputs = torch.linalg.qr(inputs - inputs.mean(0))[0] * 4000**0.5  # uncorrelated, and of one size
    first, turned = nn.Linear(12, 12).double(), nn.Linear(12, 12).double()
    with torch.no_grad():
        first.weight.copy_(cu.random_rotation(12, seed=0))
        turned.weight.copy_(cu.random_rotation(12, seed=1) @ first.weight)
    second = nn.Sequential(nn.ReLU(), nn.Linear(12, 3)).double()
    own, other = chain(first, second), chain(turned, nn.Identity())
    with torch.no_grad():
        pair = cu.pair_moments(turned(inputs), first(inputs))
        wanted = own(inputs)
        off = {
            name: float((cu.stitched(own, other, "first", fitted(pair))(inputs) - wanted).abs().max())
            for name, fitted in MAPS.items()
        }
    assert max(off["rotation"], off["least squares"]) < 1e-6
    assert min(off["bipartite"], off["soft"]) > 0.1


def test_what_is_predicted_goes_through_the_layers_own_non_linearity(network, measured, data):
    networks, found = measured
    images = cu.normalise(data.images[:32])
    for layer, lowest in (("conv2", 0.0), ("fc8", None)):
        fitted = cu.least_squares(found.pair(f"untrained.{layer}", f"own.{layer}"))
        joined = cu.stitched(network, networks["untrained"], layer, fitted)
        seen = []
        joined.above.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0]))
        with torch.no_grad():
            joined(images)
        assert (float(seen[0].min()) == lowest) if lowest is not None else (float(seen[0].min()) < 0)


class Anyhow(nn.Module):
    """Two layers called by hand, perhaps with a connection that passes the first by."""

    def __init__(self, *, residual=False, twice=False):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.second, self.residual, self.twice = nn.Linear(8, 3), residual, twice

    def forward(self, inputs):
        acts = self.first(self.first(inputs)) if self.twice else self.first(inputs)
        return self.second(acts + inputs if self.residual else acts)


def test_any_network_is_stitched_where_all_goes_through_the_layer(generator):
    inputs = torch.randn(300, 8, generator=generator)
    network = Anyhow().eval()
    in_a_chain = chain(network.first, network.second)
    with torch.no_grad():
        pair = cu.pair_moments(network.first(inputs), network.first(inputs))
        fitted = cu.least_squares(pair)
        wanted = cu.stitched(in_a_chain, in_a_chain, "first", fitted)(inputs)
        assert torch.allclose(cu.stitched(network, network, "first", fitted)(inputs), wanted)
        assert torch.allclose(cu.stitched(in_a_chain, network, ("first", "first"), fitted)(inputs), wanted)
        for other, said in (
            (Anyhow(residual=True), "layer: what follows 'first' reads more than its output"),
            (Anyhow(twice=True), "layer: expected one that is called once, and 'first' is called 2 times"),
        ):
            joined = cu.stitched(other.eval(), network, "first", fitted)
            with pytest.raises(ValueError, match=said):
                joined(inputs)


def test_every_token_goes_through_the_map(generator):
    tokens = torch.randint(0, 20, (40, 7), generator=generator)
    torch.manual_seed(0)
    network = nn.Sequential(OrderedDict(read=nn.Embedding(20, 6), mix=nn.Linear(6, 6), out=nn.Linear(6, 4))).eval()
    with torch.no_grad():
        rows = network.mix(network.read(tokens)).flatten(0, 1)
        joined = cu.stitched(network, network, "mix", cu.least_squares(cu.pair_moments(rows, rows)))
        assert torch.allclose(joined(tokens), network(tokens), atol=1e-4)


def test_mistakes_are_named(network, measured):
    networks, found = measured
    pair = found.pair("copy.conv3", "own.conv3")
    fitted = cu.least_squares(pair)
    several = cu.sparse_mapping(pair, [0.1, 0.2])
    images = torch.rand(2, 1, 28, 28)
    cases = [
        (lambda: cu.stitched(network, networks["copy"], "conv9", fitted), "layer: expected one of"),
        (lambda: cu.stitched(network, networks["copy"], ("conv3",), fitted), "layer: expected a name, or one of each"),
        (lambda: cu.stitched(network, networks["copy"], "conv3", several), "mapping: expected one with one entry"),
        (lambda: cu.stitched(network, networks["copy"], "conv3", pair), "mapping: expected a MappingPath"),
        (lambda: cu.stitched(network, "copy", "conv3", fitted), "network_b: expected one torch module"),
        (lambda: cu.stitched(torch.compile(network), networks["copy"], "conv3", fitted), "network_a: a compiled"),
        (lambda: cu.stitched(network, networks["copy"], "conv1", fitted)(images), "mapping: expected one from as many"),
    ]
    for call, said in cases:
        with pytest.raises(ValueError) as error:  # noqa: PT011
            call()
        assert str(error.value).startswith(said)
        assert len(str(error.value)) <= 300


# what a hostile reader found


def itself(network, layer, inputs):
    """The network stitched to itself by the map of a layer to itself."""
    with cu.record(network, layer, positions="all") as rows, torch.no_grad():
        network(inputs)
    acts = rows[layer].double()
    return cu.stitched(network, network, layer, cu.least_squares(cu.pair_moments(acts, acts)))


@pytest.mark.parametrize(
    "nonlinearity", [nn.GELU(), nn.SiLU(), nn.Sigmoid(), nn.Tanh(), nn.LeakyReLU(), nn.ELU(), nn.ReLU6(), nn.Hardtanh()]
)
def test_what_has_passed_a_non_linearity_is_not_changed_by_it_again(nonlinearity, generator):
    inputs = torch.randn(300, 8, generator=generator)
    torch.manual_seed(0)
    network = chain(nn.Sequential(nn.Linear(8, 8), nonlinearity), nn.Linear(8, 3))
    with torch.no_grad():
        assert torch.allclose(itself(network, "first", inputs)(inputs), network(inputs), atol=1e-4)


class Residual(nn.Sequential):
    def forward(self, inputs):
        return inputs + super().forward(inputs)


def test_a_chain_with_a_forward_of_its_own_ends_with_nothing(generator):
    inputs = torch.randn(300, 8, generator=generator)
    torch.manual_seed(0)
    network = chain(Residual(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 3))
    with torch.no_grad():
        assert torch.allclose(itself(network, "first", inputs)(inputs), network(inputs), atol=1e-4)


def test_units_are_where_measure_finds_them(generator):
    torch.manual_seed(0)
    network = nn.Sequential(OrderedDict(a=nn.Conv1d(1, 8, 3, padding=1), f=nn.Flatten(), c=nn.Linear(64, 3))).eval()
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.a.weight.copy_(network.a.weight.flip(0))
        other.a.bias.copy_(network.a.bias.flip(0))
    inputs = torch.randn(200, 1, 8, generator=generator)
    pair = cu.measure({"own": network, "other": other}, inputs, ["a"]).pair("other.a", "own.a")
    with torch.no_grad():
        assert torch.allclose(cu.stitched(network, other, "a", matched(pair))(inputs), network(inputs), atol=1e-4)


class Gated(Anyhow):
    """A connection that passes the layer by, seen for few inputs alone."""

    def forward(self, inputs):
        return self.second(self.first(inputs)).sign() + (inputs[:, :3] - 9).relu()


class InPlace(Anyhow):
    """The layer's output is overwritten by what follows."""

    def forward(self, inputs):
        return self.second(nn.functional.silu(self.first(inputs), inplace=True))


def test_connections_are_found_whatever_the_inputs_and_writing_in_place_is_none(generator):
    inputs = torch.randn(300, 8, generator=generator)
    with torch.no_grad():
        acts = Anyhow().eval().first(inputs)
        fitted = cu.least_squares(cu.pair_moments(acts, acts))
        for network, given in ((Gated().eval(), 0.01 * inputs), (Anyhow(residual=True).eval(), 0 * inputs)):
            with pytest.raises(ValueError, match="reads more than its output"):
                cu.stitched(network, network, "first", fitted)(given)
        network = InPlace().eval()
        joined = cu.stitched(network, network, "first", fitted)
        assert torch.allclose(joined(inputs), network(inputs), atol=1e-4)


def test_modes_hooks_and_threads_of_the_networks_are_left_alone(generator):
    inputs = torch.randn(64, 8, generator=generator)
    with torch.no_grad():
        acts = Anyhow().eval().first(inputs)
        fitted = cu.least_squares(cu.pair_moments(acts, acts))
        network = nn.Sequential(OrderedDict(first=nn.Linear(8, 8), drop=nn.Dropout(), second=nn.Linear(8, 3))).train()
        cu.stitched(network, network, "first", fitted)
        assert all(module.training for module in network.modules())
        asked, seen = Anyhow().eval(), []
        asked.second.register_forward_hook(lambda *_: seen.append(1))
        joined = cu.stitched(asked, network.eval(), "first", fitted)
        wanted = joined(inputs)
        assert len(seen) == 1 + 2  # two calls of a copy look whether it is a cut
        slow = Anyhow().eval()
        slow.first.register_forward_pre_hook(lambda *_: time.sleep(0.1))
        joined = cu.stitched(network, slow, "first", fitted)
        joined(inputs)
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(joined, (inputs, inputs + 1)))
        assert torch.equal(found[0], joined(inputs))
        assert torch.equal(found[1], joined(inputs + 1))
        assert not slow.first._forward_hooks
    assert wanted.shape == (64, 3)


def test_half_precision_is_computed_in_single_precision(generator):
    acts = (torch.randn(500, 2, generator=generator) * 0.5 + 300).half()
    mapping = cu.least_squares(cu.pair_moments(acts.double(), (acts.double() - 300) * 400))
    network = nn.Sequential(OrderedDict(a=nn.Identity(), b=nn.Identity())).eval()
    with torch.no_grad():
        found = cu.stitched(network, network, "a", mapping)(acts)
    assert torch.allclose(found.float(), mapping.predict(acts)[0].float(), atol=0.5)


def test_a_name_of_a_shared_module_and_tokens_without_an_answer_for_zeros(generator):
    torch.manual_seed(0)
    shared = nn.Linear(8, 8)
    network = nn.Sequential(OrderedDict(a=nn.Linear(8, 8), r1=nn.ReLU(), b=shared, c=shared, d=nn.Linear(8, 3))).eval()
    inputs = torch.randn(100, 8, generator=generator)
    with torch.no_grad():
        acts = cu.split_after(network, "c")[0](inputs)
        joined = cu.stitched(network, network, "c", cu.least_squares(cu.pair_moments(acts, acts)))
        assert torch.allclose(joined(inputs), network(inputs), atol=1e-4)

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.out = nn.Embedding(9, 6), nn.Linear(6, 2)

        def forward(self, tokens):
            if not tokens.any():
                raise ValueError("no token is there")
            return self.out(self.read(tokens)).mean(1)

    reader, tokens = Reader().eval(), torch.randint(1, 9, (50, 4), generator=generator)
    with torch.no_grad():
        rows = reader.read(tokens).flatten(0, 1)
        joined = cu.stitched(reader, reader, "read", cu.least_squares(cu.pair_moments(rows, rows)))
        assert torch.allclose(joined(tokens), reader(tokens), atol=1e-4)
