"""Odd inputs of data sets, networks, training, interventions and the store: right, or refused in one sentence."""

import os
import tempfile
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_inputs import Row, judge
from safetensors.torch import save_file
from torch import nn

import convergent_utils as cu

NO_NUMBERS = {"nothing": None, "text": "x", "a list": [1, 2], "a share": 0.5, "NaN": float("nan")}
NO_DEPTHS = {"text": "x", "a list": [1, 2], "a share": 0.5, "NaN": float("nan")}
NO_NETWORKS = {"nothing": None, "text": "net", "a list": [nn.Linear(2, 2)], "a class": nn.Linear, "a function": len}


def images(n=20, size=28, channels=1):
    return torch.randint(0, 256, (n, size, size, channels), generator=torch.Generator().manual_seed(0)).byte()


def data(n=20, size=28, channels=1, labels=None):
    labels = torch.arange(n) % 10 if labels is None else labels
    return cu.Dataset(images(n, size, channels), labels, tuple("abcdefghij"), "made here")


@cache
def network():
    return cu.build_network("alexnet-narrow", seed=1)


def fitted(penalties=1):
    """Maps between 16 units."""
    acts = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    return cu.sparse_mapping(cu.pair_moments(acts, acts), [0.1] * penalties)


def flat(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10)).to(dtype)


class Pixels(nn.Module):
    """A network without weights: the first ten pixels are its logits."""

    def forward(self, batch):
        return batch.flatten(1)[:, :10]


class Says(nn.Module):
    """A network that says `make(n)` of n images; it has a weight, so that it could be trained."""

    def __init__(self, make):
        super().__init__()
        self.make, self.weight = make, nn.Parameter(torch.ones(1))

    def forward(self, batch):
        return self.make(len(batch))


def one_more(large, dtype):
    """Logits of which the third is larger than the others by one in `large`, which float32 rounds away."""
    return Says(lambda n: torch.tensor([[large + (k == 2) for k in range(10)]] * n, dtype=dtype))


def infinite(sign):
    return Says(lambda n: torch.zeros(n, 10).index_fill(1, torch.tensor([2]), sign * float("inf")))


def quantised(n):
    with warnings.catch_warnings():  # torch says that it will have none some day
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.eye(10)[[2] * n], 0.5, 0, torch.qint8)


NO_LOGITS = {
    "complex": Says(lambda n: torch.zeros(n, 10, dtype=torch.complex64)),
    "sparse": Says(lambda n: torch.zeros(n, 10).to_sparse()),
    "meta": Says(lambda n: torch.zeros(n, 10, device="meta")),
    "infinite": infinite(1),
    "minus infinite": infinite(-1),
    "too large": Says(lambda n: torch.full((n, 10), 2**64 - 1, dtype=torch.uint64)),
    "no tensor": Says(lambda n: [0] * n),
    "one axis": Says(torch.zeros),
}


class Loud(cu.Network):
    """A network of another class."""

    def forward(self, batch):
        return 2 * super().forward(batch)


def altered(change):
    """A narrow network that `change` has done something to."""
    net = cu.build_network("alexnet-narrow", seed=1)
    change(net)
    return net


ALTERED = {
    "an activation": lambda net: net.conv1.__setitem__(1, nn.Tanh()),
    "a pooling": lambda net: setattr(net, "pool1", nn.AvgPool2d(2)),
    "a size of pooling": lambda net: setattr(net.pool1, "stride", 1),
    "a module more": lambda net: net.add_module("softmax", nn.Softmax(1)),
    "a module less": lambda net: net.__delattr__("pool2"),
    "a hook": lambda net: net.conv1.register_forward_hook(lambda module, inputs, out: out + 1),
    "a hook of its own": lambda net: net.register_forward_pre_hook(lambda module, inputs: None),
    "a hook of gradients": lambda net: net.fc6.register_full_backward_hook(lambda module, a, b: None),
    "a method": lambda net: setattr(net, "forward", lambda batch: batch),
    "an attribute": lambda net: setattr(net, "note", np.arange(3)),
    "its layers": lambda net: setattr(net, "layers", net.layers[::-1]),
    "its class": lambda net: setattr(net, "__class__", Loud),
    "its configuration": lambda net: setattr(net, "configuration", {}),
    "another's configuration": lambda net: setattr(net, "configuration", {**net.configuration, "classes": 3}),
    "a norm of weights": lambda net: nn.utils.parametrizations.weight_norm(net.fc6[0]),
    "a weight": lambda net: setattr(net.fc8, "weight", nn.Parameter(torch.zeros(2, 64))),
}


class Scaled(nn.Module):
    """A network whose outputs are `factor` times those of a line."""

    def __init__(self, factor):
        super().__init__()
        self.factor, self.line = factor, flat()

    def forward(self, batch):
        return self.factor * self.line(batch)


def halved(share):
    """Weights trained at a constant share of the rate."""
    return cu.train(flat(), data(), cu.Recipe(epochs=1, batch=8), seed=0, rate=lambda _: share).at(1.0)[1].weight


def spoil(net, share):
    with torch.no_grad():
        net[1].weight[0, 0] = float("nan") if share > 0.5 else 0.0


def with_channels(channels):
    return cu.build_network("alexnet-narrow", channels=channels)


def swell(net, share):
    with torch.no_grad():
        net[1].weight.copy_(torch.where(net[1].weight > 0, 3e38, -3e38))


def history():
    return cu.History(torch.zeros(1), torch.zeros(1))


def masked(mask):
    with warnings.catch_warnings():  # torch says that they are new
        warnings.simplefilter("ignore")
        return torch.masked.masked_tensor(torch.ones(torch.tensor(mask).shape), torch.tensor(mask))


def near(value, within=1e-6):
    return lambda found: abs(float(found) - float(value)) <= within


def of_shape(*shape):
    return lambda found: tuple(found.shape) == shape and found.dtype == torch.float32


def is_tensor(expected):
    return lambda found: torch.allclose(found.double(), expected.double(), atol=1e-6)


def always(_):
    return True


def each(function, what, calls, expect):
    """A row for each of these calls."""
    return [Row(function, f"{what} {name}", call, expect) for name, call in calls.items()]


def with_values(values, call):
    return {name: (lambda value=value: call(value)) for name, value in values.items()}


def foreign(folder, kind):
    """A file that is none of this package."""
    path = folder / f"foreign.{kind}"
    if kind == "npy":
        np.save(path, np.zeros(3))
    elif kind == "safetensors":
        save_file({"x": torch.zeros(2)}, path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text("a text")
    return path


def inside(call):
    """What `call` makes of a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        return call(Path(folder))


def load_foreign(kind):
    return inside(lambda new: cu.load(foreign(new, kind)))


FOREIGN = ["npy", "safetensors", "folder", "txt", *(["fifo"] if hasattr(os, "mkfifo") else [])]
STORE_CALLS = {
    "keep": lambda store, kind: store.keep(kind, {}, 1),
    "find": lambda store, kind: store.find(kind, {}),
    "file": lambda store, kind: store.file(kind, {}),
    "lock": lambda store, kind: store.lock(kind, {}).__enter__(),
}
EYE, DIRECTIONS = torch.eye(4).double(), torch.eye(4)[:, :2].double()
FORWARD = {"conv1": 10, "fc8": 20}
DATA = [
    *each("load_dataset", "name", with_values(NO_NUMBERS, cu.load_dataset), "name"),
    *each(
        "load_dataset", "split", with_values(NO_NUMBERS, lambda v: cu.load_dataset("fashion-mnist", split=v)), "split"
    ),
    *each(
        "load_dataset",
        "limit",
        with_values(
            {"text": "x", "half": 0.5, "none": 0, "fewer": -1, "truth": True},
            lambda v: cu.load_dataset("fashion-mnist", limit=v),
        ),
        "limit",
    ),
    *each(
        "load_dataset",
        "of",
        with_values(
            {
                "a colon": "fashion-mnist:x",
                "no path": "npz:",
                "no file": "npz:/nowhere/x.npz",
                "no folder": "folder:/nowhere",
                "a long path": "folder:" + "x" * 5000,
                "a NUL": "npz:\0",
                "lines": "npz:/nowhere/a\nb.npz",
                "lines of folders": "folder:/nowhere/a\nb",
                "a lone surrogate": "npz:/nowhere/\ud800.npz",
                "bytes that are no text": "folder:/nowhere/\udcff",
            },
            cu.load_dataset,
        ),
        "name",
    ),
    Row(
        "load_dataset",
        "limit of NumPy",
        lambda: cu.load_dataset("fashion-mnist", limit=np.int64(3)),
        lambda found: len(found) == 3,
    ),
    Row("load_dataset", "more than there are", lambda: data(5).part(10**6), lambda found: len(found) == 5),
    *each(
        "normalise",
        "of",
        with_values(
            {
                **NO_NUMBERS,
                "floats": torch.zeros(1, 2, 2, 1),
                "one image": images()[0],
                "sparse": images().to_sparse(),
                "whole numbers": images().int(),
            },
            cu.normalise,
        ),
        "images",
    ),
    Row(
        "normalise",
        "an image without pixels",
        lambda: cu.normalise(images(0)),
        lambda found: found.shape == (0, 1, 28, 28),
    ),
    *each(
        "Dataset",
        "images",
        with_values(
            {**NO_NUMBERS, "floats": images().float(), "three axes": images()[..., 0]},
            lambda v: cu.Dataset(v, torch.arange(20), ("a",) * 20, "x"),
        ),
        "images",
    ),
    *each(
        "Dataset",
        "labels",
        with_values(
            {
                "nothing": None,
                "text": "x",
                "fractions": torch.rand(20),
                "fewer": torch.arange(3),
                "truths": torch.ones(20).bool(),
            },
            lambda v: cu.Dataset(images(), v, ("a",) * 20, "x"),
        ),
        "labels",
    ),
    Row("Dataset", "masked labels", lambda: data(labels=np.ma.masked_equal(np.arange(20) % 10, 3)), "labels"),
    *each(
        "Dataset",
        "labels read",
        with_values(
            {
                "uint8": torch.zeros(20).byte(),
                "int32": torch.zeros(20).int(),
                "NumPy": np.zeros(20, np.uint16),
                "a list": [0] * 20,
            },
            lambda v: data(labels=v),
        ),
        lambda found: found.labels.dtype == torch.int64,
    ),
    *each(
        "Dataset",
        "digits as",
        {
            "classes": lambda: cu.Dataset(images(), torch.zeros(20).long(), 10**5000, "x"),
            "a class": lambda: cu.Dataset(images(), torch.zeros(20).long(), [10**5000], "x"),
            "one array": lambda: cu.Dataset(images(), torch.zeros(20).long(), np.array("a"), "x"),
        },
        "classes",
    ),
    *each(
        "load_dataset",
        "a name of",
        with_values({"5000 digits": 10**5000, "one array": np.array("fashion-mnist")}, cu.load_dataset),
        "name",
    ),
    Row("Dataset", "a part of many digits", lambda: data().part(10**5000), lambda found: len(found) == 20),
    *each("Dataset", "part", with_values({"text": "x", "a share": 0.5, "none": 0}, lambda v: data().part(v)), "limit"),
]
TRAINING = [
    *each(
        "Recipe", "batch", with_values({**NO_NUMBERS, "none": 0, "truth": True}, lambda v: cu.Recipe(batch=v)), "batch"
    ),
    *each(
        "Recipe",
        "epochs",
        with_values(
            {"nothing": None, "text": "x", "NaN": float("nan"), "fewer": -1, "endless": float("inf")},
            lambda v: cu.Recipe(epochs=v),
        ),
        "epochs",
    ),
    *each(
        "Recipe",
        "rate",
        with_values({"nothing": None, "text": "x", "NaN": float("nan"), "fewer": -1e-3}, lambda v: cu.Recipe(rate=v)),
        "rate",
    ),
    Row("Recipe", "numbers of NumPy", lambda: cu.Recipe(batch=np.int32(4), rate=np.float32(0.5)), always),
    *each(
        "Recipe",
        "numbers of",
        with_values(
            {
                "tensors": (torch.tensor(8), torch.tensor(0.5)),
                "float16": (np.int8(8), np.float16(0.5)),
                "arrays": (np.array(8), np.array(0.5)),
            },
            lambda v: cu.Recipe(batch=v[0], epochs=v[1], rate=v[1]),
        ),
        lambda found: (
            found == cu.Recipe(batch=8, epochs=0.5, rate=0.5) and {type(found.batch), type(found.rate)} == {int, float}
        ),
    ),
    Row("Recipe", "whole epochs stay whole", lambda: repr(cu.Recipe(epochs=np.int64(3)).epochs), lambda v: v == "3"),
    *each(
        "train",
        "with a recipe of",
        with_values(
            {"tensors": (torch.tensor(8), torch.tensor(1e-3)), "float16": (np.int8(8), np.float16(1e-3))},
            lambda v: cu.train(flat(), data(), cu.Recipe(epochs=1, batch=v[0], rate=v[1]), seed=0).checkpoints,
        ),
        always,
    ),
    *each(
        "train",
        "a rate of",
        with_values({"float16": np.float16(0.5), "a tensor": torch.tensor(0.5)}, lambda v: halved(v)),
        lambda found: torch.equal(found, halved(0.5)),
    ),
    Row(
        "train",
        "a rate that diverges",
        lambda: cu.train(flat(), data(), cu.Recipe(batch=4), seed=0, rate=lambda share: 1e300),
        "rate",
    ),
    Row(
        "train",
        "steps beyond half precision",
        lambda: cu.train(flat(torch.float16), data(), cu.Recipe(batch=4, rate=1e7), seed=0),
        "recipe",
    ),
    Row(
        "train",
        "an intervention that spoils weights",
        lambda: cu.train(flat(), data(), cu.Recipe(batch=4), seed=0, intervene=spoil),
        "intervene",
    ),
    Row(
        "train",
        "an intervention that makes weights huge",
        lambda: cu.train(flat(), data(), cu.Recipe(batch=4), seed=0, intervene=swell),
        "intervene",
    ),
    Row(
        "train",
        "an intervention beside what diverges",
        lambda: cu.train(
            flat(),
            data(),
            cu.Recipe(epochs=9, batch=4, rate=1e9, weight_decay=1e9),
            seed=0,
            intervene=lambda net, share: None,
        ),
        "recipe",
    ),
    Row(
        "train",
        "that diverges while it is tested",
        lambda: cu.train(
            flat(), data(), cu.Recipe(epochs=5, batch=20, rate=1e9, weight_decay=1e6), seed=0, test=data()
        ),
        "recipe",
    ),
    *each(
        "train",
        "curve",
        with_values(
            {repr(v): v for v in (0, -1, 2.5, "a", True, float("nan"))},
            lambda v: cu.train(flat(), data(), cu.Recipe(batch=4), seed=0, test=data(), curve=v),
        ),
        "curve",
    ),
    Row("train", "a curve of no images", lambda: cu.train(flat(), data(), seed=0, curve=5), "curve"),
    Row("train", "a curve of no data set", lambda: cu.train(flat(), data(), seed=0, test="x", curve=5), "test"),
    Row(
        "train",
        "outputs that are infinite before",
        lambda: cu.train(Scaled(float("inf")), data(), cu.Recipe(batch=4), seed=0),
        "network",
    ),
    *each(
        "Trained",
        "network",
        with_values(NO_NETWORKS, lambda v: cu.Trained(v, history(), {})),
        "network",
    ),
    *each("Trained", "history", with_values(NO_NUMBERS, lambda v: cu.Trained(flat(), v, {})), "history"),
    *each(
        "Trained",
        "checkpoints",
        with_values(
            {**NO_NUMBERS, "words": {"half": {}}, "no weights": {0.0: 3}, "no tensors": {0.0: {"x": 3}}},
            lambda v: cu.Trained(flat(), history(), v),
        ),
        "checkpoints",
    ),
    Row(
        "Trained",
        "checkpoints of another network",
        lambda: cu.Trained(flat(), history(), {0.5: {"x": torch.zeros(2)}}).at(0.5),
        "checkpoints",
    ),
    Row("Trained", "no checkpoints", lambda: cu.Trained(flat(), history(), {}).at(10**5000), "share"),
    *each(
        "History",
        "test_accuracy",
        with_values(
            {
                **NO_NUMBERS,
                "masked": masked([True, False]),
                "sparse": torch.zeros(2).to_sparse(),
                "complex": torch.zeros(2, dtype=torch.complex64),
            },
            lambda v: cu.History(torch.zeros(2), v),
        ),
        "test_accuracy",
    ),
    Row(
        "History",
        "a mask that hides nothing",
        lambda: cu.History(masked([True, True]), torch.zeros(2)).loss,
        is_tensor(torch.ones(2)),
    ),
    *each("predict", "network", with_values(NO_NETWORKS, lambda v: cu.predict(v, data())), "network"),
    *each("accuracy", "network", with_values(NO_NETWORKS, lambda v: cu.accuracy(v, data())), "network"),
    *each(
        "train",
        "network",
        with_values({**NO_NETWORKS, "no weights": Pixels()}, lambda v: cu.train(v, data(), seed=0)),
        "network",
    ),
    *each(
        "predict",
        "dataset",
        with_values(
            {
                **NO_NUMBERS,
                "images alone": images(),
                "no images": data(0),
                "three channels": data(channels=3),
                "too small": data(size=2),
            },
            lambda v: cu.predict(network(), v),
        ),
        "dataset",
    ),
    *each(
        "accuracy",
        "dataset",
        with_values(
            {**NO_NUMBERS, "no images": data(0), "three channels": data(channels=3)},
            lambda v: cu.accuracy(network(), v),
        ),
        "dataset",
    ),
    *each(
        "train",
        "dataset",
        with_values(
            {**NO_NUMBERS, "no images": data(0), "fewer than a batch": data(3), "three channels": data(channels=3)},
            lambda v: cu.train(network(), v, cu.Recipe(batch=8), seed=0),
        ),
        "dataset",
    ),
    *each(
        "train",
        "seed",
        with_values(
            {**NO_NUMBERS, "too large": 2**70, "truth": True},
            lambda v: cu.train(flat(), data(), cu.Recipe(epochs=0, batch=8), seed=v),
        ),
        "seed",
    ),
    *each(
        "train",
        "recipe",
        with_values(
            {"text": "x", "a dict": {"epochs": 1}, "a class": cu.Recipe}, lambda v: cu.train(flat(), data(), v, seed=0)
        ),
        "recipe",
    ),
    *each(
        "train",
        "test",
        with_values(
            {"text": "x", "images alone": images(), "no images": data(0)},
            lambda v: cu.train(flat(), data(), cu.Recipe(batch=8), seed=0, test=v),
        ),
        "test",
    ),
    *each(
        "train",
        "function",
        {
            name: (lambda name=name: cu.train(flat(), data(), cu.Recipe(batch=8), seed=0, **{name: 3}))
            for name in ("rate",)
        },
        "rate",
    ),
    Row(
        "train",
        "a report that is none",
        lambda: cu.train(flat(), data(), cu.Recipe(batch=8), seed=0, report=3),
        "report",
    ),
    Row(
        "train",
        "an intervention that is none",
        lambda: cu.train(flat(), data(), cu.Recipe(batch=8), seed=0, intervene="x"),
        "intervene",
    ),
    Row(
        "train",
        "a rate of NaN",
        lambda: cu.train(flat(), data(), cu.Recipe(batch=8), seed=0, rate=lambda share: float("nan")),
        "rate",
    ),
    Row(
        "train",
        "that diverges",
        lambda: cu.train(flat(), data(), cu.Recipe(epochs=2, batch=4, rate=1e9, weight_decay=1e9), seed=0),
        "recipe",
    ),
    Row(
        "train",
        "labels without output",
        lambda: cu.train(flat(), data(labels=torch.full((20,), 9)), cu.Recipe(batch=8), seed=0).checkpoints,
        always,
    ),
    Row(
        "train",
        "labels beyond the outputs",
        lambda: cu.train(nn.Sequential(nn.Flatten(), nn.Linear(784, 4)), data(), cu.Recipe(batch=8), seed=0),
        "dataset",
    ),
    Row(
        "train",
        "a seed of NumPy",
        lambda: cu.train(flat(), data(), cu.Recipe(batch=8), seed=np.uint8(3)).checkpoints,
        always,
    ),
    *each(
        "predict",
        "batch",
        with_values(
            {**NO_NUMBERS, "none": 0, "fewer": -1, "truth": True}, lambda v: cu.predict(flat(), data(), batch=v)
        ),
        "batch",
    ),
    *each(
        "predict",
        "of",
        {
            str(d): (lambda d=d: cu.predict(flat(d), data()))
            for d in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
        },
        of_shape(20, 10),
    ),
    Row(
        "predict",
        "without weights",
        lambda: cu.predict(Pixels(), data()),
        is_tensor(images().flatten(1)[:, :10] / 127.5 - 1),
    ),
    *each(
        "predict",
        "a batch of digits",
        with_values({"20": 10**20, "400": 10**400, "5000": 10**5000}, lambda v: cu.predict(flat(), data(), batch=v)),
        is_tensor(cu.predict(flat(), data())),
    ),
    *each(
        "train",
        "a batch of digits",
        with_values({"400": 10**400, "5000": 10**5000}, lambda v: cu.train(flat(), data(), cu.Recipe(batch=v), seed=0)),
        "dataset",
    ),
    Row(
        "predict",
        "a batch of NumPy",
        lambda: cu.predict(flat(), data(), batch=np.int64(7)),
        is_tensor(cu.predict(flat(), data())),
    ),
    Row(
        "accuracy",
        "without weights",
        lambda: cu.accuracy(Pixels(), data()),
        near((images().flatten(1)[:, :10].argmax(1) == torch.arange(20) % 10).double().mean()),
    ),
    Row(
        "accuracy",
        "without weights, one of three",
        lambda: len(list(map(lambda net: cu.accuracy(net, data()), [flat(), Pixels(), flat()]))),
        near(3),
    ),
    Row(
        "accuracy",
        "logits of NaN",
        lambda: cu.accuracy(
            nn.Sequential(
                nn.Flatten(), type("NaNs", (nn.Module,), {"forward": lambda self, x: x[:, :10] * float("nan")})()
            ),
            data(),
        ),
        "network",
    ),
    *each("accuracy", "logits", with_values(NO_LOGITS, lambda v: cu.accuracy(v, data())), "network"),
    *each("predict", "logits", with_values(NO_LOGITS, lambda v: cu.predict(v, data())), "network"),
    Row(
        "predict",
        "logits beyond float32",
        lambda: cu.predict(Says(lambda n: torch.full((n, 10), 1e300, dtype=torch.float64)), data()),
        "network",
    ),
    *each(
        "train",
        "logits",
        with_values(
            {
                "whole": Says(lambda n: torch.zeros(n, 10).long()),
                "truths": Says(lambda n: torch.zeros(n, 10).bool()),
                "complex": NO_LOGITS["complex"],
            },
            lambda v: cu.train(v, data(), cu.Recipe(batch=8), seed=0),
        ),
        "network",
    ),
    *each(
        "accuracy",
        "logits of",
        with_values(
            {
                "float64": one_more(1e12, torch.float64),
                "int64": one_more(2**40, torch.int64),
                "uint64": one_more(2**40, torch.uint64),
                "uint8": one_more(7, torch.uint8),
                "bfloat16": one_more(7.0, torch.bfloat16),
                "float8": Says(lambda n: torch.eye(10)[[2] * n].to(torch.float8_e5m2)),
                "truths": Says(lambda n: torch.eye(10).bool()[[2] * n]),
                "quantised": Says(quantised),
                "float64 beyond float32": Says(lambda n: torch.eye(10).double()[[2] * n] * 1e300),
            },
            lambda v: cu.accuracy(v, data(labels=torch.full((20,), 2))),
        ),
        near(1.0),
    ),
    *each(
        "Trained",
        "at",
        with_values(
            {**NO_NUMBERS, "more": 2.0}, lambda v: cu.train(flat(), data(), cu.Recipe(epochs=0, batch=8), seed=0).at(v)
        ),
        "share",
    ),
    *each(
        "History",
        "loss",
        with_values({"nothing": None, "a number": 1.0, "a list": [1.0]}, lambda v: cu.History(v, torch.zeros(1))),
        "loss",
    ),
    Row("History", "of unlike lengths", lambda: cu.History(torch.zeros(2), torch.zeros(3)), "test_accuracy"),
]
NETWORKS = [
    *each("Network", "modules", with_values(NO_NUMBERS, lambda v: cu.Network(v, {})), "modules"),
    *each("Network", "configuration", with_values(NO_NUMBERS, lambda v: cu.Network({}, v)), "modules"),
    *each("build_network", "name", with_values({**NO_NUMBERS, "unknown": "alexnett"}, cu.build_network), "name"),
    *each(
        "build_network",
        "channels",
        with_values(
            {**NO_NUMBERS, "nothing": -1, "none": 0, "truth": True},
            lambda v: cu.build_network("alexnet-narrow", channels=v),
        ),
        "channels",
    ),
    *each(
        "build_network",
        "width of torchvision",
        with_values({**NO_NUMBERS, "two": 2}, lambda v: cu.build_network("torchvision:alexnet", width=v)),
        "width",
    ),
    *each(
        "build_network",
        "channels of torchvision",
        with_values({"one": 1, "text": "x"}, lambda v: cu.build_network("torchvision:alexnet", channels=v)),
        "channels",
    ),
    *each(
        "build_network",
        "classes of torchvision",
        with_values({**NO_NUMBERS, "many": 10**15}, lambda v: cu.build_network("torchvision:resnet18", classes=v)),
        "classes",
    ),
    *each(
        "build_network",
        "depth",
        with_values(
            {**NO_DEPTHS, "nine": 9, "two": 2, "nothing": -8, "many": 10**15, "between": 8.5},
            lambda v: cu.build_network("residual", depth=v),
        ),
        "depth",
    ),
    *each(
        "build_network",
        "depth of a chain that has its own",
        with_values({"eight": 8, **NO_DEPTHS}, lambda v: cu.build_network("alexnet", depth=v)),
        "depth",
    ),
    *each(
        "build_network",
        "width of a deep network",
        with_values({**NO_NUMBERS, "a share": 0, "many": 10**6}, lambda v: cu.build_network("plain", width=v)),
        "width",
    ),
    *each(
        "build_network",
        "classes of a deep network",
        with_values({**NO_NUMBERS, "many": 10**15}, lambda v: cu.build_network("inception", depth=8, classes=v)),
        "classes",
    ),
    Row("build_network", "unknown of torchvision", lambda: cu.build_network("torchvision:resnet19"), "name"),
    *each(
        "build_network",
        "seed of torchvision",
        with_values(NO_NUMBERS, lambda v: cu.build_network("torchvision:resnet18", seed=v)),
        "seed",
    ),
    *each(
        "build_network",
        "classes",
        with_values({**NO_NUMBERS, "none": 0}, lambda v: cu.build_network("alexnet-narrow", classes=v)),
        "classes",
    ),
    *each(
        "build_network",
        "channels beyond memory",
        with_values({"15": 10**15, "20": 10**20, "400": 10**400, "5000": 10**5000}, with_channels),
        "channels",
    ),
    *each(
        "build_network",
        "classes beyond memory",
        with_values(
            {"15": 10**15, "20": 10**20, "400": 10**400, "5000": 10**5000},
            lambda v: cu.build_network("alexnet", classes=v),
        ),
        "classes",
    ),
    *each(
        "build_network",
        "width of digits",
        with_values({"400": 10**400, "5000": 10**5000}, lambda v: cu.build_network("alexnet", width=v)),
        "width",
    ),
    *each(
        "build_network",
        "width",
        with_values(
            {"nothing": None, "text": "x", "NaN": float("nan"), "none": 0, "endless": float("inf")},
            lambda v: cu.build_network("alexnet-narrow", width=v),
        ),
        "width",
    ),
    *each(
        "build_network",
        "seed",
        with_values({**NO_NUMBERS, "too large": 2**70}, lambda v: cu.build_network("alexnet-narrow", seed=v)),
        "seed",
    ),
    Row(
        "build_network",
        "numbers of NumPy",
        lambda: cu.build_network("alexnet-narrow", seed=np.int64(1), width=np.float32(1)).fc8.weight,
        is_tensor(network().fc8.weight),
    ),
    *each(
        "permuted_copy",
        "network",
        with_values({**NO_NETWORKS, "another's": nn.Linear(2, 2)}, lambda v: cu.permuted_copy(v, seed=0)),
        "network",
    ),
    *each(
        "permuted_copy",
        "a network with another",
        with_values(ALTERED, lambda v: cu.permuted_copy(altered(v), seed=0)),
        "network",
    ),
    *each(
        "with_units",
        "a network with another",
        with_values(ALTERED, lambda v: cu.with_units(altered(v), {}, width=1.0)),
        "network",
    ),
    *each(
        "truncated",
        "a network with another",
        with_values(
            ALTERED, lambda v: cu.truncated(altered(v), "fc6", torch.eye(64).double(), torch.zeros(64).double())
        ),
        "network",
    ),
    Row(
        "truncated",
        "a mean beyond float32",
        lambda: cu.truncated(network(), "fc6", torch.eye(64)[:, :2], torch.full((64,), 1e308, dtype=torch.float64)),
        "mean",
    ),
    *each("save", "a network with another", with_values(ALTERED, lambda v: cu.save([altered(v)], "/nowhere/x")), "obj"),
    Row(
        "permuted_copy",
        "a hook that was taken off",
        lambda: cu.permuted_copy(
            altered(lambda net: net.register_full_backward_hook(lambda module, a, b: None).remove()), seed=0
        )[0](cu.normalise(images())),
        is_tensor(cu.permuted_copy(network(), seed=0)[0](cu.normalise(images()))),
    ),
    Row(
        "permuted_copy",
        "a frozen layer",
        lambda: cu.permuted_copy(altered(lambda net: net.conv1.requires_grad_(False)), seed=0)[0],
        lambda found: (
            [p.requires_grad for p in found.conv1.parameters()] == [False] * 2 and found.fc8.weight.requires_grad
        ),
    ),
    *each("permuted_copy", "seed", with_values(NO_NUMBERS, lambda v: cu.permuted_copy(network(), seed=v)), "seed"),
    *each(
        "with_units",
        "network",
        with_values({**NO_NETWORKS, "another's": nn.Linear(2, 2)}, lambda v: cu.with_units(v, {}, width=1.0)),
        "network",
    ),
    *each(
        "with_units",
        "units",
        with_values(
            {
                "nothing": None,
                "a list": [1],
                "an unknown layer": {"conv9": torch.arange(2)},
                "fractions": {"conv1": torch.rand(3)},
                "beyond the layer": {"conv1": torch.tensor([10**6])},
            },
            lambda v: cu.with_units(network(), v, width=1.0),
        ),
        "units",
    ),
    *each(
        "stitched",
        "network a",
        with_values(NO_NETWORKS, lambda v: cu.stitched(v, network(), "conv1", fitted())),
        "network_a",
    ),
    *each(
        "stitched",
        "network b",
        with_values(NO_NETWORKS, lambda v: cu.stitched(network(), v, "conv1", fitted())),
        "network_b",
    ),
    *each(
        "stitched",
        "layer",
        with_values(
            {**NO_NUMBERS, "unknown": "conv9", "three": ("conv1",) * 3},
            lambda v: cu.stitched(network(), network(), v, fitted()),
        ),
        "layer",
    ),
    *each(
        "stitched",
        "mapping",
        with_values(
            {**NO_NUMBERS, "two penalties": fitted(penalties=2)},
            lambda v: cu.stitched(network(), network(), "conv1", v),
        ),
        "mapping",
    ),
    *each(
        "stitched",
        "images",
        with_values(
            {"text": "x", "of two channels": torch.rand(2, 2, 28, 28)},
            lambda v: cu.stitched(network(), network(), "conv1", fitted())(v),
        ),
        "inputs",
    ),
    *each(
        "split_after",
        "network",
        with_values({**NO_NETWORKS, "no chain": nn.Linear(2, 2)}, lambda v: cu.split_after(v, "conv1")),
        "network",
    ),
    *each(
        "split_after",
        "layer",
        with_values({**NO_NUMBERS, "unknown": "conv9"}, lambda v: cu.split_after(network(), v)),
        "layer",
    ),
    *each(
        "truncated",
        "network",
        with_values(
            {**NO_NETWORKS, "another's": nn.Linear(2, 2)}, lambda v: cu.truncated(v, "conv1", EYE, torch.zeros(4))
        ),
        "network",
    ),
    *each(
        "truncated",
        "layer",
        with_values({**NO_NUMBERS, "unknown": "conv9"}, lambda v: cu.truncated(network(), v, EYE, torch.zeros(4))),
        "layer",
    ),
    *each(
        "truncated",
        "directions",
        with_values(
            {
                "nothing": None,
                "text": "x",
                "whole numbers": torch.ones(12, 2).long(),
                "of other units": torch.eye(99)[:, :2],
            },
            lambda v: cu.truncated(network(), "fc6", v, torch.zeros(64)),
        ),
        "directions",
    ),
]
INTERVENTIONS = [
    *each("multiply_adds", "network", with_values(NO_NETWORKS, lambda v: cu.multiply_adds(v, (1, 28, 28))), "network"),
    *each(
        "multiply_adds",
        "image_shape",
        with_values(
            {
                **NO_NUMBERS,
                "three channels": (3, 28, 28),
                "no height": (1, 0, 28),
                "one array": np.array(3),
                "no memory": (1, 2**31 - 1, 2**31 - 1),
                **{f"{digits} digits": (1, 28, 10**digits) for digits in (20, 400, 5000)},
                "5000 digits alone": 10**5000,
            },
            lambda v: cu.multiply_adds(network(), v),
        ),
        "image_shape",
    ),
    *each(
        "freezing",
        "schedule",
        with_values(
            {
                **NO_NUMBERS,
                "a share of NaN": {"conv1": float("nan")},
                "beyond the end": {"conv1": 2.0},
                "in words": {"conv1": "half"},
            },
            cu.freezing,
        ),
        "schedule",
    ),
    *each(
        "training_cost",
        "forward",
        with_values(
            {**NO_NUMBERS, "in words": {"conv1": "x"}, "fewer": {"conv1": -1}}, lambda v: cu.training_cost(v, {})
        ),
        "forward",
    ),
    *each(
        "training_cost",
        "schedule",
        with_values(
            {**NO_NUMBERS, "a share of NaN": {"conv1": float("nan")}, "an unknown layer": {"conv9": 0.5}},
            lambda v: cu.training_cost(FORWARD, v),
        ),
        "schedule",
    ),
    *each(
        "training_cost",
        "costs of",
        with_values(  # conv1 learns half of the time: (10 * 1.5 + 20 * 2.5) / (10 * 2 + 20 * 3)
            {
                "int8": {"conv1": np.int8(50), "fc8": np.int8(100)},
                "uint8": {"conv1": np.uint8(100), "fc8": np.uint8(200)},
                "float16": {"conv1": np.float16(3e4), "fc8": np.float16(6e4)},
                "near the largest float": {"conv1": 8e307, "fc8": 1.6e308},
                "near the smallest": {"conv1": 5e-324, "fc8": 1e-323},
                "many digits": {"conv1": 10**300, "fc8": 2 * 10**300},
            },
            lambda v: cu.training_cost(v, {"conv1": np.float16(0.5)}),
        ),
        near((10 * 1.5 + 20 * 2.5) / 80, 1e-12),
    ),
    *each(
        "training_cost",
        "forward of",
        with_values(
            {"400 digits": {"conv1": 10**400}, "5000 digits": {"conv1": 10**5000}, "5000 keys": {10**5000: "x"}},
            lambda v: cu.training_cost(v, {}),
        ),
        "forward",
    ),
    *each(
        "freezing",
        "in training",
        with_values({**NO_NUMBERS, "more": 1.5, "a share": None}, lambda v: cu.freezing({"fc6": 0.5})(network(), v)),
        "share",
    ),
    *each(
        "freezing", "in training of", with_values(NO_NETWORKS, lambda v: cu.freezing({"fc6": 0.5})(v, 0.1)), "network"
    ),
    Row(
        "freezing",
        "just before half by float16",
        lambda: next(cu.freezing({"fc6": np.float16(0.5)})(net, 0.49999) or net for net in [altered(always)]),
        lambda net: net.fc6[0].weight.requires_grad,
    ),
    Row("training_cost", "nothing frozen", lambda: cu.training_cost(FORWARD, {}), near(1.0)),
    *each(
        "subspace_projection",
        "directions",
        with_values(
            {
                **NO_NUMBERS,
                "whole numbers": DIRECTIONS.long(),
                "of NaN": DIRECTIONS * float("nan"),
                "sparse": DIRECTIONS.to_sparse(),
            },
            cu.subspace_projection,
        ),
        "directions",
    ),
    *each(
        "subspace_projection",
        "covariance",
        with_values(
            {
                "text": "x",
                "negative definite": -EYE,
                "of other units": torch.eye(3).double(),
                "of NaN": EYE * float("nan"),
            },
            lambda v: cu.subspace_projection(DIRECTIONS, covariance=v),
        ),
        "covariance",
    ),
    Row("project", "acts of other units", lambda: cu.project(torch.rand(3, 5), EYE, torch.zeros(4)), "mean"),
    Row(
        "subspace_projection",
        "of NumPy",
        lambda: cu.subspace_projection(DIRECTIONS.numpy()),
        is_tensor(DIRECTIONS @ DIRECTIONS.T),
    ),
    *each(
        "project",
        "acts",
        with_values(
            {
                **NO_NUMBERS,
                "whole numbers": torch.ones(3, 4).long(),
                "of NaN": torch.full((3, 4), float("nan")),
                "masked": masked([[True, False, True, True]]),
            },
            lambda v: cu.project(v, EYE, torch.zeros(4).double()),
        ),
        "acts",
    ),
    *each(
        "project",
        "matrix",
        with_values(
            {**NO_NUMBERS, "whole numbers": EYE.long()},
            lambda v: cu.project(torch.rand(3, 4), v, torch.zeros(4).double()),
        ),
        "matrix",
    ),
    *each(
        "project",
        "mean",
        with_values(
            {**NO_NUMBERS, "whole numbers": torch.zeros(4).long(), "of other units": torch.zeros(5)},
            lambda v: cu.project(torch.rand(3, 4), EYE, v),
        ),
        "mean",
    ),
    *each(
        "ablated",
        "network",
        with_values(NO_NETWORKS, lambda v: cu.ablated(v, "conv1", [0], torch.zeros(4)).__enter__()),
        "network",
    ),
    *each(
        "ablated",
        "layer",
        with_values(
            {**NO_NUMBERS, "unknown": "conv9"}, lambda v: cu.ablated(network(), v, [0], torch.zeros(4)).__enter__()
        ),
        "layer",
    ),
    *each(
        "ablated",
        "units",
        with_values(
            {**NO_NUMBERS, "a list": [0.5], "beyond": [4], "twice": [1, 1], "negative": [-1]},
            lambda v: cu.ablated(network(), "conv1", v, torch.zeros(4)).__enter__(),
        ),
        "units",
    ),
    *each(
        "ablated",
        "mean",
        with_values(
            {**NO_NUMBERS, "whole numbers": torch.zeros(4).long(), "a matrix": EYE},
            lambda v: cu.ablated(network(), "conv1", [0], v).__enter__(),
        ),
        "mean",
    ),
    *each(
        "projected",
        "network",
        with_values(NO_NETWORKS, lambda v: cu.projected(v, "conv1", EYE, torch.zeros(4)).__enter__()),
        "network",
    ),
    *each(
        "projected",
        "layer",
        with_values(
            {**NO_NUMBERS, "unknown": "conv9"}, lambda v: cu.projected(network(), v, EYE, torch.zeros(4)).__enter__()
        ),
        "layer",
    ),
]
ODD_OBJECTS = {
    "sparse": torch.eye(3).to_sparse(),
    "quantised": quantised(3),
    "meta": torch.zeros(3, device="meta"),
    "masked": masked([True, False]),
    "a function": len,
    "a module": nn.Linear(2, 2),
    "a huge number": 10**5000,
    "a set": {1, 2},
    "an array": np.arange(3.0),
    "a complex number": 1j,
    "complex128": torch.zeros(2, dtype=torch.complex128),
}
KINDS = ["../../x", "a/b", "", "..", None, 3, "x" * 500, "a\0b", 10**5000]
FILES = [
    *each("load", "path", with_values(NO_NUMBERS, cu.load), "path"),
    *each("save", "path", with_values({**NO_NUMBERS, "text": ""}, lambda v: cu.save({}, v)), "path"),
    *each("load", "a file of", with_values({kind: kind for kind in FOREIGN}, load_foreign), "path"),
    *each(
        "save",
        "an object that is",
        with_values(ODD_OBJECTS, lambda v: inside(lambda new: cu.save(v, new / "x"))),
        "obj",
    ),
    *[
        Row(
            "Store",
            f"{verb} of kind {k}",
            lambda kind=kind, call=call: inside(lambda new: call(cu.Store(new), kind)),
            "kind",
        )
        for k, kind in enumerate(KINDS)
        for verb, call in STORE_CALLS.items()
    ],
    *each(
        "Store",
        "path",
        with_values({"a list": [1, 2], "a share": 0.5, "a NUL": "a\0b", "a lone surrogate": "\ud800"}, cu.Store),
        "path",
    ),
]
ROWS = [*DATA, *TRAINING, *NETWORKS, *INTERVENTIONS, *FILES]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_odd_inputs(row):
    judge(row)


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_named(kind):
    with pytest.raises(ValueError, match="path: .*(not a file of this package|no file)"):
        load_foreign(kind)


@pytest.mark.parametrize("name", ["a\nb", "\ud800", "x" * 5000 + "\n", "\x1b[1m"])
def test_paths_are_named_in_one_line_that_can_be_printed(tmp_path, name):
    for function, call in (("load", cu.load), ("save", lambda path: cu.save(1, f"{path}/x"))):
        judge(Row(function, "path", lambda call=call: call(f"{tmp_path}/{name}"), "path"))
        with pytest.raises(ValueError, match=r"^path: ") as refused:
            call(f"{tmp_path}/{name}")
        assert str(refused.value).isprintable()


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_kinds_that_leave_the_store_are_refused(tmp_path, kind):
    for call in STORE_CALLS.values():
        with pytest.raises(ValueError, match="^kind: "):
            call(cu.Store(tmp_path / "store"), kind)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("value", ODD_OBJECTS.values(), ids=ODD_OBJECTS)
def test_what_cannot_be_saved_leaves_nothing(tmp_path, value):
    with pytest.raises(ValueError, match="^obj: "):
        cu.save({"found": [value]}, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_types_that_cannot_be_saved_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"^obj: cannot save \(2,\) torch.complex128; save its real and imaginary"):
        cu.save(torch.zeros(2, dtype=torch.complex128), tmp_path / "x")


def test_a_mask_that_hides_nothing_is_passed_over_in_saving(tmp_path):
    cu.save(masked([True, True]), tmp_path / "x")
    assert torch.equal(cu.load(tmp_path / "x"), torch.ones(2))


@pytest.mark.parametrize("value", [np.float32(0.5), np.int64(3), np.bool_(True), (None, "x", 1.5)], ids=str)
def test_what_can_be_saved_comes_back(tmp_path, value):
    cu.save({"found": value}, tmp_path / "x")
    found = cu.load(tmp_path / "x")["found"]
    assert np.array_equal(np.asarray(found, dtype=object), np.asarray(value, dtype=object))


MODULES = {f"convergent_utils.nets.{name}" for name in ("datasets", "interventions", "networks", "training")}
MODULES |= {"convergent_utils.making.store"}


def test_each_public_name_has_rows():
    names = {name for name in cu.__all__ if getattr(cu, name).__module__ in MODULES}
    assert {"Network", "Store", "load", "train"} <= names
    assert names <= {row.function for row in ROWS}
    assert len(ROWS) > 500
