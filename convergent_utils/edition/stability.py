"""Would the answers be the same with other networks? Notebooks 00 to 05 at further base seeds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import nbformat

from ..making.pool import environment
from ..paper.claims import DECIDED, build_folder, gather, read_rows, write_json
from .places import NOTEBOOKS, RESULTS, notebook_names
from .publish import code_hash
from .run import run

SEEDS = (10, 20)  # base seeds beside that of the paper; no network of notebooks 00 to 05 has the same seed in two
ONLY = ("00", "01", "02", "03", "04", "05")
TABLE = RESULTS / "stability.json"
PACKAGE = Path(__file__).parents[1]


def stability(seeds: tuple[int, ...] = SEEDS, only: tuple[str, ...] = ONLY) -> int:
    """Run notebooks at further base seeds and write beside each claim of the paper what it would have been.

    A notebook that has been run at a seed, with kernels and networks as they are now, is not run again.

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
        if due and _run_in(folder, seed, due):
            return 1
    if not (RESULTS / "claims.json").exists():
        raise ValueError("claims.json: expected published claims to compare with; run `make paper` and `make publish`")
    rows = read_rows(RESULTS / "claims.json")
    others = {seed: gather(folder) for seed, folder in folders.items()}
    table = compared([row for row in rows if row["notebook"] in names], others)
    write_json(TABLE, table)
    flips = [row["id"] for row in table if not row["stable"]]
    print(
        f"{len(table)} claims at base seeds {', '.join(map(str, (0, *seeds)))}; flipping: {', '.join(flips) or 'none'}"
    )
    return 0


def compared(rows: list[dict], others: dict[int, list[dict]]) -> list[dict]:
    """For each claim what it says at each base seed, and whether no two of these contradict.

    "Borderline" or "imprecise" beside a decided answer is no contradiction.
    """
    found = {0: rows, **others}
    by_id = {seed: {row["id"]: row for row in at} for seed, at in found.items()}
    table = []
    for row in rows:
        seeds = {str(seed): _numbers(at[row["id"]]) for seed, at in by_id.items() if row["id"] in at}
        decided = {numbers["holds"] for numbers in seeds.values()} & set(DECIDED)
        table.append({"id": row["id"], "rule": row["rule"], "seeds": seeds, "stable": len(decided) < 2})
    return table


def _numbers(row: dict) -> dict[str, object]:
    return {key: row[key] for key in ("ours", "interval", "baseline", "holds", "beyond_baseline")}


def _run_in(folder: Path, seed: int, due: list[str]) -> int:
    """Run notebooks with their own build folder; the environment is left as it was."""
    with environment({"CONVERGENT_BUILD": str(folder)}):
        failed = run(seed=seed, only=due)
    if not failed:
        for name in due:
            _stamp(folder, name).write_text(_code(name))
    return failed


def _ran(folder: Path, name: str) -> bool:
    """Whether the notebook has been run there with code as it is now."""
    rows, stamp = folder / "results" / "rows" / f"{name}.json", _stamp(folder, name)
    return rows.exists() and stamp.exists() and stamp.read_text() == _code(name)


def _stamp(folder: Path, name: str) -> Path:
    return folder / "results" / f"{name}.code"


def _code(name: str) -> str:
    """A hash of the notebook's code and of all kernels and networks."""
    digest = hashlib.sha256(code_hash(nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)).encode())
    for path in sorted(PACKAGE.glob("kernels/*.py")) + sorted(PACKAGE.glob("nets/*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
