"""Whatever way inputs come, the measurement is that of a tensor; this file is also what two processes run."""

import itertools
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, TensorDataset

import convergent_utils as cu
from convergent_utils.nets import one_pass
from convergent_utils.nets.activations import draw_places
from convergent_utils.nets.untrained import reinitialised

N = 60
LAYERS = ["maps", "row"]
OPTIONS = {"sample": 50, "top": 3, "device": "cpu", "seed": 3}


class Small(nn.Module):
    """A map of 5 x 4 places and a row."""

    def __init__(self, seed, channels=1):
        super().__init__()
        torch.manual_seed(seed)
        self.maps = nn.Sequential(nn.Conv2d(channels, 6, 3), nn.ReLU())
        self.row = nn.Linear(120, 5)

    def forward(self, x):
        return self.row(self.maps(x).flatten(1))


class Other(nn.Module):
    """The same under other names, and from other inputs."""

    def __init__(self, seed):
        super().__init__()
        inner = Small(seed, channels=2)
        self.body, self.head = nn.ModuleDict({"first": inner.maps}), inner.row

    def forward(self, one, two):
        return self.head(self.body["first"](torch.cat((one, two), dim=1)).flatten(1))


@pytest.fixture(scope="module")
def networks():
    return {"a": Small(1), "b": Small(2)}


@pytest.fixture(scope="module")
def pictures():
    return torch.randn(N, 1, 7, 6, generator=torch.Generator().manual_seed(0))


def assert_same(found, wanted, pairs=None, *, close=1e-6):
    """All that is measured: samples and strongest stimuli are of the same inputs, numbers are equal to rounding."""
    assert torch.equal(found.images, wanted.images)
    assert (found.positions, found.blocks) == (wanted.positions, wanted.blocks)
    for name in ("keys", "images", "places"):
        assert torch.equal(getattr(found.aligned, name), getattr(wanted.aligned, name))
    assert found.maps.keys() == wanted.maps.keys()
    assert found.counted.keys() == wanted.counted.keys()
    for block in wanted.blocks:
        assert torch.allclose(found.samples[block], wanted.samples[block], atol=close)
        for part in ("image", "place"):
            assert torch.equal(getattr(found.top(block), part), getattr(wanted.top(block), part))
        assert torch.allclose(found.top(block).value, wanted.top(block).value, atol=close)
        assert torch.allclose(found.active_share(block), wanted.active_share(block), atol=1e-12)
        if block in wanted.maps:
            assert torch.allclose(found.mean_map(block), wanted.mean_map(block), rtol=0, atol=close)
        if block in wanted.counted:
            assert torch.equal(found.counted[block], wanted.counted[block])
    for pair in pairs or wanted.folds[0].pairs:
        for fold in (None, 0, 1):
            one, other = (measured.pair(*pair, fold=fold) for measured in (found, wanted))
            assert one.n_samples == other.n_samples
            for name in ("cov_ab", "cov_aa", "mean_a", "mean_b"):
                assert torch.allclose(getattr(one, name), getattr(other, name), rtol=0, atol=close)


# every way


class Unknown(IterableDataset):
    """Of a length that nobody knows."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def labelled(pictures):
    return TensorDataset(pictures, torch.arange(len(pictures)))


def by_keyword(examples):
    return {"x": torch.stack([picture for picture, _ in examples])}


def in_a_file(pictures, folder):
    np.save(folder / "pictures.npy", pictures.numpy())
    return np.load(folder / "pictures.npy", mmap_mode="r")


WAYS = {
    "an array": lambda x, _: x.numpy(),
    "an array of doubles": lambda x, _: x.double().numpy(),
    "an array in a file": in_a_file,
    "a dict of tensors": lambda x, _: {"x": x},
    "a dict of arrays": lambda x, _: {"x": x.numpy()},
    "a data set of torch": lambda x, _: labelled(x),
    "a loader of tuples": lambda x, _: DataLoader(labelled(x), batch_size=7),
    "a loader of one batch": lambda x, _: DataLoader(labelled(x), batch_size=100),
    "a loader of single inputs": lambda x, _: DataLoader(labelled(x), batch_size=1),
    "a loader of dicts": lambda x, _: DataLoader(labelled(x), batch_size=16, collate_fn=by_keyword),
    "a loader with a sampler of batches": lambda x, _: DataLoader(
        labelled(x), batch_sampler=BatchSampler(SequentialSampler(x), 9, drop_last=False)
    ),
    "a loader of whole batches": lambda x, _: DataLoader(x.split(25), batch_size=None),
    "a loader of unknown length": lambda x, _: DataLoader(Unknown(x), batch_size=8),
    "a list": lambda x, _: list(x.split(11)),
    "a list of arrays and labels": lambda x, _: [(part.numpy(), np.arange(len(part))) for part in x.split(11)],
    "a generator": lambda x, _: (part for part in x.split(13)),
    "a generator of dicts in tuples": lambda x, _: (({"x": part}, 3) for part in x.split(13)),
    "by network": lambda x, _: {"a": x, "b": x.numpy()},
    "by network in step": lambda x, _: {"b": DataLoader(labelled(x), batch_size=7), "a": list(x.split(7))},
    "by network, held and not": lambda x, _: {"b": DataLoader(labelled(x), batch_size=10), "a": x},
    "by network one generator": lambda x, _: dict.fromkeys("ab", (part for part in x.split(13))),
}


@pytest.mark.parametrize("positions", ["all", "mean", 3])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_what_a_tensor_gives(networks, pictures, tmp_path, way, positions):
    options = {"positions": positions, **OPTIONS}
    wanted = cu.measure(networks, pictures, LAYERS, **options)
    given = WAYS[way](pictures, tmp_path)
    assert_same(cu.measure(networks, given, LAYERS, batch=10, **options), wanted)


@pytest.mark.parametrize("positions", ["all", 3])
def test_pictures_of_bytes_come_in_every_way(positions):
    data = cu.load_dataset("fashion-mnist", split="test", limit=40)
    nets = {f"net{k}": cu.build_network("alexnet-narrow", seed=k) for k in (1, 2)}
    wanted = cu.measure(nets, cu.normalise(data.images), ["conv1", "fc6"], positions=positions, **OPTIONS)
    given = (data, data.images, data.images.numpy(), DataLoader(TensorDataset(data.images, data.labels), batch_size=9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each in given:
            assert_same(cu.measure(nets, each, ["conv1", "fc6"], positions=positions, **OPTIONS), wanted)


def test_a_shuffled_loader_that_two_networks_share_is_read_once(networks, pictures):
    torch.manual_seed(0)
    shuffled = DataLoader(labelled(pictures), batch_size=8, shuffle=True)
    twins = {"a": networks["a"], "b": networks["a"]}
    found = cu.measure(twins, {"a": shuffled, "b": shuffled}, LAYERS, **OPTIONS)
    assert torch.equal(found.sample("a.maps"), found.sample("b.maps"))


def test_a_loader_that_shuffles_is_warned_of(networks, pictures):
    """Numbers of inputs are those of one pass: what excites a unit is not found again by them."""
    with pytest.warns(UserWarning, match="^inputs: this loader comes in another order each time.*shuffle=False"):
        cu.measure(networks, DataLoader(labelled(pictures), batch_size=8, shuffle=True), LAYERS, **OPTIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cu.measure(networks, DataLoader(labelled(pictures), batch_size=8), LAYERS, **OPTIONS)


def test_a_loader_is_begun_once(networks, pictures):
    class Counts(IterableDataset):
        begun = 0

        def __iter__(self):
            self.begun += 1
            return iter(pictures)

    data = Counts()
    cu.measure(networks, DataLoader(data, batch_size=8), LAYERS, **OPTIONS)
    assert data.begun == 1
    state = torch.get_rng_state()
    cu.measure(networks, pictures, LAYERS, **OPTIONS)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_number_of_inputs_is_known_or_asked_for_in_the_end(networks, pictures):
    with pytest.raises(ValueError, match="^inputs: expected batches, got none"):
        cu.measure(networks, iter([]), LAYERS, **OPTIONS)
    with pytest.raises(ValueError, match="^inputs: expected at least 2 per fold, 4, got 3"):
        cu.measure(networks, iter([pictures[:3]]), LAYERS, **{**OPTIONS, "top": 1})
    with pytest.raises(ValueError, match="^top: expected at most as many as the 6 inputs"):
        cu.measure(networks, iter([pictures[:6]]), LAYERS, **{**OPTIONS, "top": 7})
    with pytest.raises(ValueError, match="^inputs: those of 'b' end before"):
        cu.measure(networks, {"a": iter(pictures.split(7)), "b": iter(pictures[:49].split(7))}, LAYERS, **OPTIONS)
    with pytest.raises(ValueError, match="^inputs: expected as many in each batch of all networks"):
        cu.measure(networks, {"a": iter(pictures.split(7)), "b": iter(pictures.split(8))}, LAYERS, **OPTIONS)
    with pytest.raises(ValueError, match="^inputs: expected as many of each network, in step, got 50 of one"):
        cu.measure(networks, {"a": pictures, "b": pictures[:50]}, LAYERS, **OPTIONS)


# what prepares them, and what layers are called


PREPARES = {
    "one": lambda x: 2 * x,
    "with labels": lambda x, labels: 2 * x + 0 * labels[:, None, None, None],
    "to a dict": lambda x: {"x": 2 * x},
    "to a tuple": lambda x: (2 * x,),
    "to an array": lambda x: 2 * x.numpy(),
    "with whatever": lambda *batch: 2 * batch[0],
    "with an option": lambda x, factor=2: factor * x,
}


@pytest.mark.parametrize("how", PREPARES)
def test_inputs_are_prepared(networks, pictures, how):
    wanted = cu.measure(networks, 2 * pictures, LAYERS, **OPTIONS)
    loader = DataLoader(labelled(pictures), batch_size=9)
    assert_same(cu.measure(networks, loader, LAYERS, prepare=PREPARES[how], **OPTIONS), wanted)


def test_inputs_are_prepared_for_each_network(networks, pictures):
    own = {"a": 2 * pictures, "b": pictures}
    wanted = cu.measure(networks, own, LAYERS, **OPTIONS)
    assert_same(cu.measure(networks, pictures, LAYERS, prepare={"a": lambda x: 2 * x}, **OPTIONS), wanted)


@pytest.fixture(scope="module")
def unlike(networks):
    return {"a": networks["a"], "other": Other(4)}


def test_layers_are_of_other_names_elsewhere(unlike, pictures):
    prepare = {"other": lambda x: (x, -x)}
    by_name = cu.measure(unlike, pictures, {"a": LAYERS, "other": ["body.first", "head"]}, prepare=prepare, **OPTIONS)
    assert list(by_name.blocks) == ["a.maps", "a.row", "other.body.first", "other.head"]
    assert not any(a.startswith("a.") and b.startswith("other.") for a, b in by_name.folds[0].pairs)
    names = {"a": {"early": "maps", "late": "row"}, "other": {"early": "body.first", "late": "head"}}
    found = cu.measure(unlike, pictures, names, prepare=prepare, **OPTIONS)
    assert set(found.blocks) == {"a.early", "a.late", "other.early", "other.late"}
    x, other = pictures, unlike["other"]
    rows = [
        unlike["a"].maps(x).movedim(1, 3).flatten(0, 2),
        other.body["first"](torch.cat((x, -x), 1)).movedim(1, 3).flatten(0, 2),
    ]
    direct = cu.pair_moments(*rows)
    assert torch.allclose(found.pair("a.early", "other.early").cov_ab, direct.cov_ab, atol=1e-6)
    mixed = cu.measure(
        unlike, pictures, {"a": "maps", "other": "body.*"}, prepare=prepare,
        pairs=[("a.maps", "other.body.first")], **OPTIONS,
    )  # fmt: skip
    assert torch.allclose(mixed.pair("a.maps", "other.body.first").cov_ab, direct.cov_ab, atol=1e-6)


PATTERNS = {
    "maps*": ["maps"],
    "maps.?": ["maps.0", "maps.1"],
    "*": ["maps", "row"],
    "**": ["maps.0", "maps.1", "maps", "row"],
    "**.1": ["maps.1"],
    "[mr]*": ["maps", "row"],
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_name_the_layers_that_are_called(networks, pictures, pattern):
    found = cu.measure(networks, pictures, pattern, **OPTIONS)
    assert list(found.tops) == [f"{name}.{layer}" for name in "ab" for layer in PATTERNS[pattern]]


def test_axes_and_outputs_by_layer(pictures):
    class Turned(nn.Module):
        def forward(self, x):
            return {"said": "no tensor", "turned": x.permute(0, 2, 3, 1), "plain": x}

    class Net(Small):
        def __init__(self, seed):
            super().__init__(seed)
            self.turned, self.plain = Turned(), nn.Identity()

        def forward(self, x):
            self.turned(self.plain(self.maps(x)))
            return super().forward(x)

    nets = {"a": Net(1), "b": Net(2)}
    options = {"axes": {"turned": "nhwc"}, "output": {"turned": lambda found: found["turned"]}}
    found = cu.measure(nets, pictures, ["plain", "turned"], **options, **OPTIONS)
    assert torch.equal(found.sample("a.plain"), found.sample("a.turned"))
    assert torch.equal(found.pair("a.plain", "b.plain").cov_ab, found.pair("a.turned", "b.turned").cov_ab)
    names = {name: {"early": "turned"} for name in nets}
    options = {"axes": {"early": "nhwc"}, "output": {"early": lambda found: found["turned"]}}
    by_common = cu.measure(nets, pictures, names, **options, **OPTIONS)
    assert torch.equal(by_common.sample("a.early"), found.sample("a.turned"))


# masks


class Reader(nn.Module):
    """A small transformer without positions: what it makes of a sequence is the same whatever is around it."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.query, self.block = nn.Embedding(20, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens, attention_mask):
        x = self.embed(tokens)
        score = self.query(x) @ x.mT + torch.where(attention_mask[:, None] > 0, 0.0, -1e9)
        x = x + self.block(score.softmax(-1) @ x).relu()
        kept = attention_mask[:, :, None].to(x.dtype)
        return self.head((x * kept).sum(1) / kept.sum(1).clamp(min=1))


TOKENS = ["embed", "block", "head"]
LENGTHS = [3, 1, 7, 5, 2, 6, 7, 4, 1, 5, 3, 6, 2]


@pytest.fixture(scope="module")
def readers():
    return {"a": Reader(1), "b": Reader(2)}


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(1)
    return [torch.randperm(19, generator=generator)[:length] for length in LENGTHS]


def padded(texts, side="right", to=None):
    most = to or max(map(len, texts))
    tokens, mask = torch.full((len(texts), most), 19), torch.zeros(len(texts), most, dtype=torch.int64)
    for k, text in enumerate(texts):
        place = slice(0, len(text)) if side == "right" else slice(most - len(text), most)
        tokens[k, place], mask[k, place] = text, 1
    return {"tokens": tokens, "attention_mask": mask}


def batches(texts, size, side="right"):
    """Each as long as its longest."""
    return [padded(texts[k : k + size], side) for k in range(0, len(texts), size)]


def alone(networks, texts, layer):
    """Of each network, of each text what a layer gives when the network reads it alone, as (tokens, units)."""
    found = {}
    for name, network in networks.items():
        kept = []
        hook = network.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, given, kept=kept: kept.append(given[0].reshape(-1, given.shape[-1]).double())
        )
        with torch.no_grad():
            for text in texts:
                network(**padded([text]))
        hook.remove()
        found[name] = kept
    return found


def picked_rows(rows, positions, numbers, seed=3):
    """Of each text the rows at these positions."""
    if positions == "all":
        return rows
    if positions == "mean":
        return [each.mean(0, keepdim=True) for each in rows]
    if positions in ("first", "last"):
        return [each[:1] if positions == "first" else each[-1:] for each in rows]
    drawn = draw_places(np.random.default_rng(seed), max(numbers) + 1, positions)[numbers, :, 0]
    return [each[(share * len(each)).long()] for each, share in zip(rows, drawn, strict=True)]


def assert_is(found, networks, texts, positions, numbers, layers=TOKENS):
    """What was measured is what each text alone gives; of positions 'all' only layers of tokens meet."""
    for layer in layers:
        rows = {name: picked_rows(r, positions, numbers) for name, r in alone(networks, texts, layer).items()}
        for fold in (None, 0, 1):
            chosen = [k for k, number in enumerate(numbers) if fold is None or number % 2 == fold]
            joined = [torch.cat([rows[name][k] for k in chosen]) for name in "ab"]
            pair, direct = found.pair(f"a.{layer}", f"b.{layer}", fold=fold), cu.pair_moments(*joined)
            assert pair.n_samples == direct.n_samples == len(joined[0])
            for name in ("cov_ab", "cov_aa", "mean_a", "mean_b"):
                assert torch.allclose(getattr(pair, name), getattr(direct, name), atol=1e-6)
        for name in "ab":
            assert_block(found, f"{name}.{layer}", rows[name], alone(networks, texts, layer)[name], positions, numbers)


def assert_block(found, block, rows, whole, positions, numbers):
    joined, of = torch.cat(rows), dict(zip(numbers, whole, strict=True))
    assert torch.allclose(found.active_share(block), (joined != 0).double().mean(0))
    top = found.top(block)
    best = torch.stack([each.amax(0) for each in rows]).sort(0, descending=True).values[:3].T
    assert torch.allclose(top.value.double(), best, atol=1e-6)
    if positions != "mean":
        for unit, rank in itertools.product(range(joined.shape[1]), range(3)):
            there = of[int(top.image[unit, rank])][int(top.place[unit, rank, 0]), unit]
            assert torch.isclose(there, top.value[unit, rank].double(), atol=1e-6), "the token of that number"
    if positions == "all":
        for place in range(max(map(len, rows))):
            at = torch.stack([each[place] for each in rows if len(each) > place])
            assert torch.allclose(found.mean_map(block)[place, 0], at.mean(0), atol=1e-6)
    for row in range(len(found.sample_images)):
        text, share = of[int(found.sample_images[row])], float(found.sample_places[row, 0])
        wanted = text.mean(0) if positions == "mean" else text[int(share * len(text))]
        assert torch.allclose(found.sample(block)[row].double(), wanted, atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("positions", ["all", "mean", "first", "last", 3])
def test_padded_texts_are_as_each_alone(readers, texts, positions, side):
    wanted = cu.measure(readers, padded(texts, side), TOKENS, mask="attention_mask", positions=positions, **OPTIONS)
    assert_is(wanted, readers, texts, positions, list(range(len(texts))))
    for size in (1, 5, len(texts)):
        found = cu.measure(
            readers, batches(texts, size, side), TOKENS, mask="attention_mask", positions=positions, **OPTIONS
        )
        assert_same(found, wanted)


def test_masks_come_in_several_ways(readers, texts):
    wanted = cu.measure(readers, padded(texts), TOKENS, mask="attention_mask", **OPTIONS)
    plain = padded(texts)
    several = {"prepare": lambda tokens, attention_mask: {"tokens": tokens, "attention_mask": attention_mask}}
    made = {"prepare": lambda batch: {**batch, "attention_mask": (batch["tokens"] != 19).long()}}
    no_padding = {"mask": lambda batch: batch["tokens"] != 19}
    ways = [
        ({"tokens": plain["tokens"]}, {**no_padding, **made}),
        ({"tokens": plain["tokens"]}, {"mask": "attention_mask", **made}),
        (DataLoader(TensorDataset(*plain.values()), batch_size=4), {"mask": "attention_mask", **several}),
        (plain, {"mask": lambda batch: batch["attention_mask"].numpy()}),
        (plain, {"mask": {"a": "attention_mask", "b": lambda batch: batch["attention_mask"] > 0}}),
    ]
    for given, options in ways:
        assert_same(cu.measure(readers, given, TOKENS, **options, **OPTIONS), wanted)


def test_a_mask_of_one_network_alone(readers, texts):
    given = padded(texts)
    found = cu.measure(readers, given, "block", mask={"a": "attention_mask"}, positions="mean", **OPTIONS)
    rows = [each.mean(0) for each in alone(readers, texts, "block")["a"]]
    assert torch.allclose(found.mean_activation("a.block"), torch.stack(rows).mean(0), atol=1e-6)
    assert found.pair("a.block", "b.block").n_samples == len(texts)
    with pytest.raises(ValueError, match="^mask: 'a.block' and 'b.block' have unlike rows that count"):
        cu.measure(readers, given, "block", mask={"a": "attention_mask"}, **OPTIONS)


@pytest.mark.parametrize("positions", ["all", "mean", 3])
def test_inputs_of_which_nothing_counts_are_left_out(readers, texts, positions):
    several = [*texts[:2], texts[0][:0], *texts[2:], texts[0][:0]]
    numbers = [k for k, text in enumerate(several) if len(text)]
    for given in (padded(several), batches(several, 3)):
        found = cu.measure(readers, given, TOKENS, mask="attention_mask", positions=positions, **OPTIONS)
        assert found.images.tolist() == numbers
        assert_is(found, readers, texts, positions, numbers)
    nothing = padded([text[:0] for text in several], to=4)
    with pytest.raises(ValueError, match="^mask: expected inputs with rows that count, got none"):
        cu.measure(readers, nothing, TOKENS, mask="attention_mask", positions=positions, **OPTIONS)


def test_grids_meet_where_the_same_places_count(networks, pictures):
    left = torch.zeros(N, 5, 4).index_fill_(2, torch.tensor([0, 1]), 1)
    ones, right = torch.ones(N, 5, 4), 1 - left

    def given(mask):
        return {"x": pictures, "mask": mask}

    options = {"prepare": lambda batch: batch["x"], **OPTIONS}
    twins = {"a": networks["a"], "b": networks["a"]}
    for masks in ({"a": given(left), "b": given(right)}, {"a": given(ones), "b": given(left)}):
        with pytest.raises(ValueError, match="^mask: 'a.maps' and 'b.maps' have unlike rows that count; give both"):
            cu.measure(twins, masks, "maps", mask="mask", **options)
    with pytest.raises(ValueError, match="^mask: 'a.maps' and 'b.maps' have unlike rows that count; give both"):
        cu.measure(twins, given(ones), "maps", mask={"a": "mask"}, **options)
    for positions in ("centre", 3):
        with pytest.raises(ValueError, match="^positions: of a grid of which not all places count there are 'all'"):
            cu.measure(twins, given(ones), "maps", mask="mask", positions=positions, **options)
    found = cu.measure(twins, given(left), "maps", mask="mask", **options)
    assert torch.equal(found.sample("a.maps"), found.sample("b.maps"))


def test_whole_inputs_can_be_left_out(networks, pictures):
    kept = torch.arange(N) % 3 != 1
    mask = lambda batch: (batch["x"][:, None] == pictures[kept]).flatten(2).all(2).any(1)  # noqa: E731
    found = cu.measure(networks, {"x": pictures}, LAYERS, mask=mask, **OPTIONS)
    assert torch.equal(found.images, kept.nonzero()[:, 0])
    rows = [net.maps(pictures[kept]).movedim(1, 3).flatten(0, 2) for net in networks.values()]
    assert torch.allclose(found.pair("a.maps", "b.maps").cov_ab, cu.pair_moments(*rows).cov_ab, atol=1e-6)


@pytest.mark.parametrize("positions", ["all", "mean"])
def test_grids_of_which_some_places_count(networks, pictures, positions):
    inside = torch.rand(N, 5, 4, generator=torch.Generator().manual_seed(2)) < 0.4
    inside[7] = False
    given = [{"x": x, "inside": m} for x, m in DataLoader(TensorDataset(pictures, inside), batch_size=8)]
    options = {"prepare": lambda batch: batch["x"], "mask": "inside", "positions": positions, **OPTIONS}
    found = cu.measure(networks, given, "maps", **options)
    maps = [net.maps(pictures).detach().movedim(1, 3).double() for net in networks.values()]
    if positions == "all":
        rows = [each[inside] for each in maps]
        count = inside.sum(0)
        assert torch.equal(found.counted["a.maps"], count)
        mean = (maps[0] * inside[..., None]).sum(0) / count[..., None]
        assert torch.allclose(found.mean_map("a.maps"), mean, atol=1e-6)
        image, place = found.top("a.maps").image, found.top("a.maps").place
        assert inside[image, place[..., 0], place[..., 1]].all(), "the strongest are among those that count"
    else:
        chosen = [k for k in range(N) if k != 7]
        rows = [torch.stack([each[k][inside[k]].mean(0) for k in chosen]) for each in maps]
    direct = cu.pair_moments(*rows)
    pair = found.pair("a.maps", "b.maps")
    assert pair.n_samples == direct.n_samples
    assert torch.allclose(pair.cov_ab, direct.cov_ab, atol=1e-6)
    assert torch.allclose(found.active_share("a.maps"), (rows[0] != 0).double().mean(0))
    assert found.images.tolist() == [k for k in range(N) if k != 7]


def test_the_layout_of_masked_tokens_is_the_mean_over_all_shuffles(readers, texts):
    few = [texts[0], texts[1], texts[4], texts[10]]  # of 3, 1, 2 and 3 tokens
    found = cu.measure(readers, padded(few), "block", mask="attention_mask", **{**OPTIONS, "top": 1})
    rows = alone(readers, few, "block")
    at = [[k for k, text in enumerate(few) if len(text) > place] for place in range(3)]
    one = torch.cat([torch.stack([rows["a"][k][place] for k in there]) for place, there in enumerate(at)])
    total, shuffles = 0, list(itertools.product(*(itertools.permutations(there) for there in at)))
    for orders in shuffles:
        other = torch.cat([torch.stack([rows["b"][k][place] for k in order]) for place, order in enumerate(orders)])
        total = total + cu.pair_moments(one, other).cov_ab
    layout = found.layout("a.block", "b.block")
    assert torch.allclose(total / len(shuffles), layout.cov_ab, atol=1e-7)
    content = found.content("a.block", "b.block")
    assert torch.allclose(content.cov_ab + layout.cov_ab, found.pair("a.block", "b.block").cov_ab)


@pytest.mark.parametrize("positions", ["all", "mean", "last", 2])
@pytest.mark.parametrize("cut", [4, 7])
def test_masked_parts_merge_to_the_whole(readers, texts, positions, cut):
    options = {"mask": "attention_mask", "positions": positions, **OPTIONS}
    wanted = cu.measure(readers, padded(texts), TOKENS, **options)
    parts = [
        cu.measure(readers, padded(texts[:cut]), TOKENS, **options),
        cu.measure(readers, batches(texts[cut:], 4), TOKENS, first=cut, **options),
    ]
    assert_same(parts[0].merge(parts[1]), wanted)
    assert_same(parts[1].merge(parts[0]), wanted)
    assert_same(cu.Measurement.from_state(wanted.state()), wanted)


# whole maps


def doubles(networks):
    return {name: Small(k + 1).double() for k, name in enumerate(networks)}


@pytest.fixture(scope="module")
def many():
    return drawn()


def by_hand(networks, many):
    rows = {f"{name}.maps": net.maps(many).detach().movedim(1, 3).flatten(1) for name, net in networks.items()}
    rows |= {f"{name}.row": net(many).detach() for name, net in networks.items()}
    pairs = [("a.maps", "b.maps"), ("a.row", "b.row")]
    return cu.StreamingCKA({name: each.shape[1] for name, each in rows.items()}, pairs).update(rows)


@pytest.mark.parametrize("batch", [1, 7, 256, 600])
def test_whole_maps_are_compared_whatever_the_batches(networks, many, batch):
    nets, most = doubles(networks), 600 if batch > 1 else 40
    given = many[:most]
    wanted = by_hand(nets, given).cka()
    for inputs in (given, list(given.split(batch))):
        found = cu.measure(nets, inputs, LAYERS, flattened=True, batch=batch, **OPTIONS).flattened
        assert found.n_samples == most
        assert found.cka().keys() >= wanted.keys()
        for pair, value in wanted.items():
            assert torch.allclose(found.cka()[pair], value, rtol=0, atol=1e-10)
    named = cu.measure(nets, given, LAYERS, flattened="row", **OPTIONS).flattened
    assert set(named.blocks) == {"a.row", "b.row"}
    assert cu.measure(nets, given, LAYERS, **OPTIONS).flattened is None


def test_whole_maps_of_as_many_tokens_as_inputs(generator):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Linear(4, 3)

        def forward(self, x):
            return self.block(x)

    rows, nets = torch.randn(8, 8, 4, generator=generator), {"a": Tokens(), "b": Tokens()}
    found = cu.measure(nets, rows, "block", flattened=True, **OPTIONS).flattened
    assert found.n_samples == 8
    direct = cu.debiased_cka(*(net(rows).detach().flatten(1) for net in nets.values()))
    assert torch.allclose(found.cka("a.block", "b.block"), direct, atol=1e-5)


def test_whole_maps_have_no_padding(readers, texts):
    alike = [text[:3] for text in texts if len(text) > 2]
    found = cu.measure(readers, padded(alike), TOKENS, mask="attention_mask", flattened=True, **OPTIONS)
    assert found.flattened.n_samples == len(alike)
    for given in (padded(texts), batches(texts, 5), batches(texts, 1)):
        with pytest.raises(ValueError, match="^flattened: 'a.embed' has maps of unlike sizes, or places that do not"):
            cu.measure(readers, given, TOKENS, mask="attention_mask", flattened=True, **OPTIONS)
        assert cu.measure(readers, given, TOKENS, mask="attention_mask", flattened="head", **OPTIONS).flattened


@pytest.mark.parametrize("n", [12, 1])
def test_large_maps_are_left_out_unless_they_are_named(n):
    wide = {name: nn.Sequential(nn.Linear(2, 100_001), nn.Linear(100_001, 2)) for name in "ab"}
    rows = list(torch.randn(12, 2, generator=torch.Generator().manual_seed(0)).split(n))
    with pytest.warns(UserWarning, match=r"^flattened: \['a.0', 'b.0'\] have over 100,000 numbers an input"):
        found = called_as_flattened(wide, rows, True)
    assert found == ("a.1", "b.1")
    assert called_as_flattened(wide, rows, ["0"]) == ("a.0", "b.0")


def called_as_flattened(networks, inputs, flattened):
    from convergent_utils.nets.reading import read

    return read(networks, inputs, ["0", "1"], flattened=flattened, top=1).options.flattened


# untrained copies, progress, precision, what is said


def test_untrained_copies_are_measured_beside(networks, pictures):
    before = torch.get_rng_state()
    weights = {name: [each.clone() for each in net.parameters()] for name, net in networks.items()}
    found = cu.measure(networks, pictures, "maps", untrained=True, **OPTIONS)
    assert torch.equal(torch.get_rng_state(), before)
    assert set(found.blocks) == {"a.maps", "b.maps", "a-untrained.maps", "b-untrained.maps"}
    assert ("a-untrained.maps", "b-untrained.maps") in found.folds[0].pairs
    assert ("a-untrained.maps", "b.maps") not in found.folds[0].pairs
    assert len(set(found.networks.values())) == 4, "each is drawn anew"
    for name, net in networks.items():
        assert all(torch.equal(*both) for both in zip(net.parameters(), weights[name], strict=True))
    again = cu.measure(networks, pictures, "maps", untrained=True, **OPTIONS)
    assert again.networks == found.networks
    assert cu.measure(networks, pictures, "maps", untrained=True, **{**OPTIONS, "seed": 4}).networks != found.networks
    given = cu.measure({**networks, "a-untrained": networks["b"]}, pictures, "maps", untrained=True, **OPTIONS)
    assert given.networks["a-untrained"] == given.networks["b"]
    assert torch.equal(given.pair("a.maps", "b.maps").cov_ab, found.pair("a.maps", "b.maps").cov_ab)


def test_untrained_copies_get_what_their_networks_get(unlike, pictures):
    whole = [{"one": x, "two": -x} for x in pictures.split(9)]
    wanted = cu.measure({"other": unlike["other"]}, whole, "head", untrained=True, **OPTIONS)
    found = cu.measure(
        unlike, {"a": (x for x in pictures.split(9)), "other": (x for x in pictures.split(9))},
        {"a": {"head": "row"}, "other": "hea?"}, prepare={"other": lambda x: (x, -x)}, untrained=True, **OPTIONS,
    )  # fmt: skip
    assert set(found.blocks) == {f"{name}.head" for name in ("a", "other", "a-untrained", "other-untrained")}
    assert torch.equal(found.sample("other.head"), wanted.sample("other.head"))


def test_what_cannot_be_drawn_anew_is_named(pictures):
    class Scaled(Small):
        def __init__(self):
            super().__init__(0)
            self.scale = nn.Module()
            self.scale.factor = nn.Parameter(torch.ones(1))

    with pytest.raises(ValueError, match="^untrained: network 'a': 'scale', a Module, has weights and no reset_par"):
        cu.measure({"a": Scaled()}, pictures, "maps", untrained=True, **OPTIONS)


def test_torchs_own_modules_are_drawn_anew(generator):
    network = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2)
    with torch.no_grad():
        for each in network.parameters():
            each.fill_(0.5)
    attention = reinitialised(network).layers[0].self_attn
    assert not (attention.in_proj_weight == 0.5).any()
    assert attention.in_proj_weight.abs().max() <= (6 / 16) ** 0.5
    assert (attention.out_proj.bias == 0).all(), "as where it is made"
    rows = torch.randn(12, 5, 4, generator=generator)
    found = cu.measure({"a": network}, rows, "layers.1", untrained=True, **OPTIONS)
    assert set(found.blocks) == {"a.layers.1", "a-untrained.layers.1"}


@pytest.mark.parametrize("flattened", [False, True])
def test_progress_rises_to_the_total(networks, pictures, flattened):
    loader = DataLoader(labelled(pictures), batch_size=8)
    for given, total in ((pictures, N), (loader, N), (list(pictures.split(7)), N), (iter(pictures.split(7)), None)):
        told = []
        options = {"progress": lambda *now, told=told: told.append(now), "flattened": flattened, **OPTIONS}
        cu.measure(networks, given, LAYERS, batch=8, **options)
        done = [each[0] for each in told]
        assert done == sorted(set(done))
        assert done[-1] == N
        assert {each[1] for each in told} == {total}
        assert len(done) >= 7


@pytest.mark.parametrize("way", ["a loader with a sampler of batches", "a loader of whole batches"])
def test_of_a_loader_with_batches_of_its_own_the_length_is_not_known(networks, pictures, way):
    told = []
    cu.measure(networks, WAYS[way](pictures, None), LAYERS, progress=lambda *now: told.append(now), **OPTIONS)
    assert told[-1] == (N, None)


def test_a_bar_is_drawn_where_it_is_asked_for(networks, pictures, capsys):
    cu.measure(networks, pictures, LAYERS, batch=8, progress=True, **OPTIONS)
    assert "/60" in capsys.readouterr().err
    cu.measure(networks, pictures, LAYERS, progress=False, **OPTIONS)
    cu.measure(networks, pictures, LAYERS, **OPTIONS)
    assert not capsys.readouterr().err, "it is no terminal"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_are_called_in_lower_precision_where_that_is_asked_for(networks, pictures, dtype):
    seen = []
    hook = networks["a"].maps.register_forward_hook(lambda _module, _inputs, given: seen.append(given))
    found = cu.measure(networks, pictures, "maps", autocast=dtype, batch=N, **{**OPTIONS, "folds": 1})
    plain = cu.measure(networks, pictures, "maps", **OPTIONS)
    hook.remove()
    assert seen[0].dtype == dtype
    assert seen[-1].dtype == torch.float32
    rows = seen[0].double().movedim(1, 3).flatten(0, 2)
    assert torch.allclose(found.pair("a.maps", "a.maps").cov_aa, cu.pair_moments(rows, rows).cov_aa, atol=1e-6)
    assert torch.allclose(found.mean_activation("a.maps"), plain.mean_activation("a.maps"), atol=0.01)


def test_of_pictures_that_are_normalised_it_is_said_once_for_each_foreign_network(tmp_path):
    pictures = (torch.rand(40, 28, 28, 1, generator=torch.Generator().manual_seed(0)) * 255).byte()
    nets = {"ours": cu.build_network("alexnet-narrow", seed=1), "one": Small(1).maps, "two": Small(2).maps}
    names = {"ours": {"early": "conv1"}, "one": {"early": "1"}, "two": {"early": "1"}}
    loader = DataLoader(TensorDataset(pictures), batch_size=8)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cu.measure(nets, loader, names, pairs=[], store=tmp_path, flattened=True, **OPTIONS)
    told = [str(each.message) for each in said]
    assert len(told) == 2
    assert all("pictures of bytes" in each and "ours" not in each for each in told)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare = {name: lambda x: cu.normalise(x) for name in ("one", "two")}
        cu.measure(nets, pictures, names, pairs=[], prepare=prepare, **OPTIONS)


# the store


FOUND = ["a loader of tuples", "a list", "an array", "a loader of dicts", "by network, held and not"]


@pytest.mark.parametrize("way", FOUND)
def test_what_comes_in_batches_is_found_again(networks, pictures, tmp_path, way, monkeypatch):
    folder = tmp_path / "store"
    folder.mkdir()
    wanted = cu.measure(networks, WAYS[way](pictures, tmp_path), LAYERS, store=folder, batch=10, **OPTIONS)
    monkeypatch.setattr(one_pass.Pass, "_part", None)
    found = cu.measure(networks, WAYS[way](pictures, tmp_path), LAYERS, store=folder, batch=10, **OPTIONS)
    assert_same(found, wanted, close=0)


def changed(pictures):
    other = pictures.clone()
    other[31, 0, 3, 3] += 1
    return other


def in_another_order(pictures):
    return pictures[torch.cat((torch.arange(8), torch.arange(8, N).flip(0)))]


@pytest.mark.parametrize("change", [changed, in_another_order])
def test_a_loader_of_other_inputs_is_measured_anew(networks, pictures, tmp_path, change):
    for x in (pictures, change(pictures), change(pictures)):
        loader = DataLoader(labelled(x), batch_size=8)
        found = cu.measure(networks, loader, LAYERS, store=tmp_path, **OPTIONS)
        assert_same(found, cu.measure(networks, x, LAYERS, **OPTIONS))


@pytest.mark.parametrize("option", ["prepare", "mask"])
def test_what_a_function_makes_of_later_batches_is_noticed(networks, pictures, tmp_path, option, monkeypatch):
    """It reads what no look at its code tells, and that bites after the first batch alone."""

    def prepare(batch):
        return batch * float(os.environ["LATER"]) if batch[0, 0, 0, 0] != pictures[0, 0, 0, 0] else batch

    def mask(batch):
        return torch.arange(len(batch)) >= int(os.environ["LATER"]) * int(batch[0, 0, 0, 0] != pictures[0, 0, 0, 0])

    options = {option: {"prepare": prepare, "mask": mask}[option], **OPTIONS}
    for later in ("1", "2", "2"):
        monkeypatch.setenv("LATER", later)
        found = cu.measure(networks, list(pictures.split(8)), LAYERS, store=tmp_path, **options)
        assert_same(found, cu.measure(networks, list(pictures.split(8)), LAYERS, **options))


def test_what_a_mask_makes_of_inputs_in_memory_is_noticed(networks, pictures, tmp_path, monkeypatch):
    def mask(batch):
        return torch.arange(len(batch)) >= int(os.environ["NOT_BEFORE"])

    for before in ("0", "1"):
        monkeypatch.setenv("NOT_BEFORE", before)
        found = cu.measure(networks, pictures, LAYERS, mask=mask, store=tmp_path, **OPTIONS)
        assert found.n_images == cu.measure(networks, pictures, LAYERS, mask=mask, **OPTIONS).n_images


def test_slow_batches_are_kept_one_by_one(networks, pictures, tmp_path, monkeypatch):
    kept = []
    for name in ("_SECONDS_BETWEEN", "_TIMES_AS_LONG", "_SECONDS_OF_FEW"):
        monkeypatch.setattr(one_pass, name, 0.0)
    monkeypatch.setattr(one_pass._Seldom, "__call__", lambda self, make: kept.append(make().n_images))
    cu.measure(networks, list(pictures.split(20)), LAYERS, store=tmp_path, **OPTIONS)
    assert kept == [20, 40, 60]


def test_a_mean_has_more_digits_than_halves(networks, pictures):
    half = {name: Small(k).to(torch.bfloat16) for k, name in enumerate("ab", start=1)}
    found = cu.measure(half, pictures, ["maps"], positions="mean", **OPTIONS)
    with torch.no_grad():
        maps = half["a"].maps(pictures.to(torch.bfloat16)).float().mean((2, 3))
    assert torch.allclose(found.mean_activation("a.maps"), maps.double().mean(0), rtol=1e-6)
    assert found.sample("a.maps").dtype == torch.float32


def test_an_iterator_has_no_store(networks, pictures, tmp_path):
    with pytest.raises(ValueError, match="^inputs: an iterator is read once, and a store has to read it again; give"):
        cu.measure(networks, iter(pictures.split(8)), LAYERS, store=tmp_path, **OPTIONS)


class Interrupted(Exception):
    """As when somebody stops a run."""


STREAMS = {
    "a loader": lambda x: DataLoader(labelled(x), batch_size=5),
    "a list": lambda x: list(x.split(5)),
    "in step": lambda x: {"a": DataLoader(labelled(x), batch_size=5), "b": x},
    "a tensor": lambda x: x,
}


@pytest.fixture
def at_once(monkeypatch):
    """What is measured so far is kept after every other batch."""
    monkeypatch.setattr(one_pass, "_SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(one_pass, "_TIMES_AS_LONG", 0.0)
    monkeypatch.setattr(one_pass, "_BATCHES", 2)


@pytest.fixture
def interrupt(monkeypatch):
    """Has runs stop after so many inputs; what they go through is noted."""
    seen, real, limit = [], one_pass.Pass._part, [N + 1]

    def part(self, part, readers):
        if len(part.mine) and sum(map(len, seen)) >= limit[0]:
            raise Interrupted
        real(self, part, readers)
        seen.append(part.numbers[part.mine])

    monkeypatch.setattr(one_pass.Pass, "_part", part)
    return seen, limit


@pytest.mark.parametrize("flattened", [False, True])
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("stop", [2, 21, 52])
def test_a_run_goes_on_where_it_was_interrupted(
    networks, pictures, tmp_path, at_once, interrupt, stream, stop, flattened
):
    (seen, limit), told = interrupt, []
    options = {"batch": 5, "flattened": flattened, **OPTIONS}
    wanted = cu.measure(networks, pictures, LAYERS, **options)
    seen.clear()
    limit[0] = stop
    with pytest.raises(Interrupted):
        cu.measure(networks, STREAMS[stream](pictures), LAYERS, store=tmp_path, **options)
    first = sum(map(len, seen))
    limit[0] = 3 * N
    seen.clear()
    options |= {"store": tmp_path, "progress": lambda *now: told.append(now)}
    found = cu.measure(networks, STREAMS[stream](pictures), LAYERS, **options)
    assert_same(found, wanted)
    assert sum(map(len, seen)) <= N - max(0, first - 10), "no more than two batches are done twice"
    assert told[-1] == (N, N)
    if flattened:
        assert found.flattened.n_samples == N
        for pair, value in wanted.flattened.cka().items():
            assert torch.allclose(found.flattened.cka()[pair], value, atol=1e-6)


def test_a_run_of_other_inputs_does_not_go_on(networks, pictures, tmp_path, at_once, interrupt):
    _, limit = interrupt
    limit[0] = 40
    with pytest.raises(Interrupted):
        cu.measure(networks, STREAMS["a loader"](pictures), LAYERS, store=tmp_path, **OPTIONS)
    limit[0] = 3 * N
    other = changed(pictures)
    with pytest.warns(UserWarning, match="^inputs: they are others than when measuring was interrupted; all are meas"):
        found = cu.measure(networks, STREAMS["a loader"](other), LAYERS, store=tmp_path, **OPTIONS)
    assert_same(found, cu.measure(networks, other, LAYERS, **OPTIONS))


def test_what_another_process_sees_of_other_inputs_counts_for_all(networks, pictures, tmp_path, monkeypatch):
    real, told = one_pass.Pass.run, ["inputs: they are others than when measuring was interrupted (process 1)"]

    def run(self):
        if told:
            raise ValueError(told.pop())
        return real(self)

    monkeypatch.setattr(one_pass.Pass, "run", run)
    with pytest.warns(UserWarning, match="all are measured anew"):
        found = cu.measure(networks, STREAMS["a loader"](pictures), LAYERS, store=tmp_path, **OPTIONS)
    assert_same(found, cu.measure(networks, pictures, LAYERS, **OPTIONS))


# names and shapes of layers


def test_layers_are_named_in_the_order_in_which_they_end(networks, pictures):
    wanted = {"maps.0": (60, 6, 5, 4), "maps.1": (60, 6, 5, 4), "maps": (60, 6, 5, 4), "row": (60, 5)}
    network = networks["a"].train()
    found = cu.layers(network, pictures)
    assert found == wanted
    assert list(found) == list(wanted)
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
    network.eval()
    small = {name: (2, *shape[1:]) for name, shape in wanted.items()}
    for example in (pictures[:2].numpy(), {"x": pictures[:2]}, (pictures[:2], "labels"), [pictures[:2]]):
        assert cu.layers(network, example) == small
    for example in (labelled(pictures[:2]), DataLoader(labelled(pictures), batch_size=2), iter(pictures.split(2))):
        assert cu.layers(network, example) == small
    assert cu.layers(nn.DataParallel(network), pictures[:2]) == small
    assert cu.layers(torch.compile(network, backend="eager"), pictures[:2]) == small
    assert cu.layers(network, pictures[:2, 0], prepare=lambda x: x[:, None]) == small
    assert cu.layers(network, (pictures[:2], pictures[:2]), prepare=lambda x, y: x + y) == small


def test_layers_of_an_example_of_bytes_and_of_other_outputs():
    data = cu.load_dataset("fashion-mnist", split="test", limit=4)
    found = cu.layers(cu.build_network("alexnet-narrow", seed=1), data)
    assert found["conv1"][1:] == (16, 28, 28)

    class Gives(nn.Module):
        def __init__(self, given):
            super().__init__()
            self.given = given

        def forward(self, x):
            return self.given if self.given == "text" else {"said": "no tensor", "rows": x}

    network = nn.Sequential(nn.Linear(3, 3), Gives("a dict"))
    assert cu.layers(network, torch.zeros(2, 3)) == {"0": (2, 3), "1": (2, 3)}
    said = nn.Sequential(nn.Linear(3, 3), Gives("text"))
    assert cu.layers(said, torch.zeros(2, 3)) == {"0": (2, 3)}
    assert cu.layers(said, torch.zeros(2, 3), output={"1": lambda _: torch.zeros(2, 4)})["1"] == (2, 4)


def test_layers_of_a_transformer_with_padding():
    network = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1)
    hidden = torch.zeros(2, 5, dtype=torch.bool)
    hidden[0, 3:] = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = cu.layers(network, {"src": torch.zeros(2, 5, 4), "src_key_padding_mask": hidden})
    assert found["layers.0.linear1"] == (2, 5, 8)
    assert found["layers.0"] == (2, 5, 4)


# several processes


SHARED = {"plain": {}, "whole maps": {"flattened": True}, "places": {"positions": 2}}


def drawn():
    return torch.randn(600, 1, 7, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def measured_together(many, **options):
    return cu.measure(doubles("ab"), DataLoader(labelled(many), batch_size=50), LAYERS, **options, **OPTIONS)


def texts_together():
    generator = torch.Generator().manual_seed(1)
    several = [torch.randperm(19, generator=generator)[: 1 + k % 5] for k in range(600)]
    several[100] = several[300] = several[0][:0]
    nets = {"a": Reader(1).double(), "b": Reader(2).double()}
    return cu.measure(nets, batches(several, 70), TOKENS, mask="attention_mask", **OPTIONS)


def main(folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {name: measured_together(drawn(), **options) for name, options in SHARED.items()}
    found["held"] = cu.measure(doubles("ab"), drawn(), LAYERS, flattened=True, **OPTIONS)
    found["masked"] = texts_together()
    found["kept"] = [measured_together(drawn(), store=folder / "store") for _ in range(2)]
    cu.save(found, folder / f"{dist.get_rank()}.safetensors")
    dist.destroy_process_group()


def test_two_processes_find_what_one_does(tmp_path, many):
    (tmp_path / "store").mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__, tmp_path]
    local = {"OMP_NUM_THREADS": "1", **({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {})}
    done = subprocess.run(command, env={**os.environ, **local}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    wanted = {name: measured_together(many, **options) for name, options in SHARED.items()}
    wanted |= {"held": wanted["whole maps"], "masked": texts_together()}
    for rank in range(2):
        found = cu.load(tmp_path / f"{rank}.safetensors")
        for name, one in wanted.items():
            assert_same(found[name], one, close=1e-9)
            if one.flattened is not None:
                assert found[name].flattened.n_samples == 600
                for pair, value in one.flattened.cka().items():
                    assert torch.allclose(found[name].flattened.cka()[pair], value, rtol=0, atol=1e-10)
        for each in found["kept"]:
            assert_same(each, wanted["plain"], close=1e-9)
    assert len(list((tmp_path / "store").glob("*.safetensors"))) == 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
