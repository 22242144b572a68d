"""The pages of the site, and ways to look at them."""

import hashlib
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from convergent_utils.edition.places import last_settings, notebook_names
from convergent_utils.paper.claims import build_folder

bs4 = pytest.importorskip("bs4", reason="reading the site's pages needs the extra `site`")
BUILD = build_folder()
SITE = BUILD / "site"
PAGES = sorted(
    path.relative_to(SITE).as_posix()
    for path in [*SITE.glob("*.html"), *SITE.glob("notebooks/*.html"), *SITE.glob("api/*.html")]
)
NOTEBOOKS = [f"notebooks/{name}.html" for name in notebook_names()]
SOUPS = {}
WIDER = """width => [...document.querySelectorAll('article *:not(mjx-assistive-mml *)')]
    .map(one => [one.getBoundingClientRect(), one])
    .filter(([box, _]) => box.right > width + 1 && box.width > 1)
    .map(([_, one]) => one.outerHTML.slice(0, 200))"""  # what is cut off at the right
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


def tabbed(page, selector):
    """What is reached by the tab key alone, from the start of the page."""
    for _ in range(400):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return page.locator(":focus")
    raise AssertionError(f"{selector} is not reached by keyboard")


def hashes(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
