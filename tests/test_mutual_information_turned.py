import numpy as np
import pytest
import torch

import convergent_utils as cu
from convergent_utils.paper.mutual_information import MEASURES, beside_turned, equivalent, live_activations

ROWS, UNITS = 3000, 12
INFORMATION, CORRELATION, SIZE = range(len(MEASURES))


@pytest.fixture
def layer():
    """Units behind a rectifier, most of them silent most of the time: a basis that a rotation spoils."""
    drawn = torch.randn(ROWS, UNITS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (drawn - 0.5).clamp(min=0)


def test_units_of_a_shuffled_copy_lose_by_the_turn(layer):
    order = torch.randperm(UNITS, generator=torch.Generator().manual_seed(1))
    found = beside_turned([layer, 3 * layer[:, order] + 1], turns=3, seed=0, binning="quantile")
    own, turned = found[:, 0, 0, 1], found[:, 1, 0, 1]
    assert torch.allclose(own[[CORRELATION, SIZE]], torch.ones(2, dtype=torch.float64))
    itself = cu.mutual_information(layer, layer, binning="quantile").max(1).values
    assert own[INFORMATION] == pytest.approx(equivalent(itself).mean().item())
    assert (turned < own - 0.2).all()


def test_a_network_whose_basis_is_arbitrary_loses_nothing():
    """Independent normal units, and the same turned: another turn is one more of the same kind."""
    x = torch.randn(ROWS, UNITS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x @ cu.random_rotation(UNITS, seed=99)
    found = beside_turned([x, y], turns=20, seed=0, binning="quantile")
    assert torch.allclose(found[:, 0], found[:, 1], atol=0.06)


def test_unrelated_networks_share_next_to_nothing_either_way(layer):
    other = layer[torch.randperm(ROWS, generator=torch.Generator().manual_seed(2))]
    found = beside_turned([layer, other], turns=2, seed=0)
    assert (found[INFORMATION] < 0.15).all()
    assert (found[SIZE] < 0.1).all()


def test_the_correlations_are_those_of_moments(layer):
    """The turn of rows is the turn that `rotated` makes of moments."""
    other = (layer @ torch.rand(UNITS, UNITS, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).sin()
    found = beside_turned([layer, other], turns=2, seed=5)
    pair = cu.pair_moments(layer, other)
    scores = [cu.correlation(cu.rotated(pair, seed=seed)).matrix for seed in (6, 8)]  # 5 and 7 are of the first net
    assert found[CORRELATION, 1, 0, 1].item() == pytest.approx(np.mean([s.max(1).values.mean() for s in scores]))
    assert found[SIZE, 1, 0, 1].item() == pytest.approx(np.mean([s.abs().max(1).values.mean() for s in scores]))
    back = cu.correlation(cu.pair_moments(other, layer)).matrix.max(1).values.mean()
    assert found[CORRELATION, 0, 1, 0].item() == pytest.approx(back.item())
    assert (found.diagonal(dim1=2, dim2=3) == 0).all()


def test_the_equivalent_correlation_is_that_of_normal_units():
    r = torch.tensor([0.0, 0.3, 0.9], dtype=torch.float64)
    assert torch.allclose(equivalent(-torch.log(1 - r**2) / 2), r)
    assert equivalent(torch.tensor(-0.01)) == 0, "corrected to less than none"


def test_constant_units_are_left_out_and_neurons_have_one_row_of_each_image():
    images = torch.rand(30, 8, 8, 1, generator=torch.Generator().manual_seed(0))
    network = torch.nn.Sequential()
    network.add_module("conv1", torch.nn.Conv2d(1, 3, 3, padding=1))
    network.add_module("fc6", torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4)))
    with torch.no_grad():
        network.conv1.weight[1], network.conv1.bias[1] = 0.0, 0.0
    measured = cu.measure({"net": network}, images.permute(0, 3, 1, 2), ["conv1", "fc6"], sample=100)
    assert live_activations(measured, "net.conv1").shape == (100, 2)
    rows = live_activations(measured, "net.fc6")
    assert len(rows) == len(measured.sample_images.unique()) < 100
    assert len(rows.unique(dim=0)) == len(rows)
