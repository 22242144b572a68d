"""Do separately trained neural networks learn the same representations? Tested kernels to find out.

import convergent_utils as cu

pair = cu.pair_moments(acts_a, acts_b)  # activations (samples, units) of two networks on the same inputs
match = cu.bipartite_matching(cu.correlation(pair).matrix)
"""

from .compare.comparison import Comparison, compare
from .kernels.affinities import correlation_affinity, mapping_affinity, subspace_affinity, subspace_overlap
from .kernels.alignment import PartialLeastSquares, debiased_cka, linear_cka, partial_least_squares, procrustes
from .kernels.binning import BinEdges, bin_edges
from .kernels.calibrated import CalibratedMap, calibrated_map
from .kernels.cca import CCAResult, CorrelationCount, cca, pwcca, significant_correlations, svcca
from .kernels.chance import Chance, Interval, chance_level, label_chance
from .kernels.clustering import (
    MergeTree,
    SpectralEmbedding,
    cluster_composition,
    crossing_share,
    hierarchical_clustering,
    spectral_clustering,
    spectral_embedding,
)
from .kernels.correlation import Correlation, correlation
from .kernels.dft_cca import DFTCCA, dft_cca
from .kernels.filters import spatial_frequency
from .kernels.intervals import groups_interval, network_interval
from .kernels.matching import Match, bipartite_matching, semi_matching
from .kernels.maximum_match import MaximumMatch, maximum_match
from .kernels.moments import Moments, PairMoments, pair_moments
from .kernels.mutual_information import JointHistogram, mutual_information
from .kernels.neighbours import mutual_knn
from .kernels.restricted import Rotation, best_rotation, matching_map, unshrunk
from .kernels.rotation import random_rotation, rotated
from .kernels.sgd_mapping import SgdRun, sgd_mapping, sgd_mappings
from .kernels.shared_space import SharedSpace, generalised_procrustes
from .kernels.sharedness import Sharedness, sharedness
from .kernels.soft_matching import SoftMatch, soft_matching
from .kernels.sparse_mapping import MappingPath, best_subset_mapping, least_squares, sparse_mapping
from .kernels.streaming_cka import StreamingCKA
from .making.store import Store, load, save
from .nets.activations import record
from .nets.datasets import Dataset, load_dataset, normalise
from .nets.distributed import all_reduce
from .nets.interventions import (
    ablated,
    freezing,
    multiply_adds,
    projected,
    split_after,
    training_cost,
    truncated,
)
from .nets.measurement import Measurement
from .nets.measuring import measure
from .nets.naming import layers
from .nets.networks import Network, build_network, permuted_copy, with_units
from .nets.predicting import accuracy, predict
from .nets.receptive_fields import ReceptiveField, patch, receptive_field
from .nets.stitching import stitched
from .nets.subspaces import project, subspace_projection
from .nets.top import Top
from .nets.training import History, Recipe, Trained, train

__version__ = "0.1.0"

__all__ = [
    "DFTCCA",
    "BinEdges",
    "CCAResult",
    "CalibratedMap",
    "Chance",
    "Comparison",
    "Correlation",
    "CorrelationCount",
    "Dataset",
    "History",
    "Interval",
    "JointHistogram",
    "MappingPath",
    "Match",
    "MaximumMatch",
    "Measurement",
    "MergeTree",
    "Moments",
    "Network",
    "PairMoments",
    "PartialLeastSquares",
    "ReceptiveField",
    "Recipe",
    "Rotation",
    "SgdRun",
    "SharedSpace",
    "Sharedness",
    "SoftMatch",
    "SpectralEmbedding",
    "Store",
    "StreamingCKA",
    "Top",
    "Trained",
    "ablated",
    "accuracy",
    "all_reduce",
    "best_rotation",
    "best_subset_mapping",
    "bin_edges",
    "bipartite_matching",
    "build_network",
    "calibrated_map",
    "cca",
    "chance_level",
    "cluster_composition",
    "compare",
    "correlation",
    "correlation_affinity",
    "crossing_share",
    "debiased_cka",
    "dft_cca",
    "freezing",
    "generalised_procrustes",
    "groups_interval",
    "hierarchical_clustering",
    "label_chance",
    "layers",
    "least_squares",
    "linear_cka",
    "load",
    "load_dataset",
    "mapping_affinity",
    "matching_map",
    "maximum_match",
    "measure",
    "multiply_adds",
    "mutual_information",
    "mutual_knn",
    "network_interval",
    "normalise",
    "pair_moments",
    "partial_least_squares",
    "patch",
    "permuted_copy",
    "predict",
    "procrustes",
    "project",
    "projected",
    "pwcca",
    "random_rotation",
    "receptive_field",
    "record",
    "rotated",
    "save",
    "semi_matching",
    "sgd_mapping",
    "sgd_mappings",
    "sharedness",
    "significant_correlations",
    "soft_matching",
    "sparse_mapping",
    "spatial_frequency",
    "spectral_clustering",
    "spectral_embedding",
    "split_after",
    "stitched",
    "subspace_affinity",
    "subspace_overlap",
    "subspace_projection",
    "svcca",
    "train",
    "training_cost",
    "truncated",
    "unshrunk",
    "with_units",
]
