"""Slides for a lecture: every figure of the published notebooks, lesson by lesson, in one file without a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from nbformat import NotebookNode

from . import described
from .described import plain
from .site_notebook import bold_answer
from .syllabus import Lesson

_LOOK = Path(__file__).parent / "pages" / "lecturer"


@dataclass(frozen=True)
class Figure:
    """A figure of a notebook: base64 of a PNG, and what is seen in it, in words."""

    picture: str
    alternative: str

    @property
    def section(self) -> str:
        """The heading that it stands under."""
        return self.alternative.partition("“")[2].partition("”")[0]

    @property
    def caption(self) -> str:
        """What is seen, without the words that say that it is a figure; empty where the notebook does not say it."""
        return self.alternative.partition("”: ")[2]


def figures(book: NotebookNode) -> Iterator[Figure]:
    """The figures of a notebook, in its order."""
    for output, text in described.figures(book):
        yield Figure("".join(output["data"]["image/png"].split()), text)


def slides(lessons: Sequence[Lesson], books: Mapping[str, NotebookNode]) -> str:
    """All slides as one page of HTML.

    Args:
        lessons: of the syllabus.
        books: published notebooks, by the first two digits of their names.
    """
    shown = [_contents(lessons)]
    for lesson in lessons:
        questions = [bold_answer(books[number])[0] for number in lesson.notebooks]
        shown.append(_title(lesson, questions))
        for number, question in zip(lesson.notebooks, questions, strict=True):
            shown += [_slide(number, question, figure) for figure in figures(books[number])]
        shown.append(_asked(lesson))
    body = "\n".join(shown)
    style, script = ((_LOOK / f"slides.{ending}").read_text(encoding="utf-8") for ending in ("css", "js"))
    return _PAGE.format(style=style, script=script, slides=body, count=len(shown))


def _contents(lessons: Sequence[Lesson]) -> str:
    items = "\n".join(
        f'<li><a href="#lesson-{lesson.number}">{escape(lesson.title)}</a> '
        f"<small>{', '.join(lesson.notebooks)}</small></li>"
        for lesson in lessons
    )
    keys = "Arrow keys, page up and down, home and end move; the number of a slide is in the address."
    return f'<section id="contents" class="title"><h1>Convergent learning</h1><ol>{items}</ol><p>{keys}</p></section>'


def _title(lesson: Lesson, questions: Sequence[str]) -> str:
    asked = "".join(f"<p class=question>{escape(question)}</p>" for question in questions)
    return (
        f'<section id="lesson-{lesson.number}" class="title"><p class="over">Lesson {lesson.number}</p>'
        f"<h1>{escape(lesson.title)}</h1>{asked}"
        f"<p>Afterwards a student can {escape(plain(lesson.abilities))}</p></section>"
    )


def _slide(number: str, question: str, figure: Figure) -> str:
    return (
        f'<section class="figure"><header><h2>{escape(question)}</h2>'
        f'<p class="over">{number} · {escape(figure.section)}</p></header>'
        f'<img alt="{escape(figure.alternative)}" src="data:image/png;base64,{figure.picture}">'
        f"<p class=caption>{escape(figure.caption)}</p></section>"
    )


def _asked(lesson: Lesson) -> str:
    items = "".join(f"<li>{escape(plain(question))}</li>" for question in lesson.questions)
    return f'<section class="asked"><p class="over">{escape(lesson.title)}</p><h2>To ask</h2><ol>{items}</ol></section>'


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Convergent learning: slides</title>
<style>
{style}</style>
</head>
<body>
<main>
{slides}
</main>
<nav aria-label="Slides">
<button id="previous" aria-label="Previous slide">←</button>
<output id="place">1 / {count}</output>
<button id="next" aria-label="Next slide">→</button>
<a href="#contents">Contents</a>
</nav>
<script>
{script}</script>
</body>
</html>
"""
