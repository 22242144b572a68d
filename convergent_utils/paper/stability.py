"""Would the verdicts be the same with other networks? Notebooks 00 to 05 at further base seeds."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import nbformat

from ..kernels.chance import Interval
from .claims import OWN, as_rule, build_folder, verdict, write_json
from .publish import code_hash
from .run import NOTEBOOKS, RESULTS, notebook_names, run

SEEDS = (10, 20)  # base seeds beside that of the paper; no network has the same seed in two of them
ONLY = ("00", "01", "02", "03", "04", "05")
TABLE = RESULTS / "stability.json"


def stability(seeds: tuple[int, ...] = SEEDS, only: tuple[str, ...] = ONLY) -> int:
    """Run notebooks at further base seeds and write beside each claim of the paper what it would have been.

    A notebook that has been run at a seed as it is now is not run again.

    Args:
        seeds: base seeds.
        only: numbers of notebooks.

    Returns:
        0; or 1 when a notebook failed, and then no table is written.
    """
    build, names = build_folder(), notebook_names(list(only))
    folders = {seed: build / "stability" / f"seed-{seed}" for seed in seeds}
    for seed, folder in folders.items():
        due = [name for name in names if not _ran(folder, name)]
        os.environ["CONVERGENT_STORE"] = os.environ.get("CONVERGENT_STORE") or str(build / "store")
        os.environ["CONVERGENT_BUILD"] = str(folder)
        if due and run(seed=seed, only=due):
            return 1
    rows = json.loads((RESULTS / "claims.json").read_text(encoding="utf-8"))
    others = {seed: json.loads((folder / "results" / "claims.json").read_text()) for seed, folder in folders.items()}
    table = compared([row for row in rows if row["notebook"] in names], others)
    write_json(TABLE, table)
    flips = [row["id"] for row in table if not row["stable"]]
    print(
        f"{len(table)} claims at base seeds {', '.join(map(str, (0, *seeds)))}; flipping: {', '.join(flips) or 'none'}"
    )
    return 0


def compared(rows: list[dict], others: dict[int, list[dict]]) -> list[dict]:
    """For each claim its number, interval and verdict at each base seed, and whether no two verdicts contradict.

    The verdicts are those of the rule alone, also where a claim is published as open because it flips. "Open" beside
    another verdict is no contradiction.
    """
    found = {0: rows, **others}
    by_id = {seed: {row["id"]: row for row in at} for seed, at in found.items()}
    table = []
    for row in rows:
        seeds = {str(seed): _numbers(at[row["id"]]) for seed, at in by_id.items() if row["id"] in at}
        definite = {numbers["verdict"] for numbers in seeds.values()} - {"open"}
        table.append({"id": row["id"], "rule": row["rule"], "seeds": seeds, "stable": len(definite) < 2})
    return table


def _numbers(row: dict) -> dict[str, object]:
    interval = Interval(row["our_value"], *row["interval"])
    found = verdict(interval, as_rule(row["rule"]), own=row["source"] == OWN)
    return {**{key: row[key] for key in ("our_value", "interval", "baseline")}, "verdict": found}


def _ran(folder: Path, name: str) -> bool:
    """Whether the notebook has been run there as it is now."""
    executed, rows = folder / "notebooks" / f"{name}.ipynb", folder / "results" / "rows" / f"{name}.json"
    if not (executed.exists() and rows.exists()):
        return False
    return code_hash(nbformat.read(executed, 4)) == code_hash(nbformat.read(NOTEBOOKS / executed.name, 4))


if __name__ == "__main__":
    sys.exit(stability())
