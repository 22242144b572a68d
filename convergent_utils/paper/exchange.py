"""Embeddings of one network searched with those of another: by which map, of how many images, and how well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..kernels.correlation import correlation
from ..kernels.matching import bipartite_matching
from ..kernels.moments import Moments, PairMoments, pair_moments
from ..kernels.restricted import matching_map
from ..kernels.shared_space import generalised_procrustes
from ..kernels.sparse_mapping import least_squares
from ..making.things import Get, Report, Thing
from .embeddings import Embedded

MAPS = ("orthogonal", "affine", "ridge", "permutation", "none", "relative", "same network")
MEASURES = ("image", "class", "verified")
PENALTIES = tuple(10.0**k for k in range(-3, 4))  # of ridge regression, one of which is chosen on what it is fitted on
FALSE_ACCEPTS = 0.01


@dataclass(frozen=True)
class Exchanged(Thing):
    """Embeddings of one network searched with those of another: (pairs, splits, anchors, `MEASURES`) by `MAPS`.

    A map from the second network of a pair to the first is fitted on images of some classes, the *anchors*, and judged
    on as many images of each of the other classes, the *gallery*. What a map makes of an image is compared with what
    the first network makes of all images of the gallery, by the cosine of their angle. "image": how often the image
    itself is nearest; "class": how often the nearest other image is of its class; "verified": the share of pairs of
    images of one class that are accepted, where one in a hundred pairs of unlike classes is.

    "orthogonal" is `generalised_procrustes` of the two, "affine" least squares, "ridge" the same with a penalty that is
    chosen on the anchors, "permutation" the one-to-one match with slopes. "none" takes the embedding as it is (as far
    as both have units), "relative" the cosines of both with their anchors. "same network" searches the first network
    with itself.

    Attributes:
        embedded: by which networks, of which images.
        pairs: names of networks.
        splits: classes for the anchors and classes of the gallery; where they are the same, of other images.
        anchors, gallery: see `Sizes`.
    """

    title, seconds, published = "exchanging embeddings", 30.0, True

    embedded: Embedded
    pairs: tuple[tuple[str, str], ...]
    splits: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    anchors: tuple[int, ...]
    gallery: int

    def make(self, get: Get, report: Report) -> dict[str, Tensor]:
        """Exchange them."""
        acts, labels = get(self.embedded), self.embedded.images.load().labels
        shape = len(self.pairs), len(self.splits), len(self.anchors), len(MEASURES)
        found = {name: torch.zeros(shape, dtype=torch.float64) for name in MAPS}
        for i, (a, b) in enumerate(self.pairs):
            for j, (fitted, judged) in enumerate(self.splits):
                held = gallery(labels, judged, self.gallery)
                for k, count in enumerate(self.anchors):
                    few = anchors_of(labels, fitted, count, without=held)
                    rows = [acts[net][which].double() for net in (a, b) for which in (few, held)]
                    for name, (queries, targets) in exchanges(*rows).items():
                        found[name][i, j, k] = searched(queries, targets, labels[held])
            report((i + 1) / len(self.pairs))
        return found


@dataclass(frozen=True)
class OneSpace(Thing):
    """The same by one map for each network into the space of all, see `generalised_procrustes`.

    (pairs, splits, `MEASURES`) by name: "one space", and "one space, corrected", where each network's map is then
    fitted anew, by ridge regression to the mean place of each anchor over networks. "dimensions" and "agreement" of the
    space, (splits,).

    Attributes:
        exchanged: whose networks, pairs, splits and gallery; the most of its anchors.
    """

    title, seconds, published = "finding one space", 60.0, True

    exchanged: Exchanged

    def make(self, get: Get, report: Report) -> dict[str, Tensor]:
        """Find it, and search it."""
        of, every = self.exchanged, get(self.exchanged.embedded)
        labels, nets = of.embedded.images.load().labels, sorted({net for pair in of.pairs for net in pair})
        names = ("one space", "one space, corrected")
        found = {name: torch.zeros(len(of.pairs), len(of.splits), len(MEASURES)).double() for name in names}
        spaces = []
        for j, (fitted, judged) in enumerate(of.splits):
            held = gallery(labels, judged, of.gallery)
            few = anchors_of(labels, fitted, of.anchors[-1], without=held)
            fit = {net: every[net][few].double() for net in nets}
            moments = Moments({net: rows.shape[1] for net, rows in fit.items()})
            moments.update(fit)
            spaces.append(generalised_procrustes(moments))
            at = {net: spaces[-1].transform(net, rows) for net, rows in fit.items()}
            middle = torch.stack(list(at.values())).mean(0)
            for name in names:
                places = {}
                for net, rows in fit.items():
                    corrected = name == names[1]
                    own = every[net][held].double()
                    places[net] = ridge(rows, middle)(own) if corrected else spaces[-1].transform(net, own)
                for i, (a, b) in enumerate(of.pairs):
                    found[name][i, j] = searched(places[b], places[a], labels[held])
            report((j + 1) / len(of.splits))
        found["dimensions"] = torch.tensor([space.maps[nets[0]].shape[1] for space in spaces]).double()
        return {**found, "agreement": torch.stack([space.agreement for space in spaces])}


def anchors_of(labels: Tensor, classes: Sequence[int], count: int, *, without: Tensor) -> Tensor:
    """The numbers of so many images of these classes, evenly, or of all, but for those that are searched."""
    chosen = torch.isin(labels, torch.tensor(classes))
    chosen[without] = False
    some = chosen.nonzero()[:, 0]
    return some[torch.linspace(0, len(some) - 1, min(count, len(some))).long()]


def gallery(labels: Tensor, classes: Sequence[int], count: int) -> Tensor:
    """The numbers of the first so many images of each of these classes, or of as many as each has."""
    of_each = [(labels == k).nonzero()[:, 0] for k in classes]
    count = min(count, *(len(some) for some in of_each))
    return torch.cat([some[:count] for some in of_each])


def exchanges(fit_a: Tensor, held_a: Tensor, fit_b: Tensor, held_b: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What is searched with what, by `MAPS`: rows of queries and of the gallery, around the means of the anchors.

    Args:
        fit_a, held_a: what network a makes of the anchors and of the gallery, (images, units).
        fit_b, held_b: the same of network b.
    """
    mean, pair = fit_a.mean(0), pair_moments(fit_b, fit_a)
    own, given = held_a - mean, held_b - fit_b.mean(0)
    found = {name: (mapping(held_b) - mean, own) for name, mapping in _maps(pair, fit_b, fit_a).items()}
    width = min(own.shape[1], given.shape[1])
    found["none"] = given[:, :width], own[:, :width]
    anchors = [(rows - rows.mean(0)) / (rows - rows.mean(0)).norm(dim=1, keepdim=True).clamp(min=1e-300)
               for rows in (fit_b, fit_a)]  # fmt: skip
    found["relative"] = tuple(_of_length_1(rows) @ some.T for rows, some in zip((given, own), anchors, strict=True))
    return {**found, "same network": (own, own)}


def _maps(pair: PairMoments, fit_b: Tensor, fit_a: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """What takes rows of network b to the space of network a, by name."""
    turn = generalised_procrustes({("b", "a"): pair}).between("b", "a")
    found = correlation(pair)
    match = bipartite_matching(found.matrix, live_a=found.live_a, live_b=found.live_b)
    affine, permutation = least_squares(pair), matching_map(pair, match)
    return {
        "orthogonal": lambda rows: (rows - pair.mean_a) @ turn + pair.mean_b,
        "affine": lambda rows: affine.predict(rows)[0],
        "ridge": ridge(fit_b, fit_a),
        "permutation": lambda rows: permutation.predict(rows)[0],
    }


def ridge(rows: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """The map by ridge regression, its penalty chosen by leaving out one row at a time."""
    from sklearn.linear_model import RidgeCV

    size = len(rows) * float(rows.var(0).mean()) or 1.0
    fitted = RidgeCV(alphas=size * np.array(PENALTIES)).fit(rows.numpy(), targets.numpy())
    return lambda other: torch.from_numpy(fitted.predict(other.numpy()))


def _of_length_1(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-300)


def searched(queries: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    """`MEASURES` of a search (3,): row i of the queries and of the targets are of one image, with label i."""
    likeness, every = _of_length_1(queries) @ _of_length_1(targets).T, torch.arange(len(labels))
    image = (likeness.argmax(1) == every).double().mean()
    same = labels[:, None] == labels
    itself = torch.eye(len(labels), dtype=torch.bool)
    of_class = (labels[likeness.masked_fill(itself, -torch.inf).argmax(1)] == labels).double().mean()
    alike, unlike = same & ~itself, int((~same).sum())
    if not unlike:
        return torch.stack([image, of_class, torch.ones_like(image)])
    rank = int(same.sum()) + max(1, int((1 - FALSE_ACCEPTS) * unlike))  # below all others are the pairs of one class
    threshold = float(np.partition(likeness.masked_fill(same, -torch.inf).flatten().numpy(), rank - 1)[rank - 1])
    return torch.stack([image, of_class, ((likeness > threshold) & alike).sum() / alike.sum().double()])
