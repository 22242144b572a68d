import shutil

import pytest

from convergent_utils.paper.claims import build_folder

BROWSERS = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser")


@pytest.fixture(scope="session")
def pictures(request):
    """The folder for pictures of whole pages, where they are asked for."""
    if not request.config.getoption("--pictures"):
        return None
    folder = build_folder() / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def chromium():
    """A browser, or the reason why there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="looking at pages in a browser needs playwright")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("looking at pages in a browser needs chromium or chrome on PATH")
    with playwright.sync_playwright() as started:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = started.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()
