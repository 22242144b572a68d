"""What 11_shared_spaces reads of networks that answer together, in a space that they learned from unlabelled images.

Five *clients* of unlike architecture each learn images of their own. None shows another its images or its weights. All
see the same *pool* of images without labels; from what they make of it each learns a map into one space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..kernels.moments import Moments
from ..kernels.shared_space import generalised_procrustes
from ..making.things import Get, Report, Thing
from ..nets.datasets import Dataset
from ..nets.declared import Declared, Images
from ..nets.predicting import predict
from .architectures import SIZES as DEEP_SIZES
from .architectures import Deep, blocks, named, networks_of
from .embeddings import embedded
from .families import SIZES as FAMILY_SIZES
from .families import Member, families, width_name
from .networks import Setting

SHARES = ("alike", "skewed")
WIDTHS, DEEP = (0.25, 0.5, 1), ("plain", "residual")
PER_CLASS = 2  # clients that have images of a class, where they are skewed
_EPOCHS = 10
_POOL = 2000
_JUDGED = 4  # one in so many test images
_PENALTY = 1e-2  # of the variance of an embedding, in the maps that correct the space, and in decoders
_SEED = 6000  # and more for each


@dataclass(frozen=True)
class Private:
    """The images of one client among those that all have: as many as any other's, and no image twice.

    Attributes:
        images: of all clients.
        client, of: number of this one, from 0, and how many there are.
        skewed: whether each client has images of a few classes alone, and each class is that of `PER_CLASS` clients.
    """

    images: Images
    client: int
    of: int
    skewed: bool

    def load(self) -> Dataset:
        """The images."""
        data = self.images.load()
        index = torch.arange(self.client, len(data), self.of)
        if self.skewed:
            classes, window = self.images.classes, -(-PER_CLASS * self.images.classes // self.of)
            first = [client * classes // self.of for client in range(self.of)]
            parts = []
            for k in range(classes):
                holders = [client for client in range(self.of) if (k - first[client]) % classes < window]
                if self.client in holders:
                    parts.append((data.labels == k).nonzero()[holders.index(self.client) :: len(holders), 0])
            index = torch.cat(parts).sort().values
        return replace(data, images=data.images[index], labels=data.labels[index])

    def __len__(self) -> int:
        return len(self.images) // self.of


@dataclass(frozen=True)
class Pool:
    """Images that no client has been trained on: those that a part of them leaves over.

    Attributes:
        images: all.
        part: how many of them are the clients', see `Images.part`.
        limit: how many of the others are taken, evenly.
    """

    images: Images
    part: int
    limit: int

    def load(self) -> Dataset:
        """The images."""
        whole = self.images.load()
        places = replace(whole, labels=torch.arange(len(whole)))
        left = torch.ones(len(whole), dtype=torch.bool)
        left[places.part(self.part).labels] = False
        index = left.nonzero()[:, 0]
        return replace(whole, images=whole.images[index], labels=whole.labels[index]).part(self.limit)


@dataclass(frozen=True)
class Client:
    """A network that has learned images of its own.

    Attributes:
        network: trained.
        layer: whose units, or means over places, are the embedding of an image.
        images: those that it has learned.
        central: a network of the same architecture that has learned the images of all clients.
    """

    network: Member
    layer: str
    images: Private
    central: Declared


@dataclass(frozen=True)
class Federation(Thing):
    """Accuracy on test images of five clients, alone and together.

    "alone" is the mean over clients; "majority" the class that most say (of equals the one with more confidence);
    "ensemble" the largest mean of their probabilities; "central" the mean of networks of the same architectures that
    learned all clients' images. "alone, new head" and "ensemble, new heads" are the first and the third where each
    client's last layer is fitted anew, as heads are below, to what it makes of its own images. "alone, taught head" is
    the mean of heads that each client fits to what it makes of the pool and to what the ensemble says of it, without
    any space.

    In the space of `generalised_procrustes`, learned from the pool: "one head" reads the mean of all clients' places,
    and was fitted on what each client makes of its own images, with their labels; "mean of heads" is the mean of heads
    that each client fits for itself; "distilled head" learns from the mean of places of the pool, and from what the
    ensemble says of it, so that no label is shown; "alone, one head" is the mean over clients of what the head says of
    one client's place. Each also "corrected": every client's map is then fitted anew, by ridge regression to the mean
    of all clients' places. "shuffled" is "one head" where each client saw the pool in another order, so that the space
    means nothing, and "shuffled, distilled head" the distilled one there.

    And what the places tell of an image: the share of variance over its pixels that a linear decoder explains, fitted
    on the pool, from one client's place in the space, "pixels, space"; from its whole embedding, "pixels, embedding";
    and from as many principal components of the image itself, "pixels, best", the most that so many numbers can tell to
    such a decoder; and from the true class alone, "pixels, class". "dimensions" is how many numbers a place has.

    Attributes:
        clients: by name.
        pool, test: images.
        seed: of the orders in which the pool is shuffled.
    """

    title, seconds, published = "asking clients together", 20.0, True

    clients: tuple[tuple[str, Client], ...]
    pool: Pool
    test: Images
    seed: int

    def make(self, get: Get, report: Report) -> dict[str, float]:
        """Ask them."""
        pool, test = self.pool.load(), replace(self.test, every=_JUDGED).load()
        made, logits, own, taught = {}, [], {}, []
        for name, client in self.clients:
            network, private = client.network.network(get).eval(), client.images.load()
            made[name] = {part: embedded(network, client.layer, data.images).double()
                          for part, data in (("pool", pool), ("test", test), ("own", private))}  # fmt: skip
            own[name] = private.labels
            logits.append(predict(network, test))
            taught.append(predict(network, pool).double().softmax(1))
        central = [_right(predict(client.central.network(get), test), test.labels) for _, client in self.clients]
        found = {**votes(logits, test.labels), "central": float(np.mean(central))}
        told = torch.stack(taught).mean(0).argmax(1)
        anew = votes(heads_of_their_own(made, own), test.labels)
        found |= {"alone, new head": anew["alone"], "ensemble, new heads": anew["ensemble"]}
        by_pool = votes(heads_of_their_own(made, dict.fromkeys(made, told), part="pool"), test.labels)
        found["alone, taught head"] = by_pool["alone"]
        for said, corrected, seed in (("", False, None), (", corrected", True, None), ("shuffled", False, self.seed)):
            places = in_one_space(made, corrected=corrected, seed=seed)
            heads = with_heads(places, own, told, test.labels)
            if seed is None:
                found |= {name + said: value for name, value in heads.items()}
            else:
                found |= {"shuffled": heads["one head"], "shuffled, distilled head": heads["distilled head"]}
        found |= told_of_pixels(made, in_one_space(made, corrected=False, seed=None), pool, test)
        found["dimensions"] = float(places[self.clients[0][0]]["test"].shape[1])
        return found


def votes(logits: list[Tensor], labels: Tensor) -> dict[str, float]:
    """Accuracy of clients alone, by majority and as an ensemble, of the logits (images, classes) of each."""
    chances = torch.stack([some.double().softmax(1) for some in logits])
    said = nn.functional.one_hot(chances.argmax(2), chances.shape[2]).sum(0)
    return {
        "alone": float(np.mean([_right(some, labels) for some in chances])),
        "majority": _right(said + chances.mean(0) / 2, labels),  # less than a vote: it decides between equals alone
        "ensemble": _right(chances.mean(0), labels),
    }


def in_one_space(
    made: Mapping[str, Mapping[str, Tensor]], *, corrected: bool, seed: int | None
) -> dict[str, dict[str, Tensor]]:
    """The places of images in the space that the clients learn from the pool, of each client and part.

    Args:
        made: of each client what it makes of the images of each part, "pool" among them.
        corrected: whether every client then fits its map anew.
        seed: of the order in which each client sees the pool; None: all in the same.
    """
    pool = {name: parts["pool"] for name, parts in made.items()}
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        pool = {name: rows[torch.randperm(len(rows), generator=generator)] for name, rows in pool.items()}
    moments = Moments({name: rows.shape[1] for name, rows in pool.items()})
    moments.update(pool)
    space = generalised_procrustes(moments)
    maps: dict[str, Callable[[Tensor], Tensor]] = {
        name: lambda rows, name=name: space.transform(name, rows) for name in pool
    }
    if corrected:
        middle = torch.stack([maps[name](rows) for name, rows in pool.items()]).mean(0)
        maps = {name: _ridge(rows, middle) for name, rows in pool.items()}
    return {name: {part: maps[name](rows) for part, rows in parts.items()} for name, parts in made.items()}


def _ridge(rows: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """The linear map from rows to targets, and what it makes of other rows."""
    from sklearn.linear_model import Ridge

    size = len(rows) * float(rows.var(0).mean()) or 1.0
    fitted = Ridge(alpha=_PENALTY * size).fit(rows.numpy(), targets.numpy())
    return lambda other: torch.from_numpy(fitted.predict(other.numpy()))


def with_heads(
    places: Mapping[str, Mapping[str, Tensor]], own: Mapping[str, Tensor], taught: Tensor, labels: Tensor
) -> dict[str, float]:
    """Accuracy of heads that read a space: places of images by client and part, and labels of the clients' own.

    Args:
        places: of `in_one_space`.
        own: labels of each client's own images.
        taught: what the ensemble says of the pool.
        labels: of the test images.
    """
    classes = int(max(labels.max(), *(some.max() for some in own.values()))) + 1
    size = torch.cat([parts["pool"] for parts in places.values()]).std(0).clamp(min=1e-300)
    test = {name: parts["test"] / size for name, parts in places.items()}
    rows = {name: parts["own"] / size for name, parts in places.items()}
    middle = torch.stack(list(test.values())).mean(0)
    pool = torch.stack([parts["pool"] / size for parts in places.values()]).mean(0)
    one = _head(torch.cat(list(rows.values())), torch.cat(list(own.values())), classes)
    each = [_head(rows[name], own[name], classes) for name in rows]
    return {
        "one head": _right(one(middle), labels),
        "mean of heads": _right(torch.stack([head(middle).softmax(1) for head in each]).mean(0), labels),
        "distilled head": _right(_head(pool, taught, classes)(middle), labels),
        "alone, one head": float(np.mean([_right(one(some), labels) for some in test.values()])),
    }


def heads_of_their_own(
    made: Mapping[str, Mapping[str, Tensor]], labels: Mapping[str, Tensor], *, part: str = "own"
) -> list[Tensor]:
    """What a head says of the test images (images, classes) that reads one client's embedding, for each client.

    Args:
        made: of each client its embeddings of each part.
        labels: of the images of the part that its head is fitted on.
        part: which.
    """
    found, classes = [], int(max(some.max() for some in labels.values())) + 1
    for name, parts in made.items():
        size = parts["pool"].std(0).clamp(min=1e-6 * float(parts["pool"].std()) or 1.0)
        found.append(_head(parts[part] / size, labels[name], classes)(parts["test"] / size))
    return found


def _head(rows: Tensor, labels: Tensor, classes: int) -> Callable[[Tensor], Tensor]:
    """A logistic regression on these rows; what it says of others is a logit for each class, low for unseen ones."""
    from sklearn.linear_model import LogisticRegression

    known = labels.unique()
    if len(known) == 1:
        return lambda other: torch.zeros(len(other), classes).double().index_fill(1, known, 1.0)
    fitted = LogisticRegression(max_iter=1000).fit(rows.numpy(), labels.numpy())

    def said(other: Tensor) -> Tensor:
        """Logarithms of probabilities."""
        found = torch.full((len(other), classes), -50.0, dtype=torch.float64)
        found[:, known] = torch.from_numpy(fitted.predict_log_proba(other.numpy())).clamp(min=-50.0)
        return found

    return said


def told_of_pixels(
    made: Mapping[str, Mapping[str, Tensor]], places: Mapping[str, Mapping[str, Tensor]], pool: Dataset, test: Dataset
) -> dict[str, float]:
    """How much of an image can be told from what a client gives away, see `Federation`; means over clients."""
    pixels, asked = (data.images.flatten(1).double() / 255 for data in (pool, test))
    mean = pixels.mean(0)
    spread = (asked - mean).square().sum()

    def explained(told: Tensor) -> float:
        return float(1 - (asked - told).square().sum() / spread)

    of = {"space": places, "embedding": made}
    found = {
        f"pixels, {name}": float(
            np.mean([explained(_ridge(parts["pool"], pixels)(parts["test"])) for parts in some.values()])
        )
        for name, some in of.items()
    }
    count = next(iter(places.values()))["test"].shape[1]
    of_class = {int(k): pixels[pool.labels == k].mean(0) for k in pool.labels.unique()}
    found["pixels, class"] = explained(torch.stack([of_class.get(int(k), mean) for k in test.labels]))
    basis = torch.linalg.eigh((pixels - mean).T @ (pixels - mean)).eigenvectors[:, -count:]
    return {**found, "pixels, best": explained(mean + (asked - mean) @ basis @ basis.T)}


def _right(said: Tensor, labels: Tensor) -> float:
    return float((said.argmax(1) == labels).double().mean())


def federations(setting: Setting, count: int) -> dict[tuple, Thing]:
    """The federations by ("federation", "alike" or "skewed", number).

    Each has networks of its own; which client has which images moves on by one from each to the next.
    """
    sizes, deep_sizes = FAMILY_SIZES[setting.profile], DEEP_SIZES[setting.profile]
    of_all, made, deep = replace(setting.train, part=sizes.images), families(setting, sizes), networks_of(setting)
    pool, depth = Pool(setting.train, sizes.images, _POOL), min(deep_sizes.depths)
    n, found = len(WIDTHS) + len(DEEP), {}
    for number, (k, share) in enumerate((k, share) for k in range(1, count + 1) for share in SHARES):
        clients = []
        for place in range(n):
            images = Private(of_all, (place + k) % n, n, share == "skewed")
            seed = setting.seed + _SEED + n * number + place
            if place < len(WIDTHS):
                family, top = width_name(WIDTHS[place]), setting.layers[-2]
                central = made[family][(k - 1) % len(made[family])]
                start: Declared = setting.start(
                    seed, structure="alexnet-narrow", width=float(WIDTHS[place]), scaled=True
                )
            else:
                kind, top = DEEP[place - len(WIDTHS)], blocks(depth)[-1]
                central = deep[kind, depth][named(kind, depth, deep_sizes)[(k - 1) % deep_sizes.per_kind]]
                family, start = f"{kind} {depth}", Deep(kind, depth, setting.channels, setting.classes, seed)
            recipe = replace(central.recipe, epochs=_EPOCHS)
            network = Member(start, images, setting.test, recipe, seed, f"{family}, {share} {k}")
            clients.append((family, Client(network, top, images, central)))
        found["federation", share, k] = Federation(tuple(clients), pool, setting.test, setting.seed)
    return found
