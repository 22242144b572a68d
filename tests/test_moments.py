import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import convergent_utils as cu
from convergent_utils.kernels import moments as module
from convergent_utils.kernels import products

FIELDS = ("mean_a", "mean_b", "cov_aa", "cov_ab", "cov_bb")


def activations(generator, n=500, units=(7, 5), *, mean=0.0, std=1.0, dtype=torch.float64):
    """Two nets with units of unlike spread that share part of their variance."""
    shared = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    made = []
    for width in units:
        mixed = shared @ torch.randn(3, width, generator=generator, dtype=torch.float64)
        mixed = mixed + torch.randn(n, width, generator=generator, dtype=torch.float64)
        made.append((mixed / mixed.std(0) * std + mean).to(dtype))
    return made


def of(a, b):
    moments = cu.Moments({"a": a.shape[1], "b": b.shape[1]})
    moments.update({"a": a, "b": b})
    return moments


def assert_close(pair, other, tolerance):
    assert pair.n_samples == other.n_samples
    for field in FIELDS:
        assert torch.allclose(getattr(pair, field), getattr(other, field), rtol=tolerance, atol=tolerance), field


def test_float64_equals_numpy(generator, device):
    a, b = activations(generator, mean=3.0)
    pair = cu.pair_moments(a.to(device), b.to(device))
    covariance = np.cov(np.hstack([a, b]).T, bias=True)
    assert pair.n_samples == 500
    assert np.allclose(pair.mean_a.cpu(), a.mean(0), atol=1e-10)
    assert np.allclose(pair.mean_b.cpu(), b.mean(0), atol=1e-10)
    assert np.allclose(pair.cov_aa.cpu(), covariance[:7, :7], atol=1e-10)
    assert np.allclose(pair.cov_ab.cpu(), covariance[:7, 7:], atol=1e-10)
    assert np.allclose(pair.cov_bb.cpu(), covariance[7:, 7:], atol=1e-10)


def test_float32_correlations_with_mean_a_hundred_times_the_deviation(generator, device):
    a, b = activations(generator, 20_000, mean=100.0, dtype=torch.float32)
    exact = cu.correlation(cu.pair_moments(a.double(), b.double())).matrix
    ours = cu.correlation(cu.pair_moments(a.to(device), b.to(device))).matrix.cpu()
    assert (ours - exact).abs().max() < 1e-6
    raw = ((a.T @ b) / len(a) - a.mean(0)[:, None] * b.mean(0)) / a.std(0)[:, None] / b.std(0)
    assert (raw - exact).abs().max() > 1e-4, "raw float32 moments are good enough: this test proves nothing"


def test_a_thousand_added_to_every_unit_changes_nothing(generator, device):
    a, b = activations(generator, 20_000, std=0.2, dtype=torch.float32)
    before = cu.correlation(cu.pair_moments(a.to(device), b.to(device))).matrix
    after = cu.correlation(cu.pair_moments(a.to(device) + 1000, b.to(device) + 1000)).matrix
    assert (before - after).abs().max() < 1e-5


def test_units_that_are_mostly_silent_keep_their_digits(generator, device):
    """Their zeros must add nothing: moved by the mean, thousands of them would all be rounded the same way."""
    drive = torch.randn(20_000, 6, generator=generator)
    rare = torch.zeros(20_000, 6)
    rare[torch.arange(6) * 3001 + 7, torch.arange(6)] = 3.3
    for name, acts in {"rectified": (drive - 1.5).relu(), "binary": (drive > 1).float(), "rare": rare}.items():
        pair = cu.pair_moments(acts.to(device), 0.7 * acts.to(device))
        exact = acts.double()
        exact = (exact - exact.mean(0)).T @ (exact - exact.mean(0)) / len(exact)
        scale = exact.diagonal().sqrt()
        assert ((pair.cov_aa.cpu() - exact) / scale / scale[:, None]).abs().max() < 1e-6, name
        assert (cu.correlation(pair).matrix.diagonal() - 1).abs().max() < 1e-6, name


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.randoms(use_true_random=False), st.booleans())
def test_any_split_merged_in_any_order_equals_one_batch(sizes, shuffler, single):
    generator = torch.Generator().manual_seed(sum(sizes))
    a, b = activations(generator, sum(sizes) + 2, mean=5.0, dtype=torch.float32 if single else torch.float64)
    parts = [of(x, y) for x, y in zip(a.split([*sizes, 2]), b.split([*sizes, 2]), strict=True)]
    shuffler.shuffle(parts)
    while len(parts) > 1:  # a random tree of merges
        k = shuffler.randrange(len(parts) - 1)
        parts[k : k + 2] = [parts[k].merge(parts[k + 1])]
    whole = of(a, b)
    if single:
        ours, theirs = (cu.correlation(m.pair("a", "b")) for m in (parts[0], whole))
        if sum(sizes) > 5:
            assert (ours.matrix - theirs.matrix).abs().max() < 1e-6
    assert_close(parts[0].pair("a", "b"), whole.pair("a", "b"), 1e-5 if single else 1e-9)


def test_updates_equal_merges_and_leave_the_parts_alone(generator):
    a, b = activations(generator)
    first, second = of(a[:200], b[:200]), of(a[200:], b[200:])
    before = copy.deepcopy(first.state())
    merged = first.merge(second)
    assert all(torch.equal(value, before[key]) for key, value in first.state().items())
    first.update({"a": a[200:], "b": b[200:]})
    assert_close(merged.pair("a", "b"), first.pair("a", "b"), 1e-12)


def test_an_empty_part_is_the_identity_and_merging_commutes(generator):
    a, b = activations(generator)
    whole, empty = of(a, b), cu.Moments({"a": 7, "b": 5})
    for merged in (whole.merge(empty), empty.merge(whole), whole.merge(of(a[:0], b[:0]))):
        assert_close(merged.pair("a", "b"), whole.pair("a", "b"), 0.0)
    one, two = of(a[:100], b[:100]), of(a[100:], b[100:])
    assert_close(one.merge(two).pair("a", "b"), two.merge(one).pair("a", "b"), 1e-12)


def test_only_the_pairs_asked_for(generator):
    a, b = activations(generator)
    moments = cu.Moments({"x": 7, "y": 5, "z": 7}, pairs=[("z", "y")])
    moments.update({"y": b, "z": a})  # x is joined to neither
    assert_close(moments.pair("z", "y"), cu.pair_moments(a, b), 1e-12)
    assert_close(moments.pair("y", "z").swap(), cu.pair_moments(a, b), 1e-12)
    with pytest.raises(ValueError, match="not accumulated"):
        moments.pair("x", "y")
    with pytest.raises(ValueError, match="at least 2 samples"):
        moments.pair("x", "x")
    with pytest.raises(ValueError, match="together"):
        moments.update({"y": b})
    with pytest.raises(ValueError, match="did you mean 'z'"):
        moments.update({"zz": a})


def test_pairs_with_gaps_between_partners_equal_separate_pairs(generator):
    blocks = {
        name: torch.randn(300, width, generator=generator) for name, width in zip("abcd", (3, 4, 5, 6), strict=True)
    }
    moments = cu.Moments({k: v.shape[1] for k, v in blocks.items()}, pairs=[("a", "c"), ("d", "b"), ("a", "d")])
    moments.update(blocks)
    for x, y in (("a", "c"), ("b", "d"), ("d", "a"), ("c", "c")):
        assert_close(moments.pair(x, y), cu.pair_moments(blocks[x], blocks[y]), 1e-6)


def test_state_round_trip_in_any_order(generator):
    a, b = activations(generator)
    whole = of(a, b)
    shuffled = dict(reversed(whole.state().items()))
    assert_close(cu.Moments.from_state(shuffled).pair("a", "b"), whole.pair("a", "b"), 0.0)
    assert cu.Moments.from_state(cu.Moments({"a": 7, "b": 5}).state()).merge(whole).pair("a", "b").n_samples == 500


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 1 / 3, 1000.1, -1e-20, 7e8])
def test_a_constant_unit_has_no_variance_at_all(generator, dtype, value):
    a = torch.randn(10_001, 3, generator=generator).to(dtype)
    a[:, 1] = value
    moments = cu.Moments({"a": 3})
    for rows in a.split([1, 1000, 3000, 6000]):
        moments.update({"a": rows})
    pair = moments.pair("a", "a")
    assert (pair.cov_aa[1] == 0).all()
    assert (pair.cov_aa[:, 1] == 0).all()
    assert (pair.cov_aa.diagonal()[[0, 2]] > 0.9).all()


def test_a_unit_that_fires_once_is_live():
    a = torch.zeros(5000, 2)
    a[17, 0] = 3.0
    assert cu.correlation(cu.pair_moments(a, a)).live_a.tolist() == [True, False]


def standard(acts):
    """Units of float64 NumPy with mean 0 and variance 1, squared only after their largest value is 1."""
    acts = np.asarray(acts, dtype=np.float64)
    acts = acts / np.abs(acts).max(0)
    acts = acts - acts.mean(0)
    return acts / np.sqrt((acts**2).mean(0))


def assert_correlates_as(pair, a, b, tolerance):
    found = cu.correlation(pair)
    assert found.live_a.all()
    assert found.live_b.all()
    assert found.matrix.numpy() == pytest.approx(standard(a).T @ standard(b) / len(a), abs=tolerance)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float32, scale) for scale in (1e-40, 1e-30, 1e-25, 1e-23, 1e-9, 1e9, 1e18, 1e25, 1e37)]
    + [(torch.float64, scale) for scale in (1e-150, 1e-77, 1e-30, 1e30, 1e80, 1e150)],
)
def test_any_scale_is_right(generator, dtype, scale):
    a, b = activations(generator)
    a, b = (scale * a).to(dtype), (b + 3).to(dtype)
    for x, y in ((a, b), (b, a)):
        assert_correlates_as(cu.pair_moments(x, y), x, y, 1e-6 if dtype == torch.float32 else 1e-9)
    pair, size = cu.pair_moments(a, a), np.abs(a.double().numpy()).max()
    exact = np.cov((a.double().numpy() / size).T, bias=True)
    assert (pair.cov_aa / size / size).numpy() == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e-30), (torch.float32, 1e30), (torch.float64, 1e-140)])
def test_one_unit_of_another_scale_among_ordinary_ones(generator, dtype, scale):
    a, b = activations(generator)
    a[:, 2] *= scale
    b[:, [0, 3]] *= scale
    a, b = a.to(dtype), b.to(dtype)
    assert_correlates_as(cu.pair_moments(a, b), a, b, 1e-6)
    assert_correlates_as(cu.pair_moments(a, a), a, a, 1e-6)


def test_rare_classes_of_a_softmax_are_alive(generator):
    logits = torch.randn(400, 10, generator=generator, dtype=torch.float64)
    logits[:, 7:] -= 58
    other = logits + 0.3 * torch.randn(400, 10, generator=generator, dtype=torch.float64)
    a, b = logits.float().softmax(1), other.float().softmax(1)
    assert a[:, 7:].max() < 1e-24
    assert_correlates_as(cu.pair_moments(a, b), a, b, 1e-6)


def test_batches_of_unlike_scales_are_merged_in_any_order(generator):
    a, b = activations(generator, dtype=torch.float32)
    for scales in ((1e-30, 1, 1e25), (1e25, 1e-30, 1), (1, 1e25, 1e-30), (1e-30, 1e-28, 1e-29)):
        spread = [scale * part for scale, part in zip(scales, a.split([200, 200, 100]), strict=True)]
        parts = [of(x, y) for x, y in zip(spread, b.split([200, 200, 100]), strict=True)]
        streamed = cu.Moments({"a": 7, "b": 5})
        for x, y in zip(spread, b.split([200, 200, 100]), strict=True):
            streamed.update({"a": x, "b": y})
        for moments in (streamed, parts[0].merge(parts[1].merge(parts[2]))):
            assert_correlates_as(moments.pair("a", "b"), torch.cat(spread), b, 1e-6)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(torch.float32, value) for value in (1e-42, 1e-30, 1e30, 3e38)]
    + [(torch.float64, value) for value in (1e-310, 1e-200, 1e200, 1e308)],
)
def test_a_constant_unit_is_dead_at_any_scale(generator, dtype, value):
    a = torch.randn(5000, 3, generator=generator).to(dtype)
    a[:, 1] = value
    for rows in ([5000], [1, 4999], [1000] * 5):
        moments = cu.Moments({"a": 3})
        for part in a.split(rows):
            moments.update({"a": part})
        found = cu.correlation(moments.pair("a", "a"))
        assert found.live_a.tolist() == [True, False, True]
        assert float(moments.pair("a", "a").mean_a[1]) == pytest.approx(float(a[0, 1]), rel=1e-6)


def test_ordinary_rows_are_not_looked_at_before_they_are_squared(generator, monkeypatch):
    """That would take as long as a fiftieth of the products."""
    rows = torch.cat([torch.randn(5000, 8, generator=generator), torch.zeros(5000, 2), torch.ones(5000, 1) / 3], 1)
    rows[:4999, 0] = 0
    monkeypatch.setattr(module, "powers_of", None)
    cu.pair_moments(rows, rows.relu())
    with pytest.raises(TypeError):
        cu.pair_moments(rows, 1e-20 * rows)


CANNOT_HOLD = "expected activations whose squares float64 can hold, got too large or too small ones in unit 3"


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-160, 1e160, 1e200, 1e300])
def test_what_float64_cannot_hold_is_refused_by_that_name(generator, scale):
    a, b = activations(generator)
    b[:, 3] *= scale
    with pytest.raises(ValueError, match=f"^acts_b: {CANNOT_HOLD}"):
        cu.pair_moments(a, b)
    with pytest.raises(ValueError, match=f"^acts_a: {CANNOT_HOLD}"):
        cu.pair_moments(b, a)


def test_a_batch_that_float64_cannot_hold_leaves_no_trace(generator):
    a, b = activations(generator)
    moments = cu.Moments({"a": 7, "b": 5, "c": 7}, pairs=[("a", "b")])
    moments.update({"a": a[:200], "b": b[:200], "c": a[:200]})
    before = copy.deepcopy(moments.state())
    varies, constant = b.clone(), b.clone()
    varies[:, 3] *= 1e200
    constant[:, 3] = 1e200  # has no variance of its own
    for bad in (varies, constant):
        with pytest.raises(ValueError, match=f"^b: {CANNOT_HOLD}"):
            moments.update({"c": a, "a": a, "b": bad})
        assert all(torch.equal(value, before[key]) for key, value in moments.state().items())
    alone = of(a[200:], constant[200:])
    for one, other in ((of(a, b), alone), (alone, of(a, b))):
        with pytest.raises(ValueError, match=f"^b: {CANNOT_HOLD}"):
            one.merge(other)
    moments.update({"a": a[200:], "b": b[200:], "c": a[200:]})
    assert_close(moments.pair("a", "b"), of(a, b).pair("a", "b"), 1e-12)


@pytest.mark.parametrize("size", [1, 50, 500])
def test_a_unit_too_faint_for_float64_is_told_from_a_dead_one_however_it_comes(generator, size):
    a, b = activations(generator)
    faint = cu.Moments({"a": 7, "b": 5})
    for x, y in zip((1e-200 * a).split(size), b.split(size), strict=True):
        faint.update({"a": x, "b": y})
    with pytest.raises(ValueError, match="^a: expected activations whose squares float64 can hold.* unit 0"):
        faint.pair("a", "b")
    faint.update({"a": a, "b": b})  # beside these it is nothing
    both = torch.cat([0 * a, a]), torch.cat([b, b])
    assert_close(faint.pair("a", "b"), cu.pair_moments(*both), 1e-12)


def test_infinity_and_nan_are_told_from_what_is_only_large(generator):
    a, b = activations(generator, dtype=torch.float32)
    for bad in (torch.inf, -torch.inf, torch.nan):
        moments, spoilt = of(a, 1e30 * b), 1e30 * b
        before, spoilt[77, 4] = copy.deepcopy(moments.state()), bad
        with pytest.raises(ValueError, match="^b: expected finite activations, got NaN or infinity in unit 4"):
            moments.update({"a": a, "b": spoilt})
        assert all(torch.equal(value, before[key]) for key, value in moments.state().items())


def test_the_resolution_is_that_of_the_coarser_rows(generator, tmp_path):
    a, b = activations(generator)
    single, double = torch.finfo(torch.float32).eps, torch.finfo(torch.float64).eps
    assert cu.pair_moments(a, b).resolution == cu.pair_moments(a, b).swap().resolution == double
    for coarse in (a.float(), a.half(), a.bfloat16()):
        for pair in (cu.pair_moments(coarse, b), cu.pair_moments(b, coarse), cu.pair_moments(coarse, coarse)):
            assert pair.resolution == pair.swap().resolution == single
    mixed = of(a[:100], b[:100]).merge(of(a[100:].float(), b[100:]))
    assert mixed.pair("a", "b").resolution == mixed.pair("b", "a").resolution == single
    assert mixed.pair("b", "b").resolution == double
    pair = cu.pair_moments(a, b)
    assert cu.PairMoments(pair.n_samples, *(getattr(pair, name) for name in FIELDS)).resolution == single
    cu.save(pair, tmp_path / "pair")
    assert cu.load(tmp_path / "pair").resolution == double


def test_inputs_are_not_changed(generator):
    a, b = activations(generator, dtype=torch.float32)
    kept = a.clone()
    cu.pair_moments(a, b)
    assert torch.equal(a, kept)


BAD = {
    "unequal samples": (lambda a, b: (a, b[:-1]), "acts_b: expected 500 samples as in acts_a, got 499"),
    "one sample": (lambda a, b: (a[:1], b[:1]), "at least 2 samples, got 1"),
    "not a number": (
        lambda a, b: (a, b.index_put((torch.tensor(3), torch.tensor(4)), torch.tensor(float("nan")))),
        "acts_b: .*unit 4",
    ),
    "infinite": (
        lambda a, b: (a.index_put((torch.tensor(3), torch.tensor(2)), torch.tensor(float("inf"))), b),
        "acts_a: .*unit 2",
    ),
    "integers": (lambda a, b: (a.long(), b), "acts_a: expected floating-point"),
    "complex": (lambda a, b: (a, b.to(torch.complex64)), "acts_b: expected floating-point"),
    "a vector": (lambda a, b: (a[:, 0], b), r"acts_a: expected shape \(samples, units\)"),
    "a list": (lambda a, b: (a.tolist(), b), "acts_a: expected a float tensor"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(generator, case):
    spoil, message = BAD[case]
    a, b = activations(generator, dtype=torch.float32)
    with pytest.raises(ValueError, match=message):
        cu.pair_moments(*spoil(a, b))


def test_a_bad_batch_leaves_no_trace(generator):
    a, b = activations(generator)
    moments = of(a, b)
    bad = a.clone()
    bad[-1, 3] = float("nan")
    with pytest.raises(ValueError, match="unit 3"):
        moments.update({"a": bad, "b": b})
    with pytest.raises(ValueError, match="expected 7 units, got 5"):
        moments.update({"a": b, "b": b})
    assert_close(moments.pair("a", "b"), of(a, b).pair("a", "b"), 0.0)


@pytest.mark.parametrize("other", [cu.Moments({"a": 7, "b": 6}), cu.Moments({"a": 7, "b": 5}, pairs=[]), "moments"])
def test_unlike_moments_do_not_merge(other):
    with pytest.raises(ValueError, match="same blocks and pairs"):
        cu.Moments({"a": 7, "b": 5}).merge(other)


def test_half_precision_and_numpy_are_read(generator):
    a, b = activations(generator, dtype=torch.bfloat16)
    assert_close(cu.pair_moments(a, b), cu.pair_moments(a.float().numpy(), b.float()), 1e-12)


class CountOperations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.usefixtures("fake_cuda")
def test_on_a_gpu_updates_never_wait_and_operations_do_not_grow_with_units():
    """On a fake cuda device any look at a value raises, so a run that passes has no host synchronisation."""
    counts = []
    for units in (8, 256):
        with FakeTensorMode(), CountOperations() as counter:
            moments = cu.Moments({"a": units, "b": units})
            for _ in range(3):
                rows = torch.randn(512, units, device="cuda")
                moments.update({"a": rows, "b": rows})
            found = cu.correlation(moments.pair("a", "b"))
            assert found.matrix.device.type == "cuda"
            assert found.matrix.shape == (units, units)
        counts.append(counter.count)
    assert counts[0] == counts[1]


def test_full_precision_is_forced_and_the_setting_comes_back(monkeypatch, generator):
    torch.set_float32_matmul_precision("high")
    seen = []
    product = torch.Tensor.addr_
    monkeypatch.setattr(
        torch.Tensor, "addr_", lambda *a, **k: (seen.append(torch.get_float32_matmul_precision()), product(*a, **k))[1]
    )
    try:
        cu.pair_moments(*activations(generator))
        assert set(seen) == {"highest"}
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


SETTINGS = (
    "pass",
    "backends.fp32_precision = 'tf32'",
    "backends.cuda.matmul.fp32_precision = 'tf32'",
    "backends.cuda.matmul.allow_tf32 = True",
    "backends.cudnn.allow_tf32 = False",
    "backends.cudnn.conv.fp32_precision = 'ieee'",
    "backends.mkldnn.conv.fp32_precision = 'bf16'",
    "torch.set_float32_matmul_precision('medium')",
)
PROBE = """
import os, sys, torch, convergent_utils.kernels.precision as precision
backends = torch.backends
parts = [backends, backends.cuda.matmul, backends.cudnn, backends.cudnn.conv, backends.cudnn.rnn]
parts += [backends.mkldnn, backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
for line in sys.argv[1:]:
    if os.fork():  # each in a process of its own: the older settings cannot be read once the newer ones have been used
        assert os.wait()[1] == 0, line
        continue
    exec(line)
    before = [part.fp32_precision for part in parts]
    with precision.full_precision():
        within = [part.fp32_precision for part in precision._backends()]
    assert set(within) <= {"none", "ieee"}, within
    assert [part.fp32_precision for part in parts] == before, (before, [part.fp32_precision for part in parts])
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="these settings came with torch 2.9")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_full_precision_by_whatever_name_it_is_set():
    run = subprocess.run([sys.executable, "-c", PROBE, *SETTINGS], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-1000:]


def test_autocast_rounds_nothing(generator):
    a, b = activations(generator, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cu.pair_moments(a, b)
        assert torch.is_autocast_enabled("cpu")
    assert_close(found, cu.pair_moments(a, b), 0)


def test_moments_begun_in_inference_mode_go_on_outside_it(generator):
    a, b = activations(generator)
    with torch.inference_mode():
        moments = of(a[:100], b[:100])
        moments = moments.merge(of(a[100:200], b[100:200]))
    moments.update({"a": a[200:], "b": b[200:]})
    assert_close(moments.pair("a", "b"), of(a, b).pair("a", "b"), 1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("resolution/a"), "expected 'resolution/a' of shape"),
        (lambda state: state.update({"comoment/a|b": torch.zeros(2, 2)}), r"'comoment/a\|b' of shape \(7, 5\)"),
        (lambda state: state.update({"count/b": torch.tensor(3)}), r"one count of a, b, got \[3, 500\]"),
        (lambda state: state.update({"colour/b": torch.tensor(3)}), "tensors: expected one of count"),
    ],
)
def test_a_state_that_lacks_something_is_refused(generator, change, message):
    state = of(*activations(generator)).state()
    change(state)
    with pytest.raises(ValueError, match=message):
        cu.Moments.from_state(state)


def test_numpy_arrays_of_any_layout_are_read_and_others_named(generator, recwarn):
    a, b = (part.numpy() for part in activations(generator))
    expected = cu.pair_moments(a, b)
    locked = a.copy()
    locked.setflags(write=False)
    for same in (locked, a.astype(">f8"), np.asfortranarray(a), a[::-1][::-1]):
        assert_close(cu.pair_moments(same, b), expected, 1e-12)
    assert not recwarn.list
    for other in (a.astype(np.longdouble), a.astype(object), a.astype(str), a.astype(int), a[:, :0]):
        with pytest.raises(ValueError, match="acts_a: expected"):
            cu.pair_moments(other, b)


@pytest.mark.parametrize("offset", [0.0, 10.0, 1e3, 1e6])
def test_moments_of_float32_activations_are_never_taken_for_impossible(generator, offset):
    """Also of units that fire once, that barely vary, and of copies: refusals are for moments made by hand."""
    normal = torch.randn(3000, 4, generator=generator)
    rare = torch.zeros(3000, 2)
    rare[7, 0] = rare[2999, 1] = 1e3
    barely = offset * (1 + 2.4e-7 * (normal[:, :1] > 1))
    acts = torch.cat([normal + offset, normal.relu(), rare, barely, normal[:, :1].sort(0).values + offset], 1)
    pair = cu.pair_moments(torch.cat([acts, acts], 1), acts)
    assert cu.correlation(pair).matrix.isfinite().all()
    assert cu.cca(pair).rho.max() <= 1


# wide batches, of which comoments are had a few at a time


@pytest.fixture
def few_at_once(monkeypatch):
    """Batches count as wide from 50 comoments on."""
    monkeypatch.setattr(products, "_MOST_AT_ONCE", 50)


def wide_rows(dtype, scale, mean, n=700):
    draw = torch.randn(n, 24, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    mixed = (
        draw @ torch.randn(24, 24, generator=torch.Generator().manual_seed(9), dtype=torch.float64) / 5 + mean
    ) * scale
    mixed[:, 3] = 2.5 * scale  # a dead unit
    return dict(zip("abc", mixed.to(dtype).split([7, 12, 5], dim=1), strict=True))


KINDS = [(torch.float32, 1.0), (torch.float32, 1e-25), (torch.float32, 1e25), (torch.bfloat16, 1.0)]
KINDS += [(torch.float64, 1.0), (torch.float64, 1e140)]


@pytest.mark.parametrize("pairs", [None, [("a", "b")], [("a", "c"), ("b", "c")]])
@pytest.mark.parametrize(("dtype", "scale"), KINDS)
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_wide_batches_have_the_moments_of_narrow_ones(few_at_once, monkeypatch, pairs, dtype, scale, mean):
    rows = wide_rows(dtype, scale, mean)
    found = {}
    for most in (50, 1 << 23):
        monkeypatch.setattr(products, "_MOST_AT_ONCE", most)
        moments = cu.Moments({name: block.shape[1] for name, block in rows.items()}, pairs=pairs)
        for part in range(0, 700, 300):
            moments.update({name: block[part : part + 300] for name, block in rows.items()})
        found[most] = moments
    for a, b in found[50].pairs:
        one, other = (each.pair(a, b) for each in found.values())
        assert one.n_samples == other.n_samples == 700
        deviations = torch.outer(other.cov_aa.diagonal().sqrt(), other.cov_bb.diagonal().sqrt())
        assert torch.equal(one.mean_a, other.mean_a)
        assert torch.equal(one.cov_aa.diagonal() == 0, other.cov_aa.diagonal() == 0)
        assert ((one.cov_ab - other.cov_ab).abs() <= 5e-6 * deviations).all(), "to the rounding of float32"
        assert one.resolution == other.resolution


def test_a_refused_wide_batch_leaves_everything_as_it_was(few_at_once):
    rows = wide_rows(torch.float32, 1.0, 0.0)
    moments = cu.Moments({name: block.shape[1] for name, block in rows.items()})
    moments.update(rows)
    before = moments.state()
    for wrong in (torch.nan, torch.inf):
        spoilt = {name: block.clone() for name, block in rows.items()}
        spoilt["b"][5, 2] = wrong
        with pytest.raises(ValueError, match="b: expected finite activations, got NaN or infinity in unit 2"):
            moments.update(spoilt)
    assert all(torch.equal(value, before[key]) for key, value in moments.state().items())


def test_no_wide_batch_has_more_comoments_at_once_than_it_may(few_at_once, monkeypatch):
    rows, sizes = wide_rows(torch.float32, 1.0, 0.0), []
    real = products._sums
    monkeypatch.setattr(
        products, "_sums", lambda *given: (made := real(*given), sizes.append(sum(p.numel() for p in made[2])))[0]
    )
    moments = cu.Moments({name: block.shape[1] for name, block in rows.items()})
    moments.update(rows)
    assert max(sizes) <= 50
    assert sum(sizes) == sum(moments.blocks[a] * moments.blocks[b] for a, b in moments.pairs), "each once"


@pytest.mark.parametrize("units", [1, 2, 4, 8, 12, 40])
def test_few_units_are_as_exact_as_many(units):
    """Products of few units sum row by row, and lost a digit over thousands of rows."""
    generator = torch.Generator().manual_seed(4)
    x = (torch.randn(20_000, units, generator=generator) + 1).clamp(min=0)
    y = (x + torch.randn(20_000, units, generator=generator)).clamp(min=0)
    found, exact = (cu.correlation(cu.pair_moments(*pair)).matrix for pair in ((x, y), (x.double(), y.double())))
    assert (found - exact).abs().max() < 1e-6
