"""What the weights of a first layer look like."""

import torch
from torch import Tensor

from .checks import form_of, tensor_of
from .precision import power_of_two

_GRID = 64  # points of the transform along each side, so that small filters are resolved finely


def spatial_frequency(filters: Tensor) -> Tensor:
    r"""Mean spatial frequency of each filter, weighted by its power.

    .. math:: f_i = \frac{\sum_k |k| \, |\hat w_i(k)|^2}{\sum_k |\hat w_i(k)|^2}

    where :math:`\hat w_i(k)` is the two-dimensional Fourier transform of the filter, padded with zeros, its power added
    up over the input channels, and :math:`|k|` the length of the frequency.

    Args:
        filters: (units, channels, height, width), floating, finite.

    Returns:
        (units,) float64 in cycles per pixel, from 0 (a single tone) to .707 (a chequerboard); 0 for a filter of zeros.
        A filter of one pixel, or of independent noise, has the mean over all frequencies, about .38.

    Raises:
        ValueError: not four dimensions, a filter larger than 64 pixels, NaN or infinity.

    Scale and sign of a filter do not matter, nor where in the window its pattern lies.
    Source: ours.

    Example:
        >>> flat, chequered = torch.ones(2, 2), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
        >>> spatial_frequency(torch.stack([flat, chequered])[:, None]).round(decimals=1)
        tensor([0.2000, 0.5000], dtype=torch.float64)
    """
    read = tensor_of(filters)
    if read is None or read.ndim != 4 or 0 in read.shape or max(read.shape[2:]) > _GRID or not read.is_floating_point():
        expected = f"(units, channels, height, width) of a floating-point type, of at most {_GRID} pixels"
        raise ValueError(f"filters: expected {expected}, got {form_of(filters)}")
    filters = read
    if not filters.isfinite().all():
        raise ValueError("filters: expected finite weights, got NaN or infinity")
    filters = filters.detach().double()
    filters = filters / power_of_two(filters.abs().amax((1, 2, 3), keepdim=True))
    power = torch.fft.fft2(filters, s=(_GRID, _GRID)).abs().square().sum(1)
    step = torch.fft.fftfreq(_GRID, dtype=torch.float64, device=filters.device)
    length = torch.hypot(step[:, None], step[None, :])
    total = power.sum((1, 2))
    return (power * length).sum((1, 2)) / total.where(total > 0, 1.0)
