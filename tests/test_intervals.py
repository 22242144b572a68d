"""Do intervals over networks cover as often as they say, and stay where a number can be?"""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import convergent_utils as cu
from convergent_utils.kernels.intervals import p_value, paired_difference

TRIALS = 600
LEAST = 0.92


def effects(generator, trials, networks, kind):
    """An effect of each network, of mean 0 and variance 1."""
    drawn = generator.standard_normal((trials, networks))
    if kind == "normal":
        return drawn
    skewed = np.exp(0.5 * drawn)  # lognormal, sigma .5
    return (skewed - np.exp(0.125)) / np.sqrt((np.exp(0.25) - 1) * np.exp(0.25))


def pairs(generator, effect, spread=0.5):
    """One number for each ordered pair of networks: what both bring, and noise of its own."""
    noise = generator.standard_normal((len(effect), len(effect)))
    return effect[:, None] + effect + spread * (noise + noise.T) / math.sqrt(2)


def mean_of_pairs(generator, n, kind):
    """A mean of pairs."""
    for effect in effects(generator, TRIALS, n, kind):
        yield cu.network_interval(3 + pairs(generator, effect)), 3.0


def difference(generator, n, kind):
    """A number minus that of the same pairs of networks before training."""
    for effect, before in zip(*(effects(generator, TRIALS, n, kind) for _ in "ab"), strict=True):
        yield cu.network_interval(pairs(generator, effect) + 1 - pairs(generator, before)), 1.0


def contrast(generator, n, kind):
    """One layer minus the largest of two others, which lie far below."""
    for layers in zip(*(effects(generator, TRIALS, n, kind) for _ in range(3)), strict=True):
        top, *rest = (pairs(generator, effect, 0.2) for effect in layers)
        yield cu.network_interval(top + 20 - np.maximum(rest[0], rest[1] - 20)), 20.0


def on_a_scale(scale, middle, back, width):
    """A number whose effects are normal on a scale: the truth is the middle there."""

    def found(generator, n, kind):
        for effect in effects(generator, TRIALS, n, kind):
            values = back(middle + width * pairs(generator, effect))
            yield cu.network_interval(values, scale=scale), None

    def run(generator, n, kind):
        truth = float(np.mean([i.estimate for i, _ in found(np.random.default_rng(99), 60, kind)][:200]))
        for interval, _ in found(generator, n, kind):
            yield interval, truth

    return run


def two_groups(generator, n, kind):
    """The mean of one group of networks minus that of another."""
    for one, other in zip(*(effects(generator, TRIALS, n, kind) for _ in "ab"), strict=True):
        values = pairs(generator, one), pairs(generator, other) - 2

        def between(*chosen, values=values):
            means = [v[np.ix_(k, k)][~np.eye(len(k), dtype=bool)].mean() for v, k in zip(values, chosen, strict=True)]
            return means[0] - means[1]

        yield cu.groups_interval(between, [n, n]), 2.0


def around_a_circle(generator, n, kind):
    """The mean over pairs of each network and the next alone."""
    for effect in effects(generator, TRIALS, n, kind):
        values = pairs(generator, effect)

        def mean(kept, values=values):
            return np.mean([values[k, (k + 1) % n] for k in kept if (k + 1) % n in kept])

        yield cu.groups_interval(mean, [n]), 0.0


KINDS = {
    "mean of pairs": mean_of_pairs,
    "paired difference": difference,
    "contrast of layers": contrast,
    "share, on the logit scale": on_a_scale("logit", 1.0, lambda x: 1 / (1 + np.exp(-x)), 0.3),
    "count, on the log scale": on_a_scale("log", 2.0, np.exp, 0.2),
    "rank correlation, on the arctanh scale": on_a_scale("arctanh", 0.8, np.tanh, 0.15),
    "two groups": two_groups,
    "pairs around a circle": around_a_circle,
}


def coverage(name, n, kind):
    generator = np.random.default_rng(sorted(KINDS).index(name))
    hits = [found.low <= truth <= found.high for found, truth in KINDS[name](generator, n, kind)]
    return float(np.mean(hits))


@pytest.mark.parametrize("n", [4, 8])
@pytest.mark.parametrize("name", KINDS)
def test_intervals_cover_with_normal_effects(name, n):
    assert coverage(name, n, "normal") >= LEAST


@pytest.mark.benchmark
def test_coverage_of_skewed_effects_is_printed():
    """With lognormal effects (sigma .5) intervals cover a little less often than they say."""
    for name in KINDS:
        found = {f"{n} networks, {kind}": coverage(name, n, kind) for n in (4, 8) for kind in ("normal", "lognormal")}
        print(f"{name}: " + ", ".join(f"{key} {value:.1%}" for key, value in found.items()))


RANGES = {"arctanh": (-1, 1), "logit": (0, 1), "log": (0, math.inf)}


@pytest.mark.parametrize("scale", RANGES)
def test_an_interval_stays_in_its_range_and_holds_its_estimate(scale):
    low, high = RANGES[scale]
    generator = np.random.default_rng(0)
    for _ in range(200):
        values = generator.uniform(max(low, -5), min(high, 5), (4, 4))
        values = (values + values.T) / 2
        found = cu.network_interval(values, scale=scale)
        assert low <= found.low <= found.estimate <= found.high <= high
        plain = cu.network_interval(values)
        assert found.estimate == pytest.approx(plain.estimate)


@pytest.mark.parametrize("scale", RANGES)
def test_small_spreads_are_the_same_on_any_scale(scale):
    values = 0.4 + 1e-5 * np.random.default_rng(1).standard_normal((5, 5))
    found, plain = cu.network_interval(values, scale=scale), cu.network_interval(values)
    for end in ("low", "high"):
        assert getattr(found, end) == pytest.approx(getattr(plain, end), abs=1e-8)


def test_it_is_the_jackknife_of_the_transformed_number():
    values = np.random.default_rng(2).uniform(0.2, 0.9, (5, 5))
    off = ~np.eye(5, dtype=bool)
    without = [np.arctanh(np.delete(np.delete(values, k, 0), k, 1)[~np.eye(4, dtype=bool)].mean()) for k in range(5)]
    middle = np.arctanh(values[off].mean())
    half = stats.t.ppf(0.975, 4) * np.sqrt(4 / 5 * ((np.array(without) - middle) ** 2).sum())
    found = cu.network_interval(values, scale="arctanh")
    assert found.low == pytest.approx(np.tanh(middle - half))
    assert found.high == pytest.approx(np.tanh(middle + half))


def test_at_the_end_of_a_range_the_plain_interval_is_cut():
    values = np.ones((4, 4))
    assert cu.network_interval(values, scale="logit") == cu.Interval(1.0, 1.0, 1.0)
    values[0, 1] = values[1, 0] = 0.4
    found = cu.network_interval(values, scale="logit")
    assert found.high == 1
    assert found.low == pytest.approx(cu.network_interval(values).low)
    counted = cu.groups_interval(lambda nets: float(len(nets) == 4), [4], scale="log")
    assert counted.low == 0


@pytest.mark.parametrize(
    ("scale", "value", "named"),
    [("arctanh", 1.2, "values"), ("logit", -0.1, "values"), ("log", -1.0, "values"), ("cubic", 0.5, "scale"),
     (None, 0.5, "scale"), (torch.zeros(2), 0.5, "scale")],
)  # fmt: skip
def test_what_is_out_of_its_range_is_refused(scale, value, named):
    with pytest.raises(ValueError, match=f"^{named}: ") as refused:
        cu.network_interval(np.full((4, 4), value), scale=scale)
    assert len(str(refused.value)) <= 300
    if named == "values":
        with pytest.raises(ValueError, match="^statistic: expected numbers from"):
            cu.groups_interval(lambda nets: value, [4], scale=scale)


def test_p_values_are_those_of_students_and_of_welchs_tests():
    """Where a pair counts as the mean of its two, the jackknife of pairs is Student's of the networks."""
    dice = np.random.default_rng(3)
    first, second = dice.normal(1, 1, 6), dice.normal(0, 3, 4)
    found = cu.network_interval(np.add.outer(first, first) / 2)
    for number in (-1.0, 0.5, 4.0):
        assert p_value(found, number) == pytest.approx(stats.ttest_1samp(first, number).pvalue, rel=1e-9)
    apart = cu.groups_interval(lambda a, b: first[a].mean() - second[b].mean(), [6, 4])
    assert p_value(apart, 0.0) == pytest.approx(stats.ttest_ind(first, second, equal_var=False).pvalue, rel=1e-9)


@pytest.mark.parametrize("scale", ["plain", "arctanh", "logit", "log"])
def test_an_interval_reaches_a_number_at_the_level_of_its_p_value(scale):
    values = np.random.default_rng(4).uniform(0.2, 0.9, (5, 5))
    found = cu.network_interval(values, scale=scale)
    for number in (0.3, 0.8):
        wide = cu.network_interval(values, scale=scale, level=1 - p_value(found, number))
        assert (wide.low if number < found.estimate else wide.high) == pytest.approx(number, rel=1e-6)
    assert p_value(found, found.low) == pytest.approx(0.05, rel=1e-6)
    if scale != "plain":
        assert p_value(found, -1.0) == 0.0, "where the number cannot be"


def test_p_values_of_numbers_that_do_not_vary_and_of_other_intervals():
    exact, skewed = cu.Interval(0.5, 0.5, 0.5), cu.Interval(1.0, 0.5, 3.0)
    assert (p_value(exact, 0.5), p_value(exact, 0.4)) == (1.0, 0.0)
    assert p_value(skewed, 0.5) == p_value(skewed, 3.0) == pytest.approx(0.05)
    assert p_value(skewed, 2.0) > 0.05 > p_value(skewed, 0.4)
    alike = cu.network_interval(np.full((4, 4), 0.25))
    assert (p_value(alike, 0.25), p_value(alike, 0.3)) == (1.0, 0.0)
    one_sided = cu.Interval(0.5, 0.5, 1.0)
    assert (p_value(one_sided, 0.3), p_value(one_sided, 0.5)) == (0.0, 1.0)
    cut = np.ones((4, 4))
    cut[0, 1] = cut[1, 0] = 0.4
    found = cu.network_interval(cut, scale="logit")
    assert found.high == 1.0
    assert p_value(found, 1.1) == p_value(found, 1.0) == 0.0, "where the number cannot be"
    with pytest.raises(ValueError, match="^number: "):
        p_value(alike, math.nan)


@pytest.mark.parametrize("scale", ["plain", "logit"])
def test_a_paired_difference_is_the_interval_of_the_differences(scale):
    dice = np.random.default_rng(5)
    first, second = dice.uniform(0.1, 0.9, (2, 5, 5))
    ours, baseline = (cu.network_interval(values, scale=scale) for values in (first, second))
    found, right = paired_difference(ours, baseline), cu.network_interval(first - second)
    for name in ("estimate", "low", "high"):
        assert getattr(found, name) == pytest.approx(getattr(right, name), rel=1e-9)
    swapped = paired_difference(baseline, ours)
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low))
    assert paired_difference(ours, ours) == cu.Interval(0.0, 0.0, 0.0)
    for level in (0.5, 0.95):
        shifted, right = paired_difference(ours, 0.5, level=level), cu.network_interval(first - 0.5, level=level)
        assert (shifted.estimate, shifted.low, shifted.high) == pytest.approx((right.estimate, right.low, right.high))
    assert p_value(shifted, 0.0) == pytest.approx(p_value(cu.network_interval(first), 0.5))
    moved = paired_difference(cu.Interval(1.0, 0.5, 3.0), 0.25)
    assert (moved.estimate, moved.low, moved.high) == (0.75, 0.25, 2.75)
    for baseline in (math.nan, math.inf, None, "a"):
        with pytest.raises(ValueError, match="^baseline: "):
            paired_difference(ours, baseline)
    with pytest.raises(ValueError, match="^level: "):
        paired_difference(ours, 0.5, level=7)


def test_intervals_of_other_networks_are_not_paired():
    five, four = (cu.network_interval(np.random.default_rng(6).normal(size=(n, n))) for n in (5, 4))
    for ours, baseline in ((five, four), (cu.Interval(0.0, -1.0, 1.0), five), (five, cu.Interval(0.0, -1.0, 1.0))):
        with pytest.raises(
            ValueError, match="^baseline: expected an interval that network_interval or groups_interval"
        ):
            paired_difference(ours, baseline)
