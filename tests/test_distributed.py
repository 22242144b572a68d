"""Three processes under torchrun, then two of them, against one: this file is also the script that they run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import convergent_utils as cu

SHARES = {2: [37, 163], 3: [150, 0, 50]}  # rows of each process
LAYERS = ["conv1", "fc6"]
MEASURED = {
    "float64": {"double": True, "sample": 40},
    "float32": {"sample": 40},
    "places": {"double": True, "positions": 2, "sample": 12, "top": 3},
    "mean": {"double": True, "positions": "mean", "folds": 3, "sample": 12},
    "two images": {"double": True, "limit": 2, "folds": 1, "top": 2, "sample": 8},
}
LIVE = ["net1.conv1", "net2.conv1", "net1.fc6"]


def rows(dtype, mean):
    """Correlated units whose means are `mean` standard deviations."""
    draw = torch.randn(200, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixed = (draw @ torch.randn(12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)) / 3
    return dict(zip("ab", (mixed + mean).to(dtype).split([5, 7], dim=1), strict=True))


def moments_of(blocks):
    moments = cu.Moments({name: block.shape[1] for name, block in blocks.items()})
    moments.update(blocks)
    return moments


def shard(blocks, rank, shares):
    start = sum(shares[:rank])
    return {name: block[start : start + shares[rank]] for name, block in blocks.items()}


def networks():
    return {f"net{k}": cu.build_network("alexnet-narrow", seed=k) for k in (1, 2)}


def measured(*, double=False, limit=41, spoil=None, seed=2, hook=None, **options):
    images = cu.load_dataset("fashion-mnist", split="test", limit=limit).images
    nets = {**networks(), "net2": cu.build_network("alexnet-narrow", seed=seed)}
    if double:
        images, nets = cu.normalise(images).double(), {name: net.double() for name, net in nets.items()}
    if hook is not None:
        nets["net1"].conv1.register_forward_hook(hook)
    if spoil is not None:
        images[spoil] = torch.nan
    return cu.measure(nets, images, LAYERS, device="cpu", **options)


def refused(call, *arguments, **options):
    """What a call is refused with."""
    try:
        return f"not refused: {call(*arguments, **options)}"
    except ValueError as error:
        return str(error)


def states(rank, world):
    last, shares = rank == world - 1, SHARES[world]
    found = {
        "float64": moments_of(shard(rows(torch.float64, 100), rank, shares)).state(),
        "float32": moments_of(shard(rows(torch.float32, 100), rank, shares)).state(),
        "coarsest": moments_of(shard(rows(torch.float32 if last else torch.float64, 0), rank, shares)).state(),
        "nothing": cu.Moments({"a": 5, "b": 7}).state(),
        "backwards": dict(reversed(moments_of(shard(rows(torch.float64, 100), rank, shares)).state().items())),
    }
    found["spoilt"] = {key: value.clone() for key, value in found["float64"].items()}
    if last:  # as it would come from a GPU, where nobody looks before a pair is read
        found["spoilt"]["mean/a"][2] = found["spoilt"]["comoment/a|a"][2] = torch.nan
    return {name: dict(cu.all_reduce(state)) for name, state in found.items()}


def work(folder, rank, world):
    """What each process finds, and what it is refused with."""
    last, store = rank == world - 1, cu.Store(folder / f"store{world}")
    keep, kept = cu.Store.keep, []
    cu.Store.keep = lambda *arguments: kept.append(rank) or keep(*arguments)
    a, b = cu.Moments({"a": 5}).state(), cu.Moments({"a": 6}).state()
    found = {
        "states": states(rank, world),
        "measured": {name: measured(**options) for name, options in MEASURED.items()},
        "kept": [measured(positions="mean", sample=4, store=store) for _ in range(2)],
        "writers": kept,
        "refused": {
            "widths": refused(cu.all_reduce, b if last else a),
            "no state": refused(cu.all_reduce, None if last else a),
            "pairs": refused(cu.all_reduce, cu.Moments({"a": 5, "b": 7}, pairs=[] if last else None).state()),
            "NaN": refused(measured, double=True, spoil=world - 1),
            "networks": refused(measured, seed=rank),
            "hooks": refused(measured, hook=(lambda module, inputs, output: output + 1) if last else None),
            "arguments": refused(measured, folds=0 if last else 2),
        },
    }
    cu.Store.keep = keep
    cu.save(found, folder / f"{world}-{rank}.safetensors")


def main(folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    work(folder, rank, 3)
    dist.destroy_process_group()
    if rank < 2:
        dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
        work(folder, rank, 2)
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3", __file__, folder]
    local = {"OMP_NUM_THREADS": "1", **({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {})}
    done = subprocess.run(command, env={**os.environ, **local}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module", params=[2, 3])
def found(request, folder):
    """What each process of 2 or 3 found, by rank."""
    return [cu.load(folder / f"{request.param}-{rank}.safetensors") for rank in range(request.param)]


@pytest.fixture(scope="module")
def alone():
    return {name: measured(**options) for name, options in MEASURED.items()}


@pytest.mark.parametrize("name", ["float64", "backwards"])
def test_the_state_of_the_whole_is_that_of_one_process(found, name):
    whole = moments_of(rows(torch.float64, 100)).state()
    for process in found:
        state = process["states"][name]
        assert state.keys() == whole.keys()
        for key, value in whole.items():
            assert state[key].dtype == value.dtype
            assert torch.allclose(state[key], value, rtol=1e-12, atol=1e-10), key


def test_correlations_in_float32_with_means_of_a_hundred_deviations(found):
    exact = cu.correlation(moments_of({k: v.double() for k, v in rows(torch.float32, 100).items()}).pair("a", "b"))
    for process in found:
        joined = cu.Moments.from_state(process["states"]["float32"]).pair("a", "b")
        assert joined.n_samples == 200
        assert (cu.correlation(joined).matrix - exact.matrix).abs().max() < 1e-6


def test_every_process_has_the_very_same_state(found):
    for process in found[1:]:
        for name in ("float64", "float32", "nothing"):
            mine, first = process["states"][name], found[0]["states"][name]
            assert all(torch.equal(mine[key], first[key]) for key in first)


def test_edges_of_the_merge(found):
    for process in found:
        coarsest = process["states"]["coarsest"]
        assert coarsest["resolution/a"].item() == torch.finfo(torch.float32).eps, "the coarsest rows of all processes"
        assert not any(value.any() for value in process["states"]["nothing"].values())
        spoilt = cu.Moments.from_state(process["states"]["spoilt"])
        with pytest.raises(ValueError, match="NaN or infinity in unit 2"):
            spoilt.pair("a", "b")
        assert torch.isfinite(spoilt.pair("b", "b").cov_ab).all(), "it stays where it was"


def test_without_processes_the_state_is_returned_as_it_is():
    state = moments_of(rows(torch.float32, 0)).state()
    assert cu.all_reduce(state) is state


@pytest.mark.parametrize("name", MEASURED)
def test_a_measurement_is_that_of_one_process(found, alone, name):
    close = {"rtol": 1e-9, "atol": 1e-10} if MEASURED[name].get("double") else {"rtol": 1e-4, "atol": 1e-6}
    one = alone[name]
    for process in found:
        many = process["measured"][name]
        assert (many.n_images, many.positions, many.blocks) == (one.n_images, one.positions, one.blocks)
        assert torch.equal(many.sample_images, one.sample_images)
        for fold in (None, *range(len(one.folds))):
            pair, wanted = (m.pair("net1.conv1", "net2.conv1", fold=fold) for m in (many, one))
            assert pair.n_samples == wanted.n_samples
            assert torch.allclose(pair.cov_ab, wanted.cov_ab, **close)
        for block in LIVE:
            assert torch.allclose(many.sample(block), one.sample(block), rtol=1e-5, atol=1e-6)
            assert torch.allclose(many.active_share(block), one.active_share(block), atol=1e-4)
            assert torch.allclose(many.top(block).value, one.top(block).value, **close)
            if one.maps:
                assert torch.allclose(many.mean_map(block), one.mean_map(block), **close)


def test_top_stimuli_are_the_same_images_at_the_same_places(found, alone):
    for process in found:
        for name in ("float64", "places"):
            for block in LIVE:
                many, one = process["measured"][name].top(block), alone[name].top(block)
                assert torch.equal(many.image, one.image)
                assert torch.equal(many.place, one.place)


@pytest.mark.parametrize("folds", [1, 2])
def test_of_equals_the_earliest_images_are_listed(folds):
    dark = torch.zeros(300, 1, 28, 28)
    top = cu.measure(networks(), dark, ["fc6"], sample=4, top=3, folds=folds, device="cpu").top("net1.fc6")
    assert torch.equal(top.image, torch.arange(3).expand(64, 3))


def test_one_process_writes_and_all_return_what_is_kept(found, folder):
    assert [process["writers"] for process in found] == [[0], *[[]] * (len(found) - 1)]
    assert len(list((folder / f"store{len(found)}").glob("*.safetensors"))) == 1
    for process in found:
        first, again = process["kept"]
        assert torch.equal(first.sample("net2.conv1"), again.sample("net2.conv1"))
        assert torch.equal(first.mean_activation("net1.fc6"), found[0]["kept"][0].mean_activation("net1.fc6"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("widths", "state: expected the same blocks and pairs in every process, got 'mean/a' of shape (5,)"),
        ("no state", "state: expected Moments.state(), a dict of tensors, got NoneType"),
        ("pairs", "got 'comoment/a|b' of shape (5, 7) in process 0 and None in process"),
        ("NaN", "NaN or infinity in unit 0"),
        ("networks", "networks, inputs and options: expected the same in every process"),
        ("hooks", "networks, inputs and options: expected the same in every process"),
        ("arguments", "folds: expected at least 1, got 0"),
    ],
)
def test_what_one_process_gets_wrong_is_refused_by_all(found, name, message):
    for process in found:
        assert message in process["refused"][name]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
