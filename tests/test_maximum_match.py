from itertools import chain, combinations, pairwise

import numpy as np
import pytest
import torch

import convergent_utils as cu


def units(samples, *, generator, count=1):
    return torch.randn(samples, count, generator=generator, dtype=torch.float64)


def far(x, group, epsilon):
    """Whether a vector is further from what the columns of an array span than this share of its length."""
    if not group.shape[1]:
        return bool(np.linalg.norm(x) > epsilon * np.linalg.norm(x))
    left = x - group @ np.linalg.lstsq(group, x, rcond=1e-9)[0]
    return bool(np.linalg.norm(left) > epsilon * np.linalg.norm(x) + 1e-9)


def by_all_subsets(a, b, epsilon):
    """The largest match among all pairs of subsets; and that every other match lies within it."""

    def subsets(count):
        return list(chain.from_iterable(combinations(range(count), size) for size in range(1, count + 1)))

    far_a = {y: {i for i in range(a.shape[1]) if far(a[:, i], b[:, y], epsilon)} for y in subsets(b.shape[1])}
    far_b = {x: {j for j in range(b.shape[1]) if far(b[:, j], a[:, x], epsilon)} for x in subsets(a.shape[1])}
    matches = [(set(x), set(y)) for x in far_b for y in far_a if not far_a[y] & set(x) and not far_b[x] & set(y)]
    largest = max(matches, key=lambda match: len(match[0]) + len(match[1]), default=(set(), set()))
    assert all(x <= largest[0] and y <= largest[1] for x, y in matches)
    return largest


def chosen(mask):
    return set(mask.nonzero()[:, 0].tolist())


@pytest.mark.parametrize("epsilon", [0.0, 0.2, 0.4, 0.6, 0.8])
@pytest.mark.parametrize("widths", [(5, 5), (3, 6), (6, 2)])
def test_it_is_the_largest_of_all_matches(widths, epsilon, generator):
    sizes = set()
    for samples in (4, 12, 40):
        for noise in (0.0, 0.3, 0.7):
            a = torch.randn(samples, widths[0], generator=generator, dtype=torch.float64)
            mixing = torch.randn(*widths, generator=generator, dtype=torch.float64)
            mixing = mixing * (torch.rand(widths, generator=generator) < 0.35)
            b = a @ mixing + noise * torch.randn(samples, widths[1], generator=generator, dtype=torch.float64)
            live = b.amax(0) > b.amin(0)
            found = cu.maximum_match(a, b, epsilon=epsilon)
            x, y = by_all_subsets(a.numpy(), b[:, live].numpy(), epsilon)
            assert chosen(found.in_a) == x
            assert chosen(found.in_b[live]) == y
            assert not found.in_b[~live].any()
            assert float(found.similarity) == pytest.approx((len(x) + len(y)) / (widths[0] + int(live.sum())))
            sizes.add(len(x) + len(y))
    assert len(sizes) > 1, "not all alike"


def test_planted_groups_are_found(generator):
    """Three units of either net are mixtures of one another, the rest are strangers."""
    shared = torch.randn(500, 3, generator=generator)
    a = torch.cat([torch.randn(500, 4, generator=generator), shared @ torch.randn(3, 3, generator=generator)], 1)
    b = torch.cat([shared @ torch.randn(3, 3, generator=generator), torch.randn(500, 2, generator=generator)], 1)
    for epsilon in (0.0, 0.3, 0.6):
        found = cu.maximum_match(a, b, epsilon=epsilon)
        assert chosen(found.in_a) == {4, 5, 6}
        assert chosen(found.in_b) == {0, 1, 2}
        assert float(found.similarity) == pytest.approx(6 / 12)


def test_units_that_fall_one_after_the_other(generator):
    """Units that overlap with their neighbours in a row: the ends lack one, and fall first."""
    basis = torch.linalg.qr(torch.randn(40, 9, generator=generator, dtype=torch.float64)).Q
    a, b = basis[:, :4], basis[:, 1:5]
    found = cu.maximum_match(a, b, epsilon=0.5)
    assert chosen(found.in_a) == {1, 2, 3}
    assert found.rounds == 2
    near = [basis[:, [k]] + 0.6 * basis[:, [k + 1]] for k in range(8)]
    a, b = torch.cat(near[0::2], 1), torch.cat(near[1::2], 1)
    few = cu.maximum_match(a, b, epsilon=0.8)
    assert few.rounds > 2
    x, y = by_all_subsets(a.numpy(), b.numpy(), 0.8)
    assert (chosen(few.in_a), chosen(few.in_b)) == (x, y)


def test_it_grows_with_epsilon(generator):
    a = torch.randn(200, 8, generator=generator)
    b = a @ torch.randn(8, 8, generator=generator) / 3 + torch.linspace(0, 2, 8) * torch.randn(
        200, 8, generator=generator
    )
    found = [cu.maximum_match(a, b, epsilon=epsilon) for epsilon in np.linspace(0, 1, 21)]
    for less, more in pairwise(found):
        assert chosen(less.in_a) <= chosen(more.in_a)
        assert chosen(less.in_b) <= chosen(more.in_b)
    sizes = [float(match.similarity) for match in found]
    assert sizes[-1] == 1
    assert len(set(sizes)) > 3


def test_order_sign_and_scale_of_units_change_nothing_and_the_nets_change_places(generator):
    a = torch.randn(300, 7, generator=generator, dtype=torch.float64)
    b = a[:, :5] + torch.linspace(0.1, 1.2, 5) * torch.randn(300, 5, generator=generator, dtype=torch.float64)
    right = cu.maximum_match(a, b)
    order = torch.randperm(5, generator=generator)
    scale = torch.tensor([-1e-8, 3, 2.0**60, -1, 1e-100], dtype=torch.float64)
    found = cu.maximum_match(a, b[:, order] * scale)
    assert torch.equal(found.in_b, right.in_b[order])
    assert torch.equal(found.in_a, right.in_a)
    back = cu.maximum_match(b, a)
    assert torch.equal(back.in_a, right.in_b)
    assert torch.equal(back.in_b, right.in_a)
    assert 0 < right.similarity < 1
    turned = cu.maximum_match(a, b @ cu.random_rotation(5, seed=1))
    assert turned.similarity != right.similarity, "units count, not the space alone"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_rounding_does_to_mixtures_does_not_matter(dtype, generator):
    """Mixtures of 30 units in the precision of the rows, units far from zero, doubled, and nearly the same."""
    a = (torch.randn(2000, 30, generator=generator, dtype=torch.float64) + 20).to(dtype)
    b = a @ torch.randn(30, 40, generator=generator).to(dtype)
    assert cu.maximum_match(a, torch.cat([b, b[:, :5] / 3], 1), epsilon=0.0).similarity == 1
    strangers = torch.cat([b, torch.randn(2000, 2, generator=generator).to(dtype)], 1)
    assert chosen(~cu.maximum_match(a, strangers, epsilon=0.05).in_b) == {40, 41}


def test_fewer_samples_than_units(generator):
    a, b = torch.randn(6, 9, generator=generator), torch.randn(6, 12, generator=generator)
    assert cu.maximum_match(a, b, epsilon=0.0).similarity == 1, "both span everything"
    found = cu.maximum_match(a, b[:, :4], epsilon=0.0)
    assert found.in_b.sum() == 0, "four units span less than everything"
    assert found.in_a.sum() == 0


def test_means_count_and_constants_do_not(generator):
    a, b = torch.randn(200, 3, generator=generator), torch.randn(200, 3, generator=generator)
    assert cu.maximum_match(a, b).similarity == 0
    assert cu.maximum_match(a + 10, b + 10).similarity == 1, "the vectors are nearly parallel: they are not centred"
    constant = torch.cat([b, torch.ones(200, 1)], 1)
    found = cu.maximum_match(a + 10, constant)
    assert not found.in_b.any()
    assert found.similarity == 0
    same = cu.maximum_match(torch.cat([a, torch.zeros(200, 2)], 1), torch.cat([torch.full((200, 1), 0.1), a], 1))
    assert same.in_a.tolist() == [True, True, True, False, False]
    assert same.in_b.tolist() == [False, True, True, True]
    assert same.similarity == 1


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0])
def test_nets_of_dead_units_alone_match_nothing(epsilon, generator):
    dead, ordinary = torch.ones(50, 3), torch.randn(50, 4, generator=generator)
    for a, b in ((dead, ordinary), (ordinary, dead), (dead, dead)):
        found = cu.maximum_match(a, b, epsilon=epsilon)
        assert found.similarity == 0
        assert not found.in_a.any()
        assert not found.in_b.any()


def test_samples_in_parts_are_the_same(generator, monkeypatch):
    from convergent_utils.kernels import maximum_match

    a, b = torch.randn(90, 6, generator=generator), torch.randn(90, 4, generator=generator)
    b = b + 2 * a[:, :4]
    whole = cu.maximum_match(a, b, epsilon=0.6)
    monkeypatch.setattr(maximum_match, "_CHUNK_ROWS", 7)
    parts = cu.maximum_match(a, b, epsilon=0.6)
    assert torch.equal(parts.in_a, whole.in_a)
    assert torch.equal(parts.in_b, whole.in_b)
    assert 0 < whole.similarity < 1


@pytest.mark.parametrize("epsilon", [-0.01, 1.01, float("nan"), None, "x", [0.5]])
def test_what_is_no_epsilon_is_refused(epsilon, generator):
    a = torch.randn(20, 2, generator=generator)
    with pytest.raises(ValueError, match="^epsilon: expected a number from 0 to 1"):
        cu.maximum_match(a, a, epsilon=epsilon)
    with pytest.raises(ValueError, match="^acts_b: expected 20 samples"):
        cu.maximum_match(a, a[:5])
