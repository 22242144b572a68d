"""Running the paper: prepare, all notebooks in parallel, the table of claims and its gate."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from ..kernels.checks import require_known
from ..kernels.moments import pair_moments
from ..kernels.mutual_information import mutual_information
from ..kernels.sparse_mapping import sparse_mapping
from ..making.pool import environment, n_cores, workers
from ..making.store import Store, load
from ..nets.datasets import absolute_name
from ..paper.claims import as_text, build_folder, differences, gather, read_rows, write_json
from ..paper.prepare import FROM_PUBLISHED, Prepared, prepare, published_path, require_settings, to_train
from .places import DEFAULTS, NOTEBOOKS, RESULTS, ROOT, Settings, last_settings, notebook_names

if TYPE_CHECKING:
    from ..making.things import Get

_CELL_TIMEOUT = 900  # seconds
_UNFINISHED = re.compile(r"\..+\.(\d+)(\.ipynb)?")  # a file that a process, of this number, has not renamed yet


@dataclass(frozen=True)
class Outcome:
    """How one notebook went; `error` is one line, empty when it ran through."""

    notebook: str
    seconds: float
    executed: Path
    error: str = ""


def run(
    *,
    profile: str = "paper",
    dataset: str = "fashion-mnist",
    seed: int = 0,
    only: Sequence[str] | None = None,
    parameters: Mapping[str, object] | None = None,
    published: bool = False,
) -> int:
    """Regenerate the paper under the build folder and print the table of claims.

    Args:
        profile, dataset, seed: handed to every notebook.
        only: numbers or names of notebooks; None means all.
        parameters: further parameters for the notebooks that know them.
        published: take networks and results from data/ instead of making them; notebooks that need others are left out,
            by name. What is made from them is kept apart, in a store of its own.

    Returns:
        0; or 1 when a notebook failed, or, with the committed parameters, when a claim contradicts the published one.

    Raises:
        ValueError: an unknown name or parameter, an unreadable data set, an unwritable folder; before anything is run.
    """
    require_settings(profile=profile, dataset=dataset, seed=seed)
    notebooks, build = notebook_names(only), build_folder()
    common: Settings = {"dataset": absolute_name(dataset), "seed": int(seed), "profile": profile}
    settings = {**common, **_further(parameters or {}, common)}
    notebooks = _without_training(notebooks, settings, _of_published()) if published else notebooks
    known = {name: _known_parameters(name) for name in notebooks}
    for parameter in settings:
        require_known(parameter, sorted(set().union(*known.values())), "parameter")
    _require_writable(build)
    seen = {"CONVERGENT_BUILD": str(build), "CONVERGENT_RUN": "1"}  # as the notebooks shall see it
    if published:
        seen |= {"CONVERGENT_RUN": FROM_PUBLISHED, "CONVERGENT_STORE": str(_of_published().path)}
    jobs = {
        name: {k: v for k, v in settings.items() if k in known[name] and v != DEFAULTS.get(k)} for name in notebooks
    }
    with environment(seen):
        compile_kernels()
        prepared = prepare(*notebooks, **common)
        _clear(build, {**settings, "from": FROM_PUBLISHED} if published else settings, notebooks)
        outcomes = _execute_all(jobs, build / "notebooks")
    rows = gather(build)
    print(f"\n{as_text(rows)}\n\n{len(rows)} claims in {build / 'results' / 'claims.json'}")
    failed = [outcome for outcome in outcomes if outcome.error]
    return 1 if failed else _gate(rows, prepared, settings, notebooks)


def _of_published() -> Store:
    """Where what is made from published networks is kept, apart from what is made from others."""
    return Store(Store().path / FROM_PUBLISHED)


def _without_training(notebooks: list[str], settings: dict[str, object], store: Store) -> list[str]:
    """The notebooks for which no network has to be trained; the others are named.

    Raises:
        ValueError: other settings than those of what is published, or nothing is left.
    """
    if any(settings[name] != value for name, value in DEFAULTS.items()):
        wanted = ", ".join(f"{name} {value}" for name, value in DEFAULTS.items())
        raise ValueError(f"from: what is published is of {wanted}; leave these as they are, or leave out FROM")
    lacking = to_train(notebooks, store, **{name: settings[name] for name in DEFAULTS})
    for name, count in lacking.items():
        if count:
            print(f"{name} is left out: it would have to train {count} networks", file=sys.stderr)
    left = [name for name, count in lacking.items() if not count]
    if not left:
        raise ValueError("from: all of these notebooks would have to train networks; leave out FROM")
    return left


def _further(parameters: Mapping[str, object], settings: Mapping[str, object]) -> dict[str, object]:
    """The further parameters, once they can be kept in JSON and none is a setting of its own."""
    if not isinstance(parameters, Mapping):
        raise ValueError(f'parameters: expected names and values, such as {{"shown": "conv3"}}, got {parameters!r:.80}')
    for name in settings:
        if name in parameters:
            raise ValueError(f"parameter: {name!r} is given by itself, as --{name} or {name}=")
    try:
        return json.loads(json.dumps(dict(parameters), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError("parameters: expected numbers, texts, and lists and dicts of them") from error


def compile_kernels() -> None:
    """Compile once what numba keeps for all processes, so that no two of them do it at the same time."""
    acts = torch.rand(4096, 2, generator=torch.Generator().manual_seed(0))
    mutual_information(acts, acts)
    sparse_mapping(pair_moments(acts, acts), [0.1])


def _gate(rows: list[dict], prepared: Prepared, settings: dict[str, object], notebooks: list[str]) -> int:
    """Fail when, with the committed parameters, a published claim is contradicted; else print what differs.

    Where the networks are the published ones to the last bit, what was decided must be decided again.
    """
    published = read_rows(RESULTS / "claims.json")
    same = settings == DEFAULTS and networks_as_published(prepared)
    of_here = set(notebooks) - set(published_elsewhere()) if same else ()
    failures, notes = differences(rows, published, notebooks, same=of_here)
    if settings != DEFAULTS:
        failures, notes = [], failures + notes
    elif not same:
        print(f"\nthis machine trains other networks than {published_on()} did: numbers move as with other seeds")
    for title, lines in (("differs from the published run", notes), ("CONTRADICTS the published run", failures)):
        if lines:
            print(f"\n{title}:\n  " + "\n  ".join(lines))
    return 1 if failures else 0


def networks_as_published(prepared: Prepared) -> bool:
    """Whether all networks of the paper have the published weights, to the last bit."""
    get = cast("Get", prepared.shelf)  # it gives what things say that they make
    for name, learned in prepared.setting.learned.items():
        form = load(published_path(name)) if published_path(name).exists() else {}
        weights = form["network"].state_dict() if form else {}
        now = get(learned).network.state_dict()
        if now.keys() != weights.keys() or not all(torch.equal(now[key], weights[key]) for key in now):
            return False
    return True


def published_on() -> str:
    """The processor that trained what is published."""
    with suppress(KeyError, TypeError):  # it is only said
        return _published_machine()["processor"]
    return "that of the published run"


def published_elsewhere() -> dict[str, str]:
    """Notebooks of which some networks were trained on another processor than the published ones, and on which."""
    with suppress(KeyError, TypeError, ValueError):
        return dict(_published_machine()["elsewhere"])
    return {}


def _published_machine() -> Any:
    with suppress(OSError, ValueError):
        return json.loads((RESULTS / "machine.json").read_text(encoding="utf-8"))
    return None


def _execute_all(jobs: dict[str, dict[str, object]], folder: Path) -> list[Outcome]:
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = []
    with workers(max(1, min(len(jobs), n_cores())), preload=("papermill",), one_way=False) as pool:
        futures = [pool.submit(execute, NOTEBOOKS / f"{name}.ipynb", folder, values) for name, values in jobs.items()]
        for future in as_completed(futures):
            outcome = future.result()
            outcomes.append(outcome)
            if outcome.error:
                print(
                    f"{outcome.notebook} failed: {outcome.error}\n  executed copy: {outcome.executed}", file=sys.stderr
                )
            else:
                print(f"{outcome.notebook}: {outcome.seconds:.0f} s", file=sys.stderr)
    return outcomes


def execute(notebook: Path, folder: Path, parameters: dict[str, object]) -> Outcome:
    """Run one notebook into `folder` with papermill; the copy has its own name only once it has run through."""
    start, final, failed = time.monotonic(), folder / notebook.name, folder / f"{notebook.stem}.failed.ipynb"
    with tempfile.TemporaryDirectory(prefix="cl-", ignore_cleanup_errors=True) as passing:
        running = Path(passing) / notebook.name
        error = _run_cells(notebook, running, parameters)
        target = failed if error else final
        if running.exists():
            _put(running, target)
    if not error:
        failed.unlink(missing_ok=True)
    return Outcome(notebook.stem, time.monotonic() - start, target, error)


def _run_cells(notebook: Path, running: Path, parameters: dict[str, object]) -> str:
    """Run a notebook into another file with papermill; what went wrong, in one line."""
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    logging.getLogger("papermill").setLevel(logging.ERROR)
    config = Config()
    if sys.platform != "win32":  # named sockets: no port can be taken by another notebook in between
        config.KernelManager.transport, config.KernelManager.ip = "ipc", str(running.with_name("kernel"))
    try:
        papermill.execute_notebook(
            notebook, running, parameters, kernel_name="python3", progress_bar=False, log_output=False,
            execution_timeout=_CELL_TIMEOUT, config=config, cwd=str(ROOT),
        )  # fmt: skip
    except PapermillExecutionError as problem:
        message = " ".join(str(problem.evalue).split())
        return f"cell {problem.cell_index} (In [{problem.exec_count}]): {problem.ename}: {message}"
    except Exception as problem:  # a kernel that died, a cell that never ended
        return f"{type(problem).__name__}: {' '.join(str(problem).split())[:500]}"
    return ""


def _put(path: Path, target: Path) -> None:
    """Copy a file from another disk, perhaps, so that nobody sees half of it under the target's name."""
    half = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copyfile(path, half)
    os.replace(half, target)


def _known_parameters(name: str) -> set[str]:
    import papermill

    return set(papermill.inspect_notebook(str(NOTEBOOKS / f"{name}.ipynb")))


def _require_writable(build: Path) -> None:
    try:
        build.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=build):
            pass
    except OSError as error:
        raise ValueError(f"CONVERGENT_BUILD: cannot write in {build}: {error.strerror or error}") from error


def _clear(build: Path, settings: dict[str, object], notebooks: list[str]) -> None:
    """Remove what the notebooks about to run have left, and all that a run with other settings has left."""
    path = build / "results" / "run.json"
    same = last_settings(build) == settings
    for left in [*(build / "results" / "rows").glob("*.json"), *(build / "notebooks").glob("*.ipynb")]:
        if not left.name.startswith(".") and (not same or left.stem in notebooks):
            left.unlink()
    for folder in (build / "notebooks", build / "results", build / "results" / "rows"):
        _sweep(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def _sweep(folder: Path) -> None:
    """Remove what processes that are gone have not finished writing."""
    import psutil

    for path in folder.glob(".*"):
        unfinished = _UNFINISHED.fullmatch(path.name)
        if unfinished and not psutil.pid_exists(int(unfinished[1])):
            path.unlink(missing_ok=True)
