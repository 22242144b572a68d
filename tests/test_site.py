import hashlib
import html
import json
import re
import unicodedata

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from convergent_utils.edition import site
from convergent_utils.edition.places import NOTEBOOKS, ROOT

ipywidgets = pytest.importorskip("ipywidgets", reason="sliders need ipywidgets")
NAME, PLACES = "00_tiny", {"one & two": 0, "three": 1}
ROW = {
    "id": "00.tiny", "notebook": NAME, "statement": "tiny's number is large", "source": "new", "published": None,
    "ours": 2.0, "interval": [1.5, 2.5], "baseline": 1.0, "rule": "above 1", "holds": "holds",
    "beyond_baseline": "yes", "changes_at": [1.5], "primary": False, "check": False, "p_value": 0.01,
}  # fmt: skip


def shows(panel):
    return new_output("execute_result", {site._VIEW: {"model_id": panel.model_id}, "text/plain": "VBox()"})


def tiny():
    """An executed notebook with one cell of each kind that a page treats in its own way."""
    from convergent_utils.drawing.widgets import kernel_free_slider, live_panel

    def draw(figure, value):
        figure.subplots().plot([0, value])

    slider = kernel_free_slider(draw, PLACES, label="share <kept>", size=(2, 2))
    panel = live_panel(draw, {"value": [0, 1]}, size=(2, 2))
    picture = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    drawn = new_output("display_data", {"image/png": picture})
    row = new_output("display_data", {"text/html": ROW["statement"], "text/plain": "00.tiny      holds"})
    cells = [
        new_markdown_cell("# Is it tiny?\n\nYes; see notebook 02."),
        new_code_cell("import math"),
        new_code_cell("seed: int = 0", metadata={"tags": ["parameters"]}),
        new_code_cell("seed = 1", metadata={"tags": ["injected-parameters"]}),
        new_code_cell("claim_all(rows)", metadata={"tags": ["claim"]}, outputs=[row]),
        new_code_cell("draw()", metadata={"tags": ["answer"]}, outputs=[drawn]),
        new_code_cell("kernel_free_slider(draw)", outputs=[shows(slider)]),
        new_code_cell("live_panel(draw)", metadata={"tags": ["live-only"]}, outputs=[shows(panel)]),
        new_code_cell("answer = 2", metadata={"tags": ["solution"]}),
    ]  # fmt: skip
    state = ipywidgets.Widget.get_manager_state()
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "widgets": {site._STATE: state}})


def by_source(book, source):
    return next(cell for cell in book.cells if cell.source == source)


def test_a_page_folds_cells_and_makes_claims_places_to_go_to():
    page = site.page(tiny(), NAME, [ROW])
    sources = [cell.source for cell in page.cells]
    assert "[notebook 02](02_one_to_one_matching.ipynb)" in sources[0]
    assert sources[sources.index("claim_all(rows)") - 1] == "(claim-00-tiny)="
    folded = {cell.source for cell in page.cells if "hide-input" in cell.metadata.get("tags", [])}
    assert folded == {"import math", "seed: int = 0", "answer = 2"}
    assert by_source(page, "answer = 2").metadata.mystnb.code_prompt_show == "Show the solution"
    assert "Is it tiny?" in by_source(page, "draw()").metadata.mystnb.image.alt


def test_a_live_panel_becomes_a_sentence_and_a_slider_plain_pictures():
    page = site.page(tiny(), NAME, [ROW])
    assert "live_panel(draw)" not in [cell.source for cell in page.cells]
    assert sum("make lab" in cell.source for cell in page.cells) == 1
    data = by_source(page, "kernel_free_slider(draw)").outputs[0].data
    assert list(data) == ["text/html"]
    labels = html.unescape(re.search('data-labels="(.+?)"', data["text/html"])[1])
    assert json.loads(labels) == [*PLACES]
    pictures = re.findall('src="data:image/png;base64,([^"]+)" alt="(.+?)"( hidden)?>', data["text/html"])
    assert [alt for _, alt, _ in pictures] == ["share &lt;kept&gt;: one &amp; two", "share &lt;kept&gt;: three"]
    assert [bool(hidden) for *_, hidden in pictures] == [False, True]
    assert len({picture for picture, *_ in pictures}) == 2
    assert "widgets" not in page.metadata
    assert "widget-view" not in json.dumps(page)


def test_a_widget_that_is_no_slider_is_refused():
    book = tiny()
    cell = next(cell for cell in book.cells if cell.source == "live_panel(draw)")
    cell.metadata.tags = []
    with pytest.raises(ValueError, match="expected one SelectionSlider and one Stack .* got .*Dropdown"):
        site.page(book, NAME, [ROW])


def test_numbers_of_claims_stand_in_pages():
    text = site.with_numbers("It is {{ 00.tiny }}: {{ 00.tiny holds }}.", [ROW], "page.md")
    assert text == "It is [2.000 (1.500 to 2.500)](#claim-00-tiny): [holds](#claim-00-tiny)."
    with pytest.raises(ValueError, match="page.md: expected the id of a claim between braces, got '00.none'"):
        site.with_numbers("{{ 00.none }}", [ROW], "page.md")


def test_without_a_run_there_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CONVERGENT_BUILD", str(tmp_path))
    assert site.main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "there is no run of 00_networks" in said
    assert "run `make paper` first" in said


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A run of one notebook, and pages that are the opening and no more."""
    build, pages, root = tmp_path / "build", tmp_path / "pages", tmp_path / "root"
    for folder in (build / "notebooks", build / "results", pages, root):
        folder.mkdir(parents=True)
    book = tiny()
    nbformat.write(book, build / "notebooks" / f"{NAME}.ipynb")
    book.cells = [cell for cell in book.cells if cell.source != "seed = 1"]
    book.cells[0].source += " Prose may be mended after the run."
    nbformat.write(book, root / f"{NAME}.ipynb")
    (build / "results" / "claims.json").write_text(json.dumps([ROW]))
    (build / "results" / "run.json").write_text(json.dumps({"dataset": "npz:mine.npz", "seed": 3, "profile": "paper"}))
    (root / "README.md").write_text("# Title\n\n**Is it?** It is.\n\n![the answer](answer.png)\n\nMore.\n")
    (root / "pyproject.toml").write_text("[project]\n")
    opening = (site.PAGES / "index.md").read_text(encoding="utf-8").replace("differences\nglossary\nbibliography\n", "")
    (pages / "index.md").write_text(re.sub(r"It is\s+drawn.*?ipynb\)\.", "", opening, flags=re.DOTALL))
    (pages / "references.bib").write_text("")
    for folder in ("static", "vendor"):
        (pages / folder).symlink_to(site.PAGES / folder)
    monkeypatch.setenv("CONVERGENT_BUILD", str(build))
    for name, value in {"PAGES": pages, "ROOT": root, "NOTEBOOKS": root, "notebook_names": lambda: [NAME]}.items():
        monkeypatch.setattr(site, name, value)
    return build, root


@pytest.mark.filterwarnings("ignore:.*is deprecated:PendingDeprecationWarning")
def test_the_site_leads_away_only_when_a_repository_is_known(small):
    pytest.importorskip("sphinx_book_theme", reason="building the site needs the extra `site`")
    build, root = small
    for address, expected in ((None, False), ("https://github.com/someone/paper", True)):
        if address:
            (root / "pyproject.toml").write_text(f'[project.urls]\nRepository = "{address}"\n[project]\n')
        page = (site.build_site() / "notebooks" / f"{NAME}.html").read_text(encoding="utf-8")
        assert (f"mybinder.org/v2/gh/someone/paper/main?urlpath=lab/tree/notebooks/{NAME}.ipynb" in page) == expected
        assert (f"colab.research.google.com/github/someone/paper/blob/main/notebooks/{NAME}.ipynb" in page) == expected
        assert bool(re.search(r'(?:href|src)="https?://', page)) == expected
    assert "Prose may be mended" in page
    injected = 'seed <span class="o">=</span> <span class="mi">1'
    assert injected not in page.replace('<span class="n">seed</span>', "seed")
    opening = (build / "site" / "index.html").read_text(encoding="utf-8")
    assert f'href="notebooks/{NAME}.html#claim-00-tiny"' in opening
    assert 'id="claim-00-tiny"' in page
    assert "a run with dataset npz:mine.npz, seed 3, profile paper" in opening


def test_code_that_was_edited_after_its_run_is_refused(small, capsys):
    _, root = small
    book = nbformat.read(root / f"{NAME}.ipynb", 4)
    by_source(book, "import math").source = "import cmath"
    nbformat.write(book, root / f"{NAME}.ipynb")
    assert site.main() == 2
    assert "00_tiny was edited after it was run; run `make paper` first" in capsys.readouterr().err


def test_files_of_others_are_the_ones_named():
    table = (site.PAGES / "vendor" / "README.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"^\| ([\w.-]+) \|.*\| ([0-9a-f]{64}) \|$", table, re.MULTILINE))
    scripts = list((site.PAGES / "vendor").glob("*.js"))
    assert named == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in scripts}
    for path in scripts:
        assert path.with_suffix(".LICENSE.txt").exists()


def test_the_glossary_is_in_order():
    text = (site.PAGES / "glossary.md").read_text(encoding="utf-8").split("```{glossary}\n")[1]
    terms = re.findall(r"^(\w.*)\n  \S", text, re.MULTILINE)
    assert len(terms) > 50
    assert terms == sorted(terms, key=str.casefold)
    assert len(set(terms)) == len(terms)


def test_all_that_is_cited_is_in_the_bibliography():
    known = (site.PAGES / "references.bib").read_text(encoding="utf-8")
    prose = [(ROOT / "README.md").read_text(encoding="utf-8")]
    for path in NOTEBOOKS.glob("*.ipynb"):
        prose += [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]
    for number in set(re.findall(r"arXiv:? (\d{4}\.\d{4,5})", "\n".join(prose))):
        assert f"eprint = {{{number}}}" in known
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "convergent_utils").rglob("*.py"))
    sources = " ".join(re.findall(r"Source: (.*?)\"\"\"", code, re.DOTALL))
    cited = re.findall(
        r"([A-ZÖÅ][\w'’]+)(?:, \w+)*(?: and \w+)?(?: et al\.)? ((?:19|20)\d\d)", re.sub(r"\s+", " ", sources)
    )
    assert len(set(cited)) > 15
    for author, year in set(cited):
        plain = unicodedata.normalize("NFKD", author).encode("ascii", "ignore").decode().lower().replace("'", "")
        assert f"{{{plain}{year}," in known, f"{author} {year}"
