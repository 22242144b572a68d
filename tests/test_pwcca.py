"""Families of networks: what differs between them, and that nothing else does."""

from dataclasses import replace

import pytest
import torch

import convergent_utils as cu
from convergent_utils.making.store import Store
from convergent_utils.making.things import Shelf
from convergent_utils.nets.declared import Images
from convergent_utils.nets.networks import weighted
from convergent_utils.nets.training import History
from convergent_utils.paper import pwcca as families
from convergent_utils.paper.networks import Setting
from convergent_utils.paper.pwcca import FOLLOWED, LABELS, LONGER, PRUNED, RANDOM, RATES, Sizes, members, rate_name

FEW = Sizes(
    per_label=3, label_images=64, label_recipe=cu.Recipe(epochs=2, batch=32), widths=(0.25, 1), per_rate=3,
    images=192, recipe=cu.Recipe(epochs=1, batch=32), followed_epochs=(3, 6), followed_times=3,
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
    assert len(made) == sum(members(FEW).values()) == 3 * 14
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


def test_no_two_widths_or_rates_have_one_name():
    widths = (0.12, 0.125, 0.25, 0.5, 1, 2, 3)
    assert len({families.width_name(width) for width in widths}) == len(widths)
    assert families.width_name(0.125) == "width 12.5%"
    assert [rate_name(rate) for rate in (*RATES, 1.25e-4)] == ["rate 25%", "rate 100%", "rate 400%", "rate 12.5%"]


@pytest.mark.parametrize("family", ["width 25%", "width 100%", "rate 400%"])
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


@pytest.mark.parametrize("family", FOLLOWED)
def test_a_followed_network_is_kept_on_its_way(paper, family):
    found = paper.made(family, 2)
    assert list(found["on the way"]) == [0, 1, 2, 3]
    network = cu.build_network(**found["network"].configuration)
    for at, weights in found["on the way"].items():
        network.load_state_dict(weights)
        assert cu.accuracy(network, paper.test_set) == pytest.approx(float(found["curve"][at]), abs=1e-6)
    assert torch.equal(
        found["on the way"][0]["conv1.0.weight"], weighted(paper.member(family, 2).start.network(), "conv1").weight
    )
    assert found["accuracy"] == pytest.approx(float(found["curve"][-1]))
    assert found["epochs"] == {"falling rate": 3, "constant rate": 6}[family]


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
    recipes = [paper.member(rate_name(rate), 1).recipe for rate in RATES]
    assert [recipe.rate for recipe in recipes] == list(RATES)
    assert len({replace(recipe, rate=0.0) for recipe in recipes}) == 1
    others = [paper.member(rate_name(rate), 1).images for rate in RATES]
    assert others == [paper.member("width 100%", 1).images] * 3


def test_which_networks_meet_on_which_images(paper, monkeypatch):
    monkeypatch.setitem(families.SIZES, "smoke", FEW)
    found, kin = families.things(paper.setting), {"pruned": 4, "widths, untrained": 2}
    for which in ("labels, test images", "labels, untrained", "rates", *kin, FOLLOWED[1]):
        measured = found["measured", which, 4 if which in FOLLOWED else "all"]
        names, images = [name for name, _ in measured.networks], measured.images.load().images
        assert measured.layers[-1] == "fc8"
        assert len(images) == len(measured.images)
        if which.startswith("labels"):
            assert names[::3] == [f"{label} 1" for label in LABELS]
            assert len(images) == FEW.label_images
        if which in kin:
            assert len(measured.pairs) == kin[which] * 3 * len(measured.layers), "three pairs in each family of three"
            assert all(a.rpartition(" ")[0] == b.rpartition(" ")[0] for a, b in measured.pairs)
        elif which not in FOLLOWED:
            assert measured.pairs is None, "all networks meet"
        if which in ("rates", "pruned", "widths, untrained"):
            assert torch.equal(images, paper.test_set.images[::2])
    assert names[:5] == [f"constant rate {name}" for name in ("1@0", "1@1", "1@2", "1@3", "2@0")]
    assert ("constant rate 1@0.conv1", "constant rate 1@2.conv1") in measured.pairs
    assert not any(a.split("@")[0] != b.split("@")[0] for a, b in measured.pairs)
    at = dict(measured.networks)["constant rate 1@2"].network(paper.shelf)
    kept = paper.made(FOLLOWED[1], 1)["on the way"][2]
    assert torch.equal(at.fc8.weight, kept["fc8.weight"])
