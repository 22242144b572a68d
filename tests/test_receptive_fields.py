import numpy as np
import pytest
import torch
from odd_inputs import Row, judge
from torch import nn

import convergent_utils as cu


@pytest.fixture
def network():
    return cu.build_network("alexnet", seed=1).eval()


@pytest.mark.parametrize("layer", ["conv1", "pool1", "conv2", "conv3", "conv5"])
def test_receptive_field_is_where_the_gradient_lives(network, layer):
    """The pixels that move a unit, over many inputs, fill its receptive field and never leave it."""
    field = cu.receptive_field(network, layer)
    until = nn.Sequential(
        *[m for m, name in zip(network, dict(network.named_children()), strict=True)][
            : 1 + list(dict(network.named_children())).index(layer)
        ]
    )
    for place in ((3, 3), (0, 5)):
        image = torch.randn(60, 1, 28, 28, generator=torch.Generator().manual_seed(1)).requires_grad_()
        until(image)[:, :, place[0], place[1]].sum().backward()
        touched = image.grad.abs().sum((0, 1)) > 0
        allowed = torch.zeros(28, 28, dtype=torch.bool)
        box = [
            slice(max(0, field.start + k * field.step), max(0, field.start + k * field.step + field.size))
            for k in place
        ]
        allowed[box[0], box[1]] = True
        assert not (touched & ~allowed).any()
        assert touched[box[0], box[1]].double().mean() > 0.95


def test_patches(network):
    images = torch.arange(28 * 28, dtype=torch.int32).reshape(1, 28, 28, 1)
    field = cu.receptive_field(network, "conv1")
    assert (field.size, field.step, field.start) == (5, 1, -2)
    assert torch.equal(cu.patch(images, field, (10, 12))[0], images[0, 8:13, 10:15])
    corner = cu.patch(images, field, (0, 27))[0]
    assert torch.equal(corner[2:, :3], images[0, :3, 25:])
    assert (corner[:2] == 0).all()
    assert (corner[:, 3:] == 0).all()
    assert cu.receptive_field(network, "fc6") is None
    assert torch.equal(cu.patch(images, None, (0, 0)), images)


CHAINS = {
    "stride and dilation": [nn.Conv2d(1, 2, 3, 2, 2, 2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(2, 2, 3, padding=1)],
    "at one place": [
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.GELU(),
        nn.Dropout(),
        nn.PReLU(),
        nn.LocalResponseNorm(2),
    ],
    "chains in chains": [nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.SiLU(), nn.LPPool2d(2, 2))), nn.Identity()],
    "norm of the running image": [nn.Conv2d(1, 2, 5, 3), nn.InstanceNorm2d(2, track_running_stats=True)],
}
WHOLE = {
    "group norm": [nn.Conv2d(1, 2, 3), nn.GroupNorm(2, 2), nn.ReLU()],
    "instance norm": [nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2)],
    "layer norm of whole maps": [nn.Conv2d(1, 2, 3), nn.LayerNorm((2, 30, 30))],
    "linear after an adaptive pooling": [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 2)],
}
UNKNOWN = {
    "upsampling": [nn.Conv2d(1, 2, 3), nn.Upsample(scale_factor=2), nn.Conv2d(2, 2, 3)],
    "transposed convolution": [nn.ConvTranspose2d(1, 2, 4, 2, 1)],
    "norm over the width": [nn.Conv2d(1, 2, 3), nn.LayerNorm(30)],
    "softmax over the width": [nn.Conv2d(1, 2, 3), nn.Softmax(dim=3)],
    "pixels moved": [nn.Conv2d(1, 4, 3), nn.PixelShuffle(2)],
    "padding that wraps": [nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")],
    "windows that are not square": [nn.Conv2d(1, 2, (3, 1))],
    "padding in words": [nn.Conv2d(1, 2, 3, padding="same")],
    "a block with a shortcut": [nn.Conv2d(1, 2, 3), type("Block", (nn.Module,), {"forward": lambda self, x: x})()],
}


def field_with(name, value):
    return cu.ReceptiveField(**{"size": 3, "step": 1, "start": 0, name: value})


def touched(network, place):
    """Which pixels of the image move the unit at a place, by gradient, over many inputs."""
    images = torch.randn(40, 1, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    network(images)[(slice(None), slice(None), *place)].sum().backward()
    return images.grad.abs().sum((0, 1)) > 0


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_the_window_of_any_chain_is_where_its_gradient_lives(chain):
    network, place = nn.Sequential(*chain).eval(), (4, 4)
    field = last_of(chain)
    rows, columns = touched(network, place).nonzero().T
    first = field.start + 4 * field.step
    assert (int(rows.min()), int(columns.min())) == (first, first)
    assert (int(rows.max()), int(columns.max())) == (first + field.size - 1, first + field.size - 1)
    assert int(touched(network, (5, 4)).nonzero()[:, 0].min()) == first + field.step


@pytest.mark.parametrize("chain", WHOLE.values(), ids=WHOLE)
def test_what_looks_at_all_places_has_no_window(chain):
    network = nn.Sequential(*chain)
    assert last_of(chain) is None
    if not isinstance(chain[-1], nn.Linear):
        assert touched(network, (4, 4)).double().mean() > 0.8


UPSAMPLED = nn.Sequential(*UNKNOWN["upsampling"])
FIELD = cu.ReceptiveField(3, 2, -1)
IMAGES = torch.arange(64).reshape(1, 8, 8, 1)


def last_of(chain):
    return cu.receptive_field(nn.Sequential(*chain), str(len(chain) - 1))


def is_inner(found):
    return torch.equal(found[0, :, :, 0], IMAGES[0, 1:4, 1:4, 0])


ROWS = [
    *(
        Row("receptive_field", what, lambda chain=chain: last_of(chain), "network")
        for what, chain in UNKNOWN.items()
    ),
    Row("receptive_field", "not a chain", lambda: cu.receptive_field(nn.Linear(2, 2), "fc6"), "network"),
    Row("receptive_field", "no network", lambda: cu.receptive_field(None, "fc6"), "network"),
    Row("receptive_field", "unknown layer", lambda: cu.receptive_field(nn.Sequential(nn.ReLU()), "conv"), "layer"),
    Row("receptive_field", "no layer", lambda: cu.receptive_field(nn.Sequential(nn.ReLU()), None), "layer"),
    Row("receptive_field", "pooling that varies", lambda: last_of([nn.AdaptiveMaxPool2d(3)]), "layer"),
    Row("receptive_field", "below what is unknown", lambda: cu.receptive_field(UPSAMPLED, "0"), lambda f: f.size == 3),
    Row("ReceptiveField", "of size 0", lambda: cu.ReceptiveField(0, 1, 0), "size"),
    Row("ReceptiveField", "half a step", lambda: cu.ReceptiveField(3, 0.5, 0), "step"),
    Row("ReceptiveField", "start in words", lambda: cu.ReceptiveField(3, 1, "0"), "start"),
    Row("patch", "no images", lambda: cu.patch(None, FIELD, (0, 0)), "images"),
    Row("patch", "one image", lambda: cu.patch(IMAGES[0], FIELD, (0, 0)), "images"),
    Row("patch", "a field of numbers", lambda: cu.patch(IMAGES, (3, 2, -1), (0, 0)), "field"),
    Row("patch", "one number as place", lambda: cu.patch(IMAGES, FIELD, 3), "place"),
    Row("patch", "three numbers as place", lambda: cu.patch(IMAGES, FIELD, (1, 2, 3)), "place"),
    Row("patch", "a share as place", lambda: cu.patch(IMAGES, FIELD, (0.5, 0.5)), "place"),
    Row("patch", "two numbers and a word as place", lambda: cu.patch(IMAGES, FIELD, (1, 1, "x")), "place"),
    Row("patch", "many digits as place", lambda: cu.patch(IMAGES, FIELD, (0, 10**5000)), "place"),
    Row("patch", "one array as place", lambda: cu.patch(IMAGES, FIELD, np.array(1)), "place"),
    Row("patch", "sparse images", lambda: cu.patch(IMAGES.to_sparse(), FIELD, (1, 1)), "images"),
    Row("patch", "a field beyond memory", lambda: cu.patch(IMAGES, field_with("size", 2**31 - 1), (0, 0)), "field"),
    *[
        Row("ReceptiveField", f"{digits} digits as {name}", lambda n=name, d=digits: field_with(n, 10**d), name)
        for name in ("size", "step", "start")
        for digits in (20, 400, 5000)
    ],
    Row("patch", "below the image", lambda: cu.patch(IMAGES, FIELD, (5, 0)), "place"),
    Row("patch", "above the image", lambda: cu.patch(IMAGES, FIELD, (-2, 0)), "place"),
    Row("patch", "numbers of NumPy", lambda: cu.patch(IMAGES, FIELD, (np.int64(1), np.int32(1))), is_inner),
    Row("patch", "places of a tensor", lambda: cu.patch(IMAGES, FIELD, torch.tensor([1, 1])), is_inner),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_odd_inputs(row):
    judge(row)
