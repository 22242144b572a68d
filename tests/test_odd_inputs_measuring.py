"""Odd inputs of record, measure, what it returns, and all_reduce: each is right, or refused in one sentence."""

import itertools
import tempfile
import warnings
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_inputs import Row, judge
from torch import nn

import convergent_utils as cu

LONG = "conv" * 200


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def images(n=12):
    return draw(n, 1, 8, 8)


def convolutions(units=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, units, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36 * units, 4))


def record(network=None, layers="0", inputs=None, **options):
    network = convolutions() if network is None else network
    with cu.record(network, layers, **options) as rows:
        network(images() if inputs is None else inputs)
        return dict(rows)


def measure(networks=None, inputs=None, layers="0", **options):
    networks = {"a": convolutions(), "b": convolutions(5)} if networks is None else networks
    return cu.measure(networks, images() if inputs is None else inputs, layers, **{"sample": 8, "top": 2, **options})


def quietly(**options):
    """Without the warning that pictures are normalised for a network that is not this package's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "inputs: pictures of bytes")
        return measure(**options)


@cache
def measured():
    return measure(layers=["0", "3"])


def of_shape(layer, *shape):
    return lambda rows: tuple(rows[layer].shape) == shape


def as_usual(found):
    """The measurement is that of plain arguments."""
    return torch.allclose(found.mean_activation("a.0"), measure().mean_activation("a.0"), atol=1e-6)


class Gives(nn.Module):
    """A network whose layer gives what it is told."""

    def __init__(self, make):
        super().__init__()
        self.layer = Layer(make)

    def forward(self, inputs):
        self.layer(inputs)
        return inputs


class Layer(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, inputs):
        return self.make(inputs)


def gives(make, **options):
    return lambda: record(Gives(make), "layer", **options)


def layers(example=None, network=None, **options):
    return cu.layers(
        convolutions() if network is None else network, images() if example is None else example, **options
    )


def fails(*_):
    raise KeyError("no such thing")


def texts():
    """Two networks and tokens of which the last do not count."""
    mask = (torch.arange(5) < torch.arange(1, 13)[:, None]).long()
    return {"a": Masked(), "b": Masked()}, {"x": draw(12, 5, 3), "mask": mask}


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x, mask=None):
        return self.layer(x).mean(1)


def masked(mask="mask", **options):
    return measure(*texts(), "layer", mask=mask, **options)


def counted(*rows):
    """So many rows count in all inputs."""
    return lambda found: found.folds[0].n_samples("a.layer") + found.folds[1].n_samples("a.layer") in rows


def measured_gives(make, **options):
    return lambda: measure({"n": Gives(make)}, layers="layer", **options)


class OwnWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(draw(3))

    def forward(self, x):
        return x.flatten(1)[:, :3] * self.weight


class Broken(nn.Linear):
    def forward(self, inputs):
        raise KeyError("no such thing")


def parallel():
    return nn.DataParallel(convolutions())


@cache
def nested():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([draw(3, 2), draw(4, 2)])


@cache
def traced():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(convolutions(), images(2))


def broken(name, value):
    """A measurement from a state of which one field is another value."""
    return cu.Measurement.from_state({**measured().state(), name: value})


def state(units=3):
    moments = cu.Moments({"a": units})
    moments.update({"a": draw(5, units)})
    return moments.state()


def unlike():
    return {"a": convolutions(), "b": nn.Sequential(nn.Flatten(), nn.Linear(64, 3))}


ALL = (12 * 36, 3)


class Raises:
    """An object that can be neither gone through nor written."""

    def __iter__(self):
        raise RuntimeError("not today")

    __repr__ = __iter__


def in_folder(make=str):
    """A measurement that is kept in a folder, and found there."""
    with tempfile.TemporaryDirectory() as folder:
        first, second = measure(store=make(folder)), measure(store=make(folder))
        assert list(Path(folder).glob("measurement-*"))
        return first if torch.equal(first.tops["a.0"].value, second.tops["a.0"].value) else None


FIELDS = ("networks", "images", "positions", "folds", "aligned", "n_top", "tops", "maps", "active", "counted")
RECORD = [
    ("an array of no axes as layers", lambda: record(layers=np.array("0")), "layers"),
    ("layers without end", lambda: record(layers=itertools.count()), "layers"),
    ("what raises as layers", lambda: record(layers=Raises()), "layers"),
    ("what raises as a layer", lambda: record(layers=[Raises()]), "layers"),
    ("what raises as axes", lambda: record(axes=Raises()), "axes"),
    ("what raises as positions", lambda: record(positions=Raises()), "positions"),
    ("what raises as seed", lambda: record(seed=Raises()), "seed"),
    ("a number too long to be written as seed", lambda: record(seed=-(10**5000)), "seed"),
    ("a number too long to be written as positions", lambda: record(positions=-(10**5000)), "positions"),
    ("NumPy's names as layers", lambda: record(layers=np.array(["0", "1"])), of_shape("0", *ALL)),
    ("a list as network", lambda: cu.record([convolutions()], "0").__enter__(), "network"),
    ("a function as network", lambda: cu.record(torch.relu, "0").__enter__(), "network"),
    ("a class as network", lambda: cu.record(nn.Linear, "0").__enter__(), "network"),
    ("no network", lambda: cu.record(None, "0").__enter__(), "network"),
    ("weights without values", lambda: record(nn.Sequential(nn.Linear(3, 3, device="meta"))), "network"),
    ("a layer that is not there", lambda: record(layers="conv"), "layers"),
    ("a layer with a long name", lambda: record(layers=LONG), "layers"),
    ("no layers", lambda: record(layers=[]), "layers"),
    ("None as layers", lambda: record(layers=None), "layers"),
    ("a number as layer", lambda: record(layers=[0]), "layers"),
    ("a number as layers", lambda: record(layers=0), "layers"),
    ("a dict as layers", lambda: record(layers={"0": 1}), "layers"),
    ("a module as layers", lambda: record(layers=nn.ReLU()), "layers"),
    ("a tuple of layers", lambda: record(layers=("0",)), of_shape("0", *ALL)),
    ("a generator of layers", lambda: record(layers=(str(k) for k in range(2))), of_shape("1", *ALL)),
    ("a layer named twice", lambda: record(layers=["0", "0"]), of_shape("0", *ALL)),
    ("the whole network", lambda: record(layers=""), of_shape("", 12, 4)),
    ("a name with a wrapper's prefix", lambda: record(parallel(), "module.0"), of_shape("module.0", *ALL)),
    ("a name without a wrapper's prefix", lambda: record(parallel(), "0"), of_shape("0", *ALL)),
    ("positions in other words", lambda: record(positions="center"), "positions"),
    ("positions in many words", lambda: record(positions=LONG), "positions"),
    ("no positions", lambda: record(positions=None), "positions"),
    ("half a place", lambda: record(positions=2.5), "positions"),
    ("no place", lambda: record(positions=0), "positions"),
    ("True as positions", lambda: record(positions=True), "positions"),
    ("a list of positions", lambda: record(positions=["all"]), "positions"),
    ("an array of positions", lambda: record(positions=np.array([1, 2])), "positions"),
    ("a NumPy number of places", lambda: record(positions=np.int64(2)), of_shape("0", 24, 3)),
    ("the first of a grid", lambda: record(positions="first"), "positions"),
    ("the first of one place", lambda: record(layers="3", positions="first"), of_shape("3", 12, 4)),
    ("no seed", lambda: record(seed=None), "seed"),
    ("half a seed", lambda: record(seed=2.5), "seed"),
    ("a word as seed", lambda: record(seed="x"), "seed"),
    ("a negative seed", lambda: record(seed=-1), "seed"),
    ("a NumPy seed", lambda: record(seed=np.uint8(3), positions=1), of_shape("0", 12, 3)),
    ("unknown axes", lambda: record(axes="hwc"), "axes"),
    ("a number as axes", lambda: record(axes=3), "axes"),
    ("a list of axes", lambda: record(axes=["nchw"]), "axes"),
    ("axes of another layer", lambda: record(axes={"1": "nchw"}), "axes"),
    ("axes of too few dimensions", lambda: record(axes="ntd"), "axes"),
    ("axes of too many dimensions", lambda: record(layers="3", axes="nchw"), "axes"),
    ("axes None by layer", lambda: record(axes={"0": None}), of_shape("0", *ALL)),
    ("axes that say units last", lambda: record(axes="nhwc"), of_shape("0", 12 * 3 * 6, 6)),
    ("an output that is a tuple", gives(lambda x: (x[:, :2], x)), of_shape("layer", 12 * 64, 1)),
    ("an output of no tensors", gives(lambda x: ("text", None)), "layers"),
    ("an output that is None", gives(lambda x: None), "layers"),
    ("an output of one dimension", gives(lambda x: x[:, 0, 0, 0]), "layers"),
    ("an output of five dimensions", gives(lambda x: x[..., None]), "layers"),
    ("a sparse output", gives(lambda x: x.flatten(1).to_sparse()), "layers"),
    ("a nested output", gives(lambda x: nested()), "layers"),
    ("an output without units", gives(lambda x: x.flatten(1)[:, :0]), "layers"),
    ("an output without places", gives(lambda x: x[:, :, :0]), "layers"),
    ("an output of other inputs", gives(lambda x: x[:5]), "layers"),
    ("an output of windows", gives(lambda x: x.reshape(48, 1, 4, 4)), "layers"),
    ("the mean of whole numbers", gives(lambda x: x.long(), positions="mean"), "positions"),
    ("all of whole numbers", gives(lambda x: x.long()), of_shape("layer", 12 * 64, 1)),
    ("half precision", gives(lambda x: x.bfloat16()), of_shape("layer", 12 * 64, 1)),
    ("no inputs", lambda: record(inputs=images(0)), of_shape("0", 0, 3)),
]
MEASURE = [
    ("a number as prepare", lambda: measure(prepare=3), "prepare"),
    ("what raises as prepare", lambda: measure(prepare=Raises()), "prepare"),
    ("prepare of a network that is not there", lambda: measure(prepare={"c": torch.relu}), "prepare"),
    ("text as prepare by network", lambda: measure(prepare={"a": "relu"}), "prepare"),
    ("prepare that fails", lambda: measure(prepare=fails), "prepare"),
    ("prepare that takes none", lambda: measure(prepare=lambda: images()), "prepare"),
    ("prepare to None", lambda: measure(prepare=lambda x: None), "inputs"),
    ("prepare to other pictures", lambda: measure(prepare=lambda x: x[:, :, :1]), "inputs"),
    ("prepare to fewer pictures", lambda: measure(prepare=lambda x: x[:3]), "layers"),
    ("prepare to strange keywords", lambda: measure(prepare=lambda x: {LONG: x}), "inputs"),
    ("prepare None by network", lambda: measure(prepare={"a": None}), as_usual),
    ("prepare by no network", lambda: measure(prepare={}), as_usual),
    ("a number as mask", lambda: masked(3), "mask"),
    ("what raises as mask", lambda: masked(Raises()), "mask"),
    ("a tensor as mask", lambda: masked(torch.ones(12, 5)), "mask"),
    ("a key that is not there as mask", lambda: masked("attention_mask"), "mask"),
    ("a long key as mask", lambda: masked(LONG), "mask"),
    ("a key of pictures as mask", lambda: measure(mask="mask"), "mask"),
    ("a mask of another network", lambda: masked({"c": "mask"}), "mask"),
    ("a mask that fails", lambda: masked(fails), "mask"),
    ("a mask of None", lambda: masked(lambda batch: None), "mask"),
    ("a mask of halves", lambda: masked(lambda batch: batch["mask"] / 2), "mask"),
    ("a mask of NaN", lambda: masked(lambda batch: batch["mask"] * torch.nan), "mask"),
    ("a mask of fewer inputs", lambda: masked(lambda batch: batch["mask"][:3]), "mask"),
    ("a mask of other tokens", lambda: masked(lambda batch: batch["mask"][:, :4]), "mask"),
    ("a mask of four axes", lambda: masked(lambda batch: batch["mask"][:, :, None, None]), "mask"),
    ("a mask of no rows", lambda: masked(lambda batch: batch["mask"] * 0), "mask"),
    ("a mask of other inputs elsewhere", lambda: masked({"a": "mask", "b": lambda x: x["mask"][:, 0] * 0}), "mask"),
    ("a mask as an array", lambda: masked(lambda batch: batch["mask"].numpy()), counted(50)),
    ("a mask as a list", lambda: masked(lambda batch: batch["mask"].tolist()), "mask"),
    ("a mask of floats", lambda: masked(lambda batch: batch["mask"].double()), counted(50)),
    ("no mask of a network", lambda: masked({"a": None}), counted(60)),
    ("a number as output", lambda: measure(output=3), "output"),
    ("output of another layer", lambda: measure(output={"3": torch.relu}), "output"),
    ("text as output of a layer", lambda: measure(output={"0": "relu"}), "output"),
    ("output that fails", lambda: measure(output=fails), "output"),
    ("output to None", lambda: measure(output=lambda found: None), "layers"),
    ("output to whole numbers", lambda: measure(output=torch.Tensor.long), "layers"),
    ("output as it is", lambda: measure(output=lambda found: found), as_usual),
    ("output None by layer", lambda: measure(output={"0": None}), as_usual),
    ("no batch", lambda: measure(batch=None), "batch"),
    ("batches of none", lambda: measure(batch=0), "batch"),
    ("half a batch", lambda: measure(batch=2.5), "batch"),
    ("a word as batch", lambda: measure(batch="x"), "batch"),
    ("what raises as batch", lambda: measure(batch=Raises()), "batch"),
    ("a NumPy number as batch", lambda: measure(batch=np.int64(5)), as_usual),
    ("True as autocast", lambda: measure(autocast=True), "autocast"),
    ("a word as autocast", lambda: measure(autocast="bfloat16"), "autocast"),
    ("double as autocast", lambda: measure(autocast=torch.float64), "autocast"),
    ("what raises as autocast", lambda: measure(autocast=Raises()), "autocast"),
    ("an array as autocast", lambda: measure(autocast=np.ones(3)), "autocast"),
    ("a number as flattened", lambda: measure(flattened=3), "flattened"),
    ("None as flattened", lambda: measure(flattened=None), "flattened"),
    ("an unknown layer as flattened", lambda: measure(flattened=[LONG]), "flattened"),
    ("what raises as flattened", lambda: measure(flattened=Raises()), "flattened"),
    ("what raises in flattened", lambda: measure(flattened=[Raises()]), "flattened"),
    ("no layers as flattened", lambda: measure(flattened=[]), lambda found: found.flattened is None),
    ("one layer as flattened", lambda: measure(flattened="0"), lambda found: found.flattened.n_samples == 12),
    ("padding in flattened", lambda: masked(flattened=True), "flattened"),
    ("a word as untrained", lambda: measure(untrained="yes"), "untrained"),
    ("None as untrained", lambda: measure(untrained=None), "untrained"),
    ("a number as untrained", lambda: measure(untrained=1), "untrained"),
    ("what raises as untrained", lambda: measure(untrained=Raises()), "untrained"),
    ("weights of its own untrained", lambda: measure({"a": OwnWeights()}, layers="", untrained=True), "untrained"),
    ("a number as progress", lambda: measure(progress=3), "progress"),
    ("a word as progress", lambda: measure(progress="bar"), "progress"),
    ("what raises as progress", lambda: measure(progress=Raises()), "progress"),
    ("progress that takes one", lambda: measure(progress=lambda done: None), "progress"),
    ("a number as layers", lambda: measure(layers=3), "layers"),
    ("layers of a network that is not there", lambda: measure(layers={"c": "0"}), "layers"),
    ("layers of one network alone", lambda: measure(layers={"a": "0"}), "layers"),
    ("a pattern that nothing fits", lambda: measure(layers="conv*"), "layers"),
    ("a long pattern", lambda: measure(layers=LONG + "*"), "layers"),
    ("a common name that is a number", lambda: measure(layers={"a": {1: "0"}, "b": "0"}), "layers"),
    ("a common name of nothing", lambda: measure(layers={"a": {"x": None}, "b": "0"}), "layers"),
    ("a common name of an unknown layer", lambda: measure(layers={"a": {"x": LONG}, "b": "0"}), "layers"),
    ("no common names", lambda: measure(layers={"a": {}, "b": "0"}), "layers"),
    ("what raises as inputs", lambda: measure(inputs=Raises()), "inputs"),
    ("numbers as batches", lambda: measure(inputs=[1, 2, 3]), "inputs"),
    ("text as batches", lambda: measure(inputs=["one", "two"]), "inputs"),
    ("None as batches", lambda: measure(inputs=[None]), "inputs"),
    ("batches without end", lambda: measure(inputs={"a": itertools.repeat(images()), "b": images()}), "inputs"),
    ("an iterator that was read", lambda: measure(inputs=iter([])), "inputs"),
    ("no batches", lambda: measure(inputs=[]), "inputs"),
    ("no inputs by keyword", lambda: measure(inputs={}), "inputs"),
    ("unlike numbers by keyword", lambda: measure(inputs={"x": images(), "y": images(3)}), "inputs"),
    ("inputs of one network alone", lambda: measure(inputs={"a": images()}), "inputs"),
    ("objects in batches", lambda: measure(inputs=[[{"x": object()}]]), "inputs"),
    ("a folder as store", in_folder, as_usual),
    ("a path as store", lambda: in_folder(Path), as_usual),
    ("a number as store", lambda: measure(store=3), "store"),
    ("what raises as store", lambda: measure(store=Raises()), "store"),
    ("a path with a null as store", lambda: measure(store="a\0b"), "store"),
    ("an array of no axes as pairs", lambda: measure(pairs=np.array(0)), "pairs"),
    ("pairs without end", lambda: measure(pairs=itertools.repeat(("a.0", "b.0"))), "pairs"),
    ("what raises as pairs", lambda: measure(pairs=Raises()), "pairs"),
    ("what raises as a pair", lambda: measure(pairs=[Raises()]), "pairs"),
    ("what raises as name", lambda: measure({Raises(): convolutions()}), "networks"),
    ("what raises as networks", lambda: measure(Raises()), "networks"),
    ("what raises as device", lambda: measure(device=Raises()), "device"),
    ("a number too long to be written as folds", lambda: measure(folds=10**5000), "folds"),
    ("a number too long to be written as sample", lambda: measure(sample=-(10**5000)), "sample"),
    ("a number too long to be written as top", lambda: measure(top=10**5000), "top"),
    ("networks in a list", lambda: measure([convolutions()]), "networks"),
    ("a network as networks", lambda: measure(convolutions()), "networks"),
    ("no networks", lambda: measure({}), "networks"),
    ("a class among networks", lambda: measure({"a": nn.Linear}), "networks"),
    ("a function among networks", lambda: measure({"a": torch.relu}), "networks"),
    ("None among networks", lambda: measure({"a": None}), "networks"),
    ("a number as name", lambda: measure({1: convolutions()}), "networks"),
    ("a name with a dot", lambda: measure({"net.1": convolutions()}), "networks"),
    ("a name with a bar", lambda: measure({"net|1": convolutions()}), "networks"),
    ("a traced network", lambda: measure({"a": traced()}), "networks"),
    ("images of other channels", lambda: measure(inputs=draw(12, 3, 8, 8)), "inputs"),
    ("images too small", lambda: measure(inputs=draw(12, 1, 2, 2)), "inputs"),
    ("images without channels", lambda: measure(unlike(), draw(12, 7), "1"), "inputs"),
    ("a layer that breaks", lambda: measure({"a": nn.Sequential(Broken(2, 2))}, draw(12, 2)), "inputs"),
    ("a network without forward", lambda: measure({"a": nn.ModuleDict({"0": nn.ReLU()})}), "inputs"),
    ("a list of images", lambda: measure(inputs=images().tolist()), "inputs"),
    ("no images", lambda: measure(inputs=images(0)), "inputs"),
    ("one number as images", lambda: measure(inputs=torch.tensor(3.0)), "inputs"),
    ("text as images", lambda: measure(inputs=LONG), "inputs"),
    ("whole numbers as images", lambda: measure(inputs=images().long()), "inputs"),
    ("complex images", lambda: measure(inputs=images() * 1j), "inputs"),
    ("sparse images", lambda: measure(inputs=images().to_sparse()), "inputs"),
    ("meta images", lambda: measure(inputs=images().to("meta")), "inputs"),
    ("masked images", lambda: measure(inputs=np.ma.masked_greater(images().numpy(), 1)), "inputs"),
    ("objects as images", lambda: measure(inputs=np.array([{}, {}])), "inputs"),
    ("NaN among images", lambda: measure(inputs=images() * torch.nan), "inputs"),
    ("bytes of channels first", lambda: quietly(inputs=torch.zeros(12, 7, 8, 5, dtype=torch.uint8)), "inputs"),
    ("an array of images", lambda: measure(inputs=images().numpy()), as_usual),
    ("an array of doubles", lambda: measure(inputs=images().double().numpy()), as_usual),
    ("an array of other byte order", lambda: measure(inputs=images().numpy().astype(">f4")), as_usual),
    ("an array backwards", lambda: measure(inputs=images().flip(0).numpy()[::-1]), as_usual),
    ("images with gradients", lambda: measure(inputs=images().requires_grad_()), as_usual),
    ("a layer of one network alone", lambda: measure(unlike(), layers="3"), "layers"),
    ("a long unknown layer", lambda: measure(layers=LONG), "layers"),
    ("no layers", lambda: measure(layers=()), "layers"),
    ("None as layers", lambda: measure(layers=None), "layers"),
    ("an output of whole numbers", measured_gives(lambda x: x.flatten(1).long()), "layers"),
    ("an output of other images", measured_gives(lambda x: x[:1].flatten(1)), "layers"),
    ("sizes that change", lambda: measure({"n": Gives(lambda x: x[..., : len(x)])}, images(13), "layer"), "inputs"),
    ("NaN in a layer", measured_gives(lambda x: x.flatten(1) * torch.nan), "inputs"),
    ("a number as pairs", lambda: measure(pairs=3), "pairs"),
    ("text as pairs", lambda: measure(pairs="a.0"), "pairs"),
    ("names as pairs", lambda: measure(pairs=["a.0", "b.0"]), "pairs"),
    ("pairs of three", lambda: measure(pairs=[("a.0", "b.0", "a.0")]), "pairs"),
    ("pairs of unknown blocks", lambda: measure(pairs=[("a.0", LONG)]), "pairs"),
    ("pairs of other sizes", lambda: measure(layers=["0", "3"], pairs=[("a.0", "b.3")]), "pairs"),
    ("positions in other words", lambda: measure(positions="every"), "positions"),
    ("no positions", lambda: measure(positions=None), "positions"),
    ("a NumPy number of places", lambda: measure(positions=np.int64(3)), lambda m: m.positions == 3),
    ("the last of a grid", lambda: measure(positions="last"), "positions"),
    ("unknown axes", lambda: measure(axes="chw"), "axes"),
    ("axes of another layer", lambda: measure(axes={"3": "nchw"}), "axes"),
    ("axes of three for four", lambda: measure(axes="ndt"), "axes"),
    ("no folds", lambda: measure(folds=None), "folds"),
    ("half a fold", lambda: measure(folds=1.5), "folds"),
    ("True as folds", lambda: measure(folds=True), "folds"),
    ("a NumPy number of folds", lambda: measure(folds=np.int32(3)), lambda m: len(m.folds) == 3),
    ("too many folds", lambda: measure(folds=7), "inputs"),
    ("a word as sample", lambda: measure(sample="all"), "sample"),
    ("a sample of one", lambda: measure(sample=1), "sample"),
    ("a NumPy sample", lambda: measure(sample=np.int64(8)), as_usual),
    ("None as top", lambda: measure(top=None), "top"),
    ("a top of none", lambda: measure(top=0), "top"),
    ("a top above all images", lambda: measure(top=13), "top"),
    ("no seed", lambda: measure(seed=None), "seed"),
    ("half a seed", lambda: measure(seed=2.5), "seed"),
    ("a word as seed", lambda: measure(seed="x"), "seed"),
    ("a negative seed", lambda: measure(seed=-1), "seed"),
    ("None as first", lambda: measure(first=None), "first"),
    ("half an image as first", lambda: measure(first=0.5), "first"),
    ("a negative first", lambda: measure(first=-1), "first"),
    ("a first beyond all numbers", lambda: measure(first=2**31 - 11), "first"),
    ("a first too long to be written", lambda: measure(first=10**5000), "first"),
    ("the last first", lambda: measure(first=2**31 - 12), lambda m: m.top("a.0").image.min() >= 2**31 - 12),
    ("a NumPy first", lambda: measure(first=np.uint16(7)), lambda m: m.images.tolist() == list(range(7, 19))),
    ("a GPU that is not there", lambda: measure(device="cuda:99"), "device"),
    ("a device without values", lambda: measure(device="meta"), "device"),
    ("no device", lambda: measure(device=None), "device"),
    ("a word as device", lambda: measure(device="gpu please"), "device"),
    ("a device of torch", lambda: measure(device=torch.device("cpu")), as_usual),
]
SHAPES = {"0": (12, 3, 6, 6), "1": (12, 3, 6, 6), "2": (12, 108), "3": (12, 4)}
NAMED = [
    ("an example", lambda: layers(), SHAPES.__eq__),
    ("an array", lambda: layers(images().numpy()), SHAPES.__eq__),
    ("a wrapper", lambda: layers(network=parallel()), SHAPES.__eq__),
    ("no network", lambda: cu.layers(None, images()), "network"),
    ("a class as network", lambda: cu.layers(nn.Linear, images()), "network"),
    ("a traced network", lambda: layers(network=traced()), "network"),
    ("weights without values", lambda: layers(network=nn.Linear(3, 3, device="meta")), "network"),
    ("no example", lambda: cu.layers(convolutions(), None), "example"),
    ("a number as example", lambda: layers(3), "example"),
    ("text as example", lambda: layers(LONG), "example"),
    ("what raises as example", lambda: layers(Raises()), "example"),
    ("an empty list as example", lambda: layers([]), "example"),
    ("an empty iterator as example", lambda: layers(iter([])), "example"),
    ("pictures of other channels", lambda: layers(draw(2, 3, 8, 8)), "example"),
    ("objects as example", lambda: layers(np.array([{}, {}])), "example"),
    ("strange keywords as example", lambda: layers({LONG: images()}), "example"),
    ("a layer that breaks", lambda: layers(draw(2, 2), nn.Sequential(Broken(2, 2))), "example"),
    ("a number as prepare", lambda: layers(prepare=3), "prepare"),
    ("prepare that fails", lambda: layers(prepare=fails), "prepare"),
    ("a number as output", lambda: layers(output=3), "output"),
    ("output of an unknown layer", lambda: layers(output={LONG: torch.relu}), "output"),
    ("output that fails", lambda: layers(output={"0": fails}), "output"),
]
MERGE = [
    ("nothing", lambda: measured().merge(None), "other"),
    ("a list", lambda: measured().merge([measured()]), "other"),
    ("itself", lambda: measured().merge(measured()), "other"),
    ("the next images", lambda: measured().merge(measure(layers=["0", "3"], first=12)), lambda m: m.n_images == 24),
    ("no state", lambda: cu.Measurement.from_state(None), "state"),
    ("an empty state", lambda: cu.Measurement.from_state({}), "state"),
    ("its state", lambda: cu.Measurement.from_state(measured().state()), as_usual),
    *(
        (f"a state whose {name} is {wrong!r:.20}", partial(broken, name, wrong), "state")
        for name in FIELDS
        for wrong in (None, 3.5, "x", [], {}, {"a.0": None}, torch.zeros(2))
        if (name, wrong) not in (("positions", "x"), ("networks", {}), ("counted", {}))
    ),
]
PAIR = [
    ("an unknown block", lambda: measured().pair("a.0", LONG), "b"),
    ("a number as block", lambda: measured().pair(0, "a.0"), "a"),
    ("a pair not measured", lambda: measured().pair("a.0", "b.3"), "b"),
    ("a fold that is not there", lambda: measured().pair("a.0", "b.0", fold=2), "fold"),
    ("a word as fold", lambda: measured().pair("a.0", "b.0", fold="x"), "fold"),
    ("half a fold", lambda: measured().pair("a.0", "b.0", fold=0.5), "fold"),
    ("a whole float as fold", lambda: measured().pair("a.0", "b.0", fold=[1.0]), "fold"),
    ("True as fold", lambda: measured().pair("a.0", "b.0", fold=True), "fold"),
    ("many wrong folds", lambda: measured().pair("a.0", "b.0", fold=range(500)), "fold"),
    ("a NumPy fold", lambda: measured().pair("a.0", "b.0", fold=np.int64(1)), lambda pair: pair.n_samples == 6 * 36),
    ("an array of folds", lambda: measured().pair("a.0", "b.0", fold=np.arange(2)), lambda p: p.n_samples == 432),
]
READ = {
    "sample": lambda value: value.shape == (8, 3),
    "top": lambda value: value.image.shape == (3, 2),
    "mean_activation": lambda value: value.shape == (3,),
    "mean_map": lambda value: value.shape == (6, 6, 3),
    "active_share": lambda value: bool((value == 1).all()),
}
BOTH = {"layout": (6, 6), "content": (6, 6)}
ROWS = [Row("record", what, call, expect) for what, call, expect in RECORD]
ROWS += [Row("layers", what, call, expect) for what, call, expect in NAMED]
ROWS += [Row("measure", what, call, expect) for what, call, expect in MEASURE]
ROWS += [Row("merge", what, call, expect) for what, call, expect in MERGE]
ROWS += [Row("pair", what, call, expect) for what, call, expect in PAIR]
for name, right in READ.items():
    ROWS += [
        Row(name, "an unknown block", lambda name=name: getattr(measured(), name)(LONG), "block"),
        Row(name, "None as block", lambda name=name: getattr(measured(), name)(None), "block"),
        Row(name, "a list of blocks", lambda name=name: getattr(measured(), name)(["a.0"]), "block"),
        Row(name, "a block", lambda name=name: getattr(measured(), name)("a.0"), right),
    ]
for name in BOTH:
    ROWS += [
        Row(name, "an unknown block", lambda name=name: getattr(measured(), name)("a.0", "b.1"), "b"),
        Row(name, "None as block", lambda name=name: getattr(measured(), name)(None, "b.0"), "a"),
        Row(name, "blocks that do not meet", lambda name=name: getattr(measured(), name)("a.0", "b.3"), "b"),
        Row(name, "one place", lambda name=name: getattr(measure(positions="mean"), name)("a.0", "b.0"), "positions"),
    ]
ROWS += [
    Row("mean_map", "places drawn anew", lambda: measure(positions=2).mean_map("a.0"), "positions"),
    Row("all_reduce", "nothing", lambda: cu.all_reduce(None), "state"),
    Row("all_reduce", "a list", lambda: cu.all_reduce([1, 2]), "state"),
    Row("all_reduce", "moments themselves", lambda: cu.all_reduce(cu.Moments({"a": 3})), "state"),
    Row("all_reduce", "numbers in a dict", lambda: cu.all_reduce({"count/a": 3}), "state"),
    Row("all_reduce", "names of another kind", lambda: cu.all_reduce({LONG: torch.ones(2)}), "state"),
    Row("all_reduce", "names that are numbers", lambda: cu.all_reduce({1: torch.ones(2)}), "state"),
    Row("all_reduce", "a part alone", lambda: cu.all_reduce({"mean/a": torch.ones(2)}), "state"),
    Row("all_reduce", "a count of several", lambda: cu.all_reduce({**state(), "count/a": torch.ones(2)}), "state"),
    Row("all_reduce", "a state", lambda: cu.all_reduce(state()), lambda found: int(found["count/a"]) == 5),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_right_or_refused(row):
    judge(row)
