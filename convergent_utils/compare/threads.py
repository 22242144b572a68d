"""Pieces of work side by side, each in one thread: small matrices gain nothing from several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Found = TypeVar("Found")


def side_by_side(jobs: Sequence[Callable[[], Found]]) -> Iterator[Found]:
    """What the jobs return, in their order; as many at once as torch has threads, which it has again afterwards."""
    threads = torch.get_num_threads()
    together = min(threads, len(jobs))
    if together <= 1:
        for job in jobs:
            yield job()
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(together, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            futures = [pool.submit(job) for job in jobs]
            try:
                for future in futures:
                    yield future.result()
            finally:
                for future in futures:
                    future.cancel()
    finally:
        torch.set_num_threads(threads)
