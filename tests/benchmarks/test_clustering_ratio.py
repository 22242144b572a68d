"""Clustering 2 x 512 units against scikit-learn: both sides in one run, interleaved, medians. `make bench` runs it."""

import time

import numpy as np
import pytest
import torch
from sklearn.cluster import AgglomerativeClustering, SpectralClustering

import convergent_utils as cu
from convergent_utils.kernels.affinities import correlation_affinity, mapping_affinity, subspace_affinity
from convergent_utils.kernels.clustering import (
    crossing_share,
    hierarchical_clustering,
    spectral_clustering,
    spectral_embedding,
)

pytestmark = pytest.mark.benchmark

N_CLUSTERS = 32


def compared(what, ours, theirs, rounds):
    """Median seconds of ours and median ratio, the two in turn after a warm-up; a ratio is of neighbours in time."""
    seconds = np.empty((rounds + 1, 2))
    for k in range(rounds + 1):
        for side, run in enumerate((ours, theirs)):
            start = time.perf_counter()
            run()
            seconds[k, side] = time.perf_counter() - start
    spent, ratio = np.median(seconds[1:, 0]), np.median(seconds[1:, 0] / seconds[1:, 1])
    print(f"\n{what}, 2 x 512 units: {spent:.3f} s, {ratio:.2f} of scikit-learn's time")
    return spent, ratio


@pytest.fixture(scope="module")
def pair():
    """Two nets that see the same 64 latent factors, each through its own sparse weights and a noise of its own."""
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(8000, 64, generator=generator)

    def net():
        weights = torch.randn(64, 512, generator=generator) * (torch.rand(64, 512, generator=generator) < 0.1)
        return (latent @ weights + torch.randn(8000, 512, generator=generator)).relu()

    return cu.pair_moments(net(), net())


@pytest.fixture(scope="module", params=["correlation", "mapping", "subspace"])
def affinity(request, pair):
    if request.param == "mapping":
        return mapping_affinity(cu.sparse_mapping(pair, [0.05]), cu.sparse_mapping(pair.swap(), [0.05]))
    return {"correlation": correlation_affinity, "subspace": subspace_affinity}[request.param](pair)


@pytest.mark.filterwarnings("ignore:Graph is not fully connected")  # scikit-learn's word for units without links
def test_spectral_clustering(affinity, request):
    matrix = affinity.numpy()
    peer = SpectralClustering(N_CLUSTERS, affinity="precomputed", n_init=10, random_state=0)
    what = f"spectral clustering, {request.node.callspec.params['affinity']} affinity"
    spent, ratio = compared(what, lambda: spectral_clustering(affinity, N_CLUSTERS), lambda: peer.fit(matrix), 15)
    assert spent < 5
    assert ratio <= 1


def test_hierarchical_clustering(affinity, request):
    """On the same coordinates: our tree, cut and leaf merges against their tree and cut. Scipy makes both trees."""
    embedding = spectral_embedding(affinity, N_CLUSTERS)
    places = embedding.coordinates[~embedding.isolated].numpy()
    peer = AgglomerativeClustering(N_CLUSTERS, linkage="average")

    def cluster():
        tree = hierarchical_clustering(embedding)
        return tree.labels(N_CLUSTERS), crossing_share(tree, 512)

    what = f"hierarchical clustering, {request.node.callspec.params['affinity']} affinity"
    spent, ratio = compared(what, cluster, lambda: peer.fit(places), 41)
    assert spent < 5
    assert ratio <= 1.1  # scipy's routine on both sides: equal but for noise


def test_everything_from_moments(pair):
    """The whole of a figure: affinity, embedding, both clusterings, leaf merges."""
    start = time.perf_counter()
    affinity = subspace_affinity(pair)
    spectral_clustering(affinity, N_CLUSTERS)
    crossing_share(hierarchical_clustering(spectral_embedding(affinity, N_CLUSTERS)), 512)
    spent = time.perf_counter() - start
    print(f"\nfrom moments to both clusterings, 2 x 512 units: {spent:.2f} s")
    assert spent < 5
