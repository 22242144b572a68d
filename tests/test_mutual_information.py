import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import mutual_info_score
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import convergent_utils as cu
from convergent_utils.kernels.binning import BinEdges, bin_edges
from convergent_utils.kernels.mutual_information import JointHistogram, matched_information, mutual_information

BINNINGS = ["relu-quantile", "quantile", "uniform"]
METHODS = ["numba", "scatter", "product"]


def activations(generator, n=3000, units=(7, 5), *, dtype=torch.float32):
    """Two nets that share three causes; half of their units are rectified."""
    shared = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    made = []
    for width in units:
        acts = shared @ torch.randn(3, width, generator=generator, dtype=torch.float64)
        acts += torch.randn(n, width, generator=generator, dtype=torch.float64)
        acts[:, ::2] = acts[:, ::2].relu()
        made.append(acts.to(dtype))
    return made


def by_scikit_learn(codes_a, codes_b):
    return np.array([[mutual_info_score(x, y) for y in codes_b.numpy()] for x in codes_a.numpy()])


def entropy(shares):
    return -sum(p * math.log(p) for p in shares)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("binning", BINNINGS)
def test_equals_scikit_learn_on_the_same_bins(generator, binning, method):
    a, b = activations(generator)
    found = mutual_information(a, b, bins=6, binning=binning, correction=None, method=method)
    codes = (bin_edges(acts, bins=6, binning=binning).codes(acts) for acts in (a, b))
    assert found.dtype == torch.float64
    assert found.numpy() == pytest.approx(by_scikit_learn(*codes), abs=1e-10)


def test_the_device_of_the_activations_gives_the_same(generator, device):
    a, b = activations(generator)
    found = mutual_information(a.to(device), b.to(device))
    assert found.device.type == device
    assert torch.allclose(found.cpu(), mutual_information(a, b), atol=1e-10)


def test_units_matched_with_one_partner_each_have_what_all_pairs_have(generator):
    a, b = activations(generator, units=(40, 30))
    index = torch.randint(0, 30, (40,), generator=generator).where(torch.arange(40) % 7 > 0, -1)
    matched = index >= 0
    wanted = mutual_information(a, b)[matched.nonzero()[:, 0], index[matched]]
    assert torch.equal(matched_information(a, b, index), wanted)
    assert len(matched_information(a, b, torch.full((40,), -1))) == 0


def test_many_tiles_equal_single_pairs(generator):
    a, b = activations(generator, units=(45, 70))
    found = mutual_information(a, b)
    for i, j in ((0, 0), (44, 69), (33, 32), (32, 33), (3, 68)):
        assert found[i, j] == mutual_information(a[:, i : i + 1], b[:, j : j + 1])[0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_bins_are_those_of_numpy(generator, dtype):
    acts = activations(generator, dtype=dtype)[0]
    codes = bin_edges(acts, bins=9, binning="uniform").codes(acts).numpy()
    for code, unit in zip(codes, acts.numpy().T, strict=True):
        inner = np.linspace(unit.min(), unit.max(), 10)[1:-1]
        away = np.abs(unit[:, None] - inner).min(1) > 1e-5  # from an edge, which rounding may move
        assert away.mean() > 0.95
        assert (code == np.digitize(unit, inner))[away].all()


def test_quantile_bins_hold_equally_many_samples(generator):
    acts = torch.randn(1003, 4, generator=generator)
    codes = bin_edges(acts, bins=10, binning="quantile").codes(acts)
    for code, unit in zip(codes, acts.T, strict=True):
        assert set(code.bincount(minlength=10).tolist()) == {100, 101}
        assert (code[unit.argsort()].int().diff() >= 0).all(), "larger activations have larger bins"


def test_exact_zeros_have_a_bin_and_the_rest_is_cut_at_its_quantiles(generator):
    acts = torch.randn(5000, 3, generator=generator)
    acts[:, 0] = acts[:, 0].relu()
    acts[::3, 1] = 0.0  # negative, zero and positive
    acts[::7, 1] = -0.0
    edges = bin_edges(acts, bins=8)
    assert edges.n_bins.tolist() == [9, 9, 9]
    for code, unit in zip(edges.codes(acts), acts.T, strict=True):
        assert torch.equal(code == 0, unit == 0)
        filled = code[unit != 0].bincount(minlength=9)[1:]
        assert filled.max() - filled.min() <= 1
        assert (code[unit != 0][unit[unit != 0].argsort()].int().diff() >= 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_tied_activations_share_a_bin(method):
    acts = torch.tensor([0.0, 1, 1, 1, 1, 1, 1, 2, 3, 3]).double()[:, None].repeat(40, 1)
    edges = bin_edges(acts, bins=5, binning="quantile")
    assert edges.n_bins.tolist() == [3]
    assert edges.cuts[0].tolist() == [1, 3, math.inf, math.inf]
    found = mutual_information(acts, acts, bins=5, binning="quantile", correction=None, method=method)
    assert found.item() == pytest.approx(entropy([0.1, 0.7, 0.2]), abs=1e-12)


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
def test_bivariate_normal(generator, rho):
    r"""Pointwise information has the variance rho^2, so the mean of n has the standard error rho / sqrt(n).

    Bins lose a part, which is computed: given the quantile u of x, y is normal around rho times x.
    """
    n, bins, truth = 200_000, 40, -0.5 * math.log(1 - rho**2)
    quantiles = (np.arange(400 * bins) + 0.5) / (400 * bins)
    ends = norm.ppf(np.arange(bins + 1) / bins)
    cells = np.diff(norm.cdf((ends - rho * norm.ppf(quantiles)[:, None]) / math.sqrt(1 - rho**2)))
    cells = cells.reshape(bins, 400, bins).mean(1) / bins
    binned = (cells * np.log(np.maximum(cells, 1e-300) * bins**2)).sum()
    x, noise = torch.randn(2, n, 1, generator=generator, dtype=torch.float64)
    y = rho * x + math.sqrt(1 - rho**2) * noise
    found = mutual_information(x, y, bins=bins, binning="quantile").item()
    assert abs(found - binned) < 4 * rho / math.sqrt(n)
    assert abs(found - truth) < (truth - binned) + 4 * rho / math.sqrt(n)
    assert 0 < truth - binned < 0.01 + 0.02 * truth


def test_independent_units_have_nothing_in_common(generator):
    """2n times the plug-in value is chi-squared with (k - 1)^2 degrees: over 900 pairs the mean is known to 1/42 sd."""
    n, k = 4000, 8
    a, b = torch.randn(2, n, 30, generator=generator)
    raw = mutual_information(a, b, bins=k, binning="quantile", correction=None)
    corrected = mutual_information(a, b, bins=k, binning="quantile")
    bias, error = (k - 1) ** 2 / (2 * n), math.sqrt(2 * (k - 1) ** 2) / (2 * n) / 30
    assert raw.mean().item() == pytest.approx(bias, abs=4 * error + 0.02 * bias)  # the next order is k^2 / n of it
    assert corrected.mean().item() == pytest.approx(0, abs=4 * error + 0.02 * bias)
    assert corrected.min() < 0, "a value that chance makes negative is not clipped"
    assert raw.min() > 0


@pytest.mark.parametrize("binning", BINNINGS)
def test_the_correction_counts_occupied_cells(generator, binning):
    a, b = activations(generator)
    raw, corrected = (
        mutual_information(a, b, bins=12, binning=binning, correction=correction)
        for correction in (None, "miller-madow")
    )
    codes_a, codes_b = (bin_edges(acts, bins=12, binning=binning).codes(acts).numpy() for acts in (a, b))
    for i, x in enumerate(codes_a):
        for j, y in enumerate(codes_b):
            filled = len(set(x)) + len(set(y)) - len(set(zip(x, y, strict=True)))
            assert (corrected - raw)[i, j].item() == pytest.approx((filled - 1) / (2 * 3000), abs=1e-12)


def test_a_twin_is_found_where_correlation_finds_none(generator):
    a = torch.randn(4000, 6, generator=generator)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    b = a[:, order].square()
    found = mutual_information(a, b, binning="quantile")
    assert torch.equal(found.argmax(0), order)
    correlation = np.corrcoef(a.T, b.T)[:6, 6:]
    assert np.abs(correlation).max() < 0.1
    assert found[order, range(6)].min() > 1


def test_the_plug_in_value_is_never_negative():
    """Every combination of values equally often: exactly independent, and any rounding shows."""
    for k in range(2, 15):
        a, b = (axis.reshape(-1, 1).repeat(9, 1) for axis in torch.meshgrid(*2 * [torch.arange(k) / 3], indexing="ij"))
        found = mutual_information(a, b, bins=k, binning="quantile", correction=None).item()
        assert 0 <= found < 1e-12


@pytest.mark.parametrize(("binning", "unchanged"), [("quantile", True), ("relu-quantile", True), ("uniform", False)])
def test_strictly_increasing_maps(generator, binning, unchanged):
    """Each keeps zero at zero, as the bin of zeros needs."""
    a, b = activations(generator, dtype=torch.float64)
    before = mutual_information(a, b, binning=binning)
    for changed in (torch.expm1(a), a**3, 1e-3 * a, torch.sinh(2 * a)):
        after = mutual_information(changed, b, binning=binning)
        assert torch.equal(after, before) == (unchanged or changed.std() < 0.1)  # a scale moves no equal width
    assert not torch.allclose(mutual_information(a.cos(), b, binning=binning), before, atol=0.01)


@pytest.mark.parametrize("binning", BINNINGS)
def test_order_of_samples_and_units_and_nets(generator, binning):
    a, b = activations(generator)
    before = mutual_information(a, b, binning=binning)
    order = torch.randperm(len(a), generator=generator)
    assert torch.equal(mutual_information(a[order], b[order], binning=binning), before)
    assert not torch.allclose(mutual_information(a[order], b, binning=binning), before, atol=0.01)
    mixed = [2, 0, 1, 4, 3]
    assert torch.equal(mutual_information(a.flip(1), b[:, mixed], binning=binning), before.flip(0)[:, mixed])
    assert torch.allclose(mutual_information(b, a, binning=binning), before.T, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("binning", BINNINGS)
def test_degenerate_units(generator, binning, method):
    n = 2000
    live = torch.randn(n, 1, generator=generator)
    once, extreme = torch.zeros(n, 1), torch.full((n, 1), -3e38)
    once[17], extreme[::2] = 2.5, 3e38
    a = torch.cat(
        [torch.zeros(n, 1), torch.full((n, 1), 1 / 3), torch.full((n, 1), -7e8), once, extreme, live, live], 1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        raw = mutual_information(a, a, bins=5, binning=binning, correction=None, method=method)
        corrected = mutual_information(a, a, bins=5, binning=binning, method=method)
    for found in (raw, corrected):
        assert found.isfinite().all()
        assert (found[:3] == 0).all()
        assert (found[:, :3] == 0).all()
        assert torch.equal(found[5], found[6])
        assert torch.equal(found[:, 5], found[:, 6])
    # fewer samples than one of five quantile bins holds leave that bin to the zeros
    seen = 0 if binning == "quantile" else entropy([1 / n, 1 - 1 / n])
    assert raw[3, 3].item() == pytest.approx(seen, abs=1e-12)
    assert raw[4, 4].item() == pytest.approx(math.log(2), abs=1e-12)
    assert corrected[4, 4].item() == pytest.approx(math.log(2) + 1 / (2 * n), abs=1e-12)
    if binning != "uniform":
        assert raw[5, 6].item() == pytest.approx(math.log(5), abs=1e-12)


@pytest.mark.parametrize(("n", "bins_a", "bins_b"), [(2, 2, 2), (61, 4, 3), (1003, 3, 3), (9001, 3, 4), (301, 255, 20)])
@pytest.mark.parametrize("method", METHODS)
def test_counts_are_equal_bit_by_bit(generator, n, bins_a, bins_b, method):
    """With 1,003 and 9,001 samples two units of b are counted at a time, and the fifth alone."""
    a, b = activations(generator, n)
    edges_a, edges_b = bin_edges(a, bins=bins_a), bin_edges(b, bins=bins_b)
    histogram = JointHistogram(edges_a, edges_b, method=method)
    expected = np.zeros((7, 5, bins_a + 1, bins_b + 1), dtype=np.int32)
    for i, x in enumerate(edges_a.codes(a).numpy()):
        for j, y in enumerate(edges_b.codes(b).numpy()):
            np.add.at(expected[i, j], (x, y), 1)
    for times in (1, 2):
        histogram.update(a, b)
        assert np.array_equal(histogram.counts.numpy(), times * expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("binning", BINNINGS)
def test_all_ways_of_counting_give_one_value(generator, binning, method):
    a, b = activations(generator, 6000, dtype=torch.float64)
    found = mutual_information(a, b, bins=5, binning=binning, method=method)
    assert torch.allclose(found, mutual_information(a, b, bins=5, binning=binning), atol=1e-10)


EDGES = [bin_edges(acts, bins=4) for acts in activations(torch.Generator().manual_seed(1))]


def of(a, b, edges=EDGES):
    histogram = JointHistogram(*edges)
    histogram.update(a, b)
    return histogram


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=6), st.randoms(use_true_random=False), st.booleans())
def test_any_split_merged_in_any_order_equals_one_batch(sizes, shuffler, single):
    a, b = activations(
        torch.Generator().manual_seed(sum(sizes)), sum(sizes) + 200, dtype=torch.float32 if single else torch.float64
    )
    parts = [of(x, y) for x, y in zip(a.split([*sizes, 200]), b.split([*sizes, 200]), strict=True)]
    shuffler.shuffle(parts)
    while len(parts) > 1:  # a random tree of merges
        k = shuffler.randrange(len(parts) - 1)
        parts[k : k + 2] = [parts[k].merge(parts[k + 1])]
    whole = of(a, b)
    assert parts[0].n_samples == whole.n_samples == len(a)
    assert torch.equal(parts[0].counts, whole.counts)
    assert torch.equal(parts[0].mutual_information(), whole.mutual_information())


def test_a_histogram_over_its_own_bins_equals_the_function(generator):
    a, b = activations(generator)
    histogram = JointHistogram(bin_edges(a), bin_edges(b))
    for rows in torch.arange(3000).split([1, 999, 2000]):
        histogram.update(a[rows], b[rows])
    for correction in (None, "miller-madow"):
        streamed = histogram.mutual_information(correction=correction)
        assert torch.equal(streamed, mutual_information(a, b, correction=correction))


def test_merging_leaves_the_parts_alone_and_an_empty_part_changes_nothing(generator):
    a, b = activations(generator)
    first, second = of(a[:1000], b[:1000]), of(a[1000:], b[1000:])
    kept = first.counts.clone()
    merged, empty = first.merge(second), of(a[:0], b[:0])
    assert torch.equal(first.counts, kept)
    assert torch.equal(merged.counts, second.merge(first).counts)
    assert torch.equal(merged.counts, of(a, b).counts)
    for same in (merged.merge(empty), empty.merge(merged)):
        assert torch.equal(same.counts, merged.counts)
        assert same.n_samples == 3000


def test_the_plug_in_value_of_a_million_copies_is_that_of_one(generator):
    histogram = of(*activations(generator))
    before = histogram.mutual_information(correction=None)
    for _ in range(10):
        histogram = histogram.merge(histogram)
    assert histogram.n_samples == 3000 * 1024
    assert torch.allclose(histogram.mutual_information(correction=None), before, atol=1e-12)


def test_a_bad_batch_leaves_no_trace(generator):
    a, b = activations(generator)
    histogram = of(a, b)
    for value in (math.nan, math.inf):
        bad = b.clone()
        bad[-1, 3] = value
        with pytest.raises(ValueError, match="^b: .*unit 3"):
            histogram.update(a, bad)
    with pytest.raises(ValueError, match="a: expected 7 units, got 5"):
        histogram.update(b, b)
    with pytest.raises(ValueError, match="b: expected 3000 samples as in a, got 2999"):
        histogram.update(a, b[1:])
    assert torch.equal(histogram.counts, of(a, b).counts)
    assert torch.equal(histogram.mutual_information(), of(a, b).mutual_information())


def test_not_a_number_is_never_counted_unnoticed(generator, device):
    """On the CPU the batch is refused, on a device the read-out, also of what it was merged into."""
    a, b = activations(generator)
    histogram = JointHistogram(*(bin_edges(acts.to(device)) for acts in (a, b)))
    with pytest.raises(ValueError, match="^a: .*unit 2"):
        histogram.update(put(a, 2, math.nan).to(device), b.to(device))
        JointHistogram(histogram.edges_a, histogram.edges_b).merge(histogram).mutual_information()


def test_unlike_histograms_do_not_merge(generator):
    a, b = activations(generator)
    histogram = of(a, b)
    moved = BinEdges(EDGES[0].cuts + 1, zero_bin=True)
    for other in (of(a, b, (moved, EDGES[1])), of(a, b, (EDGES[0], bin_edges(b, bins=5))), "histogram"):
        with pytest.raises(ValueError, match="same bins"):
            histogram.merge(other)


def test_counts_of_more_than_two_gibibytes_are_refused():
    edges = BinEdges(torch.zeros(4096, 9), zero_bin=True)
    with pytest.raises(ValueError, match=r"at most 2 GiB, got 7.6 GiB for 4096 x 4096 units"):
        JointHistogram(edges, edges)


def test_inputs_are_not_changed_and_numpy_and_half_precision_are_read(generator):
    a, b = activations(generator, dtype=torch.bfloat16)
    kept = a.clone()
    found = mutual_information(a, b)
    assert torch.equal(a, kept)
    assert torch.equal(found, mutual_information(a.float().numpy(), b.double().numpy()))


def put(acts, unit, value):
    return acts.index_put((torch.tensor(3), torch.tensor(unit)), torch.tensor(value))


BAD = {
    "unequal samples": (lambda a, b: (a, b[:-1]), {}, "acts_b: expected 3000 samples as in acts_a, got 2999"),
    "one sample": (lambda a, b: (a[:1], b[:1]), {}, "at least 2 samples, got 1"),
    "not a number": (lambda a, b: (a, put(b, 4, math.nan)), {}, "^acts_b: .*unit 4"),
    "infinite": (lambda a, b: (put(put(a, 5, math.nan), 2, -math.inf), b), {"binning": "uniform"}, "^acts_a: .*unit 2"),
    "integers": (lambda a, b: (a.long(), b), {}, "acts_a: expected floating-point"),
    "a vector": (lambda a, b: (a, b[:, 0]), {}, r"acts_b: expected shape \(samples, units\)"),
    "one bin": (lambda a, b: (a, b), {"bins": 1}, "bins: expected 2 to 255, got 1"),
    "too many bins": (lambda a, b: (a, b), {"bins": 257, "binning": "uniform"}, "bins: expected 2 to 256, got 257"),
    "half a bin": (lambda a, b: (a, b), {"bins": 2.5}, "bins: expected 2 to 255"),
    "binning": (lambda a, b: (a, b), {"binning": "quantiles"}, "binning: .* did you mean 'quantile'"),
    "correction": (lambda a, b: (a, b), {"correction": "miller"}, "correction: .* did you mean 'miller-madow'"),
    "method": (lambda a, b: (a, b), {"method": "scater"}, "method: .* did you mean 'scatter'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_named(generator, case):
    spoil, options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        mutual_information(*spoil(*activations(generator)), **options)


def test_bad_arguments_of_bins_and_histograms_are_named(generator):
    a, b = activations(generator)
    with pytest.raises(ValueError, match="^acts: .*unit 6"):
        bin_edges(put(a, 6, math.nan))
    with pytest.raises(ValueError, match="acts: expected at least 2 samples, got 1"):
        bin_edges(a[:1])
    with pytest.raises(ValueError, match="acts: expected 7 units, got 5"):
        bin_edges(a).codes(b)
    with pytest.raises(ValueError, match="method: "):
        JointHistogram(*EDGES, method="gpu")
    with pytest.raises(ValueError, match="a: expected at least 2 samples, got 1"):
        of(a[:1], b[:1]).mutual_information()
    with pytest.raises(ValueError, match="correction: "):
        of(a, b).mutual_information(correction="none")


def test_too_few_samples_for_the_bins_are_noticed(generator):
    a, b = activations(generator, 604)  # five for each of 11 x 11 cells are 605
    with pytest.warns(UserWarning, match="604 samples for joint histograms of 121 cells") as caught:
        mutual_information(a, b)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="604 samples"):
        of(a, b, (bin_edges(a), bin_edges(b))).mutual_information()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mutual_information(a, b, bins=9)
        mutual_information((a > 0).float(), b, binning="quantile")  # two bins are left of ten


class CountOperations(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("binning", BINNINGS)
@pytest.mark.usefixtures("fake_cuda")
def test_on_a_gpu_nothing_waits_and_operations_do_not_grow_with_units(binning):
    """On a fake cuda device any look at a value raises, so a run that passes has no host synchronisation."""
    counts = []
    for units in (8, 200):
        with FakeTensorMode(), CountOperations() as counter:
            rows = torch.randn(5000, units, device="cuda")
            found = mutual_information(rows, rows, binning=binning)
            histogram = JointHistogram(*(bin_edges(rows, binning=binning) for _ in range(2)))
            for _ in range(3):
                histogram.update(rows, rows)
            streamed = histogram.mutual_information()
            assert found.device.type == streamed.device.type == "cuda"
            assert found.shape == streamed.shape == (units, units)
        counts.append(counter.count)
    assert counts[0] == counts[1]


@pytest.mark.usefixtures("fake_cuda")
def test_no_tensor_grows_with_the_number_of_pairs():
    """At 4,096 x 4,096 units nothing is larger than the result."""

    class Largest(TorchDispatchMode):
        entries = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes = [value.numel() for value in pytree.tree_leaves(out) if isinstance(value, torch.Tensor)]
            self.entries = max([self.entries, *sizes])
            return out

    with FakeTensorMode(), Largest() as largest:
        rows = torch.randn(2500, 4096, device="cuda")
        mutual_information(rows, rows, bins=4, binning="quantile")
    assert largest.entries == 4096 * 4096


@pytest.mark.usefixtures("fake_cuda")
def test_compiled_loops_are_refused_off_the_cpu():
    with FakeTensorMode():
        rows = torch.randn(100, 3, device="cuda")
        with pytest.raises(ValueError, match="method: 'numba' counts on the CPU"):
            mutual_information(rows, rows, method="numba")
        with pytest.raises(ValueError, match="a: expected activations on cuda:0 as their bins, got cpu"):
            JointHistogram(bin_edges(rows), bin_edges(rows)).update(rows.cpu(), rows)


def test_counts_are_exact_under_autocast():
    acts = torch.randn(10_001, 2, generator=torch.Generator().manual_seed(0)).relu()
    right = mutual_information(acts, acts, method="product")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mutual_information(acts, acts, method="product"), right)


def test_a_histogram_goes_on_from_its_state_or_a_file(tmp_path, generator):
    a, b = torch.randn(300, 4, generator=generator), torch.randn(300, 3, generator=generator).double()
    edges = bin_edges(a), bin_edges(b, binning="relu-quantile")
    whole, half = JointHistogram(*edges), JointHistogram(*edges)
    whole.update(a, b)
    half.update(a[:100], b[:100])
    cu.save(half, tmp_path / "half.safetensors")
    for again in (JointHistogram.from_state(half.state()), cu.load(tmp_path / "half.safetensors")):
        again.update(a[100:], b[100:])
        assert again.n_samples == 300
        assert torch.equal(again.counts, whole.counts)
        assert torch.equal(again.mutual_information(), whole.mutual_information())
        assert torch.equal(again._largest, whole._largest)
    assert half.n_samples == 100, "what goes on is another object"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("counts", lambda value: value[:1]), ("counts", lambda value: value + 1), ("counts", lambda value: -value),
        ("counts", lambda value: value.double()), ("counts", lambda value: None), ("largest", lambda value: value[1:]),
        ("n_samples", lambda value: 5), ("n_samples", lambda value: -1), ("n_samples", lambda value: 2.0),
    ],
)  # fmt: skip
def test_a_state_that_is_none_is_refused(name, change, generator):
    a = torch.randn(50, 2, generator=generator)
    histogram = JointHistogram(bin_edges(a), bin_edges(a))
    histogram.update(a, a)
    state = histogram.state()
    with pytest.raises(ValueError, match="^state: expected"):
        JointHistogram.from_state({**state, name: change(state[name])})
    for other in ({}, None, {**state, "more": 1}):
        with pytest.raises(ValueError, match=r"^state: expected JointHistogram.state\(\)"):
            JointHistogram.from_state(other)
