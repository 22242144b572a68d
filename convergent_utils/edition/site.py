"""The paper as a static site, from its last run: `python -m convergent_utils.edition.site`, or `make site`."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from ..paper.claims import build_folder
from ..paper.tables import in_parts, side_by_side
from .places import DEFAULTS, NOTEBOOKS, RESULTS, ROOT, notebook_names
from .publish import code_hash, in_colour

PAGES = Path(__file__).parent / "pages"
FOLDED = {"parameters": "the parameters", "solution": "the solution"}  # by tag, what a button shows
_STATE, _VIEW = "application/vnd.jupyter.widget-state+json", "application/vnd.jupyter.widget-view+json"
_SLIDER = ("SelectionSliderModel", "StackModel")
_MODEL = re.compile(r"IPY_MODEL_(\w+)")
_LIVE = """```{{admonition}} To move this panel
:class: tip
Run `make lab` in a copy of the repository, open `{name}.ipynb` and run all its cells. A panel needs a running notebook.
```"""
_FINDING = "<details>\n<summary>Show what is found</summary>\n\n{}\n\n</details>"

_SETTINGS = {
    "project": "Convergent learning",
    "html_title": "Convergent learning",
    "author": "",
    "html_show_copyright": False,
    "html_show_sphinx": False,
    "html_copy_source": False,
    "smartquotes": False,
    "extensions": ["myst_nb", "sphinxcontrib.bibtex"],
    "bibtex_bibfiles": ["references.bib"],
    "myst_enable_extensions": ["dollarmath", "amsmath"],
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
}


def build_site() -> Path:
    """Assemble the sources from the last run and have Sphinx make the pages; the folder of the site.

    Raises:
        ValueError: no run to show, notebooks edited since, or a page that names a claim which the run did not make.
    """
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    build = build_folder()
    source, site, making = build / "site-source", build / "site", build / "site-making"
    assemble(build, source)
    shutil.rmtree(making, ignore_errors=True)
    folders, said = (source, None, making / "html", making / "trees"), {"status": None, "warning": sys.stderr}
    with docutils_namespace():
        app = Sphinx(*folders, "html", settings(_repository()), **said, warningiserror=True)
        app.build(force_all=True)
    if app.statuscode:
        raise ValueError(f"site: Sphinx is not content with a page in {source}; its messages stand above")
    shutil.rmtree(site, ignore_errors=True)
    (making / "html").rename(site)
    shutil.rmtree(making)
    return site


def assemble(build: Path, source: Path) -> None:
    """Write the sources of all pages anew."""
    books, rows = executed(build), json.loads((build / "results" / "claims.json").read_text(encoding="utf-8"))
    shutil.rmtree(source, ignore_errors=True)
    (source / "notebooks").mkdir(parents=True)
    shutil.copytree(PAGES / "static", source / "_static")
    shutil.copytree(PAGES / "vendor", source / "_static" / "vendor")
    shutil.copyfile(PAGES / "references.bib", source / "references.bib")
    answers = [image for book in books.values() if (image := _answer(book))]
    (source / "answer.png").write_bytes(answers[0])
    for name, book in books.items():
        nbformat.write(page(book, name, rows), source / "notebooks" / f"{name}.ipynb")
    for path in sorted(PAGES.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        text = _opening(text, build, rows, books) if path.stem == "index" else text
        (source / path.name).write_text(with_numbers(text, rows, path.name), encoding="utf-8")


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
            cell.source = current.source
        books[name] = book
    return books


def page(book: NotebookNode, name: str, rows: list[dict]) -> NotebookNode:
    """A notebook as its page: cells folded, claims made targets, the live panel a sentence, sliders plain pictures.

    Args:
        book: executed; it is changed.
        name: without ending, such as "02_one_to_one_matching".
        rows: the claims of the run.
    """
    cells, section, folds = [], "", {None: "the imports", **FOLDED}  # the first cell of code has the imports
    state = book.metadata.get("widgets", {}).get(_STATE, {}).get("state", {})
    for cell in book.cells:
        tags = cell.metadata.pop("tags", [])
        if cell.cell_type == "markdown":
            section = (re.findall(r"^#+ (.+)", cell.source, re.M) or [section])[-1]
            cell.source = _linked(cell.source, name)
            cell.source = _FINDING.format(cell.source) if "finding" in tags else cell.source
        elif "live-only" in tags:
            cell = new_markdown_cell(_LIVE.format(name=name), id=cell.id)
        else:
            targets = [f"({target(row['id'])})=" for row in rows if _makes(cell, row)]
            cells += [new_markdown_cell("\n".join(targets), id=f"{cell.id}-claims")] if targets else []
            folded = folds.pop(None, "") or next((folds[tag] for tag in tags if tag in folds), "")
            _dress(cell, state, folded, section)
        cells.append(cell)
    book.cells = cells
    book.metadata = nbformat.from_dict({"kernelspec": book.metadata.kernelspec})
    return book


def slider(state: dict, shown: str) -> str:
    """A slider over pictures drawn beforehand as plain HTML: its list, one place of it shown, and every frame.

    Args:
        state: of the widgets of a notebook, by model.
        shown: the model that the cell shows.

    Raises:
        ValueError: it is not what `kernel_free_slider` makes.
    """
    reached = _reached(state, shown)
    models = {kind: [state[k]["state"] for k in reached if state[k]["model_name"] == kind] for kind in _SLIDER}
    if [len(found) for found in models.values()] != [1, 1]:
        kinds = sorted({state[key]["model_name"] for key in reached})
        raise ValueError(f"site: expected one SelectionSlider and one Stack in a slider's cell, got {', '.join(kinds)}")
    (control,), (stack,) = models.values()
    labels, start, name = control["_options_labels"], control["index"], html.escape(control["description"])
    pictures = [state[_MODEL.match(child)[1]]["buffers"][0]["data"] for child in stack["children"]]
    frames = "".join(
        f'<img src="data:image/png;base64,{picture}" alt="{name}: {html.escape(label)}"{" hidden" * (k != start)}>'
        for k, (label, picture) in enumerate(zip(labels, pictures, strict=True))
    )
    place = f'min="0" max="{len(labels) - 1}" value="{start}" aria-valuetext="{html.escape(labels[start])}"'
    words = html.escape(json.dumps(labels, ensure_ascii=False))
    return (
        f'<figure class="slider" data-labels="{words}"><label>{name} <input type="range" {place}></label>'
        f"<output>{html.escape(labels[start])}</output>{frames}</figure>"
    )


def target(claim: str) -> str:
    """The name of the place where a claim is made."""
    return "claim-" + claim.replace(".", "-")


def with_numbers(text: str, rows: list[dict], page: str) -> str:
    """Replace {{ id }} by the claim's number and interval, {{ id holds }} by whether it holds, each a link to its cell.

    Raises:
        ValueError: an id that no row has.
    """
    known = {row["id"]: row for row in rows}

    def said(found: re.Match) -> str:
        """What stands in place of one pair of braces."""
        if found[1] not in known:
            raise ValueError(f"{page}: expected the id of a claim between braces, got {found[1]!r}")
        row = known[found[1]]
        low, high = row["interval"]
        number = f"{row['ours']:.3f} ({low:.3f} to {high:.3f})"
        return f"[{row['holds'] if found[2] else number}](#{target(row['id'])})"

    return re.sub(r"\{\{ (\d\d\.[\w-]+)( holds)? \}\}", said, text)


def settings(repository: str | None) -> dict[str, object]:
    """Sphinx's settings; buttons that lead away from the page only with the address of a repository."""
    theme = {
        "show_toc_level": 2,
        "use_download_button": False,
        "path_to_docs": "",
        "navbar_persistent": [],
        "home_page_in_toc": True,
    }
    if repository:
        services = {"binderhub_url": "https://mybinder.org", "colab_url": "https://colab.research.google.com"}
        theme |= {"repository_url": repository, "repository_branch": "main", "use_repository_button": True}
        theme["launch_buttons"] = {**services, "notebook_interface": "jupyterlab"}
    return {**_SETTINGS, "html_theme_options": theme}


def _dress(cell: NotebookNode, state: dict, folded: str, section: str) -> None:
    """Make sliders of widgets, say of pictures what they are of, and fold what a button is to show."""
    for output in cell.outputs:
        if _VIEW in output.get("data", {}):
            output.data = {"text/html": slider(state, output.data[_VIEW]["model_id"])}
    shown = {"image": {"alt": f"Figure to “{section}”; the text around it says what it shows."}}
    if folded:
        shown |= {"code_prompt_show": f"Show {folded}", "code_prompt_hide": f"Hide {folded}"}
    cell.metadata = nbformat.from_dict({"tags": ["hide-input"] if folded else [], "mystnb": shown})


def _reached(state: dict, shown: str) -> set[str]:
    """The models that a model names, and those that they name in turn."""
    reached, new = set(), {shown}
    while new:
        reached |= new
        new = {key for model in new for key in _MODEL.findall(json.dumps(state[model]["state"]))} - reached
    return reached


def _makes(cell: NotebookNode, row: dict) -> bool:
    """Whether the cell shows this row: its text starts with the claim's id."""
    return any(output.get("data", {}).get("text/plain", "").startswith(f"{row['id']} ") for output in cell.outputs)


def _linked(text: str, name: str) -> str:
    """Prose in which "notebook 04" leads there."""
    files = {known[:2]: f"[notebook {known[:2]}]({known}.ipynb)" for known in notebook_names() if known != name}
    return re.sub(r"\bnotebook (\d\d)\b", lambda found: files.get(found[1], found[0]), text)


def _answer(book: NotebookNode) -> bytes | None:
    """The picture of the cell that gives the answer."""
    for cell in book.cells:
        for output in cell.get("outputs", []) if "answer" in cell.metadata.get("tags", []) else []:
            if "image/png" in output.get("data", {}):
                return base64.b64decode(output.data["image/png"])
    return None


def _opening(text: str, build: Path, rows: list[dict], books: dict[str, NotebookNode]) -> str:
    """The opening page: README's abstract, its figure as this run drew it, and the claims."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    abstract, alt = re.search(r"\n(\*\*.+?)\n\n!\[(.+?)\]", readme, re.DOTALL).groups()
    run = json.loads((build / "results" / "run.json").read_text(encoding="utf-8"))
    if run != DEFAULTS:
        given = ", ".join(f"{name} {value}" for name, value in run.items())
        abstract += f"\n\n*This site shows a run with {given}; the prose speaks of the published one.*"
    titles = {name: f"{name[:2]} {book.cells[0].source.splitlines()[0].lstrip('# ')}" for name, book in books.items()}
    linked = [{**row, "statement": f"[{row['statement']}](#{target(row['id'])})"} for row in rows]
    course = "```{toctree}\n:hidden:\n:caption: Course\n\nsyllabus\n```" if (PAGES / "syllabus.md").exists() else ""
    parts = {"claims": in_parts(linked, in_colour())}
    parts["seeds"] = side_by_side(_at_other_seeds(linked))
    parts |= {"abstract": abstract, "alt": alt, "course": course}
    parts["notebooks"] = "\n".join(f"{title} <notebooks/{name}>" for name, title in titles.items())
    return re.sub(r"\{\{ (\w+) \}\}", lambda found: parts[found[1]], text)


def _at_other_seeds(rows: list[dict]) -> dict[str, list[dict]]:
    """By base seed the claims of which not all answers are the same, as rows of a run."""
    path, runs = RESULTS / "stability.json", {}
    table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    at_seeds = {line["id"]: line["seeds"] for line in table}
    for row in rows:
        seeds = at_seeds.get(row["id"], {})
        if len({numbers["holds"] for numbers in seeds.values()}) > 1:
            for seed, numbers in seeds.items():
                runs.setdefault(f"base seed {seed}", []).append({**row, **numbers})
    return runs or {"base seed 0": []}


def _repository() -> str | None:
    """The address that pyproject.toml gives."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository")


def main() -> int:
    """Build the site and print where it lies and how large it is."""
    try:
        site = build_site()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    print(f"{site / 'index.html'}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
