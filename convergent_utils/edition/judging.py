"""A process for one hand-in, with a working copy, package, store, home and temporary folder that are thrown away."""

from __future__ import annotations

import json
import os
import queue
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..making.store import Store

SECONDS, SECONDS_OF_ANSWER = 900, 120  # that a cell, and that an answer or its check may take
SECONDS_OF_ALL = 3600
GRACE = 10  # seconds for what was interrupted to end
PRINTED = 64 * 2**20  # bytes that a cell may print; none of them is kept
ENDED = "the end of its kernel"
_LINE = 2**16  # bytes of the longest word of the process that is listened to
_PACKAGE = Path(__file__).parents[1]
_PASSED_ON = {
    "PATH", "LANG", "LANGUAGE", "TZ", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES",
    "SYSTEMROOT", "PATHEXT", "COMSPEC", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """What went wrong in a cell: the error's name and text, and whether the hand-in's own code had a part in it."""

    name: str
    text: str
    own: bool = True

    def __str__(self) -> str:
        return f"{self.name}: {self.text}" if self.name else f"{self.text}"


class CutShort(Exception):
    """The process of a hand-in has ended, or had to be; the message says why."""


class Judging:
    """The process in which the cells of a hand-in run, one after the other; see `judge` for what it does."""

    def __init__(self, hand_in: Path, scratch: Path) -> None:
        self._scratch, self._token, self._printed = scratch, "", 0
        self._end = time.monotonic() + SECONDS_OF_ALL
        self._words: queue.Queue[list[Problem]] = queue.Queue()  # a list of none, or of one
        self.replaced: list[str] = []  # what cells have replaced outside their notebook, put back since
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(scratch / "package" / _PACKAGE.name / "edition" / "judge.py")],
            cwd=_copied(hand_in, scratch), env=_environment(scratch), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        for target in (self._listen, self._count):
            threading.Thread(target=target, daemon=True).start()

    def ask(self, do: str, seconds: float, **command: object) -> Problem | None:
        """Have something run, and tell what went wrong.

        Raises:
            CutShort: the process has ended, or would not be interrupted.
        """
        self._token, self._printed, problem = secrets.token_hex(16), 0, ""
        line = json.dumps({"do": do, "token": self._token, **command}).encode() + b"\n"
        threading.Thread(target=self._send, args=(line,), daemon=True).start()  # who does not listen must not stop us
        end = min(time.monotonic() + seconds, self._end)
        while (found := self._next_word()) is None:
            if self._process.poll() is not None and self._words.empty():
                raise CutShort(ENDED)
            late = time.monotonic() > end
            if problem and late:
                raise CutShort(f"no result: it {problem}, could not be interrupted and was killed")
            if not problem and (late or self._printed > PRINTED):
                problem = "took too long" if late else f"printed more than {PRINTED // 2**20} MB"
                end = time.monotonic() + GRACE
                self._signal(signal.SIGINT)
        if problem:
            return Problem("", f"no result: it {problem} and was interrupted")
        return found[0] if found else None

    def close(self) -> None:
        """Kill it and what it has left behind, even in a session of its own."""
        self._signal(getattr(signal, "SIGKILL", None))
        self._process.kill()
        self._process.wait()
        for _ in range(100):  # they may be starting others
            if not [_kill(process) for process in self._left_behind()]:
                break
            time.sleep(0.01)

    def _next_word(self) -> list[Problem] | None:
        with suppress(queue.Empty):
            return self._words.get(timeout=0.1)
        return None

    def _signal(self, number: int | None) -> None:
        with suppress(OSError):
            if hasattr(os, "killpg") and number:
                os.killpg(self._process.pid, number)

    def _left_behind(self) -> list[int]:
        """Processes that have our scratch folder in their environment, where the system tells."""
        found, mark = [], os.fsencode(self._scratch)
        for file in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in file.read_bytes():
                    found.append(int(file.parent.name))
        return found

    def _send(self, line: bytes) -> None:
        with suppress(OSError, ValueError):  # it has ended, which `ask` sees
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _listen(self) -> None:
        """Keep what answers the last question; other lines are a hand-in's that has found the pipe."""
        for line in iter(lambda: self._process.stdout.readline(_LINE), b""):
            with suppress(ValueError, RecursionError, TypeError, KeyError):
                word = json.loads(line)
                if word["token"] == self._token:
                    self.replaced = [str(name) for name in word["replaced"]]
                    self._words.put([Problem(*word["error"])] if word["error"] else [])

    def _count(self) -> None:
        """Take what is printed and throw it away."""
        while chunk := os.read(self._process.stderr.fileno(), 2**16):
            self._printed += len(chunk)


def _kill(process: int) -> None:
    with suppress(OSError):
        os.kill(process, signal.SIGKILL)


@contextmanager
def judging(hand_in: Path) -> Iterator[Judging]:
    """A process for this file, and nothing left of it in the end."""
    with tempfile.TemporaryDirectory(prefix="cl-", ignore_cleanup_errors=True) as scratch:
        process = Judging(hand_in, Path(scratch))
        try:
            yield process
        finally:
            process.close()


def _copied(hand_in: Path, scratch: Path) -> Path:
    """Copy all that a hand-in may read, so that it cannot change the originals; the folder to run it in."""
    for name in ("work", "home", "temporary", "build", "store"):
        (scratch / name).mkdir()
    shutil.copy(hand_in, scratch / "work")
    half_written = shutil.ignore_patterns("*.pyc.*", "*.tmp.*")  # by Python and numba, in another process
    shutil.copytree(_PACKAGE, scratch / "package" / _PACKAGE.name, ignore=half_written)
    if (_PACKAGE.parent / "data").is_dir():
        shutil.copytree(_PACKAGE.parent / "data", scratch / "package" / "data")
    for file in Store().path.glob("*.safetensors"):
        with suppress(FileNotFoundError):  # another run is replacing it
            shutil.copy(file, scratch / "store")
    _copy_font_list(scratch / "home" / "matplotlib")
    return scratch / "work"


def _copy_font_list(folder: Path) -> None:
    """What matplotlib has found out about the fonts of this machine: to find it again takes seconds."""
    import matplotlib

    folder.mkdir()
    for file in Path(matplotlib.get_cachedir()).glob("fontlist-*.json"):
        shutil.copy(file, folder)


def _environment(scratch: Path) -> dict[str, str]:
    """What a hand-in may know of the environment: no secret, and no folder but those that are thrown away."""
    known = {name: v for name, v in os.environ.items() if name in _PASSED_ON or name.startswith(("LC_", "CONVERGENT_"))}
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    paths = [str(scratch / "package"), *(path for path in paths if Path(path).resolve() != _PACKAGE.parent)]
    home, temporary = str(scratch / "home"), str(scratch / "temporary")
    known |= {
        "HOME": home,
        "USERPROFILE": home,
        "IPYTHONDIR": home,
        "MPLCONFIGDIR": str(scratch / "home" / "matplotlib"),
    }
    known |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), temporary)
    known |= {"CONVERGENT_STORE": str(scratch / "store"), "CONVERGENT_BUILD": str(scratch / "build")}
    known |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "agg"}
    return known
