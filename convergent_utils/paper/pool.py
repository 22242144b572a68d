"""A pool of one-thread processes with one line that tells how far they are."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

import torch

_reports: multiprocessing.Queue | None = None


def _start_worker(reports: multiprocessing.Queue) -> None:
    global _reports
    _reports = reports
    torch.set_num_threads(1)
    follow_parent()


def follow_parent() -> None:
    """End this worker when the process that started it ends, even when that one was killed."""
    parent = multiprocessing.parent_process()

    def follow() -> None:
        """Wait for the parent's end, then end at once."""
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _job(number: int, function: Callable, arguments: tuple) -> None:
    function(*arguments, report=lambda share: _reports.put((number, share)))


def run_jobs(title: str, jobs: list[tuple[Callable, tuple]], seconds: float, *, extra_workers: int = 0) -> None:
    """Run jobs in a pool of one-thread processes, with one line that tells how far they are.

    There are as many processes as cores, and `extra_workers`: with one more, five equal jobs on two cores take the time
    of two and a half where they would take that of three; each more needs its memory.
    """
    if not jobs:
        return
    workers = min(len(jobs), n_cores() + extra_workers)
    context = multiprocessing.get_context("spawn")
    reports, shares = context.Queue(), dict.fromkeys(range(len(jobs)), 0.0)
    line = Progress(title, seconds / min(len(jobs), n_cores()))
    with one_thread_each(), ProcessPoolExecutor(workers, context, _start_worker, (reports,)) as pool:
        pending: dict[Future, int] = {pool.submit(_job, k, *job): k for k, job in enumerate(jobs)}
        try:
            while pending:
                finished, _ = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                with contextlib.suppress(queue.Empty):
                    while True:
                        number, share = reports.get_nowait()
                        shares[number] = share
                for future in finished:
                    shares[pending.pop(future)] = 1.0
                    future.result()
                line.show(sum(shares.values()) / len(jobs))
        except BaseException:
            for process in list(pool._processes.values()):
                process.terminate()
            pool.shutdown(cancel_futures=True)
            raise
    line.close()


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
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
