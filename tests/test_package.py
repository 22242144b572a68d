"""What pip is told of the package, and where it keeps what it makes; `make dist` tries the wheel itself."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import convergent_utils as cu
from convergent_utils import cli
from convergent_utils.edition.wheel import _with_needs
from convergent_utils.making import checkout
from convergent_utils.making.checkout import PROJECT

PACKAGE = Path(cu.__file__).parent
SETTINGS = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ALONE = ("kernels", "making", "drawing", "nets", "compare")  # rooms that serve without the paper
OPTIONAL = {"torchvision", "timm", "transformers", "ipywidgets", "psutil"}  # done without, or refused by name


def imported(room):
    """The packages that the files of a room import, wherever in them."""
    found = set()
    for path in (PACKAGE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {name.partition(".")[0] for name in names}
    return found - set(sys.stdlib_module_names) - {"convergent_utils", "_typeshed"}  # the last is of type checkers


def distributions(requirements):
    return {re.match(r"[\w.-]+", one)[0].lower() for one in requirements}


@pytest.mark.parametrize("room", [*ALONE, "paper", "edition"])
def test_what_is_imported_is_declared(room):
    declared = distributions(SETTINGS["dependencies"])
    if room not in ALONE:
        extras = SETTINGS["optional-dependencies"]
        declared |= distributions(one for name in ("paper", "site", "test") for one in extras[name])
    known = packages_distributions()
    brought = {"IPython", "traitlets", "docutils", "sphinx", "packaging"}  # by jupyterlab, myst-nb and build
    for name in imported(room) - brought - (OPTIONAL if room in ALONE else {"timm", "transformers"}):
        assert {one.lower() for one in known[name]} & declared, f"{name}: declare it in pyproject.toml"


def test_there_is_one_version():
    cited = re.search(r"^version: (.+)$", (PROJECT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited[1] == cu.__version__
    assert "version" in SETTINGS["dynamic"]


def test_what_is_made_lies_in_the_checkout_or_in_the_cache_of_the_user(tmp_path, monkeypatch):
    assert checkout.kept_folder() == PROJECT / "build"
    monkeypatch.setattr(checkout, "PROJECT", tmp_path)
    kept = checkout.kept_folder()
    assert tmp_path not in kept.parents
    assert kept.name == "convergent-learning" or "convergent-learning" in kept.parts
    monkeypatch.delenv("CONVERGENT_STORE", raising=False)
    assert cu.Store().path == kept / "store"
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "anothers"\n')
    assert checkout.kept_folder() == kept, "another project's folder"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "convergent-learning"\n')
    assert checkout.kept_folder() == tmp_path / "build"


def test_a_user_without_a_home_names_a_folder(tmp_path, monkeypatch):
    def homeless(*_, **__):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(checkout, "PROJECT", tmp_path)
    monkeypatch.setattr("platformdirs.user_cache_path", homeless)
    monkeypatch.delenv("CONVERGENT_STORE", raising=False)
    assert cu.Store(tmp_path / "named").path == tmp_path / "named"
    with pytest.raises(ValueError, match="^CONVERGENT_STORE: you have no home folder; name a folder"):
        cu.Store()


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("x.txt", "path: expected a name that ends in .html, got 'x.txt'"),
        ("locked/x.html", "out: nothing can be written in "),
    ],
)
def test_a_page_that_cannot_be_is_refused_before_anything_is_read(tmp_path, monkeypatch, capsys, page, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr("os.access", lambda path, _: Path(path).name != "locked")
    assert cli.main(["compare", "acts:mine.npz", "acts:theirs.npz", "--out", page]) == 2  # which are not there
    assert capsys.readouterr().err.startswith(f"convergent: {said}")


@pytest.mark.parametrize("page", ["x.htm", "X.HTML", "x.html"])
def test_any_page_is_gone_on_with(tmp_path, monkeypatch, capsys, page):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", "acts:mine.npz", "acts:theirs.npz", "--out", page]) == 2
    assert "mine.npz" in capsys.readouterr().err


@pytest.mark.parametrize(("module", "package"), [("ot", "POT"), ("bs4", "beautifulsoup4"), ("papermill", "papermill")])
def test_a_package_that_is_lacking_is_called_as_pip_calls_it(monkeypatch, capsys, module, package):
    def without(*_, **__):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(cli, "run", without)
    assert cli.main(["paper"]) == 2
    assert f"{package}: not installed; `pip install {package}` brings it" in capsys.readouterr().err


def test_without_a_checkout_the_paper_is_refused_in_a_sentence(tmp_path, monkeypatch):
    checkout.require_checkout("paper")
    monkeypatch.setattr(checkout, "PROJECT", tmp_path)
    with pytest.raises(ValueError, match="^stability: notebooks, images.* get the project") as refused:
        checkout.require_checkout("stability")
    assert len(str(refused.value)) <= 300


def test_the_environment_that_is_lent_to_the_wheel_is_whole():
    lent = set(_with_needs("torch"))
    assert {"torch", "sympy", "filelock"} <= lent
    assert "pytest" not in lent


def test_the_workflow_tests_what_the_package_says_it_runs_on():
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load((PROJECT / ".github/workflows/paper.yml").read_text(encoding="utf-8"))["jobs"]
    versions = jobs["check"]["strategy"]["matrix"]["python"]
    assert SETTINGS["requires-python"] == f">={versions[0]}"
    assert {f"Programming Language :: Python :: {one}" for one in versions} <= set(SETTINGS["classifiers"])
