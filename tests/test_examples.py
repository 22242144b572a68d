"""Examples in docstrings: every public name has one, and every one runs and gives what it shows."""

import contextlib
import doctest
import inspect
import io
import sys
from functools import cached_property
from types import FunctionType

import pytest
import torch

import convergent_utils as cu

ROOMS = ("kernels", "nets", "making")
# names without an example of their own, and why
SHOWN_ELSEWHERE = {
    "CCAResult": "what `cca`, `svcca` and `pwcca` return; their examples read it",
    "CorrelationCount": "what `significant_correlations` returns; its example reads it",
    "History": "the learning curves that `train` returns; its example reads them",
    "Trained": "what `train` returns; its example reads it",
}
METHODS = (FunctionType, property, cached_property, classmethod)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples():
    """Each example by what it explains: functions, classes and methods of classes."""
    found = {}
    for name in cu.__all__:
        named = {name: getattr(cu, name)}
        if inspect.isclass(named[name]):
            methods = {name: value for name, value in vars(named[name]).items() if isinstance(value, METHODS)}
            named |= {f"{name}.{method}": value for method, value in methods.items() if method[0] != "_"}
        docstrings = {key: inspect.getdoc(value) or "" for key, value in named.items()}
        found |= {key: docstring for key, docstring in docstrings.items() if ">>>" in docstring}
    return found


EXAMPLES = examples()
PUBLIC = [name for name in cu.__all__ if getattr(cu, name).__module__.split(".")[1] in ROOMS]


@contextlib.contextmanager
def as_before():
    """What an example may move and a later test would notice is put back."""
    dtype, gradients, threads = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # for examples that draw without a generator
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        torch.set_num_threads(threads)


def failures(name, docstring):
    """What `doctest` says of an example in which the package and torch are at hand; nothing where it is right."""
    names = {"torch": torch, **{public: getattr(cu, public) for public in cu.__all__}}
    test = doctest.DocTestParser().get_doctest(docstring, names, name, None, None)
    said = io.StringIO()
    with as_before():
        doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=said.write)
    return said.getvalue()


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name):
    assert (name in EXAMPLES) != (name in SHOWN_ELSEWHERE), f"{name}: an example, or a reason why there is none"


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_gives_what_it_shows(name):
    if "torchvision" in EXAMPLES[name]:
        pytest.importorskip("torchvision")
    before = torch.get_rng_state(), sys.displayhook
    assert failures(name, EXAMPLES[name]) == ""
    assert torch.equal(torch.get_rng_state(), before[0])
    assert sys.displayhook is before[1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (">>> semi_matching(torch.eye(2)).index\ntensor([1, 0])", "Expected:"),
        (">>> semi_matching(torch.zeros(2)).index\ntensor([0, 1])", "ValueError: score"),
        (">>> semi_match(torch.eye(2))", "NameError"),
        (">>> 1 + 1", "Got:"),
    ],
)
def test_a_wrong_example_is_found(wrong, said):
    assert said in failures("wrong", wrong)


def test_an_example_leaves_nothing_behind():
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    assert failures("moves", ">>> _ = torch.manual_seed(5)\n>>> torch.set_default_dtype(torch.float64)") == ""
    assert torch.get_default_dtype() == dtype
    assert torch.equal(torch.get_rng_state(), state)
