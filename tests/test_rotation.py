import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch._subclasses.fake_tensor import FakeTensorMode

import convergent_utils as cu


def nets(generator, n=4000, units=12, noise=0.0, dtype=torch.float64):
    """A net whose units are correlated, of unlike scale and mean, and a noisy copy of it."""
    mixed = torch.randn(n, units, generator=generator, dtype=torch.float64) @ torch.randn(
        units, units, generator=generator, dtype=torch.float64
    )
    mixed = mixed * torch.linspace(0.2, 30, units, dtype=torch.float64) + torch.linspace(
        -5, 40, units, dtype=torch.float64
    )
    copy = mixed + noise * mixed.std(0) * torch.randn(n, units, generator=generator, dtype=torch.float64)
    return mixed.to(dtype), copy.to(dtype)


def matched(pair):
    found = cu.correlation(pair)
    return float(cu.semi_matching(found.matrix, live_a=found.live_a, live_b=found.live_b).mean)


# random rotations


@pytest.mark.parametrize("units", [1, 2, 7, 60])
def test_a_rotation_is_orthogonal_and_its_seed_is_all(units):
    found = cu.random_rotation(units, seed=3)
    assert found.dtype == torch.float64
    assert torch.allclose(found.T @ found, torch.eye(units, dtype=torch.float64), atol=1e-13)
    assert torch.equal(found, cu.random_rotation(units, seed=3))
    if units > 1:
        assert not torch.equal(found, cu.random_rotation(units, seed=4))


def test_any_rotation_is_as_likely_as_any_other():
    """Entries have the distribution of one coordinate of a point on the sphere; Kolmogorov-Smirnov, 2,000 rotations.

    Without the signs of R's diagonal the first entry would never be positive.
    """
    drawn = torch.stack([cu.random_rotation(3, seed=k) for k in range(2000)])
    for i, j in ((0, 0), (1, 1), (2, 2), (0, 2)):  # on the sphere in three dimensions a coordinate is uniform
        assert stats.kstest(drawn[:, i, j].numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-4
    determinant = torch.linalg.det(drawn)
    assert 0.45 < float((determinant > 0).double().mean()) < 0.55, "reflections as often as not"


# the turned net


@pytest.mark.parametrize(
    "options", [{}, {"share": 0.9}, {"share": 0.99}, {"whiten": True}, {"share": 0.9, "whiten": True}]
)
def test_moments_of_a_turned_net_are_those_of_its_activations(generator, options):
    a, b = nets(generator, noise=0.3)
    b[:, 4] = 7.5  # dead
    pair = cu.pair_moments(a, b)
    turned = cu.rotated(pair, seed=5, **options)
    live = torch.arange(12) != 4
    std = (b[:, live] - b[:, live].mean(0)) / b[:, live].std(0, correction=0)
    values, vectors = np.linalg.eigh(np.corrcoef(std.numpy().T))
    order = values.argsort()[::-1]
    values, vectors = values[order], vectors[:, order]
    acts = std.numpy() @ vectors
    if options.get("whiten"):
        acts = acts / np.sqrt(values)
    # what the turn leaves alone: the span of the leading components, and each of the others
    leading = 11 if "share" not in options else int((values.cumsum() / 11 < options["share"]).sum()) + 1
    assert torch.equal(turned.cov_aa, pair.cov_aa)
    assert (turned.cov_bb[4] == 0).all()
    assert (turned.cov_ab[:, 4] == 0).all()
    within = turned.cov_bb[live][:, live]
    total = 11.0
    assert torch.allclose(within.trace(), torch.tensor(total, dtype=torch.float64)), "the same variance in all"
    assert np.allclose(np.linalg.eigvalsh(within), np.sort(np.ones(11) if options.get("whiten") else values), atol=1e-9)
    assert leading <= 11
    # some orthogonal map takes the activations to the turned ones: singular values of the covariance with a agree
    across = turned.cov_ab[:, live]
    truth = (a - a.mean(0)).numpy().T @ acts / len(a)
    assert np.allclose(np.linalg.svd(across)[1], np.linalg.svd(truth)[1], rtol=1e-7)
    # and the components beyond the leading ones are as they were
    if "share" in options and leading < 11:
        unmoved = vectors[:, leading:]
        before = torch.from_numpy(acts @ vectors.T)
        centred = (a - a.mean(0)).T @ before / len(a)
        assert torch.allclose(across @ torch.from_numpy(unmoved), centred @ torch.from_numpy(unmoved), atol=1e-8)


def test_a_full_turn_is_that_of_the_rotation(generator):
    a, b = nets(generator, noise=0.3)
    turned = cu.rotated(cu.pair_moments(a, b), seed=5)
    acts = (b - b.mean(0)) / b.std(0, correction=0) @ cu.random_rotation(12, seed=5)
    wanted = cu.pair_moments(a, acts)
    assert torch.allclose(turned.cov_ab, wanted.cov_ab, atol=1e-10)
    assert torch.allclose(turned.cov_bb, wanted.cov_bb, atol=1e-10)
    assert turned.n_samples == wanted.n_samples


SPACES = {
    "CCA": lambda pair: cu.cca(pair).similarity,
    "R^2 of a by b": lambda pair: cu.least_squares(pair.swap()).r2.mean(),
    "subspaces": lambda pair: cu.subspace_overlap(pair, range(4), range(12)).mean(),
}


@pytest.mark.parametrize("name", SPACES)
def test_what_compares_spaces_cannot_see_it(generator, name):
    pair = cu.pair_moments(*nets(generator, noise=0.5))
    for options in ({}, {"share": 0.9}, {"whiten": True}):
        assert SPACES[name](cu.rotated(pair, seed=2, **options)) == pytest.approx(float(SPACES[name](pair)), abs=1e-6)


def test_standardised_units_are_the_same_to_cka_and_procrustes(generator):
    a, b = nets(generator, noise=0.5)
    pair = cu.pair_moments(a, (b - b.mean(0)) / b.std(0, correction=0))
    for similarity in (cu.linear_cka, cu.procrustes):
        assert similarity(cu.rotated(pair, seed=2)) == pytest.approx(float(similarity(pair)), abs=1e-9)


def test_a_permuted_copy_lies_above_every_turn_and_a_turned_one_among_them(generator):
    """48 units, 6,000 rows, a noisy copy: turned once, it is one more draw from its null."""
    a = torch.randn(6000, 48, generator=generator) @ torch.randn(48, 48, generator=generator) / 7
    order = torch.randperm(48, generator=generator)
    noisy = a + 0.5 * torch.randn(6000, 48, generator=generator)
    permuted = cu.pair_moments(a, noisy[:, order])
    null = [matched(cu.rotated(permuted, seed=k)) for k in range(100)]
    assert matched(permuted) > max(null)
    apart = []
    for k in range(10):
        std = (noisy - noisy.mean(0)) / noisy.std(0)
        copy = cu.pair_moments(a, std.double() @ cu.random_rotation(48, seed=1000 + k))
        own = [matched(cu.rotated(copy, seed=k)) for k in range(20)]
        apart.append(matched(copy) - np.mean(own))
        assert abs(apart[-1]) < max(3 * np.std(own), 0.04)
    assert abs(np.mean(apart)) < 0.01


def test_dead_units_stay_dead_where_they_are(generator):
    a, b = nets(generator)
    b[:, [0, 7, 11]] = 1.0
    pair = cu.pair_moments(a, b)
    found = cu.correlation(cu.rotated(pair, seed=1))
    assert torch.equal(found.live_b, cu.correlation(pair).live_b)
    dead = cu.rotated(cu.pair_moments(a, torch.zeros(len(a), 3)), seed=1)
    assert not dead.cov_bb.any()
    assert not dead.cov_ab.any()
    for options in ({"share": 0.9}, {"whiten": True}):
        assert not cu.rotated(cu.pair_moments(a, torch.zeros(len(a), 3)), seed=1, **options).cov_bb.any()


def test_one_live_unit_stays_itself(generator):
    a, b = nets(generator)
    one = cu.pair_moments(a, torch.stack([b[:, 3], torch.ones(len(b)).double()], 1))
    found = cu.correlation(cu.rotated(one, seed=1)).matrix[:, 0].abs()
    assert torch.allclose(found, cu.correlation(one).matrix[:, 0].abs(), atol=1e-12)


@pytest.mark.parametrize("kernel", [lambda p: cu.rotated(p, seed=0).cov_ab, lambda p: cu.best_rotation(p).matrix])
@pytest.mark.usefixtures("fake_cuda")
def test_on_a_device_that_is_not_there(kernel):
    with FakeTensorMode():
        a, b = torch.randn(50, 6, device="cuda"), torch.randn(50, 4, device="cuda")
        assert kernel(cu.pair_moments(a, b)).device.type == "cuda"


# the best rotation


@pytest.mark.parametrize("units", [2, 9])
def test_a_planted_rotation_of_uncorrelated_units_is_found(generator, units):
    acts = torch.linalg.qr(torch.randn(500, units, generator=generator, dtype=torch.float64)).Q
    acts = torch.linalg.qr(acts - acts.mean(0)).Q  # means 0, uncorrelated
    planted = cu.random_rotation(units, seed=8)
    found = cu.best_rotation(cu.pair_moments(acts, acts @ planted))
    assert torch.allclose(found.matrix, planted, atol=1e-8)
    assert torch.allclose(found.predict(acts)[0], acts @ planted, atol=1e-8)
    assert torch.allclose(found.r2, torch.ones(1, units, dtype=torch.float64), atol=1e-8)


def test_a_permutation_with_scales_is_found_and_judged_on_other_rows(generator):
    a, _ = nets(generator)
    order, scales = torch.randperm(12, generator=generator), torch.rand(12, generator=generator).double() + 0.1
    b = a[:, order] * scales + 3
    found = cu.best_rotation(cu.pair_moments(a[:2000], b[:2000]))
    assert torch.allclose(found.matrix, torch.eye(12, dtype=torch.float64)[:, order], atol=1e-8)
    other = cu.pair_moments(a[2000:], b[2000:])
    assert torch.allclose(found.correlation_on(other), torch.ones(12, dtype=torch.float64), atol=1e-8)
    assert torch.allclose(found.predict(a[2000:])[0], b[2000:], atol=1e-6)


@pytest.mark.parametrize("widths", [(5, 12), (12, 5)])
def test_unequal_widths_have_orthonormal_rows_or_columns(generator, widths):
    a, b = (net[:, :width] for net, width in zip(nets(generator, noise=0.5), widths, strict=True))
    matrix = cu.best_rotation(cu.pair_moments(a, b)).matrix
    small = matrix @ matrix.T if widths[0] < widths[1] else matrix.T @ matrix
    assert torch.allclose(small, torch.eye(5, dtype=torch.float64), atol=1e-10)


def test_no_rotation_has_a_larger_sum_of_correlations(generator):
    a, b = nets(generator, noise=1.0)
    pair = cu.pair_moments(a, b)
    cross, best = cu.correlation(pair).matrix, cu.best_rotation(pair).matrix
    most = float((best * cross).sum())
    assert most == pytest.approx(float(torch.linalg.svdvals(cross).sum()))
    for k in range(50):
        assert float((cu.random_rotation(12, seed=k) * cross).sum()) < most


def test_correlations_on_other_rows_are_those_of_predictions(generator):
    a, b = nets(generator, noise=1.0)
    a[:, 2], b[:, 5] = 4.0, 1.0  # dead
    found, other = cu.best_rotation(cu.pair_moments(a[:2000], b[:2000])), cu.pair_moments(a[2000:], b[2000:])
    predicted = ((a[2000:] - a[:2000].mean(0)) / a[:2000].std(0, correction=0).clamp(min=1e-9)) @ found.matrix
    wanted = [0.0 if j == 5 else np.corrcoef(predicted[:, j].numpy(), b[2000:, j].numpy())[0, 1] for j in range(12)]
    assert np.allclose(found.correlation_on(other).numpy(), wanted, atol=1e-9)
    assert not found.matrix[2].any()
    assert not found.matrix[:, 5].any()
    assert (found.predict(a[2000:])[0][:, 5] == b[:2000, 5].mean()).all(), "a dead unit is predicted by its mean"
    live = torch.arange(12) != 2
    matrix = found.matrix[live][:, torch.arange(12) != 5]
    assert torch.allclose(matrix @ matrix.T, torch.eye(11, dtype=torch.float64), atol=1e-10)


def test_slopes_and_offsets_are_those_of_regression(generator):
    a, b = nets(generator, noise=1.0)
    found = cu.best_rotation(cu.pair_moments(a, b))
    turned = ((a - a.mean(0)) / a.std(0, correction=0)) @ found.matrix
    for j in (0, 6):
        line = stats.linregress(turned[:, j].numpy(), b[:, j].numpy())
        assert np.allclose(found.predict(a)[0][:, j].numpy(), line.slope * turned[:, j].numpy() + line.intercept)
        assert float(found.r2[0, j]) == pytest.approx(line.rvalue**2)


def test_it_is_a_result_that_can_be_saved(generator, tmp_path):
    found = cu.best_rotation(cu.pair_moments(*nets(generator, noise=1.0)))
    cu.save(found, tmp_path / "rotation")
    assert torch.equal(cu.load(tmp_path / "rotation").matrix, found.matrix)


# a match as a map


def test_a_match_as_a_map_predicts_each_unit_from_its_partner(generator):
    a, b = nets(generator, noise=0.5)
    pair = cu.pair_moments(a, b)
    found = cu.correlation(pair)
    match = cu.bipartite_matching(found.matrix, live_a=found.live_a, live_b=found.live_b)
    mapping = cu.matching_map(pair, match)
    assert torch.equal(mapping.n_predictors, torch.ones(1, 12, dtype=torch.int64))
    assert torch.allclose(mapping.r2[0][match.index], match.score.double().square(), atol=1e-9)
    for i, j in enumerate(match.index.tolist()):
        line = stats.linregress(a[:, i].numpy(), b[:, j].numpy())
        assert np.allclose(mapping.predict(a)[0][:, j].numpy(), line.slope * a[:, i].numpy() + line.intercept)


def test_of_several_the_best_predicts_and_nobodys_partner_has_its_mean(generator):
    a, b = nets(generator)
    twins = torch.stack([a[:, 0] + 5 * torch.randn(len(a), generator=generator).double(), a[:, 0], a[:, 1]], 1)
    match = cu.Match(torch.tensor([1, 1, -1]), torch.tensor([0.4, 0.9, 0.0]))
    mapping = cu.matching_map(cu.pair_moments(twins, b[:, [3, 0]]), match)
    assert mapping.n_predictors.tolist() == [[0, 1]]
    assert mapping.coefficients[0, :, 1].nonzero()[:, 0].tolist() == [1]
    assert torch.allclose(mapping.predict(twins)[0][:, 0], b[:, 3].mean())


def test_unshrunk_each_predicted_unit_is_as_wide_as_the_true_one(generator):
    a, b = nets(generator, noise=0.5)
    b = torch.cat([b, torch.full((len(b), 1), 3.0).double()], 1)  # a dead unit
    pair = cu.pair_moments(a, b)
    for mapping in (cu.least_squares(pair), cu.best_subset_mapping(pair, 1), cu.best_rotation(pair)):
        wide = cu.unshrunk(mapping, pair)
        before, after = mapping.predict(a)[0], wide.predict(a)[0]
        assert torch.allclose(after.std(0), b.std(0))
        assert torch.allclose(after.mean(0), b.mean(0))
        for j in range(b.shape[1] - 1):  # nothing is added: it is the same prediction, wider
            assert np.corrcoef(before[:, j], after[:, j])[0, 1] == pytest.approx(1)
        assert torch.allclose(cu.unshrunk(wide, pair).coefficients, wide.coefficients)
    with pytest.raises(ValueError, match=r"pair: expected the moments of the fit, of units"):
        cu.unshrunk(mapping, pair.swap())
    with pytest.raises(ValueError, match=r"pair: expected the moments of the fit, got some"):
        cu.unshrunk(mapping, cu.pair_moments(5 * a, b))
    with pytest.raises(ValueError, match=r"mapping: expected a MappingPath"):
        cu.unshrunk("mapping", pair)


def test_what_is_rounding_is_no_prediction(generator):
    a = torch.linalg.qr(torch.randn(300, 4, generator=generator, dtype=torch.float64))[0]
    a = a - a.mean(0)
    beside = torch.randn(300, 1, generator=generator, dtype=torch.float64)
    beside = beside - beside.mean(0)
    beside = beside - a @ torch.linalg.lstsq(a, beside).solution
    pair = cu.pair_moments(a, beside)
    assert float(cu.unshrunk(cu.least_squares(pair), pair).predict(a)[0].std()) < 1e-9
    g = torch.Generator().manual_seed(0)
    a = torch.randn(200, 30, generator=g, dtype=torch.float64)
    b = a @ torch.randn(30, 30, generator=g, dtype=torch.float64) + torch.randn(
        200, 30, generator=g, dtype=torch.float64
    )
    pair = cu.pair_moments(a, b)
    match = cu.soft_matching(cu.correlation(pair).matrix, mass=0.9)
    alone = match.unmatched_b > 1 - 1e-9
    assert alone.any()
    assert (cu.matching_map(pair, match).n_predictors[0, alone] == 0).all()


def test_a_soft_match_as_a_map_predicts_from_shares(generator):
    a, b = nets(generator, noise=0.5)
    pair = cu.pair_moments(a[:, :9], b)
    found = cu.correlation(pair)
    match = cu.soft_matching(found.matrix, live_a=found.live_a, live_b=found.live_b)
    mapping = cu.matching_map(pair, match)
    shares = (a[:, :9] - a[:, :9].mean(0)) / a[:, :9].std(0) @ match.plan
    for j in range(b.shape[1]):
        line = stats.linregress(shares[:, j].numpy(), b[:, j].numpy())
        wanted = line.slope * shares[:, j].numpy() + line.intercept
        assert np.allclose(mapping.predict(a[:, :9])[0][:, j].numpy(), wanted)
    with pytest.raises(ValueError, match=r"match: expected shares of 9 units with 12"):
        cu.matching_map(pair, cu.soft_matching(found.matrix[:8]))


# soft matching


def test_at_equal_widths_it_is_bipartite_matching(generator):
    for _ in range(5):
        score = torch.randn(17, 17, generator=generator, dtype=torch.float64)
        soft, hard = cu.soft_matching(score), cu.bipartite_matching(score)
        assert torch.allclose(17 * soft.plan, torch.eye(17, dtype=torch.float64)[hard.index], atol=1e-9)
        assert torch.allclose(soft.score, hard.score, atol=1e-9)
        assert float(soft.mean) == pytest.approx(float(hard.mean), abs=1e-9)
        assert not soft.unmatched_a.any()
        assert not soft.unmatched_b.any()


@pytest.mark.parametrize("mass", [1.0, 0.7, 0.2])
@pytest.mark.parametrize("widths", [(4, 9), (9, 4), (6, 6), (1, 5)])
def test_it_is_the_linear_programme(generator, widths, mass):
    score = torch.randn(*widths, generator=generator, dtype=torch.float64)
    found, (n, m) = cu.soft_matching(score, mass=mass), widths
    rows = [np.kron(np.eye(n)[i], np.ones(m)) for i in range(n)] + [np.tile(np.eye(m)[j], n) for j in range(m)]
    limits = [1 / n] * n + [1 / m] * m
    solved = optimize.linprog(-score.flatten().numpy(), A_ub=rows, b_ub=limits, A_eq=[np.ones(n * m)], b_eq=[mass])
    assert float((found.plan * score).sum()) == pytest.approx(-solved.fun, abs=1e-9)
    assert float(found.plan.sum()) == pytest.approx(mass)
    assert float(found.mean) == pytest.approx(-solved.fun / mass, abs=1e-9)
    assert (found.plan >= 0).all()
    assert (found.plan.sum(1) <= 1 / n + 1e-12).all()
    assert (found.plan.sum(0) <= 1 / m + 1e-12).all()
    assert torch.allclose(found.unmatched_a, 1 - n * found.plan.sum(1), atol=1e-9)
    assert torch.allclose(found.unmatched_b, 1 - m * found.plan.sum(0), atol=1e-9)
    each = [float((found.plan[i] * score[i]).sum() / max(found.plan[i].sum(), 1e-300)) for i in range(n)]
    assert np.allclose(found.score.numpy(), each, atol=1e-9)


def test_planted_strangers_stay_unmatched(generator):
    """Two nets share eight units; two more of each have no partner."""
    shared = torch.randn(3000, 8, generator=generator)
    a, b = (torch.cat([shared, torch.randn(3000, 2, generator=generator)], 1) for _ in "ab")
    order = torch.randperm(10, generator=generator)
    found = cu.soft_matching(cu.correlation(cu.pair_moments(a, b[:, order])).matrix, mass=0.8)
    assert (found.unmatched_a > 0.5).nonzero()[:, 0].tolist() == [8, 9]
    assert sorted(order[(found.unmatched_b > 0.5).nonzero()[:, 0]].tolist()) == [8, 9]
    assert float(found.mean) > 0.99


def test_dead_units_are_matched_with_none(generator):
    score, live_a = torch.randn(5, 6, generator=generator), torch.tensor([True, False, True, True, True])
    live_b = torch.tensor([True, True, True, False, False, True])
    found = cu.soft_matching(score, live_a=live_a, live_b=live_b)
    assert found.unmatched_a[1] == 1
    assert (found.unmatched_b[3:5] == 1).all()
    assert found.score[1] == 0
    alone = cu.soft_matching(score[live_a][:, live_b])
    assert torch.allclose(found.plan[live_a][:, live_b], alone.plan)
    nothing = cu.soft_matching(score, live_a=torch.zeros(5, dtype=torch.bool))
    assert nothing.mean == 0
    assert not nothing.plan.any()
    assert (nothing.unmatched_b == 1).all()


def test_its_distance_is_a_metric(generator):
    acts = [torch.randn(400, width, generator=generator) for width in (4, 7, 5)]
    distance = {}
    for i, x in enumerate(acts):
        for j, y in enumerate(acts):
            mean = cu.soft_matching(cu.correlation(cu.pair_moments(x, y)).matrix.double()).mean
            distance[i, j] = float((2 * (1 - mean)).clamp(min=0).sqrt())
    assert distance[0, 0] < 1e-3
    assert distance[0, 1] == pytest.approx(distance[1, 0], abs=1e-9)
    assert distance[0, 2] <= distance[0, 1] + distance[1, 2]


# neighbours


@pytest.mark.parametrize("k", [1, 5, 30])
def test_shared_neighbours_are_those_of_scikit_learn(generator, k):
    from sklearn.neighbors import NearestNeighbors

    a = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    b = a @ torch.randn(6, 9, generator=generator, dtype=torch.float64) + torch.randn(200, 9, generator=generator)
    near = []
    for acts in (a, b):
        rows = (acts / acts.norm(dim=1, keepdim=True)).numpy()
        near.append(NearestNeighbors(n_neighbors=k).fit(rows).kneighbors(return_distance=False))
    wanted = np.mean([len(set(x) & set(y)) / k for x, y in zip(*near, strict=True)])
    assert float(cu.mutual_knn(a, b, k=k)) == pytest.approx(wanted, abs=1e-12)


def test_neighbours_in_chunks_are_the_same(generator, monkeypatch):
    from convergent_utils.kernels import neighbours

    a, b = torch.randn(150, 6, generator=generator), torch.randn(150, 3, generator=generator)
    whole = cu.mutual_knn(a, b, k=7)
    monkeypatch.setattr(neighbours, "_CHUNK_ENTRIES", 1000)
    assert torch.equal(cu.mutual_knn(a, b, k=7), whole)


def test_of_equals_the_earlier_sample_is_nearer():
    a = torch.tensor([[1.0, 0], [0, 1], [0, 2], [0, 3], [1, 0]])  # 1, 2 and 3 are one point once they have length 1
    b = torch.tensor([[1.0, 0], [1, 1], [0, 1], [-1, 1], [2, 0]])
    near_a = {0: 4, 1: 2, 2: 1, 3: 1, 4: 0}
    near_b = {0: 4, 1: 0, 2: 1, 3: 2, 4: 0}
    wanted = np.mean([near_a[i] == near_b[i] for i in range(5)])
    assert float(cu.mutual_knn(a, b, k=1)) == pytest.approx(wanted)


def test_it_sees_directions_alone_and_is_rare_by_chance(generator):
    a, b = torch.randn(300, 12, generator=generator), torch.randn(300, 12, generator=generator)
    lengths = torch.rand(300, 1, generator=generator) + 0.1
    assert cu.mutual_knn(a, a * lengths) == 1
    assert abs(float(cu.mutual_knn(a, b)) - 10 / 299) < 0.01
    assert cu.mutual_knn(a, a @ cu.random_rotation(12, seed=1).float()) > 0.999
    assert cu.mutual_knn(torch.zeros(5, 3), torch.zeros(5, 2), k=2) == 0, "dead units alone"
    assert cu.mutual_knn(torch.ones(5, 3), torch.randn(5, 2), k=2) == 0, "all rows alike"


# what a hostile tester found


@pytest.mark.parametrize(("mean", "spread"), [(1.0, 1e-7), (1e6, 1.0), (1e7, 1.0)])
def test_neighbours_of_rows_that_are_nearly_parallel_are_right(generator, mean, spread):
    a, b = (mean + spread * torch.randn(80, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    near = []
    for acts in (a, b):
        exact = acts.numpy().astype(np.longdouble)
        rows = exact / np.sqrt((exact**2).sum(1, keepdims=True))
        distance = ((rows[:, None] - rows) ** 2).sum(2)
        np.fill_diagonal(distance, np.inf)
        near.append(distance.argsort(1)[:, :5])
    wanted = np.mean([len(set(x) & set(y)) / 5 for x, y in zip(*near, strict=True)])
    assert float(cu.mutual_knn(a, b, k=5)) == pytest.approx(wanted, abs=0.01)


def test_whitening_keeps_every_direction_that_float64_holds(generator):
    h = torch.randn(500, 3, generator=generator, dtype=torch.float64)
    pair = cu.pair_moments(h, torch.stack([h[:, 0], h[:, 0] + 1e-4 * h[:, 1], h[:, 2]], 1))
    assert torch.allclose(cu.cca(cu.rotated(pair, seed=0, whiten=True)).rho, cu.cca(pair).rho, atol=1e-6)
    for wrong in (1, "no", None, torch.tensor([True, False])):
        with pytest.raises(ValueError, match="^whiten: expected True or False"):
            cu.rotated(pair, seed=0, whiten=wrong)


@pytest.mark.parametrize(("of_fit", "of_other"), [(0, 0), (-300, 300), (300, -300), (400, -400)])
def test_correlations_of_a_rotation_have_any_scale(generator, of_fit, of_other):
    a = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    b = a @ cu.random_rotation(3, seed=1) + torch.randn(400, 3, generator=generator, dtype=torch.float64)
    spread = torch.exp2(torch.tensor([250.0, 0, -250], dtype=torch.float64))
    found = cu.best_rotation(cu.pair_moments(a * 2.0**of_fit, b)).correlation_on(cu.pair_moments(a * 2.0**of_other, b))
    assert torch.allclose(
        found, cu.best_rotation(cu.pair_moments(a, b)).correlation_on(cu.pair_moments(a, b)), atol=1e-12
    )
    wide = cu.pair_moments(a * spread, b * spread)
    assert torch.allclose(cu.best_rotation(wide).correlation_on(wide), found, atol=1e-12)


def test_soft_matching_of_the_largest_and_of_unlike_numbers(generator):
    most = torch.finfo(torch.float64).max
    cases = [([[most, -most], [-most, most]], most), ([[most] * 3] * 2, most), ([[most, most, -1e308]], 8.6513e307)]
    for score, mean in cases:
        found = cu.soft_matching(torch.tensor(score, dtype=torch.float64))
        assert float(found.mean) == pytest.approx(mean, rel=1e-4)
        assert found.plan.isfinite().all()
    for far in (1e12, -1e14, 1e16):
        score = torch.randn(6, 6, generator=generator, dtype=torch.float64)
        score[0] = far + 1000 * score[0]
        soft, hard = cu.soft_matching(score), cu.bipartite_matching(score)
        assert torch.allclose(6 * soft.plan, torch.eye(6, dtype=torch.float64)[hard.index], atol=1e-9)
    for mass in (1e-17, 5e-324):
        with pytest.raises(ValueError, match="^mass: expected a share from 1e-9 to 1"):
            cu.soft_matching(torch.ones(2, 2), mass=mass)
    assert float(cu.soft_matching(torch.ones(2, 2), mass=1e-9).plan.sum()) == pytest.approx(1e-9, rel=1e-6)


def test_a_match_with_scores_that_are_none_is_refused(generator):
    pair = cu.pair_moments(*nets(generator))
    score = torch.ones(12)
    score[3] = torch.nan
    with pytest.raises(ValueError, match="^match: expected finite scores"):
        cu.matching_map(pair, cu.Match(torch.arange(12), score))


def test_moments_that_no_activations_have_are_refused():
    cov = torch.full((3, 3), -0.9, dtype=torch.float64).fill_diagonal_(1.0)
    pair = cu.PairMoments(100, torch.zeros(3).double(), torch.zeros(3).double(), torch.eye(3).double(), cov * 0, cov)
    with pytest.raises(ValueError, match="^pair: expected covariances that some activations have"):
        [cu.rotated(pair, seed=k) for k in range(20)]
