"""Linear CKA of two ResNet-18, network and all, against pytorch-cka: in one run, interleaved, medians of five.

Both sides read the same loader, hook the same layers, and end with the similarity of each layer of one net to each of
the other. The peer is installed apart, `pip install --no-deps --target FOLDER pytorch-cka`, and FOLDER put on
PYTHONPATH. It takes each batch for a group and computes in float32; so the batches here are groups.

The peak of memory is that of a process of its own for each side: `python THIS_FILE SIDE` prints how much it rose.
"""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import convergent_utils as cu

pytestmark = pytest.mark.benchmark

LAYERS = ["conv1", "layer1", "layer2", "layer3", "layer4"]
N_IMAGES, SIDE = (int(os.environ.get(name, usual)) for name, usual in (("CKA_IMAGES", 1024), ("CKA_SIDE", 64)))


def networks():
    torchvision = pytest.importorskip("torchvision")
    found = {}
    for seed in (0, 1):
        torch.manual_seed(seed)
        found[f"net{seed + 1}"] = torchvision.models.resnet18(weights=None).eval()
    return found


def loader():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(N_IMAGES, 3, 8, 8, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=SIDE, mode="bilinear")
    return DataLoader(TensorDataset(images), batch_size=256)


def recorded(nets, batches):
    """For each batch the flattened outputs of all layers, by net and layer."""
    acts = {}

    def keep(block):
        return lambda module, args, output: acts.update({block: output.flatten(1)})

    hooks = [
        net.get_submodule(layer).register_forward_hook(keep(f"{name}.{layer}"))
        for name, net in nets.items()
        for layer in LAYERS
    ]
    for (images,) in batches:
        with torch.inference_mode():
            for net in nets.values():
                net(images)
        yield acts
        acts.clear()
    for hook in hooks:
        hook.remove()


def table(similarity):
    """(layers of net1, layers of net2)."""
    rows = [[float(similarity(f"net1.{a}", f"net2.{b}")) for b in LAYERS] for a in LAYERS]
    return torch.tensor(rows, dtype=torch.float64)


def ours(nets, batches):
    found = None
    for acts in recorded(nets, batches):
        if found is None:
            pairs = [(f"net1.{a}", f"net2.{b}") for a in LAYERS for b in LAYERS]
            found = cu.StreamingCKA({block: rows.shape[1] for block, rows in acts.items()}, pairs)
        found.update(acts)
    similarity = found.cka()
    return table(lambda a, b: similarity[a, b])


def by_definition(nets, batches):
    """Song et al. 2012, equation 5, from matrices of all pairs of samples in float64."""
    sums = {}
    for acts in recorded(nets, batches):
        products = {block: rows.double() @ rows.double().T for block, rows in acts.items()}
        for matrix in products.values():
            matrix.fill_diagonal_(0)
        n = len(next(iter(products.values())))
        for a, k in products.items():
            for b, m in products.items():
                joint = k.sum() * m.sum() / (n - 1) / (n - 2) - 2 / (n - 2) * k.sum(0) @ m.sum(0)
                sums[a, b] = sums.get((a, b), 0) + (k * m).sum() + joint
    return table(lambda a, b: sums[a, b] / (sums[a, a] * sums[b, b]).sqrt())


def theirs(nets, batches):
    from cka import compute_cka

    return compute_cka(nets["net1"], nets["net2"], batches, layers=LAYERS, device="cpu", progress=False)[0]


def peak():
    """The most memory that this process had so far, in MB; Linux says it."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def rise(side):
    """How much the peak of memory rises, in MB, in a process of its own."""
    command = [sys.executable, __file__, side]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def test_streaming_cka_against_pytorch_cka():
    pytest.importorskip("cka", reason="pytorch-cka is absent: pip install --no-deps --target FOLDER pytorch-cka")
    nets, batches = networks(), loader()
    sides, seconds, found = (ours, theirs), np.empty((6, 2)), [None, None]
    for k in range(6):  # the first is not counted
        for side, run in enumerate(sides):
            start = time.perf_counter()
            found[side] = run(nets, batches)
            seconds[k, side] = time.perf_counter() - start
    spent = np.median(seconds[1:], axis=0)
    ratio = np.median(seconds[1:, 0] / seconds[1:, 1])
    peaks = [rise(run.__name__) for run in sides]
    exact = by_definition(nets, batches)
    off = [float((similarity - exact).abs().max()) for similarity in found]
    print(f"\ntwo ResNet-18, {N_IMAGES} images of {SIDE} x {SIDE}: ours {spent[0]:.2f} s, pytorch-cka "
          f"{spent[1]:.2f} s (ratio {ratio:.2f}); memory {peaks[0]:.0f} and {peaks[1]:.0f} MB; off by {off[0]:.0e} "
          f"and {off[1]:.0e}")  # fmt: skip
    assert off[0] < 1e-8
    assert off[1] < 0.05, "both compute the same"
    assert ratio < 1.15
    assert peaks[0] < peaks[1]


if __name__ == "__main__":
    things = networks(), loader()
    before = peak()
    {"ours": ours, "theirs": theirs}[sys.argv[1]](*things)
    print(peak() - before)
