"""The package as pip installs it from the wheel, outside any checkout; `make dist` runs this file there."""

import json
import os
import statistics
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch

import convergent_utils as cu
from convergent_utils.making.checkout import in_checkout

if in_checkout():
    pytest.skip("the package of a checkout; `make dist` tries the installed one", allow_module_level=True)

PACKAGE = Path(cu.__file__).parent
COMMAND = Path(sys.executable).with_name("convergent.exe" if os.name == "nt" else "convergent")
OF_THE_PAPER = ["paper", "stability", "publish", "site", "course", "check NOTEBOOK"]


def command(*words):
    return subprocess.run([COMMAND, *words], capture_output=True, text=True)


def network(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))


def seconds_of(code):
    """Of the processor, whatever else the machine does."""
    said = "; import resource; used = resource.getrusage(resource.RUSAGE_SELF); print(used.ru_utime + used.ru_stime)"
    return float(subprocess.check_output([sys.executable, "-c", code + said], text=True))


@pytest.mark.skipif(os.name == "nt", reason="the time of a process is read as on Unix")
def test_the_import_takes_at_most_half_a_second_more_than_that_of_torch():
    seconds_of("import convergent_utils")  # compiles it
    taken = [(seconds_of("import convergent_utils"), seconds_of("import torch")) for _ in range(5)]
    assert statistics.median(ours - torchs for ours, torchs in taken) <= 0.5, taken


def test_the_wheel_holds_pages_and_the_mark_that_it_is_typed():
    assert (PACKAGE / "py.typed").is_file()
    assert {"index.md", "glossary.md", "references.bib"} <= {
        path.name for path in (PACKAGE / "edition/pages").iterdir()
    }
    assert (PACKAGE / "edition/pages/static/site.css").is_file()
    tops = {file.parts[0] for file in distribution("convergent-learning").files} - {".."}
    assert not tops & {"tests", "data", "notebooks"}


def test_the_version_is_that_of_the_distribution():
    assert cu.__version__ == distribution("convergent-learning").version
    assert command("--version").stdout == f"convergent {cu.__version__}\n"


def test_the_command_helps():
    done = command("--help")
    assert done.returncode == 0
    assert "compare" in done.stdout


@pytest.mark.parametrize("words", OF_THE_PAPER)
def test_what_needs_the_paper_is_refused_in_a_sentence(words):
    done = command(*words.split())
    assert done.returncode == 2
    said = done.stderr.strip()
    assert said.startswith(f"convergent: {words.split()[0]}: ")
    assert "checkout" in said
    assert len(said.splitlines()) == 1
    assert len(said) <= 300


def test_images_of_the_paper_are_refused_by_name():
    with pytest.raises(ValueError, match="name: fashion-mnist.* checkout"):
        cu.load_dataset("fashion-mnist")


def test_results_are_kept_in_the_cache_of_the_user():
    from platformdirs import user_cache_path

    store = cu.Store()
    assert store.path == user_cache_path("convergent-learning", appauthor=False) / "store"
    assert Path.home() in store.path.parents or sys.platform != "linux"
    assert PACKAGE not in store.path.parents


def test_own_networks_are_measured_and_compared_with_a_store(tmp_path):
    networks, inputs = {"a": network(0), "b": network(1)}, torch.randn(64, 6)
    measured = cu.measure(networks, inputs, ["0", "2"], store=tmp_path / "store", top=4)
    again = cu.measure(networks, inputs, ["0", "2"], store=tmp_path / "store", top=4)
    assert len(list((tmp_path / "store").glob("*.safetensors"))) == 1
    pairs = [one.pair("a.0", "b.0") for one in (measured, again)]
    assert torch.equal(cu.correlation(pairs[0]).matrix, cu.correlation(pairs[1]).matrix)
    rows = [networks[name][0](inputs).detach().double().numpy() for name in "ab"]
    assert torch.allclose(
        cu.correlation(pairs[0]).matrix, cu.correlation(cu.pair_moments(*rows)).matrix, atol=1e-5, rtol=0
    )
    compared = cu.compare(measured, "a", "b", turns=2, shuffles=2)
    assert len(compared.table())
    compared.save(tmp_path / "report.html")
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_command_compares_saved_activations_and_keeps_the_result(tmp_path, monkeypatch):
    import numpy as np

    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for name in ("mine", "theirs"):
        np.savez(f"{name}.npz", early=draw.normal(size=(200, 5)), late=draw.normal(size=(200, 4)))
    done = command("compare", "acts:mine.npz", "acts:theirs.npz", "--turns", "2", "--shuffles", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    assert (tmp_path / "report.html").is_file()


def test_the_command_measures_networks_of_a_file_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "import torch\n"
        "def first(): return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))\n"
        "second = first\n"
        "def rows(): return torch.randn(64, 6, generator=torch.Generator().manual_seed(0))\n"
    )
    words = ["mine:first", "mine:second", "--data", "mine:rows", "--layers", "0", "2", "--store", "kept"]
    done = command("measure", *words, "--out", "measured.safetensors")
    assert done.returncode == 0, done.stderr
    assert isinstance(cu.load("measured.safetensors"), cu.Measurement)
    assert list(Path("kept").glob("*.safetensors"))
    done = command("compare", *words, "--turns", "2", "--shuffles", "2")
    assert done.returncode == 0, done.stderr
    assert Path("report.html").is_file()
