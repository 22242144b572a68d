import dataclasses
import warnings

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import conv2d, pad

from convergent_utils import dft_cca
from convergent_utils.kernels import dft_cca as module


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def convolved(maps, filters, mode="circular"):
    """Maps (images, height, width, channels) through filters (channels out, channels in, 3, 3), stride 1."""
    padded = pad(maps.movedim(3, 1), (1, 1, 1, 1), mode)
    return conv2d(padded, filters).movedim(1, 3)


def nets(generator, images=40, size=(4, 4), channels=(3, 2)):
    """Two nets that see the same image through filters of their own, with noise; places differ in mean and spread."""
    seen = normal(generator, images, *size, 2) * torch.rand(*size, 1, generator=generator) + normal(generator, *size, 1)
    return [convolved(seen, normal(generator, n, 2, 3, 3)) + normal(generator, images, *size, n) + 3 for n in channels]


def all_shifts(maps):
    """Every cyclic shift of every image, (images x height x width, height, width, channels)."""
    _, height, width, _ = maps.shape
    return torch.cat([maps.roll((i, j), (1, 2)) for i in range(height) for j in range(width)])


def flat_cca(maps_a, maps_b):
    """Canonical correlations of flattened maps, by orthonormal bases of what their units span."""
    bases = []
    for maps in (maps_a, maps_b):
        rows = maps.flatten(1).numpy()
        left, size, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
        bases.append(left[:, size > 1e-9 * size[0]])
    return np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)


# what it is


@pytest.mark.parametrize(
    ("size", "channels"), [((4, 4), (3, 2)), ((3, 5), (3, 2)), ((2, 3), (1, 4)), ((1, 6), (2, 2)), ((1, 1), (3, 5))]
)
def test_it_is_the_cca_of_flattened_maps_over_all_images_and_all_shifts(size, channels, generator, device):
    a, b = nets(generator, 40, size, channels)
    found = dft_cca(a.to(device), b.to(device))
    least = min(channels)
    assert found.rho.shape == (*size, least)
    assert found.rho.dtype == torch.float64
    assert found.rho.device.type == device
    assert (found.rank == least).all()
    oracle = flat_cca(all_shifts(a), all_shifts(b))
    assert found.rho.flatten().sort(descending=True).values.cpu().numpy() == pytest.approx(oracle, abs=1e-9)
    assert float(found.similarity) == pytest.approx(oracle.mean(), abs=1e-10)
    assert (found.rho.diff(dim=-1) <= 0).all()


@pytest.mark.parametrize("size", [(4, 4), (5, 3), (6, 1)])
def test_each_frequency_stands_where_fft2_puts_it(size, generator):
    a, b = nets(generator, size=size)
    found = dft_cca(a, b)
    spectra = [np.fft.fft2(maps - maps.mean((0, 1, 2)), axes=(1, 2)) for maps in (a.numpy(), b.numpy())]
    for i in range(size[0]):
        for j in range(size[1]):
            bases = [np.linalg.qr(spectrum[:, i, j])[0] for spectrum in spectra]
            oracle = np.linalg.svd(bases[0].conj().T @ bases[1], compute_uv=False)
            assert found.rho[i, j].numpy() == pytest.approx(oracle, abs=1e-10)
            assert torch.equal(found.rho[i, j], found.rho[-i, -j]), "maps are real"


def test_all_shifts_are_already_contained(generator):
    a, b = nets(generator)
    once, again = dft_cca(a, b), dft_cca(all_shifts(a), all_shifts(b))
    assert torch.allclose(once.rho, again.rho, atol=1e-12)
    assert once.off_diagonal_a > 0.05
    assert again.off_diagonal_a == again.off_diagonal_b == 0


# planted


def test_an_invertible_circular_convolution_is_found_out(generator):
    a, _ = nets(generator, images=60, size=(5, 6))
    filters = normal(generator, 3, 3, 3, 3)
    assert dft_cca(a, convolved(a, filters)).rho.min() > 1 - 1e-9
    assert dft_cca(a, convolved(a, filters, "constant")).rho.min() < 0.9, "zero padding is not circular"
    assert dft_cca(a, a.roll((1, 2), (1, 2))).similarity > 1 - 1e-9, "a shift is a convolution"


def test_it_has_the_invariances_of_a_circular_layer_and_no_more(generator):
    a, b = nets(generator, images=60, size=(4, 5))
    before = dft_cca(a, b).rho
    order = torch.randperm(60, generator=generator)
    same = {
        "images of both": dft_cca(a[order], b[order]),
        "channels, their scales and shifts": dft_cca(a, b.flip(3) * torch.tensor([-3.0, 0.01]) + 1000),
        "a convolution": dft_cca(convolved(a, normal(generator, 3, 3, 3, 3)), b),
        "a shift of both": dft_cca(a.roll((1, 3), (1, 2)), b.roll((1, 3), (1, 2))),
        "nets swapped": dft_cca(b, a),
    }
    for change, found in same.items():
        assert torch.allclose(found.rho, before, atol=1e-8), change
    places = torch.randperm(20, generator=generator)
    for changed in (b[order], b.flatten(1, 2)[:, places].reshape(b.shape), b.exp()):
        assert (dft_cca(a, changed).rho - before).abs().mean() > 0.01


def test_a_layout_that_all_images_share_counts_as_likeness(generator):
    a, b = normal(generator, 200, 4, 4, 2), normal(generator, 200, 4, 4, 2)
    layout = 2 * normal(generator, 4, 4, 1)
    assert dft_cca(a + layout, b + layout).similarity > dft_cca(a, b).similarity + 0.2


@pytest.mark.parametrize("channels", [(6, 6), (3, 9)])
def test_independent_maps_are_at_chance(channels, generator):
    a, b = (normal(generator, 90, 6, 6, n) for n in channels)
    found = dft_cca(a, b)
    assert float(found.rho.square().mean()) == pytest.approx(max(channels) / 90, rel=0.1)


def test_too_few_images_for_the_channels_warn(generator):
    a, b = normal(generator, 12, 3, 3, 4), normal(generator, 12, 3, 3, 8)
    told = "expected more than 12 images, the channels of both nets, got 12; .* its mean square is about 0.67"
    with pytest.warns(UserWarning, match=told):
        found = dft_cca(a, b)
    assert float(found.rho[0, 0, 0]) == pytest.approx(1), "at frequency 0 the mean takes one image away"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dft_cca(normal(generator, 13, 3, 3, 4), normal(generator, 13, 3, 3, 8))
    with pytest.warns(UserWarning, match="about 1.00"):
        assert float(dft_cca(a[:3], b[:3]).similarity) == pytest.approx(1)


# off the diagonal


@pytest.mark.parametrize(("images", "size", "channels"), [(7, (3, 4), 2), (50, (3, 3), 2)])
def test_off_diagonal_is_of_pairs_of_different_images(images, size, channels, generator):
    a, b = nets(generator, images, size, (channels, channels))
    spectrum = np.fft.fft2(a.numpy() - a.numpy().mean((0, 1, 2)), axes=(1, 2), norm="ortho")
    products = np.einsum("ihwc,jhwc->ijhw", spectrum.conj(), spectrum)[~np.eye(images, dtype=bool)]
    oracle = 1 - (abs(products) ** 2).sum() / (abs(products.sum((1, 2))) ** 2).sum()
    assert 0.01 < oracle < 1
    assert float(dft_cca(a, b).off_diagonal_a) == pytest.approx(oracle, abs=1e-10)
    assert float(dft_cca(b, a).off_diagonal_b) == pytest.approx(oracle, abs=1e-10)


def test_off_diagonal_goes_block_by_block(generator, monkeypatch):
    a, b = nets(generator)
    whole = dft_cca(a, b).off_diagonal_a
    monkeypatch.setattr(module, "_BLOCK_ROWS", 7)
    assert float(dft_cca(a, b).off_diagonal_a) == pytest.approx(float(whole), abs=1e-14)


def test_off_diagonal_tells_padding_and_borders_from_what_looks_alike_everywhere(generator):
    noise = normal(generator, 400, 8, 8, 3)
    filters = torch.ones(3, 3, 3, 3, dtype=torch.float64) + normal(generator, 3, 3, 3, 3)
    circular, padded = (convolved(convolved(noise, filters, mode), filters, mode) for mode in ("circular", "constant"))
    dark = noise.clone()
    dark[:, [0, -1]], dark[:, :, [0, -1]] = 0, 0
    assert dft_cca(noise, circular).off_diagonal_a < 0.01, "few images do not make it look large"
    assert dft_cca(noise, circular).off_diagonal_b < 0.05
    assert dft_cca(noise, padded).off_diagonal_b > 0.1
    assert float(dft_cca(dark, noise).off_diagonal_a) == pytest.approx(1 - (6 / 8) ** 2, abs=0.02)
    assert dft_cca(noise + 5 * dark[:1], noise).off_diagonal_a > 0.5, "a layout that all images share"


# degenerate maps


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_channels_give_numbers_and_ranks(dtype, generator):
    a, b = (maps.to(dtype) for maps in nets(generator, size=(3, 4)))
    dead, constant, flat = torch.zeros_like(a[..., :1]), torch.full_like(a[..., :1], 0.1), torch.zeros_like(a[..., :1])
    flat += normal(generator, 40, 1, 1, 1).to(dtype)  # one value for a whole image: all of it at frequency 0
    before = dft_cca(a, b)
    spoilt = dft_cca(torch.cat([a, a[..., :2], dead, constant], 3), torch.cat([b, -b, constant], 3))
    assert torch.equal(spoilt.rank, before.rank)
    assert torch.allclose(spoilt.rho[..., :2], before.rho, atol=1e-6)
    assert (spoilt.rho[..., 2:] == 0).all()
    assert float(spoilt.similarity) == pytest.approx(float(before.similarity), abs=1e-6)
    lonely = dft_cca(a, torch.cat([flat, dead], 3))
    assert lonely.rank.flatten().tolist() == [1] + [0] * 11
    assert (lonely.rho.flatten()[2:] == 0).all()
    assert lonely.similarity == lonely.rho[0, 0, 0] > 0
    for x, y in ((a, dead), (constant, b), (dead, constant)):
        empty = dft_cca(x, y)
        assert (empty.rho == 0).all()
        assert (empty.rank == 0).all()
        assert empty.similarity == 0
        assert dft_cca(constant, y).off_diagonal_a == 0
    once = torch.zeros_like(a)
    once[17, 1, 2] = torch.tensor([1.0, -3.0, 0.1], dtype=dtype)
    found = dft_cca(once, b)
    assert all(value.isfinite().all() for value in vars(found).values())
    assert (found.rank[1:] == 1).all()


def test_float32_numpy_and_other_layouts_are_read_and_inputs_left_alone(generator):
    a, b = (maps.float() for maps in nets(generator))
    kept, found = a.clone(), dft_cca(a.double(), b.double())
    channels_first = a.movedim(3, 1).contiguous().movedim(1, 3)
    for x, y in ((a, b), (a.numpy(), b), (channels_first, b)):
        assert torch.equal(dft_cca(x, y).rho, found.rho)
    assert torch.equal(a, kept)
    far = dft_cca(a + 1000, b - 1000)
    assert torch.allclose(far.rho, found.rho, atol=1e-3)
    assert torch.allclose(dft_cca(a.double() + 1000, b.double() - 1000).rho, found.rho, atol=1e-10)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float32, 2.0**-100), (torch.float32, 2.0**100)]
    + [(torch.float64, 2.0**k) for k in (-1000, -664, -400, 400, 664, 1000)],
)
def test_the_scale_of_a_net_changes_no_bit(dtype, scale, generator):
    a, b = (maps.to(dtype) for maps in nets(generator))
    expected = vars(dft_cca(a, b))
    for found in (dft_cca(a * scale, b), dft_cca(a, b * scale), dft_cca(a * scale, b * scale)):
        assert all(torch.equal(value, expected[name]) for name, value in vars(found).items())


def test_a_channel_of_another_scale_is_right_or_refused(generator):
    a, b = nets(generator)
    expected = dft_cca(a, b).rho
    for scale in (1e-30, 1e30, 1e-140, 1e140):
        assert torch.allclose(dft_cca(a * torch.tensor([1, scale, 1], dtype=a.dtype), b).rho, expected, atol=1e-9)
    with pytest.raises(ValueError, match="maps_a: expected activations whose squares float64 can hold.* in unit 1"):
        dft_cca(a * torch.tensor([1, 1e-200, 1], dtype=a.dtype), b)
    a[..., 1] = 1e-200
    assert (dft_cca(a, b).rank == 2).all()


# bad input


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a, b: (a, b[:-1]), r"maps_b: .*\(40, 4, 4\) as in maps_a, got \(39, 4, 4\)"),
        (lambda a, b: (a, b[:, :3]), r"got \(40, 3, 4\)"),
        (lambda a, b: (a[0], b), r"maps_a: expected shape \(images, height, width, channels\).*got \(4, 4, 3\)"),
        (lambda a, b: (a, b[..., :0]), r"maps_b: .*got \(40, 4, 4, 0\)"),
        (lambda a, b: (a[:1], b[:1]), r"maps_a: .*at least 2 images, got \(1, 4, 4, 3\)"),
        (lambda a, b: (a.tolist(), b), "maps_a: expected .*got list"),
        (lambda a, b: (a.long(), b), "maps_a: expected floating-point"),
        (lambda a, b: (a, b.to(torch.complex64)), "maps_b: expected floating-point"),
        (lambda a, b: (a, b.index_fill(3, torch.tensor(1), torch.nan)), "maps_b: .*NaN or infinity in unit 1"),
        (lambda a, b: (a.index_fill(1, torch.tensor(2), torch.inf), b), "maps_a: .*NaN or infinity in unit 0"),
    ],
)
def test_bad_maps_are_named(spoil, message, generator):
    with pytest.raises(ValueError, match=message):
        dft_cca(*spoil(*nets(generator)))


@pytest.mark.parametrize("tolerance", [0, 1, 2, -1e-5])
def test_a_tolerance_is_a_share(tolerance, generator):
    with pytest.raises(ValueError, match="rank_tolerance: expected a share between 0 and 1"):
        dft_cca(*nets(generator), rank_tolerance=tolerance)


def test_results_are_frozen(generator):
    with pytest.raises(dataclasses.FrozenInstanceError):
        dft_cca(*nets(generator)).rho = None


@pytest.mark.usefixtures("fake_cuda")
def test_everything_stays_on_the_gpu():
    """On a fake cuda device any look at a value raises, so a run that passes has no host synchronisation."""
    with FakeTensorMode():
        found = dft_cca(torch.randn(50, 4, 5, 3, device="cuda"), torch.randn(50, 4, 5, 2, device="cuda"))
        assert found.rho.shape == (4, 5, 2)
        assert all(value.device.type == "cuda" for value in vars(found).values())


@pytest.mark.parametrize("constant", [1e200, -1.7e308, 1e-200])
@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_a_channel_that_never_changes_has_no_say_in_the_scale(generator, constant, scale):
    a, b = torch.randn(2, 30, 4, 4, 2, generator=generator, dtype=torch.float64)
    silent, still = (torch.full_like(a[..., :1], value) for value in (0.0, constant))
    right, found = (dft_cca(torch.cat([a * by, last], 3), b) for by, last in ((1, silent), (scale, still)))
    for name, value in vars(right).items():
        assert torch.allclose(getattr(found, name), value, rtol=0, atol=1e-12)
