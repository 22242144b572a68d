"""Canonical correlations of whole feature maps, frequency by frequency."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import as_activations, form_of, require_finite_units, require_share, tensor_of
from .precision import power_of_two
from .products import require_held

_BLOCK_ROWS = 512  # of a product of which only the sum of squares is wanted


@dataclass(frozen=True)
class DFTCCA:
    """Canonical correlations of two stacks of maps at each frequency, in the order of `torch.fft.fft2`.

    Attributes:
        rho: (height, width, min(channels_a, channels_b)) float64 in [0, 1], falling along the last axis, 0 beyond the
            rank. Maps are real, so [i, j] and its mirror image [-i, -j] are equal.
        rank: (height, width) int64, the smaller of the ranks of both nets.
        similarity: 0-d float64, the sum of rho over the sum of ranks; 0 where all ranks are 0.
        off_diagonal_a, off_diagonal_b: 0-d float64 in [0, 1], the share of the squared covariance of the flattened maps
            that lies between different frequencies, which the comparison leaves out.

    Example:
        >>> maps = torch.randn(40, 6, 6, 2, generator=torch.Generator().manual_seed(0))
        >>> found = dft_cca(maps, maps)
        >>> found.rho.shape, found.rank.unique()
        (torch.Size([6, 6, 2]), tensor([2]))
    """

    rho: Tensor
    rank: Tensor
    similarity: Tensor
    off_diagonal_a: Tensor
    off_diagonal_b: Tensor


def dft_cca(maps_a: Tensor, maps_b: Tensor, *, rank_tolerance: float = 1e-7) -> DFTCCA:
    r"""The canonical correlations that flattened maps have over all cyclic shifts of all images.

    With :math:`\hat x_f, \hat y_f` the two-dimensional Fourier transforms of an image's maps at frequency f, one entry
    for each channel of either net, and whitenings :math:`K_f, L_f` that make these uncorrelated with variance 1,

    .. math:: \rho_f = \sigma\big(K_f^* \, E[\hat x_f \hat y_f^*] \, L_f\big).

    A shift multiplies each frequency by a phase of its own, so over all shifts different frequencies are uncorrelated,
    and the covariance of height x width x channels units falls into height x width blocks of channels x channels. A
    circular convolution mixes the channels within each frequency; if its filter is invertible, no rho changes.

    Args:
        maps_a: (images, height, width, channels_a) float tensor or NumPy array, of a layer with stride 1 and circular
            padding. The mean of each channel over images and places is subtracted.
        maps_b: (images, height, width, channels_b), the same images at the same height and width.
        rank_tolerance: relative cuts. At each frequency, eigenvalues of the correlations between channels below this
            share of the largest count as 0, and so does a channel whose amplitude is below this share of its whole.

    Returns:
        DFTCCA, computed in float64, nothing added to a diagonal. Extra memory is about eight times float32 maps.

    Raises:
        ValueError: not four dimensions, one of them empty, fewer than 2 images, unequal images, heights or widths,
            integer or complex types, NaN or infinity (naming the channel as unit), rank_tolerance not between 0 and 1.

    At each frequency an image is one sample, so the mean squared rho of independent channels is max(channels) / images.
    With images <= channels_a + channels_b some rho are 1 whatever the maps are: a warning says so.
    A mean map that is not the same in all places counts: a layout that all images share is likeness at its frequencies.
    Zero padding, and a border that all images share, make places unlike each other. `off_diagonal` says how much of the
    covariance of the images *as they are*, about the mean of each channel, the shifts wash out. As in `debiased_cka` no
    image is compared with itself: a few images of independent pixels would seem to have most of it off the diagonal.
    Source: Raghu et al. 2017, convolutional layers; off_diagonal is ours.

    Example:
        >>> maps = torch.randn(40, 6, 6, 2, generator=torch.Generator().manual_seed(0))
        >>> dft_cca(maps, maps.roll(1, dims=2)).similarity.round(decimals=4)
        tensor(1., dtype=torch.float64)
    """
    require_share(rank_tolerance, "rank_tolerance")
    maps_a, maps_b = _as_maps(maps_a, "maps_a"), _as_maps(maps_b, "maps_b")
    if maps_a.shape[:3] != maps_b.shape[:3]:
        expected, came = tuple(maps_a.shape[:3]), tuple(maps_b.shape[:3])
        raise ValueError(f"maps_b: expected (images, height, width) {expected} as in maps_a, got {came}")
    if maps_a.device != maps_b.device:
        raise ValueError(f"maps_b: expected maps on {maps_a.device} as maps_a, got them on {maps_b.device}")
    images, channels = len(maps_a), (maps_a.shape[3], maps_b.shape[3])
    if images <= sum(channels):
        warnings.warn(
            f"dft_cca: expected more than {sum(channels)} images, the channels of both nets, got {images}; rho is "
            f"meaningless, its mean square is about {min(1, max(channels) / images):.2f} for independent channels",
            stacklevel=2,
        )
    (white_a, rank_a, off_a), (white_b, rank_b, off_b) = (_whitened(maps, rank_tolerance) for maps in (maps_a, maps_b))
    rank = torch.minimum(rank_a, rank_b)
    rho = torch.linalg.svdvals(white_a.mH @ white_b).clamp(max=1)
    rho = rho * (torch.arange(min(channels), device=rho.device) < rank[..., None])
    rho, rank = (_with_mirror_images(found, maps_a.shape[2]) for found in (rho, rank))
    return DFTCCA(rho, rank, rho.sum() / rank.sum().clamp(min=1), off_a, off_b)


def _as_maps(value: Tensor, name: str) -> Tensor:
    """Checked maps in float64 (on the CPU where their device has none), channels centred, dead channels exactly 0."""
    read = tensor_of(value)
    shape = () if read is None else tuple(read.shape)
    if read is None or len(shape) != 4 or 0 in shape or shape[0] < 2:
        expected = "expected shape (images, height, width, channels) with at least 2 images"
        raise ValueError(f"{name}: {expected}, got {shape or form_of(value)}")
    rows = as_activations(read.reshape(-1, shape[3]), name)
    resolution = torch.finfo(rows.dtype).eps
    rows = (rows.cpu() if rows.device.type == "mps" else rows).double()
    size = power_of_two(torch.maximum(rows.amax(0), -rows.amin(0)))  # of each channel, so that no sum overflows
    rows = rows / size
    mean = rows.mean(0)
    require_finite_units(mean, name)
    rows = rows - mean
    high, low, variance = rows.amax(0), rows.amin(0), rows.var(0, correction=0)
    # the mean of equal numbers need not be that number: what varies is told by the variance
    live = variance.sqrt() > resolution * mean.abs()
    reach = torch.where(live, size * power_of_two(torch.maximum(high, -low)), 0.0)
    to_common = torch.where(live, size / power_of_two(reach.amax()), 0.0)  # channels that never change have no say
    require_held((variance * to_common * to_common >= torch.finfo(variance.dtype).tiny) | ~live, name)
    rows = rows * to_common
    return rows.reshape(shape)


def _whitened(maps: Tensor, rank_tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Channels made orthonormal over images at each frequency, 0 beyond the rank; the rank; the off-diagonal share."""
    spectrum = torch.fft.rfft2(maps, dim=(1, 2), norm="ortho").permute(1, 2, 0, 3)  # (frequencies, images, channels)
    gram = spectrum.mH @ spectrum
    power = gram.diagonal(dim1=-2, dim2=-1).real
    live = power > rank_tolerance**2 * power.sum((0, 1))
    scale = torch.where(live, power.where(live, 1.0).rsqrt(), 0.0)
    values, vectors = torch.linalg.eigh(gram * scale[..., None] * scale[..., None, :])
    kept = values > rank_tolerance * values[..., -1:]
    inverse = torch.where(kept, values.where(kept, 1.0).rsqrt(), 0.0)
    white = spectrum @ (scale[..., None] * vectors * inverse[..., None, :])
    return white, kept.sum(-1), _off_diagonal(maps, spectrum, gram)


def _off_diagonal(maps: Tensor, spectrum: Tensor, gram: Tensor) -> Tensor:
    """The share of the squared covariance of flattened maps between different frequencies, no image with itself."""
    power = torch.view_as_real(spectrum).square().sum((-2, -1))
    within = torch.view_as_real(gram).square().sum((-3, -2, -1)) - power.square().sum(-1)
    within = _with_mirror_images(within, maps.shape[2]).sum()
    rows = maps.flatten(1)
    itself = rows.square().sum(1).square().sum()
    rows = rows if len(rows) < rows.shape[1] else rows.T  # either product has the same sum of squares
    total = sum((block @ rows.T).square().sum() for block in rows.split(_BLOCK_ROWS)) - itself
    return torch.where(total > 0, 1 - within / total.where(total > 0, 1.0), 0.0).clamp(0, 1)


def _with_mirror_images(half: Tensor, width: int) -> Tensor:
    """All frequencies (height, width, ...) from those of a transform of real maps (height, width // 2 + 1, ...)."""
    return torch.cat([half, half[:, 1 : (width + 1) // 2].flip(0, 1).roll(1, 0)], 1)
