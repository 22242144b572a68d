import dataclasses
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.cross_decomposition import PLSSVD
from torch._subclasses.fake_tensor import FakeTensorMode

import convergent_utils as cu
from convergent_utils import debiased_cka, linear_cka, partial_least_squares, procrustes
from convergent_utils.kernels import alignment


def of_acts(similarity):
    """A similarity of moments as one of activations."""
    return lambda a, b: similarity(cu.pair_moments(a, b))


SIMILARITIES = {"linear CKA": of_acts(linear_cka), "debiased CKA": debiased_cka, "Procrustes": of_acts(procrustes)}


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def nets(generator, samples=300, units=(7, 5), noise=1.0):
    """Two nets that see four latent factors of unequal strength."""
    latent = normal(generator, samples, 4) * torch.tensor([2.0, 1.0, 0.5, 0.3])
    return [latent @ normal(generator, 4, width) + noise * normal(generator, samples, width) for width in units]


def orthogonal(generator, units):
    return torch.linalg.qr(normal(generator, units, units)).Q


def centred(acts):
    acts = np.asarray(acts, dtype=np.float64)
    return acts - acts.mean(0)


def gram_cka(a, b):
    """The cosine of the two matrices of inner products between centred samples."""
    k, m = (x @ x.T for x in (centred(a), centred(b)))
    return (k * m).sum() / math.sqrt((k * k).sum() * (m * m).sum())


def gram_debiased_cka(a, b):
    """Song et al. 2012, equation 5, on matrices of inner products without their diagonals."""

    def independence(k, m):
        n, k, m = len(k), k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        one = np.ones(n)
        joint = one @ k @ one * (one @ m @ one) / (n - 1) / (n - 2) - 2 / (n - 2) * (one @ k @ m @ one)
        return ((k * m).sum() + joint) / n / (n - 3)

    k, m = (np.asarray(x, dtype=np.float64) @ np.asarray(x, dtype=np.float64).T for x in (a, b))
    return independence(k, m) / math.sqrt(independence(k, k) * independence(m, m))


def test_published_arithmetic():
    state = np.random.RandomState(1337)
    x = state.randn(100, 10)
    y = state.randn(100, 10) + x
    assert float(linear_cka(cu.pair_moments(x, y))) == pytest.approx(0.557613, abs=5e-7)
    assert float(debiased_cka(x, y)) == pytest.approx(0.513456, abs=5e-7)


# against matrices of samples by samples


@pytest.mark.parametrize(("samples", "units"), [(1500, (20, 30)), (60, (100, 80)), (4, (3, 2))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_cka_equal_the_computation_from_all_pairs_of_samples(samples, units, dtype, generator, device):
    a, b = (acts.to(dtype) for acts in nets(generator, samples, units))
    linear, debiased = linear_cka(cu.pair_moments(a.to(device), b.to(device))), debiased_cka(a.to(device), b.to(device))
    for found in (linear, debiased):
        assert found.shape == ()
        assert found.dtype == torch.float64
        assert found.device.type == device
    assert float(linear) == pytest.approx(gram_cka(a, b), abs=1e-7 if dtype == torch.float32 else 1e-12)
    assert float(debiased) == pytest.approx(gram_debiased_cka(a, b), abs=1e-12)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_a_thousand_added_to_every_unit_changes_nothing(name, generator):
    a, b = (0.2 * acts.float() for acts in nets(generator, 5000))
    assert float(SIMILARITIES[name](a + 1000, b + 1000)) == pytest.approx(float(SIMILARITIES[name](a, b)), abs=1e-5)


def test_debiased_cka_goes_chunk_by_chunk(generator, monkeypatch):
    a, b = nets(generator)
    whole = debiased_cka(a, b)
    monkeypatch.setattr(alignment, "_CHUNK_ROWS", 7)
    assert float(debiased_cka(a, b)) == pytest.approx(float(whole), abs=1e-14)


def test_only_debiased_cka_is_zero_on_average_for_independent_nets(generator):
    pairs = [(normal(generator, 30, 60), normal(generator, 30, 60)) for _ in range(100)]
    debiased = torch.stack([debiased_cka(a, b) for a, b in pairs])
    plain = torch.stack([linear_cka(cu.pair_moments(a, b)) for a, b in pairs])
    assert abs(debiased.mean()) < 3 * debiased.std() / 10
    assert 30 < (debiased < 0).sum() < 70
    assert float(plain.mean()) == pytest.approx(60 / (60 + 30), abs=0.02)


def test_a_sample_that_outweighs_all_others_does_not_decide_debiased_cka(generator):
    a, b = normal(generator, 200, 6), normal(generator, 200, 6)
    a[3], b[3] = 100.0, 100.0
    assert linear_cka(cu.pair_moments(a, b)) > 0.99
    assert float(debiased_cka(a, b)) == pytest.approx(gram_debiased_cka(a, b), abs=1e-9)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float32, scale) for scale in (1e-40, 1e-30, 1e-25, 1e-23, 1e18, 1e30)]
    + [(torch.float64, scale) for scale in (1e-150, 1e-100, 1e80, 1e150)],
)
def test_any_scale_is_right(dtype, scale, generator):
    a, b = nets(generator)
    a, b = (scale * a).to(dtype), b.to(dtype)
    x, y = a.double().numpy() / np.abs(a.double().numpy()).max(), b.double().numpy()
    whole = math.sqrt((centred(x) ** 2).sum() * (centred(y) ** 2).sum())
    nuclear = np.linalg.svd(centred(x).T @ centred(y), compute_uv=False)
    for one, other in ((a, b), (b, a)):
        pair = cu.pair_moments(one, other)
        assert float(linear_cka(pair)) == pytest.approx(gram_cka(x, y), abs=1e-6)
        assert float(debiased_cka(one, other)) == pytest.approx(gram_debiased_cka(x, y), abs=1e-9)
        assert float(procrustes(pair)) == pytest.approx(nuclear.sum() / whole, abs=1e-6)
    found, peer = partial_least_squares(cu.pair_moments(a, b)), PLSSVD(3, scale=False).fit(x, y)
    scores = np.corrcoef(*(score.T for score in peer.transform(x, y)))
    assert found.correlation[:3].numpy() == pytest.approx(scores.diagonal(3), abs=1e-5)
    relative = found.covariance.numpy() / np.abs(a.double().numpy()).max()
    assert relative == pytest.approx(nuclear / len(a), rel=1e-5)


@pytest.mark.parametrize("scale", [1e-320, 1e-250, 1e250, 1e305])
def test_debiased_cka_is_right_where_float64_cannot_hold_a_covariance(scale, generator):
    a, b = nets(generator)
    assert float(debiased_cka(scale * a, b)) == pytest.approx(
        gram_debiased_cka(a, b), abs=1e-3 if scale < 1e-308 else 1e-9
    )
    assert float(debiased_cka(b, scale * a)) == pytest.approx(
        gram_debiased_cka(a, b), abs=1e-3 if scale < 1e-308 else 1e-9
    )


# planted


@pytest.mark.parametrize("name", SIMILARITIES)
def test_a_rotation_is_found_out_and_matching_units_does_not(name, generator):
    a = normal(generator, 500, 12)
    b = 3 * a @ orthogonal(generator, 12) + normal(generator, 12)
    assert float(SIMILARITIES[name](a, b)) == pytest.approx(1, abs=1e-10)
    assert cu.bipartite_matching(cu.correlation(cu.pair_moments(a, b)).matrix).mean < 0.8
    stretched = a * torch.logspace(-1, 1, 12, dtype=torch.float64)
    assert SIMILARITIES[name](a, stretched) < 0.9, "an invertible map that least squares finds out"
    assert cu.least_squares(cu.pair_moments(stretched, a)).r2.min() > 0.999


@pytest.mark.parametrize("name", SIMILARITIES)
def test_units_of_one_net_twice_are_the_same_net(name, generator):
    a, b = nets(generator)
    twice = torch.cat([a, a], 1)
    assert float(SIMILARITIES[name](a, twice)) == pytest.approx(1, abs=1e-10)
    assert float(SIMILARITIES[name](twice, b)) == pytest.approx(float(SIMILARITIES[name](a, b)), abs=1e-12)


@pytest.mark.parametrize("units", [(6, 6), (7, 5), (3, 8)])
def test_procrustes_is_what_the_best_rotation_leaves(units, generator):
    a, b = nets(generator, units=units)
    widest = max(units)
    x, y = (np.pad(centred(acts), ((0, 0), (0, widest - acts.shape[1]))) for acts in (a, b))
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    rotation, nuclear = scipy.linalg.orthogonal_procrustes(x, y)
    found = float(procrustes(cu.pair_moments(a, b)))
    assert found == pytest.approx(nuclear, abs=1e-12)
    assert math.sqrt(2 * (1 - found)) == pytest.approx(np.linalg.norm(x @ rotation - y), abs=1e-12)


def test_procrustes_angle_is_a_metric(generator):
    acts = [normal(generator, 100, 4) + k * normal(generator, 100, 1) for k in range(5)]
    angle = [[float(procrustes(cu.pair_moments(a, b)).arccos()) for b in acts] for a in acts]
    for i in range(5):
        assert angle[i][i] == pytest.approx(0, abs=1e-6)
        assert all(angle[i][k] <= angle[i][j] + angle[j][k] + 1e-12 for j in range(5) for k in range(5))


# partial least squares


@pytest.mark.parametrize("units", [(6, 6), (7, 5), (3, 8)])
def test_partial_least_squares_is_scikit_learns(units, generator, device):
    a, b = nets(generator, units=units)
    n = min(units)
    peer = PLSSVD(n, scale=False).fit(a.numpy(), b.numpy())
    scores_a, scores_b = peer.transform(a.numpy(), b.numpy())
    found = partial_least_squares(cu.pair_moments(a.to(device), b.to(device)))
    assert found.covariance.cpu().numpy() == pytest.approx((scores_a * scores_b).mean(0), abs=1e-10)
    correlation = [np.corrcoef(scores_a[:, k], scores_b[:, k])[0, 1] for k in range(n)]
    assert found.correlation.cpu().numpy() == pytest.approx(np.array(correlation), abs=1e-9)
    for ours, theirs in ((found.directions_a, peer.x_weights_), (found.directions_b, peer.y_weights_)):
        assert abs((ours.cpu().numpy() * theirs).sum(0)) == pytest.approx(np.ones(n), abs=1e-9)
        assert torch.allclose(ours.T @ ours, torch.eye(n, dtype=torch.float64, device=ours.device), atol=1e-12)
    assert (found.covariance.diff() <= 0).all()
    largest = found.directions_a.gather(0, found.directions_a.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()


@pytest.mark.parametrize("tolerance", [0, 1, -1])
def test_the_tolerance_of_partial_least_squares_is_a_share(tolerance, generator):
    with pytest.raises(ValueError, match="rank_tolerance: expected a share between 0 and 1"):
        partial_least_squares(cu.pair_moments(*nets(generator)), rank_tolerance=tolerance)


def test_partial_least_squares_recovers_the_direction_that_two_nets_share(generator):
    shared, along_a, along_b = normal(generator, 20_000, 1), orthogonal(generator, 9)[:1], orthogonal(generator, 6)[:1]
    a = 3 * shared @ along_a + normal(generator, 20_000, 9)
    b = 2 * shared @ along_b + normal(generator, 20_000, 6)
    found = partial_least_squares(cu.pair_moments(a, b))
    assert float(found.covariance[0]) == pytest.approx(6, rel=0.05)
    assert float(found.correlation[0]) == pytest.approx(6 / math.sqrt(10 * 5), abs=0.01)
    assert abs(float(along_a @ found.directions_a[:, 0])) > 0.999
    assert abs(float(along_b @ found.directions_b[:, 0])) > 0.999
    assert (found.covariance[1:] < 0.1).all()
    assert (found.correlation[1:] < 0.1).all()


def test_partial_least_squares_of_a_net_with_itself_is_its_principal_components(generator):
    a, _ = nets(generator)
    found = partial_least_squares(cu.pair_moments(a, a))
    assert found.covariance.numpy() == pytest.approx(np.linalg.svd(centred(a))[1] ** 2 / 300, abs=1e-10)
    assert found.correlation.numpy() == pytest.approx(np.ones(7), abs=1e-12)
    assert torch.allclose(found.directions_a, found.directions_b, atol=1e-10)


def test_scores_without_variance_have_no_correlation(generator):
    a, b = nets(generator)
    twice = torch.cat([a, a], 1).float()
    found = partial_least_squares(cu.pair_moments(twice, twice))
    assert found.correlation[:7].tolist() == pytest.approx([1] * 7, abs=1e-5)
    assert (found.correlation[7:] == 0).all()
    faint = torch.cat([a[:, :3], 1e-6 * b[:, :1]], 1)
    assert (partial_least_squares(cu.pair_moments(faint, faint)).correlation > 0).sum() == 3
    assert (partial_least_squares(cu.pair_moments(faint, faint), rank_tolerance=1e-14).correlation > 0).sum() == 4


# laws


@pytest.mark.parametrize("similarity", [linear_cka, procrustes])
def test_merged_moments_and_swapped_nets_give_the_same(similarity, generator):
    a, b = nets(generator)
    parts = []
    for x, y in zip(a.split([1, 99, 200]), b.split([1, 99, 200]), strict=True):
        parts.append(cu.Moments({"a": 7, "b": 5}))
        parts[-1].update({"a": x, "b": y})
    pair, merged = cu.pair_moments(a, b), parts[2].merge(parts[0]).merge(parts[1]).pair("a", "b")
    assert float(similarity(merged)) == pytest.approx(float(similarity(pair)), abs=1e-12)
    assert float(similarity(pair.swap())) == pytest.approx(float(similarity(pair)), abs=1e-12)
    assert torch.allclose(partial_least_squares(merged).correlation, partial_least_squares(pair).correlation)


def test_swapped_nets_and_shuffled_samples_give_the_same(generator):
    a, b = nets(generator)
    order = torch.randperm(300, generator=generator)
    assert float(debiased_cka(b, a)) == pytest.approx(float(debiased_cka(a, b)), abs=1e-12)
    assert float(debiased_cka(a[order], b[order])) == pytest.approx(float(debiased_cka(a, b)), abs=1e-12)
    there, back = (partial_least_squares(pair) for pair in (cu.pair_moments(a, b), cu.pair_moments(b, a)))
    assert torch.allclose(there.covariance, back.covariance)
    assert torch.allclose(there.correlation, back.correlation)
    assert torch.allclose(there.directions_a.abs(), back.directions_b.abs())


def test_half_precision_and_numpy_are_read_and_inputs_left_alone(generator):
    a, b = (acts.to(torch.bfloat16) for acts in nets(generator))
    kept = a.clone()
    assert debiased_cka(a, b) == debiased_cka(a.float().numpy(), b.float())
    assert torch.equal(a, kept)


# degenerate units


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_units_give_numbers_and_no_warning(dtype, generator):
    a, b = (acts.to(dtype) for acts in nets(generator))
    once = torch.zeros(300, 1, dtype=dtype)
    once[17] = 4.0
    dead, constant = torch.zeros(300, 1, dtype=dtype), torch.full((300, 1), 0.1, dtype=dtype)
    spoilt_a, spoilt_b = (
        torch.cat([a, a[:, :2], dead, constant, once], 1),
        torch.cat([b, constant, once, dead, -once], 1),
    )
    for name, similarity in SIMILARITIES.items():
        assert 0 < similarity(spoilt_a, spoilt_b) < 1
        assert float(similarity(torch.cat([a, constant, dead], 1), b)) == pytest.approx(
            float(similarity(a, b)), abs=1e-6
        )
        for empty in (dead, constant, torch.cat([dead, constant], 1)):
            for x, y in ((a, empty), (empty, b), (empty, empty)):
                assert similarity(x, y) == 0, name
    found = partial_least_squares(cu.pair_moments(spoilt_a, spoilt_b))
    assert all(getattr(found, field.name).isfinite().all() for field in dataclasses.fields(found))
    assert (found.correlation <= 1).all()
    empty = partial_least_squares(cu.pair_moments(a, torch.cat([dead, constant], 1)))
    assert empty.covariance.tolist() == empty.correlation.tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [4, 50, 5000])
def test_a_net_that_varies_on_one_sample_has_no_debiased_cka(samples, dtype, generator):
    once = torch.zeros(samples, 3, dtype=dtype)
    once[2] = torch.tensor([1.0, -3.0, 0.1])
    other = normal(generator, samples, 4).to(dtype)
    assert debiased_cka(once, once) == debiased_cka(once + 7, other) == debiased_cka(other, once) == 0
    assert linear_cka(cu.pair_moments(once, once)) > 0.999, "which compares that sample with itself"


# bad input


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a, b: (a[:3], b[:3]), "acts_a: expected at least 4 samples, got 3"),
        (lambda a, b: (a, b[:-1]), "acts_b: expected 300 samples as in acts_a, got 299"),
        (lambda a, b: (a, b.index_fill(1, torch.tensor(4), torch.nan)), "acts_b: .*unit 4"),
        (lambda a, b: (a.index_fill(1, torch.tensor(2), torch.inf), b), "acts_a: .*unit 2"),
        (lambda a, b: (a.long(), b), "acts_a: expected floating-point"),
        (lambda a, b: (a, b.to(torch.complex64)), "acts_b: expected floating-point"),
        (lambda a, b: (a[:, 0], b), r"acts_a: expected shape \(samples, units\)"),
    ],
)
def test_bad_activations_are_named(spoil, message, generator):
    with pytest.raises(ValueError, match=message):
        debiased_cka(*spoil(*nets(generator)))


def test_results_are_frozen(generator):
    with pytest.raises(dataclasses.FrozenInstanceError):
        partial_least_squares(cu.pair_moments(*nets(generator))).covariance = None


@pytest.mark.usefixtures("fake_cuda")
def test_everything_stays_on_the_gpu():
    """On a fake cuda device any look at a value raises, so a run that passes has no host synchronisation."""
    with FakeTensorMode():
        a, b = torch.randn(5000, 6, device="cuda"), torch.randn(5000, 4, device="cuda")
        pair = cu.pair_moments(a, b)
        found = partial_least_squares(pair)
        for value in (linear_cka(pair), debiased_cka(a, b), procrustes(pair), *vars(found).values()):
            assert value.device.type == "cuda"
            assert value.dtype == torch.float64


@pytest.mark.parametrize("constant", [1e200, -1.7e308, 1e-200])
@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_a_unit_that_never_changes_has_no_say_in_the_scale(generator, constant, scale):
    a = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    b = a + torch.randn(30, 3, generator=generator, dtype=torch.float64)
    still = torch.full((30, 1), constant, dtype=torch.float64)
    found = cu.debiased_cka(torch.cat([a * scale, still], 1), b)
    assert torch.allclose(found, cu.debiased_cka(a, b), rtol=0, atol=1e-12)
