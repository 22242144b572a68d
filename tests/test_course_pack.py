"""What `convergent course` gives a lecturer: slides, answers, a rubric, a lesson, and archives of both editions."""

import re
import zipfile
from html.parser import HTMLParser

import nbformat
import pytest

from convergent_utils import cli
from convergent_utils.edition import course
from convergent_utils.edition.places import NOTEBOOKS, notebook_names
from convergent_utils.edition.slides import figures, slides
from convergent_utils.edition.syllabus import lessons

PAGES = course._PAGES
SYLLABUS = (PAGES / "syllabus.md").read_text(encoding="utf-8")
ANSWER = re.compile(r"^\*\*(\d+)\. (.+?)\*\* (.+?)(?=\n\n\*\*|\n\n## |\Z)", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def books():
    return {name[:2]: nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4) for name in notebook_names()}


def test_every_notebook_is_in_one_lesson():
    found = lessons(SYLLABUS)
    assert [lesson.number for lesson in found] == list(range(1, len(found) + 1))
    assert [number for lesson in found for number in lesson.notebooks] == [name[:2] for name in notebook_names()]
    assert all(question.endswith(("?", ".")) for lesson in found for question in lesson.questions)
    asked = re.findall(r"^\d+\. ", SYLLABUS, re.MULTILINE)
    assert sum(len(lesson.questions) for lesson in found) == len(asked), "a list of something else, or a question lost"


def test_a_lesson_without_questions_is_refused():
    torn = SYLLABUS.replace("**To ask in class**", "**To think of**", 2)
    with pytest.raises(ValueError, match="in the lesson 'Networks and their units'"):
        lessons(torn)


def test_every_question_of_the_syllabus_has_its_answer():
    text = (PAGES / "lecturer" / "answers.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (\d+)\. (.+)\n", text, flags=re.MULTILINE)[1:]
    answered = list(zip(parts[::3], parts[1::3], parts[2::3], strict=True))
    found = lessons(SYLLABUS)
    assert [(int(number), title) for number, title, _ in answered] == [(one.number, one.title) for one in found]
    for lesson, (_, _, body) in zip(found, answered, strict=True):
        answers = ANSWER.findall(body + "\n")
        assert [int(number) for number, _, _ in answers] == list(range(1, len(lesson.questions) + 1)), lesson.title
        for question, (_, opening, answer) in zip(lesson.questions, answers, strict=True):
            opening = " ".join(opening.split()).rstrip(".?")
            assert question.startswith(opening), question
            assert len(opening) >= 20 or question.startswith(f"{opening}.") or question.startswith(f"{opening}?")
            sentences = re.findall(r"[.?!](?=\s|$)", answer)
            assert 2 <= len(sentences) <= 7, f"{opening}: {len(sentences)}"
            assert len(answer.split()) >= 30, opening


def test_the_pack_has_numbers_of_claims_and_nothing_of_the_site_is_left(editions):
    for page in sorted((editions / "instructor" / "lecturer").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        assert "{{" not in text, page.name
        assert "](#claim-" not in text, page.name
    answers = (editions / "instructor" / "lecturer" / "answers.md").read_text(encoding="utf-8")
    assert len(re.findall(r"-?\d\.\d{3} \(-?\d+\.\d{3} to -?\d+\.\d{3}\)", answers)) > 30
    links = re.findall(r"\]\(\.\./([^)#]+)\)", (editions / "instructor" / "lecturer" / "syllabus.md").read_text())
    assert links
    assert all((editions / "instructor" / link).exists() for link in links)


def test_the_lesson_lasts_as_long_as_it_says():
    text = (PAGES / "lecturer" / "lesson.md").read_text(encoding="utf-8")
    minutes = [tuple(map(int, found)) for found in re.findall(r"^\| (\d+) to (\d+) \|", text, re.MULTILINE)]
    assert minutes[0][0] == 0
    assert minutes[-1][1] == 45
    assert [end for _, end in minutes[:-1]] == [start for start, _ in minutes[1:]]


def test_what_the_lesson_and_the_rubric_name_is_there(books):
    lesson, rubric = ((PAGES / "lecturer" / f"{name}.md").read_text(encoding="utf-8") for name in ("lesson", "rubric"))
    shown = {figure.section for figure in figures(books["02"])}
    named = re.findall(r"[Ss]lide \*([^*]+)\*", lesson)
    assert len(named) >= 3
    assert set(named) <= shown
    sources = "\n".join(cell.source for cell in books["02"].cells)
    assert all(name in sources for name in ("Move along the curve", "Merging two batches", "Layout without a shuffle"))
    third = re.findall(r"^\| (\d\d) \*([^*]+)\*", rubric, re.MULTILINE)
    assert [number for number, _ in third] == sorted(books)
    for number, title in third:
        assert any(f"**3. Explore.** *{title}.*" in cell.source.replace("?*", ".*").replace("?.", ".") or
                   f"**3. Explore.** *{title}*" in cell.source for cell in books[number].cells), title  # fmt: skip


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_each_figure_has_its_slide_which_says_what_is_seen_and_needs_no_network(editions, books):
    page = _Page()
    text = (editions / "instructor" / "lecturer" / "slides.html").read_text(encoding="utf-8")
    page.feed(text)
    pictures = [attributes for tag, attributes in page.found if tag == "img"]
    drawn = [
        output.data["image/png"]
        for number in sorted(books)
        for cell in books[number].cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert [one["src"].partition(",")[2] for one in pictures] == ["".join(one.split()) for one in drawn]
    assert all(len(one["alt"]) > 40 for one in pictures)
    assert all(one["src"].startswith("data:image/png;base64,") for one in pictures)
    assert not [tag for tag, found in page.found if tag in ("link", "iframe") or (tag == "script" and "src" in found)]
    assert "http" not in re.sub(r"base64,[^\"]+", "", text)
    ids = [found.get("id") for tag, found in page.found if tag == "section"]
    number = len(lessons(SYLLABUS))
    assert [one for one in ids if one] == ["contents", *(f"lesson-{k}" for k in range(1, number + 1))]
    assert {found["href"] for tag, found in page.found if tag == "a"} == {f"#{one}" for one in ids if one}
    assert len(ids) == 1 + 2 * number + len(drawn)


def test_a_slide_says_question_heading_and_what_is_seen():
    lesson = lessons(SYLLABUS)[1]
    drawn = nbformat.v4.new_output("display_data", {"image/png": "QUJD\n"})
    book = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# Is it < that?\n\n**Yes.**\n\n## How *much*?"),
            nbformat.v4.new_code_cell("draw()", outputs=[drawn, drawn]),
            nbformat.v4.new_markdown_cell("**What we see.** It is <two>. And three. But not four."),
            nbformat.v4.new_code_cell("draw()", outputs=[drawn]),
        ]
    )
    first, second, last = figures(book)
    assert (first.picture, first.section, first.caption) == ("QUJD", "How much?", "It is <two>. And three.")
    assert second == first
    assert last.caption == ""
    text = slides([lesson], {"02": book})
    assert text.count("<h2>Is it &lt; that?</h2>") == 3
    assert text.count("It is &lt;two&gt;. And three.</p>") == 2


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_archives_hold_the_folders_and_nothing_of_the_day(editions, tmp_path):
    for edition in ("student", "instructor"):
        with zipfile.ZipFile(editions / f"{edition}.zip") as archive:
            assert archive.namelist() == sorted(archive.namelist())
            assert {entry.date_time[0] for entry in archive.infolist()} == {1980}
            archive.extractall(tmp_path)
        assert contents(tmp_path / edition) == contents(editions / edition)
    names = {path.name for path in (editions / "instructor" / "lecturer").iterdir()}
    assert names == {"answers.md", "lesson.md", "rubric.md", "slides.html", "syllabus.md"}
    assert not (editions / "student" / "lecturer").exists()


def test_course_says_what_it_wrote(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CONVERGENT_BUILD", str(tmp_path))
    assert cli.main(["course"]) == 0
    student, instructor = capsys.readouterr().out.splitlines()
    assert f"{tmp_path / 'course' / 'student'} and student.zip: 13 notebooks" in student
    assert "instructor.zip" in instructor
    assert "lecturer" in instructor


@pytest.mark.parametrize("name", notebook_names())
def test_no_student_notebook_speaks_of_what_it_lacks(editions, name):
    whole, book = (nbformat.read(folder / f"{name}.ipynb", 4) for folder in (NOTEBOOKS, editions / "student"))
    start = next(k for k, cell in enumerate(book.cells) if cell.source.startswith("## Exercises"))
    prose = [cell.source for cell in book.cells[start:] if cell.cell_type == "markdown"]
    assert not [text for text in prose if "What we see" in text], "what an exercise finds is marked as a finding"
    assert [cell.metadata.tags for cell in whole.cells if "finding" in cell.metadata.get("tags", [])] == [["finding"]]
    assert not [text for text in prose if re.search(r"(?<!has a )\bsolutions?\b(?! of)", text)]
    of_cells = re.compile(r"solution(?: cell| below| above| stands)|overrides? the blank|delete its cell")
    assert not [cell for cell in book.cells if cell.cell_type == "markdown" and of_cells.search(cell.source)]
    assert "solution" not in (editions / "student" / "README.md").read_text(encoding="utf-8")


def test_a_solution_is_spoken_of_where_there_is_one(editions):
    assert "its solution" in (editions / "instructor" / "README.md").read_text(encoding="utf-8")
    assert "--csv scores.csv" in (editions / "instructor" / "README.md").read_text(encoding="utf-8")
