"""Where the paper lies, its notebooks, and with what the last run was made."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

from ..making.checkout import PROJECT, require_checkout
from ..making.pool import one_way_of_computing

ROOT = PROJECT
NOTEBOOKS = ROOT / "notebooks"
RESULTS = ROOT / "data" / "results"


class Settings(TypedDict):
    """What every run is given."""

    dataset: str
    seed: int
    profile: str


DEFAULTS: Settings = {"dataset": "fashion-mnist", "seed": 0, "profile": "paper"}


def notebook_names(only: Sequence[str] | None = None) -> list[str]:
    """Names of the notebooks in reading order, all or those that start with one of `only`."""
    require_checkout("paper")
    names = sorted(path.stem for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if only is None:
        return names
    if isinstance(only, str) or not isinstance(only, Sequence) or not only:
        raise ValueError(f'only: expected numbers or names of notebooks in a list, such as ["02"], got {only!r:.80}')
    for prefix in only:
        if not (isinstance(prefix, str) and prefix and any(name.startswith(prefix) for name in names)):
            known = ", ".join(name[:2] for name in names)
            raise ValueError(f"only: no notebook starts with {prefix!r:.80}; there are {known}, and such as {names[0]}")
    return [name for name in names if name.startswith(tuple(only))]


def last_settings(build: Path) -> dict[str, object]:
    """With what the last run in this build folder was made; empty where there was none."""
    try:
        found = json.loads((build / "results" / "run.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def machine() -> dict[str, str]:
    """What computes here, for the record: the same seeds give the same bits where processors compute in one way."""
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        described = []
    names = [line.partition(":")[2].strip() for line in described if line.startswith("model name")]
    packages = {name: version(name) for name in ("torch", "numpy", "scipy", "scikit-learn")}
    way = "one way on most x86 processors with AVX2" if one_way_of_computing() else "its own way"
    return {"processor": (names or [platform.processor() or platform.machine()])[0], "trains in": way, **packages}
