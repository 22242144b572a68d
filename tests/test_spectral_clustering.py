"""Groups of units, and maps within them on one scale."""

import numpy as np
import pytest
import torch

import convergent_utils as cu
from convergent_utils.paper import spectral_clustering as groups

BIPARTITE, BEST_UNIT, ROTATION, LINEAR = range(4)


def halves_of(a, b):
    """Moments on the first half of the rows, and on the second."""
    middle = len(a) // 2
    return cu.pair_moments(a[:middle], b[:middle]), cu.pair_moments(a[middle:], b[middle:])


def test_a_shuffled_copy_needs_no_rotation(generator):
    a = torch.randn(4000, 6, generator=generator)
    signs = torch.tensor([1.0, -2.0, 3.0, 1.0, -1.0, 0.5])
    found = groups.on_one_scale(*halves_of(a, (a * signs)[:, torch.randperm(6, generator=generator)] + 7))
    np.testing.assert_allclose(found, 1, atol=1e-6)


def test_another_basis_is_what_a_rotation_gains(generator):
    a = torch.randn(4000, 6, generator=generator).double()
    turned = a @ cu.random_rotation(6, seed=1)
    found = groups.on_one_scale(*halves_of(a, turned))
    assert found[ROTATION] > 0.999
    assert found[ROTATION] - found[BIPARTITE] > 0.2
    assert found[BIPARTITE] <= found[BEST_UNIT] + 1e-9


def test_noisy_twins_do_not_look_like_another_basis(generator):
    a, noise = torch.randn(2, 4000, 6, generator=generator)
    found = groups.on_one_scale(*halves_of(a, a + noise))
    assert abs(found[ROTATION] - found[BIPARTITE]) < 0.03
    assert found[LINEAR] == pytest.approx(1 / np.sqrt(2), abs=0.03)


def test_a_turned_network_is_matched_no_better_than_its_turn(generator):
    a = torch.randn(4000, 12, generator=generator)
    b = a.clone()
    b[:, 3] = 0.5  # dead: its rows are all alike
    fit, held = halves_of(a, b)
    turned = groups.turned_on_one_scale(fit, held, seed=0)
    assert turned == groups.turned_on_one_scale(fit, held, seed=0)
    assert turned < 0.85 < groups.on_one_scale(fit, held)[BIPARTITE]


def test_groups_are_found_again_and_their_basis_is_told(generator):
    """Units 0 to 2 of both networks share a space in one basis, 3 to 5 of a and 3 to 6 of b one in another basis."""
    a = torch.randn(4000, 6, generator=generator).double()
    b = torch.cat([a[:, :3], a[:, 3:] @ cu.random_rotation(3, seed=0), torch.randn(4000, 1, generator=generator)], 1)
    fit, held = halves_of(a, b)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1])
    found = list(groups.halves(labels, 6))
    assert [(x.tolist(), y.tolist()) for x, y in found] == [([0, 1, 2], [0, 1, 2]), ([3, 4, 5], [3, 4, 5, 6])]
    same, other = (groups.groups_on_one_scale(fit, held, [group]) for group in found)
    np.testing.assert_allclose(same, 1, atol=1e-6)
    assert other[ROTATION] - other[BIPARTITE] > 0.05
    both = groups.groups_on_one_scale(fit, held, found)
    np.testing.assert_allclose(both, (same + other) / 2)
    angles, matched = groups.angles_and_matches(fit, found[:1])
    assert angles == pytest.approx(1)
    assert matched == pytest.approx(1)
    assert groups.groups_on_one_scale(fit, held, []).tolist() == [0] * 4
    assert groups.angles_and_matches(fit, []).tolist() == [0, 0]


def test_random_groups_have_the_same_sizes_and_no_unit_twice():
    found = [(torch.arange(3), torch.arange(2)), (torch.arange(4), torch.arange(5))]
    drawn = list(groups.dealt(found, 10, 12, seed=0))
    again = list(groups.dealt(found, 10, 12, seed=0))
    for (a, b), (x, y), (i, j) in zip(found, drawn, again, strict=True):
        assert (len(x.unique()), len(y.unique())) == (len(a), len(b))
        assert torch.equal(x, i)
        assert torch.equal(y, j)


def test_shuffled_maps_keep_their_columns(generator):
    pair = cu.pair_moments(*torch.randn(2, 300, 8, generator=generator))
    there, back = (cu.least_squares(p) for p in (pair, pair.swap()))
    moved = groups.shuffled_map(there, generator)
    assert not torch.equal(moved.coefficients, there.coefficients)
    torch.testing.assert_close(moved.coefficients.sort(1).values, there.coefficients.sort(1).values)
    first, second = groups.shuffled_affinities(there, back, 2, seed=0)
    assert not torch.equal(first, second)
    assert torch.equal(first, groups.shuffled_affinities(there, back, 1, seed=0)[0])
    assert first[:8, :8].abs().max() == 0, "no links within a network"


def test_choices_are_those_of_single_trees(generator):
    affinity = cu.correlation_affinity(cu.pair_moments(*torch.randn(2, 100, 8, generator=generator)))
    numbers, linkages = (2, 4), ("average", "ward")
    found = groups.crossings_of_choices(affinity, numbers, linkages)
    for row, k in zip(found, numbers, strict=True):
        for share, linkage in zip(row, linkages, strict=True):
            assert share == float(cu.crossing_share(groups.merge_tree(affinity, k, linkage), 8))


def test_smallest_merges_have_the_colours_of_the_legend(generator):
    a = torch.randn(500, 4, generator=generator)
    near = a + 0.1 * torch.randn(500, 4, generator=generator)
    across = groups.merge_tree(cu.correlation_affinity(cu.pair_moments(a, near)), 4)
    colors = [groups._link_colors(across, 4)[8 + k] for k in range(len(across.merges))]
    assert colors.count(groups._CROSSING) == len(across.leaf_merges) == 4
    twins = [torch.cat([a[:, k : k + 2], near[:, k : k + 2]], 1) for k in (0, 2)]  # within either network
    within = groups.merge_tree(cu.correlation_affinity(cu.pair_moments(*twins)), 4)
    colors = groups._link_colors(within, 4).values()
    assert groups._CROSSING not in colors
    assert len(set(colors) - {groups._HIGHER}) == 2
