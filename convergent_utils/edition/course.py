"""The paper as a course: an edition for students and one for teachers."""

from __future__ import annotations

from copy import deepcopy

import nbformat
from nbformat import NotebookNode

from ..paper.claims import build_folder
from .hand_ins import tags
from .places import NOTEBOOKS, notebook_names

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
    book.cells = [cell for cell in book.cells if not tags(cell) & {"solution", "finding"}]
    for cell in book.cells:
        asked = asked or "exercise" in tags(cell)
        if asked and cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    book.metadata.pop("convergent", None)  # the hash of code that is no longer all there
    return book
