"""Words of the site: numbers of claims in its prose, and terms explained where they first occur."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .described import plain, sentences
from .site_claims import target

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

# what the glossary says of a word, but every reader takes for granted at first
EVERYDAY = {
    "accuracy", "activation", "baseline", "claim", "content", "correlation", "direction", "dynamics", "excess",
    "exercise", "family", "fold", "imprecise", "borderline", "ladder", "layer", "map", "mask", "memorise", "one-to-one",
    "penalty", "place", "preparation", "progress", "report", "sample", "seed", "shift", "similarity", "slider", "unit",
    "verdict", "live panel", "padding", "own spread", "representation",
}  # fmt: skip
ALSO = {  # other words for a term
    "turned at random": "rotated baseline",
    "turned network": "rotated baseline",
    "turned networks": "rotated baseline",
    "rotated": "rotated baseline",
    "untrained networks": "untrained baseline",
    "participation ratio": "directions that lead",
    "stitched": "stitching",
    "pruned": "pruning",
}
_NOT_EXPLAINED = ("glossary", "bibliography")
_APART = ("reference", "title", "literal", "literal_block", "math", "math_block", "raw", "caption", "image", "term",
          "definition_list_item", "inline", "strong", "rubric", "table", "topic", "citation",
          "desc_signature")  # fmt: skip


def with_numbers(text: str, rows: list[dict], page: str) -> str:
    """Replace {{ id }} by the claim's number and interval, each a link to its cell.

    {{ id holds }} becomes whether it holds, and {{ id beyond }} whether it is beyond its baseline.

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
        words = {None: number, "holds": row["holds"], "beyond": row["beyond_baseline"]}
        return f"[{words[found[2]]}](#{target(row['id'])})"

    return re.sub(r"\{\{ (\d\d\.[\w-]+)(?: (holds|beyond))? \}\}", said, text)


def glossary(text: str) -> dict[str, str]:
    """The terms of the glossary, each with the first two sentences of what it says, in plain text."""
    entries = re.findall(r"^(\w[^\n]*)\n((?:  \S[^\n]*\n)+)", text.split("```{glossary}\n")[-1] + "\n", re.MULTILINE)
    said = {term: re.sub(r"\{term\}`([^`<]+?)(?: <[^>]+>)?`", r"\1", " ".join(body.split())) for term, body in entries}
    return {term: " ".join(sentences(plain(body))[:2]) for term, body in said.items()}


def spellings(terms: Mapping[str, str]) -> dict[str, str]:
    """How the terms that want explaining are written, in lower case, and the term of each."""
    names = {term.lower(): term for term in terms if term not in EVERYDAY}
    names |= {f"{name}s": term for name, term in names.items() if not name.endswith("s")}
    return names | {other: term for other, term in ALSO.items() if term in terms}


def split_at_terms(text: str, names: Mapping[str, str], known: set[str]) -> list[tuple[str, str | None]]:
    """A text in pieces, each with its term where the term is not among the known ones and occurs for the first time.

    Args:
        text: of one paragraph or a part of it.
        names: see `spellings`.
        known: terms explained before.
    """
    if not names:
        return [(text, None)]
    longest_first = sorted(names, key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, longest_first))})(?![\w-])", re.IGNORECASE)
    pieces, seen, end = [], set(known), 0
    for found in pattern.finditer(text):
        term = names[found[0].lower()]
        if term not in seen:
            pieces += [(text[end : found.start()], None), (found[0], term)]
            seen.add(term)
            end = found.end()
    return [piece for piece in [*pieces, (text[end:], None)] if piece[0]]


def explain_terms(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Make a link of the first occurrence of each term in the prose of a page, which says on hover what it means."""
    from docutils import nodes

    file, places = Path(app.srcdir) / "glossary.md", app.env.domains["std"].objects
    if page in _NOT_EXPLAINED or not file.exists():
        return
    terms, known = glossary(file.read_text(encoding="utf-8")), set()
    names = spellings({term: said for term, said in terms.items() if ("term", term) in places})
    for text in list(doctree.findall(nodes.Text)):
        if any(name in _APART for name in _around(text)):
            continue
        pieces = split_at_terms(text.astext(), names, known)
        known |= {term for _, term in pieces if term}
        if any(term for _, term in pieces):
            made: list[nodes.Node] = [nodes.Text(piece) for piece, _ in pieces]
            for k, (piece, term) in enumerate(pieces):
                if term:
                    address = app.builder.get_relative_uri(page, "glossary") + "#" + places["term", term][1]
                    said = {"refuri": address, "reftitle": terms[term], "classes": ["explained"]}
                    made[k] = nodes.reference("", piece, internal=True, **said)
            text.parent.replace(text, made)


def _around(node: nodes.Node) -> list[str]:
    """The kinds of all nodes that a node lies in."""
    found = []
    while node.parent is not None:
        node = node.parent
        found.append(type(node).__name__)
    return found
