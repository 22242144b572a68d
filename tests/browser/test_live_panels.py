"""The live panels as a reader meets them: in JupyterLab, in a browser."""

import json
import os
import re
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import nbformat
import pytest

from convergent_utils.edition.places import NOTEBOOKS, ROOT, notebook_names
from convergent_utils.paper.claims import build_folder

sync_api = pytest.importorskip("playwright.sync_api", reason="moving panels in a browser needs playwright")
pytest.importorskip("jupyterlab", reason="moving panels in a browser needs jupyterlab")
pytestmark = pytest.mark.slow
PICTURES = build_folder() / "screenshots"
TOKEN = secrets.token_hex(16)
SENTENCE = "This choice cannot be drawn: planted, 1 < 2"
# The copies refuse every choice that is more than one list away from the first picture.
REFUSE = """
def refusing(draw):
    seen = []

    def drawn(figure, **chosen):
        seen.append(chosen)
        if sum(value != seen[0][name] for name, value in chosen.items()) > 1:
            raise ValueError("planted, 1 < 2")
        draw(figure, **chosen)

    return drawn
"""


def tagged(book, tag):
    return [k for k, cell in enumerate(book.cells) if tag in cell.metadata.get("tags", [])]


def original(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)


def sliders(name):
    """The cells that show a slider over pictures drawn beforehand."""
    return [k for k, cell in enumerate(original(name).cells) if re.search(r"^kernel_free_slider\(", cell.source, re.M)]


# Three of them; that every panel draws each of its choices is tested without a browser.
NAMES = [name for name in notebook_names() if name[:2] in ("02", "04", "06")]


def copy_for_smoke(name, seed, folder):
    """Copy a notebook, with the smoke profile and a panel that refuses some choices."""
    book = original(name)
    for tag, old, new in [
        ("parameters", 'profile: str = "paper"', 'profile: str = "smoke"'),
        ("parameters", "seed: int = 0", f"seed: int = {seed}"),
        ("live-only", "live_panel(draw,", "live_panel(refusing(draw),"),
    ]:
        cell = book.cells[tagged(book, tag)[0]]
        assert cell.source.count(old) == 1, f"{name}: expected {old!r} once in the cell tagged {tag}"
        cell.source = (REFUSE if tag == "live-only" else "") + cell.source.replace(old, new)
    nbformat.write(book, folder / f"{name}.ipynb")


@dataclass
class Server:
    """A running JupyterLab."""

    url: str

    def ask(self, path, method="GET"):
        request = Request(self.url + path, method=method, headers={"Authorization": f"token {TOKEN}"})
        with urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or "null")


@pytest.fixture(scope="module")
def lab(smoke, base_seed, tmp_path_factory):
    """JupyterLab on copies of the notebooks, with settings, files and port of its own."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    for name in NAMES:
        copy_for_smoke(name, base_seed, folder / "notebooks")
    announcements = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (folder / "config" / "labconfig").mkdir(parents=True)
    (folder / "config" / "labconfig" / "page_config.json").write_text(json.dumps(announcements))
    own = {f"JUPYTER_{name.upper()}_DIR": str(folder / name) for name in ("config", "data", "runtime")}
    own |= {"IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": str(ROOT)}
    own |= {"CONVERGENT_BUILD": str(folder / "build"), "CONVERGENT_STORE": str(smoke[0] / "store")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [f"--ServerApp.root_dir={folder / 'notebooks'}", f"--IdentityProvider.token={TOKEN}"]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield Server(address(folder, process))
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def address(folder: Path, process, patience=60):
    """Where the server says that it listens; the port is the first that was free."""
    start = time.monotonic()
    while time.monotonic() - start < patience and process.poll() is None:
        for path in (folder / "runtime").glob("jpserver-*.json"):
            try:
                return json.loads(path.read_text())["url"]
            except ValueError:  # half written
                pass
        time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start:\n{(folder / 'log').read_text()[-2000:]}")


@pytest.fixture(scope="module")
def browser(chromium):
    context = chromium.new_context(viewport={"width": 1300, "height": 900})  # one cache for all pages
    yield context
    context.close()


@pytest.fixture
def page(browser, lab):
    page = browser.new_page()
    yield page
    page.close()
    for kernel in lab.ask("api/kernels"):
        lab.ask(f"api/kernels/{kernel['id']}", "DELETE")


class Panel:
    """The panel in the output of one cell."""

    def __init__(self, cell):
        self.image = cell.locator("img.widget-image")
        self.lists = cell.locator("select")
        self.message = cell.locator(".widget-html-content")
        self.reset = cell.get_by_role("button", name="reset")

    def address(self):
        return self.image.get_attribute("src")

    def picture(self):
        """The bytes that the browser shows."""
        read = "async image => Array.from(new Uint8Array(await (await fetch(image.src)).arrayBuffer()))"
        return bytes(self.image.evaluate(read))

    def wait_for_another_picture(self, address):
        another = "([image, address]) => image.src !== address && image.complete && image.naturalWidth > 0"
        self.image.page.wait_for_function(another, arg=[self.image.element_handle(), address], timeout=30_000)


def open_and_run(page, url, name):
    """Open a notebook, run all its cells from the menu, and wait for its panel."""
    page.goto(f"{url}lab/tree/{name}.ipynb?token={TOKEN}&reset", timeout=60_000)
    page.get_by_text(re.compile(r"\| Idle$")).wait_for(timeout=60_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    k = tagged(original(name), "live-only")[0]
    panel = Panel(page.locator(f".jp-Notebook .jp-Cell[data-windowed-list-index='{k}']"))
    failed = page.locator(".jp-OutputArea-output").filter(has_text="Traceback")
    panel.image.or_(failed).first.wait_for(timeout=300_000)  # all cells before it run first
    assert not failed.count(), failed.first.inner_text()
    sync_api.expect(page.locator(".jp-InputPrompt", has_text="[*]")).to_have_count(0, timeout=120_000)
    return panel


@pytest.mark.parametrize("name", NAMES)
def test_a_panel_draws_a_choice_refuses_another_and_resets(lab, page, name):
    panel = open_and_run(page, lab.url, name)
    first, address = panel.picture(), panel.address()
    assert first[:4] == b"\x89PNG"

    start = time.perf_counter()
    panel.lists.first.select_option(index=1)
    panel.wait_for_another_picture(address)
    seconds = time.perf_counter() - start
    print(f"{name}: {seconds:.2f} s from the choice to its picture")  # half a second on a quiet machine
    assert panel.picture() != first
    assert seconds < 5

    panel.lists.nth(1).select_option(index=1)
    sync_api.expect(panel.message).to_have_text(SENTENCE, timeout=30_000)
    sync_api.expect(panel.image).to_be_hidden()

    address = panel.address()
    panel.reset.click()
    panel.wait_for_another_picture(address)
    assert panel.picture() == first
    sync_api.expect(panel.message).to_have_text("")
    sync_api.expect(panel.image).to_be_visible()
    assert panel.lists.evaluate_all("lists => lists.map(list => list.selectedIndex)") == [0] * panel.lists.count()

    for kernel in lab.ask("api/kernels"):
        lab.ask(f"api/kernels/{kernel['id']}", "DELETE")
    assert lab.ask("api/kernels") == []
    for k in sliders(name):
        cell = page.locator(f".jp-Notebook .jp-Cell[data-windowed-list-index='{k}']")
        move_without_kernel(cell)
        print(f"{name}: {drag_to_the_start(cell):.2f} s from the drag to its picture, without a kernel")
        PICTURES.mkdir(parents=True, exist_ok=True)
        cell.screenshot(path=PICTURES / f"lab-{name}-{k}.png")


def move_without_kernel(cell):
    """Each step of the slider shows another picture, though no kernel runs."""
    handle, shown = cell.get_by_role("slider"), cell.locator("img.widget-image:visible")
    places = int(float(handle.get_attribute("aria-valuemax"))) + 1
    seen = {shown.get_attribute("src")}
    for _ in range(places - 1):
        before = shown.get_attribute("src")
        handle.press("ArrowRight")
        sync_api.expect(shown).not_to_have_attribute("src", before)
        seen.add(shown.get_attribute("src"))
    assert len(seen) == places >= 8


def drag_to_the_start(cell):
    """Seconds until the slider, dragged by the mouse from its last place to its first, shows that picture."""
    handle, shown, mouse = cell.get_by_role("slider"), cell.locator("img.widget-image:visible"), cell.page.mouse
    last, place = shown.get_attribute("src"), handle.bounding_box()
    mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    mouse.down()
    mouse.move(place["x"] - 2000, place["y"], steps=3)
    start = time.perf_counter()
    mouse.up()
    sync_api.expect(shown).not_to_have_attribute("src", last)
    sync_api.expect(handle).to_have_attribute("aria-valuenow", re.compile(r"^0(\.0+)?$"))
    return time.perf_counter() - start
