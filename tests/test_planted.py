"""The whole paper on planted networks, whose answers are known: what it makes, what it keeps, and how it mends."""

import copy
import itertools
import json
import re
import shutil
import sys
from dataclasses import replace

import nbformat
import numpy as np
import planted_run
import pytest
import torch

import convergent_utils as cu
from convergent_utils import paper
from convergent_utils.cli import main
from convergent_utils.edition.places import RESULTS, ROOT
from convergent_utils.making.store import Store
from convergent_utils.nets.declared import Learned
from convergent_utils.paper import agreement, shared_spaces, sparse_mapping, svcca
from convergent_utils.paper.prepare import _prepared, _require_accuracy, _require_live_units, notebooks, prepare


def pictures(folder):
    found = {}
    for path in sorted((folder / "build" / "notebooks").glob("*.ipynb")):
        for k, cell in enumerate(nbformat.read(path, 4).cells):
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    found[path.stem, k, len(found)] = output.data["image/png"]
    return found


@pytest.mark.slow
def test_a_run_makes_its_notebooks_and_claims(smoke):
    """Two of them; what all make on planted networks: see test_exercises, and on others: the paper itself."""
    folder, done = smoke
    executed = {path.stem for path in (folder / "build" / "notebooks").glob("*.ipynb")}
    assert executed == set(planted_run.NOTEBOOKS)
    rows = json.loads((folder / "build" / "results" / "claims.json").read_text())
    assert {row["notebook"] for row in rows} == executed
    assert all(row["id"] in done.stdout for row in rows)
    assert len(pictures(folder)) >= 8
    assert "differs from the published run" in done.stdout or not (RESULTS / "claims.json").exists()


@pytest.mark.slow
def test_the_same_seeds_give_the_same_figures_and_parameters_arrive(smoke, base_seed, tmp_path, monkeypatch):
    """And what other settings left does not count. The same claims: see test_exercises; the same networks, measurements
    and experiments: where runs are killed.
    """
    shutil.copytree(smoke[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("CONVERGENT_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("CONVERGENT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("CONVERGENT_RUN", "1")
    options = ["--profile", "smoke", "--seed", str(base_seed), "--only", "01", "--parameter", "shown=conv3"]
    assert main(["paper", *options]) == 0
    book = nbformat.read(tmp_path / "build" / "notebooks" / "01_activation_statistics.ipynb", 4)
    injected = next(cell for cell in book.cells if "injected-parameters" in cell.metadata.get("tags", []))
    assert "conv3" in injected.source
    assert "smoke" in injected.source
    now, before = set(pictures(tmp_path).values()), set(pictures(smoke[0]).values())
    assert len(now & before) >= 3, "the same seeds, the same figures"
    assert now - before, "another layer, another figure"
    rows = json.loads((tmp_path / "build" / "results" / "claims.json").read_text())
    assert {row["notebook"] for row in rows} == {"01_activation_statistics"}
    assert [path.stem for path in (tmp_path / "build" / "notebooks").iterdir()] == ["01_activation_statistics"]


@pytest.fixture(scope="module")
def planted(smoke, base_seed, tmp_path_factory):
    store = shutil.copytree(smoke[0] / "store", tmp_path_factory.mktemp("planted") / "store")
    return prepare("02_one_to_one_matching", profile="smoke", seed=base_seed, store=Store(store))


@pytest.mark.slow
def test_smoke_networks_are_what_they_are_said_to_be(planted):
    assert list(planted.networks) == ["net1", "net2", "net3"]
    both = {name: cu.predict(net, planted.test_set) for name, net in planted.networks.items()}
    assert (both["net1"] - both["net2"]).abs().max() < 1e-4
    assert (
        cu.accuracy(planted.networks["net1"], planted.test_set)
        > 0.5
        > cu.accuracy(planted.networks["net3"], planted.test_set)
    )
    measured = planted.measured()
    twin, unrelated = (cu.correlation(measured.pair("net1.conv3", f"{other}.conv3")) for other in ("net2", "net3"))
    twin, unrelated = (
        float(cu.bipartite_matching(c.matrix, live_a=c.live_a, live_b=c.live_b).mean) for c in (twin, unrelated)
    )
    assert twin > 0.999 > 0.9 > unrelated, "a dead unit has no twin, and is none"
    assert max(planted.dead_share().values()) < 0.25


@pytest.mark.slow
def test_damaged_results_are_named_and_rebuilt(planted, capfd):
    kinds = {thing.kind: thing for thing in (*planted.things.values(), *planted.setting.learned.values())}
    assert len(kinds) == 33
    damaged = [planted.store.file(thing.kind, thing.configuration) for thing in kinds.values()]
    verbs = [f"{thing.title} {thing.name}" if isinstance(thing, Learned) else thing.title for thing in kinds.values()]
    whole = {path: path.read_bytes() for path in damaged}
    for path in damaged:
        path.write_bytes(whole[path][:-1])
    with pytest.warns(UserWarning, match="is damaged") as warned:
        prepare(profile="smoke", seed=planted.seed, store=planted.store)
    told, said = [str(warning.message) for warning in warned], capfd.readouterr().err
    for path, verb in zip(damaged, verbs, strict=True):
        assert sum(f"{path.name} is damaged" in message for message in told) == 1
        assert verb in said
        assert path.read_bytes() == whole[path]
    prepare(profile="smoke", seed=planted.seed, store=planted.store)
    assert capfd.readouterr().err == "", "nothing is left to do, and nothing is said"


@pytest.mark.slow
def test_runs_of_the_original_optimiser_are_those_of_the_kernel(planted):
    measured, steps = planted.measured(), sparse_mapping.SIZES["smoke"].steps
    found, whole = (
        sparse_mapping.by_run(planted["sgd", *pair, "conv2"]) for pair in (("net3", "net1"), ("net1", "net2"))
    )
    acts = [measured.sample(f"{net}.conv2") for net in ("net3", "net1")]
    options = {"batch": 128, "halve_every": steps[1], "seed": planted.seed}
    for run in (cu.SgdRun("zero", "original", 256, 1e-4), cu.SgdRun("random", "original", acts[1].shape[1], 0.0)):
        alone = cu.sgd_mapping(*acts, steps=steps[:3], **run._asdict(), **options).r2
        assert torch.allclose(found[run], alone, atol=1e-4)
    pairs = sparse_mapping.sgd_pairs(planted.networks, "smoke")
    assert pairs == {("net1", "net2"): True, ("net2", "net3"): True, ("net3", "net1"): False}
    assert set(found) < set(whole)
    assert {(run.start, run.schedule, run.loss_units) for run, r2 in whole.items() if len(r2) == 4} == set(
        itertools.product(("random", "zero"), ("original", "constant"), (acts[1].shape[1], 96, 256, 384))
    )
    assert {run.decay for run in whole} == {0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1}


@pytest.mark.slow
def test_projections_are_those_of_the_interventions(planted):
    network, every = planted.networks["net1"], planted.test_set
    data = replace(every, images=every.images[::4], labels=every.labels[::4])
    one = 1.01 / len(data)  # rounding may turn one image
    found = planted["projection", "net1", "fc6"]
    assert found["everything", ""] == pytest.approx(cu.accuracy(network, data))
    pair = planted.shelf(planted.setting.measured("training images")).pair("net1.fc6", "net3.fc6")
    units = torch.eye(128, dtype=torch.float64)[:, pair.mean_a.argsort(descending=True)]
    sets = {
        "svcca net3": cu.svcca(pair).directions_a,
        "most active units": units,
        "principal components": torch.linalg.eigh(pair.cov_aa).eigenvectors.flip(1),
    }
    for what, directions in sets.items():
        for space, covariance in (("samples", pair.cov_aa), ("units", None)):
            count = svcca.KEPT[space][1]
            matrix = cu.subspace_projection(directions[:, :count], covariance=covariance)
            with cu.projected(network, "fc6", matrix, pair.mean_a):
                assert found[what, space][1] == pytest.approx(cu.accuracy(network, data), abs=one)
    few = cu.svcca(pair).directions_a[:, :8].clone()
    few[(few.square().sum(1) * pair.cov_aa.diagonal()).argsort(descending=True)[16:]] = 0
    with cu.projected(network, "fc6", cu.subspace_projection(few, covariance=pair.cov_aa), pair.mean_a):
        reached = cu.accuracy(network, data)
    assert found["svcca net3 in few units", "samples"][4] == pytest.approx(reached, abs=one)
    assert len(found["random units", "samples"]) == len(found["read by the output", "samples"]) == 7
    assert len(found["principal components", "units"]) == 3


@pytest.mark.slow
def test_as_many_directions_as_units_leave_a_network_as_it_is(planted):
    """Directions of one unit each are all of its space, whichever order they are in; ten of them are not."""
    network, pair = planted.networks["net1"], planted.measured().pair("net1.conv5", "net3.conv5")
    judge = svcca.Judge(network, "conv5", planted.test_set, pair)
    units = torch.eye(48, dtype=torch.float64).flip(1)
    assert judge.accuracies([units, units[:, :10]], "units").tolist() == [
        judge.whole,
        judge.accuracy(cu.subspace_projection(units[:, :10])),
    ]
    assert judge.whole == cu.accuracy(
        network, replace(planted.test_set, images=planted.test_set.images[::4], labels=planted.test_set.labels[::4])
    )


@pytest.mark.slow
def test_freeze_training_spends_what_it_says(planted):
    free, steps, compute = (planted["freezing", variant, 1] for variant in svcca.VARIANTS)
    assert free["cost"] == compute["cost"] == pytest.approx(1)
    assert free["epochs"] == steps["epochs"] == svcca.SIZES["smoke"].recipe.epochs
    assert compute["epochs"] == pytest.approx(free["epochs"] / steps["cost"])
    assert 0.5 < steps["cost"] < 0.9
    assert svcca.schedule(("a", "b", "c", "d")) == {"a": 0.25, "b": 0.5, "c": 0.75, "d": 1.0}


@pytest.mark.slow
def test_whole_maps_of_a_network_and_its_copy_span_the_same(planted):
    found = planted["dft", "net1", "net2"]
    assert found["channels"] == 1  # 512 images, 49 units
    assert len(found["flattened"]) <= 49
    assert found["rho"].shape == found["chance rho"].shape == (7, 7, 1)
    assert found["chance rho"].mean() < found["rho"].mean()
    assert ((found["off_diagonal"] > 0.1) & (found["off_diagonal"] < 1)).all(), "images have a preferred place"


@pytest.mark.slow
def test_a_similarity_stands_beside_its_baselines(planted):
    def matched(pair):
        c = cu.correlation(pair)
        return cu.bipartite_matching(c.matrix, live_a=c.live_a, live_b=c.live_b).mean

    found = planted.beside_baselines(matched, layers=("conv3", "fc6"))
    assert list(found) == ["trained", "layout", "untrained", "finite sample"]
    assert all(values.shape == (3, 3, 2) for values in found.values())
    assert all((values == values.swapaxes(0, 1)).all() for values in found.values())
    for role, measured in (("trained", planted.measured()), ("untrained", planted.measured("untrained"))):
        assert found[role][0, 2, 0] == pytest.approx(float(matched(measured.pair("net1.conv3", "net3.conv3"))))
        assert found[role][0, 1].min() > 0.999, "a shuffled copy, before and after"
    assert found["layout"][0, 2, 1] == pytest.approx(float(matched(planted.measured().layout("net1.fc6", "net3.fc6"))))
    assert abs(found["layout"][..., 1]).max() < 1e-6, "a layer without places has no layout"
    assert found["finite sample"].max() < 0.5
    assert planted.beside_baselines(lambda pair: pair.cov_ab[:2, :3])["trained"].shape == (3, 3, 7, 2, 3)


@pytest.fixture
def drift(tmp_path, monkeypatch):
    """The file of a notebook that CONTRIBUTING shows, among the others."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (tmp_path / "drift.py").write_text(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], encoding="utf-8")
    monkeypatch.setattr(paper, "__path__", [*paper.__path__, str(tmp_path)])
    notebooks.cache_clear()
    yield
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "convergent_utils.paper.drift", raising=False)
    notebooks.cache_clear()


@pytest.mark.slow
def test_a_notebook_is_added_by_the_file_that_contributing_shows(smoke, base_seed, drift):
    prepared = _prepared(Store(smoke[0] / "store"), "fashion-mnist", base_seed, "smoke", published=False)
    assert prepared.thing("drift", "net1").title == "following weights"
    learned, untrained = prepared["drift", "net1"], prepared["drift", "net3"]
    assert learned.keys() == untrained.keys()
    assert len(learned) == len(prepared.layers)
    assert min(learned.values()) > 0 == max(untrained.values()), "net3 is planted untrained"
    assert "13_drift" in notebooks()


@pytest.mark.slow
def test_networks_that_did_not_learn_are_refused(planted):
    with pytest.raises(
        ValueError, match=r"net2 did not learn: it is right on \d+\.\d% of the test images, 85% is asked"
    ):
        _require_accuracy({"net2": planted.trained["net2"]}, 0.85)
    damaged = copy.deepcopy(planted.trained["net1"])
    damaged.network.fc6[0].bias.data[:40] = -1e6
    with pytest.raises(ValueError, match=r"net1\.fc6 is damaged: 3\d% of its units never fire, at most 25% may"):
        _require_live_units(cu.measure({"net1": damaged.network}, planted.test_set, planted.layers))


@pytest.mark.slow
def test_a_copy_agrees_with_its_network_by_every_similarity(planted):
    """net2 is net1 in another order; net3 is another network."""
    found = planted["agreement"]
    of = planted.thing("agreement").meeting
    assert set(found) == {*agreement.SIMILARITIES, "image", *(f"maximum match, {k}" for k in agreement.EPSILONS)}
    copy, other = of.index(("net1", "net2")), of.index(("net1", "net3"))
    for name, values in found.items():
        if name == "matched beyond turned":
            assert (values[copy] > values[other]).all()
        elif not name.startswith(("image", "maximum")):
            assert values[copy].min() > 0.99, name
            assert values[other].max() < 0.999, name
    assert found["image"][copy].min() > 0.95, "some images are there twice"


@pytest.mark.slow
def test_federations_on_the_planted_profile(planted):
    one = planted["federation", "skewed", 1]
    assert set(one) >= {"alone", "majority", "ensemble", "central", "one head", "distilled head, corrected", "shuffled"}
    assert all(0 <= value <= 1 for name, value in one.items() if name != "dimensions")
    assert one["pixels, space"] < one["pixels, best"]
    clients = planted.thing("federation", "skewed", 1).clients
    networks = [client.network.network(planted.shelf) for _, client in clients]
    test = planted.test_set
    few = replace(test, images=test.images[::4], labels=test.labels[::4])
    assert one["alone"] == pytest.approx(np.mean([cu.accuracy(network, few) for network in networks]), abs=0.01)


@pytest.mark.slow
def test_embeddings_and_abilities_are_of_the_same_networks(planted):
    names = [name for of in shared_spaces.kinds_of(planted.setting).values() for name, *_ in of]
    assert names == list(planted["ability"]) == [name for name, *_ in planted.thing("alike").embedded.networks]
    assert planted["alike"]["CKA"].shape == (len(names), len(names))
    assert planted["ability"]["net1"] == pytest.approx(cu.accuracy(planted.networks["net1"], planted.test_set))
