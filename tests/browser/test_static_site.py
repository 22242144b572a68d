"""The site as a reader meets it: every page in a browser, from a server and from the file. Run by `make site-test`."""

import json
import os
import re
import statistics
import subprocess
import sys
from contextlib import suppress
from urllib.parse import unquote, urldefrag, urlparse

import pytest
from site_pages import (
    BUILD,
    NOTEBOOKS,
    PAGES,
    SITE,
    TELEPHONE,
    WIDE,
    WIDER,
    hashes,
    looking,
    move,
    served,
    soup,
    tabbed,
)

from convergent_utils.edition.places import RESULTS

pytestmark = [pytest.mark.slow, pytest.mark.site]
SECONDS = {"http": [], "file": []}
# Pages that are reached one way are all opened by one process, whose times are judged together.
WAYS = [pytest.param(way, marks=pytest.mark.xdist_group(way)) for way in ("http", "file")]


@pytest.fixture(scope="module")
def addresses():
    """Where the site begins, by the way it is reached."""
    with served(SITE) as address:
        yield {"http": address, "file": SITE.as_uri() + "/"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('<img src="none.png">', "none.png"),
        ("<script>undefined.x</script>", "undefined"),
        ('<img src="http://127.0.0.1:9/x.png">', "elsewhere"),
    ],
)
def test_a_page_that_lacks_something_is_found_out(chromium, tmp_path, way, body, told):
    (tmp_path / "index.html").write_text(f'<link rel="icon" href="data:,">{body}')
    with served(tmp_path) as address, pytest.raises(AssertionError, match=told):
        start = address if way == "http" else tmp_path.as_uri() + "/"
        with looking(chromium, start) as page:
            page.goto(start + "index.html")


def test_who_goes_on_before_all_has_come_is_no_failure(chromium, tmp_path):
    for name, other in [("one", "two"), ("two", "one")]:
        (tmp_path / f"{name}.html").write_text(f'<link rel="icon" href="data:,"><a href="{other}.html">{other}</a>')
    (tmp_path / "late.txt").write_text("")
    with served(tmp_path) as address, looking(chromium, address) as page:
        page.goto(address + "one.html")
        with page.expect_request("**/late.txt"):
            page.evaluate("void fetch('late.txt')")
        with page.expect_event("requestfailed", lambda request: request.url.endswith("late.txt")):
            page.get_by_role("link").click()
        page.wait_for_url("**/two.html")


def test_the_site_has_every_page():
    alone = ("index", "claims", "what_was_found", "paper", "glossary", "bibliography", "search")
    assert {*(f"{name}.html" for name in (*alone, "without_make", "api/index")), *NOTEBOOKS} <= {*PAGES}
    size = sum(path.stat().st_size for path in SITE.rglob("*") if path.is_file())
    print(f"{len(PAGES)} pages, {size / 1e6:.1f} MB")
    assert size < 40e6


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_whole_and_its_sliders_move(chromium, addresses, way, name):
    with looking(chromium, addresses[way]) as page:
        page.goto(addresses[way] + name, wait_until="load")
        sliders = page.locator("figure.slider input")
        if sliders.count():
            page.locator("figure.slider img:visible").first.wait_for()
        seconds = page.evaluate("performance.now()") / 1000
        SECONDS[way].append(seconds)
        print(f"{name} by {way}: usable after {seconds:.2f} s")
        for k in range(sliders.count()):
            move(sliders.nth(k))
        formulas = page.locator(".math").count()
        page.wait_for_function("n => document.querySelectorAll('.math mjx-container').length >= n", arg=formulas)


@pytest.mark.parametrize("way", WAYS)
def test_pages_are_usable_soon(way):
    if not SECONDS[way]:
        pytest.skip("no page was opened")
    median = statistics.median(SECONDS[way])
    print(f"by {way}: usable after {median:.2f} s (median), {max(SECONDS[way]):.2f} s at most; 2 s are asked for")
    assert median < 5


@pytest.mark.parametrize("name", ["index.html", NOTEBOOKS[6]])
def test_a_slider_is_reached_seen_and_moved_by_keyboard(chromium, addresses, name):
    with looking(chromium, addresses["file"], reduced_motion="reduce") as page:
        page.goto(addresses["file"] + name)
        slider = tabbed(page, "figure.slider input")
        assert slider.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
        shown, last = slider.locator("xpath=ancestor::figure").locator("img:visible"), slider.get_attribute("max")
        pictures = {}
        for key in ("Home", "PageUp", "PageDown", "End", "ArrowLeft", "ArrowDown", "ArrowUp"):
            page.keyboard.press(key)
            said = slider.get_attribute("aria-valuetext")
            assert shown.get_attribute("alt").endswith(f": {said}"), key
            pictures[key] = (int(slider.input_value()), shown.get_attribute("src"))
        places = {key: place for key, (place, _) in pictures.items()}
        assert (places["Home"], places["PageDown"], places["End"]) == (0, 0, int(last))
        assert places["PageUp"] > 0
        assert (places["ArrowLeft"], places["ArrowDown"], places["ArrowUp"]) == tuple(int(last) - k for k in (1, 2, 1))
        assert len({source for _, source in pictures.values()}) == len({*places.values()})
        slider.fill("0")  # as dragged there
        assert shown.get_attribute("src") == pictures["Home"][1]
        assert page.locator(".track i").evaluate_all(
            "all => all.every(i => getComputedStyle(i).transitionDuration === '0s')"
        )


@pytest.mark.parametrize("name", PAGES)
def test_every_control_has_a_name_and_every_picture_words(chromium, addresses, name):
    expect = pytest.importorskip("playwright.sync_api").expect
    with looking(chromium, addresses["file"]) as page:
        page.goto(addresses["file"] + name)
        for control in page.locator("article :is(input, button, select, summary)").all():
            expect(control).to_have_accessible_name(re.compile(r"\w"))
    said = [image.get("alt", "") for image in soup(name).select("article img:not(figure.slider img)")]
    assert all(40 <= len(words) <= 600 for words in said), said
    assert len({*said}) == len(said), "no picture is called as another"
    for slider in soup(name).select("figure.slider"):
        assert slider.has_attr("aria-label") or name == "index.html"
        assert all(re.search(r"\w: ", frame["alt"]) for frame in slider.select("img"))


def test_claims_are_filtered_and_sorted_by_keyboard(chromium, addresses):
    with looking(chromium, addresses["file"]) as page:
        page.goto(addresses["file"] + "claims.html")
        verdict = tabbed(page, ".verdicts a").get_attribute("data-verdict")
        page.keyboard.press("Enter")
        lines = page.locator("table.claims").first.locator("tbody tr:visible")
        assert {*lines.evaluate_all("l => l.map(one => one.dataset.verdict)")} == {verdict}
        button = tabbed(page, "table.claims th button")
        assert button.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
        for key, way in (("Enter", "ascending"), ("Space", "descending")):
            page.keyboard.press(key)
            assert button.locator("..").get_attribute("aria-sort") == way


def test_the_search_finds_a_function(chromium, addresses):
    with looking(chromium, addresses["http"]) as page:
        page.goto(addresses["http"] + "search.html?q=pwcca")
        page.locator("#search-results li a", has_text="pwcca").first.click()
        page.wait_for_url("**/api/similarities.html#convergent_utils.pwcca*")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_has_a_slider(name):
    assert soup(name).select("figure.slider input[type=range]")


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name):
    for tag, attribute in [("a", "href"), ("img", "src"), ("script", "src"), ("link", "href")]:
        for element in soup(name).find_all(tag, **{attribute: True}):
            address, place = urldefrag(element[attribute])
            if urlparse(address).scheme:
                assert tag == "a" or address.startswith("data:"), f"fetched from elsewhere: {address}"
                continue
            path = (SITE / name).parent / unquote(urlparse(address).path) if address else SITE / name
            assert path.resolve().is_file(), f"{element}: no such file"
            if place and path.suffix == ".html":
                there = soup(path.resolve().relative_to(SITE.resolve()).as_posix())
                assert there.find(id=unquote(place)), f"{element}: no such place"


def made_claims():
    return json.loads((BUILD / "results" / "claims.json").read_text(encoding="utf-8"))


def test_every_claim_leads_to_the_cell_that_made_it():
    made = made_claims()
    rows = {row["statement"]: row for row in made}
    first = [row for row in made if row["primary"]] + [row for row in made if not row["primary"] and not row["check"]]
    links = [line.find("a") for line in soup("claims.html").select("table.claims tbody tr")]
    assert [link.get_text() for link in links] == [row["statement"] for row in [*first, *filter(is_check, made)]]
    seeds = json.loads((RESULTS / "stability.json").read_text(encoding="utf-8"))  # in a table of those that change
    changed = {line["id"] for line in seeds if len({one["holds"] for one in line["seeds"].values()}) > 1}
    others = [line.find("a") for line in soup("claims.html").select("table:not(.claims) tbody tr")]
    assert [link.get_text() for link in others] == [row["statement"] for row in made if row["id"] in changed]
    strips = soup("index.html").select("ol.forest li a")
    assert [link.get_text() for link in strips] == [row["statement"] for row in made if row["primary"]]
    for link in [*links, *others, *strips]:
        name, place = urldefrag(link["href"])
        assert name == f"notebooks/{rows[link.get_text()]['notebook']}.html"
        found = soup(name).find(id=place)
        cell = found if "cell" in found.get("class", []) else found.find_parent(class_="cell")
        assert link.get_text() in cell.select_one(".cell_output").get_text()


def is_check(row):
    return row["check"]


def test_a_verdict_shows_its_claims_alone_and_a_column_sorts_them(chromium, addresses):
    with looking(chromium, addresses["file"]) as page:
        page.goto(addresses["file"] + "index.html")
        page.locator(".verdicts a").first.click()
        page.wait_for_url("**/claims.html#verdict-*")
        table, lines = (
            page.locator("table.claims").first,
            page.locator("table.claims").first.locator("tbody tr:visible"),
        )
        links, counted = page.locator(".verdicts a"), page.locator(".claims-shown")
        for k in range(links.count()):
            if k:
                links.nth(k).click()
            count = int(links.nth(k).locator("b").inner_text())
            assert lines.count() == count > 0
            assert counted.inner_text().startswith(f"{count} of ")
            assert {*lines.evaluate_all("l => l.map(one => one.dataset.verdict)")} == {
                links.nth(k).get_attribute("data-verdict")
            }
        links.last.click()
        assert lines.count() == sum(not row["check"] for row in made_claims())
        for column in range(table.locator("th").count()):
            values = []
            for way in ("ascending", "descending"):
                table.locator("th button").nth(column).click()
                assert table.locator("th").nth(column).get_attribute("aria-sort") == way
                cells = lines.evaluate_all("(l, k) => l.map(one => one.cells[k].dataset.value)", column)
                values.append([value for value in cells if value])
                assert cells[: len(values[-1])] == values[-1], "what is empty comes last"
            with suppress(ValueError):
                values = [list(map(float, one)) for one in values]
                assert values[0] == sorted(values[0])
            assert sorted(values[0]) == sorted(values[1])
            assert values[0][0] == values[1][-1]


def test_without_scripts_claims_are_a_plain_table_and_a_slider_a_picture(chromium, addresses):
    context = chromium.new_context(viewport=WIDE, java_script_enabled=False)
    page = context.new_page()
    page.goto(addresses["file"] + "claims.html")
    assert page.locator("table.claims tbody tr:visible").count() == len(made_claims())
    assert page.locator("table.claims th button").count() == 0
    page.goto(addresses["file"] + NOTEBOOKS[0])
    assert page.locator("figure.slider img:visible").count() == 1
    assert page.locator("figure.slider input:visible").count() == 0
    context.close()


def test_on_a_telephone_a_claim_is_a_card_with_its_verdict_first(chromium, addresses):
    with looking(chromium, addresses["file"], viewport=TELEPHONE) as page:
        page.goto(addresses["file"] + "claims.html")
        line = page.locator("table.claims tbody tr").first
        boxes = [cell.bounding_box() for cell in line.locator("td").all()]
        assert [box["y"] for box in boxes] == sorted({box["y"] for box in boxes}), "one below the other"
        assert line.locator(".chip").first.bounding_box()["y"] < line.locator("a").bounding_box()["y"]
        assert (
            line.locator("td").nth(2).evaluate("cell => getComputedStyle(cell, '::before').content")
            == '"ours [95 % interval]"'
        )


def test_the_opening_is_light_and_its_numbers_move(chromium, addresses):
    weights, start = {}, addresses["http"]
    with looking(chromium, start) as page:
        page.on("response", lambda response: weights.update({response.url: len(response.body())}))
        page.goto(start + "index.html", wait_until="networkidle")
        print(f"the opening weighs {sum(weights.values()) / 1e3:.0f} kB")
        assert sum(weights.values()) < 1e6
        assert not [url for url in weights if "tex-svg" in url or "fontawesome" in url]
        handle, numbers = page.locator("figure.numbers input"), page.locator("figure.numbers [data-role]")
        seen = []
        for _ in range(int(handle.get_attribute("max")) + 1):
            seen.append((page.locator("figure.numbers output").inner_text(), *numbers.all_inner_texts()))
            handle.press("ArrowRight")
        assert len(set(seen)) == len(seen) == 8
        assert page.locator("figure.numbers output").inner_text() == seen[-1][0] == "fc7"


@pytest.mark.parametrize("name", PAGES)
def test_formulas_are_set_where_they_are_and_nowhere_else(name):
    page = soup(name)
    assert bool(page.select(".math")) == bool(page.select('script[src*="tex-svg"]'))
    for element in page.select("article p, article li, article td"):
        assert "$" not in "".join(element.find_all(string=True, recursive=False)), f"a stray dollar sign: {element}"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_solution_is_shown_and_pictures_lie_in_files(name):
    assert not [button for button in soup(name).select("summary") if "solution" in button.get_text()]
    assert not [image for image in soup(name).select("article img") if image["src"].startswith("data:")]


@pytest.mark.parametrize("way", WAYS)
def test_the_search_finds_a_word(chromium, addresses, way):
    with looking(chromium, addresses[way]) as page:
        page.goto(addresses[way] + "index.html")
        page.keyboard.press("Control+k")
        page.keyboard.type("semi-matching")
        page.keyboard.press("Enter")
        page.wait_for_url("**/search.html*")
        page.wait_for_load_state("networkidle")  # excerpts of the pages found
        page.locator("#search-results li a", has_text="Can we permute one network into another?").first.click()
        page.wait_for_url("**/02_one_to_one_matching.html*")


def test_dark_and_light(chromium, addresses):
    with looking(chromium, addresses["file"]) as page:
        page.goto(addresses["file"] + NOTEBOOKS[0])
        colours = {}
        for mode in ("Dark", "Light"):
            page.get_by_label("Color mode").first.click()
            page.get_by_role("button", name=mode).or_(page.locator(f"[data-mode={mode.lower()}]:visible")).first.click()
            page.wait_for_function("mode => document.documentElement.dataset.theme === mode", arg=mode.lower())
            colours[mode] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert colours["Dark"] != colours["Light"]
        figure = page.locator(".cell_output img").first
        assert figure.evaluate("image => getComputedStyle(image).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.parametrize("name", PAGES)
def test_the_page_in_light_and_dark_and_on_a_telephone(chromium, addresses, name, pictures):
    with looking(chromium, addresses["file"]) as page:
        for look, mode, size in (("light", "light", WIDE), ("dark", "dark", WIDE), ("telephone", "light", TELEPHONE)):
            page.emulate_media(color_scheme=mode)
            page.set_viewport_size(size)
            page.goto(addresses["file"] + name, wait_until="load")
            assert page.evaluate("document.documentElement.dataset.theme") == mode
            if pictures:  # to be looked at; they take most of the time
                picture = pictures / f"{name.removesuffix('.html').replace('/', '-')}-{look}.jpg"
                page.screenshot(path=picture, full_page=True, type="jpeg", quality=70)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{look}: scrolls sideways"
            cut = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).length"
            assert page.locator(".cell_input pre:visible").evaluate_all(cut) == 0, f"{look}: lines of code are cut off"
            for box in (handle.bounding_box() for handle in page.locator("figure input").all()):
                assert 0 <= box["x"] <= box["x"] + box["width"] <= size["width"]


def test_building_again_gives_the_same_site(tmp_path):
    for folder in ("notebooks", "results"):
        (tmp_path / folder).symlink_to(BUILD / folder)
    command = [sys.executable, "-m", "convergent_utils.edition.site"]
    environment = {**os.environ, "CONVERGENT_BUILD": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert hashes(tmp_path / "site") == hashes(SITE)


@pytest.mark.parametrize(("paper", "millimetres"), [("A4", 210), ("Letter", 215.9)])
def test_the_whole_paper_prints(chromium, addresses, paper, millimetres):
    with looking(chromium, addresses["file"], color_scheme="dark") as page:
        page.goto(addresses["file"] + "paper.html", wait_until="load")
        page.wait_for_function(
            "document.querySelectorAll('.math').length <= document.querySelectorAll('mjx-container').length"
        )
        assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth)")
        pages = len(re.findall(rb"/Type\s*/Page\b(?!s)", page.pdf(format=paper)))
        assert 60 < pages < 250
        width = int((millimetres - 32) / 25.4 * 96)  # between the margins
        page.emulate_media(media="print")
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(WIDER, width) == []
        for hidden in (".bd-sidebar-primary", ".bd-header-article", ".prev-next-footer", ".on-screen"):
            assert page.locator(f"{hidden}:visible").count() == 0
        for what, ink in (("article p", "rgb(0, 0, 0)"), (".chip.holds", "rgb(11, 93, 59)")):  # as in light mode
            assert page.locator(what).first.evaluate("one => getComputedStyle(one).color") == ink


def test_the_whole_paper_has_all_but_code_and_exercises():
    whole = soup("paper.html")
    ids = [element["id"] for element in whole.select("[id]")]
    assert len(ids) == len(set(ids)), "no place is named twice"
    assert not whole.select("article :is(.cell_input, input, button, details)")
    headings = [heading.get_text() for heading in whole.select("article :is(h3, h4)")]
    assert not {"Exercises", "References", "Live panel", "Live panels"} & {*headings}
    for name, number in ((name, name[10:12]) for name in NOTEBOOKS):
        chapter = whole.find(id=f"chapter-{number}")
        assert chapter.h2.get_text() == f"{number} {soup(name).h1.find(string=True)}"
        assert chapter.select(".claim-card") == soup(name).select(".claim-card")
    figures, drawn = (
        whole.select("article figure"),
        [soup(name).select("img.drawn, figure.slider") for name in NOTEBOOKS],
    )
    assert len(figures) == 1 + sum(map(len, drawn)) == len(whole.select("article img"))
    assert [one.figcaption.b.get_text() for one in figures] == [f"Figure {k}. " for k in range(1, len(figures) + 1)]
