import numpy as np
import pytest
import torch

import convergent_utils as cu


def correlate(a, b):
    return cu.correlation(cu.pair_moments(a, b))


@pytest.fixture
def acts(generator):
    a = torch.randn(400, 6, generator=generator, dtype=torch.float64)
    return a, (a @ torch.randn(6, 4, generator=generator, dtype=torch.float64)).relu()


def test_equals_numpy(acts, device):
    a, b = acts
    ours = correlate(a.to(device), b.to(device)).matrix.cpu()
    assert np.allclose(ours, np.corrcoef(np.hstack([a, b]).T)[:6, 6:], atol=1e-12)


def test_within_a_net_the_diagonal_is_one(acts):
    moments = cu.Moments({"net1.conv1": 4})
    moments.update({"net1.conv1": acts[1]})
    matrix = cu.correlation(moments.pair("net1.conv1", "net1.conv1")).matrix
    assert torch.allclose(matrix.diagonal(), torch.ones(4, dtype=torch.float64))
    assert torch.allclose(matrix, matrix.T, atol=1e-15)


def test_dead_units_score_zero_and_are_masked(acts):
    a, b = acts
    a, b = a.clone(), b.clone()
    a[:, 2], b[:, 0] = 0.0, -7.25
    found = correlate(a, b)
    assert found.live_a.tolist() == [True, True, False, True, True, True]
    assert found.live_b.tolist() == [False, True, True, True]
    assert (found.matrix[2] == 0).all()
    assert (found.matrix[:, 0] == 0).all()
    assert torch.isfinite(found.matrix).all()


def test_what_it_is_invariant_to_and_what_not(acts, generator):
    a, b = acts
    matrix = correlate(a, b).matrix
    order = torch.randperm(4, generator=generator)
    assert torch.allclose(correlate(a, b[:, order]).matrix, matrix[:, order])
    assert torch.allclose(correlate(3 * a + 5, b / 7).matrix, matrix)
    assert torch.allclose(correlate(-a, b).matrix, -matrix), "signed"
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    assert not torch.allclose(correlate(a @ rotation, b).matrix, matrix, atol=0.05)
    assert torch.allclose(correlate(b, a).matrix, matrix.T)
