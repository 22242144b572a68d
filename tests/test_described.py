"""Figures and what describes them to those who cannot see them."""

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from convergent_utils.edition import described, publish
from convergent_utils.edition.places import NOTEBOOKS, notebook_names

PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def drawn():
    return new_output("display_data", {"image/png": PICTURE})


def alts(book):
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    return [o.metadata["image/png"]["alt"] for o in outputs if "image/png" in o.get("data", {})]


def tiny():
    cells = [
        new_markdown_cell("# Is it tiny?"),
        new_code_cell("one", outputs=[drawn(), new_output("stream", text="a line")]),
        new_markdown_cell("**What we see.** A *dot* of $r_{ij}$. It is small, see Li et al. (2016). Nothing else."),
        new_code_cell("two", outputs=[drawn(), drawn()]),
        new_markdown_cell("**What we see.** Two `dots`."),
        new_code_cell("none", outputs=[drawn()]),
        new_markdown_cell("## Next"),
        new_markdown_cell("**What we see.** Another."),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def test_a_figure_is_described_by_what_is_seen_in_it_and_none_as_another():
    assert alts(described.describe(tiny())) == [
        "Figure to “Is it tiny?”: A dot of r_ij. It is small, see Li et al. (2016).",
        "Figure 1 of 2 to “Is it tiny?”: Two dots.",
        "Figure 2 of 2 to “Is it tiny?”: Two dots.",
        "Figure to “Is it tiny?”; the text around it says what it shows.",
    ]


def test_a_page_made_of_a_published_notebook_says_what_its_figures_show():
    nbconvert = pytest.importorskip("nbconvert")
    body, _ = nbconvert.HTMLExporter(template_name="classic").from_notebook_node(publish.normalised(tiny()))
    assert 'alt="Figure 1 of 2 to “Is it tiny?”: Two dots."' in body


def test_a_mended_sentence_is_published(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "00_tiny.ipynb"
    nbformat.write(tiny(), tmp_path / "notebooks" / path.name)
    book = publish.normalised(tiny())
    book.cells[4].source = "**What we see.** Two spots."
    nbformat.write(book, path)
    assert publish._publish_notebook(tmp_path, path)
    assert alts(nbformat.read(path, 4))[1] == "Figure 1 of 2 to “Is it tiny?”: Two spots."
    assert not publish._publish_notebook(tmp_path, path), "publishing twice changes nothing"
    book.cells[4].source = "**What we see.** Two rings."
    nbformat.write(book, path)
    monkeypatch.setattr(described, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(described, "notebook_names", lambda: ["00_tiny"])
    assert described.main() == 0
    assert alts(nbformat.read(path, 4))[2] == "Figure 2 of 2 to “Is it tiny?”: Two rings."
    before = path.read_bytes()
    assert described.main() == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", notebook_names())
def test_every_published_figure_is_described(name):
    book = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
    said, before = alts(book), json.dumps(book)
    assert said, "a chapter has figures"
    assert len(set(said)) == len(said)
    assert all(40 <= len(text) <= 500 for text in said), sorted(said, key=len)
    assert not [text for text in said if "the text around it" in text or "$" in text or "**" in text]
    now = json.dumps(described.describe(book))
    assert now == before, "prose was mended since: `python -m convergent_utils.edition.described`"
