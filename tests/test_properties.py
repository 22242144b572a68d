"""One table for all similarities: what each is invariant to, and what it is not. Both are asserted.

To add a similarity, add a row. Every change is made to the units of net b alone; a similarity that is not symmetric
says what a change of net a does in a row of its own.
"""

import inspect

import pytest
import torch

import convergent_utils as cu
from convergent_utils.compare import similarities


def matched(method):
    """Mean correlation of matched units."""

    def similarity(a, b):
        found = cu.correlation(cu.pair_moments(a, b))
        return method(found.matrix, live_a=found.live_a, live_b=found.live_b).mean

    return similarity


def explained(mapping):
    """Mean R^2 of a mapping between the nets."""
    return lambda a, b: mapping(cu.pair_moments(a, b)).r2.mean()


def through_matches(a, b):
    """Mean R^2 of each unit of net b by its partner alone."""
    pair = cu.pair_moments(a, b)
    return cu.matching_map(pair, cu.bipartite_matching(cu.correlation(pair).matrix)).r2.mean()


def informed(binning):
    """Mean information that a unit has of its best partner, as a share of what it has of itself."""

    def similarity(a, b):
        found = cu.mutual_information(a, b, bins=5, binning=binning, correction=None)
        itself = cu.mutual_information(a, a, bins=5, binning=binning, correction=None).diagonal()
        return (found.amax(1) / itself).mean()

    return similarity


def overlapping(a, b):
    """Mean cosine of the principal angles between what all units of either net span."""
    return cu.subspace_overlap(cu.pair_moments(a, b), range(a.shape[1]), range(b.shape[1])).mean()


def canonical(analysis):
    """Mean canonical correlation, weighted as the analysis does."""
    return lambda a, b: analysis(cu.pair_moments(a, b)).similarity


def along_the_largest_covariance(a, b):
    """Correlation of the pair of directions with the largest covariance."""
    return cu.partial_least_squares(cu.pair_moments(a, b)).correlation[0]


def in_one_space(dimensions):
    """Agreement of the nets in a space of so many dimensions."""
    return lambda a, b: cu.generalised_procrustes({("a", "b"): cu.pair_moments(a, b)}, dimensions=dimensions).agreement


def in_groups(a, b):
    """Debiased CKA summed over groups of ten samples, which another order of the samples makes anew."""
    return cu.StreamingCKA({"a": a.shape[1], "b": b.shape[1]}, rows=10).update({"a": a, "b": b}).cka("a", "b")


def orthogonal(units, generator):
    return torch.linalg.qr(torch.randn(units, units, generator=generator, dtype=torch.float64)).Q


CHANGES = {
    "permutation": lambda acts, generator: acts[:, torch.randperm(acts.shape[1], generator=generator)],
    "scale of all units": lambda acts, generator: 3.7 * acts,
    "positive scales of units": lambda acts, generator: acts * torch.rand(acts.shape[1], generator=generator).add(0.1),
    "sign of some units": lambda acts, generator: acts * torch.tensor([-1.0, 1.0]).repeat(acts.shape[1] // 2),
    "shift": lambda acts, generator: acts + 10 * torch.randn(acts.shape[1], generator=generator),
    "rotation": lambda acts, generator: acts @ orthogonal(acts.shape[1], generator),
    "invertible map": lambda acts, generator: acts @ (
        orthogonal(acts.shape[1], generator) * torch.logspace(-1, 1, acts.shape[1], dtype=torch.float64)
    ),
    "increasing maps of units": lambda acts, generator: acts.exp(),
    "order of the samples of both": None,
    "order of the samples of one": lambda acts, generator: acts[torch.randperm(len(acts), generator=generator)],
}  # fmt: skip
# For each similarity the changes that leave it as it is; every other change must move it.
LINEAR = set(CHANGES) - {"order of the samples of one", "increasing maps of units"}
UNITWISE = {"permutation", "scale of all units", "positive scales of units", "shift", "order of the samples of both"}
SIGNED = {*UNITWISE, "sign of some units"}
RIGID = {"permutation", "scale of all units", "sign of some units", "shift", "rotation", "order of the samples of both"}
INVARIANT = {
    "semi-matching": (matched(cu.semi_matching), UNITWISE),
    "bipartite matching": (matched(cu.bipartite_matching), UNITWISE),
    "soft matching": (matched(cu.soft_matching), UNITWISE),
    "best rotation": (explained(cu.best_rotation), SIGNED),
    "a match as a map": (through_matches, UNITWISE),
    "shared neighbours": (cu.mutual_knn, RIGID - {"shift"}),
    "sparse mapping, the predicted net": (explained(lambda pair: cu.sparse_mapping(pair, [0.1])), SIGNED),
    "sparse mapping, the predicting net": (explained(lambda pair: cu.sparse_mapping(pair.swap(), [0.1])), SIGNED),
    "best subset, the predicted net": (explained(lambda pair: cu.best_subset_mapping(pair, 2)), SIGNED),
    "best subset, the predicting net": (explained(lambda pair: cu.best_subset_mapping(pair.swap(), 2)), SIGNED),
    "least squares, the predicted net": (explained(cu.least_squares), SIGNED),
    "least squares, the predicting net": (explained(lambda pair: cu.least_squares(pair.swap())), LINEAR),
    "mutual information, quantile bins": (informed("quantile"), {*SIGNED, "increasing maps of units"}),
    "mutual information, uniform bins": (informed("uniform"), SIGNED),
    "subspace overlap": (overlapping, LINEAR),
    "CCA": (canonical(cu.cca), LINEAR),
    "SVCCA": (canonical(lambda pair: cu.svcca(pair, keep=0.9)), RIGID),
    "PWCCA, the net compared with": (canonical(cu.pwcca), LINEAR),
    "PWCCA, the net that gives the weights": (
        canonical(lambda pair: cu.pwcca(pair.swap())),
        SIGNED - {"positive scales of units"},
    ),
    "linear CKA": (lambda a, b: cu.linear_cka(cu.pair_moments(a, b)), RIGID),
    "debiased CKA": (cu.debiased_cka, RIGID),
    "debiased CKA in groups": (in_groups, RIGID - {"order of the samples of both"}),
    "maximum match": (lambda a, b: cu.maximum_match(a, b).similarity, SIGNED - {"shift"}),
    "Procrustes": (lambda a, b: cu.procrustes(cu.pair_moments(a, b)), RIGID),
    "one shared space": (in_one_space(None), RIGID),
    "one shared space of three dimensions": (in_one_space(3), RIGID),
    "partial least squares": (along_the_largest_covariance, RIGID),
}


@pytest.fixture
def acts(generator):
    """Two nets of eight units in float64, those of the second noisy twins of the first's in another order."""
    a = torch.randn(500, 8, generator=generator, dtype=torch.float64)
    noise = torch.randn(500, 8, generator=generator, dtype=torch.float64)
    return a, a[:, torch.randperm(8, generator=generator)] + torch.linspace(0.1, 1.5, 8, dtype=torch.float64) * noise


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", INVARIANT)
def test_invariances_present_and_absent(name, change, acts, generator):
    (similarity, invariant), (a, b) = INVARIANT[name], acts
    before = similarity(a, b)
    if change == "order of the samples of both":
        order = torch.randperm(len(a), generator=generator)
        after = similarity(a[order], b[order])
    else:
        after = similarity(a, CHANGES[change](b, generator))
    if change in invariant:
        assert abs(after - before) < 1e-9
    else:
        assert abs(after - before) > 0.01, f"{name} does not notice: {change}"


POWERS = {torch.float32: (-100, -63, -31, -9, 1, 31, 64, 100), torch.float64: (-400, -250, -75, -9, 1, 127, 257, 400)}
KINDS = {"rectified": torch.relu, "softmax": lambda acts: (2 * acts).softmax(1)}


def times(acts, powers):
    """Activations times powers of two, one for all units or one for each."""
    return (acts * torch.exp2(torch.as_tensor(powers, dtype=torch.float64))).to(acts.dtype)


@pytest.mark.parametrize("dtype", POWERS, ids=["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", INVARIANT)
def test_powers_of_two_change_no_bit(name, kind, dtype, acts, generator):
    similarity, invariant = INVARIANT[name]
    a, b = (KINDS[kind](net).to(dtype) for net in acts)
    before = similarity(a, b)
    for k in POWERS[dtype]:
        for of_a, of_b in ((k, 0), (0, -k), (k, k)):
            assert torch.equal(similarity(times(a, of_a), times(b, of_b)), before), (of_a, of_b)
    if "positive scales of units" in invariant:
        each = torch.tensor(POWERS[dtype])[torch.randperm(8, generator=generator)]
        assert torch.equal(similarity(a, times(b, each)), before)
        assert torch.equal(similarity(times(a, 3), times(b, each.flip(0))), before)


@pytest.mark.parametrize("name", INVARIANT)
def test_a_net_is_most_like_itself(name, acts):
    similarity = INVARIANT[name][0]
    assert similarity(acts[0], acts[0]) == pytest.approx(1, abs=0.02)
    assert similarity(*acts) < 1


@pytest.fixture
def degenerate(generator):
    """Units that are dead, constant, alive on one sample only, duplicated, negated, or ordinary; float32."""
    ordinary = torch.randn(200, 1, generator=generator)
    once = torch.zeros(200, 1)
    once[17] = 1e-3
    dead, constant = torch.zeros(200, 1), torch.full((200, 1), 0.1)
    return torch.cat([dead, constant, once, ordinary, ordinary, -ordinary], dim=1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("batch", [1, 7, 200])
def test_degenerate_units_give_numbers_and_no_warning(degenerate, batch):
    moments = cu.Moments({"a": 6, "b": 6})
    for rows in degenerate.split(batch):
        moments.update({"a": rows, "b": rows})
    pair = moments.pair("a", "b")
    found = cu.correlation(pair)
    assert found.live_a.tolist() == [False, False, True, True, True, True]
    assert (found.matrix[:2] == 0).all()
    assert (found.matrix[:, :2] == 0).all()
    assert found.matrix[2:, 2:].diagonal() == pytest.approx([1, 1, 1, 1], abs=1e-6)
    for method in (cu.semi_matching, cu.bipartite_matching):
        match = method(found.matrix, live_a=found.live_a, live_b=found.live_b)
        assert match.index[:2].tolist() == [-1, -1]
        assert match.index[2] == 2
        assert match.mean.isfinite()
    assert all(value.isfinite().all() for value in moments.state().values())


@pytest.mark.filterwarnings("error")
def test_nets_of_dead_units_alone(generator):
    dead, ordinary = torch.zeros(50, 3), torch.randn(50, 4, generator=generator)
    for a, b in ((dead, ordinary), (ordinary, dead), (dead, dead)):
        found = cu.correlation(cu.pair_moments(a, b))
        assert (found.matrix == 0).all()
        for method in (cu.semi_matching, cu.bipartite_matching):
            match = method(found.matrix, live_a=found.live_a, live_b=found.live_b)
            assert (match.index == -1).all()
            assert match.mean == 0
        chance = cu.chance_level(lambda x, y: cu.correlation(cu.pair_moments(x, y)).matrix, a, b, n_shuffles=3)
        assert all(getattr(chance, name).isfinite().all() for name in ("observed", "null", "mean", "low", "high"))


@pytest.mark.parametrize("name", [name for name in cu.__all__ if inspect.isfunction(getattr(cu, name))])
def test_a_docstring_says_what_readme_promises(name):
    function = getattr(cu, name)
    said, code = inspect.getdoc(function), inspect.getsource(function)
    asked = ["Raises:"] if "raise ValueError" in code else []
    if ".kernels." in function.__module__:
        asked += ["Args:", "Returns:", "Source: "]
    assert not [word for word in asked if word not in said], f"{name} lacks them"


def test_every_similarity_of_the_report_has_a_row():
    used = {name for name, of in vars(similarities).items() if inspect.isfunction(of) and name in cu.__all__}
    kernels = {name for name in used if getattr(cu, name).__module__.startswith("convergent_utils.kernels")}
    written = inspect.getsource(inspect.getmodule(test_every_similarity_of_the_report_has_a_row))
    assert not {name for name in kernels - {"rotated"} if f"cu.{name}" not in written}  # which is a baseline
