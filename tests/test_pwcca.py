"""Families of networks: what differs between them, and that nothing else does."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import convergent_utils as cu
from convergent_utils.making.store import Store
from convergent_utils.making.things import Shelf
from convergent_utils.nets.declared import Images
from convergent_utils.nets.networks import weighted
from convergent_utils.nets.training import History
from convergent_utils.paper import alike, families, pwcca, settling
from convergent_utils.paper.families import FOLLOWED, LABELS, LONGER, PRUNED, RANDOM, SLOW, Sizes, members
from convergent_utils.paper.networks import Setting

FEW = Sizes(
    per_label=3, label_images=64, label_recipe=cu.Recipe(epochs=2, batch=32), widths=(0.25, 1), per_width=3, per_rate=3,
    per_cut=3, images=192, recipe=cu.Recipe(epochs=1, batch=32), followed=3, followed_epochs=6, followed_times=3,
    shuffles=19,
)  # fmt: skip


class Paper:
    """The families of few small networks, and what is made of them."""

    def __init__(self, folder):
        self.train_set, self.test_set = (
            cu.load_dataset("fashion-mnist", split=s, limit=256) for s in ("train", "test")
        )
        train, test = (Images.of("fashion-mnist", split, 256) for split in ("train", "test"))
        self.setting = Setting("smoke", 3, train, test, 1, 10)
        self.families = families.families(self.setting, FEW)
        self.shelf = Shelf(Store(folder))

    def member(self, family, number):
        return self.families[family][number - 1]

    def made(self, family, number):
        return self.shelf(self.member(family, number))

    def again(self, family, number):
        return self.member(family, number).make(self.shelf, lambda share: None)


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    return Paper(tmp_path_factory.mktemp("store"))


def test_no_two_networks_start_alike(paper):
    made = [(family, one) for family, of in paper.families.items() for one in of]
    starts = {
        tuple(weighted(one.start.network(), "conv1").weight.flatten()[:5].tolist())
        for family, one in made
        if family not in (PRUNED, RANDOM)
    }
    assert len(made) == sum(members(FEW).values()) == 3 * 11
    assert len(starts) == len(made) - 6
    assert len({one.order for _, one in made}) == len({one.key for _, one in made}) == len(made)
    assert "width 200%" in members(FEW), "the wide ones that are pruned"


def test_a_new_family_moves_no_seed(paper):
    seeds = {family: [one.order for one in of] for family, of in paper.families.items()}
    wider = families.families(paper.setting, replace(FEW, widths=(0.25, 0.5, 1, 5)))
    assert seeds == {family: [one.order for one in wider[family]] for family in seeds}
    assert wider.keys() - seeds.keys() == {"width 50%", "width 500%"}
    with pytest.raises(ValueError, match="family: expected one of"):
        families.families(paper.setting, replace(FEW, widths=(0.33,)))


def test_no_two_widths_have_one_name():
    widths = (0.12, 0.125, 0.25, 0.5, 1, 2, 3)
    assert len({families.width_name(width) for width in widths}) == len(widths)
    assert families.width_name(0.125) == "width 12.5%"


@pytest.mark.parametrize("family", ["width 25%", "width 100%", "slow rate"])
def test_signals_keep_their_size_at_any_width(paper, family):
    for layer in ("conv1", "conv3", "conv5"):
        weight = weighted(paper.member(family, 1).start.network(), layer).weight.detach()
        assert float(weight.std()) == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=1e-5)


def test_labels(paper):
    labels = {(family, member): paper.member(family, member).images.load() for family in LABELS for member in (1, 2)}
    true = labels[LABELS[0], 1]
    assert len(true) == 64
    for data in labels.values():
        assert torch.equal(data.images, true.images)
        assert torch.equal(data.labels.bincount(), true.labels.bincount())
    shared, own = ([labels[family, member].labels for member in (1, 2)] for family in LABELS[1:])
    assert torch.equal(*shared)
    assert not torch.equal(*own)
    assert not torch.equal(shared[0], own[0])
    for permuted in (shared[0], *own):
        assert (permuted == true.labels).float().mean() < 0.35, "what a permutation leaves right is chance"


def test_a_network_that_has_not_learned_its_labels_goes_on(paper):
    assert paper.made(LABELS[1], 1)["epochs"] == 8, "two epochs, four, and then eight"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "LEARNED", 0.0)
        assert paper.again(LABELS[1], 1)["epochs"] == 2


def test_a_followed_network_is_kept_on_its_way(paper):
    found = paper.made(FOLLOWED, 2)
    assert list(found["on the way"]) == [0, 1, 2, 3]
    network = cu.build_network(**found["network"].configuration)
    for at, weights in found["on the way"].items():
        network.load_state_dict(weights)
        assert cu.accuracy(network, paper.test_set) == pytest.approx(float(found["curve"][at]), abs=1e-6)
    assert torch.equal(
        found["on the way"][0]["conv1.0.weight"], weighted(paper.member(FOLLOWED, 2).start.network(), "conv1").weight
    )
    assert found["accuracy"] == pytest.approx(float(found["curve"][-1]))
    assert found["epochs"] == 6


def test_a_perturbed_network_goes_as_far_as_training_took_it(paper):
    whole = tuple(paper.families[FOLLOWED])
    kept, when = paper.made(FOLLOWED, 2)["on the way"], settling.converged([paper.shelf(one)["curve"] for one in whole])
    assert when <= 1, "two times are left"
    here = kept[when]
    for at_end, time in ((False, when + 1), (True, 3)):
        network = settling.Perturbed(whole, 1, at_end, seed=5).network(paper.shelf)
        for name, weight in network.state_dict().items():
            ours, training = weight - here[name], kept[time][name] - here[name]
            assert float(ours.norm()) == pytest.approx(float(training.norm()), rel=1e-3)
            if weight.numel() > 1000:
                cosine = float((ours * training).sum() / ours.norm() / training.norm())
                assert abs(cosine) < 0.2, "another direction"


def test_random_moves_keep_the_angle_between_two_moves():
    here = {"w": torch.zeros(40, 50), "b": torch.ones(3)}
    one = {name: torch.randn_like(value) for name, value in here.items()}
    two = {name: one[name] + 0.3 * torch.randn_like(value) for name, value in here.items()}
    moved = settling.perturbed(here, one, two, seed=0)
    for name in here:
        expected, found = ([w[name] - here[name] for w in pair] for pair in ((one, two), moved))
        for i in (0, 1):
            for k in (0, 1):
                assert float((found[i] * found[k]).sum()) == pytest.approx(
                    float((expected[i] * expected[k]).sum()), rel=1e-4
                )
    again = settling.perturbed(here, one, two, seed=0)
    assert torch.equal(again[0]["w"], moved[0]["w"])
    assert not torch.equal(settling.perturbed(here, one, two, seed=1)[0]["w"], moved[0]["w"])
    assert torch.equal(settling.perturbed(here, here, here, seed=0)[1]["w"], here["w"])


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.1, 0.5, 0.8, 0.85, 0.86, 0.86, 0.86], 4),  # .85 is just a point away, and a little more in float64
        ([0.86] * 7, 0),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.9], 4),  # never: two times are left
    ],
)
def test_when_accuracy_has_converged(curve, expected):
    assert settling.converged([torch.tensor(curve, dtype=torch.float64)] * 2) == expected


def test_reading_is_the_correlation_with_the_prediction():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(400, 5, generator=generator), torch.randn(400, 4, generator=generator)
    b[:, 0] = a[:, 0] + 0.5 * b[:, 0]
    directions = torch.randn(5, 3, generator=generator).double()
    fit, judge = (cu.pair_moments(a[half].double(), b[half].double()) for half in (slice(200), slice(200, 400)))
    x, y = (b[:200] - b[:200].mean(0)).numpy(), ((a[:200] - a[:200].mean(0)).double() @ directions).numpy()
    predicted = (b[200:] - b[200:].mean(0)).double().numpy() @ np.linalg.lstsq(x.astype(float), y, rcond=None)[0]
    truth = (a[200:].double() @ directions).numpy()
    expected = [np.corrcoef(predicted[:, k], truth[:, k])[0, 1] for k in range(3)]
    np.testing.assert_allclose(settling.read(directions, fit, judge), expected, atol=1e-9)
    dead = replace(judge, cov_aa=torch.zeros(5, 5).double(), cov_ab=torch.zeros(5, 4).double())
    assert settling.read(directions, fit, dead).tolist() == [0, 0, 0]


def test_pruning_keeps_the_largest_weights_and_chance_does_not(paper):
    wide = paper.made("width 200%", 1)["network"]
    kept, by_chance = families.kept_units(wide, None), families.kept_units(wide, 7)
    for layer in wide.layers[:-1]:
        size = weighted(wide, layer).weight.detach().flatten(1).norm(dim=1)
        assert len(kept[layer]) == len(by_chance[layer]) == len(size) / 2
        assert float(size[kept[layer]].min()) >= float(size.sort().values[len(size) // 2])
    assert any(not torch.equal(kept[layer], by_chance[layer]) for layer in kept)


def test_what_is_cut_from_a_wide_network_is_trained_for_one_epoch_more(paper):
    recipes = []

    def train(network, data, recipe, **_):
        recipes.append(recipe)
        return cu.Trained(network, History(torch.zeros(1), torch.zeros(1)), {})

    with pytest.MonkeyPatch.context() as patch:
        wide = paper.made("width 200%", 2)["network"]
        patch.setattr(families, "train", train)
        cut = {family: paper.again(family, 2)["network"] for family in (PRUNED, RANDOM, LONGER)}
    largest = cu.with_units(wide, families.kept_units(wide, None), width=1.0)
    assert torch.equal(cut[PRUNED].fc8.weight, largest.fc8.weight)
    assert not torch.equal(cut[RANDOM].fc8.weight, largest.fc8.weight)
    assert cut[RANDOM].fc8.weight.shape == largest.fc8.weight.shape
    assert [recipe.epochs for recipe in recipes] == [1, 1, FEW.recipe.epochs + 1]


def test_rates_differ_and_nothing_else(paper):
    slow, fast = (paper.member(family, 1) for family in (SLOW, "width 100%"))
    assert slow.recipe == replace(fast.recipe, rate=families.SLOW_RATE)
    assert slow.recipe.rate == fast.recipe.rate / 8
    assert slow.images == fast.images


def test_which_networks_meet_on_which_images(paper, monkeypatch):
    monkeypatch.setitem(families.SIZES, "smoke", FEW)
    found, kin = pwcca.things(paper.setting), {"pruned": 4, "widths": 2, "widths, untrained": 2}
    for which in ("labels, test images", "labels, untrained", "rates", *kin, FOLLOWED):
        measured = found["measured", which, 4 if which == FOLLOWED else "all"]
        names, images = [name for name, _ in measured.networks], measured.images.load().images
        assert measured.layers[-1] == "fc8"
        assert len(images) == len(measured.images)
        if which.startswith("labels"):
            assert names[::3] == [f"{label} 1" for label in LABELS]
            assert len(images) == FEW.label_images
        if which in kin:
            assert len(measured.pairs) == kin[which] * 3 * len(measured.layers), "three pairs in each family of three"
            assert all(a.rpartition(" ")[0] == b.rpartition(" ")[0] for a, b in measured.pairs)
        elif which != FOLLOWED:
            assert measured.pairs is None, "all networks meet"
        if which in ("rates", *kin):
            assert torch.equal(images, paper.test_set.images[::2])
    assert names[:5] == [f"constant rate {name}" for name in ("1@0", "1@1", "1@2", "1@3", "2@0")]
    assert ("constant rate 1@0.conv1", "constant rate 1@2.conv1") in measured.pairs
    assert not any(a.split("@")[0] != b.split("@")[0] for a, b in measured.pairs)
    at = dict(measured.networks)["constant rate 1@2"].network(paper.shelf)
    kept = paper.made(FOLLOWED, 1)["on the way"][2]
    assert torch.equal(at.fc8.weight, kept["fc8.weight"])
    assert ("constant rate 1@0.conv1", "constant rate 1@end, perturbed.conv1") in measured.pairs
    for which, count in (("true labels", 9), ("untrained", 9), ("shared permutation", 3)):
        given = found["given label", which]
        assert len(given.networks) == count
        assert (given.images.permuted is None) == (which != "shared permutation")


def test_similarity_given_the_label_is_that_of_rows_less_their_groups_mean():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    a, b = (torch.randn(300, n, generator=generator).double() for n in (6, 5))
    a, b = a + 4 * labels[:, None], b + 4 * labels[:, None]  # alike in nothing but the label
    parts = [cu.pair_moments(a[labels == k], b[labels == k]) for k in range(3)]
    given = alike.within_groups(parts)
    means = [torch.stack([x[labels == k].mean(0) for k in range(3)])[labels] for x in (a, b)]
    expected = cu.pair_moments(a - means[0], b - means[1])
    for name in ("cov_aa", "cov_ab", "cov_bb"):
        torch.testing.assert_close(getattr(given, name), getattr(expected, name), rtol=0, atol=1e-12)
    assert given.n_samples == 300
    whole = cu.pair_moments(a, b)
    for of in alike.SIMILARITIES.values():
        assert of(whole) > of(given)
    assert alike.cka(given) < 0.1 < 0.9 < alike.cka(whole)


def test_networks_are_measured_label_by_label(paper):
    images = replace(paper.setting.train, part=120)
    members = tuple((f"true labels {k}", paper.member(LABELS[0], k).start) for k in (1, 2))
    found = alike.GivenLabel(members, images, ("conv1", "fc7")).make(paper.shelf, lambda share: None)
    assert list(found) == list(alike.SIMILARITIES)
    data, networks = images.load(), {name: one.network() for name, one in members}
    acts = []
    for network in networks.values():
        with cu.record(network, ["fc7"]) as rows, torch.no_grad():
            network(cu.normalise(data.images))
        acts.append(rows["fc7"].double())
    means = [torch.stack([x[data.labels == k].mean(0) for k in range(10)])[data.labels] for x in acts]
    expected = alike.cka(cu.pair_moments(acts[0] - means[0], acts[1] - means[1]))
    assert float(found["CKA"][0, 1, 1]) == pytest.approx(expected, abs=1e-5)
    assert torch.equal(found["CKA"], found["CKA"].transpose(0, 1))


def test_calibrated_similarity_is_that_of_the_kernel(paper):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(200, 12, generator=generator).double()
    b = torch.cat([a[:, :4] + 0.3 * torch.randn(200, 4, generator=generator), torch.zeros(200, 1)], 1)
    fast = alike.beside_shuffles(a, b, n_shuffles=19)
    plain = cu.chance_level(lambda x, y: alike.both_ways(cu.pair_moments(x, y)), a, b.double(), n_shuffles=19)
    torch.testing.assert_close(fast.null, plain.null, rtol=0, atol=1e-6)
    assert float(fast.calibrated()) == pytest.approx(float(plain.calibrated()), abs=1e-6)
    noise = torch.randn(200, 12, generator=generator)
    assert float(alike.beside_shuffles(a, noise, n_shuffles=19).calibrated()) < 0.1


def test_neighbours_and_means_over_those_that_met():
    names = ["a 1", "a 2", "a 3", "b 1", "b 2", "b 3"]
    values = np.full((6, 6, 1), np.nan)
    for i, k in alike.neighbours(names):
        values[i, k] = values[k, i] = i + k
    assert alike.within(values, [0, 1, 2]) == pytest.approx(2)  # of 1, 3 and 2
    assert alike.within(values, [0, 1]) == pytest.approx(1)
    full = np.arange(36.0).reshape(6, 6, 1)
    assert alike.across(full, [0, 1], [4, 5]) == pytest.approx(full[:2, 4:].mean())


def test_few_units_of_a_copy_are_alike_by_chance_alone():
    acts = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0))
    pair = cu.pair_moments(acts, acts)
    assert alike.of_some_units(pair, 16, seed=0) == pytest.approx(1, abs=1e-6)
    assert 0.1 < alike.of_some_units(pair, 4, seed=0) < 0.6  # a quarter of the units meet themselves
