"""CCA, SVCCA and PWCCA at 50,000 x 512: both sides in one run, interleaved, medians. `make bench` runs it.

Ours is the moments of both nets and three calls. The peers do the same three, from NumPy's covariance or from the SVD
of the data, and are checked to find the same numbers. Covariances are timed twice: shared by all three, and taken by
each for itself, as three functions of activations do.
"""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import convergent_utils as cu
from convergent_utils import cca, pwcca, svcca

pytestmark = pytest.mark.benchmark

UNITS = 512


@pytest.fixture(scope="module")
def acts():
    """Two nets that share 256 latent factors, in float32."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(50_000, 256, generator=generator)

    def net():
        own = torch.randn(50_000, UNITS, generator=generator)
        return (shared @ torch.randn(256, UNITS, generator=generator) / 16 + own).relu()

    return net(), net()


def ours(a, b):
    pair = cu.pair_moments(a, b)
    return [float(similarity(pair).similarity) for similarity in (cca, svcca, pwcca)]


def covariance(a, b):
    """NumPy's, (2, 2, units, units)."""
    return np.cov(a.numpy(), b.numpy(), rowvar=False).reshape(2, UNITS, 2, UNITS).swapaxes(1, 2)


def whitening(cov, keep=1.0):
    left, size, _ = np.linalg.svd(cov)
    kept = size.cumsum() - size < keep * size.sum()
    return left[:, kept] / np.sqrt(size[kept])


def canonical(cov, keep=1.0):
    axes = whitening(cov[0, 0], keep), whitening(cov[1, 1], keep)
    left, rho, _ = np.linalg.svd(axes[0].T @ cov[0, 1] @ axes[1])
    return axes[0] @ left, rho


def mean_of(cov, keep=1.0):
    return canonical(cov, keep)[1].mean()


def weighted_of(cov):
    directions, rho = canonical(cov)
    return np.average(rho, weights=np.abs(cov[0, 0] @ directions).sum(0))


def from_one_covariance(a, b):
    cov = covariance(a, b)
    return [mean_of(cov), mean_of(cov, keep=0.99), weighted_of(cov)]


def from_a_covariance_each(a, b):
    return [mean_of(covariance(a, b)), mean_of(covariance(a, b), keep=0.99), weighted_of(covariance(a, b))]


def components(acts):
    """Centred units, their principal components and the singular values, float64."""
    centred = acts.numpy().astype(np.float64)
    centred -= centred.mean(0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    return centred, left, size


def mean_of_components(*nets, keep=1.0):
    bases = [left[:, (size**2).cumsum() - size**2 < keep * (size**2).sum()] for _, left, size in nets]
    return np.linalg.svd(bases[0].T @ bases[1])[1].mean()


def weighted_of_components(first, second):
    left, rho, _ = np.linalg.svd(first[1].T @ second[1])
    return np.average(rho, weights=np.abs((first[1] @ left).T @ first[0]).sum(1))


def from_one_svd_of_the_data(a, b):
    nets = components(a), components(b)
    return [mean_of_components(*nets), mean_of_components(*nets, keep=0.99), weighted_of_components(*nets)]


@pytest.mark.parametrize(
    ("peer", "bound", "rounds"),
    [(from_one_covariance, 1.3, 9), (from_a_covariance_each, 2, 5), (from_one_svd_of_the_data, 6, 3)],
)
def test_times_as_fast(acts, peer, bound, rounds):
    seconds = np.empty((rounds + 1, 2))
    for k in range(rounds + 1):
        numbers = []
        for side, run in enumerate((ours, peer)):
            start = time.perf_counter()
            numbers.append(run(*acts))
            seconds[k, side] = time.perf_counter() - start
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-5)
    mine, theirs = np.median(seconds[1:], axis=0)
    print(f"\nCCA, SVCCA and PWCCA at 50,000 x 512: {mine:.2f} s, {peer.__name__} {theirs:.2f} s: "
          f"{theirs / mine:.1f} times as fast")  # fmt: skip
    assert theirs / mine >= bound


MEMORY = """
import sys, torch
import convergent_utils as cu
from convergent_utils import cca, pwcca, svcca

def peak():  # of this process alone, in MB
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

def three(a, b):
    pair = cu.pair_moments(a, b)
    return [similarity(pair) for similarity in (cca, svcca, pwcca)]

a, b = (torch.randn(50_000, 512, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
three(a[:600, :20], b[:600, :20])
before = peak()
three(a, b)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    print(f"\nextra memory of all three at 50,000 x 512: {float(done.stdout):.0f} MB")
    assert float(done.stdout) < 100
