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
    "Match",
    "Measurement",
    "Moments",
    "Network",
    "PairMoments",
    "ReceptiveField",
    "Recipe",
    "Store",
    "Top",
    "Trained",
    "accuracy",
    "all_reduce",
    "bipartite_matching",
    "build_network",
    "chance_level",
    "correlation",
    "label_chance",
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
    "spatial_frequency",
    "train",
]
