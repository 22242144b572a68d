"""Which layers of two nets are more alike than chance makes any two of them? A whole map under one threshold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .chance import above_chance, finite_of, shuffles, ties_of
from .checks import (
    as_activations,
    as_list,
    as_number,
    came,
    form_of,
    require_callable,
    require_fields,
    require_finite,
    require_named,
)


@dataclass(frozen=True)
class CalibratedMap:
    """Similarities of all layers of one net with all of another, beside the largest that chance finds anywhere.

    Attributes:
        score: (layers_a, layers_b) float64, at least 0; 0 for what chance reaches somewhere in the map, 1 at the limit.
        observed: (layers_a, layers_b) float64, the similarities themselves.
        null_max: (n_shuffles,) float64, the largest of the map after each shuffle.
        tau: 0-d float64, the threshold.
        p_value: (layers_a, layers_b) float64, (1 + shuffles whose largest reaches the observed value, but for rounding)
            / (1 + n_shuffles): the chance that any of the map would be as large. The smallest is that of the map.

    Example:
        >>> acts = torch.randn(3, 200, 4, generator=torch.Generator().manual_seed(0))
        >>> found = calibrated_map(mutual_knn, acts[:2], acts[1:])
        >>> found.score.round(decimals=2)  # the second layer of one net is the first of the other
        tensor([[0., 0.],
                [1., 0.]], dtype=torch.float64)
    """

    score: Tensor
    observed: Tensor
    null_max: Tensor
    tau: Tensor
    p_value: Tensor

    def __post_init__(self):
        require_fields(self, score="ab", observed="ab", null_max="k", tau="", p_value="ab")


def calibrated_map(
    similarity: Callable[[Tensor, Tensor], Tensor | float],
    layers_a: Mapping[str, Tensor] | Iterable[Tensor],
    layers_b: Mapping[str, Tensor] | Iterable[Tensor],
    *,
    limit: float = 1.0,
    images: Tensor | None = None,
    places: Tensor | None = None,
    n_shuffles: int = 19,
    alpha: float = 0.05,
    seed: int = 0,
) -> CalibratedMap:
    r"""How far the likeness of each two layers lies above what chance reaches anywhere in the map.

    .. math:: \max\Big(0, \frac{s_{ij} - \tau}{s_{max} - \tau}\Big)

    where :math:`\tau` is the value of rank :math:`\lceil (1 - \alpha)(K + 1) \rceil` among the largest of the map,
    :math:`\max_{ij} s_{ij}`, and the largest after each of K shuffles, which give all layers of b the same order of
    rows. In strange nets all scores are 0 with probability :math:`1 - \alpha` or more.

    Args:
        similarity: callable (acts_a, acts_b) -> number, larger is more alike; called (1 + n_shuffles) times for each
            two layers.
        layers_a: by name or in a list, (samples, units) float tensors or NumPy arrays, any widths.
        layers_b: of the other net, the same samples.
        limit: the largest value that the similarity can have.
        images: (samples,) integer, the image of each row, as in `chance_level`: whole images are exchanged.
        places: (samples,) or (samples, 2), the place of each row, as in `chance_level`: rows are exchanged within it.
        n_shuffles: number of shuffles; with fewer than 1 / alpha - 1 all scores are 0.
        alpha: the share of strange pairs of nets for which any score may be above 0.
        seed: of the generator of the shuffles.

    Returns:
        CalibratedMap, layers in the order in which they came. One layer of each net gives `Chance.calibrated`.

    Raises:
        ValueError: layers of other samples or on other devices, NaN or infinity, a similarity that is no finite number,
            images and places as in `chance_level`, alpha that is not between 0 and 1, a limit that is no number.

    Source: Gröger et al. 2026.

    Example:
        >>> a, b, c = torch.randn(3, 60, 4, generator=torch.Generator().manual_seed(0))
        >>> found = calibrated_map(lambda x, y: linear_cka(pair_moments(x, y)), {"1": a, "2": b}, {"1": c, "2": a})
        >>> found.score.round()
        tensor([[0., 1.],
                [0., 0.]], dtype=torch.float64)
    """
    require_callable(similarity, "similarity")
    layers_a, layers_b = _layers(layers_a, "layers_a"), _layers(layers_b, "layers_b")
    _require_one_set_of_samples(layers_a, layers_b)
    alpha = as_number(alpha, "alpha", "a share between 0 and 1", lambda share: 0 < share < 1)
    limit = as_number(limit, "limit", "a finite number", lambda number: True)
    orders = shuffles(len(layers_b[0]), images, places, n_shuffles=n_shuffles, seed=seed)
    found = _each_two(similarity, layers_a, layers_b)
    observed, largest = torch.stack([value.double() for value in found]).reshape(len(layers_a), -1), []
    for order in orders:
        shuffled = _each_two(similarity, layers_a, [acts[order.to(acts.device)] for acts in layers_b])
        largest.append(torch.stack([value.double() for value in shuffled]).max())
    null_max, ceiling = torch.stack(largest), torch.tensor(limit, dtype=torch.float64, device=observed.device)
    score, tau = above_chance(observed, observed.max(), null_max, ceiling, alpha)
    least = observed - ties_of(found) * observed.abs()
    p_value = (1 + (null_max >= least[..., None]).sum(-1)).double() / (1 + len(null_max))
    return CalibratedMap(score, observed, null_max, tau, p_value)


def _layers(value: Mapping[str, Tensor] | Iterable[Tensor], name: str) -> list[Tensor]:
    """The activations of each layer, in the order in which they came."""
    if isinstance(value, Mapping):
        given = {came(layer, 60): acts for layer, acts in require_named(value, name, "activations").items()}
    elif isinstance(value, (Tensor, np.ndarray)) and value.ndim < 3:
        raise ValueError(f"{name}: expected layers by name or in a list, got {form_of(value)}; one layer is [acts]")
    else:
        given = {f"layer {k}": acts for k, acts in enumerate(as_list(value, name, "layers by name or in a list"))}
    if not given:
        raise ValueError(f"{name}: expected at least one layer, got none")
    read = [as_activations(acts, f"{name}: {layer}") for layer, acts in given.items()]
    for layer, acts in zip(given, read, strict=True):
        require_finite(acts, f"{name}: {layer}")
    return read


def _require_one_set_of_samples(layers_a: list[Tensor], layers_b: list[Tensor]) -> None:
    for name, layers in (("layers_a", layers_a), ("layers_b", layers_b)):
        for acts in layers:
            if acts.device != layers_a[0].device:
                raise ValueError(f"{name}: expected layers on {layers_a[0].device} as the first, got {acts.device}")
            if len(acts) < 2:
                raise ValueError(f"{name}: expected at least 2 samples, got {len(acts)}")
            if len(acts) != len(layers_a[0]):
                samples = f"{len(layers_a[0])} samples as in the first layer"
                raise ValueError(f"{name}: expected {samples}, got {len(acts)}")


def _each_two(similarity: Callable, layers_a: list[Tensor], layers_b: list[Tensor]) -> list[Tensor]:
    """The similarity of each layer of a with each of b, row by row, in its own type."""
    found = [finite_of(similarity(a, b), "similarity") for a in layers_a for b in layers_b]
    for value in found:
        if value.numel() != 1:
            raise ValueError(f"similarity: expected one number for two layers, got {tuple(value.shape)} of them")
    return [value.reshape(()) for value in found]
