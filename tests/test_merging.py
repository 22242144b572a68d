"""Parts of the images, measured apart and merged, are the whole: laws, refusals, runs that were killed."""

import os
import signal
import subprocess
import sys
import textwrap
import time
import weakref
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import convergent_utils as cu
from convergent_utils.kernels import products
from convergent_utils.nets import blocks, one_pass
from convergent_utils.nets.aligned import AlignedSample, row_keys

N = 60
LAYERS = ["maps", "row"]
PAIRS = [("a.maps", "b.maps"), ("a.row", "b.row")]
OPTIONS = {"sample": 50, "top": 2, "device": "cpu", "seed": 3}


class Small(nn.Module):
    """A map of 5 x 4 places and a row."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.maps = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU())
        self.row = nn.Linear(120, 5)

    def forward(self, x):
        return self.row(self.maps(x).flatten(1))


@pytest.fixture(scope="module")
def networks():
    return {"a": Small(1), "b": Small(2)}


@pytest.fixture(scope="module")
def images():
    return torch.randn(N, 1, 7, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["all", "mean", 2])
def positions(request):
    return request.param


@pytest.fixture(scope="module")
def part_of(networks, images, positions):
    """From the first and the last image to the measurement of those between."""

    def part(start, stop):
        return cu.measure(networks, images[start:stop], LAYERS, positions=positions, first=start, **OPTIONS)

    return part


@pytest.fixture(scope="module")
def whole(part_of):
    return part_of(0, N)


def assert_same(found, wanted):
    """Samples, strongest stimuli and counts exactly; sums to rounding."""
    assert torch.equal(found.images, wanted.images)
    assert (found.n_images, found.positions, found.blocks) == (wanted.n_images, wanted.positions, wanted.blocks)
    for name in ("keys", "images", "places"):
        assert torch.equal(getattr(found.aligned, name), getattr(wanted.aligned, name))
    for block in wanted.blocks:
        assert torch.allclose(found.sample(block), wanted.sample(block), atol=1e-6)  # a batch of another size rounds so
        assert torch.equal(found.top(block).image, wanted.top(block).image)
        assert torch.equal(found.top(block).place, wanted.top(block).place)
        assert torch.allclose(found.top(block).value, wanted.top(block).value, atol=1e-6)
        assert torch.allclose(found.active_share(block), wanted.active_share(block), atol=1e-12)
    assert found.maps.keys() == wanted.maps.keys()
    for block, mean in wanted.maps.items():
        assert torch.allclose(found.maps[block], mean, rtol=0, atol=1e-6)
    for a, b in PAIRS:
        for fold in (None, 0, 1):
            one, other = (measured.pair(a, b, fold=fold) for measured in (found, wanted))
            assert one.n_samples == other.n_samples
            assert torch.allclose(one.cov_ab, other.cov_ab, rtol=0, atol=1e-6)
            assert torch.allclose(one.mean_a, other.mean_a, rtol=0, atol=1e-6)


def cut(start, stop, cuts):
    """The parts between these cuts, each of at least four images."""
    ends = [start]
    for each in sorted(cuts):
        if each - ends[-1] >= 4 and stop - each >= 4:
            ends.append(each)
    return list(zip(ends, [*ends[1:], stop], strict=True))


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(4, N - 4), max_size=5), order=st.randoms(use_true_random=False), left=st.booleans())
def test_any_split_in_any_order_and_grouping_is_the_whole(part_of, whole, cuts, order, left):
    parts = [part_of(*ends) for ends in cut(0, N, cuts)]
    order.shuffle(parts)
    if left:
        found = reduce(cu.Measurement.merge, parts)
    else:
        found = reduce(lambda done, part: part.merge(done), reversed(parts))
    assert_same(found, whole)


def test_merging_leaves_both_parts_alone(part_of):
    one, other = part_of(0, 20), part_of(20, N)
    before = cu.Measurement.from_state(one.state()), cu.Measurement.from_state(other.state())
    one.merge(other)
    assert_same(one, before[0])
    assert_same(other, before[1])


def test_a_state_is_all_of_it(whole, tmp_path):
    assert_same(cu.Measurement.from_state(whole.state()), whole)
    cu.save(whole.state(), tmp_path / "state.safetensors")
    assert_same(cu.Measurement.from_state(cu.load(tmp_path / "state.safetensors")), whole)


def test_numbers_of_images_are_those_of_the_whole(networks, images):
    part = cu.measure(networks, images[20:], LAYERS, first=20, **OPTIONS)
    assert part.images[0] == 20
    assert part.sample_images.min() >= 20
    assert part.top("a.maps").image.min() >= 20
    values = networks["a"].maps(images)
    best = part.top("a.maps")
    for unit in range(6):
        image, (row, column) = best.image[unit, 0], best.place[unit, 0]
        assert torch.isclose(values[image, unit, row, column], values[20:, unit].max(), atol=1e-6)


OTHERS = [
    ({"top": 1}, "expected the same positions, folds and top"),
    ({"folds": 3}, "expected the same positions, folds and top"),
    ({"positions": "centre"}, "as many units and places"),
    ({"seed": 4}, "of the same size, seed and places"),
    ({"sample": 49}, "of the same size, seed and places"),
    ({"layers": ["row"]}, "the same blocks"),
    ({"pairs": [("a.row", "b.row")]}, "the same blocks"),
    ({"first": 39}, "got number 39 in both; say with `first` where the numbers of a part begin"),
    ({"first": 0}, "got number 0 in both"),
    ({"networks": {"a": Small(1), "b": Small(3)}}, "of the same networks, got other weights of 'b'"),
]


@pytest.mark.parametrize(("change", "message"), OTHERS, ids=[str(change) for change, _ in OTHERS])
def test_parts_that_do_not_fit_are_refused(networks, images, change, message):
    def part(start, *, layers=LAYERS, networks=networks, **options):
        return cu.measure(networks, images[start : start + 40], layers, **{"first": start, **OPTIONS, **options})

    with pytest.raises(ValueError, match="other: ") as refused:
        part(0).merge(part(40, **change))
    assert message in str(refused.value)
    assert len(str(refused.value)) <= 300


@pytest.mark.parametrize("other", [None, "measurement", 3, torch.zeros(2)])
def test_what_is_no_measurement_is_refused(whole, other):
    with pytest.raises(ValueError, match="other: expected a Measurement"):
        whole.merge(other)
    with pytest.raises(ValueError, match="state: expected Measurement.state"):
        cu.Measurement.from_state(other)


# the aligned sample


def sample_of(images, *, size=20, seed=0, batches=1, places=4):
    """An aligned sample of images with these numbers; the row of an image and place is its number and its place."""
    fractions = torch.rand(places, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    made = AlignedSample(size, seed=seed, fractions=fractions)
    for batch in torch.as_tensor(images, dtype=torch.int64).tensor_split(batches):
        wanted = made.candidates(batch)
        assert torch.equal(batch[wanted.of], wanted.images)
        made.update(wanted, {"block": torch.stack([wanted.images, wanted.places], dim=1).double()})
    return made.arranged()


def test_keys_are_the_published_stream():
    """The first outputs of SplitMix64 from 0 and from 1234567, as its authors' code gives them."""
    from convergent_utils.nets.aligned import _STEP, _mixed

    for start, outputs in {0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4], 1234567: [6457827717110365317]}.items():
        state = np.full(1, start, dtype=np.uint64)
        for output in outputs:
            state = state + _STEP
            assert int(_mixed(state)[0]) == output


def test_the_sample_is_of_the_rows_with_the_smallest_keys():
    keys = row_keys(0, torch.arange(100), 4)
    wanted = sorted((int(keys[k, p]), k, p) for k in range(100) for p in range(4))[:20]
    found = sample_of(range(100))
    assert [(int(k), int(i), int(p)) for k, i, p in zip(found.keys, found.images, found.places, strict=True)] == wanted
    assert torch.equal(found.rows["block"], torch.stack([found.images, found.places], dim=1).double())


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 2**62), min_size=1, max_size=60, unique=True),
    batches=st.integers(1, 7), size=st.integers(2, 90), smaller=st.integers(2, 90), seed=st.integers(0, 2**63 - 1),
    at=st.integers(0, 60), second=st.integers(0, 60),
)  # fmt: skip
def test_laws_of_the_sample(numbers, batches, size, smaller, seed, at, second):
    def same(one, other):
        return all(torch.equal(one.state()[k], other.state()[k]) for k in ("keys", "images", "places")) and torch.equal(
            one.rows["block"], other.rows["block"]
        )

    whole = sample_of(numbers, size=size, seed=seed)
    assert len(whole) == min(size, 4 * len(numbers))
    assert same(whole, sample_of(numbers[::-1], size=size, seed=seed, batches=batches)), "order and batches"
    a, b, c = (sample_of(part, size=size, seed=seed) for part in np.split(numbers, sorted([at, second])))
    assert same(a.merge(b).merge(c), whole), "any split"
    assert same(a.merge(b.merge(c)), whole), "associative"
    assert same(b.merge(a), a.merge(b)), "commutes"
    nothing = sample_of([], size=size, seed=seed)
    assert same(whole.merge(nothing), whole), "identity"
    assert same(nothing.merge(whole), whole), "identity"
    few = sample_of(numbers, size=min(smaller, size), seed=seed)
    assert torch.equal(whole.keys[: len(few)], few.keys), "a smaller sample is the beginning of a larger one"


def test_every_row_is_as_likely_as_any_other():
    """Chi-square over images and over places, 400 seeds: five standard deviations."""
    chosen = torch.zeros(50, 4)
    for seed in range(400):
        found = sample_of(range(50), size=20, seed=seed)
        chosen.index_put_((found.images, found.places), torch.ones(20), accumulate=True)
    share = 20 / 200
    for counts, trials in ((chosen.sum(1), 1600), (chosen.sum(0), 20000), (chosen.flatten(), 400)):
        expected = trials * share
        chi = float(((counts - expected) ** 2).sum() / (expected * (1 - share)))
        assert abs(chi - len(counts)) < 5 * (2 * len(counts)) ** 0.5


def test_samples_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="got number 3 in both"):
        sample_of(range(4), size=90).merge(sample_of(range(3, 8), size=90))
    with pytest.raises(ValueError, match="size, seed and places"):
        sample_of(range(4)).merge(sample_of(range(4, 8), seed=1))
    with pytest.raises(ValueError, match="size, seed and places"):
        sample_of(range(4)).merge(sample_of(range(4, 8), places=1))
    state = sample_of(range(4)).state()
    for wrong in ({}, {**state, "keys": state["keys"][:-1]}, {**state, "size": None}, {**state, "rows": {"block": 3}}):
        with pytest.raises(ValueError, match="state: expected"):
            AlignedSample.from_state(wrong)


# runs that were interrupted


class Interrupted(Exception):
    """As when somebody stops a run."""


@pytest.fixture
def at_once(monkeypatch):
    """What is measured so far is kept after every other batch, and batches are small."""
    monkeypatch.setattr(one_pass, "_SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(one_pass, "_TIMES_AS_LONG", 0.0)
    monkeypatch.setitem(OPTIONS, "batch", 5)
    monkeypatch.setattr(one_pass, "_BATCHES", 2)


@pytest.mark.parametrize("stop", [2, 11, 31, 52])
def test_a_run_goes_on_where_it_was_interrupted(networks, images, positions, tmp_path, at_once, monkeypatch, stop):
    store, options = cu.Store(tmp_path), {"positions": positions, **OPTIONS}
    wanted = cu.measure(networks, images, LAYERS, **options)
    seen, real = [], one_pass.Pass._part

    def batch(self, part, readers):
        if sum(map(len, seen)) >= stop:
            raise Interrupted
        real(self, part, readers)
        seen.append(part.numbers)

    monkeypatch.setattr(one_pass.Pass, "_part", batch)
    with pytest.raises(Interrupted):
        cu.measure(networks, images, LAYERS, store=store, **options)
    first, stop = torch.cat(seen) if seen else torch.zeros(0), N + 1
    seen.clear()
    found = cu.measure(networks, images, LAYERS, store=store, **options)
    again = torch.cat(seen)
    assert_same(found, wanted)
    assert len(again) <= N - max(0, len(first) - 10), "no more than two batches are done twice"
    assert [path.name.partition("-")[0] for path in tmp_path.glob("*.safetensors")] == ["measurement"]


KILLED = textwrap.dedent(
    """
    import sys, time, torch
    from pathlib import Path
    import convergent_utils as cu
    from convergent_utils.nets import one_pass

    one_pass._SECONDS_BETWEEN, one_pass._TIMES_AS_LONG, one_pass._BATCHES = 0.0, 0.0, 2
    store, waits = sys.argv[1], sys.argv[2] == "waits"
    torch.manual_seed(0)
    network, images = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU()), torch.randn(60, 6)
    real, done = one_pass.Pass._part, []

    def batch(self, part, readers):
        real(self, part, readers)
        done.append(len(part.numbers))
        if waits and sum(done) == 40:
            Path(store, "waits").touch()
            time.sleep(600)

    one_pass.Pass._part = batch
    found = cu.measure({"net": network}, images, ["1"], store=store, sample=30, top=3, device="cpu", batch=5)
    print(sum(done))
    cu.save(found, Path(store, "found"))
    """
)


def run_killed(store, how):
    return [sys.executable, "-c", KILLED, str(store), how]


def test_a_killed_run_is_gone_on_with(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(run_killed(tmp_path, "waits"), env=environment)
    until = time.monotonic() + 120
    while not (tmp_path / "waits").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "waits").exists()
    done = subprocess.run(run_killed(tmp_path, "goes on"), env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 30, "of 60 images at least 30 were kept"
    assert not list(tmp_path.glob("measuring*")), "parts are gone in the end"
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    subprocess.run(run_killed(fresh, "goes on"), env=environment, check=True, capture_output=True)
    one, other = cu.load(tmp_path / "found"), cu.load(fresh / "found")
    assert torch.equal(one.sample("net.1"), other.sample("net.1"))
    assert torch.equal(one.top("net.1").image, other.top("net.1").image)
    assert torch.allclose(one.pair("net.1", "net.1").cov_ab, other.pair("net.1", "net.1").cov_ab, rtol=1e-12)


@pytest.fixture
def interrupted(networks, images, tmp_path, at_once, monkeypatch):
    """The store and the file of a run that was interrupted."""
    real = one_pass.Pass._part

    def batch(self, part, readers):
        if len(self.seen) == 5:
            raise Interrupted
        real(self, part, readers)

    monkeypatch.setattr(one_pass.Pass, "_part", batch)
    with pytest.raises(Interrupted):
        cu.measure(networks, images, LAYERS, store=tmp_path, **OPTIONS)
    monkeypatch.setattr(one_pass.Pass, "_part", real)
    (part,) = tmp_path.glob("measuring-0-of-1-*.safetensors")
    return tmp_path, part


def nothing_done(part):
    part.write_bytes(part.read_bytes()[:-1])


def replaced(part):
    cu.save({"something": "else"}, part)


def made_a_folder(part):
    part.unlink()
    part.mkdir()


@pytest.mark.filterwarnings("ignore:.*(is damaged|is not kept)")
@pytest.mark.parametrize("spoil", [nothing_done, replaced, made_a_folder])
def test_a_damaged_or_foreign_part_is_not_gone_on_with(networks, images, interrupted, spoil):
    store, part = interrupted
    wanted = cu.measure(networks, images, LAYERS, **OPTIONS)
    spoil(part)
    assert_same(cu.measure(networks, images, LAYERS, store=store, **OPTIONS), wanted)


def test_a_part_of_other_blocks_is_not_gone_on_with(networks, images, interrupted, monkeypatch):
    store, _ = interrupted
    other = cu.measure({"x": networks["a"]}, images[:20], "maps", device="cpu")
    real = cu.Store.find
    monkeypatch.setattr(
        cu.Store,
        "find",
        lambda self, kind, c, **o: other if kind.startswith("measuring-") else real(self, kind, c, **o),
    )
    assert_same(
        cu.measure(networks, images, LAYERS, store=store, **OPTIONS), cu.measure(networks, images, LAYERS, **OPTIONS)
    )


def test_parts_of_other_processes_are_forgotten_too(networks, images, interrupted):
    store, part = interrupted
    others = [part.with_name(part.name.replace("0-of-1", f"{k}-of-3")) for k in range(3)]
    for other in others:
        other.write_bytes(part.read_bytes())
    stranger = part.with_name(part.name[:-20] + "0" * 4 + part.name[-16:])
    stranger.write_bytes(part.read_bytes())
    cu.measure(networks, images, LAYERS, store=store, **OPTIONS)
    assert sorted(path.name for path in store.glob("measuring*")) == [stranger.name]
    part.write_bytes(stranger.read_bytes())  # as of a run that ended after another had made it
    cu.measure(networks, images, LAYERS, store=store, **OPTIONS)
    assert not part.exists()


def test_a_run_does_not_end_because_it_cannot_keep_what_it_has(networks, images, tmp_path, at_once, monkeypatch):
    real = cu.Store.keep

    def full(self, kind, configuration, found):
        if kind.startswith("measuring"):
            raise ValueError("No space left")
        return real(self, kind, configuration, found)

    monkeypatch.setattr(cu.Store, "keep", full)
    with pytest.warns(UserWarning, match="what is measured so far is not kept: No space left"):
        found = cu.measure(networks, images, LAYERS, store=tmp_path, **OPTIONS)
    assert_same(found, cu.measure(networks, images, LAYERS, **OPTIONS))


@pytest.mark.parametrize("layers", [["maps"], ["row"], LAYERS])
@pytest.mark.parametrize("positions", ["all", "mean"])
def test_whatever_the_layers_it_is_kept_as_often(networks, images, tmp_path, monkeypatch, layers, positions):
    kept = []
    monkeypatch.setattr(one_pass, "_SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(one_pass, "_TIMES_AS_LONG", 0.0)
    monkeypatch.setitem(OPTIONS, "batch", 1)
    monkeypatch.setattr(one_pass._Seldom, "__call__", lambda self, make: kept.append(make().n_images))
    cu.measure({"a": networks["a"]}, images.repeat(2, 1, 1, 1), layers, positions=positions, store=tmp_path, **OPTIONS)
    assert kept == [32, 60, 92, 120], "after 32 batches, and after each fold"


def test_a_state_shares_nothing_with_the_measurement(whole):
    state, before = whole.state(), cu.Measurement.from_state(whole.state())
    for part in (state["images"], *state["maps"].values(), *state["active"].values(), state["aligned"]["keys"]):
        part.zero_()
    state["tops"].clear()
    assert_same(whole, before)


def test_parts_of_networks_of_another_precision_are_refused(images):
    def part(dtype, k):
        network = nn.Sequential(nn.Flatten(), nn.Linear(42, 3)).to(dtype)
        return cu.measure({"a": network}, images[:20], "1", first=k, device="cpu")

    for one, other in ((torch.float32, torch.float64), (torch.float64, torch.bfloat16)):
        with pytest.raises(ValueError, match="other: expected a measurement of the same networks"):
            part(one, 0).merge(part(other, 20))
    coarse, fine = sample_of(range(4)), sample_of(range(4, 8))
    coarse.rows = {name: rows.float() for name, rows in coarse.rows.items()}
    with pytest.raises(
        ValueError, match="other: expected an aligned sample of the same blocks, as wide and as precise"
    ):
        coarse.merge(fine)


def spoilt_states(found):
    """Names, and states in which one thing is wrong."""
    for name, change in {
        "images shortened": lambda s: s.update(images=s["images"][1:]),
        "images twice": lambda s: s.update(images=s["images"].clone().fill_(3)),
        "images of another fold": lambda s: s.update(images=s["images"] + 1),
        "a map of NaN": lambda s: s["maps"]["a.maps"].fill_(torch.nan),
        "a sparse map": lambda s: s["maps"].update({"a.maps": s["maps"]["a.maps"].to_sparse()}),
        "a count of 0": lambda s: [s["folds"][0][f"count/{block}"].zero_() for block in found.blocks],
        "places of floats": lambda s: s["aligned"].update(places=s["aligned"]["places"].double()),
        "places beyond all": lambda s: s["aligned"]["places"].add_(2**62),
        "fractions beyond the map": lambda s: s["aligned"]["fractions"].add_(1),
        "no fractions": lambda s: s["aligned"].update(fractions=None),
        "keys twice": lambda s: s["aligned"]["keys"].fill_(5),
        "rows of another width": lambda s: s["aligned"]["rows"].update({"a.row": s["aligned"]["rows"]["a.row"][:, 1:]}),
        "rows of an unknown image": lambda s: s["aligned"]["images"].fill_(N),
        "complex tops": lambda s: s["tops"]["a.row"].update(value=s["tops"]["a.row"]["value"].cfloat()),
        "tops with three coordinates": lambda s: s["tops"]["a.row"].update(
            place=s["tops"]["a.row"]["place"].repeat(1, 1, 2)
        ),
    }.items():
        state = found.state()
        change(state)
        yield name, state


def test_a_state_that_is_not_whole_is_refused(networks, images):
    for name, state in spoilt_states(cu.measure(networks, images, LAYERS, **OPTIONS)):
        with pytest.raises(ValueError, match="^state: ") as refused:
            cu.Measurement.from_state(state)
        assert len(str(refused.value)) <= 300, name


def test_merged_folds_are_those_of_moments(whole, part_of):
    merged = part_of(0, 30).merge(part_of(30, N))
    for mine, wanted in zip(merged.folds, whole.folds, strict=True):
        one, other = mine.state(), wanted.state()
        assert all(torch.allclose(one[key], other[key].to(one[key].dtype), atol=1e-5) for key in other)
    empty = replace(merged, folds=tuple(cu.Moments(merged.blocks, pairs=fold.pairs) for fold in merged.folds))
    assert all(
        torch.equal(value, whole.folds[0].state()[key])
        for key, value in empty.folds[0].merge(whole.folds[0]).state().items()
    )


# memory


class Live(TorchDispatchMode):
    """Bytes of all tensors that are alive, and the most there ever were."""

    def __init__(self):
        super().__init__()
        self.bytes = self.most = 0
        self.known = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Note what the operation made."""
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                if storage not in self.known:
                    size = self.known[storage] = storage.nbytes()
                    self.bytes += size
                    self.most = max(self.most, self.bytes)
                    weakref.finalize(storage, self.freed, size)
        return made

    def freed(self, size):
        """A tensor is gone."""
        self.bytes -= size


def test_wide_networks_need_little_more_than_their_result(monkeypatch):
    """At a quarter of the width, and a sixteenth of what is had at once, of layers of 4,096 units."""
    for module, name in (
        (products, "_MOST_AT_ONCE"), (products, "_CHUNK_ENTRIES"), (one_pass, "_ENTRIES"), (blocks, "_CANDIDATES"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, getattr(module, name) // 16)
    networks = {name: nn.Linear(16, 1024) for name in "ab"}
    images = torch.randn(2048, 16)
    with Live() as live:
        found = cu.measure(
            {name: nn.Sequential(net) for name, net in networks.items()}, images, "0", sample=16, device="cpu"
        )
    held = 8 * sum(value.numel() for fold in found.folds for value in fold.state().values())
    assert held > 48 * 2**20
    assert live.most < 1.6 * held
    assert live.most > held, "all of it is seen"


def test_the_places_of_the_sample_cover_the_map(networks, images):
    found = cu.measure(networks, images, LAYERS, sample=10_000, top=2, device="cpu", seed=7)
    assert len(found.sample_images) == 64 * N, "all rows, where fewer are there than were asked for"
    places = found.sample_places.unique(dim=0)
    cells = (places * 8).long()
    assert len(places) == len(cells.unique(dim=0)) == 64, "one in each cell of a grid"
    whole = found.pair("a.maps", "b.maps")
    sampled = cu.pair_moments(found.sample("a.maps"), found.sample("b.maps"))
    assert torch.allclose(sampled.mean_a, whole.mean_a, atol=0.05)
    other = cu.measure(networks, images, LAYERS, sample=10_000, top=2, device="cpu", seed=8)
    assert not torch.equal(other.sample_places.unique(dim=0), places)
