import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest

from convergent_utils.paper import publish, run


def pictures(folder):
    found = {}
    for path in sorted((folder / "build" / "notebooks").glob("*.ipynb")):
        for k, cell in enumerate(nbformat.read(path, 4).cells):
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    found[path.stem, k, len(found)] = output.data["image/png"]
    return found


@pytest.mark.slow
def test_the_smoke_run_makes_every_notebook_and_claim(smoke):
    folder, done, _ = smoke
    executed = {path.stem for path in (folder / "build" / "notebooks").glob("*.ipynb")}
    assert executed == set(run.notebook_names())
    rows = json.loads((folder / "build" / "results" / "claims.json").read_text())
    assert {row["notebook"] for row in rows} == executed
    assert {row["id"]: row["verdict"] for row in rows}["02.shuffle-undone"] == "new: holds"
    assert all(row["id"] in done.stdout for row in rows)
    assert len(pictures(folder)) >= 8
    assert "differs from the published run" in done.stdout or not (run.RESULTS / "claims.json").exists()


@pytest.mark.slow
def test_the_same_seeds_give_the_same_figures_and_parameters_arrive(smoke, paper, tmp_path):
    """What is measured is measured anew; the same claims, for every notebook: see test_exercises; the same networks:
    where runs are killed. What other settings left does not count.
    """
    shutil.copytree(smoke[0] / "build", tmp_path / "build")
    (tmp_path / "store").mkdir()
    for path in (smoke[0] / "store").glob("network-*.safetensors"):
        shutil.copy(path, tmp_path / "store")
    done = paper(tmp_path, "--profile", "smoke", "--only", "01", "--parameter", "shown=conv3")
    assert done.returncode == 0, done.stderr
    book = nbformat.read(tmp_path / "build" / "notebooks" / "01_activation_statistics.ipynb", 4)
    injected = next(cell for cell in book.cells if "injected-parameters" in cell.metadata.get("tags", []))
    assert "conv3" in injected.source
    assert "smoke" in injected.source
    now, before = set(pictures(tmp_path).values()), set(pictures(smoke[0]).values())
    assert len(now & before) >= 3, "the same seeds, the same figures"
    assert now - before, "another layer, another figure"
    rows = json.loads((tmp_path / "build" / "results" / "claims.json").read_text())
    assert {row["notebook"] for row in rows} == {"01_activation_statistics"}
    assert [path.stem for path in (tmp_path / "build" / "notebooks").iterdir()] == ["01_activation_statistics"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "smok"], "profile: expected one of smoke, paper, full, got 'smok'; did you mean 'smoke'?"),
        (["--dataset", "fashion-mnst", "--profile", "smoke"], "did you mean 'fashion-mnist'?"),
        (["--dataset", "npz:nowhere.npz", "--profile", "smoke"], "there is no file"),
        (["--only", "77"], "only: no notebook starts with '77'"),
        (["--parameter", "sed=3"], "parameter: expected one of"),
    ],
)
def test_mistakes_are_one_clear_line_at_once(tmp_path, monkeypatch, capsys, arguments, message):
    for name in ("CONVERGENT_BUILD", "CONVERGENT_STORE", "CONVERGENT_RUN"):
        monkeypatch.setenv(name, str(tmp_path / name))
    assert run.main(["paper", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not list((tmp_path / "CONVERGENT_STORE").glob("*"))


@pytest.mark.parametrize("which", ["CONVERGENT_BUILD", "CONVERGENT_STORE"])
def test_an_unwritable_folder_is_one_clear_line_at_once(tmp_path, which):
    (tmp_path / "file").write_text("")
    folders = {
        "CONVERGENT_BUILD": str(tmp_path / "b"),
        "CONVERGENT_STORE": str(tmp_path / "s"),
        which: str(tmp_path / "file"),
    }
    command = [sys.executable, "-m", "convergent_utils.paper.run", "paper", "--profile", "smoke"]
    done = subprocess.run(command, env={**os.environ, **folders}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"convergent: {which}: cannot write in {tmp_path / 'file'}")
    assert len(done.stderr.strip().splitlines()) == 1


def notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


@pytest.mark.slow
def test_a_failing_notebook_tells_where_and_what(tmp_path):
    path = notebook(tmp_path / "03_broken.ipynb", "x = 1", "print('before')\nraise ValueError('two\\nlines')", "x = 2")
    (tmp_path / "out").mkdir()
    outcome = run.execute(path, tmp_path / "out", {})
    assert outcome.error == "cell 1 (In [2]): ValueError: two lines"
    assert outcome.executed.exists()
    assert "before" in outcome.executed.read_text()
    assert not (tmp_path / "out" / "03_broken.ipynb").exists(), "no half-run copy under the good name"
    notebook(path, "x = 1")
    outcome = run.execute(path, tmp_path / "out", {})
    assert not outcome.error
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["03_broken.ipynb"]


@pytest.mark.slow
def test_a_failing_notebook_fails_the_run_and_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(run, "prepare", lambda *names, **settings: None)
    monkeypatch.setenv("CONVERGENT_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("CONVERGENT_RUN", "1")
    book = notebook(
        tmp_path / "00_x.ipynb", 'dataset: str = "fashion-mnist"\nseed: int = 0\nprofile: str = "paper"', "1 / 0"
    )
    content = nbformat.read(book, 4)
    content.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(content, book)
    assert run.run(profile="smoke") == 1
    said = capsys.readouterr().err
    assert "00_x failed: cell 2 (In [3]): ZeroDivisionError: division by zero" in said
    assert str(tmp_path / "build" / "notebooks" / "00_x.failed.ipynb") in said


def test_publishing_wants_a_run_with_the_committed_parameters(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVERGENT_BUILD", str(tmp_path))
    with pytest.raises(ValueError, match="committed parameters"):
        publish.publish()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "run.json").write_text(json.dumps({**run.DEFAULTS, "seed": 3}))
    with pytest.raises(ValueError, match="committed parameters"):
        publish.publish()
