"""The lessons of the course, as the page of the syllabus has them."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ROW = re.compile(r"^\| \[(\d+)\. ([^\]]+)\]\([^)]*\) \| ([\d, ]+) \|", re.MULTILINE)
_ITEM = re.compile(r"^\d+\. ((?:.+\n?)(?: {3}.+\n?)*)", re.MULTILINE)


@dataclass(frozen=True)
class Lesson:
    """One lesson.

    Attributes:
        number: from 1 on.
        title: such as "Twins".
        notebooks: the first two digits of their names.
        abilities: what a student can do afterwards.
        questions: to ask in class.
    """

    number: int
    title: str
    notebooks: tuple[str, ...]
    abilities: str
    questions: tuple[str, ...]


def lessons(page: str) -> list[Lesson]:
    """All lessons of the page, in the order of its table.

    Raises:
        ValueError: a lesson of the table without a section, or a section without abilities or questions.
    """
    sections = {part.partition("\n")[0].strip(): part for part in re.split(r"^## ", page, flags=re.MULTILINE)[1:]}
    found = []
    for number, title, notebooks in _ROW.findall(page):
        section = sections.get(title, "")
        abilities = re.search(r"\*\*Afterwards a student can\*\* (.+?)\n\n", section, re.DOTALL)
        questions = section.partition("**To ask in class**")[2].partition("**Homework.**")[0]
        asked = tuple(" ".join(item.split()) for item in _ITEM.findall(questions))
        if not (abilities and asked):
            raise ValueError(f"syllabus: expected in the lesson {title!r} what a student can afterwards, and questions")
        numbers = tuple(re.findall(r"\d\d", notebooks))
        found.append(Lesson(int(number), title, numbers, " ".join(abilities[1].split()), asked))
    return found
