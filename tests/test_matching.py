import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import convergent_utils as cu

METHODS = [cu.semi_matching, cu.bipartite_matching]


@pytest.fixture
def score(generator):
    return torch.rand(5, 5, generator=generator, dtype=torch.float64)


def test_semi_matching_takes_each_best_partner(score, device):
    match = cu.semi_matching(score.to(device))
    assert match.index.tolist() == [max(range(5), key=lambda j, i=i: score[i, j]) for i in range(5)]
    assert torch.equal(match.score.cpu(), score.max(1).values)
    assert match.index.dtype == torch.int64


def test_bipartite_matching_equals_all_assignments_tried(generator, device):
    for rows, columns in ((5, 5), (4, 6), (6, 4), (1, 3)):
        score = torch.randn(rows, columns, generator=generator)
        match = cu.bipartite_matching(score.to(device))
        kept = min(rows, columns)
        best = max(
            sum(score[i, j] for i, j in zip(chosen, order, strict=True))
            for chosen in itertools.combinations(range(rows), kept)
            for order in itertools.permutations(range(columns), kept)
        )
        partners = match.index[match.index >= 0].tolist()
        assert len(partners) == len(set(partners)) == kept
        assert match.score.sum().item() == pytest.approx(float(best), abs=1e-5)
        assert match.mean.item() == pytest.approx(float(best) / kept, abs=1e-5), "unmatched units are left out"


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_permutation_is_found(method, generator, device):
    acts = torch.randn(2000, 40, generator=generator)
    order = torch.randperm(40, generator=generator)
    noisy = acts[:, order] + 0.3 * torch.randn(2000, 40, generator=generator)
    match = method(cu.correlation(cu.pair_moments(noisy.to(device), acts.to(device))).matrix)
    assert torch.equal(match.index.cpu(), order)
    unrelated = torch.randn(2000, 40, generator=generator)
    assert method(cu.correlation(cu.pair_moments(unrelated, acts)).matrix).mean < 0.1


@pytest.mark.parametrize("method", METHODS)
def test_dead_units_have_no_partner_and_are_nobodys(method):
    score = torch.tensor([[0.1, 0.9, 0.2], [0.3, 0.8, 0.4], [0.9, 0.9, 0.9]])
    match = method(score, live_a=torch.tensor([True, True, False]), live_b=torch.tensor([True, False, True]))
    assert match.index[2] == -1
    assert match.score[2] == 0
    assert 1 not in match.index
    assert match.mean.item() == pytest.approx({"semi_matching": 0.3, "bipartite_matching": 0.25}[method.__name__])
    nobody = method(score, live_b=torch.zeros(3, dtype=torch.bool))
    assert nobody.index.tolist() == [-1, -1, -1]
    assert nobody.mean.item() == 0.0


def test_one_to_one_never_beats_free_choice_and_equals_it_where_nothing_is_shared(generator):
    score = torch.rand(30, 30, generator=generator)
    assert cu.bipartite_matching(score).mean <= cu.semi_matching(score).mean
    clear = torch.eye(30)[torch.randperm(30, generator=generator)]
    assert torch.equal(cu.bipartite_matching(clear).index, cu.semi_matching(clear).index)


@pytest.mark.parametrize("method", METHODS)
def test_shuffled_units_shuffle_the_match(method, generator):
    score = torch.rand(12, 12, generator=generator)
    rows, columns = (torch.randperm(12, generator=generator) for _ in range(2))
    assert torch.equal(columns[method(score[rows][:, columns]).index], method(score).index[rows])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("score", "message"),
    [
        (torch.zeros(3), "matrix"),
        (torch.zeros(3, 3, dtype=torch.int64), "floating"),
        (torch.full((2, 2), float("nan")), "unit 0 of a"),
        (torch.tensor([[0.0, float("inf")]]), "unit 1 of b"),
        ([[1.0]], "list"),
        (torch.zeros(2, 0), "at least one unit"),
    ],
)
def test_bad_scores_are_named(method, score, message):
    with pytest.raises(ValueError, match=message):
        method(score)


@pytest.mark.parametrize("method", METHODS)
def test_bad_masks_are_named(method):
    with pytest.raises(ValueError, match="live_b: expected a boolean mask of 3 units"):
        method(torch.zeros(2, 3), live_b=torch.ones(2, dtype=torch.bool))


@pytest.mark.usefixtures("fake_cuda")
def test_semi_matching_stays_on_the_gpu():
    with FakeTensorMode():
        match = cu.semi_matching(torch.randn(8, 9, device="cuda"))
        assert match.index.device.type == match.mean.device.type == "cuda"
