import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import convergent_utils as cu
from convergent_utils.making import things
from convergent_utils.making.store import Store
from convergent_utils.nets.declared import CURVE, Images, Learned, Start
from convergent_utils.paper import svcca
from convergent_utils.paper.networks import PROFILES, REORDERED, Setting
from convergent_utils.paper.prepare import (
    EXPERIMENTS_PUBLISHED,
    _make,
    _prepared,
    notebooks,
    prepare,
    published_keys,
    published_path,
    published_result,
)


def test_published_networks_are_current_and_can_be_played_at_once(tmp_path):
    paper = _prepared(Store(tmp_path), "fashion-mnist", 0, "paper", published=True)
    for name, learned in paper.setting.learned.items():
        form = cu.load(published_path(name))
        assert published_keys()[name]["key"] == learned.key, f"{name}: run `make paper` and `make publish`"
        reached = cu.accuracy(form["network"], paper.test_set)
        assert reached == pytest.approx(form["history"].test_accuracy[-1].item(), abs=2e-3)
        assert reached >= 0.88
        assert replace(paper, published=False).shelf.find(learned) is None
        assert published_result(replace(learned, order=77)) is None, "another network of the same name"
        found = paper.shelf.find(learned)
    assert torch.equal(found.network.fc8.weight, form["network"].fc8.weight)
    assert torch.equal(found.at(0.35).fc8.weight, form["on_the_way"][0.35]["fc8.weight"])
    untrained = cu.accuracy(found.at(0.0), paper.test_set.part(CURVE))
    assert untrained == pytest.approx(form["history"].test_accuracy[0].item(), abs=2e-3), (
        "the start comes from the seed"
    )


def test_published_results_are_current(tmp_path):
    paper = _prepared(Store(tmp_path), "fashion-mnist", 0, "paper", published=True)
    small = [thing for thing in paper.things.values() if thing.published]
    files = {path.name for path in EXPERIMENTS_PUBLISHED.iterdir()}
    assert {Store(tmp_path).file(one.kind, one.configuration).name for one in small} == files, (
        "run `make paper` and `make publish`"
    )
    assert paper["freezing", svcca.VARIANTS[0], 1]["accuracy"] > 0.5
    assert replace(paper, published=False).shelf.find(paper.thing("freezing", svcca.VARIANTS[0], 1)) is None
    assert not list(tmp_path.glob("*.safetensors")), "nothing is made, nothing is copied"


def test_each_notebook_declares_what_it_reads_and_names_it_alike():
    data = Images("nothing", count=64)
    setting = Setting("paper", 0, data, replace(data, source="other"), 1, 10)
    assert next(iter(notebooks())) == "00_networks"
    assert sorted(notebooks()) == list(notebooks())
    found = {}
    for notebook in notebooks().values():
        for name, thing in notebook.things(setting).items():
            assert found.setdefault(name, thing) == thing, "one name, one thing"
    assert len({thing.key for thing in found.values()}) == len(found), "no thing under two names"


def test_what_is_not_declared_is_refused_by_name(tmp_path):
    paper = _prepared(Store(tmp_path), "fashion-mnist", 0, "smoke", published=False)
    names = [("freezing", "all layers learn", 9), ("freezin", 1), ("measured", "labels", "all"), ("family", "33%", 1)]
    names += [("measured", "trained"), ("freezing",), (), 5, None, ["freezing"], ("freezing", [1]), "freezing"]
    for name in names:
        with pytest.raises(ValueError, match="name: expected one such as") as refused:
            paper[name]
        assert len(str(refused.value)) <= 300


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


@pytest.mark.parametrize("text", ["", "[1]", '{"net1": 3}', "{"])
def test_keys_of_networks_that_are_damaged_are_named(tmp_path, monkeypatch, text):
    monkeypatch.setattr(sys.modules["convergent_utils.paper.prepare"], "PUBLISHED", tmp_path)
    assert published_keys() == {}
    (tmp_path / "keys.json").write_text(text)
    with pytest.warns(UserWarning, match=r"keys.json is damaged .*; networks will be made again"):
        assert published_keys() == {}


def test_every_network_has_a_seed_of_its_own():
    data = Images("nothing", count=64)
    found = Setting("paper", 10, data, data, 1, 10).learned
    starts = {name: learned.start.seed for name, learned in found.items()}
    assert starts == {**{f"net{k}": 10 + k for k in range(1, 9)}, REORDERED: 11}
    assert [learned.order for learned in found.values()] == [*range(11, 20)], "the order of images is everyone's own"
    assert len({learned.key for learned in found.values()}) == PROFILES["paper"].n_networks + 1


def test_images_that_were_changed_meanwhile_are_refused():
    images = Images.of("fashion-mnist", "train", 64)
    source = images.source
    assert len(images) == len(images.load()) == len(Images(source, limit=64).load()) == 64
    assert source == cu.load_dataset("fashion-mnist", limit=64).source
    for other in (Images("fashion-mnist@else", limit=64), Images(source, limit=64, classes=9)):
        with pytest.raises(ValueError, match="dataset: the images of 'fashion-mnist' were changed"):
            other.load()


def test_images_are_read_anew_when_they_are_declared_anew(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 12, 12, 1), np.uint8)
    sets = {f"{split}_{what}": value for split in ("train", "test")
            for what, value in (("images", images), ("labels", np.arange(12) % 2))}  # fmt: skip
    np.savez(tmp_path / "mine.npz", **sets, classes=["a", "b"])
    name = f"npz:{tmp_path / 'mine.npz'}"
    before = Images.of(name, "train")
    np.savez(tmp_path / "mine.npz", **{**sets, "train_images": 255 - images}, classes=["a", "b"])
    assert torch.equal(before.load().images, torch.from_numpy(images)), "as they were read"
    after = Images.of(name, "train")
    assert after.source != before.source
    assert torch.equal(after.load().images, torch.from_numpy(255 - images))
    with pytest.raises(ValueError, match="were changed while they were used"):
        before.load()


def test_how_many_classes_there_are_is_part_of_every_key():
    data = Images("nothing", count=64)
    keys = [
        {name: thing.key for module in notebooks().values() for name, thing in module.things(
            Setting("smoke", 0, replace(data, classes=count), replace(data, classes=count), 1, count)).items()}
        for count in (10, 40)
    ]  # fmt: skip
    assert keys[0].keys() == keys[1].keys()
    assert all(keys[0][name] != keys[1][name] for name in keys[0])


def test_what_is_published_and_damaged_is_named_and_left_alone(tmp_path, monkeypatch):
    for name in ("PUBLISHED", "EXPERIMENTS_PUBLISHED"):
        source = getattr(sys.modules["convergent_utils.paper.prepare"], name)
        folder = shutil.copytree(source, tmp_path / name)
        monkeypatch.setattr(sys.modules["convergent_utils.paper.prepare"], name, folder)
    paper = _prepared(Store(tmp_path / "store"), "fashion-mnist", 0, "paper", published=True)
    small = paper.thing("freezing", svcca.VARIANTS[0], 1)
    path = Store(tmp_path / "EXPERIMENTS_PUBLISHED").file(small.kind, small.configuration)
    for damaged, thing in ((path, small), (tmp_path / "PUBLISHED" / "net1.safetensors", paper.setting.learned["net1"])):
        assert paper.shelf.find(thing) is not None
        damaged.write_bytes(damaged.read_bytes()[:-1])
        with pytest.warns(UserWarning, match="is damaged"):
            assert paper.shelf.find(thing) is None
        assert damaged.exists()
    shutil.copyfile(tmp_path / "PUBLISHED" / "net2.safetensors", tmp_path / "PUBLISHED" / "net3.safetensors")
    with pytest.warns(UserWarning, match=r"net3.safetensors is damaged, or no file of this version"):
        assert paper.shelf.find(paper.setting.learned["net3"]) is None, "another network under its name"


def test_a_worker_with_other_code_makes_nothing(tmp_path, monkeypatch):
    images = Images(cu.load_dataset("fashion-mnist", limit=64).source, limit=64, count=64)
    learned = Learned(Start("alexnet-narrow", 1, 10, 1.0, 1), images, images, cu.Recipe(epochs=0), 1)
    assert len(learned.key) == 16
    monkeypatch.setattr(things, "_code", lambda made: "edited since")
    with pytest.raises(ValueError, match="code: what training needs was edited while it ran"):
        _make(tmp_path, False, learned, print)
    assert not list(tmp_path.glob("*.safetensors"))
