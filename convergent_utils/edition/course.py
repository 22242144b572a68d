"""The paper as a course: an edition for students, and one for teachers with what a lecturer needs."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from ..paper.claims import build_folder, read_rows
from .hand_ins import tags
from .places import NOTEBOOKS, RESULTS, notebook_names
from .site_words import with_numbers
from .slides import slides
from .syllabus import lessons

_PAGES = Path(__file__).parent / "pages"

_START = """# Convergent learning, {edition} edition

{content}

Start Jupyter in this folder with the Python that the package is installed in (`jupyter lab`), and open a notebook; or
open a copy wherever Jupyter runs, `make lab` included. The first run loads the published networks and passes the test
images through them once, which takes a minute or two; the result is kept. It does not matter where a notebook lies.

`convergent check NOTEBOOK` runs a notebook from top to bottom in a process of its own, prints what each check says and
how many exercises pass, and leaves the file as it is.
"""
_PACK = """
`convergent check FOLDER --csv scores.csv` does so with all notebooks of a folder and writes a table: a row for each
hand-in, with what each check says.

In the folder `lecturer` are `lesson.md`, one lesson of 45 minutes that asks for no more preparation than it says;
`slides.html`, all figures for a projector, which any browser opens; `syllabus.md`, the twelve lessons, with questions
to ask in class; `answers.md`, their answers; and `rubric.md`, how to grade what checks do not see.
"""
_TRUST = """
It runs what is handed in with the rights of whoever runs it, on copies of the file, the package and the store that are
thrown away. Checks are run as the project has them, whatever the file does to them. What it cannot prevent without a
container: code that looks for files by their full path, reads what you may read, uses the network, fills the disk or
the memory, starts a process that hides, or reaches into the memory of your other processes; and an answer written to
deceive, which searches the memory of its process for the check that calls it, or changes in place the data that the
check reads. Do not run the work of people whom you do not know outside a container, and read an answer before you
count it.
"""
_EDITIONS = {
    "student": """Each notebook ends with three exercises: to read, to compute, to explore. Write your answer into the
cell that comes as a blank, run it, and run the check below it, which says what is wrong.""",
    "instructor": """Each notebook ends with three exercises: a blank, its solution, and a check that accepts the
solution and says what is wrong with other answers. Students get the same cells without solutions and findings.""",
}


def write_course() -> int:
    """Write both editions to `course` in the build folder, each as a folder and as an archive, and say so."""
    books = {name: nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4) for name in notebook_names()}
    course = build_folder() / "course"
    for edition, content in _EDITIONS.items():
        teaching = edition == "instructor"
        files = {"README.md": _START.format(edition=edition, content=content) + (_PACK + _TRUST if teaching else "")}
        files |= {f"{k}.ipynb": _written(book if teaching else student_edition(book)) for k, book in books.items()}
        files |= lecturers_pack(books) if teaching else {}
        for name, text in files.items():
            path = course / edition / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        _zip(course / f"{edition}.zip", {f"{edition}/{name}": text for name, text in files.items()})
        print(f"{course / edition} and {edition}.zip: {len(books)} notebooks{' and the folder lecturer' * teaching}")
    return 0


def lecturers_pack(books: Mapping[str, NotebookNode]) -> dict[str, str]:
    """What a lecturer needs beside the notebooks, by the names of its files; numbers are those of the published claims.

    Args:
        books: the notebooks, by name.
    """
    syllabus, rows = (_PAGES / "syllabus.md").read_text(encoding="utf-8"), read_rows(RESULTS / "claims.json")
    pages = {path.name: path.read_text(encoding="utf-8") for path in sorted((_PAGES / "lecturer").glob("*.md"))}
    pages |= {"syllabus.md": syllabus.replace("](notebooks/", "](../")}
    pack = {f"lecturer/{name}": _without_targets(with_numbers(text, rows, name)) for name, text in pages.items()}
    by_number = {name[:2]: book for name, book in books.items()}
    return pack | {"lecturer/slides.html": slides(lessons(syllabus), by_number)}


def _without_targets(text: str) -> str:
    """Numbers of claims as text: the places that they lead to are on the site."""
    return re.sub(r"\[([^\]]*)\]\(#claim-[\w-]+\)", r"\1", text)


def _written(book: NotebookNode) -> str:
    return nbformat.writes(book) + "\n"


def _zip(path: Path, files: Mapping[str, str]) -> None:
    """An archive whose bytes depend on nothing but the files: no time, no order of writing."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr, entry.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
            archive.writestr(entry, files[name].encode("utf-8"))


def student_edition(book: NotebookNode) -> NotebookNode:
    """A notebook without its solutions and findings, and without any output from the first exercise on.

    All other cells stay as they are, with their ids, so that a check is found again in what a student hands in.
    """
    book, asked = deepcopy(book), False
    book.cells = [cell for cell in book.cells if not tags(cell) & {"solution", "finding"}]
    for cell in book.cells:
        asked = asked or "exercise" in tags(cell)
        if asked and cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    book.metadata.pop("convergent", None)  # the hash of code that is no longer all there
    return book
