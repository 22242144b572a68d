"""Ratios of timings against the usual tools: both sides in one run, interleaved, medians. `make bench` runs them."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from sklearn.linear_model import lasso_path

import convergent_utils as cu

pytestmark = pytest.mark.benchmark


def ratio(ours, theirs, rounds=7):
    """Median of ours over median of theirs, the two in turn after one warm-up each."""
    seconds = {ours: [], theirs: []}
    for k in range(rounds + 1):
        for side in (ours, theirs):
            start = time.perf_counter()
            side()
            if k:
                seconds[side].append(time.perf_counter() - start)
    return float(np.median(seconds[ours]) / np.median(seconds[theirs]))


@pytest.fixture(scope="module")
def acts():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(50_000, 512, generator=generator), torch.randn(50_000, 512, generator=generator)


def test_moments_against_corrcoef(acts):
    a, b = acts
    stacked = np.hstack([a, b])
    found = ratio(lambda: cu.correlation(cu.pair_moments(a, b)), lambda: np.corrcoef(stacked, rowvar=False))
    print(f"\nmoments and correlation at 50,000 x 512: {found:.2f} of np.corrcoef's time")
    assert found <= 1.0


MEMORY = """
import sys, numpy as np, torch
import convergent_utils as cu

def peak():  # of this process alone, in MB
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

a, b = (torch.randn(50_000, 512, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
stacked = np.hstack([a, b])
cu.correlation(cu.pair_moments(a[:600], b[:600]))
np.corrcoef(np.random.default_rng(0).normal(size=(600, 1024)), rowvar=False)
before = peak()
np.corrcoef(stacked, rowvar=False) if sys.argv[1] == "theirs" else cu.correlation(cu.pair_moments(a, b))
print(peak() - before)
"""


def extra_megabytes(which):
    done = subprocess.run([sys.executable, "-c", MEMORY, which], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_of_moments():
    ours, theirs = extra_megabytes("ours"), extra_megabytes("theirs")
    print(f"\nextra memory at 50,000 x 512: {ours:.0f} MB, np.corrcoef {theirs:.0f} MB")
    assert ours <= 60 < theirs


@pytest.mark.parametrize(
    ("names", "positions", "bound"),
    [
        (("net1", "net2", "net3", "net4"), 1, 1.25),
        (("net1",), "all", 1.8),
        (("net1", "net2", "net3", "net4"), "all", 2.3),
    ],
)
def test_measuring_against_the_bare_forward_pass(names, positions, bound):
    networks = {name: cu.build_network("alexnet", seed=k) for k, name in enumerate(names)}
    layers = cu.build_network("alexnet").layers
    images = cu.load_dataset("fashion-mnist", split="test").images[:5120]

    def forward():
        with torch.inference_mode():
            for network in networks.values():
                for part in images.split(128):
                    network(cu.normalise(part))

    found = ratio(lambda: cu.measure(networks, images, layers, positions=positions, sample=2048), forward, rounds=11)
    print(f"\nmeasure, {len(names)} networks, positions={positions!r}: {found:.2f} of the bare forward pass")
    assert found <= bound


@pytest.mark.parametrize("units", [96, 256, 384])
def test_sparse_mapping_against_lasso_path(units):
    """All targets, eight penalties, equal accuracy, both sides from standardised activations."""
    generator = torch.Generator().manual_seed(units)
    shared = torch.randn(6000, 40, generator=generator)
    a, b = (
        (
            shared @ torch.randn(40, units, generator=generator) / 6 + torch.randn(6000, units, generator=generator)
        ).relu()
        for _ in range(2)
    )
    x, y = (((acts - acts.mean(0)) / acts.std(0, correction=0)).double().numpy() for acts in (a, b))
    penalties, tolerance = np.logspace(-0.5, -3, 8), 1e-6  # by its own rule it then leaves gaps of about 1e-10

    def theirs():
        gram = x.T @ x
        for target in y.T:
            path = lasso_path(
                x, target, alphas=penalties, precompute=gram, Xy=x.T @ target, tol=tolerance, max_iter=100_000
            )
            gaps.append((path[2] / len(x)).max())

    def ours():
        mapped = cu.sparse_mapping(cu.pair_moments(a, b), penalties.tolist(), tolerance=1e-10)
        our_gaps.append(float((mapped.duality_gap * (1 - mapped.r2) / 2).max()))

    gaps, our_gaps = [], []
    found = ratio(ours, theirs, rounds=3)
    print(f"\nsparse mapping, {units} units: {1 / found:.1f} times as fast as lasso_path; largest gaps "
          f"{max(our_gaps):.1e} and {max(gaps):.1e}")  # fmt: skip
    assert max(our_gaps) <= 2 * max(gaps)
    assert found <= 0.5
