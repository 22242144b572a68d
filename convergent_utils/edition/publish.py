"""Publishing a run: executed notebooks, claims, networks and README's table go into the repository."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, cast

import nbformat

from ..making.store import Store, save
from ..paper.claims import build_folder, read_rows, write_json
from ..paper.prepare import (
    EXPERIMENTS_PUBLISHED,
    Prepared,
    _prepared,
    file_checksum,
    keys_path,
    prepare,
    published_form,
    published_keys,
    published_path,
)
from ..paper.tables import first_screen, in_parts
from .described import describe
from .places import DEFAULTS, NOTEBOOKS, RESULTS, ROOT, last_settings, machine
from .run import published_elsewhere

if TYPE_CHECKING:
    from ..making.things import Get

PAGES = Path(__file__).parent / "pages"
_MARK = re.compile(r"(<!-- claims -->\n).*?(<!-- /claims -->)", re.DOTALL)
_TABLE_NAME, _ADDRESS = re.compile(r"\bT_[0-9a-f]{5}(?![0-9a-f])"), re.compile(r" at 0x[0-9a-f]+")
_WIDGET = "application/vnd.jupyter.widget-view+json"


def publish() -> int:
    """Copy the last run into the repository where it says something new.

    Raises:
        ValueError: there is no run with the committed parameters to publish.
    """
    build = build_folder()
    if last_settings(build) != DEFAULTS:
        raise ValueError("publish: the last run was not `make paper` with the committed parameters; run that first")
    changed = [f"notebooks/{path.name}" for path in sorted(NOTEBOOKS.glob("*.ipynb")) if _publish_notebook(build, path)]
    prepared = prepare(**DEFAULTS, published=False)
    changed += [*_publish_networks(prepared), *_publish_experiments(prepared)]
    RESULTS.mkdir(parents=True, exist_ok=True)
    claims = build / "results" / "claims.json"
    if not _same_numbers(claims, RESULTS / "claims.json"):
        shutil.copyfile(claims, RESULTS / "claims.json")
        changed.append("data/results/claims.json")
    changed += _publish_machine(any(name.startswith("data/networks/net") for name in changed))
    readme, text = ROOT / "README.md", (ROOT / "README.md").read_text(encoding="utf-8")
    rows, all_claims = read_rows(RESULTS / "claims.json"), RESULTS / "claims.md"
    new = with_claims(text, rows, in_colour())
    if new != text:
        readme.write_text(new, encoding="utf-8")
        changed.append("README.md")
    if not all_claims.exists() or all_claims.read_text(encoding="utf-8") != claims_page(rows, in_colour()):
        all_claims.write_text(claims_page(rows, in_colour()), encoding="utf-8")
        changed.append("data/results/claims.md")
    print("\n".join(f"published {name}" for name in changed) or "nothing new to publish")
    return 0


def publish_beside(name: str) -> int:
    """Keep the claims of the last run, on other images, as data/results/claims-NAME.json; the site shows them.

    Raises:
        ValueError: the last run was not of the paper profile with the base seed 0, or it was on the paper's own images;
            a name that is no part of a file's name.
    """
    if not re.fullmatch(r"[\w-]{1,80}", name):
        raise ValueError(f"beside: expected a short name such as cifar10, got {name!r:.80}")
    settings = last_settings(build_folder())
    if (
        settings.get("dataset") in (None, DEFAULTS["dataset"])
        or {**settings, "dataset": DEFAULTS["dataset"]} != DEFAULTS
    ):
        raise ValueError(
            "publish: the last run was not `make paper DATASET=...` on other images, with nothing else changed"
        )
    shutil.copyfile(build_folder() / "results" / "claims.json", RESULTS / f"claims-{name}.json")
    print(f"published data/results/claims-{name}.json")
    return 0


def rename() -> int:
    """Name the published networks and results after the code as it is now, for an edit that changes no number.

    Nothing is made anew, and nothing shows that no number changes: prove it before, such as by the same results of the
    smoke profile with the code before and after.

    Raises:
        ValueError: something was never published of what is declared.
    """
    prepared, store = _prepared(Store(), **DEFAULTS, published=False), Store(EXPERIMENTS_PUBLISHED)
    small = [thing for thing in prepared.things.values() if thing.published]
    current = {store.file(thing.kind, thing.configuration) for thing in small}
    before = {c["what"]: (path, result) for path, c, result in store.contents() if path not in current and "what" in c}
    lacking = [one for one in small if not store.file(one.kind, one.configuration).exists()]
    keys = published_keys()
    learned = [one for one in prepared.setting.learned.values() if keys.get(one.name, {}).get("key") != one.key]
    for thing in (*lacking, *learned):
        if thing.what not in before and keys.get(thing.name, {}).get("what") != thing.what:
            raise ValueError(f"publish: {thing.title} {thing.name or thing.what} was never published; run `make paper`")
    for thing in lacking:
        path, result = before[thing.what]
        store.keep(thing.kind, thing.configuration, result)
    for path in set(store.path.glob("*.safetensors")) - current:
        path.unlink()
    shutil.rmtree(store.path / ".locks", ignore_errors=True)
    _publish_keys(prepared)
    renamed = len(lacking) + len(learned)
    print(f"{renamed} renamed" if renamed else "nothing to rename")
    return 0


def code_hash(notebook: nbformat.NotebookNode) -> str:
    """A hash of the code and parameters of a notebook, whatever its outputs and prose."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code" and not _injected(cell)]
    return hashlib.sha256("\n\f\n".join(code).encode()).hexdigest()[:16]


def normalised(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """An executed notebook as it is published: figures, described, and tables stay; widgets, timings, progress go."""
    cells = []
    for cell in notebook.cells:
        if _injected(cell):
            continue
        kept = {key: value for key, value in cell.metadata.items() if key in ("tags", "jupyter")}
        cell.metadata = nbformat.from_dict(kept)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _transient(output)]
            for k, output in enumerate(cell.outputs):
                if "text/html" in output.get("data", {}):  # styled tables have names drawn by chance
                    name = f"T_{len(cells) * 100 + k:05d}"
                    output.data["text/html"] = _TABLE_NAME.sub(name, output.data["text/html"])
                    output.data["text/plain"] = _ADDRESS.sub("", output.data.get("text/plain", ""))
        cells.append(cell)
    notebook.cells = cells
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}, "convergent": {"code": code_hash(notebook)}}
    notebook.metadata = nbformat.from_dict(metadata)
    return describe(notebook)


def with_claims(text: str, rows: list[dict], colour: list[dict]) -> str:
    """README's text with the table of primary claims between its two marks brought up to date."""
    return _MARK.sub(lambda found: f"{found[1]}{first_screen(rows, colour)}\n{found[2]}", text)


def claims_page(rows: list[dict], colour: list[dict]) -> str:
    """All claims on a page, with what its columns mean: the first paragraphs of the site's page of claims."""
    page = (PAGES / "claims.md").read_text(encoding="utf-8")
    said = page[page.index("# All claims") : page.index("How far can")]
    return f"{said}Rows in *italics* are not beyond their baseline, or undecided.\n\n{in_parts(rows, colour)}\n"


def in_colour() -> list[dict]:
    """The claims as they came out on photographs in colour, if they were published."""
    return read_rows(RESULTS / "claims-cifar10.json")


def _publish_notebook(build: Path, path: Path) -> bool:
    executed = build / "notebooks" / path.name
    if not executed.exists():
        return False
    new, old = normalised(nbformat.read(executed, 4)), nbformat.read(path, 4)
    kinds, kinds_now = ([cell.cell_type for cell in book.cells] for book in (new, old))
    if code_hash(new) != code_hash(old) or kinds != kinds_now:
        raise ValueError(f"publish: {path.name} was edited after it was run; run `make paper` again")
    if [cell.source for cell in new.cells] != [cell.source for cell in old.cells]:
        for cell, source in zip(new.cells, [cell.source for cell in old.cells], strict=True):
            cell.source = source  # prose may have been mended since
        describe(new)
    _publish_answer(new)
    if old.metadata.get("convergent") == new.metadata.convergent and _numbers(old) == _numbers(new):
        return False
    nbformat.write(new, path)
    return True


def _publish_answer(notebook: nbformat.NotebookNode) -> None:
    """The figure of the cell tagged `answer` is the one on README's first screen."""
    for cell in notebook.cells:
        if "answer" in cell.metadata.get("tags", []):
            image = next(output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {}))
            RESULTS.mkdir(parents=True, exist_ok=True)
            (RESULTS / "answer.png").write_bytes(base64.b64decode(image))


def _publish_networks(prepared: Prepared) -> list[str]:
    changed, get = [], cast("Get", prepared.shelf)  # it gives what things say that they make
    for name, learned in prepared.setting.learned.items():
        path, new = published_path(name), published_path(f".{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        save(published_form(get(learned)), new)
        if path.exists() and path.read_bytes() == new.read_bytes():
            new.unlink()
        else:
            new.replace(path)
            changed.append(f"data/networks/{path.name}")
    return changed + _publish_keys(prepared)


def _publish_machine(networks_changed: bool) -> list[str]:
    """What computed all that is published now; also where a part of it had been computed elsewhere."""
    if not networks_changed and not published_elsewhere():
        return []
    write_json(RESULTS / "machine.json", machine())
    return ["data/results/machine.json"]


def _publish_keys(prepared: Prepared) -> list[str]:
    """The keys of the networks as the code is now."""
    keys = {
        name: {"key": learned.key, "what": learned.what, "file": file_checksum(published_path(name))}
        for name, learned in prepared.setting.learned.items()
    }
    if keys == published_keys():
        return []
    write_json(keys_path(), keys)
    return ["data/networks/keys.json"]


def _publish_experiments(prepared: Prepared) -> list[str]:
    """The results that the notebooks read are copied; those of other code or other networks go."""
    small = [thing for thing in prepared.things.values() if thing.published]
    published = [Store(EXPERIMENTS_PUBLISHED).file(thing.kind, thing.configuration) for thing in small]
    EXPERIMENTS_PUBLISHED.mkdir(parents=True, exist_ok=True)
    gone = set(EXPERIMENTS_PUBLISHED.glob("*.safetensors")) - set(published)
    for path in gone:
        path.unlink()
    new = [path for path in published if not path.exists()]
    for path in new:
        shutil.copyfile(prepared.store.path / path.name, path)
    return ["data/results/experiments"] if gone or new else []


def _same_numbers(a: Path, b: Path) -> bool:
    return b.exists() and json.loads(a.read_text(encoding="utf-8")) == json.loads(b.read_text(encoding="utf-8"))


def _numbers(notebook: nbformat.NotebookNode) -> list[object]:
    """What the outputs say in text, of pictures what describes them; pictures themselves may differ by a font."""
    said = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = {kind: text for kind, text in output.get("data", {}).items() if kind != "image/png"}
            described = output.get("metadata", {}).get("image/png", {}).get("alt")
            said.append([data, output.get("text"), described])
    return said


def _injected(cell: nbformat.NotebookNode) -> bool:
    return "injected-parameters" in cell.metadata.get("tags", [])


def _transient(output: nbformat.NotebookNode) -> bool:
    return output.get("name") == "stderr" or _WIDGET in output.get("data", {})
