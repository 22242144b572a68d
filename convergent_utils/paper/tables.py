"""The tables of claims, for README and for a page: primary claims, secondary ones, checks of the instruments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .claims import DECIDED, is_grey, short, thresholds_of, value_of

LEVEL = 0.05


def as_markdown(rows: Iterable[dict], colour: Iterable[dict] = (), *, survivors: Iterable[str] = ()) -> str:
    """Rows as a table.

    Args:
        rows: claims, or instrument checks, not both.
        colour: rows on other images; those of the same statement by the same rule stand beside.
        survivors: ids to be marked with a star.
    """
    rows, survivors = list(rows), set(survivors)
    beside = _beside(rows, colour)
    if rows and rows[0]["check"]:
        lines = ["| check | ours | by chance | holds if | holds? |", "|---|---|---|---|---|"]
        for row in rows:
            cells = [
                _escaped(row["statement"]),
                value_of(row),
                short(row["baseline"]),
                row["rule"],
                f"**{row['holds']}**",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)
    lines = [
        "| claim | source | published | ours [95 % interval] | baseline | holds if | holds here? "
        "| beyond its baseline? | changes at | in colour |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        statement = f"*{row['statement']}*" if is_grey(row) else row["statement"]
        other = beside.get(row["id"])
        star = r"\*" if row["id"] in survivors and word(row, other) == row["holds"] else ""
        cells = [
            _escaped(statement),
            _escaped(row["source"]),
            short(row["published"]),
            value_of(row),
            short(row["baseline"]),
        ]
        cells += [row["rule"], f"**{word(row, other)}**{star}", row["beyond_baseline"], thresholds_of(row)]
        cells.append(f"{value_of(other)}: {other['holds']}, {other['beyond_baseline']}" if other else "–")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def first_screen(rows: Iterable[dict], colour: Iterable[dict] = ()) -> str:
    """The primary claims in few columns: published (where anything was), on the paper's images, and in colour.

    Args:
        rows, colour: as for `as_markdown`.
    """
    rows = [row for row in rows if row["primary"] and not row["check"]]
    beside, columns = _beside(rows, colour), {}
    columns["claim"] = [_escaped(row["statement"]) for row in rows]
    if any(row["published"] is not None for row in rows):
        columns["published"] = [short(row["published"]) for row in rows]
    columns["clothes, in grey"] = [value_of(row) for row in rows]
    columns["asked"] = [row["rule"] for row in rows]
    columns["holds?"] = [f"**{word(row, beside.get(row['id']))}**" for row in rows]
    columns["beyond its baseline?"] = [row["beyond_baseline"] for row in rows]
    columns["photographs, in colour"] = [
        f"{value_of(other)}: {other['holds']}; {other['beyond_baseline']}" if other else "–"
        for other in (beside.get(row["id"]) for row in rows)
    ]
    lines = [list(columns), ["---"] * len(columns), *zip(*columns.values(), strict=True)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def in_parts(rows: Iterable[dict], colour: Iterable[dict] = ()) -> str:
    """All claims of a run: primary, secondary with what many tests at once leave of them, and checks."""
    rows, colour = list(rows), list(colour)
    primary = [row for row in rows if row["primary"] and not row["check"]]
    secondary, checks = [row for row in rows if is_secondary(row)], [row for row in rows if row["check"]]
    survivors, decided = holm(secondary), [row for row in secondary if row["holds"] in DECIDED]
    said = (
        f"Of {len(secondary)} secondary claims {len(decided)} are decided. {len(survivors)} of these, marked with a "
        f"star, stay so if all are tested at once (Holm, 5 %); of the {len(decided)} at most "
        f"{100 * false_discovery_rate(secondary):.1f} % are expected to be decided wrongly (Benjamini and Hochberg)."
    )
    parts = [
        f"**The {len(primary)} primary claims**, named before these networks were trained",
        as_markdown(primary, colour),
        "**Secondary claims**",
        said,
        as_markdown(secondary, colour, survivors=survivors),
        "**Instrument checks**, with planted answers: they test the methods, not the networks",
        as_markdown(checks),
    ]
    return "\n\n".join(parts)


def is_secondary(row: dict) -> bool:
    """Neither named before the run nor a check."""
    return not row["primary"] and not row["check"]


def word(row: dict, other: dict | None) -> str:
    """Whether the claim holds: "depends on the images" where other images contradict it."""
    contradicts = other is not None and {row["holds"], other["holds"]} == set(DECIDED)
    return "depends on the images" if contradicts else row["holds"]


def holm(rows: Iterable[dict], level: float = LEVEL) -> list[str]:
    """The ids of the claims that stay decided if all are tested at once; exact numbers are not tested.

    With the p-values in order, the k-th smallest of m must lie below level / (m - k + 1), and so must all before it.
    Source: Holm 1979.
    """
    ordered = sorted((row for row in rows if row["p_value"] is not None), key=lambda row: row["p_value"])
    survivors = []
    for k, row in enumerate(ordered):
        if row["p_value"] >= level / (len(ordered) - k):
            break
        survivors.append(row["id"])
    return survivors


def false_discovery_rate(rows: Iterable[dict]) -> float:
    """The share of the decided claims that are expected to be decided wrongly, at most.

    The least rate at which the procedure accepts all that are decided one by one.
    Source: Benjamini and Hochberg 1995.
    """
    from scipy.stats import false_discovery_control

    rows = [row for row in rows if row["p_value"] is not None]
    if not rows:
        return 0.0
    adjusted = false_discovery_control([row["p_value"] for row in rows])
    return float(max((p for p, row in zip(adjusted, rows, strict=True) if row["holds"] in DECIDED), default=0.0))


def side_by_side(runs: Mapping[str, Iterable[dict]]) -> str:
    """The claims that all of several runs made, for a page: numbers, baselines and what they say.

    Those answers are bold that differ from the first run's, and that one where any does.
    """
    lines = [f"| claim | {' | '.join(f'{name}; baseline' for name in runs)} |", f"|{'---|' * (1 + len(runs))}"]
    by_id = [{row["id"]: row for row in rows} for rows in runs.values()]
    for id, row in by_id[0].items():
        if not all(id in rows for rows in by_id):
            continue
        found, cells = [rows[id] for rows in by_id], [_escaped(row["statement"])]
        changed = [one["holds"] != row["holds"] for one in found]
        for one, mark in zip(found, [any(changed), *changed[1:]], strict=True):
            said = f"**{one['holds']}**" if mark else one["holds"]
            cells.append(f"{value_of(one)}; {short(one['baseline'])}<br>{said}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _beside(rows: Iterable[dict], colour: Iterable[dict]) -> dict[str, dict]:
    """By id the rows on other images that ask the same by the same rule."""
    asked = {row["id"]: (row["statement"], row["rule"]) for row in rows}
    return {row["id"]: row for row in colour if asked.get(row["id"]) == (row["statement"], row["rule"])}


def _escaped(text: str) -> str:
    return text.replace("|", r"\|")
