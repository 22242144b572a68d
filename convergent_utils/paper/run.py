"""Running the paper: prepare, all notebooks in parallel, the table of claims and its gate."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import BrokenExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch

from ..kernels.checks import require_known
from ..kernels.moments import pair_moments
from ..kernels.mutual_information import mutual_information
from ..kernels.sparse_mapping import sparse_mapping
from ..nets.datasets import absolute_name
from .claims import as_text, build_folder, differences, gather, write_json
from .pool import n_cores, workers
from .prepare import PROFILES, prepare

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
RESULTS = ROOT / "data" / "results"
DEFAULTS = {"dataset": "fashion-mnist", "seed": 0, "profile": "paper"}
_CELL_TIMEOUT = 900  # seconds


@dataclass(frozen=True)
class Outcome:
    """How one notebook went; `error` is one line, empty when it ran through."""

    notebook: str
    seconds: float
    executed: Path
    error: str = ""


def notebook_names(only: list[str] | None = None) -> list[str]:
    """Names of the notebooks in reading order, all or those that start with one of `only`."""
    names = sorted(path.stem for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    chosen = [name for name in names if not only or any(name.startswith(prefix) for prefix in only)]
    for prefix in only or ():
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f"only: no notebook starts with {prefix!r}; there are {', '.join(names)}")
    return chosen


def run(
    *,
    profile: str = "paper",
    dataset: str = "fashion-mnist",
    seed: int = 0,
    only: list[str] | None = None,
    parameters: dict[str, object] | None = None,
) -> int:
    """Regenerate the paper under the build folder and print the table of claims.

    Args:
        profile, dataset, seed: handed to every notebook.
        only: numbers or names of notebooks; None means all.
        parameters: further parameters for the notebooks that know them.

    Returns:
        0; or 1 when a notebook failed, or, with the committed parameters, when a claim contradicts the published one.

    Raises:
        ValueError: an unknown name or parameter, an unreadable data set, an unwritable folder; before anything is run.
    """
    require_known(profile, PROFILES, "profile")
    notebooks, build = notebook_names(only), build_folder()
    settings = {"dataset": absolute_name(dataset), "seed": seed, "profile": profile, **(parameters or {})}
    known = {name: _known_parameters(name) for name in notebooks}
    for parameter in settings:
        require_known(parameter, sorted(set().union(*known.values())), "parameter")
    _require_writable(build)
    os.environ["CONVERGENT_BUILD"], os.environ["CONVERGENT_RUN"] = str(build), "1"
    _compile_kernels()
    prepare(*notebooks, dataset=settings["dataset"], seed=seed, profile=profile)
    _clear(build, settings, notebooks)
    jobs = {
        name: {k: v for k, v in settings.items() if k in known[name] and v != DEFAULTS.get(k)} for name in notebooks
    }
    outcomes = _execute_all(jobs, build / "notebooks")
    rows = gather(build)
    print(f"\n{as_text(rows)}\n\n{len(rows)} claims in {build / 'results' / 'claims.json'}")
    failed = [outcome for outcome in outcomes if outcome.error]
    return 1 if failed else _gate(rows, settings, notebooks)


def _compile_kernels() -> None:
    """Compile once what numba keeps for all processes, so that no two of them do it at the same time."""
    acts = torch.rand(4096, 2, generator=torch.Generator().manual_seed(0))
    mutual_information(acts, acts)
    sparse_mapping(pair_moments(acts, acts), [0.1])


def _gate(rows: list[dict], settings: dict[str, object], notebooks: list[str]) -> int:
    """Fail when, with the committed parameters, a published verdict is contradicted; else print what differs."""
    path = RESULTS / "claims.json"
    published = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    failures, notes = differences(rows, published, notebooks)
    if settings != DEFAULTS:
        failures, notes = [], failures + notes
    for title, lines in (("differs from the published run", notes), ("CONTRADICTS the published run", failures)):
        if lines:
            print(f"\n{title}:\n  " + "\n  ".join(lines))
    return 1 if failures else 0


def _execute_all(jobs: dict[str, dict[str, object]], folder: Path) -> list[Outcome]:
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = []
    with workers(max(1, min(len(jobs), n_cores()))) as pool:
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
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    logging.getLogger("papermill").setLevel(logging.ERROR)
    start, final, failed = time.monotonic(), folder / notebook.name, folder / f"{notebook.stem}.failed.ipynb"
    running, error = folder / f".{notebook.stem}.{os.getpid()}.ipynb", ""
    sockets, config = Path(tempfile.mkdtemp(prefix="cl-")), Config()
    if sys.platform != "win32":  # named sockets: no port can be taken by another notebook in between
        config.KernelManager.transport, config.KernelManager.ip = "ipc", str(sockets / "kernel")
    try:
        papermill.execute_notebook(
            notebook, running, parameters, kernel_name="python3", progress_bar=False, log_output=False,
            execution_timeout=_CELL_TIMEOUT, config=config, cwd=str(ROOT),
        )  # fmt: skip
    except PapermillExecutionError as problem:
        message = " ".join(str(problem.evalue).split())
        error = f"cell {problem.cell_index} (In [{problem.exec_count}]): {problem.ename}: {message}"
    except Exception as problem:  # a kernel that died, a cell that never ended
        error = f"{type(problem).__name__}: {' '.join(str(problem).split())[:500]}"
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
    target = failed if error else final
    if running.exists():
        os.replace(running, target)
    if not error:
        failed.unlink(missing_ok=True)
    return Outcome(notebook.stem, time.monotonic() - start, target, error)


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
    same = path.exists() and json.loads(path.read_text(encoding="utf-8")) == settings
    for left in [*(build / "results" / "rows").glob("*.json"), *(build / "notebooks").glob("*.ipynb")]:
        if not same or left.stem in notebooks:
            left.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def main(arguments: list[str] | None = None) -> int:
    """The console script `convergent`."""
    parser = argparse.ArgumentParser(prog="convergent", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    paper = commands.add_parser("paper", help="regenerate every result and print the table of claims")
    paper.add_argument("--profile", default="paper", help=", ".join(PROFILES))
    paper.add_argument(
        "--dataset", default="fashion-mnist", help="fashion-mnist, cifar10, imagenet, npz:PATH, folder:PATH"
    )
    paper.add_argument("--seed", type=int, default=0, help="base seed; net k has seed + k")
    paper.add_argument("--only", nargs="*", help="numbers of notebooks, such as 00 02")
    paper.add_argument("--parameter", nargs="*", default=[], metavar="NAME=VALUE", help="further notebook parameters")
    commands.add_parser("stability", help="the verdicts of notebooks 00 to 05 at further base seeds")
    publishing = commands.add_parser("publish", help="copy the last run into notebooks/, data/ and README.md")
    publishing.add_argument("--beside", metavar="NAME", help="keep the claims of a run on other images under this name")
    commands.add_parser("course", help="write the notebooks for students and for teachers under the build folder")
    checked = commands.add_parser(
        "check",
        help="run notebooks of students and print how many exercises pass",
        epilog="Runs what students wrote with your rights, on copies that are thrown away. Code that looks for your "
        "files or the network, or is written to deceive the check, is stopped by a container only.",
    )
    checked.add_argument("notebooks", nargs="+", metavar="NOTEBOOK")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "stability":
            from .stability import stability

            return stability()
        if chosen.command in ("course", "check"):
            from . import course

            return course.write_course() if chosen.command == "course" else course.check(chosen.notebooks)
        if chosen.command == "publish":
            from .publish import publish, publish_beside

            return publish_beside(chosen.beside) if chosen.beside else publish()
        extra = dict(pair.partition("=")[::2] for pair in chosen.parameter)
        extra = {name: _value(text) for name, text in extra.items()}
        return run(
            profile=chosen.profile, dataset=chosen.dataset, seed=chosen.seed, only=chosen.only or None, parameters=extra
        )  # fmt: skip
    except BrokenExecutor:
        print("convergent: a worker process was killed, most likely for lack of memory", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"convergent: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
