"""The paper as a course: an edition for students, one for teachers, and the score of a student's notebook."""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from ..paper.claims import build_folder
from . import judging as limits
from .judging import CutShort, Problem, judging
from .places import NOTEBOOKS, notebook_names
from .run import compile_kernels

_TITLE = re.compile(r"^\*\*(\d\. \w+)\.\*\*(?: \*([^*]+)\*)?", re.MULTILINE)
_LONGEST = 300  # letters of a line that quotes a hand-in
_UNDRAWN = """import matplotlib.pyplot
from convergent_utils.drawing import widgets
widgets.live_panel = widgets.kernel_free_slider = lambda *_, **__: None
matplotlib.pyplot.show = lambda *_, **__: matplotlib.pyplot.close("all")"""  # a score needs no pictures
_START = """# Convergent learning, {edition} edition

{content}

Start Jupyter in this folder with the Python that the package is installed in (`jupyter lab`), and open a notebook; or
open a copy wherever Jupyter runs, `make lab` included. The first run loads the published networks and passes the test
images through them once, which takes a minute or two; the result is kept. It does not matter where a notebook lies.

`convergent check NOTEBOOK` runs a notebook from top to bottom in a process of its own, prints what each check says and
how many exercises pass, and leaves the file as it is.
"""
_TRUST = """
It runs what is handed in with the rights of whoever runs it, on copies of the file, the package and the store that are
thrown away. Checks are run as the project has them, whatever the file does to them. What it cannot prevent without a
container: code that looks for files by their full path, reads what you may read, uses the network, fills the disk or
the memory, or starts a process that hides; and an answer written to deceive, which searches the memory of its process
for the check that calls it, or changes in place the data that the check reads. Do not run the work of people whom you
do not know outside a container, and read an answer before you count it.
"""
_EDITIONS = {
    "student": """Each notebook ends with three exercises: to read, to compute, to explore. Write your answer into the
cell that comes as a blank, run it, and run the check below it, which says what is wrong.""",
    "instructor": """Each notebook ends with three exercises: a blank, its solution, and a check that accepts the
solution and says what is wrong with other answers. Students get the same cells without solutions and findings.""",
}


def write_course() -> int:
    """Write both editions of all notebooks to `course` in the build folder."""
    for edition, content in _EDITIONS.items():
        folder = build_folder() / "course" / edition
        folder.mkdir(parents=True, exist_ok=True)
        for name in notebook_names():
            book = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
            nbformat.write(student_edition(book) if edition == "student" else book, folder / f"{name}.ipynb")
        start = _START.format(edition=edition, content=content) + (_TRUST if edition == "instructor" else "")
        (folder / "README.md").write_text(start, encoding="utf-8")
        print(f"{folder}: {len(notebook_names())} notebooks")
    return 0


def student_edition(book: NotebookNode) -> NotebookNode:
    """A notebook without its solutions and findings, and without any output from the first exercise on.

    All other cells stay as they are, with their ids, so that a check is found again in what a student hands in.
    """
    book, asked = deepcopy(book), False
    book.cells = [cell for cell in book.cells if not _tags(cell) & {"solution", "finding"}]
    for cell in book.cells:
        asked = asked or "exercise" in _tags(cell)
        if asked and cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    book.metadata.pop("convergent", None)  # the hash of code that is no longer all there
    return book


@dataclass(frozen=True)
class Exercise:
    """An exercise of a notebook: its level and title, the cells of the answer, and the check below them."""

    title: str
    answer: list[NotebookNode]
    check: NotebookNode

    def refusal(self, said: dict[int, Problem | None]) -> str:
        """Why it does not pass, in one line, by what was said of the cells that have run; empty when it passes."""
        stopped = next(filter(None, (said.get(id(cell)) for cell in self.answer)), None)
        if stopped:
            return f"the answer stops with {_in_words(stopped)}"
        if id(self.check) not in said:
            return "not reached"
        refused = said[id(self.check)]
        if refused and refused.name == "AssertionError" and not refused.own:
            return _line(str(refused.text)) or "the check does not accept this answer"
        return f"the check cannot use this answer: {_in_words(refused)}" if refused else ""


def check(paths: Sequence[str | Path]) -> int:
    """Run students' notebooks and print what the checks say; the files are only read.

    Returns:
        0 when all exercises of all notebooks pass, 1 when some do not, 2 when a file cannot be checked.
    """
    status, prepared = 0, set()
    for path in map(Path, paths):
        try:
            status = max(status, _check(path, prepared))
        except (ValueError, OSError) as error:
            print(f"convergent: {_line(str(error), 1000)}", file=sys.stderr)
            status = 2
    return status


def _check(path: Path, prepared: set[str]) -> int:
    book = _read(path)
    exercises = list(_exercises(book))
    if not exercises:
        raise ValueError(
            f"NOTEBOOK: {path} has no exercises, that is, no cell tagged `check`; is it one of the course?"
        )
    name = _project_name(path, book)
    own = _read(NOTEBOOKS / f"{name}.ipynb") if name else None
    notes = _restore_checks(path, exercises, name, list(_exercises(own)) if own else exercises)
    if any("solution" in _tags(cell) for cell in book.cells):
        notes.append("the file holds published solutions, which override the answers above them")
    if name not in prepared and own and _parameters(book) == _parameters(own):
        _prepare(own, name)
        prepared.add(name)
    print(_line(path.name), flush=True)
    said, remarks = _execute(path, book, exercises, own)
    refusals = [exercise.refusal(said) for exercise in exercises]
    for exercise, refusal in zip(exercises, refusals, strict=True):
        print(f"  {_line(exercise.title, 100)}: {refusal or 'passed'}")
    notes += remarks or filter(None, [_failure_elsewhere(book, exercises, refusals, said)])
    for note in notes:
        print(f"  Note: {_line(note)}")
    print(f"{refusals.count('')} of {len(exercises)} exercises pass")
    return int(any(refusals))


def _read(path: Path) -> NotebookNode:
    if not path.is_file():
        raise ValueError(f"NOTEBOOK: there is no file {path}")
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is mended in reading
            book = nbformat.read(path, 4)
        if all(isinstance(cell.source, str) and _tags(cell) is not None for cell in book.cells):
            return book
        raise ValueError("a cell holds no text")
    except Exception as error:  # each version of the format complains in its own way
        raise ValueError(f"NOTEBOOK: {path} is damaged or no notebook; save it once more in Jupyter") from error


def _exercises(book: NotebookNode) -> Iterator[Exercise]:
    """An answer is what lies between a cell tagged `exercise` and the next tagged `check`, added cells included."""
    title, answer, asked = "", [], False
    for cell in book.cells:
        found = _TITLE.findall(cell.source) if cell.cell_type == "markdown" else ()
        title = ". ".join(filter(None, found[-1])).rstrip(".") if found else title
        asked = asked or "exercise" in _tags(cell)
        if "check" in _tags(cell):
            yield Exercise(title or "Exercise", answer, cell)
            title, answer, asked = "", [], False
        elif cell.cell_type == "code" and asked:
            answer.append(cell)


def _project_name(path: Path, book: NotebookNode) -> str:
    """The project's notebook that a file is made from, by its name or, where it was renamed, by its checks; or ""."""
    ids = {cell.get("id") for cell in book.cells if "check" in _tags(cell)} - {None}
    for name in notebook_names():
        if path.stem.startswith(name):
            return name
    own = {name: _exercises(_read(NOTEBOOKS / f"{name}.ipynb")) for name in notebook_names()}
    return next((name for name, found in own.items() if ids & {e.check.get("id") for e in found}), "")


def _restore_checks(path: Path, exercises: list[Exercise], name: str, own: list[Exercise]) -> list[str]:
    """Put the project's own checks in place of those in the file, as code that runs; say which were others."""
    if len(own) != len(exercises):
        raise ValueError(
            f"NOTEBOOK: {path} has {len(exercises)} checks where the project's {name} has {len(own)}; "
            "copy the answers into a fresh copy of it"
        )
    notes = [] if name else ["the project has no notebook of this name, so the checks are those in the file"]
    for exercise, source in zip(exercises, [one.check.source for one in own], strict=True):
        cell, title = exercise.check, repr(exercise.title)
        if cell.source != source:
            notes.append(f"the check of {title} differs from the project's, which was run instead")
        if cell.cell_type != "code" or _tags(cell) & {"skip-execution", "live-only"}:
            notes.append(f"the check of {title} was marked as a cell that does not run, and was run all the same")
        cell.source, cell.cell_type, cell.metadata["tags"] = source, "code", ["check"]
    return notes


def _parameters(book: NotebookNode) -> list[str]:
    return [cell.source for cell in book.cells if "parameters" in _tags(cell)]


def _prepare(own: NotebookNode, name: str) -> None:
    """Make once what the store lacks for the project's parameters, since what a hand-in makes is thrown away."""
    from ..paper.prepare import notebooks, prepare

    if name in notebooks() and any("prepare(" in cell.source for cell in own.cells):
        try:
            compile_kernels()
            prepare(name)
        except ValueError as error:
            print(f"convergent: {_line(str(error), 1000)}; each hand-in makes it for itself", file=sys.stderr)


def _execute(
    path: Path, book: NotebookNode, exercises: list[Exercise], own: NotebookNode | None
) -> tuple[dict[int, Problem | None], list[str]]:
    """Run all cells: what was said of each that ran, and remarks; from the first answer on no error stops it."""
    asked = {id(cell) for exercise in exercises for cell in (*exercise.answer, exercise.check)}
    undrawn = _UNDRAWN if any("convergent_utils" in cell.source for cell in book.cells) else ""
    said, reached = {}, False
    with judging(path) as process:
        try:
            process.ask("start", limits.SECONDS, preparing=undrawn, imports=_imports(own))
            for cell, do, options in _steps(book, exercises, own):
                said[id(cell)] = Problem("", limits.ENDED)  # unless it lives to say something else
                seconds = limits.SECONDS_OF_ANSWER if id(cell) in asked else limits.SECONDS
                said[id(cell)] = error = process.ask(do, seconds, source=cell.source, **options)
                reached = reached or id(cell) in asked
                if error and not reached:
                    return {}, [f"a cell before the first exercise fails with {_in_words(error)}"]
        except CutShort as problem:
            said[next(reversed(said), 0)] = Problem("", str(problem))
            return said, [f"the notebook was cut short: {problem}"]
        return said, [f"a cell replaced {name}, which the checks ran without" for name in process.replaced]


def _steps(
    book: NotebookNode, exercises: list[Exercise], own: NotebookNode | None
) -> Iterator[tuple[NotebookNode, str, dict[str, object]]]:
    """The cells to run, each with what the judge needs to know: what a check asks for, and whether a cell is ours."""
    blanks = [_bound_names(exercise.answer[:1]) for exercise in _exercises(own)] if own else [None] * len(exercises)
    checks = {id(exercise.check): names for exercise, names in zip(exercises, blanks, strict=True)}
    answers = {id(cell) for exercise in exercises for cell in exercise.answer}
    left_out = {"exercise", "solution", "check"}
    ours = {cell.source for cell in own.cells if not _tags(cell) & left_out} if own else set()
    for cell in book.cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if id(cell) in checks:
            yield cell, "check", {"answers": checks[id(cell)]}
        elif "live-only" not in _tags(cell):
            yield cell, "run", {"own": cell.source in ours and id(cell) not in answers}


def _statements(cells: Sequence[NotebookNode]) -> Iterator[ast.stmt]:
    for cell in cells:
        with suppress(SyntaxError):
            yield from ast.parse(cell.source).body if cell.cell_type == "code" else ()


def _imports(own: NotebookNode | None) -> list[str]:
    found = _statements(own.cells if own else ())
    return [ast.unparse(statement) for statement in found if isinstance(statement, (ast.Import, ast.ImportFrom))]


def _bound_names(cells: Sequence[NotebookNode]) -> list[str]:
    """The names that cells bind, of variables and functions."""
    found = set()
    for statement in _statements(cells):
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            found.add(statement.name)
        else:
            nodes = ast.walk(statement)
            found |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return sorted(found)


def _failure_elsewhere(
    book: NotebookNode, exercises: list[Exercise], refusals: list[str], said: dict[int, Problem | None]
) -> str:
    """The first error in a cell that is neither answer nor check, unless it follows an answer that did not pass."""
    ends = {id(exercise.check): not refusal for exercise, refusal in zip(exercises, refusals, strict=True)}
    answers, passed = {id(cell) for exercise in exercises for cell in exercise.answer}, True
    for cell in book.cells:
        passed = ends.get(id(cell), passed)
        if passed and id(cell) not in answers and id(cell) not in ends and said.get(id(cell)):
            return f"the cell that begins {cell.source.splitlines()[0]!r} fails with {_in_words(said[id(cell)])}"
    return ""


def _in_words(problem: Problem) -> str:
    return _line(str(problem))


def _line(text: str, longest: int = _LONGEST) -> str:
    """What a hand-in says, in one line of a bearable length, with signs that a terminal would obey as text."""
    text = " ".join(text[: 20 * longest].split())
    text = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
    return text if len(text) <= longest else f"{text[:longest]}..."


def _tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))
