import math

import pytest
import torch

import convergent_utils as cu


def gratings(*frequencies, size=32):
    """Waves along the width, under a smooth window so that their ends do not ring."""
    x = torch.arange(size, dtype=torch.float64)
    window = torch.hann_window(size, periodic=False, dtype=torch.float64)
    waves = torch.stack([torch.cos(2 * math.pi * f * x) for f in frequencies])
    return (waves[:, None] * window[:, None] * window)[:, None]


def test_a_grating_has_its_own_frequency():
    frequencies = [0.125, 0.25, 0.375]
    found = cu.spatial_frequency(gratings(*frequencies))
    assert found == pytest.approx(frequencies, abs=0.01)


def test_the_extremes():
    flat, spot = torch.ones(1, 1, 64, 64), torch.zeros(1, 1, 5, 5)
    spot[..., 2, 2] = 1
    chequers = (-1.0) ** (torch.arange(64)[:, None] + torch.arange(64))[None, None]
    found = [cu.spatial_frequency(x).item() for x in (flat, spot, chequers, torch.zeros(1, 1, 5, 5))]
    assert found == pytest.approx([0, 0.3826, math.sqrt(0.5), 0], abs=2e-4)


def test_what_it_does_not_depend_on(generator):
    filters = torch.randn(6, 3, 5, 5, generator=generator)
    turned, mirrored, shifted = filters.transpose(2, 3), filters.flip(3), torch.nn.functional.pad(filters, (2, 0, 0, 1))
    for other in (-3 * filters, turned, mirrored, shifted, filters[:, [2, 0, 1]]):
        assert torch.allclose(cu.spatial_frequency(other), cu.spatial_frequency(filters))
    smooth = torch.nn.functional.avg_pool2d(filters, 3, stride=1, padding=1)
    assert (cu.spatial_frequency(smooth) < cu.spatial_frequency(filters) - 0.05).all()


@pytest.mark.parametrize("scale", [2.0**-1000, 1e-170, 1e-30, 1e160, 2.0**1000])
def test_any_scale_is_right(scale, generator):
    filters = torch.randn(6, 3, 5, 5, generator=generator, dtype=torch.float64)
    expected = cu.spatial_frequency(filters)
    filters[[0, 3]] *= scale
    assert cu.spatial_frequency(filters) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(3, 5, 5), (1, 1, 65, 5)])
def test_bad_filters(shape):
    with pytest.raises(ValueError, match="filters: expected"):
        cu.spatial_frequency(torch.zeros(shape))
    with pytest.raises(ValueError, match="NaN or infinity"):
        cu.spatial_frequency(torch.full((1, 1, 2, 2), math.nan))
