"""`convergent check`: runs what students hand in, one after the other, and says or tabulates what the checks say."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from ..paper.prepare import Prepared, notebooks, prepare
from . import judging as limits
from .hand_ins import HandIn, Originals, Step, in_words, line, printable
from .judging import Court, CutShort, Judging, Problem, court
from .run import compile_kernels
from .scores import Score, Table, table


@dataclass(frozen=True)
class Found:
    """A file to check.

    Attributes:
        path: where it lies.
        name: what it is called in a table.
        notebook: of the project, that it is made from, or "".
        exercises: how many it has.
        refused: why it cannot be checked, or "".
    """

    path: Path
    name: str
    notebook: str = ""
    exercises: int = 0
    refused: str = ""


@dataclass
class Preparation:
    """What the store lacks is made once for each notebook; and which of its files a notebook reads."""

    known: dict[str, list[Path] | None] = field(default_factory=dict)

    def files(self, hand_in: HandIn) -> list[Path] | None:
        """The files of the store that a hand-in reads; None where that is not known."""
        own = hand_in.own
        if own is None or not hand_in.with_own_parameters:  # it may ask for hours
            return None
        name = hand_in.name
        if name not in self.known:
            reads = name in notebooks() and any("prepare(" in cell.source for cell in own.cells)
            self.known[name] = _prepared_files(name) if reads else None
        return self.known[name]


def check(paths: Sequence[str | Path], *, csv: str | None = None) -> int:
    """Run students' notebooks and print what the checks say; the files are only read.

    Args:
        paths: notebooks, and folders of them.
        csv: the file of a table of scores, written instead of the text; "-" is the standard output.

    Returns:
        0 when all exercises of all notebooks pass, 1 when some do not, 2 when a file cannot be checked.

    Raises:
        ValueError: a folder without notebooks, or a table that cannot be written.
    """
    originals, status = Originals(), 0
    found = sorted(_found(paths, originals), key=lambda one: one.notebook)  # those of one notebook share its text
    most = max((one.exercises for one in found), default=0)
    with nullcontext() if csv is None else table(csv, most) as rows, court() as place:
        preparation = Preparation()
        for number, one in enumerate(found, 1):
            progress = f"{number} of {len(found)}"
            if rows is None and len(found) > 1:
                print(f"convergent: {progress}", file=sys.stderr, flush=True)
            try:
                if one.refused:
                    raise ValueError(one.refused)
                score = _score(originals.hand_in(one.path), one, preparation, place, said=rows is None)
                status = max(status, int(score.passed < len(score.verdicts)))
            except (ValueError, OSError) as error:
                status, score = 2, Score(one.name, error=line(str(error), 1000))
                if rows is None:
                    print(f"convergent: {score.error}", file=sys.stderr)
            _tabulate(rows, score, progress)
    return status


def _found(paths: Sequence[str | Path], originals: Originals) -> Iterator[Found]:
    """All notebooks of the command line: a single folder's are called by their path within it."""
    for path in map(Path, paths):
        if not path.is_dir():
            yield _looked_into(path, str(path), originals)
            continue
        below = list(_below(path))
        if not below:
            raise ValueError(f"NOTEBOOK: there is no notebook (.ipynb) in the folder {printable(str(path))!s:.200}")
        for file in below:
            name = str(file.relative_to(path) if len(paths) == 1 else file)
            if file.is_symlink():
                refused = f"NOTEBOOK: {file} is a link, which is not followed in a folder; put the file itself there"
                yield Found(file, name, refused=refused)
            else:
                yield _looked_into(file, name, originals)


def _below(folder: Path) -> Iterator[Path]:
    """The notebooks of a folder and of those in it, sorted; hidden ones are left out."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(".ipynb") and not name.startswith("."):
                yield Path(place, name)


def _looked_into(path: Path, name: str, originals: Originals) -> Found:
    try:
        hand_in = originals.hand_in(path)
        return Found(path, name, hand_in.name, len(hand_in.exercises))
    except (ValueError, OSError) as error:
        return Found(path, name, refused=str(error))


def _tabulate(rows: Table | None, score: Score, progress: str) -> None:
    if rows is not None:
        rows.add(score)
        said = score.error or f"{score.passed} of {len(score.verdicts)} exercises pass"
        print(f"convergent: {progress}: {printable(score.file)}: {said}", file=sys.stderr, flush=True)


def _score(hand_in: HandIn, found: Found, preparation: Preparation, place: Court, *, said: bool) -> Score:
    """Run a hand-in; in words, too, as soon as they are known, where they are to be said."""
    files = preparation.files(hand_in)
    if said:
        print(line(hand_in.path.name), flush=True)
    outcome, remarks = _execute(hand_in, files, place)
    refusals = [exercise.refusal(outcome) for exercise in hand_in.exercises]
    notes = [*hand_in.notes, *(remarks or filter(None, [hand_in.failure_elsewhere(refusals, outcome)]))]
    score = Score(found.name, hand_in.name, [refusal or "passed" for refusal in refusals], [*map(line, notes)])
    if said:
        for exercise, verdict in zip(hand_in.exercises, score.verdicts, strict=True):
            print(f"  {line(exercise.title, 100)}: {verdict}")
        for note in score.notes:
            print(f"  Note: {note}")
        print(f"{score.passed} of {len(refusals)} exercises pass", flush=True)
    return score


def _prepared_files(name: str) -> list[Path] | None:
    """Make once what the store lacks, since what a hand-in makes is thrown away; the files that the notebook reads."""
    try:
        compile_kernels()
        return _files(prepare(name), name)
    except ValueError as error:
        print(f"convergent: {line(str(error), 1000)}; each hand-in makes it for itself", file=sys.stderr)
        return None


def _files(prepared: Prepared, name: str) -> list[Path]:
    things = [*prepared.setting.learned.values(), *notebooks()[name].things(prepared.setting).values()]
    return sorted({prepared.store.file(thing.kind, thing.configuration) for thing in things})


def _execute(
    hand_in: HandIn, files: Sequence[Path] | None, place: Court
) -> tuple[dict[int, Problem | None], list[str]]:
    """Run all cells: what was said of each that ran, and remarks; from the first answer on no error stops it."""
    before, after = hand_in.parts()
    said: dict[int, Problem | None] = {}
    try:
        with place.judging(hand_in.path, hand_in.prologue(before), files) as (process, problems):
            said |= {id(step.cell): problem for step, problem in zip(before, problems, strict=False)}
            if problem := next(filter(None, problems), None):
                return {}, [f"a cell before the first exercise fails with {in_words(problem)}"]
            for step in after:
                said[id(step.cell)] = Problem("", limits.ENDED)  # unless it lives to say something else
                said[id(step.cell)] = _ask(process, step, hand_in)
            return said, [f"a cell replaced {name}, which the checks ran without" for name in process.replaced]
    except CutShort as end:
        said[next(reversed(said), 0)] = Problem("", str(end))
        return said, [f"the notebook was cut short: {end}"]


def _ask(process: Judging, step: Step, hand_in: HandIn) -> Problem | None:
    seconds = limits.SECONDS_OF_ANSWER if id(step.cell) in hand_in.asked else limits.SECONDS
    return process.ask(step.do, seconds, source=step.cell.source, **step.options)
