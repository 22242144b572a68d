"""Saving results: one safetensors file each, checksummed and written atomically; nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path

import filelock
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..kernels.checks import require_known

_ROOT = Path(__file__).parents[2]
_FORM = 1  # of the files; raise it when their layout changes
_UNFINISHED = re.compile(r"\.(.+-[0-9a-f]{16}\.safetensors)\.[0-9a-f]{32}")  # the name a result has while it is written


class DamagedFile(ValueError):
    """A file of the store that is truncated, altered or no file of ours."""


def save(obj: object, path: str | Path) -> None:
    """Write a result of this package (or nested dicts, lists and tuples of them, of tensors and of plain values).

    Written under another name first and renamed, so that a reader never sees half a file.

    Raises:
        ValueError: an object that `load` could not make again.
        OSError: the folder cannot be written.
    """
    _write(obj, Path(path), {})


def load(path: str | Path) -> object:
    """Read what `save` wrote.

    Raises:
        ValueError: the file is missing, truncated or altered (its checksum does not fit).
    """
    if not Path(path).is_file():
        raise ValueError(f"path: there is no file {path}")
    return _read(Path(path))[0]


class Store:
    """A folder of results, found again by the configuration that made them.

    Args:
        path: the folder; default: that named by CONVERGENT_STORE, else build/store in the project.

    Each file carries its configuration and a checksum, so there is no index that could disagree with it. Any number of
    runs may share a store: a file is replaced or removed only by who holds its lock, and the system takes the lock from
    a process that ends, however it ends. Nothing depends on the time of a file.
    """

    def __init__(self, path: str | Path | None = None):
        self.path = (
            Path(path or os.environ.get("CONVERGENT_STORE") or _ROOT / "build" / "store").expanduser().absolute()
        )

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
        """Where the result of a configuration lies, whether it exists or not."""
        return self.path / f"{kind}-{configuration_hash(configuration)}.safetensors"

    def find(self, kind: str, configuration: Mapping[str, object]) -> object | None:
        """The result of a configuration, or None; a store that cannot be written serves as well.

        A damaged file is named in a warning and removed, to be made anew; one that cannot be removed, or that another
        run is about to replace, is left alone.

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
                again = self._read_or_remove(path)
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

    @contextmanager
    def lock(self, kind: str, configuration: Mapping[str, object]) -> Iterator[None]:
        """Only one run at a time makes the result of a configuration; the others wait, and say so.

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
    def _lock_of(self, name: str, *, wait: bool = True) -> Iterator[None]:
        """Hold the lock of a file of the store, alone among threads and processes; it may be taken again within.

        Raises:
            ValueError: the store cannot be written.
            filelock.Timeout: it is held, and `wait` is False.
        """
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

    def _read_or_remove(self, path: Path) -> tuple[object, object] | None:
        """A file found damaged: read again under its lock, since another run may have made it again, or removed."""
        with suppress(filelock.Timeout, ValueError, OSError), self._lock_of(path.name, wait=False):
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
                with suppress(filelock.Timeout, ValueError, OSError), self._lock_of(unfinished[1], wait=False):
                    path.unlink()

    @contextmanager
    def _told(self, verb: str) -> Iterator[None]:
        """What the system refuses, in one line that says where and what to do."""
        try:
            yield
        except filelock.Timeout:  # an OSError, too, and no refusal
            raise
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(f"CONVERGENT_STORE: cannot {verb} {self.path}: {reason}; name another folder") from error


def configuration_hash(configuration: Mapping[str, object]) -> str:
    """Sixteen hexadecimal digits that stand for a configuration of plain values."""
    return hashlib.sha256(json.dumps(_plain(configuration), sort_keys=True).encode()).hexdigest()[:16]


def checksum(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """sha256 of names, types, shapes and values."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _write(obj: object, path: Path, configuration: Mapping[str, object]) -> None:
    tensors: dict[str, Tensor] = {}
    tree = json.dumps({"object": _encode(obj, tensors), "configuration": _plain(configuration), "form": _FORM})
    metadata = {"convergent": json.dumps({"checksum": checksum(tensors, tree), "tree": tree})}  # one key: a fixed order
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(safetensors.torch.save(tensors, metadata))
            file.flush()
            os.fsync(file.fileno())  # some disks say only now that they are full
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> tuple[object, object]:
    with path.open("rb"):
        pass  # a file that may not be read, or went away, is not a damaged one
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get("convergent", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError) as error:
        raise DamagedFile(f"{path} is damaged ({error})") from error
    if metadata.get("checksum") != checksum(tensors, metadata.get("tree", "")):
        raise DamagedFile(f"{path} is damaged (its checksum does not fit)")
    tree = json.loads(metadata["tree"])
    if tree["form"] != _FORM:
        raise DamagedFile(f"{path} was written by another version of this package")
    return _decode(tree["object"], tensors), tree["configuration"]


def _plain(value: object) -> object:
    """Configuration values as JSON gives them back (tuples become lists)."""
    return json.loads(json.dumps(value))


def _classes() -> dict[str, type]:
    """The results that files may hold; nothing else is ever made from a file."""
    from ..kernels import alignment, binning, cca, chance, clustering, correlation, dft_cca, matching, moments
    from ..kernels import sparse_mapping as mapping
    from . import activations, datasets, measuring, networks, training

    known = [moments.Moments, moments.PairMoments, correlation.Correlation, matching.Match, binning.BinEdges]
    known += [cca.CCAResult, cca.CorrelationCount, dft_cca.DFTCCA, alignment.PartialLeastSquares, mapping.MappingPath]
    known += [clustering.SpectralEmbedding, clustering.MergeTree, chance.Interval, chance.Chance]
    known += [measuring.Measurement, measuring.Top, datasets.Dataset, activations.ReceptiveField]
    known += [training.Recipe, training.History, training.Trained, networks.Network]
    return {known_class.__name__: known_class for known_class in known}


def _encode(value: object, tensors: dict[str, Tensor]) -> object:
    """A JSON tree of `value`; its tensors are put aside under numbers."""
    kind = type(value).__name__
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        key = f"{len(tensors):06d}"
        tensors[key] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": key}
    if type(value) in (list, tuple):
        return {kind: [_encode(item, tensors) for item in value]}
    if isinstance(value, Mapping):
        return {"dict": [[_encode(k, tensors), _encode(v, tensors)] for k, v in value.items()]}
    if type(value) is not _classes().get(kind):
        raise ValueError(f"obj: cannot save a {kind}; save its tensors in a dict instead")
    if is_dataclass(value):
        content = {field.name: getattr(value, field.name) for field in fields(value)}
    elif kind == "Network":
        content = {"configuration": value.configuration, "weights": dict(value.state_dict())}
    else:
        content = value.state()
    return {"class": kind, "content": _encode(content, tensors)}


def _decode(tree: object, tensors: Mapping[str, Tensor]) -> object:
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        return tensors[tree["tensor"]]
    if "list" in tree or "tuple" in tree:
        kind, items = next(iter(tree.items()))
        return (tuple if kind == "tuple" else list)(_decode(item, tensors) for item in items)
    if "dict" in tree:
        return {_decode(k, tensors): _decode(v, tensors) for k, v in tree["dict"]}
    require_known(tree["class"], _classes(), "path")
    made, content = _classes()[tree["class"]], _decode(tree["content"], tensors)
    if is_dataclass(made):
        return made(**content)
    if tree["class"] == "Network":
        return _network(content)
    return made.from_state(content)


def _network(content: dict[str, object]) -> torch.nn.Module:
    from .networks import build_network

    network = build_network(**content["configuration"])
    network.load_state_dict(content["weights"])
    return network.eval()
