"""Claims are data: a statement, the published number, ours with its interval and baseline, and two computed answers.

Does it hold here, and is it more than its baseline?
"""

from __future__ import annotations

import html
import json
import math
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import overload

from ..kernels.chance import Interval
from ..kernels.checks import as_number
from ..kernels.intervals import p_value, paired_difference
from ..making.checkout import kept_folder

OWN = "new"  # the source of a claim that nobody made before
DECIDED = ("holds", "does not hold")


@dataclass(frozen=True)
class Rule:
    """A claim holds when its number lies strictly between low and high."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high or not self.ends:  # or one of them is NaN
            raise ValueError(f"rule: expected a threshold, or two in order, got {self.low} and {self.high}")

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"above {self.low:g}"
        return f"below {self.high:g}" if math.isinf(self.low) else f"between {self.low:g} and {self.high:g}"

    @property
    def ends(self) -> tuple[float, ...]:
        """Its thresholds, one or two."""
        return tuple(end for end in (self.low, self.high) if math.isfinite(end))


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


def holds(found: Interval, rule: Rule, baseline: float | None = None) -> str:
    """What the interval says of the rule.

    Args:
        found: finite, its ends in order.
        rule: of the claim.
        baseline: what the number is by chance or without training.

    Returns:
        "holds" when the whole interval obeys the rule, "does not hold" when none of it does. Otherwise these networks
        cannot tell: "borderline" when the interval is narrower than the way from the baseline (0, if there is none) to
        the threshold, so that the number lies near the threshold, and else "imprecise".

    Raises:
        ValueError: an interval that is not finite or not in order.
    """
    if not (math.isfinite(found.low) and math.isfinite(found.high) and found.low <= found.high):
        raise ValueError(f"interval: expected two finite ends in order, got {found.low} to {found.high}")
    if rule.low < found.low and found.high < rule.high:
        return "holds"
    if found.high <= rule.low or found.low >= rule.high:
        return "does not hold"
    nearest = min(rule.ends, key=lambda end: abs(end - found.estimate))
    return "borderline" if found.high - found.low < abs(nearest - (baseline or 0.0)) else "imprecise"


def beyond_baseline(difference: Interval | None, rule: Rule) -> str:
    """Whether a number differs from its baseline in the direction of the rule.

    Args:
        difference: ours less the baseline, pair by pair of networks; None: there is no baseline.
        rule: of the claim.

    Returns:
        "yes", "no" or "undecided"; "-" without a baseline, or for a rule with two ends.
    """
    if difference is None or len(rule.ends) == 2:
        return "-"
    low, high = (difference.low, difference.high) if math.isinf(rule.high) else (-difference.high, -difference.low)
    return "yes" if low > 0 else "no" if high <= 0 else "undecided"


def changes_at(found: Interval, rule: Rule) -> tuple[float, ...]:
    """At which other thresholds the answer would change: the near end of the interval, or both where it is undecided.

    Where a rule with two ends is obeyed there is one such threshold for each.
    """
    said = holds(found, rule)
    if said not in DECIDED or (said == "holds" and len(rule.ends) == 2):
        return found.low, found.high
    return (found.low if found.low >= rule.ends[-1 if said == "does not hold" else 0] else found.high,)


@dataclass(frozen=True)
class Claim:
    """One row of the table of claims; numbers carry six digits.

    Attributes:
        id: the notebook's number, a dot and a name.
        notebook, statement, source: where it stands, what is claimed, and by whom.
        published, ours, interval, baseline: numbers, see `Ledger`.
        rule: when the statement holds, in words, see `as_rule`.
        holds: see `holds`.
        beyond_baseline: see `beyond_baseline`.
        changes_at: see `changes_at`.
        primary: one of the few that were named before the run.
        check: of a planted answer, which tests the method: it says nothing of networks.
        difference: ours less the baseline, and the ends of its interval; None without a baseline.
        p_value: two-sided, of the number lying at the threshold of the rule; None for a check, or an exact number.
    """

    id: str
    notebook: str
    statement: str
    source: str
    published: float | None
    ours: float
    interval: tuple[float, float]
    baseline: float | None
    rule: str
    holds: str
    beyond_baseline: str
    changes_at: tuple[float, ...]
    primary: bool = False
    check: bool = False
    difference: tuple[float, float, float] | None = None
    p_value: float | None = None


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
        primary: bool = False,
        check: bool = False,
        smoke: str | None = None,
    ) -> None:
        """Compute both answers, show the row and write it.

        Args:
            id: unique; the notebook's number, a dot and a name.
            statement: what is claimed, in words.
            source: who claims it; "new" for a claim of our own.
            ours: the number, with the interval where it would lie with other networks of the same kind; by itself where
                there is nothing to vary.
            rule: when the statement holds, written down before the number is looked at.
            published: the published number, where there is one.
            baseline: what the number is by chance, or without training; with its interval where it was found of the
                same networks, so that each is compared with itself.
            primary: it was named as one of the few that count, before the run.
            check: the answer is planted, so that the method is what is tested.
            smoke: what it must say of the planted networks of the smoke profile: whether it `holds`.

        Raises:
            ValueError: an id used before or from another notebook, numbers that are not finite, or a baseline with an
                interval of other networks than ours.
            AssertionError: in the smoke profile, another answer than `smoke`.
        """
        if not id.startswith(self.notebook[:2] + ".") or any(row.id == id for row in self.claims):
            raise ValueError(f"id: expected a new one that starts with {self.notebook[:2]!r} and a dot, got {id!r}")
        for name, value in (("ours", ours), ("baseline", baseline), ("published", published)):
            if not isinstance(value, Interval | None) or (value is None and name == "ours"):
                as_number(value, name, "a finite number or an Interval", math.isfinite)
        ours = ours if isinstance(ours, Interval) else Interval(ours, ours, ours)
        chance = baseline.estimate if isinstance(baseline, Interval) else baseline
        found = holds(ours, rule, chance)
        difference = None if baseline is None else paired_difference(ours, baseline)
        row = Claim(
            id, self.notebook, statement, source, _rounded(published), *_ends(ours), _rounded(chance), str(rule), found,
            beyond_baseline(difference, rule), tuple(_rounded(at) for at in changes_at(ours, rule)), primary, check,
            None if difference is None else _rounded_numbers(difference),
            None if check or ours.low == ours.high else _rounded(max(p_value(ours, end) for end in rule.ends)),
        )  # fmt: skip
        self.claims.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, [asdict(row) for row in self.claims])
        _show(row)
        if self.profile == "smoke" and smoke is not None and found != smoke:
            number = f"{row.ours} in {row.interval[0]} to {row.interval[1]}"
            raise AssertionError(f"{id}: on the planted networks expected {smoke!r}, got {found!r} ({number})")


def build_folder() -> Path:
    """The folder of everything a run makes."""
    return Path(os.environ.get("CONVERGENT_BUILD") or kept_folder()).absolute()


def read_rows(path: Path) -> list[dict]:
    """The rows of a file of claims; none where there is no file.

    Raises:
        ValueError: a file that is damaged, or of an earlier version.
    """
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        if all({"id", "notebook", "rule", "interval", "holds", "primary", "check"} <= row.keys() for row in rows):
            return rows
    except (ValueError, AttributeError, TypeError):
        pass
    raise ValueError(f"{path.name}: expected claims as this version writes them; take it from the repository again")


def gather(folder: Path) -> list[dict]:
    """All rows written under folder/results/rows, also written as folder/results/claims.json."""
    paths = sorted((folder / "results" / "rows").glob("*.json"))
    rows = [row for path in paths for row in json.loads(path.read_text(encoding="utf-8"))]
    write_json(folder / "results" / "claims.json", rows)
    return rows


def differences(
    rows: Iterable[dict], published: Iterable[dict], notebooks: Iterable[str], *, same: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """Compare a run with the published one.

    Args:
        rows, published: of the two runs.
        notebooks: that ran.
        same: notebooks whose networks are all those of the published run, to the last bit.

    Returns:
        Failures: published claims of the notebooks that ran which the new interval contradicts, or, where the networks
        are the same, which it leaves undecided or decides anew, and those which are gone; and notes: other answers that
        differ. Each a sentence.
    """
    new, old, failures, notes = {row["id"]: row for row in rows}, {row["id"]: row for row in published}, [], []
    ran = set(notebooks)
    for id, row in old.items():
        if row["notebook"] not in ran:
            continue
        if id not in new:
            failures.append(f"{id}: published, but this run did not make it")
        elif new[id]["holds"] != row["holds"]:
            now, before = new[id]["holds"], row["holds"]
            decided = [word in DECIDED for word in (before, now)]
            text = f"{id}: published as {before}, now {now} ({value_of(new[id])}, rule {row['rule']})"
            (failures if all(decided) or (row["notebook"] in same and any(decided)) else notes).append(text)
    notes += [f"{id}: not published yet ({new[id]['holds']})" for id in new if id not in old]
    return failures, notes


def as_text(rows: Iterable[dict]) -> str:
    """The table of claims for a terminal."""
    lines = []
    for row in rows:
        published, chance = (short(row[key]) for key in ("published", "baseline"))
        kind = "check" if row["check"] else f"beyond baseline {row['beyond_baseline']}"
        lines.append(
            f"{row['id']:<34} {row['holds']:<14} {kind:<26} paper {published:>6}  ours {value_of(row):<26} "
            f"baseline {chance:>6}"
        )
    return "\n".join(lines)


def short(value: float | None) -> str:
    """A number in three digits; a dash for none."""
    return "–" if value is None else f"{value:.3g}"


def value_of(row: dict) -> str:
    """The number of a row, and its interval."""
    low, high = row["interval"]
    return f"{row['ours']:.3f} [{low:.3f}, {high:.3f}]"


def thresholds_of(row: dict) -> str:
    """At which thresholds the row's answer would change."""
    return ", ".join(map(short, row["changes_at"]))


def write_json(path: Path, value: object) -> None:
    """Write under another name and rename, so that a reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _numbers(found: Interval) -> tuple[float, float, float]:
    return found.estimate, found.low, found.high


def _ends(found: Interval) -> tuple[float, tuple[float, float]]:
    number, low, high = _rounded_numbers(found)
    return number, (low, high)


def _rounded_numbers(found: Interval) -> tuple[float, float, float]:
    number, low, high = (_rounded(value) for value in _numbers(found))
    return number, low, high


@overload
def _rounded(value: float) -> float: ...
@overload
def _rounded(value: None) -> None: ...
def _rounded(value: float | None) -> float | None:
    if value is None:
        return None
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"ours: expected finite numbers, got {value}")
    return float(f"{value:.6g}")


def _show(row: Claim) -> None:
    from IPython.display import display

    values = asdict(row)
    cells = {"published": short(row.published), "ours [95 % interval]": value_of(values)}
    cells |= {"baseline": short(row.baseline), "holds if": row.rule, "holds here?": row.holds}
    cells |= {} if row.check else {"beyond its baseline?": row.beyond_baseline, "changes at": thresholds_of(values)}
    head = "".join(f"<th>{html.escape(name)}</th>" for name in cells)
    body = "".join(f"<td>{html.escape(text)}</td>" for text in cells.values())
    kind = "instrument check" if row.check else f"primary; {row.source}" if row.primary else row.source
    grey = ";color:gray" if is_grey(values) else ""
    table = (
        f"<table style='text-align:left{grey}'><caption style='text-align:left'>{html.escape(row.statement)} "
        f"({html.escape(kind)})</caption><tr>{head}</tr><tr>{body}</tr></table>"
    )
    display({"text/html": table, "text/plain": as_text([values])}, raw=True)


def is_grey(row: dict) -> bool:
    """Whether a row says no more than its baseline does."""
    return not row["check"] and row["beyond_baseline"] in ("no", "undecided")
