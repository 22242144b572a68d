"""What 06_svcca makes of directions, outliers and classes."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

import convergent_utils as cu
from convergent_utils.nets.datasets import normalise
from convergent_utils.paper import svcca


@pytest.fixture
def images(generator):
    return torch.randint(0, 256, (60, 4, 4, 1), generator=generator, dtype=torch.uint8)


def chain(generator, *, seen):
    """A chain whose outputs are a linear function of `seen` directions of its layer of 6 units."""
    below, above = nn.Sequential(nn.Flatten(), nn.Linear(16, 6)), nn.Linear(6, 5)
    with torch.no_grad():
        weights = torch.randn(5, seen, generator=generator) @ torch.randn(seen, 6, generator=generator)
        above.weight.copy_(weights + 3 * torch.randn(6, generator=generator))  # moves all outputs alike
    return nn.Sequential(OrderedDict(layer=below, output=above)).eval()


def test_directions_that_a_linear_rest_reads_hold_all_its_outputs(generator, images):
    network = chain(generator, seen=2)
    with torch.no_grad():
        acts = network.layer(normalise(images)).double()
    pair = cu.pair_moments(acts, acts)
    directions = svcca.read_directions(network, "layer", images, pair.cov_aa)

    def differences(rows):
        outputs = rows @ network.output.weight.detach().double().T
        return outputs - outputs.mean(1, keepdim=True)

    for k, is_all in ((1, False), (2, True)):
        matrix = cu.subspace_projection(directions[:, :k], covariance=pair.cov_aa)
        left = differences(cu.project(acts, matrix, pair.mean_a))
        assert torch.allclose(left, differences(acts), atol=1e-6) is is_all
    assert network.output.weight.grad is None


def test_places_of_a_map_count_together(generator, images):
    """A unit that is read at every place counts more than one that is read at a single place."""
    network = nn.Sequential(OrderedDict(layer=nn.Conv2d(1, 2, 1), flat=nn.Flatten(), output=nn.Linear(32, 2)))
    with torch.no_grad():
        network.layer.weight.copy_(torch.ones(2, 1, 1, 1))
        network.output.weight.zero_()
        network.output.weight[0, :16] = 1
        network.output.weight[1, 16] = 1
    covariance = torch.eye(2, dtype=torch.float64)
    first = svcca.read_directions(network, "layer", images, covariance)[:, 0]
    assert first[0].abs() > 10 * first[1].abs()


def test_debiased_similarity_of_blocks_is_that_of_their_rows(generator):
    networks = {f"net{k}": cu.build_network("alexnet-narrow", seed=k) for k in (1, 3)}
    images = torch.randint(0, 256, (40, 28, 28, 1), generator=generator, dtype=torch.uint8)
    measured = cu.measure(networks, images, ["conv1", "conv5", "fc6"], positions="mean", sample=40)
    found = svcca.debiased(measured)
    for a, b in (("net1.conv1", "net3.conv1"), ("net1.fc6", "net3.conv5")):
        expected = cu.debiased_cka(measured.sample(a), measured.sample(b))
        assert float(found(a, b)) == pytest.approx(float(expected), abs=1e-6)
    square = svcca.across(found, "net1", "net3", ("conv1", "fc6"))
    assert square[1, 0] == float(found("net1.fc6", "net3.conv1"))


def test_one_far_input_moves_cka_and_a_near_one_does_not(generator):
    a = torch.randn(400, 8, generator=generator)
    found = dict(zip(svcca.OUTLIERS, svcca.with_outliers(a, a, seed=0), strict=True))
    assert found["all images"] == found["without the farthest"] == pytest.approx(1)
    assert found["one moved far out"] < 0.8
    assert found["one moved to the mean distance"] > 0.98
    far, b = a.clone(), torch.randn(400, 8, generator=generator)
    far[:4] += 100  # alike in both, and all there is to see
    b[:4] = far[:4]
    found = dict(zip(svcca.OUTLIERS, svcca.with_outliers(far, b, seed=0), strict=True))
    assert found["all images"] > 0.9 > 0.2 > found["without the farthest"]
    assert found["without as many at random"] == pytest.approx(found["all images"], abs=0.05)


def test_like_classes_are_chosen_by_name_or_else_by_image(generator):
    def data(classes):
        images = torch.zeros(40, 2, 2, 1, dtype=torch.uint8)
        labels = torch.arange(40) % len(classes)
        for k, level in enumerate((0, 100, 105, 110, 200)[: len(classes)]):
            images[labels == k] = level
        return cu.Dataset(images, labels, classes, source="made up")

    named = data(("coat", "T-shirt", "shirt", "pullover", "bag"))
    assert svcca.like_classes(named) == {"tops": ("T-shirt", "pullover", "coat", "shirt")}
    assert svcca.like_classes(data(tuple("abcde"))) == {"nearest mean images": ("b", "c", "d")}
    assert svcca.like_classes(data(("a", "b"))) == {}


def test_likeness_is_a_share_of_the_mean_distance():
    classes = ("a", "b", "c")
    curves = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    assert svcca.likeness(curves, classes, {"one": ("a", "b")}) == 0
    assert svcca.likeness(curves, classes, {"one": ("a", "c")}) == pytest.approx(1.5)
    assert svcca.likeness(curves, classes, {"all": classes}) == pytest.approx(1)
    assert svcca.likeness(0 * curves, classes, {"all": classes}) == 0
