"""Do separately trained neural networks learn the same representations? Tested kernels to find out.

import convergent_utils as cu

pair = cu.pair_moments(acts_a, acts_b)  # activations (samples, units) of two networks on the same inputs
match = cu.bipartite_matching(cu.correlation(pair).matrix)
"""

from .kernels.chance import Chance, Interval, chance_level, label_chance, network_interval
from .kernels.correlation import Correlation, correlation
from .kernels.filters import spatial_frequency
from .kernels.matching import Match, bipartite_matching, semi_matching
from .kernels.moments import Moments, PairMoments, pair_moments
from .kernels.sgd_mapping import SgdRun, sgd_mapping, sgd_mappings
from .kernels.sparse_mapping import MappingPath, best_subset_mapping, least_squares, sparse_mapping
from .nets.activations import ReceptiveField, patch, receptive_field, record
from .nets.datasets import Dataset, load_dataset, normalise
from .nets.distributed import all_reduce
from .nets.measuring import Measurement, Top, measure
from .nets.networks import Network, build_network, permuted_copy
from .nets.store import Store, load, save
from .nets.training import History, Recipe, Trained, accuracy, predict, train

__all__ = [
    "Chance",
    "Correlation",
    "Dataset",
    "History",
    "Interval",
    "MappingPath",
    "Match",
    "Measurement",
    "Moments",
    "Network",
    "PairMoments",
    "ReceptiveField",
    "Recipe",
    "SgdRun",
    "Store",
    "Top",
    "Trained",
    "accuracy",
    "all_reduce",
    "best_subset_mapping",
    "bipartite_matching",
    "build_network",
    "chance_level",
    "correlation",
    "label_chance",
    "least_squares",
    "load",
    "load_dataset",
    "measure",
    "network_interval",
    "normalise",
    "pair_moments",
    "patch",
    "permuted_copy",
    "predict",
    "receptive_field",
    "record",
    "save",
    "semi_matching",
    "sgd_mapping",
    "sgd_mappings",
    "sparse_mapping",
    "spatial_frequency",
    "train",
]
