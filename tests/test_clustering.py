import dataclasses
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.cluster import hierarchy
from sklearn.cluster import AgglomerativeClustering, SpectralClustering
from sklearn.manifold import spectral_embedding as sklearn_embedding
from sklearn.metrics import adjusted_rand_score
from torch._subclasses.fake_tensor import FakeTensorMode

import convergent_utils as cu
from convergent_utils.kernels.affinities import (
    correlation_affinity,
    mapping_affinity,
    subspace_affinity,
    subspace_overlap,
)
from convergent_utils.kernels.clustering import (
    MergeTree,
    SpectralEmbedding,
    cluster_composition,
    crossing_share,
    hierarchical_clustering,
    spectral_clustering,
    spectral_embedding,
)

LINKAGES = ["average", "complete", "single", "ward"]


def sparse_maps(pair, penalty=0.05):
    return mapping_affinity(cu.sparse_mapping(pair, [penalty]), cu.sparse_mapping(pair.swap(), [penalty]))


AFFINITIES = {"correlation": correlation_affinity, "mapping": sparse_maps, "subspace": subspace_affinity}


def planted(seed, sizes_a, sizes_b, *, dims=3, noise=0.3, shared_by_all=0.0, samples=3000):
    """Activations of two nets and the group of every unit, a then b; units of both nets are shuffled.

    Group k is a space of `dims` latent factors; either net spans it with as many units as its sizes say, along
    directions of its own: the columns of a random orthonormal frame.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    latent, common, nets = normal(len(sizes_a), samples, dims), normal(samples, 1), []
    for sizes in (sizes_a, sizes_b):
        frames = [torch.linalg.qr(normal(n, dims)).Q.T * (n / dims) ** 0.5 for n in sizes]
        acts = torch.cat([z @ frame for z, frame in zip(latent, frames, strict=True)], 1)
        acts = acts + noise * normal(*acts.shape) + shared_by_all * common * (1 + 0.3 * normal(acts.shape[1]))
        order = torch.randperm(acts.shape[1], generator=generator)
        group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        nets.append((5 + acts[:, order], group[order]))
    (a, group_a), (b, group_b) = nets
    return a, b, torch.cat([group_a, group_b])


def random_affinity(generator, units, density=1.0):
    links = torch.rand(units, units, generator=generator, dtype=torch.float64)
    links = links * (torch.rand(units, units, generator=generator) < density)
    return ((links + links.T) / 2).fill_diagonal_(0)


def between_only(links):
    """The affinity of a map: no links within a net."""
    a, b = links.shape
    return torch.cat([torch.cat([links.new_zeros(a, a), links], 1), torch.cat([links.T, links.new_zeros(b, b)], 1)])


def laplacian(affinity):
    root = affinity.sum(1).sqrt()
    return torch.eye(len(affinity), dtype=torch.float64) - affinity / root[:, None] / root


def agreement(labels, truth):
    return adjusted_rand_score(np.asarray(truth.cpu()), np.asarray(labels.cpu()))


def cophenetic(tree):
    """The distance at which two units first share a cluster, (n_units, n_units), nan for isolated units."""
    found = torch.full((tree.n_units, tree.n_units), torch.nan, dtype=torch.float64)
    distances = hierarchy.cophenet(tree.merges.cpu().numpy())
    square = torch.from_numpy(scipy.spatial.distance.squareform(distances))
    found[tree.units.cpu()[:, None], tree.units.cpu()] = square
    return found


@pytest.fixture
def pair(generator):
    """Net a of 7 units, net b of 5, correlated among and between each other."""
    mixed = torch.randn(400, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
    return cu.pair_moments(mixed[:, :7].double(), mixed[:, 7:].double())


# affinities


def test_correlation_affinity_is_numpys(generator):
    a, b = torch.randn(50, 4, generator=generator), torch.randn(50, 3, generator=generator)
    b[:, 0] -= 2 * a[:, 1]
    oracle = np.abs(np.corrcoef(np.hstack([a, b]), rowvar=False)) - np.eye(7)
    assert correlation_affinity(cu.pair_moments(a, b)).numpy() == pytest.approx(oracle, abs=1e-6)


def test_mapping_affinity_is_the_mean_of_both_ways(pair):
    there, back = cu.least_squares(pair), cu.least_squares(pair.swap())
    affinity = mapping_affinity(there, back)
    assert (affinity[:7, :7] == 0).all()
    assert (affinity[7:, 7:] == 0).all()
    for i in range(7):
        for j in range(5):
            mean = (abs(there.coefficients[0, i, j]) + abs(back.coefficients[0, j, i])) / 2
            assert affinity[i, 7 + j] == affinity[7 + j, i] == mean


def test_subspace_affinity_is_ridge_regression_of_each_unit_on_all(generator):
    acts = torch.randn(200, 9, generator=generator, dtype=torch.float64)
    acts[:, 5:] += acts[:, :4]
    x = ((acts - acts.mean(0)) / acts.std(0, correction=0)).numpy()
    # ridge regression as least squares with rows of sqrt(ridge) under the data
    padded = np.vstack([x, np.sqrt(0.7 * len(x)) * np.eye(9)])
    weights = np.linalg.lstsq(padded, np.vstack([x, np.zeros((9, 9))]), rcond=None)[0]
    np.fill_diagonal(weights, 0)
    found = subspace_affinity(cu.pair_moments(acts[:, :5], acts[:, 5:]), ridge=0.7)
    assert found.numpy() == pytest.approx(weights**2, abs=1e-12)


def test_a_large_ridge_gives_squared_correlations_and_a_small_one_the_projection(generator):
    basis = torch.randn(300, 4, generator=generator, dtype=torch.float64)
    acts = basis @ torch.randn(4, 10, generator=generator, dtype=torch.float64)  # of rank 4
    pair = cu.pair_moments(acts[:, :6], acts[:, 6:])
    wide = subspace_affinity(pair, ridge=1e6) * 1e12
    assert torch.allclose(wide, correlation_affinity(pair).square(), atol=1e-4)
    standard = (acts - acts.mean(0)) / acts.std(0)
    rows = torch.linalg.svd(standard, full_matrices=False).Vh[:4]
    projection = (rows.T @ rows).square().fill_diagonal_(0)
    assert torch.allclose(subspace_affinity(pair, ridge=1e-7), projection, atol=1e-5)


def test_only_the_subspace_affinity_of_two_groups_is_free_of_their_bases():
    """Uncorrelated units of each group and net are turned; the sum of links between the halves should not care."""
    generator = torch.Generator().manual_seed(2)
    a = torch.linalg.qr(torch.randn(500, 9, generator=generator, dtype=torch.float64)).Q[:, 1:]
    a = torch.linalg.qr(a - a.mean(0)).Q
    b = a @ torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    b = torch.linalg.qr(b + 0.5 * torch.linalg.qr(torch.randn(500, 8, generator=generator).double()).Q).Q
    b = torch.linalg.qr(b - b.mean(0)).Q
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
    turned = torch.cat([a[:, :4] @ turn, a[:, 4:]], 1)
    sums = {}
    for name, affinity in (("correlation", correlation_affinity), ("subspace", subspace_affinity)):
        between = [affinity(cu.pair_moments(acts, b))[:4, 8:].sum() for acts in (a, turned)]
        sums[name] = float((between[0] - between[1]).abs() / between[0])
    assert sums["subspace"] < 1e-8
    assert sums["correlation"] > 1e-3


@pytest.mark.parametrize("name", AFFINITIES)
def test_every_affinity_is_an_affinity(name, device):
    a, b, _ = planted(0, [4, 3], [3, 5])
    pair = cu.pair_moments(a.to(device), b.to(device))
    affinity = AFFINITIES[name](pair)
    assert affinity.shape == (15, 15)
    assert affinity.device.type == device
    assert torch.equal(affinity, affinity.T)
    assert (affinity >= 0).all()
    assert (affinity <= 1 + 1e-9).all()
    assert (affinity.diagonal() == 0).all()
    assert torch.allclose(affinity.cpu(), AFFINITIES[name](cu.pair_moments(a, b)), atol=1e-6)


@pytest.mark.parametrize("name", AFFINITIES)
def test_scale_shift_and_sign_of_a_unit_change_no_affinity(name):
    a, b, _ = planted(1, [4, 4], [4, 4])
    before = AFFINITIES[name](cu.pair_moments(a, b))
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4)
    after = AFFINITIES[name](cu.pair_moments(a * sign * torch.linspace(0.1, 9, 8).double() - 3, b))
    assert torch.allclose(before, after, atol=1e-6)


# the embedding


def test_eigenvectors_are_numpys_and_scikit_learns(generator, device):
    affinity = random_affinity(generator, 40)
    found = spectral_embedding(affinity.to(device), 6)
    values, vectors = np.linalg.eigh(laplacian(affinity).numpy())
    assert found.eigenvalues.cpu().numpy() == pytest.approx(values[:6], abs=1e-12)
    assert np.abs(found.vectors.cpu().numpy().T @ vectors[:, :6]) == pytest.approx(np.eye(6), abs=1e-8)
    peer = sklearn_embedding(affinity.numpy(), n_components=6, drop_first=False, random_state=0)
    ours = found.vectors.cpu() / affinity.sum(1).sqrt()[:, None]  # theirs is the random walk's
    cosine = np.abs((ours.numpy() * peer).sum(0)) / np.linalg.norm(ours, axis=0) / np.linalg.norm(peer, axis=0)
    assert cosine == pytest.approx(np.ones(6), abs=1e-8)
    assert found.coordinates.norm(dim=1).cpu().numpy() == pytest.approx(np.ones(40))
    assert found.vectors.device.type == found.degree.device.type == device
    assert found.n_isolated == 0


def test_the_largest_entry_of_each_eigenvector_is_positive(generator):
    vectors = spectral_embedding(random_affinity(generator, 30), 8).vectors
    assert (vectors.gather(0, vectors.abs().argmax(0)[None]) > 0).all()


@pytest.mark.parametrize("n_components", [3, 30, 31, 60, 90])
def test_repeated_eigenvalues_are_all_found(n_components):
    """Thirty stars of one unit of a and two of b: eigenvalues 0, 1 and 2, thirty times each."""
    star = between_only(torch.ones(1, 2, dtype=torch.float64))
    found = spectral_embedding(torch.block_diag(*[star] * 30), n_components)
    oracle = torch.tensor([0.0] * 30 + [1.0] * 30 + [2.0] * 30).double()
    assert torch.allclose(found.eigenvalues, oracle[:n_components], atol=1e-12)
    gram = found.vectors.T @ found.vectors
    assert torch.allclose(gram, torch.eye(n_components, dtype=torch.float64), atol=1e-10)


def test_a_graph_in_parts_is_clustered_into_its_parts(generator):
    sizes = [3, 4, 5, 6, 7, 8, 9, 2, 2]
    affinity = torch.block_diag(*[random_affinity(generator, n) for n in sizes])
    part = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    order = torch.randperm(len(part), generator=generator)
    affinity, part = affinity[order][:, order], part[order]
    found = spectral_embedding(affinity, 12)
    assert (found.eigenvalues == 0).sum() == len(sizes)
    assert found.eigenvalues.numpy() == pytest.approx(np.linalg.eigvalsh(laplacian(affinity))[:12], abs=1e-12)
    assert agreement(spectral_clustering(affinity, len(sizes)), part) == 1


def test_more_parts_than_components_share_places_and_warn(generator):
    sizes = [3, 4, 5, 6, 7]
    affinity = torch.block_diag(*[random_affinity(generator, n) for n in sizes])
    part = torch.arange(5).repeat_interleave(torch.tensor(sizes))
    found = spectral_embedding(affinity, 3)
    assert (found.eigenvalues == 0).all()
    assert torch.allclose(found.vectors.T @ found.vectors, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(laplacian(affinity) @ found.vectors, torch.zeros(25, 3, dtype=torch.float64), atol=1e-12)
    apart = torch.cdist(found.coordinates, found.coordinates, compute_mode="donot_use_mm_for_euclid_dist") > 1e-6
    assert torch.equal(apart, part[:, None] != part)
    labels = spectral_clustering(affinity, 3)
    assert all(len(labels[part == k].unique()) == 1 for k in range(5))
    with pytest.warns(UserWarning, match="more components than the graph has parts"):
        tree = hierarchical_clustering(found)
    assert agreement(tree.labels(5), part) == 1


def test_large_graphs_are_embedded_by_arpack(generator):
    """Two parts, the larger of three weakly linked groups, past the size up to which LAPACK is used."""
    group = torch.arange(2100) % 4
    affinity = random_affinity(generator, 2100, 0.05) * torch.where(group[:, None] == group, 1, 0.05)
    affinity = affinity * ((group == 0)[:, None] == (group == 0))
    found = spectral_embedding(affinity, 5)
    matrix = laplacian(affinity)
    assert (found.eigenvalues[:2] == 0).all()
    assert (found.eigenvalues[2:4] < 0.5).all()
    assert found.eigenvalues[4] > 0.6
    assert torch.allclose(matrix @ found.vectors, found.vectors * found.eigenvalues, atol=1e-9)
    assert torch.allclose(found.vectors.T @ found.vectors, torch.eye(5, dtype=torch.float64), atol=1e-9)
    assert torch.equal(found.vectors, spectral_embedding(affinity, 5).vectors)


def test_units_without_links_are_set_apart_and_counted(generator, device):
    affinity = random_affinity(generator, 12)
    affinity[[2, 7]], affinity[:, [2, 7]] = 0, 0
    live = torch.tensor([k for k in range(12) if k not in (2, 7)])
    found = spectral_embedding(affinity.to(device), 4)
    assert found.n_isolated == 2
    assert found.isolated.nonzero()[:, 0].tolist() == [2, 7]
    assert (found.coordinates[[2, 7]] == 0).all()
    alone = spectral_embedding(affinity[live][:, live], 4)
    assert torch.allclose(found.coordinates[live].cpu(), alone.coordinates, atol=1e-12)
    for labels in (spectral_clustering(affinity.to(device), 3), hierarchical_clustering(found).labels(3)):
        assert labels.device.type == device
        assert labels.dtype == torch.int64
        assert (labels == -1).nonzero()[:, 0].tolist() == [2, 7]
        assert sorted(labels.unique().tolist()) == [-1, 0, 1, 2]


def test_the_diagonal_of_an_affinity_is_left_out_and_arrays_are_welcome(generator):
    affinity = random_affinity(generator, 10)
    before = spectral_embedding(affinity, 3).vectors
    assert torch.equal(spectral_embedding(affinity + torch.eye(10), 3).vectors, before)
    assert torch.equal(spectral_embedding(affinity.numpy(), 3).vectors, before)


# planted answers

UNEQUAL = ([4, 7, 3, 8, 5, 6], [8, 3, 6, 4, 7, 3])


@pytest.mark.filterwarnings("ignore:hierarchical_clustering")  # sparse maps leave no link between the subspaces
@pytest.mark.parametrize("sizes", [([6] * 8, [6] * 8), UNEQUAL])
@pytest.mark.parametrize("name", AFFINITIES)
def test_planted_subspaces_are_found_by_every_affinity(name, sizes):
    a, b, group = planted(0, *sizes)
    affinity, n_clusters = AFFINITIES[name](cu.pair_moments(a, b)), len(sizes[0])
    assert agreement(spectral_clustering(affinity, n_clusters), group) > 0.95
    tree = hierarchical_clustering(spectral_embedding(affinity, n_clusters))
    assert agreement(tree.labels(n_clusters), group) > 0.95


def test_with_no_more_units_than_dimensions_only_the_subspace_affinity_is_sure():
    """Units of one net are then uncorrelated within their group, and between nets as their bases happen to lie."""
    agreed = {name: [] for name in AFFINITIES}
    for seed in range(4):
        a, b, group = planted(seed, [3] * 10, [3] * 10)
        for name, affinity in AFFINITIES.items():
            agreed[name].append(agreement(spectral_clustering(affinity(cu.pair_moments(a, b)), 10), group))
    assert min(agreed["subspace"]) > 0.95
    assert 0.8 < min(agreed["correlation"]) < 0.95
    assert 0.8 < min(agreed["mapping"]) < 0.95


@pytest.mark.parametrize("seed", [0, 1])
def test_behind_a_factor_that_all_units_share_correlation_is_blind(seed):
    """Every unit rises with the brightness of the image, say, by twice what its subspace moves it."""
    a, b, group = planted(seed, [6] * 8, [6] * 8, shared_by_all=2.0)
    pair = cu.pair_moments(a, b)
    agreed = {name: agreement(spectral_clustering(f(pair), 8), group) for name, f in AFFINITIES.items()}
    assert agreed["correlation"] < 0.3
    assert agreed["mapping"] > 0.8
    assert agreed["subspace"] > 0.95
    for ridge in (0.1, 1.0):
        assert agreement(spectral_clustering(subspace_affinity(pair, ridge=ridge), 8), group) > 0.95


@pytest.mark.parametrize("name", AFFINITIES)
def test_unrelated_units_have_no_such_clusters(name, generator):
    acts = torch.randn(3000, 96, generator=generator)
    pair = cu.pair_moments(acts[:, :48], acts[:, 48:])
    group = torch.arange(8).repeat(12)
    affinity = sparse_maps(pair, 0.01) if name == "mapping" else AFFINITIES[name](pair)
    assert agreement(spectral_clustering(affinity, 8), group) < 0.1


def test_the_planted_numbers_of_units_per_net_are_counted():
    a, b, group = planted(3, *UNEQUAL)
    labels = spectral_clustering(subspace_affinity(cu.pair_moments(a, b)), 6)
    found = cluster_composition(labels, a.shape[1])
    assert found.dtype == torch.int64
    for k in range(6):
        own = labels[group == k][0]
        assert found[own].tolist() == [UNEQUAL[0][k], UNEQUAL[1][k]]
    assert cluster_composition(torch.tensor([-1, 0, 2, 0, 0, -1]), 3).tolist() == [[1, 2], [0, 0], [1, 0]]
    assert cluster_composition(torch.tensor([-1, -1]), 1).shape == (0, 2)


def test_same_clusters_as_scikit_learn():
    a, b, _ = planted(5, [6] * 5, [6] * 5)
    affinity = subspace_affinity(cu.pair_moments(a, b))
    peer = SpectralClustering(5, affinity="precomputed", random_state=0, n_init=10).fit_predict(affinity.numpy())
    assert agreement(spectral_clustering(affinity, 5), torch.from_numpy(peer)) == 1


# laws


@pytest.mark.parametrize("name", AFFINITIES)
def test_shuffled_units_shuffle_everything(name):
    generator = torch.Generator().manual_seed(4)
    a, b, _ = planted(4, [5, 4, 6], [4, 6, 5], noise=1.0, samples=500)
    order_a, order_b = torch.randperm(15, generator=generator), torch.randperm(15, generator=generator)
    order = torch.cat([order_a, 15 + order_b])
    make = AFFINITIES[name]
    before, after = make(cu.pair_moments(a, b)), make(cu.pair_moments(a[:, order_a], b[:, order_b]))
    assert torch.allclose(after, before[order][:, order], atol=1e-9)
    for n_clusters in (2, 3, 7):  # seven: not a clear answer, and still the same one
        labels = [spectral_clustering(affinity, n_clusters) for affinity in (before, after)]
        assert agreement(labels[1], labels[0][order]) == 1
        places = [spectral_embedding(affinity, n_clusters) for affinity in (before, after)]
        assert torch.allclose(places[1].coordinates, places[0].coordinates[order], atol=1e-6)
        trees = [hierarchical_clustering(place) for place in places]
        assert torch.allclose(cophenetic(trees[1]), cophenetic(trees[0])[order][:, order], atol=1e-6)
        assert crossing_share(trees[1], 15) == crossing_share(trees[0], 15)


def test_shuffled_units_find_the_same_clusters_where_there_are_none(generator):
    """Without structure k-means has many answers nearly as good: the order of the units must not choose among them."""
    affinity = random_affinity(generator, 80)
    for _ in range(3):
        order = torch.randperm(80, generator=generator)
        labels = spectral_clustering(affinity[order][:, order], 9)
        assert agreement(labels, spectral_clustering(affinity, 9)[order]) == 1


def test_the_same_seed_gives_the_same_answer_and_nothing_global_is_seeded(generator):
    affinity = random_affinity(generator, 60)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002 - it must not change
    first = spectral_clustering(affinity, 7, seed=3)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state[1]).all()  # noqa: NPY002
    assert torch.equal(spectral_clustering(affinity, 7, seed=3), first)
    assert any(agreement(spectral_clustering(affinity, 7, seed=seed), first) < 1 for seed in range(3))
    trees = [hierarchical_clustering(spectral_embedding(affinity, 7)) for _ in range(2)]
    assert torch.equal(trees[0].merges, trees[1].merges)


# trees


@pytest.mark.parametrize("linkage", LINKAGES)
def test_trees_are_scipys_and_their_clusters_scikit_learns(linkage, generator):
    found = spectral_embedding(random_affinity(generator, 40), 5)
    tree = hierarchical_clustering(found, linkage=linkage)
    oracle = hierarchy.cophenet(hierarchy.linkage(found.coordinates.numpy(), linkage))
    assert cophenetic(tree).numpy() == pytest.approx(scipy.spatial.distance.squareform(oracle), abs=1e-10)
    for n_clusters in (1, 2, 5, 17, 40):
        peer = AgglomerativeClustering(n_clusters, linkage=linkage).fit_predict(found.coordinates.numpy())
        labels = tree.labels(n_clusters)
        assert labels.max() + 1 == n_clusters
        assert agreement(labels, torch.from_numpy(peer)) == 1


@pytest.fixture
def tree():
    """Units 0 to 6, of which 3 is isolated, as leaves 1, 4, 0, 5, 2, 6: ((1 4) 2) and ((0 5) 6), by hand."""
    merges = [[0, 1, 0.1, 2], [2, 3, 0.2, 2], [4, 6, 0.3, 3], [5, 7, 0.4, 3], [8, 9, 0.9, 6]]
    return MergeTree(torch.tensor(merges, dtype=torch.float64), torch.tensor([1, 4, 0, 5, 2, 6]), 7)


def test_leaf_merges_and_their_crossing_share_by_hand(tree):
    assert sorted(sorted(merge) for merge in tree.leaf_merges.tolist()) == [[0, 5], [1, 4]]
    for units_a, share in ((0, 0.0), (1, 0.5), (2, 1.0), (4, 1.0), (5, 0.5), (6, 0.0), (7, 0.0)):
        assert crossing_share(tree, units_a) == share


def test_cutting_and_ordering_a_tree_by_hand(tree):
    assert agreement(tree.labels(2), torch.tensor([1, 0, 0, -1, 0, 1, 1])) == 1
    assert agreement(tree.labels(4), torch.tensor([1, 0, 2, -1, 0, 1, 3])) == 1
    assert tree.labels(1).tolist() == [0, 0, 0, -1, 0, 0, 0]
    assert len(tree.labels(6).unique()) == 7
    order = tree.leaf_order.tolist()
    assert sorted(order) == [0, 1, 2, 4, 5, 6]
    assert {frozenset(order[:3]), frozenset(order[3:])} == {frozenset([1, 2, 4]), frozenset([0, 5, 6])}


def test_twins_are_the_leaf_merges(generator):
    a = torch.randn(2000, 20, generator=generator)
    order = torch.randperm(20, generator=generator)
    b = a[:, order] + 0.1 * torch.randn(2000, 20, generator=generator)
    for affinity in (f(cu.pair_moments(a, b)) for f in (correlation_affinity, subspace_affinity)):
        tree = hierarchical_clustering(spectral_embedding(affinity, 20))
        assert crossing_share(tree, 20) == 1
        merged = {tuple(sorted(merge)) for merge in tree.leaf_merges.tolist()}
        assert merged == {(int(order[j]), 20 + j) for j in range(20)}


def test_chance_of_crossing_is_not_a_half_without_links_within_nets():
    """Structureless maps cross the nets in .6 to .99 of their leaf merges; a structureless whole affinity in half."""
    generator = torch.Generator().manual_seed(0)

    def shares(affinities):
        embeddings = [spectral_embedding(affinity, 10) for affinity in affinities]
        return torch.stack([crossing_share(hierarchical_clustering(found), 48) for found in embeddings])

    for density in (0.1, 0.3):
        links = [torch.rand(48, 48, generator=generator, dtype=torch.float64) for _ in range(12)]
        kept = [link * (torch.rand(48, 48, generator=generator) < density) for link in links]
        structureless = shares(between_only(link) for link in kept)
        assert 0.6 < structureless.mean() < 0.99
        whole = shares(random_affinity(generator, 96, density) for _ in range(12))
        assert 0.4 < whole.mean() < 0.6
        assert structureless.mean() > whole.mean() + 2 * whole.std()


# subspace overlap


def test_principal_angles_are_scipys(generator):
    a, b = torch.randn(300, 8, generator=generator).double(), torch.randn(300, 6, generator=generator).double()
    b[:, :3] += 2 * a[:, 2:5]
    chosen_a, chosen_b = [2, 3, 6, 7], [0, 1, 5]
    found = subspace_overlap(cu.pair_moments(100 + a, b), chosen_a, chosen_b)
    spans = [(x[:, chosen] - x[:, chosen].mean(0)).numpy() for x, chosen in ((a, chosen_a), (b, chosen_b))]
    angles = scipy.linalg.subspace_angles(*spans)
    assert found.numpy() == pytest.approx(np.sort(np.cos(angles))[::-1], abs=1e-9)
    bases = [np.linalg.qr(span)[0] for span in spans]
    assert found.numpy() == pytest.approx(np.linalg.svd(bases[0].T @ bases[1])[1], abs=1e-9)


def test_the_same_subspace_in_another_basis_overlaps_fully_and_others_do_not():
    a, b, group = planted(6, [4, 5, 6], [6, 5, 4], noise=0.0)
    pair, labels_a, labels_b = cu.pair_moments(a, b), group[:15], group[15:]
    for i in range(3):
        for j in range(3):
            found = subspace_overlap(pair, labels_a == i, labels_b == j)
            assert found.shape == (3,), "each half has rank 3, whatever its number of units"
            assert (found > 0.999).all() if i == j else (found < 0.15).all()
    mask, index = labels_a == 1, (labels_a == 1).nonzero()[:, 0]
    assert torch.equal(subspace_overlap(pair, mask, [0, 2]), subspace_overlap(pair, index, torch.tensor([0, 2])))


def test_overlap_of_degenerate_groups(generator):
    a = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    a = torch.cat([a, a[:, :1], torch.zeros(200, 2)], 1)  # unit 3 copies unit 0, units 4 and 5 are dead
    pair = cu.pair_moments(a, a[:, :3].clone())
    assert subspace_overlap(pair, [0, 3, 4], [0]).tolist() == pytest.approx([1])
    assert subspace_overlap(pair, [0, 3], [0, 1])[0] == pytest.approx(1)
    assert subspace_overlap(pair, [4, 5], [0, 1]).shape == (0,)
    assert subspace_overlap(pair, [], [0]).shape == (0,)
    assert subspace_overlap(pair, torch.zeros(6, dtype=torch.bool), [0]).shape == (0,)


# degenerate units


@pytest.fixture
def degenerate(generator):
    """Units that are fine, copies of each other within and between nets, dead, constant, or fire on one sample."""
    a = torch.randn(300, 6, generator=generator)
    once = torch.zeros(300, 1)
    once[17] = 4.0
    b = a[:, :3] + 0.5 * torch.randn(300, 3, generator=generator)
    a = torch.cat([a, a[:, :2], torch.zeros(300, 1), torch.full((300, 1), 0.1), once], 1)
    return a, torch.cat([b, b[:, :1], a[:, :1], torch.full((300, 1), -7.3), once], 1)


@pytest.mark.parametrize("name", AFFINITIES)
def test_degenerate_units_give_numbers_and_no_warning(name, degenerate):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pair = cu.pair_moments(*degenerate)
        affinity = AFFINITIES[name](pair)
        assert affinity.isfinite().all()
        embedding = spectral_embedding(affinity, 5)
        assert embedding.isolated[[8, 9, 16]].all(), "dead and constant units"
        for linkage in LINKAGES:
            tree = hierarchical_clustering(embedding, linkage=linkage)
            assert tree.merges.isfinite().all()
            assert 0 <= crossing_share(tree, 11) <= 1
        for n_clusters in (1, 2, 5, 18 - embedding.n_isolated):
            for labels in (spectral_clustering(affinity, n_clusters), tree.labels(n_clusters)):
                assert torch.equal(labels == -1, embedding.isolated)
                assert sorted(labels[labels >= 0].unique().tolist()) == list(range(n_clusters))
        assert torch.allclose(embedding.coordinates[10], embedding.coordinates[17], atol=1e-6), "they fire together"


def test_copies_of_a_unit_share_its_place(generator):
    a = torch.randn(500, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    pair = cu.pair_moments(a, a[:, :3].clone())
    for make in (correlation_affinity, subspace_affinity):
        tree = hierarchical_clustering(spectral_embedding(make(pair), 4))
        assert {(0, 8), (1, 9), (2, 10)} <= {tuple(sorted(merge)) for merge in tree.leaf_merges.tolist()}


@pytest.mark.parametrize("name", AFFINITIES)
def test_nets_of_dead_units_alone(name):
    pair = cu.pair_moments(torch.zeros(10, 3), torch.full((10, 2), 4.0))
    affinity = AFFINITIES[name](pair)
    assert torch.equal(affinity, torch.zeros(5, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match="affinity: expected at least one link, got none among 5 units"):
        spectral_clustering(affinity, 1)


def test_two_units_are_enough():
    affinity = torch.tensor([[0.0, 0.5], [0.5, 0.0]])
    found = spectral_embedding(affinity, 2)
    assert found.eigenvalues.tolist() == pytest.approx([0, 2])
    assert crossing_share(hierarchical_clustering(found), 1) == 1
    assert sorted(spectral_clustering(affinity, 2).tolist()) == [0, 1]


# bad input


@pytest.mark.parametrize("method", [spectral_embedding, spectral_clustering])
@pytest.mark.parametrize(
    ("affinity", "message"),
    [
        (torch.zeros(3), "affinity: expected a floating-point matrix"),
        (torch.zeros(2, 3), r"got \(2, 3\)"),
        (torch.ones(3, 3, dtype=torch.int64), "int64"),
        (torch.ones(3, 3, dtype=torch.complex64), "complex64"),
        (torch.zeros(0, 0), r"got \(0, 0\)"),
        (torch.full((3, 3), torch.nan), "affinity: expected finite numbers of at least 0, .*got nan"),
        (torch.full((3, 3), 1e308, dtype=torch.float64), "affinity: expected .* finite sums, got 1e.308"),
        (torch.full((3, 3), torch.inf), "got inf"),
        (-torch.ones(3, 3), "got -1.0"),
        (torch.ones(3, 3).triu(), r"symmetric matrix, got 1.0 at \[0, 1\] and 0.0 at \[1, 0\]"),
    ],
)
def test_bad_affinities_are_named(method, affinity, message):
    with pytest.raises(ValueError, match=message):
        method(affinity, 1)


@pytest.mark.parametrize("count", [0, -1, 5, 2.0, True, None])
def test_bad_counts_are_named(count):
    affinity = torch.ones(5, 5)
    affinity[4], affinity[:, 4] = 0, 0
    tree = hierarchical_clustering(spectral_embedding(affinity, 2))
    for name, method in (
        ("n_components", lambda: spectral_embedding(affinity, count)),
        ("n_clusters", lambda: spectral_clustering(affinity, count)),
        ("n_clusters", lambda: tree.labels(count)),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected 1 to 4, as there are 4 live units, got {count}"):
            method()


def test_bad_arguments_are_named(pair, tree):
    path = cu.sparse_mapping(pair, [0.1, 0.2])
    one = cu.sparse_mapping(pair, [0.1])
    with pytest.raises(ValueError, match="a_to_b: expected maps for one penalty, got 2"):
        mapping_affinity(path, one)
    with pytest.raises(ValueError, match="b_to_a: expected maps for one penalty, got 2"):
        mapping_affinity(one, path)
    with pytest.raises(ValueError, match=r"b_to_a: expected maps of units \(5, 7\), got \(7, 5\)"):
        mapping_affinity(one, one)
    for ridge in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="ridge: expected a positive number"):
            subspace_affinity(pair, ridge=ridge)
    with pytest.raises(ValueError, match="did you mean 'average'"):
        hierarchical_clustering(spectral_embedding(torch.ones(3, 3), 2), linkage="averag")
    for units_a in (-1, 8, 2.0):
        with pytest.raises(ValueError, match="units_a: expected 0 to 7"):
            crossing_share(tree, units_a)
    with pytest.raises(ValueError, match="units_a: expected 0 to 3"):
        cluster_composition(torch.tensor([0, 1, 0]), 4)
    for labels in (torch.zeros(3), torch.tensor([0, -2]), torch.zeros(2, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match="labels: expected a row of integers"):
            cluster_composition(labels, 1)
    for units in ([7], [-1], [0.5], [[0]], torch.ones(6, dtype=torch.bool), 3):
        with pytest.raises(ValueError, match="units_a: expected indices from 0 to 6 or a mask of 7 units"):
            subspace_overlap(pair, units, [0])
    with pytest.raises(ValueError, match="units_b: expected indices from 0 to 4"):
        subspace_overlap(pair, [0], [5])


def test_results_are_frozen(generator, tree):
    found = spectral_embedding(random_affinity(generator, 5), 2)
    assert isinstance(found, SpectralEmbedding)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.vectors = None
    with pytest.raises(dataclasses.FrozenInstanceError):
        tree.units = None


@pytest.mark.usefixtures("fake_cuda")
def test_affinities_stay_on_the_gpu():
    with FakeTensorMode():
        covariances = [torch.randn(n, m, device="cuda", dtype=torch.float64) for n, m in ((6, 6), (6, 4), (4, 4))]
        means = [torch.randn(n, device="cuda", dtype=torch.float64) for n in (6, 4)]
        pair = cu.PairMoments(100, *means, *covariances)
        for make in (correlation_affinity, subspace_affinity):
            assert make(pair).device.type == "cuda"
            assert make(pair).shape == (10, 10)
