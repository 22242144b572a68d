import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge, lasso_path
from torch.utils._python_dispatch import TorchDispatchMode

import convergent_utils as cu

SOLVERS = ["coordinate descent", "fista"]
PENALTIES = [0.5, 0.2, 0.05, 0.01, 0.001]


def standardised(acts):
    return (acts - acts.mean(0)) / acts.std(0, correction=0)


def objective(x, y, weights, penalty):
    return ((y - x @ weights) ** 2).mean(0) / 2 + penalty * weights.abs().sum(0)


def r2_of(y, predicted):
    return 1 - ((y - predicted) ** 2).mean(0) / y.var(0, correction=0)


@pytest.fixture
def acts(generator):
    """Net a of 12 correlated units far from zero, net b of 5 that depend on them and on noise; float64."""
    a = torch.randn(800, 12, generator=generator, dtype=torch.float64)
    a = 7 + a @ (
        torch.eye(12, dtype=torch.float64) + 0.2 * torch.randn(12, 12, generator=generator, dtype=torch.float64)
    )
    b = a @ torch.randn(12, 5, generator=generator, dtype=torch.float64)
    return a, 3 * b + 2 * b.std() * torch.randn(800, 5, generator=generator, dtype=torch.float64) - 100


@pytest.mark.parametrize("solver", SOLVERS)
def test_same_coefficients_as_scikit_learn(acts, solver):
    x, y = (standardised(value).numpy() for value in acts)
    found = cu.sparse_mapping(cu.pair_moments(*acts), PENALTIES, tolerance=1e-13, solver=solver)
    for unit in range(y.shape[1]):
        oracle = lasso_path(x, y[:, unit], alphas=PENALTIES, tol=1e-12, max_iter=100_000, precompute=True)[1]
        assert found.coefficients[:, :, unit].numpy() == pytest.approx(oracle.T, abs=1e-6)
        assert ((found.coefficients[:, :, unit] == 0).numpy() == (oracle.T == 0)).all()
    assert found.duality_gap.max() <= 1e-13
    assert torch.equal(found.n_predictors, (found.coefficients != 0).sum(1))


@pytest.mark.parametrize("solver", SOLVERS)
def test_r2_is_that_of_the_activations(acts, solver):
    pair = cu.pair_moments(*acts)
    found = cu.sparse_mapping(pair, PENALTIES, solver=solver)
    computed = torch.stack([r2_of(acts[1], predicted) for predicted in found.predict(acts[0])])
    assert torch.allclose(found.r2, computed, atol=1e-9)
    assert torch.allclose(found.r2_on(pair), computed, atol=1e-9)
    assert (found.r2.diff(dim=0) >= -1e-9).all(), "a smaller penalty never explains less"


def test_r2_on_other_data(acts):
    first, second = (tuple(value[k::2] for value in acts) for k in (0, 1))
    for found in (cu.sparse_mapping(cu.pair_moments(*first), [0.05]), cu.least_squares(cu.pair_moments(*first))):
        computed = r2_of(second[1], found.predict(second[0])[0])
        assert torch.allclose(found.r2_on(cu.pair_moments(*second))[0], computed, atol=1e-9)
        assert not torch.allclose(found.r2[0], computed, atol=1e-3)


def test_float32_activations(acts):
    a, b = (value.float() for value in acts)
    found = cu.sparse_mapping(cu.pair_moments(a, b), PENALTIES)
    computed = torch.stack([r2_of(b.double(), predicted.double()) for predicted in found.predict(a)])
    assert torch.allclose(found.r2, computed, atol=1e-6)
    assert found.predict(a).dtype == torch.float32


def test_penalties_in_any_order_and_alone_give_the_same(acts):
    pair = cu.pair_moments(*acts)
    path = cu.sparse_mapping(pair, PENALTIES, tolerance=1e-13)
    turned = cu.sparse_mapping(pair, PENALTIES[::-1], tolerance=1e-13)
    assert torch.allclose(path.coefficients, turned.coefficients.flip(0), atol=1e-7)
    alone = cu.sparse_mapping(pair, [0.05], tolerance=1e-13)
    assert torch.allclose(path.coefficients[2], alone.coefficients[0], atol=1e-7)
    assert path.penalties.tolist() == PENALTIES


@pytest.mark.parametrize("solver", SOLVERS)
def test_duplicated_dead_and_dependent_units(acts, solver):
    a, b = acts
    a = torch.cat(
        [a, a[:, :4], torch.zeros(800, 1), torch.full((800, 1), 3.0), a[:, :3] @ torch.ones(3, 1).double()], 1
    )
    b = torch.cat([b, torch.zeros(800, 1)], 1)
    found = cu.sparse_mapping(cu.pair_moments(a, b), [0.2, 0.02], solver=solver)
    assert found.duality_gap.max() <= 1e-8
    assert (found.coefficients[:, 16:18] == 0).all()
    assert (found.coefficients[:, :, 5] == 0).all()
    assert (found.r2[:, 5] == 0).all()
    x, y = standardised(a), standardised(b)
    x[:, 16:18] = 0
    for k, penalty in enumerate([0.2, 0.02]):
        ours = objective(x, y[:, :5], found.coefficients[k][:, :5], penalty)
        for unit in range(5):
            oracle = lasso_path(x.numpy(), y[:, unit].numpy(), alphas=[penalty], tol=1e-12, max_iter=200_000)[1]
            best = objective(x, y[:, unit : unit + 1], torch.from_numpy(oracle), penalty)
            assert abs(ours[unit] - best) <= 1e-9


def test_planted_support_is_recovered(generator):
    a = torch.randn(4000, 60, generator=generator).relu()
    planted = torch.zeros(60, 40)
    for unit in range(40):
        chosen = torch.randperm(60, generator=generator)[:3]
        planted[chosen, unit] = 0.7 + 0.6 * torch.rand(3, generator=generator)
    b = standardised(a) @ planted + 0.05 * torch.randn(4000, 40, generator=generator)
    found = cu.sparse_mapping(cu.pair_moments(a, b), [0.05])
    assert ((found.coefficients[0] != 0) == (planted != 0)).double().mean() > 0.99
    greedy = cu.best_subset_mapping(cu.pair_moments(a, b), 3)
    assert ((greedy.coefficients[0] != 0) == (planted != 0)).all()


def test_the_ends_of_the_path(acts):
    pair = cu.pair_moments(*acts)
    found = cu.sparse_mapping(pair, [1.0, 0.0])
    assert (found.coefficients[0] == 0).all()
    assert (found.duality_gap == 0).all()
    oracle = LinearRegression().fit(*(standardised(value).numpy() for value in acts))
    assert found.coefficients[1].numpy() == pytest.approx(oracle.coef_.T, abs=1e-8)
    largest = cu.correlation(pair).matrix.abs().amax(0)
    just = cu.sparse_mapping(pair, [float(largest.max()) * 0.999])
    assert just.n_predictors.sum() == 1


def test_least_squares_against_oracles(acts):
    pair, (x, y) = cu.pair_moments(*acts), (standardised(value).numpy() for value in acts)
    ridge = Ridge(alpha=0.3 * len(x), fit_intercept=False).fit(x, y)
    assert cu.least_squares(pair, ridge=0.3).coefficients[0].numpy() == pytest.approx(ridge.coef_.T, abs=1e-8)
    several = cu.least_squares(pair, ridge=[0.0, 0.3])
    for k, alone in enumerate((0.0, 0.3)):
        assert torch.allclose(several.coefficients[k], cu.least_squares(pair, ridge=alone).coefficients[0], atol=1e-12)
    twice = cu.pair_moments(acts[0].repeat(1, 2), acts[1])
    minimum = np.linalg.lstsq(np.hstack([x, x]), y, rcond=1e-10)[0]
    found = cu.least_squares(twice)
    assert found.coefficients[0].numpy() == pytest.approx(minimum, abs=1e-8)
    assert found.r2 == pytest.approx(cu.least_squares(pair).r2, abs=1e-9)
    assert found.duality_gap is None


def test_subsets_grow_from_the_best_single_unit(acts):
    pair, (x, y) = cu.pair_moments(*acts), (standardised(value).numpy() for value in acts)
    best = cu.correlation(pair).matrix.abs().amax(0)
    assert cu.best_subset_mapping(pair, 1).r2[0] == pytest.approx(best.square())
    before = torch.zeros(5, dtype=torch.float64)
    for k in range(1, 5):
        found = cu.best_subset_mapping(pair, k)
        assert (found.n_predictors == k).all()
        assert (found.r2[0] > before).all()
        for unit in range(5):
            chosen = found.coefficients[0, :, unit].nonzero()[:, 0].numpy()
            assert found.r2[0, unit] == pytest.approx(
                LinearRegression().fit(x[:, chosen], y[:, unit]).score(x[:, chosen], y[:, unit])
            )
        before = found.r2[0]
    assert cu.best_subset_mapping(pair, 12).r2 == pytest.approx(cu.least_squares(pair).r2)


def test_greedy_takes_the_unit_that_adds_most(acts):
    """By brute force over all second predictors."""
    pair, (x, y) = cu.pair_moments(*acts), (standardised(value).numpy() for value in acts)
    two = cu.best_subset_mapping(pair, 2)
    for unit in range(5):
        first = np.abs(x.T @ y[:, unit]).argmax()
        scores = [
            LinearRegression().fit(x[:, [first, i]], y[:, unit]).score(x[:, [first, i]], y[:, unit])
            for i in range(12)
            if i != first
        ]
        assert two.r2[0, unit] == pytest.approx(max(scores))


def test_subsets_of_degenerate_units(generator):
    a = torch.randn(100, 2, generator=generator, dtype=torch.float64)
    a, b = torch.cat([a, a, torch.zeros(100, 1)], 1), torch.cat([a[:, :1], torch.zeros(100, 1)], 1)
    found = cu.best_subset_mapping(cu.pair_moments(a, b), 4)
    assert found.r2[0].tolist() == pytest.approx([1, 0])
    assert found.coefficients.isfinite().all()
    assert found.n_predictors[0, 1] == 0


def test_what_a_mapping_does_not_depend_on(acts):
    a, b = acts
    before = cu.sparse_mapping(cu.pair_moments(a, b), [0.05])
    order, scale = torch.tensor([3, 0, 1, 2, *range(4, 12)]), torch.linspace(0.1, 9, 12, dtype=torch.float64)
    for changed in (a[:, order], scale * a, a - 50, a * torch.tensor([-1.0, 1.0]).double().repeat(6)):
        assert torch.allclose(cu.sparse_mapping(cu.pair_moments(changed, b), [0.05]).r2, before.r2, atol=1e-7)
    turn = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    rotated = cu.pair_moments(a @ turn, b)
    assert not torch.allclose(cu.sparse_mapping(rotated, [0.05]).r2, before.r2, atol=1e-3)
    assert torch.allclose(cu.least_squares(rotated).r2, cu.least_squares(cu.pair_moments(a, b)).r2, atol=1e-8)


def test_unpenalised_maps_explode_on_units_that_rarely_fire():
    """Twenty units of a fire on one sample each of the training half; elsewhere they fire as they like."""
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(400, 40, generator=generator, dtype=torch.float64)
    rare = torch.zeros(400, 20, dtype=torch.float64)
    rare[torch.arange(20), torch.arange(20)] = 1e-3
    rare[200:] = torch.rand(200, 20, generator=generator, dtype=torch.float64) * (
        torch.rand(200, 20, generator=generator) < 0.1
    )
    a, b = torch.cat([a, rare], 1), a[:, :3] + torch.randn(400, 3, generator=generator, dtype=torch.float64)
    train, test = cu.pair_moments(a[:200], b[:200]), cu.pair_moments(a[200:], b[200:])
    assert (cu.least_squares(train).r2_on(test) < -1).all()
    assert (cu.sparse_mapping(train, [0.3]).r2_on(test) > 0.2).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("solver", ["coordinate descent", "fista"])
def test_a_copy_in_float32_is_found_to_the_last_of_the_gap(solver, generator):
    """By rounding a unit and its copy may correlate by a little more than 1; the gap is of the moments as they are."""
    for _ in range(20):
        acts, order = torch.randn(3000, 8, generator=generator), torch.randperm(8, generator=generator)
        path = cu.sparse_mapping(cu.pair_moments(acts, acts[:, order]), [1e-3], solver=solver)
        assert path.duality_gap.max() < 1e-10
        assert path.coefficients[0].argmax(0).equal(order)


def test_numbers_of_numpy_are_numbers(acts):
    pair = cu.pair_moments(*acts)
    expected = cu.least_squares(pair, ridge=0.5).coefficients
    for ridge in (np.float64(0.5), torch.tensor(0.5), np.array([0.5])):
        assert cu.least_squares(pair, ridge=ridge).coefficients.equal(expected)
    path, counts = cu.best_subset_mapping(pair, [3, 1, 2, 2]), (3, 1, 2, 2)
    for entry, k in enumerate(counts):  # chosen once, the same as by itself
        assert path.coefficients[entry].equal(cu.best_subset_mapping(pair, k).coefficients[0])
        assert path.r2[entry].equal(cu.best_subset_mapping(pair, k).r2[0])
    for none in ([], "", "12"):
        with pytest.raises(ValueError, match="^k: "):
            cu.best_subset_mapping(pair, none)
    few = cu.best_subset_mapping(pair, np.int64(2)).coefficients
    assert few.equal(cu.best_subset_mapping(pair, 2).coefficients)


def test_bad_arguments(acts):
    pair = cu.pair_moments(*acts)
    for penalties in ([], [-0.1], [float("nan")], 0.1):
        with pytest.raises(ValueError, match="penalties: expected"):
            cu.sparse_mapping(pair, penalties)
    with pytest.raises(ValueError, match="did you mean 'fista'"):
        cu.sparse_mapping(pair, [0.1], solver="fist")
    with pytest.raises(ValueError, match="tolerance"):
        cu.sparse_mapping(pair, [0.1], tolerance=0)
    with pytest.raises(ValueError, match="ridge"):
        cu.least_squares(pair, ridge=-1)
    with pytest.raises(ValueError, match="ridge"):
        cu.least_squares(pair, ridge=[])
    with pytest.raises(ValueError, match="rank_tolerance: expected a share between 0 and 1"):
        cu.least_squares(pair, rank_tolerance=-1)
    for k in (0, 13, 2.0):
        with pytest.raises(ValueError, match="k: expected 1 to 12"):
            cu.best_subset_mapping(pair, k)
    with pytest.raises(ValueError, match="acts_a: expected 12 units, got 5"):
        cu.least_squares(pair).predict(acts[1])
    with pytest.raises(ValueError, match="pair: expected units"):
        cu.least_squares(pair).r2_on(pair.swap())


class Counting(TorchDispatchMode):
    """Counts operations: on a GPU each is a launch."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_the_number_of_operations_does_not_grow_with_units(generator):
    def operations(units):
        pair = cu.pair_moments(*torch.randn(2, 300, units, generator=generator))
        with Counting() as counting:
            cu.least_squares(pair)
            cu.best_subset_mapping(pair, 3)
        return counting.count

    assert operations(8) == operations(40)
