import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

import convergent_utils as cu

LAYERS = ("conv2", "conv3", "conv5", "fc6", "fc7")


@pytest.fixture(scope="module")
def data():
    return cu.load_dataset("fashion-mnist", limit=256)


@pytest.fixture(scope="module")
def network(data):
    return cu.train(cu.build_network("alexnet-narrow", seed=1), data, cu.Recipe(epochs=1), seed=1).network


def moments_of(network, data, layer, positions="all"):
    with cu.record(network, layer, positions=positions) as rows:
        network(cu.normalise(data.images))
        return cu.pair_moments(rows[layer], rows[layer])


def acts_of(generator, units=9, samples=300):
    mixing = torch.randn(units, units, generator=generator, dtype=torch.float64)
    return torch.randn(samples, units, generator=generator, dtype=torch.float64) @ mixing + 3


def centred(acts):
    return acts - acts.mean(0)


def test_a_projection_is_one_and_keeps_its_span(generator):
    acts = centred(acts_of(generator))
    directions = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    orthogonal = cu.subspace_projection(directions)
    explained = cu.subspace_projection(directions, covariance=acts.T @ acts)
    for matrix in (orthogonal, explained):
        assert torch.allclose(matrix @ matrix, matrix, atol=1e-9)
        assert torch.linalg.matrix_rank(matrix) == 4
    assert torch.allclose(orthogonal, orthogonal.T)
    assert not torch.allclose(explained, explained.T, atol=0.01)
    assert torch.allclose(directions.T @ orthogonal, directions.T)  # what lies in the span stays
    assert torch.allclose(acts @ explained @ directions, acts @ directions)  # the variates stay


def test_in_the_space_of_samples_it_is_the_regression_on_the_variates(generator):
    acts = centred(acts_of(generator))
    directions = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    variates = acts @ directions
    fitted = variates @ torch.linalg.lstsq(variates, acts).solution
    found = acts @ cu.subspace_projection(directions, covariance=acts.T @ acts / len(acts))
    assert torch.allclose(found, fitted, atol=1e-9)
    lost = [
        float((acts - acts @ cu.subspace_projection(directions, covariance=c)).square().sum())
        for c in (None, acts.T @ acts)
    ]
    assert lost[1] < 0.9 * lost[0]


def test_both_projections_agree_on_principal_components(generator):
    acts = centred(acts_of(generator))
    covariance = acts.T @ acts
    components = torch.linalg.eigh(covariance).eigenvectors[:, -3:]
    assert torch.allclose(
        cu.subspace_projection(components), cu.subspace_projection(components, covariance=covariance), atol=1e-9
    )


@pytest.mark.parametrize("covariance", [False, True])
def test_lengths_order_repeats_and_zero_directions_change_nothing(generator, covariance):
    acts = centred(acts_of(generator))
    covariance = acts.T @ acts if covariance else None
    directions = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    before = cu.subspace_projection(directions, covariance=covariance)
    others = torch.cat([-5 * directions.flip(1), directions[:, :1] + directions[:, 1:2], 0 * directions], dim=1)
    assert torch.allclose(cu.subspace_projection(others, covariance=covariance), before, atol=1e-9)


def test_dead_units_stay_dead(generator):
    acts = acts_of(generator)
    acts[:, 2] = 0
    directions = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    covariance = centred(acts).T @ centred(acts)
    after = cu.project(acts, cu.subspace_projection(directions, covariance=covariance), acts.mean(0))
    assert after.isfinite().all()
    assert torch.allclose(after[:, 2], torch.zeros(()).double(), atol=1e-9)


def solved(matrix, right):
    """matrix^-1 right by elimination in NumPy's longest floats."""
    matrix, right = matrix.copy(), right.copy()
    for k in range(len(matrix)):
        pivot = k + int(np.abs(matrix[k:, k]).argmax())
        matrix[[k, pivot]], right[[k, pivot]] = matrix[[pivot, k]], right[[pivot, k]]
        for row in range(len(matrix)):
            if row != k:
                factor = matrix[row, k] / matrix[k, k]
                matrix[row] -= factor * matrix[k]
                right[row] -= factor * right[k]
    return right / matrix.diagonal()[:, None]


@pytest.mark.parametrize(
    "scales", [[1] * 9, np.logspace(-5, 5, 9), np.logspace(140, 150, 9), np.logspace(-150, -140, 9)]
)
@pytest.mark.parametrize("k", [1, 4, 9])
@pytest.mark.parametrize("alike", [True, False])
def test_variances_far_apart_are_projected_as_others(generator, scales, k, alike):
    scales = torch.tensor(scales, dtype=torch.float64)
    acts = centred(acts_of(generator))
    directions = torch.randn(9, k, generator=generator, dtype=torch.float64)
    if alike:
        directions = directions / scales[:, None]
    covariance = (acts.T @ acts / len(acts)) * scales[:, None] * scales
    exact, weights = (value.numpy().astype(np.longdouble) for value in (covariance, directions))
    expected = weights @ solved(weights.T @ exact @ weights, weights.T @ exact)
    if k == 9:
        expected = np.eye(9)
    found = cu.subspace_projection(directions, covariance=covariance)
    ratios = scales.numpy()[:, None] / scales.numpy()
    worst = float(np.abs((found.numpy() - expected) * ratios).max())
    assert worst < 1e-6 * float(np.abs(expected * ratios).max())


@pytest.mark.parametrize("k", [3, 9])
def test_units_that_do_not_vary_have_the_weights_of_the_span(generator, k):
    acts = centred(acts_of(generator))
    acts[:, 2] = 0
    directions = torch.randn(9, k, generator=generator, dtype=torch.float64)
    directions[2] *= 1e12 if k == 3 else 1
    covariance = acts.T @ acts
    found = cu.subspace_projection(directions, covariance=covariance)
    if k == 9:
        assert torch.allclose(found, torch.eye(9).double().index_fill(0, torch.tensor([2]), 0), atol=1e-9)
    else:
        exact, weights = (value.numpy().astype(np.longdouble) for value in (covariance, directions))
        expected = weights @ solved(weights.T @ exact @ weights, weights.T @ exact)
        assert np.allclose(found, expected.astype(float), atol=1e-9)


@pytest.mark.parametrize("size", [1.7e308, 1e-300, 5e-324])
@pytest.mark.parametrize("covariance", [False, True])
def test_directions_of_any_length_span_the_same(generator, covariance, size):
    acts = centred(acts_of(generator))
    covariance = acts.T @ acts if covariance else None
    directions = torch.randint(-1, 2, (9, 3), generator=generator).double()
    before = cu.subspace_projection(directions, covariance=covariance)
    lengths = torch.tensor([size, 1, 1e-30], dtype=torch.float64)
    assert torch.allclose(cu.subspace_projection(directions * lengths, covariance=covariance), before, atol=1e-9)


def test_a_direction_without_variance_explains_nothing(generator):
    acts = centred(acts_of(generator))
    acts[:, 1] = acts[:, 0]
    direction = torch.zeros(9, 1).double()
    direction[:2, 0] = torch.tensor([1.0, -1.0])
    for covariance in (acts.T @ acts / 7, (acts.T @ acts) * 1e300):
        assert torch.equal(cu.subspace_projection(direction, covariance=covariance), torch.zeros(9, 9).double())


def test_small_variances_that_rounding_made_are_no_refusal(generator):
    acts = centred(acts_of(generator))
    covariance = acts.T @ acts / len(acts)
    covariance[2, :] = covariance[:, 2] = 1e-9
    covariance[2, 2] = 1e-20
    directions = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    directions[2] = 0
    found = cu.subspace_projection(directions, covariance=covariance)
    others = [unit for unit in range(9) if unit != 2]
    expected = cu.subspace_projection(directions[others], covariance=covariance[others][:, others])
    assert torch.allclose(found[others][:, others], expected, atol=1e-6)


@pytest.mark.parametrize("layer", LAYERS)
def test_all_directions_leave_the_network_as_it_is_and_none_leave_the_mean(network, data, layer):
    pair = moments_of(network, data, layer)
    units, logits = len(pair.mean_a), cu.predict(network, data)
    with cu.projected(network, layer, cu.subspace_projection(torch.eye(units)), pair.mean_a):
        assert torch.allclose(cu.predict(network, data), logits, atol=1e-4)
    with cu.projected(network, layer, torch.zeros(units, units), pair.mean_a):
        constant = cu.predict(network, data)
    assert (constant - constant[0]).abs().max() < 1e-4
    assert torch.equal(cu.predict(network, data), logits), "the hook is gone"


def test_the_mean_is_restored_and_only_the_span_is_left(network, data):
    pair = moments_of(network, data, "conv3")
    directions = torch.eye(len(pair.mean_a))[:, 3:5]  # two units
    matrix = cu.subspace_projection(directions)
    with cu.projected(network, "conv3", matrix, pair.mean_a), cu.record(network, "conv4") as rows:
        network(cu.normalise(data.images))
        after = rows["conv4"].clone()
    below, above = cu.split_after(network, "conv3")
    with torch.no_grad():
        maps = below(cu.normalise(data.images))
        kept = pair.mean_a.float()[:, None, None].expand_as(maps).clone()
        kept[:, 3:5] = maps[:, 3:5]
        expected = above[0](kept).permute(0, 2, 3, 1).flatten(0, 2)
    assert torch.allclose(after, expected, atol=1e-5)


def test_an_ablated_unit_says_its_mean_and_the_others_what_they_said(network, data):
    images = cu.normalise(data.images[:40])
    mean = torch.arange(24.0)
    with cu.record(network, "conv5", positions="all") as before:
        network(images)
    with cu.ablated(network, "conv5", [3, 20], mean), cu.record(network, "conv5", positions="all") as rows:
        network(images)
    gone = torch.tensor([3, 20])
    assert (rows["conv5"][:, gone] == mean[gone]).all()
    left = torch.ones(24, dtype=torch.bool).index_fill(0, gone, False)
    assert torch.equal(rows["conv5"][:, left], before["conv5"][:, left])
    with cu.record(network, "conv5", positions="all") as after:
        network(images)
    assert torch.equal(after["conv5"], before["conv5"])


def test_an_ablated_unit_is_a_bias_for_what_reads_it(network, data):
    """By hand: its outgoing weights to zero, and what they made of the mean into the biases."""
    images, mean = cu.normalise(data.images), torch.rand(64, generator=torch.Generator().manual_seed(0))
    by_hand = copy.deepcopy(network)
    with torch.no_grad():
        reads = by_hand.fc7[0]
        reads.bias += reads.weight[:, [5, 9]] @ mean[[5, 9]]
        reads.weight[:, [5, 9]] = 0.0
    with cu.ablated(network, "fc6", torch.tensor([9, 5]), mean.double()):
        torch.testing.assert_close(network(images), by_hand(images), atol=1e-5, rtol=1e-5)


def test_an_ablated_map_keeps_where_the_unit_is_active(network, data):
    images = cu.normalise(data.images[:50])
    below, above = cu.split_after(network, "conv4")
    maps = below(images)
    places = maps.mean(0).permute(1, 2, 0)
    with cu.ablated(network, "conv4", [7], places):
        found = network(images)
    maps = maps.clone()
    maps[:, 7] = maps[:, 7].mean(0)
    torch.testing.assert_close(found, above(maps), atol=1e-5, rtol=1e-5)
    with cu.ablated(network, "conv4", [], places):
        assert torch.equal(network(images), above(below(images)))


def test_tokens_and_rows_are_ablated_too():
    layer = nn.Identity()
    network = nn.Sequential(OrderedDict(layer=layer))
    with cu.ablated(network, "layer", [1], torch.tensor([5.0, 6.0])):
        assert network(torch.zeros(2, 3, 2))[..., 1].eq(6).all()
        assert network(torch.zeros(4, 2)).sum() == 24
        assert network(torch.zeros(1, 2, 3, 3, dtype=torch.float16))[:, 1].eq(6).all()


def test_the_two_parts_make_the_whole(network, data):
    images = cu.normalise(data.images[:32])
    with torch.no_grad():
        for layer in network.layers:
            below, above = cu.split_after(network, layer)
            assert torch.equal(above(below(images)), network(images))


@pytest.mark.parametrize("layer", ["conv3", "conv4", "fc6", "fc7"])
@pytest.mark.parametrize("k", [0, 5, 100])
def test_truncated_computes_what_projected_computes_with_fewer_products(network, data, generator, layer, k):
    pair = moments_of(network, data, layer)
    directions = torch.randn(len(pair.mean_a), k, generator=generator, dtype=torch.float64)
    smaller = cu.truncated(network, layer, directions, pair.mean_a)
    with cu.projected(network, layer, cu.subspace_projection(directions), pair.mean_a):
        assert torch.allclose(cu.predict(smaller, data), cu.predict(network, data), atol=1e-4)
    shape = tuple(data.images.shape[i] for i in (3, 1, 2))
    whole, left = (sum(cu.multiply_adds(net, shape).values()) for net in (network, smaller))
    assert (left < whole) == (k < 100)


def test_multiply_adds_are_counted_by_hand():
    counted = cu.multiply_adds(cu.build_network("alexnet", seed=0), (1, 28, 28))
    by_hand = {"conv1": 24 * 25 * 28 * 28, "conv2": 48 * 24 * 25 * 14 * 14, "conv3": 64 * 48 * 9 * 49}
    by_hand |= {"conv4": 64 * 64 * 9 * 49, "conv5": 48 * 64 * 9 * 49}
    by_hand |= {"fc6": 48 * 9 * 128, "fc7": 128 * 128, "fc8": 128 * 10}
    assert {name.removesuffix(".0"): count for name, count in counted.items()} == by_hand
    tokens = nn.Sequential(nn.Flatten(2), nn.Linear(16, 5))  # (n, 3, 16): each weight is used three times
    assert cu.multiply_adds(tokens, (3, 4, 4)) == {"1": 3 * 16 * 5}
    assert cu.multiply_adds(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, padding=1)), (4, 6, 6)) == {"0": 4 * 9 * 36}


def test_frozen_layers_keep_the_weights_they_had(data):
    start, recipe = cu.build_network("alexnet-narrow", seed=1), cu.Recipe(epochs=4)  # sixteen steps
    at_once = cu.train(start, data, recipe, seed=1, intervene=cu.freezing({"conv1": 0.0, "fc7": 0.0}))
    free = cu.train(start, data, recipe, seed=1)
    halfway = cu.train(start, data, recipe, seed=1, intervene=cu.freezing({"conv2": 0.75}))
    for name, before in start.state_dict().items():
        same = torch.equal(at_once.network.state_dict()[name], before)
        assert same == name.startswith(("conv1", "fc7")), name
    for name, final in halfway.network.state_dict().items():
        assert torch.equal(halfway.checkpoints[0.75][name], free.checkpoints[0.75][name])
        assert torch.equal(halfway.checkpoints[0.75][name], final) == name.startswith("conv2"), name
    assert all(parameter.requires_grad for parameter in at_once.network.parameters())


def test_no_gradient_is_computed_below_what_is_frozen(data):
    computed = set()

    def watch(network, share):
        cu.freezing({"conv1": 0.25, "conv2": 0.5, "conv4": 0.25})(network, share)
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                computed.add((name.split(".")[0], share))

    cu.train(cu.build_network("alexnet-narrow", seed=1), data, cu.Recipe(epochs=1), seed=1, intervene=watch)
    seen = {
        layer: {share for name, share in computed if name == layer} for layer in ("conv1", "conv2", "conv3", "conv4")
    }
    assert seen == {"conv1": {0.25}, "conv2": {0.25, 0.5}, "conv3": {0.25, 0.5, 0.75}, "conv4": {0.25}}


def test_part_of_an_epoch_and_an_idle_intervention_change_nothing_else(data):
    start = cu.build_network("alexnet-narrow", seed=1)
    part = cu.train(start, data, cu.Recipe(epochs=1.5), seed=1)
    assert len(part.history.loss) == 3
    one, same = (
        cu.train(start, data, cu.Recipe(epochs=1), seed=1, intervene=intervene).network.state_dict()
        for intervene in (None, cu.freezing({}))
    )
    assert all(torch.equal(one[name], same[name]) for name in one)


def test_the_cost_of_training_follows_the_schedule():
    forward = {"a": 100, "b": 100, "c": 100}
    assert cu.training_cost(forward, {}) == 1
    # nothing learns: forward passes alone, of eight hundreds
    assert cu.training_cost(forward, dict.fromkeys(forward, 0.0)) == pytest.approx(3 / 8)
    # a stops at once: the gradients of its weights and of the inputs of b are saved
    assert cu.training_cost(forward, {"a": 0.0}) == pytest.approx(6 / 8)
    # c stops at once: only the gradient of its own weights is saved, since those below still learn
    assert cu.training_cost(forward, {"c": 0.0}) == pytest.approx(7 / 8)
    assert cu.training_cost(forward, {"a": 0.5}) == pytest.approx(7 / 8)


def ablated(net, units, mean=None):
    """What the network says of an image while units are ablated."""
    with cu.ablated(net, "conv5", units, torch.zeros(24) if mean is None else mean):
        return net(torch.zeros(1, 1, 28, 28))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: cu.truncated(net, "conv5", torch.eye(24), torch.zeros(24)), "reads directly, got 'conv5'"),
        (lambda net: cu.truncated(net, "fc8", torch.eye(10), torch.zeros(10)), "reads directly, got 'fc8'"),
        (lambda net: cu.split_after(net, "conv9"), "layer: expected one of"),
        (lambda net: cu.subspace_projection(torch.eye(3, dtype=torch.int64)), "directions: expected floating"),
        (lambda net: cu.subspace_projection(torch.full((3, 1), torch.nan)), "directions: expected finite"),
        (lambda net: cu.subspace_projection(torch.eye(3), covariance=torch.eye(4)), "covariance: expected"),
        (lambda net: cu.project(torch.ones(5, 3), torch.eye(3), torch.ones(4)), "mean: expected as many units"),
        (lambda net: cu.freezing({"conv1": 1.5}), "schedule: expected shares"),
        (lambda net: ablated(net, [24]), "units: expected numbers from 0 to 23, got 24"),
        (lambda net: ablated(net, [-1]), "units: expected numbers from 0 to 23, got -1"),
        (lambda net: ablated(net, [2, 2]), "units: expected each unit once"),
        (lambda net: ablated(net, [0.5]), "units: expected numbers of units in a list"),
        (lambda net: ablated(net, [0], torch.zeros(24, 7)), r"mean: expected \(units,\) or"),
        (lambda net: ablated(net, [0], torch.zeros(7, 7, 23)), "mean: expected that of outputs"),
        (lambda net: ablated(net, [0], torch.zeros(3, 3, 24)), "mean: expected that of outputs"),
        (lambda net: ablated(net, [0], torch.full((24,), torch.nan)), "mean: expected finite"),
    ],
)
def test_bad_arguments_are_named(network, call, message):
    with pytest.raises(ValueError, match=message):
        call(network)
