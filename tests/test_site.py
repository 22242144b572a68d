import hashlib
import html
import json
import re
import unicodedata

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from convergent_utils.edition import site, site_claims, site_finish, site_notebook, site_opening, site_words
from convergent_utils.edition.places import DEFAULTS, NOTEBOOKS, ROOT

ipywidgets = pytest.importorskip("ipywidgets", reason="sliders need ipywidgets")
NAME, PLACES = "00_tiny", {"one & two": 0, "three": 1}
TABLE = """<table><thead><tr><th></th><th>semi-matching</th><th>untrained</th><th>rotated</th></tr></thead><tbody>
<tr><th>conv1</th><td>0.800</td><td>0.700</td><td>0.500</td></tr><tr><th>conv2</th><td>0.600</td><td>0.300</td><td>0.500</td></tr>
</tbody></table>"""
ROW = {
    "id": "00.tiny", "notebook": NAME, "statement": "tiny's number is large", "source": "new", "published": None,
    "ours": 2.0, "interval": [1.5, 2.5], "baseline": 1.0, "rule": "above 1", "holds": "holds",
    "beyond_baseline": "yes", "changes_at": [1.5], "primary": True, "check": False, "p_value": 0.01,
}  # fmt: skip


def shows(panel):
    return new_output("execute_result", {site_notebook._VIEW: {"model_id": panel.model_id}, "text/plain": "VBox()"})


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
        new_markdown_cell("**What we see.** A *dot* of $r_{ij}$. It is small, see Li et al. (2016). Nothing else."),
        new_code_cell("def double(x):\n    return 2 * x"),
        new_code_cell("shown = double(1)"),
        new_code_cell("answer = ...", metadata={"tags": ["exercise"]}),
        new_code_cell("answer = 2", metadata={"tags": ["solution"]}),
        new_markdown_cell("It is two.", metadata={"tags": ["finding"]}),
        new_code_cell("check(answer)", metadata={"tags": ["check"]}, outputs=[new_output("stream", text="right")]),
    ]  # fmt: skip
    state = ipywidgets.Widget.get_manager_state()
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "widgets": {site_notebook._STATE: state}})


def by_source(book, source):
    return next(cell for cell in book.cells if cell.source == source)


def test_a_page_folds_cells_and_makes_claims_places_to_go_to():
    page = site_notebook.page(tiny(), NAME, [ROW])
    sources = [cell.source for cell in page.cells]
    assert "[notebook 02](02_one_to_one_matching.ipynb)" in sources[0]
    assert sources[sources.index("claim_all(rows)") - 1] == "(claim-00-tiny)="
    folded = [cell.source for cell in page.cells if "hide-input" in cell.metadata.get("tags", [])]
    shown = [cell.source for cell in page.cells if cell.cell_type == "code" and cell.source not in folded]
    assert shown == ["def double(x):\n    return 2 * x", "answer = ..."]
    assert by_source(page, "shown = double(1)").metadata.mystnb.code_prompt_show == "Show the code"
    assert by_source(page, "check(answer)").metadata.mystnb.code_prompt_show == "Show the check"


def test_solutions_are_shown_when_they_are_asked_for():
    hidden, shown = (site_notebook.page(tiny(), NAME, [ROW], solutions=asked) for asked in (False, True))
    sources = [cell.source for cell in hidden.cells]
    assert not {"answer = 2", "It is two."} & set(sources)
    assert by_source(hidden, "check(answer)").outputs == []
    assert by_source(shown, "answer = 2").metadata.mystnb.code_prompt_show == "Show the solution"
    assert any("It is two." in cell.source for cell in shown.cells)
    assert by_source(shown, "check(answer)").outputs[0].text == "right"


def test_a_claim_is_a_card_with_its_verdict_first():
    page = site_notebook.page(tiny(), NAME, [ROW], colour=[{**ROW, "holds": "does not hold"}])
    card = by_source(page, "claim_all(rows)").outputs[0].data["text/html"]
    assert re.sub("<.+?>", "", card).startswith("◐ depends on the images ▲ beyond its baseline")
    assert html.escape(ROW["statement"]) in card
    assert "primary claim; new" in card
    assert "in colour" not in site_claims.card(ROW, None)


def test_what_stands_under_the_title_of_a_page():
    page = site_notebook.page(tiny(), NAME, [ROW], above="A note.")
    assert page.cells[0].source.startswith("# Is it tiny?\n\nA note.\n")
    assert site._noted("---\na: b\n---\n# Title\n\nText.", "A note.") == "---\na: b\n---\n# Title\n\nA note.\n\nText."
    assert site._noted("# Title\n\nText.", "") == "# Title\n\nText."


def test_the_answer_of_a_notebook():
    book = new_notebook(cells=[new_markdown_cell("# Is it?\n\n**Partly.** In *every* layer. And more.")])
    assert site_notebook.bold_answer(book) == ("Is it?", "Partly. In every layer.")
    book.cells[0].source = "# Is it?\n\n**It is so in every single layer.** And more."
    assert site_notebook.bold_answer(book) == ("Is it?", "It is so in every single layer.")


def test_a_live_panel_becomes_a_sentence_and_a_slider_plain_pictures():
    page = site_notebook.page(tiny(), NAME, [ROW])
    assert "live_panel(draw)" not in [cell.source for cell in page.cells]
    assert sum("make lab" in cell.source for cell in page.cells) == 1
    data = by_source(page, "kernel_free_slider(draw)").outputs[0].data
    assert list(data) == ["text/html"]
    labels = html.unescape(re.search('data-labels="(.+?)"', data["text/html"])[1])
    assert json.loads(labels) == [*PLACES]
    pictures = re.findall('src="data:image/png;base64,([^"]+)" alt="(.+?)"( hidden)?>', data["text/html"])
    assert [alt for _, alt, _ in pictures] == ["share &lt;kept&gt;: one &amp; two", "share &lt;kept&gt;: three"]
    assert [bool(hidden) for *_, hidden in pictures] == [True, False]  # it starts in the middle
    assert len({picture for picture, *_ in pictures}) == 2
    assert "widgets" not in page.metadata
    assert "widget-view" not in json.dumps(page)


def test_a_notebook_says_where_its_slider_starts():
    book = tiny()
    next(cell for cell in book.cells if cell.source == "kernel_free_slider(draw)").metadata.tags = ["start-0"]
    assert 'value="0"' in site_notebook.first_slider(book)
    shown = by_source(site_notebook.page(book, NAME, [ROW]), "kernel_free_slider(draw)").outputs[0].data["text/html"]
    assert 'value="0"' in shown
    assert "<output>one &amp; two</output>" in shown


def test_a_widget_that_is_no_slider_is_refused():
    book = tiny()
    cell = next(cell for cell in book.cells if cell.source == "live_panel(draw)")
    cell.metadata.tags = []
    with pytest.raises(ValueError, match="expected one SelectionSlider and one Stack .* got .*Dropdown"):
        site_notebook.page(book, NAME, [ROW])


def test_numbers_of_claims_stand_in_pages():
    text = site_words.with_numbers("It is {{ 00.tiny }}: {{ 00.tiny holds }}, {{ 00.tiny beyond }}.", [ROW], "page.md")
    assert text == "It is [2.000 (1.500 to 2.500)](#claim-00-tiny): [holds](#claim-00-tiny), [yes](#claim-00-tiny)."
    with pytest.raises(ValueError, match="page.md: expected the id of a claim between braces, got '00.none'"):
        site_words.with_numbers("{{ 00.none }}", [ROW], "page.md")


def test_a_term_is_explained_where_it_first_occurs():
    text = (
        "```{glossary}\nlayout\n  What the {term}`place <place>` gives. More.\n  Third. Fourth.\n\nplace\n  Where.\n```"
    )
    terms = site_words.glossary(text)
    assert terms == {"layout": "What the place gives. More.", "place": "Where."}
    assert terms == {**terms, "layout": "What the place gives. More."}
    names = site_words.spellings(terms)
    assert names == {"layout": "layout", "layouts": "layout"}  # a place is an everyday word
    pieces = site_words.split_at_terms("Layouts of a layout-like layout", names, set())
    assert pieces == [("Layouts", "layout"), (" of a layout-like layout", None)]
    assert site_words.split_at_terms("a layout", names, {"layout"}) == [("a layout", None)]
    assert site_words.split_at_terms("a layout", {}, set()) == [("a layout", None)]


def test_verdicts_are_counted_and_never_a_colour_alone():
    made = site_claims.bar(["holds", "holds", "does not hold"], table="claims.html")
    assert re.findall(r'href="(.+?)"', made) == ["claims.html#verdict-holds", "claims.html#verdict-does-not-hold"]
    assert re.findall(r"flex-grow:(\d)", made) == ["2", "1"]
    assert re.sub("<.+?>", "", made).split() == ["2", "✓", "holds", "1", "✗", "does", "not", "hold"]
    assert len({*site_claims.SIGNS.values()}) == len(site_claims.SIGNS) == 5


def test_the_table_of_claims_can_be_sorted_and_filtered():
    rows = [{**ROW, "id": "00.b", "primary": False, "holds": "imprecise", "published": None}, ROW]
    made = site_claims.tables(
        [*rows, {**ROW, "id": "00.check", "check": True, "primary": False}], [{**ROW, "ours": 3.0}]
    )
    assert made.count("<table") == 2
    assert re.findall(r'<tr(?: id="(.+?)")? data-verdict="(.+?)">', made) == [
        ("verdict-holds", "holds"), ("verdict-imprecise", "imprecise"), ("", "holds"),
    ]  # fmt: skip
    values = re.findall(r'data-label="(ours .+?|published|in colour)" data-value="(.*?)"', made)
    assert values[:3] == [("ours [95 % interval]", "2.0"), ("published", ""), ("in colour", "3.0")]
    assert "1 primary claims" in made
    assert 'href="notebooks/00_tiny.html#claim-00-tiny"' in made


def test_a_strip_of_the_forest_plot():
    made = site_claims.forest(
        [ROW, {**ROW, "id": "00.b", "primary": False}], [{**ROW, "ours": 0.5, "interval": [0.0, 1.0]}]
    )
    assert made.count("<svg") == 1
    places = [
        float(x) for x in re.findall(r'<circle class="ours" cx="(.+?)"|<rect class="colour" x="(.+?)"', made)[0] if x
    ]
    threshold = float(re.search(r'class="threshold" d="M(.+?) ', made)[1])
    assert threshold < places[0] < 360
    assert 'class="baseline"' in made
    assert "; holds if above 1: holds; baseline 1; in colour 0.500 [0.000, 1.000]" in made
    assert site_claims.forest([], []) == ""


def test_readme_gives_the_short_answer_and_a_sentence():
    readme = (
        "# T\n\n**Partly: they share a\nspace.** Not units (Li et al. 2016). More.\n\n![a picture](answer.png)\n\nElse."
    )
    found = site_opening.answer(readme)
    assert found == {
        "word": "Partly", "sentence": "They share a space.", "alt": "a picture",
        "rest": "Not units (Li et al. 2016). More.",
    }  # fmt: skip
    assert site_opening.answer("# T\n\n**They share it.** So.\n\n![p](x)")["word"] == ""
    assert site_opening.answer("nothing")["sentence"] == ""


def test_the_three_numbers_are_those_of_the_run():
    cell = new_code_cell("table", outputs=[new_output("execute_result", {"text/html": TABLE})])
    layers = site_opening.layer_numbers({"01_x": new_notebook(cells=[]), "02_x": new_notebook(cells=[cell])})
    assert layers["conv1"] == {"semi-matching": 0.8, "rotated": 0.5, "untrained": 0.7}
    made = site_opening.numbers_panel(layers)
    assert re.findall(r'data-role="(.+?)">(.+?)<', made) == [
        ("semi-matching", "0.70"), ("rotated", "0.50"), ("untrained", "0.50"),
    ]  # fmt: skip
    assert [one["name"] for one in json.loads(html.unescape(re.search('data-layers="(.+?)"', made)[1]))][1:] == [
        *layers
    ]
    assert site_opening.numbers_panel(site_opening.layer_numbers({})) == ""


def test_another_run_is_called_another_run():
    other = [{**ROW, "holds": "imprecise"}]
    assert site_opening.run_note({**DEFAULTS, "from": "published"}, [ROW], [ROW], "a chip") == ""
    note = site_opening.run_note(DEFAULTS, other, [ROW, {**ROW, "id": "00.gone"}], "a chip")
    assert "2 of 2 verdicts differ" in note
    assert "on a chip" in note
    assert "profile smoke" in site_opening.run_note({**DEFAULTS, "profile": "smoke"}, [ROW], [ROW], "a chip")


def test_one_base_seed_has_one_number_on_a_page():
    seeds = {seed: {"ours": n, "interval": [n, n], "baseline": 0.0, "holds": said, "beyond_baseline": "yes"}
             for seed, n, said in (("0", 2.0, "holds"), ("10", 1.0, "borderline"))}  # fmt: skip
    line = {"id": ROW["id"], "seeds": seeds}
    assert "| base seed 0; baseline |" in site_opening.at_other_seeds([ROW], [line])
    assert "| published, base seed 0; baseline |" in site_opening.at_other_seeds([{**ROW, "ours": 9.0}], [line])
    assert site_opening.at_other_seeds([ROW], []) == "There are none."


def test_pictures_lie_in_files_and_wait_until_they_are_near(tmp_path):
    picture = tiny().cells[5].outputs[0].data["image/png"]
    text = f'<img alt="a" src="data:image/png;base64,{picture}"><img src="../_static/b.svg" loading="eager">'
    made = site_finish.pictures_in_files(text, "notebooks/x", tmp_path)
    (file,) = (tmp_path / "_images").iterdir()
    assert f'loading="lazy" decoding="async" width="1" height="1" alt="a" src="../_images/{file.name}"' in made
    assert made.count("lazy") == 1
    assert site_finish.png_size(tmp_path / "none.png") is None


def test_a_shared_link_has_a_preview():
    said = {"index": "All.", "notebooks/x": "It is <so>."}
    made = site_finish.preview("notebooks/x", "X", said, None)
    assert 'property="og:image" content="../_static/answer.png"' in made
    assert 'property="og:description" content="It is &lt;so&gt;."' in made
    assert "og:url" not in made
    made = site_finish.preview("other", "X", said, "https://paper.org/site")
    assert 'content="https://paper.org/site/_static/answer.png"' in made
    assert 'content="https://paper.org/site/other.html"' in made
    assert 'name="description" content="All."' in made


def test_where_a_notebook_can_be_had():
    assert "href" in site.launch(NAME, None, solutions=False)
    assert "without solutions" in site.launch(NAME, None, solutions=False)
    assert "Colab" not in site.launch(NAME, "https://code.example.org/paper", solutions=True)


def test_without_a_run_there_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CONVERGENT_BUILD", str(tmp_path))
    assert site.main([]) == 2
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
    (root / "README.md").write_text("# Title\n\n**Partly.** It is.\n\n![the answer](answer.png)\n\nMore.\n")
    (root / "pyproject.toml").write_text("[project]\n")
    opening = (
        (site.PAGES / "index.md")
        .read_text(encoding="utf-8")
        .replace("api/index\ndifferences\nglossary\nbibliography", "glossary")
    )
    opening = opening.replace("what_was_found\nclaims\nThe whole paper on one page <paper>", "claims").replace(
        "your_networks\nrunning\nwithout_make\n", ""
    )
    (pages / "index.md").write_text(re.sub(r"\[What was found\].*?\.\n|^All of them.*?\.\n", "", opening, flags=re.M))
    (pages / "claims.md").write_text(
        "# All claims\n\n```{raw} html\n{{ claims }}\n```\n\nA layout, and a layout. $x$\n"
    )
    (pages / "glossary.md").write_text("# Glossary\n\n```{glossary}\nlayout\n  Where things stand.\n```\n")
    (pages / "references.bib").write_text("")
    for folder in ("static", "vendor"):
        (pages / folder).symlink_to(site.PAGES / folder)
    monkeypatch.setenv("CONVERGENT_BUILD", str(build))
    for name, value in {"PAGES": pages, "ROOT": root, "NOTEBOOKS": root, "notebook_names": lambda: [NAME]}.items():
        monkeypatch.setattr(site, name, value)
    monkeypatch.setattr(site_notebook, "notebook_names", lambda: [NAME])
    return build, root


@pytest.mark.filterwarnings("ignore:.*is deprecated:PendingDeprecationWarning")
def test_the_site_leads_away_only_when_a_repository_is_known(small):
    pytest.importorskip("sphinx_book_theme", reason="building the site needs the extra `site`")
    build, root = small
    for address, expected in ((None, False), ("https://github.com/someone/paper", True)):
        if address:
            (root / "pyproject.toml").write_text(f'[project.urls]\nRepository = "{address}"\n[project]\n')
        page = (site.build_site() / "notebooks" / f"{NAME}.html").read_text(encoding="utf-8")
        assert bool(re.search(r'(?:href|src)="https?://', page)) == expected
        assert (f"mybinder.org/v2/gh/someone/paper/main?urlpath=lab/tree/notebooks/{NAME}.ipynb" in page) == expected
        assert (f"colab.research.google.com/github/someone/paper/blob/main/notebooks/{NAME}.ipynb" in page) == expected
    assert "Prose may be mended" in page
    injected = 'seed <span class="o">=</span> <span class="mi">1'
    assert injected not in page.replace('<span class="n">seed</span>', "seed")
    assert 'id="claim-00-tiny"' in page
    assert "profile paper, base seed 3" in page
    assert "<dd>2.000 [1.500, 2.500]</dd>" in page
    opening, claims = ((build / "site" / f"{one}.html").read_text(encoding="utf-8") for one in ("index", "claims"))
    for made in (opening, claims):
        assert f'href="notebooks/{NAME}.html#claim-00-tiny"' in made
        assert "profile paper, base seed 3" in made
        assert "fontawesome.js" not in made
    assert '<p class="word">Partly.</p>' in opening
    assert 'content="Partly. It is."' in opening
    assert ("tex-svg.js" in claims, "tex-svg.js" in opening) == (True, False)
    assert re.findall(r'<a class="explained[^>]*title="(.+?)">(.+?)</a>', claims) == [("Where things stand.", "layout")]
    assert "data:image" not in page
    offered = nbformat.read(build / "site" / "_static" / "notebooks" / f"{NAME}.ipynb", 4)
    assert "answer = 2" not in [cell.source for cell in offered.cells]
    assert "import math" in [cell.source for cell in offered.cells]


def test_code_that_was_edited_after_its_run_is_refused(small, capsys):
    _, root = small
    book = nbformat.read(root / f"{NAME}.ipynb", 4)
    by_source(book, "import math").source = "import cmath"
    nbformat.write(book, root / f"{NAME}.ipynb")
    assert site.main([]) == 2
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
