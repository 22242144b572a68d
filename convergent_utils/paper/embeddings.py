"""What networks make of images, and how alike that is in every two of them.

The *embedding* of an image is what the last layer below the output makes of it: fc7, or the mean over places of the
last block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from ..kernels.chance import Chance
from ..making.things import Get, Report, Thing
from ..nets.activations import record
from ..nets.datasets import normalise
from ..nets.declared import Declared, Images

NEAREST = (1, 10, 100)  # neighbours, of which the middle one is calibrated
_ROWS = 1000  # images among which neighbours are looked for
_BATCH = 250


@dataclass(frozen=True)
class Embedded(Thing):
    """The embeddings that networks give images: (images, units) float32, by network.

    Attributes:
        networks: by name, each with the layer that is read.
        images: which.
    """

    title, seconds = "embedding images", 30.0

    networks: tuple[tuple[str, Declared, str], ...]
    images: Images

    def make(self, get: Get, report: Report) -> dict[str, Tensor]:
        """Embed them."""
        images, found = self.images.load().images, {}
        for done, (name, declared, layer) in enumerate(self.networks, start=1):
            found[name] = embedded(declared.network(get), layer, images)
            report(done / len(self.networks))
        return found


def embedded(network: nn.Module, layer: str, images: Tensor) -> Tensor:
    """What a network makes of images in a layer (images, units); of maps the mean over places."""
    with record(network, layer, positions="mean") as rows:
        parts = []
        for batch in normalise(images).split(_BATCH):
            network(batch)
            parts.append(rows[layer])
    return torch.cat(parts)


@dataclass(frozen=True)
class Alike(Thing):
    """How alike the embeddings of every two networks are: by name of the measure (networks, networks).

    "k-NN, 10" and so on is the share of the nearest neighbours that both have; "CKA" with a linear kernel. "k-NN,
    calibrated" (of 10 neighbours) and "CKA, calibrated" are what of it lies above chance, see `Chance.calibrated`.

    Attributes:
        embedded: whose embeddings.
        shuffles: how often images are shuffled against each other.
        seed: of the shuffles, the same for all networks.
    """

    title, seconds, published = "comparing embeddings", 60.0, True

    embedded: Embedded
    shuffles: int
    seed: int

    def make(self, get: Get, report: Report) -> dict[str, Tensor]:
        """Compare them."""
        acts = [rows[:_ROWS].double() for rows in get(self.embedded).values()]
        n, count = len(acts), len(acts[0])
        generator = torch.Generator().manual_seed(self.seed)
        orders = [torch.arange(count), *(torch.randperm(count, generator=generator) for _ in range(self.shuffles))]
        near = {k: [nearest(rows, min(k, count - 1)) for rows in acts] for k in NEAREST}
        masks = {k: [mask_of(index, count) for index in of] for k, of in near.items()}
        dealt = [[dealt_out(index, order) for order in orders] for index in near[NEAREST[1]]]
        rows, sizes = zip(*(_centred(one, orders) for one in acts), strict=True)
        found = {f"k-NN, {k}": torch.ones(n, n, dtype=torch.float64) for k in NEAREST}
        meeting = list(combinations(range(n), 2))
        beside: dict[str, list[Tensor]] = {"k-NN": [], "CKA": []}
        for done, (i, j) in enumerate(meeting, start=1):
            for k, index in near.items():
                found[f"k-NN, {k}"][i, j] = found[f"k-NN, {k}"][j, i] = shared(masks[k][i], index[j])
            beside["k-NN"].append(torch.stack([shared(masks[NEAREST[1]][i], index) for index in dealt[j]]))
            cross = (rows[i][:, : acts[i].shape[1]].T @ rows[j]).unflatten(1, (len(orders), -1))
            beside["CKA"].append(cross.square().sum((0, 2)) / (sizes[i] * sizes[j]))
            report(done / len(meeting))
        for name, values in beside.items():
            first, null = torch.stack(values, 1).split([1, self.shuffles])
            found |= _calibrated(name, first[0], null, meeting, n)
        return found


def _centred(acts: Tensor, orders: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Centred rows (images, orders x units), each order of them beside the last, and the size of their covariance."""
    acts = acts - acts.mean(0)
    acts = acts / acts.abs().max().clamp(min=1e-300)
    size = (acts.T @ acts).norm().clamp(min=1e-300)
    return torch.cat([acts[order] for order in orders], dim=1), size


def _calibrated(
    name: str, observed: Tensor, null: Tensor, meeting: Sequence[tuple[int, int]], n: int
) -> dict[str, Tensor]:
    """The similarity of each pair as a matrix, and calibrated."""
    chance = Chance(observed, null, null.mean(0), null.amin(0), null.amax(0), torch.ones_like(observed))
    found = {}
    for said, values in ((name, observed), (f"{name}, calibrated", chance.calibrated())):
        found[said] = torch.ones(n, n, dtype=torch.float64)
        for (i, j), value in zip(meeting, values, strict=True):
            found[said][i, j] = found[said][j, i] = value
    return found


def nearest(acts: Tensor, k: int) -> Tensor:
    """The k nearest others of each row (rows, k), by the angle between them, as `mutual_knn` looks for them."""
    rows = acts / acts.norm(dim=1, keepdim=True).clamp(min=1e-300)
    likeness = rows @ rows.T
    likeness.fill_diagonal_(-torch.inf)
    return likeness.topk(k, dim=1).indices


def mask_of(index: Tensor, count: int) -> Tensor:
    """Which of all rows are among these neighbours: (rows, rows) bool."""
    return torch.zeros(len(index), count, dtype=torch.bool).scatter_(1, index, True)


def dealt_out(index: Tensor, order: Tensor) -> Tensor:
    """The neighbours (rows, k) once the rows stand in another order."""
    return order.argsort()[index[order]]


def shared(mask: Tensor, index: Tensor) -> Tensor:
    """The share of neighbours that are neighbours in another network, too."""
    return mask.gather(1, index).double().mean()
