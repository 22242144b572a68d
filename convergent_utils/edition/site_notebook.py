"""A notebook as a page of the site: code folded, claims as cards, figures described, sliders of plain pictures."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from .described import describe, figures, plain, sentences
from .places import notebook_names
from .site_claims import beside, card, target

FOLDED = {"parameters": "the parameters", "solution": "the solution", "check": "the check", "exercise": ""}  # by tag
_STATE, _VIEW = "application/vnd.jupyter.widget-state+json", "application/vnd.jupyter.widget-view+json"
_PICTURE = "image/png"
_SLIDER = ("SelectionSliderModel", "StackModel")
_MODEL = re.compile(r"IPY_MODEL_(\w+)")
_LIVE = """```{{admonition}} To move this panel
:class: tip
Run `make lab` in a copy of the repository, open `{name}.ipynb` and run all its cells. A panel needs a running notebook.
```"""
_FINDING = "<details>\n<summary>Show what is found</summary>\n\n{}\n\n</details>"
_DEFINITION = re.compile(r"^(?:@|def |class )", re.MULTILINE)


def page(
    book: NotebookNode,
    name: str,
    rows: list[dict],
    *,
    colour: Sequence[dict] = (),
    above: str = "",
    solutions: bool = False,
) -> NotebookNode:
    """A notebook as its page: cells folded, claims made targets, the live panel a sentence, sliders plain pictures.

    Args:
        book: executed; it is changed.
        name: without ending, such as "02_one_to_one_matching".
        rows: the claims of the run.
        colour: those on other images.
        above: what stands under the title, in Markdown.
        solutions: whether solutions and findings of exercises are shown.
    """
    hidden, others = set() if solutions else {"solution", "finding"}, beside(rows, colour)
    for output, said in figures(book, _VIEW):
        output.metadata["said"] = said
    kept = [cell for cell in describe(book).cells if not hidden & set(cell.metadata.get("tags", []))]
    cells, folds = [], {None: "the imports"}  # the first cell of code has the imports
    state = book.metadata.get("widgets", {}).get(_STATE, {}).get("state", {})
    for k, cell in enumerate(kept):
        tags = cell.metadata.pop("tags", [])
        if cell.cell_type == "markdown":
            cell.source = _linked(under_title(cell.source, above) if k == 0 else cell.source, name)
            cell.source = _FINDING.format(cell.source) if "finding" in tags else cell.source
        elif "live-only" in tags:
            cell = new_markdown_cell(_LIVE.format(name=name), id=cell.id)
        else:
            cells += _show_cards(cell, rows, others)
            folded = folds.pop(None, "") or folded_by(cell.source, tags)
            if {"exercise", "check"} & set(tags) and not solutions:
                cell.outputs = []  # they speak of an answer that is not here
            _dress(cell, state, folded, start=_start(tags))
        cells.append(cell)
    book.cells = cells
    book.metadata = nbformat.from_dict({"kernelspec": book.metadata.kernelspec})
    return book


def under_title(text: str, above: str) -> str:
    """Markdown in which something stands right under the title, which is its first line."""
    title, _, rest = text.partition("\n")
    return f"{title}\n\n{above}\n{rest}" if above else text


def folded_by(source: str, tags: Sequence[str]) -> str:
    """What the button says that shows a cell of code; empty where it is shown: definitions, and blanks to fill in."""
    for tag in tags:
        if tag in FOLDED:
            return FOLDED[tag]
    return "" if _DEFINITION.search(source) else "the code"


def bold_answer(book: NotebookNode) -> tuple[str, str]:
    """The question that is a notebook's title, and its answer in one bold sentence, in plain text.

    Where the bold words are short, such as "Partly.", the sentence after them is part of the answer.
    """
    source = book.cells[0].source
    question = plain(source.splitlines()[0].lstrip("# "))
    found = re.search(r"^\*\*(.+?)\*\*([^\n]*)", source, re.MULTILINE)
    if not found:
        return question, ""
    bold, rest = plain(found[1]), sentences(plain(found[2]))
    return question, bold if len(bold.split()) > 4 or not rest[0] else f"{bold} {rest[0]}"


def slider(state: Mapping, shown: str, *, start: int | None = None) -> str:
    """A slider over pictures drawn beforehand as plain HTML: its list, one place of it shown, and every frame.

    Args:
        state: of the widgets of a notebook, by model.
        shown: the model that the cell shows.
        start: the place shown first; None: the widget's, or the middle where that is the first one.

    Raises:
        ValueError: it is not what `kernel_free_slider` makes.
    """
    reached = _reached(state, shown)
    models = {kind: [state[k]["state"] for k in reached if state[k]["model_name"] == kind] for kind in _SLIDER}
    if [len(found) for found in models.values()] != [1, 1]:
        kinds = sorted({state[key]["model_name"] for key in reached})
        raise ValueError(f"site: expected one SelectionSlider and one Stack in a slider's cell, got {', '.join(kinds)}")
    (control,), (stack,) = models.values()
    labels, name = control["_options_labels"], html.escape(control["description"])
    start = min((control["index"] or len(labels) // 2) if start is None else start, len(labels) - 1)
    pictures = [state[_MODEL.findall(child)[0]]["buffers"][0]["data"] for child in stack["children"]]
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


def first_slider(book: NotebookNode) -> str:
    """The first slider of an executed notebook, which is not changed; empty where there is none."""
    state = book.metadata.get("widgets", {}).get(_STATE, {}).get("state", {})
    for cell in book.cells:
        for output in cell.get("outputs", []) if "live-only" not in cell.metadata.get("tags", []) else []:
            if _VIEW in output.get("data", {}):
                return slider(state, output.data[_VIEW]["model_id"], start=_start(cell.metadata.get("tags", [])))
    return ""


def _start(tags: Sequence[str]) -> int | None:
    """Where a slider starts by the tag of its cell, such as "start-3"."""
    return next((int(tag.removeprefix("start-")) for tag in tags if re.fullmatch(r"start-\d+", tag)), None)


def _dress(cell: NotebookNode, state: dict, folded: str, *, start: int | None) -> None:
    """Make sliders of widgets, say of pictures what is seen in them, and fold what a button is to show."""
    for output in cell.outputs:
        data = output.get("data", {})
        if _VIEW in data:
            made = slider(state, data[_VIEW]["model_id"], start=start)
            said = html.escape(output.metadata["said"])
            output.data = {"text/html": made.replace("<figure", f'<figure aria-label="{said}"', 1)}
        elif _PICTURE in data:  # the description is that of a cell, in myst-nb, and a cell may have several pictures
            said, source = html.escape(output.metadata[_PICTURE]["alt"]), data[_PICTURE].replace("\n", "")
            output.data = {"text/html": f'<img class="drawn" src="data:image/png;base64,{source}" alt="{said}">'}
    prompts = {"code_prompt_show": f"Show {folded}", "code_prompt_hide": f"Hide {folded}"} if folded else {}
    cell.metadata = nbformat.from_dict({"tags": ["hide-input"] if folded else [], "mystnb": prompts})


def _show_cards(cell: NotebookNode, rows: Sequence[dict], others: Mapping[str, dict]) -> list[NotebookNode]:
    """Make cards of the tables of claims; the cell to stand above, if any, whose names lead here."""
    made = [row for row in rows if _makes(cell, row)]
    cards = {row["id"]: card(row, others.get(row["id"])) for row in made}
    for output in cell.outputs:
        first = output.get("data", {}).get("text/plain", "").split(" ")[0]
        if first in cards:
            output.data["text/html"] = cards[first]
    targets = "\n".join(f"({target(row['id'])})=" for row in made)
    return [new_markdown_cell(targets, id=f"{cell.id}-claims")] if made else []


def _reached(state: Mapping, shown: str) -> set[str]:
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
