"""What 10_unique_units reads, on networks whose answer is known."""

import numpy as np
import pytest
import torch

import convergent_utils as cu
from convergent_utils.making.store import Store
from convergent_utils.making.things import Shelf
from convergent_utils.nets.declared import Images, Measured, Shuffled, Start
from convergent_utils.nets.networks import weighted
from convergent_utils.paper import joining
from convergent_utils.paper import unique_units as unique
from convergent_utils.paper.uniqueness import Found, Planted, SharedUnits, least_redundant, of_network, planted

LAYERS = ("conv3", "fc6")


@pytest.fixture(scope="module")
def data():
    return cu.load_dataset("fashion-mnist", limit=600)


@pytest.fixture(scope="module")
def network(data):
    start = cu.build_network("alexnet-narrow", width=0.5, seed=1)
    return cu.train(start, data, cu.Recipe(epochs=3), seed=1).network


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Of a network with three planted units in fc6 and two shuffled copies; and of copies with planted units each."""
    start = Start("alexnet-narrow", 1, 10, 1.0, 7, True)
    networks = {"a": start, "b": Shuffled(start, 1), "c": Shuffled(start, 2)}
    networks |= {f"{name}, planted": Planted(one, "fc6", 3, k) for k, (name, one) in enumerate(networks.items())}
    images = Images.of("fashion-mnist", "test", 300)
    measured = Measured(tuple(networks.items()), images, LAYERS, folds=2, sample=1024, top=1)
    shelf = Shelf(Store(tmp_path_factory.mktemp("store")))
    of_units = SharedUnits(measured, ("a, planted", "b", "c"), LAYERS, turns=5, shuffles=5, seed=0)
    return shelf(of_units), shelf(measured), shelf(Found(measured, ("a", "b", "c"), "fc6", 3, 0))


def test_planted_units_are_the_most_unique_and_beyond_every_turn(shared):
    found, measured, _ = shared
    of_layer = found["fc6"]
    r = unique.mean_r(of_layer["r"], 0)
    live = of_layer["live"][0]
    known = torch.isin(torch.arange(len(r)), planted(len(r), 3, 0))
    assert r[live & ~known].min() > 0.999
    assert r[known].max() < 0.9
    assert (found["conv3"]["r"][0, 1][found["conv3"]["live"][0]] > 0.999).all()
    z = (r - of_layer["turned"][0]) / of_layer["turned sd"][0]
    assert (z[live & ~known] > 2).all()
    assert (of_layer["unexplained"][0][live & ~known] < 0.01).all()
    assert of_layer["unexplained"][0][known].min() > of_layer["unexplained"][0][live & ~known].max()
    direct = of_network(measured, "a, planted", ["b", "c"], "fc6")
    torch.testing.assert_close(direct.mean, r)


def test_shuffled_networks_share_nothing_and_turned_ones_less_than_copies(shared):
    found, *_ = shared
    for of_layer in found.values():
        live = of_layer["live"][1]
        assert abs(float(of_layer["shuffled"][1][live].mean())) < 0.1
        assert (of_layer["turned"][1][live] < of_layer["r"][1, 2][live]).all()
        assert ((of_layer["unmatched"] >= 0) & (of_layer["unmatched"] <= 1)).all()


def test_means_leave_out_the_network_itself_and_who_is_not_asked_for():
    r = torch.arange(9.0).reshape(3, 3, 1).double()
    assert unique.mean_r(r, 1).item() == (3 + 5) / 2
    assert unique.mean_r(r, 1, [1, 2]).item() == 5


def test_a_joined_network_says_the_mean_of_both(network, data):
    other = cu.build_network("alexnet-narrow", width=0.5, seed=5).eval()
    images = cu.normalise(data.images[:100])
    found = joining.joined(network, other, {}, "none", seed=0)
    torch.testing.assert_close(found(images), (network(images) + other(images)) / 2, atol=1e-5, rtol=1e-5)
    assert found.configuration["width"] == 1.0


@pytest.mark.parametrize("dropped", joining.DROPPED)
def test_a_network_and_its_copy_are_joined_without_loss(network, data, dropped):
    """Whatever pairs are chosen, in each the one unit is the other."""
    copied, _ = cu.permuted_copy(network, seed=3)
    layers = network.layers[:-1]
    both = cu.measure({"a": network, "b": copied.eval()}, data.images, layers)
    pairs = {layer: both.pair(f"a.{layer}", f"b.{layer}") for layer in layers}
    found = joining.joined(network, copied, pairs, dropped, seed=0)
    assert found.configuration["width"] == 0.75
    assert abs(cu.accuracy(found, data) - cu.accuracy(network, data)) <= 0.001
    images = cu.normalise(data.images[:100])
    torch.testing.assert_close(found(images), network(images), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("criterion", joining.CUT_BY)
def test_units_that_say_nothing_are_cut_first_and_cost_nothing(data, criterion):
    """Half of a wide network's units are dead: cut in half, it says what it said."""
    narrow = cu.train(cu.build_network("alexnet-narrow", seed=2), data, cu.Recipe(epochs=1), seed=2).network
    silent = cu.build_network("alexnet-narrow", seed=3)
    with torch.no_grad():
        for value in silent.parameters():
            value.zero_()
    wide, _ = cu.permuted_copy(joining.joined(narrow, silent, {}, "none", seed=0), seed=1)
    twin, _ = cu.permuted_copy(wide, seed=4)

    class Made:
        name = "wide 1"

        def network(self, get):
            return wide

    both = cu.measure({"wide 1": wide, "wide 2": twin}, data.images, wide.layers[:-1], folds=2)
    found = joining.CutBy(Made(), ("wide 1", "wide 2"), None, criterion).network(lambda thing: both)
    assert found.configuration["width"] == 1.0
    assert abs(cu.accuracy(found, data) - cu.accuracy(narrow, data)) <= 0.001
    images = cu.normalise(data.images[:50])
    torch.testing.assert_close(found(images), narrow(images) / 2, atol=1e-4, rtol=1e-4)


def test_what_overlaps_is_dropped_without_loss_and_what_does_not_is_missed():
    """Half of the units of a layer are in both networks, scaled and moved; the others are each network's own."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(500, 32, generator=generator, dtype=torch.float64) for _ in range(2))
    b[:, 5:21] = 2 * a[:, torch.randperm(32, generator=generator)[:16]] + 1
    rows, networks = torch.cat([a, b], dim=1), [cu.build_network("alexnet-narrow", width=0.5, seed=k) for k in (1, 2)]
    left = {}
    for dropped in joining.DROPPED:
        kept, matrix, offset = joining._stand_ins(*networks, "fc6", cu.pair_moments(a, b), 48, dropped, 0)
        assert len(kept) == 48
        left[dropped] = (rows[:, kept] @ matrix.T + offset - rows).var(0).sum() / rows.var(0).sum()
    assert left["overlapping"] < 1e-12
    assert left["overlapping"] < left["random"] < left["unmatched"]
    assert left["unmatched"] > 0.1


def test_of_twins_that_which_adds_more_is_kept(network, data):
    """The same unit with ten times its outgoing weights stays, and the other's weights are handed to it."""
    layers = network.layers[:-1]
    copied, _ = cu.permuted_copy(network, seed=3)
    with torch.no_grad():
        for module in (copied.fc7[0], copied.fc8):
            module.weight *= 10
    both = cu.measure({"a": network, "b": copied}, data.images, layers)
    pair = both.pair("a.fc6", "b.fc6")
    kept, matrix, offset = joining._stand_ins(network, copied, "fc6", pair, 48, "overlapping", 0)
    live = pair.cov_bb.diagonal() > 0
    assert (torch.isin(32 + live.nonzero()[:, 0], kept)).all()
    rows = torch.cat([both.sample("a.fc6"), both.sample("b.fc6")], dim=1).double()
    torch.testing.assert_close(rows[:, kept] @ matrix.T + offset, rows, atol=1e-4, rtol=1e-4)


def test_the_least_redundant_units_have_no_twin_among_them():
    generator = torch.Generator().manual_seed(0)
    acts = torch.randn(500, 4, generator=generator, dtype=torch.float64)
    acts = torch.cat([acts, acts + 0.1 * torch.randn(500, 4, generator=generator), torch.ones(500, 1)], dim=1)
    within = cu.correlation(cu.pair_moments(acts, acts)).matrix
    kept = least_redundant(within, 4)
    assert sorted(int(unit) % 4 for unit in kept) == [0, 1, 2, 3]
    assert 8 not in kept
    assert len(least_redundant(within, 9)) == 9


def of_units(count=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    known = {name: torch.rand(count, generator=generator).double() for name in ("shared", "rate", "variance", "mean")}
    return {**known, "live": torch.arange(count) != 5}


def test_sets_are_the_ends_of_the_order_and_random_ones_like_the_unique():
    of_net = of_units()
    of_net["rate"] = of_net["shared"].clone()  # unique units fire rarely
    unique_ones, shared_ones, *drawn = unique.chosen_sets(of_net, seed=0)
    size = len(unique_ones)
    live = of_net["live"].nonzero()[:, 0]
    assert set(unique_ones.tolist()) == set(live[of_net["shared"][live].argsort()[:size]].tolist())
    assert set(shared_ones.tolist()) == set(live[of_net["shared"][live].argsort()[-size:]].tolist())
    for chosen in drawn:
        assert len(set(chosen.tolist())) == size
        assert not set(chosen.tolist()) & {*unique_ones.tolist(), 5}
    rates = [float(of_net["rate"][chosen].mean()) for chosen in (torch.cat(drawn), shared_ones)]
    assert rates[0] < rates[1]
    again = unique.chosen_sets(of_net, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(again[2:], drawn, strict=True))


def test_what_is_lost_is_what_ablated_networks_get_wrong(network, data):
    """By the public tools, one set and one unit at a time."""
    units = len(weighted(network, "fc6").weight)
    of_net, mean = of_units(units), torch.rand(units, generator=torch.Generator().manual_seed(0))
    found = unique.ablations(network, "fc6", of_net, mean, data, seed=0)
    few = cu.Dataset(data.images[::4], data.labels[::4], data.classes, data.source)
    share = few.labels.bincount(minlength=10).double() / len(few)
    for row, name in ((0, "unique"), (1, "shared")):
        with cu.ablated(network, "fc6", found["members"][row], mean):
            lost = cu.accuracy(network, few)
        assert float(found[name] @ share) == pytest.approx(cu.accuracy(network, few) - lost, abs=1e-9)
    single = cu.Dataset(data.images[::20], data.labels[::20], data.classes, data.source)
    logits = cu.predict(network, single)
    loss = torch.nn.functional.cross_entropy(logits, single.labels)
    assert float(found["own loss"]) == pytest.approx(float(loss), abs=1e-6)
    with cu.ablated(network, "fc6", [3], mean):
        other = torch.nn.functional.cross_entropy(cu.predict(network, single), single.labels)
        right = cu.accuracy(network, single)
    share = single.labels.bincount(minlength=10).double() / len(single)
    assert float(found["loss"][3] @ share) == pytest.approx(float(other - loss), abs=1e-6)
    assert float(found["right"][3]) == pytest.approx(cu.accuracy(network, single) - right, abs=1e-9)


def test_units_are_kept_by_each_criterion_and_dead_ones_last():
    score = torch.tensor([0.1, 0.9, 0.5, 0.0]).double()
    live = torch.tensor([True, True, True, False])
    within = torch.eye(4).double()
    within[3, 3] = 0
    within[0, 1] = within[1, 0] = 0.8
    of_net = {"shared": score, "live": live, "variance": torch.tensor([2.0, 3.0, 1.0, 0.0]).double()}
    orders = unique.keeping(of_net, within, torch.tensor([3.0, 1.0, 2.0, 9.0]), seed=0)
    assert tuple(orders) == unique.CRITERIA
    assert orders["most shared"](2).tolist() == [1, 2]
    assert orders["most unique"](2).tolist() == [0, 2]
    assert orders["largest weights"](2).tolist() == [0, 2]
    assert orders["largest variance"](2).tolist() == [1, 0]
    assert 3 not in orders["random"](3)
    assert 2 in orders["least redundant"](2)


def test_planted_units_read_as_much_as_before_and_nothing_else_is_changed(network):
    class Given:
        def network(self, get):
            return network

    made = Planted(Given(), "fc6", 3, 0).network(None)
    known = planted(32, 3, 0)
    for (name, value), old in zip(made.state_dict().items(), network.state_dict().values(), strict=True):
        if name != "fc6.0.weight":
            assert torch.equal(value, old)
            continue
        changed = (value != old).any(1)
        assert changed.nonzero()[:, 0].tolist() == known.tolist()
        torch.testing.assert_close(value.sort(1).values, old.sort(1).values, rtol=0, atol=0)


def test_they_are_found_where_all_other_units_are_shared(shared):
    assert shared[2].tolist() == [1.0, 1.0, 1.0]


def test_partial_correlations_are_those_of_what_is_left():
    generator = np.random.default_rng(0)
    x, y, z, w = generator.normal(size=(4, 50))
    x, y = x + 2 * z, y - z + 0.5 * x
    inverse = np.linalg.inv(np.cov([x, y, z, w]))
    expected = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
    assert unique.partial_correlation(x, y, z, w) == pytest.approx(expected)
    assert unique.partial_correlation(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert unique.partial_correlation(x, np.exp(x), ranks=True) == pytest.approx(1)
    assert unique.partial_correlation(x, x + 3, x) == 0
    assert unique.partial_correlation(np.ones(50), x) == 0
    assert abs(unique.partial_correlation(2 * z + w, z - w, z, w)) < 1e-6


def test_effects_and_deviations_by_hand():
    loss = torch.tensor([[0.3, -0.1], [-0.2, -0.4], [9.0, 9.0]]).double()
    found = {"loss": loss, "right": torch.tensor([0.1, 0.0, 9.0]).double()}
    known = {name: torch.tensor([[0.5, 0.2, 0.0]]).double() for name in ("rate", "variance", "mean")}
    effects, looks = unique.effects(found, {**known, "live": torch.tensor([[True, True, False]])}, 0)
    np.testing.assert_allclose(effects["loss added"], [0.1, -0.3])
    np.testing.assert_allclose(effects["its size"], [0.1, 0.3])
    np.testing.assert_allclose(effects["accuracy lost"], [0.1, 0.0])
    np.testing.assert_allclose(effects["one class"], [1.0, 0.0])
    np.testing.assert_allclose(looks, [[0.5, 0.2], np.log([0.5, 0.2]), np.log([0.5, 0.2])])
    shared = torch.zeros(3, 3, 2).double()
    shared[0, 1:], shared[1, 0], shared[2, 0] = 0.5, 0.2, 0.4
    standing = {"shared": shared, "accuracy": torch.tensor([0.9, 0.8, 0.7]), "loss": torch.tensor([1.0, 2.0, 6.0])}
    uniqueness, accuracy, loss = unique.deviations(standing, [0, 1, 2])
    np.testing.assert_allclose(uniqueness, np.array([0.5, 0.9, 0.8]) - 2.2 / 3)
    np.testing.assert_allclose(accuracy, [0.1, 0, -0.1], atol=1e-6)
    np.testing.assert_allclose(loss, [-2, -1, 3])
    np.testing.assert_allclose(unique.deviations(standing, [0, 2])[0], [-0.05, 0.05])
    assert unique.deviations(standing, range(3), own_spread=True)[2].std(ddof=1) == pytest.approx(1)
    alike = {**standing, "accuracy": torch.full((3,), 0.1)}
    np.testing.assert_array_equal(unique.deviations(alike, range(3), own_spread=True)[1], 0)


def test_turned_networks_are_those_whose_rows_are_turned():
    """From moments as from rows: turned by the spread on one half, matched there, and read on the other half."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(400, 5, generator=generator, dtype=torch.float64).relu() for _ in range(3)]
    first, second = slice(200), slice(200, 400)
    pairs = {
        (i, j): tuple(cu.pair_moments(rows[i][part], rows[j][part]) for part in (first, second))
        for i in range(3)
        for j in range(3)
        if i != j
    }
    asked = SharedUnits(None, ("a", "b", "c"), (), turns=2, shuffles=0, seed=7)
    found = asked._turned(pairs, ["a", "b", "c"])
    for k in range(2):
        for i in range(3):
            signed, either = np.zeros((2, 5))
            for j in (one for one in range(3) if one != i):
                spread = rows[j][first].std(0, correction=0)
                turned = rows[j] / spread @ cu.random_rotation(5, seed=7 + 3 * k + j)
                fit, held = (
                    np.corrcoef(rows[i][part].numpy().T, turned[part].numpy().T)[:5, 5:] for part in (first, second)
                )
                signed += held[np.arange(5), fit.argmax(1)] / 2
                best = np.abs(fit).argmax(1)
                either += held[np.arange(5), best] * np.sign(fit[np.arange(5), best]) / 2
            np.testing.assert_allclose(found["turned"][k, i], signed, atol=1e-10)
            np.testing.assert_allclose(found["either sign"][k, i], either, atol=1e-10)
