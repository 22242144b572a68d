import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes

import convergent_utils as cu
from convergent_utils.kernels import shared_space

WIDTHS = {"a": 6, "b": 9, "c": 7, "d": 8}
CHAIN = [("a", "c"), ("b", "c"), ("b", "d")]


def planted(widths=WIDTHS, *, rank=5, noise=0.0, samples=400, seed=0):
    """Nets that turn one signal each into units of their own, of other means; and the signal, centred."""
    generator = torch.Generator().manual_seed(seed)
    signal = torch.randn(samples, rank, generator=generator, dtype=torch.float64)
    signal = signal * torch.linspace(2, 0.4, rank, dtype=torch.float64)
    nets = {}
    for name, units in widths.items():
        turn = torch.linalg.qr(torch.randn(units, rank, generator=generator, dtype=torch.float64)).Q.T
        private = torch.randn(samples, units, generator=generator, dtype=torch.float64)
        nets[name] = signal @ turn + noise * private + torch.randn(units, generator=generator, dtype=torch.float64)
    return nets, signal - signal.mean(0)


def moments_of(nets, pairs=None):
    moments = cu.Moments({name: acts.shape[1] for name, acts in nets.items()}, pairs=pairs)
    moments.update(nets)
    return moments


def scaled(acts):
    """Centred, at a total variance of 1."""
    acts = acts - acts.mean(0)
    return acts / acts.square().mean(0).sum().sqrt()


def objective(space, nets, pairs):
    """What is maximised, from activations."""
    seen = {name: space.transform(name, acts) for name, acts in nets.items()}
    return float(sum((seen[a] * seen[b]).sum() / len(seen[a]) for a, b in pairs))


# planted


@pytest.mark.parametrize("pairs", [None, CHAIN], ids=["all pairs", "a chain of pairs"])
@pytest.mark.parametrize("dimensions", [None, 6, 5, 2, 1])
def test_nets_that_turn_one_signal_meet_in_it(pairs, dimensions):
    nets, signal = planted()
    space = cu.generalised_procrustes(moments_of(nets, pairs), dimensions=dimensions)
    first, *others = (space.transform(name, acts) for name, acts in nets.items())
    assert first.shape == (400, dimensions or 6)
    for other in others:
        assert (other - first).norm() < 1e-8 * first.norm()
    assert float(space.agreement) == pytest.approx(1, abs=1e-12)
    left, value, _ = torch.linalg.svd(scaled(signal), full_matrices=False)  # its principal axes, most first
    kept = min(first.shape[1], 5)
    expected = (left * value)[:, :kept]
    sign = (expected * first[:, :kept]).sum(0).sign()
    assert torch.allclose(first[:, :kept] * sign, expected, atol=1e-8)
    assert (first[:, kept:].abs() < 1e-8).all()


def test_two_nets_of_one_width_are_turned_as_scipy_turns_them():
    nets, _ = planted({"a": 6, "b": 6}, rank=6, noise=0.7)
    space, pair = cu.generalised_procrustes(moments_of(nets)), cu.pair_moments(*nets.values())
    turn, shared = orthogonal_procrustes(*(scaled(acts).numpy() for acts in nets.values()))
    scale = [acts.var(0, correction=0).sum().sqrt() for acts in nets.values()]
    np.testing.assert_allclose(space.between("a", "b") * scale[0] / scale[1], turn, atol=1e-9)
    assert float(space.agreement) == pytest.approx(shared / 400, abs=1e-12)
    assert float(space.agreement) == pytest.approx(float(cu.procrustes(pair)), abs=1e-12)


@pytest.mark.parametrize("pairs", [None, CHAIN])
def test_noise_takes_away_little_by_little(pairs):
    agreement, error = [], []
    for noise in (0.0, 0.1, 0.3, 1.0, 3.0):
        nets, signal = planted(noise=noise, samples=2000)
        space = cu.generalised_procrustes(moments_of(nets, pairs), dimensions=5)
        agreement.append(float(space.agreement))
        seen = torch.stack([space.transform(name, acts) for name, acts in nets.items()]).mean(0)
        fitted = seen @ torch.linalg.lstsq(seen, signal).solution
        error.append(float((signal - fitted).norm() / signal.norm()))
    assert agreement == sorted(agreement, reverse=True)
    assert error == sorted(error)
    assert error[1] < 0.1
    assert error[2] < 0.3
    assert agreement[2] > 0.9
    assert agreement[-1] < 0.6


def test_independent_nets_agree_as_little_as_chance_lets_them():
    generator = torch.Generator().manual_seed(0)
    nets = {name: torch.randn(20_000, 5, generator=generator) for name in "abc"}
    assert float(cu.generalised_procrustes(moments_of(nets)).agreement) < 0.02


# what it maximises


def test_no_round_makes_it_worse_and_none_near_by_is_better(monkeypatch):
    nets, _ = planted(noise=0.6, samples=200)
    moments, pairs, found = moments_of(nets), list(combinations(nets, 2)), []
    last = cu.generalised_procrustes(moments, dimensions=4)
    assert last.rounds > 5
    for most in range(1, 12):
        monkeypatch.setattr(shared_space, "_MOST_ROUNDS", most)
        found.append(objective(cu.generalised_procrustes(moments, dimensions=4), nets, pairs))
    best = objective(last, nets, pairs)
    assert all(later >= earlier - 1e-13 for earlier, later in zip(found, [*found[1:], best], strict=True))
    assert found[0] < best - 1e-6
    generator = torch.Generator().manual_seed(1)
    for name in nets:  # turned a little within its units
        for _ in range(20):
            drawn = torch.randn(WIDTHS[name], WIDTHS[name], generator=generator, dtype=torch.float64)
            turn = torch.linalg.matrix_exp(0.01 * (drawn - drawn.T))
            moved = cu.SharedSpace({**last.maps, name: turn @ last.maps[name]}, last.means, last.agreement, 1)
            assert objective(moved, nets, pairs) < best


def test_random_starts_find_nothing_better():
    """With noise, the sum over pairs from its start is that of the best of thirty random starts."""
    nets, _ = planted(noise=1.0, samples=300)
    pairs, space = list(combinations(nets, 2)), cu.generalised_procrustes(moments_of(nets), dimensions=3)
    rows, generator, best = {name: scaled(acts).numpy() for name, acts in nets.items()}, np.random.default_rng(0), 0.0
    for _ in range(30):
        turn = {k: np.linalg.qr(generator.normal(size=(x.shape[1], 3)))[0] for k, x in rows.items()}
        for _ in range(150):
            for k, x in rows.items():
                left, _, right = np.linalg.svd(
                    x.T @ sum(rows[j] @ turn[j] for j in rows if j != k) / 300, full_matrices=False
                )
                turn[k] = left @ right
        best = max(best, sum(((rows[a] @ turn[a]) * (rows[b] @ turn[b])).sum() / 300 for a, b in pairs))
    assert objective(space, nets, pairs) > best - 1e-9


def test_agreement_is_its_definition():
    nets, _ = planted(noise=0.8)
    for pairs in (list(combinations(nets, 2)), CHAIN):
        space = cu.generalised_procrustes(moments_of(nets, pairs), dimensions=4)
        seen = {name: space.transform(name, acts).numpy() for name, acts in nets.items()}
        cosines = [(seen[a] * seen[b]).sum() / np.linalg.norm(seen[a]) / np.linalg.norm(seen[b]) for a, b in pairs]
        assert float(space.agreement) == pytest.approx(np.mean(cosines), abs=1e-12)


def test_maps_turn_live_units_and_carry_the_scale():
    nets, _ = planted(noise=0.5)
    nets["b"][:, 3] = 4.25
    space = cu.generalised_procrustes(moments_of(nets))
    for name, matrix in space.maps.items():
        scale = nets[name].var(0, correction=0).sum().sqrt()
        identity = torch.eye(matrix.shape[1], dtype=torch.float64)
        assert torch.allclose(scale**2 * matrix.T @ matrix, identity, atol=1e-12)
        assert torch.allclose(space.means[name], nets[name].mean(0))
    assert (space.maps["b"][3] == 0).all()
    assert (space.between("a", "b")[:, 3] == 0).all()
    assert (space.between("b", "a")[3] == 0).all()
    narrow = cu.generalised_procrustes(moments_of({**nets, "e": nets["b"][:, 2:5]}))
    assert narrow.maps["a"].shape == (6, 2), "as many as the narrowest has live units"


def test_dimensions_are_in_order_of_what_is_shared():
    nets, _ = planted(noise=0.4, samples=3000)
    space = cu.generalised_procrustes(moments_of(nets))
    seen = [space.transform(name, acts) for name, acts in nets.items()]
    shared = sum(a.T @ b + b.T @ a for a, b in combinations(seen, 2)) / 3000
    assert torch.allclose(shared, shared.diagonal().diag(), atol=1e-9)
    assert (shared.diagonal().diff() <= 1e-12).all()


# consistent compositions


def test_maps_between_nets_compose():
    nets, _ = planted(noise=0.5)
    space = cu.generalised_procrustes(moments_of(nets), dimensions=4)
    for a, b, c in ("abc", "cad", "dba"):
        assert torch.allclose(space.between(a, b) @ space.between(b, c), space.between(a, c), atol=1e-12)
    there_and_back = space.between("a", "b") @ space.between("b", "a")
    assert torch.allclose(there_and_back @ there_and_back, there_and_back, atol=1e-12), "a projection"


def test_without_noise_a_map_between_nets_predicts_the_other_and_nets_that_never_met_too():
    nets, _ = planted()
    space = cu.generalised_procrustes(moments_of(nets, CHAIN))
    for a, b in (("a", "b"), ("a", "d"), ("d", "a")):
        predicted = (nets[a] - nets[a].mean(0)) @ space.between(a, b) + nets[b].mean(0)
        assert torch.allclose(predicted, nets[b], atol=1e-8)


def test_other_samples_take_the_same_maps():
    nets, _ = planted(noise=0.2)
    fit = {name: acts[:200] for name, acts in nets.items()}
    space = cu.generalised_procrustes(moments_of(fit))
    held = [space.transform(name, acts[200:]) for name, acts in nets.items()]
    assert all((other - held[0]).norm() < 0.5 * held[0].norm() for other in held[1:])
    single = space.transform("a", nets["a"].float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), space.transform("a", nets["a"].numpy()), atol=1e-5)


def test_nets_that_share_nothing_at_all_have_a_space_of_no_agreement():
    units = torch.eye(8, dtype=torch.float64)[:, :6] - 1 / 8
    blocks = dict(zip("abcd", torch.linalg.qr(units).Q.split(1, 1), strict=False))
    pairs = {(a, b): cu.pair_moments(blocks[a], blocks[b]) for a, b in CHAIN}
    apart = {names: replace(pair, cov_ab=torch.zeros_like(pair.cov_ab)) for names, pair in pairs.items()}
    assert cu.generalised_procrustes(apart).agreement == 0


# what it does not depend on


@pytest.mark.parametrize("pairs", [None, CHAIN])
def test_the_order_of_nets_changes_nothing(pairs):
    nets, _ = planted(noise=0.3, samples=1000)
    right = cu.generalised_procrustes(moments_of(nets, pairs), dimensions=4)
    other = dict(zip("abcd", "zyxw", strict=True))  # backwards
    renamed = {other[name]: acts for name, acts in reversed(nets.items())}
    of_others = None if pairs is None else [(other[b], other[a]) for a, b in pairs]
    found = cu.generalised_procrustes(moments_of(renamed, of_others), dimensions=4)
    for name in nets:
        assert torch.allclose(found.maps[other[name]], right.maps[name], atol=1e-8)
    assert float(found.agreement) == pytest.approx(float(right.agreement), abs=1e-12)


def test_pairs_by_name_are_what_moments_are_in_either_order():
    nets, _ = planted(noise=0.3)
    moments = moments_of(nets)
    right = cu.generalised_procrustes(moments)
    pairs = {(b, a): cu.pair_moments(nets[b], nets[a]) for a, b in combinations(nets, 2)}
    for given in (pairs, dict(reversed(pairs.items())), {**pairs, ("a", "a"): moments.pair("a", "a")}):
        found = cu.generalised_procrustes(given)
        assert list(found.maps) == list(right.maps)
        assert all(torch.allclose(found.maps[name], right.maps[name], atol=1e-9) for name in nets)


def test_a_rotation_of_a_net_turns_its_map_alone():
    nets, _ = planted(noise=0.3)
    right = cu.generalised_procrustes(moments_of(nets), dimensions=4)
    turn = cu.random_rotation(9, seed=0)
    found = cu.generalised_procrustes(moments_of({**nets, "b": 5 * nets["b"] @ turn - 3}), dimensions=4)
    sign = (found.maps["a"] * right.maps["a"]).sum(0).sign()
    assert torch.allclose(found.maps["a"] * sign, right.maps["a"], atol=1e-8)
    assert torch.allclose(5 * turn @ found.maps["b"] * sign, right.maps["b"], atol=1e-8)


@pytest.mark.parametrize(("dtype", "powers"), [(torch.float32, (-100, 100)), (torch.float64, (-400, -75, 400))])
def test_huge_and_faint_activations_change_no_bit(dtype, powers):
    nets, _ = planted(noise=0.3)
    nets = {name: acts.to(dtype) for name, acts in nets.items()}
    right = cu.generalised_procrustes(moments_of(nets))
    for power in powers:
        scale = torch.exp2(torch.tensor(power, dtype=torch.float64))
        changed = {**nets, "b": (nets["b"] * scale).to(dtype), "c": (nets["c"] / scale).to(dtype)}
        found = cu.generalised_procrustes(moments_of(changed))
        assert torch.equal(found.agreement, right.agreement)
        assert torch.equal(found.maps["b"] * scale, right.maps["b"])
        assert torch.equal(found.transform("c", changed["c"]), right.transform("c", nets["c"]))
        assert torch.equal(found.between("a", "b") / scale, right.between("a", "b"))


# refusals


def test_mistakes_are_one_sentence():
    nets, _ = planted()
    pair = cu.pair_moments(nets["a"], nets["b"])
    space, apart = cu.generalised_procrustes(moments_of(nets)), [("a", "b"), ("c", "d")]
    dead = {**nets, "c": torch.ones(400, 7)}
    wide = cu.SharedSpace({name: 1e60 * found for name, found in space.maps.items()}, space.means, space.agreement, 1)
    for asked, said in [
        (lambda: cu.generalised_procrustes(pair), "moments: expected Moments, or PairMoments by pairs"),
        (lambda: cu.generalised_procrustes({}), "moments: expected Moments, or"),
        (lambda: cu.generalised_procrustes({"a": pair}), "moments: expected Moments, or"),
        (lambda: cu.generalised_procrustes({("a", "b"): nets["a"]}), "moments: of .a. and .b.: expected PairMoments"),
        (lambda: cu.generalised_procrustes({("a", "b"): None}), "moments: of .a. and .b.: expected PairMoments"),
        (lambda: cu.generalised_procrustes({("a", "a"): pair}), "moments: expected pairs of at least two"),
        (lambda: cu.generalised_procrustes({("a", "b"): pair, ("b", "a"): pair}), "moments: .*in both orders"),
        (lambda: cu.generalised_procrustes({("a", "b"): pair, ("b", "c"): pair}), "moments: .* 'b', got .*9 and 6"),
        (lambda: cu.generalised_procrustes(moments_of(nets, apart)), "moments: .*none that joins 'c' with 'a'"),
        (lambda: cu.generalised_procrustes(moments_of(nets, [("a", "b")])), "moments: .*none that joins 'd'"),
        (lambda: cu.generalised_procrustes(moments_of(dead)), "moments: expected units that vary .* got none in 'c'"),
        (lambda: cu.generalised_procrustes(cu.Moments({"a": 2, "b": 2})), "moments: .*at least 2 samples"),
        (lambda: cu.generalised_procrustes(cu.Moments({"a": 2})), "moments: expected pairs of at least two"),
        (lambda: cu.generalised_procrustes(moments_of(nets), dimensions=7), "dimensions: expected 1 to 6, .* 'a', got"),
        (lambda: space.transform("e", nets["a"]), "name: expected one of a, b, c, d"),
        (lambda: space.transform("a", nets["b"]), "acts: expected 6 units, got 9"),
        (lambda: space.transform("a", nets["a"] * math.inf), "acts: expected finite"),
        (lambda: wide.transform("a", nets["a"].float()), "acts: expected activations whose places"),
        (lambda: space.between("a", "e"), "b: expected one of"),
        (lambda: cu.SharedSpace({"a": nets["a"]}, {}, space.agreement, 1), "means: "),
        (lambda: cu.SharedSpace({"a": nets["a"]}, space.means, space.agreement, 1), "means: "),
        (lambda: cu.SharedSpace({"a": "map"}, {}, space.agreement, 1), "maps: "),
    ]:
        with pytest.raises(ValueError, match=f"^{said}") as error:
            asked()
        assert len(str(error.value)) <= 300, error.value


def test_pairs_over_other_samples_meet_in_the_average():
    """Two nets that never saw the same samples, joined by a third that saw all."""
    nets, _ = planted({"a": 6, "b": 7, "c": 8}, samples=4000)
    first, second = slice(2000), slice(2000, 4000)
    pairs = {
        ("a", "c"): cu.pair_moments(nets["a"][first], nets["c"][first]),
        ("b", "c"): cu.pair_moments(nets["b"][second], nets["c"][second]),
    }
    space = cu.generalised_procrustes(pairs, dimensions=5)
    assert torch.allclose(space.means["c"], nets["c"].mean(0), atol=1e-9)
    a, b = (space.transform(name, nets[name]) for name in "ab")
    assert (a - b).norm() < 0.2 * a.norm()
