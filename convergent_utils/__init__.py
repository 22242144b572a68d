"""Do separately trained neural networks learn the same representations? Tested kernels to find out.

import convergent_utils as cu

pair = cu.pair_moments(acts_a, acts_b)  # activations (samples, units) of two networks on the same inputs
match = cu.bipartite_matching(cu.correlation(pair).matrix)
"""

from .kernels.binning import BinEdges, bin_edges
from .kernels.chance import Chance, Interval, chance_level, label_chance, network_interval
from .kernels.clustering import (
    MergeTree,
    SpectralEmbedding,
    cluster_composition,
    correlation_affinity,
    crossing_share,
    hierarchical_clustering,
    mapping_affinity,
    spectral_clustering,
    spectral_embedding,
    subspace_affinity,
    subspace_overlap,
)
from .kernels.correlation import Correlation, correlation
from .kernels.filters import spatial_frequency
from .kernels.matching import Match, bipartite_matching, semi_matching
from .kernels.moments import Moments, PairMoments, pair_moments
from .kernels.mutual_information import JointHistogram, mutual_information
from .kernels.sgd_mapping import SgdRun, sgd_mapping, sgd_mappings
from .kernels.sparse_mapping import MappingPath, best_subset_mapping, least_squares, sparse_mapping
from .nets.activations import ReceptiveField, patch, receptive_field, record
from .nets.datasets import Dataset, load_dataset, normalise
from .nets.distributed import all_reduce
from .nets.interventions import (
    freezing,
    multiply_adds,
    project,
    projected,
    split_after,
    subspace_projection,
    training_cost,
    truncated,
)
from .nets.measuring import Measurement, Top, measure
from .nets.networks import Network, build_network, permuted_copy
from .nets.store import Store, load, save
from .nets.training import History, Recipe, Trained, accuracy, predict, train

__all__ = [
    "BinEdges",
    "Chance",
    "Correlation",
    "Dataset",
    "History",
    "Interval",
    "JointHistogram",
    "MappingPath",
    "Match",
    "Measurement",
    "MergeTree",
    "Moments",
    "Network",
    "PairMoments",
    "ReceptiveField",
    "Recipe",
    "SgdRun",
    "SpectralEmbedding",
    "Store",
    "Top",
    "Trained",
    "accuracy",
    "all_reduce",
    "best_subset_mapping",
    "bin_edges",
    "bipartite_matching",
    "build_network",
    "chance_level",
    "cluster_composition",
    "correlation",
    "correlation_affinity",
    "crossing_share",
    "freezing",
    "hierarchical_clustering",
    "label_chance",
    "least_squares",
    "load",
    "load_dataset",
    "mapping_affinity",
    "measure",
    "multiply_adds",
    "mutual_information",
    "network_interval",
    "normalise",
    "pair_moments",
    "patch",
    "permuted_copy",
    "predict",
    "project",
    "projected",
    "receptive_field",
    "record",
    "save",
    "semi_matching",
    "sgd_mapping",
    "sgd_mappings",
    "sparse_mapping",
    "spatial_frequency",
    "spectral_clustering",
    "spectral_embedding",
    "split_after",
    "subspace_affinity",
    "subspace_overlap",
    "subspace_projection",
    "train",
    "training_cost",
    "truncated",
]
