"""How alike the networks of a family are: similarities of every two of them, and what is made of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from ..kernels.alignment import linear_cka
from ..kernels.cca import cca, pwcca, svcca
from ..kernels.chance import Chance, chance_level
from ..kernels.moments import PairMoments
from ..making.things import Get, Report, Thing
from ..nets.declared import Declared, Measured
from ..nets.measurement import Measurement
from ..nets.measuring import run_pass
from .networks import SomeImages

_LEAST = 1e-5  # of the largest eigenvalue of correlations: what is less counts as absent, as in `cca`
Similarity = Callable[[PairMoments], float]


def both_ways(pair: PairMoments) -> float:
    """PWCCA, the mean of both ways: its weights are those of the first network."""
    return float(pwcca(pair).similarity + pwcca(pair.swap()).similarity) / 2


def mean_cca(pair: PairMoments) -> float:
    """The plain mean of all canonical correlations."""
    return float(cca(pair).similarity)


def truncated_cca(pair: PairMoments) -> float:
    """SVCCA, of the components that hold 99 % of the variance."""
    return float(svcca(pair).similarity)


def cka(pair: PairMoments) -> float:
    """CKA with a linear kernel."""
    return float(linear_cka(pair))


SIMILARITIES: dict[str, Similarity] = {
    "PWCCA": both_ways, "mean CCA": mean_cca, "SVCCA": truncated_cca, "CKA": cka,
}  # fmt: skip


@dataclass(frozen=True)
class GivenLabel(Thing):
    """How alike networks are on images of one label: by each of `SIMILARITIES` (networks, networks, layers).

    Each layer's mean over the images of a label is taken off the rows of that label; what is left of all images is
    compared. So it does not count that networks tell the labels apart.

    Attributes:
        networks: by name; all meet.
        images: on which, with their labels.
        layers: of which.
    """

    title, seconds = "measuring given the label", 20.0

    networks: tuple[tuple[str, Declared], ...]
    images: SomeImages
    layers: tuple[str, ...]

    def make(self, get: Get, report: Report) -> dict[str, Tensor]:
        """Measure them label by label."""
        networks = {name: declared.network(get) for name, declared in self.networks}
        data = self.images.load()
        groups = [data.images[data.labels == k] for k in data.labels.unique()]  # an image alone is its label's mean
        parts = [
            run_pass(networks, images, self.layers, positions="all", folds=1, sample=2, top=1)
            for images in groups
            if len(images) > 1
        ]

        def given(a: str, b: str) -> PairMoments:
            return within_groups([part.pair(a, b) for part in parts])

        return {
            name: torch.from_numpy(alike(given, of, list(networks), self.layers)) for name, of in SIMILARITIES.items()
        }


@dataclass(frozen=True)
class Calibrated(Thing):
    """PWCCA above what shuffled images reach, see `Chance.calibrated`, and as it is, on the rows of the sample.

    In its dict "calibrated" and "as it is" (networks, networks, layers); networks meet the next of their family and
    the last the first; NaN where they do not.

    Attributes:
        measured: whose aligned sample is read; families are told by names, as in "width 50% 3".
        layers: of which.
        shuffles: how many.
    """

    title, seconds = "calibrating", 60.0

    measured: Measured
    layers: tuple[str, ...]
    shuffles: int

    def make(self, get: Get, report: Report) -> dict[str, Tensor]:
        """Shuffle and compare."""
        measured, names = get(self.measured), [name for name, _ in self.measured.networks]
        found = {
            k: torch.full((len(names), len(names), len(self.layers)), torch.nan) for k in ("calibrated", "as it is")
        }
        around = neighbours(names)
        for number, (a, b) in enumerate(around):
            report(number / len(around))
            for k, layer in enumerate(self.layers):
                rows = (measured.sample(f"{names[net]}.{layer}") for net in (a, b))
                chance = beside_shuffles(*rows, n_shuffles=self.shuffles)
                for name, value in (("calibrated", chance.calibrated()), ("as it is", chance.observed)):
                    found[name][a, b, k] = found[name][b, a, k] = float(value)
        return found


def beside_shuffles(acts_a: Tensor, acts_b: Tensor, *, n_shuffles: int) -> Chance:
    """PWCCA, the mean of both ways, of rows (samples, units) beside what it is when the rows of b are shuffled.

    Each net is whitened once; a shuffle then costs the decomposition of one matrix (directions_a, directions_b).
    """
    (basis_a, used_a), (basis_b, used_b) = _whitened(acts_a), _whitened(acts_b)

    def similarity(a: Tensor, b: Tensor) -> Tensor:
        left, rho, right = torch.linalg.svd(a.T @ b, full_matrices=False)
        weights = [(left.T @ used_a).abs().sum(1), (right @ used_b).abs().sum(1)]
        return sum((weight / weight.sum()) @ rho for weight in weights) / 2

    return chance_level(similarity, basis_a, basis_b, n_shuffles=n_shuffles)


def _whitened(acts: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal columns that span the centred live units, and their products with these."""
    centred = acts.double() - acts.double().mean(0)
    live = centred[:, acts.amax(0) > acts.amin(0)]
    basis, size, _ = torch.linalg.svd(live / live.square().mean(0).sqrt(), full_matrices=False)
    basis = basis[:, size.square() > _LEAST * size[0].square()]
    return basis, basis.T @ live


def neighbours(names: Sequence[str]) -> list[tuple[int, int]]:
    """Places of each name and of the next one of its family, and of the last and the first of it.

    Example:
        >>> neighbours(["a 1", "a 2", "a 3", "b 1", "b 2", "b 3"])
        [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)]
    """
    kin: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        kin.setdefault(name.rpartition(" ")[0], []).append(place)
    return [(of[k], of[(k + 1) % len(of)]) for of in kin.values() for k in range(len(of))]


def within_groups(pairs: Sequence[PairMoments]) -> PairMoments:
    """Moments of all samples, each less the mean of its group, from those of the groups."""
    centred = [replace(p, mean_a=torch.zeros_like(p.mean_a), mean_b=torch.zeros_like(p.mean_b)) for p in pairs]
    count = sum(pair.n_samples for pair in pairs)

    def pooled(name: str) -> Tensor:
        return sum(getattr(pair, name) * (pair.n_samples / count) for pair in centred)

    covariances = {name: pooled(name) for name in ("cov_aa", "cov_ab", "cov_bb")}
    return replace(centred[0], n_samples=count, **covariances)


def alike(
    pair: Callable[[str, str], PairMoments], of: Similarity, names: Sequence[str], layers: Sequence[str]
) -> np.ndarray:
    """Similarity of each two of these networks in each layer, symmetric (networks, networks, layers); 1 to themselves.

    Args:
        pair: from two blocks "network.layer" to their moments, such as `measured.pair`.
        of: the similarity.
        names: of networks.
        layers: of each.
    """
    found = np.ones((len(names), len(names), len(layers)))
    for (i, a), (k, b) in combinations(enumerate(names), 2):
        found[i, k] = found[k, i] = [of(pair(f"{a}.{layer}", f"{b}.{layer}")) for layer in layers]
    return found


def alike_in_families(
    measured: Measurement, of: Similarity, families: Mapping[str, Sequence[str]], layers: Sequence[str]
) -> np.ndarray:
    """As `alike`, of the networks of each family; NaN between families, which need not meet."""
    places = np.cumsum([0, *map(len, families.values())])
    found = np.full((places[-1], places[-1], len(layers)), np.nan)
    for start, names in zip(places, families.values(), strict=False):
        kin = slice(start, start + len(names))
        found[kin, kin] = alike(measured.pair, of, names, layers)
    return found


def within(values: np.ndarray, nets: Sequence[int]) -> np.ndarray:
    """Mean over pairs of these networks, for each layer; pairs that never met (NaN) do not count."""
    block = values[np.ix_(nets, nets)]
    return np.nanmean(block[~np.eye(len(nets), dtype=bool)], axis=0)


def across(values: np.ndarray, nets: Sequence[int], others: Sequence[int]) -> np.ndarray:
    """Mean over pairs of one of these and one of the others, for each layer."""
    return values[np.ix_(nets, others)].mean((0, 1))


def of_some_units(pair: PairMoments, count: int, *, seed: int, draws: int = 10) -> float:
    """PWCCA of as many random units of each network, the mean over draws."""
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(draws):
        a, b = (torch.randperm(len(mean), generator=generator)[:count] for mean in (pair.mean_a, pair.mean_b))
        means = {"mean_a": pair.mean_a[a], "mean_b": pair.mean_b[b]}
        covariances = {"cov_aa": pair.cov_aa[a][:, a], "cov_ab": pair.cov_ab[a][:, b], "cov_bb": pair.cov_bb[b][:, b]}
        found.append(both_ways(replace(pair, **means, **covariances)))
    return float(np.mean(found))
