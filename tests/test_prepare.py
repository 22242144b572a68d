import copy
import itertools
import shutil
from dataclasses import replace

import pytest
import torch

import convergent_utils as cu
from convergent_utils.nets.store import Store, configuration_hash
from convergent_utils.paper import freezing
from convergent_utils.paper import prepare as module
from convergent_utils.paper.experiments import EXPERIMENTS
from convergent_utils.paper.prepare import PROFILES, REORDERED, network_configurations, prepare, published_path


@pytest.fixture(scope="module")
def planted(smoke, tmp_path_factory):
    store = shutil.copytree(smoke[0] / "store", tmp_path_factory.mktemp("planted") / "store")
    return prepare("02_one_to_one_matching", profile="smoke", store=Store(store))


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
    twin, unrelated = (
        float(cu.bipartite_matching(cu.correlation(measured.pair("net1.conv3", f"{other}.conv3")).matrix).mean)
        for other in ("net2", "net3")
    )
    assert twin > 0.999 > 0.9 > unrelated
    assert max(planted.dead_share().values()) < 0.25


@pytest.mark.slow
def test_damaged_results_are_named_and_rebuilt(planted, capfd):
    verbs = {"network": "training net", "measurement": "measuring"}
    verbs |= {name: experiment.title for name, experiment in EXPERIMENTS.items()}
    damaged = [sorted(planted.store.path.glob(f"{kind}-*"))[0] for kind in verbs]
    whole = {path: path.read_bytes() for path in damaged}
    for path in damaged:
        path.write_bytes(whole[path][:-1])
    with pytest.warns(UserWarning, match="is damaged") as warned:
        prepare(profile="smoke", store=planted.store)
    told, said = [str(warning.message) for warning in warned], capfd.readouterr().err
    for path, verb in zip(damaged, verbs.values(), strict=True):
        assert sum(f"{path.name} is damaged" in message for message in told) == 1
        assert verb in said
        assert path.read_bytes() == whole[path]
    prepare(profile="smoke", store=planted.store)
    assert capfd.readouterr().err == "", "nothing is left to do, and nothing is said"


@pytest.mark.slow
def test_runs_of_the_original_optimiser_are_those_of_the_kernel(planted):
    measured, steps = planted.measured(), planted.sgd_steps
    found = planted.sgd("net1", "net3", "conv2")
    acts = [measured.sample(f"{net}.conv2") for net in ("net1", "net3")]
    options = {"images": measured.sample_images, "halve_every": steps[1], "seed": planted.seed}
    for run in (cu.SgdRun("zero", "original", 256, 1e-4), cu.SgdRun("random", "original", acts[1].shape[1], 0.0)):
        alone = cu.sgd_mapping(*acts, steps=steps[:3], **run._asdict(), **options).r2
        assert torch.allclose(found[run], alone, atol=1e-4)
    whole = planted.sgd("net1", "net2", "conv2")
    assert planted.sgd_pairs == {("net1", "net2"): True, ("net1", "net3"): False, ("net2", "net3"): True}
    assert set(found) < set(whole)
    assert {(run.start, run.schedule, run.loss_units) for run, r2 in whole.items() if len(r2) == 4} == set(
        itertools.product(("random", "zero"), ("original", "constant"), (acts[1].shape[1], 96, 256, 384))
    )
    assert {run.decay for run in whole} == {0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1}


@pytest.mark.slow
def test_projections_are_those_of_the_interventions(planted):
    network, data = planted.networks["net1"], planted.test_set
    found = planted.result("projection", "net1", "fc6")
    assert found["everything", ""] == pytest.approx(cu.accuracy(network, data))
    pair = planted.measured("training images").pair("net1.fc6", "net3.fc6")
    units = torch.eye(128, dtype=torch.float64)[:, pair.mean_a.argsort(descending=True)]
    sets = {
        "svcca net3": cu.svcca(pair).directions_a,
        "most active units": units,
        "principal components": torch.linalg.eigh(pair.cov_aa).eigenvectors.flip(1),
    }
    for what, directions in sets.items():
        for space, covariance in (("samples", pair.cov_aa), ("units", None)):
            matrix = cu.subspace_projection(directions[:, :4], covariance=covariance)
            with cu.projected(network, "fc6", matrix, pair.mean_a):
                assert found[what, space][2] == pytest.approx(cu.accuracy(network, data), abs=0.005)
    few = cu.svcca(pair).directions_a[:, :8].clone()
    few[(few.square().sum(1) * pair.cov_aa.diagonal()).argsort(descending=True)[16:]] = 0
    with cu.projected(network, "fc6", cu.subspace_projection(few, covariance=pair.cov_aa), pair.mean_a):
        reached = cu.accuracy(network, data)
    assert found["svcca net3 in few units", "samples"][4] == pytest.approx(reached, abs=0.005)
    assert len(found["random units", "samples"]) == len(found["principal components", "units"]) == 7


@pytest.mark.slow
def test_freeze_training_spends_what_it_says(planted):
    free, steps, compute = (planted.result("freezing", variant, 1) for variant in freezing.VARIANTS)
    assert free["cost"] == compute["cost"] == pytest.approx(1)
    assert free["epochs"] == steps["epochs"] == planted.settings.freezing_recipe.epochs
    assert compute["epochs"] == pytest.approx(free["epochs"] / steps["cost"])
    assert 0.5 < steps["cost"] < 0.9
    assert freezing.schedule(("a", "b", "c", "d")) == {"a": 0.25, "b": 0.5, "c": 0.75, "d": 1.0}


@pytest.mark.slow
def test_whole_maps_of_a_network_and_its_copy_span_the_same(planted):
    found = planted.result("dft", "net1", "net2")
    assert found["channels"] == 1  # 512 images, 49 units
    assert len(found["flattened"]) <= 49
    assert found["rho"].shape == found["chance rho"].shape == (7, 7, 1)
    assert found["chance rho"].mean() < found["rho"].mean()
    assert ((found["off_diagonal"] > 0.1) & (found["off_diagonal"] < 1)).all(), "images have a preferred place"


def test_published_networks_are_current_and_can_be_played_at_once(tmp_path):
    train_set, test_set = cu.load_dataset("fashion-mnist"), cu.load_dataset("fashion-mnist", split="test")
    for name, configuration in network_configurations(train_set, test_set, seed=0, profile="paper").items():
        form = cu.load(published_path(name))
        assert form["hash"] == configuration_hash(configuration), f"{name}: run `make paper` and `make publish`"
        reached = cu.accuracy(form["network"], test_set)
        assert reached == pytest.approx(form["history"].test_accuracy[-1].item(), abs=2e-3)
        assert reached >= 0.88
        assert module._find_network(Store(tmp_path), name, configuration, published=False) is None
    found = module._find_network(Store(tmp_path), name, configuration, published=True)
    assert torch.equal(found.network.fc8.weight, form["network"].fc8.weight)
    untrained = cu.accuracy(found.at(0.0), test_set)
    assert untrained == pytest.approx(form["history"].test_accuracy[0].item(), abs=2e-3), (
        "the start comes from the seed"
    )


@pytest.mark.slow
def test_networks_that_did_not_learn_are_refused(planted, tmp_path):
    with pytest.raises(
        ValueError, match=r"net2 did not learn: it is right on \d+\.\d% of the test images, 85% is asked"
    ):
        module._require_accuracy(replace(planted, trained={"net2": planted.trained["net2"]}), 0.85)
    damaged = copy.deepcopy(planted.trained["net1"])
    damaged.network.fc6[0].bias.data[:40] = -1e6
    with pytest.raises(ValueError, match=r"net1\.fc6 is damaged: 3\d% of its units never fire, at most 25% may"):
        module._require_live_units(replace(planted, trained={"net1": damaged}, store=Store(tmp_path)))


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
