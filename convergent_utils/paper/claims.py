"""Claims are data: a statement, the published number, ours with its interval and baseline, and a computed verdict."""

from __future__ import annotations

import html
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..kernels.chance import Interval

OWN = "new"  # the source of a claim that nobody made before


@dataclass(frozen=True)
class Rule:
    """A claim holds when its number lies strictly between low and high."""

    low: float
    high: float

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"above {self.low:g}"
        return f"below {self.high:g}" if math.isinf(self.low) else f"between {self.low:g} and {self.high:g}"


def above(threshold: float) -> Rule:
    """The claim holds when its number is larger than this."""
    return Rule(float(threshold), math.inf)


def below(threshold: float) -> Rule:
    """The claim holds when its number is smaller than this."""
    return Rule(-math.inf, float(threshold))


def between(low: float, high: float) -> Rule:
    """The claim holds when its number lies between these two."""
    return Rule(float(low), float(high))


def as_rule(text: str) -> Rule:
    """The rule that a row of claims states in words, such as "above 0.05" or "between 1 and 2".

    Raises:
        ValueError: another text.
    """
    number = r"(-?[\d.]+(?:e[-+]\d+)?)"
    forms = {f"above {number}": above, f"below {number}": below, f"between {number} and {number}": between}
    for form, rule in forms.items():
        if found := re.fullmatch(form, text):
            return rule(*map(float, found.groups()))
    raise ValueError(f"text: expected above, below or between and its numbers, got {text!r}")


def verdict(interval: Interval, rule: Rule, *, own: bool, stable: bool = True) -> str:
    """The verdict that the interval gives by the rule.

    Returns:
        "reproduced" when the whole interval obeys the rule, "not reproduced" when none of it does, "open" when it
        straddles a threshold or the claim is known to flip over base seeds (`stable` false); "new: holds" and
        "new: does not hold" for a claim of our own.

    Raises:
        ValueError: an interval that is not finite or not in order.
    """
    if not (math.isfinite(interval.low) and math.isfinite(interval.high) and interval.low <= interval.high):
        raise ValueError(f"interval: expected two finite ends in order, got {interval.low} to {interval.high}")
    if not stable:
        return "open"
    if rule.low < interval.low and interval.high < rule.high:
        return "new: holds" if own else "reproduced"
    if interval.high <= rule.low or interval.low >= rule.high:
        return "new: does not hold" if own else "not reproduced"
    return "open"


@dataclass(frozen=True)
class Claim:
    """One row of the table of claims; numbers carry six digits."""

    id: str
    notebook: str
    statement: str
    source: str
    paper_value: float | None
    our_value: float
    interval: tuple[float, float]
    baseline: float | None
    rule: str
    verdict: str
    stable: bool = True


class Ledger:
    """The claims of one notebook: call it with each claim; the row is shown and kept.

    Args:
        notebook: its name, such as "02_one_to_one_matching".
        profile: in "smoke" a claim that says what it must be there is held to it.
        folder: where rows are written; default: that named by CONVERGENT_BUILD, else build, in the project.
    """

    def __init__(self, notebook: str, *, profile: str = "paper", folder: str | Path | None = None):
        self.notebook, self.profile = notebook, profile
        self.path = Path(folder or build_folder()) / "results" / "rows" / f"{notebook}.json"
        self.claims: list[Claim] = []

    def __call__(
        self,
        id: str,
        statement: str,
        *,
        source: str,
        ours: Interval | float,
        rule: Rule,
        published: float | None = None,
        baseline: Interval | float | None = None,
        stable: bool = True,
        smoke: str | None = None,
    ) -> None:
        """Compute the verdict, show the row and write it.

        Args:
            id: unique; the notebook's number, a dot and a name.
            statement: what is claimed, in words.
            source: who claims it; "new" for a claim of our own.
            ours: the number, with the interval where it would lie with other networks of the same kind; by itself where
                there is nothing to vary.
            rule: when the statement holds, written down before the number is looked at.
            published: the published number, where there is one.
            baseline: what the number is by chance, or without training.
            stable: False for a claim known to flip over base seeds; it is shown as open.
            smoke: the verdict that the planted networks of the smoke profile must give.

        Raises:
            ValueError: an id used before or from another notebook, or numbers that are not finite.
            AssertionError: in the smoke profile, a verdict other than `smoke`.
        """
        if not id.startswith(self.notebook[:2] + ".") or any(row.id == id for row in self.claims):
            raise ValueError(f"id: expected a new one that starts with {self.notebook[:2]!r} and a dot, got {id!r}")
        ours = ours if isinstance(ours, Interval) else Interval(ours, ours, ours)
        found = verdict(ours, rule, own=source == OWN, stable=stable)
        chance = baseline.estimate if isinstance(baseline, Interval) else baseline
        numbers = (published, ours.estimate, ours.low, ours.high, chance)
        paper, number, low, high, chance = (None if x is None else _rounded(x) for x in numbers)
        row = Claim(id, self.notebook, statement, source, paper, number, (low, high), chance, str(rule), found, stable)
        self.claims.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, [asdict(row) for row in self.claims])
        _show(row)
        if self.profile == "smoke" and smoke is not None and found != smoke:
            raise AssertionError(
                f"{id}: on the planted networks expected {smoke!r}, got {found!r} ({number} in {low} to {high})"
            )


def build_folder() -> Path:
    """The folder of everything a run makes."""
    return Path(os.environ.get("CONVERGENT_BUILD") or Path(__file__).parents[2] / "build").absolute()


def gather(folder: Path) -> list[dict]:
    """All rows written under folder/results/rows, also written as folder/results/claims.json."""
    paths = sorted((folder / "results" / "rows").glob("*.json"))
    rows = [row for path in paths for row in json.loads(path.read_text(encoding="utf-8"))]
    write_json(folder / "results" / "claims.json", rows)
    return rows


def differences(
    rows: Iterable[dict], published: Iterable[dict], notebooks: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Compare a run with the published one.

    Returns:
        Failures: published claims of the notebooks that ran which the new interval contradicts, or which are gone; and
        notes: other verdicts that differ. Each a sentence.
    """
    new, old, failures, notes = {row["id"]: row for row in rows}, {row["id"]: row for row in published}, [], []
    ran = set(notebooks)
    for id, row in old.items():
        if row["notebook"] not in ran:
            continue
        if id not in new:
            failures.append(f"{id}: published, but this run did not make it")
        elif new[id]["verdict"] != row["verdict"]:
            text = (
                f"{id}: published as {row['verdict']}, now {new[id]['verdict']} ({_value(new[id])}, rule {row['rule']})"
            )
            contradicted = "open" not in (row["verdict"], new[id]["verdict"])
            (failures if contradicted else notes).append(text)
    notes += [f"{id}: not published yet ({new[id]['verdict']})" for id in new if id not in old]
    return failures, notes


def as_text(rows: Iterable[dict]) -> str:
    """The table of claims for a terminal."""
    lines = []
    for row in rows:
        paper = "-" if row["paper_value"] is None else f"{row['paper_value']:.3g}"
        chance = "-" if row["baseline"] is None else f"{row['baseline']:.3g}"
        lines.append(
            f"{row['id']:<34} {row['verdict']:<19} paper {paper:>6}  ours {_value(row):<26} baseline {chance:>6}"
        )
    return "\n".join(lines)


def as_markdown(rows: Iterable[dict]) -> str:
    """The table of claims for a page."""
    lines = [
        "| claim | source | published | ours [95 % interval] | baseline | holds if | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        paper, chance = ("–" if row[k] is None else f"{row[k]:.3g}" for k in ("paper_value", "baseline"))
        cells = [row["statement"], row["source"], paper, _value(row), chance, row["rule"], f"**{row['verdict']}**"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def side_by_side(runs: Mapping[str, Iterable[dict]]) -> str:
    """The claims that all of several runs made, for a page: numbers, baselines and verdicts.

    Those verdicts are bold that differ from the first run's, and that one where any does.
    """
    lines = [f"| claim | {' | '.join(f'{name}; baseline' for name in runs)} |", f"|{'---|' * (1 + len(runs))}"]
    by_id = [{row["id"]: row for row in rows} for rows in runs.values()]
    for id, row in by_id[0].items():
        if not all(id in rows for rows in by_id):
            continue
        found, cells = [rows[id] for rows in by_id], [row["statement"]]
        changed = [one["verdict"] != row["verdict"] for one in found]
        for one, mark in zip(found, [any(changed), *changed[1:]], strict=True):
            chance = "–" if one["baseline"] is None else f"{one['baseline']:.3g}"
            cells.append(f"{_value(one)}; {chance}<br>" + (f"**{one['verdict']}**" if mark else one["verdict"]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_json(path: Path, value: object) -> None:
    """Write under another name and rename, so that a reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _value(row: dict) -> str:
    low, high = row["interval"]
    return f"{row['our_value']:.3f} [{low:.3f}, {high:.3f}]"


def _rounded(value: float) -> float:
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"ours: expected finite numbers, got {value}")
    return float(f"{value:.6g}")


def _show(row: Claim) -> None:
    from IPython.display import display

    values = asdict(row)
    paper, chance = ("–" if values[k] is None else f"{values[k]:.3g}" for k in ("paper_value", "baseline"))
    cells = {"published": paper, "ours [95 % interval]": _value(values), "baseline": chance, "holds if": row.rule}
    head = "".join(f"<th>{html.escape(name)}</th>" for name in [*cells, "verdict"])
    body = "".join(f"<td>{html.escape(text)}</td>" for text in cells.values())
    table = (
        f"<table><caption style='text-align:left'>{html.escape(row.statement)} ({html.escape(row.source)})</caption>"
        f"<tr>{head}</tr><tr>{body}<td><b>{row.verdict}</b></td></tr></table>"
    )
    display({"text/html": table, "text/plain": as_text([values])}, raw=True)
