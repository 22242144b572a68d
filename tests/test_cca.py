import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import qr, svdvals
from sklearn.cross_decomposition import CCA
from torch.utils._python_dispatch import TorchDispatchMode

import convergent_utils as cu
from convergent_utils import cca, pwcca, significant_correlations, svcca

SIMILARITIES = [cca, svcca, pwcca]


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def compare(similarity, a, b, **options):
    return similarity(cu.pair_moments(a, b), **options)


def basis(acts, tolerance=1e-5):
    """Orthonormal basis of the standardised live units, from the SVD of the data, and its relative cut."""
    acts = np.asarray(acts, dtype=np.float64)
    live = acts[:, (acts != acts[0]).any(0)]
    left, size, _ = np.linalg.svd((live - live.mean(0)) / live.std(0), full_matrices=False)
    return left[:, size**2 > tolerance * size[0] ** 2]


def case(name, generator):
    """Two nets that share some of their variance, with what is awkward about their units, and the true ranks."""
    shared = normal(generator, 600, 12)
    a, b = (shared @ normal(generator, 12, width) + 2 * normal(generator, 600, width) for width in (12, 9))
    zeros = torch.zeros(600, 2, dtype=torch.float64)
    if name == "equal widths":
        return a, torch.cat([b, normal(generator, 600, 3)], 1), 12, 12
    if name == "far from zero, of unlike scales":
        return (a + 50) * torch.logspace(-8, 8, 12), (b - 7) * torch.logspace(3, -3, 9), 12, 9
    if name == "ill-conditioned":
        narrow = torch.linalg.qr(normal(generator, 12, 12)).Q * torch.logspace(0, -1.5, 12, dtype=torch.float64)
        return a @ narrow @ torch.linalg.qr(normal(generator, 12, 12)).Q, b, 12, 9
    if name == "of low rank":
        return a @ normal(generator, 12, 40), b[:, :4] @ normal(generator, 4, 30), 12, 4
    if name == "dead units":
        return torch.cat([zeros, a, zeros + 3], 1), torch.cat([b, zeros - 0.1], 1), 12, 9
    if name == "duplicated units":
        return torch.cat([a, -a, 3 * a[:, :5] + 1], 1), torch.cat([b, b], 1), 12, 9
    return a, b, 12, 9


CASES = ["equal widths", "unequal widths", "far from zero, of unlike scales", "ill-conditioned", "of low rank",
         "dead units", "duplicated units"]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CASES)
def test_same_correlations_as_the_svd_of_the_data(name, dtype, generator, device):
    a, b, rank_a, rank_b = case(name, generator)
    a, b = a.to(dtype), b.to(dtype)
    found = compare(cca, a.to(device), b.to(device))
    oracle = svdvals(basis(a).T @ basis(b))
    assert (found.rank_a, found.rank_b) == (rank_a, rank_b)
    assert found.rho.cpu().numpy() == pytest.approx(oracle, abs=1e-6 if dtype == torch.float64 else 1e-5)
    assert float(found.similarity) == pytest.approx(oracle.mean(), abs=1e-5)
    assert found.rho.dtype == found.similarity.dtype == torch.float64
    assert found.similarity.shape == ()
    expected = (600, 1e-10 if dtype == torch.float64 else 1e-5, 1)
    assert (found.n_samples, found.rank_tolerance, float(found.coverage)) == expected


def test_same_correlations_as_qr(generator):
    a, b, _, _ = case("unequal widths", generator)
    bases = [qr((acts - acts.mean(0)).numpy(), mode="economic")[0] for acts in (a, b)]
    assert compare(cca, a, b).rho.numpy() == pytest.approx(svdvals(bases[0].T @ bases[1]), abs=1e-9)


def test_same_variates_as_scikit_learn(generator):
    a, b, _, _ = case("unequal widths", generator)
    found, peer = compare(cca, a, b), CCA(n_components=3, max_iter=10_000, tol=1e-12).fit(a, b)
    ours = found.variates_a(a)[:, :3].numpy(), found.variates_b(b)[:, :3].numpy()
    for mine, theirs in zip(ours, peer.transform(a, b), strict=True):
        both = np.corrcoef(mine.T, theirs.T)[:3, 3:]
        assert np.abs(both) == pytest.approx(np.eye(3), abs=1e-4)


@pytest.mark.parametrize("name", ["equal widths", "unequal widths", "ill-conditioned"])
def test_same_correlations_as_cca_zoo(name, generator):
    linear = pytest.importorskip("cca_zoo.linear")
    a, b, _, rank = case(name, generator)
    theirs = linear.CCA(n_components=rank).fit_transform([a.numpy(), b.numpy()])
    oracle = [abs(np.corrcoef(*pair)[0, 1]) for pair in zip(*(view.T for view in theirs), strict=True)]
    assert compare(cca, a, b).rho.numpy() == pytest.approx(oracle, abs=1e-6)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("name", CASES)
def test_variates(name, similarity, generator, device):
    a, b, _, _ = case(name, generator)
    found = compare(similarity, a.to(device), b.to(device))
    variates = found.variates_a(a.to(device)), found.variates_b(b.to(device))
    joint = torch.cat(variates, 1).T.cov(correction=0).cpu()
    k, identity = len(found.rho), torch.eye(len(found.rho), dtype=torch.float64)
    assert k == min(found.rank_a, found.rank_b)
    for got, expected in (
        (joint[:k, :k], identity),
        (joint[k:, k:], identity),
        (joint[:k, k:], found.rho.cpu().diag()),
    ):
        assert torch.allclose(got, expected, atol=1e-8)
    for acts, directions in ((a, found.directions_a), (b, found.directions_b)):
        assert (directions[(acts == acts[0]).all(0)] == 0).all()
    new = 5 * normal(generator, 4, a.shape[1]).float()
    expected = (new.double().numpy() - a.mean(0).numpy()) @ found.directions_a.cpu().numpy()
    assert found.variates_a(new.to(device)).cpu().numpy() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert found.rho_on(cu.pair_moments(a.to(device), b.to(device))).cpu().numpy() == pytest.approx(found.rho.cpu())
    assert float(found.weights.sum()) == pytest.approx(1)
    assert float(found.similarity) == pytest.approx(float((found.weights * found.rho).sum()))


def test_planted_correlations(generator):
    planted = torch.tensor([1, 0.9, 0.9, 0.5, 0.1, 0], dtype=torch.float64)
    noise = normal(generator, 300, 12)
    unit = torch.linalg.qr(noise - noise.mean(0)).Q
    a, b = unit[:, :6], planted * unit[:, :6] + (1 - planted**2).sqrt() * unit[:, 6:]
    found = compare(cca, a @ normal(generator, 6, 6) + 4, b @ normal(generator, 6, 6))
    assert found.rho.numpy() == pytest.approx(planted, abs=1e-7)
    assert float(found.similarity) == pytest.approx(3.4 / 6)


def test_the_number_of_the_famous_toy():
    np.random.seed(1337)  # noqa: NPY002 - the toy is defined by the old generator
    x = np.random.randn(100, 10)  # noqa: NPY002
    y = np.random.randn(100, 10) + x  # noqa: NPY002
    assert float(compare(cca, x, y).rho.square().mean()) == pytest.approx(0.545396, abs=1e-6)


@pytest.mark.filterwarnings("ignore:.*samples are too few")
@pytest.mark.parametrize(
    ("n", "expected"), [(101, 1.0), (200, 0.64), (500, 0.39), (1000, 0.27), (2000, 0.19), (10_000, 0.084)]
)
def test_independent_units_are_alike_by_chance(n, expected, generator):
    a, b = torch.randn(2, n, 100, generator=generator)
    chance = cu.chance_level(lambda x, y: compare(cca, x, y).similarity, a, b, n_shuffles=20)
    assert float(chance.observed) == pytest.approx(expected, abs=0.01)
    assert float(chance.mean) == pytest.approx(expected, abs=0.01)
    assert chance.p_value > 0.04


@pytest.mark.parametrize("shared", [1, 64])
def test_ranks_are_exact_at_512_units(shared, generator):
    """Of float32, with the sums of rounding that follow from binary and rectified units, and dead ones."""
    latent = torch.randn(6000, 120, generator=generator) + torch.randn(6000, 1, generator=generator) / shared
    once = torch.cat([latent.relu(), (latent > 2).float()], 1)
    copies = torch.cat([once, 0.7 * once, torch.zeros(6000, 32)], 1)
    sums = latent @ torch.randn(120, 512, generator=generator) + 100
    for dtype in (torch.float32, torch.float64):
        found = compare(cca, copies.to(dtype), sums.to(dtype))
        assert (found.rank_a, found.rank_b) == (240, 120)


def test_on_a_spectrum_without_gap_the_cut_decides_and_is_told(generator):
    a = normal(generator, 400, 60)
    a = a @ (torch.linalg.qr(normal(generator, 60, 60)).Q * torch.logspace(0, -6, 60, dtype=torch.float64)).T
    ranks = []
    for tolerance in (1e-3, 1e-5, 1e-8):
        found = compare(cca, a, a[:, :9], rank_tolerance=tolerance)
        ranks.append(found.rank_a)
        assert found.rank_tolerance == tolerance
        assert found.rank_a == basis(a, tolerance).shape[1]
        assert found.rho.numpy() == pytest.approx(svdvals(basis(a, tolerance).T @ basis(a[:, :9], tolerance)), abs=1e-6)
    assert 5 < ranks[0] < ranks[1] < ranks[2] < 60


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_the_cut_follows_the_precision_of_the_rows(similarity, generator):
    """A direction with a millionth of the variance, and all that the nets share lies along it."""
    a, b = normal(generator, 500, 4), normal(generator, 500, 3)
    a[:, 3] = a[:, 0] + 1e-4 * b[:, 0]
    options = {"keep": 1} if similarity is svcca else {}
    double = compare(similarity, a, b, **options)
    assert (double.rank_a, double.rank_tolerance) == (4, 1e-10)
    assert float(double.rho[0]) == pytest.approx(svdvals(basis(a, 1e-10).T @ basis(b, 1e-10))[0], abs=1e-6)
    assert double.rho[0] > 0.999
    for x, y in ((a.float(), b.float()), (a.float(), b), (a, b.half())):
        single = compare(similarity, x, y, **options)
        assert (single.rank_a, single.rank_tolerance) == (3, 1e-5)
    found = compare(similarity, a.float(), b.float(), rank_tolerance=1e-3, **options)
    assert found.rank_tolerance == 1e-3


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("scale", [2.0**-498, 2.0**-100, 2.0**100, 2.0**498])
def test_any_scale_is_right(similarity, scale, generator):
    a, b, _, _ = case("duplicated units", generator)
    expected, acts = compare(similarity, a, b), (scale * a, b / scale)
    found = compare(similarity, *acts)
    for name in ("rho", "weights", "coverage", "similarity"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    variates = found.variates_a(acts[0]), found.variates_b(acts[1])
    for now, before in zip(variates, (expected.variates_a(a), expected.variates_b(b)), strict=True):
        assert torch.allclose(now, before, atol=1e-9)
    assert torch.allclose(found.rho_on(cu.pair_moments(*acts)), found.rho, atol=1e-9)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_parts_merged_equal_the_whole(similarity, generator):
    a, b, _, _ = case("duplicated units", generator)
    moments = cu.Moments({"a": a.shape[1], "b": b.shape[1]})
    for rows in torch.randperm(600, generator=generator).split([1, 99, 350, 150]):
        moments.update({"a": a[rows], "b": b[rows]})
    found, whole = similarity(moments.pair("a", "b")), compare(similarity, a, b)
    assert torch.allclose(found.rho, whole.rho, atol=1e-10)
    assert torch.allclose(found.similarity, whole.similarity, atol=1e-9)


def test_correlations_in_other_samples(generator):
    a, b = normal(generator, 400, 8), normal(generator, 400, 6)
    b[:, 0] += a[:, 0]
    found, other = compare(cca, a[::2], b[::2]), cu.pair_moments(a[1::2], b[1::2])
    rho = found.rho_on(other)
    variates = found.variates_a(a[1::2]).T, found.variates_b(b[1::2]).T
    expected = [np.corrcoef(x, y)[0, 1] for x, y in zip(*variates, strict=True)]
    assert rho.numpy() == pytest.approx(expected, abs=1e-9)
    assert rho[0] > 0.5, "what is shared holds in other samples"
    assert rho[1:].abs().max() < found.rho[1] - 0.05, "what was fitted to noise does not"
    assert compare(cca, a[::2], a[::2] - 5).rho_on(cu.pair_moments(a[1::2], a[1::2])).max() <= 1
    assert found.rho_on(cu.pair_moments(a[::2], -b[::2])).numpy() == pytest.approx(-found.rho.numpy())


def test_variates_that_do_not_vary_in_other_samples_correlate_zero(generator):
    """One unit of net a is nearly the sum of the others there, and net b read the difference."""
    a, other = normal(generator, 200, 3), normal(generator, 200, 3)
    b, other_b = (a[:, 0] - a[:, 1] - a[:, 2])[:, None], normal(generator, 200, 1)
    found = compare(cca, a, b, rank_tolerance=1e-5)
    assert found.rho.tolist() == pytest.approx([1])
    assert found.rho_on(cu.pair_moments(other, other_b)) != 0
    other[:, 0] = other[:, 1] + other[:, 2] + 1e-4 * other_b[:, 0]
    assert found.rho_on(cu.pair_moments(other, other_b)) == 0
    assert found.rho_on(cu.pair_moments(a, 0 * b)) == 0


@pytest.mark.parametrize(("rule", "power"), [("variance", 2), ("singular", 1)])
def test_svcca_is_cca_of_the_principal_components(rule, power, generator):
    a, b = (normal(generator, 300, 30) @ normal(generator, 30, 30) + 3 for _ in range(2))
    b = b + a
    parts = []
    for acts in (a.numpy(), b.numpy()):
        left, size, _ = np.linalg.svd(acts - acts.mean(0), full_matrices=False)
        parts.append(left[:, : 1 + int(np.argmax((size**power).cumsum() >= 0.9 * (size**power).sum()))])
    found = compare(svcca, a, b, keep=0.9, rule=rule)
    assert (found.rank_a, found.rank_b) == tuple(part.shape[1] for part in parts)
    oracle = svdvals(parts[0].T @ parts[1])
    assert found.rho.numpy() == pytest.approx(oracle, abs=1e-9)
    assert float(found.similarity) == pytest.approx(oracle.mean())
    assert float(found.similarity_by_width) == pytest.approx(oracle.sum() / 30)


def test_keeping_more(generator):
    a, b = (normal(generator, 300, 20) @ normal(generator, 20, 20) for _ in range(2))
    ranks = [compare(svcca, a, b, keep=keep).rank_a for keep in (1e-9, 0.5, 0.9, 0.99, 1)]
    assert ranks == sorted(set(ranks))
    assert (ranks[0], ranks[-1]) == (1, 20)
    assert compare(svcca, a, b, rule="singular").rank_a > compare(svcca, a, b).rank_a
    assert torch.allclose(compare(svcca, a, b, keep=1).rho, compare(cca, a, b).rho, atol=1e-9)
    quiet = torch.cat([a, 1e-4 * normal(generator, 300, 1)], 1)
    assert compare(svcca, quiet.float(), b, keep=1).rank_a == 20, "never below the relative cut"
    quiet[:, 20] *= 1e-2
    assert compare(svcca, quiet, b, keep=1).rank_a == 20, "never below the relative cut"
    assert compare(cca, quiet, b).rank_a == 21


def test_a_truncated_layer_with_itself(generator):
    a = normal(generator, 300, 20) * torch.logspace(0, -2, 20)
    found = compare(svcca, a, a)
    assert found.rank_a < 15
    assert float(found.similarity) == pytest.approx(1)
    assert float(found.similarity_by_width) == pytest.approx(found.rank_a / 20)


def test_only_truncation_tells_noise_from_what_a_net_knows_besides(generator):
    """Appendix of SVCCA: both B and C hold all 50 dimensions of A; B has noise besides, C as much again of use."""
    a, rest = normal(generator, 2000, 50), normal(generator, 2000, 150)
    b, c = (torch.cat([a, size * rest], 1) @ torch.linalg.qr(normal(generator, 200, 200)).Q for size in (0.03, 1))
    plain_b, plain_c, found_b, found_c = (compare(f, a, other) for f in (cca, svcca) for other in (b, c))
    assert (plain_b.rank_b, plain_c.rank_b) == (200, 200)
    assert torch.allclose(plain_b.rho, plain_c.rho, atol=1e-6)
    assert found_b.rank_b <= 50 < 190 < found_c.rank_b
    of_the_wider = [float(found.rho.sum()) / max(found.rank_a, found.rank_b) for found in (found_b, found_c)]
    assert of_the_wider == pytest.approx([1, 0.25], abs=0.02)


def published(a, b):
    """PWCCA of activations as printed: variates from orthonormal bases of the centred units, weights from net a."""
    a, b = a - a.mean(0), b - b.mean(0)
    (basis_a, _), (basis_b, _) = np.linalg.qr(a), np.linalg.qr(b)
    left, rho, _ = np.linalg.svd(basis_a.T @ basis_b, full_matrices=False)
    alpha = np.abs((basis_a @ left).T @ a).sum(1)
    return (alpha * rho).sum() / alpha.sum()


def toy(signal, apart, generator):
    """Nets of 200 units and 2,000 points that share `signal` dimensions, up to noise `apart`; the rest is noise."""
    shared = normal(generator, 2000, signal)
    for _ in range(2):
        noisy = shared + apart * torch.linspace(0.1, 1, signal) * normal(generator, 2000, signal)
        rest = 0.2 * normal(generator, 2000, 200 - signal)
        yield torch.cat([noisy, rest], 1) @ torch.linalg.qr(normal(generator, 200, 200)).Q


@pytest.mark.parametrize("signal", [2, 50, 120, 180])
@pytest.mark.parametrize(("apart", "tolerance"), [(0.5, 1e-6), (0, 2e-3)])
def test_pwcca_on_its_own_toy(signal, apart, tolerance, generator):
    """What is shared without noise has tied correlations of 1, and any basis of it is as good: hence the tolerance."""
    a, b = toy(signal, apart, generator)
    found, unweighted = compare(pwcca, a, b), compare(cca, a, b)
    assert float(found.similarity) == pytest.approx(published(a.numpy(), b.numpy()), abs=tolerance)
    assert abs(found.similarity - unweighted.similarity) > 3 * tolerance, "the weights do nothing here"
    for changed in ((a + 5, b + 5), (a + 1000, b + 1000), (1e-4 * a, 1e-4 * b)):
        assert float(compare(pwcca, *changed).similarity) == pytest.approx(float(found.similarity), abs=tolerance)
    single = compare(pwcca, a.float() + 1000, b.float() + 1000)
    assert float(single.similarity) == pytest.approx(float(found.similarity), abs=2e-3)


def test_pwcca_weighs_by_net_a(generator):
    """Net a uses what is shared for most of its variance, net b for little."""
    shared, noise, rest_a, rest_b = normal(generator, 4, 500, 6)
    a, b = torch.cat([3 * shared, rest_a], 1), torch.cat([shared + noise, 3 * rest_b], 1)
    there, back = compare(pwcca, a, b), compare(pwcca, b, a)
    assert torch.allclose(there.rho, back.rho, atol=1e-9)
    for found, first, second in ((there, a, b), (back, b, a)):
        assert float(found.similarity) == pytest.approx(published(first.numpy(), second.numpy()), abs=1e-9)
    assert there.similarity > back.similarity + 0.1


def test_coverage_is_what_the_variates_with_a_partner_weigh(generator):
    """The others of a wider net a, along the principal axes of what is left of it."""
    a, b, _, _ = case("unequal widths", generator)
    found = compare(pwcca, a, b)
    variates = found.variates_a(a).numpy() / np.sqrt(len(a))
    centred = (a - a.mean(0)).numpy()
    rest = centred - variates @ (variates.T @ centred)
    others, size, _ = np.linalg.svd(rest, full_matrices=False)
    assert (size[3:] < 1e-9 * size[0]).all()
    weighed = np.abs(variates.T @ centred).sum()
    expected = weighed / (weighed + np.abs(others[:, :3].T @ centred).sum())
    assert 0.5 < float(found.coverage) < 0.95
    assert float(found.coverage) == pytest.approx(expected, abs=1e-9)
    mixed = compare(pwcca, a, b @ normal(generator, 9, 9))
    assert float(mixed.coverage) == pytest.approx(expected, abs=1e-9)
    for full in (compare(pwcca, b, a), compare(pwcca, a, a), compare(cca, a, b), compare(svcca, a, b)):
        assert full.coverage == 1


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_too_few_samples_are_told_to_the_caller(similarity, generator):
    a, b = normal(generator, 31, 20), normal(generator, 31, 16)
    options = {"keep": 1} if similarity is svcca else {}
    with pytest.warns(UserWarning, match="31 samples are too few for .* whatever the data") as told:
        found = similarity(cu.pair_moments(a, b), **options)
    assert told[0].filename == __file__
    assert "20 + 16 directions: 6 or more" in str(told[0].message)
    assert "about 0.67 to 0.82" in str(told[0].message)
    assert found.rho[:6].numpy() == pytest.approx(np.ones(6))
    assert found.rho[6] < 1 - 1e-3
    assert 0.67 < found.similarity < 0.82
    with pytest.warns(UserWarning, match=" 1 or more"):
        compare(similarity, normal(generator, 36, 20), normal(generator, 36, 16), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare(similarity, normal(generator, 37, 20), normal(generator, 37, 16), **options)


def test_few_samples_for_the_units_are_told_though_few_directions_are_kept(generator):
    a, b = normal(generator, 19, 20), normal(generator, 19, 16)
    with pytest.warns(UserWarning, match=r"19 samples are too few for 1 \+ 1 directions kept of 18 \+ 16: indep"):
        compare(svcca, a, b, keep=0.05)
    dead, copies = torch.cat([a[:, :3], torch.zeros(19, 30)], 1), a[:, :3].repeat(1, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for few in (dead, copies):
            compare(svcca, few, b[:, :3])
            compare(cca, few, torch.zeros(19, 40))


def test_the_chance_that_the_warning_states(generator):
    with pytest.warns(UserWarning, match="about 1.00 to 1.00"):
        compare(cca, *torch.randn(2, 20, 30, generator=generator), rank_tolerance=1e-12)  # counts rounding as well
    pairs = [cu.pair_moments(normal(generator, 60, 30), normal(generator, 60, 12)) for _ in range(100)]
    squares = torch.stack([cca(pair).rho.square().mean() for pair in pairs])
    assert float(squares.mean()) == pytest.approx(30 / 59, abs=0.01)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_nets_of_dead_units_alone(similarity, generator, device):
    dead, ordinary = torch.full((50, 3), 0.1, device=device), normal(generator, 50, 4).to(device)
    for a, b, ranks in ((dead, ordinary, (0, 4)), (ordinary, dead, (4, 0)), (dead, dead, (0, 0))):
        found = compare(similarity, a, b)
        assert (found.rank_a, found.rank_b) == ranks
        assert found.similarity == found.similarity_by_width == 0
        assert found.rho.shape == found.weights.shape == found.rho_on(cu.pair_moments(a, b)).shape == (0,)
        assert found.variates_a(a).shape == (50, 0)
        assert found.coverage.isfinite()
        assert significant_correlations(found).count == 0


def test_bartlett_by_its_formula(generator):
    a, b, p, q = case("unequal widths", generator)
    found = compare(cca, a, b)
    rho, expected = found.rho.numpy(), []
    for i in range(q):
        factor = 300 - 1 - i - (p + q + 1) / 2 + (1 / rho[:i] ** 2).sum()
        expected.append(stats.chi2.sf(-factor * np.log(1 - rho[i:] ** 2).sum(), (p - i) * (q - i)))
    counted = significant_correlations(found, n_samples=300)
    assert counted.p_value.numpy() == pytest.approx(np.array(expected), rel=1e-6, abs=1e-12)
    assert counted.count == np.argmax(np.array(expected) >= 0.05)
    assert significant_correlations(found, n_samples=300, level=1e-30).count < counted.count


def test_p_values_are_uniform_where_nothing_is_shared(generator):
    p_values = [
        float(significant_correlations(compare(cca, normal(generator, 60, 5), normal(generator, 60, 4))).p_value[0])
        for _ in range(400)
    ]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_what_is_shared_is_counted(generator):
    counts = []
    for _ in range(60):
        shared = normal(generator, 400, 3)
        a, b = (
            torch.cat([shared, normal(generator, 400, width)], 1) @ normal(generator, width + 3, width + 3)
            for width in (5, 7)
        )
        b = b + 0.2 * normal(generator, 400, 10)
        counts.append(significant_correlations(compare(cca, a, b)).count)
    assert np.mean(np.array(counts) == 3) > 0.85
    assert min(counts) == 3
    itself = significant_correlations(compare(cca, a, a))
    assert itself.count == 8
    assert (itself.p_value == 0).all()


def test_counting_ends_at_the_first_that_is_not_significant(generator):
    found = compare(cca, normal(generator, 103, 2), normal(generator, 103, 2))
    counted = significant_correlations(replace(found, rho=torch.tensor([0.2, 0.2], dtype=torch.float64)))
    assert counted.p_value[1] < 0.05 < counted.p_value[0]
    assert counted.count == 0
    counted = significant_correlations(replace(found, rho=torch.tensor([0.9, 0.0], dtype=torch.float64)))
    assert (counted.count, float(counted.p_value[1])) == (1, 1)
    none = replace(found, rho=torch.zeros(2, dtype=torch.float64))
    assert significant_correlations(none).p_value.tolist() == [1, 1]


def test_bad_arguments(generator):
    pair = cu.pair_moments(normal(generator, 50, 4), normal(generator, 50, 3))
    for tolerance in (0, 1, -1e-5, float("nan")):
        for similarity in SIMILARITIES:
            with pytest.raises(ValueError, match="rank_tolerance: expected a share between 0 and 1, got"):
                similarity(pair, rank_tolerance=tolerance)
    for keep in (0, 1.01, -1, float("nan")):
        with pytest.raises(ValueError, match="keep: expected a share above 0 and at most 1, got"):
            svcca(pair, keep=keep)
    with pytest.raises(ValueError, match="did you mean 'variance'"):
        svcca(pair, rule="variances")
    found = cca(pair)
    with pytest.raises(ValueError, match=r"pair: expected units \(4, 3\), got \(3, 4\)"):
        found.rho_on(pair.swap())
    with pytest.raises(ValueError, match="acts_b: expected 3 units, got 4"):
        found.variates_b(normal(generator, 5, 4))
    for n_samples in (7, 51):
        with pytest.raises(ValueError, match=r"n_samples: expected more than 4 \+ 3 directions and at most 50 samples"):
            significant_correlations(found, n_samples=n_samples)
    for level in (0, 1):
        with pytest.raises(ValueError, match="level: expected a number between 0 and 1"):
            significant_correlations(found, level=level)


class Counting(TorchDispatchMode):
    """Counts operations, views apart: on a GPU each is a launch."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def test_the_number_of_operations_does_not_grow_with_units(generator):
    def operations(units):
        pair = cu.pair_moments(*torch.randn(2, 300, units, generator=generator))
        with Counting() as counting:
            for similarity in SIMILARITIES:
                significant_correlations(similarity(pair)).p_value + similarity(pair).rho_on(pair)
        return counting.count

    assert operations(4) == operations(60)


@pytest.mark.parametrize("measure", [cu.cca, cu.svcca, cu.pwcca])
@pytest.mark.parametrize(("scale_a", "scale_b"), [(1e80, 1e80), (1e150, 1e-3), (1e150, 1e150)])
def test_correlations_on_other_samples_of_any_scale(measure, scale_a, scale_b, generator):
    """Scales do not matter, whether those of the other samples alone, or of single units in all samples."""
    a = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    b = a + torch.randn(400, 3, generator=generator, dtype=torch.float64)
    found, own = measure(cu.pair_moments(a[:200], b[:200])), a.new_tensor([scale_a, 1.0, 1 / scale_b])
    right = found.rho_on(cu.pair_moments(a[200:], b[200:]))
    assert right.min() > 0.3
    moved = found.rho_on(cu.pair_moments(a[200:] * scale_a, b[200:] * scale_b))
    assert torch.allclose(moved, right, rtol=0, atol=1e-12)
    if measure is cu.cca:
        scaled = cu.cca(cu.pair_moments(a[:200] * own, b[:200])).rho_on(cu.pair_moments(a[200:] * own, b[200:]))
        assert torch.allclose(scaled, right, rtol=0, atol=1e-12)


def test_where_torch_finds_no_singular_values_others_do(monkeypatch):
    """With many equal ones, as of fewer samples than units, LAPACK's quicker way does not always converge."""
    generator = torch.Generator().manual_seed(0)
    pair = cu.pair_moments(*(torch.randn(300, units, generator=generator).double() for units in (6, 9)))
    wanted = [one(pair) for one in (cu.cca, cu.svcca, cu.pwcca)]

    def fails(*_arguments, **_options):
        raise torch.linalg.LinAlgError("linalg.svd: The algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "svd", fails)
    for one, known in zip((cu.cca, cu.svcca), wanted, strict=False):
        assert torch.allclose(one(pair).rho, known.rho, atol=1e-12)
        assert torch.allclose(one(pair).directions_a.abs(), known.directions_a.abs(), atol=1e-9)
