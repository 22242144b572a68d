"""Shared neighbours against scikit-learn's brute force on both nets: both in one run, in turn, medians; and memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from test_ratios import ratio

import convergent_utils as cu

pytestmark = pytest.mark.benchmark


def by_scikit_learn(nets, k):
    """The share of neighbours that both nets have, from the neighbours that scikit-learn finds."""
    near = []
    for acts in nets:
        rows = (acts / acts.norm(dim=1, keepdim=True)).numpy()
        near.append(NearestNeighbors(n_neighbors=k, algorithm="brute").fit(rows).kneighbors(return_distance=False))
    both = np.sort(np.concatenate(near, 1), 1)
    return (both[:, 1:] == both[:, :-1]).sum() / both.size * 2


def made(kind, n=10_000):
    """Two nets of 512 units: strangers, or rectified mixtures of a few common directions, as those of a layer are."""
    generator = torch.Generator().manual_seed(0)
    nets = [torch.randn(n, 512, generator=generator) for _ in "ab"]
    if kind == "alike":
        mixed = torch.randn(n, 16, generator=generator) @ torch.randn(16, 512, generator=generator)
        nets = [(acts + mixed).relu() for acts in nets]
    return nets


@pytest.mark.parametrize(("kind", "k", "most"), [("strangers", 10, 1.0), ("alike", 10, 1.0), ("strangers", 100, 1.2)])
def test_shared_neighbours_against_brute_force(kind, k, most):
    nets = made(kind)
    found = ratio(lambda: cu.mutual_knn(*nets, k=k), lambda: by_scikit_learn(nets, k), rounds=3)
    print(f"\n{k} neighbours of 10,000 x 512, {kind}: {found:.2f} of scikit-learn's time")
    assert float(cu.mutual_knn(*nets, k=k)) == pytest.approx(by_scikit_learn(nets, k), abs=1e-4)
    assert found <= most


MEMORY = """
import sys, torch
import convergent_utils as cu

def peak():  # of this process alone, in MB
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

a, b = (torch.randn(20_000, 512, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
if sys.argv[2] == "rows of zeros":
    a[5:300] = 0
cu.mutual_knn(a[:300], b[:300])
before = peak()
cu.mutual_knn(a, b, k=int(sys.argv[1]))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize(("kind", "k"), [("strangers", 10), ("strangers", 100), ("rows of zeros", 10)])
def test_memory_of_shared_neighbours(kind, k):
    done = subprocess.run([sys.executable, "-c", MEMORY, str(k), kind], capture_output=True, text=True, check=True)
    print(f"\nextra memory of {k} neighbours at 20,000 x 512, {kind}: {float(done.stdout):.0f} MB")
    assert float(done.stdout) < 300
