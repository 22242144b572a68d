"""`convergent check FOLDER --csv`: one row for each hand-in, whatever is handed in, and one preparation for all."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import safetensors.torch
import torch

from convergent_utils import cli
from convergent_utils.edition import checking, judging, places
from convergent_utils.edition.scores import Score, harmless, table
from convergent_utils.making.store import Store
from convergent_utils.paper.networks import Setting
from convergent_utils.paper.prepare import Prepared

PASSED = "answer = 5"


def code(source, *tags):
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})


def hand_in(path, *answers, text=(), check='assert answer == 5, "five is asked for"'):
    """A notebook of some cells of text and as many exercises as there are answers."""
    cells = [code(source) for source in text]
    for answer in answers:
        cells += [nbformat.v4.new_markdown_cell("**1. Read.** *Five.*"), code(answer, "exercise"), code(check, "check")]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Hand-ins of a project of one notebook without text, of two exercises."""
    hand_in(tmp_path / "project" / "00_tiny.ipynb", "answer = None", "answer = None")
    monkeypatch.setattr(places, "NOTEBOOKS", tmp_path / "project")
    monkeypatch.setenv("CONVERGENT_STORE", str(tmp_path / "store"))
    (tmp_path / "store").mkdir()
    (tmp_path / "handed in").mkdir()
    return tmp_path / "handed in"


def rows(file):
    text = file.read_text(encoding="utf-8-sig") if isinstance(file, Path) else file
    return list(csv.DictReader(io.StringIO(text)))


def test_each_hand_in_of_a_folder_has_a_row_whatever_it_is(project, tmp_path, capsys):
    hand_in(project / "anna" / "00_tiny.ipynb", PASSED, "answer = 6")
    hand_in(project / "bob, the second" / "00_tiny.ipynb", PASSED, PASSED, check="assert True")
    hand_in(project / "=1+1" / "zoë\nand\x1b[2J co.ipynb", PASSED, PASSED)
    hand_in(project / "carla" / "00_tiny.ipynb", PASSED)
    (project / "dan.ipynb").write_bytes(b"")
    (project / "eve.ipynb").symlink_to(project / "anna" / "00_tiny.ipynb")
    (project / "gone.ipynb").symlink_to("nowhere")
    for left_out in (".hidden/00_tiny.ipynb", "anna/.ipynb_checkpoints/00_tiny-checkpoint.ipynb", "anna/._00.ipynb"):
        hand_in(project / left_out, PASSED, PASSED)
    (project / "anna" / "notes.txt").write_text("no notebook")
    assert cli.main(["check", str(project), "--csv", str(tmp_path / "scores.csv")]) == 2
    found = {row["file"]: row for row in rows(tmp_path / "scores.csv")}
    assert set(found) == {
        "anna/00_tiny.ipynb",
        "bob, the second/00_tiny.ipynb",
        r"'=1+1/zoë\nand\x1b[2J co.ipynb",
        "carla/00_tiny.ipynb",
        "dan.ipynb",
        "eve.ipynb",
        "gone.ipynb",
    }
    anna = found["anna/00_tiny.ipynb"]
    assert list(anna)[:4] == ["file", "notebook", "passed", "exercises"]
    assert (anna["notebook"], anna["passed"], anna["exercises"]) == ("00_tiny", "1", "2")
    assert (anna["exercise 1"], anna["exercise 2"]) == ("passed", "five is asked for")
    assert "differs from the project's" in found["bob, the second/00_tiny.ipynb"]["notes"]
    assert "1 checks where the project's 00_tiny has 2" in found["carla/00_tiny.ipynb"]["error"]
    assert found["carla/00_tiny.ipynb"]["passed"] == "", "it was not judged, so it has no score"
    assert "damaged" in found["dan.ipynb"]["error"]
    assert all("is a link" in found[name]["error"] for name in ("eve.ipynb", "gone.ipynb"))
    said = capsys.readouterr()
    assert said.out == "", "the table stands in place of the text"
    assert "convergent: 7 of 7: " in said.err
    assert all(line.isprintable() for line in said.err.splitlines())


def test_the_table_comes_alone_on_the_standard_output(project, capsys):
    files = [hand_in(project / name / "00_tiny.ipynb", PASSED, PASSED) for name in ("anna", "bob")]
    assert cli.main(["check", *map(str, files), "--csv", "-"]) == 0
    said = capsys.readouterr()
    assert [row["file"] for row in rows(said.out)] == [str(file) for file in files], "names as they were given"
    assert [row["passed"] for row in rows(said.out)] == ["2", "2"]
    assert said.err.splitlines()[0].startswith("convergent: 1 of 2: ")


def test_without_a_table_the_text_says_how_far_it_is(project, capsys):
    for name in ("anna", "bob"):
        hand_in(project / name / "00_tiny.ipynb", PASSED, PASSED)
    assert cli.main(["check", str(project)]) == 0
    said = capsys.readouterr()
    assert said.out.count("2 of 2 exercises pass") == 2
    assert said.err.splitlines() == ["convergent: 1 of 2", "convergent: 2 of 2"]


@pytest.mark.parametrize("csv_to", [[], ["--csv", "scores.csv"]])
def test_a_folder_without_notebooks_is_refused_in_one_sentence(project, capsys, monkeypatch, csv_to):
    monkeypatch.chdir(project)
    assert cli.main(["check", str(project), *csv_to]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "there is no notebook (.ipynb) in the folder" in said.err
    assert len(said.err.splitlines()) == 1
    assert list(project.iterdir()) == [], "nothing is written where nothing is checked"


def test_a_table_is_not_written_over_anything_else(project, tmp_path, capsys):
    file = hand_in(project / "00_tiny.ipynb", PASSED, PASSED)
    before = file.read_bytes()
    assert cli.main(["check", str(project), "--csv", str(file)]) == 2
    assert "is there and is no table of scores" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert cli.main(["check", str(project), "--csv", str(tmp_path / "no folder" / "scores.csv")]) == 2
    for _ in range(2):  # over a table of an earlier run it is
        assert cli.main(["check", str(project), "--csv", str(tmp_path / "scores.csv")]) == 0
    assert len(rows(tmp_path / "scores.csv")) == 1


def test_a_run_that_is_stopped_keeps_the_rows_that_it_has(project, tmp_path, monkeypatch, capsys):
    for name in "abc":
        hand_in(project / f"00_tiny {name}.ipynb", PASSED, PASSED)
    whole, done = checking._score, []

    def stopped(*arguments, **options):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(arguments)
        return whole(*arguments, **options)

    monkeypatch.setattr(checking, "_score", stopped)
    assert cli.main(["check", str(project), "--csv", str(tmp_path / "scores.csv")]) == 130
    assert [row["passed"] for row in rows(tmp_path / "scores.csv")] == ["2", "2"]


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "＝1", "\t=1", "\r=1", "\n=1"])
def test_no_cell_begins_as_a_formula_does(text):
    assert harmless(text)[0] not in "=+-@＝＋－＠\t\r\n"
    assert text.strip() in harmless(text)
    assert harmless("5 = 5") == "5 = 5"


def test_verdicts_are_harmless_too_and_no_row_is_torn(tmp_path):
    with table(str(tmp_path / "scores.csv"), 3) as scores:
        scores.add(Score("a", "00_tiny", ["=cmd()", 'passed, "or" not;\nno'], ["-1", "+2"]))
    (row,) = rows(tmp_path / "scores.csv")
    assert (row["exercise 1"], row["exercise 2"], row["exercise 3"]) == ("'=cmd()", 'passed, "or" not;\\nno', "")
    assert row["notes"] == "'-1; +2"
    assert len((tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()) == 2


COUNTED = "with open({!r}, 'a') as file:\n    file.write('x')\ngiven = 5"


def test_hand_ins_of_one_notebook_share_its_text_and_others_run_their_own(project, tmp_path, capsys):
    runs = tmp_path / "runs"
    text = (COUNTED.format(str(runs)), "twice = given * 2")
    hand_in(tmp_path / "project" / "00_tiny.ipynb", "answer = None", "answer = None", text=text)
    for name in "abc":
        hand_in(
            project / f"00_tiny {name}.ipynb", "given += 1\nanswer = twice - given + 1", "answer = given - 1", text=text
        )
    assert cli.main(["check", str(project)]) == 0, "none sees what another has done to a variable"
    assert runs.read_text() == ("x" if judging._CAN_COPY else "xxx")
    changed = (text[0], "twice = given * 3")
    hand_in(project / "00_tiny b.ipynb", PASSED, "answer = twice - 10", text=changed)
    hand_in(project / "00_tiny c.ipynb", PASSED, "answer = twice - 5", text=text)
    runs.unlink()
    assert cli.main(["check", str(project)]) == 0, "who changes the text is judged with the changed text"
    assert runs.read_text() == ("xx" if judging._CAN_COPY else "xxx")


DAMAGES = {
    "overwritten": "for file in found.parent.iterdir():\n    file.write_bytes(bytes(file.stat().st_size))",
    "in place": "with found.open('r+b') as file:\n    file.write(bytes(found.stat().st_size))",
    "by its memory": "values.zero_()",
    "removed": "import shutil\nshutil.rmtree(found.parent.parent)",
    "all removed": "import shutil\nshutil.rmtree(found.parents[2])",
    "replaced by a link": "import shutil\nshutil.rmtree(found.parent)\nfound.parent.symlink_to(os.environ['HOME'])",
    "closed": "os.chmod(found.parent, 0)\nos.chmod(found.parents[1], 0)",
    "package": "import convergent_utils\npathlib.Path(convergent_utils.__file__).write_text('raise SystemExit')",
    "process": "import signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "process stopped": "import signal\nos.kill(os.getppid(), signal.SIGSTOP)",
    "pipes": 'for pipe in range(3, 64):\n    try:\n        os.write(pipe, b\'{"token": ""}\'); os.close(pipe)\n'
    "    except OSError:\n        pass",
}
READS = """import os, pathlib, importlib.util, safetensors.torch
found, = pathlib.Path(os.environ['CONVERGENT_STORE']).iterdir()
values = safetensors.torch.load_file(found)['five']"""
AGAIN = """assert safetensors.torch.load_file(found)['five'].sum() == 5
assert 'raise SystemExit' not in pathlib.Path(importlib.util.find_spec('convergent_utils').origin).read_text()
answer = int(values.sum())"""


@pytest.mark.slow
@pytest.mark.skipif(not judging._CAN_COPY, reason="a process for each hand-in")
def test_no_hand_in_changes_what_the_next_one_sees_or_the_originals(project, tmp_path, monkeypatch, capsys):
    """Processes are not hidden from each other: this shows that what is killed is made anew."""
    monkeypatch.setattr(judging, "GRACE", 2)
    store = tmp_path / "store" / "thing-0.safetensors"
    safetensors.torch.save_file({"five": torch.ones(5)}, store)
    hand_in(tmp_path / "project" / "00_tiny.ipynb", "answer = None", "answer = None", text=[READS])
    for number, damage in enumerate(DAMAGES.values()):
        hand_in(project / f"00_tiny {number:02d} a.ipynb", damage, PASSED, text=[READS])
        hand_in(project / f"00_tiny {number:02d} b.ipynb", AGAIN, AGAIN, text=[READS])
    before, ours = store.read_bytes(), Path(judging.__file__).parents[1] / "__init__.py"
    package = ours.read_bytes()
    assert cli.main(["check", str(project), "--csv", str(tmp_path / "scores.csv")]) in (0, 1)
    found = {row["file"]: row for row in rows(tmp_path / "scores.csv")}
    said = [json.dumps(row) for name, row in found.items() if " b." in name and row["passed"] != "2"]
    assert len(found) == 2 * len(DAMAGES)
    assert said == []
    assert store.read_bytes() == before
    assert ours.read_bytes() == package


def test_a_process_without_a_channel_has_no_copy(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        alone = judging.Judging(process, tmp_path)
        try:
            assert alone.copied(tmp_path) is None
        finally:
            process.kill()


def test_only_what_a_notebook_reads_is_copied_of_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVERGENT_STORE", str(tmp_path / "store"))
    (tmp_path / "store").mkdir()
    names = [f"thing-{k}.safetensors" for k in range(3)]
    for name in names:
        (tmp_path / "store" / name).write_text(name)
    for scratch, files, copied in (("some", names[:2], names[:2]), ("all", None, names)):
        (tmp_path / scratch).mkdir()
        asked = [tmp_path / "store" / name for name in [*files, "lacking.safetensors"]] if files else None
        judging._copied(None, tmp_path / scratch, asked)
        assert sorted(path.name for path in (tmp_path / scratch / "store").iterdir()) == copied


def test_the_files_that_a_notebook_reads_are_those_of_its_things(tmp_path):
    declared = Prepared(Setting.of("fashion-mnist", seed=0, profile="smoke"), Store(tmp_path))
    files = checking._files(declared, "02_one_to_one_matching")
    assert declared.store.file(*_named(declared.thing("measured", "trained", "all"))) in files
    assert declared.store.file(*_named(declared.setting.learned["net1"])) in files
    others = {declared.store.file(*_named(thing)) for thing in declared.things.values()}
    assert len(files) < len(others), "and no others"


def _named(thing):
    return thing.kind, thing.configuration
