"""Running the paper: prepare, all notebooks in parallel, the table of claims and its gate."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
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
from .pool import environment, n_cores, workers
from .prepare import PROFILES, prepare, require_settings

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
RESULTS = ROOT / "data" / "results"
DEFAULTS = {"dataset": "fashion-mnist", "seed": 0, "profile": "paper"}
_CELL_TIMEOUT = 900  # seconds
_UNFINISHED = re.compile(r"\..+\.(\d+)(\.ipynb)?")  # a file that a process, of this number, has not renamed yet


@dataclass(frozen=True)
class Outcome:
    """How one notebook went; `error` is one line, empty when it ran through."""

    notebook: str
    seconds: float
    executed: Path
    error: str = ""


def notebook_names(only: Sequence[str] | None = None) -> list[str]:
    """Names of the notebooks in reading order, all or those that start with one of `only`."""
    names = sorted(path.stem for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if only is None:
        return names
    if isinstance(only, str) or not isinstance(only, Sequence) or not only:
        raise ValueError(f'only: expected numbers or names of notebooks in a list, such as ["02"], got {only!r:.80}')
    for prefix in only:
        if not (isinstance(prefix, str) and prefix and any(name.startswith(prefix) for name in names)):
            raise ValueError(f"only: no notebook starts with {prefix!r:.80}; there are {', '.join(names)}")
    return [name for name in names if name.startswith(tuple(only))]


def run(
    *,
    profile: str = "paper",
    dataset: str = "fashion-mnist",
    seed: int = 0,
    only: Sequence[str] | None = None,
    parameters: Mapping[str, object] | None = None,
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
    require_settings(profile=profile, dataset=dataset, seed=seed)
    notebooks, build = notebook_names(only), build_folder()
    settings = {"dataset": absolute_name(dataset), "seed": int(seed), "profile": profile}
    settings |= _further(parameters or {}, settings)
    known = {name: _known_parameters(name) for name in notebooks}
    for parameter in settings:
        require_known(parameter, sorted(set().union(*known.values())), "parameter")
    _require_writable(build)
    jobs = {
        name: {k: v for k, v in settings.items() if k in known[name] and v != DEFAULTS.get(k)} for name in notebooks
    }
    with environment({"CONVERGENT_BUILD": str(build), "CONVERGENT_RUN": "1"}):  # as the notebooks shall see it
        _compile_kernels()
        prepare(*notebooks, **{name: settings[name] for name in DEFAULTS})
        _clear(build, settings, notebooks)
        outcomes = _execute_all(jobs, build / "notebooks")
    rows = gather(build)
    print(f"\n{as_text(rows)}\n\n{len(rows)} claims in {build / 'results' / 'claims.json'}")
    failed = [outcome for outcome in outcomes if outcome.error]
    return 1 if failed else _gate(rows, settings, notebooks)


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


def last_settings(build: Path) -> dict[str, object]:
    """With what the last run in this build folder was made; empty where there was none."""
    try:
        found = json.loads((build / "results" / "run.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


class _Parser(argparse.ArgumentParser):
    """One whose errors are one line, as all others are."""

    def error(self, message: str) -> None:
        """Raise what `main` prints."""
        raise ValueError(f"{' '.join(message.split()):.240}; see `{self.prog} --help`")


def _pair(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, _value(value)


def _parser() -> _Parser:
    parser = _Parser(prog="convergent", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    paper = commands.add_parser("paper", help="regenerate every result and print the table of claims")
    paper.add_argument("--profile", default="paper", help=", ".join(PROFILES))
    paper.add_argument(
        "--dataset", default="fashion-mnist", help="fashion-mnist, cifar10, imagenet, npz:PATH, folder:PATH"
    )
    paper.add_argument("--seed", type=int, default=0, help="base seed; net k has seed + k")
    paper.add_argument("--only", nargs="+", action="extend", help="numbers of notebooks, such as 00 02")
    paper.add_argument(
        "--parameter", nargs="+", action="extend", default=[], type=_pair, metavar="NAME=VALUE",
        help="further notebook parameters; a value is JSON, or else a text",
    )  # fmt: skip
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
    return parser


def _command(chosen: argparse.Namespace) -> int:
    if chosen.command == "stability":
        from .stability import stability

        return stability()
    if chosen.command in ("course", "check"):
        from . import course

        return course.write_course() if chosen.command == "course" else course.check(chosen.notebooks)
    if chosen.command == "publish":
        from .publish import publish, publish_beside

        return publish() if chosen.beside is None else publish_beside(chosen.beside)
    names = [name for name, _ in chosen.parameter]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"parameter: {twice!r} is given twice")
    return run(
        profile=chosen.profile, dataset=chosen.dataset, seed=chosen.seed, only=chosen.only,
        parameters=dict(chosen.parameter),
    )  # fmt: skip


@contextlib.contextmanager
def _stopped_as_interrupted() -> Iterator[None]:
    """A request to end is met as an interrupt is: workers end first. Both are heard once."""

    def stop(number: int, _: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}  # asked not to hear
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: list[str] | None = None) -> int:
    """The console script `convergent`."""
    try:
        with _stopped_as_interrupted():
            return _command(_parser().parse_args(arguments))
    except KeyboardInterrupt as stopped:
        said, status = "interrupted; what was finished is kept, start again to go on", 128 + (stopped.args or (2,))[0]
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("convergent_utils"):
            raise
        said, status = f"{error.name}: not installed; `pip install --editable '.[paper]'` in the project brings it", 2
    except BrokenExecutor:
        said, status = "a worker process was killed, most likely for lack of memory", 2
    except (ValueError, OSError) as error:
        said, status = str(error), 2
    print(f"convergent: {said}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
