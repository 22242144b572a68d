"""The paper as a static site, from its last run: `convergent site`, or `make site`."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Mapping
from html import escape
from importlib.util import find_spec
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from ..paper.claims import build_folder, read_rows
from . import site_opening as front
from .course import student_edition
from .described import plain, sentences
from .places import NOTEBOOKS, RESULTS, ROOT, last_settings, notebook_names
from .publish import code_hash, in_colour
from .run import published_on
from .site_claims import tables
from .site_finish import finish, preview
from .site_functions import AUTODOC, FOLDER, describe_from_docstrings, overview
from .site_notebook import bold_answer, first_slider, page, under_title
from .site_printed import fill
from .site_words import explain_terms, with_numbers

PAGES = Path(__file__).parent / "pages"

_PATCHES = """## Two matched units

The slider goes through the units of one layer of a network, from the one that is matched worst to the one matched best.
Below the curve stand the pieces of test images that excite the unit most, and beside them those that excite its
partner in another network.

```{{raw}} html
{}
```"""
_SETTINGS = {
    "project": "Convergent learning",
    "html_title": "Convergent learning",
    "author": "",
    "html_show_copyright": False,
    "html_show_sphinx": False,
    "html_copy_source": False,
    "smartquotes": False,
    "extensions": ["myst_nb", "sphinx.ext.autodoc", "sphinxcontrib.bibtex"],
    "bibtex_bibfiles": ["references.bib"],
    "myst_enable_extensions": ["dollarmath", "amsmath"],
    "myst_dmath_double_inline": True,  # a formula of its own within an item of a list
    "myst_heading_anchors": 3,
    "nb_execution_mode": "off",
    "nb_output_stderr": "remove",
    "html_context": {"default_mode": "auto"},
    "mathjax_path": "vendor/tex-svg.js",
    "html_theme": "sphinx_book_theme",
    "html_static_path": ["_static"],
    "html_css_files": ["site.css"],
    "html_js_files": ["site.js"],
    "html_favicon": "_static/favicon.svg",
    **AUTODOC,
}


def build_site(*, solutions: bool = False) -> Path:
    """Assemble the sources from the last run and have Sphinx make the pages; the folder of the site.

    Args:
        solutions: whether solutions of exercises are shown, and are in the notebooks to download.

    Raises:
        ValueError: no run to show, notebooks edited since, a page that names a claim which the run did not make, or no
            Sphinx to make pages.
    """
    if find_spec("sphinx") is None:
        raise ValueError("site: sphinx is not installed; `pip install --editable '.[site]'` in the project brings it")
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    build = build_folder()
    source, site, making = build / "site-source", build / "site", build / "site-making"
    descriptions = assemble(build, source, solutions=solutions)
    shutil.rmtree(making, ignore_errors=True)
    with docutils_namespace():
        app = Sphinx(
            source, None, making / "html", making / "trees", "html", settings(_urls().get("Repository")),
            status=None, warning=sys.stderr, warningiserror=True,
        )  # fmt: skip
        describe_from_docstrings(app)
        app.connect("doctree-resolved", explain_terms)
        app.build(force_all=True)
    if app.statuscode:
        raise ValueError(f"site: Sphinx is not content with a page in {source}; its messages stand above")
    finish(making / "html", lambda name, title: preview(name, title, descriptions, _urls().get("Documentation")))
    fill(making / "html", notebook_names())
    shutil.rmtree(site, ignore_errors=True)
    (making / "html").rename(site)
    shutil.rmtree(making)
    return site


def assemble(build: Path, source: Path, *, solutions: bool = False) -> dict[str, str]:
    """Write the sources of all pages anew; what each page is about, in a sentence, by its name."""
    books, rows = executed(build), json.loads((build / "results" / "claims.json").read_text(encoding="utf-8"))
    shutil.rmtree(source, ignore_errors=True)
    (source / "notebooks").mkdir(parents=True)
    shutil.copytree(PAGES / "static", source / "_static")
    shutil.copytree(PAGES / "vendor", source / "_static" / "vendor")
    shutil.copyfile(PAGES / "references.bib", source / "references.bib")
    (source / "_static" / "answer.png").write_bytes(front.answer_picture(books))
    (source / "_static" / "notebooks").mkdir()
    texts, run = _texts(), _run(build, rows)
    (source / FOLDER).mkdir()
    parts = _parts(build, rows, books, run) | {"overview": overview(texts)}
    descriptions = {f"notebooks/{name}": bold_answer(book)[1] for name, book in books.items()}
    for name, text in texts.items():
        text = re.sub(r"\{\{ (\w+) \}\}", lambda found: parts[found[1]], text)
        noted = text if name.startswith(FOLDER) else _noted(text, run["note"])  # functions are those of any run
        (source / f"{name}.md").write_text(with_numbers(noted, rows, f"{name}.md"), encoding="utf-8")
        descriptions[name] = _about(texts[name])
    descriptions["index"] = parts["description"]
    for name, book in books.items():
        original = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
        offered = original if solutions else student_edition(original)
        nbformat.write(offered, source / "_static" / "notebooks" / f"{name}.ipynb")
        above = f"```{{raw}} html\n{launch(name, _urls().get('Repository'), solutions=solutions)}\n```\n\n{run['note']}"
        shown = page(book, name, rows, colour=in_colour(), above=above, solutions=solutions)
        nbformat.write(shown, source / "notebooks" / f"{name}.ipynb")
    return descriptions


def _texts() -> dict[str, str]:
    """The pages as they are written, by name."""
    paths = sorted([*PAGES.glob("*.md"), *PAGES.glob(f"{FOLDER}/*.md")])
    return {path.relative_to(PAGES).with_suffix("").as_posix(): path.read_text(encoding="utf-8") for path in paths}


def executed(build: Path) -> dict[str, NotebookNode]:
    """The notebooks of the last run, with their prose as it is now; injected parameters are left out.

    Raises:
        ValueError: one is missing or was edited after it was run.
    """
    books = {}
    for name in notebook_names():
        path = build / "notebooks" / f"{name}.ipynb"
        if not path.exists() or not (build / "results" / "claims.json").exists():
            raise ValueError(f"site: there is no run of {name} in {build}; run `make paper` first")
        book, now = nbformat.read(path, 4), nbformat.read(NOTEBOOKS / path.name, 4)
        book.cells = [cell for cell in book.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
        kinds, kinds_now = ([cell.cell_type for cell in cells] for cells in (book.cells, now.cells))
        if code_hash(book) != code_hash(now) or kinds != kinds_now:
            raise ValueError(f"site: {name} was edited after it was run; run `make paper` first")
        for cell, current in zip(book.cells, now.cells, strict=True):
            cell.source, cell.metadata["tags"] = current.source, list(current.metadata.get("tags", []))
        books[name] = book
    return books


def launch(name: str, repository: str | None, *, solutions: bool) -> str:
    """Where a notebook can be had and opened; buttons that lead away only with the address of a repository."""
    kept = "" if solutions else " (without solutions)"
    links = [f'<a href="../_static/notebooks/{name}.ipynb" download>Download this notebook</a>{kept}']
    if repository:
        links.append(f'<a href="{escape(repository)}">Repository</a>')
    if found := re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", repository or ""):
        colab, binder = "https://colab.research.google.com/github", "https://mybinder.org/v2/gh"
        links.append(f'<a href="{colab}/{found[1]}/blob/main/notebooks/{name}.ipynb">Colab</a>')
        links.append(f'<a href="{binder}/{found[1]}/main?urlpath=lab/tree/notebooks/{name}.ipynb">Binder</a>')
    return f'<p class="launch">{" · ".join(links)}</p>'


def settings(repository: str | None) -> dict[str, object]:
    """Sphinx's settings; a button that leads away from the page only with the address of a repository."""
    theme = {
        "show_toc_level": 2,
        "use_download_button": False,
        "path_to_docs": "",
        "navbar_persistent": [],
        "home_page_in_toc": True,
    }
    if repository:
        theme |= {"repository_url": repository, "repository_branch": "main", "use_repository_button": True}
    return {**_SETTINGS, "html_theme_options": theme}


def _run(build: Path, rows: list[dict]) -> dict:
    """Which run is shown: with what it was made, whether it is the published one, and what pages say if it is not."""
    made, published = last_settings(build), read_rows(RESULTS / "claims.json")
    note = front.run_note(made, rows, published, published_on())
    return {"settings": made, "note": note, "same": not note}


def _parts(build: Path, rows: list[dict], books: Mapping[str, NotebookNode], run: Mapping) -> dict[str, str]:
    """What stands in place of the names in double braces, on any page."""
    said, table = front.answer((ROOT / "README.md").read_text(encoding="utf-8")), RESULTS / "stability.json"
    seeds = json.loads(table.read_text(encoding="utf-8")) if table.exists() else []
    claims = build / "results" / "claims.json"
    parts = front.opening(rows, in_colour(), books, said) | {"claims": tables(rows, in_colour())}
    parts["facts"] = front.facts(run["settings"], claims, ROOT / "CITATION.cff", published_on(), same=run["same"])
    parts["seeds"] = front.at_other_seeds(rows, seeds)
    sliders = [first_slider(book) for name, book in books.items() if name[:2] == "02"]
    parts["patches"] = _PATCHES.format(sliders[0]) if any(sliders) else ""
    parts["course"] = (
        "```{toctree}\n:hidden:\n:caption: Course\n\nsyllabus\n```" if (PAGES / "syllabus.md").exists() else ""
    )
    parts["description"] = " ".join(filter(None, [said["word"] and said["word"] + ".", said["sentence"]]))
    return parts


def _noted(text: str, note: str) -> str:
    """A page with the note under its title, which comes after its front matter, if it has any."""
    front_matter = re.match(r"---\n.*?\n---\n+", text, re.DOTALL)
    start = front_matter.end() if front_matter else 0
    return text[:start] + under_title(text[start:], note)


def _about(text: str) -> str:
    """The first sentence of a page, in plain text."""
    paragraphs = [part for part in text.split("\n\n") if re.match(r"[A-Z*]", part)]
    return sentences(plain(re.sub(r"\{\w*\}`.*?`|\{\{.*?\}\}", "", paragraphs[0])))[0] if paragraphs else ""


def _urls() -> dict[str, str]:
    """The addresses that pyproject.toml gives: of the repository, and of the site, called Documentation."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {})


def write_site(*, solutions: bool = False) -> int:
    """Build the site and print where it lies and how large it is."""
    site = build_site(solutions=solutions)
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    print(f"{site / 'index.html'}: {size / 1e6:.1f} MB")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """What `make site` calls; `convergent site` does the same."""
    parser = argparse.ArgumentParser(prog="python -m convergent_utils.edition.site", description=__doc__)
    parser.add_argument("--solutions", action="store_true", help="show the solutions of exercises")
    try:
        return write_site(solutions=parser.parse_args(arguments).solutions)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
