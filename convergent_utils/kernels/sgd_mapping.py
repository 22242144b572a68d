"""The optimiser with which Li et al. fitted their sparse mappings, to the letter, beside the exact answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import (
    as_activations,
    as_count,
    as_list,
    as_number,
    as_seed,
    as_whole,
    came,
    is_count,
    require_known,
    require_same_samples,
    rows_of_images,
)
from .moments import PairMoments, pair_moments, standardised
from .precision import full_precision
from .sparse_mapping import MappingPath, path_of

_SCHEDULES = ("original", "constant")
_STARTS = ("random", "zero")
_MOST_STEPS = 10**9  # take weeks


class _Run(NamedTuple):
    """An `SgdRun` whose loss has units."""

    start: str
    schedule: str
    loss_units: float
    decay: float


class SgdRun(NamedTuple):
    """What may differ between runs on the same batches, as `sgd_mapping` names it.

    Example:
        >>> SgdRun(decay=0.01)
        SgdRun(start='random', schedule='original', loss_units=None, decay=0.01)
    """

    start: str = "random"
    schedule: str = "original"
    loss_units: float | None = None
    decay: float = 0.0


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

    Example:
        >>> a = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
        >>> path = sgd_mapping(a, 3 * a, steps=[0, 300], rate=0.1, momentum=0.9)
        >>> path.r2.mean(1) > 0.99
        tensor([False,  True])
    """
    run = SgdRun(start, schedule, loss_units, decay)
    options = {"batch": batch, "rate": rate, "halve_every": halve_every, "momentum": momentum, "seed": seed}
    return sgd_mappings(acts_a, acts_b, [run], images=images, steps=steps, **options)[0]


def sgd_mappings(
    acts_a: Tensor,
    acts_b: Tensor,
    runs: Sequence[SgdRun],
    *,
    images: Tensor | None = None,
    steps: int | Sequence[int] = 4500,
    batch: int = 32,
    rate: float = 1e-3,
    halve_every: int = 1500,
    momentum: float = 0.98,
    seed: int = 0,
) -> list[MappingPath]:
    r"""Several runs of `sgd_mapping`, one beside the other: each gives what it would give alone, in less time.

    All see the same batches, and the gradient needs a batch only through its second moments, which are shared:

    .. math:: \nabla L = \frac{1}{n u} (X^\top X\, W - X^\top Y)

    with a column of ones in :math:`X` for the bias.

    Args:
        runs: what differs between them; `loss_units` None means units_b.
        acts_a, acts_b, images, steps, batch, rate, halve_every, momentum, seed: as in `sgd_mapping`, the same for all.

    Returns:
        A MappingPath for each run, in their order.

    Raises:
        ValueError: as `sgd_mapping`, or no run.

    Source: as `sgd_mapping`; runs that share their batches are ours.

    Example:
        >>> a = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
        >>> plain, decayed = sgd_mappings(a, 3 * a, [SgdRun(), SgdRun(decay=0.1)], steps=300, rate=0.1, momentum=0.9)
        >>> decayed.coefficients.abs().sum() < plain.coefficients.abs().sum()
        tensor(True)
    """
    acts_a, acts_b = as_activations(acts_a, "acts_a"), as_activations(acts_b, "acts_b")
    require_same_samples(acts_a, acts_b)
    finer = torch.promote_types(acts_a.dtype, acts_b.dtype)
    acts_a, acts_b, seed = acts_a.to(finer), acts_b.to(finer), as_seed(seed)
    rows, filled = rows_of_images(images, len(acts_a)), _checked_runs(runs, acts_b.shape[1])
    batch = as_count(batch, "batch", at_most=len(rows), what=" images")
    halving = _as_within(halve_every, "halve_every", 1)
    rate, momentum = _as_within(rate, "rate", 0), _as_within(momentum, "momentum", 0, 1)
    wanted, pair = _checked_steps(steps), pair_moments(acts_a, acts_b)
    x, y = _standardised_rows(acts_a, acts_b, pair)
    with full_precision():
        weights = torch.stack([_started(run.start, x, y, seed) for run in filled], 1)  # (units_a + 1, runs, units_b)
    x = torch.cat([x, x.new_ones(len(x), 1)], 1)
    dealt = _images_in_turn(len(rows), batch, torch.Generator().manual_seed(seed))
    batches = (rows[next(dealt)].flatten().to(x.device) for _ in range(wanted[-1]))
    with full_precision():
        entries = _descended(x, y, weights, filled, batches, wanted, rate, halving, momentum).double()
    if not entries.isfinite().all():
        raise ValueError(f"rate: the weights diverged; expected less than {rate} for these activations")
    penalties = [entries.new_full((len(wanted),), run.loss_units * run.decay) for run in filled]
    return [path_of(pair, penalties[k], entries[:, :-1, k], bias=entries[:, -1, k]) for k in range(len(filled))]


def _descended(
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    runs: Sequence[_Run],
    batches: Iterable[Tensor],
    wanted: Sequence[int],
    rate: float,
    halve_every: float,
    momentum: float,
) -> Tensor:
    """The weights (wanted, units_a + 1, runs, units_b) after each of the wanted numbers of steps, one batch a step."""
    velocity, entries = torch.zeros_like(weights), [weights.clone()] if wanted[0] == 0 else []
    for step, index in enumerate(batches):
        if step % halve_every == 0:
            scale, decay = _scales(runs, rate, step // halve_every, weights)
        inputs = x[index]
        slope = (inputs.T @ inputs @ weights.flatten(1)).unflatten(1, weights.shape[1:])
        slope -= (inputs.T @ y[index])[:, None]
        velocity.mul_(momentum).addcmul_(slope, scale, value=1 / len(index))
        if decay is not None:
            velocity[:-1].addcmul_(weights[:-1].sign(), decay)
        weights.sub_(velocity)
        if step + 1 in wanted:
            entries.append(weights.clone())
    return torch.stack(entries)


def _scales(runs: Sequence[_Run], rate: float, halvings: float, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """The rate of each run over the units of its loss, and times its decay (None where no run has any)."""
    rates = [rate * 0.5**halvings if run.schedule == "original" else rate for run in runs]
    scale = like.new_tensor([now / run.loss_units for now, run in zip(rates, runs, strict=True)])[:, None]
    decay = like.new_tensor([now * run.decay for now, run in zip(rates, runs, strict=True)])[:, None]
    return scale, decay if any(run.decay for run in runs) else None


def _checked_runs(runs: Sequence[SgdRun], units_b: int) -> list[_Run]:
    """The runs with the units of their losses filled in."""
    given = [runs] if isinstance(runs, SgdRun) else as_list(runs, "runs", "several SgdRun")
    if not given:
        raise ValueError("runs: expected at least one, got none")
    filled = []
    for run in given:
        if not isinstance(run, SgdRun):
            raise ValueError(f"runs: expected several SgdRun, got {came(run)}")
        require_known(run.schedule, _SCHEDULES, "schedule")
        require_known(run.start, _STARTS, "start")
        units = units_b if run.loss_units is None else _as_within(run.loss_units, "loss_units", 1)
        filled.append(_Run(run.start, run.schedule, units, _as_within(run.decay, "decay", 0)))
    return filled


def _checked_steps(steps: int | Sequence[int]) -> list[int]:
    what = "a whole number or several in rising order"
    wanted = as_whole([steps] if is_count(steps) else steps, "steps", what=what).tolist()
    rising = all(earlier < later for earlier, later in pairwise(wanted))
    if not wanted or wanted[0] < 0 or wanted[-1] > _MOST_STEPS or not rising:
        raise ValueError(f"steps: expected {what}, from 0 to {_MOST_STEPS}, got {came(steps)}")
    return wanted


def _as_within(value: float, name: str, least: float, most: float = 1e9) -> float:
    return as_number(value, name, f"{least:g} to {most:g}", lambda number: least <= number <= most)


def _standardised_rows(acts_a: Tensor, acts_b: Tensor, pair: PairMoments) -> tuple[Tensor, Tensor]:
    """Rows of both nets with mean 0 and variance 1 per unit; dead units are 0."""
    _, _, scale_a, scale_b = standardised(pair)
    parts = ((acts_a, pair.mean_a, scale_a), (acts_b, pair.mean_b, scale_b))
    rows_a, rows_b = (
        torch.where(scale > 0, (acts - mean) / scale.where(scale > 0, 1.0), 0.0).to(acts.dtype)
        for acts, mean, scale in parts
    )
    return rows_a, rows_b


def _started(start: str, x: Tensor, y: Tensor, seed: int) -> Tensor:
    """Weights before the first step, and in the last row the bias: (units_a + 1, units_b)."""
    weights = torch.zeros(x.shape[1] + 1, y.shape[1], dtype=x.dtype, device=x.device)
    if start == "random":
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(x.shape[1], y.shape[1], generator=generator, dtype=torch.float64).to(x)
        weights[:-1] = drawn / (x @ drawn).var(0, correction=0).mean().sqrt().clamp(min=torch.finfo(x.dtype).tiny)
    return weights


def _images_in_turn(n_images: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of images without end, in a new random order in every round; what fills no batch sits that round out."""
    while True:
        for index in torch.randperm(n_images, generator=generator).split(batch):
            if len(index) == batch:
                yield index
