"""All-pairs mutual information against a loop over scikit-learn; see `test_ratios` for how ratios are taken."""

import time

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score

from convergent_utils.kernels.binning import bin_edges
from convergent_utils.kernels.mutual_information import mutual_information

pytestmark = pytest.mark.benchmark
UNITS, PAIRS = 256, 64  # of scikit-learn's loop only so many pairs are timed


@pytest.mark.parametrize(("method", "bound"), [("numba", 150), ("scatter", 25)])
@pytest.mark.parametrize("n_samples", [10_000, 50_000])
def test_mutual_information_against_scikit_learn(method, bound, n_samples):
    """Binning is included on our side only; theirs has the labels in their smallest type, in which it is fastest."""
    generator = torch.Generator().manual_seed(n_samples)
    shared = torch.randn(n_samples, 20, generator=generator)
    a, b = (
        (
            shared @ torch.randn(20, UNITS, generator=generator) / 4
            + torch.randn(n_samples, UNITS, generator=generator)
        ).relu()
        for _ in range(2)
    )
    labels_a, labels_b = (bin_edges(acts, bins=16).codes(acts).numpy() for acts in (a, b))
    pairs, seconds, found, expected = np.random.default_rng(0).integers(0, UNITS, (PAIRS, 2)), ([], []), [], []
    for k in range(5):
        start = time.perf_counter()
        found = mutual_information(a, b, bins=16, correction=None, method=method)
        middle = time.perf_counter()
        expected = [mutual_info_score(labels_a[i], labels_b[j]) for i, j in pairs]
        if k:  # the first of each is a warm-up
            seconds[0].append(middle - start)
            seconds[1].append((time.perf_counter() - middle) * UNITS**2 / PAIRS)
    ours, theirs = (float(np.median(side)) for side in seconds)
    print(f"\nmutual information, {n_samples} samples, {method}: {theirs / ours:.0f} times as fast as "
          f"scikit-learn, {ours / UNITS**2 * 1e6:.1f} us a pair, theirs {theirs / UNITS**2 * 1e3:.2f} ms")  # fmt: skip
    assert found[pairs[:, 0], pairs[:, 1]].numpy() == pytest.approx(expected, abs=1e-10)
    assert theirs / ours >= bound
