"""Images that are shifted away from those that networks were trained on, and maps between networks on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..making.things import Get, Report, Thing
from ..nets.declared import Declared, Images, Measured
from ..nets.measuring import run_pass
from ..nets.predicting import accuracy
from .on_the_way import directions
from .rungs import ladder, predicted, rungs

FOLLOWED = ("best unit", "best rotation", "linear")  # rungs


@dataclass(frozen=True)
class Shifted(Thing):
    """How well maps between networks hold on shifted images.

    By the name of a rung and "kept" (fitted on images as they are) or "fitted anew" (on half of the shifted images,
    read on the others) the correlation of units with what is predicted of them, (pairs, layers), see `ladder`;
    "directions" (networks, layers), see `directions`; and "accuracy" (networks,).

    Attributes:
        networks: by name.
        pairs: of networks, from and to.
        fitted: the networks on training images as they are.
        test: images that are shifted.
        shift: one of `SHIFTS`.
        layers, turns, seed: as of the ladder; the seed is that of what is drawn for the images, too.
    """

    title, seconds, published = "measuring shifted images", 10.0, True

    networks: tuple[tuple[str, Declared], ...]
    pairs: tuple[tuple[str, str], ...]
    fitted: Measured
    test: Images
    shift: str
    layers: tuple[str, ...]
    turns: int
    seed: int

    def make(self, get: Get, report: Report) -> dict[str, Tensor]:
        """Measure them."""
        networks = {name: declared.network(get).eval() for name, declared in self.networks}
        test, fitted, found = self.test.load(), get(self.fitted), {}
        test = replace(test, images=shifted(test.images, self.shift, seed=self.seed))
        blocks = [(f"{a}.{layer}", f"{b}.{layer}") for a, b in self.pairs for layer in self.layers]
        seen = run_pass(networks, test.images, self.layers, pairs=blocks, folds=2, sample=16, top=1, seed=self.seed)
        for number, (a, b) in enumerate(blocks):
            fit, held = (seen.pair(a, b, fold=part) for part in (0, 1))
            anew = ladder(fit, held, turns=self.turns, seed=self.seed, names=FOLLOWED)
            kept = {name: predicted(mapping, held) for name, mapping in rungs(fitted.pair(a, b), FOLLOWED).items()}
            for how, numbers in (("kept", kept), ("fitted anew", anew)):
                for name, r in numbers.items():
                    empty = torch.zeros(len(blocks), dtype=torch.float64)
                    found.setdefault(f"{name}, {how}", empty)[number] = r
        used = [[directions(seen.pair(*(f"{net}.{k}",) * 2)) for k in self.layers] for net in networks]
        right = torch.tensor([accuracy(network, test) for network in networks.values()], dtype=torch.float64)
        return {name: r.view(len(self.pairs), len(self.layers)) for name, r in found.items()} | {
            "directions": torch.tensor(used, dtype=torch.float64),
            "accuracy": right,
        }


def shifted(images: Tensor, shift: str, *, seed: int) -> Tensor:
    """Images (n, height, width, channels) uint8 as one of `SHIFTS` changes them."""
    return SHIFTS[shift](images, torch.Generator().manual_seed(seed)).round().clamp(0, 255).to(torch.uint8)


def _noise(images: Tensor, generator: torch.Generator, deviation: float) -> Tensor:
    return images + deviation * torch.randn(images.shape, generator=generator)


def _blur(images: Tensor, generator: torch.Generator, size: int) -> Tensor:
    """The mean of a square of pixels, of fewer at the border."""
    maps = images.permute(0, 3, 1, 2).float()
    return F.avg_pool2d(maps, size, stride=1, padding=size // 2, count_include_pad=False).permute(0, 2, 3, 1)


def _contrast(images: Tensor, generator: torch.Generator, share: float) -> Tensor:
    mean = images.float().mean((1, 2), keepdim=True)
    return mean + share * (images - mean)


def _occlusion(images: Tensor, generator: torch.Generator, share: float) -> Tensor:
    """A black square at a place drawn for each image; its side is a share of the image's."""
    n, height, width = images.shape[:3]
    within = torch.ones(n, height, width, dtype=torch.bool)
    for axis, size in ((1, height), (2, width)):
        side = round(share * size)
        first = torch.randint(0, size - side + 1, (n, 1), generator=generator)
        at = torch.arange(size)
        inside = (at >= first) & (at < first + side)
        within &= inside.unsqueeze(3 - axis)
    return images.float().masked_fill(within[..., None], 0.0)


def _exchanged(images: Tensor, generator: torch.Generator, blocks: int) -> Tensor:
    """Pixels exchanged, in all images alike, each within its own block of so many by so many."""
    height, width = images.shape[1:3]
    rows, columns = torch.arange(height) * blocks // height, torch.arange(width) * blocks // width
    block = (rows[:, None] * blocks + columns).flatten()
    order = torch.arange(height * width)
    for number in range(blocks**2):
        places = (block == number).nonzero()[:, 0]
        order[places] = places[torch.randperm(len(places), generator=generator)]
    return images.flatten(1, 2)[:, order].view(images.shape).float()


SHIFTS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "as they are": lambda images, generator: images.float(),
    "noise of 25": partial(_noise, deviation=25.0),
    "noise of 50": partial(_noise, deviation=50.0),
    "blur of 3": partial(_blur, size=3),
    "blur of 5": partial(_blur, size=5),
    "half contrast": partial(_contrast, share=0.5),
    "quarter contrast": partial(_contrast, share=0.25),
    "occlusion of a third": partial(_occlusion, share=1 / 3),
    "occlusion of half": partial(_occlusion, share=1 / 2),
    "on their side": lambda images, generator: images.transpose(1, 2).flip(1).float(),
    "mirrored": lambda images, generator: images.flip(1).float(),
    "half inverted": lambda images, generator: images.where(images < 128, 255 - images).float(),
    "inverted": lambda images, generator: (255 - images).float(),
    "pixels exchanged nearby": partial(_exchanged, blocks=4),
    "pixels exchanged": partial(_exchanged, blocks=1),
}
