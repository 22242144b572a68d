"""The frame of a page that needs nothing but itself: its looks, its words made safe, its links."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence

from .explained import MEANINGS, ROLES, anchor

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1d2126; --quiet: #5a626b; --line: #d5d9de; --card: #f5f6f8;
  --link: #0b5cad; --mark: #ffe08a; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --text: #e7e9ec; --quiet: #a3abb4; --line: #3a4047;
  --card: #1d2125; --link: #7ab8ff; --mark: #6b5200; } }
@media print { :root { color-scheme: light; --ground: #fff; --text: #000; --quiet: #444; --line: #bbb; --card: #fff;
  --link: #000; --mark: #eee; } section, figure, .card { break-inside: avoid; } details { display: block; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.3rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; }
h4 { font-size: .95rem; margin: 0 0 .3rem; }
p, ul, dl { max-width: 48rem; }
a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: 2px; }
small, .quiet, figcaption, .rule { color: var(--quiet); font-size: .86rem; }
nav a { margin-right: 1rem; white-space: nowrap; }
.cards { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.card, .pair { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; }
.card h3 { margin: 0; color: var(--quiet); font-weight: 500; }
.verdict { font-size: 1.12rem; font-weight: 650; margin: .2rem 0; }
.card p { margin: .3rem 0; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; list-style: none; padding: 0; max-width: none; }
.legend svg { width: 2.4rem; height: .8rem; vertical-align: middle; margin-right: .4rem; }
.drawn { display: grid; gap: .6rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.drawn.maps { grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
.drawn figure { margin: 0; }
.drawn svg { display: block; width: 100%; height: auto; max-width: 34rem; }
.pair { margin: 0 0 .7rem; display: grid; gap: .2rem 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.pair h4 { grid-column: 1 / -1; }
.unit p { margin: .2rem 0; }
.stimuli { display: flex; flex-wrap: wrap; gap: .5rem; }
.stimuli .text { margin: 0; width: 100%; }
.picture { margin: 0; width: 4.6rem; }
@media (max-width: 480px) { .stimuli { gap: .35rem; } .picture { width: calc(20% - .3rem); } }
.picture span { position: relative; display: block; line-height: 0; }
.picture img { width: 100%; image-rendering: pixelated; border-radius: 2px; }
.picture i { position: absolute; outline: 2px solid #fff; box-shadow: 0 0 0 3px #d55e00; outline-offset: -1px; }
.picture figcaption { font-size: .72rem; line-height: 1.25; margin-top: .3rem; }
.number { border: 1px solid var(--line); border-radius: .3rem; padding: .1rem .4rem; font-size: .86rem; }
mark { background: var(--mark); color: inherit; }
.wide { overflow-x: auto; margin: .6rem 0; max-height: 40rem; }
@media print { .wide { max-height: none; overflow: visible; } }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
td.n, th.n { text-align: right; }
thead th { position: sticky; top: 0; background: var(--ground); }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
dt { font-weight: 650; margin-top: .5rem; }
dd { margin: 0; }
dt:target { background: var(--mark); }
"""

# Tables are whole without it; with it a click on a heading sorts.
_SCRIPT = """
for (const table of document.querySelectorAll("table.sorted")) {
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending", k = head.cellIndex;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[k].textContent, number = (row) => parseFloat(key(row));
      const numbers = head.classList.contains("n");
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        if (!numbers) return key(a).localeCompare(key(b)) * (up ? 1 : -1);
        const x = number(a), y = number(b);
        return isNaN(x) - isNaN(y) || (isNaN(x) ? 0 : (x - y) * (up ? 1 : -1));
      });
      table.tBodies[0].append(...rows);
    });
  }
}
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_TERMS = re.compile(
    "|".join(rf"\b{re.escape(word)}\b" for word in sorted([*MEANINGS, *ROLES], key=len, reverse=True)), re.I
)
_COMMON = {"found"}  # not to be linked wherever it stands
_NEVER_SHOWN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def escaped(text: object) -> str:
    """Text as a page may hold it, within quotes, too."""
    return html.escape(_NEVER_SHOWN.sub("�", str(text)))


def linked(text: str) -> str:
    """Text, escaped, in which names of similarities and baselines lead to where they are explained."""

    def link(word: re.Match) -> str:
        """One of them."""
        return word[0] if word[0].lower() in _COMMON else f'<a href="#{anchor(word[0])}">{word[0]}</a>'

    return _TERMS.sub(link, escaped(text))


def listed(items: Iterable[str]) -> str:
    """A list of sentences."""
    return f"<ul>{''.join(f'<li>{linked(item)}</li>' for item in items)}</ul>"


def table_of(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int, name: str) -> str:
    """A table that can be sorted.

    Args:
        columns: their headings.
        rows: of cells, text as it is.
        numbers: the first column that holds numbers; all after it do.
        name: what the table is of, for those who do not see it.
    """
    kinds = ["" if k < numbers else ' class="n"' for k in range(len(columns))]
    head = "".join(f'<th scope="col"{kind}>{escaped(name)}</th>' for name, kind in zip(columns, kinds, strict=True))
    body = "\n".join(
        f"<tr>{''.join(f'<td{kind}>{escaped(cell)}</td>' for cell, kind in zip(row, kinds, strict=True))}</tr>"
        for row in rows
    )
    start = f'<div class="wide" tabindex="0" role="region" aria-label="{escaped(name)}"><table class="sorted">'
    return f"{start}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def page(title: str, body: str, numbers: object) -> str:
    """The whole page.

    Args:
        title: text as it is.
        body: HTML.
        numbers: what is kept as JSON within it.
    """
    held = json.dumps(numbers, ensure_ascii=False, allow_nan=False, default=str)
    held = held.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<link rel="icon" href="data:,">
<title>{escaped(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
{body}
</main>
<script type="application/json" id="numbers">{held}</script>
<script>{_SCRIPT}</script>
</body>
</html>
"""
