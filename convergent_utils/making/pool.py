"""A pool of one-thread processes with one line that tells how far they are."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from multiprocessing import resource_tracker, util
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess
    from types import TracebackType

    import filelock

if sys.platform == "linux":
    from multiprocessing import forkserver

# One way of computing for all x86 processors with AVX2, whatever else they have: the same bits from the same seeds.
ONE_WAY = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE"}
_SCRATCH = "cl-run-"  # how the names of folders for passing files begin
_LONGEST = 59  # characters of the temporary folder: names of sockets below it may have 107
_SECONDS_TO_END = 5.0  # before a process that was asked to end is killed
_reports: multiprocessing.Queue  # in a worker of a pool
_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


@contextlib.contextmanager
def workers(
    count: int,
    *,
    start: Callable[..., None] | None = None,
    arguments: tuple = (),
    preload: tuple[str, ...] = (),
    one_way: bool = True,
) -> Generator[ProcessPoolExecutor]:
    """A pool of processes of one thread each, which end with the process that started them, even if it is killed.

    On Linux they are forked from one that imports the package once and computes nothing; elsewhere each imports it.
    `start` is called in each with the arguments before its first job. What all jobs import can be named in `preload`,
    for the first pool of a process. They compute with the instructions that all x86 processors with AVX2 have, so
    that the same seeds give the same bits on all of them; what they start may use all that there are, if not `one_way`.
    """
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    asked = one_way_of_computing() if one_way else {}
    with one_thread_each(), environment({"TMPDIR": str(scratch()), **asked}):
        if sys.platform == "linux":
            context.set_forkserver_preload([__name__.partition(".")[0], *preload])
            with environment(one_way_of_computing()):  # libraries may read these values when they are loaded
                _start_forkserver()
        executor = _Executor(count, context, _begin, (dict(os.environ), start, arguments))
        try:
            yield executor
        except BaseException:
            _end_processes(executor)
            raise
        finally:
            executor.shutdown(cancel_futures=True)


class _Executor(ProcessPoolExecutor):
    """Starts its processes with its first jobs; none may be on its way, known to nobody, when all are ended."""

    def submit(self, job: Callable[_Given, _Found], /, *given: _Given.args, **named: _Given.kwargs) -> Future[_Found]:
        """As that of ProcessPoolExecutor, and whole."""
        with _signals_later():
            return super().submit(job, *given, **named)


@contextlib.contextmanager
def _signals_later() -> Generator[None]:
    """An interrupt or a request to end that arrives within is met at its end."""
    if threading.current_thread() is not threading.main_thread():  # where none is met
        yield
        return
    heard: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: heard.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        for number in heard[:1]:
            signal.raise_signal(number)


def _start_forkserver() -> None:
    """Start the process that workers are forked from, deaf to the interrupt that a terminal sends to all."""
    resource_tracker.ensure_running()  # starting it would undo the mask
    with _signals_later():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_processes(executor: ProcessPoolExecutor) -> None:
    """Ask all workers to end, and kill those that do not."""
    processes, latest = list((executor._processes or {}).values()), time.monotonic() + _SECONDS_TO_END
    for process in processes:
        process.terminate()
    while any(process.is_alive() for process in processes):
        if time.monotonic() > latest:
            for process in processes:
                process.kill()
        time.sleep(0.02)


def _begin(environment: dict[str, str], start: Callable[..., None] | None, arguments: tuple) -> None:
    os.environ.clear()  # what the process had from which it was forked may be out of date
    os.environ.update(environment)
    tempfile.tempdir = None  # to be looked up anew
    torch.set_num_threads(1)
    _heed_signals()
    _follow_parent()
    if start is not None:
        start(*arguments)


def _heed_signals() -> None:
    """An interrupt is the parent's affair; a request to end is heeded at once, without a word."""
    signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which kernels started here would inherit
    signal.signal(signal.SIGTERM, lambda *_: _end())
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _end() -> None:
    """End this process, and first those that it has started: kernels of notebooks, in sessions of their own."""
    with contextlib.suppress(Exception):  # without the extra `paper` there is no psutil, and no kernel
        import psutil

        for child in psutil.Process().children(recursive=True):
            child.kill()
    os._exit(1)


def _report_to(reports: multiprocessing.Queue) -> None:
    global _reports
    _reports = reports


def _follow_parent() -> None:
    """End this worker when the process that started it ends, even when that one was killed."""

    def follow(parent: BaseProcess) -> None:
        """Wait for the parent's end, then end at once."""
        parent.join()
        _end()

    threading.Thread(target=follow, args=(multiprocessing.parent_process(),), daemon=True).start()


@cache
def scratch() -> Path:
    """The folder for what this process and its workers need in passing, gone when it ends.

    It lies in the temporary folder and is locked as long as the process lives: those that killed processes have left
    are the unlocked ones, and are swept away.
    """
    parent = Path(tempfile.gettempdir())
    if len(str(parent)) > _LONGEST and os.access("/tmp", os.W_OK):
        parent = Path("/tmp")
    _sweep(parent)
    folder, lock = _locked_folder(parent)
    # after the folder that multiprocessing makes within, and removes with priority -100
    util.Finalize(None, _remove_scratch, (folder, lock, os.getpid()), exitpriority=-200)
    with environment({"TMPDIR": str(folder)}):
        before, tempfile.tempdir = tempfile.tempdir, None
        util.get_temp_dir()
        tempfile.tempdir = before
    return folder


def _locked_folder(parent: Path) -> tuple[Path, filelock.FileLock]:
    import filelock

    folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=parent))
    lock = filelock.FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, FileNotFoundError):  # swept by another run before it was locked
        return _locked_folder(parent)
    return folder, lock


def _remove_scratch(folder: Path, lock: filelock.FileLock, owner: int) -> None:
    if os.getpid() == owner:  # and not a process forked from it
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        _sweep(folder.parent)  # once more: kernels of a run just killed may have outlived it by a moment


def _sweep(parent: Path) -> None:
    """Remove the folders of processes that are gone."""
    import filelock

    for folder in parent.glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError):  # held, another user's, or just gone
            if folder.is_symlink() or (hasattr(os, "getuid") and folder.stat().st_uid != os.getuid()):
                continue
            with filelock.FileLock(folder / "lock", timeout=0):
                shutil.rmtree(folder, ignore_errors=True)


def _job(number: int, function: Callable, arguments: tuple) -> None:
    function(*arguments, report=lambda share: _reports.put((number, share)))


@dataclass(frozen=True)
class Job:
    """One thing to do.

    Attributes:
        title: what is being done and to what, such as ("training", "net1"), for the line that is shown.
        function: called in another process with `arguments` and report=, a function to be called with the share done.
        seconds: what it takes, about.
    """

    title: tuple[str, str]
    function: Callable
    arguments: tuple
    seconds: float


class Pool:
    """A pool of one-thread processes, and one line that tells how far they are.

        with Pool() as pool:
            pool.run(jobs)

    Processes start with the first job that needs one and end with the block. There is one more than cores, for jobs
    that may share a core; see `run`.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._executor: ProcessPoolExecutor | None = None
        self._numbers = itertools.count()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def run(self, jobs: list[Job], *, extra: int = 0) -> None:
        """Run the jobs, as many at once as there are cores.

        Args:
            jobs: none is fine.
            extra: 1 for one job more at once: five equal jobs on two cores then take the time of two and a half where
                they would take that of three; each needs its memory.
        """
        if not jobs:
            return
        at_once = min(len(jobs), n_cores() + extra)
        line = Progress(_title(jobs), sum(job.seconds for job in jobs) / min(len(jobs), n_cores()))
        waiting = [(next(self._numbers), job) for job in reversed(jobs)]
        shares, pending = {number: 0.0 for number, _ in waiting}, {}
        with line:
            while waiting or pending:
                while waiting and len(pending) < at_once:
                    number, job = waiting.pop()
                    pending[self._started().submit(_job, number, job.function, job.arguments)] = number
                finished, _ = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                self._hear(shares)
                for future in finished:
                    shares[pending.pop(future)] = 1.0
                    future.result()
                line.show(sum(shares.values()) / len(jobs))

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            self._reports = multiprocessing.get_context("spawn").Queue()
            preload = ("torch._dynamo",)  # which torch's optimisers import
            started = workers(n_cores() + 1, start=_report_to, arguments=(self._reports,), preload=preload)
            self._executor = self._stack.enter_context(started)
        return self._executor

    def _hear(self, shares: dict[int, float]) -> None:
        """Take in what the running jobs have reported."""
        with contextlib.suppress(queue.Empty):
            while True:
                number, share = self._reports.get_nowait()
                if number in shares:
                    shares[number] = share


def _title(jobs: list[Job]) -> str:
    """All that is being done, each kind of thing once."""
    kinds: dict[str, dict[str, None]] = {}
    for kind, what in (job.title for job in jobs):
        kinds.setdefault(kind, {})[what] = None
    return "; ".join(f"{kind} {', '.join(whats)}".strip() for kind, whats in kinds.items())


class Progress:
    """One line that tells what is being done, how far it is and how long it will take."""

    def __init__(self, title: str, estimate: float):
        self.title, self.start, self.shown = title, time.monotonic(), -1.0
        self.live = sys.stderr.isatty()
        self._write(f"{title}: about {_minutes(estimate)}")

    def show(self, share: float) -> None:
        """Say how far it is: at a terminal at once, elsewhere every tenth."""
        if share >= 0.05 and (self.live or share >= self.shown + 0.1):
            elapsed = time.monotonic() - self.start
            self._write(f"{self.title}: {share:.0%}, {_minutes(elapsed * (1 - share) / share)} left")
            self.shown = share

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *problem: object) -> None:
        """Say how long it took, if it is done; what is said next begins a line."""
        if problem[0] is None:
            self._write(f"{self.title}: done in {_minutes(time.monotonic() - self.start)}")
        if self.live:
            sys.stderr.write("\n")

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\033[K{text}" if self.live else f"{text}\n")
        sys.stderr.flush()


def n_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def one_thread_each() -> Generator[None]:
    """Processes started within it compute with one thread each: together they use all cores without spinning."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    with environment(dict.fromkeys(names, "1")):
        yield


def one_way_of_computing() -> dict[str, str]:
    """The environment variables that choose it where the processor can; elsewhere none."""
    return dict(ONE_WAY) if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else {}


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Generator[None]:
    """Environment variables with these values; in the end they are as they were."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
