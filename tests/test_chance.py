import math

import numpy as np
import pytest
import torch
from scipy import stats

import convergent_utils as cu


def mean_match(a, b):
    return cu.semi_matching(cu.correlation(cu.pair_moments(a, b)).matrix).mean


def test_interval_of_a_mean_of_networks_is_students():
    """Where a pair's value is the sum of its networks' values, the jackknife is Student's of twice the mean."""
    values = np.random.default_rng(0).normal(size=6)
    found = cu.network_interval(values[:, None] + values)
    low, high = stats.t.interval(0.95, 5, 2 * values.mean(), 2 * stats.sem(values))
    assert found.estimate == pytest.approx(2 * values.mean())
    assert (found.low, found.high) == pytest.approx((low, high))


def test_interval_ignores_the_diagonal_and_grows_with_the_level():
    values = np.random.default_rng(1).normal(size=(5, 5))
    other = values.copy()
    np.fill_diagonal(other, np.nan)
    assert cu.network_interval(values) == cu.network_interval(torch.from_numpy(other))
    for same in (values[::-1, ::-1][::-1, ::-1], values.astype(">f8"), values.tolist(), values.astype(object)):
        assert cu.network_interval(same) == cu.network_interval(values)
    wide, narrow = cu.network_interval(values, level=0.99), cu.network_interval(values, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize(
    "values",
    [np.zeros((2, 2)), np.zeros((3, 4)), np.zeros(9), np.full((3, 3), np.nan), 1.0, [[1, 2], [3]], np.eye(3) * 1j],
)
def test_interval_refuses_what_has_none(values):
    with pytest.raises(ValueError, match="values: expected"):
        cu.network_interval(values)


def test_chance_finds_likeness(generator):
    a = torch.randn(600, 10, generator=generator)
    found = cu.chance_level(mean_match, a, a + torch.randn(600, 10, generator=generator), n_shuffles=39)
    assert found.p_value == 1 / 40
    assert found.low < found.mean < found.high < found.observed


def test_p_values_are_uniform_where_there_is_no_likeness(generator):
    p_values = []
    for seed in range(120):
        a, b = torch.randn(2, 40, 4, generator=generator)
        p_values.append(cu.chance_level(mean_match, a, b, n_shuffles=19, seed=seed).p_value.item())
    counts = np.bincount(np.round(np.array(p_values) * 20).astype(int), minlength=21)[1:]
    assert stats.chisquare(counts.reshape(5, 4).sum(1)).pvalue > 0.001


def test_exchanging_whole_images_keeps_the_layout(generator):
    """Two nets that share nothing but a bright centre: rows know it, places know it, images do not."""
    images = torch.arange(100).repeat_interleave(4)
    layout = torch.tensor([0.0, 3.0, 3.0, 0.0]).repeat(100)[:, None]
    a, b = (layout + torch.randn(400, 5, generator=generator) for _ in range(2))
    whole_images = cu.chance_level(mean_match, a, b, images=images, n_shuffles=50)
    rows = cu.chance_level(mean_match, a, b, n_shuffles=50)
    assert abs(whole_images.mean - whole_images.observed) < 0.05
    assert rows.mean < 0.2 < 0.5 < rows.observed


def test_chance_of_a_vector_and_bad_arguments(generator):
    a = torch.randn(60, 3, generator=generator)
    found = cu.chance_level(lambda x, y: cu.correlation(cu.pair_moments(x, y)).matrix.diagonal(), a, a, n_shuffles=20)
    assert found.null.shape == (20, 3)
    assert found.p_value.tolist() == pytest.approx([1 / 21] * 3)
    with pytest.raises(ValueError, match="equally many rows"):
        cu.chance_level(mean_match, a, a, images=torch.tensor([0] * 31 + [1] * 29))
    with pytest.raises(ValueError, match="n_shuffles"):
        cu.chance_level(mean_match, a, a, n_shuffles=0)
    with pytest.raises(ValueError, match="similarity: expected finite"):  # and not the smallest of p values
        cu.chance_level(lambda x, y: (x * y).mean() + torch.nan, a, a)


@pytest.mark.parametrize("n_networks", [3, 4, 5, 8])
def test_interval_covers_what_it_claims(n_networks):
    """Each network has a skill of its own, each pair a chance of its own: 95 % must cover the mean of all networks."""
    generator, covered, rounds = np.random.default_rng(n_networks), 0, 800
    for _ in range(rounds):
        skill, noise = generator.normal(size=n_networks), generator.normal(size=(n_networks, n_networks))
        values = 0.5 + 0.1 * (skill[:, None] + skill) + 0.1 * noise
        found = cu.network_interval(values)
        covered += found.low < 0.5 < found.high
    assert covered / rounds > 0.92


def test_intervals_that_treat_pairs_as_independent_cover_too_little():
    """What the jackknife is for: an interval over the pairs, as often used, misses far more than it claims."""
    generator, covered, rounds = np.random.default_rng(0), 0, 400
    for _ in range(rounds):
        skill = generator.normal(size=4)
        pairs = (skill[:, None] + skill)[np.triu_indices(4, 1)]
        low, high = stats.t.interval(0.95, len(pairs) - 1, pairs.mean(), stats.sem(pairs))
        covered += low < 0 < high
    assert covered / rounds < 0.85


def spread_of_means(groups):
    return torch.stack([group.mean(0) for group in groups]).std(0)


def test_labels_matter_where_groups_differ(generator):
    groups = [torch.randn(40, 2, generator=generator) + torch.tensor([shift, 0.0]) for shift in (0, 1, 3)]
    found = cu.label_chance(spread_of_means, groups)
    assert found.p_value[0] == 1 / 200
    assert found.p_value[1] > 0.01
    assert found.null.shape == (199, 2)


def test_regulated_groups_are_more_alike_than_draws_from_one_pool(generator):
    """Each group holds the same values: shuffled labels must give larger differences."""
    values = torch.randn(50, generator=generator)
    found = cu.label_chance(spread_of_means, [values, values[torch.randperm(50, generator=generator)], values])
    assert found.observed < 1e-6 < found.low
    assert found.p_value == 1


def test_p_values_of_labels_are_uniform_where_labels_mean_nothing(generator):
    p_values = []
    for seed in range(200):
        groups = torch.randn(30, generator=generator).split([5, 10, 15])
        p_values.append(cu.label_chance(spread_of_means, groups, n_shuffles=19, seed=seed).p_value.item())
    counts = np.bincount(np.round(np.array(p_values) * 20).astype(int), minlength=21)[1:]
    assert stats.chisquare(counts.reshape(5, 4).sum(1)).pvalue > 0.001


def test_groups_that_cannot_be_compared(generator):
    with pytest.raises(ValueError, match="at least two"):
        cu.label_chance(spread_of_means, [torch.ones(3)])
    with pytest.raises(ValueError, match="at least two with members"):
        cu.label_chance(spread_of_means, [torch.ones(3), torch.ones(0)])
    with pytest.raises(ValueError, match="n_shuffles"):
        cu.label_chance(spread_of_means, [torch.ones(3), torch.ones(3)], n_shuffles=0)
    with pytest.raises(ValueError, match="statistic: expected finite"):
        cu.label_chance(lambda groups: torch.nan, [torch.ones(3), torch.ones(3)])
    with pytest.raises(ValueError, match="members of one shape"):
        cu.label_chance(spread_of_means, [torch.ones(3), torch.ones(3, 2)])


def test_one_group_is_the_interval_of_networks():
    values = np.random.default_rng(2).normal(size=(5, 5))
    apart = ~np.eye(5, dtype=bool)
    found = cu.groups_interval(lambda nets: values[np.ix_(nets, nets)][apart[np.ix_(nets, nets)]].mean(), [5])
    assert found == cu.network_interval(values)


def test_the_interval_of_a_difference_of_means_is_welchs():
    generator = np.random.default_rng(3)
    a, b = generator.normal(size=7), 4 * generator.normal(size=4) + 1
    found = cu.groups_interval(lambda first, second: a[first].mean() - b[second].mean(), [7, 4], level=0.9)
    oracle = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.9)
    assert found.estimate == pytest.approx(a.mean() - b.mean())
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high))


def test_the_interval_of_two_groups_covers_what_it_claims():
    """Within the first minus within the second: networks differ in skill, pairs by chance, groups in both."""
    generator, covered, rounds, apart = np.random.default_rng(4), 0, 600, ~np.eye(4, dtype=bool)
    for _ in range(rounds):
        skills = generator.normal(size=(2, 4)) * [[0.1], [0.03]]
        values = [s[:, None] + s + 0.05 * generator.normal(size=(4, 4)) for s in skills]

        def within(group, nets, values=values):
            return values[group][np.ix_(nets, nets)][apart[: len(nets), : len(nets)]].mean()

        found = cu.groups_interval(lambda a, b, within=within: within(0, a) - within(1, b), [4, 4])
        covered += found.low < 0 < found.high
    assert covered / rounds > 0.92


def test_a_number_that_moves_in_steps_has_a_width():
    """Whichever network is left out of a group, the count is the same, but another than of all."""
    found = cu.groups_interval(lambda a, b: float(len(a) == 3) + float(len(b) == 4), [3, 4])
    assert found.estimate == 2.0
    assert found.low < 1.0 < 3.0 < found.high


def test_groups_that_agree_have_no_width_and_bad_ones_are_refused():
    assert cu.groups_interval(lambda a, b: 2.0, [3, 4]) == cu.Interval(2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="without one of group 0, .*inf"):
        cu.groups_interval(lambda a, b: 1.0 if len(a) == 3 else float("inf"), [3, 4])
    for sizes in ([], [3, 2]):
        with pytest.raises(ValueError, match="n_networks: expected at least 3"):
            cu.groups_interval(lambda *nets: 0.0, sizes)
    with pytest.raises(ValueError, match="statistic: expected finite"):
        cu.groups_interval(lambda a: float("nan"), [3])
    with pytest.raises(ValueError, match="level"):
        cu.groups_interval(lambda a: 0.0, [3], level=1.0)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.3])
def test_what_no_shuffle_can_change_has_p_one(generator, value):
    a, b = (torch.randn(30, 2, generator=generator) for _ in range(2))
    assert cu.chance_level(lambda x, y: value, a, b).p_value == 1
    assert cu.label_chance(lambda groups: value, [a, b]).p_value == 1


def test_ties_but_for_rounding_reach_the_observed_value(generator):
    a, b = (torch.randn(200, 3, generator=generator, dtype=torch.float64) for _ in range(2))

    def order_alone(x, y):
        """The same sum for every order of the rows, but for its rounding."""
        return x.mean() + y[:, 0].cumsum(0)[-1]

    chance = cu.chance_level(order_alone, a, b)
    assert len(chance.null.unique()) > 1
    assert chance.p_value == 1
    values = iter([1.0, *[1 - 1e-9] * 19])
    assert cu.chance_level(lambda x, y: next(values), a, b, n_shuffles=19).p_value == 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_ties_are_those_of_the_type_of_the_statistic(generator, dtype):
    """A sum over all rows is the same for every order of them, but for its rounding; a smaller value is smaller."""
    a, b = (torch.rand(2000, 3, generator=generator) for _ in range(2))
    chance = cu.chance_level(lambda x, y: (y[:, 0] @ y[:, 1]).to(dtype), a, b)
    assert chance.null.dtype == torch.float64
    assert dtype != torch.float32 or len(chance.null.unique()) > 1
    assert chance.p_value == 1
    groups = cu.label_chance(lambda dealt: torch.cat(list(dealt))[:, 0].square().mean().to(dtype), [a, b])
    assert groups.p_value == 1
    values = iter([torch.ones((), dtype=dtype), *[torch.tensor(0.98, dtype=dtype)] * 19])
    assert cu.chance_level(lambda x, y: next(values), a, b, n_shuffles=19).p_value == 0.05


@pytest.mark.parametrize("exponent", [-1000, -700, -300, 300, 700, 1000])
def test_intervals_of_numbers_of_any_scale(exponent):
    """A power of two moves the estimate and both ends, and rounds nothing."""
    values, scale = np.random.default_rng(0).normal(size=(5, 5)), 2.0**exponent

    def difference(first, second, scale=1.0):
        return float(values[0][first].mean() - values[1][second].sum()) * scale

    for right, found in (
        (cu.network_interval(values), cu.network_interval(values * scale)),
        (cu.groups_interval(difference, [5, 4]), cu.groups_interval(lambda a, b: difference(a, b, scale), [5, 4])),
    ):
        ends = [(end * scale, getattr(found, name)) for name, end in vars(right).items() if isinstance(end, float)]
        assert all(end == pytest.approx(wanted, rel=1e-14, abs=0) for wanted, end in ends)


def test_an_interval_that_no_number_can_hold_is_refused():
    assert cu.network_interval(np.full((4, 4), 1.7e308)).estimate == pytest.approx(1.7e308)
    with pytest.raises(ValueError, match="^statistic: expected numbers whose interval float64 can hold, got 1.7e"):
        cu.groups_interval(lambda nets: 1.7e308 if len(nets) == 3 else -1.7e308, [3])
    with pytest.raises(ValueError, match="^values: expected numbers whose interval float64 can hold, got "):
        cu.network_interval(np.diag([1.7, -1.7, 1.7])[:, ::-1] * 1e308)
    found = cu.groups_interval(lambda nets: np.array([float(sum(nets))]), [3], level=1 - 2**-53)
    assert found.low == pytest.approx(6 - found.high, rel=1e-12)
    assert 1e6 < found.high < 1e9


def test_chance_of_the_largest_numbers(generator):
    """Numbers over 2^1023, times it: what is added up and interpolated must stay in range."""
    values, scale = torch.rand(21, 3, generator=generator, dtype=torch.float64) * 2 - 1, 2.0**1023
    values[:, 2] = -values[0, 2].abs()

    def chance_of(rows):
        left, a = iter(rows), torch.ones(3, 1)
        return cu.chance_level(lambda x, y: next(left), a, a, n_shuffles=20)

    small, large = chance_of(values), chance_of(values * scale)
    for name, right in vars(small).items():
        scaled = right if name == "p_value" else right * scale
        assert torch.equal(getattr(large, name), scaled)
    most = torch.full((4,), torch.finfo(torch.float64).max, dtype=torch.float64)
    assert cu.label_chance(lambda dealt: most, [most, most], n_shuffles=7).mean.tolist() == most.tolist()


def test_chance_of_more_numbers_than_torch_takes_quantiles_of(monkeypatch, generator):
    null = torch.rand(40, 3, 5, generator=generator, dtype=torch.float64)
    right = np.quantile(null.numpy(), [0.025, 0.975], axis=0)
    monkeypatch.setattr("convergent_utils.kernels.chance._MOST_SORTED", 160)
    left, a = iter([null[0], *null]), torch.ones(3, 1)
    found = cu.chance_level(lambda x, y: next(left), a, a, n_shuffles=40)
    assert np.allclose(torch.stack([found.low, found.high]), right, rtol=1e-14, atol=0)


# calibrated


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.3])
def test_a_calibrated_score_is_its_definition(generator, alpha):
    null, observed = torch.rand(37, 4, generator=generator).double(), torch.tensor([0.2, 0.99, 0.8, 1.0]).double()
    values = iter([observed, *null])
    chance = cu.chance_level(lambda x, y: next(values), torch.zeros(3, 1), torch.zeros(3, 1), n_shuffles=37)
    rank = math.ceil(round((1 - alpha) * 38, 9))
    for k in range(4):
        tau = sorted([float(observed[k]), *null[:, k].tolist()])[rank - 1]
        wanted = max(0.0, (float(observed[k]) - tau) / (1.0 - tau)) if tau < 1 else 0.0
        assert float(chance.calibrated(alpha=alpha)[k]) == pytest.approx(wanted, abs=1e-12)
    limits = torch.tensor([0.1, 1.0, 2.0, 1.0])
    assert chance.calibrated(limits)[0] == 0, "a limit that is not above tau"
    assert chance.calibrated(2.0)[2] == pytest.approx(float(chance.calibrated(limits)[2]))


def test_a_net_with_itself_is_calibrated_to_one_and_strangers_to_nothing(generator):
    a, b = torch.randn(100, 40, generator=generator), torch.randn(100, 40, generator=generator)

    def similarity(x, y):
        return cu.cca(cu.pair_moments(x, y)).similarity

    assert cu.chance_level(similarity, a, a, n_shuffles=19).calibrated() == pytest.approx(1)
    strangers = cu.chance_level(similarity, a, b, n_shuffles=199)
    assert strangers.observed > 0.3
    assert strangers.calibrated() < 0.05


@pytest.mark.parametrize("wrong", [{"alpha": 0}, {"alpha": 1}, {"alpha": None}, {"limit": None}, {"limit": [1, 2]},
                                   {"limit": "x"}, {"limit": float("nan")}, {"limit": 1j}])  # fmt: skip
def test_what_is_no_limit_is_refused(generator, wrong):
    a = torch.randn(20, 2, generator=generator)
    chance = cu.chance_level(lambda x, y: (x * y).mean(), a, a, n_shuffles=5)
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: expected"):
        chance.calibrated(**wrong)


# places


def test_rows_are_exchanged_within_their_places(generator):
    places = torch.tensor([[0.1, 0.2], [0.7, 0.2], [0.1, 0.9]])[torch.randint(0, 3, (200,), generator=generator)]
    b = torch.cat([places, torch.arange(200)[:, None]], 1)
    seen = []
    cu.chance_level(lambda x, y: seen.append(y) or 0.0, b, b, places=places, n_shuffles=20)
    for dealt in seen[1:]:
        assert torch.equal(dealt[:, :2], places), "each keeps its place"
        assert sorted(dealt[:, 2].tolist()) == list(range(200)), "each once"
    moved = torch.stack([(dealt[:, 2] != b[:, 2]).double().mean() for dealt in seen[1:]])
    assert moved.mean() > 0.9
    assert len({tuple(dealt[:, 2].tolist()) for dealt in seen[1:]}) == 20


def test_what_all_images_share_stays_in_the_null_of_places(generator):
    layout = torch.randn(5, 3, generator=generator)
    place = torch.randint(0, 5, (400,), generator=generator)
    a, b = (layout[place] + 0.3 * torch.randn(400, 3, generator=generator) for _ in range(2))
    within, anywhere = (cu.chance_level(mean_match, a, b, places=p, n_shuffles=30) for p in (place, None))
    assert within.p_value > 0.05, "nothing beside the layout"
    assert anywhere.p_value < 0.05


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(60, 2, 2), "x", 3, torch.full((60,), torch.nan)])
def test_what_are_no_places_is_refused(generator, wrong):
    a = torch.randn(60, 3, generator=generator)
    with pytest.raises(ValueError, match="^places: expected"):
        cu.chance_level(mean_match, a, a, places=wrong)
    with pytest.raises(ValueError, match="^places: expected images or places, not both"):
        cu.chance_level(mean_match, a, a, places=torch.zeros(60), images=torch.arange(60))


def chance_of(observed, null):
    values = iter(torch.tensor([observed, *null], dtype=torch.float64))
    return cu.chance_level(lambda x, y: next(values), torch.zeros(3, 1), torch.zeros(3, 1), n_shuffles=len(null))


def test_calibrated_scores_near_the_largest_number_are_right_or_refused():
    assert chance_of(1e308, [-1e308] * 39).calibrated(1.7e308) == pytest.approx(2 / 2.7)
    assert chance_of(1.7e308, [-1.7e308] * 39).calibrated(1.7e308) == pytest.approx(1)
    with pytest.raises(ValueError, match="^limit: expected one that chance does not come so near to"):
        chance_of(1.7e308, [0.0] * 39).calibrated(1e-5)


def test_places_of_no_coordinates_are_refused(generator):
    a = torch.randn(12, 2, generator=generator)
    with pytest.raises(ValueError, match="^places: expected"):
        cu.chance_level(mean_match, a, a, places=torch.zeros(12, 0))


def test_a_chance_made_by_hand_of_unlike_shapes_is_refused(generator):
    made = cu.Chance(*torch.zeros(2, 3).double(), *torch.zeros(4, 3).double())
    with pytest.raises(ValueError, match="^null: expected shuffles"):
        made.calibrated()
