"""The opening of the site, which run it shows, and what it says of that."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from nbformat import NotebookNode

from ..paper.tables import side_by_side, word
from .described import plain, sentences
from .places import DEFAULTS, machine
from .site_claims import bar, beside, forest, target
from .site_notebook import bold_answer

_ROLES = {"semi-matching": "matched units", "rotated": "one network turned at random", "untrained": "before training"}
_COLOURS = {"semi-matching": "matched", "rotated": "turned", "untrained": "untrained"}


def answer(readme: str) -> dict[str, str]:
    """What README's first paragraph answers, in plain text.

    Returns:
        `word`, the short answer with which it starts, such as "Partly." or "Yes and no:", or nothing; `sentence`, its
        first sentence, or the one after the short answer; `rest`, the other sentences; `alt`, what the figure shows.
    """
    found = re.search(r"^\*\*(.+?)\n\n(?:.*?)!\[(.+?)\]", readme, re.DOTALL | re.MULTILINE)
    if not found:
        return {"word": "", "sentence": "", "rest": "", "alt": ""}
    text, alt = plain("**" + found[1]), " ".join(found[2].split())
    short = re.match(r"((?:\w+ )?\w+(?=[.!:])|(?:\w+ ){2}\w+(?=:)).\s+(?=\w)", text)
    text = text[short.end() :] if short else text
    first, *rest = sentences(text[:1].upper() + text[1:])
    return {"word": short[1] if short else "", "sentence": first, "rest": " ".join(rest), "alt": alt}


def answer_picture(books: Mapping[str, NotebookNode]) -> bytes:
    """The picture of the cell that gives the answer, as this run drew it.

    Raises:
        ValueError: no notebook has one.
    """
    for book in books.values():
        for cell in book.cells:
            for output in cell.get("outputs", []) if "answer" in cell.metadata.get("tags", []) else []:
                if "image/png" in output.get("data", {}):
                    return base64.b64decode(output.data["image/png"])
    raise ValueError("site: no notebook has a picture in a cell tagged `answer`")


def layer_numbers(books: Mapping[str, NotebookNode]) -> dict[str, dict[str, float]]:
    """Mean matched correlation of each layer: of the networks, of one that is turned, and before training.

    Read from the table that the notebook on matching shows; empty where there is none.
    """
    from bs4 import BeautifulSoup

    for name, book in books.items():
        for cell in book.cells if name.startswith("02") else []:
            for output in cell.get("outputs", []):
                table = BeautifulSoup(output.get("data", {}).get("text/html", ""), "html.parser")
                heads = [head.get_text(strip=True) for head in table.select("thead th")]
                if set(_ROLES) <= set(heads):
                    lines = [line.select("th, td") for line in table.select("tbody tr")]
                    texts = [[cell.get_text(strip=True) for cell in line] for line in lines]
                    return {t[0]: {role: float(t[heads.index(role)]) for role in _ROLES} for t in texts}
    return {}


def numbers_panel(layers: Mapping[str, Mapping[str, float]]) -> str:
    """Three numbers, the mean over layers at first, and a slider that shows those of one layer."""
    if not layers:
        return ""
    mean = {role: sum(one[role] for one in layers.values()) / len(layers) for role in _ROLES}
    shown = {f"mean over {next(iter(layers))} to {[*layers][-1]}": mean, **layers}
    first = next(iter(shown))
    data = escape(json.dumps([{"name": name, **{r: f"{v[r]:.2f}" for r in _ROLES}} for name, v in shown.items()]))
    rows = "".join(
        f'<div class="number {_COLOURS[role]}"><b data-role="{role}">{mean[role]:.2f}</b><span>{_ROLES[role]}</span>'
        f'<i class="track"><i style="width:{100 * mean[role]:.0f}%"></i></i></div>'
        for role in _ROLES
    )
    return (
        f'<figure class="numbers" data-layers="{data}"><figcaption>Mean correlation r of each unit with its best '
        f"partner in another network: <output>{first}</output></figcaption>{rows}"
        f'<label class="needs-script">layer <input type="range" min="0" max="{len(shown) - 1}" value="0" '
        f'aria-valuetext="{first}"></label></figure>'
    )


def chapters(books: Mapping[str, NotebookNode]) -> str:
    """The notebooks as cards: number, question, and the answer in one sentence."""
    cards = ""
    for name, book in books.items():
        question, said = bold_answer(book)
        cards += (
            f'<a class="chapter" href="notebooks/{name}.html"><b>{name[:2]}</b><strong>{escape(question)}</strong>'
            f"<span>{escape(said)}</span></a>"
        )
    return f'<div class="chapters">{cards}</div>'


def differing(rows: Sequence[dict], published: Sequence[dict]) -> int:
    """How many published verdicts a run does not give, because they are others or their claims are not there."""
    now = {row["id"]: row["holds"] for row in rows}
    return sum(now.get(row["id"]) != row["holds"] for row in published)


def run_note(settings: Mapping[str, object], rows: Sequence[dict], published: Sequence[dict], trained_on: str) -> str:
    """What every page says where the run that it shows is not the one that its prose was written for; else nothing.

    Args:
        settings: of the run that is shown.
        rows, published: the claims of this run and of the published one.
        trained_on: the processor of the published run.
    """
    others = differing(rows, published)
    if all(settings.get(name) == value for name, value in DEFAULTS.items()) and not others:
        return ""
    said = (
        f"The text speaks of the published run ({in_words(DEFAULTS)}, on {trained_on}). This page shows another one "
        f"({in_words(settings)}): {others} of {len(published)} verdicts differ. Where they disagree, believe the "
        "verdict."
    )
    return f'```{{raw}} html\n<aside class="run-note" role="note">{escape(said)}</aside>\n```\n'


def in_words(settings: Mapping[str, object]) -> str:
    """With what a run was made."""
    said = {"dataset": "images {}", "profile": "profile {}", "seed": "base seed {}"}
    parts = [form.format(Path(str(settings[key])).name) for key, form in said.items() if key in settings]
    return ", ".join(parts) + (", networks as published" if settings.get("from") else "")


def facts(settings: Mapping[str, object], claims: Path, citation: Path, trained_on: str, *, same: bool) -> str:
    """Who made it, when, and which run is shown.

    Args:
        settings: of the run.
        claims: the file that the run wrote last, whose date is the run's.
        citation: CITATION.cff.
        trained_on: the processor of the published run.
        same: whether the run shown is the published one.
    """
    import yaml

    cited = yaml.safe_load(citation.read_text(encoding="utf-8")) if citation.exists() else {}
    people = [one.get("name") or f"{one['given-names']} {one['family-names']}" for one in cited.get("authors", [])]
    day = datetime.fromtimestamp(claims.stat().st_mtime, UTC).date().isoformat()
    where = trained_on if same else machine()["processor"]
    who = escape(", ".join(people)) + (f", version {cited['version']}" if "version" in cited else "")
    which = "the published run" if same else "a run of its own"
    return f'<p class="facts">{who}. Shown is {which}: {escape(in_words(settings))}; {escape(where)}; {day}.</p>'


def opening(rows: Sequence[dict], colour: Sequence[dict], books: Mapping[str, NotebookNode], said: Mapping) -> dict:
    """The parts of the opening page that are made of a run, by the names that index.md gives them."""
    others = beside(rows, colour)
    word_line = f'<p class="word">{escape(said["word"])}.</p>' if said["word"] else ""
    return {
        "word": word_line,
        "sentence": escape(said["sentence"]),
        "rest": escape(said["rest"]),
        "alt": escape(said["alt"]),
        "numbers": numbers_panel(layer_numbers(books)),
        "forest": forest(rows, colour),
        "bar": bar([word(row, others.get(row["id"])) for row in rows if not row["check"]], table="claims.html"),
        "chapters": chapters(books),
        "notebooks": "\n".join(f"{n[:2]} {bold_answer(book)[0]} <notebooks/{n}>" for n, book in books.items()),
    }


def at_other_seeds(rows: Sequence[dict], table: Sequence[dict]) -> str:
    """The claims of which not all answers are the same at other base seeds, as published, side by side.

    A seed whose numbers are not those of this run, though it was made with that seed, is called published.

    Args:
        rows: of the run, for what they claim.
        table: of data/results/stability.json.
    """
    at_seeds, lines = {line["id"]: line["seeds"] for line in table}, {}
    for row in rows:
        seeds = at_seeds.get(row["id"], {})
        if len({numbers["holds"] for numbers in seeds.values()}) > 1:
            statement = f"[{row['statement']}](#{target(row['id'])})"
            for seed, numbers in seeds.items():
                lines.setdefault(seed, []).append(({**row, **numbers, "statement": statement}, row))
    base, runs = str(DEFAULTS["seed"]), {}
    for seed, pairs in lines.items():
        other = seed == base and any(then["ours"] != now["ours"] for then, now in pairs)
        runs[f"published, base seed {seed}" if other else f"base seed {seed}"] = [then for then, _ in pairs]
    return side_by_side(runs) if runs else "There are none."
