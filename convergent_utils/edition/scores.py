"""The table of scores: one row for each hand-in, for a spreadsheet."""

from __future__ import annotations

import csv
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from .hand_ins import printable

_FIRST = ("file", "notebook", "passed", "exercises")
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # how a cell begins that a spreadsheet would run


@dataclass(frozen=True)
class Score:
    """What the checks say of one hand-in.

    Attributes:
        file: what it is called.
        notebook: of the project, or "".
        verdicts: of each exercise, "passed" or why not.
        notes: what whoever counts should know.
        error: why it cannot be checked; else empty.
    """

    file: str
    notebook: str = ""
    verdicts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def passed(self) -> int:
        """How many exercises pass."""
        return self.verdicts.count("passed")


class Table:
    """A table to which rows are added, each written before the next hand-in runs, so that a stopped run keeps it."""

    def __init__(self, file: TextIO, exercises: int) -> None:
        self._file, self._exercises = file, exercises
        self._rows = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        self._write([*_FIRST, *(f"exercise {k}" for k in range(1, exercises + 1)), "notes", "error"])

    def add(self, score: Score) -> None:
        """Write a row."""
        counts = ["", ""] if score.error else [score.passed, len(score.verdicts)]
        verdicts = score.verdicts + [""] * (self._exercises - len(score.verdicts))
        self._write([score.file, score.notebook, *counts, *verdicts, "; ".join(score.notes), score.error])

    def _write(self, cells: list[str | int]) -> None:
        self._rows.writerow([harmless(cell) if isinstance(cell, str) else cell for cell in cells])
        self._file.flush()


def harmless(text: str) -> str:
    """A text as a cell that no spreadsheet runs as a formula and no terminal obeys."""
    text = printable(text)
    return f"'{text}" if text.startswith(_FORMULA) else text


@contextmanager
def table(path: str, exercises: int) -> Generator[Table]:
    """A table in a file, or, where that is "-", on the standard output.

    Raises:
        ValueError: the file holds something else, or cannot be written.
    """
    if path == "-":
        yield Table(sys.stdout, exercises)
        return
    _require_table(Path(path))
    with open(path, "w", encoding="utf-8-sig", newline="") as file:  # by the mark a spreadsheet knows the letters
        yield Table(file, exercises)


def _require_table(path: Path) -> None:
    """Refuse to write over what is no table of scores: a notebook, for one, where its name was forgotten."""
    try:
        with path.open("rb") as file:
            start = file.read(100)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ValueError(f"csv: cannot write {path}: {error.strerror}") from error
    if start and b'"file","notebook"' not in start:
        raise ValueError(f"csv: {path} is there and is no table of scores; name another file")
