import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from scipy import stats

from convergent_utils.paper.activation_statistics import dealt_spectra, spectra_of_layers, variance_components


def normal(rows, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns))


def test_the_components_of_variance_are_those_that_were_planted():
    level, units = normal(400, 1, seed=1), 2 * normal(400, 25)
    between, within = variance_components(list(3 + 0.5 * level + units))
    assert within == pytest.approx(4, rel=0.05)
    assert between == pytest.approx(0.25, abs=0.06)


def test_their_ratio_is_the_f_of_an_analysis_of_variance():
    groups = [torch.from_numpy(group) for group in normal(5, 12)]
    between, within = variance_components(groups)
    assert 1 + 12 * between / within == pytest.approx(stats.f_oneway(*groups).statistic)


def test_groups_of_unequal_size_are_weighed_so_that_no_difference_gives_none_on_average():
    found = [variance_components([row[:3], row[3:15], row[15:]])[0] for row in normal(4000, 40)]
    assert np.mean(found) == pytest.approx(0, abs=3 * np.std(found) / np.sqrt(4000))
    assert min(found) < 0, "not clipped"


def test_groups_with_one_mean_have_less_between_them_than_chance():
    values = normal(6, 30)
    between, within = variance_components(list(values - values.mean(1, keepdims=True)))
    assert between == pytest.approx(-within / 30)
    assert variance_components(list(values + 7)) == pytest.approx(variance_components(list(values)))


def test_dealt_spectra_hold_those_of_one_pool_and_not_those_of_another_level():
    groups = list(torch.from_numpy(np.exp(normal(8, 60))))
    low, high = dealt_spectra(groups)
    assert (low <= high).all()
    assert (np.diff(low) <= 0).all()
    inside = [(low <= spectrum) & (spectrum <= high) for spectrum in np.sort(groups)[:, ::-1]]
    assert 0.85 < np.mean(inside) < 1
    assert np.mean(np.sort(groups[0])[::-1] * 3 > high) > 0.8
    again = dealt_spectra(groups)
    assert all(np.array_equal(*pair) for pair in zip((low, high), again, strict=True))
    assert not np.array_equal(low, dealt_spectra(groups, seed=1)[0])


def test_networks_may_have_dead_units():
    short, long = torch.from_numpy(np.exp(normal(2, 40)))
    low, _ = dealt_spectra([short[:37], long])
    assert len(low) == 40
    layers = {k: {"net1": torch.cat([short[:37], torch.zeros(3)]), "net2": long} for k in ("conv1", "conv2", "fc6")}
    figure = plt.figure()
    spectra_of_layers(figure, layers, chance={k: (low, low + 1) for k in layers}, untrained=layers)
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == ["conv1", "conv2", "fc6", "untrained, mean of networks"]
    assert sorted(len(line.get_xdata()) for line in panels[0].lines) == [37, 40]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["shuffled labels", "net1", "net2"]
    plt.close(figure)
