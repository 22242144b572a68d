"""Saving results: one safetensors file each, checksummed and written atomically; nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import sys
import uuid
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..kernels.checks import came, in_one_line, shown
from .checkout import kept_folder
from .checksums import checksum
from .encoding import decode, encode

_KIND = re.compile(r"[A-Za-z0-9_-]{1,100}")
_FORM = 1  # of the files; raise it when their layout changes
_UNFINISHED = re.compile(r"\.(.+-[0-9a-f]{16}\.safetensors)\.[0-9a-f]{32}")  # the name a result has while it is written


class DamagedFile(ValueError):
    """A file of the store that is truncated, altered or no file of ours."""


def save(obj: object, path: str | os.PathLike[str]) -> None:
    """Write a result of this package (or nested dicts, lists and tuples of them, of tensors and of plain values).

    Written under another name first and renamed, so that a reader never sees half a file.

    Raises:
        ValueError: an object that `load` could not make again, or a file that cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     save({"layer": "conv1", "scores": [0.9, 0.8]}, f"{folder}/found.safetensors")
        ...     load(f"{folder}/found.safetensors")
        {'layer': 'conv1', 'scores': [0.9, 0.8]}
    """
    path = _as_path(path)
    try:
        _write(obj, path, {})
    except OSError as error:
        raise ValueError(f"path: cannot write {shown(path)}: {in_one_line(error.strerror or error)}") from error


def load(path: str | os.PathLike[str]) -> Any:
    """Read what `save` wrote.

    Raises:
        ValueError: the file is missing, cannot be read, or is not one of this package.
        DamagedFile: it is truncated or altered (its checksum does not fit), or not one of this package; a ValueError.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     save(semi_matching(torch.eye(2)), f"{folder}/match.safetensors")
        ...     load(f"{folder}/match.safetensors").index
        tensor([0, 1])
    """
    path = _as_path(path)
    if not os.path.isfile(path):  # false, too, of a path too long
        raise ValueError(f"path: there is no file {shown(path)}")
    try:
        return _read(path)[0]
    except OSError as error:
        raise ValueError(f"path: cannot read {shown(path)}: {in_one_line(error.strerror or error)}") from error
    except DamagedFile as error:
        raise DamagedFile(f"path: {error}") from error


class Store:
    """A folder of results, found again by the configuration that made them.

    Args:
        path: the folder; default: that named by CONVERGENT_STORE, else build/store in a checkout of the project, or, of
            a package that pip installed, `convergent-learning/store` in the user's cache.

    Each file carries its configuration and a checksum, so there is no index that could disagree with it. Any number of
    runs may share a store: a file is replaced or removed only by who holds its lock, and the system takes the lock from
    a process that ends, however it ends. Nothing depends on the time of a file.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     store = Store(folder)
        ...     path = store.keep("mean", {"layer": "conv1"}, 0.5)
        ...     store.find("mean", {"layer": "conv1"}), store.find("mean", {"layer": "conv2"})
        (0.5, None)
    """

    def __init__(self, path: str | os.PathLike[str] | None = None):
        if path is not None:
            found = _as_path(path)
        else:
            found = _as_path(os.environ.get("CONVERGENT_STORE") or kept_folder() / "store", "CONVERGENT_STORE")
        self.path = found.absolute()

    def require_writable(self) -> None:
        """Raise at once, in one line, where nothing could be kept; sweep up what killed runs left unfinished."""
        probe = self.path / f".probe-{uuid.uuid4().hex}"
        with self._told("write in"):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                probe.write_bytes(b"")
            finally:
                probe.unlink(missing_ok=True)
            self._sweep()

    def file(self, kind: str, configuration: Mapping[str, object]) -> Path:
        """Where the result of a configuration lies, whether it exists or not.

        Raises:
            ValueError: a kind that is no plain name, a configuration that is not made of plain values.
        """
        if not isinstance(kind, str) or not _KIND.fullmatch(kind):
            raise ValueError(f"kind: expected letters, digits, dashes and underscores, at most 100, got {came(kind)}")
        return self.path / f"{kind}-{configuration_hash(configuration)}.safetensors"

    def find(self, kind: str, configuration: Mapping[str, object], *, remove: bool = True) -> Any:
        """The result of a configuration, or None; a store that cannot be written serves as well.

        A damaged file is named in a warning and removed, to be made anew; one that cannot be removed, or that another
        run is about to replace, is left alone. With ``remove`` false it is named alone.

        Raises:
            ValueError: the file is there and cannot be read.
        """
        path = self.file(kind, configuration)
        with self._told("read in"):
            try:
                obj, stored = _read(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except DamagedFile as error:
                again = self._read_or_remove(path) if remove else None
                if again is None:
                    warnings.warn(f"{error}; it will be made again", stacklevel=2)
                    return None
                obj, stored = again
        return obj if stored == _plain(configuration) else None

    def keep(self, kind: str, configuration: Mapping[str, object], obj: object) -> Path:
        """Save the result of a configuration and return its file.

        Raises:
            ValueError: the store cannot be written, or is full; what it held is as it was.
        """
        path = self.file(kind, configuration)
        with self._lock_of(path.name), self._told("write in"):
            _write(obj, path, configuration)
        return path

    def remove(self, kind: str, configuration: Mapping[str, object]) -> None:
        """Forget the results of a configuration of all kinds that begin so, whether there are any or not.

        Raises:
            ValueError: the store cannot be written.
        """
        ending = self.file(kind, configuration).name.removeprefix(kind)
        for path in self.path.glob(f"{kind}*{ending}"):
            with self._lock_of(path.name), self._told("write in"):
                path.unlink(missing_ok=True)

    def contents(self) -> Iterator[tuple[Path, Any, Any]]:
        """All results that it holds: the file, its configuration and the result.

        Raises:
            ValueError: a file cannot be read.
            DamagedFile: one is damaged.
        """
        for path in sorted(self.path.glob("*.safetensors")):
            with self._told("read in"):
                obj, configuration = _read(path)
            yield path, configuration, obj

    @contextmanager
    def lock(self, kind: str, configuration: Mapping[str, object]) -> Generator[None]:
        """Only one run at a time makes the result of a configuration; the others wait, and say so.

        ::

            with store.lock(kind, configuration):
                found = store.find(kind, configuration)  # perhaps made by the run that was waited for
                if found is None:
                    store.keep(kind, configuration, make())

        Raises:
            ValueError: the store cannot be written.
        """
        with self._lock_of(self.file(kind, configuration).name):
            yield

    @contextmanager
    def _lock_of(self, name: str, *, wait: bool = True) -> Generator[None]:
        """Hold the lock of a file of the store, alone among threads and processes; it may be taken again within.

        Raises:
            ValueError: the store cannot be written.
            filelock.Timeout: it is held, and `wait` is False.
        """
        import filelock

        with self._told("write in"):
            # locks lie apart and stay: a lock that is removed could be held twice
            (self.path / ".locks").mkdir(parents=True, exist_ok=True)
            # 0o666: those who share a store share its locks
            lock = filelock.FileLock(self.path / ".locks" / f"{name}.lock", is_singleton=True, mode=0o666)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                if not wait:
                    raise
                print(f"waiting for another run that makes {name}", file=sys.stderr, flush=True)
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _read_or_remove(self, path: Path) -> tuple[Any, Any] | None:
        """A file found damaged: read again under its lock, since another run may have made it again, or removed."""
        with suppress(ValueError, OSError), self._lock_of(path.name, wait=False):  # a Timeout is an OSError
            try:
                return _read(path)
            except DamagedFile:
                path.unlink()
        return None

    def _sweep(self) -> None:
        """Remove files that killed runs left unfinished: those whose lock nobody holds."""
        for path in self.path.glob(".*"):
            unfinished = _UNFINISHED.fullmatch(path.name)
            if path.name.startswith(".probe-"):
                path.unlink(missing_ok=True)  # empty; who wrote it has no more need of it
            elif unfinished:
                with suppress(ValueError, OSError), self._lock_of(unfinished[1], wait=False):
                    path.unlink()

    @contextmanager
    def _told(self, verb: str) -> Generator[None]:
        """What the system refuses, in one line that says where and what to do."""
        try:
            yield
        except OSError as error:
            import filelock

            if isinstance(error, filelock.Timeout):  # an OSError, too, and no refusal
                raise
            reason = error.strerror or error
            message = f"CONVERGENT_STORE: cannot {verb} {shown(self.path, 150)}: {in_one_line(reason, 80)}"
            raise ValueError(f"{message}; name another folder") from error


def configuration_hash(configuration: Mapping[str, object]) -> str:
    """Sixteen hexadecimal digits that stand for a configuration of plain values."""
    return hashlib.sha256(json.dumps(_plain(configuration), sort_keys=True).encode()).hexdigest()[:16]


def _as_path(path: str | os.PathLike[str], name: str = "path") -> Path:
    if not isinstance(path, (str, os.PathLike)) or not str(path) or "\0" in str(path):
        raise ValueError(f"{name}: expected the path of a file or folder, got {came(path)}")
    try:
        os.fsencode(path)
        return Path(path).expanduser()
    except (RuntimeError, TypeError, UnicodeError) as error:  # ~somebody, and there is no such user; no text
        raise ValueError(f"{name}: {shown(path)}: {in_one_line(error)}") from error


def _write(obj: object, path: Path, configuration: Mapping[str, object]) -> None:
    content, temporary = _content(obj, configuration), path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # some disks say only now that they are full
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _content(obj: object, configuration: Mapping[str, object]) -> bytes:
    """What a file holds, byte by byte."""
    import safetensors.torch

    tensors, plain = {}, _plain(configuration)
    try:
        tree = json.dumps({"object": encode(obj, tensors), "configuration": plain, "form": _FORM})
        metadata = {"checksum": checksum(tensors, tree), "tree": tree}
        return safetensors.torch.save(tensors, {"convergent": json.dumps(metadata)})  # one key: a fixed order
    except (RecursionError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise ValueError(f"obj: cannot be saved: {in_one_line(error)}") from error


def _read(path: Path) -> tuple[Any, Any]:
    """The object of a file, and its configuration."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a pipe would block for good
        raise DamagedFile(f"{shown(path)} is damaged or not a file of this package (it is no regular file)")
    with path.open("rb"):
        pass  # a file that may not be read, or went away, is not a damaged one
    try:
        return _decoded(path)
    except (DamagedFile, MemoryError, OSError):
        raise
    except Exception as error:  # what somebody else wrote, or half of ours, raises many kinds of error
        message = f"{shown(path)} is damaged or not a file of this package"
        raise DamagedFile(f"{message} ({in_one_line(error, 100)})") from error


def _decoded(path: Path) -> tuple[Any, Any]:
    import safetensors

    with safetensors.safe_open(path, "pt") as file:
        metadata = json.loads((file.metadata() or {}).get("convergent", "null"))
        if not isinstance(metadata, dict) or not {"checksum", "tree"} <= metadata.keys():
            raise DamagedFile(f"{shown(path)} is not a file of this package (it says nothing of how to read it)")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata["checksum"] != checksum(tensors, metadata["tree"]):
        raise DamagedFile(f"{shown(path)} is damaged (its checksum does not fit)")
    tree = json.loads(metadata["tree"])
    if tree["form"] != _FORM:
        raise DamagedFile(f"{shown(path)} was written by another version of this package")
    return decode(tree["object"], tensors), tree["configuration"]


def _plain(configuration: Mapping[str, object]) -> dict[str, object]:
    """Configuration values as JSON gives them back (tuples become lists, NumPy's numbers Python's)."""
    if not isinstance(configuration, Mapping):
        raise ValueError(f"configuration: expected a dict of plain values, got {type(configuration).__name__}")
    try:
        return json.loads(json.dumps(dict(configuration), default=_number), parse_constant=_constant)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"configuration: expected a dict of plain values: {in_one_line(error)}"
        raise ValueError(message) from error


def _number(value: object) -> object:
    """A number of NumPy as Python's, for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not one")


def _constant(name: str) -> float:
    """NaN equals nothing: what is kept with it would never be found."""
    if name == "NaN":
        raise ValueError("NaN is not one")
    return float(name)
