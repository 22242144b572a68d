import hashlib
import os
import tempfile
from pathlib import Path

import filelock
import pytest
import torch

import convergent_utils as cu
from convergent_utils.edition.places import machine
from convergent_utils.edition.run import published_on
from convergent_utils.making import pool as module
from convergent_utils.making.pool import one_way_of_computing, scratch, workers


def seen(name):
    return os.environ.get(name), os.environ["OMP_NUM_THREADS"], torch.get_num_threads()


def test_workers_have_one_thread_and_the_environment_of_the_moment(monkeypatch):
    """They may be forked from a process that is older than the environment."""
    for value in ("first", "second", None):
        if value is None:
            monkeypatch.delenv("CONVERGENT_PROBE")
        else:
            monkeypatch.setenv("CONVERGENT_PROBE", value)
        with workers(1) as pool:
            assert pool.submit(seen, "CONVERGENT_PROBE").result(120) == (value, "1", 1)


def test_what_workers_need_in_passing_lies_in_one_folder_of_the_run():
    before = dict(os.environ), tempfile.gettempdir()
    with workers(1) as pool:
        made = Path(pool.submit(tempfile.mkdtemp).result(120))
    assert made.parent == scratch()
    assert (dict(os.environ), tempfile.gettempdir()) == before


def test_only_folders_of_processes_that_are_gone_are_swept(tmp_path):
    living, dead, others = (tmp_path / name for name in ("cl-run-living", "cl-run-dead", "cl-other"))
    for folder in (living, dead, others):
        (folder / "pymp-x").mkdir(parents=True)
        (folder / "lock").touch()
    (tmp_path / "cl-run-file").touch()
    (tmp_path / "cl-run-link").symlink_to(others)
    with filelock.FileLock(living / "lock"):
        module._sweep(tmp_path)
        assert (living / "pymp-x").exists()
    assert not dead.exists()
    assert (others / "pymp-x").exists()
    module._sweep(tmp_path)
    assert not living.exists(), "its process is gone now"


def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    acquire, swept = filelock.FileLock.acquire, []

    def late(lock, **options):
        if not swept:
            swept.append(Path(lock.lock_file).parent)
            swept[0].rmdir()
        return acquire(lock, **options)

    monkeypatch.setattr(filelock.FileLock, "acquire", late)
    folder, lock = module._locked_folder(tmp_path)
    assert swept
    assert (folder / "lock").exists(), "the same one, or another"
    assert lock.is_locked
    with pytest.raises(filelock.Timeout):
        filelock.FileLock(folder / "lock").acquire(timeout=0)
    lock.release()


_given: list[object] = []


def take(*values):
    _given.extend(values)


def given():
    return _given


def test_workers_are_set_up_before_their_first_job():
    with workers(1, start=take, arguments=("a", 2)) as pool:
        assert pool.submit(given).result(120) == ["a", 2]
    assert _given == [], "in a process of its own"


def weights():
    """A checksum of a network after 40 steps, and with which instructions it was trained."""
    images = cu.load_dataset("fashion-mnist", split="train", limit=2560)
    trained = cu.train(cu.build_network("alexnet", seed=1), images, cu.Recipe(epochs=1), seed=1).network
    content = b"".join(value.numpy().tobytes() for value in trained.state_dict().values())
    return hashlib.sha256(content).hexdigest()[:12], torch.backends.cpu.get_cpu_capability()


@pytest.mark.skipif(not one_way_of_computing(), reason="no x86 processor with AVX2")
def test_the_same_seed_gives_the_same_bits_in_every_process():
    """The first number is that of three processors, with AVX-512 and without, one of them the published run's.

    The second is that of one with larger caches; other versions of torch may have others.
    """
    found = []
    for _ in range(2):
        with workers(1) as pool:
            found.append(pool.submit(weights).result(120))
    assert found[0] == found[1]
    checksum, instructions = found[0]
    assert instructions == "AVX2"
    if torch.__version__.startswith("2.14.1"):
        if machine()["processor"] == published_on():
            assert checksum == "554e06300ca5"
        elif checksum not in ("554e06300ca5", "7b3b9420bccc"):
            pytest.skip(f"a processor that was not tried trains other networks from the same seeds: {checksum}")


def test_what_workers_start_may_use_all_instructions(monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "AUTO")
    for one_way in (True, False):
        with workers(1, one_way=one_way) as pool:
            now = {name: pool.submit(seen, name).result(120)[0] for name in module.ONE_WAY}
        assert now == ({**module.ONE_WAY} if one_way else {**dict.fromkeys(module.ONE_WAY), "MKL_CBWR": "AUTO"})
