"""Families of networks: what differs between them, and that nothing else does."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

import convergent_utils as cu
from convergent_utils.making.store import Store
from convergent_utils.nets.networks import weighted
from convergent_utils.nets.training import History
from convergent_utils.paper import families
from convergent_utils.paper import prepare as module
from convergent_utils.paper.experiments import EXPERIMENTS
from convergent_utils.paper.families import (
    FOLLOWED,
    LABELS,
    LONGER,
    PRUNED,
    RANDOM,
    RATES,
    Sizes,
    members,
    rate_name,
    start,
)
from convergent_utils.paper.measurements import MEASUREMENTS, to_measure
from convergent_utils.paper.prepare import Prepared

FEW = Sizes(
    per_label=3, label_images=64, label_recipe=cu.Recipe(epochs=2, batch=32), widths=(0.25, 1), per_rate=3,
    images=192, recipe=cu.Recipe(epochs=1, batch=32), followed_epochs=(3, 6), followed_times=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(module.PROFILES, "smoke", replace(module.PROFILES["smoke"], families=FEW))
        train_set, test_set = (cu.load_dataset("fashion-mnist", split=s, limit=256) for s in ("train", "test"))
        network = cu.build_network("alexnet-narrow")
        trained = cu.Trained(network, History(torch.zeros(1), torch.zeros(1)), {0.0: network.state_dict()})
        store = Store(tmp_path_factory.mktemp("store"))
        yield Prepared({"net1": trained}, trained, train_set, test_set, "smoke", 3, store)


def test_no_two_networks_start_alike(paper):
    starts = {
        tuple(weighted(start(paper, family, member), "conv1").weight.flatten()[:5].tolist())
        for family in members(FEW)
        for member in paper.members(family)
    }
    assert len(starts) == sum(members(FEW).values()) == 3 * 14
    assert "width 200%" in members(FEW), "the wide ones that are pruned"


def test_no_two_widths_or_rates_have_one_name():
    widths = (0.12, 0.125, 0.25, 0.5, 1, 2, 3)
    assert len({families.width_name(width) for width in widths}) == len(widths)
    assert families.width_name(0.125) == "width 12.5%"
    assert [rate_name(rate) for rate in (*RATES, 1.25e-4)] == ["rate 25%", "rate 100%", "rate 400%", "rate 12.5%"]


@pytest.mark.parametrize("family", ["width 25%", "width 100%", "rate 400%"])
def test_signals_keep_their_size_at_any_width(paper, family):
    for layer in ("conv1", "conv3", "conv5"):
        weight = weighted(start(paper, family, 1), layer).weight.detach()
        assert float(weight.std()) == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=1e-5)


def test_labels(paper):
    labels = {(family, member): families.labelled(paper, family, member) for family in LABELS for member in (1, 2)}
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
    assert paper.family(LABELS[1], 1)["epochs"] == 8, "two epochs, four, and then eight"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "LEARNED", 0.0)
        assert families.make(paper, LABELS[1], 1)["epochs"] == 2


@pytest.mark.parametrize("family", FOLLOWED)
def test_a_followed_network_is_kept_on_its_way(paper, family):
    found = paper.family(family, 2)
    assert list(found["on the way"]) == [0, 1, 2, 3]
    network = cu.build_network(**found["network"].configuration)
    for at, weights in found["on the way"].items():
        network.load_state_dict(weights)
        assert cu.accuracy(network, paper.test_set) == pytest.approx(float(found["curve"][at]), abs=1e-6)
    assert torch.equal(found["on the way"][0]["conv1.0.weight"], weighted(start(paper, family, 2), "conv1").weight)
    assert found["accuracy"] == pytest.approx(float(found["curve"][-1]))
    assert found["epochs"] == {"falling rate": 3, "constant rate": 6}[family]


def test_pruning_keeps_the_largest_weights_and_chance_does_not(paper):
    wide = paper.family("width 200%", 1)["network"]
    kept, by_chance = families._kept_units(wide, None), families._kept_units(wide, 7)
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
        wide = paper.family("width 200%", 2)["network"]
        patch.setattr(families, "train", train)
        cut = {family: families.make(paper, family, 2)["network"] for family in (PRUNED, RANDOM, LONGER)}
    largest = cu.with_units(wide, families._kept_units(wide, None), width=1.0)
    assert torch.equal(cut[PRUNED].fc8.weight, largest.fc8.weight)
    assert not torch.equal(cut[RANDOM].fc8.weight, largest.fc8.weight)
    assert cut[RANDOM].fc8.weight.shape == largest.fc8.weight.shape
    assert [recipe.epochs for recipe in recipes] == [1, 1, FEW.recipe.epochs + 1]


def test_rates_differ_and_nothing_else():
    with pytest.MonkeyPatch.context() as patch:
        used = []

        class Stop(Exception):
            pass

        def train(network, data, recipe, **_):
            used.append(recipe)
            raise Stop

        patch.setattr(families, "train", train)
        settings = type("Settings", (), {"families": FEW})
        data = cu.load_dataset("fashion-mnist", limit=64)
        paper = type("Paper", (), {"settings": settings, "train_set": data, "test_set": data, "seed": 0})
        for rate in RATES:
            with pytest.raises(Stop):
                families.make(paper, rate_name(rate), 1)
    assert [recipe.rate for recipe in used] == list(RATES)
    assert len({replace(recipe, rate=0.0) for recipe in used}) == 1


def test_which_networks_meet_on_which_images(paper):
    needs, kin = dict(MEASUREMENTS["07_pwcca"]), {"pruned": 4, "widths, untrained": 2}
    for which in ("labels, test images", "labels, untrained", "rates", *kin, FOLLOWED[1]):
        (networks, images, layers), options = to_measure(paper, which, needs[which])
        assert layers[-1] == "fc8"
        if which.startswith("labels"):
            assert list(networks)[::3] == [f"{label} 1" for label in LABELS]
            assert len(images) == FEW.label_images
        if which in kin:
            assert len(options["pairs"]) == kin[which] * 3 * len(layers), "three pairs in each family of three"
            assert all(a.rpartition(" ")[0] == b.rpartition(" ")[0] for a, b in options["pairs"])
        elif which not in FOLLOWED:
            assert options["pairs"] is None, "all networks meet"
        if which in ("rates", "pruned", "widths, untrained"):
            assert torch.equal(images, paper.test_set.images[::2])
    assert list(networks)[:5] == [f"constant rate {name}" for name in ("1@0", "1@1", "1@2", "1@3", "2@0")]
    assert ("constant rate 1@0.conv1", "constant rate 1@2.conv1") in options["pairs"]
    assert not any(a.split("@")[0] != b.split("@")[0] for a, b in options["pairs"])
    with pytest.raises(ValueError, match="which: expected one of"):
        to_measure(paper, "labels", "all")
    with pytest.raises(ValueError, match="family: expected one of"):
        paper.members("width 33%")


def test_a_result_that_is_being_made_is_waited_for_and_not_made_again(paper, tmp_path, monkeypatch):
    """Another run holds the lock, keeps the result and lets go; this one finds it and makes nothing."""
    alone, made = replace(paper, store=Store(tmp_path)), []
    experiment = replace(EXPERIMENTS["family"], run=lambda paper, *key: made.append(key) or {"key": list(key)})
    monkeypatch.setitem(EXPERIMENTS, "family", experiment)
    configuration = alone._experiment("family", PRUNED, 1)
    with ThreadPoolExecutor(1) as other:
        with Store(tmp_path).lock("family", configuration):
            waiting = other.submit(alone.family, PRUNED, 1)
            time.sleep(0.5)
            assert not waiting.done()
            Store(tmp_path).keep("family", configuration, {"key": "of the other"})
        assert waiting.result(timeout=30) == {"key": "of the other"}
    assert made == []
    assert alone.family(PRUNED, 2) == alone.family(PRUNED, 2) == {"key": [PRUNED, 2]}
    assert made == [(PRUNED, 2)]
