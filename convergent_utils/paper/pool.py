"""A pool of one-thread processes with one line that tells how far they are."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass

import torch

if sys.platform == "linux":
    from multiprocessing import forkserver

_reports: multiprocessing.Queue | None = None


@contextlib.contextmanager
def workers(
    count: int, *, start: Callable[..., None] | None = None, arguments: tuple = ()
) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes of one thread each, which end with the process that started them, even if it is killed.

    On Linux they are forked from one that imports the package once and computes nothing; elsewhere each imports it.
    `start` is called in each with the arguments before its first job.
    """
    with one_thread_each():  # libraries read how many threads they may start when they are imported
        context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        if sys.platform == "linux":
            context.set_forkserver_preload(["convergent_utils.paper.prepare"])
            forkserver.ensure_running()
        executor = ProcessPoolExecutor(count, context, _begin, (dict(os.environ), start, arguments))
        try:
            yield executor
        finally:
            executor.shutdown(cancel_futures=True)


def _begin(environment: dict[str, str], start: Callable[..., None] | None, arguments: tuple) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    _follow_parent()
    if start is not None:
        start(*arguments)


def _report_to(reports: multiprocessing.Queue) -> None:
    global _reports
    _reports = reports


def _follow_parent() -> None:
    """End this worker when the process that started it ends, even when that one was killed."""
    parent = multiprocessing.parent_process()

    def follow() -> None:
        """Wait for the parent's end, then end at once."""
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


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

    def __exit__(self, *problem: object) -> None:
        self._stack.close()

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
        try:
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
        except BaseException:
            for process in list(self._started()._processes.values()):
                process.terminate()
            raise
        line.close()

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            self._reports = multiprocessing.get_context("spawn").Queue()
            self._executor = self._stack.enter_context(
                workers(n_cores() + 1, start=_report_to, arguments=(self._reports,))
            )
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

    def close(self) -> None:
        """Say how long it took."""
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
def one_thread_each() -> Iterator[None]:
    """Processes started within it compute with one thread each: together they use all cores without spinning."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    with environment(dict.fromkeys(names, "1")):
        yield


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
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
