from dataclasses import replace

import pytest
import torch

import convergent_utils as cu
from convergent_utils.making.store import Store, configuration_hash
from convergent_utils.paper import freezing
from convergent_utils.paper import prepare as module
from convergent_utils.paper.prepare import (
    EXPERIMENTS_PUBLISHED,
    PROFILES,
    REORDERED,
    Prepared,
    network_configurations,
    prepare,
    published_path,
)


def test_published_networks_are_current_and_can_be_played_at_once(tmp_path):
    train_set, test_set = cu.load_dataset("fashion-mnist"), cu.load_dataset("fashion-mnist", split="test")
    trained = {}
    for name, configuration in network_configurations(train_set, test_set, seed=0, profile="paper").items():
        form = cu.load(published_path(name))
        assert form["hash"] == configuration_hash(configuration), f"{name}: run `make paper` and `make publish`"
        reached = cu.accuracy(form["network"], test_set)
        assert reached == pytest.approx(form["history"].test_accuracy[-1].item(), abs=2e-3)
        assert reached >= 0.88
        assert module._find_network(Store(tmp_path), name, configuration, published=False) is None
        trained[name] = found = module._find_network(Store(tmp_path), name, configuration, published=True)
    assert torch.equal(found.network.fc8.weight, form["network"].fc8.weight)
    assert torch.equal(found.at(0.35).fc8.weight, form["on_the_way"][0.35]["fc8.weight"])
    untrained = cu.accuracy(found.at(0.0), test_set)
    assert untrained == pytest.approx(form["history"].test_accuracy[0].item(), abs=2e-3), (
        "the start comes from the seed"
    )
    paper = Prepared(trained, trained.pop(REORDERED), train_set, test_set, "paper", 0, Store(tmp_path), published=True)
    files = {path.name for path in EXPERIMENTS_PUBLISHED.iterdir()}
    assert {path.name for path in paper.result_files(Store(tmp_path))} == files, "run `make paper` and `make publish`"
    assert paper.has_result("freezing", freezing.VARIANTS[0], 1)
    assert not replace(paper, published=False).has_result("freezing", freezing.VARIANTS[0], 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profile": "papr"}, "did you mean 'paper'"),
        ({"dataset": "fashion"}, "did you mean 'fashion-mnist'"),
        ({"notebooks": ["02_matching"]}, "notebooks: expected one of"),
    ],
)
def test_bad_arguments_are_named_at_once(arguments, message, tmp_path):
    notebooks = arguments.pop("notebooks", [])
    with pytest.raises(ValueError, match=message):
        prepare(*notebooks, store=Store(tmp_path), **arguments)


def test_every_network_has_a_seed_of_its_own():
    data = cu.load_dataset("fashion-mnist", limit=64)
    found = network_configurations(data, data, seed=10, profile="paper")
    starts = {name: c["network"]["seed"] for name, c in found.items()}
    assert starts == {"net1": 11, "net2": 12, "net3": 13, "net4": 14, REORDERED: 11}
    assert [c["seed"] for c in found.values()] == [11, 12, 13, 14, 15], "the order of images is everyone's own"
    assert len({configuration_hash(c) for c in found.values()}) == PROFILES["paper"].n_networks + 1
