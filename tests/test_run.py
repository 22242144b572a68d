import json

import nbformat
import pytest

from convergent_utils.paper import publish, run


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
def test_an_unwritable_folder_is_one_clear_line_at_once(tmp_path, monkeypatch, capsys, which):
    (tmp_path / "file").write_text("")
    for name in ("CONVERGENT_BUILD", "CONVERGENT_STORE", "CONVERGENT_RUN"):
        monkeypatch.setenv(name, str(tmp_path / ("file" if name == which else name)))
    assert run.main(["paper", "--profile", "smoke"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"convergent: {which}: cannot write in {tmp_path / 'file'}")
    assert len(said.strip().splitlines()) == 1


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


def test_a_run_on_other_images_is_kept_beside_the_paper(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CONVERGENT_BUILD", str(tmp_path))
    monkeypatch.setattr(publish, "RESULTS", tmp_path / "published")
    (tmp_path / "results").mkdir()
    (tmp_path / "published").mkdir()
    (tmp_path / "results" / "claims.json").write_text("[]")
    for settings in (run.DEFAULTS, {**run.DEFAULTS, "dataset": "npz:mine.npz", "seed": 3}):
        (tmp_path / "results" / "run.json").write_text(json.dumps(settings))
        assert run.main(["publish", "--beside", "mine"]) == 2
        assert "on other images, with nothing else changed" in capsys.readouterr().err
    (tmp_path / "results" / "run.json").write_text(json.dumps({**run.DEFAULTS, "dataset": "npz:mine.npz"}))
    assert run.main(["publish", "--beside", "mine"]) == 0
    assert (tmp_path / "published" / "claims-mine.json").read_text() == "[]"
