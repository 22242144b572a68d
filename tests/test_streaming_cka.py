import itertools
import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import convergent_utils as cu
from convergent_utils import StreamingCKA

UNITS = {"a": 40, "b": 25, "c": 33}


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def nets(generator, samples):
    """Three nets that see six latent factors, in float32 and far from zero."""
    latent = normal(generator, samples, 6)
    return {
        name: (latent @ normal(generator, 6, units) + normal(generator, samples, units) + 3).float()
        for name, units in UNITS.items()
    }


def streamed(rows, batch=None, *, pairs=None, group=256):
    """All rows, in batches of one size."""
    found = StreamingCKA({name: block.shape[1] for name, block in rows.items()}, pairs, rows=group)
    n_samples = len(next(iter(rows.values())))
    for start in range(0, n_samples, batch or n_samples):
        found.update({name: block[start : start + (batch or n_samples)] for name, block in rows.items()})
    return found


def between(rows, start, stop):
    return {name: block[start:stop] for name, block in rows.items()}


def independence(x, y):
    """Song et al. 2012, equation 5, from matrices of products without their diagonals."""
    n, one = len(x), np.ones(len(x))
    k, m = (rows @ rows.T for rows in (x, y))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    joint = one @ k @ one * (one @ m @ one) / (n - 1) / (n - 2) - 2 / (n - 2) * (one @ k @ m @ one)
    return ((k * m).sum() + joint) / n / (n - 3)


def by_definition(x, y, group):
    """Sums over groups by running index, the last by its share, and the ratio at the end."""
    x, y = (np.asarray(rows, dtype=np.float64) for rows in (x, y))
    sums = np.zeros(3)
    for start in range(0, len(x), group):
        one, other = x[start : start + group], y[start : start + group]
        if len(one) >= 4:
            pairs = ((one, other), (one, one), (other, other))
            sums += len(one) / group * np.array([independence(*pair) for pair in pairs])
    return sums[0] / math.sqrt(sums[1] * sums[2])


def same(one, other):
    one, other = one.cka(), other.cka()
    return one.keys() == other.keys() and all(torch.equal(one[pair], other[pair]) for pair in one)


@pytest.mark.parametrize("samples", [4, 50, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_group_is_debiased_cka(samples, dtype, generator, device):
    rows = {name: block.to(device, dtype) for name, block in nets(generator, samples).items()}
    found = streamed(rows).cka()
    assert found.keys() == {("a", "b"), ("a", "c"), ("b", "c")}
    for (a, b), value in found.items():
        assert (value.shape, value.dtype, value.device.type) == ((), torch.float64, device)
        assert float(value) == pytest.approx(float(cu.debiased_cka(rows[a], rows[b])), abs=1e-12)


@pytest.mark.parametrize("left_over", [0, 4, 100, 255])
def test_three_groups_and_what_is_left_over_equal_the_definition(left_over, generator, device):
    rows = nets(generator, 3 * 256 + left_over)
    found = streamed({name: block.to(device) for name, block in rows.items()}, batch=100).cka()
    for (a, b), value in found.items():
        assert float(value) == pytest.approx(by_definition(rows[a], rows[b], 256), abs=1e-12)


@pytest.mark.parametrize("group", [4, 7, 65, 1000])
def test_groups_of_other_sizes_equal_the_definition(group, generator):
    rows = nets(generator, 500)
    found = streamed(rows, group=group)
    assert float(found.cka("a", "b")) == pytest.approx(by_definition(rows["a"], rows["b"], group), abs=1e-12)


def test_units_come_in_several_chunks(generator):
    wide = {name: normal(generator, 40, 60_000).float() for name in "ab"}
    wide["b"] += wide["a"]
    assert float(streamed(wide).cka("a", "b")) == pytest.approx(
        float(by_definition(wide["a"], wide["b"], 256)), abs=1e-12
    )


@pytest.mark.parametrize("batch", [1, 7, 64, 256])
def test_batches_of_any_size_give_the_same_to_the_last_bit(batch, generator, device):
    rows = {name: block.to(device) for name, block in nets(generator, 1000).items()}
    whole = streamed(rows)
    assert same(streamed(rows, batch), whole)
    assert streamed(rows, batch).n_samples == 1000
    columns = {name: block.T.contiguous().T for name, block in rows.items()}
    assert same(streamed(columns, batch), whole), "however they lie in memory"
    assert same(streamed({name: block.double() for name, block in rows.items()}, batch), whole)


def test_fewer_than_four_left_over_are_left_out(generator):
    rows = nets(generator, 260)
    whole = streamed(between(rows, 0, 256))
    for samples in (257, 258, 259):
        found = streamed(between(rows, 0, samples))
        assert found.n_samples == samples
        assert same(found, whole)
    assert not same(streamed(rows), whole)


def test_reading_changes_nothing(generator):
    rows = nets(generator, 700)
    read = StreamingCKA(UNITS)
    for start in range(0, 700, 50):
        read.update(between(rows, start, start + 50)).cka()
        read.state()
    assert same(read, streamed(rows))


# merging


def test_parts_cut_at_multiples_of_the_group_in_any_order_are_the_whole(generator):
    rows = nets(generator, 1100)
    parts = [streamed(between(rows, *ends)) for ends in ((0, 256), (256, 768), (768, 1024), (1024, 1100))]
    whole = streamed(rows).cka()
    for order in itertools.permutations(parts):
        merged = order[0].merge(order[1]).merge(order[2].merge(order[3]))
        assert merged.n_samples == 1100
        assert all(float(merged.cka()[pair]) == pytest.approx(float(whole[pair]), abs=1e-14) for pair in whole)


def test_merging_commutes_leaves_both_alone_and_goes_on(generator):
    rows = nets(generator, 900)
    first, last = streamed(between(rows, 0, 512)), streamed(between(rows, 512, 600))
    before = first.cka(), last.cka()
    merged = first.merge(last)
    assert same(merged, last.merge(first))
    assert same(merged.update(between(rows, 600, 900)), streamed(rows))
    for part, found in zip((first, last), before, strict=True):
        assert all(torch.equal(part.cka()[pair], value) for pair, value in found.items())
    empty = StreamingCKA(UNITS)
    assert same(empty.merge(last), last)
    assert same(last.merge(empty), last)
    assert empty.merge(empty).n_samples == 0


def test_two_unfinished_groups_do_not_merge(generator):
    rows = nets(generator, 700)
    one, other = streamed(between(rows, 0, 300)), streamed(between(rows, 300, 700))
    with pytest.raises(ValueError, match="^other: expected at most one .* got 44 and 144 samples left over; cut the"):
        one.merge(other)


@pytest.mark.parametrize(
    "other",
    [StreamingCKA({"a": 40, "b": 25}), StreamingCKA(UNITS, [("a", "b")]), StreamingCKA(UNITS, rows=128), None],
)
def test_unlike_parts_do_not_merge(other):
    with pytest.raises(ValueError, match="^other: expected a StreamingCKA of the same blocks, pairs and rows"):
        StreamingCKA(UNITS).merge(other)


# state


@pytest.mark.parametrize("samples", [0, 3, 200, 256, 700])
@pytest.mark.parametrize("pairs", [None, [("c", "a")]])
def test_a_state_is_all_of_it(samples, pairs, generator, tmp_path):
    rows = nets(generator, 1000)
    part = StreamingCKA(UNITS, pairs).update(between(rows, 0, samples))
    again = StreamingCKA.from_state(part.state())
    cu.save(part, tmp_path / "part.safetensors")
    loaded = cu.load(tmp_path / "part.safetensors")
    for made in (again, loaded):
        assert (made.blocks, made.pairs, made.rows, made.n_samples) == (part.blocks, part.pairs, 256, samples)
        assert all(torch.equal(value, part.state()[key]) for key, value in made.state().items())
        assert same(made.update(between(rows, samples, 1000)), streamed(rows, pairs=pairs))
    again.state()["sum/a|c"].zero_()
    assert same(again, loaded)


def test_what_is_kept_does_not_grow_with_samples(generator):
    rows = nets(generator, 255)
    found, sizes = StreamingCKA(UNITS), []
    for _ in range(20):
        found.update(rows)
        sizes.append(sum(value.numel() for value in found.state().values()))
    held = {room.untyped_storage().nbytes() for room in found._waiting.values()}
    assert max(sizes) <= 256 * sum(UNITS.values()) + 2 + 2 * len(found.pairs)
    assert held == {4 * 256 * units for units in UNITS.values()}, "float32 as they came"


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("count"),
        lambda state: state.pop("sum/a|b"),
        lambda state: state.pop("power/b|b"),
        lambda state: state.pop("waiting/c"),
        lambda state: state.update(rows=torch.tensor(3)),
        lambda state: state.update(count=torch.tensor(-44)),
        lambda state: state.update(count=torch.tensor(301)),
        lambda state: state.update(more=torch.tensor(1)),
        lambda state: state.update({"sum/a|b": torch.tensor(1.0)}),
        lambda state: state.update({"sum/a": state["sum/a|b"]}),
        lambda state: state.update({"power/a|b": torch.tensor(2**62)}),
        lambda state: state.update({"waiting/a": state["waiting/a"][:, 0]}),
        lambda state: state.update({"waiting/a": state["waiting/a"][:3]}),
        lambda state: state.update({"waiting/a": state["waiting/a"].half()}),
        lambda state: state.update({"rows/a": torch.tensor(1)}),
        lambda state: state.update({"waiting/" + "x" * 1000: state["waiting/a"][:, :0]}),
        lambda state: state.update({"sum/x|" + "y" * 1000: state["sum/a|b"]}),
    ],
)
def test_a_state_that_is_not_whole_is_refused(change, generator):
    state = streamed(nets(generator, 300)).state()
    change(state)
    with pytest.raises(ValueError, match="^tensors: ") as refused:
        StreamingCKA.from_state(state)
    assert len(str(refused.value)) <= 300


# planted


def test_independent_nets_have_about_none_however_many_their_units(generator):
    for units, samples in ((20, 2000), (1000, 300)):
        rows = {name: normal(generator, samples, units).float() for name in "abcd"}
        values = torch.stack(list(streamed(rows).cka().values()))
        assert values.abs().max() < 0.02
        assert cu.linear_cka(cu.pair_moments(rows["a"][:300], rows["b"][:300])) > 0.05
        assert values.min() < 0, "it is never clamped"


def test_a_rotation_is_found_out_and_scales_of_units_are_not(generator):
    acts, turn = normal(generator, 700, 30), torch.linalg.qr(normal(generator, 30, 30)).Q
    rows = {"a": acts, "b": 3 * acts @ turn + 5, "c": acts * torch.logspace(-1, 1, 30, dtype=torch.float64)}
    found = streamed(rows)
    assert float(found.cka("a", "b")) == pytest.approx(1, abs=1e-12)
    assert found.cka("a", "c") < 0.9
    assert float(found.cka("b", "c")) == pytest.approx(float(found.cka("c", "a")), abs=1e-12)
    assert float(found.cka("a", "a")) == pytest.approx(1, abs=1e-15)


def test_only_the_pairs_asked_for(generator):
    rows = nets(generator, 300)
    found = streamed(rows, pairs=[("b", "a")])
    assert list(found.cka()) == [("a", "b")]
    assert torch.equal(found.cka("b", "a"), found.cka()["a", "b"])
    assert torch.equal(found.cka()["a", "b"], streamed(rows).cka("a", "b"))
    with pytest.raises(ValueError, match=r"^b: the pair \('a', 'c'\) was not accumulated; name it in pairs"):
        found.cka("a", "c")


# scales and degenerate units


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float32, scale) for scale in (1e-40, 1e-30, 1e18, 1e36)]
    + [(torch.float64, scale) for scale in (1e-320, 1e-250, 1e-150, 1e80, 1e150, 1e305)],
)
def test_any_scale_is_right(dtype, scale, generator):
    rows = nets(generator, 600)
    scaled = {**rows, "a": (scale * rows["a"].double()).to(dtype)}
    exact, found = streamed(rows).cka(), streamed(scaled).cka()
    for pair, value in found.items():
        assert float(value) == pytest.approx(float(exact[pair]), abs=1e-3 if scale in (1e-320, 1e-40) else 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_groups_of_unlike_scales_are_summed_as_they_are(dtype, generator):
    rows = {name: block.to(dtype) for name, block in nets(generator, 700).items()}
    rows["a"][256:512] *= 1e-3
    found = streamed(rows)
    assert float(found.cka("a", "b")) == pytest.approx(by_definition(rows["a"], rows["b"], 256), abs=1e-12)
    rows["b"] *= 2.0**60
    assert torch.equal(streamed(rows).cka("a", "b"), found.cka("a", "b"))


def test_a_group_beyond_all_others_outweighs_them_and_no_sum_overflows(generator):
    rows = {name: block.double() for name, block in nets(generator, 512).items()}
    last = streamed(between(rows, 256, 512)).cka()
    for block in rows.values():
        block[256:] *= 1e200
    assert all(
        float(value) == pytest.approx(float(last[pair]), abs=1e-12) for pair, value in streamed(rows).cka().items()
    )
    for block in rows.values():
        block[256:] = 1e200
    first = streamed(between(rows, 0, 256)).cka()
    assert all(torch.equal(value, first[pair]) for pair, value in streamed(rows).cka().items()), (
        "all alike: it has no say"
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [100, 300])
def test_dead_blocks_have_none_and_dead_units_change_nothing(dtype, samples, generator):
    rows = {name: block.to(dtype) for name, block in nets(generator, samples).items()}
    dead = {"zeros": torch.zeros(samples, 3, dtype=dtype), "constant": torch.full((samples, 3), 0.1, dtype=dtype)}
    largest = torch.full((samples, 1), torch.finfo(dtype).max, dtype=dtype)
    once = torch.zeros(samples, 3, dtype=dtype)
    once[2] = torch.tensor([1.0, -3.0, 0.1])
    found = streamed({**rows, **dead, "once": once, "again": once + 7})
    for name, other in itertools.product([*dead, "once", "again"], found.blocks):
        assert found.cka(name, other) == 0
    more = {name: torch.cat([block, *dead.values(), largest], 1) for name, block in rows.items()}
    exact = streamed(rows).cka()
    assert all(
        float(value) == pytest.approx(float(exact[pair]), abs=1e-12) for pair, value in streamed(more).cka().items()
    )


def test_a_sample_that_outweighs_all_others_costs_no_digits(generator):
    a, b = normal(generator, 200, 6), normal(generator, 200, 6)
    a[3], b[3] = 1000.0, 1000.0
    assert float(streamed({"a": a, "b": b}).cka("a", "b")) == pytest.approx(float(cu.debiased_cka(a, b)), abs=1e-7)


def test_a_thousand_added_to_every_unit_changes_nothing(generator):
    rows = {name: block.double() for name, block in nets(generator, 300).items()}
    exact, found = streamed(rows).cka(), streamed({name: block + 1000 for name, block in rows.items()}).cka()
    assert all(float(found[pair]) == pytest.approx(float(exact[pair]), abs=1e-10) for pair in exact)


# bad input


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows.pop("b"), "rows: expected 'b' together with the other blocks"),
        (lambda rows: rows.update(x=rows["a"]), "rows: expected one of a, b, c, got 'x'"),
        (lambda rows: rows.update(b=rows["b"][:, 1:]), "b: expected 25 units, got 24; flatten maps"),
        (lambda rows: rows.update(c=rows["c"][1:]), "c: expected 300 samples as in a, got 299"),
        (lambda rows: rows["c"][7].fill_(torch.nan), "c: expected finite activations, got NaN or infinity in unit 0"),
        (lambda rows: rows["a"][299, 4:5].fill_(torch.inf), "a: expected finite .* in unit 4"),
        (lambda rows: rows.update(a=rows["a"].long()), "a: expected floating-point"),
        (lambda rows: rows.update(a=rows["a"][:, :, None]), "a: expected shape"),
    ],
)
def test_a_bad_batch_is_named_and_leaves_no_trace(spoil, message, generator):
    rows = nets(generator, 300)
    found, wanted = streamed(rows), streamed(rows)
    bad = {name: block.clone() for name, block in rows.items()}
    spoil(bad)
    with pytest.raises(ValueError, match=f"^{message}"):
        found.update(bad)
    assert same(found, wanted)
    assert same(found.update(rows), wanted.update(rows))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: StreamingCKA({}), "blocks: expected at least one"),
        (lambda: StreamingCKA({"a": 0}), "blocks: expected 1 to"),
        (lambda: StreamingCKA({"a|b": 3}), "blocks: expected names without"),
        (lambda: StreamingCKA({"a": 3}, [("a", "x")]), "pairs: expected one of a, got 'x'"),
        (lambda: StreamingCKA({"a": 3}, rows=3), "rows: expected 4 to 16384, got 3"),
        (lambda: StreamingCKA({"a": 3}).cka(), "rows: expected at least 4 samples in `update`, got 0"),
        (
            lambda: StreamingCKA({"a": 3}).update({"a": torch.ones(3, 3)}).cka("a", "a"),
            "rows: expected at least 4 .* 3",
        ),
        (lambda: StreamingCKA({"a": 3}).cka("a"), "b: expected one of a, got None"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


def test_what_is_not_finite_elsewhere_is_named_when_it_is_read(generator, monkeypatch):
    monkeypatch.setattr("convergent_utils.kernels.streaming_cka.require_finite", lambda *_: None)
    for samples, place in ((300, 10), (300, 280)):
        rows = nets(generator, samples)
        for what in (torch.nan, torch.inf):
            rows["b"][place, 2] = what
            found = streamed(rows)
            for read in (found.cka, lambda found=found: found.cka("c", "b")):
                with pytest.raises(ValueError, match="^b: expected finite activations, got NaN or infinity"):
                    read()
            assert found.cka("a", "c").isfinite()


def test_half_precision_and_numpy_are_read_and_inputs_left_alone(generator):
    rows = {name: block.to(torch.bfloat16) for name, block in nets(generator, 300).items()}
    kept = {name: block.clone() for name, block in rows.items()}
    found = streamed(rows, 100)
    assert all(torch.equal(block, kept[name]) for name, block in rows.items())
    assert same(found, streamed({name: block.float().numpy() for name, block in rows.items()}))
    with torch.inference_mode():
        begun = streamed(between(rows, 0, 100))
    assert same(begun.update(between(rows, 100, 300)), found)
    assert (
        not streamed({name: block.float().requires_grad_() for name, block in rows.items()}).cka("a", "b").requires_grad
    )


def test_a_finer_batch_makes_the_group_finer(generator):
    rows = {name: block.double() + 1e-12 for name, block in nets(generator, 256).items()}
    coarse = {name: block[:100].float() for name, block in rows.items()}
    mixed = StreamingCKA(UNITS).update(coarse).update(between(rows, 100, 256))
    whole = streamed({name: torch.cat([coarse[name].double(), block[100:]]) for name, block in rows.items()})
    assert same(mixed, whole)


@pytest.mark.usefixtures("fake_cuda")
def test_everything_stays_on_the_gpu():
    """On a fake cuda device any look at a value raises, so a run that passes has no host synchronisation."""
    for dtype in (torch.float32, torch.float64):
        with FakeTensorMode():
            rows = {name: torch.randn(600, units, device="cuda", dtype=dtype) for name, units in UNITS.items()}
            found = streamed(rows, 100)
            for value in found.merge(streamed(between(rows, 0, 512))).cka().values():
                assert value.device.type == "cuda"
                assert value.dtype == torch.float64


def test_a_finished_one_is_small_and_the_same():
    acts = {
        name: torch.randn(600, units, generator=torch.Generator().manual_seed(units))
        for name, units in (("a", 30), ("b", 20))
    }
    going = cu.StreamingCKA({"a": 30, "b": 20}).update(acts)
    finished = going.finished()
    assert torch.equal(finished.cka("a", "b"), going.cka("a", "b"))
    assert sum(value.numel() for value in finished.state().values()) < 20 < going.state()["waiting/a"].numel()
    again = cu.StreamingCKA.from_state(finished.state())
    assert torch.equal(again.cka("a", "b"), going.cka("a", "b"))
    with pytest.raises(ValueError, match="^rows: no inputs can follow"):
        finished.update(acts)
    whole = {name: rows[:512] for name, rows in acts.items()}
    before = cu.StreamingCKA({"a": 30, "b": 20}).update(whole)
    both = before.merge(finished)
    assert torch.equal(both.cka("a", "b"), finished.merge(before).cka("a", "b"))
    joined = cu.StreamingCKA({"a": 30, "b": 20}).update(whole).update(acts)
    assert both.cka("a", "b") == pytest.approx(float(joined.cka("a", "b")), rel=1e-12)
    with pytest.raises(ValueError, match="^other: expected at most one"):
        finished.merge(going)
