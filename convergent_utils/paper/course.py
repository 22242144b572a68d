"""The paper as a course: an edition for students, one for teachers, and the score of a student's notebook."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from ..nets.store import Store
from .claims import build_folder
from .run import NOTEBOOKS, notebook_names

_TITLE = re.compile(r"^\*\*(\d\. \w+)\.\*\*(?: \*([^*]+)\*)?", re.MULTILINE)
_SECONDS, _SECONDS_OF_ANSWER = 900, 120  # that a cell, and that an answer or its check may take
_UNDRAWN = """import matplotlib.pyplot
from convergent_utils.paper import widgets
widgets.live_panel = widgets.kernel_free_slider = lambda *_, **__: None
matplotlib.pyplot.show = lambda *_, **__: matplotlib.pyplot.close("all")"""  # a score needs no pictures
_START = """# Convergent learning, {edition} edition

{content}

Start Jupyter in this folder with the Python that the package is installed in (`jupyter lab`), and open a notebook; or
open a copy wherever Jupyter runs, `make lab` included. The first run loads the published networks and passes the test
images through them once, which takes a minute or two; the result is kept. It does not matter where a notebook lies.

`convergent check NOTEBOOK` runs a notebook from top to bottom in a kernel of its own, prints what each check says and
how many exercises pass, and leaves the file as it is.
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
        (folder / "README.md").write_text(_START.format(edition=edition, content=content), encoding="utf-8")
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

    def refusal(self) -> str:
        """What is wrong with the answer, in one line, once the cells have run; empty when it passes."""
        stopped = next(filter(None, map(_error, self.answer)), None)
        if stopped:
            return f"the answer stops with {_in_words(stopped)}"
        refused = _error(self.check)
        if refused and refused.ename == "AssertionError":
            return " ".join(refused.evalue.split()) or "the check does not accept this answer"
        return f"the check cannot use this answer: {_in_words(refused)}" if refused else ""


def check(paths: Sequence[str | Path]) -> int:
    """Run students' notebooks and print what the checks say; the files are only read.

    Returns:
        0 when all exercises of all notebooks pass, 1 when some do not, 2 when a file cannot be checked.
    """
    status = 0
    for path in map(Path, paths):
        try:
            status = max(status, _check(path))
        except (ValueError, OSError) as error:
            print(f"convergent: {error}", file=sys.stderr)
            status = 2
    return status


def _check(path: Path) -> int:
    book = _read(path)
    exercises = list(_exercises(book))
    if not exercises:
        raise ValueError(
            f"NOTEBOOK: {path} has no exercises, that is, no cell tagged `check`; is it one of the course?"
        )
    notes = _restore_checks(path, exercises)
    if any("solution" in _tags(cell) for cell in book.cells):
        notes.append("the file holds published solutions, which override the answers above them")
    print(path.name, flush=True)
    stopped = _execute(book, exercises, path.absolute().parent)
    refusals = ["not reached" if stopped else exercise.refusal() for exercise in exercises]
    for exercise, refusal in zip(exercises, refusals, strict=True):
        print(f"  {exercise.title}: {refusal or 'passed'}")
    notes += filter(None, [stopped or _failure_elsewhere(book, exercises, refusals)])
    for note in notes:
        print(f"  Note: {note}")
    print(f"{refusals.count('')} of {len(exercises)} exercises pass")
    return int(any(refusals))


def _read(path: Path) -> NotebookNode:
    if not path.is_file():
        raise ValueError(f"NOTEBOOK: there is no file {path}")
    try:
        return nbformat.read(path, 4)
    except Exception as error:  # each version of the format complains in its own way
        raise ValueError(f"NOTEBOOK: {path} is damaged or no notebook; save it once more in Jupyter") from error


def _exercises(book: NotebookNode) -> Iterator[Exercise]:
    """An answer is what lies between a cell tagged `exercise` and the next tagged `check`, added cells included."""
    title, answer = "", []
    for cell in book.cells:
        found = _TITLE.findall(cell.source) if cell.cell_type == "markdown" else ()
        title = ". ".join(filter(None, found[-1])).rstrip(".") if found else title
        if "check" in _tags(cell):
            yield Exercise(title or "Exercise", answer, cell)
            title, answer = "", []
        elif cell.cell_type == "code" and (answer or "exercise" in _tags(cell)):
            answer.append(cell)


def _restore_checks(path: Path, exercises: list[Exercise]) -> list[str]:
    """Put the project's own checks in place of those in the file; say which were others."""
    name = next((name for name in notebook_names() if path.stem.startswith(name)), None)
    if name is None:
        return ["the project has no notebook of this name, so the checks are those in the file"]
    own = [exercise.check.source for exercise in _exercises(_read(NOTEBOOKS / f"{name}.ipynb"))]
    if len(own) != len(exercises):
        raise ValueError(
            f"NOTEBOOK: {path} has {len(exercises)} checks where the project's {name} has {len(own)}; "
            "copy the answers into a fresh copy of it"
        )
    notes = []
    for exercise, source in zip(exercises, own, strict=True):
        if exercise.check.source != source:
            notes.append(f"the check of {exercise.title!r} differs from the project's, which was run instead")
        exercise.check.source = source
    return notes


def _execute(book: NotebookNode, exercises: list[Exercise], folder: Path) -> str:
    """Run all cells in a fresh kernel and say what stopped it; from the first answer on an error stops nothing."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from traitlets.config import Config

    book.cells = [cell for cell in book.cells if "live-only" not in _tags(cell)]
    asked = [id(cell) for exercise in exercises for cell in (*exercise.answer, exercise.check)]
    first = next(k for k, cell in enumerate(book.cells) if id(cell) in asked)
    for cell in book.cells[first:]:
        cell.metadata["tags"] = sorted(_tags(cell) | {"raises-exception"})
    if any("convergent_utils" in cell.source for cell in book.cells):
        book.cells.insert(0, nbformat.v4.new_code_cell(_UNDRAWN))
    with tempfile.TemporaryDirectory(prefix="cl-", ignore_cleanup_errors=True) as scratch:
        config, environment = Config(), {**os.environ, "CONVERGENT_BUILD": scratch}  # claims are no business of a check
        if sys.platform != "win32":  # named sockets: no port can be taken by another kernel in between
            config.KernelManager.transport, config.KernelManager.ip = "ipc", str(Path(scratch) / "kernel")
        client = NotebookClient(
            book, kernel_name="python3", config=config, resources={"metadata": {"path": str(folder)}},
            interrupt_on_timeout=True, timeout_func=lambda cell: _SECONDS_OF_ANSWER if id(cell) in asked else _SECONDS,
        )  # fmt: skip
        try:
            client.execute(env={**environment, "CONVERGENT_STORE": str(Store().path)})
        except CellExecutionError as error:
            return f"a cell before the first exercise fails with {_in_words(error)}"
        except Exception as error:  # a kernel that died
            return f"the notebook was cut short: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return ""


def _failure_elsewhere(book: NotebookNode, exercises: list[Exercise], refusals: list[str]) -> str:
    """The first error in a cell that is neither answer nor check, unless it follows an answer that did not pass."""
    ends = {id(exercise.check): not refusal for exercise, refusal in zip(exercises, refusals, strict=True)}
    answers, passed = {id(cell) for exercise in exercises for cell in exercise.answer}, True
    for cell in book.cells:
        passed = ends.get(id(cell), passed)
        if passed and id(cell) not in answers and id(cell) not in ends and _error(cell):
            return f"the cell that begins {cell.source.splitlines()[0]!r} fails with {_in_words(_error(cell))}"
    return ""


def _error(cell: NotebookNode) -> NotebookNode | None:
    return next((output for output in cell.get("outputs", []) if output.output_type == "error"), None)


def _in_words(error: object) -> str:
    if error.ename == "KeyboardInterrupt":
        return "no result: it took too long and was interrupted"
    return f"{error.ename}: {' '.join(error.evalue.split())[:300]}"


def _tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))
