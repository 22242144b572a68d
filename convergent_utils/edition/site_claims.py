"""Claims on the site: chips, the bar of verdicts, the table that can be filtered and sorted, the forest plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from ..paper.claims import DECIDED, as_rule, is_grey, short, thresholds_of, value_of
from ..paper.tables import false_discovery_rate, holm, is_secondary, word

SIGNS = {"holds": "✓", "does not hold": "✗", "borderline": "≈", "imprecise": "?", "depends on the images": "◐"}
BEYOND = {
    "yes": ("▲", "beyond its baseline"),
    "no": ("=", "not beyond its baseline"),
    "undecided": ("±", "beyond it? undecided"),
}
_WIDTH, _HEIGHT, _ROW = 360, 46, (12, 26)  # of a strip of the forest plot, and where its two intervals lie
_LEGEND = (
    '<p class="forest-legend"><span class="key ours">●</span> this run, with 95 % interval '
    '<span class="key colour">■</span> photographs in colour, where the same was asked '
    '<span class="key baseline">◆</span> baseline <span class="key rule">▒</span> where the claim holds; '
    "the number is its threshold</p>"
)


def target(claim: str) -> str:
    """The name of the place where a claim is made."""
    return "claim-" + claim.replace(".", "-")


def beside(rows: Iterable[dict], colour: Iterable[dict]) -> dict[str, dict]:
    """By id the rows on other images that ask the same, by the same rule."""
    asked = {row["id"]: (row["statement"], row["rule"]) for row in rows}
    return {row["id"]: row for row in colour if asked.get(row["id"]) == (row["statement"], row["rule"])}


def chip(verdict: str, count: int | None = None) -> str:
    """A verdict in its colour, with a sign, so that no colour stands alone."""
    number = "" if count is None else f"<b>{count}</b> "
    sign = f'<span aria-hidden="true">{SIGNS[verdict]}</span>'
    return f'<span class="chip {_class(verdict)}">{number}{sign} {verdict}</span>'


def chips(row: dict, verdict: str) -> str:
    """Both answers to a claim: whether it holds, and whether it is beyond its baseline."""
    sign, said = BEYOND.get(row["beyond_baseline"], ("", ""))
    second = (
        f' <span class="chip baseline-{row["beyond_baseline"]}"><span aria-hidden="true">{sign}</span> {said}</span>'
    )
    return chip(verdict) + (second if said and not row["check"] else "")


def card(row: dict, other: dict | None = None) -> str:
    """A claim where it is made: the verdict first, then what is claimed, then its numbers."""
    kind = (
        "instrument check" if row["check"] else f"primary claim; {row['source']}" if row["primary"] else row["source"]
    )
    numbers = {"published": short(row["published"])} if row["published"] is not None else {}
    numbers |= {"ours [95 % interval]": value_of(row), "baseline": short(row["baseline"]), "holds if": row["rule"]}
    numbers |= {} if row["check"] else {"changes at": thresholds_of(row)}
    numbers |= {"in colour": f"{value_of(other)}: {other['holds']}"} if other else {}
    listed = "".join(f"<div><dt>{name}</dt><dd>{escape(said)}</dd></div>" for name, said in numbers.items())
    grey = " unlearned" if is_grey(row) else ""
    return (
        f'<div class="claim-card{grey}"><p class="chips">{chips(row, word(row, other))}</p>'
        f"<p>{escape(row['statement'])} <small>({escape(kind)})</small></p><dl>{listed}</dl></div>"
    )


def bar(verdicts: Sequence[str], *, table: str = "") -> str:
    """How many claims hold, do not, or cannot be told: a bar, and a link for each verdict that filters the table.

    Args:
        verdicts: of all claims that are no checks.
        table: the page of the table; empty where it is on this page.
    """
    counts = Counter(verdicts)
    found = [(name, counts[name]) for name in SIGNS if counts[name]]
    parts = "".join(f'<span class="{_class(name)}" style="flex-grow:{count}"></span>' for name, count in found)
    links = " ".join(
        f'<a href="{table}#verdict-{_class(name)}" data-verdict="{_class(name)}">{chip(name, count)}</a>'
        for name, count in found
    )
    said = ", ".join(f"{count} {name}" for name, count in found)
    return (
        f'<div class="verdicts"><div class="bar" role="img" aria-label="Of {len(verdicts)} claims: {said}">'
        f"{parts}</div>"
        f'<p class="chips" role="group" aria-label="Show claims by verdict">{links}</p></div>'
    )


def tables(rows: Iterable[dict], colour: Iterable[dict]) -> str:
    """All claims of a run in one table, primary ones first, and the checks of the instruments in another."""
    rows = sorted(rows, key=lambda row: not row["primary"])
    others, secondary = beside(rows, colour), [row for row in rows if is_secondary(row)]
    claims, checks = [row for row in rows if not row["check"]], [row for row in rows if row["check"]]
    survivors, decided = set(holm(secondary)), [row for row in secondary if row["holds"] in DECIDED]
    said = (
        f"<p>{sum(row['primary'] for row in claims)} primary claims (★) come first; they were named before the "
        f"networks were trained. Of {len(secondary)} secondary claims {len(decided)} are decided. {len(survivors)} of "
        f"these (*) stay so if all are tested at once (Holm, 5 %); of the {len(decided)} at most "
        f"{100 * false_discovery_rate(secondary):.1f} % are expected to be decided wrongly (Benjamini and "
        "Hochberg).</p>"
    )
    parts = [said, bar([word(row, others.get(row["id"])) for row in claims]), _table(claims, others, survivors)]
    heading = "<p><strong>Instrument checks</strong>, with planted answers: they test the methods, not the networks</p>"
    return "\n".join([*parts, heading, _table(checks, {}, set())] if checks else parts)


def forest(rows: Iterable[dict], colour: Iterable[dict]) -> str:
    """The primary claims, one strip each on a scale of its own: interval, threshold, baseline, colour."""
    rows = [row for row in rows if row["primary"]]
    others = beside(rows, colour)
    strips = "".join(
        f'<li><p class="chips">{chips(row, word(row, others.get(row["id"])))}</p><p>{_link(row)}</p>'
        f'<div class="strip">{_strip(row, others.get(row["id"]))}<span>{value_of(row)}</span></div></li>'
        for row in rows
    )
    return f'{_LEGEND}<ol class="forest">{strips}</ol>' if rows else ""


def _table(rows: Sequence[dict], others: Mapping[str, dict], survivors: set[str]) -> str:
    """Rows as a table, whose lines know their verdict and whose cells know by what they are sorted."""
    lines, seen = [], set()
    for row in rows:
        other = others.get(row["id"])
        verdict = word(row, other)
        first = f' id="verdict-{_class(verdict)}"' if verdict not in seen and not row["check"] else ""
        seen.add(verdict)
        cells = "".join(
            f'<td data-label="{name}" data-value="{escape(_text(value))}">{shown}</td>'
            for name, value, shown in _cells(row, other, row["id"] in survivors and verdict == row["holds"])
        )
        lines.append(f'<tr{first} data-verdict="{_class(verdict)}">{cells}</tr>')
    names = [name for name, *_ in _cells(rows[0], None, False)] if rows else []
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    table = f'<table class="claims"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<div class="claims-box">{table}</div>'


def _cells(row: dict, other: dict | None, survives: bool) -> list[tuple[str, object, str]]:
    """Name, sorting value and content of each cell of a line."""
    verdict, mark = word(row, other), "★ " if row["primary"] else ""
    shown = chips(row, verdict) + (
        ' <span title="stays decided if all are tested at once">*</span>' if survives else ""
    )
    claim = f"{mark}{_link(row)} <small>({escape(row['source'])})</small>"
    near = [("verdict", [*SIGNS].index(verdict), shown), ("claim", row["id"], claim)]
    numbers = [("ours [95 % interval]", row["ours"], value_of(row))]
    if row["check"]:
        return [
            *near,
            *numbers,
            ("by chance", row["baseline"], short(row["baseline"])),
            ("holds if", row["rule"], row["rule"]),
        ]
    numbers += [(name, row[name], short(row[name])) for name in ("published", "baseline")]
    numbers += [("holds if", row["rule"], row["rule"]), ("changes at", row["changes_at"][0], thresholds_of(row))]
    said = f"{value_of(other)}: {other['holds']}" if other else "–"
    return [*near, *numbers, ("in colour", other["ours"] if other else None, said)]


def _strip(row: dict, other: dict | None) -> str:
    """One interval beside its rule, its baseline, and the interval on other images."""
    rule, base = as_rule(row["rule"]), [] if row["baseline"] is None else [row["baseline"]]
    shown = [(row, "ours", _ROW[0])] + ([(other, "colour", _ROW[1])] if other else [])
    numbers = [*rule.ends, *base, *(end for one, *_ in shown for end in (one["ours"], *one["interval"]))]
    low, high = min(numbers), max(numbers)
    margin = 0.2 * (high - low or 1.0)

    def across(value: float) -> float:
        """Where a number lies; beyond the ends of the strip there is nothing."""
        return round(
            _WIDTH * (min(max(value, low - margin), high + margin) - low + margin) / (high - low + 2 * margin), 1
        )

    left, right = across(rule.low), across(rule.high)
    parts = [f'<rect class="rule" x="{left}" y="0" width="{right - left:.1f}" height="32"/>']
    for end in rule.ends:
        parts.append(f'<path class="threshold" d="M{across(end)} 0V32"/>')
        parts.append(f'<text x="{across(end)}" y="44" text-anchor="middle">{end:g}</text>')
    parts += [f'<path class="baseline" d="M{across(b)} 13l5 6-5 6-5-6z"/>' for b in base]
    for one, name, y in shown:
        near, far = map(across, one["interval"])
        parts.append(f'<path class="{name}" d="M{near} {y}H{far}M{near} {y - 4}v8M{far} {y - 4}v8"/>')
        x = across(one["ours"])
        dot = f'<circle class="{name}" cx="{x}" cy="{y}" r="4"/>'
        parts.append(
            dot if name == "ours" else f'<rect class="{name}" x="{x - 4:.1f}" y="{y - 4}" width="8" height="8"/>'
        )
    label = f"{row['statement']}: {value_of(row)}; holds if {row['rule']}: {word(row, other)}; "
    label += f"baseline {short(row['baseline'])}"
    label += f"; in colour {value_of(other)}" if other else ""
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _link(row: dict) -> str:
    """A claim's statement, which leads to the cell that made it."""
    return f'<a href="notebooks/{row["notebook"]}.html#{target(row["id"])}">{escape(row["statement"])}</a>'


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _class(verdict: str) -> str:
    return verdict.replace(" ", "-")
