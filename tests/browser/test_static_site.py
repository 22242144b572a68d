"""The site as a reader meets it: every page in a browser, from a server and from the file. Run by `make site-test`."""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urldefrag, urlparse

import pytest

from convergent_utils.edition.places import RESULTS, last_settings, notebook_names
from convergent_utils.paper.claims import build_folder

bs4 = pytest.importorskip("bs4", reason="reading the site's pages needs the extra `site`")
pytestmark = [pytest.mark.slow, pytest.mark.site]
BUILD = build_folder()
SITE = BUILD / "site"
PAGES = sorted(path.relative_to(SITE).as_posix() for path in [*SITE.glob("*.html"), *SITE.glob("notebooks/*.html")])
NOTEBOOKS = [f"notebooks/{name}.html" for name in notebook_names()]
SOUPS, SECONDS = {}, {"http": [], "file": []}
# Pages that are reached one way are all opened by one process, whose times are judged together.
WAYS = [pytest.param(way, marks=pytest.mark.xdist_group(way)) for way in ("http", "file")]
WIDE, TELEPHONE = {"width": 1300, "height": 900}, {"width": 390, "height": 844}


def soup(page):
    if page not in SOUPS:
        SOUPS[page] = bs4.BeautifulSoup((SITE / page).read_text(encoding="utf-8"), "html.parser")
    return SOUPS[page]


@contextmanager
def served(folder):
    """Where a folder begins on a server of our own, which takes its time over anything that is called late."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            time.sleep(1 if "late" in self.path else 0)
            with suppress(BrokenPipeError):  # the reader did not wait
                super().do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def addresses():
    """Where the site begins, by the way it is reached."""
    with served(SITE) as address:
        yield {"http": address, "file": SITE.as_uri() + "/"}


@contextmanager
def looking(chromium, start, **options):
    """A page that notes every error, failed request and request to anywhere else; there must be none in the end.

    Going on to another page breaks off what the one before was still fetching (its icon comes after all else): a
    request that failed in no other way, from a page that is no longer shown, is not the site's failure.
    """
    context = chromium.new_context(**{"viewport": WIDE, "color_scheme": "light", **options})
    page, wrong, asked, failed = context.new_page(), [], {}, []
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.update({request: page.url}))
    page.on("requestfailed", lambda request: failed.append((request, request.failure)))
    page.on(
        "response", lambda response: wrong.append(f"{response.status}: {response.url}") if not_ok(response) else None
    )
    yield page
    page.wait_for_load_state("networkidle")
    wrong += [f"elsewhere: {request.url}" for request in asked if elsewhere(request.url, start)]
    wrong += [  # all of it before the page is closed, which breaks off what is still on its way
        f"failed: {request.url}, {reason}"
        for request, reason in failed
        if reason != "net::ERR_ABORTED" or asked[request] == page.url
    ]
    context.close()
    assert not wrong, wrong


def not_ok(response):
    return response.url.startswith("http") and response.status >= 400


def elsewhere(url, start):
    return not url.startswith((start, "data:", "blob:"))


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
    others = ("index", "claims", "what_was_found", "glossary", "differences", "bibliography", "search")
    assert {*(f"{name}.html" for name in others), *NOTEBOOKS} <= {*PAGES}
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


def move(slider):
    """Each step by keyboard shows another frame and says its name."""
    figure = slider.locator("xpath=ancestor::figure")
    shown, said = figure.locator("img:visible"), figure.locator("output")
    steps = int(slider.get_attribute("max"))
    slider.press("Home")
    seen, words = [shown.get_attribute("src")], [said.inner_text()]
    for _ in range(steps):
        slider.press("ArrowRight")
        assert shown.count() == 1
        seen.append(shown.get_attribute("src"))
        words.append(said.inner_text())
    least = 8 if last_settings(BUILD).get("profile") == "paper" else 2  # small runs have fewer moments, shifts, inputs
    assert len(set(seen)) == len(set(words)) == steps + 1 >= least
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth > 0)")
    slider.press("Home")
    assert [shown.get_attribute("src"), said.inner_text()] == [seen[0], words[0]]


@pytest.mark.parametrize("way", WAYS)
def test_pages_are_usable_soon(way):
    if not SECONDS[way]:
        pytest.skip("no page was opened")
    median = statistics.median(SECONDS[way])
    print(f"by {way}: usable after {median:.2f} s (median), {max(SECONDS[way]):.2f} s at most; 2 s are asked for")
    assert median < 5


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


def test_without_scripts_all_claims_are_a_plain_table(chromium, addresses):
    context = chromium.new_context(viewport=WIDE, java_script_enabled=False)
    page = context.new_page()
    page.goto(addresses["file"] + "claims.html")
    assert page.locator("table.claims tbody tr:visible").count() == len(made_claims())
    assert page.locator("table.claims th button").count() == 0
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


def hashes(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
