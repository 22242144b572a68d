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
    wide, narrow = cu.network_interval(values, level=0.99), cu.network_interval(values, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("values", [np.zeros((2, 2)), np.zeros((3, 4)), np.zeros(9), np.full((3, 3), np.nan)])
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
