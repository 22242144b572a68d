import builtins
import copy
import errno
import io
import itertools
import json
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pytest
import safetensors.torch
import torch

import convergent_utils as cu
from convergent_utils.making import encoding
from convergent_utils.making import store as module
from convergent_utils.making.store import DamagedFile, Store, configuration_hash
from convergent_utils.nets.declared import Images, Learned, Measured, Start
from convergent_utils.paper.prepare import _make

CONFIGURATION = {"seed": 1, "recipe": {"rate": 1e-3}, "data": ["a", "b"]}


@pytest.fixture
def pair(generator):
    return cu.pair_moments(*torch.randn(2, 50, 6, generator=generator))


def test_everything_comes_back_as_it_was(tmp_path, pair, generator):
    trained = cu.train(cu.build_network("alexnet-narrow", seed=2), cu.load_dataset("fashion-mnist", limit=64),
                       cu.Recipe(epochs=1, batch=32), seed=2)  # fmt: skip
    obj = {"pair": pair, "nested": [(1, 2.5, None), {"text": True}], 3: cu.correlation(pair), "trained": trained}
    cu.save(obj, tmp_path / "x.safetensors")
    back = cu.load(tmp_path / "x.safetensors")
    assert list(back) == ["pair", "nested", 3, "trained"]
    assert back["nested"] == [(1, 2.5, None), {"text": True}]
    assert back["pair"].n_samples == 50
    assert torch.equal(back["pair"].cov_ab, pair.cov_ab)
    assert torch.equal(back[3].live_a, cu.correlation(pair).live_a)
    assert torch.equal(back["trained"].at(0.35).fc8.weight, trained.at(0.35).fc8.weight)
    assert back["trained"].network.configuration == trained.network.configuration
    assert torch.equal(back["trained"].network.fc8.weight, trained.network.fc8.weight)


def test_every_kind_of_result_comes_back(tmp_path, pair, generator):
    acts = torch.randn(50, 6, generator=generator)
    embedding = cu.spectral_embedding(cu.correlation_affinity(pair), 3)
    maps = torch.randn(2, 40, 4, 4, 3, generator=generator)
    results = [cu.cca(pair), cu.significant_correlations(cu.cca(pair)), cu.sparse_mapping(pair, [0.1, 0.0])]
    results += [embedding, cu.hierarchical_clustering(embedding), cu.bin_edges(acts), cu.partial_least_squares(pair)]
    results += [cu.dft_cca(*maps), cu.bipartite_matching(pair.cov_ab), cu.network_interval(torch.eye(3))]
    results += [cu.chance_level(lambda a, b: (a * b).sum(0), acts, acts, n_shuffles=3)]
    cu.save(results, tmp_path / "x.safetensors")
    for result, back in zip(results, cu.load(tmp_path / "x.safetensors"), strict=True):
        assert type(back) is type(result)
        for field in fields(result):
            was, now = getattr(result, field.name), getattr(back, field.name)
            assert torch.equal(now, was) if isinstance(was, torch.Tensor) else now == was, field.name


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="cannot save a Linear"):
        cu.save({"net": torch.nn.Linear(2, 2)}, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", ["truncate", "flip a value", "flip the text", "empty", "another file"])
def test_a_damaged_file_is_named_and_made_again(tmp_path, pair, harm):
    store = Store(tmp_path)
    path = store.keep("pair", CONFIGURATION, pair)
    content = bytearray(path.read_bytes())
    if harm == "truncate":
        content = content[:-100]
    elif harm == "flip a value":
        content[-50] ^= 1
    elif harm == "flip the text":
        content[content.index(b"n_samples") + 14] ^= 1
    elif harm == "empty":
        content = b""
    else:
        content = b"something else entirely"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=path.name):
        cu.load(path)
    with pytest.warns(UserWarning, match=f"{path.name}.* is damaged.*made again"):
        assert store.find("pair", CONFIGURATION) is None
    assert not path.exists()
    store.keep("pair", CONFIGURATION, pair)
    assert torch.equal(store.find("pair", CONFIGURATION).cov_ab, pair.cov_ab)


def signed(tree, tensors=()):
    """Metadata of a file whose checksum fits, whatever its tree says."""
    text = json.dumps(tree)
    return json.dumps({"checksum": module.checksum(dict(tensors), text), "tree": text})


HOSTILE = {
    "no metadata": None,
    "null": "null",
    "a list": "[]",
    "text": '"x"',
    "no JSON": "{",
    "deep brackets": "[" * 100_000,
    "a checksum without a tree": json.dumps({"checksum": module.checksum({}, "")}),
    "a tree that is none": signed(3),
    "no content": signed({"form": 1, "configuration": {}, "object": {"class": "Match"}}),
    "no object": signed({"form": 1, "configuration": {}}),
    "no form": signed({"object": 1, "configuration": {}}),
    "a tensor that is not there": signed({"form": 1, "configuration": {}, "object": {"tensor": "999"}}),
    "an unknown class": signed({"form": 1, "configuration": {}, "object": {"class": "Popen", "content": {"dict": []}}}),
    "other fields": signed(
        {"form": 1, "configuration": {}, "object": {"class": "Match", "content": {"dict": [["x", 1]]}}}
    ),
    "fields of other kinds": signed(
        {"form": 1, "configuration": {}, "object": {"class": "Recipe", "content": {"dict": [["epochs", "many"]]}}}
    ),
    "brackets in a signed tree": json.dumps({"checksum": module.checksum({}, "[" * 100_000), "tree": "[" * 100_000}),
}


@pytest.mark.parametrize("metadata", HOSTILE.values(), ids=HOSTILE)
def test_a_foreign_or_half_signed_file_is_named_and_made_again(tmp_path, metadata):
    store, told = Store(tmp_path), None if metadata is None else {"convergent": metadata}
    path = store.file("result", {})
    path.write_bytes(safetensors.torch.save({"x": torch.zeros(2)} if metadata is None else {}, told))
    with pytest.raises(ValueError, match=r"^path: .*(not a file of this package|damaged)") as refused:
        cu.load(path)
    assert len(str(refused.value)) <= 300 + len(str(path))
    with pytest.warns(UserWarning, match=rf"{path.name} is .*; it will be made again"):
        assert store.find("result", {}) is None
    store.keep("result", {}, 5)
    assert store.find("result", {}) == 5


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_the_place_of_a_file_does_not_block(tmp_path):
    store = Store(tmp_path)
    os.mkfifo(store.file("result", {}))
    signal.alarm(20)
    try:
        with pytest.warns(UserWarning, match="it is no regular file"):
            assert store.find("result", {}) is None
        store.keep("result", {}, 5)
    finally:
        signal.alarm(0)
    assert store.find("result", {}) == 5


def test_configurations_tell_results_apart(tmp_path, pair):
    store = Store(tmp_path)
    store.keep("pair", CONFIGURATION, pair)
    assert store.find("pair", {**CONFIGURATION, "seed": 2}) is None
    assert store.find("network", CONFIGURATION) is None
    assert configuration_hash(dict(reversed(CONFIGURATION.items()))) == configuration_hash(CONFIGURATION)
    assert configuration_hash({"a": (1, 2)}) == configuration_hash({"a": [1, 2]})


def test_where_the_store_is(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVERGENT_STORE", str(tmp_path / "elsewhere"))
    assert Store().path == tmp_path / "elsewhere"
    monkeypatch.delenv("CONVERGENT_STORE")
    assert Store().path.parts[-2:] == ("build", "store")


def test_an_unwritable_store_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="CONVERGENT_STORE: cannot write in .*file"):
        Store(tmp_path / "file").require_writable()
    Store(tmp_path / "new" / "folder").require_writable()
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_files_are_readable_by_others(tmp_path, pair):
    before = os.umask(0o022)
    try:
        assert Store(tmp_path).keep("pair", CONFIGURATION, pair).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


PROCESSES = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":  # imported once for all of them
    PROCESSES.set_forkserver_preload(["convergent_utils.paper.prepare", "pytest"])
ONE = {"which": "one"}


class Other:
    """Another process that runs a function of this file on a store: function(store, say, hear)."""

    def __init__(self, function, folder):
        self.said, say = PROCESSES.Pipe(duplex=False)
        hear, self._heard = PROCESSES.Pipe(duplex=False)
        self.process = PROCESSES.Process(target=in_other_process, args=(function, folder, say, hear))
        self.process.start()
        say.close()  # the other's end: when it ends, nothing more is said

    def tell(self, text):
        self._heard.send(text)

    def kill(self):
        self.process.kill()

    def ended(self):
        """Its exit status, negative when it was killed."""
        self.process.join(60)
        return self.process.exitcode

    def rest(self):
        """All that it says until it ends."""
        said = []
        with suppress(EOFError):
            while self.said.poll(60):
                said.append(self.said.recv())
        self.ended()
        return said


def in_other_process(function, folder, say, hear):
    sys.stderr = Lines(say)
    function(Store(folder), say.send, hear.recv)


class Lines(io.StringIO):
    """What is written here is said."""

    def __init__(self, say):
        super().__init__()
        self.say = say

    def write(self, text):
        if text.strip():
            self.say.send(f"stderr: {text}")
        return len(text)


def write_for_ever(store, say, hear):
    for k in itertools.count():
        store.keep("x", ONE, {"values": torch.full((200_000,), float(k))})
        if k == 0:
            say("writing")


def hold(store, say, hear):
    with store.lock("x", ONE):
        say("held")
        time.sleep(600)


def make(store, say, hear):
    say("ready")
    hear()
    with store.lock("x", ONE):
        if store.find("x", ONE) is None:
            say("made")
            time.sleep(1)
            store.keep("x", ONE, torch.ones(1000))


def fill_the_disk(store, say, hear):
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    try:
        store.keep("x", ONE, torch.zeros(1000))
    except ValueError as error:
        say(str(error))


def stall(store, say, hear):
    replace = os.replace

    def wait_then_replace(*paths):
        say("stalled")
        hear()
        replace(*paths)

    os.replace = wait_then_replace
    store.keep("x", ONE, torch.ones(1000))


def die(store, say, hear):
    os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
    store.keep("x", ONE, torch.ones(1000))


@pytest.fixture
def run(tmp_path):
    """Starts another process on the store in tmp_path; it is gone at the end of the test."""
    started = []

    def start(function):
        started.append(Other(function, tmp_path))
        return started[-1]

    yield start
    for other in started:
        other.kill()
        other.ended()


def test_killed_in_the_middle_of_writing_leaves_a_whole_file(tmp_path, run):
    for delay in (0.0, 0.013, 0.031):
        writer = run(write_for_ever)
        assert writer.said.recv() == "writing"
        time.sleep(delay)
        writer.kill()
        writer.ended()
        values = Store(tmp_path).find("x", ONE)["values"]
        assert (values == values[0]).all()


def results(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".locks")


def test_two_runs_at_once_make_each_result_once(tmp_path, run):
    both = [run(make), run(make)]
    for other in both:
        assert other.said.recv() == "ready"
    for other in both:
        other.tell("go")
    waited = f"stderr: waiting for another run that makes {Store(tmp_path).file('x', ONE).name}"
    assert sorted(other.rest() for other in both) == [["made"], [waited]]
    assert torch.equal(Store(tmp_path).find("x", ONE), torch.ones(1000))


def test_a_killed_run_gives_its_lock_back(tmp_path, run, capfd):
    holder = run(hold)
    assert holder.said.recv() == "held"
    threading.Timer(0.3, holder.kill).start()
    with Store(tmp_path).lock("x", ONE):
        assert holder.ended() != 0
    assert capfd.readouterr().err.count("waiting for another run") == 1
    with Store(tmp_path).lock("x", ONE), Store(tmp_path).lock("x", {"which": "two"}):
        Store(tmp_path).keep("x", ONE, torch.ones(3))  # who holds the lock may write
    assert capfd.readouterr().err == ""


def in_two_threads(function, *arguments):
    threads = [
        threading.Thread(target=function, args=copy.deepcopy(arguments), kwargs={"report": print}) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_jobs_of_two_runs_train_and_measure_once(tmp_path, monkeypatch):
    kept, keep = [], Store.keep
    monkeypatch.setattr(Store, "keep", lambda *arguments: kept.append(arguments[1]) or keep(*arguments))
    data = cu.load_dataset("fashion-mnist", split="test", limit=64)
    images = Images(data.source, split="test", limit=64, count=64)
    learned = Learned(Start("alexnet-narrow", 1, 10, 1.0, 1), images, images, cu.Recipe(epochs=0), 1)
    in_two_threads(_make, tmp_path, False, learned)
    assert kept == ["learned"]
    measured = Measured((("net1", learned),), images, ("conv1",), sample=8)
    in_two_threads(_make, tmp_path, False, measured)
    assert kept == ["learned", "measured"]
    assert pickle.loads(pickle.dumps(measured)).key == measured.key, "a worker knows it by the same name"
    found = Store(tmp_path).find("measured", measured.configuration)
    network = Store(tmp_path).find("learned", learned.configuration).network
    assert torch.equal(
        found.sample("net1.conv1"), cu.measure({"net1": network}, data, "conv1", sample=8).sample("net1.conv1")
    )


def test_a_result_that_another_run_has_just_made_again_is_not_removed(tmp_path, pair, monkeypatch, recwarn):
    store, read = Store(tmp_path), module._read
    path = store.keep("pair", CONFIGURATION, pair)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])

    def read_just_before_it_is_replaced(path):
        try:
            return read(path)
        except DamagedFile:
            path.write_bytes(whole)
            raise

    monkeypatch.setattr(module, "_read", read_just_before_it_is_replaced)
    assert torch.equal(store.find("pair", CONFIGURATION).cov_ab, pair.cov_ab)
    assert path.read_bytes() == whole
    assert not recwarn.list


def test_a_damaged_result_that_another_run_makes_again_is_left_to_it(tmp_path, pair, run):
    path = Store(tmp_path).file("x", ONE)
    assert run(hold).said.recv() == "held"
    path.write_bytes(b"half")
    with pytest.warns(UserWarning, match="is damaged.*made again"):
        assert Store(tmp_path).find("x", ONE) is None
    assert path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes")
def test_a_write_that_breaks_off_is_one_line_and_loses_nothing(tmp_path, run):
    store = Store(tmp_path)
    path = store.keep("x", ONE, torch.ones(1000))
    whole, said = path.read_bytes(), run(fill_the_disk).rest()
    assert said == [f"CONVERGENT_STORE: cannot write in {tmp_path}: File too large; name another folder"]
    assert results(tmp_path) == [path.name]
    assert path.read_bytes() == whole


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, monkeypatch):
    store = Store(tmp_path)
    path = store.keep("x", ONE, torch.ones(1000))

    def full(_file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for configuration in (ONE, {"which": "two"}):
        with pytest.raises(ValueError, match="CONVERGENT_STORE: cannot write in .*: No space left on device; name"):
            store.keep("x", configuration, torch.zeros(1000))
    assert results(tmp_path) == [path.name]
    assert torch.equal(store.find("x", ONE), torch.ones(1000))


@pytest.fixture
def read_only(tmp_path, monkeypatch):
    """Makes tmp_path read-only, for root too."""

    def refuse(function, writes):
        def refusing(path, *arguments, **options):
            if str(path).startswith(str(tmp_path)) and writes(*arguments, **options):
                raise OSError(errno.EROFS, "Read-only file system", str(path))
            return function(path, *arguments, **options)

        return refusing

    def make():
        for name in ("mkdir", "unlink", "replace"):
            monkeypatch.setattr(os, name, refuse(getattr(os, name), lambda *_, **__: True))
        opened = refuse(io.open, lambda mode="r", *_, **__: set(mode) & set("wax+"))
        monkeypatch.setattr(io, "open", opened)
        monkeypatch.setattr(builtins, "open", opened)
        writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
        monkeypatch.setattr(os, "open", refuse(os.open, lambda flags, *_, **__: flags & writing))

    return make


def test_a_read_only_store_is_read(tmp_path, read_only):
    store, images = Store(tmp_path), cu.load_dataset("fashion-mnist", split="test", limit=8).images
    networks = {"net1": cu.build_network("alexnet-narrow")}
    options = {"sample": 4, "top": 2, "positions": "mean", "store": store}
    kept = cu.measure(networks, images, ["fc6"], **options)
    store.keep("x", ONE, torch.ones(3))
    damaged = store.keep("x", {"which": "two"}, torch.ones(3))
    damaged.write_bytes(b"half")
    read_only()
    assert torch.equal(store.find("x", ONE), torch.ones(3))
    assert store.find("x", {"which": "three"}) is None
    assert torch.equal(cu.measure(networks, images, ["fc6"], **options).sample("net1.fc6"), kept.sample("net1.fc6"))
    with pytest.warns(UserWarning, match="is damaged"):
        assert store.find("x", {"which": "two"}) is None
    message = re.escape(f"CONVERGENT_STORE: cannot write in {tmp_path}: Read-only file system; name another folder")
    with pytest.raises(ValueError, match=message):
        store.keep("x", {"which": "three"}, torch.ones(3))
    with pytest.raises(ValueError, match=message), store.lock("x", {"which": "three"}):
        pytest.fail("a lock that is not one")
    with pytest.raises(ValueError, match=message):
        cu.measure(networks, images[1:], ["fc6"], **options)
    assert damaged.exists()


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 KiB, where there are the rights to make one."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if sys.platform != "linux" or os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_real_disk_that_is_full_then_read_only(tiny_disk):
    store = Store(tiny_disk)
    path = store.keep("x", ONE, torch.ones(100))
    with pytest.raises(ValueError, match="cannot write in .*: No space left on device; name another folder"):
        store.keep("x", ONE, torch.ones(100_000))
    assert results(tiny_disk) == [path.name]
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    assert torch.equal(store.find("x", ONE), torch.ones(100))
    with pytest.raises(ValueError, match="cannot write in .*: Read-only file system; name another folder"):
        store.require_writable()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder that root cannot write")
def test_a_folder_that_nobody_can_write():
    with pytest.raises(ValueError, match="CONVERGENT_STORE: cannot write in /proc/convergent: .*; name another folder"):
        Store("/proc/convergent").require_writable()


def test_a_file_that_cannot_be_read_is_not_taken_for_damaged(tmp_path):
    store = Store(tmp_path)
    store.file("x", ONE).mkdir()
    with pytest.raises(ValueError, match="CONVERGENT_STORE: cannot read in .*: Is a directory"):
        store.find("x", ONE)
    assert store.file("x", ONE).exists()


def test_what_a_killed_writer_left_is_swept_whatever_the_clock_says(tmp_path, run):
    store = Store(tmp_path)
    whole = store.keep("x", {"which": "two"}, torch.ones(3))
    assert run(die).ended() == -signal.SIGKILL
    (left,) = tmp_path.glob(".x-*")
    (tmp_path / "notes.txt").touch()
    for year in (1970, 2100):
        for path in (left, tmp_path / f".probe-{'0' * 32}"):
            path.touch()
        for path in (tmp_path, *tmp_path.rglob("*")):
            os.utime(path, ((year - 1970) * 31_556_952,) * 2)
        store.require_writable()
        assert results(tmp_path) == ["notes.txt", whole.name]
        assert torch.equal(store.find("x", {"which": "two"}), torch.ones(3))


def test_what_a_live_writer_writes_is_never_swept(tmp_path, run):
    writer = run(stall)
    assert writer.said.recv() == "stalled"
    unfinished = [path for path in tmp_path.iterdir() if path.name != ".locks"]
    for path in tmp_path.rglob("*"):
        os.utime(path, (0, 0))
    Store(tmp_path).require_writable()
    assert all(path.exists() for path in unfinished)
    writer.tell("go on")
    assert writer.ended() == 0
    assert torch.equal(Store(tmp_path).find("x", ONE), torch.ones(1000))
    assert results(tmp_path) == [Store(tmp_path).file("x", ONE).name]


def test_files_name_module_and_class_and_older_ones_the_class_alone(tmp_path, pair):
    assert encoding._name_of(type(pair)) == "convergent_utils.kernels.moments:PairMoments"
    for name, now in encoding._BEFORE.items():
        assert encoding._class_named(name) is encoding._class_named(now) is getattr(cu, name)
    path, tree = tmp_path / "x.safetensors", module.encode

    def older(value, tensors):
        found = tree(value, tensors)
        named = isinstance(found, dict) and "class" in found
        return {**found, "class": found["class"].rpartition(":")[2]} if named else found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "encode", older)
        cu.save(pair, path)
    assert torch.equal(cu.load(path).cov_ab, pair.cov_ab)


@pytest.mark.parametrize(
    "name",
    [
        "builtins:eval", "os:system", "convergent_utils.edition.run:run", "convergent_utils.making.store:Path",
        "convergent_utils.making.store:Store", "convergent_utils.none:Such", "convergent_utils.kernels.moments:a.b",
        "x",
    ],
)  # fmt: skip
def test_nothing_but_results_is_made_from_a_file(tmp_path, name):
    path = tmp_path / "x.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "encode", lambda value, tensors: {"class": name, "content": "touch x"})
        cu.save(5, path)
    with pytest.raises(DamagedFile, match="damaged or not a file of this package"):
        cu.load(path)
