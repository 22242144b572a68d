"""The editions give nothing away, and `convergent check` says what passes, what fails and why."""

import ast
import contextlib
import io
import itertools
import re
from pathlib import Path

import nbformat
import pytest

from convergent_utils import cli
from convergent_utils.edition import checking, course, judging, places
from convergent_utils.edition.places import NOTEBOOKS, notebook_names

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
        said = (editions / edition / "README.md").read_text(encoding="utf-8")
        assert "convergent check NOTEBOOK" in said
        assert ("container" in said) == (edition == "instructor"), "a teacher reads what a check cannot prevent"


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
    monkeypatch.setattr(places, "NOTEBOOKS", tmp_path)
    monkeypatch.setenv("CONVERGENT_BUILD", str(tmp_path / "build"))
    return tmp_path


def test_check_says_what_passes_and_what_does_not(project, capsys):
    path = written(
        project / "00_tiny of a student.ipynb",
        code("import os, pathlib\npathlib.Path(os.environ['CONVERGENT_BUILD'], 'claim').write_text('')"),
        code("from convergent_utils.drawing.widgets import live_panel\nlive_panel('cannot be drawn', {})"),
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
    assert cli.main(["check", path]) == 1
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
    assert cli.main(["check", broken, written(project / "other.ipynb", *alone)]) == 1
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
    assert cli.main(["check", str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert str(path) in said.err
    assert len(said.err.strip().splitlines()) == 1


MEAN = """import statistics
assert isinstance(answer, (int, float)), "a number is asked for"
assert abs(answer - statistics.mean(given)) < 1e-9, "the mean is another\""""
TWICE = """assert isclose(twice(given[0]), 2), "twice one is two"
assert twice(more[0]) == 2 * half(8), "twice four is eight\""""
SETTING = "from math import isclose\n\ngiven = [1, 3]\n\n\ndef half(x):\n    return x / 2"
BLANKS = ("answer = None", "def twice(x):\n    return None")
RIGHT = ("answer = 2", "def twice(x):\n    return 2 * x")
NEVER = "import time\nwhile True:\n    try:\n        time.sleep(99)\n    except{}:\n        pass"
ANY = "class Any(float):\n    __sub__ = __rsub__ = lambda *_: Any()\n    __abs__ = __rmul__ = __sub__\n"
ANY += "    __lt__ = __eq__ = lambda *_: True\n"
SHELL = "shell = get_ipython()\n"
WORDS = """import json, os
for pipe in range(3, 50):
    try:
        os.write(pipe, b'{"error": null, "token": ""}\\n' * 2)
    except OSError:
        pass"""
REACHED_FOR = """import importlib.util, os, pathlib
os.environ.update(CONVERGENT_BUILD='elsewhere')
places = [pathlib.Path(), pathlib.Path(os.environ['CONVERGENT_STORE']), pathlib.Path.home()]
places += [pathlib.Path(importlib.util.find_spec('convergent_utils').origin).parent]
for file in [file for place in places for file in [place / 'new', *place.rglob('*')] if not file.is_dir()]:
    file.write_text('assert True')
raise ValueError(sorted(os.environ.values()), len(places))"""


def tiny(*answers, kind="code", tagged=("check",), checks=(MEAN, TWICE), setting=SETTING, title="The mean"):
    """A hand-in, or the notebook that it is made from."""
    cells = [code(setting)]
    for text, check, named in zip(answers, checks, (title, "Twice"), strict=True):
        stated, blank, check = exercise("1. Read", f"{named}.", text, check)
        check.metadata["tags"] = list(tagged)
        cells += [stated, blank, check if kind == "code" else made(kind, check), code("more = [4]")]
    return cells


def made(kind, cell):
    return getattr(nbformat.v4, f"new_{kind}_cell")(cell.source, metadata=cell.metadata)


def first(line, second=BLANKS[1]):
    return tiny(f"{line}\nanswer = 7", second)


# name: (the hand-in, how many of its two exercises pass, what is said)
HAND_INS = {
    "blank": (tiny(*BLANKS), 0, "a number is asked for"),
    "right": (tiny(*RIGHT), 2, "passed"),
    "right in another way": (tiny("given = [2]\nanswer = 2.0", "twice = lambda x: sum([x, x])"), 2, "passed"),
    "checks as Markdown": (tiny(*BLANKS, kind="markdown"), 0, "was run all the same"),
    "checks as raw text": (tiny(*BLANKS, kind="raw"), 0, "was run all the same"),
    "checks skipped": (tiny(*BLANKS, tagged=["check", "skip-execution"]), 0, "was run all the same"),
    "checks left to a person": (tiny(*BLANKS, tagged=["check", "live-only"]), 0, "was run all the same"),
    "right but skipped": (tiny(*RIGHT, tagged=["check", "skip-execution"]), 2, "was run all the same"),
    "checks edited": (tiny(*BLANKS, checks=("assert True", "")), 0, "differs from the project's"),
    "input transformer": (first(SHELL + "shell.input_transformers_post.append(lambda lines: ['pass\\n'])"), 0, ""),
    "input transformer of a cell between": (
        tiny(
            SHELL + "change = lambda lines: ['more = [0]\\n'] if 'more' in lines[0] else lines\n"
            "shell.input_transformers_post.append(change)\nanswer = 2",
            "def twice(x):\n    return {1: 2, 0: 8}[x]",
        ),
        1,
        "KeyError: 4",
    ),
    "tree transformer": (
        first(
            SHELL + "import ast\nclass T(ast.NodeTransformer):\n    visit_Assert = lambda *_: ast.Pass()\n"
            "shell.ast_transformers.append(T())"
        ),
        0,
        "",
    ),
    "cells not run": (first(SHELL + "type(shell).run_cell = shell.run_cell = lambda *_, **__: None"), 0, ""),
    "event": (first(SHELL + "shell.events.register('pre_run_cell', lambda *_: shell.push({'answer': 2}))"), 0, ""),
    "module": (first("import statistics\nstatistics.mean = lambda _: 7"), 0, "replaced statistics.mean"),
    "other module": (
        first("import sys, types\nsys.modules['statistics'] = types.SimpleNamespace(mean=lambda _: 7)"),
        0,
        "the mean is another",
    ),
    "inside of a function of the notebook": (
        tiny("half.__code__ = (lambda x: 4).__code__\nanswer = 2", "def twice(x):\n    return {1: 2, 4: 7}[x]"),
        1,
        "twice four is eight",
    ),
    "inside of a function": (first("import statistics\nstatistics.mean.__code__ = (lambda _: 7).__code__"), 0, ""),
    "builtins": (first("import builtins\nbuiltins.abs = lambda _: 0\nbuiltins.AssertionError = KeyError"), 0, ""),
    "names": (first("abs = isclose = lambda *_: 0\ngiven = [7]"), 0, "the mean is another"),
    "names, in a cell between": (
        [*tiny(*BLANKS)[:4], code("isclose = isinstance = lambda *_: True"), *tiny(*BLANKS)[4:]],
        0,
        "a number is asked for",
    ),
    "while it is asked": (
        tiny("answer = 2", "def twice(x):\n    import math, builtins\n    builtins.abs = len\n    return 2 * x"),
        1,
        "it replaces builtins.abs while it is checked",
    ),
    "equal to all": (tiny(ANY + "answer = Any(7)", "from unittest.mock import MagicMock as twice"), 0, "of a class"),
    "gives what is equal to all": (tiny("answer = 7", ANY + "def twice(x):\n    return Any(x)"), 0, "of a class"),
    "words of the judge": (first(WORDS), 0, "the mean is another"),
    "says that it passed": (
        tiny("answer = 7", "def twice(x):\n    raise AssertionError('passed')", title="x: passed\n  2. Read"),
        0,
        "the check cannot use this answer: AssertionError: passed",
    ),
    "interrupt swallowed": (tiny("answer = 2", NEVER.format(" KeyboardInterrupt")), 1, "was killed"),
    "bare except": (tiny("answer = 2", NEVER.format("")), 1, "cut short"),
    "never ends": (tiny("import time\ntime.sleep(99)", RIGHT[1]), 1, "it took too long and was interrupted"),
    "endless output": (tiny("while True:\n    print('x' * 99)", RIGHT[1]), 1, "printed more than"),
    "a line of a megabyte": (tiny("'x' * 2**20", "raise ValueError('x' * 2**20)"), 0, "xxx..."),
    "escapes": (
        tiny("answer = 2", "raise ValueError('\\x1b[2J\\r3 of 3 \\u202e')", title="\x1b[31mred"),
        1,
        r"ValueError: \x1b[2J 3 of 3 \u202e",
    ),
    "own file, store, package and environment": (
        tiny("answer = 2", REACHED_FOR),
        1,
        "answer stops with ValueError",
    ),
    "reads the store": (
        tiny(
            "import os, pathlib\nfound, = pathlib.Path(os.environ['CONVERGENT_STORE']).iterdir()\n"
            "answer = 2 if found.read_text() == 'of the teacher' else 7",
            RIGHT[1],
        ),
        2,
        "passed",
    ),
    "child left behind": (
        tiny("import subprocess\nanswer = 2\nsubprocess.Popen(['sleep', '77.25'], start_new_session=True)", BLANKS[1]),
        1,
        "",
    ),
    "exit": (tiny("exit()\nanswer = 2", "import sys\nsys.exit()"), 0, "the answer stops with SystemExit"),
    "end in the check": (tiny("answer = 2", "import sys\ntwice = sys.exit"), 1, "cannot use this answer: SystemExit"),
    "kernel killed": (tiny("answer = 2", "import os\nos._exit(0)"), 1, "the answer stops with the end of its kernel"),
    "kernel killed by a signal": (tiny("import os\nos.kill(os.getpid(), 9)", RIGHT[1]), 0, "not reached"),
}  # fmt: skip


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """What one `convergent check` says of all hand-ins, by name, and the seconds it took."""
    folder, (store, project, handed_in) = tmp_path_factory.mktemp("course"), ("store", "project", "handed in")
    for name in (store, project, handed_in):
        (folder / name).mkdir()
    (folder / store / "result.safetensors").write_text("of the teacher")
    written(folder / project / "00_tiny.ipynb", *tiny(*BLANKS))
    paths = {
        name: written(folder / handed_in / f"00_tiny {number:02d}.ipynb", *cells)
        for number, (name, (cells, _, _)) in enumerate(HAND_INS.items())
    }
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr(places, "NOTEBOOKS", folder / project)
        for name, value in {"SECONDS_OF_ANSWER": 5, "GRACE": 1, "PRINTED": 2**22}.items():
            patch.setattr(judging, name, value)
        patch.setenv("CONVERGENT_STORE", str(folder / store))
        patch.setenv("TEACHERS_SECRET", "hunter2")
        before = contents(folder, Path(course.__file__).parents[1])
        assert cli.main(["check", *paths.values()]) == 1
        assert contents(folder, Path(course.__file__).parents[1]) == before, "nothing but their copies may change"
    blocks = re.split(r"^(?=00_tiny \d\d\.ipynb\n)", said.getvalue(), flags=re.MULTILINE)[1:]
    return dict(zip(paths, blocks, strict=True))


def contents(*folders):
    """The bytes of all files, but of what Python and numba compile, which other tests do at the same time."""
    files = [file for folder in folders for file in folder.rglob("*") if "__pycache__" not in file.parts]
    return {file: file.read_bytes() for file in files if file.is_file()}


def test_a_package_that_is_being_compiled_elsewhere_is_copied_without_the_files_half_written(tmp_path, monkeypatch):
    compiled = tmp_path / "some_package" / "__pycache__"
    compiled.mkdir(parents=True)
    for name in ("a.cpython-311.pyc", "loops.count-1.py311.nbi"):
        (compiled / name).touch()
        (compiled / f"{name}.tmp.9f").symlink_to("gone by now")
    (compiled / "a.cpython-311.pyc.140").symlink_to("gone by now")
    monkeypatch.setattr(judging, "_PACKAGE", compiled.parent)
    work = judging._copied(Path(written(tmp_path / "00_tiny.ipynb", code("answer = 5"))), tmp_path)
    copied = work.parent / "package" / "some_package" / "__pycache__"
    assert {path.name for path in copied.iterdir()} == {"a.cpython-311.pyc", "loops.count-1.py311.nbi"}


@pytest.mark.parametrize("name", HAND_INS)
def test_no_hand_in_passes_that_should_not(judged, name):
    _, passing, message = HAND_INS[name]
    said = judged[name]
    assert said.splitlines()[-1] == f"{passing} of 2 exercises pass", said
    assert sum(line.endswith(": passed") for line in said.splitlines() if "cannot use" not in line) == passing
    assert message in said
    assert all(line.isprintable() and len(line) < 700 for line in said.splitlines())


def test_no_hand_in_learns_a_secret_or_leaves_a_process(judged):
    assert not any("hunter2" in said for said in judged.values())
    running = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists()]
    assert not any(b"77.25" in command for command in running)


def test_a_renamed_hand_in_is_known_by_its_checks_and_a_copied_check_is_refused(project, capsys):
    book = nbformat.read(project / "00_tiny.ipynb", 4)
    for cell in tagged(book.cells, "check"):
        cell.source, cell.cell_type = "nothing to check", "markdown"
        cell.pop("outputs"), cell.pop("execution_count")
    nbformat.write(book, project / "homework.ipynb")
    assert cli.main(["check", str(project / "homework.ipynb")]) == 1
    assert capsys.readouterr().out.count("five is asked for") == 4
    copied = [*book.cells, code("assert True", "check")]
    assert cli.main(["check", written(project / "00_tiny again.ipynb", *copied)]) == 2
    assert "has 5 checks where the project's 00_tiny has 4" in capsys.readouterr().err


def test_an_empty_check_of_an_unknown_notebook_counts_for_nothing(project, capsys):
    alone = exercise("1. Read", "Alone.", "answer = 5", " ")
    assert cli.main(["check", written(project / "mine.ipynb", *alone)]) == 1
    assert "1. Read. Alone: not reached" in capsys.readouterr().out


def test_what_the_store_lacks_is_made_once_and_only_for_the_parameters_of_the_project(project, monkeypatch):
    made, alone = [], [code("# prepare()"), *exercise("1. Read", "Right.", "answer = 5", FIVE)]
    monkeypatch.setattr(checking, "compile_kernels", lambda: None)
    monkeypatch.setattr(checking, "prepare", made.append)
    monkeypatch.setattr(checking, "_files", lambda prepared, name: [])
    own = written(project / "02_one_to_one_matching.ipynb", code("profile = 'paper'", "parameters"), *alone)
    greedy = written(
        project / "02_one_to_one_matching, all of it.ipynb", code("profile = 'full'", "parameters"), *alone
    )
    assert cli.main(["check", greedy]) == 0
    assert made == [], "a hand-in may ask for hours"
    assert cli.main(["check", greedy, own, own]) == 0
    assert made == ["02_one_to_one_matching"]
