"""The editions give nothing away, and `convergent check` says what passes, what fails and why."""

import ast
import itertools
import re
from pathlib import Path

import nbformat
import pytest

from convergent_utils.paper import course, run
from convergent_utils.paper.run import NOTEBOOKS, notebook_names

NAMES = notebook_names()


def tags(cell):
    return set(cell.metadata.get("tags", []))


def tagged(cells, tag):
    return [cell for cell in cells if tag in tags(cell)]


def squeezed(source):
    return re.sub(r"\s", "", ast.unparse(ast.parse(source)))


def computations(source):
    """Everything that is computed in some code: sums and products, comparisons, and what is looked up by an index."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.BinOp, ast.Compare, ast.Subscript))]
    nodes = [node for node in nodes if not isinstance(getattr(node, "slice", None), ast.Constant)]
    return {found for found in map(squeezed, map(ast.unparse, nodes)) if len(found) >= 10}


@pytest.fixture(scope="module")
def editions(tmp_path_factory):
    """The folder of the course, written twice: nothing may depend on when it was written."""
    folder = tmp_path_factory.mktemp("build")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVERGENT_BUILD", str(folder))
        assert run.main(["course"]) == 0
        first = {path: path.read_bytes() for path in folder.rglob("*.*")}
        assert run.main(["course"]) == 0
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == first
    return folder / "course"


@pytest.mark.parametrize("name", NAMES)
def test_the_student_edition_is_the_notebook_without_its_answers(editions, name):
    whole = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4).cells
    book = nbformat.read(editions / "student" / f"{name}.ipynb", 4)
    nbformat.validate(book)
    kept = [cell for cell in whole if not tags(cell) & {"solution", "finding"}]
    assert [(cell.id, cell.source) for cell in book.cells] == [(cell.id, cell.source) for cell in kept]
    assert len(tagged(book.cells, "exercise")) == len(tagged(book.cells, "check")) == 3
    first = book.cells.index(tagged(book.cells, "exercise")[0])
    assert not any(cell.get("outputs") for cell in book.cells[first:]), "an output may show what a solution gives"
    assert all(cell.get("outputs") == whole[k].get("outputs") for k, cell in enumerate(book.cells[:first]))


@pytest.mark.parametrize("name", NAMES)
def test_no_part_of_a_solution_stands_in_the_student_edition(editions, name):
    cells = nbformat.read(editions / "student" / f"{name}.ipynb", 4).cells
    first = cells.index(tagged(cells, "exercise")[0])
    taught, asked = (
        "\n".join(squeezed(cell.source) for cell in part if cell.cell_type == "code")
        for part in (cells[:first], cells[first:])
    )
    solutions = tagged(nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4).cells, "solution")
    parts = set().union(*(computations(cell.source) for cell in solutions))
    assert parts
    assert [part for part in parts if part in asked and part not in taught] == []
    lines = {line.strip() for cell in solutions for line in cell.source.splitlines()}
    given = {line.strip() for cell in cells for line in cell.source.splitlines()}
    assert [line for line in lines & given if not re.match(r"def |import |with |return \w+$|$", line)] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_solution_is_more_than_a_call_into_the_package(name):
    for cell in tagged(nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4).cells, "solution"):
        assert not re.search(r"\bcu\.", cell.source), "a solution derives the thing"


def test_the_instructor_edition_is_the_notebook(editions):
    for name in NAMES:
        ours, theirs = (folder / f"{name}.ipynb" for folder in (NOTEBOOKS, editions / "instructor"))
        assert nbformat.read(theirs, 4) == nbformat.read(ours, 4)
    for edition in ("student", "instructor"):
        assert "convergent check NOTEBOOK" in (editions / edition / "README.md").read_text(encoding="utf-8")


def code(source, *tags):
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})


def exercise(level, title, answer, check):
    stated = nbformat.v4.new_markdown_cell(f"**{level}.** *{title}* What is it?")
    return [stated, code(answer, "exercise"), code(check, "check")]


def written(path, *cells):
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return str(path)


FIVE = 'assert answer == 5, "five is asked for"'


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder of notebooks in the place of the project's, with one of four exercises."""
    blanks = [exercise(f"{k}. Read", f"The {k}th.", "answer = None", FIVE) for k in range(1, 5)]
    written(tmp_path / "00_tiny.ipynb", *itertools.chain(*blanks))
    for module in (run, course):
        monkeypatch.setattr(module, "NOTEBOOKS", tmp_path)
    monkeypatch.setenv("CONVERGENT_BUILD", str(tmp_path / "build"))
    return tmp_path


def test_check_says_what_passes_and_what_does_not(project, capsys):
    path = written(
        project / "00_tiny of a student.ipynb",
        code("import os, pathlib\npathlib.Path(os.environ['CONVERGENT_BUILD'], 'claim').write_text('')"),
        code("from convergent_utils.paper.widgets import live_panel\nlive_panel('cannot be drawn', {})"),
        code("raise ValueError('run where someone looks')", "live-only"),
        *exercise("1. Read", "Out of order.", "answer = 2 + three", FIVE)[:-1],
        code("three = 3\nanswer = 2 + three"),
        code(FIVE, "check"),
        *exercise("2. Compute", "Wrong.", "answer = 6", "assert True  # no longer what it was"),
        code("raise KeyError('of no account after a wrong answer')"),
        *exercise("3. Explore", "Broken.", "answer = 5\nanswer = fve", FIVE),
        *exercise("4. Explore", "Right again.", "answer = 5", FIVE),
        code("'five' + answer"),
    )
    before = Path(path).read_bytes()
    assert run.main(["check", path]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "00_tiny of a student.ipynb"
    assert said[1] == "  1. Read. Out of order: the answer stops with NameError: name 'three' is not defined"
    assert said[2] == "  2. Compute. Wrong: five is asked for"
    assert said[3].startswith("  3. Explore. Broken: the answer stops with NameError: name 'fve' is not defined")
    assert said[4] == "  4. Explore. Right again: passed"
    assert said[5] == "  Note: the check of '2. Compute. Wrong' differs from the project's, which was run instead"
    assert said[6].startswith("  Note: the cell that begins \"'five' + answer\" fails with TypeError")
    assert said[7:] == ["1 of 4 exercises pass"]
    assert Path(path).read_bytes() == before
    assert not (project / "build").exists(), "claims of a student's run are nobody's"


def test_check_stops_at_an_error_before_the_exercises(project, capsys):
    alone = exercise("1. Read", "Right.", "answer = 5", FIVE)
    broken = written(project / "mine.ipynb", code("1 / 0"), *alone)
    assert run.main(["check", broken, written(project / "other.ipynb", *alone)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "  1. Read. Right: not reached"
    assert "  Note: a cell before the first exercise fails with ZeroDivisionError: division by zero" in said
    assert "0 of 1 exercises pass" in said
    assert said[-1] == "1 of 1 exercises pass"


@pytest.mark.parametrize(
    ("file", "cells", "message"),
    [
        ("missing.ipynb", None, "there is no file"),
        ("text.ipynb", "no notebook", "is damaged or no notebook"),
        ("plain.ipynb", [code("x = 1")], "has no exercises"),
        (
            "00_tiny.ipynb",
            exercise("1. Read", "Alone.", "answer = 5", FIVE),
            "has 1 checks where the project's 00_tiny",
        ),
    ],
)
def test_check_refuses_in_one_sentence_what_it_cannot_check(project, capsys, file, cells, message):
    path = project / "handed in" / file
    path.parent.mkdir()
    if isinstance(cells, str):
        path.write_text(cells)
    elif cells:
        written(path, *cells)
    assert run.main(["check", str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert str(path) in said.err
    assert len(said.err.strip().splitlines()) == 1
