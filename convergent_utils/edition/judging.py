"""Processes for hand-ins, with copies of package, data and store, a home and a temporary folder that are thrown away.

One hand-in runs after the other, always in the same folder, which is made anew for each. What hand-ins have in common,
the text of their notebook, runs once, in a process that no hand-in reaches; each goes on from a copy of that process.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

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
_CAN_COPY = sys.platform == "linux"  # elsewhere the system's own libraries do not stand it
_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}  # a copy has no other


@dataclass(frozen=True)
class Prologue:
    """What runs before the first exercise.

    Attributes:
        preparing: code that runs before all else.
        imports: of the project's notebook.
        cells: sources, each with whether it is the project's own.
        common: whether other hand-ins have the same.
    """

    preparing: str
    imports: tuple[str, ...]
    cells: tuple[tuple[str, bool], ...]
    common: bool = False


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


class Copy:
    """The copy of a process, with what `subprocess.Popen` has of a process that is started."""

    def __init__(self, number: int, pipes: Sequence[int]) -> None:
        self.pid = number
        self.stdin, self.stdout, self.stderr = (
            os.fdopen(pipe, how) for pipe, how in zip(pipes, ("wb", "rb", "rb"), strict=True)
        )

    def poll(self) -> int | None:
        """None as long as it lives."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0
        return None

    def kill(self) -> None:
        """Kill it, if it lives."""
        _kill(self.pid)

    def wait(self) -> None:
        """Wait for its end, which whoever made the copy must have seen; it may be that it cannot see."""
        end = time.monotonic() + GRACE
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.01)


class Judging:
    """The process in which cells run, one after the other; see `judge` for what it does."""

    def __init__(
        self, process: subprocess.Popen | Copy, scratch: Path, control: socket.socket | None = None, spared: int = 0
    ) -> None:
        self._process, self._scratch, self._control, self._spared = process, scratch, control, spared
        pipes = process.stdin, process.stdout, process.stderr
        self._stdin, self._stdout, self._stderr = cast("tuple[IO[bytes], ...]", pipes)  # it was started with all three
        self._token, self._printed, self._copy = "", 0, None
        self._end = time.monotonic() + SECONDS_OF_ALL
        self._words: queue.Queue[list[Problem]] = queue.Queue()  # a list of none, or of one
        self._silent = threading.Event()  # no word can come any more
        self.replaced: list[str] = []  # what cells have replaced outside their notebook, put back since
        for target in (self._listen, self._count):
            threading.Thread(target=target, daemon=True).start()

    @property
    def number(self) -> int:
        """Of the process."""
        return self._process.pid

    def prepare(self, prologue: Prologue) -> list[Problem | None]:
        """Run a prologue, and tell what went wrong in each of its cells; it ends with the first that fails.

        Raises:
            CutShort: the process has ended, or would not be interrupted.
        """
        self.ask("start", SECONDS, preparing=prologue.preparing, imports=prologue.imports)
        said = []
        for source, own in prologue.cells:
            said.append(self.ask("run", SECONDS, source=source, own=own))
            if said[-1]:
                break
        return said

    def copied(self, folder: Path) -> Judging | None:
        """A copy of this process that goes on in a folder; None where none can be made."""
        if self._control is None:
            return None
        inside, outside = zip(*(_pipe(reads) for reads in (True, False, False)), strict=True)
        try:
            socket.send_fds(self._control, [b" "], inside)
            refused = self.ask("fork", GRACE, folder=str(folder))
        except (CutShort, OSError):
            refused = Problem("", ENDED)
        finally:
            for pipe in inside:
                os.close(pipe)
        if refused or not self._copy:
            for pipe in outside:
                os.close(pipe)
            return None
        return Judging(Copy(self._copy, outside), self._scratch, spared=self.number)

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
            if (self._silent.is_set() or self._process.poll() is not None) and self._words.empty():
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
        if self._control:
            self._control.close()
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
                if mark in file.read_bytes() and int(file.parent.name) != self._spared:
                    found.append(int(file.parent.name))
        return found

    def _send(self, line: bytes) -> None:
        with suppress(OSError, ValueError):  # it has ended, which `ask` sees
            self._stdin.write(line)
            self._stdin.flush()

    def _listen(self) -> None:
        """Keep what answers the last question; other lines are a hand-in's that has found the pipe."""
        for line in iter(lambda: self._stdout.readline(_LINE), b""):
            with suppress(ValueError, RecursionError, TypeError, KeyError):
                word = json.loads(line)
                if word["token"] == self._token:
                    self.replaced, self._copy = [str(name) for name in word["replaced"]], word["copy"]
                    self._words.put([Problem(*word["error"])] if word["error"] else [])
        self._silent.set()

    def _count(self) -> None:
        """Take what is printed and throw it away."""
        while chunk := os.read(self._stderr.fileno(), 2**16):
            self._printed += len(chunk)


def _kill(process: int) -> None:
    with suppress(OSError):
        os.kill(process, signal.SIGKILL)


def _pipe(read_inside: bool) -> tuple[int, int]:
    """A pipe: its end inside the process that is copied, and ours."""
    reads, writes = os.pipe()
    return (reads, writes) if read_inside else (writes, reads)


class Court:
    """Where hand-ins run, one after the other.

    Args:
        folder: empty; it belongs to nobody else.
    """

    def __init__(self, folder: Path) -> None:
        self._scratch = folder / "scratch"
        self._prologue: Prologue | None = None  # that was run last for all, in this process, and what was said of it
        self._model: Judging | None = None
        self._said: list[Problem | None] = []

    @contextmanager
    def judging(
        self, hand_in: Path, prologue: Prologue, files: Iterable[Path] | None = None
    ) -> Generator[tuple[Judging, list[Problem | None]]]:
        """A process for this file that has run its prologue, and nothing left of it in the end.

        Args:
            hand_in: the file.
            prologue: what runs before the first exercise.
            files: of the store, all that it reads; None: the whole store.

        Raises:
            CutShort: the process has ended in its prologue, or would not be interrupted.
        """
        model = self._model_of(prologue, files) if prologue.common and _CAN_COPY else None
        folder = self._fresh(hand_in, files)
        process = model.copied(folder) if model else None
        said = self._said if process else None
        if process is None:
            process = _started(folder, _environment(self._scratch), spared=self._model)
        try:
            yield process, process.prepare(prologue) if said is None else said
        finally:
            process.close()

    def close(self) -> None:
        """End the process that has run what is common to all."""
        if self._model:
            self._model.close()
        self._prologue = self._model = None

    def _model_of(self, prologue: Prologue, files: Iterable[Path] | None) -> Judging | None:
        """The process that has run a prologue that several have, for each of them to go on from a copy of it."""
        if self._prologue != prologue:
            self.close()
            folder = self._fresh(None, files)
            self._model = _started(folder, _environment(self._scratch) | _ONE_THREAD)
            self._said = self._model.prepare(prologue)
            self._prologue = prologue
        return self._model

    def _fresh(self, hand_in: Path | None, files: Iterable[Path] | None) -> Path:
        """Copy what a hand-in may read to where the last had it, whatever is left there; the folder to run in."""
        outer = self._scratch.parent
        outer.mkdir(exist_ok=True)
        outer.chmod(0o700)
        with tempfile.TemporaryDirectory(dir=outer, ignore_cleanup_errors=True) as old, suppress(FileNotFoundError):
            self._scratch.rename(Path(old) / "scratch")
        self._scratch.mkdir()
        return _copied(hand_in, self._scratch, files)


@contextmanager
def court() -> Generator[Court]:
    """A court, and nothing left of it in the end."""
    with tempfile.TemporaryDirectory(prefix="cl-", ignore_cleanup_errors=True) as folder:
        found = Court(Path(folder))
        try:
            yield found
        finally:
            found.close()


def _started(folder: Path, environment: dict[str, str], spared: Judging | None = None) -> Judging:
    """A new process that judges in a folder; what it leaves behind is ended with it, but not the spared process."""
    scratch = folder.parent
    ours, its = socket.socketpair() if _CAN_COPY else (None, None)
    script = str(scratch / "package" / _PACKAGE.name / "edition" / "judge.py")
    process = subprocess.Popen(
        [sys.executable, "-P", script, str(its.fileno() if its else -1)], cwd=folder, env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        pass_fds=[its.fileno()] if its else [],
    )  # fmt: skip
    if its:
        its.close()
    return Judging(process, scratch, ours, spared.number if spared else 0)


def _copied(hand_in: Path | None, scratch: Path, files: Iterable[Path] | None = None) -> Path:
    """Copy all that a hand-in may read, so that it cannot change the originals; the folder to run it in."""
    for name in ("work", "home", "temporary", "build", "store"):
        (scratch / name).mkdir()
    if hand_in:
        shutil.copy(hand_in, scratch / "work")
    half_written = shutil.ignore_patterns("*.pyc.*", "*.tmp.*")  # by Python and numba, in another process
    shutil.copytree(_PACKAGE, scratch / "package" / _PACKAGE.name, ignore=half_written)
    if (_PACKAGE.parent / "data").is_dir():
        shutil.copytree(_PACKAGE.parent / "data", scratch / "package" / "data")
    for file in Store().path.glob("*.safetensors") if files is None else files:
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
