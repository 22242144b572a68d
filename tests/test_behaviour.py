"""What a network does beside its weights: equal networks have equal sums, in any process; all others have others."""

import copy
import functools
import importlib
import io
import pickle
import subprocess
import sys
import types
from collections import deque
from contextlib import redirect_stdout

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import convergent_utils as cu
from convergent_utils.making.checksums import checksum
from convergent_utils.making.store import Store
from convergent_utils.nets import behaviour as nets_behaviour
from convergent_utils.nets.behaviour import behaviour

LIMIT = 2.0


class Settings:
    """A plain object among the attributes."""

    def __init__(self, **values):
        vars(self).update(values)


class Clip(nn.Module):
    def __init__(self, limit=2.0, **attributes):
        super().__init__()
        self.inner, self.limit = nn.Linear(3, 2), limit
        vars(self).update(attributes)
        for weight in self.parameters():
            nn.init.constant_(weight, 0.5)

    @property
    def bound(self):
        return self.limit

    def forward(self, rows):
        return self.inner(rows).clamp(max=self.bound)


def made(source, name="Clip"):
    """A class of other source, as if its file had been edited."""
    module = types.ModuleType(__name__)
    exec(compile(source, "edited.py", "exec"), vars(module) | globals(), scope := {})
    return scope[name]


FORWARD = "class Clip(Clip):\n    def forward(self, rows):\n        return self.inner(rows).clamp(max=self.bound)"


def scaled(factor):
    return lambda module, inputs, output: output * factor


def hooked(hook, *, before=False):
    network = Clip()
    place = network.inner.register_forward_pre_hook if before else network.inner.register_forward_hook
    place(hook)
    return network


def patched():
    class Inner(nn.Linear):
        pass

    network = Clip()
    network.inner.__class__ = Inner
    return network


PAIRS = {
    "attribute": lambda limit: Clip(limit),
    "attribute of an object": lambda value: Clip(settings=Settings(inner=Settings(limit=value))),
    "in containers": lambda value: Clip(held={"a": [1, {value}, (None, deque([value]))]}),
    "tensor": lambda value: Clip(offset=torch.full((3,), float(value))),
    "function": lambda value: Clip(act=torch.relu if value == 1 else torch.tanh),
    "closure": lambda value: Clip(act=lambda rows: rows * value),
    "default": lambda value: Clip(act=scaled.__class__(scaled.__code__, globals(), "f", (value,))),
    "partial": lambda value: Clip(act=functools.partial(torch.clamp, max=value)),
    "bound method": lambda value: Clip(act=Settings(limit=value).__init__),
    "hook": lambda value: hooked(scaled(value)),
    "hook before": lambda value: hooked(functools.partial(scaled(1), value), before=True),
    "forward": lambda value: made(FORWARD + f" + (len(rows) > {value})")(),
    "property": lambda value: made(f"class Clip(Clip):\n    @property\n    def bound(self):\n        return {value}")(),
    "static method": lambda value: made(
        f"class Clip(Clip):\n    @staticmethod\n    def act():\n        return {value}"
    )(),
    "inherited": lambda value: made(f"class A:\n    limit = {value}\nclass Clip(A, Clip):\n    pass")(),
    "attribute of a function": lambda value: Clip(act=attributed(value)),
    "function behind a cache": lambda value: Clip(act=functools.lru_cache(lambda rows: rows * value)),
    "partial method": lambda value: Clip(act=vars(made(PARTIAL.format(value)))["act"]),
    "bound method of a library": lambda value: Clip(act=torch.tensor(float(value)).minimum),
    "object of a library": lambda value: Clip(act=np.vectorize(lambda x: x * value)),
    "object of a library without attributes": lambda value: Clip(act=deque([torch.full((5000,), float(value))])),
    "namespace": lambda value: Clip(act=types.SimpleNamespace(t=torch.arange(5000) == value)),
    "sparse tensor": lambda value: Clip(adjacency=(torch.eye(3) * value).to_sparse()),
    "compressed sparse tensor": lambda value: Clip(adjacency=(torch.eye(3) * value).to_sparse_csr()),
    "sparse array": lambda value: Clip(adjacency=scipy.sparse.csr_matrix(np.eye(300) * value)),
    "complex array": lambda value: Clip(held=np.array([1j * value])),
    "array of objects": lambda value: Clip(held=np.array([None, {"a": value}], dtype=object)),
    "attribute of a list": lambda value: Clip(held=Listed(value)),
    "number of its own class": lambda value: Clip(
        held=made(f"class N(float):\n    def __mul__(self, o):\n        return o * {value}", "N")(2.0)
    ),
    "slots": lambda value: Clip(held=Slotted(value)),
    "attribute with underscores": lambda value: made(f"class Clip(Clip):\n    __scale__ = {value}")(),
    "order of functions": lambda value: Clip(steps=dict(sorted({"a": abs, "b": len}.items(), reverse=value == 9))),
    "one of its modules": lambda value: chosen(value),
    "very deep": lambda value: Clip(held=functools.reduce(lambda held, _: [held], range(90), value)),
    "long number": lambda value: Clip(held=10**5000 + value),
    "buffer": lambda value: buffered(value),
    "module in a list": lambda value: Clip(experts=[filled(value)]),
    "module of an object": lambda value: Clip(settings=Settings(teacher=nn.Sequential(filled(value)))),
}


PARTIAL = """
import functools
class Clip(Clip):
    act = functools.partialmethod(lambda self, rows: rows * {})
"""


class Listed(list):
    def __init__(self, limit):
        super().__init__([1])
        self.limit = limit


class Slotted:
    __slots__ = ("limit",)

    def __init__(self, limit):
        self.limit = limit


def attributed(value):
    def act(rows):
        return rows.clamp(max=act.limit)

    act.limit = value
    return act


def chosen(value):
    """It picks one of two modules that it has, of one class."""
    network = Clip()
    network.one, network.other = filled(1), filled(2)
    network.pick = [network.one if value == 1 else network.other]
    return network


def filled(value):
    """A module with weights; in a list it is none that the network knows of."""
    module = nn.Linear(2, 2)
    nn.init.constant_(module.weight, value)
    nn.init.constant_(module.bias, value)
    return module


def buffered(value):
    network = Clip()
    network.register_buffer("shift", torch.tensor(float(value)), persistent=False)
    return network


@pytest.mark.parametrize("make", PAIRS.values(), ids=PAIRS)
def test_what_differs_has_another_sum(make):
    assert behaviour(make(1)) == behaviour(make(1))
    assert behaviour(make(1)) != behaviour(make(9))


def test_a_global_that_the_code_names_counts(monkeypatch):
    def act(rows):
        return [row.clamp(max=LIMIT) for row in rows]

    before = behaviour(Clip(act=act))
    monkeypatch.setitem(globals(), "LIMIT", 3.0)
    assert behaviour(Clip(act=act)) != before


def test_what_is_named_of_a_module_counts(monkeypatch):
    helpers = types.ModuleType("helpers")
    helpers.LIMIT, helpers.act = 2.0, lambda rows: rows.clamp(max=3.0)
    monkeypatch.setitem(globals(), "helpers", helpers)
    monkeypatch.setitem(sys.modules, "helpers", helpers)
    monkeypatch.setattr(helpers, "__file__", "/elsewhere/helpers.py", raising=False)

    def act(rows):
        return helpers.act(rows).clamp(max=helpers.LIMIT)

    sums = {behaviour(Clip(act=act))}
    helpers.LIMIT = 3.0
    sums.add(behaviour(Clip(act=act)))
    helpers.act = lambda rows: rows.clamp(max=4.0)
    sums.add(behaviour(Clip(act=act)))
    helpers.other = 5
    sums.add(behaviour(Clip(act=act)))
    assert len(sums) == 3, "what is not named does not count"


def test_what_is_put_into_a_library_or_before_all_modules_counts(monkeypatch):
    def direct(rows):
        return F.hardtanh(rows)

    before = behaviour(Clip(act=direct)), behaviour(Clip())
    handle = nn.modules.module.register_module_forward_hook(scaled(2))
    assert behaviour(Clip()) != before[1]
    handle.remove()
    assert behaviour(Clip()) == before[1]
    monkeypatch.setattr(F, "hardtanh", lambda rows: rows)
    assert behaviour(Clip(act=direct)) != before[0]


def test_a_frozen_part_that_is_not_saved_counts():
    class Frozen(Clip):
        def state_dict(self, *arguments, **options):
            found = super().state_dict(*arguments, **options)
            return {name: value for name, value in found.items() if not name.endswith("weight")}

    one, other = Frozen(), Frozen()
    nn.init.constant_(other.inner.weight, 3.0)
    assert behaviour(one) != behaviour(other)


def test_the_adjacency_of_a_graph_is_part_of_its_state():
    one, other = (checksum({"a": (torch.eye(3) * k).to_sparse()}) for k in (1, 3))
    assert one != other


def test_a_method_put_into_a_class_of_torch_counts(monkeypatch):
    network = nn.Sequential(nn.Linear(3, 2), nn.Hardtanh())
    before = behaviour(network)
    monkeypatch.setattr(nn.Hardtanh, "forward", lambda self, rows: rows)
    assert behaviour(network) != before


def test_weights_modes_and_where_it_lies_do_not_count():
    one, other = Clip(), Clip()
    nn.init.constant_(other.inner.weight, 3.0)
    other.inner.register_forward_hook(scaled(1)).remove()
    assert behaviour(one) == behaviour(other.eval()) == behaviour(other.double())


def test_circles_what_raises_and_what_has_no_attributes():
    class Silent:
        __slots__ = ()

        def __repr__(self):
            raise RuntimeError

    network = Clip(held=[Silent(), torch.Generator(), sys, iter([]), object(), Ellipsis, memoryview(b"a")])
    network.held.append(network)
    network.held.append(network.held)
    assert behaviour(network) == behaviour(network)
    deep = []
    for _ in range(20_000):
        deep = [deep]
    assert behaviour(Clip(held=deep)) != behaviour(Clip(held=[]))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_equal_objects_have_one_sum_whether_they_are_shared_or_not(copied):
    one = (1, 2)
    shared, apart = Clip(a=one, b=one, c=[one]), Clip(a=(1, 2), b=tuple([1, 2]), c=[tuple([1, 2])])
    for network in (shared, apart, cu.build_network("alexnet"), nn.TransformerEncoderLayer(4, 2), nn.LSTM(3, 4)):
        assert behaviour(copied(network)) == behaviour(network)
    assert behaviour(shared) == behaviour(apart) != behaviour(Clip(a=one, b=one, c=[(1, 3)]))


def test_any_process_finds_the_same_sum():
    script = (
        "import torch\n"
        "from torch import nn\n"
        "import convergent_utils as cu\n"
        "torch.manual_seed(0)\n"
        "network = nn.Sequential(cu.build_network('alexnet-narrow'), nn.LSTM(3, 4), nn.TransformerEncoderLayer(4, 2))\n"
        "network[1].register_forward_hook(lambda *given: {'a', 'b', 'c'})\n"
        "from convergent_utils.nets.behaviour import behaviour\n"
        "print(behaviour(network))"
    )
    command = [sys.executable, "-c", script]
    other = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    with redirect_stdout(io.StringIO()) as said:
        exec(compile(script, "<string>", "exec"), {"__name__": "__main__"})
    assert said.getvalue() == other


@pytest.mark.parametrize("make", [PAIRS[name] for name in ("attribute", "forward", "hook")])
def test_the_store_tells_apart_what_the_first_images_do_not(make, tmp_path):
    rows, kept = torch.rand(40, 3), Store(tmp_path)
    first = cu.measure({"n": make(8)}, rows, "inner", store=kept, sample=4)
    other = cu.measure({"n": make(9)}, rows, "inner", store=kept, sample=4)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    cu.measure({"n": make(8)}, rows, "inner", store=kept, sample=4)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert first.n_images == other.n_images == 40


def test_libraries_are_what_was_installed_wherever_it_lies(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "installed.py").write_text("def made():\n    return 3\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    made = importlib.import_module("installed").made
    nets_behaviour._libraries.cache_clear()
    assert nets_behaviour._is_own_function(made)
    (tmp_path / "elsewhere" / "installed-1.0.dist-info").mkdir()
    nets_behaviour._libraries.cache_clear()
    assert not nets_behaviour._is_own_function(made)
    nets_behaviour._libraries.cache_clear()
