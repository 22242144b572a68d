"""A hash of code: what is reached, what changes it, and what does not."""

import contextlib
import importlib
import itertools
import sys

import pytest

import convergent_utils as cu
from convergent_utils.making import code as module
from convergent_utils.making.code import bare, code, reached
from convergent_utils.making.things import Thing
from convergent_utils.nets.declared import Learned, Measured
from convergent_utils.nets.measuring import run_pass
from convergent_utils.nets.training import train

TOOLS = '''"""Tools."""

LIMIT = 3
UNUSED = 4


def helper(x, scale=2):
    """Say."""
    return x * scale  # why


def other(x):
    return [x, UNUSED]


class Data:
    """Rows."""

    def part(self, n):
        return helper(n)

    def rest(self):
        return LIMIT


def load(name) -> Data:
    return Data()
'''
WORK = """from __future__ import annotations

import math

from convergent_utils.making.code import apart

from . import tools
from .tools import Data, load
from .tools import helper as help_out


def by_name(x):
    return help_out(x)


def by_module(x):
    return tools.helper(x)


def by_constant(x, most=tools.LIMIT):
    return most


def by_annotation(data: Data):
    return data.part(1)


def by_return(name):
    return load(name).part(1)


def by_import_within(x):
    from .tools import other

    return other(x)


def by_whole_module(run=lambda module: module):
    return run(tools)


def by_library(x):
    return math.sqrt(x)


def by_import_of_the_same_name(x):
    from .tools import other as help_out

    return help_out(x)


def by_nothing(load, tools):
    help_out = 3
    return help_out, load, tools.helper


@apart
def reader(x):
    return help_out(x)


def by_what_is_apart(x):
    return reader(x)


class Maker:
    title, seconds = "making", 1.0
    title = "making"

    def make(self):
        return self.step()

    def step(self):
        return help_out(1)

    @property
    @apart
    def cost(self):
        return tools.other(1)


class Below(Maker):
    def more(self):
        return 1


class Follower:
    other: Below | None = None

    def make(self):
        return self.other
"""
BY = ("name", "module", "constant", "annotation", "return", "import_within", "import_of_the_same_name")
BY += ("whole_module", "nothing", "what_is_apart", "library")
BY_NAME = {"by_name", "Maker", "Below", "Follower"}
ROOTS = (*(f"by_{name}" for name in BY), "Maker", "Below", "Follower")
BY_OTHER = {"by_import_within", "by_import_of_the_same_name", "by_whole_module"}
BY_HELPER = {"by_name", "by_module", "by_annotation", "by_return", "by_whole_module", "Maker", "Below", "Follower"}
numbers = itertools.count()


@pytest.fixture
def hashes(tmp_path, monkeypatch):
    """The hashes of all roots of a small package of these two files, however it is named."""
    monkeypatch.syspath_prepend(tmp_path)

    def hashed(tools=TOOLS, work=WORK, names=ROOTS):
        package = f"small{next(numbers)}"
        (tmp_path / package).mkdir()
        for name, text in (("__init__", ""), ("tools", tools), ("work", work)):
            (tmp_path / package / f"{name}.py").write_text(text)
        module = importlib.import_module(f"{package}.work")
        found = {name: code(getattr(module, name)) for name in names}
        for name in [name for name in sys.modules if name.startswith(package)]:
            monkeypatch.delitem(sys.modules, name)
        return found

    return hashed


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("x * scale", "x + scale", BY_HELPER),
        ("scale=2", "scale=3", BY_HELPER),
        ("LIMIT = 3", "LIMIT = 5", {"by_constant", "by_annotation", "by_return", "by_whole_module"}),
        ("return LIMIT", "return 7", {"by_annotation", "by_return", "by_whole_module"}),
        ("UNUSED = 4", "UNUSED = 5", BY_OTHER),
        ("[x, UNUSED]", "[x, UNUSED, 0]", BY_OTHER),
        ("return Data()", "return [Data()][0]", {"by_return", "by_whole_module"}),
    ],
)
def test_an_edit_changes_the_hashes_that_reach_it_and_no_others(hashes, old, new, changed):
    assert old in TOOLS
    before, after = hashes(), hashes(TOOLS.replace(old, new))
    assert {name for name in ROOTS if before[name] != after[name]} == changed


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ('title = "making"\n\n', 'title = "doing"\n\n', set()),
        ('title, seconds = "making", 1.0', 'title, seconds = "making", 2.0', set()),
        ("from .tools import helper as help_out", "from .tools import other as help_out", BY_NAME),
        ("import math", "import cmath as math", {"by_library"}),
        ("return tools.other(1)", "return tools.other(2)", set()),
        ("return self.step()", "return self.step() + 1", {"Maker", "Below", "Follower"}),
        ("def more(self):\n        return 1", "def more(self):\n        return 2", {"Below", "Follower"}),
        ("def reader(x):\n    return help_out(x)", "def reader(x):\n    return 0", set()),
        ("    help_out = 3", "    help_out = 4", {"by_nothing"}),
    ],
)
def test_what_is_set_apart_or_only_said_changes_nothing(hashes, old, new, changed):
    assert old in WORK
    before, after = hashes(), hashes(work=WORK.replace(old, new))
    assert {name for name in ROOTS if before[name] != after[name]} == changed


def test_comments_docstrings_layout_and_place_change_no_hash(hashes):
    before = hashes()
    long = "return [\n        x,\n        UNUSED,\n    ]"
    for old, new in (
        ("  # why", ""),
        ('"""Say."""', '"""Say something\n\n    else."""'),
        ("return [x, UNUSED]", long),
        ("(x, scale=2)", "(\n    x,\n    scale=2,\n)"),
        ("def other", "# a word\n\n\ndef other"),
    ):
        assert old in TOOLS
        assert hashes(TOOLS.replace(old, new)) == before, new
    moved = TOOLS.replace("def load(name) -> Data:\n    return Data()\n", "")
    here = WORK.replace("from .tools import Data, load\n", "from .tools import Data\n")
    here = here.replace("\n\n\ndef by_name", "\n\n\ndef load(name) -> Data:\n    return Data()\n\n\ndef by_name", 1)
    names = [name for name in ROOTS if name != "by_whole_module"]
    assert hashes(moved, here, names) == {name: before[name] for name in names}, "a function that moved"


def test_classes_that_are_not_followed_count_for_nothing_elsewhere(hashes, tmp_path):
    hashes()
    module = importlib.import_module(f"small{next(numbers) - 1}.work")
    names = {name for _, name in reached(module.Follower, stop=[module.Below])}
    assert names == {"Follower"}
    assert {"Below", "Maker", "helper"} <= {name for _, name in reached(module.Below, stop=[module.Below])}


def test_tokens_are_those_of_any_version_of_python():
    source = (
        'def f(x, n):\n    """Say."""\n    # why\n    return g(x,\n'
        "             f\"a{x!r:>{n}} {f'b{x}'}\", (n,), [x,],)  # so\n"
    )
    assert bare(source) == (
        "def f ( x , n ) : NEWLINE INDENT NEWLINE return g ( x , f\"a{x!r:>{n}} {f'b{x}'}\" , ( n , ) , [ x ] ) "
        "NEWLINE DEDENT ENDMARKER"
    )
    assert bare("a[1,]\n") != bare("a[1]\n"), "an index of one, and an index"
    assert bare("(1,)\n") != bare("(1)\n"), "a tuple of one, and a number"
    assert bare("(1, 2,)\n") == bare("(1, 2)\n")


def test_networks_and_measurements_reach_what_makes_them():
    of_networks = {name for _, name in reached(Learned, stop=[Thing, Measured])}
    of_measurements = {name for _, name in reached(Measured, stop=[Thing, Learned])}
    assert {"Dataset", "normalise", "train", "Recipe", "build_network", "_KERNELS", "CHECKPOINTS"} <= of_networks
    assert {"Dataset", "normalise", "run_pass", "Pass", "Moments", "Maps", "_PLACES_ACROSS"} <= of_measurements
    assert not {"Store", "load_dataset", "configuration_hash", "measure"} & (of_networks | of_measurements)
    assert "Moments" not in of_networks
    assert "train" not in of_measurements
    assert "Moments" in {name for _, name in reached(run_pass)}
    assert code(train) != code(cu.accuracy)


def test_a_function_without_source_is_refused():
    exec("def made(): return 1", namespace := {"__name__": "nowhere"})
    with pytest.raises(ValueError, match="roots: the source of nowhere"):
        code(namespace["made"])


def test_code_of_the_package_that_was_edited_since_it_was_imported_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "edited.py"
    path.write_text("def edited():\n    return 1\n")
    assert module._Source("edited", path).definitions.keys() == {"edited"}
    for folder, refused in ((tmp_path, True), (tmp_path / "elsewhere", False)):
        monkeypatch.setattr(module, "_FOLDER", folder)
        monkeypatch.setattr(module, "_IMPORTED", path.stat().st_mtime - 1)
        module._parsed.cache_clear()
        with pytest.raises(ValueError, match=r"code: edited\.py was edited") if refused else contextlib.nullcontext():
            module._parsed("edited", path)
        monkeypatch.setattr(module, "_IMPORTED", path.stat().st_mtime + 1)
        module._parsed("edited", path)
    module._parsed.cache_clear()
