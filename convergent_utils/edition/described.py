"""Figures described in words, for those who cannot see them: `python -m convergent_utils.edition.described`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence

import nbformat
from nbformat import NotebookNode

from .places import NOTEBOOKS, notebook_names

_SEEN = re.compile(r"^\*\*What we see\.\*\*\s*(.+)", re.MULTILINE)
_SENTENCE = re.compile(r"(?<!al\.)(?<!e\.g\.)(?<!i\.e\.)(?<=[.!?])\s+(?=[A-Z“\"(])")


def describe(book: NotebookNode) -> NotebookNode:
    """Give every figure of a notebook its description, where Jupyter's tools look for it; the notebook is changed.

    Of figures that share what is seen in them, each says which it is.
    """
    found = list(figures(book))
    texts = [text for _, text in found]
    for k, (output, text) in enumerate(found):
        if (count := texts.count(text)) > 1:
            text = text.replace("Figure", f"Figure {texts[:k].count(text) + 1} of {count}", 1)
        output.metadata.setdefault("image/png", {})["alt"] = text
    return book


def figures(book: NotebookNode, kind: str = "image/png") -> Iterator[tuple[NotebookNode, str]]:
    """The outputs of a notebook that are of one kind, each with what is seen in it."""
    section = ""
    for k, cell in enumerate(book.cells):
        if cell.cell_type == "markdown":
            section = (re.findall(r"^#+ (.+)", cell.source, re.MULTILINE) or [section])[-1]
        for output in cell.get("outputs", []):
            if kind in output.get("data", {}):
                yield output, alternative(book.cells[k + 1 :], section)


def alternative(following: Sequence[NotebookNode], section: str) -> str:
    """What is seen in a figure, in plain text: the first two sentences of the next "What we see", in this section.

    Args:
        following: the cells after the figure.
        section: the heading above it.
    """
    for cell in following:
        if cell.cell_type != "markdown":
            continue
        if found := _SEEN.search(cell.source):
            return f"Figure to “{plain(section)}”: {' '.join(sentences(plain(found[1]))[:2])}"
        if re.search(r"^#+ ", cell.source, re.MULTILINE):
            break
    return f"Figure to “{plain(section)}”; the text around it says what it shows."


def sentences(text: str) -> list[str]:
    """A text in its sentences."""
    return _SENTENCE.split(text.strip())


def plain(text: str) -> str:
    """Markdown in one line without its marks: links say their words, formulas their letters."""
    text = re.sub(r"<!--.*?-->|\{[\w:]+\}(?=`)", "", text, flags=re.DOTALL)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\$+([^$]+)\$+", lambda found: re.sub(r"\\[a-z]+|[{}\\]", "", found[1]), text)
    return " ".join(re.sub(r"(\*\*|`|(?<!\w)\*(?=\S)|(?<=\S)\*(?!\w))", "", text).split())


def main() -> int:
    """Bring the descriptions of published figures up to date, once prose was mended; print which notebooks changed."""
    for name in notebook_names():
        path = NOTEBOOKS / f"{name}.ipynb"
        before = path.read_text(encoding="utf-8")
        nbformat.write(describe(nbformat.reads(before, 4)), path)
        if path.read_text(encoding="utf-8") != before:
            print(f"described the figures of {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
