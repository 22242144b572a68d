"""The pages of functions: every public name once, in docstrings that set out well."""

import inspect
import re
from types import SimpleNamespace

import pytest

import convergent_utils as cu
from convergent_utils.edition import site, site_functions

PAGES = {name: text for name, text in site._texts().items() if name.startswith("api/")}


def test_every_public_name_is_described_on_one_page():
    named = [name for text in PAGES.values() for name in site_functions.described(text)]
    assert sorted(named) == sorted(cu.__all__)
    for text in PAGES.values():
        for kind, name in re.findall(r"auto(function|class):: (\w+)", text):
            assert inspect.isclass(getattr(cu, name)) == (kind == "class"), name


def test_the_overview_lists_all_in_the_order_of_the_contents():
    made = site_functions.overview(PAGES)
    assert re.findall(r"~convergent_utils\.(\w+)`", made).index("measure") == 0
    assert made.count("| {py:obj}") == len(cu.__all__)
    assert len(re.findall(r"^## \[.+\]\((\w+)\.md\)", made, re.MULTILINE)) == len(PAGES) - 1
    assert "$w = (C + \\rho I)^{+} c$" in made, "a formula in a first sentence"
    assert site_functions.overview({}) == ""


def test_what_is_returned_and_its_source_stand_by_themselves():
    text = "One line.\n\nReturns:\n    Match with it: a colon.\n\nMore words.\n"
    text += "Source: Li et al.\n2016; No Body 2016, ours.\n\nX"
    made = site_functions._marked(text, {"li2016"})
    assert made == (
        "One line.\n\n:returns:\n    `Match` with it: a colon.\n\nMore words.\n\n"
        "**Source:** :cite:t:`li2016`; No Body 2016, ours.\n\nX"
    )
    found = site_functions._cited("ten Berge 1977, O'Donoghue and Candès 2015 (Björck and Golub 1973)", Everything())
    assert found == ":cite:t:`berge1977`, :cite:t:`odonoghue2015` (:cite:t:`bjorck1973`)"


class Everything:
    def __contains__(self, _):
        return True


def handlers(tmp_path):
    """What Sphinx is told to do with docstrings and signatures, by event."""
    pytest.importorskip("sphinx", reason="setting out docstrings needs the extra `site`")
    (tmp_path / "references.bib").write_text("@article{li2016,\n}\n")
    connected = {}
    site_functions.describe_from_docstrings(SimpleNamespace(srcdir=tmp_path, connect=connected.__setitem__))
    return connected


def test_several_names_in_one_line_are_one_item(tmp_path):
    lines = [
        "One line.",
        "",
        "Args:",
        "    a, b: both.",
        "    c: it",
        "        is long.",
        "",
        "Raises:",
        "    ValueError: no.",
    ]
    handlers(tmp_path)["autodoc-process-docstring"](None, "function", "f", None, None, lines)
    said = [line.strip() for line in lines if line.strip()]
    assert said == [
        "One line.",
        ":Parameters: * **a, b**: both.",
        "* **c**: it",
        "is long.",
        ":Raises: **ValueError**: no.",
    ]


def test_only_a_class_that_readers_make_shows_its_arguments(tmp_path):
    told = handlers(tmp_path)["autodoc-process-signature"]
    assert told(None, "class", "", cu.Match) == ("", None)
    assert told(None, "class", "", cu.PairMoments) == ("", None), "its example calls another name that ends alike"
    for name in ("Recipe", "Dataset", "Store", "Moments"):
        assert told(None, "class", "", getattr(cu, name)) is None
    assert told(None, "function", "", cu.cca) is None


def docstrings(name):
    """Of a public name and of what its class has of its own."""
    named = getattr(cu, name)
    members = vars(named).items() if inspect.isclass(named) else ()
    own = [getattr(one, "__func__", one) for key, one in members if not key.startswith("_")]
    return [text for one in (named, *own) if (text := inspect.getdoc(one)) and one.__doc__]


@pytest.mark.parametrize("name", cu.__all__)
def test_code_in_a_description_is_set_as_code(name):
    for text in docstrings(name):
        blocks = re.findall(r"(\S+)\n\n {4,}(?:with |for |\w+ = |cu\.)", text)
        assert all(before.endswith("::") for before in blocks), text
