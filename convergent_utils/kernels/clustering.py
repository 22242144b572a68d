r"""Clustering the units of two nets together: do small groups span the same subspace, though each in its own basis?

Every affinity :math:`A` is a symmetric, non-negative matrix with an empty diagonal over the units of a, then those of
b, in this order. With degrees :math:`d_i = \sum_j A_{ij}` the normalised Laplacian is

.. math:: L = I - D^{-1/2} A D^{-1/2}.

Its smallest eigenvectors give every unit a place, and both ways of clustering group the places. A unit without links
(a dead one in every affinity) has no place: it is set apart and counted. Affinities are computed on the device of the
moments; eigenvectors, k-means and trees on the CPU, by scipy and scikit-learn, with results on the input's device.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .checks import (
    as_count,
    as_seed,
    as_whole,
    came,
    form_of,
    require_fields,
    require_known,
    tensor_of,
)

_LINKAGES = ("average", "complete", "single", "ward")
_MOST_CLUSTERS = 1 << 24  # that are counted, empty ones as well
_MOST_DENSE_UNITS = 2048  # up to here all eigenvectors by LAPACK are as fast, and no repeated eigenvalue is missed


@dataclass(frozen=True)
class SpectralEmbedding:
    """Where the smallest eigenvectors of the normalised Laplacian put each unit, on the device of the affinity.

    Attributes:
        vectors: (units, n_components) float64, orthonormal eigenvectors as columns; rows of isolated units are 0.
        eigenvalues: (n_components,) float64 in [0, 2], rising; the graph has as many zeros as unconnected parts.
        degree: (units,) float64, the sum of each unit's links.

    Example:
        >>> links = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        >>> spectral_embedding(links, 1).isolated
        tensor([False, False,  True])
    """

    vectors: Tensor
    eigenvalues: Tensor
    degree: Tensor

    def __post_init__(self):
        require_fields(self, vectors="uc", eigenvalues="c", degree="u")

    @property
    def isolated(self) -> Tensor:
        """(units,) bool, True for a unit without links."""
        return self.degree == 0

    @property
    def n_isolated(self) -> int:
        """How many units have no links."""
        return int(self.isolated.sum())

    @property
    def coordinates(self) -> Tensor:
        """(units, n_components) float64, rows of `vectors` scaled to length 1, 0 for isolated units.

        Both clusterings use it: unscaled rows grow with the degree of their units, and would group units of low degree.
        """
        length = self.vectors.norm(dim=1, keepdim=True)
        return self.vectors / length.where(length > 0, 1.0)


@dataclass(frozen=True)
class MergeTree:
    """Which units, then groups of units, merge one after the other, on the device of the embedding.

    Attributes:
        merges: (n_live - 1, 4) float64, scipy's linkage matrix: the two that merge, their distance, the units they hold
            together. Numbers below n_live are leaves, n_live + k is what merge k made.
        units: (n_live,) int64, the unit that each leaf is, in the order of their degree, so that the order in which
            units came decides nothing; isolated units are left out.
        n_units: of both nets, isolated ones included.

    Example:
        >>> links = torch.tensor([[0.0, 4.0, 1.0], [4.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
        >>> hierarchical_clustering(spectral_embedding(links, 2)).leaf_merges
        tensor([[0, 1]])
    """

    merges: Tensor
    units: Tensor
    n_units: int

    def __post_init__(self):
        require_fields(self, whole=("units",), merges="mc", units="u")
        n_units = as_count(self.n_units, "n_units", at_most=_MOST_CLUSTERS)
        if isinstance(self.units, FakeTensor):
            return
        if ((self.units < 0) | (self.units >= n_units)).any() or len(self.units.unique()) != len(self.units):
            raise ValueError(f"units: expected different ones from 0 to {n_units - 1}, got {came(self.units.tolist())}")
        from scipy.cluster import hierarchy

        merges = self.merges.cpu().numpy()
        if merges.shape != (len(self.units) - 1, 4) or (len(merges) and not hierarchy.is_valid_linkage(merges)):
            raise ValueError(
                f"merges: expected a linkage matrix of {len(self.units)} leaves, got {form_of(self.merges)}"
            )

    @property
    def leaf_order(self) -> Tensor:
        """(n_live,) int64, the units in an order in which no branches of the tree cross."""
        from scipy.cluster import hierarchy

        leaves = hierarchy.leaves_list(self.merges.cpu().numpy())
        return self.units[torch.from_numpy(leaves).long().to(self.units.device)]

    @property
    def leaf_merges(self) -> Tensor:
        """(n_leaf_merges, 2) int64, the pairs of single units that merge with each other."""
        pairs = self.merges[:, :2].long()
        return self.units[pairs[(pairs < len(self.units)).all(1)]]

    def labels(self, n_clusters: int) -> Tensor:
        """(n_units,) int64, the cluster of each unit once exactly `n_clusters` are left; -1 for isolated units.

        Raises:
            ValueError: n_clusters below 1 or above the number of live units.
        """
        n_live = len(self.units)
        n_clusters = _as_count_of(n_clusters, n_live, "n_clusters", "live units")
        done = self.merges[: n_live - n_clusters, :2].long().cpu().numpy()
        made = np.repeat(np.arange(n_live, n_live + len(done)), 2)
        found = _parts_of(made, done.ravel(), n_live + len(done))[1][:n_live]
        return _spread(found, self.units, self.n_units)


def spectral_embedding(affinity: Tensor | np.ndarray, n_components: int) -> SpectralEmbedding:
    r"""The smallest eigenvectors of the normalised Laplacian of the units that have links.

    .. math:: L u = \lambda u, \quad L = I - D^{-1/2} A D^{-1/2}

    Args:
        affinity: (units, units), floating, finite, non-negative, symmetric; what a unit shares with itself is left out.
        n_components: from 1 to the number of units with links.

    Returns:
        SpectralEmbedding. Each column's largest entry is positive.

    Raises:
        ValueError: not such a matrix, no link at all, n_components out of range.

    A graph in p parts has p eigenvectors with eigenvalue 0, and those are written down, not searched: an iteration from
    one start vector misses repeated eigenvalues. With fewer components than parts every component is a fixed mixture of
    all parts, in the order of their weight; units of one part then share one place. Up to 2,048 units the others come
    from LAPACK, beyond from ARPACK (scipy's `eigsh`, fixed start vector), which may miss other repeated eigenvalues.
    Source: Ng, Jordan and Weiss 2001.

    Example:
        >>> links = torch.eye(2).repeat(2, 2)
        >>> spectral_embedding(links, 4).eigenvalues.round(decimals=4)
        tensor([0., 0., 2., 2.], dtype=torch.float64)
    """
    return _embedding(affinity, n_components, "n_components")


def spectral_clustering(affinity: Tensor | np.ndarray, n_clusters: int, *, seed: int = 0) -> Tensor:
    """The clusters that k-means finds in the spectral embedding with as many components as clusters.

    Args:
        affinity: as in `spectral_embedding`.
        n_clusters: from 1 to the number of units with links.
        seed: of k-means, the best of ten starts; it takes units in the order of their degree, so that the order in
            which they came decides nothing.

    Returns:
        (units,) int64 labels from 0, on the device of the affinity; -1 for isolated units.

    Raises:
        ValueError: as in `spectral_embedding`.

    Source: Ng, Jordan and Weiss 2001.

    Example:
        >>> links = torch.eye(2).repeat(2, 2) + 0.25
        >>> labels = spectral_clustering(links, 2)
        >>> labels[:2].equal(labels[2:]), bool(labels[0] != labels[1])
        (True, True)
    """
    from sklearn.cluster import KMeans  # takes as long to import as all the rest, and few need it

    seed = as_seed(seed)
    embedding = _embedding(affinity, n_clusters, "n_clusters")
    n_clusters = embedding.vectors.shape[1]
    units = _by_degree(embedding.degree)
    places = embedding.coordinates[units].cpu().numpy()
    return _spread(
        KMeans(n_clusters, n_init=10, random_state=seed % 2**32).fit_predict(places), units, len(embedding.degree)
    )


def hierarchical_clustering(embedding: SpectralEmbedding, *, linkage: str = "average") -> MergeTree:
    """The tree of merges of the nearest groups in the spectral embedding.

    Args:
        embedding: of both nets; its `coordinates` are clustered, by Euclidean distance.
        linkage: the distance of two groups: "average" of all pairs of units, "complete" (farthest), "single" (nearest),
            or "ward" (least growth of the variance within).

    Returns:
        MergeTree of the units with links.

    Raises:
        ValueError: unknown linkage.

    Units in the same place merge first, at a distance of zero. Copies of each other should; but units of one part of a
    graph with as many parts as components share a place too, and the order of their merges says nothing: a warning.
    Source: Li et al. 2016, many-to-many; linkage and number of components are not printed there.

    Example:
        >>> links = torch.eye(2).repeat(2, 2) + 0.25
        >>> tree = hierarchical_clustering(spectral_embedding(links, 2))
        >>> tree.labels(2)
        tensor([0, 1, 0, 1])
    """
    require_known(linkage, _LINKAGES, "linkage")
    if not isinstance(embedding, SpectralEmbedding):
        hint = "did you mean spectral_embedding(affinity, n)?"
        raise ValueError(f"embedding: expected a SpectralEmbedding, got {came(embedding)}; {hint}")
    units = _by_degree(embedding.degree)
    if len(units) < 2:
        raise ValueError(f"embedding: expected at least 2 units with links, got {len(units)}")
    if (embedding.eigenvalues == 0).all():
        asked = "hierarchical_clustering: expected more components than the graph has parts"
        warnings.warn(f"{asked}; units of one part share a place and their merges say nothing", stacklevel=2)
    from scipy.cluster import hierarchy

    merges = hierarchy.linkage(embedding.coordinates[units].cpu().numpy(), linkage)
    return MergeTree(torch.from_numpy(merges).to(units.device), units, len(embedding.degree))


def crossing_share(tree: MergeTree, units_a: int) -> Tensor:
    """Of the merges of two single units, the share that holds one unit of each net.

    Args:
        tree: over the units of a, then those of b.
        units_a: number of units of net a.

    Returns:
        0-d float64. With labels dealt at random and as many units in either net it is about 1/2, but that is chance
        only for an affinity that treats links within and between nets alike: see `mapping_affinity`.

    Raises:
        ValueError: units_a is not between 0 and the number of units.

    Source: Li et al. 2016, many-to-many.

    Example:
        >>> links = torch.eye(2).repeat(2, 2) + 0.25
        >>> crossing_share(hierarchical_clustering(spectral_embedding(links, 2)), 2)
        tensor(1., dtype=torch.float64)
    """
    if not isinstance(tree, MergeTree):
        raise ValueError(
            f"tree: expected a MergeTree, got {came(tree)}; did you mean hierarchical_clustering(embedding)?"
        )
    units_a = _as_count_of(units_a, tree.n_units, "units_a", "units", at_least=0)
    of_a = tree.leaf_merges < units_a
    return (of_a[:, 0] != of_a[:, 1]).double().mean()


def cluster_composition(labels: Tensor, units_a: int) -> Tensor:
    """How many units of each net every cluster holds.

    Args:
        labels: (units_a + units_b,) integer; -1 belongs to no cluster.
        units_a: number of units of net a.

    Returns:
        (n_clusters, 2) int64, of net a and of net b, on the device of the labels.

    Raises:
        ValueError: labels that are not a row of integers of at least -1, units_a not between 0 and their number.

    Source: Li et al. 2016, many-to-many.

    Example:
        >>> cluster_composition(torch.tensor([0, 0, 1, 0, 1, -1]), 3)
        tensor([[2, 1],
                [1, 1]])
    """
    labels = as_whole(labels, "labels", what="a row of integers of at least -1")
    if (labels < -1).any() or (labels >= _MOST_CLUSTERS).any():
        ends = f"{int(labels.min())} to {int(labels.max())}"
        raise ValueError(f"labels: expected a row of integers of at least -1, below {_MOST_CLUSTERS}, got {ends}")
    units_a = _as_count_of(units_a, len(labels), "units_a", "units", at_least=0)
    n_clusters = int(labels.max()) + 1 if len(labels) else 0
    halves = labels[:units_a], labels[units_a:]
    return torch.stack([torch.bincount(half[half >= 0], minlength=n_clusters) for half in halves], 1)


def _embedding(affinity: Tensor | np.ndarray, n_components: int, argument: str) -> SpectralEmbedding:
    affinity = _as_affinity(affinity)
    links, degree = affinity.numpy(force=True), affinity.sum(1)
    live = (degree > 0).numpy(force=True)
    if not live.any():
        raise ValueError(f"affinity: expected at least one link, got none among {len(live)} units")
    n_components = _as_count_of(n_components, int(live.sum()), argument, "live units")
    links = links if live.all() else links[np.ix_(live, live)]
    weight = links.sum(1)
    parts = _vectors_of_parts(links, weight, n_components)
    root = np.sqrt(weight)
    values, others = _other_vectors(links / root[:, None] / root, parts, n_components - parts.shape[1])
    vectors = np.zeros((len(live), n_components))
    vectors[live] = np.hstack([parts, others])
    eigenvalues = np.concatenate([np.zeros(parts.shape[1]), values.clip(0, 2)])
    return SpectralEmbedding(torch.from_numpy(vectors).to(degree), torch.from_numpy(eigenvalues).to(degree), degree)


def _vectors_of_parts(links: np.ndarray, degree: np.ndarray, most: int) -> np.ndarray:
    """Orthonormal eigenvectors with eigenvalue 0, one for each part of the graph, `most` at most."""
    n_parts, part = 1, np.zeros(len(links), dtype=np.int64)
    if np.count_nonzero(links[degree.argmax()]) < len(links) - 1:  # else one unit holds all together
        n_parts, part = _parts_of(*np.nonzero(links), len(links))
    weight = np.bincount(part, weights=degree)
    vectors = np.sqrt(degree / weight[part])[:, None] * (part[:, None] == np.argsort(weight, kind="stable"))
    if n_parts <= most:
        return vectors
    from scipy.fft import dct

    return vectors @ dct(np.eye(n_parts), axis=0, norm="ortho")[:most].T


def _parts_of(begin: np.ndarray, end: np.ndarray, n: int) -> tuple[int, np.ndarray]:
    """How many parts a graph of n places has, and in which each place lies, from both ends of its links."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    links = csr_matrix((np.ones(len(begin)), (begin, end)), shape=(n, n))
    return connected_components(links, directed=False)


def _other_vectors(normalised: np.ndarray, parts: np.ndarray, n_wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """The smallest eigenvalues of the Laplacian with their vectors, those of the parts left out."""
    n = len(normalised)
    if n_wanted == 0:
        return np.zeros(0), np.zeros((n, 0))
    without = normalised - 3 * parts @ parts.T  # from eigenvalue 1 to -2, below all others
    if n <= _MOST_DENSE_UNITS:
        from scipy.linalg import eigh

        values, vectors = eigh(without.T, subset_by_index=(n - n_wanted, n - 1), overwrite_a=True)
    else:
        from scipy.sparse.linalg import eigsh

        values, vectors = eigsh(without, n_wanted, which="LA", v0=np.random.default_rng(0).standard_normal(n))
    falling = np.argsort(-values)
    vectors = vectors[:, falling]
    largest = vectors[np.abs(vectors).argmax(0), np.arange(n_wanted)]
    return 1 - values[falling], vectors * np.sign(largest)


def _by_degree(degree: Tensor) -> Tensor:
    """The units with links, the one with the least first."""
    order = degree.argsort(stable=True)
    return order[degree[order] > 0]


def _spread(found: np.ndarray, units: Tensor, n_units: int) -> Tensor:
    """Labels of some units among those of all, -1 for the others."""
    labels = units.new_full((n_units,), -1)
    labels[units] = torch.from_numpy(found).to(labels)
    return labels


def _as_affinity(affinity: Tensor | np.ndarray) -> Tensor:
    """A checked affinity in float64, its diagonal 0."""
    read = tensor_of(affinity)
    if read is None or read.ndim != 2 or len(set(read.shape)) > 1 or not len(read) or not read.is_floating_point():
        raise ValueError(f"affinity: expected a floating-point matrix (units, units), got {form_of(affinity)}")
    affinity = read.detach().double()
    low, high = (float(end) for end in affinity.aminmax())
    if not (low >= 0 and high * len(affinity) < math.inf):
        raise ValueError(f"affinity: expected finite numbers of at least 0, and finite sums, got {low} to {high}")
    uneven = affinity - affinity.T
    if uneven.max() > 1e-6 * high:
        i, j = divmod(int(uneven.argmax()), len(affinity))
        came = f"{float(affinity[i, j])} at [{i}, {j}] and {float(affinity[j, i])} at [{j}, {i}]"
        raise ValueError(f"affinity: expected a symmetric matrix, got {came}")
    return (affinity - uneven / 2).fill_diagonal_(0)


def _as_count_of(value: int, most: int, name: str, what: str, *, at_least: int = 1) -> int:
    return as_count(value, name, at_least=at_least, at_most=most, what=f", as there are {most} {what}")
