"""The whole paper on one page: what of a chapter comes there, and where its links lead."""

import pytest

from convergent_utils.edition import site_printed

bs4 = pytest.importorskip("bs4", reason="reading pages needs the extra `site`")
CHAPTER = """<html><head><script>window.MathJax = {}</script>
<script defer src="../_static/vendor/tex-svg.js"></script></head>
<body><article><section id="is-it"><h1>Is it {n}?<a class="headerlink" href="#is-it">#</a></h1>
<p class="launch">Download</p><p><a href="#seen">below</a> <a href="01_two.html#seen">there</a>
<a href="01_two.html">two</a>
<a href="../glossary.html#term-unit">unit</a> <a href="#do">to do</a> <span class="math">x</span></p>
<div class="cell"><div class="cell_input"><div class="highlight-ipython3 notranslate"><div class="highlight">
<pre>code</pre></div>
</div></div></div><section id="seen"><h2>Seen</h2>
<div class="cell"><details class="above-input"><summary>Show</summary></details><div class="cell_output">
<div class="output"><img class="drawn" loading="lazy" src="../_images/a.png" alt="a dot"></div></div></div>
<figure class="slider" aria-label="Figure to “Seen”: dots." data-labels="[]"><label>share <input type="range"></label>
<output>one</output><img hidden src="../_images/b.png" alt="share: none">
<img src="../_images/c.png" alt="share: one"></figure>
<table id="T_1"><tr><td id="T_1_row0">1</td></tr></table></section>
<section id="do"><h2>Exercises</h2><p>Do.</p></section><section id="refs"><h2>References</h2><p>Me.</p></section>
</section></article></body></html>"""


def filled(tmp_path, chapter=CHAPTER, place='<div id="whole-paper"></div>'):
    (tmp_path / "notebooks").mkdir()
    for number, name in enumerate(("00_one", "01_two")):
        (tmp_path / "notebooks" / f"{name}.html").write_text(chapter.replace("{n}", str(number)), encoding="utf-8")
    start = f'<article><section id="it"><h1>All</h1>{place}</section></article>'
    start = f"<html><head></head><body>{start}</body></html>"
    (tmp_path / site_printed.PAGE).write_text(start, encoding="utf-8")
    works = '<article><section id="works-cited"><h1>Bibliography</h1><div id="id1">Me 2016</div></section></article>'
    (tmp_path / "bibliography.html").write_text(works, encoding="utf-8")
    site_printed.fill(tmp_path, ["00_one", "01_two"])
    return bs4.BeautifulSoup((tmp_path / site_printed.PAGE).read_text(encoding="utf-8"), "html.parser")


@pytest.fixture
def whole(tmp_path):
    return filled(tmp_path)


def test_chapters_come_in_order_without_what_paper_cannot_do(whole):
    assert [heading.get_text() for heading in whole.select("h2")] == ["00 Is it 0?", "01 Is it 1?", "Bibliography"]
    assert [heading.get_text() for heading in whole.select("h3")] == ["Seen"] * 2
    assert not whole.select("input, details, .cell_input, .launch, .headerlink, output")
    assert "code" not in whole.get_text()
    assert "Do." not in whole.get_text()
    assert len(whole.select("div.cell")) == 2, "a cell of which nothing is left is gone"


def test_figures_are_numbered_and_a_slider_stands_still(whole):
    captions = [caption.get_text() for caption in whole.select("figcaption")]
    assert captions[0] == "Figure 1. Seen."
    assert captions[1] == "Figure 2. share: one. One of 2 pictures on the site."
    assert captions[3].startswith("Figure 4. ")
    first, second = whole.select("img")[:2]
    assert (first["src"], first["loading"]) == ("_images/a.png", "eager")
    assert (second["src"], second["alt"]) == ("_images/c.png", "Figure to “Seen”: dots. Shown is share: one.")


@pytest.mark.parametrize("words", ["<em>Seen</em>", "<em>Seen</em> twice", "Seen in <code>conv1</code>"])
def test_a_caption_has_all_words_of_its_heading(tmp_path, words):
    heading = f'<h2>{words}<a class="headerlink" href="#seen">#</a></h2>'
    whole = filled(tmp_path, CHAPTER.replace("<h2>Seen</h2>", heading))
    plain = bs4.BeautifulSoup(words, "html.parser").get_text()
    assert whole.figcaption.get_text() == f"Figure 1. {plain}."


@pytest.mark.parametrize(
    ("chapter", "place", "lacking"),
    [
        (CHAPTER, "", "#whole-paper"),
        (CHAPTER.replace("article>", "main>"), '<div id="whole-paper"></div>', "article > section"),
        (CHAPTER.replace("<label>", "<b>"), '<div id="whole-paper"></div>', "label"),
    ],
)
def test_what_a_page_lacks_is_named(tmp_path, chapter, place, lacking):
    with pytest.raises(ValueError, match=f"^site: expected {lacking} on"):
        filled(tmp_path, chapter, place)


def test_links_lead_to_places_on_the_page_or_to_the_pages_that_have_them(whole):
    leads = {a.get_text(): a["href"] for a in whole.select("#chapter-00 a")}
    assert leads == {
        "below": "#chapter-00-seen", "there": "#chapter-01-seen", "two": "#chapter-01",
        "unit": "glossary.html#term-unit", "to do": "notebooks/00_one.html#do",
    }  # fmt: skip
    ids = [element["id"] for element in whole.select("[id]")]
    assert len(ids) == len(set(ids))
    assert [a["href"] for a in whole.select("ul.parts a")] == ["#chapter-00", "#chapter-01", "#works"]


def test_formulas_are_set(whole):
    assert [script.get("src") for script in whole.select("script")] == [None, "_static/vendor/tex-svg.js"]


def test_a_site_without_that_page_is_left_alone(tmp_path):
    site_printed.fill(tmp_path, ["00_one"])
    assert not [*tmp_path.iterdir()]
