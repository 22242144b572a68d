"""Linear CKA against matrices of samples by samples: in one run, interleaved, medians. `make bench` runs it."""

import time

import numpy as np
import pytest
import torch

import convergent_utils as cu
from convergent_utils.kernels.alignment import debiased_cka, linear_cka

pytestmark = pytest.mark.benchmark


def faster(ours, theirs, rounds=5):
    """Median seconds of ours, and how many times longer theirs take: the median over neighbours in time."""
    seconds = np.empty((rounds + 1, 2))
    for k in range(rounds + 1):
        for side, run in enumerate((ours, theirs)):
            start = time.perf_counter()
            run()
            seconds[k, side] = time.perf_counter() - start
    return np.median(seconds[1:, 0]), np.median(seconds[1:, 1] / seconds[1:, 0])


def cosine(k, m):
    return np.vdot(k, m) / np.sqrt(np.vdot(k, k) * np.vdot(m, m))


def gram_cka(a, b):
    """As it is defined: the matrices of inner products, their rows and columns centred."""
    grams = [x @ x.T for x in (a, b)]
    for gram in grams:
        gram -= gram.mean(0)
        gram -= gram.mean(1)[:, None]
    return cosine(*grams)


def centred_gram_cka(a, b):
    """As fast as matrices of samples get: the units are centred instead."""
    return cosine(*((x - x.mean(0)) @ (x - x.mean(0)).T for x in (a, b)))


def gram_debiased_cka(a, b):
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
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(4000, 40, generator=generator) @ torch.randn(40, 1024, generator=generator) / 6
    return (shared + torch.randn(4000, 1024, generator=generator)).split(512, dim=1)


@pytest.mark.parametrize(
    ("ours", "theirs", "bound"),
    [
        (lambda a, b: linear_cka(cu.pair_moments(a, b)), gram_cka, 10),
        (lambda a, b: linear_cka(cu.pair_moments(a, b)), centred_gram_cka, 3),
        (debiased_cka, gram_debiased_cka, 1),
    ],
)
def test_cka_of_4000_samples_and_512_units(acts, ours, theirs, bound):
    a, b = (part.contiguous() for part in acts)
    exact = theirs(a.double().numpy(), b.double().numpy())
    for dtype in (np.float64, np.float32):
        x, y = (part.numpy().astype(dtype) for part in (a, b))
        spent, times = faster(lambda: ours(a, b), lambda x=x, y=y: theirs(x, y))
        print(f"\n{spent:.3f} s, {times:.1f} times as fast as {theirs.__name__} in {x.dtype}, "
              f"which is off by {abs(theirs(x, y) - exact):.0e}")  # fmt: skip
        if dtype == np.float64:
            assert times >= bound
    assert abs(float(ours(a, b)) - exact) < 1e-7
