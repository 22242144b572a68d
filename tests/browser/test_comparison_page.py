"""The page of a comparison as a reader meets it: opened as a file, wide and narrow, light and dark."""

import pytest
import torch

import convergent_utils as cu
from convergent_utils.compare.report import save
from convergent_utils.paper.claims import build_folder

pytestmark = pytest.mark.slow
PICTURES = build_folder() / "screenshots"
QUICK = ["bipartite matching", "linear map", "debiased CKA", "mutual k-NN", "linear CKA"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Three small networks on noise, with untrained copies, and the page of all pairs."""
    networks = {
        name: cu.build_network("alexnet-narrow", seed=k) for k, name in enumerate(("one", "<b>two</b>", "three"))
    }
    images = torch.randint(0, 256, (80, 28, 28, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = cu.measure(networks, images, ["conv1", "conv3", "fc6"], untrained=True, progress=False)
    names = list(networks)
    pairs = [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]
    compared = [cu.compare(found, *pair, similarities=QUICK, turns=3, progress=False) for pair in pairs]
    about = {"inputs": "noise", "one": "an untrained network"}
    return save(compared, tmp_path_factory.mktemp("report") / "report.html", inputs=images, about=about)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_opens_from_a_file(chromium, report, width, scheme):
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, wrong, asked = context.new_page(), [], []
    page.on("console", lambda said: wrong.append(said.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_load_state("networkidle")
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    assert dark == (scheme == "dark")
    for link in page.query_selector_all("nav a"):
        link.click()
        assert page.evaluate("document.querySelector(location.hash) !== null")
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"compare-report-{width}.png", full_page=True)
    assert not wrong
    context.close()


def test_tables_are_sorted_and_everything_is_there_without_a_script(chromium, report):
    context = chromium.new_context()
    page = context.new_page()
    page.goto(report.as_uri())
    head = page.locator("#all th", has_text="found")
    column = head.evaluate("head => head.cellIndex")
    read = f"[...document.querySelectorAll('#all tbody tr')].map(row => parseFloat(row.cells[{column}].textContent))"
    head.locator("button").click()
    values = page.evaluate(read)
    assert values == sorted(values)
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").click()
    assert page.evaluate(read) == sorted(values, reverse=True)
    context.close()
    plain = chromium.new_context(java_script_enabled=False)
    page = plain.new_page()
    page.goto(report.as_uri())
    assert len(page.query_selector_all("#all tbody tr")) == len(values)
    assert page.is_visible("#answer")
    plain.close()
