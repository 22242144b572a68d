"""The page that says what to type where there is no make."""

import re
import shlex
import sys

import pytest

from convergent_utils import cli
from convergent_utils.edition import site
from convergent_utils.edition.places import ROOT

PAGE = (site.PAGES / "without_make.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `make ([^`]+)` \| (.+) \|$", PAGE, re.MULTILINE)
COMMANDS = sorted({said for said in re.findall(r"`(convergent [^`]+)`", PAGE) if "--help" not in said})


def test_every_target_has_a_row_in_the_order_of_the_makefile():
    targets = re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.MULTILINE)
    assert [name for name, _ in ROWS if "=" not in name] == targets


def test_every_variable_of_the_makefile_has_its_option():
    variables = set(re.findall(r"^export (.+)$", MAKEFILE, re.MULTILINE)[0].split()) - {"PYTHON", "BASE"}
    assert {found for name, _ in ROWS for found in re.findall(r"([A-Z]+)=", name)} == variables


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one(command):
    chosen = cli._parser().parse_args(shlex.split(command, posix=False)[1:])
    assert chosen.command == command.split()[1]


def test_the_commands_are_those_that_make_calls():
    """What the page calls of Python, make calls too, with the same options."""
    called = re.sub(r"\\\n\s*", "", MAKEFILE).replace("'", '"').replace("$(RUN)", "python")
    for name, said in ROWS:
        for line in re.findall(r"`(python [^`]+)`", said) if "=" not in name else []:
            for word in shlex.split(line)[1:]:
                assert word.split("=")[-1] in called, f"make {name}: {word}"


def test_the_site_is_a_command(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(site, "build_site", lambda *, solutions: asked.append(solutions) or tmp_path)
    assert cli.main(["site"]) == cli.main(["site", "--solutions"]) == 0
    assert asked == [False, True]
    assert "index.html: 0.0 MB" in capsys.readouterr().out


def test_without_a_run_or_sphinx_the_site_says_so_in_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CONVERGENT_BUILD", str(tmp_path))
    assert cli.main(["site"]) == 2
    monkeypatch.setitem(sys.modules, "sphinx", None)
    monkeypatch.setattr(site, "find_spec", lambda _: None)
    assert cli.main(["site"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("convergent: site: there is no run") or "sphinx" in first
    assert (
        second
        == "convergent: site: sphinx is not installed; `pip install --editable '.[site]'` in the project brings it"
    )
