"""Matches that may lie a step aside."""

import torch

import convergent_utils as cu
from convergent_utils.paper.one_to_one_matching import displaced_matches


def test_a_unit_that_stands_aside_is_found(generator):
    """Unit 0 of b is unit 1 of a, moved by two places down and one to the left."""
    a, b = torch.randn(2, 50, 9, 8, 3, generator=generator)
    b[:, 2:, :-1, 0] = 3 * a[:, :-2, 1:, 1] + 1
    same, aside = displaced_matches([a, b], 2)["r"]
    assert aside[0, 1, 1] > 0.999
    assert same[0, 1, 1] < 0.2
    assert aside[1, 0, 0] > 0.999, "and back"
    assert displaced_matches([a, b], 1)["r"][1, 0, 1, 1] < 0.2, "it is too far away"


def test_without_displacement_it_is_semi_matching_on_the_same_rows(generator):
    maps = [torch.randn(40, 6, 6, 4, generator=generator).relu() for _ in range(3)]
    maps[1] = maps[1] + maps[0]
    for reach in (0, 1):
        found = displaced_matches(maps, reach)
        inner = [m[:, reach : 6 - reach, reach : 6 - reach].reshape(-1, 4) for m in maps]
        for i in range(3):
            for k in range(3):
                score = cu.semi_matching(cu.correlation(cu.pair_moments(inner[i], inner[k])).matrix).score
                torch.testing.assert_close(found["r"][0, i, k].double(), score, rtol=0, atol=1e-5)
        assert (found["r"][1] >= found["r"][0]).all()


def test_dead_units_and_small_maps(generator):
    maps = [torch.randn(30, 2, 3, 3, generator=generator) for _ in range(2)]
    maps[0][..., 1] = 0.1  # of which the mean in float32 is another number
    found = displaced_matches(maps, 4)
    assert found["live"].tolist() == [[True, False, True], [True, True, True]]
    assert found["r"][:, 0, :, 1].abs().max() == 0
    assert found["r"].isfinite().all()
    assert found["r"].shape == (2, 2, 2, 3)
    one = torch.randn(30, 3, 3, 1, generator=generator)
    opposites = displaced_matches([torch.cat([one, one], 3), torch.cat([-one, 0 * one], 3)], 0)["r"]
    assert torch.allclose(opposites[0, 0, 1], torch.tensor([-1.0, -1.0])), "a dead unit is no better partner"
