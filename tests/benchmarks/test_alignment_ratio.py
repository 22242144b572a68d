"""Linear CKA against matrices of samples by samples: in one run, interleaved, medians. `make bench` runs it."""

import time

import numpy as np
import pytest
import torch

import convergent_utils as cu
from convergent_utils import debiased_cka, linear_cka

pytestmark = pytest.mark.benchmark


def compared(ours, theirs, rounds):
    """Median seconds of ours, and how many times longer theirs take: the median over neighbours in time."""
    seconds = np.empty((rounds + 1, 2))
    for k in range(rounds + 1):
        for side, run in enumerate((ours, theirs)):
            start = time.perf_counter()
            run()
            seconds[k, side] = time.perf_counter() - start
    return np.median(seconds[1:, 0]), np.median(seconds[1:, 1] / seconds[1:, 0])


def by_definition(a, b):
    """HSIC = tr(K H L H) with the centring matrix H."""
    h = np.eye(len(a), dtype=a.dtype) - a.dtype.type(1 / len(a))
    k, m = (x @ x.T @ h for x in (a, b))
    return np.vdot(k, m.T) / np.sqrt(np.vdot(k, k.T) * np.vdot(m, m.T))


def by_centred_grams(a, b):
    """The same with the means of rows and columns subtracted, the fastest that has both matrices."""
    grams = [x @ x.T for x in (a, b)]
    for gram in grams:
        gram -= gram.mean(0)
        gram -= gram.mean(1)[:, None]
    k, m = grams
    return np.vdot(k, m) / np.sqrt(np.vdot(k, k) * np.vdot(m, m))


def debiased_by_grams(a, b):
    """Song et al. 2012, equation 5."""
    n, grams = len(a), [x @ x.T for x in (a, b)]
    for gram in grams:
        np.fill_diagonal(gram, 0)
    sums = [gram.sum(0) for gram in grams]

    def independence(i, j):
        joint = sums[i].sum() * sums[j].sum() / (n - 1) / (n - 2) - 2 / (n - 2) * sums[i] @ sums[j]
        return np.vdot(grams[i], grams[j]) + joint

    return independence(0, 1) / np.sqrt(independence(0, 0) * independence(1, 1))


@pytest.fixture(scope="module")
def acts():
    """Two nets of 512 units on 4,000 samples, float32."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(4000, 40, generator=generator) @ torch.randn(40, 1024, generator=generator) / 6
    return [part.contiguous() for part in (shared + torch.randn(4000, 1024, generator=generator)).split(512, dim=1)]


@pytest.mark.parametrize(
    ("ours", "theirs", "rounds", "bound"),
    [
        (lambda a, b: linear_cka(cu.pair_moments(a, b)), by_definition, 1, 10),
        (lambda a, b: linear_cka(cu.pair_moments(a, b)), by_centred_grams, 7, 3),
        (debiased_cka, debiased_by_grams, 7, 1),
    ],
)
def test_cka_against_matrices_of_samples(acts, ours, theirs, rounds, bound):
    in_float64 = [part.double().numpy() for part in acts]
    exact = theirs(*in_float64)
    for arrays, least in ((in_float64, bound), ([part.numpy() for part in acts], 0)):
        spent, times = compared(lambda: ours(*acts), lambda arrays=arrays: theirs(*arrays), rounds)
        print(f"\n{theirs.__name__}, 4,000 x 512, {arrays[0].dtype}: off by {abs(theirs(*arrays) - exact):.0e}; "
              f"ours {spent:.3f} s, {times:.1f} times as fast")  # fmt: skip
        assert times >= least
    assert abs(float(ours(*acts)) - exact) < 1e-7
