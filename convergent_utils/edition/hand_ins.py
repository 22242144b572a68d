"""What a student hands in: the notebook that it is made from, its exercises, and the cells that run."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from . import places
from .judging import Problem, Prologue

_TITLE = re.compile(r"^\*\*(\d\. \w+)\.\*\*(?: \*([^*]+)\*)?", re.MULTILINE)
_LONGEST = 300  # letters of a line that quotes a hand-in
_UNDRAWN = """import matplotlib.pyplot
from convergent_utils.drawing import widgets
widgets.live_panel = widgets.kernel_free_slider = lambda *_, **__: None
matplotlib.pyplot.show = lambda *_, **__: matplotlib.pyplot.close("all")"""  # a score needs no pictures


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
            return f"the answer stops with {in_words(stopped)}"
        if id(self.check) not in said:
            return "not reached"
        refused = said[id(self.check)]
        if refused and refused.name == "AssertionError" and not refused.own:
            return line(str(refused.text)) or "the check does not accept this answer"
        return f"the check cannot use this answer: {in_words(refused)}" if refused else ""


@dataclass(frozen=True)
class Step:
    """A cell to run: what the judge is to do with it, and what it must know for that."""

    cell: NotebookNode
    do: str
    options: dict[str, object]


@dataclass(frozen=True)
class HandIn:
    """A notebook that was handed in.

    Attributes:
        path: the file.
        book: what it holds, with the project's checks in place of its own.
        exercises: in the order of the file.
        name: of the project's notebook that it is made from, or "".
        own: that notebook, or None.
        notes: what whoever counts should know.
    """

    path: Path
    book: NotebookNode
    exercises: list[Exercise]
    name: str
    own: NotebookNode | None
    notes: list[str]

    @property
    def asked(self) -> set[int]:
        """The cells of answers and checks."""
        return {id(cell) for exercise in self.exercises for cell in (*exercise.answer, exercise.check)}

    @property
    def with_own_parameters(self) -> bool:
        """Whether the parameters are those of the project."""
        return self.own is not None and _parameters(self.book) == _parameters(self.own)

    def parts(self) -> tuple[list[Step], list[Step]]:
        """The cells to run before the first answer, and those from it on."""
        steps, asked = list(self._steps()), self.asked
        first = next((k for k, step in enumerate(steps) if id(step.cell) in asked), len(steps))
        return steps[:first], steps[first:]

    def prologue(self, before: Sequence[Step]) -> Prologue:
        """What runs before the first answer; whoever has not changed it has it in common with others."""
        undrawn = _UNDRAWN if any("convergent_utils" in cell.source for cell in self.book.cells) else ""
        cells = tuple((step.cell.source, bool(step.options.get("own"))) for step in before)
        text = HandIn(self.path, self.own, list(exercises(self.own)), "", None, []).parts()[0] if self.own else ()
        common = self.own is not None and [step.cell.source for step in text] == [source for source, _ in cells]
        return Prologue(undrawn, tuple(_imports(self.own)), cells, common)

    def failure_elsewhere(self, refusals: Sequence[str], said: dict[int, Problem | None]) -> str:
        """The first error in a cell that is neither answer nor check, unless it follows an answer that did not pass."""
        ends = {id(one.check): not refusal for one, refusal in zip(self.exercises, refusals, strict=True)}
        answers, passed = self.asked - set(ends), True
        for cell in self.book.cells:
            passed = ends.get(id(cell), passed)
            problem = said.get(id(cell))
            if passed and problem and id(cell) not in answers and id(cell) not in ends:
                return f"the cell that begins {cell.source.splitlines()[0]!r} fails with {in_words(problem)}"
        return ""

    def _steps(self) -> Iterator[Step]:
        """Each with what the judge needs to know: what a check asks for, and whether a cell is ours."""
        blanks = (
            [_bound_names(one.answer[:1]) for one in exercises(self.own)] if self.own else [None] * len(self.exercises)
        )
        checks = {id(one.check): names for one, names in zip(self.exercises, blanks, strict=True)}
        answers = {id(cell) for one in self.exercises for cell in one.answer}
        left_out = {"exercise", "solution", "check"}
        ours = {cell.source for cell in self.own.cells if not tags(cell) & left_out} if self.own else set()
        for cell in self.book.cells:
            if cell.cell_type != "code" or not cell.source.strip():
                continue
            if id(cell) in checks:
                yield Step(cell, "check", {"answers": checks[id(cell)]})
            elif "live-only" not in tags(cell):
                yield Step(cell, "run", {"own": cell.source in ours and id(cell) not in answers})


class Originals:
    """The notebooks of the project, each read once."""

    def __init__(self) -> None:
        self._read: dict[str, NotebookNode] = {}

    def __getitem__(self, name: str) -> NotebookNode:
        if name not in self._read:
            self._read[name] = read(places.NOTEBOOKS / f"{name}.ipynb")
        return self._read[name]

    def hand_in(self, path: Path) -> HandIn:
        """What a file holds.

        Raises:
            ValueError: it is missing, damaged, or has no exercises, or others than the notebook that it is made from.
        """
        book = read(path)
        found = list(exercises(book))
        if not found:
            raise ValueError(
                f"NOTEBOOK: {path} has no exercises, that is, no cell tagged `check`; is it one of the course?"
            )
        name = self._name(path, book)
        own = self[name] if name else None
        notes = _restore_checks(path, found, name, list(exercises(own)) if own else found)
        if any("solution" in tags(cell) for cell in book.cells):
            notes.append("the file holds published solutions, which override the answers above them")
        return HandIn(path, book, found, name, own, notes)

    def _name(self, path: Path, book: NotebookNode) -> str:
        """The notebook that a file is made from, by its name or, where it was renamed, by its checks; or ""."""
        ids = {cell.get("id") for cell in book.cells if "check" in tags(cell)} - {None}
        names = places.notebook_names()
        for name in names:
            if path.stem.startswith(name):
                return name
        return next((name for name in names if ids & {one.check.get("id") for one in exercises(self[name])}), "")


def read(path: Path) -> NotebookNode:
    """A notebook of any version of the format.

    Raises:
        ValueError: there is none.
    """
    if not path.is_file():
        raise ValueError(f"NOTEBOOK: there is no file {path}")
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is mended in reading
            book = nbformat.read(path, 4)
        if all(isinstance(cell.source, str) and tags(cell) is not None for cell in book.cells):
            return book
        raise ValueError("a cell holds no text")
    except Exception as error:  # each version of the format complains in its own way
        raise ValueError(f"NOTEBOOK: {path} is damaged or no notebook; save it once more in Jupyter") from error


def exercises(book: NotebookNode) -> Iterator[Exercise]:
    """An answer is what lies between a cell tagged `exercise` and the next tagged `check`, added cells included."""
    title, answer, asked = "", [], False
    for cell in book.cells:
        found = _TITLE.findall(cell.source) if cell.cell_type == "markdown" else ()
        title = ". ".join(filter(None, found[-1])).rstrip(".") if found else title
        asked = asked or "exercise" in tags(cell)
        if "check" in tags(cell):
            yield Exercise(title or "Exercise", answer, cell)
            title, answer, asked = "", [], False
        elif cell.cell_type == "code" and asked:
            answer.append(cell)


def tags(cell: NotebookNode) -> set[str]:
    """How a cell is marked."""
    return set(cell.metadata.get("tags", []))


def in_words(problem: Problem) -> str:
    """What went wrong, in one line."""
    return line(str(problem))


def line(text: str, longest: int = _LONGEST) -> str:
    """What a hand-in says, in one line of a bearable length, with signs that a terminal would obey as text."""
    text = printable(" ".join(text[: 20 * longest].split()))
    return text if len(text) <= longest else f"{text[:longest]}..."


def printable(text: str) -> str:
    """A text in which signs that a terminal would obey are written out."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _restore_checks(path: Path, found: list[Exercise], name: str, own: list[Exercise]) -> list[str]:
    """Put the project's own checks in place of those in the file, as code that runs; say which were others."""
    if len(own) != len(found):
        raise ValueError(
            f"NOTEBOOK: {path} has {len(found)} checks where the project's {name} has {len(own)}; "
            "copy the answers into a fresh copy of it"
        )
    notes = [] if name else ["the project has no notebook of this name, so the checks are those in the file"]
    for exercise, source in zip(found, [one.check.source for one in own], strict=True):
        cell, title = exercise.check, repr(exercise.title)
        if cell.source != source:
            notes.append(f"the check of {title} differs from the project's, which was run instead")
        if cell.cell_type != "code" or tags(cell) & {"skip-execution", "live-only"}:
            notes.append(f"the check of {title} was marked as a cell that does not run, and was run all the same")
        cell.source, cell.cell_type, cell.metadata["tags"] = source, "code", ["check"]
    return notes


def _parameters(book: NotebookNode) -> list[str]:
    return [cell.source for cell in book.cells if "parameters" in tags(cell)]


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
