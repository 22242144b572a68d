"""Several processes of this machine that measure together, started for it."""

from __future__ import annotations

import io
import pickle
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, BrokenExecutor, wait
from pathlib import Path
from typing import TypeVar

import torch.distributed

from ..kernels.checks import as_count, came, in_one_line
from ..making.pool import workers
from ..making.store import load, save

_MOST = 256
_Found = TypeVar("_Found")


def as_processes(processes: object, progress: object) -> int:
    """How many, where it is a number of them."""
    count = as_count(processes, "processes", at_most=_MOST)
    if count > 1 and callable(progress):
        raise ValueError("progress: expected True, False or None where there are several processes, got a function")
    if count > 1 and torch.distributed.is_available() and torch.distributed.is_initialized():
        raise ValueError(f"processes: expected 1 under torchrun, whose processes measure together, got {count}")
    return count


def in_processes(count: int, function: Callable[..., _Found], arguments: Mapping[str, object]) -> _Found:
    """What a function of the package returns, called in several processes that torch.distributed connects.

    Args:
        count: how many, of one thread each.
        function: called in all with the same arguments; its result can be saved.
        arguments: by name; they are sent to the processes.

    Raises:
        ValueError: arguments that cannot be sent, a process that ended; and what the function raises.
    """
    sent = _packed(arguments)
    with tempfile.TemporaryDirectory(prefix="convergent-") as folder, workers(count, one_way=False) as executor:
        jobs = [executor.submit(_call, number, count, folder, function, sent) for number in range(count)]
        try:
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            for job in done:
                job.result()
        except BrokenExecutor as error:
            hint = 'a script calls this under if __name__ == "__main__"; where memory was lacking, take fewer'
            raise ValueError(f"processes: one of them ended before its time; {hint}") from error
        return load(Path(folder) / "found.safetensors")


def _packed(arguments: Mapping[str, object]) -> bytes:
    """The arguments as another process can have them."""
    file = io.BytesIO()
    try:
        pickle.dump(dict(arguments), file, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # whatever somebody's own may raise
        message = "networks, inputs and functions cannot be sent to other processes; define them in a module"
        raise ValueError(f"processes: {message}, or take processes=1: {in_one_line(error, 100)}") from error
    return file.getvalue()


def _call(number: int, count: int, folder: str, function: Callable[..., object], sent: bytes) -> None:
    """In each process: meet the others, call the function, and keep what it returns."""
    try:
        arguments = pickle.loads(sent)
    except Exception as error:  # as of a class that this process cannot import
        message = "networks, inputs and functions cannot be found by other processes; define them in a module"
        raise ValueError(f"processes: {message}, or take processes=1: {came(str(error), 100)}") from error
    meeting = f"file://{folder}/meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=number, world_size=count)
    try:
        found = function(**{**arguments, "progress": arguments.get("progress") if number == 0 else False})
        if number == 0:
            save(found, Path(folder) / "found.safetensors")
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()
