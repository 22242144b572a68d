"""The optimiser with which Li et al. fitted their sparse mappings, to the letter, beside the exact answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .chance import rows_of_images
from .checks import as_activations, require_known, require_same_samples
from .moments import PairMoments, pair_moments
from .precision import full_precision
from .sparse_mapping import MappingPath, path_of, standardised

_SCHEDULES = ("original", "constant")
_STARTS = ("random", "zero")


def sgd_mapping(
    acts_a: Tensor,
    acts_b: Tensor,
    *,
    images: Tensor | None = None,
    decay: float = 0.0,
    steps: int | Sequence[int] = 4500,
    batch: int = 32,
    rate: float = 1e-3,
    halve_every: int = 1500,
    momentum: float = 0.98,
    schedule: str = "original",
    start: str = "random",
    loss_units: int | None = None,
    seed: int = 0,
) -> MappingPath:
    r"""A linear map with bias from net a to net b by stochastic gradient descent with momentum and L1 decay.

    .. math:: v \leftarrow m v + \eta_t (\nabla L + \gamma\, \mathrm{sign}(W)), \quad W \leftarrow W - v, \qquad
              L = \frac{1}{2 u} \sum_j E[(y_j - w_j^\top x - b_j)^2]

    on standardised units, the mean taken over the rows of a batch of images. Because :math:`L` is divided by the number
    of units :math:`u`, every unit's gradient shrinks as layers grow wider, and in the per-unit objective of
    `sparse_mapping` the decay is a penalty of :math:`u \gamma`. The bias is not decayed.

    Args:
        acts_a: (samples, units_a) float tensor or NumPy array.
        acts_b: (samples, units_b), the same samples.
        images: (samples,) integer, the image of each row; batches are of whole images, which must have equally many
            rows. None: every row is an image.
        decay: :math:`\gamma`, added to the gradient as its sign; it gives small weights but no exact zeros.
        steps: number of steps, or several in rising order, for an entry of the path after each.
        batch: images in a step; they are dealt in a new random order in every round, what fills no batch sits out.
        rate: :math:`\eta_0`.
        halve_every: steps after which the rate is halved, in the original schedule.
        momentum: :math:`m`.
        schedule: "original" or "constant" (the rate is never halved).
        start: "random" (Gaussian, rescaled once so that predictions have variance one on average) or "zero".
        loss_units: :math:`u`; None means units_b. A wider layer's number trains a narrow map as a wide one would be.
        seed: of the start and of the order of images.

    Returns:
        MappingPath with an entry for each number of steps; penalties are u times decay, r2 is over all samples.

    Raises:
        ValueError: shapes that do not pair, images with unequal rows, options out of range, or weights that diverged.

    Source: Li et al. 2016, section on sparse prediction: rate .001 halved every 1500 steps, momentum .98, 4500 steps of
    32 images. The rate enters the velocity when it is added, as in the software they used.
    """
    acts_a, acts_b = as_activations(acts_a, "acts_a"), as_activations(acts_b, "acts_b")
    require_same_samples(acts_a, acts_b)
    require_known(schedule, _SCHEDULES, "schedule")
    require_known(start, _STARTS, "start")
    rows, u = rows_of_images(images, len(acts_a)), acts_b.shape[1] if loss_units is None else loss_units
    _require_within(batch=(batch, 1, len(rows)), loss_units=(u, 1, 1e9), decay=(decay, 0, 1e9), rate=(rate, 0, 1e9))
    _require_within(halve_every=(halve_every, 1, 1e9), momentum=(momentum, 0, 1))
    wanted = _checked_steps(steps)
    pair, generator = pair_moments(acts_a, acts_b), torch.Generator().manual_seed(seed)
    x, y = _standardised_rows(acts_a, acts_b, pair)
    weights, bias = _started(start, x, y, generator)
    velocity, velocity_of_bias = torch.zeros_like(weights), torch.zeros_like(bias)
    dealt, entries = _images_in_turn(len(rows), batch, generator), {0: (weights.clone(), bias.clone())}
    with full_precision():
        for step in range(wanted[-1]):
            now = rate * 0.5 ** (step // halve_every) if schedule == "original" else rate
            index = rows[next(dealt)].flatten().to(x.device)
            inputs = x[index]
            error = torch.addmm(bias, inputs, weights) - y[index]
            velocity.mul_(momentum).addmm_(inputs.T, error, alpha=now / (len(index) * u))
            if decay:
                velocity.add_(weights.sign(), alpha=now * decay)
            velocity_of_bias.mul_(momentum).add_(error.mean(0), alpha=now / u)
            weights.sub_(velocity)
            bias.sub_(velocity_of_bias)
            if step + 1 in wanted:
                entries[step + 1] = (weights.clone(), bias.clone())
    if not (weights.isfinite().all() and bias.isfinite().all()):
        raise ValueError(f"rate: the weights diverged; expected less than {rate} for these activations")
    coefficients, offsets = (torch.stack([entries[k][part] for k in wanted]).double() for part in (0, 1))
    return path_of(pair, coefficients.new_full((len(wanted),), u * decay), coefficients, bias=offsets)


def _checked_steps(steps: int | Sequence[int]) -> list[int]:
    wanted = [steps] if isinstance(steps, int) else list(steps)
    if not wanted or wanted[0] < 0 or any(later <= earlier for earlier, later in pairwise(wanted)):
        raise ValueError(f"steps: expected a number or several in rising order, got {steps}")
    return wanted


def _require_within(**options: tuple[float, float, float]) -> None:
    """Each option (value, least, most) lies between its ends."""
    for name, (value, least, most) in options.items():
        if not least <= value <= most:
            raise ValueError(f"{name}: expected {least:g} to {most:g}, got {value}")


def _standardised_rows(acts_a: Tensor, acts_b: Tensor, pair: PairMoments) -> tuple[Tensor, Tensor]:
    """Rows of both nets with mean 0 and variance 1 per unit; dead units are 0."""
    _, _, scale_a, scale_b = standardised(pair)
    parts = ((acts_a, pair.mean_a, scale_a), (acts_b, pair.mean_b, scale_b))
    return tuple(
        torch.where(scale > 0, (acts - mean) / scale.where(scale > 0, 1.0), 0.0).to(acts.dtype)
        for acts, mean, scale in parts
    )


def _started(start: str, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weights and bias before the first step."""
    weights = torch.zeros(x.shape[1], y.shape[1], dtype=x.dtype, device=x.device)
    if start == "random":
        weights = torch.randn(weights.shape, generator=generator, dtype=torch.float64).to(x)
        weights /= (x @ weights).var(0, correction=0).mean().sqrt().clamp(min=torch.finfo(x.dtype).tiny)
    return weights, torch.zeros(y.shape[1], dtype=x.dtype, device=x.device)


def _images_in_turn(n_images: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of images without end, in a new random order in every round; what fills no batch sits that round out."""
    while True:
        for index in torch.randperm(n_images, generator=generator).split(batch):
            if len(index) == batch:
                yield index
